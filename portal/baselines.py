"""What the federated model is measured against: each site alone, and all data in one place.

*alone*  a site trains by itself with the same network, steps, noise and epsilon, and takes the
         steps of the study's server, without what the sites do for one another, on the patients
         who consented at the start. This is what the site would have without the others.
*pooled* one model on all sites' records, without privacy, which no hospital could allow. It says
         how much is lost to privacy and federation together.

Both are judged on the same held-out patients as the federated model. They run beside each other in
processes of their own.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fl_server.aggregation import study_algorithm
from models.metrics import auc
from models.networks import build, load_vector, to_vector
from models.training import fit, has_front, patient_scores, predict, seen_by
from portal.children import end_with_parent
from privacy.dpsgd import train_private
from privacy.randomness import RandomStream
from protocol.errors import RecordError
from protocol.ids import SiteId
from protocol.terms import StudyTerms
from records.dataset import Arrays


class OneClassHeldOut(RecordError):
    """The held-out patients are all of one class, so no model can be judged on them."""

    code = "one-class-held-out"

    def __init__(self) -> None:
        super().__init__(
            "the held-out patients are all of one class, so AUC is undefined; give more records of "
            "the other class"
        )


@dataclass(frozen=True)
class Examined:
    """Held-out patients, and the model's judge: AUC over patients, mean over their records."""

    arrays: Arrays
    labels: NDArray[np.int64]  # (patients,)

    def auc_of(
        self, network: str, input_shape: tuple[int, ...], vector: NDArray[np.float32]
    ) -> float:
        """Return the AUC of the model with weights ``vector``."""
        module = build(network, input_shape, 0)
        load_vector(module, vector)
        if has_front(module):
            if network not in self._seen:
                self._seen[network] = seen_by(module, self.arrays.x)
            predicted = predict(module.head, self._seen[network])
        else:
            predicted = predict(module, self.arrays.x)
        scores = patient_scores(predicted, self.arrays.patient)
        found = auc(self.labels, scores)
        if found is None:
            raise OneClassHeldOut
        return found

    @cached_property
    def _seen(self) -> dict[str, NDArray[np.float32]]:
        """What a network's fixed front makes of the records: seventy models share it."""
        return {}


@dataclass(frozen=True)
class Comparison:
    """What every baseline shares: terms, first weights ``(parameters,)``, judge, noise seed."""

    terms: StudyTerms
    initial: NDArray[np.float32]
    examined: Examined
    seed: int | None


@dataclass(frozen=True)
class Baselines:
    """Held-out AUC per round of each site alone, and of pooled training at its end."""

    alone: Mapping[SiteId, Sequence[float]]
    pooled: float


def train_baselines(
    comparison: Comparison,
    sites: Mapping[SiteId, Arrays],
    *,
    pooled_epochs: int,
    processes: int,
    on_done: Callable[[str], None],
) -> Baselines:
    """Train every baseline; return their held-out AUC.

    Args:
        comparison: What they share; its seed makes noise reproducible, None draws it from the
            system.
        sites: Each site's consenting patients' records.
        pooled_epochs: Passes over all records for the pooled model.
        processes: How many train at once.
        on_done: Told the name of each that is done.
    """
    context = multiprocessing.get_context("spawn")
    alone: dict[SiteId, Sequence[float]] = {}
    pooled = 0.0
    with ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
        jobs = {
            pool.submit(_alone, comparison, site, arrays): site for site, arrays in sites.items()
        }
        all_records = pool.submit(_pooled, comparison, tuple(sites.values()), pooled_epochs)
        for job in as_completed(jobs):
            alone[jobs[job]] = job.result()
            on_done(jobs[job])
        pooled = all_records.result()
        on_done("pooled")
    return Baselines({site: alone[site] for site in sorted(alone)}, pooled)


def _alone(comparison: Comparison, site: SiteId, arrays: Arrays) -> list[float]:
    torch.set_num_threads(1)
    terms, examined, seed = comparison.terms, comparison.examined, comparison.seed
    privacy, training = terms.privacy, terms.training
    module = build(training.network, training.input_shape, 0)
    state = study_algorithm(terms).first(comparison.initial)
    patients = int(arrays.patient.max()) + 1
    curve = []
    for number in range(1, terms.rounds + 1):
        stream = (
            RandomStream.from_system()
            if seed is None
            else RandomStream.from_seed(seed, "alone", site, str(number))
        )
        load_vector(module, state.vector)
        trained = train_private(
            module,
            arrays.x,
            arrays.y,
            arrays.patient,
            patients=patients,
            sampling_rate=privacy.sampling_rate,
            steps=privacy.steps,
            noise_multiplier=privacy.noise_multiplier,
            clipping_norm=privacy.clipping_norm,
            lr=training.learning_rate,
            reference_patients=training.reference_patients,
            stream=stream,
            augment=training.augment,
            views=training.views,
        )
        total = trained.update.vector.astype(np.float64)
        state = study_algorithm(terms).step(state, total, weight=patients, sites=1)
        curve.append(examined.auc_of(training.network, training.input_shape, state.vector))
    return curve


def _pooled(comparison: Comparison, sites: Sequence[Arrays], epochs: int) -> float:
    torch.set_num_threads(1)
    training, examined = comparison.terms.training, comparison.examined
    module = build(training.network, training.input_shape, 0)
    load_vector(module, comparison.initial)
    fit(
        module,
        np.concatenate([arrays.x for arrays in sites]),
        np.concatenate([arrays.y for arrays in sites]),
        epochs=epochs,
        seed=comparison.seed or 0,
    )
    return examined.auc_of(training.network, training.input_shape, to_vector(module))
