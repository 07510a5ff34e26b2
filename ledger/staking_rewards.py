"""What stakes earn: a share of a funded pool, by the second, at most their tier's rate.

Rewards come out of ``rewards:staking``, which fees and a capped part of the community bucket fill
(``ledger.pool``). A tier's rate is a ceiling. Where the pool holds less than all ceilings together,
every stake gets the same share of its own, rounded down, and the rate that this was is shown.

What holds, each line a test of tests/ledger/test_staking.py:

1. Rewards never exceed the pool, nor a stake's ceiling.
2. A period is paid once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ledger import chart, journal
from ledger.books import Ledger
from ledger.chart import BURNED
from ledger.journal import Leg, Transfer
from ledger.schedule import second
from ledger.staking import POOL, WHOLE, Stake, StakingTerms, all_stakes
from protocol.ids import AccountId

YEAR_SECONDS: Final = 365 * 24 * 3600


@dataclass(frozen=True)
class Rewards:
    """What a period paid: ``ceiling`` was promised at most, ``paid`` to stakes, ``burned`` of it.

    ``rate_ppm`` is the rate a year that each tier was paid, before burning, in millionths and
    rounded down; beside a tier's ceiling of ``rate`` basis points, which is ``rate * 100``.
    """

    ceiling: int
    paid: int
    burned: int
    rate_ppm: Mapping[int, int]
    transfer: Transfer | None


def reward(
    ledger: Ledger, key: str, terms: StakingTerms, *, since: datetime, now: datetime
) -> Rewards:
    """Pay every stake that was bonded from ``since`` or later until ``now`` its share of the pool.

    Stakes earn by the second. ``key`` names the period: whoever calls makes sure that periods do
    not overlap; repeated, it returns what was paid.

    Raises:
        AccountFlagged: A staker's wallet takes no credit; lift the flag, or close the stake.
    """
    assert since < now
    with ledger.begin() as connection:
        journal.open_accounts(connection, [POOL, BURNED])
        earlier = journal.find(connection, key)
        stakes = [one for one in all_stakes(connection) if one.amount]
        ceilings = {one.stake: _ceiling(one, terms, since, now) for one in stakes}
        promised = sum(ceilings.values())
        if earlier is not None:
            burned = sum(leg.amount for leg in earlier.legs if leg.credit == BURNED)
            paid = sum(leg.amount for leg in earlier.legs)
            return Rewards(promised, paid, burned, {}, earlier)
        held = journal.flows_of(connection, [POOL])[POOL].balance
        available = min(held, promised)
        paid_to = {
            name: c * available // promised if promised else 0 for name, c in ceilings.items()
        }
        legs = _reward_legs(stakes, paid_to, terms)
        memo = f"rewards from {since.date().isoformat()} to {now.date().isoformat()}"
        transfer = journal.post(connection, key, legs, memo=memo, now=now) if legs else None
    burned = sum(leg.amount for leg in legs if leg.credit == BURNED)
    rates = {
        tier.days: tier.rate * 100 * available // promised if promised else 0
        for tier in terms.tiers
    }
    return Rewards(promised, sum(leg.amount for leg in legs), burned, rates, transfer)


def _ceiling(stake: Stake, terms: StakingTerms, since: datetime, now: datetime) -> int:
    until = now if stake.unbonding is None else min(now, stake.unbonding)
    seconds = second(until) - max(second(since), second(stake.bonded))
    return stake.amount * terms.tier(stake.days).rate * max(0, seconds) // (WHOLE * YEAR_SECONDS)


def _reward_legs(
    stakes: Sequence[Stake], paid: Mapping[str, int], terms: StakingTerms
) -> list[Leg]:
    amounts: dict[AccountId, int] = {}
    for one in stakes:
        burned = paid[one.stake] * terms.tier(one.days).burn // WHOLE
        for account, amount in (
            (chart.wallet(one.party), paid[one.stake] - burned),
            (BURNED, burned),
        ):
            amounts[account] = amounts.get(account, 0) + amount
    return [Leg(POOL, account, amount) for account, amount in sorted(amounts.items()) if amount]
