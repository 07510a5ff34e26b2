"""Who took part? One run of a federation with coins tossed over its canaries, and the guesses.

A canary that stays out leaves her place empty: her records lose nothing whatever the model says,
so her gradient is zero and the numbers of patients, which are public, stay what they were. Crafted
canaries are the worst case: each pushes with the full clipping norm into a coordinate of its own,
in every round, as no patient does [1, 2].

The guesser sees what the mechanism protects against: every round's model and, where noise is added
per site, every site's update, else only their sum. It knows all records but not the coins, so it
subtracts what it expects; what is left is noise and the canaries' gradients times their coins less
one half. It weighs all rounds and canaries at once by ridge regression, which for Gaussian noise
and coins of that variance is the best linear guess (a canary's score is not misled by her likes).

References:
    [1] Steinke, Nasr, Jagielski, Privacy Auditing with One (1) Training Run, NeurIPS 2023,
    section 6 (Dirac canaries, white box). arXiv:2305.08846
    [2] Nasr et al., Tight Auditing of Differentially Private Machine Learning, USENIX Security
    2023. arXiv:2302.07956
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from opacus import GradSampleModule

from experiments._federation import REFERENCE, Plan, federate
from models.networks import load_vector, to_vector
from privacy.accounting import epsilon
from privacy.audit_bound import best_bound
from privacy.patient_gradients import leave_gradients, log_loss, unhook
from records.dataset import Arrays

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from privacy.events import Event
    from privacy.patient_gradients import RecordLoss

ABSENT: Final = -1
"""Stands in the targets of whoever stays out."""
CRAFTED: Final = 2
"""Stands in the targets of crafted canaries, which no task here has as a class of one number."""
_PUSH: Final = 1e3
"""Input and slope of a crafted canary: far above any clipping norm."""
_AT_ONCE: Final = 32
_RIDGE_MIN: Final = 1e-6
"""Of the largest squared gradient: keeps the regression solvable where there is no noise."""


@dataclass(frozen=True)
class Guessed:
    """What one audited run showed at one delta.

    Attributes:
        lower: Epsilon is surely above it.
        upper: What the accountant promises at ``delta``; infinite without noise.
        delta: Of both.
        guesses: Made; all other canaries were abstained from.
        correct: Among them.
    """

    lower: float
    upper: float
    delta: float
    guesses: int
    correct: int


@dataclass(frozen=True)
class Audited:
    """One run.

    Attributes:
        canaries: How many coins were tossed.
        guessed: One for each delta.
        ranked: Share of pairs, one in and one out, that the scores put in order (an AUC).
    """

    canaries: int
    guessed: tuple[Guessed, ...]
    ranked: float


def audit(
    module: nn.Module,
    sites: Mapping[str, Arrays],
    plan: Plan,
    *,
    seed: int,
    crafted: int = 0,
    loss: RecordLoss = log_loss,
    deltas: tuple[float, ...] = (1e-3, 1e-5),
) -> Audited:
    """Train once with coins tossed, guess them from what was released, and bound epsilon.

    Args:
        module: As ``federate`` takes it; a linear layer where canaries are crafted. It keeps its
            weights.
        sites: One record for each patient.
        plan: One step a round, and nobody left to chance but by the coins.
        seed: Of coins, draws and noise.
        crafted: Canaries that are added; without any, every patient is one.
        loss: Of each record by itself.
        deltas: At which bounds are wanted.
    """
    assert plan.steps == 1
    assert plan.sampling_rate == 1.0
    assert plan.algorithm in {"fedavg", "fedavgm"}, "what sites send is a sum of gradients"
    places = dict(_with_crafted(sites, crafted)) if crafted else dict(sites)
    canary = {
        site: arrays.y == CRAFTED if crafted else np.ones(len(arrays.x), dtype=bool)
        for site, arrays in places.items()
    }
    coins = np.random.default_rng([seed, 0xC0])
    taken = {site: coins.random(int(chosen.sum())) < 0.5 for site, chosen in canary.items()}
    attended = {
        site: _without(places[site], np.flatnonzero(canary[site])[~taken[site]]) for site in places
    }
    seen, first = _Seen(), to_vector(module)
    outcome = federate(module, attended, plan, seed=seed, loss=_of_present(loss), watch=seen)
    scores = _scores(module, places, canary, plan, seen, outcome.noise, loss)
    load_vector(module, first)
    truth = np.concatenate(list(taken.values()))
    return Audited(
        canaries=len(truth),
        guessed=tuple(_guessed(scores, truth, outcome.events, delta) for delta in deltas),
        ranked=_ranked(scores, truth),
    )


@dataclass
class _Seen:
    """What was released, round after round."""

    starts: list[NDArray[np.float32]] = field(default_factory=list)
    sent: list[dict[str, NDArray[np.float32]]] = field(default_factory=list)

    def __call__(self, site: str, start: NDArray[np.float32], shared: NDArray[np.float32]) -> None:
        if not self.sent or site in self.sent[-1]:
            self.starts.append(start)
            self.sent.append({})
        self.sent[-1][site] = shared


def _scores(  # noqa: PLR0917 - all that was released and is known
    module: nn.Module,
    places: Mapping[str, Arrays],
    canary: Mapping[str, NDArray[np.bool_]],
    plan: Plan,
    seen: _Seen,
    noise: float,
    loss: RecordLoss,
) -> NDArray[np.float64]:
    """Return ``(canaries,)``: each coin less one half, as the best linear guess has it."""
    groups = [[site] for site in places] if plan.mechanism == "per-site" else [list(places)]
    patients = sum(len(arrays.x) for arrays in places.values())
    deviation = noise * patients / (plan.lr * math.sqrt(len(groups)))  # of a group's sum
    counts = {site: int(chosen.sum()) for site, chosen in canary.items()}
    parts = []
    for group in groups:
        size = sum(counts[site] for site in group)
        gram, aligned = np.zeros((size, size)), np.zeros(size)
        for start, sent in zip(seen.starts, seen.sent, strict=True):
            load_vector(module, start)
            left = -sum(sent[site].astype(np.float64) for site in group) * (REFERENCE / plan.lr)
            own = []
            for site in group:
                found = gradients(module, places[site], _of_present(loss), _bound(plan))
                left -= found[~canary[site]].sum(axis=0, dtype=np.float64)
                own.append(found[canary[site]])
            ours = np.concatenate(own).astype(np.float64)  # (canaries, parameters)
            left -= 0.5 * ours.sum(axis=0)
            gram += ours @ ours.T
            aligned += ours @ left
        ridge = max(4.0 * deviation**2, _RIDGE_MIN * float(gram.diagonal().max()))
        parts.append(np.linalg.solve(gram + ridge * np.eye(size), aligned))
    return np.concatenate(parts)


def gradients(
    module: nn.Module, arrays: Arrays, loss: RecordLoss, clipping_norm: float
) -> NDArray[np.float32]:
    """Return each record's ``(parameters,)`` gradient, clipped as private training clips it."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    hooked, found = GradSampleModule(module, loss_reduction="sum"), []
    try:
        for start in range(0, len(arrays.x), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            inputs = torch.from_numpy(arrays.x[some])
            leave_gradients(hooked, parameters, inputs, arrays.y[some], views=1, record_loss=loss)
            rows = torch.cat([p.grad_sample.flatten(1) for p in parameters], dim=1)
            norms = rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
            found.append((rows * (clipping_norm / norms).clamp(max=1.0)).numpy())
            hooked.zero_grad(set_to_none=True)
    finally:
        unhook(hooked, parameters)
    return np.concatenate(found)


def _bound(plan: Plan) -> float:
    return math.inf if plan.mechanism == "none" else plan.clipping_norm


def _of_present(loss: RecordLoss) -> RecordLoss:
    """Return the loss with nothing for the absent and a constant slope for crafted canaries."""

    def of(outputs: Tensor, targets: Tensor) -> Tensor:
        marks = targets.reshape(len(targets), -1)[:, 0]
        flat = outputs.flatten(1).sum(dim=1)
        if outputs.shape[1:].numel() > 1:  # a class of its own for each point: none is crafted
            return torch.where(marks == ABSENT, 0.0 * flat, loss(outputs, targets.clamp(min=0)))
        each = loss(outputs, targets.clamp(min=0, max=1))
        each = torch.where(marks == CRAFTED, _PUSH * flat, each)
        return torch.where(marks == ABSENT, 0.0 * flat, each)

    return of


def _without(arrays: Arrays, absent: NDArray[np.int64]) -> Arrays:
    y = arrays.y.copy()
    y[absent] = ABSENT
    return Arrays(x=arrays.x, y=y, patient=arrays.patient)


def _with_crafted(sites: Mapping[str, Arrays], count: int) -> dict[str, Arrays]:
    """Add canaries to the sites in turn, each with a coordinate of the input of its own."""
    features, found = next(iter(sites.values())).x.shape[1], {}
    assert count <= features, "each crafted canary needs a coordinate"
    for index, (site, arrays) in enumerate(sites.items()):
        own = np.arange(index, count, len(sites))
        x = np.zeros((len(own), features), dtype=np.float32)
        x[np.arange(len(own)), own] = _PUSH
        found[site] = Arrays(
            x=np.concatenate([arrays.x, x]),
            y=np.concatenate([arrays.y, np.full(len(own), CRAFTED)]),
            patient=np.arange(len(arrays.x) + len(own)),
        )
    return found


def _guessed(
    scores: NDArray[np.float64], taken: NDArray[np.bool_], events: tuple[Event, ...], delta: float
) -> Guessed:
    lower, guesses, correct = best_bound(scores, taken, delta=delta)
    upper = epsilon(events, delta) if events else math.inf
    return Guessed(lower, upper, delta, guesses, correct)


def _ranked(scores: NDArray[np.float64], taken: NDArray[np.bool_]) -> float:
    """Return the share of pairs of one in and one out that are in order."""
    pairs = scores[taken][:, None] - scores[~taken][None, :]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2)
