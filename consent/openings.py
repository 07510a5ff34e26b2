"""A hospital's private book: which leaf is which patient's, and what opens it.

It is the only place where a patient's number and a leaf stand side by side. The file is readable
by its owner alone, nothing in it is printed or logged, and it never leaves the hospital. Lost, it
cannot be made again: the grants stay valid and nobody can use them.

What holds (tests/consent/test_openings.py):

1. What was added is found again at its leaf's index, in this process and the next.
2. An opening is kept only with the receipt of its own leaf.
3. No other user of the machine can read the file, from its first byte on.
4. No error or text form shows a patient's number, the salt or an opening.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Integer, LargeBinary, MetaData, String, Table

from consent.grant import Opening
from consent.receipts import GrantReceipt
from consent.store import Element
from consent.terms import Terms
from protocol.errors import ConsentError
from protocol.ids import GrantId, PatientId
from storage.database import open_database, reading, write_anew, writing
from zk.poseidon import FIELD

SALT_BYTES: Final = 64
"""Reduced modulo a field of 254 bits, they leave a bias below 2^-256."""

REWRITE_WAIT_SECONDS: Final = 10
"""How long an erasure waits for other readers of the file."""

METADATA: Final = MetaData()

SECRET: Final = Table(
    "secret",
    METADATA,
    Column("only", Integer, primary_key=True, autoincrement=False),
    Column("hospital_salt", Element, nullable=False),
)
OPENINGS: Final = Table(
    "openings",
    METADATA,
    Column("place", Integer, primary_key=True, autoincrement=False),  # index of the leaf
    Column("patient", String, nullable=False, index=True),
    Column("subject", Element, nullable=False),
    Column("salt", Element, nullable=False),
    Column("terms", Element, nullable=False),  # packed
    Column("randomness", Element, nullable=False),
    # The receipt, whose index is the place.
    Column("registry", String, nullable=False),
    Column("grant", String, nullable=False, unique=True),
    Column("leaf", Element, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("at", String, nullable=False),
    Column("policy", String, nullable=False),
    Column("proven", Boolean, nullable=False),
    Column("replaces", String),
    Column("signature", LargeBinary, nullable=False),
)


class ReceiptMismatch(ConsentError):
    """A receipt is for another leaf than the opening it was kept with."""

    code = "receipt-mismatch"

    def __init__(self, grant: GrantId) -> None:
        self.grant = grant
        super().__init__(
            f"the receipt of grant {grant} is not for the leaf of its opening; nothing was kept, "
            "so match receipts and openings in the order in which they were published"
        )


class PlaceTaken(ConsentError):
    """The book has another grant at this index."""

    code = "opening-place-taken"

    def __init__(self, index: int) -> None:
        self.index = index
        super().__init__(
            f"the openings have another grant at index {index}; keep one book for each registry"
        )


class OpeningStore:
    """The openings of one hospital's patients, in one private file."""

    name = "openings"

    def __init__(
        self, path: str | Path, *, entropy: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        """Open the book, making it and the hospital's salt where there is none.

        Args:
            path: Made with mode 0600.
            entropy: Gives so many unpredictable bytes.

        Raises:
            DatabaseDamaged: The file is there and is not a sound database.
            StorageError: It cannot be used.
        """
        self._engine = open_database(path, METADATA, private=True)
        # Statements carry patients' numbers; errors must not repeat them.
        self._engine.hide_parameters = True
        with writing(self._engine) as connection:
            salt = connection.execute(sa.select(SECRET.c.hospital_salt)).scalar()
            if salt is None:
                salt = int.from_bytes(entropy(SALT_BYTES), "big") % FIELD
                connection.execute(sa.insert(SECRET).values(only=1, hospital_salt=salt))
        self.hospital_salt: int = salt

    def __repr__(self) -> str:
        return "OpeningStore(hidden)"

    def close(self) -> None:
        """Close the file; what was added is on the disk already."""
        self._engine.dispose()

    def add(self, patient: PatientId, opening: Opening, grant: GrantReceipt) -> None:
        """Keep one opening; see ``add_many``."""
        self.add_many([(patient, opening, grant)])

    def add_many(self, entries: Iterable[tuple[PatientId, Opening, GrantReceipt]]) -> None:
        """Keep openings with their receipts, all of them or none; those kept already stay.

        The receipts' signatures are the caller's to check: this book knows no registry's key.

        Raises:
            ReceiptMismatch: A receipt is for another leaf than its opening's.
            PlaceTaken: Another grant is kept at a receipt's index.
            StorageError: The disk refused; nothing was kept.
        """
        rows = [_row(*entry) for entry in entries]
        kept = sa.select(OPENINGS.c.leaf).where(OPENINGS.c.place == sa.bindparam("at_place"))
        with writing(self._engine) as connection:
            for row in rows:
                leaf = connection.execute(kept, {"at_place": row["place"]}).scalar()
                if leaf is None:
                    connection.execute(sa.insert(OPENINGS), row)
                elif leaf != row["leaf"]:
                    raise PlaceTaken(row["place"])

    def opening_at(self, leaf_index: int) -> tuple[PatientId, Opening] | None:
        """Return whose leaf it is and what opens it; None if it is no leaf of this hospital."""
        wanted = sa.select(OPENINGS).where(OPENINGS.c.place == leaf_index)
        with reading(self._engine) as connection:
            row = connection.execute(wanted).first()
        return None if row is None else (PatientId(row.patient), _opening(row))

    def receipts_of(self, patient: PatientId) -> list[GrantReceipt]:
        """Return the receipts of all grants of a patient, withdrawn ones too."""
        wanted = sa.select(OPENINGS).where(OPENINGS.c.patient == patient)
        with reading(self._engine) as connection:
            rows = connection.execute(wanted.order_by(OPENINGS.c.place)).all()
        return [_receipt(row) for row in rows]

    def receipt_of(self, grant: GrantId) -> GrantReceipt | None:
        """Return the receipt of a grant; None if it is not of this hospital's patients."""
        wanted = sa.select(OPENINGS).where(OPENINGS.c.grant == grant)
        with reading(self._engine) as connection:
            row = connection.execute(wanted).first()
        return None if row is None else _receipt(row)

    def holds(self, patient: PatientId) -> int:
        """Return how many openings are kept of a patient, of grants that ended too."""
        return len(self.receipts_of(patient))

    def destroy(self, patient: PatientId) -> int:
        """Delete every opening of a patient so that no byte of it stays in the files; say how many.

        Raises:
            StorageError: The disk refused, or another process is reading; try again.
        """
        with writing(self._engine) as connection:
            gone = connection.execute(sa.delete(OPENINGS).where(OPENINGS.c.patient == patient))
            count = gone.rowcount
        write_anew(self._engine, wait_seconds=REWRITE_WAIT_SECONDS)
        return count

    def all(self) -> dict[int, tuple[PatientId, Opening]]:
        """Return every opening by the index of its leaf, in ascending order."""
        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(OPENINGS).order_by(OPENINGS.c.place)).all()
        return {row.place: (PatientId(row.patient), _opening(row)) for row in rows}


def _row(patient: PatientId, opening: Opening, grant: GrantReceipt) -> dict[str, Any]:
    if opening.leaf() != grant.leaf:
        raise ReceiptMismatch(grant.grant)
    return {
        "place": grant.index,
        "patient": patient,
        "subject": opening.subject,
        "salt": opening.salt,
        "terms": opening.terms.packed(),
        "randomness": opening.randomness,
        "registry": grant.registry,
        "grant": grant.grant,
        "leaf": grant.leaf,
        "epoch": grant.epoch,
        "at": grant.at,
        "policy": grant.policy,
        "proven": grant.proven,
        "replaces": grant.replaces,
        "signature": grant.signature,
    }


def _opening(row: sa.Row[Any]) -> Opening:
    return Opening(
        subject=row.subject,
        salt=row.salt,
        terms=Terms.unpacked(row.terms),
        randomness=row.randomness,
    )


def _receipt(row: sa.Row[Any]) -> GrantReceipt:
    return GrantReceipt(
        row.registry,
        row.signature,
        grant=GrantId(row.grant),
        index=row.place,
        leaf=row.leaf,
        epoch=row.epoch,
        at=row.at,
        policy=row.policy,
        proven=row.proven,
        replaces=None if row.replaces is None else GrantId(row.replaces),
    )
