"""A model card is JSON and Markdown that say what matters plainly."""

import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.card import NOT_A_DEVICE, TrainingData, model_card
from models.card_page import markdown
from models.evaluation import evaluate
from models.losses import CROSS_ENTROPY, DICE, LOG
from models.networks import build, to_vector
from privacy.statement import PrivacyStatement

DATA = TrainingData("Phantom ultrasound", True, "patient", 6, "lesion", "no lesion", "CC0-1.0")
SPENT = PrivacyStatement(7.96, 1e-5, "patient", "Poisson at 0.5", "prv")


def held(labels, shape=(4,)):
    x = np.random.default_rng(1).normal(size=(len(labels), *shape)).astype(np.float32)
    return type("Held", (), {"x": x, "y": labels, "patient": np.arange(len(labels))})()


def evaluated(network="mlp", shape=(4,), outputs=1, loss=LOG, labels=None):
    labels = np.arange(12) % 2 if labels is None else labels
    return evaluate(
        build(network, shape, 1, outputs),
        {"north": held(labels, shape), "south": held(np.zeros_like(labels), shape)},
        loss=loss, draws=20,
    )  # fmt: skip


def card(data=DATA, privacy=SPENT, evaluation=None, name="lesions"):
    return model_card(
        build("mlp", (4,), 1), name=name, network="mlp", input_shape=(4,),
        training_data=data, privacy=privacy, evaluation=evaluation, rounds=10,
    )  # fmt: skip


def test_the_card_survives_json_and_names_the_parameters_there_are():
    found = card(evaluation=evaluated())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["model"]["parameters"] == len(to_vector(build("mlp", (4,), 1)))
    assert NOT_A_DEVICE in found["limits"]


def test_a_study_with_code_of_its_own_is_told_by_its_bundle():
    plain = card()
    assert "features" not in plain
    assert "own code" not in markdown(plain)
    made = {"bundle": "ab" * 32, "function": "steps:halve", "from": [1, 64, 64]}
    assert f"SHA-256 {'ab' * 32}, from records of 1 × 64 × 64" in markdown(
        plain | {"features": made}
    )


def test_synthetic_data_and_the_unit_of_privacy_are_said():
    assert card()["training"]["note"].startswith("SYNTHETIC")
    assert card()["privacy"]["unit"] == "patient"


def test_images_without_patients_are_said_to_be_that():
    data = dataclasses.replace(DATA, synthetic=False, unit="image")
    assert "names no patients" in card(data)["training"]["note"]


def test_an_epsilon_never_stands_without_its_terms():
    found = card()["privacy"]
    assert found["statement"] == SPENT.text()
    assert {"epsilon", "delta", "unit", "sampling", "accountant"} <= set(found)
    assert "accountant: PRV" in markdown(card())


def test_a_model_without_privacy_says_none():
    found = card(privacy=None)
    assert found["privacy"]["note"].startswith("NONE")
    assert "NONE: trained without" in markdown(found)


@pytest.mark.parametrize(
    "evaluation",
    [
        evaluated(),
        evaluated(outputs=3, loss=CROSS_ENTROPY, labels=np.arange(12) % 3),
        evaluated("unet2d", (1, 32, 32), 3, DICE, np.zeros((2, 32, 32), dtype=np.int64)),
    ],
    ids=["binary", "classes", "segmentation"],
)
def test_the_page_has_a_row_for_every_site_with_all_its_cells(evaluation):
    rows = [line for line in markdown(card(evaluation=evaluation)).splitlines() if "|" in line]
    assert len(rows) == 5
    assert len({line.count("|") for line in rows}) == 1
    assert "–" in "".join(rows)


def test_a_card_without_evaluation_says_so():
    assert "Not evaluated." in markdown(card())


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40) | st.sampled_from(["# x", "a\n# b", "|x|", "[a](b)", "<b>", "`c`"]))
def test_no_name_of_a_study_opens_anything_of_its_own(name):
    plain = markdown(card(name="x"))
    found = re.sub(r"\\.", "", markdown(card(name=name)))  # what is escaped is only shown
    for mark in ("\n#", "\n", "|", "](", "<", "`", "*"):
        assert found.count(mark) == plain.count(mark)
