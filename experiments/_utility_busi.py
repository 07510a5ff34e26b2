"""Breast ultrasound, malignant against the rest, at six sites: one seed's figures.

Half of the pictures, chosen by a hash of their names, is for development: settings were chosen by
cross-validation there, at half the noise since half the patients were there. A seed's test pictures
are drawn from the other half alone, a fifth of the whole set, so no test picture was ever looked at
by whoever chose; everything else is dealt to six sites by the demonstration's Dirichlet draw.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from experiments._federation import Plan, alone, federate, pool
from models.metrics import auc
from models.networks import build
from models.sonogram import WEIGHTS_SHA256
from records.dataset import Arrays, StudyData
from records.folder import LEAST_SHARE, PATIENTS_MIN, TEST_FRACTION, read_folder
from records.image import ImageLoader
from records.split import dirichlet_split, hold_out, site_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

BUSI: Final = Path(__file__).parent.parent.parent / "shared" / "data" / "busi_breast_us"
SITES: Final = 6
ALPHA: Final = 1.0
DELTA: Final = 1e-3
"""Below 1 / 623, the patients that train."""
NETWORK: Final = "sonogram"
PLAIN: Final = Plan("none", rounds=40, lr=4.0)
SUMMED: Final = Plan("summed", rounds=40, lr=8.0, clipping_norm=1.0, epsilon=8.0, delta=DELTA)
PER_SITE: Final = Plan("per-site", rounds=40, lr=4.0, clipping_norm=1.0, epsilon=8.0, delta=DELTA)
STRICT: Final = 4.0
"""Below this epsilon shared noise wants patients clipped to half as much, and noise per site wants
fewer rounds and the mean of the last models."""
_BATCH: Final = 64


@dataclass(frozen=True)
class Prepared:
    """The set as features of a network's fixed front, in the order of the patients' ids."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    development: NDArray[np.bool_]


def prepare(cache: Path, network: str = NETWORK) -> Prepared:
    """Read the set and compute every picture's features, or take them from ``cache``."""
    kept = cache / f"busi-{network}-{WEIGHTS_SHA256[:12]}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as stored:
            return Prepared(stored["features"], stored["labels"], stored["development"])
    data = read_folder(BUSI, sites=SITES, seed=0)
    patients = sorted(_everyone(data), key=lambda patient: patient.id)
    arrays = ImageLoader().load(patients)
    stem = build(network, data.input_shape, 0).stem
    assert isinstance(stem, nn.Module)
    with torch.no_grad():
        parts = [
            stem(torch.from_numpy(arrays.x[start : start + _BATCH])).flatten(1).numpy()
            for start in range(0, len(arrays.x), _BATCH)
        ]
    # A patient's record is one picture here: the source names no patients.
    assert len(np.unique(arrays.patient)) == len(arrays.patient)
    development = _development([str(patient.id) for patient in patients], arrays.y)
    prepared = Prepared(np.concatenate(parts), arrays.y, development)
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(kept, features=prepared.features, labels=arrays.y, development=development)
    return prepared


def measure(
    seed: int,
    cache: Path,
    *,
    epsilons: tuple[float, ...] = (8.0, 3.0),
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return one seed's AUC on its held-out pictures, by arm."""
    prepared = prepare(cache)
    sites, held = split(prepared, seed)
    judge = _judge(prepared, held)

    def score(plan: Plan, where: Mapping[str, Arrays] = sites) -> tuple[float, str]:
        module = head(prepared.features.shape[1])
        outcome = federate(module, where, plan, seed=seed)
        # The source names no patients, so what is protected is a picture.
        spent = "" if outcome.spent is None else replace(outcome.spent, unit="image").text()
        return judge(module), spent

    tell("plain")
    row: dict[str, Any] = {
        "plain": score(PLAIN)[0],
        "pooled": score(PLAIN, {"all": pool(sites)})[0],
    }
    for limit in epsilons:
        for plan in (at(SUMMED, limit), at(PER_SITE, limit)):
            tell(f"{plan.mechanism} noise, epsilon {limit:g}")
            found, spent = score(plan)
            row[f"{plan.mechanism}_{limit:g}"] = found
            row[f"{plan.mechanism}_{limit:g}_spent"] = spent
    for name, plan in (("plain", PLAIN), ("8", PER_SITE)):
        tell(f"each site alone, {name}")
        found_alone = []
        for own in sites.values():
            module = head(prepared.features.shape[1])
            alone(module, own, plan, seed=seed)
            found_alone.append(judge(module))
        row[f"alone_{name}"] = found_alone
    return row


def at(plan: Plan, epsilon: float) -> Plan:
    """Return a plan at another epsilon."""
    if epsilon >= STRICT:
        return replace(plan, epsilon=epsilon)
    if plan.mechanism == "summed":
        return replace(plan, epsilon=epsilon, clipping_norm=plan.clipping_norm / 2)
    return replace(plan, epsilon=epsilon, rounds=plan.rounds // 2, averaged=0.5)


def split(prepared: Prepared, seed: int) -> tuple[dict[str, Arrays], NDArray[np.int64]]:
    """Return six sites' features and the positions of the held-out pictures."""
    labels = prepared.labels
    others = np.flatnonzero(~prepared.development)
    fraction = TEST_FRACTION * len(labels) / len(others)
    _, chosen = hold_out([int(label) for label in labels[others]], fraction=fraction, seed=seed)
    held = others[chosen]
    kept = np.setdiff1d(np.arange(len(labels)), held)
    return deal(prepared, kept, seed), held


def deal(prepared: Prepared, kept: NDArray[np.int64], seed: int) -> dict[str, Arrays]:
    """Deal the pictures at ``kept`` to six sites as the demonstration does."""
    dealt = dirichlet_split(
        [int(label) for label in prepared.labels[kept]],
        sites=SITES,
        alpha=ALPHA,
        minimum=max(PATIENTS_MIN, len(kept) // (LEAST_SHARE * SITES)),
        seed=seed,
    )
    return {
        str(site): Arrays(
            x=prepared.features[kept[part]],
            y=prepared.labels[kept[part]],
            patient=np.arange(len(part)),
        )
        for site, part in zip(site_names(SITES), dealt, strict=True)
    }


def head(features: int) -> nn.Linear:
    """Return the part of the network that is trained, as ``models.networks`` starts it: at zero."""
    module = nn.Linear(features, 1)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module


def _judge(prepared: Prepared, held: NDArray[np.int64]) -> Callable[[nn.Module], float]:
    features = torch.from_numpy(prepared.features[held])
    labels = prepared.labels[held]

    def judge(module: nn.Module) -> float:
        with torch.no_grad():
            found = auc(labels, module(features).reshape(-1).numpy())
        assert found is not None
        return round(found, 6)

    return judge


def _everyone(data: StudyData) -> list[Any]:
    return [*data.test, *(patient for site in data.sites.values() for patient in site)]


def _development(names: list[str], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the half of each class whose names have the smaller hashes."""
    hashes = np.array(
        [int(hashlib.sha256(f"development {name}".encode()).hexdigest()[:8], 16) for name in names]
    )
    marked = np.zeros(len(names), dtype=bool)
    for label in (0, 1):
        members = np.flatnonzero(labels == label)
        marked[members[np.argsort(hashes[members])][: len(members) // 2]] = True
    return marked
