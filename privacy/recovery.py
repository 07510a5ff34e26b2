"""Recover a secret from shares of which some may be false, and say whose those are.

What a secret must fit is known (its hash, or the public key made from it), so a false share shows
as soon as it is used. Then groups of holders are tried, leaving out one holder, then two and so
on of the first shares, until one group's secret fits; every other share is put in the place of a
true one and is false if the secret no longer fits::

    shares of a, b, c, d, e; threshold 3; c's is false
    a b c no | b c d no | a c d no | a b d yes | e for d: a b e yes      so c gave a false share

At most ``TRIES_MAX`` groups are tried: enough for one false share in any cohort of 64 and for two
in one of ten. A share that no tried group needed is not looked at.

A holder named here did not necessarily lie: its dealer may have dealt it a false share. The
dealer's signature under the sealed envelope, opened, tells which (``Dispute``).

What holds, each a property test in tests/privacy/test_recovery.py:

1. What is returned fits, whoever gave what.
2. One false share beside a quorum of true ones is found, and nobody else is named.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from privacy.sharing import QuorumMissing, ShareMalformed, SharesContradict, join
from protocol.errors import PrivacyError
from protocol.ids import SiteId

TRIES_MAX: Final = 64
"""Groups tried for one secret; a try costs 0.1 s where 34 shares are joined."""


class SecretUnrecoverable(PrivacyError):
    """The shares of a site's secret do not join to what that site announced."""

    code = "secret-unrecoverable"

    def __init__(self, dealer: SiteId, holders: Sequence[SiteId]) -> None:
        self.dealer = dealer
        self.holders = tuple(holders)
        super().__init__(
            f"no group among the {len(self.holders)} shares of the round secret of {dealer} joins "
            f"to what it announced: {dealer} dealt false shares or several holders gave some; "
            "nothing is shown, call the next round without those whose envelopes do not agree"
        )


@dataclass(frozen=True)
class Dispute:
    """A value of ``holder`` that contradicts what ``dealer`` announced.

    A site that contradicts its own announcement (``holder == dealer``) is at fault. Otherwise
    holder or dealer is, and the envelope that the dealer signed for the holder decides.
    """

    holder: SiteId
    dealer: SiteId


@dataclass(frozen=True)
class Recovered:
    """A secret that fits, and the holders whose shares do not belong to it."""

    secret: bytes
    false: tuple[SiteId, ...]


def recover(
    dealer: SiteId,
    shares: Mapping[SiteId, bytes],
    fits: Callable[[bytes], bool],
    *,
    holders: Sequence[SiteId],
    threshold: int,
    suspects: Collection[SiteId] = (),
) -> Recovered:
    """Return the secret of ``dealer`` that ``shares`` hold.

    Args:
        dealer: Whose secret it is.
        shares: By holder; hostile bytes.
        fits: Whether 32 bytes are the secret that ``dealer`` announced.
        holders: All holders, in the order the shares were dealt in.
        threshold: As the shares were dealt.
        suspects: Holders whose shares are tried last.

    Raises:
        QuorumMissing: There are fewer than ``threshold`` shares.
        SecretUnrecoverable: No group of shares that was tried gives a secret that fits.
    """
    place = {holder: i for i, holder in enumerate(holders)}
    assert set(shares) <= set(place)
    if len(shares) < threshold:
        raise QuorumMissing(len(shares), threshold)

    def joins(group: Sequence[SiteId]) -> bytes | None:
        try:
            secret = join({place[one]: shares[one] for one in group}, threshold=threshold)
        except (ShareMalformed, SharesContradict):
            return None
        return secret if fits(secret) else None

    order = sorted(shares, key=lambda holder: (holder in suspects, place[holder]))
    for number, group in enumerate(itertools.islice(_groups(order, threshold), TRIES_MAX)):
        secret = joins(group)
        if secret is None:
            continue
        # The first group costs nothing extra; after a failure, somebody has to be named.
        others = [one for one in order if one not in group] if number else []
        false = [one for one in others if joins([*group[:-1], one]) is None]
        return Recovered(secret, tuple(sorted(false)))
    raise SecretUnrecoverable(dealer, order)


def _groups(order: Sequence[SiteId], size: int) -> Iterator[list[SiteId]]:
    """Yield groups of ``size``: the first, then those that leave out 1, 2, ... of one longer."""
    for left_out in range(len(order) - size + 1):
        window = order[: size + left_out]
        for without in itertools.combinations(window, left_out):
            yield [one for one in window if one not in without]
