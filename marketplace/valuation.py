"""Divide BTT by whole-number weights so that every base unit goes somewhere, always the same way.

Each share is first rounded down. The units still missing, fewer than there are shares, go one each
to those that lost most by the rounding (Hamilton's method of largest remainders). Where two lost
the same, the smaller id comes first, so that every party computes the same split on its own.

    >>> north, south, west = SiteId("north"), SiteId("south"), SiteId("west")
    >>> split_budget(100, {north: 3, south: 3, west: 0})
    {'north': 50, 'south': 50, 'west': 0}
    >>> split_budget(8, {south: 1, north: 1, west: 1})
    {'north': 3, 'south': 3, 'west': 2}
    >>> round_budgets(10, 4)
    [3, 3, 2, 2]

What holds, each line a property test in tests/marketplace/test_valuation.py:

1. Conservation: the shares sum to what was divided, and none is negative.
2. Proportion: each share is less than one base unit from its exact value.
3. Determinism: the order in which weights are given changes nothing.
4. A weight of zero is paid zero; equal weights differ by at most one unit.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.errors import MarketError
from protocol.ids import SiteId


class NoContribution(MarketError):
    """No site contributed anything, so there is no proportion to pay by."""

    code = "no-contribution"

    def __init__(self) -> None:
        super().__init__(
            "no site contributed to this round; it is not paid and its budget stays in escrow"
        )


def split_budget(budget: int, weights: Mapping[SiteId, int]) -> dict[SiteId, int]:
    """Return every site's part of ``budget``, in the order of the site ids.

    Args:
        budget: Base units, not negative.
        weights: By site, not negative; in mode ``total`` the site's proven gradients.

    Returns:
        Base units by site, for every site in ``weights``.

    Raises:
        NoContribution: All weights are zero, or there are none.

    References:
        Balinski and Young, Fair Representation, 2nd ed. 2001, chapter 2 (Hamilton's method).
    """
    assert budget >= 0
    assert all(weight >= 0 for weight in weights.values())
    total = sum(weights.values())
    if total == 0:
        raise NoContribution
    exact = {site: divmod(budget * weights[site], total) for site in sorted(weights)}
    shares = {site: whole for site, (whole, _) in exact.items()}
    most_lost_first = sorted(exact, key=lambda site: (-exact[site][1], site))
    for site in most_lost_first[: budget - sum(shares.values())]:
        shares[site] += 1
    return shares


def round_budgets(total: int, rounds: int) -> list[int]:
    """Return the budget of each round, first round first, summing to ``total`` exactly.

    Args:
        total: Base units, not negative.
        rounds: How many rounds, at least one. They count alike; earlier rounds get the units
            that do not divide.
    """
    assert total >= 0
    assert rounds >= 1
    each, over = divmod(total, rounds)
    return [each + (number < over) for number in range(rounds)]
