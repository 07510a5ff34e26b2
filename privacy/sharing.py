"""Share a 32-byte secret among holders: a quorum of them can join it, and fewer learn nothing.

Shamir's scheme [1] over the prime field of P = 2**256 + 297, the smallest prime in which every
32-byte secret is a number: the secret is f(0) of a random polynomial f of degree threshold - 1,
and holder i, counted from 0, gets f(i + 1), written in 33 bytes, highest first. A share does not
say whose it is; the order of the holders does. The arithmetic is the library ``shamirs``'s.

    >>> shares = split(bytes(range(32)), threshold=3, holders=4)
    >>> [len(share) for share in shares]
    [33, 33, 33, 33]
    >>> join({0: shares[0], 2: shares[2], 3: shares[3]}, threshold=3) == bytes(range(32))
    True

What holds, each a test in tests/privacy/test_sharing.py:

1. Any ``threshold`` shares give the secret back.
2. ``threshold - 1`` shares fit every secret equally well.
3. Two quorums share more sites than may be dishonest: 2 t > n + c for every c <= 2 t - n - 1.

The joined secret is as good as its worst share, and nothing here can tell: who joins compares the
secret with what its owner announced (``privacy.round_secrets``).

References:
    [1] Shamir, How to Share a Secret, CACM 22(11), 1979.
    [2] Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning,
    CCS 2017, section 6 (the threshold against a server that shows two sets of survivors).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import shamirs  # type: ignore[import-untyped]  # the library carries no type information

from protocol.errors import PrivacyError

SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33
PRIME: Final = 2**256 + 297
HOLDERS_MAX: Final = 255
"""Holders of one secret at most; a reveal counts them in one byte."""


class QuorumMissing(PrivacyError):
    """Too few sites stand behind a step that needs a quorum; nothing is shown."""

    code = "quorum-missing"

    def __init__(self, found: int, needed: int) -> None:
        self.found = found
        self.needed = needed
        super().__init__(
            f"{found} sites took part where a quorum of {needed} is needed, so nothing of the "
            "round is shown; bring the missing sites back and run the next round"
        )


class ShareMalformed(PrivacyError):
    """Bytes that should be a share of a secret are not."""

    code = "share-malformed"

    def __init__(self) -> None:
        super().__init__(
            f"a share of a secret is not {SHARE_BYTES} bytes that hold a number below the field's "
            "prime; ask its sender for it again"
        )


class SharesContradict(PrivacyError):
    """Shares join to a number that no secret is, so at least one of them is false."""

    code = "shares-contradict"

    def __init__(self) -> None:
        super().__init__(
            "the shares given do not belong to one secret; leave out the share of one holder "
            "after another to find the false one"
        )


def quorum(n: int) -> int:
    """Return how many of ``n`` sites must take part before anything is shown: floor(2 n / 3) + 1.

    A server that tells one group of sites that a victim sent its update, and another that it did
    not, needs a quorum in each. Honest sites answer once, so with c dishonest ones this takes
    2 t <= n + c [2]; it fails for every c <= 2 t - n - 1, about a third of the sites.

    Args:
        n: Sites called to the round, at least 2.

    Examples:
        >>> [quorum(n) for n in (2, 3, 6, 10, 50)]
        [2, 3, 5, 7, 34]
    """
    assert n >= 2
    return 2 * n // 3 + 1


def colluders(n: int) -> int:
    """Return with how many of ``n`` called sites a server may collude and single out nobody.

    With n - 2 of them it always learns the sum of two; see ``quorum`` for the other bound.

    Examples:
        >>> [colluders(n) for n in (3, 6, 10, 50)]
        [1, 3, 3, 17]
    """
    return min(n - 2, 2 * quorum(n) - n - 1)


def split(secret: bytes, *, threshold: int, holders: int) -> tuple[bytes, ...]:
    """Return the shares of ``secret``, the one of holder i at place i.

    The polynomial's other coefficients come from the operating system's randomness.

    Args:
        secret: 32 bytes.
        threshold: How many shares join to the secret, 2 to ``holders``.
        holders: At most 255.

    Returns:
        ``holders`` shares of 33 bytes each.
    """
    assert len(secret) == SECRET_BYTES
    assert 2 <= threshold <= holders <= HOLDERS_MAX
    points = shamirs.shares(
        int.from_bytes(secret, "big"), holders, modulus=PRIME, threshold=threshold
    )
    return tuple(point.value.to_bytes(SHARE_BYTES, "big") for point in points)


def join(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """Return the secret that the first ``threshold`` of ``shares`` are shares of.

    Args:
        shares: By the holder's place, from 0; hostile bytes. The first ``threshold`` in the
            mapping's order count and the others are not looked at.
        threshold: As given to ``split``.

    Returns:
        32 bytes; another secret than was split if a share is false.

    Raises:
        QuorumMissing: There are fewer than ``threshold`` shares.
        ShareMalformed: One of them is no share.
        SharesContradict: They join to a number that no secret is.
    """
    assert all(0 <= holder < HOLDERS_MAX for holder in shares)
    if len(shares) < threshold:
        raise QuorumMissing(len(shares), threshold)
    chosen = list(shares.items())[:threshold]
    points = [shamirs.share(holder + 1, value_of(share), PRIME) for holder, share in chosen]
    joined = int(shamirs.interpolate(points, threshold=threshold))
    if joined.bit_length() > 8 * SECRET_BYTES:
        raise SharesContradict
    return joined.to_bytes(SECRET_BYTES, "big")


def value_of(share: bytes) -> int:
    """Return the number that a share holds.

    Raises:
        ShareMalformed: It is not 33 bytes, or its number is not below P.
    """
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise ShareMalformed
    return value
