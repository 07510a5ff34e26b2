"""The wavelet stem is fixed, private by construction, and blind to brightness and contrast."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.wavelets import CHANNELS, NORM, WaveletStem


def images(count=4, seed=0):
    return torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def stem():
    return WaveletStem((1, 32, 32))


def test_nothing_in_the_stem_is_trained_or_stored(stem):
    assert list(stem.parameters()) == []
    assert stem.state_dict() == {}


def test_the_maps_of_an_image_do_not_depend_on_its_batch(stem):
    together = stem(images(4))
    alone = torch.cat([stem(image[None]) for image in images(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.5, 50.0), offset=st.floats(-5.0, 5.0))
def test_brightness_and_contrast_change_nothing(gain, offset):
    stem = WaveletStem((1, 32, 32))
    torch.testing.assert_close(stem(gain * images() + offset), stem(images()), rtol=0.0, atol=2e-3)


def test_the_maps_of_one_image_have_the_stated_norm(stem):
    torch.testing.assert_close(stem(images()).flatten(1).norm(dim=1), torch.full((4,), NORM))


def test_a_constant_image_gives_finite_maps(stem):
    assert torch.isfinite(stem(torch.zeros(1, 1, 32, 32))).all()


def test_two_stems_of_one_shape_hold_equal_filters(stem):
    assert torch.equal(stem.filters, WaveletStem((1, 32, 32)).filters)
    assert stem.output_shape == (CHANNELS, 8, 8)


def test_a_grating_answers_most_in_the_orientation_it_has(stem):
    columns = torch.arange(32.0)[None, None, None, :].expand(1, 1, 32, 32)
    patch = torch.zeros(1, 1, 32, 32)
    patch[..., 8:24, 8:24] = torch.cos(columns)[..., 8:24, 8:24]
    scale = 2  # 1 radian per pixel
    centre = stem(patch)[0, scale * 7 : scale * 7 + 6, 2:6, 2:6].mean(dim=(1, 2))
    assert int(centre.argmax()) == 0
