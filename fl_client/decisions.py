"""What officers decided at this hospital, in order, so that nothing of it can be changed unseen.

Rows are only ever added. Each carries a link, the SHA-256 of itself and the link before it, so that
a row that was changed, dropped from the middle or moved breaks the chain; whoever wrote down a
number and its link finds a shortened or rewritten one too.

What holds, each line a test in tests/fl_client/test_decisions.py:

1. The newest decision on a subject is the one that counts; the earlier ones stay.
2. Any change of any field of any row is found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final, Literal

import sqlalchemy as sa

from fl_client.tables import DECISIONS
from protocol.errors import ConfigurationError, StorageError
from protocol.jobs import REASON_MAX, instant
from storage.database import reading, writing

Kind = Literal["approved", "refused", "code-allowed", "code-forbidden", "permission-denied"]
CODE: Final = "code"
"""The subject of decisions on the right to run jobs that carry Python."""
FIRST_LINK: Final = "0" * 64
WHO_MAX: Final = 80


class DecisionIncomplete(ConfigurationError):
    """A decision was to be recorded without who made it, or why."""

    code = "decision-incomplete"

    def __init__(self, lacking: str) -> None:
        self.lacking = lacking
        super().__init__(
            f"a decision is recorded with {lacking}, and neither may be empty or longer than a "
            "few lines; give --officer and --reason"
        )


class DecisionsDamaged(StorageError):
    """The record of decisions was changed after it was written."""

    code = "decisions-damaged"

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(
            f"decision {number} at this hospital is not what was recorded; no job is run until "
            "the record is restored from its last backup"
        )


@dataclass(frozen=True)
class Decision:
    """One row: who decided what, when and why."""

    number: int
    kind: str
    subject: str
    who: str
    reason: str
    at: str
    link: str = ""

    def linked(self, before: str) -> str:
        """Return the link of this row after the link ``before``."""
        fields = asdict(self) | {"link": before}
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(b"bithive decision\n" + text.encode()).hexdigest()


class Decisions:
    """The record in the site's database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, kind: Kind, subject: str, *, who: str, reason: str, now: datetime) -> Decision:
        """Add a row.

        Raises:
            DecisionIncomplete: Nobody is named, or no reason where one is due.
        """
        who, reason = " ".join(who.split()), " ".join(reason.split())
        if not who or len(who) > WHO_MAX:
            raise DecisionIncomplete("who decided")
        if len(reason) > REASON_MAX or (kind == "refused" and not reason):
            raise DecisionIncomplete("a reason")
        with writing(self._engine) as connection:
            last = connection.execute(
                sa.select(DECISIONS).order_by(DECISIONS.c.number.desc()).limit(1)
            ).first()
            number, before = (1, FIRST_LINK) if last is None else (last.number + 1, last.link)
            row = Decision(number, kind, subject, who, reason, instant(now))
            row = Decision(**asdict(row) | {"link": row.linked(before)})
            connection.execute(DECISIONS.insert().values(**asdict(row)))
        return row

    def latest(self) -> int:
        """Return the number of the newest row, 0 before the first; every decision raises it."""
        with reading(self._engine) as connection:
            return connection.execute(sa.select(sa.func.max(DECISIONS.c.number))).scalar_one() or 0

    def all(self) -> list[Decision]:
        """Return every row, in order, after checking the chain.

        Raises:
            DecisionsDamaged: It was changed.
        """
        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(DECISIONS).order_by(DECISIONS.c.number)).all()
        found = [Decision(**row._mapping) for row in rows]  # noqa: SLF001  # SQLAlchemy's public name for it
        check_chain(found)
        return found


def check_chain(rows: Iterable[Decision]) -> None:
    """Return if each row has the number and the link that follow from those before it.

    Raises:
        DecisionsDamaged: One has not.
    """
    before = FIRST_LINK
    for number, row in enumerate(rows, start=1):
        if row.number != number or row.link != row.linked(before):
            raise DecisionsDamaged(number)
        before = row.link
