"""The patients of a demonstration: who grants what, and who withdraws when.

Real patients decide for themselves; here a seeded draw stands for them, so that a run shows every
case: most grant, some do not, some grant for other research only, some withdraw between rounds.
Everything after the draw is the real thing: openings at the hospital, commitments in the registry,
withdrawal by the code that the patient kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from protocol.ids import PatientId, SiteId
from records.dataset import Patient

REFUSES: Final = 0.08
GRANTS_OTHER: Final = 0.06
WITHDRAWALS_PER_SITE: Final = 1
LIVE_MIN: Final = 8
"""A site keeps at least this many granting patients, so that small tables still train."""

Decision = Literal["grants", "refuses", "grants-other"]


@dataclass(frozen=True)
class Withdrawal:
    """A patient of ``site`` hands in her code before round ``before_round`` begins."""

    site: SiteId
    patient: PatientId
    before_round: int


@dataclass(frozen=True)
class Wishes:
    """What all patients of a run decide."""

    decisions: Mapping[SiteId, Mapping[PatientId, Decision]]
    withdrawals: tuple[Withdrawal, ...]

    def count(self, decision: Decision) -> int:
        """Return how many patients decided so."""
        return sum(
            one == decision for of_site in self.decisions.values() for one in of_site.values()
        )


def draw_wishes(
    sites: Mapping[SiteId, Sequence[Patient]], *, rounds: int, careless: SiteId | None, seed: int
) -> Wishes:
    """Draw every patient's decision.

    Args:
        sites: Each site's patients.
        rounds: Rounds of the study; withdrawals fall between them.
        careless: The site whose patient withdraws before round ``careless_round``, so that an
            update that ignores it can be shown to be refused.
        seed: Fixes the draw.
    """
    generator = np.random.default_rng([seed, 0x70617469])
    decisions: dict[SiteId, dict[PatientId, Decision]] = {}
    withdrawals: list[Withdrawal] = []
    for site in sorted(sites):
        patients = [patient.id for patient in sites[site]]
        of_site = _decide(patients, generator)
        decisions[site] = of_site
        granting = [patient for patient in patients if of_site[patient] == "grants"]
        if rounds > 1 and len(granting) > LIVE_MIN:
            for index in generator.choice(len(granting), WITHDRAWALS_PER_SITE, replace=False):
                before = int(generator.integers(2, rounds + 1))
                if site == careless:
                    before = careless_round(rounds)
                withdrawals.append(Withdrawal(site, granting[int(index)], before))
    return Wishes(decisions, tuple(withdrawals))


def careless_round(rounds: int) -> int:
    """Return the round in which the demonstration's careless site ignores a withdrawal."""
    return min(3, rounds)


def _decide(
    patients: Sequence[PatientId], generator: np.random.Generator
) -> dict[PatientId, Decision]:
    draws = generator.random(len(patients))
    decided: dict[PatientId, Decision] = {}
    for patient, draw in zip(patients, draws, strict=True):
        if draw < REFUSES:
            decided[patient] = "refuses"
        elif draw < REFUSES + GRANTS_OTHER:
            decided[patient] = "grants-other"
        else:
            decided[patient] = "grants"
    return decided
