"""The one way out of the hospital: a fixed order of stages that no study can change.

::

    selection ─▶ reserve epsilon ─▶ train (clip, noise) ─▶ quantise ─▶ pack ─▶ mask ─▶ encrypt
      consent      privacy budget     NoisedUpdate                                        │
                                                  receipt, signed ◀─ commit, certify ◀────┘

Each stage takes only what the stage before returns: ``quantise`` accepts a ``NoisedUpdate`` and
``encrypt`` a ``MaskedUpdate``, so that skipping a stage is a type error. Epsilon is reserved before
the records are read, and spent when the reply is stored, which is before the reply leaves.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.networks import load_vector
from privacy.accounting import DpSgdEvent
from privacy.bfv import EncryptedUpdate, SecretKey, encrypt
from privacy.dpsgd import train_private
from privacy.masks import apply as apply_pads
from privacy.packing import pack
from privacy.parameters import ParameterSet
from privacy.quantisation import quantise
from privacy.randomness import RandomStream
from privacy.update import NoisedUpdate
from protocol.ids import SiteId
from protocol.messages import RoundPlan, StudyTerms
from protocol.progress import Progress, Step
from records.dataset import Loader, Patient


@dataclass(frozen=True)
class Outgoing:
    """What may leave, and the plain integers inside it (kept for demonstrations only)."""

    encrypted: EncryptedUpdate
    integers: NDArray[np.int64]
    saturated: int

    @property
    def sha256(self) -> str:
        """The commitment to the ciphertext that the receipt carries."""
        return hashlib.sha256(self.encrypted.blob).hexdigest()


def round_event(terms: StudyTerms) -> DpSgdEvent:
    """Return what one round adds to the hospital's privacy account."""
    privacy = terms.privacy
    return DpSgdEvent(
        sampling_rate=privacy.sampling_rate,
        noise_multiplier=privacy.noise_multiplier,
        steps=privacy.steps,
    )


def train_round(
    terms: StudyTerms,
    plan: RoundPlan,
    site: SiteId,
    module: torch.nn.Module,
    model: NDArray[np.float32],
    patients: Sequence[Patient],
    loader: Loader,
    stream: RandomStream,
    progress: Progress,
) -> NoisedUpdate:
    """Read the chosen patients' records and train on them under differential privacy.

    Args:
        terms: The study's, as approved by this site.
        plan: The round's plan.
        site: This site, for the progress.
        module: A network of the study's architecture; its weights are overwritten.
        model: ``(parameters,)`` the global weights of the round.
        patients: The chosen patients; the loader opens the files of these only.
        loader: Reads their records.
        stream: Where sampling and noise come from.
        progress: Told after each step.

    Returns:
        The clipped, noised update, scaled by patients over the study's reference number.
    """
    privacy, training = terms.privacy, terms.training
    started = time.thread_time()
    arrays = loader.load(patients)
    progress(Step("read", plan.round, site, seconds=time.thread_time() - started))
    load_vector(module, model)

    started = time.thread_time()
    trained = train_private(
        module,
        arrays.x,
        arrays.y,
        arrays.patient,
        patients=len(patients),
        sampling_rate=privacy.sampling_rate,
        steps=privacy.steps,
        noise_multiplier=privacy.noise_multiplier,
        clipping_norm=privacy.clipping_norm,
        lr=training.learning_rate,
        reference_patients=training.reference_patients,
        stream=stream,
        augment=training.augment,
        on_step=lambda done: progress(Step("train", plan.round, site, done, privacy.steps)),
    )
    progress(
        Step(
            "train",
            plan.round,
            site,
            privacy.steps,
            privacy.steps,
            seconds=time.thread_time() - started,
        )
    )
    return trained.update


def seal(
    terms: StudyTerms,
    plan: RoundPlan,
    site: SiteId,
    update: NoisedUpdate,
    weight: int,
    parameters: ParameterSet,
    key: SecretKey,
    stream: RandomStream,
    progress: Progress,
) -> Outgoing:
    """Quantise, pack, mask and encrypt a noised update.

    Args:
        terms: The study's.
        plan: The round's plan, with the public step sizes.
        site: This site, for the progress.
        update: ``(parameters,)`` clipped and noised; mypy refuses any other update here.
        weight: The proven number of patients; it rides encrypted in its own slot.
        parameters: The encryption's parameter set.
        key: The hospitals' group key.
        stream: Where stochastic rounding draws from.
        progress: Told when done.
    """
    started = time.thread_time()
    steps = np.repeat(np.array(plan.steps), terms.training.tensor_sizes)
    quantised = quantise(update, steps, parameters.value_bits, stream)
    packed = pack(quantised, weight, parameters)
    masked = apply_pads(packed, [])
    encrypted = encrypt(masked, key)
    progress(Step("encrypt", plan.round, site, seconds=time.thread_time() - started))
    return Outgoing(encrypted, quantised.values.astype(np.int64), quantised.saturated)
