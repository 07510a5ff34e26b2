"""A model card is JSON that says what matters plainly."""

import dataclasses
import json

from models.card import NOT_A_DEVICE, PrivacyPromise, TrainingData, model_card
from models.networks import build, to_vector

DATA = TrainingData("Phantom ultrasound", True, "patient", 6, "lesion", "no lesion", "CC0-1.0")


def card(data=DATA, privacy=PrivacyPromise(8.0, 1e-5)):  # noqa: B008 - frozen
    return model_card(
        build("mlp", (4,), 1), name="lesions", network="mlp", input_shape=(4,),
        training_data=data, privacy=privacy, auc=0.9, rounds=10,
    )  # fmt: skip


def test_the_card_survives_json_and_names_the_parameters_there_are():
    found = json.loads(json.dumps(card()))
    assert found["model"]["parameters"] == len(to_vector(build("mlp", (4,), 1)))
    assert NOT_A_DEVICE in found["limits"]


def test_synthetic_data_and_the_unit_of_privacy_are_said():
    assert card()["training"]["note"].startswith("SYNTHETIC")
    assert card()["privacy"]["unit"] == "patient"


def test_images_without_patients_are_said_to_be_that():
    data = dataclasses.replace(DATA, synthetic=False, unit="image")
    assert "names no patients" in card(data)["training"]["note"]


def test_a_model_without_privacy_says_none():
    assert card(privacy=PrivacyPromise(None, None))["privacy"]["note"].startswith("NONE")
