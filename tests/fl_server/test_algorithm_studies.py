"""A founded study runs with each algorithm: real agents, proofs, sums, and what sites keep."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from fl_client.agent import Agent
from fl_client.egress import Egress
from fl_client.store import SiteStore
from fl_server.recheck import recheck
from models.algorithms.fedbn import NothingStaysHome
from models.algorithms.interface import ALGORITHMS
from models.algorithms.scaffold import CONTROL, CONTROLS
from portal.granting import read_papers
from protocol.ids import GrantId
from tests.fl_server.study import ROUNDS, small_study

pytestmark = pytest.mark.slow

TABLES = [name for name in ALGORITHMS if name != "fedbn"]  # the table's network has no norms


def kept_at(study, site, before=ROUNDS + 1):
    """What a site kept, newest first, with its round."""
    store = SiteStore(study.home.site(site) / "site.db")
    rows = store.personal(study.terms.study, before=before)
    return [(number, np.frombuffer(blob, "<f8")) for number, blob in rows]


@pytest.mark.parametrize("name", TABLES)
def test_a_study_closes_every_round_and_its_sums_check(name, tmp_path):
    with small_study(tmp_path / "home", name) as study:
        closed = []
        study.engine(after_close=closed.append).run()
        assert [len(one.receipts) for one in closed] == [3, 3]
        assert recheck(study.store).opened == ROUNDS
        first, last = study.store.models.at(0), study.store.models.at(ROUNDS)
        assert (first.vector != last.vector).any()
        assert last.sha256 == closed[-1].model_sha256
        keeps = {site: kept_at(study, site) for site in study.sites}
        if name == "ditto":
            for site in study.sites:
                assert [number for number, _ in keeps[site]] == [2, 1]
                assert not np.allclose(keeps[site][0][1], last.vector)
        elif name == "scaffold":
            held = sum(keeps[site][0][1] for site in study.sites)
            assert last.carried[CONTROLS] == pytest.approx(held, abs=1e-9)
            assert last.carried[CONTROL].any()
            assert len(last.blob) == 2 * 4 * len(last.vector)
        else:
            assert not any(keeps.values())


def test_scaffold_goes_on_from_what_entered_a_sum(tmp_path):
    with small_study(tmp_path / "home", "scaffold") as study:
        study.engine().run()
        site = study.sites[0]
        agent = study.agent(site)
        assert isinstance(agent, Agent)
        later = study.store.planned(ROUNDS).plan.model_copy(update={"round": ROUNDS + 1})
        newest = kept_at(study, site)[0][1]
        assert (agent._kept(later, []) == newest).all()
        # Round 3 was answered, and its sum never opened here: what was kept for it does not count.
        agent.store.keep_answer(
            study.terms.study, 3, "0" * 64, b"reply", None, personal=(newest * 9).tobytes()
        )
        latest = later.model_copy(update={"round": ROUNDS + 2})
        assert (agent._kept(latest, []) == newest).all()


def test_dittos_personal_model_starts_anew_without_a_patient_who_withdrew(tmp_path, monkeypatch):
    """What she shaped is not gone on with, at her site alone, and is forgotten there."""
    began = {}
    honest = Egress.train

    def train(self, *asked, **share):
        plan, _, patients, _, kept = asked
        began[plan.round, self.site] = kept is not None, {one.id for one in patients}
        return honest(self, *asked, **share)

    monkeypatch.setattr(Egress, "train", train)
    with small_study(tmp_path / "home", "ditto") as study:

        def after_close(closed):
            if closed.round == 1:
                withdraw_one(study, study.sites[0], began[1, study.sites[0]][1])

        study.engine(after_close=after_close).run()
        left, *others = study.sites
        assert not any(began[1, site][0] for site in study.sites)
        assert len(began[1, left][1] - began[2, left][1]) == 1
        assert began[2, left][0] is False
        assert all(began[2, site][0] for site in others)
        assert [number for number, _ in kept_at(study, left)] == [2]
        store = study.agents[left].store
        present = began[2, left][1]
        assert store.personal_is_of(study.terms.study, 2, present)
        assert not store.personal_is_of(study.terms.study, 2, present - {min(present)})
        assert not store.personal_is_of(study.terms.study, 1, present)


def withdraw_one(study, site, patients):
    """Let one patient who took part withdraw by her paper code."""
    paper = read_papers(study.home, site)[min(patients)]
    code = bytes.fromhex(paper["code"])
    study.registry.withdraw(GrantId(paper["grant"]), code, now=datetime.now(UTC))


def test_fedbn_is_refused_for_a_table_when_the_study_is_founded(tmp_path):
    with pytest.raises(NothingStaysHome), small_study(tmp_path / "home", "fedbn"):
        raise AssertionError("not founded")


def test_fedbn_runs_on_images_and_every_site_has_its_own_model(tmp_path):
    from rich.console import Console

    from portal.demo import run_demo
    from portal.display import Display
    from portal.home import Home
    from portal.options import settings_for

    settings = settings_for(
        data="phantom", seed=1, default_seed=1, engine="in-process", opening="members", sites=4,
        patients=16, rounds=1, circuit="cover8", epsilon=None, algorithm="fedbn",
    )  # fmt: skip
    home = Home(tmp_path / "home")
    report = run_demo(home, settings, Display(Console(stderr=True), quiet=True))
    assert report["algorithm"] == "fedbn"
    assert report["sum_exact"]
    trained = [site["auc_personal"] for site in report["per_site"] if site["rounds_counted"]]
    assert len(trained) >= 3  # the careless site is left out of the only round
    assert all(0 <= found <= 1 for found in trained)
    assert "AUC of the sites" in home.page.read_text()
    assert json.loads(home.report.read_text())["study"]["network"] == "cnn"
