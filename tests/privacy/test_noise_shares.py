"""Whatever sites arrive, the noise that nobody else knows is at least the central amount."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.noise_shares import (
    PART_DEVIATION_MIN,
    NoisePlan,
    NoisePlanUnsound,
    NoiseShare,
    SurplusRefused,
    noise_root,
    sampler,
    surplus_noise,
)
from privacy.randomness import RandomStream
from privacy.renyi import epsilon_by_renyi

D = 20_000


@st.composite
def plans(draw):
    most = draw(st.integers(2, 64))
    fewest = draw(st.integers(2, most))
    colluders = draw(st.integers(1, fewest - 1))
    return NoisePlan(draw(st.floats(300, 1e6)), most, fewest, colluders)


def root(n):
    return bytes([n]) * 32


def drawn(plan, sites):
    """Return each site's ``(D,)`` share and the share itself."""
    shares = [NoiseShare(plan, root(n)) for n in range(sites)]
    values = [one.draw(D, RandomStream.from_seed(5, str(n))) for n, one in enumerate(shares)]
    return shares, values


@given(plans(), st.data())
def test_the_honest_noise_is_never_below_the_central_amount(plan, data):
    arrived = data.draw(st.integers(plan.fewest, plan.most))
    silent = data.draw(st.integers(0, arrived))  # show no seeds
    parts = [deviation**2 for deviation in plan.deviations]
    spared = sum(parts[1 : plan.spare(arrived) + 1])
    whole, kept = sum(parts), sum(parts) - spared
    assert math.isclose(kept, plan.kept(arrived), rel_tol=1e-9)
    # The colluders are those whose noise would count most: honest sites that showed their seeds.
    honest = sorted([whole] * silent + [kept] * (arrived - silent))[: arrived - plan.colluders]
    assert sum(honest) >= plan.central**2 * (1 - 1e-9)


@given(plans())
def test_all_seeds_shown_leave_exactly_the_central_amount_among_the_honest(plan):
    for arrived in range(plan.fewest, plan.most + 1):
        honest = arrived - plan.colluders
        assert math.isclose(plan.kept(arrived) * honest, plan.central**2, rel_tol=1e-12)


@given(plans())
def test_the_fewest_sites_spare_nothing_and_the_most_all_but_what_stays(plan):
    assert plan.spare(plan.fewest) == 0
    assert plan.spare(plan.most) == len(plan.deviations) - 1
    share = NoiseShare(plan, root(1))
    assert share.surplus(plan.fewest) == ()
    assert len(set(share.surplus(plan.most))) == plan.most - plan.fewest
    assert share.surplus(plan.most - 1) == share.surplus(plan.most)[: plan.spare(plan.most - 1)]


@pytest.mark.parametrize("arrived", [4, 5, 6])
def test_the_opened_sum_has_the_variance_that_the_plan_says(arrived):
    plan = NoisePlan(central=120.0, most=6, fewest=4, colluders=1)
    shares, values = drawn(plan, arrived)
    left = sum(values)
    for share in shares:
        left = left - surplus_noise(plan, arrived, share.surplus(arrived), D)
    expected = arrived / (arrived - 1) * plan.central**2
    assert abs(left.var() / expected - 1) < 6 * math.sqrt(2 / D)
    assert abs(left.mean()) < 6 * math.sqrt(expected / D)


@pytest.mark.parametrize("arrived", [4, 5, 6])
def test_any_honest_sites_of_a_sum_have_the_central_variance_whoever_drops_out(arrived):
    plan = NoisePlan(central=120.0, most=6, fewest=4, colluders=1)
    shares, values = drawn(plan, arrived)
    kept = [
        value - surplus_noise(plan, arrived, share.surplus(arrived), D)
        for share, value in zip(shares, values, strict=True)
    ]
    for honest in combinations(kept, arrived - plan.colluders):
        assert sum(honest).var() > plan.central**2 * (1 - 6 * math.sqrt(2 / D))


def test_a_site_that_shows_no_seeds_leaves_its_whole_share():
    plan = NoisePlan(central=120.0, most=6, fewest=4, colluders=1)
    _, (value, *_) = drawn(plan, 1)
    assert abs(value.var() / plan.kept(4) - 1) < 6 * math.sqrt(2 / D)


@pytest.mark.parametrize(("arrived", "found"), [(4, 1), (5, 0), (5, 2), (6, 3)])
def test_seeds_that_the_received_set_does_not_spare_are_refused(arrived, found):
    plan = NoisePlan(central=120.0, most=6, fewest=4, colluders=1)
    with pytest.raises(SurplusRefused) as refused:
        surplus_noise(plan, arrived, [bytes(32)] * found, 3)
    assert (refused.value.found, refused.value.allowed) == (found, plan.spare(arrived))


def test_a_seed_of_another_length_is_refused():
    plan = NoisePlan(central=120.0, most=6, fewest=4, colluders=1)
    with pytest.raises(SurplusRefused):
        surplus_noise(plan, 5, [bytes(31)], 3)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"colluders": 0}, "one at least"),
        ({"colluders": 4}, "fewer than all"),
        ({"fewest": 7}, "there are none"),
        ({"central": 10.0}, "below 4 grid units"),
        ({"central": math.nan}, "below 4 grid units"),
        ({"central": math.inf}, "below 4 grid units"),
    ],
)
def test_a_plan_that_would_not_be_private_is_refused(change, why):
    numbers = {"central": 120.0, "most": 6, "fewest": 4, "colluders": 1}
    with pytest.raises(NoisePlanUnsound, match=why):
        NoisePlan(**{**numbers, **change})


def test_roots_of_different_round_seeds_differ_and_are_not_the_seed():
    roots = {noise_root(root(n)) for n in range(5)} | {root(n) for n in range(5)}
    assert len(roots) == 10


def test_a_share_does_not_print_its_root():
    assert "root" not in repr(NoiseShare(NoisePlan(120.0, 6, 4, 1), root(1)))


# The law of a sum, by enumeration


def law(deviation):
    """Return the probabilities of a discrete Gaussian on -most..most, as exactly as floats go."""
    most = math.ceil(36 * deviation)  # far enough for the largest order
    weights = np.exp(-(np.arange(-most, most + 1.0) ** 2) / (2 * deviation**2))
    return weights / weights.sum()


def renyi(first, second, order):
    """Return the Renyi divergence of two laws on the same integers."""
    both = (first > 1e-280) & (second > 1e-280)
    terms = order * np.log(first[both]) + (1 - order) * np.log(second[both])
    return float(np.logaddexp.reduce(terms)) / (order - 1)


@pytest.mark.parametrize("parts", [(4.0, 4.0), (4.0, 6.0, 9.0), (5.0,) * 5])
@pytest.mark.parametrize("moved", [1, 3])
def test_a_sum_of_parts_is_as_private_as_one_discrete_gaussian(parts, moved):
    """Every part is of the smallest deviation that plans allow, or just above it."""
    assert min(parts) >= PART_DEVIATION_MIN
    total = law(parts[0])
    for part in parts[1:]:
        total = np.convolve(total, law(part))
    variance = sum(part**2 for part in parts)
    padded = np.pad(total, moved)
    for order in (1.5, 2.0, 8.0, 32.0):
        found = renyi(np.roll(padded, moved), padded, order)
        assert found <= order * moved**2 / (2 * variance) * (1 + 1e-9) + 1e-12


def test_the_accountant_bounds_what_enumeration_finds():
    """A patient of one coordinate, three shares: delta of the exact law at the epsilon it gives."""
    from privacy.events import SummedNoiseEvent

    event = SummedNoiseEvent(1.0, 10.0, 5.0, 3, 1, 1)
    spent = epsilon_by_renyi((event,), 1e-5)
    total = np.convolve(np.convolve(law(5.0), law(5.0)), law(5.0))
    padded = np.pad(total, 10)
    shifted = np.roll(padded, 10)
    assert np.maximum(shifted - math.exp(spent) * padded, 0).sum() <= 1e-5


@pytest.mark.parametrize("deviation", [4.0, 7.5, 1000.0])
def test_the_sampler_has_the_deviation_and_never_meets_its_cut(deviation):
    chosen = sampler(deviation)
    assert chosen.sigma == Fraction(deviation)
    assert 13 * deviation <= chosen.largest + 1 <= 14 * deviation + 1
    values = chosen.sample(D, RandomStream.from_seed(3))
    assert abs(values.var() / deviation**2 - 1) < 6 * math.sqrt(2 / D)
