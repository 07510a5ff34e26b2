"""Terms are read back as written, keep their old digests, and say what a round is paid for."""

import json

import pytest

from protocol.canonical import MalformedMessage, body, canonical, digest, read
from protocol.terms import FeatureTerms, PrivacyTerms, TrainingTerms


def training(**more):
    return TrainingTerms(
        network="sonogram", input_shape=(4,), tensor_sizes=(4,), reference_patients=10,
        learning_rate=1, server_learning_rate=1, server_momentum=0, augment=False, **more,
    )  # fmt: skip


def test_terms_without_features_keep_the_digest_they_had_before_there_were_any():
    assert digest(training()) == "9acdea2c4dc112976e80625aec49f0c4c5a54447b9eaff11cc6ccfdd862b0c62"
    assert "features" not in body(training())


def test_terms_with_features_are_other_terms_and_travel():
    features = FeatureTerms(bundle="ab" * 32, function="steps:halve", input_shape=(8,))
    terms = training(features=features)
    assert digest(terms) != digest(training())
    assert read(TrainingTerms, json.loads(canonical(terms))) == terms


@pytest.mark.parametrize(
    "changes",
    [
        {"bundle": "AB" * 32},
        {"function": "steps"},
        {"function": "os:system;ls"},
        {"input_shape": []},
        {"input_shape": [0]},
        {"input_shape": [2**17]},
        {"records_max": 0},
        {"records_max": 65},
        {"seconds": 0},
        {"seconds": 61},
        {"surprise": 1},
    ],
)
def test_what_is_no_feature_step_is_refused(changes):
    honest = FeatureTerms(bundle="ab" * 32, function="steps:halve", input_shape=(8,))
    with pytest.raises(MalformedMessage):
        read(FeatureTerms, body(honest) | changes)


def test_gradients_are_the_expected_number_of_drawn_patients_rounded_down():
    terms = PrivacyTerms(
        epsilon=8,
        delta=1e-5,
        sampling_rate=0.3,
        noise_multiplier=1,
        clipping_norm=1,
        steps=3,
        accountant="rdp",
    )
    assert [terms.gradients(n) for n in (0, 1, 2, 41)] == [0, 0, 1, 36]
