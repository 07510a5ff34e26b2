"""One patient moves the integers of a sum by at most the sensitivity; the sum is what was sent."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy import summed_noise
from privacy.accounting import EpsilonUnreachable, epsilon
from privacy.bfv import ServerContext, encrypt, generate_key, open_sum
from privacy.events import ImpossibleEvent, SummedNoiseEvent
from privacy.masks import apply
from privacy.noise_shares import NoisePlan, NoiseShare, sampler, surplus_noise
from privacy.packing import VALUE_LIMIT, SumCorrupt, ValuesTooLarge, pack, unpack
from privacy.parameters import parameter_set
from privacy.randomness import RandomStream
from privacy.summed_noise import (
    AGAIN_BITS,
    check_size,
    clip_and_round,
    event_of,
    grid_for,
    patients_max,
    sensitivity,
    share_deviation_for,
    step_size,
    train_summed,
)
from privacy.update import IntegerUpdate

PLAN = NoisePlan(central=3000.0, most=4, fewest=3, colluders=1)
ANY = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([np.nan, np.inf, -np.inf])


class Silent(NoiseShare):
    """A share without noise, to see what it would be added to."""

    def draw(self, dimension, stream):  # noqa: ARG002 - as a share draws
        return np.zeros(dimension, dtype=np.int64)


def linear(d=6):
    module = torch.nn.Linear(d, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    return module


def trained(x, y, patient, *, share=None, rate=1.0, seed=1, grid=1024, **options):
    return train_summed(
        options.pop("module", None) or linear(x.shape[1]),
        x,
        y,
        patient,
        sampling_rate=rate,
        clipping_norm=options.pop("clipping_norm", 0.5),
        grid=grid,
        share=share or Silent(PLAN, bytes(32)),
        stream=RandomStream.from_seed(seed),
        **options,
    ).values


# Size


def test_so_many_patients_that_their_integers_might_not_be_packed_are_refused_by_number_alone():
    largest = sum(sampler(deviation).largest for deviation in PLAN.deviations)
    fits = (VALUE_LIMIT - 1 - largest) // math.floor(sensitivity(1024, 6))
    check_size(fits, PLAN, 1024, 6)
    with pytest.raises(ValuesTooLarge):
        check_size(fits + 1, PLAN, 1024, 6)


def test_training_looks_at_the_size_before_a_gradient_is_taken(monkeypatch):
    monkeypatch.setattr(summed_noise, "VALUE_LIMIT", 4096)
    monkeypatch.setattr(summed_noise, "leave_gradients", None)
    with pytest.raises(ValuesTooLarge):
        trained(np.ones((4, 6), np.float32), np.zeros(4, np.int64), np.arange(4))


# Sensitivity


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 40), elements=ANY), st.integers(0, 99))
def test_a_rounded_patient_never_passes_the_sensitivity(gradient, seed):
    rounded = clip_and_round(gradient, 0.7, 16, RandomStream.from_seed(seed))
    assert rounded.dtype == np.int64
    assert math.isqrt(int(rounded @ rounded)) <= sensitivity(16, gradient.size)
    assert int(rounded @ rounded) <= sensitivity(16, gradient.size) ** 2 * (1 + 1e-12)


@settings(deadline=None, max_examples=25)
@given(hnp.arrays(np.float32, st.tuples(st.integers(2, 12), st.just(6)), elements=ANY), st.data())
def test_a_sum_moves_by_at_most_the_sensitivity_when_a_patient_leaves(x, data):
    """Her records are anything; the others' rounding is the same in both sums."""
    patient = np.arange(len(x))
    y = data.draw(hnp.arrays(np.int64, len(x), elements=st.integers(0, 1)))
    with_her = trained(x, y, patient)
    without = trained(x[:-1], y[:-1], patient[:-1])  # she is last, so draws before her are theirs
    moved = with_her - without
    assert int(moved @ moved) <= sensitivity(1024, 6) ** 2 * (1 + 1e-12)


def test_many_records_of_one_patient_weigh_as_much_as_one():
    x = np.full((50, 6), 100.0, dtype=np.float32)
    y = np.ones(50, dtype=np.int64)
    once = trained(x[:1], y[:1], np.zeros(1, dtype=np.int64))
    often = trained(x, y, np.zeros(50, dtype=np.int64), views=4)
    for one in (once, often):
        assert math.isqrt(int(one @ one)) <= sensitivity(1024, 6)


@given(st.integers(1, 10**7))
def test_rounding_costs_a_hundredth_of_the_norm_at_most(dimension):
    grid = grid_for(dimension)
    assert grid & (grid - 1) == 0
    assert grid <= sensitivity(grid, dimension) <= 1.02 * grid
    assert sensitivity(grid, dimension) <= grid + math.sqrt(dimension)


# Rounding


def test_rounding_is_unbiased_within_what_drawing_again_can_do():
    rng = np.random.default_rng(4)
    gradient = rng.normal(size=30)
    exact = gradient / np.linalg.norm(gradient) * 64
    stream, n = RandomStream.from_seed(2), 4000
    mean = sum(clip_and_round(gradient, 0.1, 64, stream) for _ in range(n)) / n
    allowed = 6 * 0.5 / math.sqrt(n) + 2.0**-AGAIN_BITS * math.sqrt(30)
    assert np.abs(mean - exact).max() < allowed


def test_a_rounding_beyond_the_bound_is_drawn_again():
    """By enumeration in a tiny case: conditioned on the bound, and within the bias stated."""
    gradient, grid = np.full(64, 1.0), 4  # 0.5 in each coordinate of the grid
    limit = sensitivity(grid, 64) ** 2
    stream = RandomStream.from_seed(8)
    norms = [int(r @ r) for r in (clip_and_round(gradient, 1.0, grid, stream) for _ in range(500))]
    assert max(norms) <= limit
    assert np.mean(norms) == pytest.approx(32, rel=0.1)  # half of the coordinates round up


def test_a_gradient_inside_the_bound_is_scaled_and_not_clipped():
    rounded = clip_and_round(np.array([0.25, -0.5]), 1.0, 1024, RandomStream.from_seed(0))
    assert rounded.tolist() == [256, -512]


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_zero(lost):
    rounded = clip_and_round(np.array([1.0, lost]), 1.0, 64, RandomStream.from_seed(0))
    assert not rounded.any()


# Training


def cohort(n=40, d=6, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64), np.arange(n)


def test_the_integers_are_minus_the_clipped_gradients_in_grid_units():
    x, y, patient = cohort()
    gradients = (0.5 - y)[:, None] * x  # of the logistic loss at weights zero
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    exact = -(gradients / np.maximum(norms, 0.5)).sum(axis=0) * 1024
    values = trained(x, y, patient)
    assert np.abs(values - exact).max() < 6 * 0.5 * math.sqrt(len(x))


def test_a_step_along_the_sum_is_that_of_dp_sgd_without_noise():
    from privacy.dpsgd import train_private

    x, y, patient = cohort()
    numbers = {"clipping_norm": 0.5, "lr": 0.3, "sampling_rate": 1.0, "reference_patients": 64}
    plain = train_private(
        linear(), x, y, patient, steps=1, noise_multiplier=0.1, stream=_NoNoise(), **numbers
    ).update.vector
    found = trained(x, y, patient) * step_size(grid=1024, **numbers)
    assert np.allclose(found, plain, atol=6 * 0.5 * math.sqrt(40) * step_size(grid=1024, **numbers))


class _NoNoise(RandomStream):
    def __init__(self):
        super().__init__(bytes(32), secret=False)

    def normal(self, n, dtype=np.float64):
        return np.zeros(n, dtype=dtype)


def test_the_module_comes_back_as_it_was():
    x, y, patient = cohort()
    module = linear()
    trained(x, y, patient, module=module)
    assert not module.weight.any()
    assert module.weight.grad is None
    trained(x, y, patient, module=module)  # hooking twice is an error in Opacus


def test_memory_is_bounded_by_batches_that_change_nothing(monkeypatch):
    x, y, patient = cohort(150)
    whole = trained(x, y, patient)
    monkeypatch.setattr("privacy.summed_noise.PATIENTS_AT_ONCE", 7)
    assert np.array_equal(trained(x, y, patient), whole)


def test_a_round_that_draws_nobody_sends_noise_alone():
    x, y, patient = cohort()
    share = NoiseShare(PLAN, bytes(range(32)))
    values = trained(x, y, patient, share=share, rate=1e-12)
    assert values.any()
    assert np.array_equal(values, share.draw(6, RandomStream.from_seed(1).child("noise")))


@pytest.mark.parametrize("bad", [{"clipping_norm": 0.0}, {"clipping_norm": math.nan}, {"rate": 0}])
def test_numbers_that_cannot_be_meant_are_refused(bad):
    with pytest.raises(ImpossibleEvent):
        trained(*cohort(), **bad)


# The sum, encrypted


def sites(n, d=50):
    rng = np.random.default_rng(n)
    shares = [NoiseShare(PLAN, bytes([k]) * 32) for k in range(n)]
    exact = [rng.integers(-5000, 5000, d) for _ in range(n)]
    values = [
        IntegerUpdate(e + s.draw(d, RandomStream.from_seed(1, str(k))))
        for k, (e, s) in enumerate(zip(exact, shares, strict=True))
    ]
    return shares, exact, values


@pytest.mark.parametrize("arrived", [3, 4])
def test_the_encrypted_sum_is_the_plain_one_and_gives_back_the_surplus_exactly(arrived):
    parameters = parameter_set("packed-bfv-20")
    key = generate_key(parameters)
    shares, _, values = sites(arrived)
    uploads = [encrypt(apply(pack(one, 9, parameters), []), key) for one in values]
    opened = open_sum(ServerContext(parameters).add(uploads), key)
    total, weight = unpack(opened, 50, arrived, parameters)
    assert weight == 9 * arrived
    assert np.array_equal(total, sum(one.values for one in values))
    left = total - sum(surplus_noise(PLAN, arrived, s.surplus(arrived), 50) for s in shares)
    stays = [PLAN.deviations[0] if arrived == PLAN.most else PLAN.share_deviation] * arrived
    noise = left - sum(sites(arrived)[1])
    assert np.abs(noise).max() < 6 * math.sqrt(sum(s**2 for s in stays))


@given(hnp.arrays(np.int64, (3, 7), elements=st.integers(-(2**29), 2**29)))
def test_what_a_sum_unpacks_to_follows_from_the_sum_alone(parts):
    """Sites' integers lie far outside their range; another split of the same sum ends the same."""
    parameters = parameter_set("packed-bfv-20")
    total = parts.sum(axis=0)
    other = np.stack([total - 2, np.ones_like(total), np.ones_like(total)])
    if np.abs(other).max() >= 2**30:
        return
    assert ending(parts, parameters) == ending(other, parameters)


def ending(parts, parameters):
    words = [pack(IntegerUpdate(row), 5, parameters).words.astype(object) for row in parts]
    opened = (sum(words) % parameters.plain_modulus).astype(np.uint64)
    try:
        return unpack(opened, parts.shape[1], len(parts), parameters)[0].tolist()
    except SumCorrupt:
        return "refused"


def test_a_sum_that_overflows_is_refused_and_not_cut():
    parameters = parameter_set("packed-bfv-20")
    parts = np.full((3, 5), parameters.field_max // 2)
    assert ending(parts, parameters) == "refused"


def test_up_to_the_most_patients_no_sum_overflows():
    parameters = parameter_set("packed-bfv-20")
    grid, d = grid_for(16_129), 16_129
    plan = NoisePlan(central=2.0 * grid, most=6, fewest=5, colluders=2)
    most = patients_max(parameters, plan, grid, d)
    assert most > 500
    from privacy.noise_shares import sampler

    noise = 6 * sum(sampler(deviation).largest for deviation in plan.deviations)
    worst = most * math.floor(sensitivity(grid, d)) + noise
    assert worst <= min(parameters.field_max, 5 * parameters.value_max)


# Privacy


def test_what_a_plan_is_accounted_for_is_its_fewest_sites():
    event = event_of(PLAN, sampling_rate=0.5, grid=1024, dimension=6, steps=4)
    assert (event.honest, event.dimension, event.steps) == (2, 6, 4)
    assert event.share_deviation * math.sqrt(2) == pytest.approx(3000.0)
    assert event.sensitivity == sensitivity(1024, 6)


@pytest.mark.parametrize(("limit", "rate", "honest"), [(8.0, 1.0, 3), (2.0, 0.3, 1), (0.5, 1.0, 9)])
def test_the_share_stays_within_its_epsilon_and_little_less_would_not(limit, rate, honest):
    share = share_deviation_for(limit, 1e-5, rate, 10, honest, 2051.7, 16_129)

    def spent(deviation):
        event = SummedNoiseEvent(rate, 2051.7, deviation, honest, 16_129, 10)
        return epsilon([event], 1e-5, "rdp")

    assert spent(share) <= limit < spent(share / 1.002)


def test_an_epsilon_that_no_share_reaches_is_refused():
    with pytest.raises(EpsilonUnreachable):
        share_deviation_for(1e-9, 1e-5, 1.0, 10, 3, 100.0, 10)
    with pytest.raises(ImpossibleEvent):
        share_deviation_for(-1.0, 1e-5, 1.0, 10, 3, 100.0, 10)


def test_the_noise_of_a_sum_shrinks_with_the_honest_sites():
    shares = [share_deviation_for(8.0, 1e-5, 1.0, 10, h, 1000.0, 100) for h in (1, 4, 16)]
    assert shares[0] / shares[1] == pytest.approx(2.0, rel=2e-3)
    assert shares[1] / shares[2] == pytest.approx(2.0, rel=2e-3)
