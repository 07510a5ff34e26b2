"""Fees: how a price is divided between provider, fee accounts and burning, to the base unit.

The fee is a share of the price; the rest goes to who provides. The fee is split by shares that sum
to one; each part is rounded down, and what rounding leaves goes to the part the rule names, so the
parts always sum to the price. Of what is not the provider's, a share is burned, out of one part.

    >>> rule = FeeRule("data_trade", 300, (("provider", 5000), ("buyback", 3000),
    ...     ("platform", 2000)), remainder="platform", burn=0, burn_from="buyback")
    >>> divide(rule, 1_000)
    Division(price=1000, parts={'provider': 985, 'buyback': 9, 'platform': 6}, burned=0)

What holds, each line a property of tests/ledger/test_fees.py:

1. Parts and what is burned sum to the price, and none is negative.
2. A part is within the number of parts of its exact share, which never favours the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ledger import chart, journal
from ledger.books import Ledger
from ledger.chart import BURNED
from ledger.journal import Leg, Transfer
from ledger.tables import Section, TableUnbalanced, TokenomicsUnreadable
from protocol.ids import AccountId

WHOLE: Final = 10_000
"""Basis points of everything."""
PROVIDER: Final = "provider"


@dataclass(frozen=True)
class FeeRule:
    """How a price is divided; all shares in basis points.

    Raises:
        TableUnbalanced: The shares of the fee do not sum to 10,000.
    """

    name: str
    fee: int
    split: tuple[tuple[str, int], ...]
    remainder: str
    burn: int
    burn_from: str

    def __post_init__(self) -> None:
        """Check the sum; that the names are among the parts is the reader's duty."""
        total = sum(share for _, share in self.split)
        if total != WHOLE or any(share < 0 for _, share in self.split):
            raise TableUnbalanced(f"the split of {self.name}", total, WHOLE)
        names = {name for name, _ in self.split}
        assert {self.remainder, self.burn_from} <= names


@dataclass(frozen=True)
class Division:
    """A price, divided: base units by part, and what is burned."""

    price: int
    parts: dict[str, int]
    burned: int


def divide(rule: FeeRule, price: int) -> Division:
    """Divide ``price`` base units by ``rule``.

    Raises:
        NegativeAmount: The price is.
    """
    if price < 0:
        raise journal.NegativeAmount(price)
    fee = price * rule.fee // WHOLE
    parts = {name: fee * share // WHOLE for name, share in rule.split}
    parts[rule.remainder] += fee - sum(parts.values())
    parts[PROVIDER] = parts.get(PROVIDER, 0) + price - fee
    burned = min((price - parts[PROVIDER]) * rule.burn // WHOLE, parts[rule.burn_from])
    parts[rule.burn_from] -= burned
    return Division(price, parts, burned)


def charge(
    ledger: Ledger,
    key: str,
    rule: FeeRule,
    price: int,
    *,
    payer: AccountId,
    provider: AccountId,
    memo: str,
    now: datetime,
) -> Transfer:
    """Take ``price`` from ``payer`` and give provider, fee accounts and burning their parts, once.

    Raises:
        UnknownAccount, InsufficientFunds, AccountReserved, AccountFlagged, EmptyTransfer,
            NegativeAmount, IdempotencyConflict: As ``ledger.journal.post``.
    """
    division = divide(rule, price)
    journal.check_no_escrow(payer, provider)
    amounts = [
        (provider if name == PROVIDER else chart.fees(name), amount)
        for name, amount in division.parts.items()
    ]
    amounts.append((BURNED, division.burned))
    legs = [Leg(payer, account, amount) for account, amount in amounts if amount]
    with ledger.begin() as connection:
        kept = [account for account, _ in amounts if chart.kind_of(account) == "fees"]
        journal.open_accounts(connection, [BURNED, *kept])
        return journal.post(connection, key, legs, memo=memo, now=now)


def read_fee_rule(name: str, section: Section) -> FeeRule:
    """Read a rule from the tokenomics file.

    Raises:
        TokenomicsUnreadable, SettingUnknown, TableUnbalanced: It is not a rule.
    """
    shares = section.section("split")
    split = tuple((part, shares.basis_points(part)) for part in shares.keys())  # noqa: SIM118 - a method, not a dict's
    for part in [part for part, _ in split if part != PROVIDER]:
        if not chart.PART.fullmatch(part):
            raise TokenomicsUnreadable(section.path, f"{part!r} of {name} names no account")
    names = [part for part, _ in split]
    rule = FeeRule(
        name,
        section.basis_points("fee"),
        split,
        section.text("remainder", *names),
        section.basis_points("burn"),
        section.text("burn_from", *names),
    )
    section.done()
    return rule
