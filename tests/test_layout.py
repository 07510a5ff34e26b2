"""The tree is laid out as docs/architecture.md says, and nothing of one machine is in it."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
BUNDLED = SETTINGS["tool"]["flwr"]["app"]["fab-include"]
# Written in parts, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(
    "|".join(["/wo" + "rk/", "/ro" + "ot/", "/tm" + "p/p", "/ho" + "me/[a-z]"])
)
PIN = re.compile(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.+!-]*")


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so there are no tracked files to look at")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("package", [*PACKAGES, "experiments"])
def test_no_dependency_brings_a_package_of_our_name(package):
    owners = set(metadata.packages_distributions().get(package, [])) - {"bithive"}
    assert not owners, f"{package} also comes with {owners}"


@pytest.mark.parametrize("package", [*PACKAGES, "experiments"])
def test_every_package_says_what_belongs_in_it_and_holds_nothing_else(package):
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1
    if package != "experiments":
        assert "not belong" in " ".join(ast.get_docstring(tree).split())


@pytest.mark.parametrize("pattern", BUNDLED)
def test_every_pattern_of_the_flower_bundle_matches_a_file(pattern):
    assert any(ROOT.glob(pattern))


def test_the_flower_bundle_holds_no_door_no_money_and_no_experiment():
    named = {pattern.split("/")[0] for pattern in BUNDLED}
    assert named.isdisjoint({"portal", "ledger", "marketplace", "experiments", "tests"})
    assert named <= set(PACKAGES)


def test_every_package_has_its_place_in_the_layers():
    layers = SETTINGS["tool"]["importlinter"]["contracts"][0]["layers"]
    placed = [name.strip() for layer in layers for name in layer.split("|")]
    assert sorted(placed) == sorted([*PACKAGES, "experiments"])


def test_imports_point_down():
    linted = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert linted.returncode == 0, linted.stdout[-2000:]


def test_tests_are_no_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_tracked_file_names_a_folder_of_one_machine():
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}: {match.group()}" for match in MACHINE_PATHS.finditer(text)
        ]
    assert not found


def test_the_lock_file_pins_versions_and_names_no_host():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if not PIN.fullmatch(line)] == []


def test_the_lock_file_holds_every_direct_dependency():
    project = SETTINGS["project"]
    extras = dict(project["optional-dependencies"])
    extras.pop("experiments")  # what we measure ourselves against is installed for that only
    groups = [project["dependencies"], *extras.values()]
    wanted = [one for group in groups for one in group]
    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (ROOT / "requirements.lock").read_text().splitlines()
    }
    names = {re.sub(r"[-_.]+", "-", re.split(r"[=<>~!\[ ]", one)[0]).lower() for one in wanted}
    assert names <= pinned


def test_the_circuits_lock_file_names_no_host():
    lock = json.loads((ROOT / "zk/circuits/package-lock.json").read_text())
    assert not [name for name, entry in lock["packages"].items() if "resolved" in entry]
