"""Verify a log offline: every record, every head, every tile, and what witnesses said.

Nothing but the file and the log's verifier key is needed; with the keys of witnesses, how far they
have seen the log is found too. Everything is recomputed from the records: the tree, each head that
was signed over a batch, the tiles that proofs are made from.

What holds, each line a test in tests/audit/test_verification.py:

1. Any byte of a record that is changed, and any record that is dropped, doubled or exchanged with
   another, is found.
2. Whatever is changed in a head, a tile or a cosignature is found.
3. With fewer witnesses than were demanded nothing is called sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, Engine, func, select

from audit.checkpoints import AuditDamaged, Head, SignedHead
from audit.notes import Note, NoteKey, NoteMalformed, NoteUnsigned, check_signed, read_lines
from audit.store import BATCHES, COSIGNATURES, TILES
from audit.tiles import TILE_HEIGHT, TILE_WIDTH
from protocol.errors import LedgerError
from storage.database import reading
from storage.merkle import EMPTY_ROOT, Frontier, leaf_hash

ROWS: Final = 64
"""Batches read at a time."""
ROW_TYPES: Final = (int, int, bytes, bytes)
"""SQLite stores what it is given, whatever a column is for."""


class WitnessesTooFew(LedgerError):
    """Fewer witnesses than were demanded have cosigned any head of the log."""

    code = "witnesses-too-few"

    def __init__(self, most: int, demanded: int) -> None:
        self.most = most
        self.demanded = demanded
        super().__init__(
            f"no head of the log is cosigned by {demanded} of the witnesses given, at most by "
            f"{most}; ask the hospitals for what they saw, and do not rely on this copy"
        )


@dataclass(frozen=True)
class Verified:
    """What was found sound."""

    head: SignedHead | None
    """The newest; None of a log without records."""
    batches: int
    cosigned: int
    """Size of the longest head that enough witnesses have cosigned; 0 where none was demanded."""

    @property
    def size(self) -> int:
        """Return how many records there are."""
        return 0 if self.head is None else self.head.size


def verify_log(
    engine: Engine,
    key: NoteKey,
    *,
    since: Head | None = None,
    witnesses: Sequence[NoteKey] = (),
    quorum: int = 0,
) -> Verified:
    """Recompute a log and check it against its signatures.

    Args:
        engine: Of ``audit.store.open_tables``.
        key: The log's verifier key, from where the log's keeper cannot exchange it.
        since: A head kept elsewhere; the log must still begin with it.
        witnesses: Keys of witnesses.
        quorum: How many of them must have cosigned one head.

    Raises:
        AuditDamaged: Something was changed, dropped, inserted or moved; says where.
        WitnessesTooFew: No head has ``quorum`` cosignatures.
    """
    public_key = Ed25519PublicKey.from_public_bytes(key.public_key)
    with reading(engine) as connection:
        lines = connection.execute(select(COSIGNATURES)).all()
        named = {row.size for row in lines} | ({since.size} if since is not None else set())
        replay = _Replay(connection, key.name, named)
        in_order = select(BATCHES).order_by(BATCHES.c.first).execution_options(yield_per=ROWS)
        for row in connection.execute(in_order):
            replay.take(row).check(public_key)
        replay.finish()
    if since is not None:
        if isinstance(since, SignedHead):
            since.check(public_key)
        # A head between two batches was never signed, so the log must know it by its size.
        if since.origin != key.name or replay.roots.get(since.size) != since.root:
            raise AuditDamaged(f"it does not begin with the {since.size} events signed before")
    return Verified(replay.head, replay.batches, _cosigned(replay, lines, witnesses, quorum))


def records_in(row: Any) -> list[bytes]:
    """Return the records of a stored batch."""
    records: list[bytes] = row.records.split(b"\n")
    records.pop()
    return records


class _Replay:
    """The log as its records make it, held against what is stored beside them.

    Args:
        connection: To read the tiles.
        origin: The log's name.
        named: Sizes of heads that will be asked for.
    """

    def __init__(self, connection: Connection, origin: str, named: set[int]) -> None:
        self.origin = origin
        self.frontier = Frontier()
        self.head: SignedHead | None = None
        self.batches = 0
        self.roots = {0: EMPTY_ROOT}
        """By size, of the heads that are named."""
        self._connection = connection
        self._named = named
        self._rows: list[list[bytes]] = []
        """By level, the hashes of the tile that is not yet full."""
        self._tiles: list[int] = []
        """By level, how many tiles were full."""

    def take(self, row: Any) -> SignedHead:
        """Take in the next batch and return the head stored with it, unchecked as yet."""
        first = self.frontier.size
        if tuple(map(type, (row.first, row.size, row.records, row.signature))) != ROW_TYPES:
            raise AuditDamaged(f"the batch at {row.first} holds what was never stored")
        records = records_in(row)
        whole = bool(records) and row.records.endswith(b"\n")
        if row.first != first or row.size != first + len(records) or not whole:
            raise AuditDamaged(
                f"the batch at {row.first} has lost or gained a record, or one before event "
                f"{first} is missing"
            )
        self.frontier, layers = self.frontier.extend([leaf_hash(record) for record in records])
        root = self.frontier.root()
        if (row.frontier, row.root) != (self.frontier.to_bytes(), root):
            where = f"event {first}" if len(records) == 1 else f"events {first} to {row.size - 1}"
            raise AuditDamaged(f"{where}: one was changed, moved or exchanged")
        for level, nodes in enumerate(layers[::TILE_HEIGHT]):
            self._fill(level, nodes)
        self.batches += 1
        self.head = SignedHead(self.origin, row.size, root, row.signature)
        if row.size in self._named:
            self.roots[row.size] = root
        return self.head

    def finish(self) -> None:
        """Check the tiles that are not full, and that there are no others."""
        expected = sum(self._tiles)
        for level, hashes in enumerate(self._rows):
            if hashes:
                self._check(level, hashes)
                expected += 1
        if self._connection.execute(select(func.count()).select_from(TILES)).scalar() != expected:
            raise AuditDamaged("there are tiles of records that the log does not have")

    def _fill(self, level: int, nodes: list[bytes]) -> None:
        if level == len(self._rows):
            self._rows.append([])
            self._tiles.append(0)
        self._rows[level] += nodes
        while len(self._rows[level]) >= TILE_WIDTH:
            self._check(level, self._rows[level][:TILE_WIDTH])
            del self._rows[level][:TILE_WIDTH]
            self._tiles[level] += 1

    def _check(self, level: int, hashes: list[bytes]) -> None:
        number = self._tiles[level]
        wanted = (TILES.c.level == level) & (TILES.c.number == number)
        stored = self._connection.execute(select(TILES.c.hashes).where(wanted)).scalar()
        if stored != b"".join(hashes):
            raise AuditDamaged(f"tile {number} of level {level} does not follow from the log")


def _cosigned(
    replay: _Replay, lines: Sequence[Any], witnesses: Sequence[NoteKey], quorum: int
) -> int:
    """Return the size of the longest head with enough cosignatures, after checking all known."""
    seen: dict[int, set[bytes]] = {}  # by key, not name: one key under two names is one witness
    for row in lines:
        root = replay.roots.get(row.size)
        if root is None:
            raise AuditDamaged(f"a witness cosigned a head of {row.size} that is not there")
        body = Head(replay.origin, row.size, root).body()
        try:
            note = Note(body, read_lines(str(row.line)))
            for key in witnesses:
                if key.text() == row.key:
                    check_signed(note, key)
                    seen.setdefault(row.size, set()).add(key.public_key)
        except (NoteMalformed, NoteUnsigned) as error:
            raise AuditDamaged(f"a cosignature of head {row.size} does not verify") from error
    enough = [size for size, keys in seen.items() if len(keys) >= quorum]
    if quorum and not enough:
        raise WitnessesTooFew(max(map(len, seen.values()), default=0), quorum)
    return max(enough, default=0) if quorum else 0
