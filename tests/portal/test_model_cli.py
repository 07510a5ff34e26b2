"""A run's model leaves with its card, and a bundle from elsewhere is told, not run."""

from __future__ import annotations

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from models.bundle import CONFIG, NETWORK, write_bundle
from models.card import TrainingData, model_card
from models.networks import build
from portal.model_cli import app
from portal.plots import reliability_plot
from protocol.errors import BitHiveError


@pytest.fixture
def bundle(tmp_path):
    network = build("mlp", (4,), 1)
    data = TrainingData("Phantom", True, "patient", 3, "lesion", "none", "CC0-1.0")
    card = model_card(
        network, name="study", network="mlp", input_shape=(4,), training_data=data,
        privacy=None, rounds=1,
    )  # fmt: skip
    write_bundle(network, tmp_path / "theirs", network="mlp", input_shape=(4,), card=card)
    return tmp_path / "theirs"


def run(*arguments):
    found = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=True)
    if isinstance(found.exception, BitHiveError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.parametrize("command", ["export", "inspect", "import"])
def test_every_command_explains_itself_with_an_example(command):
    assert f"bithive model {command}" in re.sub(r"\s+", " ", run(command, "--help"))


def test_a_bundle_is_described_in_a_sentence_and_in_json(bundle):
    assert "193 parameters, can be trained privately" in run("inspect", bundle)
    found = json.loads(run("inspect", bundle, "--json"))
    assert found["network"] == "monai.networks.nets.FullyConnectedNet"
    assert found["card"]["name"] == "study"


def test_what_is_imported_is_a_plain_bundle_of_checked_values(bundle, tmp_path):
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "evil.py").write_text("raise SystemExit")
    run("import", bundle, "--to", tmp_path / "ours")
    ours = sorted(file.name for file in (tmp_path / "ours").rglob("*") if file.is_file())
    assert ours == ["inference.json", "model.pt"]
    before, after = (
        torch.load(one / "models" / "model.pt", weights_only=True)
        for one in (bundle, tmp_path / "ours")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_bundle_that_would_run_something_is_refused_by_name(bundle):
    config = json.loads((bundle / CONFIG).read_text())
    (bundle / CONFIG).write_text(json.dumps({**config, "imports": ["$import os"]}))
    with pytest.raises(BitHiveError, match="expression") as refusal:
        run("inspect", bundle)
    assert refusal.value.code == "bundle-refused"
    assert json.loads(run("inspect", bundle, "--network-only", "--json"))["ignored"]


def test_names_in_a_bundle_do_not_act_on_the_terminal(bundle):
    (bundle / "\x1b[31mred [bold]").write_text("")
    shown = run("inspect", bundle)
    assert "\x1b" not in shown
    assert "[bold]" in shown


def test_what_is_there_is_not_overwritten(bundle):
    with pytest.raises(BitHiveError) as refusal:
        run("import", bundle, "--to", bundle)
    assert refusal.value.code == "model-export-taken"


def test_a_folder_without_a_run_has_no_model(tmp_path):
    with pytest.raises(BitHiveError) as refusal:
        run("export", tmp_path)
    assert refusal.value.code == "no-run-here"


def test_the_reliability_plot_says_what_it_shows():
    rows = [{"patients": 3, "predicted": 0.2, "observed": 0.0},
            {"patients": 1, "predicted": 0.9, "observed": 1.0}]  # fmt: skip
    drawn = reliability_plot({"table": rows, "bins": 10, "error": 0.17, "brier": 0.03})
    assert "calibration error 0.170" in drawn
    assert "Reliability of 4 patients" in drawn


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "bundle"])
def test_a_finished_runs_model_is_exported_with_its_figures(finished, tmp_path, form):
    target = tmp_path / {"onnx": "model.onnx", "bundle": "bundle"}[form]
    found = json.loads(run("export", finished.home, "--format", form, "--to", target, "--json"))
    assert found["auc"] == pytest.approx(finished.printed["auc_federated"], abs=1e-6)
    assert found["privacy"].startswith("NONE")  # a seeded run's noise hides nothing
    assert target.exists()
    if form == "bundle":
        assert "seeded for a demonstration" in (target / "docs" / "README.md").read_text()
        assert NETWORK in json.loads((target / CONFIG).read_text())
