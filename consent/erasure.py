"""Erasing a patient: end her grants, then destroy all that opens them.

A leaf is a Poseidon hash over a pseudonym, the terms and a salt of 254 random bits that the
hospital alone holds. Once salt, randomness and opening are destroyed, nobody can tell whose leaf it
was, the hospital included, though it still knows her number: there is nothing left to compare with.
What stays is public and about nobody: a leaf that was, a hash of a code, an epoch.

What holds (tests/consent/test_erasure.py):

1. Nothing of an erased patient is in the openings' files: no number, pseudonym, salt or leaf.
2. Her grants are withdrawn first; if that fails nothing is destroyed, so it can be tried again.
3. Other patients' openings stay.

Out of reach are copies: backups of the openings, which must be kept as short as the law says, and
the receipts on a patient's own paper.

References:
    Regulation (EU) 2016/679, article 17.
    Personal Information Protection Law of the People's Republic of China, article 47.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consent.openings import OpeningStore
from protocol.ids import GrantId, PatientId


@dataclass(frozen=True)
class Erased:
    """What was done, without saying to whom."""

    grants: tuple[GrantId, ...]
    """All of her grants, each withdrawn by now."""


def erase(
    openings: OpeningStore, patient: PatientId, withdraw: Callable[[GrantId], object]
) -> Erased:
    """Withdraw all of a patient's grants and destroy their openings; again, does nothing.

    Args:
        openings: The hospital's.
        patient: The hospital's own number.
        withdraw: Ends a grant, and does nothing for one that has ended:
            ``consent.registry.Registry.withdraw_for_site``.

    Raises:
        ConsentError: A withdrawal was refused; nothing was destroyed.
        StorageError: The disk refused; nothing was destroyed.
    """
    grants = tuple(receipt.grant for receipt in openings.receipts_of(patient))
    for grant in grants:
        withdraw(grant)
    openings.destroy(patient)
    return Erased(grants)
