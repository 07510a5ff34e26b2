"""Which part of the sonogram network earns what, under which noise?

Question  How much of the AUC under privacy comes from the pretrained trunk, from whitening, from
          the mirrored mean, and what does the whole wavelet map cost or give?
Method    The development half of the breast ultrasounds alone, which is where settings were chosen:
          cross-validation in five parts, twice. A linear head takes 40 full-batch steps; the noise
          of the sum is drawn as one Gaussian with the amount that shared noise needs, and halved,
          since half of the patients are here. Each arm has the best of the same six settings.
Expected  Whitening gives most under strict privacy, the trunk most without; the map hardly counts.
Run       python -m experiments.utility_parts    (5 minutes)
Result    experiments/results/utility_parts.json
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import expit
from sklearn.model_selection import StratifiedKFold

from experiments._recorded import record
from experiments._utility_busi import DELTA, prepare
from models.metrics import auc
from models.sonogram import NORM, TRUNK, WAVELETS
from privacy.accounting import noise_multiplier_for

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    steps: int = 40
    rates: tuple[float, ...] = (4.0, 8.0)
    norms: tuple[float, ...] = (0.5, 1.0, 2.0)
    epsilons: tuple[float, ...] = (8.0, 3.0)
    delta: float = DELTA
    repeats: int = 2
    shares_over_honest: float = 6 / 5
    cohort: float = 0.5
    seed: int = 3


def main() -> None:
    """Measure, print, record."""
    torch.set_num_threads(1)
    config, started = Config(), time.monotonic()
    cache = Path(tempfile.gettempdir()) / "bithive-privacy-utility"
    rows = {name: _arm(features, labels, config) for name, features, labels in _arms(cache)}
    for name, row in rows.items():
        sys.stdout.write(f"{name:32} {row}\n")
    record("utility_parts", config, rows, seconds=time.monotonic() - started)


def _arms(cache: Path) -> list[tuple[str, NDArray[np.float64], NDArray[np.int64]]]:
    """Return each arm's features of the development half, of the same norm."""
    new, old = prepare(cache), prepare(cache, "wavelet")
    chosen, labels = new.development, new.labels[new.development]
    whole = new.features[chosen].astype(np.float64)
    trunk, pooled = whole[:, :TRUNK], whole[:, TRUNK : TRUNK + WAVELETS]
    arms = {
        "wavelet map, as before": old.features[chosen].astype(np.float64),
        "whitened wavelets": pooled,
        "whitened trunk": trunk,
        "both": whole[:, : TRUNK + WAVELETS],
        "both and the map: sonogram": whole,
    }
    return [
        (name, NORM * part / np.linalg.norm(part, axis=1, keepdims=True), labels)
        for name, part in arms.items()
    ]


def _arm(features: NDArray[np.float64], labels: NDArray[np.int64], config: Config) -> Any:
    """Return the AUC without noise and at each epsilon."""
    with_bias = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    # What is orthogonal to all records changes no score: leave it out, and the noise in it.
    basis, _ = np.linalg.qr(with_bias.T)
    records = with_bias @ basis
    row = {"plain": max(_validated(records, labels, config, 0.0, r, 1e9) for r in config.rates)}
    for limit in config.epsilons:
        noise = noise_multiplier_for(limit, config.delta, 1.0, config.steps, "rdp")
        noise *= config.shares_over_honest**0.5 * config.cohort
        row[f"epsilon_{limit:g}"] = max(
            _validated(records, labels, config, noise, rate, norm)
            for rate in config.rates
            for norm in config.norms
        )
    return row


def _validated(  # noqa: PLR0917 - one descent's numbers
    records: NDArray[np.float64],
    labels: NDArray[np.int64],
    config: Config,
    noise: float,
    rate: float,
    norm: float,
) -> float:
    """Return the mean AUC over the parts left out in turn."""
    found = []
    for repeat in range(config.repeats):
        parts = StratifiedKFold(5, shuffle=True, random_state=config.seed + repeat)
        for number, (kept, held) in enumerate(parts.split(records, labels)):
            generator = np.random.default_rng([config.seed, repeat, number])
            weights = np.zeros(records.shape[1])
            sizes = np.linalg.norm(records[kept], axis=1)
            for _ in range(config.steps):
                residual = expit(records[kept] @ weights) - labels[kept]
                residual *= np.minimum(1.0, norm / (np.abs(residual) * sizes + 1e-12))
                drawn = noise * norm * generator.standard_normal(len(weights)) if noise else 0.0
                weights -= rate * (residual @ records[kept] + drawn) / len(kept)
            score = auc(labels[held], records[held] @ weights)
            assert score is not None
            found.append(score)
    return round(float(np.mean(found)), 4)


if __name__ == "__main__":
    main()
