"""What a federated algorithm is: a site's half, a server's half, and the noise they let through.

A round, with everything an algorithm decides::

    server   sent(state) ──▶ site   begin(sent, kept, patients) ─▶ start, correction
                                    train from start, adding correction to each step's gradient
                                    shared(update) ─▶ quantise, mask, encrypt
                                    end(beginning, ...) ─▶ kept, at the site, for the next round
             step(state, total, weight, sites) ◀── the opened sum of the sites' shared updates

``Algorithm`` itself is FedAvg [1] with server momentum [2], and FedAvg where that is 0; each other
algorithm is a subclass that says only what it does differently.

Site i scales its update by n_i / R, its patients over the study's public reference number, so that
the sum over sites divided by the sum of n_i / R is the mean weighted by patients.

What holds, each a test in tests/models/test_algorithms.py:

1. Nothing here reads a patient's record or gradient. Under differential privacy an algorithm sees
   noised updates, and sums of them, alone: whatever it computes is post-processing and costs no
   privacy [3, proposition 2.1].
2. ``noise_growth`` and ``spread_growth`` give the deviation of a noised update exactly, so that the
   public quantisation scale fits under each algorithm.
3. What a site keeps never has a share in another site's model, unless it is in ``shared``.

References:
    [1] McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
        AISTATS 2017, Algorithm 1. arXiv:1602.05629
    [2] Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution, 2019, section 3
        (FedAvgM). arXiv:1909.06335
    [3] Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2014.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigurationError

AlgorithmName = Literal["fedavg", "fedavgm", "fedadam", "fedprox", "scaffold", "fedbn", "ditto"]
ALGORITHMS: Final[tuple[str, ...]] = get_args(AlgorithmName)

Vector = NDArray[np.float32]
Wide = NDArray[np.float64]
Correction = Callable[[Any], Any]
"""From the tensor of weights moved since the round began to what a step adds to its gradient."""
Learn = Callable[[Vector, Correction], Vector]
"""The site's own training without noise, from start and correction to where it ends; what it
gives stays at the site."""


class AlgorithmUnusable(ConfigurationError):
    """A study's constants do not fit its algorithm."""

    code = "algorithm-unusable"

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        self.why = why
        super().__init__(f"the study cannot train with {name!r}: {why}; change its terms")


class StateMismatch(ConfigurationError):
    """What was sent or kept for an algorithm has another size than its model needs."""

    code = "algorithm-state-mismatch"

    def __init__(self, what: str, expected: int, found: int) -> None:
        self.expected = expected
        self.found = found
        super().__init__(
            f"{what} has {found} numbers and the algorithm needs {expected}; take what was made in "
            "the same study"
        )


class Terms(Protocol):
    """The part of a study's training terms that an algorithm reads."""

    @property
    def algorithm(self) -> AlgorithmName: ...  # noqa: D102  # named by the class
    @property
    def reference_patients(self) -> int: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def server_learning_rate(self) -> float: ...  # noqa: D102
    @property
    def server_momentum(self) -> float: ...  # noqa: D102
    @property
    def proximal(self) -> float: ...  # noqa: D102
    @property
    def adam_beta1(self) -> float: ...  # noqa: D102
    @property
    def adam_beta2(self) -> float: ...  # noqa: D102
    @property
    def adam_tau(self) -> float: ...  # noqa: D102
    @property
    def personal_learning_rate(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Constants:
    """What is public and fixed for the whole study.

    Attributes:
        name: Which algorithm.
        steps: A site's steps in a round, K.
        sites: Sites of the study, N, whether or not they take part in a round.
        learning_rate: Of a site's plain SGD.
        reference_patients: R of the module's head.
        server_learning_rate: Factor on the mean update.
        server_momentum: Share of the server's last step that it takes again.
        proximal: FedProx's mu or Ditto's lambda; 0 elsewhere.
        adam_beta1: FedAdam's share of the last mean.
        adam_beta2: FedAdam's share of the last mean square.
        adam_tau: What FedAdam adds to the root before it divides.
        personal_learning_rate: Of Ditto's personal model.
    """

    name: AlgorithmName
    steps: int
    sites: int
    learning_rate: float
    reference_patients: int
    server_learning_rate: float = 1.0
    server_momentum: float = 0.0
    proximal: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    adam_tau: float = 1e-3
    personal_learning_rate: float = 0.1

    def __post_init__(self) -> None:
        assert self.steps >= 1
        assert self.sites >= 1
        if self.name == "fedavgm" and self.server_momentum == 0:
            raise AlgorithmUnusable(self.name, "its server_momentum is 0, which is fedavg")
        pulls = self.name in {"fedprox", "ditto"}
        if pulls != (self.proximal > 0):
            why = "its proximal is 0" if pulls else "proximal is of fedprox and ditto alone"
            raise AlgorithmUnusable(self.name, why)
        rate = self.learning_rate if self.name == "fedprox" else self.personal_learning_rate
        if pulls and rate * self.proximal >= 1:
            raise AlgorithmUnusable(
                self.name, "proximal times the learning rate is 1 or more, so steps overshoot"
            )

    @classmethod
    def of(cls, terms: Terms, *, steps: int, sites: int) -> Constants:
        """Return the constants of a study with these training terms."""
        return cls(
            name=terms.algorithm,
            steps=steps,
            sites=sites,
            learning_rate=terms.learning_rate,
            reference_patients=terms.reference_patients,
            server_learning_rate=terms.server_learning_rate,
            server_momentum=terms.server_momentum,
            proximal=terms.proximal,
            adam_beta1=terms.adam_beta1,
            adam_beta2=terms.adam_beta2,
            adam_tau=terms.adam_tau,
            personal_learning_rate=terms.personal_learning_rate,
        )


@dataclass(frozen=True)
class Beginning:
    """Where a site's training of one round starts.

    Attributes:
        start: ``(parameters,)`` weights to load into the network.
        correction: Added to each step's gradient, or None.
        sent: What came from the server.
        kept: What the site kept of its last round, or None.
        patients: n_i, the patients that train in this round.
    """

    start: Vector
    correction: Correction | None
    sent: Vector
    kept: Wide | None
    patients: int


@dataclass(frozen=True)
class GlobalState:
    """The server's model and what the algorithm carries from round to round beside it.

    Attributes:
        vector: ``(parameters,)`` the weights.
        momentum: ``(parameters,)`` the server's last step.
        carried: Further ``(parameters,)`` vectors by name; which, the algorithm says.
    """

    vector: Vector
    momentum: Vector
    carried: Mapping[str, Wide] = field(default_factory=dict)


@dataclass(frozen=True)
class Algorithm:
    """FedAvg with server momentum, and what the other algorithms inherit from it."""

    constants: Constants

    @property
    def keeps_what_entered(self) -> bool:
        """Whether what a site kept serves only if its update of that round entered the sum."""
        return False

    @property
    def keeps_what_records_say(self) -> bool:
        """Whether what a site keeps was computed from records without noise.

        It then serves only while all those patients take part: the site starts it anew without
        who withdrew.
        """
        return False

    # The site's half

    def sent_size(self, parameters: int) -> int:
        """Return how many numbers the server sends for a model of ``parameters`` parameters."""
        return parameters

    def begin(self, sent: Vector, kept: Wide | None, patients: int) -> Beginning:
        """Return where a site's round starts.

        Args:
            sent: ``(sent_size,)`` as the server sent it.
            kept: What ``end`` gave in the last round of this site that counted, or None.
            patients: The patients that train.
        """
        assert patients >= 1
        return Beginning(sent, None, sent, kept, patients)

    def shared(self, update: Vector) -> Vector:
        """Return what of a scaled update leaves the site: ``(parameters,)``, 0 where it stays."""
        return update

    def end(self, beginning: Beginning, update: Vector, entered: Wide, learn: Learn) -> Wide | None:
        """Return what the site keeps for the next round, or None.

        Args:
            beginning: Of this round.
            update: ``(parameters,)`` the whole update, scaled by n_i / R.
            entered: ``(parameters,)`` what of it enters the sum, as it was rounded.
            learn: Trains at the site, without noise, for the site alone.
        """
        del beginning, update, entered, learn
        return None

    def personal(self, sent: Vector, kept: Wide | None) -> Vector:
        """Return the ``(parameters,)`` model the site should use itself."""
        del kept
        return sent

    # The server's half

    def first(self, vector: Vector) -> GlobalState:
        """Return the state before the first round."""
        return GlobalState(vector, np.zeros_like(vector))

    def sent(self, state: GlobalState) -> Vector:
        """Return the ``(sent_size,)`` numbers that the sites get."""
        return state.vector

    def step(self, before: GlobalState, total: Wide, *, weight: int, sites: int) -> GlobalState:
        """Return the state after a round.

        Args:
            before: What the round's sites started from.
            total: ``(parameters,)`` the opened sum of their scaled updates.
            weight: The sum of their patients.
            sites: How many they are.
        """
        del sites
        mean = self.mean(total, weight)
        momentum = self.constants.server_momentum * before.momentum.astype(np.float64) + mean
        return GlobalState(
            self.moved(before.vector, momentum), momentum.astype(np.float32), before.carried
        )

    def mean(self, total: Wide, weight: int) -> Wide:
        """Return FedAvg's mean of the unscaled updates, weighted by patients."""
        return total / (weight / self.constants.reference_patients)

    def moved(self, vector: Vector, step: Wide) -> Vector:
        """Return the weights after a step of the server."""
        after = vector.astype(np.float64) + self.constants.server_learning_rate * step
        return after.astype(np.float32)

    # The noise

    @property
    def contraction(self) -> float:
        """What a step multiplies the weights' way from the round's start by, 1 for most."""
        return 1.0

    @property
    def noise_growth(self) -> float:
        """The deviation of a round's noise in an update over that of one step's.

        The noise of step t is multiplied by the contraction in each later step, and the steps'
        noises are independent: the root of the sum of their squares, sqrt(K) without contraction.
        """
        return math.sqrt(
            sum(self.contraction ** (2 * step) for step in range(self.constants.steps))
        )

    def spread_growth(self, largest_share: float) -> float:
        """Return the deviation of the noise a site's update shows over that of its own round.

        Args:
            largest_share: The largest site's share of the patients, in (0, 1].
        """
        del largest_share
        return 1.0
