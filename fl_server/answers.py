"""What sites answered in the steps after the uploads: stored as it came, and not asked for again.

Endorsements, unmaskings, shares of the decryption and openings are kept with the question they
answer, so that a server that was killed goes on with them though their sites are gone since. Small
answers that come together are stored together, within ``database.GATHER_SECONDS`` of the first and
before the next step begins: an answer counts once it is stored, and what was not is asked for again
and answered alike.

What holds, each a test in tests/fl_server/test_answers.py:

1. A stored answer is found again byte for byte, under its own question only.
2. A step that has ended stays as it ended: later answers to it are strays.
3. A stray is kept by its code, hash and size, never its content.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import sqlalchemy as sa

from fl_server.database import ServerDatabase, insert_once
from fl_server.parts import cut
from fl_server.phases import Wait
from fl_server.tables import ANSWERS, PHASES, STRAYS
from protocol.frames import Frame, decode, pieces_of
from protocol.ids import SiteId

GATHER_BYTES: Final = 2**16
"""Answers that are larger are stored at once."""
_SITES: Final = sa.select(ANSWERS.c.site).where(
    ANSWERS.c.round == sa.bindparam("number"),
    ANSWERS.c.kind == sa.bindparam("kind_"),
    ANSWERS.c.question == sa.bindparam("question_"),
)
_ENDED: Final = sa.select(PHASES.c.ended).where(
    PHASES.c.round == sa.bindparam("number"), PHASES.c.phase == sa.bindparam("phase_")
)


class Answers(Protocol):
    """What a secure sum needs of a memory of answers."""

    def kept(self, number: int, kind: str, question: str) -> Iterator[tuple[SiteId, Frame]]:
        """Yield the stored answers to a question, by site."""
        ...

    def keep(self, number: int, kind: str, question: str, site: SiteId, reply: Frame) -> None:
        """Store an accepted answer."""
        ...

    def ended(self, number: int, kind: str, question: str) -> bool:
        """Say whether this step has ended before."""
        ...

    def end(self, number: int, kind: str, question: str, wait: Wait, asked: int) -> None:
        """Store that it has, with everything accepted."""
        ...

    def gather(self) -> None:
        """Store what waits to be, if it waits long enough."""
        ...

    def store(self) -> None:
        """Store what waits to be, at once."""
        ...

    def forget(self, number: int, kind: str) -> None:
        """Remove the answers to a step, so that all are asked again."""
        ...


@dataclass(frozen=True)
class Stray:
    """A reply that came and does not count: ``late-answer`` or ``upload-conflict``."""

    round: int
    kind: str
    site: SiteId
    code: str
    sha256: str
    bytes: int
    at: str


class Forgetful:
    """Remembers no answer: for sums that are not resumed."""

    def kept(self, _number: int, _kind: str, _question: str) -> Iterator[tuple[SiteId, Frame]]:
        """Yield nothing."""
        return iter(())

    def keep(self, *_answer: object) -> None:
        """Do nothing."""

    def ended(self, *_step: object) -> bool:
        """Say no."""
        return False

    def end(self, *_step: object) -> None:
        """Do nothing."""

    def gather(self) -> None:
        """Do nothing."""

    def store(self) -> None:
        """Do nothing."""

    def forget(self, *_step: object) -> None:
        """Do nothing."""


@dataclass
class StoredAnswers:
    """Answers in the server's database."""

    database: ServerDatabase
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def kept(self, number: int, kind: str, question: str) -> Iterator[tuple[SiteId, Frame]]:
        """Yield the stored answers to a question, by site; one is in memory at a time."""
        named = {"number": number, "kind_": kind, "question_": question}
        with self.database.reading() as connection:
            sites = sorted(SiteId(site) for site in connection.execute(_SITES, named).scalars())
        for site in sites:
            with self.database.reading() as connection:
                blob = self.database.parts.whole(connection, number, _part(kind, question), site)
            yield site, decode(blob)

    def keep(self, number: int, kind: str, question: str, site: SiteId, reply: Frame) -> None:
        """Store an accepted answer, together with those of the same moment."""
        size = sum(map(len, pieces_of(reply)))

        def insert(connection: sa.Connection) -> None:
            named = {"round": number, "kind": kind, "question": question, "site": site}
            if insert_once(connection, ANSWERS, bytes=size, **named):
                name = _part(kind, question)
                pieces = itertools.chain.from_iterable(map(cut, pieces_of(reply)))
                self.database.parts.keep(connection, number, name, site, pieces)

        self.database.tell(insert)
        if size > GATHER_BYTES:
            self.database.flush()
        self.gather()

    def gather(self) -> None:
        """Store what has waited long enough."""
        self.database.gather()

    def store(self) -> None:
        """Store what waits, however short: it is to be found when the step is tried again."""
        self.database.flush()

    def ended(self, number: int, kind: str, question: str) -> bool:
        """Say whether this step has ended before."""
        named = {"number": number, "phase_": _part(kind, question)}
        with self.database.reading() as connection:
            return connection.execute(_ENDED, named).first() is not None

    def end(self, number: int, kind: str, question: str, wait: Wait, asked: int) -> None:
        """Store how a step ended, with everything accepted in it."""

        def insert(connection: sa.Connection) -> None:
            insert_once(
                connection,
                PHASES,
                round=number,
                phase=_part(kind, question),
                ended=wait.ended(asked),
                answered=wait.answered,
                seconds=wait.elapsed,
            )

        self.database.tell(insert)
        self.database.flush()

    def forget(self, number: int, kind: str) -> None:
        """Remove the answers to a step, so that all are asked again."""
        self.database.flush()
        with self.database.writing() as connection:
            mine = (ANSWERS.c.round == number) & (ANSWERS.c.kind == kind)
            named = connection.execute(sa.select(ANSWERS.c.question).where(mine).distinct())
            for question in named.scalars().all():
                name = _part(kind, question)
                self.database.parts.drop_kind(connection, number, number, name)
                gone = (PHASES.c.round == number) & (PHASES.c.phase == name)
                connection.execute(PHASES.delete().where(gone))
            connection.execute(ANSWERS.delete().where(mine))

    def stray(self, number: int, kind: str, site: SiteId, code: str, content: bytes) -> None:
        """Keep that a reply came which does not count, once for each content."""
        named = hashlib.sha256(content).hexdigest()
        at = self.now().isoformat(timespec="milliseconds")
        same = (STRAYS.c.round == number) & (STRAYS.c.kind == kind) & (STRAYS.c.site == site)
        with self.database.writing() as connection:
            query = sa.select(STRAYS.c.position).where(same & (STRAYS.c.sha256 == named))
            if connection.execute(query).first() is not None:
                return
            last = connection.execute(sa.select(sa.func.max(STRAYS.c.position))).scalar_one() or 0
            connection.execute(
                STRAYS.insert().values(
                    position=last + 1,
                    round=number,
                    kind=kind,
                    site=site,
                    code=code,
                    sha256=named,
                    bytes=len(content),
                    at=at,
                )
            )

    def strays(self) -> list[Stray]:
        """Return the replies that came and do not count, in the order they came."""
        with self.database.reading() as connection:
            rows = connection.execute(sa.select(STRAYS).order_by(STRAYS.c.position)).all()
        return [
            Stray(row.round, row.kind, SiteId(row.site), row.code, row.sha256, row.bytes, row.at)
            for row in rows
        ]


def _part(kind: str, question: str) -> str:
    return f"{kind} {question}"
