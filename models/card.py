"""A model card: what a model is, what it was trained on, how privately, and what it is not for.

A dictionary of plain values, ready for JSON, under the headings of the paper [1]; ``markdown``
writes the same for people. It carries no weights and nothing about any patient; every number in
it is one the study publishes anyway.

What holds, each line a test in tests/models/test_card.py:

1. The card is JSON, and names the parameters the network really has.
2. Synthetic data, and the unit of privacy, are said in words a reader cannot miss.
3. An epsilon never stands without delta, unit, sampling and accountant.
4. Whatever a study is called, the Markdown keeps its tables and headings.

References:
    [1] Mitchell et al., Model Cards for Model Reporting, FAT* 2019, section 4. arXiv:1810.03993
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from models.networks import layout, tensor_sizes

if TYPE_CHECKING:
    from torch import nn

    from privacy.statement import PrivacyStatement

VERSION: Final = 2
NOT_A_DEVICE: Final = (
    "Research only. This is not a medical device, was not validated prospectively and must not "
    "guide the care of any person."
)
UNLIKE: Final = "Sites, devices and people unlike those trained on."
SMALL_SITES: Final = "Figures of single sites rest on few patients: read them with their intervals."
INTENDED_USE: Final = "Comparing and studying federated training."
MECHANISM: Final = "DP-SGD, Poisson sampling, noise added at every site"


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


def model_card(
    module: nn.Module,
    *,
    name: str,
    network: str,
    input_shape: tuple[int, ...],
    training_data: TrainingData,
    privacy: PrivacyStatement | None,
    rounds: int,
    evaluation: Mapping[str, Any] | None = None,
    outputs: int = 1,
    mechanism: str = MECHANISM,
    intended_use: str = INTENDED_USE,
    limits: Sequence[str] = (),
    features: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the card of a trained module.

    Args:
        module: The trained network; only its layout is read.
        name: The study's id.
        network: As given to ``build``.
        input_shape: As given to ``build``.
        training_data: Described by whoever read it.
        privacy: What was spent at the site that spent most, or None for no privacy.
        rounds: Rounds trained.
        evaluation: As ``models.evaluation.evaluate`` returns it, on held-out patients.
        outputs: As given to ``build``.
        mechanism: Of the privacy, in words.
        intended_use: What the model is for.
        features: The code that made what the network takes, where a study brought any: ``bundle``
            with its SHA-256, ``function``, and ``from`` with the shape of the records it was given.
        limits: Said beside those that hold for every model.
    """
    what = "log-odds" if outputs == 1 else f"logits of {outputs} classes"
    return {
        "version": VERSION,
        "name": name,
        "model": {
            "network": network,
            "input_shape": list(input_shape),
            "outputs": outputs,
            "output": f"{what} of: {training_data.positive}",
            "parameters": sum(tensor_sizes(module)),
            "tensors": [{"name": key, "shape": list(shape)} for key, shape in layout(module)],
        },
        **({} if features is None else {"features": dict(features)}),
        "training": {**asdict(training_data), "rounds": rounds, "note": _data_note(training_data)},
        "evaluation": None if evaluation is None else dict(evaluation),
        "privacy": _privacy(privacy, mechanism),
        "intended_use": intended_use,
        "limits": [NOT_A_DEVICE, UNLIKE, SMALL_SITES, *limits],
    }


def _data_note(data: TrainingData) -> str:
    if data.synthetic:
        return "SYNTHETIC: made by a program; results say nothing about patients."
    if data.unit == "image":
        return "The source names no patients; each image is treated as one."
    return "Real records, used at the hospitals that hold them."


def _privacy(privacy: PrivacyStatement | None, mechanism: str) -> dict[str, Any]:
    if privacy is None:
        return {"epsilon": None, "note": "NONE: trained without differential privacy."}
    assert math.isfinite(privacy.epsilon)
    return {
        **privacy.as_json(),
        "mechanism": mechanism,
        "statement": privacy.text(),
        "note": (
            f"Adding or removing one {privacy.unit} changes the probability of any outcome by at "
            "most a factor of exp(epsilon), up to a chance of delta."
        ),
    }
