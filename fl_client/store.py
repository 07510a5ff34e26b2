"""What a hospital's agent remembers, so that a killed agent neither repeats nor contradicts itself.

* the answer it gave to a round's plan: the same plan gets the same bytes again, another plan for
  the same round gets nothing;
* what the study's algorithm keeps at this site from round to round, a personal model for one;
* the one set of uploads it endorsed in a round: another is refused, also after a restart, because
  the difference of two sums could be one site's update;
* the secrets of a round's masks and the others' shares of theirs, until the next round's plan;
* what it knows of its patients' consents: certificates, leaves, grants it ended (``consents``);
* the group keys of the encryption it holds, or its shares of them (``keys``).

The file is private: it holds a key.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from fl_client.consent_store import StoredConsents
from fl_client.key_store import StoredKeys
from fl_client.tables import (
    ANSWERS,
    ENDORSED,
    MANIFESTS,
    METADATA,
    PERSONAL,
    PERSONAL_MEMBERS,
    PLANS,
    ROUND_SECRETS,
)
from privacy.cohorts import fingerprint
from protocol.canonical import canonical, digest
from protocol.errors import PrivacyError
from protocol.messages import RoundCall, RoundPlan
from storage.database import open_database, reading, writing


class RoundAlreadyAnswered(PrivacyError):
    """A second, different plan came for a round this site has answered."""

    code = "round-already-answered"

    def __init__(self, round_number: int) -> None:
        self.round = round_number
        super().__init__(
            f"this site has answered another plan for round {round_number}; a round is trained "
            "once, so go on with the next round"
        )


class SumAlreadyEndorsed(PrivacyError):
    """A second, different set of uploads of a round was to be endorsed."""

    code = "sum-already-endorsed"

    def __init__(self, round_number: int) -> None:
        self.round = round_number
        super().__init__(
            f"this site has endorsed another set of uploads of round {round_number}; the "
            "difference of two sums could show one hospital's update, so it stands by one only"
        )


SALT_BYTES: Final = 16


@dataclass(frozen=True)
class HeldSecrets:
    """A site's secrets for one call: the call, their bytes, and the reply it gave."""

    call: RoundCall
    secrets: bytes
    reply: bytes


class SiteStore:
    """The agent's database; every method is one transaction."""

    def __init__(self, path: Path) -> None:
        self._engine = open_database(path, METADATA, private=True)
        self.keys = StoredKeys(self._engine)
        self.consents = StoredConsents(self._engine)

    def answer(self, study: str, round_number: int, plan: str) -> bytes | None:
        """Return the reply given to this plan, or None where the round is unanswered.

        Raises:
            RoundAlreadyAnswered: The round was answered for another plan.
        """
        query = sa.select(ANSWERS.c.plan, ANSWERS.c.reply).where(
            ANSWERS.c.study == study, ANSWERS.c.round == round_number
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        if row.plan != plan:
            raise RoundAlreadyAnswered(round_number)
        return bytes(row.reply)

    def answered(self, study: str) -> list[int]:
        """Return the rounds of a study that were answered, in order."""
        query = sa.select(ANSWERS.c.round).where(ANSWERS.c.study == study)
        with reading(self._engine) as connection:
            return sorted(connection.execute(query).scalars())

    def keep_answer(
        self,
        study: str,
        round_number: int,
        plan: str,
        reply: bytes,
        integers: bytes | None,
        *,
        personal: bytes | None = None,
        members: Collection[str] = (),
    ) -> None:
        """Keep a reply before it leaves, and with it what the algorithm keeps at this site.

        ``integers`` are kept only where a demonstration asks for them; ``members`` are the
        patients whose records ``personal`` was computed from, of whom fingerprints stay.
        """
        salt = secrets.token_bytes(SALT_BYTES)
        with writing(self._engine) as connection:
            connection.execute(
                ANSWERS.insert().values(
                    study=study, round=round_number, plan=plan, reply=reply, integers=integers
                )
            )
            if personal is not None:
                connection.execute(
                    PERSONAL.insert().values(study=study, round=round_number, kept=personal)
                )
                connection.execute(
                    PERSONAL_MEMBERS.insert().values(
                        study=study,
                        round=round_number,
                        salt=salt,
                        members=json.dumps(sorted(fingerprint(salt, one) for one in members)),
                    )
                )

    def under_way(self) -> list[tuple[str, int]]:
        """Return the studies and rounds that this site answered and whose sum is not opened yet."""
        query = (
            sa.select(PLANS.c.study, PLANS.c.round)
            .join(
                ANSWERS,
                sa.and_(ANSWERS.c.study == PLANS.c.study, ANSWERS.c.round == PLANS.c.round),
            )
            .outerjoin(
                ENDORSED,
                sa.and_(ENDORSED.c.study == PLANS.c.study, ENDORSED.c.round == PLANS.c.round),
            )
            .where(ENDORSED.c.integers_sha256.is_(None))
        )
        with reading(self._engine) as connection:
            return [(row.study, row.round) for row in connection.execute(query)]

    def personal(self, study: str, *, before: int) -> list[tuple[int, bytes]]:
        """Return what the algorithm kept in rounds before one, with the round, newest first."""
        query = (
            sa.select(PERSONAL.c.round, PERSONAL.c.kept)
            .where(PERSONAL.c.study == study, PERSONAL.c.round < before)
            .order_by(PERSONAL.c.round.desc())
        )
        with reading(self._engine) as connection:
            return [(row.round, bytes(row.kept)) for row in connection.execute(query)]

    def personal_is_of(self, study: str, round_number: int, patients: Collection[str]) -> bool:
        """Say whether what was kept in a round was computed from records of these patients only.

        What an earlier version kept says nobody's, and so is of nobody here.
        """
        query = sa.select(PERSONAL_MEMBERS).where(
            PERSONAL_MEMBERS.c.study == study, PERSONAL_MEMBERS.c.round == round_number
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).first()
        if row is None:
            return False
        present = {fingerprint(bytes(row.salt), one) for one in patients}
        return set(json.loads(row.members)) <= present

    def forget_personal(self, study: str, *, before: int) -> None:
        """Forget what was kept before the round that the site went on from."""
        with writing(self._engine) as connection:
            for table in (PERSONAL, PERSONAL_MEMBERS):
                connection.execute(
                    table.delete().where(table.c.study == study, table.c.round < before)
                )

    def integers(self, study: str, round_number: int) -> bytes | None:
        """Return the plain integers of a round where they were kept (demonstrations only)."""
        query = sa.select(ANSWERS.c.integers).where(
            ANSWERS.c.study == study, ANSWERS.c.round == round_number
        )
        with reading(self._engine) as connection:
            return connection.execute(query).scalar_one_or_none()

    def round_secrets(self, study: str, round_number: int, call: str) -> HeldSecrets | None:
        """Return what was made for the call of this digest, or None."""
        query = sa.select(ROUND_SECRETS).where(
            ROUND_SECRETS.c.study == study,
            ROUND_SECRETS.c.round == round_number,
            ROUND_SECRETS.c.call == call,
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        call_made = RoundCall.model_validate_json(row.request)
        return HeldSecrets(call_made, bytes(row.secrets), bytes(row.reply))

    def keep_round_secrets(self, held: HeldSecrets) -> None:
        """Keep the secrets of a call before the reply leaves."""
        call = held.call
        with writing(self._engine) as connection:
            connection.execute(
                ROUND_SECRETS.insert().values(
                    study=call.study,
                    round=call.round,
                    call=digest(call),
                    request=canonical(call).decode(),
                    secrets=held.secrets,
                    reply=held.reply,
                )
            )

    def plan(self, study: str, round_number: int) -> tuple[RoundPlan, bytes] | None:
        """Return the round's plan and the others' shares, or None before it came."""
        query = sa.select(PLANS).where(PLANS.c.study == study, PLANS.c.round == round_number)
        with reading(self._engine) as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return RoundPlan.model_validate_json(row.plan), bytes(row.shares)

    def keep_plan(self, plan: RoundPlan, shares: bytes) -> None:
        """Keep a round's plan and shares; what earlier rounds' masks were made of is forgotten.

        Raises:
            RoundAlreadyAnswered: Another plan of this round is kept.
        """
        earlier = self.plan(plan.study, plan.round)
        if earlier is not None:
            if earlier[0] != plan:
                raise RoundAlreadyAnswered(plan.round)
            return
        with writing(self._engine) as connection:
            connection.execute(
                PLANS.insert().values(
                    study=plan.study,
                    round=plan.round,
                    plan=canonical(plan).decode(),
                    shares=shares,
                )
            )
            for table in (ROUND_SECRETS, PLANS):
                connection.execute(
                    table.delete().where(table.c.study == plan.study, table.c.round < plan.round)
                )
            connection.execute(
                ROUND_SECRETS.delete().where(
                    ROUND_SECRETS.c.study == plan.study, ROUND_SECRETS.c.call != plan.call
                )
            )

    def endorse_once(self, study: str, round_number: int, commitment: str, nonce: str) -> str:
        """Note that this commitment is being endorsed; return the nonce it is endorsed with.

        Raises:
            SumAlreadyEndorsed: Another commitment of this round was endorsed before.
        """
        with writing(self._engine) as connection:
            row = connection.execute(_endorsed(study, round_number)).first()
            if row is None:
                connection.execute(
                    ENDORSED.insert().values(
                        study=study, round=round_number, commitment=commitment, nonce=nonce
                    )
                )
                return nonce
        if row.commitment != commitment:
            raise SumAlreadyEndorsed(round_number)
        return str(row.nonce)

    def endorsed(self, study: str, round_number: int) -> tuple[str, str | None] | None:
        """Return the commitment endorsed in a round and the hash of what was opened, or None."""
        with reading(self._engine) as connection:
            row = connection.execute(_endorsed(study, round_number)).first()
        return None if row is None else (row.commitment, row.integers_sha256)

    def opened(self, study: str, round_number: int, integers_sha256: str) -> None:
        """Note what a round's sum was opened to."""
        with writing(self._engine) as connection:
            connection.execute(
                ENDORSED.update()
                .where(ENDORSED.c.study == study, ENDORSED.c.round == round_number)
                .values(integers_sha256=integers_sha256)
            )

    def manifest(self, study: str, round_number: int) -> str | None:
        """Return the digest of the manifest this site went on from, or None."""
        query = sa.select(MANIFESTS.c.manifest).where(
            MANIFESTS.c.study == study, MANIFESTS.c.round == round_number
        )
        with reading(self._engine) as connection:
            return connection.execute(query).scalar_one_or_none()

    def keep_manifest(self, study: str, round_number: int, manifest: str) -> None:
        """Keep the digest of a round's manifest; the first one stands."""
        with writing(self._engine) as connection:
            connection.execute(
                sa.insert(MANIFESTS)
                .prefix_with("OR IGNORE")
                .values(study=study, round=round_number, manifest=manifest)
            )


def _endorsed(study: str, round_number: int) -> sa.Select[tuple[str, str, str | None]]:
    return sa.select(ENDORSED.c.commitment, ENDORSED.c.nonce, ENDORSED.c.integers_sha256).where(
        ENDORSED.c.study == study, ENDORSED.c.round == round_number
    )
