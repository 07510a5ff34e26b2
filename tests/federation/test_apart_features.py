"""A study that brings code, founded on one machine, run by hospitals that share nothing with it."""

import json
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from fl_client.feature_store import FILE, FeatureStore
from fl_client.job_code import JobCode
from fl_client.jobs import JobBook
from fl_client.sandbox import SandboxUnavailable
from portal.features import made_up, pack_folder, try_step
from records.tables import read_wisconsin
from tests.federation.apart import Consortium
from tests.federation.deployed import SECONDS

pytestmark = [pytest.mark.exhaustive, pytest.mark.superlink]

ROUNDS, SEED, PATIENTS = 2, 7, 8
DIVISION = ("--records", "wisconsin", "--seed", SEED, "--sites", 3, "--cap", 20)
STEP = '''"""The mean of each measure's three numbers, and a mistake that one patient meets."""

import io

import numpy as np


def means(given):
    """Return ten numbers for a row of thirty."""
    rows = np.load(io.BytesIO(given))  # (records, 30)
    if rows.shape[0] == 1 and rows[0, 0] == np.float32({first}):
        raise ValueError(rows[0, 0])
    made = io.BytesIO()
    np.save(made, rows.reshape(len(rows), 3, 10).mean(axis=1, dtype=np.float32))
    return made.getvalue()
'''


@pytest.fixture(scope="module")
def granting():
    """The patients who agree, and the loader's first number of the first one at the first site."""
    data = read_wisconsin(sites=3, seed=SEED)
    agreed = {
        site: [patient.id for patient in patients[:PATIENTS]]
        for site, patients in data.sites.items()
    }
    return agreed, data


@pytest.fixture(scope="module")
def apart(tmp_path_factory, nginx_program, granting):
    """Everything up to the first approval: joined, packed, founded with the step, granted."""
    agreed, data = granting
    from records.sources import open_source

    first = min(agreed)
    _, loader = open_source(
        "wisconsin", home=tmp_path_factory.mktemp("data"), seed=SEED, sites=3, patients_per_site=10
    )
    number = repr(float(loader.load(data.sites[first][:1]).x[0, 0]))
    made = Consortium(tmp_path_factory.mktemp("apart"), sorted(agreed))
    steps = made.server.home / "steps"
    steps.mkdir()
    (steps / "groups.py").write_text(STEP.replace("{first}", number))
    try:
        try_step(pack_folder(steps), "groups:means", made_up((30,), patients=1))
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    sockets = Path(tempfile.mkdtemp(prefix="bithive-"))  # a socket's path must be short
    try:
        made.found_federation()
        for site in made.sites:
            made.join(site)
        made.server.run("features", "pack", "steps", "--out", "groups.zip", home=False)
        made.server.run(
            *("features", "check", "groups.zip", "--function", "groups:means"),
            *("--data", "wisconsin"),
            home=False,
        )
        made.study = made.found_study(
            *("wisconsin", "--modality", "table", "--rounds", ROUNDS, "--circuit", "cover8"),
            *("--patients-most", 16, "--price", 10, "--features", "groups.zip:groups:means"),
        )
        for site in made.sites:
            made.set_up(site, made.study, *DIVISION)
            made.grant(site, agreed[site])
        made.server.start("deployment", "supervise")
        for site in made.sites:
            made.start_site(site, sockets)
        made.server.run("study", "start")
        yield made
    finally:
        made.stop()
        shutil.rmtree(sockets, ignore_errors=True)


def folder_of(apart, site):
    return apart.sites[site].home / "sites" / site


def offered(apart, site):
    deadline = time.monotonic() + SECONDS
    book = JobBook(folder_of(apart, site) / "site.db", site)
    while not book.jobs():
        assert time.monotonic() < deadline, apart.logs()
        time.sleep(0.5)
    return book.jobs()[0].hash


@pytest.fixture(scope="module")
def refused(apart):
    """What each hospital says that has not allowed code, before it does and approves."""
    said = {}
    for site, party in apart.sites.items():
        job = offered(apart, site)
        officer = ("--officer", "officer")
        said[site] = party.run("site", "approve", site, job, *officer, code=1).stderr
        shown = party.run("site", "code", site, job).stdout
        assert "def means(given):" in shown
        party.run("site", "allow-code", site, *officer)
        party.run("site", "approve", site, job, *officer)
    return said


@pytest.fixture(scope="module")
def finished(apart, refused, granting):
    """The study, run to its end; between its rounds a patient withdrew where the code runs."""
    agreed, _ = granting
    last = max(apart.sites)
    apart.deployed.until(lambda found: found["rounds_closed"] >= 1)
    kept = {site: FeatureStore(folder_of(apart, site) / FILE).counts() for site in apart.sites}
    apart.sites[last].run("site", "withdraw", last, "--patient", agreed[last][0], "--json")
    apart.deployed.until(lambda found: found["rounds_settled"] == ROUNDS)
    return kept


def test_a_hospital_that_has_allowed_no_code_approves_none(refused, apart):
    assert set(refused) == set(apart.sites)
    assert all("code-not-allowed" in words for words in refused.values())


def test_every_hospital_ran_the_very_code_on_every_patient_of_its_own(apart, finished):
    bundle = (apart.server.home / "groups.zip").read_bytes()
    terms = apart.deployed.store().terms()
    assert terms.training.input_shape == (10,)
    for site in apart.sites:
        held = JobCode(folder_of(apart, site) / "site.db").read(terms.training.features.bundle)
        assert held == bundle
        assert events(apart, site, "features-made")[0]["count"] == PATIENTS


def test_the_patient_on_whom_it_fails_takes_part_all_the_same(apart, finished):
    first = min(apart.sites)
    closed = apart.deployed.store().round(1).closed
    assert {one.site: one.proven_patients for one in closed.receipts}[first] == PATIENTS
    assert finished[first] in {(PATIENTS, 1), (0, 0)}, "of whom it failed, or deleted already"


def test_both_rounds_close_and_what_was_made_is_gone(apart, finished):
    for number in range(1, ROUNDS + 1):
        closed = apart.deployed.store().round(number).closed
        assert {one.site for one in closed.receipts} == set(apart.sites)
    deadline = time.monotonic() + 90
    for site in apart.sites:
        store = FeatureStore(folder_of(apart, site) / FILE)
        while store.counts() != (0, 0):
            assert time.monotonic() < deadline, apart.logs()
            time.sleep(1)


def events(apart, site, name):
    lines = (apart.sites[site].home / "site-run.log").read_text().splitlines()
    read = [json.loads(line) for line in lines if line.startswith("{")]
    return [one for one in read if one["event"] == name]
