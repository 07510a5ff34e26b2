"""Every algorithm gives the same model through masks and BFV as without them, private or not.

Three sites hold tables that differ; their updates take the way of real ones: train, quantise, and
then either a plain sum, or call, group key, masks, encryption, commitment, endorsement and opening
(``tests.fl_server.cohort``). One random stream makes both ways train on the same draws and noise.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from fl_server.aggregation import apply_sum, first_state, study_algorithm
from models.algorithms.catalogue import algorithm_of, defaults_for
from models.algorithms.interface import ALGORITHMS, Constants
from models.algorithms.local import descend
from models.metrics import auc
from models.networks import load_vector, tensor_sizes, to_vector
from privacy.dpsgd import train_private
from privacy.parameters import parameter_set
from privacy.quantisation import quantise
from privacy.randomness import RandomStream
from privacy.update import Update, declare_public
from tests.fl_server import cohort as cohorts
from tests.fl_server.cohort import LENGTH, Cohort, names

pytestmark = pytest.mark.slow

SITES, FEATURES, PATIENTS = 3, 9, (30, 18, 24)
SETTINGS = [(name, private) for name in ALGORITHMS for private in (False, True)]
LABELS = [f"{name}-{'private' if private else 'plain'}" for name, private in SETTINGS]


def network():
    """Forty parameters, six of them of a normalisation layer."""
    torch.manual_seed(2)
    module = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 3), torch.nn.LayerNorm(3), torch.nn.Tanh(), torch.nn.Linear(3, 1)
    )
    assert len(to_vector(module)) == LENGTH
    return module


def table(site, patients=None, seed=0):
    """A site's patients: the same disease, measured at a scale and a rate of its own."""
    generator = np.random.default_rng([seed, site])
    x = generator.normal(size=(patients or PATIENTS[site], FEATURES))
    y = (x[:, 0] - x[:, 1] + 0.3 * generator.normal(size=len(x)) > 0.4 * (site - 1)).astype(int)
    return (x * (1 + 0.3 * site)).astype(np.float32), y.astype(np.int64), np.arange(len(x))


def with_algorithm(terms, name, noise):
    start = defaults_for(name)
    training = terms.training.model_copy(
        update={
            "tensor_sizes": tensor_sizes(network()),
            "input_shape": (FEATURES,),
            "reference_patients": 24,
            "learning_rate": 0.5,
            "algorithm": name,
            "proximal": start.proximal,
            "server_learning_rate": start.server_lr or 1.0,
            "server_momentum": start.server_momentum or 0.0,
        }
    )
    privacy = terms.privacy.model_copy(
        update={"sampling_rate": 0.5, "noise_multiplier": noise, "steps": 3}
    )
    return terms.model_copy(update={"training": training, "privacy": privacy})


@dataclass
class Federation:
    """Three sites under one algorithm; ``summed`` adds their integers, one way or the other."""

    name: str
    private: bool
    terms: object
    summed: object
    noise: float = 1.0
    kept: dict = field(default_factory=dict)

    def __post_init__(self):
        self.terms = with_algorithm(self.terms, self.name, self.noise)
        self.parameters = parameter_set(self.terms.encryption)
        self.state = first_state(self.terms, self.parameters, to_vector(network()))
        self.module = network()
        constants = Constants.of(self.terms.training, steps=3, sites=SITES)
        self.algorithm = algorithm_of(constants, self.module)

    def round(self, number):
        values = {
            site: self.site(index, number, self.state) for index, site in enumerate(names(SITES))
        }
        weights = dict(zip(values, PATIENTS, strict=True))
        integers, weight = self.summed(number, values, weights)
        self.state = apply_sum(
            self.terms, self.parameters, self.state, integers,
            weight=weight, sites=SITES, largest=max(PATIENTS),
        )  # fmt: skip
        return integers

    def site(self, index, number, state):
        x, y, patient = table(index)
        algorithm, privacy = self.algorithm, self.terms.privacy
        stream = RandomStream.from_seed(4, self.name, str(index), str(number))
        beginning = algorithm.begin(state.sent, self.kept.get(index), len(x))
        if self.private:
            load_vector(self.module, beginning.start)
            noised = train_private(
                self.module, x, y, patient, sampling_rate=privacy.sampling_rate,
                steps=privacy.steps, noise_multiplier=privacy.noise_multiplier,
                clipping_norm=privacy.clipping_norm, lr=self.terms.training.learning_rate,
                reference_patients=self.terms.training.reference_patients,
                stream=stream.child("train"), correction=beginning.correction,
            ).update  # fmt: skip
        else:
            end = self.learn(index, number, steps=privacy.steps, lr=0.5)(
                beginning.start, beginning.correction
            )
            moved = (end - beginning.start) * np.float32(len(x) / 24)
            noised = declare_public(Update(moved.astype(np.float32)), "drawn for a test")
        whole = noised.vector
        leaving = type(noised)(algorithm.shared(whole), noised.public_because)
        steps = np.repeat(state.steps, self.terms.training.tensor_sizes)
        quantised = quantise(leaving, steps, self.parameters.value_bits, stream.child("round"))
        entered = quantised.values * steps
        own = self.learn(index, number, steps=20, lr=0.1)
        self.kept[index] = algorithm.end(beginning, whole, entered, own)
        return quantised.values

    def learn(self, index, number, *, steps, lr):
        x, y, patient = table(index)
        generator = np.random.default_rng([index, number])

        def train(start, correction):
            return descend(
                self.module, x, y, patient, start=start, steps=steps, lr=lr,
                sampling_rate=0.5, generator=generator, correction=correction,
            )  # fmt: skip

        return train

    def auc_at(self, index, vector):
        x, y, _ = table(index, patients=400, seed=9)
        load_vector(self.module, vector)
        with torch.no_grad():
            return auc(y, self.module(torch.from_numpy(x)).numpy()[:, 0])


def in_clear(_number, values, weights):
    return np.sum([one.astype(np.int64) for one in values.values()], axis=0), sum(weights.values())


@pytest.fixture(scope="module")
def cohort():
    return Cohort.meet(SITES)


@pytest.fixture(scope="module")
def rounds():
    return itertools.count(1)


@pytest.fixture
def sealed(cohort, rounds, monkeypatch):
    """Sum through masks, BFV and the sites' endorsed opening."""

    def summed(_number, values, weights):
        monkeypatch.setattr(cohorts, "values_of", lambda site, _round: values[site])
        monkeypatch.setattr(cohorts, "weight_of", weights.__getitem__)
        opened = cohort.open(cohort.upload(cohort.begin(next(rounds))))
        return opened.integers, opened.weight

    return summed


@pytest.mark.parametrize(("name", "private"), SETTINGS, ids=LABELS)
def test_encrypted_equals_plain_to_the_last_bit(name, private, cohort, sealed):
    clear = Federation(name, private, cohort.terms, in_clear)
    masked = Federation(name, private, cohort.terms, sealed)
    for number in (1, 2):
        integers = clear.round(number)
        assert (integers == masked.round(number)).all()
        assert integers.any()
        assert clear.state.sha256 == masked.state.sha256
        assert (clear.state.steps == masked.state.steps).all()
    for index in range(SITES):
        mine, theirs = clear.kept[index], masked.kept[index]
        assert mine is theirs is None or (mine == theirs).all()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_learns_plain_and_private(name, cohort):
    for private, least in ((False, 0.85), (True, 0.75)):
        study = Federation(name, private, cohort.terms, in_clear, noise=0.6)
        before = np.mean([study.auc_at(index, to_vector(network())) for index in range(SITES)])
        for number in range(1, 31):
            study.round(number)
        after = np.mean(
            [
                study.auc_at(index, study.algorithm.personal(study.state.sent, study.kept[index]))
                for index in range(SITES)
            ]
        )
        assert after > max(least, before), (private, before, after)


def test_the_servers_half_is_the_sites_algorithm(cohort):
    for name in ALGORITHMS:
        terms = with_algorithm(cohort.terms, name, 1.0)
        assert study_algorithm(terms).constants.name == name
