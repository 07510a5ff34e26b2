"""What officers decided at this hospital: records in the site's own audit log, and nowhere else.

The log (``audit.log``, in ``audit.db`` of the site's folder) is what counts, so nothing has to be
kept the same as it. Each record is a leaf of its Merkle tree under a head that the site's log key
signs. A record that was changed, dropped or moved is found by every reading here, and offline by
``bithive audit verify --folder SITE``. The head that was last read is kept in ``site.db``, so that
an older copy of the log by itself brings no decision back that was taken back since; offline, a log
that was cut short is found with a head kept elsewhere (``bithive audit head``).

What holds, each line a test in tests/fl_client/test_decisions.py:

1. The newest decision on a subject is the one that counts; the earlier ones stay.
2. Any change of any record of the log is found, by whatever else it was made.
3. A decision that was returned is on the disk, under a signature.
4. Whoever may not decide is refused, and that is recorded before it is said.
5. A log that does not go on from the one that was last read here is not believed.
6. No name and no reason acts on the terminal or page that shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import sqlalchemy as sa

from audit.checkpoints import AuditDamaged, SignedHead
from audit.log import AuditLog
from audit.records import Event
from fl_client.tables import LOG_HEAD, METADATA
from identity.roles import About, Actor, Permission, check
from privacy.signatures import signing_key
from protocol.errors import ConfigurationError, StorageError
from protocol.ids import SiteId
from protocol.jobs import REASON_MAX, instant
from protocol.plain import plain
from storage.database import open_database, reading, writing
from storage.files import private_folder
from storage.merkle import leaf_hash, root

Kind = Literal[
    "approved",
    "refused",
    "code-allowed",
    "code-forbidden",
    "paused",
    "resumed",
    "draining",
    "leaving",
    "permission-denied",
]
LOGGED: Final[Mapping[Kind, str]] = {
    "approved": "job-approved",
    "refused": "job-refused",
    "code-allowed": "code-allowed",
    "code-forbidden": "code-forbidden",
    "paused": "site-paused",
    "resumed": "site-resumed",
    "draining": "site-draining",
    "leaving": "site-leaving",
    "permission-denied": "permission-denied",
}
"""What each is called in the log, where other things are logged too."""
KINDS: Final[Mapping[str, Kind]] = {logged: kind for kind, logged in LOGGED.items()}
CODE: Final = "code"
"""The subject of decisions on the right to run jobs that carry Python."""
DUTY: Final = "duty"
"""The subject of orders to stop and to go on."""
WHO_MAX: Final = 80


class DecisionIncomplete(ConfigurationError):
    """A decision was to be recorded without who made it, or why."""

    code = "decision-incomplete"

    def __init__(self, lacking: str) -> None:
        self.lacking = lacking
        super().__init__(
            f"a decision is recorded with {lacking}, and neither may be empty or longer than a "
            "few lines; say who decides, and why"
        )


class DecisionsDamaged(StorageError):
    """The record of decisions was changed after it was written."""

    code = "decisions-damaged"

    def __init__(self, finding: str) -> None:
        self.finding = finding
        super().__init__(
            f"what was decided at this hospital is not what was recorded: {finding}; no job is run "
            "until its audit log is restored from the last backup"
        )


@dataclass(frozen=True)
class Decision:
    """One record: who decided what, when and why; ``number`` is its position in the log."""

    number: int
    kind: Kind
    subject: str
    who: str
    reason: str
    at: str


class Decisions:
    """The decisions in a site's folder; safe for threads and processes.

    Args:
        folder: The site's own, with ``audit.db`` and ``audit.key``; both are made if need be.

    Raises:
        StorageError: The disk refused; so may every method.
    """

    def __init__(self, folder: Path) -> None:
        private_folder(folder)
        self._engine = open_database(folder / "site.db", METADATA, private=True)
        self.log = AuditLog(folder / "audit.db", signing_key(folder / "audit.key"))

    def add(self, kind: Kind, subject: str, *, who: str, reason: str, now: datetime) -> Decision:
        """Record a decision.

        Raises:
            DecisionIncomplete: Nobody is named, or no reason where one is due.
            AuditDamaged: The log was changed, and grows no more.
        """
        who, reason = _shown(who), _shown(reason)
        if not who or len(who) > WHO_MAX:
            raise DecisionIncomplete("who decided")
        if len(reason) > REASON_MAX or (kind == "refused" and not reason):
            raise DecisionIncomplete("a reason")
        facts = {"subject": subject, "actor": who, "reason": reason, "at": instant(now)}
        number = self.log.append(LOGGED[kind], facts)
        return Decision(number, kind, subject, who, reason, facts["at"])

    def check(self, actor: Actor, permission: Permission, site: SiteId, now: datetime) -> None:
        """Return if ``actor`` has the right at this site.

        Raises:
            PermissionMissing: She has not; it is recorded.
        """

        def denied(kind: str, _facts: Mapping[str, Any]) -> None:
            assert kind == "permission-denied"
            # Whatever she calls herself, it is recorded.
            who = _shown(actor.shown)[:WHO_MAX] or "without a name"
            self.add("permission-denied", str(permission), who=who, reason="", now=now)

        check(actor, permission, about=About(site=site), audit=denied)

    def latest(self) -> int:
        """Return how long the log is; every decision raises it."""
        return self.log.head().size

    def all(self) -> list[Decision]:
        """Return every decision, in order, after checking the log against its newest head.

        Raises:
            DecisionsDamaged: It was changed.
        """
        try:
            seen = self._seen()  # before the log, which only grows meanwhile
            head = self.log.head()
            events = self.log.events(0, head.size)
            leaves = self._check_under(head, events)
            self._check_goes_on(seen, head, leaves)
            return [_decision(one) for one in events if _is_decision(one)]
        except (AuditDamaged, ValueError, TypeError, LookupError) as error:
            # A record that cannot even be read was not written here.
            raise DecisionsDamaged(getattr(error, "finding", "it cannot be read")) from error

    def _check_under(self, head: SignedHead, events: list[Event]) -> list[bytes]:
        """Return the leaves of the records, which are those of the head."""
        head.check(self.log.public_key)
        leaves = [leaf_hash(one.record.encode()) for one in events]
        if [one.position for one in events] != list(range(head.size)):
            raise AuditDamaged(f"it has lost or gained records before event {head.size}")
        if leaves and root(leaves) != head.root:
            raise AuditDamaged("its records are not those that were signed")
        return leaves

    def _check_goes_on(
        self, seen: tuple[int, bytes], head: SignedHead, leaves: list[bytes]
    ) -> None:
        """Return if the log begins with what was seen of it; note how far it is seen now."""
        size, before = seen
        if size > head.size or (size and root(leaves[:size]) != before):
            raise AuditDamaged(f"it does not go on from the {size} records that were read before")
        if head.size == size:
            return
        with writing(self._engine) as connection:
            last = connection.execute(sa.select(LOG_HEAD.c.size)).scalar_one_or_none() or 0
            if last < head.size:
                connection.execute(LOG_HEAD.delete())
                row = {"one": 1, "size": head.size, "root": head.root}
                connection.execute(LOG_HEAD.insert().values(**row))

    def _seen(self) -> tuple[int, bytes]:
        with reading(self._engine) as connection:
            row = connection.execute(sa.select(LOG_HEAD)).first()
        return (0, b"") if row is None else (row.size, row.root)


def _shown(words: str) -> str:
    return plain(" ".join(words.split()))


def _is_decision(event: Event) -> bool:
    # Refusals that other doors of this site recorded have facts of their own.
    return event.kind in KINDS and {"subject", "at"} <= event.facts.keys()


def _decision(event: Event) -> Decision:
    facts = event.facts
    return Decision(
        number=event.position,
        kind=KINDS[event.kind],
        subject=str(facts["subject"]),
        who=plain(str(facts["actor"])),
        reason=plain(str(facts["reason"])),
        at=str(facts["at"]),
    )
