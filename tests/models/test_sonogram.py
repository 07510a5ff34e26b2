"""The pretrained front is fixed, bounded, and the very file it says it is."""

import hashlib

import numpy as np
import pytest
import torch

from models import sonogram
from models.networks import build, to_vector
from models.sonogram import FEATURES, NORM, SonogramStem, Trunk, WeightsDamaged, whitening

pytestmark = pytest.mark.slow


def images(count=3, side=64, seed=0):
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def stem():
    return SonogramStem((1, 64, 64))


def test_nothing_in_the_front_is_trained(stem):
    assert not any(parameter.requires_grad for parameter in stem.parameters())
    assert len(to_vector(build("sonogram", (1, 64, 64), 1))) == FEATURES + 1


def test_the_features_of_an_image_do_not_depend_on_its_batch(stem):
    together = stem(images())
    alone = torch.cat([stem(image[None]) for image in images()])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


def test_the_features_of_one_image_have_the_stated_norm(stem):
    torch.testing.assert_close(stem(images()).norm(dim=1), torch.full((3,), NORM))


@pytest.mark.parametrize("picture", [torch.zeros(1, 1, 64, 64), torch.full((1, 1, 64, 64), 7.0)])
def test_a_constant_image_gives_finite_features(stem, picture):
    assert torch.isfinite(stem(picture)).all()


@pytest.mark.parametrize("side", [32, 128])
def test_other_sizes_are_scaled_to_the_one_it_was_trained_on(stem, side):
    assert stem(images(side=side)).shape == (3, FEATURES)


def test_weights_that_were_changed_are_refused(tmp_path, monkeypatch):
    changed = bytearray(sonogram.WEIGHTS.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "sonogram.npz").write_bytes(changed)
    monkeypatch.setattr(sonogram, "WEIGHTS", tmp_path / "sonogram.npz")
    with pytest.raises(WeightsDamaged):
        build("sonogram", (1, 64, 64), 1)


def test_weights_that_are_missing_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sonogram, "WEIGHTS", tmp_path / "absent.npz")
    with pytest.raises(WeightsDamaged):
        build("sonogram", (1, 64, 64), 1)


def test_the_file_is_the_one_that_is_named_and_below_two_megabytes():
    content = sonogram.WEIGHTS.read_bytes()
    assert hashlib.sha256(content).hexdigest() == sonogram.WEIGHTS_SHA256
    assert len(content) < 2_000_000


def test_the_trunk_outlines_at_a_quarter_of_the_side():
    features, outline = Trunk()(images(2))
    assert features.shape == (2, sonogram.TRUNK)
    assert outline.shape == (2, 1, 16, 16)


def test_whitening_evens_out_directions_without_blowing_up_what_hardly_moves():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(500, 3)) * [10.0, 1.0, 1e-9]
    mean, basis = whitening(features, keep=3, floor=0.0)
    moved = (features - mean) @ basis
    spread = moved.std(axis=0)
    assert np.isfinite(basis).all()
    assert spread.max() / np.median(spread) < 2.0
    assert spread.min() < 1e-3
