"""Judge a model at every site and over all of them, as one plain dictionary.

It is what a model card, a report and an experiment print: numbers with their intervals, how many
patients stand behind each, and ``None`` where a site cannot say (one class, empty masks).

What holds, each line a test in tests/models/test_evaluation.py:

1. The dictionary is JSON, without NaN, whatever the sites hold.
2. ``overall`` is the evaluation of all sites' patients together, not a mean of the sites' figures.
3. The unit is the patient: her records' probabilities are averaged before anything is counted. Of
   masks the unit is the record, because two volumes of one patient have no mean.
4. The same seed gives the same dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np

from models.calibration import BINS, Calibration, calibration
from models.losses import LOG, Loss
from models.metrics import Interval, auc, auc_interval, confusion, share_interval
from models.overlap import dice, hausdorff_95
from models.training import patient_scores, predict

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

DRAWS: Final = 1000
"""Bootstrap samples behind each interval that has no formula."""
OVERALL: Final = "overall"
RECORDS_AT_ONCE: Final = 8
"""Masks compared at once; bounds memory."""

_Overlap: TypeAlias = tuple[list[float], list[float | None]]
"""Dice and distance of one record, each per class."""


class Records(Protocol):
    """What ``records`` loads: arrays, and whose each record is."""

    @property
    def x(self) -> NDArray[np.float32]:
        """``(records, *input_shape)``."""

    @property
    def y(self) -> NDArray[np.int64]:
        """``(records,)`` labels, or ``(records, *grid)`` masks."""

    @property
    def patient(self) -> NDArray[np.int64]:
        """``(records,)`` from 0 to patients - 1, each at least once."""


def evaluate(
    module: nn.Module,
    sites: Mapping[str, Records],
    *,
    loss: Loss = LOG,
    threshold: float = 0.5,
    level: float = 0.95,
    bins: int = BINS,
    draws: int = DRAWS,
    seed: int = 0,
    spacing: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Evaluate a trained network on named sites' held-out records.

    Args:
        module: The network; left in evaluation mode.
        sites: Records of each site; a site without records is left out.
        loss: The one it was trained with. It decides the task: masks make segmentation, several
            outputs several classes, else one probability per patient.
        threshold: From which probability a patient is called positive.
        level: Of all intervals.
        bins: Of the calibration error.
        draws: Of the bootstrap.
        seed: Of the bootstrap.
        spacing: Millimetres between voxels along each axis, for distances.

    Returns:
        ``{"task", "level", "bins", "threshold", "sites": {site: figures}, "overall": figures}``.
    """
    assert OVERALL not in sites
    held = {name: one for name, one in sites.items() if len(one.x)}
    assert held, "there is nothing to evaluate on"
    settings: dict[str, Any] = {
        "level": level, "bins": bins, "threshold": threshold, "draws": draws, "seed": seed,
    }  # fmt: skip
    found = {name: predict(module, one.x, loss=loss) for name, one in held.items()}
    several = all(found[name].ndim > one.y.ndim for name, one in held.items())
    if all(one.y.ndim > 1 for one in held.values()):
        per_record = {
            name: _overlaps(found[name], one, threshold if not several else None, spacing)
            for name, one in held.items()
        }
        per_record[OVERALL] = [row for rows in per_record.values() for row in rows]
        figures = {name: _segmentation(rows, settings) for name, rows in per_record.items()}
        return _result("segmentation", settings, figures)
    scored = {name: _by_patient(found[name], one) for name, one in held.items()}
    scored[OVERALL] = tuple(  # type: ignore[assignment]  # a pair, like each site's
        np.concatenate(parts) for parts in zip(*scored.values(), strict=True)
    )
    if several:
        figures = {name: _several(*pair, settings) for name, pair in scored.items()}
        return _result("classes", settings, figures)
    figures = {name: _binary(*pair, settings) for name, pair in scored.items()}
    return _result("binary", settings, figures)


def _result(task: str, settings: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    overall = figures.pop(OVERALL)
    return {"task": task, **settings, "sites": figures, OVERALL: overall}


def _by_patient(
    found: NDArray[np.float64], records: Records
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each patient's label, the largest of her records', and mean probability."""
    labels = np.zeros(int(records.patient.max()) + 1, dtype=np.int64)
    np.maximum.at(labels, records.patient, records.y)
    return labels, patient_scores(found, records.patient)


def _binary(
    labels: NDArray[np.int64], scores: NDArray[np.float64], settings: dict[str, Any]
) -> dict[str, Any]:
    level, seed = settings["level"], settings["seed"]
    called = confusion(labels, scores, settings["threshold"], level=level)
    area = auc_interval(labels, scores, seed=seed, level=level, draws=settings["draws"])
    return {
        "patients": len(labels),
        "positive": int(labels.sum()),
        "auc": auc(labels, scores),
        "auc_interval": _pair(area),
        "sensitivity": called.sensitivity,
        "sensitivity_interval": _pair(called.sensitivity_interval),
        "specificity": called.specificity,
        "specificity_interval": _pair(called.specificity_interval),
        "calibration": _plain(calibration(labels, scores, bins=settings["bins"])),
    }


def _several(
    labels: NDArray[np.int64], scores: NDArray[np.float64], settings: dict[str, Any]
) -> dict[str, Any]:
    """Return accuracy, each class's AUC against the rest, and calibration of the best guess."""
    guess = scores.argmax(axis=1)
    right = int((guess == labels).sum())
    areas = [
        auc((labels == one).astype(np.int64), scores[:, one]) for one in range(scores.shape[1])
    ]
    known = [area for area in areas if area is not None]
    sure = calibration(
        (guess == labels).astype(np.int64), scores.max(axis=1), bins=settings["bins"]
    )
    return {
        "patients": len(labels),
        "per_class": np.bincount(labels, minlength=scores.shape[1]).tolist(),
        "accuracy": right / len(labels),
        "accuracy_interval": _pair(share_interval(right, len(labels), level=settings["level"])),
        "auc_against_rest": areas,
        "auc": sum(known) / len(known) if known else None,
        "calibration": _plain(sure),
    }


def _overlaps(
    found: NDArray[np.float64],
    records: Records,
    threshold: float | None,
    spacing: Sequence[float] | None,
) -> list[_Overlap]:
    """Return Dice and distance of every record; without threshold of the likeliest class."""
    classes = 2 if threshold is not None else found.shape[1]
    rows: list[_Overlap] = []
    for start in range(0, len(found), RECORDS_AT_ONCE):
        part = slice(start, start + RECORDS_AT_ONCE)
        truth, likely = records.y[part], found[part]
        drawn = likely >= threshold if threshold is not None else likely.argmax(axis=1)
        drawn = drawn.astype(np.int64)  # (records, *grid)
        far = hausdorff_95(drawn, truth, classes=classes, spacing=spacing)
        rows.extend(zip(dice(drawn, truth, classes=classes).tolist(), far, strict=True))
    return rows


def _segmentation(rows: Sequence[_Overlap], settings: dict[str, Any]) -> dict[str, Any]:
    """Return means over records, per class and over classes."""
    near = np.array([values for values, _ in rows])  # (records, classes - 1)
    columns = zip(*(distances for _, distances in rows), strict=True)
    far = [[one for one in column if one is not None] for column in columns]
    means = near.mean(axis=1)
    return {
        "records": len(rows),
        "dice": float(means.mean()),
        "dice_interval": _mean_interval(means, settings),
        "dice_per_class": near.mean(axis=0).tolist(),
        "hd95_per_class": [float(np.mean(one)) if one else None for one in far],
        "hd95_records": [len(one) for one in far],
    }


def _mean_interval(values: NDArray[np.float64], settings: dict[str, Any]) -> list[float] | None:
    """Return a percentile bootstrap interval of the mean; None for a single record."""
    if len(values) < 2:
        return None
    generator = np.random.default_rng(settings["seed"])
    draws = generator.choice(values, (settings["draws"], len(values))).mean(axis=1)
    outside = (1 - settings["level"]) / 2
    low, high = np.quantile(draws, [outside, 1 - outside])
    mean = float(values.mean())
    return [min(float(low), mean), max(float(high), mean)]


def _plain(found: Calibration) -> dict[str, Any]:
    return {**asdict(found), "table": [asdict(one) for one in found.table]}


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
