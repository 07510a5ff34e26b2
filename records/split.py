"""Divide patients among sites as unevenly as hospitals are, and hold some out for the test.

Sites differ in what they see: each class is dealt out by its own draw from a Dirichlet
distribution, so one site has many positives and another few (Hsu et al. 2019, the concentration
``alpha`` being their measure of how identical sites are: large means alike).

    >>> [len(site) for site in dirichlet_split([0] * 30 + [1] * 30, sites=3, seed=1)]
    [24, 12, 24]

What holds, each line a property test in tests/records/test_split.py:

1. Partition: every patient is at exactly one site; held out and kept never meet.
2. Determinism: the same labels and seed give the same split.
3. Minimum: no site has fewer patients than ``minimum``.
4. Every class is held out in proportion, and a class with two members or more is on both sides.

References:
    Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification, 2019, section 3. arXiv:1909.06335
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from protocol.errors import RecordError
from protocol.ids import SiteId

if TYPE_CHECKING:
    from collections.abc import Sequence

SITE_NAMES: Final = (
    "north",
    "harbour",
    "lakeside",
    "hilltop",
    "riverside",
    "meadow",
    "forest",
    "island",
    "valley",
    "orchard",
    "bridge",
    "south",
)
SITES_MAX: Final = 100
"""Sites in one study: what one packed sum is sized for, and more than a person can follow."""


class TooFewPatients(RecordError):
    """There are not enough patients for the sites that were asked for."""

    code = "too-few-patients"

    def __init__(self, found: int, needed: int) -> None:
        self.found = found
        self.needed = needed
        super().__init__(
            f"{found} patients are too few, {needed} are needed; ask for fewer sites or add records"
        )


def site_names(count: int) -> list[SiteId]:
    """Return ``count`` neutral names, the same first ones for every count.

    Examples:
        >>> site_names(2)
        ['north', 'harbour']
    """
    assert 1 <= count <= SITES_MAX
    return [
        SiteId(SITE_NAMES[index] if index < len(SITE_NAMES) else f"site-{index + 1}")
        for index in range(count)
    ]


def dirichlet_split(
    labels: Sequence[int],
    *,
    sites: int,
    alpha: float = 1.0,
    minimum: int = 1,
    seed: int,
) -> list[list[int]]:
    """Deal the positions of ``labels`` out to ``sites``, class by class, by Dirichlet draws.

    Sites left below ``minimum`` then take patients, one at a time, from the largest site. That
    departs from the paper, which redraws until it fits and so may never end.

    Args:
        labels: One class per patient.
        sites: How many sites.
        alpha: Concentration of the symmetric Dirichlet distribution, positive.
        minimum: Patients every site has at least.
        seed: Decides the split.

    Returns:
        For every site the ascending positions of its patients.

    Raises:
        TooFewPatients: There are fewer than ``sites * minimum``.
    """
    assert sites >= 1
    assert minimum >= 0
    assert alpha > 0
    if len(labels) < sites * minimum:
        raise TooFewPatients(len(labels), sites * minimum)
    generator = np.random.default_rng([seed, 0x5B117])
    dealt: list[list[int]] = [[] for _ in range(sites)]
    for label in sorted(set(labels)):
        members = np.flatnonzero(np.asarray(labels) == label)
        generator.shuffle(members)
        shares = generator.dirichlet(np.full(sites, alpha))
        # A very small alpha can underflow to all zeros; then one site takes the class.
        shares = shares if np.isfinite(shares).all() and shares.sum() > 0 else np.eye(sites)[0]
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for site, part in zip(dealt, np.split(members, cuts), strict=True):
            site.extend(int(position) for position in part)
    for site in dealt:
        while len(site) < minimum:
            richest = max(dealt, key=len)
            site.append(richest.pop(int(generator.integers(len(richest)))))
    return [sorted(site) for site in dealt]


def hold_out(
    labels: Sequence[int], *, fraction: float = 0.2, seed: int
) -> tuple[list[int], list[int]]:
    """Set aside ``fraction`` of every class.

    Args:
        labels: One class per patient.
        fraction: Above 0 and below 1; each class gives its rounded share, but of two members or
            more at least one and not all, and of a single member none.
        seed: Decides who.

    Returns:
        ``(kept, held)``: ascending positions, together every position once.
    """
    assert 0 < fraction < 1
    generator = np.random.default_rng([seed, 0x401D])
    held: list[int] = []
    for label in sorted(set(labels)):
        members = np.flatnonzero(np.asarray(labels) == label)
        generator.shuffle(members)
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held.extend(int(position) for position in members[:count])
    chosen = set(held)
    return [position for position in range(len(labels)) if position not in chosen], sorted(held)
