"""A bundle is what MONAI expects, and computes what the network does in both directions."""

import json
import warnings

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, verify_net_in_out

from models.bundle import CONFIG, METADATA, NETWORK, WEIGHTS, ExportTaken, write_bundle
from models.bundle_reader import read_bundle
from models.networks import NETWORKS, build, load_vector, to_vector

SHAPES = {"mlp": (9,), "logistic": (9,), "unet3d": (1, 16, 16, 16)}
BIG = {"densenet121", "resnet18"}
CASES = [
    pytest.param(name, outputs, marks=[pytest.mark.slow] if name in BIG or outputs == 1 else [])
    for name in NETWORKS
    for outputs in (1, 3)
]
REQUIRED = {  # MONAI's bundle specification, "metadata.json File"
    "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
    "task", "description", "authors", "copyright", "network_data_format", "changelog",
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path, card_of):
    def write(name="mlp", outputs=1, suffix="", study="lesions"):
        shape = SHAPES.get(name, (1, 32, 32))
        network = build(name, shape, 1, outputs)
        vector = to_vector(network)
        noise = np.random.default_rng(2).normal(size=vector.shape)
        load_vector(network, (vector + 0.02 * noise).astype(np.float32))
        path = tmp_path / f"bundle{suffix}"
        write_bundle(
            network, path, network=name, input_shape=shape, outputs=outputs,
            card=card_of(network, name, shape, outputs, study),
        )  # fmt: skip
        return network.eval(), path

    return write


def records(name):
    shape = SHAPES.get(name, (1, 32, 32))
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(("name", "outputs"), CASES)
def test_monai_builds_the_network_and_both_compute_the_same(bundle, name, outputs):
    network, path = bundle(name, outputs)
    parser = ConfigParser()
    parser.read_config(str(path / CONFIG))
    theirs = parser.get_parsed_content(NETWORK)
    theirs.load_state_dict(torch.load(path / WEIGHTS, weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(records(name)), network(records(name)))


@pytest.mark.parametrize("name", ["mlp", "cnn", "unet2d", "unet3d"])
def test_monais_own_check_of_inputs_and_outputs_passes(bundle, name):
    _, path = bundle(name, 3)
    verify_net_in_out(
        NETWORK, meta_file=str(path / METADATA), config_file=str(path / CONFIG), device="cpu"
    )


def test_monais_own_export_takes_the_checkpoint(bundle, tmp_path):
    from monai.bundle import ckpt_export

    network, path = bundle("mlp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and MONAI still writes it
        ckpt_export(
            NETWORK, filepath=str(tmp_path / "model.ts"), ckpt_file=str(path / WEIGHTS),
            meta_file=str(path / METADATA), config_file=str(path / CONFIG),
        )  # fmt: skip
        theirs = torch.jit.load(tmp_path / "model.ts")
    torch.testing.assert_close(theirs(records("mlp")), network(records("mlp")))


def test_the_metadata_has_every_field_that_the_specification_requires(bundle):
    _, path = bundle()
    assert set(json.loads((path / METADATA).read_text())) >= REQUIRED


@pytest.mark.parametrize("suffix", ["", ".zip"])
@pytest.mark.parametrize("name", ["wavelet", "cnn", "densenet", "unet3d", "logistic"])
def test_what_is_written_is_read_again(bundle, name, suffix):
    network, path = bundle(name, 3, suffix)
    found = read_bundle(path)
    assert found.per_record
    assert found.card["name"] == "lesions"
    assert found.metadata["bithive"]["network"] == name
    with torch.no_grad():
        assert torch.equal(found.module(records(name)), network(records(name)))


def test_the_summary_of_a_bundle_is_json(bundle):
    found = read_bundle(bundle()[1]).summary()
    assert json.loads(json.dumps(found)) == found
    assert found["parameters"] == 32 * 9 + 65


@pytest.mark.parametrize("study", ["$__import__('os').getcwd()", "%config#x", "@network_def"])
def test_no_name_of_a_study_becomes_an_expression(bundle, study):
    _, path = bundle(study=study)
    texts = [json.loads((path / one).read_text()) for one in (CONFIG, METADATA)]
    while texts:
        one = texts.pop()
        if isinstance(one, str):
            assert one[:1] not in {"$", "%", "@"}
        elif isinstance(one, dict):
            texts += [*one, *one.values()]
        elif isinstance(one, list):
            texts += one


def test_nothing_that_is_there_is_overwritten(bundle, tmp_path):
    bundle()
    with pytest.raises(ExportTaken):
        bundle()


def test_a_network_from_elsewhere_is_read_and_its_batch_statistics_are_noticed(bundle):
    _, path = bundle()
    described = {"_target_": "monai.networks.nets.UNet", "spatial_dims": 2, "in_channels": 1,
                 "out_channels": 2, "channels": [4, 8], "strides": [2],
                 "norm": "batch"}  # fmt: skip
    (path / CONFIG).write_text(json.dumps({NETWORK: described}))
    theirs = ConfigParser({NETWORK: described}).get_parsed_content(NETWORK)
    torch.save(theirs.state_dict(), path / WEIGHTS)
    found = read_bundle(path)
    assert not found.per_record
    assert found.design.arguments["norm"] == "batch"
