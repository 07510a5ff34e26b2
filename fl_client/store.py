"""What a hospital's agent remembers, so that a killed agent neither repeats nor contradicts itself.

* the answer it gave to a round's plan: the same plan gets the same bytes again, another plan for
  the same round gets nothing;
* the one sum it opened in a round: another sum is refused, also after a restart, because the
  difference of two sums could be one site's update;
* its consent certificates, which serve until their chunk changes;
* the group key of the encryption, wrapped by its dealer, unwrapped here.

The file is private: it holds a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from protocol.errors import PrivacyError
from protocol.messages import CoverageCertificate, canonical
from storage.database import open_database, reading, writing

METADATA = sa.MetaData()
ANSWERS = sa.Table(
    "answers",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("reply", sa.LargeBinary, nullable=False),
    sa.Column("integers", sa.LargeBinary),
)
OPENED = sa.Table(
    "opened",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("sum_sha256", sa.Text, nullable=False),
)
CERTIFICATES = sa.Table(
    "certificates",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("chunk", sa.Integer, primary_key=True),
    sa.Column("selection", sa.Text, nullable=False),  # digest of chunk root, scope and slots
    sa.Column("certificate", sa.Text, nullable=False),
)
GROUP_KEY = sa.Table(
    "group_key",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=False),
    sa.Column("dealt", sa.LargeBinary),  # the dealer's own reply, given again when asked again
)


class RoundAlreadyAnswered(PrivacyError):
    """A second, different plan came for a round this site has answered."""

    code = "round-already-answered"

    def __init__(self, round_number: int) -> None:
        self.round = round_number
        super().__init__(
            f"this site has answered another plan for round {round_number}; a round is trained "
            "once, so go on with the next round"
        )


class SumAlreadyOpened(PrivacyError):
    """A second, different sum of a round was to be opened."""

    code = "sum-already-opened"

    def __init__(self, round_number: int) -> None:
        self.round = round_number
        super().__init__(
            f"this site has opened another sum of round {round_number}; the difference of two "
            "sums could show one hospital's update, so it opens one only"
        )


@dataclass(frozen=True)
class HeldKey:
    """The group key as kept: its id, its bytes, and at the dealer its reply."""

    key_id: str
    secret: bytes
    dealt: bytes | None


class SiteStore:
    """The agent's database; every method is one transaction."""

    def __init__(self, path: Path) -> None:
        self._engine = open_database(path, METADATA, private=True)

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

    def keep_answer(
        self, study: str, round_number: int, plan: str, reply: bytes, integers: bytes | None
    ) -> None:
        """Keep a reply before it leaves; ``integers`` only where a demonstration asks for them."""
        with writing(self._engine) as connection:
            connection.execute(
                ANSWERS.insert().values(
                    study=study, round=round_number, plan=plan, reply=reply, integers=integers
                )
            )

    def integers(self, study: str, round_number: int) -> bytes | None:
        """Return the plain integers of a round where they were kept (demonstrations only)."""
        query = sa.select(ANSWERS.c.integers).where(
            ANSWERS.c.study == study, ANSWERS.c.round == round_number
        )
        with reading(self._engine) as connection:
            return connection.execute(query).scalar_one_or_none()

    def open_once(self, study: str, round_number: int, sum_sha256: str) -> None:
        """Note that this sum is being opened; the same sum may be opened again.

        Raises:
            SumAlreadyOpened: Another sum of this round was opened before.
        """
        query = sa.select(OPENED.c.sum_sha256).where(
            OPENED.c.study == study, OPENED.c.round == round_number
        )
        with writing(self._engine) as connection:
            opened = connection.execute(query).scalar_one_or_none()
            if opened is None:
                connection.execute(
                    OPENED.insert().values(study=study, round=round_number, sum_sha256=sum_sha256)
                )
        if opened not in {None, sum_sha256}:
            raise SumAlreadyOpened(round_number)

    def certificate(self, study: str, chunk: int, selection: str) -> CoverageCertificate | None:
        """Return the certificate proven for exactly this selection, or None."""
        query = sa.select(CERTIFICATES.c.certificate).where(
            CERTIFICATES.c.study == study,
            CERTIFICATES.c.chunk == chunk,
            CERTIFICATES.c.selection == selection,
        )
        with reading(self._engine) as connection:
            text = connection.execute(query).scalar_one_or_none()
        return None if text is None else CoverageCertificate.model_validate_json(text)

    def keep_certificate(
        self, study: str, selection: str, certificate: CoverageCertificate
    ) -> None:
        """Keep a chunk's certificate in place of its last one."""
        with writing(self._engine) as connection:
            connection.execute(
                sa.insert(CERTIFICATES)
                .prefix_with("OR REPLACE")
                .values(
                    study=study,
                    chunk=certificate.chunk,
                    selection=selection,
                    certificate=canonical(certificate).decode(),
                )
            )

    def group_key(self, study: str) -> HeldKey | None:
        """Return the study's group key, or None before it came."""
        query = sa.select(GROUP_KEY).where(GROUP_KEY.c.study == study)
        with reading(self._engine) as connection:
            row = connection.execute(query).first()
        return None if row is None else HeldKey(row.key_id, bytes(row.secret), row.dealt)

    def keep_group_key(self, study: str, key: HeldKey) -> None:
        """Keep the study's group key in place of an earlier one."""
        with writing(self._engine) as connection:
            connection.execute(
                sa.insert(GROUP_KEY)
                .prefix_with("OR REPLACE")
                .values(study=study, key_id=key.key_id, secret=key.secret, dealt=key.dealt)
            )
