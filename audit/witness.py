"""A witness: sees a log's heads grow, and signs that none took back what it saw before.

A hospital runs one. It keeps the last head that it cosigned of each log it watches, and cosigns a
newer one only with a proof that the newer begins with the older. Two histories of one log can then
not both be cosigned by it; whoever demands a cosignature of k witnesses is shown a second history
only if k of them lie, or two groups of k witnesses never meet.

It fails closed. A log must be told to it first (``watch``); a witness whose file is lost knows no
log and cosigns nothing until somebody says again where to begin. The head is stored before the
cosignature is returned. What contradicts a head it saw, and is signed by the log's key, is kept as
evidence: nobody but the owner of that key can have made it.

What holds, each line a test in tests/audit/test_witness.py:

1. It cosigns no head that does not begin with every head that it cosigned before.
2. Two processes on one file cosign one history.
3. A fork and a rollback are refused, and a fork that the log signed is kept.

References:
    C2SP, tlog-witness (the checks, in this order) and tlog-cosignature (what is signed).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoints import Head, read_head
from audit.notes import COSIGNED, Note, NoteKey, check_signed, cosign, note_key, read_note
from protocol.errors import LedgerError
from storage.database import open_database, reading, writing
from storage.merkle import EMPTY_ROOT, check_consistency

_METADATA: Final = sa.MetaData()
_SEEN: Final = sa.Table(
    "witness_seen",
    _METADATA,
    sa.Column("origin", sa.String, primary_key=True),
    sa.Column("key", sa.String, nullable=False),  # the log's verifier key
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("root", sa.LargeBinary, nullable=False),
    sa.Column("checkpoint", sa.String, nullable=False),  # as it was cosigned; empty at first
)
_EVIDENCE: Final = sa.Table(
    "witness_evidence",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("seen", sa.String, nullable=False),  # the checkpoint cosigned before
    sa.Column("shown", sa.String, nullable=False),  # the one that contradicts it
    sa.Column("at", sa.Integer, nullable=False),  # seconds since 1970
)
EVIDENCE_MAX: Final = 100


class LogUnknown(LedgerError):
    """The witness was not told of this log."""

    code = "log-unknown"

    def __init__(self, origin: str) -> None:
        self.origin = origin
        super().__init__(
            f"this witness does not watch {origin}; if its state was lost, compare the log with "
            "another witness before you begin again"
        )


class WitnessElsewhere(LedgerError):
    """The proof begins at another head than the last one the witness cosigned."""

    code = "witness-elsewhere"

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(
            f"the witness last cosigned a head of {size} records; prove consistency from there"
        )


class HistoryForked(LedgerError):
    """The log signed two heads of one size that differ."""

    code = "history-forked"

    def __init__(self, origin: str, size: int) -> None:
        self.origin = origin
        self.size = size
        super().__init__(
            f"{origin} signed two different heads of {size} records, so it shows two histories; "
            "nothing is cosigned and both are kept as evidence: tell the other hospitals"
        )


class HistoryRolledBack(LedgerError):
    """The log shows a shorter history than the witness has seen."""

    code = "history-rolled-back"

    def __init__(self, origin: str, size: int, shown: int) -> None:
        self.origin = origin
        super().__init__(
            f"{origin} shows {shown} records where {size} were cosigned before; nothing is "
            "cosigned: fetch its newest head, or ask where the records went"
        )


class Witness:
    """A witness over one file, safe for threads and processes.

    Args:
        path: Its state; made where there is none.
        name: As its cosignatures call it, e.g. ``st-anna.example/witness``.
        signing_key: Signs cosignatures and nothing else: what is signed does not hold the name.
        clock: Seconds since 1970.

    Raises:
        DatabaseDamaged, StorageError: The file cannot be used; nothing is cosigned.
    """

    def __init__(
        self, path: Path, name: str, signing_key: Ed25519PrivateKey, clock: Callable[[], float]
    ) -> None:
        self.key = note_key(name, COSIGNED, signing_key)
        self._signing_key = signing_key
        self._clock = clock
        self._engine = open_database(path, _METADATA, private=True)

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def watch(self, key: NoteKey) -> None:
        """Begin to watch a log, from its first record on; a log that is watched stays as it is.

        Args:
            key: The log's verifier key, from where the log's keeper cannot exchange it.
        """
        with writing(self._engine) as connection:
            same = connection.execute(sa.select(_SEEN).where(_SEEN.c.origin == key.name))
            if same.one_or_none() is None:
                row = {"size": 0, "root": EMPTY_ROOT, "checkpoint": ""}
                connection.execute(sa.insert(_SEEN), {"origin": key.name, "key": key.text()} | row)

    def seen(self, origin: str) -> Head:
        """Return the last head that was cosigned; of size 0 before the first.

        Raises:
            LogUnknown: The log is not watched.
        """
        with reading(self._engine) as connection:
            row = _row(connection, origin)
            return Head(origin, row.size, row.root)

    def evidence(self) -> list[tuple[str, str]]:
        """Return pairs of checkpoints that one log signed and that exclude each other."""
        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(_EVIDENCE).order_by(_EVIDENCE.c.number)).all()
        return [(row.seen, row.shown) for row in rows]

    def cosign(self, key: NoteKey, text: str, old_size: int, proof: Sequence[bytes]) -> Note:
        """Cosign a checkpoint that goes on from the last one, and return it with our line.

        Args:
            key: The log's verifier key, as it was given to ``watch``.
            text: The checkpoint; hostile, like the rest.
            old_size: Where the proof begins.
            proof: Consistency from there to the checkpoint.

        Raises:
            NoteMalformed: It is no checkpoint.
            LogUnknown: Of a log that is not watched, or not under this key.
            NoteUnsigned: The log did not sign it.
            WitnessElsewhere: The proof begins at another size than the last one cosigned.
            HistoryRolledBack: The checkpoint is shorter.
            HistoryForked: It is another one of the same size.
            HistoryDisagrees: The proof does not connect them.
        """
        note = read_note(text)
        head = read_head(note.body)
        if head.origin != key.name:
            raise LogUnknown(head.origin)
        check_signed(note, key)
        with writing(self._engine) as connection:
            row = _row(connection, head.origin)
            if row.key != key.text():
                raise LogUnknown(head.origin)
            forked = head.size == row.size and head.root != row.root
            if forked:
                self._keep(connection, row.checkpoint, note)
            else:
                _check_grown(row, head, old_size, proof)
                line = cosign(note.body, self.key.name, self._signing_key, at=int(self._clock()))
                seen = {"size": head.size, "root": head.root, "checkpoint": note.text()}
                here = _SEEN.c.origin == head.origin
                connection.execute(sa.update(_SEEN).where(here).values(seen))
        if forked:  # after the evidence is on the disk
            raise HistoryForked(head.origin, head.size)
        return note.with_lines(line)

    def _keep(self, connection: sa.Connection, seen: str, shown: Note) -> None:
        kept = connection.execute(sa.select(sa.func.count()).select_from(_EVIDENCE)).scalar_one()
        if kept < EVIDENCE_MAX:
            row = {"seen": seen, "shown": shown.text(), "at": int(self._clock())}
            connection.execute(sa.insert(_EVIDENCE), row)


def _check_grown(row: Any, head: Head, old_size: int, proof: Sequence[bytes]) -> None:
    if head.size < row.size:
        raise HistoryRolledBack(head.origin, row.size, head.size)
    if old_size != row.size:
        raise WitnessElsewhere(row.size)
    check_consistency(row.size, row.root, head.size, head.root, list(proof))


def _row(connection: sa.Connection, origin: str) -> Any:
    row = connection.execute(sa.select(_SEEN).where(_SEEN.c.origin == origin)).one_or_none()
    if row is None:
        raise LogUnknown(origin)
    return row
