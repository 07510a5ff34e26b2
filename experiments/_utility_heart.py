"""Heart disease at four hospitals that differ as they do: one seed's figures, hospital by hospital.

Nothing was tuned here: learning rate, clipping norm and steps are those of the recipe for tables
(``models.recipes``), the network is a logistic regression. Each hospital's AUC is on the third of
its own patients that is held out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from experiments._federation import Plan, alone, federate, pool
from models.metrics import auc
from models.networks import build
from records.tables import HEART, TableLoader, read_heart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from records.dataset import Arrays

FOLDER: Final = Path(__file__).parent.parent.parent / "shared" / "data" / "heart_disease_4sites"
DELTA: Final = 1e-3
"""Below 1 / 614, the patients that train."""
PLAIN: Final = Plan("none", rounds=20, lr=1.0)
SUMMED: Final = Plan("summed", rounds=20, lr=1.0, epsilon=8.0, delta=DELTA)


def measure(
    seed: int,
    _cache: Path,
    *,
    epsilons: tuple[float, ...] = (8.0, 3.0),
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return one seed's AUC by arm, on all held-out patients and hospital by hospital."""
    data, loader = read_heart(FOLDER, seed=seed), TableLoader(HEART)
    sites = {str(site): loader.load(patients) for site, patients in data.sites.items()}
    held = loader.load(data.test)
    homes = np.array([data.test_homes[patient.id] for patient in data.test])
    labels = np.array([patient.label for patient in data.test])
    places = {"all": np.ones(len(labels), dtype=bool), **{s: homes == s for s in sites}}

    def judge(module: nn.Module, where: str) -> float:
        with torch.no_grad():
            scores = module(torch.from_numpy(held.x)).reshape(-1).numpy()
        found = auc(labels[places[where]], scores[places[where]])
        assert found is not None, "every hospital holds out both classes"
        return round(found, 6)

    def arm(where: Mapping[str, Arrays], plan: Plan) -> dict[str, float]:
        module = build("logistic", data.input_shape, 0)
        federate(module, where, plan, seed=seed)
        return {place: judge(module, place) for place in places}

    def alone_arm(plan: Plan) -> dict[str, float]:
        found: dict[str, float] = {}
        for site, own in sites.items():
            module = build("logistic", data.input_shape, 0)
            alone(module, own, plan, seed=seed)
            found[site] = judge(module, site)
            found[f"{site} on all"] = judge(module, "all")
        return found

    together = {"all": pool(sites)}
    arms: dict[str, dict[str, float]] = {
        "plain": arm(sites, PLAIN),
        "pooled": arm(together, PLAIN),
        "alone_plain": alone_arm(PLAIN),
    }
    for limit in epsilons:
        tell(f"epsilon {limit:g}")
        summed = replace(SUMMED, epsilon=limit)
        per_site = replace(summed, mechanism="per-site")
        arms[f"summed_{limit:g}"] = arm(sites, summed)
        arms[f"per-site_{limit:g}"] = arm(sites, per_site)
        arms[f"pooled_{limit:g}"] = arm(together, per_site)
        arms[f"alone_{limit:g}"] = alone_arm(per_site)
    row: dict[str, Any] = {name: found["all"] for name, found in arms.items() if "all" in found}
    for name, found in arms.items():
        if "all" not in found:
            row[name] = [found[f"{site} on all"] for site in sites]
    row["sites"] = {name: {s: found[s] for s in sites} for name, found in arms.items()}
    return row
