"""The outbox: what is to happen on the chain and what of it has, in the ledger's database.

An intent is one thing to be done once; an attempt is one signed transaction that would do it::

    intent   planned --sign--> signed --send--> broadcast --in a block--> mined --deep--> final
             signed, broadcast, mined --found done by other means--> final
             signed, broadcast --its nonce went to another--> planned
             mined --reverted, deep--> failed --retry--> planned
    attempt  signed --> broadcast --> mined --> final | reverted
             mined --its block is gone--> broadcast        (the same bytes are sent again)
             any of these but final --> replaced           (another attempt, or another way)

The bytes of an attempt are here, with nonce and hash, before a node sees them. So after a crash at
any moment the same bytes are sent again, which is sending them once.

What holds (tests/ledger/chain/test_outbox.py), each transition being one transaction:

1. An intent is signed under one nonce at a time; a second signature takes the same nonce.
2. No two live attempts of different intents have the same nonce.
3. A transition out of another state than it starts from is refused, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, cast

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    insert,
    select,
    update,
)

from ledger import store
from protocol.errors import LedgerError
from storage.database import reading, writing

IntentState = Literal["planned", "signed", "broadcast", "mined", "final", "failed"]
AttemptState = Literal["signed", "broadcast", "mined", "final", "reverted", "replaced"]
LIVE: Final = ("signed", "broadcast", "mined", "final", "reverted")
"""States in which an attempt's nonce is its own."""
UNDONE: Final = ("planned", "signed", "broadcast", "mined")

METADATA: Final = MetaData()
INTENTS: Final = Table(
    "chain_intents",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 1: their order
    Column("intent", String, unique=True, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("to", LargeBinary),  # 20 bytes; none where a contract is created
    Column("data", LargeBinary, nullable=False),
    Column("state", String, nullable=False),
    Column("note", String, nullable=False),
    Column("at", String, nullable=False),  # ISO 8601, UTC
    CheckConstraint("state IN ('planned', 'signed', 'broadcast', 'mined', 'final', 'failed')"),
)
ATTEMPTS: Final = Table(
    "chain_attempts",
    METADATA,
    Column("hash", LargeBinary, primary_key=True),
    Column("intent", ForeignKey("chain_intents.intent"), nullable=False),
    Column("nonce", BigInteger, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("gas", BigInteger, nullable=False),
    Column("fee", BigInteger, nullable=False),  # wei for each gas, at most
    Column("tip", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("height", BigInteger),  # of the chain when it was last sent
    Column("block_number", BigInteger),
    Column("block_hash", LargeBinary),
    Column("at", String, nullable=False),
    CheckConstraint("state IN ('signed', 'broadcast', 'mined', 'final', 'reverted', 'replaced')"),
)


class OutboxConflict(LedgerError):
    """A step was to be taken from a state that the outbox is not in: another process took it."""

    code = "chain-outbox-conflict"

    def __init__(self, what: str, step: str) -> None:
        self.what = what
        self.step = step
        super().__init__(
            f"{what} cannot be {step} now: another process settles the same books; wait for it, "
            "then settle again"
        )


@dataclass(frozen=True)
class Intent:
    """One thing to be done once."""

    intent: str
    epoch: int
    to: bytes | None
    data: bytes
    state: IntentState = "planned"
    note: str = ""


@dataclass(frozen=True)
class Attempt:
    """One signed transaction that would do it."""

    hash: bytes
    intent: str
    nonce: int
    raw: bytes
    gas: int
    fee: int
    tip: int
    state: AttemptState = "signed"
    height: int | None = None
    block_number: int | None = None
    block_hash: bytes | None = None


class Outbox:
    """The outbox in the database of the books.

    Args:
        engine: ``Ledger.engine``; the tables are made where they do not exist.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with writing(engine) as connection:
            if connection.dialect.name == "postgresql":
                # Not two programs at once: the lock goes with the transaction.
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({store.LOCK_NUMBER})")
            METADATA.create_all(connection)

    def plan(self, intents: Iterable[Intent], *, now: datetime) -> None:
        """Add intents, in order; those that are there stay as they are."""
        with store.writing(self._engine, INTENTS) as connection:
            plan(connection, intents, now=now)

    def intents(self, prefix: str = "") -> list[Intent]:
        """Return the intents whose names begin with ``prefix``, in the order they were planned."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(INTENTS).order_by(INTENTS.c.number)).all()
        return [_intent(row) for row in rows if row.intent.startswith(prefix)]

    def intent(self, name: str) -> Intent:
        """Return the intent of this name, which must be there."""
        with reading(self._engine) as connection:
            found = select(INTENTS).where(INTENTS.c.intent == name)
            return _intent(connection.execute(found).one())

    def undone(self) -> list[Intent]:
        """Return the intents that are neither final nor failed, in order."""
        with reading(self._engine) as connection:
            waiting = select(INTENTS).where(INTENTS.c.state.in_(UNDONE))
            rows = connection.execute(waiting.order_by(INTENTS.c.number)).all()
        return [_intent(row) for row in rows]

    def attempts(self, intent: str | None = None) -> list[Attempt]:
        """Return the attempts at an intent, or all, by nonce and age."""
        query = select(ATTEMPTS).order_by(ATTEMPTS.c.nonce, ATTEMPTS.c.fee)
        if intent is not None:
            query = query.where(ATTEMPTS.c.intent == intent)
        with reading(self._engine) as connection:
            return [_attempt(row) for row in connection.execute(query)]

    def sign(self, attempt: Attempt, *, now: datetime) -> None:
        """Keep a signed attempt at a planned intent, or a dearer one under the same nonce.

        Raises:
            OutboxConflict: The intent is not waiting for it, or the nonce is another's.
        """
        with store.writing(self._engine, INTENTS) as connection:
            state = connection.execute(
                select(INTENTS.c.state).where(INTENTS.c.intent == attempt.intent)
            ).scalar_one()
            live = connection.execute(
                select(ATTEMPTS.c.intent, ATTEMPTS.c.nonce).where(ATTEMPTS.c.state.in_(LIVE))
            ).all()
            nonces = {row.nonce for row in live if row.intent == attempt.intent}
            taken = {row.nonce for row in live if row.intent != attempt.intent}
            again = state in {"signed", "broadcast"} and nonces == {attempt.nonce}
            if attempt.nonce in taken or not (again or (state == "planned" and not nonces)):
                raise OutboxConflict(attempt.intent, "signed")
            values = dict(attempt.__dict__) | {"state": "signed", "at": now.isoformat()}
            connection.execute(insert(ATTEMPTS).values(**values))
            if not again:
                _move(connection, attempt.intent, ("planned",), "signed")

    def sent(self, attempt: Attempt, height: int) -> None:
        """Note that a node has the attempt; again, whenever it is sent again."""
        with store.writing(self._engine, INTENTS) as connection:
            _turn(connection, attempt, ("signed", "broadcast"), "broadcast", height=height)
            _move(connection, attempt.intent, ("signed", "broadcast"), "broadcast")

    def mined(self, attempt: Attempt, number: int, block_hash: bytes) -> None:
        """Note the block that the attempt is in; again, if it is in another now."""
        block = {"block_number": number, "block_hash": block_hash}
        with store.writing(self._engine, INTENTS) as connection:
            _turn(connection, attempt, ("signed", "broadcast", "mined"), "mined", **block)
            _move(connection, attempt.intent, ("signed", "broadcast", "mined"), "mined")

    def unmined(self, attempt: Attempt) -> None:
        """Note that the attempt's block is gone, so that its bytes are sent again."""
        block = {"block_number": None, "block_hash": None}
        with store.writing(self._engine, INTENTS) as connection:
            _turn(connection, attempt, ("mined",), "broadcast", **block)
            _move(connection, attempt.intent, ("mined",), "broadcast")

    def final(self, attempt: Attempt) -> None:
        """Note that the attempt is so deep that it stays; what competed with it is replaced."""
        with store.writing(self._engine, INTENTS) as connection:
            _turn(connection, attempt, ("mined",), "final")
            _replace(connection, attempt.intent, attempt.hash)
            _move(connection, attempt.intent, ("mined",), "final")

    def failed(self, attempt: Attempt, note: str) -> None:
        """Note that the attempt reverted, for good."""
        with store.writing(self._engine, INTENTS) as connection:
            _turn(connection, attempt, ("mined",), "reverted")
            _replace(connection, attempt.intent, attempt.hash)
            _move(connection, attempt.intent, ("mined",), "failed", note=note)

    def done(self, intent: str, note: str) -> None:
        """Note that the chain shows the intent as done, by whichever transaction."""
        with store.writing(self._engine, INTENTS) as connection:
            _replace(connection, intent, b"")
            _move(connection, intent, UNDONE, "final", note=note)

    def again(self, intent: str) -> None:
        """Plan an intent anew: its nonce went to another transaction, or a person says so."""
        with store.writing(self._engine, INTENTS) as connection:
            _replace(connection, intent, b"")
            _move(connection, intent, ("signed", "broadcast", "failed"), "planned")


def plan(connection: Connection, intents: Iterable[Intent], *, now: datetime) -> None:
    """Add intents inside a transaction that someone else began, such as the one that books them."""
    known = set(connection.execute(select(INTENTS.c.intent)).scalars())
    last = connection.execute(select(func.max(INTENTS.c.number))).scalar() or 0
    for one in intents:
        if one.intent in known:
            continue
        last += 1
        values = {"number": last, "intent": one.intent, "epoch": one.epoch, "to": one.to}
        values |= {"data": one.data, "state": "planned", "note": "", "at": now.isoformat()}
        connection.execute(insert(INTENTS).values(**values))


def _move(
    connection: Connection, intent: str, start: tuple[str, ...], end: IntentState, *, note: str = ""
) -> None:
    changed = connection.execute(
        update(INTENTS)
        .where(INTENTS.c.intent == intent, INTENTS.c.state.in_(start))
        .values(state=end, note=note)
    )
    if changed.rowcount != 1:
        raise OutboxConflict(intent, end)


def _turn(
    connection: Connection,
    attempt: Attempt,
    start: tuple[str, ...],
    end: AttemptState,
    **values: Any,
) -> None:
    changed = connection.execute(
        update(ATTEMPTS)
        .where(ATTEMPTS.c.hash == attempt.hash, ATTEMPTS.c.state.in_(start))
        .values(state=end, **values)
    )
    if changed.rowcount != 1:
        raise OutboxConflict(f"an attempt at {attempt.intent}", end)


def _replace(connection: Connection, intent: str, but: bytes) -> None:
    connection.execute(
        update(ATTEMPTS)
        .where(
            ATTEMPTS.c.intent == intent,
            ATTEMPTS.c.hash != but,
            ATTEMPTS.c.state.in_(("signed", "broadcast", "mined", "reverted")),
        )
        .values(state="replaced")
    )


def _intent(row: Any) -> Intent:
    state = cast("IntentState", row.state)
    return Intent(row.intent, row.epoch, row.to, row.data, state, row.note)


def _attempt(row: Any) -> Attempt:
    return Attempt(
        row.hash,
        row.intent,
        row.nonce,
        row.raw,
        row.gas,
        row.fee,
        row.tip,
        cast("AttemptState", row.state),
        row.height,
        row.block_number,
        row.block_hash,
    )
