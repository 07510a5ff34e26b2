"""Every error and command is documented, links lead somewhere, and examples in documents run."""

import contextlib
import doctest
import importlib
import json
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

from protocol.errors import BitHiveError

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
OPTIONAL = {
    re.split(r"[=<>]", one)[0] for one in SETTINGS["project"]["optional-dependencies"]["prover"]
}
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "tests/**/*.md", "experiments/**/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
ROW = re.compile(r"^\| `([a-z0-9-]+)` \|", re.MULTILINE)
DECISION_PARTS = ("Date ", "Problem ", "Choice ", "Rejected ", "Cost ")


def import_all_modules():
    for package in PACKAGES:
        for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if found.name.endswith("__main__"):
                continue  # importing it runs the command
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                if error.name not in OPTIONAL:
                    raise


def errors():
    import_all_modules()
    waiting, found = [BitHiveError], []
    while waiting:
        children = waiting.pop().__subclasses__()
        found += children
        waiting += children
    return [error for error in found if error.__module__.split(".")[0] in PACKAGES]


def test_every_error_has_a_code_of_its_own():
    seen = {}
    for error in errors():
        assert "code" in vars(error), f"{error.__name__} has no code of its own"
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", error.code)
        assert error.code not in seen, f"{error.__name__} and {seen[error.code]} share a code"
        seen[error.code] = error.__name__


def test_every_error_code_is_documented_and_no_other():
    written = ROW.findall((ROOT / "docs/errors.md").read_text())
    assert len(written) == len(set(written))
    codes = {error.code for error in errors()} | {BitHiveError.code}
    # The server writes these two itself, about a site that could not.
    assert sorted(set(written)) == sorted(codes | {"no-answer", "site-failed"})


def test_every_command_is_in_the_readme():
    from portal.cli import app

    readme = (ROOT / "README.md").read_text()
    commands = [(one.name or one.callback.__name__,) for one in app.registered_commands]
    for group in app.registered_groups:
        commands += [
            (group.name, one.name or one.callback.__name__)
            for one in group.typer_instance.registered_commands
        ]
    for words in commands:
        assert f"bithive {' '.join(words)}" in readme


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document):
    for target in LINK.findall(document.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_in_documents_run(document):
    with contextlib.chdir(ROOT):
        failed, _ = doctest.testfile(str(document), module_relative=False, verbose=False)
    assert failed == 0


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda p: p.stem
)
def test_a_decision_has_all_its_parts(path):
    lines = path.read_text().splitlines()
    assert re.fullmatch(r"# \d+\. .+", lines[0])
    assert int(path.name[:4]) == int(lines[0].split(".")[0][2:])
    for part in DECISION_PARTS:
        assert any(line.startswith(part) for line in lines), part


def test_decisions_are_numbered_without_gaps():
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs/decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_readme_names_what_the_summary_prints():
    from portal.report import SUMMARY

    example = re.search(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example
    assert set(json.loads(example.group(1))) == set(SUMMARY)
