"""Losses of each record alone, so that no patient's gradient depends on another patient.

A loss here turns a batch of outputs and targets into one number per record. Training adds or
averages them; privacy clips each patient's gradient, which bounds her influence only because no
term of the loss mixes records (Dice over a whole batch would).

============== ========================= =========================== =========================
name           outputs                   targets                     for
============== ========================= =========================== =========================
log            (batch, 1, ...)           (batch, ...) 0 or 1         one label, or one class
cross-entropy  (batch, classes, ...)     (batch, ...) class          several classes
dice           (batch, classes, *grid)   (batch, *grid) class        segmentation [1, 2]
============== ========================= =========================== =========================

    >>> LOG(torch.tensor([[0.0], [2.0]]), torch.tensor([1, 1]))
    tensor([0.6931, 0.1269])

What holds, each line a test in tests/models/test_losses.py:

1. Permuting, adding or removing records changes the loss of no other record.
2. Each is at least zero and falls to zero as the outputs approach certainty in the truth.
3. ``probabilities`` are in [0, 1], and over classes they sum to one.

References:
    [1] Milletari et al., V-Net, 3DV 2016, section 3 (soft Dice). arXiv:1606.04797
    [2] Isensee et al., nnU-Net, Nature Methods 2021: the sum of soft Dice and cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional

from models.networks import SEGMENTATION
from protocol.errors import ConfigurationError

RecordLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From ``(batch, ...)`` outputs and targets to ``(batch,)``: as ``privacy.dpsgd`` takes it."""


class UnknownLoss(ConfigurationError):
    """A loss was named that does not exist."""

    code = "loss-unknown"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is no loss {name!r}; choose one of {', '.join(LOSSES)}")


@dataclass(frozen=True)
class Loss:
    """A loss by name, callable as a ``RecordLoss``, and how its outputs become probabilities."""

    name: str
    of_records: RecordLoss
    probabilities: Callable[[Tensor], Tensor]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return ``(batch,)`` losses, one for each record."""
        return self.of_records(outputs, targets)


def _log(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return each record's binary cross-entropy, averaged over its points if it has many."""
    flat = outputs.flatten(1)  # (batch, points)
    truth = targets.reshape(flat.shape).to(flat.dtype)
    each = functional.binary_cross_entropy_with_logits(flat, truth, reduction="none")
    return each.mean(dim=1)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return each record's softmax cross-entropy, averaged over its points if it has many."""
    each = functional.cross_entropy(outputs, targets.long(), reduction="none")
    return each.reshape(len(outputs), -1).mean(dim=1)


def _dice(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return each record's soft Dice loss, mean over the classes drawn, plus cross-entropy."""
    classes = outputs.shape[1]
    truth = targets.long()[:, None]  # (batch, 1, *grid)
    # ``reduction="none"`` and ``batch=False`` give one number per record and class. The background
    # is in nobody's interest and would drown the rest.
    if classes == 1:
        overlap, entropy = DiceLoss(sigmoid=True, reduction="none"), _log
    else:
        entropy = _cross_entropy
        overlap = DiceLoss(
            include_background=False, to_onehot_y=True, softmax=True, reduction="none"
        )
    return overlap(outputs, truth).flatten(1).mean(dim=1) + entropy(outputs, targets)


def _sigmoid(outputs: Tensor) -> Tensor:
    # In double precision: a certain model's probability is 1, and no score ties with another
    # that only single precision made equal.
    return torch.sigmoid(outputs.double())


def _softmax(outputs: Tensor) -> Tensor:
    return torch.softmax(outputs.double(), dim=1)


def _sigmoid_or_softmax(outputs: Tensor) -> Tensor:
    return _sigmoid(outputs) if outputs.shape[1] == 1 else _softmax(outputs)


LOG: Final = Loss("log", _log, _sigmoid)
CROSS_ENTROPY: Final = Loss("cross-entropy", _cross_entropy, _softmax)
DICE: Final = Loss("dice", _dice, _sigmoid_or_softmax)
LOSSES: Final[Mapping[str, Loss]] = {one.name: one for one in (LOG, CROSS_ENTROPY, DICE)}


def loss_named(name: str) -> Loss:
    """Return the loss of that name; raises UnknownLoss if there is none."""
    if name not in LOSSES:
        raise UnknownLoss(name)
    return LOSSES[name]


def loss_for(network: str, outputs: int = 1) -> Loss:
    """Return the loss a network of ``models.networks`` is trained with.

    Examples:
        >>> loss_for("cnn").name, loss_for("cnn", 3).name, loss_for("unet3d", 3).name
        ('log', 'cross-entropy', 'dice')
    """
    if network in SEGMENTATION:
        return DICE
    return LOG if outputs == 1 else CROSS_ENTROPY
