"""Between claims and the books: open a payout from a pool's money, and pay what was claimed.

The market puts the patients' share of a study at a hospital into an account, ``pool:STUDY:SITE``
(``ledger.chart``). A payout splits what of it is not promised yet over the live consents of the
newest epoch. A claim is paid from the same account to the wallet that it names, under its own id as
the transfer's key: a crash between paying and noting it pays nothing twice.

What holds (tests/portal/test_patient_payouts.py):

1. What payouts promise and have not paid is never more than the pool holds.
2. Every claim is paid once, over any crash between the two databases.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from consent.claims import Claim, ClaimBook, Payout, SmallGroups
from consent.registry import Registry
from ledger.books import Ledger
from ledger.chart import AccountMisnamed, check_account, kind_of, pool
from portal.books import open_books
from portal.home import Home
from portal.patient.server import read_terms
from protocol.ids import SiteId

WALLET: Final = "wallet"


@dataclass(frozen=True)
class Paid:
    """What became of the claims that waited."""

    claims: tuple[Claim, ...]
    unpayable: int
    """Claims to what is no wallet in the books, such as an address elsewhere: they wait."""


def open_payout(home: Home, site: SiteId, *, small_groups: SmallGroups) -> Payout:
    """Split what a hospital's pool holds and does not owe over the consents that are live now.

    Args:
        home: Of the study.
        site: The hospital.
        small_groups: Whether so few may share it that a claim says much about who claims.

    Raises:
        NoRunHere: The home has no study or no books.
        UnknownAccount: Nothing was ever paid to the hospital's patients.
        GroupTooSmall, PoolTooSmall, PayoutDiffers: See ``ClaimBook.open_payout``.
        StorageError: The disk refused; nothing was opened.
    """
    terms = read_terms(home)
    with home.lock():
        registry = Registry.reader(home.server / "registry.db")
        book = ClaimBook(
            home.server / "claims.db", registry=terms.consent.registry, small_groups=small_groups
        )
        epoch = registry.epoch().number
        members = registry.payout_ids(terms.study, site, epoch=epoch)
        held = open_books(home.path).balance(pool(terms.study, site))
        free = held - book.owed(terms.study, site)
        return book.open_payout(terms.study, epoch, site, members, pool=free)


def pay_claims(home: Home, *, now: datetime) -> Paid:
    """Pay every claim that waits, from its hospital's pool to the wallet that it names.

    Raises:
        NoRunHere: The home has no study or no books.
        InsufficientFunds: Somebody else spent what a pool owed.
        StorageError: The disk refused; what was paid is noted, or is noted the next time.
    """
    terms = read_terms(home)
    with home.lock():
        book = ClaimBook(home.server / "claims.db", registry=terms.consent.registry)
        ledger = open_books(home.path)
        paid, unpayable = [], 0
        for claim in book.unpaid():
            if not _is_wallet(claim.recipient):
                unpayable += 1
                continue
            _pay(ledger, claim, now)
            book.mark_paid(claim.id, now=now)
            paid.append(claim)
    return Paid(tuple(paid), unpayable)


def _pay(ledger: Ledger, claim: Claim, now: datetime) -> None:
    wallet = ledger.open_account(check_account(claim.recipient))
    ledger.transfer(
        f"claim:{claim.id}",
        pool(claim.study, claim.site),
        wallet,
        claim.amount,
        memo="a patient's share",
        now=now,
    )


def _is_wallet(recipient: str) -> bool:
    try:
        return kind_of(check_account(recipient)) == WALLET
    except AccountMisnamed:
        return False
