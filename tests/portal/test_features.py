"""A researcher packs and tries her step as hospitals run it, and a study names what it brings."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
from typer.testing import CliRunner

from fl_client.job_code import CodeUnreadable, files_of, pack
from fl_client.sandbox import SandboxUnavailable
from fl_server.offering import CODE_FILE
from portal.features import (
    FeaturesDiffer,
    FeaturesFail,
    FeaturesMisnamed,
    Trial,
    check_unchanged,
    features_note,
    made_up,
    named_step,
    pack_folder,
    read_bundle,
    step_for,
    try_step,
    with_step,
)
from portal.features_cli import app
from protocol.canonical import canonical
from protocol.errors import StorageError
from tests.fl_client.feature_world import BUNDLE, HASH, SOURCES, STEP, Rows, feature_job, patient
from tests.fl_client.job_world import World

RETURNS = b"""
import io
import numpy as np

def saved(values):
    made = io.BytesIO()
    np.save(made, values)
    return made.getvalue()

def nothing(given):
    return b""

def wide(given):
    return saved(np.zeros((1, 1, 1, 1, 1, 1), np.float32))

def doubles(given):
    return saved(np.zeros((1, 2)))

def many(given):
    return saved(np.zeros((17, 2), np.float32))
"""


def write(folder, sources):
    for name, text in sources.items():
        (folder / name).write_bytes(text)
    return folder


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "steps.zip"
    path.write_bytes(BUNDLE)
    return path


@pytest.fixture(scope="module")
def sandbox():
    """Nothing, where code can be shut in; else the test is skipped."""
    try:
        try_step(BUNDLE, "steps:pairs", made_up((4,), patients=1))
    except SandboxUnavailable:
        pytest.skip("this machine permits no unprivileged namespaces; the sandbox is not tested")


def test_a_folder_is_packed_as_its_python_files_alone(tmp_path):
    write(tmp_path, SOURCES | {"notes.txt": b"not code"})
    assert pack_folder(tmp_path) == BUNDLE


def test_a_bundle_from_another_packer_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("steps.py", SOURCES["steps.py"])
    with pytest.raises(CodeUnreadable):
        read_bundle(tmp_path / "other.zip")
    with pytest.raises(StorageError):
        read_bundle(tmp_path / "nowhere.zip")


@pytest.mark.parametrize("given", ["", "steps.zip", "steps.zip:steps", ":steps:halve", "a:b:"])
def test_a_step_is_named_by_bundle_module_and_function(given):
    with pytest.raises(FeaturesMisnamed):
        named_step(given)
    path, function = named_step("a:b.zip:steps:halve")
    assert (str(path), function) == ("a:b.zip", "steps:halve")


def test_each_patient_gets_twice_the_time_of_the_slowest_trial():
    assert Trial((2,), (1,), (0.2, 0.3)).seconds_needed == 1
    assert Trial((2,), (1,), (0.2, 1.3)).seconds_needed == 3
    assert Trial((2,), (1,), (500.0,)).seconds_needed == 60


@pytest.mark.usefixtures("sandbox")
def test_a_step_is_tried_and_becomes_terms(bundle):
    step = step_for(f"{bundle}:steps:pairs", (4,))
    assert (step.shape, step.bundle) == ((2,), BUNDLE)
    assert (step.terms.bundle, step.terms.input_shape) == (HASH, (4,))
    slower = step.terms.model_copy(update={"seconds": 42})
    assert step_for(f"{bundle}:steps:pairs", (4,), earlier=slower).terms == slower
    assert step_for(f"{bundle}:steps:draws", (4,), earlier=slower).terms != slower
    with pytest.raises(FeaturesFail, match="raised"):
        step_for(f"{bundle}:steps:absent", (4,))


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("nothing", r"numpy\.save"),
        ("wide", "two to five"),
        ("doubles", "float32"),
        ("many", "1 to 16"),
    ],
)
def test_a_step_that_returns_something_else_founds_no_study(function, why):
    returns = pack({"returns.py": RETURNS})
    with pytest.raises(FeaturesFail, match=why):
        try_step(returns, f"returns:{function}", made_up((4,), patients=1))


@pytest.mark.usefixtures("sandbox")
def test_the_command_packs_and_checks(tmp_path):
    folder = tmp_path / "steps"
    folder.mkdir()
    write(folder, SOURCES)
    out = tmp_path / "steps.zip"
    run = CliRunner()
    packed = run.invoke(app, ["pack", str(folder), "--out", str(out), "--json"])
    assert json.loads(packed.stdout)["sha256"] == HASH
    rows = tmp_path / "rows"
    rows.mkdir()
    words = [
        "check",
        str(out),
        "--function",
        "steps:draws",
        "--data",
        "wisconsin",
        "--patients",
        "1",
    ]
    found = json.loads(run.invoke(app, [*words, "--json"]).stdout)
    assert found["shape"] == [2]
    assert found["records"] == [1]
    assert found["seconds_slowest"] > 0


def test_what_a_demonstration_measures_goes_through_the_step(tmp_path):
    terms, _, _ = feature_job(World())
    (tmp_path / CODE_FILE).write_bytes(BUNDLE)
    loading = with_step(Rows(), tmp_path, terms, tmp_path)

    def run(_bundle, _function, given, **_asked):
        made = io.BytesIO()
        np.save(made, np.load(io.BytesIO(given))[:, :2])
        return made.getvalue()

    object.__setattr__(loading, "run", run)
    assert loading.load([patient("one", (1, 2, 3, 4))]).x.tolist() == [[1, 2]]
    rows = Rows()
    assert with_step(rows, tmp_path, World().terms(), tmp_path) is rows


def test_a_bundle_that_was_packed_anew_is_named_and_one_that_is_gone_is_not_missed(
    tmp_path, bundle
):
    terms, _, _ = feature_job(World())
    (tmp_path / "terms.json").write_bytes(canonical(terms))
    check_unchanged(f"{bundle}:steps:pairs", tmp_path)
    bundle.write_bytes(pack({"steps.py": b"def pairs(given):\n    return given\n"}))
    with pytest.raises(FeaturesDiffer, match=HASH):
        check_unchanged(f"{bundle}:steps:pairs", tmp_path)
    bundle.unlink()
    check_unchanged(f"{bundle}:steps:pairs", tmp_path)


def test_reports_and_cards_name_the_bundle():
    assert features_note(None) is None
    assert features_note(STEP) == {"bundle": HASH, "function": "steps:pairs", "from": [4]}
    assert hashlib.sha256(BUNDLE).hexdigest() == HASH
    assert files_of(BUNDLE) == SOURCES
