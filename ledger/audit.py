"""The audit log: what was done, in order, under a signature that a later edit breaks.

Each event is one canonical JSON record and one leaf of an RFC 6962 tree; the log signs the tree's
head after every event. Whoever kept an earlier head can later check that the log still begins
with it (``storage.merkle.check_consistency``), so history can be hidden from nobody who looked.

    >>> from tempfile import TemporaryDirectory
    >>> folder = TemporaryDirectory()
    >>> log = AuditLog(Path(folder.name) / "audit.db", Ed25519PrivateKey.generate())
    >>> log.append("round-closed", {"study": "busi-2026", "round": 1, "sites": ["a", "b", "c"]})
    0
    >>> log.verify().size
    1
    >>> log.close(); folder.cleanup()

What holds, each line a test in tests/ledger/test_audit.py:

1. A record that was changed, dropped, inserted or moved is found by ``verify``.
2. Dropping the newest records is found by ``verify(since=...)`` with a head kept elsewhere: the
   file alone cannot show that it was once longer.
3. No record holds a float, and none names a patient: a fact about patients is a count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, Engine, func, insert, select

from ledger.store import AUDIT, open_tables, writing
from protocol.errors import LedgerError
from storage.canonical import JSON, canonical_json
from storage.database import reading
from storage.merkle import Frontier, consistency_proof, inclusion_proof, leaf_hash

RECORD_BYTES_MAX: Final = 64 * 1024
KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,59}")


class AuditDamaged(LedgerError):
    """The log is not what was signed."""

    code = "audit-damaged"

    def __init__(self, finding: str) -> None:
        self.finding = finding
        super().__init__(
            f"the audit log is damaged: {finding}; keep the file and compare it with a copy"
        )


class FactRefused(LedgerError):
    """A fact may not be logged, because it could name a patient or is too long."""

    code = "fact-refused"

    def __init__(self, fact: str, why: str) -> None:
        self.fact = fact
        super().__init__(f"{fact} is not logged: {why}")


class EventRepeated(LedgerError):
    """The key already names an event with other facts."""

    code = "event-repeated"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"event {key} was logged before with other facts; use a new key")


@dataclass(frozen=True)
class SignedHead:
    """How long the log was, its root, and the log keeper's Ed25519 signature over both."""

    size: int
    root: bytes
    signature: bytes

    def signed_bytes(self) -> bytes:
        """Return what is signed: a label, the size in 8 big-endian bytes, the 32-byte root."""
        return b"bithive audit head v1\n" + self.size.to_bytes(8, "big") + self.root

    def check(self, key: Ed25519PublicKey) -> None:
        """Check the signature.

        Raises:
            AuditDamaged: It was not made by the owner of ``key`` for this size and root.
        """
        try:
            key.verify(self.signature, self.signed_bytes())
        except InvalidSignature as error:
            raise AuditDamaged(f"head {self.size} is not signed by the log's key") from error


@dataclass(frozen=True)
class Event:
    """One record as it was logged; ``record`` is the canonical JSON that the tree hashes."""

    position: int
    kind: str
    facts: Mapping[str, JSON]
    record: str


class AuditLog:
    """The log in one SQLite database, which may be the ledger's.

    Args:
        database: The file, created if need be; or an engine of ``ledger.store.open_tables``.
        signing_key: Signs every head. Keep it outside the database.

    Raises:
        DatabaseDamaged, DiskFull, StorageFailed: As ``storage.database``; so may every method.
    """

    def __init__(self, database: Path | Engine, signing_key: Ed25519PrivateKey) -> None:
        self.engine = open_tables(database) if isinstance(database, Path) else database
        self._signing_key = signing_key
        self.public_key = signing_key.public_key()

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
        assert KIND.fullmatch(kind)
        _check_no_patient(facts)
        record = canonical_json({"facts": facts, "kind": kind})
        if len(record) > RECORD_BYTES_MAX:
            raise FactRefused(kind, f"the record exceeds {RECORD_BYTES_MAX} bytes")
        with writing(self.engine, AUDIT) as connection:
            earlier = _keyed(connection, key)
            if earlier is None:
                return self._append(connection, record.decode(), key)
        if earlier.record != record.decode():
            raise EventRepeated(str(key))
        return int(earlier.position)

    def head(self) -> SignedHead:
        """Return the newest signed head."""
        with reading(self.engine) as connection:
            row = _newest(connection)
        if row is None:
            return self._sign(Frontier())
        return SignedHead(row.position + 1, row.root, row.signature)

    def events(self, first: int = 0) -> list[Event]:
        """Return the events from position ``first`` on."""
        with reading(self.engine) as connection:
            rows = connection.execute(_in_order().where(AUDIT.c.position >= first)).all()
        loaded = [(row, json.loads(row.record)) for row in rows]
        return [
            Event(row.position, body["kind"], body["facts"], row.record) for row, body in loaded
        ]

    def inclusion_proof(self, position: int) -> list[bytes]:
        """Return the proof that the event at ``position`` is under the newest head."""
        return inclusion_proof(self._leaves(), position)

    def consistency_proof(self, old_size: int) -> list[bytes]:
        """Return the proof that the newest head continues the head of ``old_size`` events."""
        return consistency_proof(self._leaves(), old_size)

    def verify(self, *, since: SignedHead | None = None) -> SignedHead:
        """Recompute the whole log, check every signature, and return the newest head.

        Args:
            since: A head kept outside this file; the log must still begin with it.

        Raises:
            AuditDamaged: Something was changed, dropped, inserted or moved; says where.
        """
        with reading(self.engine) as connection:
            rows = connection.execute(_in_order()).all()
        frontier, roots = Frontier(), [Frontier().root()]
        for position, row in enumerate(rows):
            frontier = frontier.append(leaf_hash(row.record.encode()))
            head = SignedHead(frontier.size, frontier.root(), row.signature)
            stored = (row.position, row.frontier, row.root)
            if stored != (position, frontier.to_bytes(), head.root):
                raise AuditDamaged(f"event {position} was changed, or one before it is missing")
            head.check(self.public_key)
            roots.append(head.root)
        if since is not None:
            since.check(self.public_key)
            if since.size >= len(roots) or roots[since.size] != since.root:
                raise AuditDamaged(f"it does not begin with the {since.size} events signed before")
        return self.head() if not rows else head

    def _append(self, connection: Connection, record: str, key: str | None) -> int:
        row = _newest(connection)
        before = Frontier() if row is None else Frontier.from_bytes(row.position + 1, row.frontier)
        frontier = before.append(leaf_hash(record.encode()))
        head = self._sign(frontier)
        connection.execute(
            insert(AUDIT),
            {
                "position": before.size,
                "key": key,
                "record": record,
                "frontier": frontier.to_bytes(),
                "root": head.root,
                "signature": head.signature,
            },
        )
        return before.size

    def _sign(self, frontier: Frontier) -> SignedHead:
        unsigned = SignedHead(frontier.size, frontier.root(), b"")
        signature = self._signing_key.sign(unsigned.signed_bytes())
        return SignedHead(unsigned.size, unsigned.root, signature)

    def _leaves(self) -> list[bytes]:
        with reading(self.engine) as connection:
            rows = connection.execute(_in_order()).all()
        return [leaf_hash(row.record.encode()) for row in rows]


def _in_order() -> Any:
    return select(AUDIT).order_by(AUDIT.c.position)


def _newest(connection: Connection) -> Any:
    newest = select(func.max(AUDIT.c.position)).scalar_subquery()
    return connection.execute(select(AUDIT).where(AUDIT.c.position == newest)).one_or_none()


def _keyed(connection: Connection, key: str | None) -> Any:
    if key is None:
        return None
    return connection.execute(select(AUDIT).where(AUDIT.c.key == key)).one_or_none()


def _check_no_patient(facts: JSON, name: str = "") -> None:
    # A count such as proven_patients is a fact about a site. Anything else that is called after
    # patients could name one: text, a list, or a number of one patient.
    if "patient" in name and (type(facts) is not int or "patients" not in name):
        raise FactRefused(name, "what mentions patients must be a count of them")
    if isinstance(facts, Mapping):
        for inner_name, inner in facts.items():
            _check_no_patient(inner, str(inner_name).lower())
    elif isinstance(facts, list | tuple):
        for inner in facts:
            _check_no_patient(inner)
