"""What a study's code made of a hospital's patients: one private file, kept no longer than needed.

Each patient is run once, so what came of her is kept from round to round, under a fingerprint that
means something in this file alone. It goes again as soon as nothing is left that it is for::

    her grant ended here, or she is erased  ─▶ forget              at once
    her grant ended elsewhere, and we heard ─▶ keep_only           within a minute
    she is in a round no longer             ─▶ forget_others       at the round
    the study's last round is answered,
    its job ended or was refused            ─▶ keep_only           within a minute

``fl_client.retention`` sees to it, also after a crash. Deleted is deleted: the file is written
anew, so that no free page or log holds what was; where the process dies in between, a mark in the
file says that this is still to be done.

What holds, each line a test in tests/fl_client/test_feature_store.py:

1. What was deleted is in no byte of the files.
2. A rewrite that did not come to its end is made up for, by whoever tidies next.
3. Nobody else's features go with a patient's; a patient nothing is kept of costs nothing.
4. The file names no patient.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from privacy.cohorts import fingerprint
from protocol.canonical import canonical
from protocol.errors import storage_error
from protocol.ids import PatientId
from protocol.terms import FeatureTerms
from storage.database import open_database, reading, write_anew, writing
from storage.files import PRIVATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE: Final = "features.db"
SALT_BYTES: Final = 16
REWRITE_WAIT_SECONDS: Final = 10
"""How long a deletion waits for other readers of the file."""

Goes = Callable[[str, str], bool]
"""Says whether what a step made of a person is deleted."""

METADATA = sa.MetaData()
FEATURES = sa.Table(
    "patient_features",
    METADATA,
    sa.Column("step", sa.Text, primary_key=True),  # digest of the terms of the step
    sa.Column("person", sa.Text, primary_key=True),  # fingerprint under the file's salt
    sa.Column("records", sa.Text, nullable=False),  # digest of what the code was given
    sa.Column("features", sa.LargeBinary, nullable=False),  # <f4, (records, *shape)
    sa.Column("failed", sa.Boolean, nullable=False),
)
SALT = sa.Table(
    "salt",
    METADATA,
    sa.Column("only", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
)
REWRITE = sa.Table(
    "rewrite",  # a row: something was deleted, and its bytes may still be there
    METADATA,
    sa.Column("only", sa.Integer, primary_key=True, autoincrement=False),
)


@dataclass(frozen=True)
class Made:
    """One patient's features ``(records, *shape)``; zeros where the code failed."""

    values: NDArray[np.float32]
    failed: bool


class FeatureStore:
    """Features that were made, so that no patient is run twice; a hospital's own file."""

    name = "features"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = open_database(path, METADATA, private=True)
        with writing(self._engine) as connection:
            if sa.inspect(connection).has_table("features"):  # of the first version
                connection.exec_driver_sql("DROP TABLE features")
                connection.execute(sa.insert(REWRITE).prefix_with("OR IGNORE").values(only=1))
            salt = connection.execute(sa.select(SALT.c.salt)).scalar()
            if salt is None:
                salt = secrets.token_bytes(SALT_BYTES)
                connection.execute(SALT.insert().values(only=1, salt=salt))
        self._salt: bytes = salt

    def close(self) -> None:
        """Close the file; what was kept is on the disk already."""
        self._engine.dispose()

    def person(self, patient: PatientId) -> str:
        """Return what stands for a patient in this file."""
        return fingerprint(self._salt, patient)

    def read(self, step: str, shape: tuple[int, ...]) -> dict[tuple[str, str], Made]:
        """Return what was made by a step, by person and digest of her records."""
        import numpy as np  # noqa: PLC0415 - a withdrawal must not cost a process numpy's import

        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(FEATURES).where(FEATURES.c.step == step)).all()
        return {
            (row.person, row.records): Made(
                np.frombuffer(row.features, "<f4").reshape(-1, *shape), row.failed
            )
            for row in rows
        }

    def keep(self, step: str, person: str, records: str, made: Made) -> None:
        """Keep one patient's features; what was made of other records of hers goes."""
        row = {
            "step": step,
            "person": person,
            "records": records,
            "features": made.values.astype("<f4").tobytes(),
            "failed": made.failed,
        }
        with writing(self._engine) as connection:
            connection.execute(sa.insert(FEATURES).prefix_with("OR REPLACE").values(row))

    def forget_others(self, step: str, persons: Collection[str]) -> None:
        """Delete what a step made of others than these; who tidies next overwrites it."""
        self._delete(lambda kept, person: kept == step and person not in persons)

    def keep_only(self, wanted: Mapping[str, Collection[str]]) -> int:
        """Delete all but what each step made of its persons; return how many were deleted.

        Raises:
            StorageError: As ``destroy``.
        """
        count = self._delete(lambda step, person: person not in wanted.get(step, ()))
        self._overwrite()
        return count

    def holds(self, patient: PatientId) -> int:
        """Return of how many steps something is kept of a patient."""
        hers = sa.select(sa.func.count()).where(FEATURES.c.person == self.person(patient))
        with reading(self._engine) as connection:
            count: int = connection.execute(hers).scalar_one()
        return count

    def destroy(self, patient: PatientId) -> int:
        """Delete everything that was made of a patient; return by how many steps.

        Raises:
            StorageError: The disk refused, or another process is reading; it is deleted and not
                yet overwritten then. Do it again, or leave it to the resident process.
        """
        gone = self.person(patient)
        count = self._delete(lambda _step, person: person == gone)
        self._overwrite()
        return count

    def steps(self) -> set[str]:
        """Return the steps of which anything is kept."""
        with reading(self._engine) as connection:
            return set(connection.execute(sa.select(FEATURES.c.step).distinct()).scalars())

    def counts(self) -> tuple[int, int]:
        """Return how many patients' features are kept, and of how many the code failed."""
        with reading(self._engine) as connection:
            failed = list(connection.execute(sa.select(FEATURES.c.failed)).scalars())
        return len(failed), sum(failed)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other run is going on these records, in this process or another."""
        try:
            door = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, PRIVATE)
        except OSError as error:
            raise storage_error(error, self._path.name) from error
        try:
            fcntl.flock(door, fcntl.LOCK_EX)
            yield
        finally:
            os.close(door)

    def _delete(self, goes: Goes) -> int:
        query = sa.select(FEATURES.c.step, FEATURES.c.person)
        named = (FEATURES.c.step == sa.bindparam("of")) & (FEATURES.c.person == sa.bindparam("who"))
        with reading(self._engine) as connection:
            kept = connection.execute(query).all()
        gone = [{"of": one.step, "who": one.person} for one in kept if goes(one.step, one.person)]
        if gone:
            with writing(self._engine) as connection:
                connection.execute(FEATURES.delete().where(named), gone)
                connection.execute(sa.insert(REWRITE).prefix_with("OR IGNORE").values(only=1))
        return len(gone)

    def _overwrite(self) -> None:
        """Leave no byte of what was deleted, now or before, in the files."""
        with reading(self._engine) as connection:
            waits = connection.execute(sa.select(REWRITE)).first() is not None
        if waits:
            write_anew(self._engine, wait_seconds=REWRITE_WAIT_SECONDS)
            with writing(self._engine) as connection:
                connection.execute(REWRITE.delete())


def step_of(features: FeatureTerms, shape: tuple[int, ...]) -> str:
    """Return the name under which what a step made is kept."""
    return hashlib.sha256(canonical(features) + repr(shape).encode()).hexdigest()


def forget(folder: Path, patient: PatientId) -> int:
    """Delete what studies' code made of a patient of a hospital; return by how many steps.

    A patient nothing is kept of, and a hospital where no code ever ran, are nothing to do: 0.
    A round that is under way may bring her back until the resident process looks, once a minute.

    Args:
        folder: The hospital's.
        patient: Its own number of her.

    Raises:
        StorageError: As ``FeatureStore.destroy``; may be done again.
    """
    if not (folder / FILE).is_file():
        return 0
    store = FeatureStore(folder / FILE)
    try:
        return store.destroy(patient)
    finally:
        store.close()
