"""Vesting: an allocation waits in an account of its own and is released by its schedule.

Three laws, told apart by the terms:

- linear from ``begins`` to ``ends``, nothing before ``cliff``. With cliff mode ``inside`` the line
  starts at the beginning, so that at the cliff everything since then falls due at once; with
  ``before`` it starts at the cliff;
- in tranches, each for a milestone: from its date on somebody may decide that it was met, and that
  decision is the release (``release_tranche``);
- at once, which is a linear law without length.

The allocation's memo holds the SHA-256 of the terms, so the journal itself says what was promised,
and a release under other terms is refused.

What holds, each line a property of tests/ledger/test_vesting.py:

1. At every second what was released is at most what is vested, which never falls.
2. Nothing is vested before the cliff, everything from the end on, to the base unit.
3. However often and whenever releases are asked for, together they pay what is vested, once.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Connection

from ledger import chart, journal
from ledger.books import Ledger
from ledger.journal import Leg, Transfer
from ledger.schedule import add_months, linear, second
from protocol.errors import LedgerError
from protocol.ids import AccountId
from storage.canonical import canonical_json

CliffMode = Literal["inside", "before"]


class VestingTermsDiffer(LedgerError):
    """An allocation was made under other terms, or not at all."""

    code = "vesting-terms-differ"

    def __init__(self, beneficiary: str) -> None:
        self.beneficiary = beneficiary
        super().__init__(
            f"nothing was allocated to {beneficiary} under these terms; release it under the "
            "terms whose hash the allocation's memo holds"
        )


class TrancheEarly(LedgerError):
    """A tranche was to be released before its date."""

    code = "tranche-early"

    def __init__(self, beneficiary: str, number: int, due: int) -> None:
        self.beneficiary = beneficiary
        self.number = number
        self.due = due
        day = datetime.fromtimestamp(due, UTC).date().isoformat()
        super().__init__(f"tranche {number} of {beneficiary} may be released from {day} on")


@dataclass(frozen=True)
class Tranche:
    """Base units that a milestone releases, from the second ``due`` on."""

    due: int
    amount: int


@dataclass(frozen=True)
class Terms:
    """What is released to whom by when; amounts in base units, instants in seconds since 1970."""

    beneficiary: str
    payee: AccountId
    amount: int
    begins: int
    cliff: int
    ends: int
    tranches: tuple[Tranche, ...] = ()

    def __post_init__(self) -> None:
        """Check what every maker of terms owes."""
        assert self.amount > 0
        assert self.begins <= self.cliff <= self.ends
        assert not self.tranches or sum(one.amount for one in self.tranches) == self.amount

    def fingerprint(self) -> str:
        """Return the SHA-256 of the terms, in hexadecimal."""
        content = {
            key: str(value) if key == "amount" else value
            for key, value in asdict(self).items()
            if key != "tranches"
        }
        content["tranches"] = [[one.due, str(one.amount)] for one in self.tranches]
        return hashlib.sha256(canonical_json(content)).hexdigest()


def linear_terms(
    beneficiary: str,
    payee: AccountId,
    amount: int,
    *,
    begins: int,
    months: int,
    cliff_months: int,
    cliff_mode: CliffMode,
) -> Terms:
    """Return terms of a linear release over ``months``, with a cliff inside or before them."""
    cliff = add_months(begins, cliff_months)
    if cliff_mode == "before":
        return Terms(beneficiary, payee, amount, cliff, cliff, add_months(cliff, months))
    return Terms(beneficiary, payee, amount, begins, cliff, add_months(begins, months))


def tranche_terms(
    beneficiary: str, payee: AccountId, amount: int, *, begins: int, months: int, tranches: int
) -> Terms:
    """Return terms of equal tranches, evenly over ``months``; the last takes what rounding left."""
    assert months % tranches == 0
    dues = [add_months(begins, months // tranches * number) for number in range(1, tranches + 1)]
    parts = [amount // tranches] * tranches
    parts[-1] += amount - sum(parts)
    steps = tuple(Tranche(due, part) for due, part in zip(dues, parts, strict=True))
    return Terms(beneficiary, payee, amount, begins, dues[0], dues[-1], steps)


def vested(terms: Terms, at: int) -> int:
    """Return the most that may have been released at the second ``at``, in base units."""
    if terms.tranches:
        return sum(one.amount for one in terms.tranches if one.due <= at)
    if at < terms.cliff:
        return 0
    return linear(terms.amount, terms.begins, terms.ends, at)


def allocate(ledger: Ledger, terms: Terms, source: AccountId, *, now: datetime) -> Transfer:
    """Move the allocation from ``source``, a treasury bucket, into its vesting account, once.

    Raises:
        IdempotencyConflict: The beneficiary has an allocation under other terms.
        UnknownAccount, InsufficientFunds, AccountFlagged: As ``ledger.journal.post``.
    """
    account = chart.vesting(terms.beneficiary)
    journal.check_no_escrow(source, terms.payee)
    with ledger.begin() as connection:
        journal.open_accounts(connection, [account, terms.payee])
        legs = [Leg(source, account, terms.amount)]
        memo = f"terms {terms.fingerprint()}"
        return journal.post(connection, _key(terms), legs, memo=memo, now=now)


def release(ledger: Ledger, terms: Terms, *, now: datetime) -> Transfer | None:
    """Pay what is vested and was not released yet; None where that is nothing.

    Terms in tranches release nothing here: each takes a decision, ``release_tranche``.

    Raises:
        VestingTermsDiffer: The allocation was made under other terms.
        AccountFlagged: The payee, or the vesting account, is under a flag.
    """
    if terms.tranches:
        return None
    with ledger.begin() as connection:
        account = _checked(connection, terms)
        due = vested(terms, second(now))
        released = journal.flows_of(connection, [account])[account].debits
        if due <= released:
            return None
        legs = [Leg(account, terms.payee, due - released)]
        memo = f"vested by {now.astimezone(UTC).isoformat(timespec='seconds')}"
        return journal.post(connection, f"{_key(terms)}:{due}", legs, memo=memo, now=now)


def release_tranche(
    ledger: Ledger, terms: Terms, number: int, *, memo: str, now: datetime
) -> Transfer:
    """Release tranche ``number``, counted from 1, by the decision that ``memo`` names, once.

    Raises:
        TrancheEarly: Its date has not come.
        VestingTermsDiffer, IdempotencyConflict: Made under other terms, or decided otherwise.
    """
    assert 1 <= number <= len(terms.tranches)
    tranche = terms.tranches[number - 1]
    if second(now) < tranche.due:
        raise TrancheEarly(terms.beneficiary, number, tranche.due)
    with ledger.begin() as connection:
        legs = [Leg(_checked(connection, terms), terms.payee, tranche.amount)]
        key = f"{_key(terms)}:tranche:{number}"
        return journal.post(connection, key, legs, memo=memo, now=now)


def released(ledger: Ledger, terms: Terms) -> int:
    """Return the base units that were released so far."""
    return terms.amount - ledger.balance(chart.vesting(terms.beneficiary))


def _checked(connection: Connection, terms: Terms) -> AccountId:
    allocation = journal.find(connection, _key(terms))
    if allocation is None or allocation.memo != f"terms {terms.fingerprint()}":
        raise VestingTermsDiffer(terms.beneficiary)
    return chart.vesting(terms.beneficiary)


def _key(terms: Terms) -> str:
    return f"vest:{terms.beneficiary}"
