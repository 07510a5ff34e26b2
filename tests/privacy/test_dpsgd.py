"""One patient moves a step by at most the clipping norm, and the noise is as large as stated."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.dpsgd import TrainingDiverged, noise_std_of_update, train_private
from privacy.events import DpSgdEvent, ImpossibleEvent
from privacy.patient_gradients import Cohort
from privacy.randomness import RandomStream

BARELY = 0.1  # the least noise multiplier there is


def linear(features=3):
    module = torch.nn.Linear(features, 1)
    torch.nn.init.zeros_(module.weight)
    torch.nn.init.zeros_(module.bias)
    return module


def cohort(patients=12, records_each=2, features=3, seed=0):
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), records_each)
    x = generator.normal(size=(len(patient), features)).astype(np.float32)
    return x, (patient % 2).astype(np.int64), patient


def train(module, x, y, patient, *, seed=1, **changes):
    settings_ = {
        "sampling_rate": 1.0,
        "steps": 1,
        "noise_multiplier": BARELY,
        "clipping_norm": 1.0,
        "lr": 1.0,
        "reference_patients": 10,
        "stream": RandomStream.from_seed(seed, "test"),
    }
    return train_private(module, x, y, patient, **(settings_ | changes))


@settings(max_examples=40, deadline=None)
@given(
    records=st.integers(1, 5),
    size=st.floats(0.01, 1e6),
    label=st.integers(0, 1),
    clipping_norm=st.floats(0.1, 10.0),
)
def test_adding_a_patient_moves_the_sum_by_at_most_the_clipping_norm(
    records, size, label, clipping_norm
):
    x, y, patient = cohort(patients=4, records_each=1)
    with_her = (
        np.concatenate([x, np.full((records, 3), size, dtype=np.float32)]),
        np.concatenate([y, np.full(records, label)]),
        np.concatenate([patient, np.full(records, 4)]),
    )
    difference = summed(*with_her, clipping_norm) - summed(x, y, patient, clipping_norm)
    assert np.linalg.norm(difference) <= clipping_norm * (1 + 1e-4) + 1e-4


def summed(x, y, patient, clipping_norm):
    """The step's sum of clipped gradients, its noise (a known stream) taken out again."""
    patients = int(patient.max()) + 1
    found = train(linear(), x, y, patient, clipping_norm=clipping_norm).update.vector
    stream = RandomStream.from_seed(1, "test")
    stream.bernoulli(1.0, patients)
    stream.uniform(patients)
    noise = np.concatenate([stream.normal(3, np.float32), stream.normal(1, np.float32)])
    return -found * 10 - BARELY * clipping_norm * noise


def test_the_sum_equals_that_of_a_slow_loop_over_patients():
    x, y, patient = cohort(patients=6, records_each=1)
    expected = np.zeros(4)
    for features, label in zip(x, y, strict=True):
        gradient = (0.5 - label) * np.append(features, 1.0)
        expected += gradient * min(1.0, 0.8 / (np.linalg.norm(gradient) + 1e-6))
    assert np.allclose(summed(x, y, patient, 0.8), expected, atol=1e-4)


def test_all_views_of_a_patient_are_averaged_before_clipping():
    x = np.array([[3.0, 0.0, 0.0], [-3.0, 0.0, 0.0]], dtype=np.float32)
    found = train(
        linear(), x, np.array([1, 1]), np.array([0, 0]), views=2, noise_multiplier=BARELY,
        clipping_norm=1e3, lr=1e-3,
    ).update.vector  # fmt: skip
    alone = train(
        linear(), x[:1], np.array([1]), np.array([0]), clipping_norm=1e3, lr=1e-3
    ).update.vector
    noise = noise_std_of_update(
        lr=1e-3, noise_multiplier=BARELY, clipping_norm=1e3, sampling_rate=1.0,
        reference_patients=10, steps=1,
    )  # fmt: skip
    # The two views cancel; noise has the same draws in both, so it drops out of the difference.
    assert abs((alone - found)[0] - 0.5 * 3.0 * 1e-3 / 10) < 1e-3 * noise


@pytest.mark.parametrize("sampling_rate", [1e-9, 0.5])
def test_the_noise_has_the_stated_deviation_even_when_nobody_is_drawn(sampling_rate):
    x, y, patient = cohort(features=2000)
    stated = {
        "sampling_rate": sampling_rate, "steps": 3, "noise_multiplier": 50.0,
        "clipping_norm": 0.5, "lr": 0.1, "reference_patients": 10,
    }  # fmt: skip
    found = train(linear(2000), x, y, patient, **stated)
    ratio = found.update.vector.std() / noise_std_of_update(**stated)
    assert abs(ratio - 1.0) < 0.06
    if sampling_rate == 1e-9:
        assert found.gradients == 0
        assert math.isnan(found.loss)


def test_sites_of_any_size_send_equal_noise():
    spread = []
    for patients in (4, 40):
        x, y, patient = cohort(patients, features=3000)
        update = train(linear(3000), x, y, patient, noise_multiplier=30.0).update
        spread.append(update.vector.std())
    assert abs(spread[0] / spread[1] - 1.0) < 0.06


def test_the_update_is_the_models_move_scaled_by_patients_over_the_reference():
    x, y, patient = cohort(patients=5)
    module = linear()
    update = train(module, x, y, patient, steps=3, lr=0.2).update
    moved = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    assert np.allclose(update.vector, moved * 5 / 10, atol=1e-6)


def test_the_same_stream_gives_the_same_update_and_another_one_does_not():
    x, y, patient = cohort()
    first, again, other = (
        train(linear(), x, y, patient, seed=seed, sampling_rate=0.5, steps=4).update.vector
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pytorchs_own_generator_plays_no_part():
    x, y, patient = cohort()
    torch.manual_seed(1)
    first = train(linear(), x, y, patient).update.vector
    torch.manual_seed(2)
    assert np.array_equal(first, train(linear(), x, y, patient).update.vector)


def test_the_module_leaves_as_an_ordinary_one_and_can_be_trained_again():
    x, y, patient = cohort()
    module = linear()
    train(module, x, y, patient)
    assert not module._forward_hooks
    assert not module._backward_hooks
    assert all(not hasattr(p, "grad_sample") and p.grad is None for p in module.parameters())
    train(module, x, y, patient)


def test_a_record_that_is_not_finite_contributes_zero():
    x, y, patient = cohort(patients=6, records_each=1)
    spoiled = x.copy()
    spoiled[2] = np.nan
    keep = np.arange(6) != 2
    expected = summed(x[keep], y[keep], np.arange(5), 0.8)
    assert np.allclose(summed(spoiled, y, patient, 0.8), expected, atol=1e-4)


def test_a_model_that_diverged_is_not_sent():
    x, y, patient = cohort()
    with pytest.raises(TrainingDiverged):
        train(linear(), x, y, patient, lr=1e38, steps=3, noise_multiplier=100.0)


@pytest.mark.parametrize("clipping_norm", [0.0, -1.0, math.inf, math.nan])
def test_a_clipping_norm_that_bounds_nothing_is_refused(clipping_norm):
    with pytest.raises(ImpossibleEvent):
        train(linear(), *cohort(), clipping_norm=clipping_norm)


def test_training_without_noise_is_refused():
    with pytest.raises(ImpossibleEvent):
        train(linear(), *cohort(), noise_multiplier=0.0)


def test_the_event_and_the_counts_say_what_was_run():
    x, y, patient = cohort(patients=12)
    seen = []
    found = train(linear(), x, y, patient, steps=3, on_step=seen.append)
    assert found.event == DpSgdEvent(1.0, BARELY, 3)
    assert (found.gradients, found.gradients_expected) == (36, 36)
    assert seen == [1, 2, 3]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(1, 6))
def test_every_drawn_patient_gives_views_of_her_own_distinct_while_they_last(counts, views):
    patient = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    drawn = Cohort(patient).draw(1.0, views, RandomStream.from_seed(1, "draw"))
    for index, (count, records) in enumerate(zip(counts, drawn.reshape(-1, views), strict=True)):
        assert (patient[records] == index).all()
        assert len(set(records.tolist())) == min(count, views)


def test_patients_are_drawn_at_the_sampling_rate_and_their_records_evenly():
    patient = np.repeat(np.arange(1000), 3)
    drawn = Cohort(patient).draw(0.3, 1, RandomStream.from_seed(4, "draw"))
    assert abs(len(drawn) - 300) < 60
    assert np.bincount(drawn % 3).min() > 60


def test_mirroring_touches_the_last_axis_of_images_only():
    x = np.random.default_rng(0).normal(size=(30, 1, 4, 4)).astype(np.float32)
    module = torch.nn.Sequential(torch.nn.Flatten(), linear(16))
    labels = (np.arange(30) % 2).astype(np.int64)
    plain = train(module, x, labels, np.arange(30)).update.vector
    module = torch.nn.Sequential(torch.nn.Flatten(), linear(16))
    mirrored = train(module, x, labels, np.arange(30), augment=True).update.vector
    assert not np.array_equal(plain, mirrored)


def test_a_correction_adds_to_each_step_what_it_says_and_no_more():
    x, y, patient = cohort()
    pull = torch.arange(4, dtype=torch.float32)
    plain = train(linear(), x, y, patient, lr=0.5).update.vector
    corrected = train(linear(), x, y, patient, lr=0.5, correction=lambda _: pull).update.vector
    # twelve patients over a reference of ten; one step of rate 0.5
    assert np.allclose(corrected - plain, -0.5 * 1.2 * pull.numpy(), atol=1e-6)


def test_a_correction_sees_how_far_the_weights_have_moved():
    x, y, patient = cohort()
    seen = []
    train(
        linear(), x, y, patient, steps=2, correction=lambda moved: seen.append(moved) or 0 * moved
    )
    assert not seen[0].any()
    assert seen[1].any()


def test_another_loss_trains_towards_other_targets():
    x, _, patient = cohort()
    towards = (x @ np.array([1.0, -2.0, 0.5]))[:, None].astype(np.float32)
    module = linear()
    settings_ = {"steps": 40, "lr": 0.5, "clipping_norm": 10.0, "loss": squared}
    train(module, x, towards, patient, **settings_)
    assert np.allclose(module.weight.detach().numpy(), [[1.0, -2.0, 0.5]], atol=0.3)


def squared(outputs, targets):
    return (outputs - targets).square().sum(dim=1)
