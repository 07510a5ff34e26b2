"""Ordinary training and prediction: the baselines without privacy, and how models are read.

What the federation learns under privacy is trained by ``privacy.dpsgd``; this is what it is
compared with. The optimizer is Adam with decoupled weight decay [1], because a baseline should
be a strong one.

What holds, each line a test in tests/models/test_training.py:

1. The same seed gives the same weights; the caller's random state is left alone.
2. Predictions do not depend on the batch they are computed in.
3. A patient's score is the mean over her records.

References:
    [1] Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019. arXiv:1711.05101
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import nn

from models.losses import LOG

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.losses import Loss, RecordLoss

PREDICTION_BATCH: Final = 64
"""Records at a time, or fewer if they are volumes; bounds memory, nothing else depends on it."""
PREDICTION_POINTS: Final = 2**20
"""Pixels, voxels or features at a time."""


def fit(
    module: nn.Module,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    epochs: int,
    seed: int,
    batch: int = 32,
    lr: float = 2e-3,
    weight_decay: float = 0.0,
    loss: RecordLoss = LOG,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Train ``module`` in place, without privacy.

    Args:
        module: From ``(batch, *input_shape)`` to what ``loss`` takes.
        x: ``(records, *input_shape)``.
        y: ``(records, ...)`` targets, by default ``(records,)`` 0 or 1.
        epochs: Passes over all records.
        batch: Records per step, the last of an epoch may be smaller.
        lr: Learning rate of AdamW.
        seed: Of the order of the records.
        weight_decay: Of AdamW.
        loss: Of each record; a step lowers their mean.
        on_step: Called with the number of steps finished.
    """
    assert len(x) == len(y) > 0
    # A fixed front is computed once, not in every epoch.
    stem, head = getattr(module, "stem", None), getattr(module, "head", None)
    if stem is not None and head is not None:
        x, trained = _in_batches(stem, x), nn.Sequential(head, nn.Flatten())
    else:
        trained = module
    generator = np.random.default_rng(seed)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    module.train()
    step = 0
    for _ in range(epochs):
        order = generator.permutation(len(x))
        for start in range(0, len(x), batch):
            records = order[start : start + batch]
            outputs = trained(torch.from_numpy(x[records]))
            optimizer.zero_grad(set_to_none=True)
            loss(outputs, torch.from_numpy(y[records])).mean().backward()
            optimizer.step()
            step += 1
            if on_step is not None:
                on_step(step)


def seen_by(module: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what ``module.head`` sees of the records, where a fixed front comes before it.

    It is the same whatever was trained, so whoever judges many models computes it once.
    """
    assert has_front(module)
    return _in_batches(module.stem, x)


def has_front(module: nn.Module) -> bool:
    """Return whether the module is a fixed front and a trained head."""
    return hasattr(module, "stem") and hasattr(module, "head")


def predict(module: nn.Module, x: NDArray[np.float32], *, loss: Loss = LOG) -> NDArray[np.float64]:
    """Return what the model finds likely.

    Args:
        module: The trained network.
        x: ``(records, *input_shape)``.
        loss: The one it was trained with, which says how outputs become probabilities.

    Returns:
        Of one output ``(records, ...)`` probabilities of the positive class, of several
        ``(records, classes, ...)`` that sum to one over the classes.
    """
    outputs = torch.from_numpy(_in_batches(module, x))
    found = loss.probabilities(outputs)
    return np.asarray((found.squeeze(1) if found.shape[1] == 1 else found).numpy())


def patient_scores(scores: NDArray[np.float64], patient: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each patient's mean of her records' scores, ``(patients,)`` or with classes.

    Args:
        scores: ``(records,)``, or ``(records, classes)``.
        patient: ``(records,)`` from 0 to patients - 1, each at least once.
    """
    assert len(scores) == len(patient)
    counts = np.bincount(patient)
    assert counts.min() >= 1
    total = np.zeros((len(counts), *scores.shape[1:]))
    np.add.at(total, patient, scores)
    return total / counts.reshape(-1, *[1] * (scores.ndim - 1))


@torch.no_grad()
def _in_batches(module: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float32]:
    module.eval()
    batch = max(1, min(PREDICTION_BATCH, PREDICTION_POINTS // x[0].size))
    parts = [
        module(torch.from_numpy(np.ascontiguousarray(x[start : start + batch])))
        for start in range(0, len(x), batch)
    ]
    return torch.cat(parts).numpy()
