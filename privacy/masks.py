"""Grow one-time pads from keys and add them to a packed update, so that only the sum can be read.

A pad is a vector uniform mod t, grown from a 32-byte key. A site adds its own pad and, for every
other site of the roster, one that only the two of them can grow: of each pair the site with the
smaller id adds it and the other subtracts it, so that these cancel in the sum [1]::

    masked_i = packed_i + PRG(self_i) + sum_{j > i} PRG(pair_ij) - sum_{j < i} PRG(pair_ij)  mod t

    self_i  = HKDF(seed of i, label | id of i | context)
    pair_ij = HKDF(X25519(i, j), label | smaller id | larger id | their public keys | context)
    PRG(k)  = the AES-256-CTR keystream of k, cut into words of t's bits, those below t in order

An id is written as one byte of length and its letters; the public keys stand in the order of the
ids, as an X25519 key can be written in more than one way [2]. The context is the digest of the
round's plan. Whoever holds the group key and one site's upload sees noise; what stays in the sum
of those who sent one is taken out by ``privacy.round_secrets``.

    >>> from privacy.parameters import parameter_set
    >>> preset = parameter_set("packed-bfv-8")
    >>> key = self_pad_key(bytes(32), SiteId("north"), context=b"round 1")
    >>> pad_sum([key], [key], size=4, parameters=preset).tolist()
    [0, 0, 0, 0]

What holds, each line a property test in tests/privacy/test_masks.py:

1. ``remove`` undoes ``apply``; pads that add up to zero mod t over the sites cancel in the sum.
2. ``encrypt`` takes a ``MaskedUpdate`` and nothing else.
3. The two sites of a pair derive one key; another context, id or key of either gives another.
4. ``pad_sum`` is the sum of its pads, word for word that of a slow twin, at any size and number.

References:
    [1] Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning,
    CCS 2017, section 4. [2] RFC 7748, sections 5 and 6.1. [3] HKDF with SHA-256: RFC 5869.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.packing import PackedUpdate
from privacy.parameters import ParameterSet
from privacy.randomness import KEY_BYTES, RandomStream
from protocol.errors import PrivacyError
from protocol.ids import SiteId

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SELF_LABEL: Final = b"bithive self pad\n"
_PAIR_LABEL: Final = b"bithive pair pad\n"
_PIECE: Final = 2**14  # words; a piece of every pad stays in the processor's cache


class PadAgreementRefused(PrivacyError):
    """No secret can be agreed with a site, because its round key is none or agrees on zero."""

    code = "pad-agreement-refused"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(
            f"no pad can be agreed with {site}: the round key announced for it is no usable "
            "X25519 public key; leave the site out and call the round again"
        )


@dataclass(frozen=True)
class MaskedUpdate:
    """A packed update to which every pad of the round was added.

    Attributes:
        words: ``(ciphertexts * ring_degree,)`` integers below t.
        length: How many values they hold.
        parameters: The layout they follow.
    """

    words: NDArray[np.uint64]
    length: int
    parameters: ParameterSet


def apply(packed: PackedUpdate, pads: Sequence[NDArray[np.uint64]]) -> MaskedUpdate:
    """Return ``packed`` plus all ``pads`` mod t.

    Args:
        packed: The site's packed update.
        pads: Each of the shape of ``packed.words`` and uniform below t, used once; in a round
            one, ``round_secrets.total_pad``. To subtract a pad, pass ``negate`` of it.
    """
    words = _add_all(packed.words, pads, packed.parameters)
    return MaskedUpdate(words, packed.length, packed.parameters)


def remove(
    words: NDArray[np.uint64], pads: Sequence[NDArray[np.uint64]], parameters: ParameterSet
) -> NDArray[np.uint64]:
    """Return ``words`` minus all ``pads`` mod t.

    Args:
        words: ``(ciphertexts * ring_degree,)`` slots of an opened sum.
        pads: Those that did not cancel in the sum (``round_secrets.leftover``).
        parameters: Of the sum.
    """
    return _add_all(words, (negate(pad, parameters) for pad in pads), parameters)


def negate(pad: NDArray[np.uint64], parameters: ParameterSet) -> NDArray[np.uint64]:
    """Return the pad that cancels ``pad``."""
    modulus = np.uint64(parameters.plain_modulus)
    return np.where(pad == 0, pad, modulus - pad)


def self_pad_key(seed: bytes, site: SiteId, *, context: bytes) -> bytes:
    """Return the 32-byte key of the pad that ``site`` adds alone.

    Args:
        seed: 32 secret bytes of this round.
        site: Whose seed it is.
        context: The digest of the round's plan.
    """
    return _derive(seed, _SELF_LABEL + _written(site) + context)


def pair_pad_key(
    own_key: X25519PrivateKey, own: SiteId, other_key: bytes, other: SiteId, *, context: bytes
) -> bytes:
    """Return the 32-byte key of the pad that ``own`` and ``other`` share; both derive the same.

    Args:
        own_key: The private round key of ``own``.
        own: One site of the pair.
        other_key: The 32-byte public round key of ``other``, as the roster names it.
        other: The other site.
        context: The digest of the round's plan.

    Raises:
        PadAgreementRefused: ``other_key`` is no key, or one that agrees on zero with everybody.
    """
    assert own != other
    try:
        # ``cryptography`` refuses the all-zero result of a key of small order [2].
        shared = own_key.exchange(X25519PublicKey.from_public_bytes(other_key))
    except ValueError as error:
        raise PadAgreementRefused(other) from error
    ends = sorted([(own, own_key.public_key().public_bytes_raw()), (other, other_key)])
    bound = b"".join(_written(site) for site, _ in ends) + b"".join(key for _, key in ends)
    return _derive(shared, _PAIR_LABEL + bound + context)


def pad_sum(
    added: Iterable[bytes], subtracted: Iterable[bytes], *, size: int, parameters: ParameterSet
) -> NDArray[np.uint64]:
    """Return the pads grown from ``added`` minus those grown from ``subtracted``, mod t.

    Args:
        added: 32-byte keys.
        subtracted: 32-byte keys.
        size: Words of every pad.
        parameters: Of the update the pads are for.

    Returns:
        ``(size,)`` integers below t.
    """
    modulus = np.uint64(parameters.plain_modulus)
    plus, minus = _streams(added), _streams(subtracted)
    total = np.empty(size, dtype=np.uint64)
    for start in range(0, size, _PIECE):
        piece = total[start : start + _PIECE]
        ahead = _sum_of_streams(plus, piece.size, parameters.plain_modulus)
        behind = _sum_of_streams(minus, piece.size, parameters.plain_modulus)
        np.remainder(ahead + (modulus - behind), modulus, out=piece)
    return total


def _sum_of_streams(streams: Sequence[RandomStream], size: int, modulus: int) -> NDArray[np.uint64]:
    """Return ``(size,)``, the sum mod ``modulus`` of the streams' next integers below it."""
    # That many fit on top of a reduced sum; a reduction for each would cost more than its pad.
    room = 2**64 // modulus - 1
    total = np.zeros(size, dtype=np.uint64)
    for number, stream in enumerate(streams, start=1):
        total += stream.below(modulus, size)
        if number % room == 0:
            total %= np.uint64(modulus)
    return total % np.uint64(modulus)


def _streams(keys: Iterable[bytes]) -> list[RandomStream]:
    return [RandomStream(key, secret=True) for key in keys]


def _derive(material: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(material)


def _written(site: SiteId) -> bytes:
    """Return an id with its length in front, so that two ids in a row have one reading."""
    name = site.encode()
    return bytes([len(name)]) + name


def _add_all(
    words: NDArray[np.uint64], pads: Iterable[NDArray[np.uint64]], parameters: ParameterSet
) -> NDArray[np.uint64]:
    modulus = np.uint64(parameters.plain_modulus)
    total = words
    for pad in pads:
        assert pad.shape == words.shape
        assert int(pad.max()) < parameters.plain_modulus
        summed = total + pad  # below 2t, far from 2**64
        total = np.where(summed >= modulus, summed - modulus, summed)
    return total
