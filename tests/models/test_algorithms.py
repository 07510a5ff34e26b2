"""An algorithm moves the model as its paper says, from opened sums and what each site kept."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.algorithms.catalogue import UnknownAlgorithm, algorithm_of, defaults_for
from models.algorithms.fedadam import SQUARES
from models.algorithms.fedbn import NothingStaysHome, home_mask
from models.algorithms.interface import (
    ALGORITHMS,
    AlgorithmUnusable,
    Constants,
    GlobalState,
    StateMismatch,
)
from models.algorithms.local import descend
from models.algorithms.scaffold import CONTROL, CONTROLS
from models.networks import to_vector
from privacy.dpsgd import noise_std_of_update, train_private
from privacy.randomness import RandomStream

R, K, LR = 10, 3, 0.2
WHAT_EACH_NEEDS = {
    "fedavgm": {"server_momentum": 0.5},
    "fedprox": {"proximal": 0.5},
    "ditto": {"proximal": 0.5},
}


def constants(name, **changes):
    given_ = {"steps": K, "sites": 3, "learning_rate": LR, "reference_patients": R}
    return Constants(name, **(given_ | WHAT_EACH_NEEDS.get(name, {}) | changes))


def algorithm(name, module=None, **changes):
    return algorithm_of(constants(name, **changes), module)


def state_of(one, values=(1.0, -2.0, 3.0)):
    return one.first(np.array(values, np.float32))


def normed(features=4):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(features, 6), torch.nn.LayerNorm(6), torch.nn.ReLU(), torch.nn.Linear(6, 1)
    )


def nothing_learned(_start, _correction):
    raise AssertionError("only Ditto trains for the site")


# Names and constants


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_name_of_the_messages_has_an_algorithm_and_defaults_that_it_takes(name):
    from protocol.terms import TrainingTerms

    assert TrainingTerms.model_fields["algorithm"].annotation.__args__ == ALGORITHMS
    start = defaults_for(name)
    momentum = {} if start.server_momentum is None else {"server_momentum": start.server_momentum}
    constants(name, proximal=start.proximal, **momentum)


def test_constants_are_read_from_a_studys_terms():
    from protocol.terms import TrainingTerms

    terms = TrainingTerms(
        network="mlp", input_shape=(3,), tensor_sizes=(4,), reference_patients=R,
        learning_rate=LR, server_learning_rate=0.3, server_momentum=0.0, augment=False,
        algorithm="fedadam", adam_tau=0.02,
    )  # fmt: skip
    found = Constants.of(terms, steps=K, sites=3)
    assert (found.name, found.adam_tau, found.server_learning_rate) == ("fedadam", 0.02, 0.3)


def test_an_algorithm_nobody_wrote_is_refused():
    with pytest.raises(UnknownAlgorithm):
        defaults_for("fedsgd")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("fedavgm", {"server_momentum": 0.0}),
        ("fedprox", {"proximal": 0.0}),
        ("fedprox", {"proximal": 5.0}),  # times 0.2: a step would go beyond the start
        ("ditto", {"proximal": 10.0}),
        ("scaffold", {"proximal": 0.1}),  # would be ignored
    ],
)
def test_constants_that_do_not_fit_the_algorithm_are_refused(name, changes):
    with pytest.raises(AlgorithmUnusable):
        constants(name, **changes)


# The server's steps


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedbn", "ditto", "scaffold"])
def test_without_momentum_the_server_steps_along_the_mean_weighted_by_patients(name):
    one = algorithm(name, server_learning_rate=0.5)
    moves, patients = np.array([[1.0, -2.0, 3.0], [2.0, 4.0, -1.0]]), np.array([10, 30])
    total = (moves * patients[:, None] / R).sum(axis=0)
    after = one.step(state_of(one), total, weight=40, sites=2)
    expected = np.array([1.0, -2.0, 3.0]) + 0.5 * (10 * moves[0] + 30 * moves[1]) / 40
    assert after.vector == pytest.approx(expected)


def test_momentum_carries_the_last_step_on():
    one = algorithm("fedavgm")
    before = GlobalState(np.zeros(2, np.float32), np.array([4.0, -4.0], np.float32))
    after = one.step(before, np.array([1.0, 1.0]), weight=R, sites=1)
    assert after.vector == pytest.approx([3.0, -1.0])
    assert after.momentum == pytest.approx([3.0, -1.0])


def test_fedadam_follows_the_papers_recursion():
    one = algorithm("fedadam", server_learning_rate=0.1, adam_tau=0.01)
    state = state_of(one)
    x, m, v = state.vector.astype(float), np.zeros(3), np.full(3, 1e-4)
    for total in np.array([[1.0, -2.0, 0.5], [0.5, 1.0, 0.5]]):
        state = one.step(state, total, weight=2 * R, sites=2)
        d = total / 2
        m, v = 0.9 * m + 0.1 * d, 0.99 * v + 0.01 * d**2
        x = x + 0.1 * m / (np.sqrt(v) + 0.01)
    assert state.vector == pytest.approx(x, abs=1e-6)
    assert state.carried[SQUARES] == pytest.approx(v)


# SCAFFOLD: the server follows the sites' controls from the sum alone


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_server_knows_the_sum_of_the_sites_controls_whoever_takes_part(data):
    sites, seed = 3, data.draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    one = algorithm("scaffold", sites=sites)
    state, kept = state_of(one), [None] * sites
    for _ in range(4):
        present = data.draw(st.sets(st.integers(0, sites - 1), min_size=1))
        sent, total, weight = one.sent(state), np.zeros(3), 0
        for site in present:
            patients = int(generator.integers(1, 50))  # withdrawals change it from round to round
            entered = generator.normal(size=3)
            beginning = one.begin(sent, kept[site], patients)
            kept[site] = one.end(beginning, np.zeros(3, np.float32), entered, nothing_learned)
            total, weight = total + entered, weight + patients
        state = one.step(state, total, weight=weight, sites=len(present))
        held = sum(one_kept for one_kept in kept if one_kept is not None)
        assert state.carried[CONTROLS] == pytest.approx(held, abs=1e-9)


def test_controls_are_those_of_the_papers_option_two():
    # Every line of Algorithm 1 by hand, with two vectors sent up, for equal sites all present.
    generator, sites, dimension = np.random.default_rng(3), 3, 4
    one = algorithm("scaffold", sites=sites)
    state = one.first(np.zeros(dimension, np.float32))
    kept = [None] * sites
    x, c, c_i = np.zeros(dimension), np.zeros(dimension), np.zeros((sites, dimension))
    for _ in range(3):
        gradients = generator.normal(size=(sites, K, dimension))
        sent, total = one.sent(state), np.zeros(dimension)
        y = np.tile(x, (sites, 1))
        for site in range(sites):
            beginning = one.begin(sent, kept[site], R)
            moved = torch.zeros(dimension)
            for step in range(K):
                correction = beginning.correction(moved)
                moved = moved - LR * (torch.from_numpy(gradients[site, step]).float() + correction)
                y[site] -= LR * (gradients[site, step] + c - c_i[site])
            entered = moved.double().numpy()
            kept[site] = one.end(beginning, None, entered, nothing_learned)
            total += entered
        change = -c + (x - y) / (K * LR)
        c_i, c, x = c_i + change, c + change.mean(axis=0), x + (y - x).mean(axis=0)
        state = one.step(state, total, weight=sites * R, sites=sites)
        assert state.vector == pytest.approx(x, abs=1e-5)
        assert state.carried[CONTROL] == pytest.approx(c, abs=1e-5)
        assert np.array(kept) == pytest.approx(c_i, abs=1e-5)


def test_with_everybody_present_the_corrections_cancel_in_the_mean():
    generator, patients = np.random.default_rng(1), [10, 40, 25]
    one = algorithm("scaffold")
    state, kept = state_of(one), [None] * 3
    entered = generator.normal(size=(3, 3))
    for site, n in enumerate(patients):
        kept[site] = one.end(one.begin(one.sent(state), None, n), None, entered[site], None)
    state = one.step(state, entered.sum(axis=0), weight=75, sites=3)
    added = sum(
        n / R * one.begin(one.sent(state), kept[site], n).correction(torch.zeros(3)).numpy()
        for site, n in enumerate(patients)
    )
    assert added == pytest.approx(np.zeros(3), abs=1e-5)


def test_part_of_the_sites_moves_the_control_by_their_part():
    one = algorithm("scaffold", sites=4)
    before = state_of(one)
    before = one.step(before, np.array([1.0, 2.0, 3.0]), weight=4 * R, sites=4)
    after = one.step(before, np.array([4.0, 0.0, -4.0]), weight=2 * R, sites=2)
    expected = 0.5 * before.carried[CONTROL] - 0.5 * np.array([2.0, 0.0, -2.0]) / (K * LR)
    assert after.carried[CONTROL] == pytest.approx(expected, abs=1e-6)


# The noise is as large as stated


def deviation_of_update(one, *, rounds=1, sites=1, features=1500):
    """The noise of a site's scaled updates, over that of one step, in the last of some rounds."""
    module = torch.nn.Linear(features, 1)
    torch.nn.init.zeros_(module.weight)
    torch.nn.init.zeros_(module.bias)
    x = np.zeros((4, features), np.float32)  # nothing but noise moves the weights
    stated = {"sampling_rate": 0.5, "noise_multiplier": 2.0, "clipping_norm": 1.0}
    state, kept = one.first(to_vector(module)), [None] * sites
    for number in range(rounds):
        updates = []
        for site in range(sites):
            beginning = one.begin(one.sent(state), kept[site], 4)
            found = train_private(
                module, x, np.array([0, 1, 0, 1]), np.arange(4), steps=K, lr=LR,
                reference_patients=R, stream=RandomStream.from_seed(1, str(number), str(site)),
                correction=beginning.correction, **stated,
            ).update.vector  # fmt: skip
            kept[site] = one.end(beginning, found, found.astype(np.float64), None)
            updates.append(found)
        state = one.step(state, np.sum(updates, axis=0, dtype=float), weight=4 * sites, sites=sites)
    one_step = noise_std_of_update(lr=LR, reference_patients=R, steps=1, **stated)
    return np.array(updates)[:, :-1].std() / one_step, np.sum(updates, axis=0).std() / one_step


@pytest.mark.parametrize("proximal", [0.5, 2.0, 4.9])
def test_fedproxs_pull_shrinks_the_noise_exactly_as_stated(proximal):
    one = algorithm("fedprox", proximal=proximal)
    each, _ = deviation_of_update(one)
    assert each == pytest.approx(one.noise_growth, rel=0.05)
    assert one.noise_growth < math.sqrt(K)


@pytest.mark.parametrize("contraction", [1.0, 0.9, 0.02])
def test_the_mechanism_and_the_algorithm_state_the_same_noise(contraction):
    stated = {
        "lr": LR, "noise_multiplier": 2.0, "clipping_norm": 1.0, "sampling_rate": 0.5,
        "reference_patients": R,
    }  # fmt: skip
    one = (
        algorithm("fedavg")
        if contraction == 1.0
        else algorithm("fedprox", proximal=(1 - contraction) / LR)
    )
    ratio = noise_std_of_update(steps=K, contraction=contraction, **stated) / (
        noise_std_of_update(steps=1, **stated)
    )
    assert one.noise_growth == pytest.approx(ratio)


def test_scaffolds_updates_carry_the_noise_of_two_rounds_and_their_sum_of_one():
    sites = 4
    one = algorithm("scaffold", sites=sites)
    each, together = deviation_of_update(one, rounds=2, sites=sites)
    stated = math.sqrt(1 + (1 - 1 / sites) ** 2 + (sites - 1) / sites**2)
    assert each / one.noise_growth == pytest.approx(stated, rel=0.04)
    assert stated <= one.spread_growth(1 / sites) == pytest.approx(math.sqrt(2))
    assert together / one.noise_growth == pytest.approx(math.sqrt(sites), rel=0.06)


# What stays at a site


def test_fedbn_sends_zeros_for_normalisation_and_keeps_its_own():
    module = normed()
    one = algorithm("fedbn", module)
    mask = home_mask(module)
    assert mask.sum() == 12  # scale and shift of six features
    sent, update = np.arange(len(mask), dtype=np.float32), np.ones(len(mask), np.float32)
    assert (one.shared(update)[mask] == 0).all()
    assert (one.shared(update)[~mask] == 1).all()
    kept = one.end(one.begin(sent, None, R), update, None, nothing_learned)
    moved = one.begin(sent * 2, kept, R).start
    assert (moved[mask] == sent[mask] + 1).all()
    assert (moved[~mask] == 2 * sent[~mask]).all()


def test_fedbn_unscales_what_it_keeps_by_the_patients_of_the_round():
    one = algorithm("fedbn", normed())
    sent = np.zeros(one.home.size, np.float32)
    update = np.full(one.home.size, 0.5, np.float32)
    kept = one.end(one.begin(sent, None, 2 * R), update, None, nothing_learned)
    assert (kept == 0.25).all()


def test_fedbn_of_a_network_without_normalisation_is_refused():
    with pytest.raises(NothingStaysHome):
        algorithm("fedbn", torch.nn.Linear(3, 1))


def test_dittos_personal_model_is_pulled_to_the_global_one_and_is_kept():
    one = algorithm("ditto")
    sent, kept = np.zeros(2, np.float32), np.array([4.0, -2.0])

    def learn(start, correction):
        gradient = correction(torch.tensor([1.0, 0.0])).numpy()
        return (start - gradient).astype(np.float32)

    # Moved from (4, -2) by (1, 0) it is at (5, -2) from the global one: times 0.5.
    assert one.end(one.begin(sent, kept, R), None, None, learn) == pytest.approx([1.5, -1.0])
    assert one.personal(sent, kept) == pytest.approx(kept)
    assert (one.personal(sent, None) == sent).all()


def test_ditto_sends_what_fedavg_sends():
    update = np.ones(3, np.float32)
    assert (algorithm("ditto").shared(update) == update).all()
    assert algorithm("ditto").begin(update, np.ones(3), R).correction is None


@pytest.mark.parametrize("name", ["fedbn", "ditto", "scaffold"])
def test_what_was_kept_for_another_model_is_refused(name):
    one = algorithm(name, normed() if name == "fedbn" else None)
    size = one.home.size if name == "fedbn" else 4
    with pytest.raises(StateMismatch):
        one.begin(np.zeros(one.sent_size(size), np.float32), np.zeros(99), R)
        one.personal(np.zeros(size, np.float32), np.zeros(99))


# Training without noise


def cohort(patients=12, features=4):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(patients, features)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64), np.arange(patients)


def test_training_without_noise_repeats_and_learns():
    x, y, patient = cohort()
    module = normed()
    how = {"start": to_vector(module), "steps": 60, "lr": 0.5, "sampling_rate": 0.7}
    first, again = (
        descend(module, x, y, patient, generator=np.random.default_rng(5), **how) for _ in range(2)
    )
    assert (first == again).all()
    with torch.no_grad():
        assert ((module(torch.from_numpy(x)).numpy()[:, 0] > 0) == (y == 1)).mean() > 0.8


def test_a_patient_of_many_records_weighs_as_much_as_one_of_one():
    x = np.array([[1.0], *[[-1.0]] * 9], np.float32)
    y, patient = np.array([1, *[1] * 9]), np.array([0, *[1] * 9])
    module = torch.nn.Linear(1, 1)
    start = np.zeros(2, np.float32)
    generator = np.random.default_rng(0)
    end = descend(module, x, y, patient, start=start, steps=1, lr=1.0, generator=generator)
    assert end == pytest.approx([0.0, 0.5])  # the two gradients of the weight cancel


def test_a_step_that_draws_nobody_takes_the_correction_alone():
    x, y, patient = cohort()
    module = torch.nn.Linear(4, 1)
    end = descend(
        module, x, y, patient, start=np.zeros(5, np.float32), steps=2, lr=0.5,
        sampling_rate=0.0, generator=np.random.default_rng(0), correction=torch.ones_like,
    )  # fmt: skip
    assert end == pytest.approx([-1.0] * 5)
