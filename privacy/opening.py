"""Two ways to decrypt a sum, behind one interface: each member alone, or a quorum together.

::

    members     one group key, held by every hospital        no shares   bfv.open_sum
    threshold   one collective key, held by nobody           t shares    threshold.combine

Either way the slots that come out still carry the masks of the round, so that whoever decrypts
one upload, or the sum, learns noise until a quorum has revealed what remains of the masks. The
choice is the study's (``StudyTerms.opening``): with members, a group key that leaks leaves the
masks as the only wall; with a threshold it takes a quorum to have a key that could leak.

What holds, each a test in tests/privacy/test_opening.py:

1. Both ways open the same sum to the same integers.
2. A parameter set serves one way only, and says which (``ParameterSet.seeded``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from privacy import bfv, threshold
from privacy.bfv import EncryptedSum, EncryptedUpdate, SecretKey
from privacy.key_generation import CollectiveKey, KeyShare
from privacy.masks import MaskedUpdate
from privacy.parameters import ParameterSet
from protocol.errors import ConfigurationError
from protocol.ids import KeyId, SiteId

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OpeningMismatch(ConfigurationError):
    """A study's parameter set is not one for its way of opening."""

    code = "opening-mismatch"

    def __init__(self, parameters: str, opening: str) -> None:
        super().__init__(
            f"the parameter set {parameters} does not serve opening by {opening}; take a packed "
            "set for members and a threshold set for a quorum"
        )


class GroupCipher(Protocol):
    """One hospital's hold on the key of its group."""

    @property
    def key_id(self) -> KeyId:
        """The name every envelope carries."""
        ...

    def encrypt(self, masked: MaskedUpdate) -> EncryptedUpdate:
        """Encrypt this hospital's masked update."""
        ...

    def share(self, total: EncryptedSum, quorum: Sequence[SiteId]) -> bytes:
        """Return this hospital's share of a decryption, empty where none is needed."""
        ...

    def open(self, total: EncryptedSum, shares: Mapping[SiteId, bytes]) -> NDArray[np.uint64]:
        """Return the ``(ciphertexts * ring_degree,)`` masked slots of a sum."""
        ...


@dataclass(frozen=True)
class MemberCipher:
    """Every member holds the key, and opens alone."""

    key: SecretKey

    @property
    def key_id(self) -> KeyId:
        """The group key's name."""
        return self.key.key_id

    def encrypt(self, masked: MaskedUpdate) -> EncryptedUpdate:
        """Encrypt under the group key, at half the size: the second polynomial is a seed."""
        return bfv.encrypt(masked, self.key)

    def share(self, total: EncryptedSum, quorum: Sequence[SiteId]) -> bytes:  # noqa: ARG002 - one interface
        """Return nothing: a member needs nobody's share."""
        return b""

    def open(self, total: EncryptedSum, shares: Mapping[SiteId, bytes]) -> NDArray[np.uint64]:  # noqa: ARG002 - one interface
        """Decrypt; see ``bfv.open_sum`` for what is refused."""
        return bfv.open_sum(total, self.key)


@dataclass(frozen=True)
class QuorumCipher:
    """Nobody holds the key; ``holders`` are the sites with shares, in the order of their index."""

    key: CollectiveKey
    key_share: KeyShare
    holders: tuple[SiteId, ...]
    threshold: int

    @property
    def key_id(self) -> KeyId:
        """The collective key's name."""
        return self.key.key_id

    def encrypt(self, masked: MaskedUpdate) -> EncryptedUpdate:
        """Encrypt under the collective public key."""
        return threshold.encrypt(masked, self.key)

    def share(self, total: EncryptedSum, quorum: Sequence[SiteId]) -> bytes:
        """Decrypt in part, for exactly this quorum, covered by smudging noise."""
        return threshold.partial(total, self.key_share, [self.holders.index(one) for one in quorum])

    def open(self, total: EncryptedSum, shares: Mapping[SiteId, bytes]) -> NDArray[np.uint64]:
        """Combine the shares; see ``threshold.combine`` for what is refused."""
        indexed = {self.holders.index(site): share for site, share in shares.items()}
        return threshold.combine(total, indexed, self.key, threshold=self.threshold)


def check_way(parameters: ParameterSet, opening: str) -> None:
    """Return if ``parameters`` serve this way of opening.

    Raises:
        OpeningMismatch: They serve the other.
    """
    if parameters.seeded != (opening == "members"):
        raise OpeningMismatch(parameters.name, opening)
