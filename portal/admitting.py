"""A study's server takes in what hospitals send of consent, and answers with receipts.

The server learns leaves, hashes of codes and whose lane they are for; it can open none. A
hospital's word is its signature, under the key that the study's terms name.

What holds, each line a test in tests/portal/test_admitting.py:

1. Grants are published in the lane of the hospital that signed them, all of a file or none, in one
   epoch.
2. A file taken in again publishes nothing and gives the same receipts, to the byte; one that was
   taken in before and grew publishes what is new.
3. A foreign signature, another study, a leaf of another hospital and a lane for proven grants are
   refused.
4. A hospital ends its own grants only; what is not published yet is counted, and ended when the
   file comes again. What is another hospital's is counted, and keeps no other from ending.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from consent.lanes import Lane, LaneUnknown
from consent.publication import LeafUnusable, grant_id
from consent.receipts import GrantReceipt, WithdrawalReceipt
from consent.registry import Registry
from consent.withdrawal import GrantOfAnotherSite, GrantUnknown
from portal.consent_files import (
    ConsentFileRefused,
    GrantsFile,
    ReceiptsFile,
    WithdrawalsFile,
    read_file,
)
from portal.consents import Consents, open_registry
from portal.home import Home
from privacy.signatures import check_site_message, registered
from protocol.canonical import canonical, digest
from protocol.ids import SiteId


@dataclass(frozen=True)
class Admitted:
    """What became of a hospital's file, and the file that answers it."""

    site: SiteId
    receipts: bytes
    done: int
    """Grants published now, or ended as of now."""
    known: int
    """Grants published before; of withdrawals none."""
    unknown: int = 0
    """Grants to end that are not published yet."""
    foreign: int = 0
    """Grants to end that are in another hospital's lane."""


def admit_grants(home: Home, content: bytes, *, now: datetime) -> Admitted:
    """Publish a hospital's grants, those that are not yet, and return their receipts.

    Args:
        home: The server's.
        content: The hospital's file; hostile.
        now: With a time zone.

    Raises:
        NoRunHere: No study was founded here.
        ConsentFileRefused: It is no file of grants of this study.
        SiteUnknown: The study does not know the hospital.
        BadSignature: The hospital did not sign it.
        LaneProvenOnly, LaneFull, LeafUnusable: The lane does not take them; nothing was published.
        StorageError: The disk refused; nothing was published.
    """
    terms = Consents.of(home.path).terms
    sent = read_file(GrantsFile, content)
    if (sent.study, sent.terms) != (terms.study, digest(terms)):
        raise ConsentFileRefused(sent.what, f"it is not for {terms.study} as it was founded here")
    check_site_message(terms, sent, "file of grants")
    registry = open_registry(home.server, terms)
    lane = _lane(registry, (terms.study, sent.site, terms.consent.dataset))
    published = _published(registry, lane, sent)
    new = [(one.leaf, one.revoke_hash) for one in sent.grants if one.leaf not in published]
    receipts = registry.publish_many(lane, new, now=now)
    published |= {one.leaf: one for one in receipts}
    answer = ReceiptsFile.of(sent.site, [published[one.leaf] for one in sent.grants])
    return Admitted(
        sent.site, canonical(answer) + b"\n", len(receipts), len(sent.grants) - len(receipts)
    )


def admit_withdrawals(home: Home, content: bytes, *, now: datetime) -> Admitted:
    """End the grants that a hospital ends, each once, and return the receipts of their end.

    Raises:
        NoRunHere: No study was founded here.
        ConsentFileRefused: It is no file of withdrawals from this registry.
        SiteUnknown: The study does not know the hospital.
        BadSignature, NotSignedByHospital: The hospital did not sign it, or one of them.
        StorageError: The disk refused; those before it have ended.
    """
    terms = Consents.of(home.path).terms
    sent = read_file(WithdrawalsFile, content)
    if sent.registry != terms.consent.registry:
        raise ConsentFileRefused(sent.what, f"it is not for {terms.consent.registry}")
    check_site_message(terms, sent, "file of withdrawals")
    key = registered(terms, sent.site).signing_key
    registry = open_registry(home.server, terms)
    receipts: list[WithdrawalReceipt] = []
    unknown = foreign = 0
    for statement in sent.statements():
        try:
            receipts.append(registry.withdraw_for_site(statement, key, now=now))
        except GrantUnknown:
            unknown += 1
        except GrantOfAnotherSite:  # a leaf that was copied on its way, and published elsewhere
            foreign += 1
    answer = ReceiptsFile.of(sent.site, receipts)
    return Admitted(sent.site, canonical(answer) + b"\n", len(receipts), 0, unknown, foreign)


def _lane(registry: Registry, wanted: tuple[str, str, str]) -> Lane:
    for lane in registry.lanes():
        if (lane.study, lane.site, lane.dataset) == wanted:
            return lane
    raise LaneUnknown(f"{wanted[1]} in {wanted[0]}")


def _published(registry: Registry, lane: Lane, sent: GrantsFile) -> dict[int, GrantReceipt]:
    """Return the receipts of those leaves that are published in the hospital's lane.

    Raises:
        LeafUnusable: One is published in another lane: leaves are public, and copied easily.
    """
    found: dict[int, GrantReceipt] = {}
    for position, one in enumerate(sent.grants):
        try:
            receipt = registry.receipt(grant_id(registry.id, one.leaf))
        except GrantUnknown:
            continue
        if receipt.index not in lane.indices:
            raise LeafUnusable(position, "its leaf is another hospital's")
        found[one.leaf] = receipt
    return found
