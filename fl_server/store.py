"""The server's memory: what a round has reached, so that a killed server goes on where it was.

A database holds one run: one study's rounds. A round's row is written when its plan is signed, and
everything after it is keyed by (round, site). Closing is one transaction: the new model, the
receipts and the closed flag appear together or not at all. Ciphertexts are kept until the next
round is closed, then only their hashes (in the receipts) remain.

What holds on SQLite and PostgreSQL alike, each a test in tests/fl_server/test_store.py:

1. A contribution counts once, however often its bytes come; other bytes of the same site and round
   are refused and named.
2. Nothing enters a round that is frozen.
3. What was opened, uploaded or learnt is read in pieces; no method but those that say so holds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from fl_server.answers import StoredAnswers
from fl_server.database import ServerDatabase, insert_once
from fl_server.live import RunEvents
from fl_server.model_state import ModelReader, ModelState, Read
from fl_server.parts import cut, in_form, narrow
from fl_server.tables import (
    ANSWERS,
    CERTIFICATES,
    GROUP_KEY,
    MODELS,
    REFUSALS,
    ROUNDS,
    STUDY,
    UPLOADS,
)
from models.algorithms.interface import GlobalState
from models.algorithms.scaffold import CONTROL
from protocol.canonical import canonical, digest
from protocol.errors import FederationError
from protocol.frames import decode, encode
from protocol.ids import KeyId, SiteId
from protocol.messages import ChunkState, Contribution, Manifest, Refusal, RoundClosed, RoundPlan
from protocol.summation import Commitment, Fault
from protocol.terms import StudyTerms

LANES: Final = TypeAdapter(dict[SiteId, tuple[ChunkState, ...]])
FAULTS: Final = TypeAdapter(tuple[Fault, ...])
RUN_DIGITS: Final = 16


def run_of(terms: StudyTerms) -> str:
    """Return the id of the run of these terms: they name every key, so no other run shares them."""
    return digest(terms)[:RUN_DIGITS]


class UploadConflict(FederationError):
    """A site sent two different contributions to one round; the first one stands."""

    code = "upload-conflict"

    def __init__(self, site: SiteId, round_number: int, kept: str, other: str) -> None:
        self.site = site
        self.kept = kept
        self.other = other
        super().__init__(
            f"{site} sent a second, different update to round {round_number} (ciphertext "
            f"{other[:16]} after {kept[:16]}); the first stands, look at that site's memory"
        )


class RoundFrozen(FederationError):
    """A contribution came to a round that takes none any more."""

    code = "late-answer"

    def __init__(self, site: SiteId, round_number: int) -> None:
        self.site = site
        self.round = round_number
        super().__init__(
            f"the answer of {site} came after its phase of round {round_number} had ended; it does "
            "not count, and the next round asks the site again"
        )


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


class StoredUploads(Mapping[SiteId, tuple[Contribution, bytes]]):
    """A round's accepted contributions by site; a ciphertext is read when its site is asked for."""

    def __init__(self, store: ServerStore, number: int, sites: Sequence[SiteId]) -> None:
        self._store, self._number, self._sites = store, number, tuple(sites)

    def __getitem__(self, site: SiteId) -> tuple[Contribution, bytes]:
        """Return a site's contribution and its ciphertext, empty where that is gone."""
        if site not in self._sites:
            raise KeyError(site)
        return self._store.upload(self._number, site)

    def __iter__(self) -> Iterator[SiteId]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)


class ServerStore:
    """The server's database; every method is one transaction.

    Args:
        source: A SQLite file, ``":memory:"``, or an engine of ``storage.postgresql``.
    """

    def __init__(self, source: Path | str | sa.Engine) -> None:
        self.database = ServerDatabase(source)
        self.events = RunEvents(self.database)
        self.answers = StoredAnswers(self.database)
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
            self._keep_model(connection, 0, initial)

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

    def model(self, round_number: int) -> ModelState:
        """Return the model as it stood after ``round_number`` (0 before the first), whole."""
        query = sa.select(MODELS).where(MODELS.c.round == round_number)
        with self.database.reading() as connection:
            row = connection.execute(query).one()

            def vector(kind: str, name: str, form: str) -> NDArray[Any]:
                blob = self.database.parts.whole(connection, round_number, kind, name)
                return np.frombuffer(blob, form)

            weights = vector("model", "vector", "<f4").astype(np.float32, copy=False)
            momentum = vector("model", "momentum", "<f4").astype(np.float32, copy=False)
            return ModelState(
                weights,
                momentum if momentum.size else np.zeros_like(weights),
                np.frombuffer(row.steps, "<f8").astype(np.float64),
                {
                    name: vector("carried", name, "<f8").astype(np.float64, copy=False)
                    for name in json.loads(row.carried)
                },
            )

    def model_head(self, round_number: int) -> tuple[str, NDArray[np.float64]]:
        """Return the digest of what the sites are sent of a model, and its quantisation steps."""
        query = sa.select(MODELS.c.sha256, MODELS.c.steps).where(MODELS.c.round == round_number)
        with self.database.reading() as connection:
            row = connection.execute(query).one()
        return row.sha256, np.frombuffer(row.steps, "<f8").astype(np.float64)

    def sent_model(self, round_number: int) -> Iterator[bytes]:
        """Yield what the sites are sent of the model after a round, ``ModelState.blob``."""
        with self.database.reading() as connection:
            yield from self._sent(connection, round_number)

    def sent_bytes(self, round_number: int) -> int:
        """Return how many bytes ``sent_model`` yields."""
        query = sa.select(MODELS.c.carried).where(MODELS.c.round == round_number)
        terms = self.terms()
        assert terms is not None
        with self.database.reading() as connection:
            carried = json.loads(connection.execute(query).scalar_one())
        return 4 * terms.training.parameters * (2 if CONTROL in carried else 1)

    def _sent(self, connection: sa.Connection, number: int) -> Iterator[bytes]:
        yield from self.database.parts.pieces(connection, number, "model", "vector")
        yield from self._control(connection, number)

    def _control(self, connection: sa.Connection, number: int) -> Iterator[bytes]:
        """Yield what the sites are sent beside the weights, where the algorithm has it."""
        for piece in self.database.parts.pieces(connection, number, "carried", CONTROL):
            yield np.frombuffer(piece, "<f8").astype("<f4").tobytes()

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
            row = connection.execute(sa.select(ROUNDS).where(ROUNDS.c.round == number)).first()
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
        query = sa.select(ROUNDS.c.manifest).where(ROUNDS.c.round == number)
        with self.database.reading() as connection:
            text = connection.execute(query).scalar_one_or_none()
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
            self._keep_model(connection, round_.closed.round, after)
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
        parts = self.database.parts
        with self.database.writing() as connection:
            query = sa.select(MODELS.c.carried).where(MODELS.c.round == number - 1)
            names = json.loads(connection.execute(query).scalar_one())
            read = ModelReader(parts, connection, number - 1, names)
            vector = parts.writer(connection, number, "model", "vector")
            momentum = parts.writer(connection, number, "model", "momentum")
            carried = {name: parts.writer(connection, number, "carried", name) for name in names}
            sent = hashlib.sha256()
            still: int | None = 0
            for part in slices(read):
                weights = part.vector.astype("<f4", copy=False).tobytes()
                sent.update(weights)
                vector.write(weights)
                if still is not None and not part.momentum.any():
                    still += part.momentum.size  # a server without momentum keeps no zeros
                else:
                    momentum.write(bytes(4 * (still or 0)))
                    still = None
                    momentum.write(part.momentum.astype("<f4", copy=False).tobytes())
                for name, wide in part.carried.items():
                    carried[name].write(wide.astype("<f8", copy=False).tobytes())
            for writer in (vector, momentum, *carried.values()):
                writer.close()
            for piece in self._control(connection, number):
                sent.update(piece)
            round_ = finish(sent.hexdigest())
            row = {"round": number, "sha256": sent.hexdigest(), "carried": json.dumps(names)}
            values = row | {"steps": steps.astype("<f8").tobytes()}
            connection.execute(MODELS.insert().values(values))
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

    # Contributions

    def accept(
        self,
        contribution: Contribution,
        ciphertext: bytes,
        statements: list[str],
        *,
        left_out: int = 0,
    ) -> bool:
        """Keep an accepted contribution, the statements verified for it, and whom it left out.

        Returns:
            Whether it is new; the same bytes again change nothing.

        Raises:
            UploadConflict: Another contribution of this site to this round is kept.
            RoundFrozen: The round takes none any more.
        """
        receipt = contribution.receipt
        number, site = receipt.round, receipt.site
        text = canonical(contribution).decode()
        with self.database.writing() as connection:
            kept = connection.execute(_upload(number, site)).scalar_one_or_none()
            if kept is not None:
                if kept == text:
                    return False
                first = Contribution.model_validate_json(kept).receipt.ciphertext_sha256
                raise UploadConflict(site, number, first, receipt.ciphertext_sha256)
            frozen = sa.select(ROUNDS.c.frozen).where(ROUNDS.c.round == number)
            if connection.execute(frozen).scalar_one_or_none():
                raise RoundFrozen(site, number)
            for statement in statements:
                insert_once(connection, CERTIFICATES, statement=statement, round=number)
            connection.execute(
                UPLOADS.insert().values(
                    round=number,
                    site=site,
                    contribution=text,
                    bytes=len(ciphertext),
                    left_out=left_out,
                )
            )
            self.database.parts.keep(connection, number, "upload", site, cut(ciphertext))
        return True

    def refuse(self, refusal: Refusal) -> None:
        """Keep a refusal; the first one of a site in a round stands."""
        with self.database.writing() as connection:
            insert_once(
                connection,
                REFUSALS,
                round=refusal.round,
                site=refusal.site,
                refusal=canonical(refusal).decode(),
            )

    def verified(self, statements: Sequence[str]) -> set[str]:
        """Return those of the statements that have been proven to us before."""
        query = sa.select(CERTIFICATES.c.statement).where(CERTIFICATES.c.statement.in_(statements))
        with self.database.reading() as connection:
            return set(connection.execute(query).scalars())

    def certificates(self) -> int:
        """Return how many statements have been verified."""
        with self.database.reading() as connection:
            return connection.execute(
                sa.select(sa.func.count()).select_from(CERTIFICATES)
            ).scalar_one()

    def uploads(self, number: int) -> StoredUploads:
        """Return the accepted contributions of a round by site, sorted."""
        query = sa.select(UPLOADS.c.site).where(UPLOADS.c.round == number).order_by(UPLOADS.c.site)
        with self.database.reading() as connection:
            sites = [SiteId(site) for site in connection.execute(query).scalars()]
        return StoredUploads(self, number, sorted(sites))

    def upload(self, number: int, site: SiteId) -> tuple[Contribution, bytes]:
        """Return a site's contribution and its ciphertext, empty where that is gone."""
        with self.database.reading() as connection:
            text = connection.execute(_upload(number, site)).scalar_one()
            return (
                Contribution.model_validate_json(text),
                self.database.parts.whole(connection, number, "upload", site),
            )

    def contribution(self, number: int, site: SiteId) -> Contribution:
        """Return a site's accepted contribution to a round, without its ciphertext."""
        with self.database.reading() as connection:
            text = connection.execute(_upload(number, site)).scalar_one()
        return Contribution.model_validate_json(text)

    def blob(self, number: int, kind: str, name: str) -> bytes:
        """Return a blob that is kept in parts, whole; empty where there is none."""
        with self.database.reading() as connection:
            return self.database.parts.whole(connection, number, kind, name)

    def upload_bytes(self, number: int) -> dict[str, int]:
        """Return the size of each accepted ciphertext of a round, by site."""
        query = sa.select(UPLOADS.c.site, UPLOADS.c.bytes).where(UPLOADS.c.round == number)
        with self.database.reading() as connection:
            return {row.site: row.bytes for row in connection.execute(query)}

    def left_out(self, number: int) -> dict[str, int]:
        """Return how many patients each site left out who withdrew after the round was planned."""
        query = sa.select(UPLOADS.c.site, UPLOADS.c.left_out).where(
            UPLOADS.c.round == number, UPLOADS.c.left_out > 0
        )
        with self.database.reading() as connection:
            return {row.site: row.left_out for row in connection.execute(query)}

    def refusals(self, number: int) -> tuple[Refusal, ...]:
        """Return the refusals of a round, by site."""
        query = sa.select(REFUSALS.c.refusal).where(REFUSALS.c.round == number)
        with self.database.reading() as connection:
            found = [
                Refusal.model_validate_json(text) for text in connection.execute(query).scalars()
            ]
        return tuple(sorted(found, key=lambda one: one.site))

    def _forget_answers(self, connection: sa.Connection, number: int) -> None:
        """A closed round's answers have served: what counts of them is in what closed it."""
        rows = connection.execute(
            sa.select(ANSWERS.c.kind, ANSWERS.c.question)
            .where(ANSWERS.c.round == number)
            .distinct()
        )
        for kind, question in rows.all():
            self.database.parts.drop_kind(connection, number, number, f"{kind} {question}")

    def _keep_model(self, connection: sa.Connection, round_number: int, state: ModelState) -> None:
        connection.execute(
            MODELS.insert().values(
                round=round_number,
                sha256=state.sha256,
                steps=state.steps.astype("<f8").tobytes(),
                carried=json.dumps(sorted(state.carried)),
            )
        )
        keep = self.database.parts.keep
        keep(connection, round_number, "model", "vector", in_form(state.vector, "<f4"))
        if state.momentum.any():
            keep(connection, round_number, "model", "momentum", in_form(state.momentum, "<f4"))
        for name, wide in state.carried.items():
            keep(connection, round_number, "carried", name, in_form(wide, "<f8"))


def _upload(number: int, site: SiteId) -> sa.Select[Any]:
    return sa.select(UPLOADS.c.contribution).where(
        UPLOADS.c.round == number, UPLOADS.c.site == site
    )
