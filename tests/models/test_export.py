"""An exported model computes what the network computes, for batches of any size."""

import json
import warnings

import numpy as np
import onnx
import pytest
import torch

from models import export
from models.export import ATOL, ExportDiffers, onnx_bytes, run_onnx, write_onnx
from models.networks import NETWORKS, build, load_vector, to_vector
from models.onnx_stem import RealWaveletStem
from models.wavelets import WaveletStem

SHAPES = {"mlp": (9,), "logistic": (9,), "unet3d": (1, 16, 32, 16), "wavelet": (1, 32, 64)}
BIG = {"densenet121", "resnet18", "densenet", "sonogram"}
CASES = [
    pytest.param(name, outputs, marks=[pytest.mark.slow] if name in BIG or outputs == 1 else [])
    for name in NETWORKS
    for outputs in (1, 3)
]


def trained(name, outputs=1):
    """A network away from its initial weights, which for some are zero."""
    network = build(name, SHAPES.get(name, (1, 32, 32)), 1, outputs)
    vector = to_vector(network)
    noise = np.random.default_rng(2).normal(size=vector.shape)
    load_vector(network, (vector + 0.02 * noise).astype(np.float32))
    return network.eval()


@pytest.mark.parametrize(("name", "outputs"), CASES)
def test_onnxruntime_agrees_with_pytorch_for_batches_of_any_size(name, outputs):
    network, shape = trained(name, outputs), SHAPES.get(name, (1, 32, 32))
    content = onnx_bytes(network, input_shape=shape)
    for size in (1, 5):
        x = np.random.default_rng(size).normal(size=(size, *shape)).astype(np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(run_onnx(content, x), expected, rtol=0.0, atol=ATOL)


def test_exporting_warns_nobody_and_leaves_the_network_as_it_came():
    network = trained("wavelet").train()
    before, stem = to_vector(network), network.stem
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        onnx_bytes(network, input_shape=(1, 32, 64))
    assert network.training
    assert network.stem is stem
    assert np.array_equal(to_vector(network), before)


def test_the_file_carries_the_card_and_the_meaning_of_its_output(tmp_path):
    path = tmp_path / "model.onnx"
    write_onnx(trained("mlp"), path, input_shape=(9,), card={"name": "x"}, link="sigmoid")
    props = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert json.loads(props["card"]) == {"name": "x"}
    assert props["link"] == "sigmoid"


def test_a_graph_that_computes_something_else_is_never_returned(monkeypatch):
    network = trained("mlp")
    other = trained("mlp")
    load_vector(other, to_vector(other) * 1.1)
    monkeypatch.setattr(export, "_exportable", lambda _: other)
    with pytest.raises(ExportDiffers):
        onnx_bytes(network, input_shape=(9,))


def test_the_stem_in_real_arithmetic_is_the_stem():
    shape = (1, 32, 48)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        RealWaveletStem(shape)(images), WaveletStem(shape)(images), rtol=0.0, atol=1e-4
    )
