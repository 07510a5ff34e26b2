"""The hippocampus in 3-D, front and back, at three groups of scans: one seed's figures.

Without privacy a MONAI U-Net is trained by federated averaging, each group taking Adam's steps on
random cuts of its own volumes. Noise on its 143,691 weights would drown what 208 patients say, so
under privacy a convex model on fixed filters is trained (``experiments/_volume_features.py``); the
same model with next to no noise (arm ``convex``) tells what of the cost is the model's and what
the noise's.

Settings of the U-Net are the usual ones. Those of the private model were chosen on a quarter of
seed 0's training patients, at the noise of the others. Dice is the mean over front and back, over
a fifth of each group's patients that is held out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from experiments._federation import Plan, alone, federate
from experiments._volume_features import PlacedHead, responses, thinned
from models.losses import DICE
from models.networks import build, load_vector, to_vector
from models.overlap import dice
from records.dataset import Arrays
from records.volumes import CLASSES, GRID, VolumeLoader, read_volumes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

FOLDER: Final = Path(__file__).parent.parent.parent / "shared" / "data" / "hippocampus_msd"
SCORE: Final = "Dice"
DELTA: Final = 1e-3
"""Below 1 / 208, the patients that train."""
LOSS: Final = DICE
SEEDS: Final = 3
"""At most so many: volumes are slow."""


@dataclass(frozen=True)
class Descent:
    """How the U-Net trains: a round is one pass over each group's patients."""

    rounds: int = 9
    lr: float = 4e-3
    batch: int = 2
    cut: tuple[int, int, int] = (32, 48, 32)
    epsilon: None = None


PLAIN: Final = Descent()
QUICK: Final = replace(PLAIN, rounds=3)
SUMMED: Final = Plan(
    "summed", rounds=40, lr=20.0, clipping_norm=0.1, epsilon=8.0, delta=DELTA,
    algorithm="fedavgm", server_momentum=0.9, averaged=0.25,
)  # fmt: skip
PER_SITE: Final = replace(SUMMED, mechanism="per-site")
CONVEX: Final = replace(SUMMED, epsilon=100.0)
"""What the small model reaches where noise hardly counts. Without clipping its first steps, at this
learning rate, are far too large."""
_BATCH: Final = 4


@dataclass(frozen=True)
class Features:
    """Thinned responses of those who train, by group, and whole ones of who is held out."""

    sites: dict[str, Arrays]
    held: Arrays


def measure(
    seed: int,
    cache: Path,
    *,
    epsilons: tuple[float, ...] = (8.0, 3.0),
    tell: Callable[[str], None] = lambda _: None,
    descent: Descent = PLAIN,
) -> dict[str, Any]:
    """Return one seed's Dice on its held-out patients, by arm."""
    sites, held = volumes(seed)
    row: dict[str, Any] = {}
    tell(f"U-Net, {descent.rounds} rounds over three groups")
    row["plain"] = _unet(sites, held, descent, seed, cache, tell)
    found = []
    for site, own in sites.items():
        tell(f"U-Net, {site} alone")
        found.append(_unet({site: own}, held, descent, seed, cache, tell))
    row["alone_plain"] = found
    del sites, held
    tell("filters")
    known = features(seed, cache)

    module = head()
    federate(module, known.sites, CONVEX, seed=seed, loss=LOSS)
    row["convex"] = _dice(module, known.held)
    for limit in epsilons:
        for plan in (replace(SUMMED, epsilon=limit), replace(PER_SITE, epsilon=limit)):
            tell(f"{plan.mechanism} noise, epsilon {limit:g}")
            module = head()
            outcome = federate(module, known.sites, plan, seed=seed, loss=LOSS)
            row[f"{plan.mechanism}_{limit:g}"] = _dice(module, known.held)
            assert outcome.spent is not None
            row[f"{plan.mechanism}_{limit:g}_spent"] = outcome.spent.text()
    tell("each group alone, 8")
    row["alone_8"] = []
    for own in known.sites.values():
        module = head()
        alone(module, own, PER_SITE, seed=seed, loss=LOSS)
        row["alone_8"].append(_dice(module, known.held))
    return row


def measure_quick(seed: int, cache: Path, **others: Any) -> dict[str, Any]:
    """Return the same with fewer rounds of the U-Net, which then stops below what it can."""
    return measure(seed, cache, descent=QUICK, **others)


def volumes(seed: int) -> tuple[dict[str, Arrays], Arrays]:
    """Return the volumes of each group and of those held out."""
    data, loader = read_volumes(FOLDER, seed=seed), VolumeLoader()
    sites = {str(site): loader.load(patients) for site, patients in data.sites.items()}
    return sites, loader.load(data.test)


def features(seed: int, cache: Path) -> Features:
    """Return what the private model sees, from ``cache`` where it was made before."""
    kept = cache / f"hippocampus-features-{seed}.npz"
    if not kept.is_file():
        sites, held = volumes(seed)
        parts: dict[str, Any] = {"held x": held.x, "held y": held.y}
        for site, arrays in sites.items():
            parts[f"{site} x"] = _responses(arrays.x, thin=True)
            parts[f"{site} y"] = thinned(torch.from_numpy(arrays.y)).numpy()
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **parts)
    with np.load(kept, allow_pickle=False) as stored:
        found = {
            name: Arrays(
                x=stored[f"{name} x"],
                y=stored[f"{name} y"],
                patient=np.arange(len(stored[f"{name} y"])),
            )
            for name in sorted({part.rsplit(" ", 1)[0] for part in stored})
        }
    return Features(sites=found, held=found.pop("held"))


def head() -> PlacedHead:
    """Return the private model, at zero."""
    return PlacedHead(GRID, CLASSES)


def _responses(x: NDArray[np.float32], *, thin: bool) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(x), _BATCH):
        found = responses(torch.from_numpy(x[start : start + _BATCH]))
        parts.append((thinned(found) if thin else found).numpy())
    return np.concatenate(parts)


def _dice(module: nn.Module, held: Arrays) -> float:
    """Return the mean Dice of the convex model over ``held``, whose responses are made here."""
    found = []
    with torch.no_grad():
        for start in range(0, len(held.x), _BATCH):
            whole = torch.from_numpy(_responses(held.x[start : start + _BATCH], thin=False))
            found.append(module(whole).argmax(dim=1).numpy())
    return _mean_dice(np.concatenate(found), held.y)


def _mean_dice(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return round(float(dice(found, truth, classes=CLASSES).mean()), 6)


def _unet(  # noqa: PLR0917 - one training's parts
    sites: Mapping[str, Arrays],
    held: Arrays,
    descent: Descent,
    seed: int,
    cache: Path,
    tell: Callable[[str], None],
) -> float:
    """Train a U-Net by federated averaging, going on where a stopped run was; return its Dice."""
    module = build("unet3d", (1, *GRID), seed, CLASSES)
    told = f"{'-'.join(sites)}-{seed}-{descent.rounds}"
    for number in range(1, descent.rounds + 1):
        kept = cache / f"hippocampus-unet-{told}-{number}.npy"
        if not kept.is_file():
            start, total = to_vector(module), np.zeros(0)
            for index, arrays in enumerate(sites.values()):
                load_vector(module, start)
                random = np.random.default_rng([seed, number, index])
                _pass(module, arrays, descent, number, random)
                own = len(arrays.x) * to_vector(module).astype(np.float64)
                total = own if index == 0 else total + own
            patients = sum(len(arrays.x) for arrays in sites.values())
            cache.mkdir(parents=True, exist_ok=True)
            np.save(kept, (total / patients).astype(np.float32))
            tell(f"round {number} of {descent.rounds}")
        load_vector(module, np.load(kept, allow_pickle=False))
    module.eval()
    with torch.no_grad():
        parts = [
            module(torch.from_numpy(held.x[start : start + _BATCH])).argmax(dim=1).numpy()
            for start in range(0, len(held.x), _BATCH)
        ]
    return _mean_dice(np.concatenate(parts), held.y)


def _pass(
    module: nn.Module, arrays: Arrays, descent: Descent, number: int, random: np.random.Generator
) -> None:
    """Take one group's steps of one round; Adam begins anew, and slower towards the end."""
    slower = 0.5 * (1.0 + math.cos(math.pi * (number - 1) / descent.rounds))
    optimizer = torch.optim.Adam(module.parameters(), lr=descent.lr * slower)
    order = random.permutation(len(arrays.x))
    module.train()
    for start in range(0, len(order), descent.batch):
        some = order[start : start + descent.batch]
        corner = [
            int(random.integers(side - cut + 1))
            for side, cut in zip(GRID, descent.cut, strict=True)
        ]
        where = tuple(slice(at, at + cut) for at, cut in zip(corner, descent.cut, strict=True))
        x = torch.from_numpy(np.ascontiguousarray(arrays.x[(some, slice(None), *where)]))
        y = torch.from_numpy(np.ascontiguousarray(arrays.y[(some, *where)]))
        optimizer.zero_grad()
        LOSS(module(x), y).mean().backward()
        optimizer.step()
