"""Staking: BTT bonded for a term earns a share of a funded pool, at most its tier's rate.

A stake is a state machine with no way back::

    bonded --unbond, after its days--> unbonding --withdraw, 21 days later--> free
       └──────────────slash──────────────────┴──> slashed (of all of it; of a part, it goes on)

What stakes earn is the matter of ``ledger.staking_rewards``. What is slashed is divided:
half burned, half to the victims.

What holds, each line a rule of tests/ledger/test_staking.py:

1. ``stake:PARTY`` holds exactly its stakes; ``Ledger.verify`` compares.
2. What is slashed is burned or the victims', to the base unit.
3. A stake is withdrawn once, whole, and not before its time; until then it can be slashed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, cast

from sqlalchemy import Connection, insert, select, update

from ledger import chart, journal
from ledger.books import Ledger
from ledger.chart import BURNED, SLASHED
from ledger.journal import Leg, Transfer
from ledger.store import STAKES
from protocol.errors import LedgerError
from protocol.ids import AccountId
from storage.database import reading

WHOLE: Final = 10_000
POOL: Final = chart.rewards("staking")

StakeState = Literal["bonded", "unbonding", "free", "slashed"]


class StakeTooSmall(LedgerError):
    """Less was to be bonded than the tier asks for."""

    code = "stake-too-small"

    def __init__(self, amount: int, minimum: int) -> None:
        self.amount = amount
        self.minimum = minimum
        super().__init__(f"{amount} base units are less than the tier's {minimum}; bond more")


class StakeLocked(LedgerError):
    """The stake's time has not come, or its state does not allow the step."""

    code = "stake-locked"

    def __init__(self, stake: str, why: str) -> None:
        self.stake = stake
        super().__init__(f"the stake {stake} {why}")


class UnknownStake(LedgerError):
    """Nothing was bonded under this key."""

    code = "unknown-stake"

    def __init__(self, stake: str) -> None:
        self.stake = stake
        super().__init__(f"there is no stake {stake}; give the key it was bonded under")


@dataclass(frozen=True)
class Tier:
    """A term and its ceiling: ``rate`` per year and ``burn`` of rewards in basis points."""

    days: int
    rate: int
    minimum: int
    burn: int


@dataclass(frozen=True)
class StakingTerms:
    """What holds for all stakes; shares in basis points, the cap in base units a year."""

    tiers: tuple[Tier, ...]
    unbonding_days: int
    slashed_burned: int
    fee_share: int
    community_cap: int

    def tier(self, days: int) -> Tier:
        """Return the tier of ``days``, which must be one."""
        return next(tier for tier in self.tiers if tier.days == days)


@dataclass(frozen=True)
class Stake:
    """A stake as it stands; ``amount`` is what is still at stake."""

    stake: str
    party: str
    days: int
    amount: int
    bonded: datetime
    unbonding: datetime | None
    state: StakeState


def bond(
    ledger: Ledger,
    key: str,
    terms: StakingTerms,
    party: str,
    amount: int,
    *,
    days: int,
    now: datetime,
) -> Transfer:
    """Bond ``amount`` of ``wallet:PARTY`` for a tier of ``days``; ``key`` names the stake.

    Raises:
        StakeTooSmall: The tier asks for more.
        UnknownAccount, InsufficientFunds, AccountFlagged, IdempotencyConflict: As
            ``ledger.journal.post``.
    """
    minimum = terms.tier(days).minimum
    if amount < minimum:
        raise StakeTooSmall(amount, minimum)
    account = chart.stake(party)
    with ledger.begin() as connection:
        repeated = journal.find(connection, key) is not None
        journal.open_accounts(connection, [account])
        legs = [Leg(chart.wallet(party), account, amount)]
        memo = f"bonded for {days} days"
        transfer = journal.post(connection, key, legs, memo=memo, now=now)
        if not repeated:
            row = {"stake": key, "party": party, "days": days, "amount": amount}
            row |= {"bonded": transfer.at.isoformat(), "state": "bonded"}
            connection.execute(insert(STAKES), row)
        return transfer


def unbond(ledger: Ledger, stake: str, *, now: datetime) -> Stake:
    """Begin to unbond a stake whose days are over; it earns nothing from here on.

    Raises:
        UnknownStake, StakeLocked: There is none, or its days are not over, or it has ended.
    """
    with ledger.begin() as connection:
        found = _known(connection, stake)
        if found.state == "unbonding":
            return found
        if found.state != "bonded":
            raise StakeLocked(stake, f"is {found.state}")
        over = found.bonded + timedelta(days=found.days)
        if now < over:
            raise StakeLocked(stake, f"is bonded until {over.isoformat()}; wait")
        since = now.astimezone(UTC).isoformat()
        _set(connection, stake, state="unbonding", unbonding=since)
        return _known(connection, stake)


def withdraw(ledger: Ledger, stake: str, terms: StakingTerms, *, now: datetime) -> Transfer:
    """Return an unbonded stake to its party's wallet, once.

    Raises:
        UnknownStake, StakeLocked: There is none, it was not unbonded, or not long enough ago.
        IdempotencyConflict: Another transfer was made under ``withdraw:STAKE``.
    """
    key = f"withdraw:{stake}"
    with ledger.begin() as connection:
        found = _known(connection, stake)
        earlier = journal.find(connection, key)
        if earlier is not None and found.state == "free":
            return earlier
        if found.state != "unbonding" or found.unbonding is None:
            raise StakeLocked(stake, f"is {found.state}; unbond it first")
        free = found.unbonding + timedelta(days=terms.unbonding_days)
        if now < free:
            raise StakeLocked(stake, f"can still be slashed until {free.isoformat()}; wait")
        legs = [Leg(chart.stake(found.party), chart.wallet(found.party), found.amount)]
        transfer = journal.post(connection, key, legs, memo="unbonded", now=now)
        _set(connection, stake, state="free", amount=0)
        return transfer


def slash(
    ledger: Ledger,
    key: str,
    stake: str,
    terms: StakingTerms,
    *,
    share: int,
    victims: Sequence[AccountId],
    evidence: str,
    now: datetime,
) -> Transfer:
    """Take ``share`` basis points of what is at stake: part burned, the rest to the victims.

    The victims share alike, each rounded down; what that leaves is burned, and so is everything
    where there is no victim. Through ``slashed``, so that the journal shows all that was taken.

    Args:
        ledger: The books.
        key: Names this slash for ever.
        stake: The key of the stake, bonded or unbonding.
        terms: Say which part is burned.
        share: From 1 to 10,000; at least one base unit is taken.
        victims: Accounts that are open; their order does not matter.
        evidence: What proves it, e.g. a position of the audit log. Never about a patient.
        now: The time to record.

    Raises:
        UnknownStake, StakeLocked: There is nothing (more) to slash.
        UnknownAccount, AccountReserved, AccountFlagged, IdempotencyConflict: As
            ``ledger.journal.post``.
    """
    assert 0 < share <= WHOLE
    journal.check_no_escrow(*victims)
    with ledger.begin() as connection:
        found = _known(connection, stake)
        earlier = journal.find(connection, key)
        if earlier is None and found.state not in {"bonded", "unbonding"}:
            raise StakeLocked(stake, f"is {found.state}; nothing of it is at stake")
        taken = earlier.legs[0].amount if earlier else max(1, found.amount * share // WHOLE)
        journal.open_accounts(connection, [SLASHED, BURNED])
        legs = [Leg(chart.stake(found.party), SLASHED, taken), *_divided(taken, terms, victims)]
        transfer = journal.post(connection, key, legs, memo=evidence, now=now)
        if earlier is None:
            left = found.amount - taken
            state = found.state if left else "slashed"
            _set(connection, stake, amount=left, state=state)
        return transfer


def stakes_of(ledger: Ledger, party: str | None = None) -> list[Stake]:
    """Return the stakes of ``party``, or all, as they stand, by their keys."""
    with reading(ledger.engine) as connection:
        return [one for one in all_stakes(connection) if party in {None, one.party}]


def all_stakes(connection: Connection) -> list[Stake]:
    """Return every stake inside a transaction that someone else began, by their keys."""
    rows = connection.execute(select(STAKES).order_by(STAKES.c.stake)).all()
    return [_stake(row) for row in rows]


def _divided(taken: int, terms: StakingTerms, victims: Sequence[AccountId]) -> list[Leg]:
    to_victims = taken - taken * terms.slashed_burned // WHOLE
    each = to_victims // len(victims) if victims else 0
    legs = [Leg(SLASHED, victim, each) for victim in sorted(victims) if each]
    burned = taken - each * len(victims)
    return [*legs, Leg(SLASHED, BURNED, burned)] if burned else legs


def _set(connection: Connection, stake: str, **values: object) -> None:
    connection.execute(update(STAKES).where(STAKES.c.stake == stake).values(**values))


def _known(connection: Connection, stake: str) -> Stake:
    row = connection.execute(select(STAKES).where(STAKES.c.stake == stake)).one_or_none()
    if row is None:
        raise UnknownStake(stake)
    return _stake(row)


def _stake(row: object) -> Stake:
    values = row._mapping  # type: ignore[attr-defined] # noqa: SLF001 - SQLAlchemy's public name
    since = values["unbonding"]
    return Stake(
        values["stake"],
        values["party"],
        values["days"],
        values["amount"],
        datetime.fromisoformat(values["bonded"]),
        None if since is None else datetime.fromisoformat(since),
        cast("StakeState", values["state"]),
    )
