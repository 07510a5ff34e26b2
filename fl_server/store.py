"""The server's memory: what a round has reached, so that a killed server goes on where it was.

A round's row is written when its plan is signed, and everything after it is keyed by (round,
site). Closing is one transaction: the new model, the receipts and the closed flag appear together
or not at all. Ciphertexts are kept until their round is closed, then only their hashes (in the
receipts) remain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from fl_server.tables import (
    CARRIED,
    CERTIFICATES,
    GROUP_KEY,
    METADATA,
    MODELS,
    REFUSALS,
    ROUNDS,
    STUDY,
    UPLOADS,
)
from models.algorithms.scaffold import CONTROL
from protocol.frames import decode, encode
from protocol.ids import KeyId, SiteId
from protocol.messages import (
    ChunkState,
    Contribution,
    Manifest,
    Refusal,
    RoundClosed,
    RoundPlan,
    StudyTerms,
    canonical,
)
from protocol.summation import Commitment, Fault
from storage.database import open_database, reading, writing

LANES: Final = TypeAdapter(dict[SiteId, tuple[ChunkState, ...]])
FAULTS: Final = TypeAdapter(tuple[Fault, ...])


@dataclass(frozen=True)
class ModelState:
    """The model after a round: weights, server momentum, next quantisation steps.

    ``carried`` is what the study's algorithm has beside these, ``(parameters,)`` each, by name.
    """

    vector: NDArray[np.float32]  # (parameters,)
    momentum: NDArray[np.float32]  # (parameters,)
    steps: NDArray[np.float64]  # (tensors,)
    carried: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def sent(self) -> NDArray[np.float32]:
        """What the sites get: the weights, and SCAFFOLD's control after them where there is one."""
        if CONTROL not in self.carried:
            return self.vector
        return np.concatenate([self.vector, self.carried[CONTROL].astype(np.float32)])

    @property
    def blob(self) -> bytes:
        """What is sent, as little-endian float32."""
        return self.sent.astype("<f4").tobytes()

    @property
    def sha256(self) -> str:
        """The digest of what is sent, which plans, manifests and receipts name the model by."""
        return hashlib.sha256(self.blob).hexdigest()


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
    """What is kept of one round."""

    frozen: bool
    integers: NDArray[np.int64] | None
    closed: RoundClosed | None
    manifest: Manifest | None
    commitment: Commitment | None
    faults: tuple[Fault, ...]
    settled: bool


@dataclass(frozen=True)
class ClosedRound:
    """What closing a round adds to what is kept of it."""

    closed: RoundClosed
    manifest: Manifest
    commitment: Commitment | None
    integers: NDArray[np.int64] | None
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
    """The server's database; every method is one transaction."""

    def __init__(self, path: Path) -> None:
        self._engine = open_database(path, METADATA)

    def found(self, terms: StudyTerms, initial: ModelState) -> None:
        """Keep the study and the model it starts from; a second call changes nothing."""
        with writing(self._engine) as connection:
            if connection.execute(sa.select(STUDY.c.id)).first() is not None:
                return
            connection.execute(
                STUDY.insert().values(id=terms.study, terms=canonical(terms).decode())
            )
            _keep_model(connection, 0, initial)

    def terms(self) -> StudyTerms | None:
        """Return the study's terms, or None in an empty store."""
        with reading(self._engine) as connection:
            text = connection.execute(sa.select(STUDY.c.terms)).scalar_one_or_none()
        return None if text is None else StudyTerms.model_validate_json(text)

    def model(self, round_number: int) -> ModelState:
        """Return the model as it stood after ``round_number`` (0 before the first)."""
        query = sa.select(MODELS).where(MODELS.c.round == round_number)
        with reading(self._engine) as connection:
            row = connection.execute(query).one()
            carried = connection.execute(
                sa.select(CARRIED.c.name, CARRIED.c.vector).where(CARRIED.c.round == round_number)
            ).all()
        return ModelState(
            np.frombuffer(row.vector, "<f4").astype(np.float32),
            np.frombuffer(row.momentum, "<f4").astype(np.float32),
            np.frombuffer(row.steps, "<f8").astype(np.float64),
            {name: np.frombuffer(blob, "<f8").astype(np.float64) for name, blob in carried},
        )

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
        with writing(self._engine) as connection:
            connection.execute(GROUP_KEY.delete())
            connection.execute(GROUP_KEY.insert(), rows)

    def group_key(self) -> HeldKey | None:
        """Return the newest group key's sealed copies, or None before there was one."""
        with reading(self._engine) as connection:
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

    def plan(self, planned: PlannedRound) -> None:
        """Keep a signed plan and what goes with it: the round is open from here on."""
        with writing(self._engine) as connection:
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
        with reading(self._engine) as connection:
            row = connection.execute(sa.select(ROUNDS).where(ROUNDS.c.round == number)).first()
        if row is None:
            return None
        return StoredRound(
            RoundPlan.model_validate_json(row.plan),
            row.called,
            LANES.validate_json(row.lanes),
            {SiteId(site): blob for site, blob in decode(row.shares).blobs.items()},
            bool(row.frozen),
            None if row.integers is None else np.frombuffer(row.integers, "<i8").astype(np.int64),
            None if row.closed is None else RoundClosed.model_validate_json(row.closed),
            None if row.manifest is None else Manifest.model_validate_json(row.manifest),
            None if row.commitment is None else Commitment.model_validate_json(row.commitment),
            () if row.faults is None else FAULTS.validate_json(row.faults),
            bool(row.settled),
        )

    def planned(self, number: int) -> StoredRound:
        """Return what is kept of round ``number``, which was planned."""
        stored = self.round(number)
        assert stored is not None
        return stored

    def rounds_closed(self) -> int:
        """Return the number of the last closed round, 0 for none."""
        query = sa.select(sa.func.max(ROUNDS.c.round)).where(ROUNDS.c.closed.is_not(None))
        with reading(self._engine) as connection:
            return connection.execute(query).scalar_one() or 0

    def accept(
        self,
        contribution: Contribution,
        ciphertext: bytes,
        statements: list[str],
        *,
        left_out: int = 0,
    ) -> None:
        """Keep an accepted contribution, the statements verified for it, and whom it left out."""
        receipt = contribution.receipt
        with writing(self._engine) as connection:
            for statement in statements:
                connection.execute(
                    sa.insert(CERTIFICATES)
                    .prefix_with("OR IGNORE")
                    .values(statement=statement, round=receipt.round)
                )
            connection.execute(
                UPLOADS.insert().values(
                    round=receipt.round,
                    site=receipt.site,
                    contribution=canonical(contribution).decode(),
                    blob=ciphertext,
                    bytes=len(ciphertext),
                    left_out=left_out,
                )
            )

    def refuse(self, refusal: Refusal) -> None:
        """Keep a refusal; the first one of a site in a round stands."""
        with writing(self._engine) as connection:
            connection.execute(
                sa.insert(REFUSALS)
                .prefix_with("OR IGNORE")
                .values(round=refusal.round, site=refusal.site, refusal=canonical(refusal).decode())
            )

    def verified(self, statements: Sequence[str]) -> set[str]:
        """Return those of the statements that have been proven to us before."""
        query = sa.select(CERTIFICATES.c.statement).where(CERTIFICATES.c.statement.in_(statements))
        with reading(self._engine) as connection:
            return set(connection.execute(query).scalars())

    def certificates(self) -> int:
        """Return how many statements have been verified."""
        with reading(self._engine) as connection:
            return connection.execute(
                sa.select(sa.func.count()).select_from(CERTIFICATES)
            ).scalar_one()

    def uploads(self, number: int) -> dict[SiteId, tuple[Contribution, bytes]]:
        """Return the accepted contributions of a round with their ciphertexts, by site."""
        query = sa.select(UPLOADS).where(UPLOADS.c.round == number).order_by(UPLOADS.c.site)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return {
            SiteId(row.site): (
                Contribution.model_validate_json(row.contribution),
                row.blob or b"",
            )
            for row in rows
        }

    def upload_bytes(self, number: int) -> dict[str, int]:
        """Return the size of each accepted ciphertext of a round, by site."""
        query = sa.select(UPLOADS.c.site, UPLOADS.c.bytes).where(UPLOADS.c.round == number)
        with reading(self._engine) as connection:
            return {row.site: row.bytes for row in connection.execute(query)}

    def left_out(self, number: int) -> dict[str, int]:
        """Return how many patients each site left out who withdrew after the round was planned."""
        query = sa.select(UPLOADS.c.site, UPLOADS.c.left_out).where(
            UPLOADS.c.round == number, UPLOADS.c.left_out > 0
        )
        with reading(self._engine) as connection:
            return {row.site: row.left_out for row in connection.execute(query)}

    def refusals(self, number: int) -> tuple[Refusal, ...]:
        """Return the refusals of a round, by site."""
        query = (
            sa.select(REFUSALS.c.refusal)
            .where(REFUSALS.c.round == number)
            .order_by(REFUSALS.c.site)
        )
        with reading(self._engine) as connection:
            return tuple(
                Refusal.model_validate_json(text) for text in connection.execute(query).scalars()
            )

    def freeze(self, number: int) -> None:
        """Fix the set of contributions; after this none is accepted into the round."""
        with writing(self._engine) as connection:
            connection.execute(ROUNDS.update().where(ROUNDS.c.round == number).values(frozen=True))

    def close(self, round_: ClosedRound, after: ModelState) -> None:
        """Close a round: its model, receipts, manifest and flag in one transaction.

        Its ciphertexts stay until the next round closes, so that its sum can be added again.
        """
        closed, integers = round_.closed, round_.integers
        with writing(self._engine) as connection:
            _keep_model(connection, closed.round, after)
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
                    integers=None if integers is None else integers.astype("<i8").tobytes(),
                    frozen=True,
                )
            )
            connection.execute(
                UPLOADS.update().where(UPLOADS.c.round < closed.round).values(blob=None)
            )

    def settled(self, number: int) -> None:
        """Mark a closed round as settled by the market."""
        with writing(self._engine) as connection:
            connection.execute(ROUNDS.update().where(ROUNDS.c.round == number).values(settled=True))


def _keep_model(connection: sa.Connection, round_number: int, state: ModelState) -> None:
    connection.execute(
        MODELS.insert().values(
            round=round_number,
            vector=state.vector.astype("<f4").tobytes(),
            momentum=state.momentum.astype("<f4").tobytes(),
            steps=state.steps.astype("<f8").tobytes(),
        )
    )
    for name, vector in state.carried.items():
        blob = vector.astype("<f8").tobytes()
        connection.execute(CARRIED.insert().values(round=round_number, name=name, vector=blob))
