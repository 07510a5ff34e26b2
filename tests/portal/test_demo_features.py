"""One command runs a study that brings its own code, and its report and model card name it."""

from __future__ import annotations

import json

import pytest

from fl_client.feature_store import FILE, FeatureStore
from fl_client.job_code import JobCode, pack
from fl_client.sandbox import SandboxUnavailable
from fl_server.store import ServerStore
from portal.features import made_up, try_step
from portal.home import Home
from portal.trained import trained

# `bithive up` runs a study with code to its end in every run (tests/federation/test_up.py).
pytestmark = pytest.mark.exhaustive

HALVE = b'''"""Halve an image: the mean of each block of two by two."""

import io

import numpy as np


def halve(given):
    """Return one patient's records at half their size."""
    records = np.load(io.BytesIO(given))  # (records, 1, height, width)
    count, channels, height, width = records.shape
    blocks = records.reshape(count, channels, height // 2, 2, width // 2, 2)
    made = io.BytesIO()
    np.save(made, blocks.mean(axis=(3, 5), dtype=np.float32))
    return made.getvalue()
'''
BUNDLE = pack({"blocks.py": HALVE})


@pytest.fixture(scope="module")
def finished(bithive, tmp_path_factory):
    try:
        try_step(BUNDLE, "blocks:halve", made_up((1, 64, 64), patients=1))
    except SandboxUnavailable:
        pytest.skip("this machine permits no unprivileged namespaces; the sandbox is not tested")
    folder = tmp_path_factory.mktemp("features")
    (folder / "blocks.zip").write_bytes(BUNDLE)
    named = f"{folder / 'blocks.zip'}:blocks:halve"
    size = ("--sites", 3, "--patients", 10, "--rounds", 1, "--circuit", "cover8")
    done = bithive("demo", "--home", folder / "home", *size, "--features", named, "--json")
    assert done.returncode == 0, done.stderr
    return Home(folder / "home")


def test_the_study_runs_to_its_end_on_what_the_code_makes(finished):
    report = json.loads(finished.report.read_text())
    terms = ServerStore(finished.server / "server.db").terms()
    assert report["rounds"] == 1
    assert report["sum_exact"] is True
    assert terms.training.input_shape == (1, 32, 32)
    assert report["study"]["features"] == {
        "bundle": terms.training.features.bundle,
        "function": "blocks:halve",
        "from": [1, 64, 64],
    }


def test_every_site_was_sent_the_code_and_keeps_nothing_that_it_made(finished):
    terms = ServerStore(finished.server / "server.db").terms()
    for one in terms.sites:
        folder = finished.site(one.site)
        assert JobCode(folder / "site.db").read(terms.training.features.bundle) == BUNDLE
        assert FeatureStore(folder / FILE).counts() == (0, 0)


@pytest.mark.exhaustive
def test_the_model_card_names_the_bundle(finished):
    terms = ServerStore(finished.server / "server.db").terms()
    card = trained(finished).card
    assert card["features"]["bundle"] == terms.training.features.bundle
    assert card["model"]["input_shape"] == [1, 32, 32]
