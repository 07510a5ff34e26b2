"""A model is judged at every site in plain numbers, whatever the sites hold."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from models.evaluation import evaluate
from models.losses import CROSS_ENTROPY, DICE
from models.metrics import auc
from models.networks import build


@dataclass
class Held:
    x: np.ndarray
    y: np.ndarray
    patient: np.ndarray


def table(labels, seed=0, per_patient=1):
    generator = np.random.default_rng(seed)
    y = np.repeat(labels, per_patient)
    x = (generator.normal(size=(len(y), 4)) + y[:, None]).astype(np.float32)
    return Held(x, y, np.repeat(np.arange(len(labels)), per_patient))


class Sum(torch.nn.Module):
    def forward(self, x):
        return x.sum(dim=1, keepdim=True) - 2.0


SITES = {
    "large": table(np.arange(60) % 2),
    "one-class": table(np.ones(5, dtype=int), seed=1),
    "single": table(np.array([0]), seed=2),
}


def test_every_site_and_all_together_are_judged_in_json():
    found = evaluate(Sum(), SITES, draws=100)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["task"] == "binary"
    assert set(found["sites"]) == set(SITES)
    large = found["sites"]["large"]
    assert large["auc_interval"][0] <= large["auc"] <= large["auc_interval"][1]
    assert large["sensitivity_interval"][0] <= large["sensitivity"]


def test_a_site_of_one_class_says_what_it_can():
    found = evaluate(Sum(), SITES, draws=10)["sites"]["one-class"]
    assert (found["auc"], found["auc_interval"], found["specificity"]) == (None, None, None)
    assert found["sensitivity"] is not None
    assert found["calibration"]["brier"] >= 0.0


def test_overall_is_of_all_patients_together():
    found = evaluate(Sum(), SITES, draws=10)
    scores = np.concatenate(
        [Sum()(torch.from_numpy(one.x)).numpy()[:, 0] for one in SITES.values()]
    )
    labels = np.concatenate([one.y for one in SITES.values()])
    assert found["overall"]["patients"] == 66
    assert np.isclose(found["overall"]["auc"], auc(labels, scores))


def test_a_patients_records_count_once():
    many = table(np.arange(10) % 2, per_patient=3)
    assert evaluate(Sum(), {"site": many}, draws=10)["overall"]["patients"] == 10


def test_the_same_seed_gives_the_same_figures_and_an_empty_site_is_left_out():
    sites = {**SITES, "empty": Held(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, int))}
    first = evaluate(Sum(), sites, draws=50, seed=3)
    assert first == evaluate(Sum(), SITES, draws=50, seed=3)


def test_several_classes_have_accuracy_and_an_auc_each_against_the_rest():
    held = table(np.arange(30) % 3)
    found = evaluate(build("mlp", (4,), 1, 3), {"site": held}, loss=CROSS_ENTROPY)
    assert found["task"] == "classes"
    assert len(found["overall"]["auc_against_rest"]) == 3
    assert 0.0 <= found["overall"]["accuracy_interval"][0] <= found["overall"]["accuracy"]
    json.dumps(found, allow_nan=False)


class Echo(torch.nn.Module):
    """Call certain what the volume itself shows, one class per shade."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        if self.outputs == 1:
            return 20 * (x - 0.5)
        return torch.cat([20 - 40 * (x - one).abs() for one in range(self.outputs)], dim=1)


@pytest.mark.parametrize("outputs", [1, 3])
def test_segmentation_is_judged_by_dice_and_distance_with_empty_masks(outputs):
    truth = np.zeros((4, 8, 8, 8), dtype=np.int64)
    truth[:3, 2:5, 2:5, 2:5] = 1
    shown = truth.astype(np.float32)[:, None]
    shown[2, :, 4] = 0.0  # a part it does not see
    found = evaluate(Echo(outputs), {"site": Held(shown, truth, np.arange(4))}, loss=DICE)
    assert found["task"] == "segmentation"
    overall = found["overall"]
    assert overall["hd95_records"][0] == 3
    assert 0.9 < overall["dice"] < 1.0
    assert overall["dice_interval"][0] <= overall["dice"] <= overall["dice_interval"][1]
    json.dumps(found, allow_nan=False)
