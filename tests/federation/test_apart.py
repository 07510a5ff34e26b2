"""A server and three hospitals that share no folder: files are carried, and a study runs."""

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from consent.registry import Registry
from fl_client.jobs import JobBook
from portal.market import Market
from records.tables import read_wisconsin
from tests.federation.apart import Consortium
from tests.federation.deployed import SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.superlink]

ROUNDS = 2
SEED = 7
PATIENTS = 13
"""Two chunks of eight slots at each hospital."""
DIVISION = ("--records", "wisconsin", "--seed", SEED, "--sites", 3, "--cap", 20)


@pytest.fixture(scope="module")
def granting():
    """The patients of each hospital who agree, by its own numbers."""
    data = read_wisconsin(sites=3, seed=SEED)
    return {
        site: [patient.id for patient in patients[:PATIENTS]]
        for site, patients in data.sites.items()
    }


@pytest.fixture(scope="module")
def apart(tmp_path_factory, nginx_program, granting):
    """Everything up to the first round: joined, founded, set up, granted; one patient withdrew."""
    made = Consortium(tmp_path_factory.mktemp("apart"), sorted(granting))
    sockets = Path(tempfile.mkdtemp(prefix="bithive-"))  # a socket's path must be short
    try:
        made.found_federation()
        for site in made.sites:
            made.join(site)
        made.study = made.found_study(
            *("wisconsin", "--modality", "table", "--rounds", ROUNDS, "--circuit", "cover8"),
            *("--patients-most", 16, "--price", 10),
        )
        made.sockets = sockets

        def begin(site):
            made.set_up(site, made.study, *DIVISION)
            return made.grant(site, granting[site])

        with ThreadPoolExecutor() as pool:  # hospitals do not wait for one another
            made.granted = dict(zip(made.sites, pool.map(begin, made.sites), strict=True))
        yield made
    finally:
        made.stop()
        shutil.rmtree(sockets, ignore_errors=True)


@pytest.fixture(scope="module")
def finished(apart, granting):
    """The study, run to its end; the first hospital's withdrawal reached nobody before."""
    first = min(apart.sites)
    party = apart.sites[first]
    ending = party.run("site", "withdraw", first, "--patient", granting[first][0], "--json")
    apart.server.start("deployment", "supervise")
    for site in apart.sites:
        apart.start_site(site, apart.sockets)
    apart.server.run("study", "start")
    for site in apart.sites:
        approve(apart, site)
    apart.deployed.until(lambda found: found["rounds_settled"] == ROUNDS)
    apart.server.take(party, ending["file"])
    ended = apart.server.run("study", "admit-withdrawals", ending["file"], "--json")
    party.take(apart.server, ended["file"])
    return first, ended, party.run("site", "receipts", first, ended["file"], "--json")


def approve(apart, site):
    """Approve, as the hospital's officer, the job that its agent was offered."""
    party, deadline = apart.sites[site], time.monotonic() + SECONDS
    book = JobBook(party.home / "sites" / site / "site.db", site)
    while not book.jobs():
        assert time.monotonic() < deadline, apart.logs()
        time.sleep(0.5)
    party.run("site", "approve", site, book.jobs()[0].hash, "--officer", "officer")


def closed_rounds(apart):
    store = apart.deployed.store()
    return [store.round(number).closed for number in range(1, ROUNDS + 1)]


def test_every_grant_is_published_and_usable_once_its_receipt_came(apart):
    for answered, taken in apart.granted.values():
        assert answered["published"] == taken["added"] == PATIENTS
        assert taken["waiting"] == 0


def test_the_server_has_no_hospitals_folder_and_no_hospital_the_servers(apart, finished):
    assert not (apart.server.home / "sites").exists()
    assert not (apart.server.home / "patients").exists()
    for site, party in apart.sites.items():
        assert [one.name for one in (party.home / "sites").iterdir()] == [site]
        assert not any((party.home / name).exists() for name in ("server", "market", "operator"))


def test_no_patients_number_is_in_anything_that_was_carried_to_the_server(apart, granting):
    for site, party in apart.sites.items():
        sent = b"".join(one.read_bytes() for one in party.home.glob(f"{site}.*.json"))
        assert sent
        assert not any(patient.encode() in sent for patient in granting[site])


def test_both_rounds_close_with_all_three_hospitals_and_are_paid(apart, finished):
    for closed in closed_rounds(apart):
        assert {one.site for one in closed.receipts} == set(apart.sites)
    terms = apart.deployed.store().terms()
    books = Market(apart.server.home / "market", terms, lambda: None).books()
    assert books.budget == 10 * 10**18
    assert books.paid == books.budget - books.in_escrow > 0


def test_who_withdrew_at_her_hospital_is_in_no_round_though_the_server_had_not_heard(
    apart, finished
):
    first, _, _ = finished
    for closed in closed_rounds(apart):
        proven = {one.site: one.proven_patients for one in closed.receipts}
        assert proven.pop(first) == PATIENTS - 1
        assert set(proven.values()) == {PATIENTS}


def test_the_withdrawal_ends_her_grant_when_its_file_arrives(apart, finished):
    first, ended, taken = finished
    assert (ended["ended"], taken["ended"]) == (1, 1)
    registry = Registry.reader(apart.server.home / "server/registry.db")
    live = {lane.site: registry.live_count(lane) for lane in registry.lanes()}
    assert live.pop(first) == PATIENTS - 1
    assert set(live.values()) == {PATIENTS}
