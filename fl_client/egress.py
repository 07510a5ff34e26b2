"""The one way out of the hospital: a fixed order of stages that no study can change.

::

    selection ─▶ reserve epsilon ─▶ train (clip, noise) ─▶ quantise ─▶ pack ─▶ mask ─▶ encrypt
      consent      privacy budget     NoisedUpdate                                        │
                                                  receipt, signed ◀─ commit, certify ◀────┘

Where sites share the noise of their sum, training gives an ``IntegerUpdate`` that is packed as it
is: whether one site's noise would be enough does not matter, as nobody sees it alone.

What of the update leaves, and what the site keeps for its next round, the study's algorithm says
(``models.algorithms``).

Each stage takes only what the stage before returns: ``quantise`` accepts a ``NoisedUpdate``,
``pack`` what that returns or an ``IntegerUpdate``, and
``encrypt`` a ``MaskedUpdate``, so that skipping a stage is a type error. Epsilon is reserved before
the records are read, and spent when the reply is stored, which is before the reply leaves.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.features import SandboxedLoader
from models.algorithms.catalogue import algorithm_of
from models.algorithms.interface import Algorithm, Beginning, Constants, Correction, Vector
from models.algorithms.local import descend
from models.networks import load_vector
from privacy.bfv import EncryptedUpdate
from privacy.dpsgd import train_private
from privacy.masks import apply as apply_pads
from privacy.mechanism import update_step
from privacy.noise_shares import NoiseShare
from privacy.opening import GroupCipher
from privacy.packing import pack
from privacy.parameters import ParameterSet
from privacy.quantisation import QuantisedUpdate, quantise
from privacy.randomness import RandomStream
from privacy.site_level import add_noise, clip
from privacy.summed_noise import train_summed
from privacy.update import IntegerUpdate, NoisedUpdate, Update
from protocol.ids import SiteId
from protocol.messages import RoundPlan
from protocol.progress import Progress, Step
from protocol.terms import StudyTerms
from records.dataset import Arrays, Loader, Patient


@dataclass(frozen=True)
class Trained:
    """One round's training: ``update`` may leave; the rest stays here.

    ``whole`` is the scaled update ``(parameters,)`` with the parts that the algorithm keeps home,
    ``beginning`` where training started, ``arrays`` the records it saw.
    """

    update: NoisedUpdate | IntegerUpdate
    whole: Vector
    beginning: Beginning
    arrays: Arrays


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


@dataclass(frozen=True)
class Egress:
    """The stages of one site in one study. The weights of ``module`` are overwritten."""

    terms: StudyTerms
    site: SiteId
    module: torch.nn.Module
    loader: Loader
    parameters: ParameterSet
    progress: Progress
    algorithm: Algorithm = field(init=False)

    def __post_init__(self) -> None:
        terms = self.terms
        constants = Constants.of(terms.training, steps=terms.privacy.steps, sites=len(terms.sites))
        object.__setattr__(self, "algorithm", algorithm_of(constants, self.module))

    def train(
        self,
        plan: RoundPlan,
        sent: NDArray[np.float32],
        patients: Sequence[Patient],
        stream: RandomStream,
        kept: NDArray[np.float64] | None = None,
        *,
        share: NoiseShare | None = None,
    ) -> Trained:
        """Read the chosen patients' records and train on them under differential privacy.

        Args:
            plan: The round's plan.
            sent: ``(sent_size,)`` the global weights of the round, and what the algorithm adds.
            patients: The chosen patients; the loader opens the files of these only.
            stream: Where sampling and noise come from.
            kept: What ``keep`` gave in this site's last round, or None.
            share: This site's share of the round's noise, where sites share it.

        Returns:
            The clipped, noised update, scaled by patients over the study's reference number.
        """
        privacy = self.terms.privacy
        with self._measured("read", plan):
            arrays = self._loader_of(plan).load(patients)
        beginning = self.algorithm.begin(sent, kept, len(patients))
        load_vector(self.module, beginning.start)
        with self._measured("train", plan, total=privacy.steps):
            if privacy.mechanism == "summed":
                assert share is not None, "whoever keeps the round's secrets owes the share"
                integers = self._summed(arrays, beginning, share, stream)
                whole = (integers.values * update_step(self.terms)).astype(np.float32)
                return Trained(integers, whole, beginning, arrays)
            if privacy.mechanism == "site-level":
                update = self._site_level(arrays, beginning, stream)
            else:
                update = self._per_site(plan, arrays, beginning, stream)
        # A part of a noised update is post-processed, and as private as the whole.
        leaving = replace(update, vector=self.algorithm.shared(update.vector))
        return Trained(leaving, update.vector, beginning, arrays)

    def _loader_of(self, plan: RoundPlan) -> Loader:
        """Return the loader; where it runs a study's code, it says how far it is."""
        if not isinstance(self.loader, SandboxedLoader):
            return self.loader
        return replace(
            self.loader,
            progress=lambda done, total: self.progress(
                Step("features", plan.round, self.site, done, total)
            ),
        )

    def _per_site(
        self, plan: RoundPlan, arrays: Arrays, beginning: Beginning, stream: RandomStream
    ) -> NoisedUpdate:
        """Train with noise that is enough by itself."""
        privacy, training = self.terms.privacy, self.terms.training
        return train_private(
            self.module,
            arrays.x,
            arrays.y,
            arrays.patient,
            patients=beginning.patients,
            sampling_rate=privacy.sampling_rate,
            steps=privacy.steps,
            noise_multiplier=privacy.noise_multiplier,
            clipping_norm=privacy.clipping_norm,
            lr=training.learning_rate,
            reference_patients=training.reference_patients,
            stream=stream,
            augment=training.augment,
            views=training.views,
            correction=beginning.correction,
            on_step=lambda done: self.progress(
                Step("train", plan.round, self.site, done, privacy.steps)
            ),
        ).update

    def _summed(
        self, arrays: Arrays, beginning: Beginning, share: NoiseShare, stream: RandomStream
    ) -> IntegerUpdate:
        """Take one step's gradients, with a share of the noise that their sum needs."""
        privacy, training = self.terms.privacy, self.terms.training
        return train_summed(
            self.module,
            arrays.x,
            arrays.y,
            arrays.patient,
            patients=beginning.patients,
            sampling_rate=privacy.sampling_rate,
            clipping_norm=privacy.clipping_norm,
            grid=privacy.grid,
            share=share,
            stream=stream,
            augment=training.augment,
            views=training.views,
        )

    def _site_level(
        self, arrays: Arrays, beginning: Beginning, stream: RandomStream
    ) -> NoisedUpdate:
        """Train without noise, then clip and noise the update as a whole."""
        privacy, training = self.terms.privacy, self.terms.training
        end = descend(
            self.module,
            arrays.x,
            arrays.y,
            arrays.patient,
            start=beginning.start,
            steps=privacy.steps,
            lr=training.learning_rate,
            generator=np.random.default_rng([int(word) for word in stream.words(4)]),
            sampling_rate=privacy.sampling_rate,
            correction=beginning.correction,
        )
        scale = beginning.patients / training.reference_patients
        moved = Update(((end - beginning.start) * scale).astype(np.float32))
        noised, _ = add_noise(
            clip(moved, privacy.clipping_norm), privacy.noise_multiplier, stream.child("noise")
        )
        return noised

    def keep(
        self, plan: RoundPlan, trained: Trained, outgoing: Outgoing, stream: RandomStream
    ) -> NDArray[np.float64] | None:
        """Return what the algorithm keeps at this site for its next round, or None.

        Ditto trains the site's personal model here, on the records themselves: it never leaves.
        """
        training, arrays = self.terms.training, trained.arrays
        generator = np.random.default_rng([int(word) for word in stream.words(4)])

        def learn(start: Vector, correction: Correction) -> Vector:
            return descend(
                self.module,
                arrays.x,
                arrays.y,
                arrays.patient,
                start=start,
                steps=training.personal_steps,
                lr=training.personal_learning_rate,
                generator=generator,
                correction=correction,
            )

        entered = outgoing.integers * np.repeat(np.array(plan.steps), training.tensor_sizes)
        with self._measured("keep", plan):
            return self.algorithm.end(trained.beginning, trained.whole, entered, learn)

    def seal(
        self,
        plan: RoundPlan,
        update: NoisedUpdate | IntegerUpdate,
        weight: int,
        *,
        cipher: GroupCipher,
        pad: NDArray[np.uint64],
        stream: RandomStream,
    ) -> Outgoing:
        """Quantise where that is to be done, pack, mask and encrypt a noised update.

        Args:
            plan: The round's plan, with the public step sizes.
            update: ``(parameters,)`` clipped and noised; mypy refuses any other update here.
            weight: The proven number of patients; it rides encrypted in its own slot.
            cipher: This hospital's hold on the group's key.
            pad: ``(ciphertexts * ring_degree,)`` this hospital's masks of the round, added up.
            stream: Where stochastic rounding draws from.
        """
        with self._measured("encrypt", plan):
            if isinstance(update, IntegerUpdate):
                packed: IntegerUpdate | QuantisedUpdate
                packed, integers, saturated = update, update.values, 0
            else:
                steps = np.repeat(np.array(plan.steps), self.terms.training.tensor_sizes)
                quantised = quantise(update, steps, self.parameters.value_bits, stream)
                packed, saturated = quantised, quantised.saturated
                integers = quantised.values.astype(np.int64)
            masked = apply_pads(pack(packed, weight, self.parameters), [pad])
            encrypted = cipher.encrypt(masked)
        return Outgoing(encrypted, integers, saturated)

    @contextmanager
    def _measured(self, stage: str, plan: RoundPlan, *, total: int = 1) -> Iterator[None]:
        started = time.thread_time()
        yield
        spent = time.thread_time() - started
        self.progress(Step(stage, plan.round, self.site, total, total, seconds=spent))
