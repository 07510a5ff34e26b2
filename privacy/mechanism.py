"""What a study's terms mean for noise: whose it is, what a round costs, what a grid unit is worth.

Both ends derive it from the same approved terms, so that nobody is told how much noise to add.

What holds, each line a test in tests/privacy/test_mechanism.py:

1. A round costs what its mechanism's event says, in the unit of privacy of that mechanism.
2. Terms under which a sum could be opened with less noise than accounted for are refused; so are
   terms that count on privacy against more colluders than the secure sum withstands.
"""

from __future__ import annotations

from typing import Final

from privacy.events import DpSgdEvent, Event, SiteLevelEvent
from privacy.noise_shares import NoisePlan, NoisePlanUnsound
from privacy.parameters import ParameterSet
from privacy.sharing import colluders, quorum
from privacy.summed_noise import event_of, patients_max, step_size
from protocol.errors import PrivacyError
from protocol.terms import StudyTerms

ONE_GRADIENT: Final = frozenset({"fedavg", "fedavgm", "fedadam", "fedprox", "ditto"})
"""Algorithms whose sites send a sum of gradients at the round's weights and nothing else."""


class MechanismUnusable(PrivacyError):
    """A study's algorithm or encryption does not go with its mechanism."""

    code = "mechanism-unusable"

    def __init__(self, mechanism: str, why: str) -> None:
        self.mechanism = mechanism
        self.why = why
        super().__init__(f"noise cannot be added {mechanism} in this study: {why}")


def round_event(terms: StudyTerms) -> Event:
    """Return what one round adds to a hospital's privacy account."""
    privacy = terms.privacy
    if privacy.mechanism == "summed":
        return event_of(
            study_plan(terms),
            sampling_rate=privacy.sampling_rate,
            grid=privacy.grid,
            dimension=terms.training.parameters,
        )
    if privacy.mechanism == "site-level":
        return SiteLevelEvent(noise_multiplier=privacy.noise_multiplier, rounds=1)
    return DpSgdEvent(
        sampling_rate=privacy.sampling_rate,
        noise_multiplier=privacy.noise_multiplier,
        steps=privacy.steps,
    )


def study_plan(terms: StudyTerms) -> NoisePlan:
    """Return how noise is shared by the study's sites, whatever the server calls of them.

    Raises:
        NoisePlanUnsound: The terms leave no honest noise, or count a hospital's own.
    """
    return _plan(terms, most=len(terms.sites), fewest=terms.sites_min)


def round_plan(terms: StudyTerms, roster: int) -> NoisePlan:
    """Return how noise is shared in a round of ``roster`` sites.

    A sum holds a quorum of the sites called at least, and those are no fewer than the roster.

    Raises:
        NoisePlanUnsound: As for ``study_plan``.
    """
    fewest = max(terms.sites_min, quorum(roster))
    return _plan(terms, most=roster, fewest=fewest)


def update_step(terms: StudyTerms) -> float:
    """Return what one grid unit of a sum is worth in the weights, where noise is summed."""
    privacy, training = terms.privacy, terms.training
    return step_size(
        clipping_norm=privacy.clipping_norm,
        grid=privacy.grid,
        lr=training.learning_rate,
        sampling_rate=privacy.sampling_rate,
        reference_patients=training.reference_patients,
    )


def check_mechanism(terms: StudyTerms, parameters: ParameterSet) -> None:
    """Return if the study's noise can be added as its terms say.

    Raises:
        NoisePlanUnsound: The noise that counts could be less than accounted for.
        MechanismUnusable: The algorithm or the encryption does not go with it.
    """
    privacy, training = terms.privacy, terms.training
    if privacy.mechanism == "per-site":
        return
    if training.algorithm not in ONE_GRADIENT:
        why = f"sites of {training.algorithm} send or keep more than an update; choose another"
        raise MechanismUnusable(privacy.mechanism, why)
    if privacy.mechanism == "site-level":
        return
    plan = study_plan(terms)
    if patients_max(parameters, plan, privacy.grid, training.parameters) < 1:
        why = f"its integers do not fit {parameters.name}; choose a set of 20 bits"
        raise MechanismUnusable(privacy.mechanism, why)


def _plan(terms: StudyTerms, *, most: int, fewest: int) -> NoisePlan:
    privacy = terms.privacy
    assumed = terms.sites_min - privacy.honest
    withstood = min(colluders(called) for called in range(terms.sites_min, len(terms.sites) + 1))
    if assumed > withstood:
        # With more, there may be two sums of a round, and shares are taken back for each.
        why = (
            f"it counts {privacy.honest} of {terms.sites_min} sites as honest, so that "
            f"{assumed} may collude, and the sum itself is sure against {withstood}"
        )
        raise NoisePlanUnsound(why)
    if not terms.sites_min <= fewest <= most:
        raise NoisePlanUnsound(f"{most} sites take part where {terms.sites_min} are needed")
    return NoisePlan(
        central=privacy.noise_multiplier * privacy.grid,
        most=most,
        fewest=fewest,
        colluders=assumed,
    )
