"""In the demonstration with proven grants every patient enrols and grants for herself."""

import json
import sqlite3
import time

import pytest

pytest.importorskip("groth16py", reason="real proofs need the extra `prover`")

from consent.lanes import LanePolicy
from consent.registry import Registry
from portal.granting import read_papers
from portal.home import Home

pytestmark = pytest.mark.slow

OPTIONS = (
    *("--data", "phantom", "--sites", "3", "--patients", "12", "--rounds", "3"),
    *("--circuit", "cover8", "--seed", "1", "--grants", "proven", "--json"),
)


@pytest.fixture(scope="module")
def proven(bithive, start, tmp_path_factory):
    """A run that was killed once, while patients proved."""
    home = tmp_path_factory.mktemp("proven") / "home"
    first = start(home, *OPTIONS)
    deadline = time.monotonic() + 300
    while not (home / "server" / "mailbox.db").is_file():
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.communicate()
    assert not (home / "founded").exists()
    done = bithive("demo", "--home", home, *OPTIONS)
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout), json.loads((home / "report.json").read_text())


def test_every_grant_is_proven_and_the_report_says_so(proven):
    home, printed, report = proven
    consent = report["consent"]
    assert printed["grants"] == report["grants"] == "proven"
    assert consent["proven"] == consent["granted"] + consent["granted_for_other_research"] > 20
    registry = Registry.reader(home / "server" / "registry.db")
    assert {lane.policy for lane in registry.lanes()} == {LanePolicy.PROVEN}
    grants = [one for one in registry.log() if one.leaf]
    assert len(grants) == consent["proven"]
    assert len({one.epoch for one in grants}) == 1
    assert f"Each of the {len(grants)} patients" in (home / "report.html").read_text()


def test_the_rounds_are_those_of_any_other_run(proven, finished):
    _, printed, report = proven
    assert printed["sum_exact"] is True
    assert printed["proofs_verified"] == finished.printed["proofs_verified"]
    assert printed["patients_proven"] == finished.printed["patients_proven"]
    assert refusals(report) == refusals(finished.report)


def refusals(report):
    return [(one["site"], one["code"]) for of in report["per_round"] for one in of["refused"]]


def test_nothing_waits_at_the_server_and_papers_stay_with_the_patients(proven):
    home, _, report = proven
    with sqlite3.connect(home / "server" / "mailbox.db") as mailbox:
        for table in ("invitations", "requests", "sealed_openings"):
            assert mailbox.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    files = [file for file in (home / "server").rglob("*") if file.is_file()]
    everything = b"".join(file.read_bytes() for file in files)
    for site in (one["site"] for one in report["per_site"]):
        for patient, paper in read_papers(Home(home), site).items():
            assert patient.encode() not in everything
            for name in ("secret", "payout_secret"):
                assert paper[name].encode() not in everything
                assert int(paper[name]).to_bytes(32, "big") not in everything
            assert bytes.fromhex(paper["code"]) not in everything
            assert paper["grant"].encode() in everything
