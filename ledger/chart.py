"""The chart of accounts: which accounts can exist, and how each is named.

An account is ``kind`` or ``kind:part`` or ``kind:part:part``; the kind says whose money it is.

==================  ==================================================================
``genesis``         the source of the supply; the only account ever below zero
``burned``          destroyed BTT; receives, never pays
``slashed``         stake taken for proven misconduct, until it is divided
``treasury:BUCKET`` one of the allocation buckets of ``tokenomics.yaml``
``wallet:PARTY``    a hospital, researcher or other party that may spend
``escrow:ORDER``    put up for an order or a study; moves only through ``ledger.escrow``
``pool:STUDY:SITE`` the patients' share of a study at a site, until it is claimed
``pending``         taken by a first phase, until it is posted, void or expired
``vesting:NAME``    allocated to a beneficiary, released by its schedule
``stake:PARTY``     bonded by a party
``fees:PURPOSE``    fees kept: ``platform``, ``buyback``, ``development`` and the like
``rewards:GROUP``   set aside for rewards: ``mining``, ``community``, ``staking``
``points:PATIENT``  backing of the health points under a patient's pseudonym
``chain:ADDRESS``   paid out to an address of a chain; ``chain:claims`` to a contract for claims
==================  ==================================================================

    >>> wallet("st-anna"), pool(StudyId("busi-2026"), SiteId("st-anna"))
    ('wallet:st-anna', 'pool:busi-2026:st-anna')

What holds, each line a test in tests/ledger/test_chart.py:

1. Every name these functions return is accepted by ``check_account``.
2. A name outside the table is refused before it reaches the database.
"""

from __future__ import annotations

import re
from typing import Final

from protocol.errors import LedgerError
from protocol.ids import AccountId, SiteId, StudyId

GENESIS: Final = AccountId("genesis")
BURNED: Final = AccountId("burned")
SLASHED: Final = AccountId("slashed")
PENDING: Final = AccountId("pending")

PARTS_OF_KIND: Final = {
    "genesis": 0,
    "burned": 0,
    "slashed": 0,
    "pending": 0,
    "vesting": 1,
    "treasury": 1,
    "wallet": 1,
    "escrow": 1,
    "pool": 2,
    "stake": 1,
    "fees": 1,
    "rewards": 1,
    "points": 1,
    "chain": 1,
}
MANAGED: Final = frozenset({"escrow", "pending", "vesting", "stake", "slashed", "chain"})
"""Kinds that move only through a module of their own, which keeps a state beside the money."""
PART: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""Room for a slug of ``protocol.ids`` and for a pseudonymous address of 64 hexadecimal digits."""


class AccountMisnamed(LedgerError):
    """The name is not in the chart of accounts."""

    code = "account-misnamed"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name!r} is not an account name; use one of {', '.join(sorted(PARTS_OF_KIND))} "
            "followed by its parts in lower-case letters, digits and dashes"
        )


def check_account(name: str) -> AccountId:
    """Return ``name`` as an account id.

    Raises:
        AccountMisnamed: The chart has no such account.
    """
    kind, *parts = name.split(":")
    if PARTS_OF_KIND.get(kind) != len(parts) or not all(map(PART.fullmatch, parts)):
        raise AccountMisnamed(name)
    return AccountId(name)


def kind_of(account: AccountId) -> str:
    """Return the first part of an account's name.

    Examples:
        >>> kind_of(AccountId("escrow:busi-2026"))
        'escrow'
    """
    return account.partition(":")[0]


def treasury(bucket: str) -> AccountId:
    """Return the account of an allocation bucket."""
    return check_account(f"treasury:{bucket}")


def wallet(party: str) -> AccountId:
    """Return the account a party spends from; for a hospital, ``party`` is its site id."""
    return check_account(f"wallet:{party}")


def escrow(order: str) -> AccountId:
    """Return the account that holds what was put up for ``order``, a study or order id."""
    return check_account(f"escrow:{order}")


def pool(study: StudyId, site: SiteId) -> AccountId:
    """Return the account that gathers the patients' share of ``study`` at ``site``."""
    return check_account(f"pool:{study}:{site}")


def vesting(beneficiary: str) -> AccountId:
    """Return the account from which a beneficiary's allocation is released."""
    return check_account(f"vesting:{beneficiary}")


def stake(party: str) -> AccountId:
    """Return the account of what a party has bonded."""
    return check_account(f"stake:{party}")


def fees(purpose: str) -> AccountId:
    """Return the account of fees kept for a purpose."""
    return check_account(f"fees:{purpose}")


def rewards(group: str) -> AccountId:
    """Return the account of what is set aside for a group's rewards."""
    return check_account(f"rewards:{group}")


def points(pseudonym: str) -> AccountId:
    """Return the account that backs the points of a pseudonym; never a patient's name."""
    return check_account(f"points:{pseudonym}")


def chain(place: str) -> AccountId:
    """Return the account of what left for a chain: ``claims``, or an address in lower case."""
    return check_account(f"chain:{place}")
