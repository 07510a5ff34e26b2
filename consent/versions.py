"""The versions of a patient's consent, as her hospital can tell them: granted, narrowed, withdrawn.

The hospital knows the terms and the registry the times; neither knows both, and the history is put
together where it is asked for. Every version has the receipt that proves it.

What holds (tests/consent/test_versions.py):

1. Every grant of a patient begins one version and ends with one, if it has ended.
2. A grant in the place of another is ``narrowed`` if it allows nothing that the other did not,
   and ``changed`` if it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from consent.openings import OpeningStore
from consent.reader import RegistryReader
from consent.receipts import GrantReceipt
from consent.terms import Terms
from protocol.ids import GrantId, PatientId

Event = Literal["granted", "narrowed", "changed", "withdrawn"]


@dataclass(frozen=True)
class Version:
    """One step in the history of a patient's consent."""

    event: Event
    grant: GrantId
    epoch: int
    at: str
    """ISO 8601, UTC."""
    terms: Terms
    """Of the grant that began, or that ended."""
    receipt: GrantReceipt
    """Of the same grant."""


def versions_of(
    openings: OpeningStore, registry: RegistryReader, patient: PatientId
) -> list[Version]:
    """Return the history of a patient's grants, oldest first.

    Args:
        openings: Her hospital's.
        registry: The registry that published them.
        patient: The hospital's own number.

    Raises:
        GrantUnknown: A receipt is not of this registry.
    """
    terms: dict[GrantId, Terms] = {}
    versions: list[Version] = []
    for receipt in openings.receipts_of(patient):
        known = openings.opening_at(receipt.index)
        assert known is not None  # its receipt is in the same row
        terms[receipt.grant] = known[1].terms
    for receipt in openings.receipts_of(patient):
        status, mine = registry.status(receipt.grant), terms[receipt.grant]
        before = None if receipt.replaces is None else terms.get(receipt.replaces)
        event: Event = "granted"
        if receipt.replaces is not None:
            event = "narrowed" if before is not None and is_within(mine, before) else "changed"
        versions.append(Version(event, receipt.grant, receipt.epoch, receipt.at, mine, receipt))
        if status.ended_epoch is not None and status.replaced_by is None:
            assert status.ended_at is not None
            end = status.ended_epoch, status.ended_at
            versions.append(Version("withdrawn", receipt.grant, *end, mine, receipt))
    return sorted(versions, key=lambda version: version.epoch)


def is_within(terms: Terms, before: Terms) -> bool:
    """Say whether ``terms`` allow nothing that ``before`` did not."""
    return (
        terms.grants & ~before.grants == 0
        and (terms.site, terms.dataset, terms.study) == (before.site, before.dataset, before.study)
        and before.not_before <= terms.not_before
        and terms.expiry <= before.expiry
    )
