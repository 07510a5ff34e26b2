"""A federation in one process: sites' arrays go in, a model and what its privacy cost come out.

The training, clipping, noise and accounting are the product's own (``privacy``, ``models``); what
is left out is what does not change the numbers: consent, encryption, messages, money. Under
``summed`` noise the integers that the sites would encrypt are simply added.

=========== ==================================================================================
mechanism   what each site adds
=========== ==================================================================================
none        nothing, and nobody is clipped
per-site    enough noise for its own update to be private against everybody (``privacy.dpsgd``)
summed      a share of the noise of the sum, which is all that anyone sees
            (``privacy.summed_noise``); private against the server and ``colluders`` sites
=========== ==================================================================================

The unit of privacy is the patient. Both private mechanisms are calibrated so that all rounds
together stay within ``epsilon`` at ``delta``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.algorithms.catalogue import algorithm_of
from models.algorithms.interface import Algorithm, AlgorithmName, Beginning, Constants
from models.networks import load_vector, to_vector
from privacy import summed_noise
from privacy.accounting import noise_multiplier_for, statement
from privacy.dpsgd import train_private
from privacy.events import DpSgdEvent, Event, SummedNoiseEvent
from privacy.noise_shares import NoisePlan, NoiseShare
from privacy.patient_gradients import log_loss
from privacy.randomness import KEY_BYTES, RandomStream
from privacy.statement import PrivacyStatement
from records.dataset import Arrays

if TYPE_CHECKING:
    from privacy.patient_gradients import RecordLoss

Mechanism = Literal["none", "per-site", "summed"]
Vector = NDArray[np.float32]
Judge = Callable[[nn.Module], float]
Watch = Callable[[str, Vector, Vector], None]
"""Told a site's name, the weights its round began at, and what it adds to the sum."""
REFERENCE: Final = 64
"""Patients that updates are scaled by; any number gives the same model."""


@dataclass(frozen=True)
class Plan:
    """How a federation trains.

    Attributes:
        mechanism: See the table.
        rounds: Rounds of the study.
        steps: Steps of each site in a round; 1 under summed noise.
        sampling_rate: Probability with which each patient is drawn into a step.
        clipping_norm: Bound on one patient's gradient.
        lr: Learning rate of a site's steps.
        epsilon: Of all rounds together, for one patient.
        delta: Belongs to it.
        colluders: Sites that may tell the server their share of summed noise.
        averaged: Share of the rounds, counted from the last, whose models are averaged; after
            the noise, so it costs no privacy.
        augment: Whether drawn images are mirrored at random.
        views: Records averaged into one patient's gradient.
        algorithm: As ``models.algorithms`` names it.
        server_lr: Factor on the mean update.
        server_momentum: Share of the server's last step that it takes again.
        proximal: Of FedProx and Ditto.
    """

    mechanism: Mechanism
    rounds: int
    lr: float
    steps: int = 1
    sampling_rate: float = 1.0
    clipping_norm: float = 1.0
    epsilon: float = math.inf
    delta: float = 1e-3
    colluders: int = 1
    averaged: float = 0.0
    augment: bool = False
    views: int = 1
    algorithm: AlgorithmName = "fedavg"
    server_lr: float = 1.0
    server_momentum: float = 0.0
    proximal: float = 0.0

    def __post_init__(self) -> None:
        assert (self.mechanism == "none") == math.isinf(self.epsilon)
        assert self.mechanism != "summed" or self.steps == 1
        assert 0.0 <= self.averaged <= 1.0


@dataclass(frozen=True)
class Outcome:
    """What a federation ended with.

    Attributes:
        vector: ``(parameters,)`` the model.
        personal: Each site's own model, which is ``vector`` for most algorithms.
        curve: The judge's score after each round; empty without a judge.
        spent: What a patient's privacy cost, or None without noise.
        noise: Deviation of the noise in one coordinate of one round's mean update.
        events: What ``spent`` accounts for; of one patient, who is at one site.
    """

    vector: Vector
    personal: Mapping[str, Vector]
    curve: tuple[float, ...]
    spent: PrivacyStatement | None
    noise: float
    events: tuple[Event, ...] = ()


def federate(
    module: nn.Module,
    sites: Mapping[str, Arrays],
    plan: Plan,
    *,
    seed: int,
    judge: Judge | None = None,
    loss: RecordLoss = log_loss,
    watch: Watch | None = None,
) -> Outcome:
    """Train ``module`` over the sites; it holds the first weights and, at the end, the model.

    Args:
        module: From ``(batch, ...)`` to what ``loss`` takes.
        sites: Each site's records; more than one for summed noise.
        plan: How.
        seed: Of draws and noise, which are seeded: for measuring, not for patients.
        judge: Scores the module after each round.
        loss: Of each record by itself.
        watch: Sees what sites send, as whoever audits them does.
    """
    sizes = {site: int(arrays.patient.max()) + 1 for site, arrays in sites.items()}
    first = to_vector(module)
    rule = algorithm_of(_constants(plan, len(sites)), module)
    noise = _Noise(plan, len(sites), len(first))
    state, kept = rule.first(first), dict.fromkeys(sites)
    curve, past = [], []
    for number in range(1, plan.rounds + 1):
        sent, total = rule.sent(state), np.zeros(len(first))
        for site, arrays in sites.items():
            beginning = rule.begin(sent, kept[site], sizes[site])
            load_vector(module, beginning.start)
            stream = RandomStream.from_seed(seed, "federation", site, str(number))
            update = _train(module, arrays, beginning, plan, noise, loss=loss, stream=stream)
            shared = rule.shared(update)
            total += shared
            if watch is not None:
                watch(site, beginning.start, shared)
            learn = _learning(module, arrays, plan, loss)
            kept[site] = rule.end(beginning, update, shared.astype(np.float64), learn)
        state = rule.step(state, total, weight=sum(sizes.values()), sites=len(sites))
        past.append(state.vector)
        load_vector(module, _mean(past, plan.averaged))
        if judge is not None:
            curve.append(judge(module))
    final = to_vector(module)
    personal = {site: rule.personal(rule.sent(state), kept[site]) for site in sites}
    if type(rule) is Algorithm:
        personal = dict.fromkeys(sites, final)
    return Outcome(final, personal, tuple(curve), noise.spent, noise.deviation(sizes), noise.events)


def alone(
    module: nn.Module,
    arrays: Arrays,
    plan: Plan,
    *,
    seed: int,
    judge: Judge | None = None,
    loss: RecordLoss = log_loss,
) -> Outcome:
    """Train on one site's records, under the noise that the site needs by itself."""
    own = {
        **{name: getattr(plan, name) for name in plan.__dataclass_fields__},
        "mechanism": "none" if plan.mechanism == "none" else "per-site",
    }
    return federate(module, {"alone": arrays}, Plan(**own), seed=seed, judge=judge, loss=loss)


def pool(sites: Mapping[str, Arrays]) -> Arrays:
    """Return all sites' records as if they were one site's."""
    shift, patients = 0, []
    for arrays in sites.values():
        patients.append(arrays.patient + shift)
        shift += int(arrays.patient.max()) + 1
    return Arrays(
        x=np.concatenate([arrays.x for arrays in sites.values()]),
        y=np.concatenate([arrays.y for arrays in sites.values()]),
        patient=np.concatenate(patients),
    )


class _Noise:
    """The noise of a plan: calibrated once, and what it costs over all rounds."""

    def __init__(self, plan: Plan, sites: int, dimension: int) -> None:
        self.plan = plan
        self.grid = summed_noise.grid_for(dimension)
        self.multiplier = 0.0
        self.spent: PrivacyStatement | None = None
        self.events: tuple[Event, ...] = ()
        steps, delta = plan.rounds * plan.steps, plan.delta
        if plan.mechanism == "per-site":
            self.multiplier = noise_multiplier_for(plan.epsilon, delta, plan.sampling_rate, steps)
            self.events = (DpSgdEvent(plan.sampling_rate, self.multiplier, steps),)
        elif plan.mechanism == "summed":
            self.sensitivity = summed_noise.sensitivity(self.grid, dimension)
            honest = sites - plan.colluders
            share = summed_noise.share_deviation_for(
                *(plan.epsilon, delta, plan.sampling_rate, steps),
                *(honest, self.sensitivity, dimension),
            )
            self.cut = NoisePlan(share * math.sqrt(honest), sites, sites, plan.colluders)
            self.multiplier = share * math.sqrt(honest) / self.sensitivity
            summed = SummedNoiseEvent(
                plan.sampling_rate, self.sensitivity, share, honest, dimension, steps
            )
            self.events = (summed,)
        if self.events:
            self.spent = statement(self.events, delta)

    def deviation(self, sizes: Mapping[str, int]) -> float:
        """Return the deviation of a coordinate of one round's mean update."""
        plan = self.plan
        times = math.sqrt(plan.steps)
        if plan.mechanism == "per-site":
            times *= math.sqrt(len(sizes))
        elif plan.mechanism == "summed":
            times *= math.sqrt(len(sizes) / (len(sizes) - plan.colluders))
        patients = plan.sampling_rate * sum(sizes.values())
        return plan.lr * plan.clipping_norm * self.multiplier * times / patients


def _train(
    module: nn.Module,
    arrays: Arrays,
    beginning: Beginning,
    plan: Plan,
    noise: _Noise,
    *,
    loss: RecordLoss,
    stream: RandomStream,
) -> Vector:
    """Return one site's update of one round, scaled by its patients over ``REFERENCE``."""
    records = (arrays.x, arrays.y, arrays.patient)
    if plan.mechanism == "none":
        _descend(module, arrays, plan.steps, plan.lr, loss, beginning)
        moved = to_vector(module) - beginning.start
        return np.asarray(moved * np.float32(beginning.patients / REFERENCE))
    if plan.mechanism == "per-site":
        trained = train_private(
            module,
            *records,
            sampling_rate=plan.sampling_rate,
            steps=plan.steps,
            noise_multiplier=noise.multiplier,
            clipping_norm=plan.clipping_norm,
            lr=plan.lr,
            reference_patients=REFERENCE,
            stream=stream,
            views=plan.views,
            augment=plan.augment,
            loss=loss,
            correction=beginning.correction,
        )
        return trained.update.vector
    assert beginning.correction is None, "under summed noise the server takes the step"
    integers = summed_noise.train_summed(
        module,
        *records,
        sampling_rate=plan.sampling_rate,
        clipping_norm=plan.clipping_norm,
        grid=noise.grid,
        share=NoiseShare(noise.cut, stream.child("surplus").bytes(KEY_BYTES)),
        stream=stream,
        views=plan.views,
        augment=plan.augment,
        loss=loss,
    )
    unit = summed_noise.step_size(
        clipping_norm=plan.clipping_norm,
        grid=noise.grid,
        lr=plan.lr,
        sampling_rate=plan.sampling_rate,
        reference_patients=REFERENCE,
    )
    return (integers.values * unit).astype(np.float32)


def _descend(  # noqa: PLR0917 - one descent's parts
    module: nn.Module,
    arrays: Arrays,
    steps: int,
    lr: float,
    loss: RecordLoss,
    beginning: Beginning | None = None,
) -> None:
    """Take plain gradient steps on the mean loss of all records."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    x, y = torch.from_numpy(arrays.x), torch.from_numpy(arrays.y)
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(module(x), y).mean(), parameters)
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        before = to_vector(module)
        if beginning is not None and beginning.correction is not None:
            flat = flat + beginning.correction(torch.from_numpy(before - beginning.start))
        load_vector(module, before - np.float32(lr) * flat.numpy())


def _learning(
    module: nn.Module, arrays: Arrays, plan: Plan, loss: RecordLoss
) -> Callable[[Vector, Callable[[torch.Tensor], torch.Tensor]], Vector]:
    """Return what Ditto trains a site's own model with."""

    def learn(start: Vector, correction: Callable[[torch.Tensor], torch.Tensor]) -> Vector:
        load_vector(module, start)
        own = Beginning(start, correction, start, None, 1)
        _descend(module, arrays, plan.steps, plan.lr, loss, own)
        return to_vector(module)

    return learn


def _mean(past: list[Vector], averaged: float) -> Vector:
    """Return the mean of the last models, of one at least."""
    last = max(1, round(averaged * len(past)))
    return np.asarray(np.mean(past[-last:], axis=0, dtype=np.float64), dtype=np.float32)


def _constants(plan: Plan, sites: int) -> Constants:
    return Constants(
        name=plan.algorithm,
        steps=plan.steps,
        sites=sites,
        learning_rate=plan.lr,
        reference_patients=REFERENCE,
        server_learning_rate=plan.server_lr,
        server_momentum=plan.server_momentum,
        proximal=plan.proximal,
        personal_learning_rate=plan.lr,
    )
