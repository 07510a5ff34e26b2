"""Write a model card as Markdown that a person can read without tools.

Text that came from elsewhere (titles, names of sites, classes, licences) is made harmless first:
one line, no character that Markdown or HTML would act on.

What holds, each line a test in tests/models/test_card.py:

1. Every figure of the card's evaluation is in the page with its interval, or a dash.
2. No text of a study opens a heading, a table cell, a link or a tag of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

ABSENT: Final = "–"
_ACTIVE: Final = re.compile(r"([\\`*_{}\[\]<>#|!~$&])")


def markdown(card: Mapping[str, Any]) -> str:
    """Return the card, as ``models.card.model_card`` makes it, for people."""
    model, training = card["model"], card["training"]
    lines = [
        f"# Model card: {_text(card['name'])}",
        "",
        f"**{_text(card['limits'][0])}**",
        "",
        "## Model",
        "",
        f"- network: {_text(model['network'])}, {model['parameters']:,} parameters",
        f"- input: {' × '.join(map(str, model['input_shape']))}",
        f"- output: {_text(model['output'])}",
        *_features(card.get("features")),
        "",
        "## Training data",
        "",
        f"- {_text(training['title'])}",
        f"- {_text(training['note'])}",
        f"- {training['sites']} sites, {training['rounds']} rounds",
        f"- one unit: {_text(training['unit'])}",
        f"- {_text(training['positive'])} against {_text(training['negative'])}",
        f"- licence: {_text(training['licence'])}",
        "",
        "## Privacy",
        "",
        *_privacy(card["privacy"]),
        "",
        "## Evaluation",
        "",
        *_evaluation(card["evaluation"]),
        "",
        "## Intended use and limits",
        "",
        _text(card["intended_use"]),
        "",
        *(f"- {_text(one)}" for one in card["limits"][1:]),
    ]
    return "\n".join(lines) + "\n"


def _features(features: Mapping[str, Any] | None) -> list[str]:
    if features is None:
        return []
    shape = " × ".join(map(str, features["from"]))
    code = f"`{_text(features['function'])}` of the bundle with SHA-256 {_text(features['bundle'])}"
    return [f"- the input is made by the study's own code, {code}, from records of {shape}"]


def _privacy(privacy: Mapping[str, Any]) -> list[str]:
    if privacy["epsilon"] is None:
        return [_text(privacy["note"])]
    return [
        f"- {_text(privacy['statement'])}",
        f"- mechanism: {_text(privacy['mechanism'])}",
        f"- {_text(privacy['note'])}",
    ]


def _evaluation(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["Not evaluated."]
    heads, row = _COLUMNS[found["task"]]
    table = [
        f"| site | {' | '.join(heads)} |",
        f"| --- |{' ---: |' * len(heads)}",
        *(f"| {_text(site)} | {' | '.join(row(one))} |" for site, one in found["sites"].items()),
        f"| **all** | {' | '.join(row(found['overall']))} |",
    ]
    share = f"{100 * found['level']:g} %"
    notes = f"In brackets intervals of {share}; {ABSENT} where a site cannot say."
    if "calibration" in found["overall"]:
        notes += f" Calibration error over {found['bins']} bins of equal width."
    if found["task"] == "binary":
        notes += f" Called positive from a probability of {found['threshold']:g}."
    return [*table, "", notes]


def _binary(one: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['patients']} ({one['positive']})",
        _with_interval(one, "auc"),
        _with_interval(one, "sensitivity"),
        _with_interval(one, "specificity"),
        _number(one["calibration"]["error"]),
        _number(one["calibration"]["brier"]),
    ]


def _several(one: Mapping[str, Any]) -> list[str]:
    return [
        str(one["patients"]),
        _with_interval(one, "accuracy"),
        _number(one["auc"]),
        _number(one["calibration"]["error"]),
    ]


def _segmentation(one: Mapping[str, Any]) -> list[str]:
    per_class = ", ".join(map(_number, one["dice_per_class"]))
    far = ", ".join(map(_number, one["hd95_per_class"]))
    return [str(one["records"]), _with_interval(one, "dice"), per_class, far]


_COLUMNS: Final = {
    "binary": (
        ["patients (positive)", "AUC", "sensitivity", "specificity", "calibration error", "Brier"],
        _binary,
    ),
    "classes": (["patients", "accuracy", "AUC against rest", "calibration error"], _several),
    "segmentation": (["records", "Dice", "Dice per class", "HD95 per class"], _segmentation),
}


def _with_interval(one: Mapping[str, Any], name: str) -> str:
    interval = one[f"{name}_interval"]
    if interval is None:
        return _number(one[name])
    return f"{_number(one[name])} ({_number(interval[0])} to {_number(interval[1])})"


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


def _text(value: object) -> str:
    """Return text on one line that Markdown shows as it is."""
    return _ACTIVE.sub(r"\\\1", " ".join(str(value).split()))
