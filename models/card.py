"""A model card: what a model is, what it was trained on, how privately, and what it is not for.

A dictionary of plain values, ready for JSON, under the headings of the paper [1]. It carries no
weights and nothing about any patient; every number in it is one the study publishes anyway.

What holds, each line a test in tests/models/test_card.py:

1. The card is JSON, and names the parameters the network really has.
2. Synthetic data, and the unit of privacy, are said in words a reader cannot miss.

References:
    [1] Mitchell et al., Model Cards for Model Reporting, FAT* 2019, section 4. arXiv:1810.03993
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from models.networks import layout, tensor_sizes

if TYPE_CHECKING:
    from torch import nn

VERSION: Final = 1
NOT_A_DEVICE: Final = (
    "Research only. This is not a medical device, was not validated prospectively and must not "
    "guide the care of any person."
)


@dataclass(frozen=True)
class TrainingData:
    """What a card says about the data.

    Attributes:
        title: What the data are, in words.
        synthetic: Whether a program made them.
        unit: ``"patient"`` or ``"image"``: what one unit of privacy is.
        sites: How many hospitals.
        positive: The class with label 1.
        negative: The class with label 0.
        licence: Under which the data may be used.
    """

    title: str
    synthetic: bool
    unit: str
    sites: int
    positive: str
    negative: str
    licence: str


@dataclass(frozen=True)
class PrivacyPromise:
    """What a card says about privacy: epsilon is the largest over the sites, None for none."""

    epsilon: float | None
    delta: float | None
    mechanism: str = "DP-SGD, Poisson sampling, noise added at every site"


def model_card(
    module: nn.Module,
    *,
    name: str,
    network: str,
    input_shape: tuple[int, ...],
    training_data: TrainingData,
    privacy: PrivacyPromise,
    auc: float | None,
    rounds: int,
) -> dict[str, Any]:
    """Return the card of a trained module.

    Args:
        module: The trained network; only its layout is read.
        name: The study's id.
        network: As given to ``build``.
        input_shape: As given to ``build``.
        training_data: Described by whoever read it.
        privacy: What was spent.
        auc: On patients held out from training, or None if they have one class only.
        rounds: Rounds trained.
    """
    assert auc is None or 0.0 <= auc <= 1.0
    return {
        "version": VERSION,
        "name": name,
        "model": {
            "network": network,
            "input_shape": list(input_shape),
            "output": f"log-odds of: {training_data.positive}",
            "parameters": sum(tensor_sizes(module)),
            "tensors": [{"name": key, "shape": list(shape)} for key, shape in layout(module)],
        },
        "training": {**asdict(training_data), "rounds": rounds, "note": _data_note(training_data)},
        "evaluation": {"metric": "AUC on held-out units", "auc": auc},
        "privacy": {**asdict(privacy), "unit": training_data.unit, "note": _privacy_note(privacy)},
        "intended_use": "Comparing and studying federated training.",
        "limits": [NOT_A_DEVICE, "Sites, devices and people unlike those trained on."],
    }


def _data_note(data: TrainingData) -> str:
    if data.synthetic:
        return "SYNTHETIC: made by a program; results say nothing about patients."
    if data.unit == "image":
        return "The source names no patients; each image is treated as one."
    return "Real records, used at the hospitals that hold them."


def _privacy_note(privacy: PrivacyPromise) -> str:
    if privacy.epsilon is None:
        return "NONE: trained without differential privacy."
    assert math.isfinite(privacy.epsilon)
    return (
        "Adding or removing one unit changes the probability of any outcome by at most a factor "
        "of exp(epsilon), up to a chance of delta."
    )
