"""The audit log: what was done, in order, under signatures that a later edit breaks.

Each event is one canonical JSON record and one leaf of an RFC 6962 tree. Events are appended in
batches: one transaction, which is on the disk when the call returns, and one signature, of the head
that the log then has. Whoever kept an earlier head can later check that the log still begins with
it, so history can be hidden from nobody who looked; witnesses (``audit.witness``) look for all.

    >>> from tempfile import TemporaryDirectory
    >>> folder = TemporaryDirectory()
    >>> log = AuditLog(Path(folder.name) / "audit.db", Ed25519PrivateKey.generate())
    >>> log.append("round-closed", {"study": "busi-2026", "round": 1, "sites": ["a", "b", "c"]})
    0
    >>> log.append_batch([("paid", {"site": "a"}), ("paid", {"site": "b"})]).first
    1
    >>> log.verify().size
    3
    >>> log.close(); folder.cleanup()

What holds, each line a test in tests/audit/test_log.py:

1. A record that was changed, dropped, inserted or moved is found by ``verify``.
2. Dropping the newest records is found by ``verify(since=...)`` with a head kept elsewhere: the
   file alone cannot show that it was once longer.
3. A batch is there whole or not at all, and what was acknowledged survives ``kill -9``.
4. The log signs no head that does not go on from the last one it signed.
5. No record holds a float, and none names a patient: a fact about patients is a count.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Engine, func, insert, select

from audit import verification
from audit.checkpoints import AuditDamaged, SignedHead, origin_of, sign_head
from audit.notes import SIGNED, NoteKey, note_key
from audit.records import Event, event_of, record_of
from audit.store import BATCHES, open_tables, writing
from audit.tiles import Tiles, grow_tiles
from protocol.errors import LedgerError
from storage.canonical import JSON
from storage.database import reading
from storage.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
)

_NEWEST: Final = select(
    BATCHES.c.size, BATCHES.c.frontier, BATCHES.c.root, BATCHES.c.signature
).where(BATCHES.c.first == select(func.max(BATCHES.c.first)).scalar_subquery())


class EventRepeated(LedgerError):
    """The key already names an event with other facts."""

    code = "event-repeated"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"event {key} was logged before with other facts; use a new key")


class HeadUnknown(LedgerError):
    """The log never signed a head of this size, or has no entry there."""

    code = "head-unknown"

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"the log has signed no head of {size} records; ask for its newest")


class EntryUnknown(LedgerError):
    """There is no entry at this position under the head that was named."""

    code = "entry-unknown"

    def __init__(self, position: int, size: int) -> None:
        self.position = position
        super().__init__(
            f"the log has no record {position} under a head of {size}; positions count from 0"
        )


@dataclass(frozen=True)
class Appended:
    """Where a batch stands: its records are ``first`` until before ``head.size``."""

    first: int
    count: int
    head: SignedHead


class AuditLog:
    """The log in one database, which may be the ledger's; safe for threads and processes.

    Args:
        database: The file, created if need be; or an engine of ``storage``.
        signing_key: Signs every head. Keep it outside the database.
        origin: The log's name in its heads; by default made from the key.

    Raises:
        DatabaseDamaged, DiskFull, StorageFailed: As ``storage.database``; so may every method.
    """

    def __init__(
        self,
        database: Path | Engine,
        signing_key: Ed25519PrivateKey,
        *,
        origin: str | None = None,
    ) -> None:
        self.engine = open_tables(database)
        self._signing_key = signing_key
        self.public_key = signing_key.public_key()
        self.origin = origin or origin_of(self.public_key)
        # Between processes the database's lock decides; threads would wait for that one in sleeps.
        self._turn = threading.Lock()

    @property
    def key(self) -> NoteKey:
        """Return what verifies the log's heads."""
        return note_key(self.origin, SIGNED, self.public_key)

    def close(self) -> None:
        """Close the connections to the file."""
        self.engine.dispose()

    def append(self, kind: str, facts: Mapping[str, JSON], *, key: str | None = None) -> int:
        """Log an event and return its position, counted from 0.

        Args:
            kind: What happened, e.g. ``round-closed``.
            facts: JSON without floats. Names that mention patients must be counts.
            key: Makes it idempotent: the same event under the same key is logged once.

        Raises:
            NotCanonical: A fact is a float or is not JSON.
            FactRefused: A fact could name a patient, or the record exceeds 64 KiB.
            EventRepeated: ``key`` was used for another event.
        """
        return self.append_batch([(kind, facts)], key=key).first

    def append_batch(
        self, events: Sequence[tuple[str, Mapping[str, JSON]]], *, key: str | None = None
    ) -> Appended:
        """Log events together, in one transaction and under one signature.

        Args:
            events: Kind and facts of each, as ``append`` takes them; at least one.
            key: Makes it idempotent: the same batch under the same key is logged once.

        Returns:
            Where they stand, when all of them are on the disk.

        Raises:
            NotCanonical, FactRefused: As ``append``; then none is logged.
            EventRepeated: ``key`` was used for other events.
        """
        return self.append_records([record_of(kind, facts) for kind, facts in events], key=key)

    def append_records(self, records: Sequence[bytes], *, key: str | None = None) -> Appended:
        """Log what ``audit.records`` made or read, as ``append_batch``."""
        assert records
        leaves = [leaf_hash(record) for record in records]
        stored = b"\n".join(records) + b"\n"
        with self._turn, writing(self.engine) as connection:
            earlier = _keyed(connection, key)
            if earlier is None:
                return self._append(connection, leaves, stored, key)
        if earlier.records != stored:
            raise EventRepeated(str(key))
        return Appended(earlier.first, len(records), self._head(earlier))

    def head(self) -> SignedHead:
        """Return the newest signed head."""
        with reading(self.engine) as connection:
            return self._newest(connection)

    def head_at(self, size: int) -> SignedHead:
        """Return the head that was signed when the log had ``size`` records.

        Raises:
            HeadUnknown: A batch went over this size.
        """
        with reading(self.engine) as connection:
            return self._head_at(connection, size)

    def events(self, first: int = 0, count: int | None = None) -> list[Event]:
        """Return the events from position ``first`` on, all or ``count`` of them."""
        end = None if count is None else first + count
        found = []
        with reading(self.engine) as connection:
            wanted = select(BATCHES.c.first, BATCHES.c.records).where(BATCHES.c.size > first)
            if end is not None:
                wanted = wanted.where(BATCHES.c.first < end)
            for row in connection.execute(wanted.order_by(BATCHES.c.first)):
                for position, record in enumerate(verification.records_in(row), start=row.first):
                    if first <= position and (end is None or position < end):
                        found.append(event_of(position, record))
        return found

    def inclusion_proof(self, position: int, size: int | None = None) -> list[bytes]:
        """Return the proof that the record at ``position`` is under a head.

        Args:
            position: From 0.
            size: Of the head; the newest by default.

        Raises:
            EntryUnknown: There is no such record under it.
            HeadUnknown: The log is shorter.
        """
        with self._under(size) as (connection, end):
            if not 0 <= position < end:
                raise EntryUnknown(position, end)
            return Tiles(connection, end).roots(inclusion_ranges(position, end))

    def consistency_proof(self, old_size: int, size: int | None = None) -> list[bytes]:
        """Return the proof that a head continues the head of ``old_size`` records.

        Args:
            old_size: Of the older head.
            size: Of the newer head; the newest by default.

        Raises:
            HeadUnknown: The log is shorter than one of them, or the older is the longer.
        """
        with self._under(size) as (connection, end):
            if not 0 <= old_size <= end:
                raise HeadUnknown(old_size)
            return Tiles(connection, end).roots(consistency_ranges(old_size, end))

    def verify(self, *, since: SignedHead | None = None) -> SignedHead:
        """Recompute the whole log, check every signature, and return the newest head.

        Args:
            since: A head kept outside this file; the log must still begin with it.

        Raises:
            AuditDamaged: Something was changed, dropped, inserted or moved; says where.
        """
        found = verification.verify_log(self.engine, self.key, since=since)
        if found.head is None:
            return self._sign(0, EMPTY_ROOT)
        return found.head

    def _append(
        self, connection: Connection, leaves: list[bytes], stored: bytes, key: str | None
    ) -> Appended:
        row = connection.execute(_NEWEST).one_or_none()
        before = Frontier()
        if row is not None:
            before = Frontier.from_bytes(row.size, row.frontier)
            # Whoever can write the file must not lead the key to sign another history.
            last = self._head(row)
            last.check(self.public_key)
            if before.root() != last.root:
                raise AuditDamaged(f"what was kept of head {last.size} has another root")
        after = grow_tiles(connection, before, leaves)
        head = self._sign(after.size, after.root())
        values = {
            "first": before.size,
            "size": after.size,
            "key": key,
            "records": stored,
            "frontier": after.to_bytes(),
            "root": head.root,
            "signature": head.signature,
        }
        connection.execute(insert(BATCHES), values)
        return Appended(before.size, len(leaves), head)

    def _sign(self, size: int, root: bytes) -> SignedHead:
        return sign_head(self.origin, size, root, self._signing_key)

    def _head(self, row: Any) -> SignedHead:
        return SignedHead(self.origin, row.size, row.root, row.signature)

    def _newest(self, connection: Connection) -> SignedHead:
        row = connection.execute(_NEWEST).one_or_none()
        return self._sign(0, EMPTY_ROOT) if row is None else self._head(row)

    def _head_at(self, connection: Connection, size: int) -> SignedHead:
        if size == 0:
            return self._sign(0, EMPTY_ROOT)
        row = connection.execute(select(BATCHES).where(BATCHES.c.size == size)).one_or_none()
        if row is None:
            raise HeadUnknown(size)
        return self._head(row)

    @contextmanager
    def _under(self, size: int | None) -> Iterator[tuple[Connection, int]]:
        """Give one state of the log, and the size of the head that is meant."""
        with reading(self.engine) as connection:
            whole = connection.execute(select(func.max(BATCHES.c.size))).scalar() or 0
            end = whole if size is None else size
            if not 0 <= end <= whole:
                raise HeadUnknown(end)
            yield connection, end


def _keyed(connection: Connection, key: str | None) -> Any:
    if key is None:
        return None
    return connection.execute(select(BATCHES).where(BATCHES.c.key == key)).one_or_none()
