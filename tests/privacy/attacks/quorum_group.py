"""Hospitals that hold a key together: the collective key, and the share of it at each of them."""

from dataclasses import dataclass, replace

from privacy import threshold
from privacy.key_generation import (
    CollectiveKey,
    KeyShare,
    check_commitments,
    collective_key,
    contribute,
    join_shares,
)
from privacy.parameters import ParameterSet

HOLDERS, THRESHOLD = 5, 4


@dataclass(frozen=True)
class Group:
    parameters: ParameterSet
    key: CollectiveKey
    shares: tuple[KeyShare, ...]

    @classmethod
    def meet(cls, parameters):
        shape = {"threshold": THRESHOLD, "holders": HOLDERS, "context": b"attacks"}
        parts = [contribute(parameters, **shape) for _ in range(HOLDERS)]
        publics = [part.public for part in parts]
        check_commitments(publics, [part.commitment for part in parts])
        key = collective_key(publics, parameters, context=b"attacks")
        shares = (
            join_shares([part.shares[holder] for part in parts], parameters)
            for holder in range(HOLDERS)
        )
        return cls(parameters, key, tuple(shares))

    def open(self, total, quorum):
        """Return the slots that these holders decrypt together, however few they are."""
        own = {i: replace(self.shares[i], threshold=len(quorum)) for i in quorum}
        given = {i: threshold.partial(total, share, quorum) for i, share in own.items()}
        return threshold.combine(total, given, self.key, threshold=len(quorum))
