"""The server's memory: what a round has reached, so that a killed server goes on where it was.

A database holds one run: one study's rounds. A round's row is written when its plan is signed, and
everything after it is keyed by (round, site). Closing is one transaction: the new model, the
receipts and the closed flag appear together or not at all. Ciphertexts are kept until the next
round is closed, then only their hashes (in the receipts) remain. Contributions are in ``uploads``,
models in ``models``, answers in ``answers``, events in ``events``: one file each.

What holds on SQLite and PostgreSQL alike, each a test in tests/fl_server/test_store.py:

1. Closing a round is all or nothing.
2. What was opened, uploaded or learnt is read in pieces; no method but those that say so holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from fl_server.answers import StoredAnswers
from fl_server.database import ServerDatabase
from fl_server.live import RunEvents
from fl_server.model_state import ModelState, Read
from fl_server.model_store import StoredModels
from fl_server.parts import narrow
from fl_server.tables import (
    ANSWERS,
    GROUP_KEY,
    ROUNDS,
    STUDY,
)
from fl_server.uploads import StoredUploads
from models.algorithms.interface import GlobalState
from protocol.canonical import canonical, digest
from protocol.frames import decode, encode
from protocol.ids import KeyId, SiteId
from protocol.messages import ChunkState, Manifest, RoundClosed, RoundPlan
from protocol.summation import Commitment, Fault
from protocol.terms import StudyTerms

LANES: Final = TypeAdapter(dict[SiteId, tuple[ChunkState, ...]])
FAULTS: Final = TypeAdapter(tuple[Fault, ...])
RUN_DIGITS: Final = 16
_ROUND: Final = sa.select(ROUNDS).where(ROUNDS.c.round == sa.bindparam("number"))
_MANIFEST: Final = sa.select(ROUNDS.c.manifest).where(ROUNDS.c.round == sa.bindparam("number"))


def run_of(terms: StudyTerms) -> str:
    """Return the id of the run of these terms: they name every key, so no other run shares them."""
    return digest(terms)[:RUN_DIGITS]


@dataclass(frozen=True)
class PlannedRound:
    """A signed plan and what goes with it.

    ``called`` is how many sites its call named, from which the quorum follows; ``shares`` is what
    the sites of the roster sealed for each of it.
    """

    plan: RoundPlan
    called: int
    lanes: dict[SiteId, tuple[ChunkState, ...]]
    shares: dict[SiteId, bytes]


@dataclass(frozen=True)
class StoredRound(PlannedRound):
    """What is kept of one round; ``opened`` is how many integers were."""

    frozen: bool
    opened: int | None
    closed: RoundClosed | None
    manifest: Manifest | None
    commitment: Commitment | None
    faults: tuple[Fault, ...]
    settled: bool
    store: ServerStore = field(repr=False, compare=False)

    @property
    def integers(self) -> NDArray[np.int64] | None:
        """The opened sum, read whole when it is asked for; None where there is none."""
        if self.opened is None:
            return None
        blob = self.store.blob(self.plan.round, "integers", "")
        width = len(blob) // self.opened
        return np.frombuffer(blob, f"<i{width}").astype(np.int64, copy=False)


@dataclass(frozen=True)
class ClosedRound:
    """What closing a round adds to what is kept of it."""

    closed: RoundClosed
    manifest: Manifest
    commitment: Commitment | None
    integers: NDArray[np.signedinteger[Any]] | None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class HeldKey:
    """A group key as the server knows it: whose it is, and the frames it passes on."""

    key_id: KeyId
    epoch: int
    round: int
    sites: tuple[SiteId, ...]
    frames: dict[SiteId, bytes]


class ServerStore:
    """The server's database; every method is one transaction.

    Args:
        source: A SQLite file, ``":memory:"``, or an engine of ``storage.postgresql``.
    """

    def __init__(self, source: Path | str | sa.Engine) -> None:
        self.database = ServerDatabase(source)
        self.events = RunEvents(self.database)
        self.answers = StoredAnswers(self.database)
        self.models = StoredModels(self.database)
        self.uploads = StoredUploads(self.database)
        self._engine = self.database.engine
        self._terms: StudyTerms | None = None  # once there, they never change

    def found(self, terms: StudyTerms, initial: ModelState) -> None:
        """Keep the study and the model it starts from; a second call changes nothing."""
        with self.database.writing() as connection:
            if connection.execute(sa.select(STUDY.c.id)).first() is not None:
                return
            connection.execute(
                STUDY.insert().values(id=terms.study, terms=canonical(terms).decode())
            )
            self.models.keep(connection, 0, initial)

    def terms(self) -> StudyTerms | None:
        """Return the study's terms, or None in an empty store."""
        if self._terms is None:
            with self.database.reading() as connection:
                text = connection.execute(sa.select(STUDY.c.terms)).scalar_one_or_none()
            self._terms = None if text is None else StudyTerms.model_validate_json(text)
        return self._terms

    def run(self) -> str:
        """Return the id of the run kept here, empty in an empty store."""
        terms = self.terms()
        return "" if terms is None else run_of(terms)

    def keep_group_key(self, held: HeldKey) -> None:
        """Keep a group key's sealed copies in place of the last one's."""
        rows = [
            {
                "site": site,
                "epoch": held.epoch,
                "round": held.round,
                "key_id": held.key_id,
                "frame": held.frames.get(site),
            }
            for site in held.sites
        ]
        with self.database.writing() as connection:
            connection.execute(GROUP_KEY.delete())
            connection.execute(GROUP_KEY.insert(), rows)

    def group_key(self) -> HeldKey | None:
        """Return the newest group key's sealed copies, or None before there was one."""
        with self.database.reading() as connection:
            rows = connection.execute(sa.select(GROUP_KEY).order_by(GROUP_KEY.c.site)).all()
        if not rows:
            return None
        return HeldKey(
            KeyId(rows[0].key_id),
            rows[0].epoch,
            rows[0].round,
            tuple(SiteId(row.site) for row in rows),
            {SiteId(row.site): bytes(row.frame) for row in rows if row.frame is not None},
        )

    # Rounds

    def plan(self, planned: PlannedRound) -> None:
        """Keep a signed plan and what goes with it: the round is open from here on."""
        with self.database.writing() as connection:
            connection.execute(
                ROUNDS.insert().values(
                    round=planned.plan.round,
                    plan=canonical(planned.plan).decode(),
                    called=planned.called,
                    lanes=LANES.dump_json(dict(planned.lanes)).decode(),
                    shares=encode(
                        "shares", {}, {str(site): blob for site, blob in planned.shares.items()}
                    ),
                    frozen=False,
                    settled=False,
                )
            )

    def round(self, number: int) -> StoredRound | None:
        """Return what is kept of round ``number``, or None where it was never planned."""
        with self.database.reading() as connection:
            row = connection.execute(_ROUND, {"number": number}).first()
        if row is None:
            return None
        return StoredRound(
            RoundPlan.model_validate_json(row.plan),
            row.called,
            LANES.validate_json(row.lanes),
            {SiteId(site): blob for site, blob in decode(bytes(row.shares)).blobs.items()},
            bool(row.frozen),
            row.integers,
            None if row.closed is None else RoundClosed.model_validate_json(row.closed),
            None if row.manifest is None else Manifest.model_validate_json(row.manifest),
            None if row.commitment is None else Commitment.model_validate_json(row.commitment),
            () if row.faults is None else FAULTS.validate_json(row.faults),
            bool(row.settled),
            self,
        )

    def planned(self, number: int) -> StoredRound:
        """Return what is kept of round ``number``, which was planned."""
        stored = self.round(number)
        assert stored is not None
        return stored

    def manifest(self, number: int) -> Manifest | None:
        """Return the manifest of round ``number``, or None where it is not closed."""
        with self.database.reading() as connection:
            text = connection.execute(_MANIFEST, {"number": number}).scalar_one_or_none()
        return None if text is None else Manifest.model_validate_json(text)

    def rounds_closed(self) -> int:
        """Return the number of the last closed round, 0 for none."""
        query = sa.select(sa.func.max(ROUNDS.c.round)).where(ROUNDS.c.closed.is_not(None))
        with self.database.reading() as connection:
            return connection.execute(query).scalar_one() or 0

    def freeze(self, number: int) -> None:
        """Fix the set of contributions; after this none is accepted into the round."""
        with self.database.writing() as connection:
            connection.execute(ROUNDS.update().where(ROUNDS.c.round == number).values(frozen=True))

    def close(self, round_: ClosedRound, after: ModelState) -> None:
        """Close a round with a model that is in memory: ``close_with`` otherwise."""
        with self.database.writing() as connection:
            self.models.keep(connection, round_.closed.round, after)
            self._finish(connection, round_)

    def close_with(
        self,
        number: int,
        slices: Callable[[Read], Iterator[GlobalState]],
        steps: NDArray[np.float64],
        finish: Callable[[str], ClosedRound],
    ) -> RoundClosed:
        """Close a round: its model, receipts, manifest and flag in one transaction.

        Its ciphertexts stay until the next round closes, so that its sum can be added again.

        Args:
            number: The round's.
            slices: Given what reads the model before the round, yields the one after it.
            steps: The next quantisation steps, ``(tensors,)``.
            finish: From the digest of what sites are sent of the new model to what is kept.
        """
        with self.database.writing() as connection:
            round_ = finish(self.models.write(connection, number, slices, steps))
            self._finish(connection, round_)
        return round_.closed

    def _finish(self, connection: sa.Connection, round_: ClosedRound) -> None:
        closed, integers = round_.closed, round_.integers
        if integers is not None:
            pieces = narrow(integers)
            self.database.parts.keep(connection, closed.round, "integers", "", pieces)
        connection.execute(
            ROUNDS.update()
            .where(ROUNDS.c.round == closed.round)
            .values(
                closed=canonical(closed).decode(),
                manifest=canonical(round_.manifest).decode(),
                commitment=None
                if round_.commitment is None
                else canonical(round_.commitment).decode(),
                faults=FAULTS.dump_json(round_.faults).decode(),
                integers=None if integers is None else integers.size,
                frozen=True,
            )
        )
        self.database.parts.drop_kind(connection, 0, closed.round - 1, "upload")
        self._forget_answers(connection, closed.round)

    def settled(self, number: int) -> None:
        """Mark a closed round as settled by the market."""
        with self.database.writing() as connection:
            connection.execute(ROUNDS.update().where(ROUNDS.c.round == number).values(settled=True))

    def blob(self, number: int, kind: str, name: str) -> bytes:
        """Return a blob that is kept in parts, whole; empty where there is none."""
        with self.database.reading() as connection:
            return self.database.parts.whole(connection, number, kind, name)

    def _forget_answers(self, connection: sa.Connection, number: int) -> None:
        """A closed round's answers have served: what counts of them is in what closed it."""
        rows = connection.execute(
            sa.select(ANSWERS.c.kind, ANSWERS.c.question)
            .where(ANSWERS.c.round == number)
            .distinct()
        )
        for kind, question in rows.all():
            self.database.parts.drop_kind(connection, number, number, f"{kind} {question}")
