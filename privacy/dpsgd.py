"""DP-SGD at one hospital, where the unit of privacy is the patient and not the record.

Each step draws every patient independently, takes ``views`` of her records, averages their
gradients, clips that average to ``clipping_norm``, adds the drawn patients' gradients and then
Gaussian noise [1, Algorithm 1]. Opacus computes the gradients, clips and steps; who is drawn and
the noise come from the caller's stream, not from PyTorch's Mersenne twister.

What is returned is scaled so that sites of different size add up. Let site i have n_i patients,
R be ``reference_patients`` (public, equal at all sites), q the sampling rate, C the clipping norm
and g_t = sum of step t's clipped gradients + N(0, (noise_multiplier * C)^2) per coordinate. Then::

    locally    w_{t+1} = w_t - lr * g_t / (q * n_i)              an ordinary noisy mean gradient
    update_i   = (n_i / R) * (w_end - w_start) = -lr / (q * R) * sum_t g_t
    later      sum_i update_i / sum_i (n_i / R)                  the mean weighted by patients

Without a correction the second line holds because every g_t enters the weights once and unchanged
(plain SGD, no momentum, no decay), so the noise in a coordinate of ``update_i`` has deviation
``lr * noise_multiplier * C / (q * R) * sqrt(steps)``: the same at every site, which is what lets
one public quantisation scale serve them all. n_i is public: it is the number of patients whose
grants the site proves.

What holds, each line a test in tests/privacy/test_dpsgd.py:

1. Adding or removing one patient moves the sum of a step by at most ``clipping_norm``, whatever
   and however many her records are.
2. The noise of the update has the standard deviation above, also in steps that draw nobody.
3. The same stream gives the same update; the module leaves as an ordinary, unhooked module.
4. A record that is not finite contributes zero instead of making the whole update not a number.
5. A correction moves the weights by itself alone: it sees them, and never a patient's gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from privacy.events import DpSgdEvent, ImpossibleEvent
from privacy.patient_gradients import Cohort, flat, leave_gradients, log_loss, mirror, unhook
from privacy.update import NoisedUpdate
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from privacy.patient_gradients import RecordLoss
    from privacy.randomness import RandomStream

    Correction = Callable[[Tensor], Tensor]
    """From ``(parameters,)`` weights moved since the round began to what each step adds to its
    gradient; public or already noised, so it costs no privacy (FedProx, SCAFFOLD)."""


class TrainingDiverged(PrivacyError):
    """The weights left the range of numbers; nothing useful or safe can be sent."""

    code = "private-training-diverged"

    def __init__(self, lr: float) -> None:
        self.lr = lr
        super().__init__(
            f"training with learning rate {lr:g} ran into numbers too large to represent; lower "
            "the learning rate, the privacy cost of this round is already spent"
        )


@dataclass(frozen=True)
class PrivateTraining:
    """What one site's private training in one round gave.

    Attributes:
        update: Scaled as in the module's second line; the only part made to leave the hospital.
        gradients: Patients' gradients that entered, over all steps. Sensitive by a little: the
            accountant assumes that nobody learns who was drawn.
        gradients_expected: sampling_rate * patients * steps, rounded; says nothing about the draw.
        loss: Mean training loss of the records seen, nan if none was. Sensitive: not noised, for
            the hospital's own screen.
        event: What to account for.
    """

    update: NoisedUpdate
    gradients: int
    gradients_expected: int
    loss: float
    event: DpSgdEvent


def train_private(
    module: nn.Module,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    patient: NDArray[np.int64],
    *,
    sampling_rate: float,
    steps: int,
    noise_multiplier: float,
    clipping_norm: float,
    lr: float,
    reference_patients: int,
    stream: RandomStream,
    patients: int | None = None,
    views: int = 1,
    augment: bool = False,
    loss: RecordLoss = log_loss,
    correction: Correction | None = None,
    on_step: Callable[[int], None] | None = None,
) -> PrivateTraining:
    """Train ``module`` in place for ``steps`` noisy steps and return the scaled update.

    Args:
        module: From ``(batch, *input_shape)`` to what ``loss`` takes; holds the round's start.
        x: ``(records, *input_shape)``.
        y: ``(records, ...)`` targets, by default ``(records,)`` 0 or 1.
        patient: ``(records,)`` from 0 to n - 1, each patient at least once; whose record it is.
        sampling_rate: Probability with which a patient is drawn into a step.
        steps: Noisy steps, each of which costs privacy.
        noise_multiplier: Noise standard deviation / clipping norm.
        clipping_norm: Bound on the l2 norm of one patient's gradient in one step.
        lr: Learning rate of plain SGD on the noisy mean.
        reference_patients: Public R, the same at all sites.
        stream: Decides draws and noise. Privacy holds if it is ``secret``.
        patients: n, where the caller knows it: checked against ``patient``.
        views: Records (repeated if she has fewer) averaged into one patient's gradient before
            clipping; costs time, no privacy [2].
        augment: Mirror each drawn image left to right with probability one half; only for targets
            that stay the same in a mirror.
        loss: Of each record by itself: a mean over the batch would let patients touch one another.
        correction: Added to every step's noisy mean gradient.
        on_step: Called with the number of steps finished.

    Raises:
        ImpossibleEvent: The sampling rate, noise or steps are out of range.
        TrainingDiverged: The update is not finite.

    References:
        [1] Abadi et al., Deep Learning with Differential Privacy, CCS 2016. arXiv:1607.00133
        [2] De et al., Unlocking High-Accuracy Differentially Private Image Classification through
        Scale, 2022, section 3.2 (augmentation multiplicity). arXiv:2204.13650
    """
    event = DpSgdEvent(sampling_rate, noise_multiplier, steps)
    if not (clipping_norm > 0.0 and math.isfinite(clipping_norm)):
        raise ImpossibleEvent("clipping_norm", clipping_norm, "positive and finite")
    assert len(x) == len(y) == len(patient)
    assert views >= 1
    assert reference_patients >= 1
    cohort = Cohort(patient)
    assert patients is None or patients == cohort.size
    parameters = [p for p in module.parameters() if p.requires_grad]
    start = flat(parameters)
    hooked = GradSampleModule(module, loss_reduction="sum")
    optimizer = _StreamNoiseOptimizer(
        torch.optim.SGD(parameters, lr=lr),
        noise_multiplier=noise_multiplier,
        max_grad_norm=clipping_norm,
        expected_batch_size=sampling_rate * cohort.size,
        stream=stream,
    )
    hooked.train()
    gradients, losses = 0, []
    try:
        for step in range(1, steps + 1):
            records = cohort.draw(sampling_rate, views, stream)
            gradients += len(records) // views
            inputs = torch.from_numpy(x[records])
            if augment:
                inputs = mirror(inputs, stream)
            lost = leave_gradients(
                hooked, parameters, inputs, y[records], views=views, record_loss=loss
            )
            losses.append(lost)
            if correction is not None:
                _correct(parameters, start, correction, lr)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if on_step is not None:
                on_step(step)
    finally:
        unhook(hooked, parameters)
    scale = cohort.size / reference_patients
    vector = ((flat(parameters) - start) * scale).astype(np.float32)
    if not np.isfinite(vector).all():
        raise TrainingDiverged(lr)
    return PrivateTraining(
        update=NoisedUpdate(vector),
        gradients=gradients,
        gradients_expected=round(sampling_rate * cohort.size * steps),
        loss=_mean(losses),
        event=event,
    )


def noise_std_of_update(
    *,
    lr: float,
    noise_multiplier: float,
    clipping_norm: float,
    sampling_rate: float,
    reference_patients: int,
    steps: int,
    contraction: float = 1.0,
) -> float:
    """Return the noise standard deviation of each coordinate of a site's update.

    Public, and equal at all sites; quantisation steps derive from it. ``contraction`` is what the
    round's correction multiplies the way from its start by in every step: 1 for none, and
    1 - lr * mu for FedProx's pull, which then shrinks the noise of earlier steps too.

    Examples:
        >>> noise_std_of_update(lr=1.0, noise_multiplier=2.0, clipping_norm=0.5,
        ...     sampling_rate=0.5, reference_patients=50, steps=4)
        0.08
    """
    per_step = noise_multiplier * clipping_norm / (sampling_rate * reference_patients)
    return lr * per_step * math.sqrt(sum(contraction ** (2 * step) for step in range(steps)))


class _StreamNoiseOptimizer(DPOptimizer):
    """Opacus' optimizer with the noise drawn from a ``RandomStream``."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, stream: RandomStream, **kwargs: Any
    ) -> None:
        super().__init__(optimizer, **kwargs)
        self._stream = stream

    def add_noise(self) -> None:
        """Set every gradient to the clipped sum plus noise; runs in empty steps too."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            drawn = self._stream.normal(parameter.numel(), np.float32)
            noise = torch.from_numpy(drawn).view_as(parameter)
            parameter.grad = parameter.summed_grad.view_as(parameter) + deviation * noise


def _correct(
    parameters: list[nn.Parameter],
    start: NDArray[np.float64],
    correction: Correction,
    lr: float,
) -> None:
    """Take the part of a step that no patient's gradient has a share in."""
    moved = torch.from_numpy((flat(parameters) - start).astype(np.float32))
    added = correction(moved)
    assert added.shape == moved.shape
    at = 0
    with torch.no_grad():
        for parameter in parameters:
            part = added[at : at + parameter.numel()]
            parameter.sub_(part.view_as(parameter), alpha=lr)
            at += parameter.numel()


def _mean(losses: list[float]) -> float:
    seen = [loss for loss in losses if math.isfinite(loss)]
    return sum(seen) / len(seen) if seen else math.nan
