"""The terms of one grant: what for, where, for which study, from when until when.

Terms are numbers, because a circuit reads them: names of site, data set and study stand as
``protocol.ids.number_of`` gives them, days count from 1970-01-01. They are packed into one field
element of which the leaf in the registry is a commitment.

    >>> terms = Terms(grants=5, site=1, dataset=2, study=3, not_before=20000, expiry=20365)
    >>> terms.allows(required=4, from_day=20000, through_day=20364)
    True
    >>> terms.allows(required=4, from_day=20000, through_day=20365)
    False

What holds (tests/consent/test_terms.py):

1. Packing is injective: different terms are different numbers, and ``unpacked`` undoes it.
2. ``allows`` says yes exactly where the circuit ``cover`` can be satisfied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from protocol.errors import ConsentError
from zk.cover import (
    DATASET_BITS,
    DAY_BITS,
    GRANTS_BITS,
    SITE_BITS,
    STUDY_BITS,
    pack_terms,
)

PACKED_BITS: Final = GRANTS_BITS + SITE_BITS + DATASET_BITS + STUDY_BITS + 2 * DAY_BITS


class TermsNeverValid(ConsentError):
    """Terms end before they begin, so no day is covered."""

    code = "terms-never-valid"

    def __init__(self, not_before: int, expiry: int) -> None:
        self.not_before = not_before
        self.expiry = expiry
        super().__init__(
            f"terms from day {not_before} that expire on day {expiry} cover no day; "
            "let them expire later than they begin"
        )


@dataclass(frozen=True)
class Terms:
    """What a patient agreed to.

    Raises:
        FieldOutOfRange: A number does not fit its place in the packed form.
        TermsNeverValid: ``expiry`` is not later than ``not_before``.
    """

    grants: int
    """Bits of ``consent.purposes``."""
    site: int
    dataset: int
    study: int
    not_before: int
    """First day of use."""
    expiry: int
    """First day on which there is no use any more."""

    def __post_init__(self) -> None:
        self.packed()
        if self.not_before >= self.expiry:
            raise TermsNeverValid(self.not_before, self.expiry)

    def packed(self) -> int:
        """Return the field element that stands for these terms in a leaf, below 2^192."""
        return pack_terms(
            self.grants, self.site, self.dataset, self.study, self.not_before, self.expiry
        )

    @classmethod
    def unpacked(cls, packed: int) -> Self:
        """Return the terms that ``packed`` stands for."""
        assert 0 <= packed < 1 << PACKED_BITS
        numbers = []
        for bits in (GRANTS_BITS, SITE_BITS, DATASET_BITS, STUDY_BITS, DAY_BITS, DAY_BITS):
            numbers.append(packed & ((1 << bits) - 1))
            packed >>= bits
        return cls(*numbers)

    def allows(self, required: int, from_day: int, through_day: int) -> bool:
        """Say whether every required bit is granted on all days from the first to the last.

        Site, data set and study are not looked at: the caller compares them, or the circuit does.
        """
        return (
            required & ~self.grants == 0
            and self.not_before <= from_day <= through_day < self.expiry
        )
