"""One gradient for each drawn patient: what every mechanism clips before it adds anything up.

A patient's gradient is the mean over ``views`` of her records. Opacus' hooks leave it on each
parameter as ``grad_sample``, one row for each drawn patient; what is then done with the rows is
the mechanism's (``privacy.dpsgd`` adds real noise, ``privacy.summed_noise`` rounds to integers).

    >>> cohort = Cohort(np.array([0, 0, 1]))
    >>> cohort.size
    2
    >>> cohort.draw(1.0, 2, RandomStream.from_seed(0)).shape
    (4,)

What holds, each line a test in tests/privacy/test_dpsgd.py:

1. Patients are drawn independently of one another, and records only of drawn patients.
2. A patient whose gradient is not finite has gradient zero; nobody else's changes.
3. A module that was hooked leaves as an ordinary one.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from privacy.randomness import RandomStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from opacus import GradSampleModule

    RecordLoss = Callable[[Tensor, Tensor], Tensor]
    """From ``(batch, ...)`` outputs and targets to ``(batch,)`` losses, one for each record."""

PATIENTS_MAX: Final = 1_000_000


def log_loss(log_odds: Tensor, labels: Tensor) -> Tensor:
    """Return each record's binary cross-entropy, ``(batch,)``, from ``(batch, 1)`` log-odds."""
    flat = log_odds.reshape(-1)
    return functional.binary_cross_entropy_with_logits(
        flat, labels.to(flat.dtype), reduction="none"
    )


class Cohort:
    """Which records belong to which patient, and the Poisson draw of patients.

    Args:
        patient: ``(records,)`` from 0 to n - 1, each patient at least once; whose record it is.
    """

    def __init__(self, patient: NDArray[np.int64]) -> None:
        assert len(patient) > 0
        self._order = np.argsort(patient, kind="stable")
        self._counts = np.bincount(patient)
        self._starts = np.cumsum(self._counts) - self._counts
        self.size = len(self._counts)
        assert 0 < self.size <= PATIENTS_MAX
        assert self._counts.min() >= 1, "every patient has at least one record"

    def draw(self, sampling_rate: float, views: int, stream: RandomStream) -> NDArray[np.int64]:
        """Return ``views`` record indices for every drawn patient, next to each other."""
        drawn = np.flatnonzero(stream.bernoulli(sampling_rate, self.size))
        counts = self._counts[drawn][:, None]
        first = np.floor(stream.uniform(len(drawn))[:, None] * counts).astype(np.int64)
        # Consecutive from a random first one: uniform each, and distinct while there are enough.
        within = (first + np.arange(views)[None, :]) % counts  # (drawn, views)
        return self._order[(self._starts[drawn][:, None] + within).reshape(-1)]


def mirror(images: Tensor, stream: RandomStream) -> Tensor:
    """Mirror each image left to right with probability one half."""
    mirrored = torch.from_numpy(stream.bernoulli(0.5, len(images)))
    return torch.where(mirrored.reshape(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)


def leave_gradients(
    hooked: nn.Module,
    parameters: list[nn.Parameter],
    inputs: Tensor,
    y: NDArray[np.int64],
    *,
    views: int,
    record_loss: RecordLoss,
) -> float:
    """Leave one gradient per drawn patient in every ``grad_sample``; return the mean loss.

    Args:
        hooked: A ``GradSampleModule`` with ``loss_reduction="sum"``.
        parameters: Its trained parameters.
        inputs: ``(drawn * views, *input_shape)``, one patient's records next to each other.
        y: ``(drawn * views, ...)`` targets.
        views: Records of one patient.
        record_loss: Of each record by itself.
    """
    if len(inputs) == 0:
        for parameter in parameters:
            parameter.grad_sample = torch.zeros((0, *parameter.shape))
        return math.nan
    each = record_loss(hooked(inputs), torch.from_numpy(y))
    assert each.shape == (len(inputs),), "one loss for each record, not one for the batch"
    loss = each.sum()
    with warnings.catch_warnings():
        # PyTorch points out that the records themselves need no gradient, which is as it should be.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss.backward()
    for parameter in parameters:
        by_patient = parameter.grad_sample.reshape(-1, views, *parameter.shape)
        parameter.grad_sample = by_patient.mean(dim=1)  # (drawn, *parameter.shape)
    _drop_not_finite(parameters)
    return float(loss.detach()) / len(inputs)


def flat(parameters: list[nn.Parameter]) -> NDArray[np.float64]:
    """Return the ``(parameters,)`` weights."""
    return torch.cat([p.detach().reshape(-1) for p in parameters]).double().numpy()


def unhook(hooked: GradSampleModule, parameters: list[nn.Parameter]) -> None:
    """Give the module back as it came: hooking one twice is an error in Opacus."""
    hooked.remove_hooks()
    for parameter in parameters:
        parameter.grad = None
        for left_over in ("grad_sample", "summed_grad", "_forward_counter", "_current_grad_sample"):
            if hasattr(parameter, left_over):
                delattr(parameter, left_over)


def _drop_not_finite(parameters: list[nn.Parameter]) -> None:
    """Zero the gradient of any patient whose gradient has no finite norm.

    Refusing the round instead would tell that such a patient was drawn.
    """
    squares = sum(p.grad_sample.flatten(1).square().sum(dim=1) for p in parameters)
    lost = ~torch.isfinite(torch.as_tensor(squares))
    if bool(lost.any()):
        for parameter in parameters:
            parameter.grad_sample[lost] = 0.0
