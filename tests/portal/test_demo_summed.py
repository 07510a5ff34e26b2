"""One command runs a study whose hospitals share the noise, also in a round that lacks one."""

from __future__ import annotations

import json

import pytest

from fl_client.store import SiteStore
from fl_server.store import ServerStore
from privacy.mechanism import round_plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(bithive, tmp_path_factory):
    home = tmp_path_factory.mktemp("summed") / "home"
    asked = ("--data", "wisconsin", "--noise", "summed", "--rounds", 2, "--seed", 3, "--json")
    done = bithive("demo", "--home", home, *asked)
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout)


def test_the_report_names_the_mechanism_and_stays_within_epsilon(finished):
    _, printed = finished
    assert printed["mechanism"] == "summed"
    assert printed["unit"] == "patient"
    assert printed["accountant"] == "rdp"
    assert 0 < printed["epsilon"] <= 2.0
    assert printed["sum_exact"] is True


def test_the_model_learns(finished):
    _, printed = finished
    assert printed["auc_federated"] > 0.95


def test_a_full_sum_spares_noise_and_each_site_left_its_share_of_it(finished):
    home, _ = finished
    store = ServerStore(home / "server" / "server.db")
    terms = store.terms()
    for number in (1, 2):
        stored = store.round(number)
        plan = round_plan(terms, len(stored.plan.sites))
        arrived = len(stored.commitment.receipts)
        assert plan.fewest <= arrived <= plan.most == 6
        assert plan.honest == 3
        assert plan.kept(arrived) * (arrived - plan.colluders) == pytest.approx(plan.central**2)


def test_no_site_was_cut_to_the_range_of_a_quantised_value(finished):
    """What each sent is in its own folder, and its sum is what the sites opened."""
    home, _ = finished
    store = ServerStore(home / "server" / "server.db")
    for receipt in store.round(1).closed.receipts:
        kept = SiteStore(home / "sites" / receipt.site / "site.db").integers(receipt.study, 1)
        assert kept is not None
