"""Two-phase transfers: money is taken first and given, or given back, later.

The first phase moves the amount from the payer into ``pending``, under a key and with a time at
which the hold lapses. The second ends it, once::

    pending --post, all or a part--> posted   the part to the payee, the rest back to the payer
            --void----------------> void      all of it back
            --expire, from its time-> expired  all of it back; anyone may ask for it

Both phases are ordinary transfers, so the journal tells the whole story, no sum of balances ever
leaves money out, and a hold that nobody ends still belongs to somebody: its row says to whom.

What holds, each line a test in tests/ledger/test_pending.py or a rule in test_machine.py:

1. A hold ends at most once, and posts at most what was held.
2. It is not posted from its time on, and not expired before.
3. ``pending`` holds the sum of the holds that have not ended; ``Ledger.verify`` compares.
4. Repeating a phase under its key returns the transfer it made the first time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

from sqlalchemy import Connection, insert, select, update

from ledger import journal
from ledger.books import Ledger
from ledger.chart import PENDING
from ledger.journal import Leg, Transfer
from ledger.store import HOLDS
from protocol.errors import LedgerError
from protocol.ids import AccountId
from storage.database import reading

HoldState = Literal["pending", "posted", "void", "expired"]


class HoldEnded(LedgerError):
    """The hold was posted, voided or has lapsed."""

    code = "hold-ended"

    def __init__(self, hold: str, state: str) -> None:
        self.hold = hold
        self.state = state
        super().__init__(f"the hold {hold} is {state}; begin another transfer")


class HoldRunning(LedgerError):
    """The hold was to be expired before its time."""

    code = "hold-running"

    def __init__(self, hold: str, expires: datetime) -> None:
        self.hold = hold
        self.expires = expires
        super().__init__(
            f"the hold {hold} runs until {expires.isoformat()}; wait, or void it instead"
        )


class UnknownHold(LedgerError):
    """No first phase was made under this key."""

    code = "unknown-hold"

    def __init__(self, hold: str) -> None:
        self.hold = hold
        super().__init__(f"there is no hold {hold}; give the key of a first phase")


@dataclass(frozen=True)
class Hold:
    """A two-phase transfer as it stands; ``amount`` is what its first phase took."""

    hold: str
    debit: AccountId
    credit: AccountId
    amount: int
    expires: datetime
    state: HoldState


def hold(
    ledger: Ledger,
    key: str,
    debit: AccountId,
    credit: AccountId,
    amount: int,
    *,
    expires: datetime,
    memo: str,
    now: datetime,
) -> Transfer:
    """Take ``amount`` from ``debit``, to be given to ``credit`` or back; ``key`` names the hold.

    Raises:
        HoldEnded: It would have lapsed before it began.
        UnknownAccount, InsufficientFunds, AccountReserved, AccountFlagged, NegativeAmount,
            EmptyTransfer, IdempotencyConflict: As ``ledger.journal.post``.
    """
    assert expires.tzinfo is not None
    journal.check_no_escrow(debit, credit)
    until = expires.astimezone(UTC)
    with ledger.begin() as connection:
        known = _found(connection, key)
        if known is not None and (known.credit, known.expires) != (credit, until):
            raise journal.IdempotencyConflict(key)
        if known is None and journal.find(connection, key) is None:
            if until <= now:
                raise HoldEnded(key, "expired")
            if credit not in journal.flows_of(connection, [credit]):
                raise journal.UnknownAccount(credit)
            journal.open_accounts(connection, [PENDING])
        transfer = journal.post(connection, key, [Leg(debit, PENDING, amount)], memo=memo, now=now)
        if known is None:
            row = {"hold": key, "debit": debit, "credit": credit, "amount": amount}
            row |= {"expires": until.isoformat(), "state": "pending"}
            connection.execute(insert(HOLDS), row)
        return transfer


def post(
    ledger: Ledger, key: str, held: str, *, amount: int | None = None, memo: str = "", now: datetime
) -> Transfer:
    """Give what is held, or ``amount`` of it, to the payee and the rest back to the payer.

    Raises:
        UnknownHold, HoldEnded: There is nothing (more) to post.
        InsufficientFunds: ``amount`` exceeds what is held.
        NegativeAmount, EmptyTransfer, AccountFlagged, IdempotencyConflict: As
            ``ledger.journal.post``.
    """
    with ledger.begin() as connection:
        found = _known(connection, held)
        given = found.amount if amount is None else amount
        legs = [Leg(PENDING, found.credit, given)]
        if given > found.amount:
            raise journal.InsufficientFunds(PENDING, found.amount, given)
        if given < found.amount:
            legs.append(Leg(PENDING, found.debit, found.amount - given))
        return _end(connection, key, found, legs, "posted", memo=memo, now=now)


def void(ledger: Ledger, key: str, held: str, *, memo: str = "", now: datetime) -> Transfer:
    """Give all that is held back to the payer. Raises as ``post`` does."""
    with ledger.begin() as connection:
        found = _known(connection, held)
        legs = [Leg(PENDING, found.debit, found.amount)]
        return _end(connection, key, found, legs, "void", memo=memo, now=now)


def expire(ledger: Ledger, held: str, *, now: datetime) -> Transfer:
    """Give back what nobody posted in time; its key is the hold's with ``expire:`` before it.

    Raises:
        HoldRunning: Its time has not come.
        UnknownHold, HoldEnded: There is nothing (more) to expire.
    """
    with ledger.begin() as connection:
        found = _known(connection, held)
        if now < found.expires:
            raise HoldRunning(held, found.expires)
        legs = [Leg(PENDING, found.debit, found.amount)]
        return _end(connection, f"expire:{held}", found, legs, "expired", memo="", now=now)


def expire_due(ledger: Ledger, *, now: datetime) -> list[Transfer]:
    """Expire every hold whose time has come; safe to call as often as one likes."""
    with reading(ledger.engine) as connection:
        rows = connection.execute(select(HOLDS).where(HOLDS.c.state == "pending")).all()
    due = sorted(row.hold for row in rows if datetime.fromisoformat(row.expires) <= now)
    return [expire(ledger, one, now=now) for one in due]


def hold_of(ledger: Ledger, held: str) -> Hold:
    """Return a hold as it stands.

    Raises:
        UnknownHold: There is none of this key.
    """
    with reading(ledger.engine) as connection:
        return _known(connection, held)


def _end(
    connection: Connection,
    key: str,
    found: Hold,
    legs: list[Leg],
    state: HoldState,
    *,
    memo: str,
    now: datetime,
) -> Transfer:
    if journal.find(connection, key) is None:
        if found.state != "pending":
            raise HoldEnded(found.hold, found.state)
        if state == "posted" and now >= found.expires:
            raise HoldEnded(found.hold, "expired")
        transfer = journal.post(
            connection, key, legs, memo=memo or f"{state} {found.hold}", now=now
        )
        ended = update(HOLDS).where(HOLDS.c.hold == found.hold, HOLDS.c.state == "pending")
        connection.execute(ended.values(state=state, ended_by=key))
        return transfer
    # Repeated: post() returns the earlier transfer, or refuses if the key made another.
    return journal.post(connection, key, legs, memo=memo or f"{state} {found.hold}", now=now)


def _known(connection: Connection, held: str) -> Hold:
    found = _found(connection, held)
    if found is None:
        raise UnknownHold(held)
    return found


def _found(connection: Connection, held: str) -> Hold | None:
    row = connection.execute(select(HOLDS).where(HOLDS.c.hold == held)).one_or_none()
    if row is None:
        return None
    expires = datetime.fromisoformat(row.expires)
    state = cast("HoldState", row.state)
    return Hold(row.hold, AccountId(row.debit), AccountId(row.credit), row.amount, expires, state)
