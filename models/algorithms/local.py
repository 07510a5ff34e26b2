"""A site's training without clipping and noise: for what stays there, and for public records.

Ditto's personal model is trained so, and so is a study whose records are public
(``privacy.update.declare_public``). Steps draw patients as DP-SGD does and take one record of each,
so that what is compared differs in nothing but privacy.

What holds, each a test in tests/models/test_algorithms.py:

1. The same generator gives the same weights.
2. A patient with many records weighs as much as one with one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks import load_vector, to_vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.algorithms.interface import Correction, Vector


def log_loss(log_odds: Tensor, labels: Tensor) -> Tensor:
    """Return each record's binary cross-entropy, ``(batch,)``."""
    flat = log_odds.reshape(-1)
    return functional.binary_cross_entropy_with_logits(
        flat, labels.to(flat.dtype), reduction="none"
    )


def descend(
    module: nn.Module,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    patient: NDArray[np.int64],
    *,
    start: Vector,
    steps: int,
    lr: float,
    generator: np.random.Generator,
    sampling_rate: float = 1.0,
    loss: Callable[[Tensor, Tensor], Tensor] = log_loss,
    correction: Correction | None = None,
) -> Vector:
    """Return the weights after ``steps`` steps of plain SGD from ``start``.

    Args:
        module: From ``(batch, *input_shape)`` to what ``loss`` takes; its weights are overwritten.
        x: ``(records, *input_shape)``.
        y: ``(records, ...)`` targets.
        patient: ``(records,)`` from 0 to n - 1, each at least once; whose record it is.
        start: ``(parameters,)``.
        steps: How many.
        lr: Learning rate.
        generator: Of who is drawn, and which record of hers.
        sampling_rate: Probability with which a patient is drawn into a step.
        loss: Of each record by itself.
        correction: Added to every step's mean gradient; sees the weights moved since ``start``.
    """
    counts = np.bincount(patient)
    order = np.argsort(patient, kind="stable")
    starts = np.cumsum(counts) - counts
    parameters = [p for p in module.parameters() if p.requires_grad]
    weights = start
    module.train()
    for _ in range(steps):
        load_vector(module, weights)
        drawn = np.flatnonzero(generator.random(len(counts)) < sampling_rate)
        gradient = np.zeros_like(start)
        if len(drawn):
            records = order[starts[drawn] + generator.integers(counts[drawn])]
            each = loss(module(torch.from_numpy(x[records])), torch.from_numpy(y[records]))
            parts = torch.autograd.grad(each.mean(), parameters)
            gradient = torch.cat([part.reshape(-1) for part in parts]).numpy()
        if correction is not None:
            gradient = gradient + correction(torch.from_numpy(weights - start)).numpy()
        weights = (weights - lr * gradient).astype(np.float32)
    load_vector(module, weights)
    return to_vector(module)
