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
from scipy.special import expit
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn

PREDICTION_BATCH: Final = 64
"""Records at a time; bounds memory, and nothing else depends on it."""


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
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Train ``module`` in place, without privacy.

    Args:
        module: From ``(batch, *input_shape)`` to ``(batch, 1)`` log-odds.
        x: ``(records, *input_shape)``.
        y: ``(records,)`` 0 or 1.
        epochs: Passes over all records.
        batch: Records per step, the last of an epoch may be smaller.
        lr: Learning rate of AdamW.
        seed: Of the order of the records.
        weight_decay: Of AdamW.
        on_step: Called with the number of steps finished.
    """
    assert len(x) == len(y) > 0
    # A fixed front is computed once, not in every epoch.
    stem, head = getattr(module, "stem", None), getattr(module, "head", None)
    if stem is not None and head is not None:
        x, trained = _in_batches(stem, x), head
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
            log_odds = trained(torch.from_numpy(x[records])).reshape(-1)
            target = torch.from_numpy(y[records]).to(log_odds.dtype)
            optimizer.zero_grad(set_to_none=True)
            functional.binary_cross_entropy_with_logits(log_odds, target).backward()
            optimizer.step()
            step += 1
            if on_step is not None:
                on_step(step)


def predict(module: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ``(records,)`` probabilities of the positive class."""
    log_odds = _in_batches(module, x).reshape(-1).astype(np.float64)
    return np.asarray(expit(log_odds), dtype=np.float64)


def patient_scores(scores: NDArray[np.float64], patient: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``(patients,)`` means of the records' scores.

    Args:
        scores: ``(records,)``.
        patient: ``(records,)`` from 0 to patients - 1, each at least once.
    """
    assert scores.shape == patient.shape
    counts = np.bincount(patient)
    assert counts.min() >= 1
    return np.asarray(np.bincount(patient, weights=scores) / counts, dtype=np.float64)


@torch.no_grad()
def _in_batches(module: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float32]:
    module.eval()
    parts = [
        module(torch.from_numpy(np.ascontiguousarray(x[start : start + PREDICTION_BATCH])))
        for start in range(0, len(x), PREDICTION_BATCH)
    ]
    return torch.cat(parts).numpy()
