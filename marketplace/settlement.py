"""Settle a closed round: check every receipt, then pay all sites in one transfer, once.

A receipt says what a site contributed. It is believed only if the site's registered key signed it
and the server's key countersigned that. The round's budget is divided by gradients
(``marketplace.valuation``, mode ``total``); of each site's payout the patients' share goes to the
pool of the study at that site, rounded down, and the rest to the hospital::

    escrow:STUDY ──▶ wallet:SITE          70 %, and what rounding leaves
                 └─▶ pool:STUDY:SITE      30 %, to be claimed by those who consented

The transfer's key is the study and the round, its memo the hash of the receipts. A crash before
the commit leaves nothing, a crash after it is healed by settling again: the same receipts find the
payment made, other receipts for a paid round are refused.

What holds, each line a test in tests/marketplace (test_settlement.py, test_exactly_once.py):

1. A round is paid at most once, by whichever process and however often it is settled.
2. Escrow out = hospitals in + pools in, to the base unit.
3. Nothing is paid when one receipt of the round is not in order.
4. What no round earned returns to the funder when the study is finished.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ledger import chart, escrow
from ledger.books import Ledger
from ledger.journal import Transfer
from marketplace.study import Study
from marketplace.valuation import split_budget
from privacy.signatures import check_signature
from protocol.errors import MarketError
from protocol.ids import AccountId, SiteId, StudyId
from protocol.messages import Receipt, RoundClosed


class RoundMisplaced(MarketError):
    """A round or receipt belongs to another study or round than the one being settled."""

    code = "round-misplaced"

    def __init__(self, what: str, found: str, expected: str) -> None:
        self.what = what
        self.found = found
        self.expected = expected
        super().__init__(f"{what} is for {found}, not {expected}; settle it where it belongs")


class SiteUnregistered(MarketError):
    """A receipt comes from a site, or under a key, that is not registered for the study."""

    code = "site-unregistered"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(
            f"site {site} did not sign with a key registered for this study; register it first"
        )


class ServerUnknown(MarketError):
    """The round was closed under another server key than the study's."""

    code = "server-unknown"

    def __init__(self, study: StudyId, number: int) -> None:
        self.study = study
        self.round = number
        super().__init__(
            f"round {number} of {study} was not closed by the study's server; ask that server"
        )


class ReceiptRepeated(MarketError):
    """A site appears twice in one round and would be paid twice."""

    code = "receipt-repeated"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(f"site {site} has two receipts in one round; keep the one that counts")


class GradientsUnproven(MarketError):
    """A receipt claims gradients although no patient's consent was proven."""

    code = "gradients-unproven"

    def __init__(self, site: SiteId, gradients: int) -> None:
        self.site = site
        self.gradients = gradients
        super().__init__(
            f"site {site} claims {gradients} gradients of no proven patient; prove consent first"
        )


@dataclass(frozen=True)
class Payout:
    """One site's part of a round, in base units: the hospital's and its patients'."""

    site: SiteId
    gradients: int
    hospital: int
    patients: int


@dataclass(frozen=True)
class Settlement:
    """How a round was paid; without a transfer where no site contributed."""

    study: StudyId
    round: int
    payouts: tuple[Payout, ...]
    transfer: Transfer | None

    @property
    def paid(self) -> int:
        """Base units that left the escrow."""
        return sum(payout.hospital + payout.patients for payout in self.payouts)


def settle(
    ledger: Ledger,
    study: Study,
    closed: RoundClosed,
    *,
    site_keys: Mapping[SiteId, bytes],
    server_key: bytes,
    now: datetime,
) -> Settlement:
    """Pay the sites of a closed round out of the study's escrow, exactly once.

    Args:
        ledger: The books; the study is funded.
        study: The terms that were funded.
        closed: What the server announced.
        site_keys: 32-byte Ed25519 keys of the sites registered for the study.
        server_key: The 32-byte Ed25519 key of the study's server.
        now: The time to record.

    Returns:
        The payouts in the order of the site ids. A round without gradients is not paid: it has no
        payouts and no transfer, and its budget stays in escrow.

    Raises:
        RoundMisplaced: Of another study, or no round of this one; likewise a receipt.
        ServerUnknown, SiteUnregistered, BadSignature: Someone else closed or signed.
        ReceiptRepeated, GradientsUnproven: A receipt that must not be paid.
        UnknownEscrow, EscrowEnded: The study is not funded, or is finished.
        IdempotencyConflict: The round was paid before by other receipts.
    """
    _check_round(study, closed, server_key)
    for receipt in closed.receipts:
        _check_receipt(receipt, closed, site_keys, server_key)
    payouts = _value(study, closed)
    accounts = _accounts(study, payouts)
    transfer = None
    if accounts:
        transfer = escrow.release(
            ledger,
            f"settle:{study.study}:{closed.round}",
            study.study,
            accounts,
            memo=f"round {closed.round} of {study.study}, receipts {receipts_hash(closed)}",
            now=now,
        )
    return Settlement(study.study, closed.round, payouts, transfer)


def finish(ledger: Ledger, study: Study, *, now: datetime) -> Transfer | None:
    """End the study: return what no round earned to the funder.

    Returns:
        The refund, the same one when repeated; None where the rounds used up the budget.

    Raises:
        UnknownEscrow: The study was never funded.
    """
    if escrow.escrow_of(ledger, study.study).state == "captured":
        return None
    return escrow.refund(ledger, f"finish:{study.study}", study.study, now=now)


def receipts_hash(closed: RoundClosed) -> str:
    """Return the SHA-256, in hexadecimal, over the round's countersigned receipts by site.

    It stands in the payment's memo, so that a payment names what it paid for.
    """
    together = hashlib.sha256()
    for receipt in sorted(closed.receipts, key=lambda receipt: receipt.site):
        together.update(hashlib.sha256(receipt.server_bytes()).digest())
    return together.hexdigest()


def _check_round(study: Study, closed: RoundClosed, server_key: bytes) -> None:
    if closed.study != study.study:
        raise RoundMisplaced("the round", closed.study, study.study)
    if not 1 <= closed.round <= study.rounds:
        raise RoundMisplaced("the round", f"round {closed.round}", f"rounds 1 to {study.rounds}")
    if closed.server_key != server_key:
        raise ServerUnknown(study.study, closed.round)
    sites = Counter(receipt.site for receipt in closed.receipts)
    for site, count in sorted(sites.items()):
        if count > 1:
            raise ReceiptRepeated(site)


def _check_receipt(
    receipt: Receipt, closed: RoundClosed, site_keys: Mapping[SiteId, bytes], server_key: bytes
) -> None:
    place, expected = (receipt.study, receipt.round), (closed.study, closed.round)
    if place != expected:
        raise RoundMisplaced(
            f"the receipt of {receipt.site}",
            f"round {receipt.round} of {receipt.study}",
            f"round {closed.round} of {closed.study}",
        )
    key = site_keys.get(receipt.site)
    if key is None or receipt.site_key != key:
        raise SiteUnregistered(receipt.site)
    check_signature(
        key,
        receipt.site_signature,
        receipt.site_bytes(),
        what="receipt",
        who=f"site {receipt.site}",
    )
    check_signature(
        server_key,
        receipt.server_signature,
        receipt.server_bytes(),
        what=f"receipt of {receipt.site}",
        who="the server",
    )
    if receipt.gradients > 0 and receipt.proven_patients == 0:
        raise GradientsUnproven(receipt.site, receipt.gradients)


def _value(study: Study, closed: RoundClosed) -> tuple[Payout, ...]:
    gradients = {receipt.site: receipt.gradients for receipt in closed.receipts}
    if not any(gradients.values()):
        return ()
    shares = split_budget(study.round_budget(closed.round), gradients)
    payouts = []
    for site, share in shares.items():
        patients = share * study.patient_share_percent // 100
        payouts.append(Payout(site, gradients[site], share - patients, patients))
    return tuple(payouts)


def _accounts(study: Study, payouts: Sequence[Payout]) -> dict[AccountId, int]:
    amounts = {}
    for payout in payouts:
        amounts[chart.wallet(payout.site)] = payout.hospital
        amounts[chart.pool(study.study, payout.site)] = payout.patients
    return {account: amount for account, amount in amounts.items() if amount > 0}
