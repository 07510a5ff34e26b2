"""What can a trunk learn of ultrasound from drawings alone?

Question  How well does a small network, trained on synthetic pictures only, tell malignant from
          other lesions on pictures it has never seen the like of?
Method    Draw a fresh batch for every step (``experiments/_breast_phantom.py``), so that no
          picture is seen twice; learn class, outline and signs of the lesion together; average the
          weights over steps [1]. Then learn centring and half-whitening of the trunk's features
          and of the wavelets from further drawings. No record of any data set is read.
Expected  Most drawn lesions are told apart; on real pictures the trunk is no diagnosis, but its
          features separate better than fixed filters.
Run       python -m experiments.pretrain_sonogram    (4 minutes on one quiet core)
Result    models/weights/sonogram.npz, experiments/results/pretrain_sonogram.json

The weights are of the package's own making and under its licence; their SHA-256 stands in
``models/sonogram.py`` and has to be changed there when they are made anew. Other versions of
PyTorch and other processors give weights that differ in the last digits.

References:
    [1] Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.
"""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from experiments._breast_phantom import CLASSES, SIGNS, Drawn, draw
from experiments._recorded import record
from models.sonogram import SIDE, TRUNK, WAVELETS, WEIGHTS, Trunk, raw_features, whitening
from models.wavelets import WaveletStem
from storage.files import write_whole


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    seed: int = 11
    steps: int = 1600
    batch: int = 48
    lr: float = 3e-3
    weight_decay: float = 1e-2
    signs_weight: float = 0.3
    whitened_on: int = 2400
    judged_on: int = 960
    trunk_floor: float = 0.05
    wavelet_floor: float = 0.5


class Pupil(nn.Module):
    """The trunk with the heads that are thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.classes = nn.Linear(TRUNK, len(CLASSES))
        self.signs = nn.Linear(TRUNK, len(SIGNS))

    def loss(self, drawn: Drawn, signs_weight: float) -> Tensor:
        """Return the mean loss of a batch: class, outline, and the signs of what lesions are."""
        features, outline = self.trunk(drawn.images)
        wanted = functional.avg_pool2d(drawn.masks[:, None], 4)
        there = (drawn.classes > 0).float()
        signs = functional.smooth_l1_loss(self.signs(features), drawn.signs, reduction="none")
        return (
            functional.cross_entropy(self.classes(features), drawn.classes)
            + functional.binary_cross_entropy_with_logits(outline, wanted)
            + signs_weight * (signs.mean(dim=1) * there).mean()
        )


def main() -> None:
    """Train, whiten, write the weights, record."""
    config, started = Config(), time.monotonic()
    torch.set_num_threads(1)
    pupil = train(config)
    content = weights_of(pupil.trunk, config)
    WEIGHTS.parent.mkdir(exist_ok=True)
    write_whole(WEIGHTS, content)
    rows = {
        **judge(pupil, config),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    path = record("pretrain_sonogram", config, rows, seconds=time.monotonic() - started)
    sys.stdout.write(f"{rows}\n{path.name}\n")


def train(config: Config) -> Pupil:
    """Return the average of the pupil's weights."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    pupil, average = Pupil(), Pupil()
    average.load_state_dict(pupil.state_dict())
    optimizer = torch.optim.AdamW(
        pupil.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=config.steps, pct_start=0.1
    )
    for step in range(1, config.steps + 1):
        loss = pupil.loss(draw(config.batch, generator), config.signs_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for kept, current in zip(average.parameters(), pupil.parameters(), strict=True):
                kept.lerp_(current, max(0.01, 10 / (step + 10)))
        if step % 100 == 0:
            sys.stderr.write(f"step {step}/{config.steps}  loss {float(loss.detach()):.3f}\n")
    return average.eval()


@torch.no_grad()
def weights_of(trunk: Trunk, config: Config) -> bytes:
    """Return the weights' file: the trunk and both whitenings, as half-precision numbers."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    wavelets, features, pooled = WaveletStem((1, SIDE, SIDE)), [], []
    for _ in range(config.whitened_on // config.batch):
        one, other, _ = raw_features(trunk, wavelets, draw(config.batch, generator).images)
        features.append(one.double().numpy())
        pooled.append(other.double().numpy())
    tensors = {name: value.numpy() for name, value in trunk.state_dict().items()}
    tensors["trunk_mean"], tensors["trunk_basis"] = whitening(
        np.concatenate(features), keep=TRUNK, floor=config.trunk_floor
    )
    tensors["wavelet_mean"], tensors["wavelet_basis"] = whitening(
        np.concatenate(pooled), keep=WAVELETS, floor=config.wavelet_floor
    )
    file = BytesIO()
    np.savez_compressed(
        file,
        allow_pickle=False,
        **{name: value.astype(np.float16) for name, value in tensors.items()},
    )
    return file.getvalue()


@torch.no_grad()
def judge(pupil: Pupil, config: Config) -> dict[str, float]:
    """Return how well fresh drawings are told apart."""
    generator = torch.Generator().manual_seed(config.seed + 2)
    scores, labels = [], []
    for _ in range(config.judged_on // config.batch):
        drawn = draw(config.batch, generator)
        features, _ = pupil.trunk(drawn.images)
        scores.append(torch.log_softmax(pupil.classes(features), dim=1))
        labels.append(drawn.classes)
    chances, classes = torch.cat(scores), torch.cat(labels)
    malignant = (classes == 2).numpy()
    return {
        "accuracy": round(float((chances.argmax(dim=1) == classes).float().mean()), 4),
        "auc_malignant": round(float(roc_auc_score(malignant, chances[:, 2].numpy())), 4),
    }


if __name__ == "__main__":
    main()
