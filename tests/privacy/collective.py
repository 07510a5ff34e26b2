"""A group of holders with a collective key, made as hospitals make it, kept for many tests."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from privacy import polynomial_sharing, threshold
from privacy.bfv import EncryptedSum, ServerContext
from privacy.key_generation import (
    CollectiveKey,
    Contribution,
    KeyShare,
    collective_key,
    contribute,
    join_shares,
)
from privacy.masks import MaskedUpdate, apply
from privacy.packing import pack
from privacy.parameters import parameter_set
from privacy.quantisation import QuantisedUpdate

PARAMETERS = parameter_set("threshold-bfv-8")
CONTEXT = b"a study, its epoch and its sites"


@dataclass(frozen=True)
class Group:
    """Everything that all holders know together, which nobody does."""

    parts: list[Contribution]
    key: CollectiveKey
    shares: list[KeyShare]

    def partials(self, total: EncryptedSum, quorum: list[int]) -> dict[int, bytes]:
        return {i: threshold.partial(total, self.shares[i], quorum) for i in quorum}

    def open(self, total: EncryptedSum, quorum: list[int]) -> np.ndarray:
        shares = self.partials(total, quorum)
        return threshold.combine(total, shares, self.key, threshold=self.key.threshold)

    def secret(self) -> np.ndarray:
        """The evaluations, mod the primes of ciphertexts, of the secret that nobody forms."""
        shares = {share.index: share.values for share in self.shares}
        return polynomial_sharing.join(shares, primes=PARAMETERS.data_modulus)


@lru_cache(maxsize=8)
def group(holders: int, quorum: int, context: bytes = CONTEXT) -> Group:
    parts = [
        contribute(PARAMETERS, threshold=quorum, holders=holders, context=context)
        for _ in range(holders)
    ]
    key = collective_key([part.public for part in parts], PARAMETERS, context=context)
    shares = [
        join_shares([part.shares[i] for part in parts], PARAMETERS, index=i, key=key)
        for i in range(holders)
    ]
    # Between them, the shares of large groups are half a gigabyte; no test looks at them.
    return Group(parts if holders <= 16 else [], key, shares)


def masked(values: np.ndarray, weight: int = 1) -> MaskedUpdate:
    return apply(pack(QuantisedUpdate(values.astype(np.int16), 8, 0), weight, PARAMETERS), [])


def summed(values: list[np.ndarray], key: CollectiveKey) -> EncryptedSum:
    updates = [threshold.encrypt(masked(one), key) for one in values]
    return ServerContext(PARAMETERS).add(updates)
