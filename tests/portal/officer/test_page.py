"""An officer decides on a page without script, on what she was shown alone."""

import pytest

from portal.officer.desk import OfficerDesk
from privacy.budget import BudgetConflict, DatasetUnknown, PrivacyBudget
from privacy.events import DpSgdEvent
from tests.fl_client.job_world import OFFICER, SITE, World
from tests.portal.officer.world import (
    Seen,
    agent_running,
    code_job,
    decide,
    decided,
    form_of,
    sign_in,
)


def test_a_job_is_shown_in_words_to_decide_on(officer, job):
    seen = Seen(officer.get(f"/jobs/{job.hash}").text)
    for words in (
        "health, medical or biomedical research DUO:0000006",
        "scans ultrasound",
        "epsilon 2.00 (delta 1e-05, unit: patient, sampling: Poisson at rate 0.5, accountant: PRV)",
        "1,000 BTT",
        "none: the hospital's own programs run",
        "5 rounds",
        "north, south, west",
        "<b>lesion</b> against none",
        job.hash,
    ):
        assert words in seen.text
    assert "script" not in seen.tags


def test_she_approves_and_later_revokes(officer, desk, job):
    assert "approved" in Seen(decide(officer, job, "approve", "fine").text).text
    found = desk.book.approved("lesions")
    assert (found.decision.who, found.decision.reason) == ("officer-1", "fine")
    decide(officer, job, "refuse", "a patient asked")
    assert desk.book.named(job.hash).decision.kind == "refused"
    seen = Seen(officer.get("/decisions").text).text
    assert "approved officer-1" in seen
    assert "refused officer-1" in seen
    assert desk.checkpoint() in seen


def test_a_refusal_without_a_reason_is_told_so(officer, desk, job):
    answer = decide(officer, job, "refuse", " ")
    assert answer.status_code == 409
    assert "decision-incomplete" in answer.text
    assert desk.book.named(job.hash).decision is None


def test_a_job_above_the_cap_is_shown_as_such_and_cannot_be_approved(officer, desk, job):
    budget = PrivacyBudget(desk.folder / "budget.db", dataset="scans")
    budget.reserve("others", 1, DpSgdEvent(1.0, 6.0, 4))
    page = officer.get(f"/jobs/{job.hash}")
    assert "cannot be approved" in page.text
    assert "/approve" not in page.text
    assert "cannot be approved" in officer.get("/").text
    answer = decide(officer, job, "approve")
    assert (answer.status_code, "job-over-budget" in answer.text) == (409, True)


def test_what_other_approved_studies_may_still_spend_is_not_left(desk, job):
    assert desk.shown(job)["left"] == 3.0
    world = World()
    terms, manifest = world.job("nodules")
    other = desk.book.keep(manifest, terms)
    desk.approve(other.hash, OFFICER)
    assert desk.shown(job)["left"] == pytest.approx(1.0)
    assert desk.shown(job)["over_budget"]
    assert not desk.shown(other)["over_budget"]


def test_no_study_is_approved_before_the_steward_set_a_cap(tmp_path, clock, job):
    desk = OfficerDesk(tmp_path / "new", SITE, clock=clock)
    desk.book.keep(job.manifest, job.terms)
    shown = desk.shown(desk.book.named(job.hash))
    assert (shown["left"], shown["over_budget"]) == (None, True)
    assert "--cap" in shown["left_text"]
    with pytest.raises(DatasetUnknown):
        desk.approve(job.hash, OFFICER)


def test_a_job_at_another_delta_than_the_ledger_counts_at_is_not_approved(desk):
    world = World()
    terms, manifest = world.job(delta=1e-6)
    desk.book.keep(manifest, terms)
    with pytest.raises(BudgetConflict):
        desk.approve(manifest.hash, OFFICER)


def test_a_steward_reads_the_jobs_and_decides_on_none(steward, desk, job):
    page = steward.get(f"/jobs/{job.hash}")
    assert job.hash in page.text
    assert "/approve" not in page.text
    assert "/refuse" not in page.text
    answer = decide(steward, job, "approve")
    assert (answer.status_code, "permission-missing" in answer.text) == (403, True)
    assert not decided(desk)
    seen = Seen(steward.get("/decisions").text).text
    assert "steward-1" in seen
    assert "may not approve a job" in seen


# Taking part


def order(browser, kind, **fields):
    form = form_of(browser.get("/duty"))
    return browser.post(f"/duty/{kind}", data={"form": form} | fields)


def test_she_pauses_resumes_and_drains_and_it_is_recorded(officer, desk, clock):
    with agent_running(desk, World(), clock) as resident:
        assert "takes part in every study" in officer.get("/duty").text
        assert "answers every request with a refusal" in order(officer, "pause", reason="x").text
        assert resident.duty.standing().state == "paused"
        assert "begins nothing" in officer.get("/").text
        order(officer, "resume")
        assert resident.duty.standing().state == "running"
        order(officer, "drain")
        assert resident.duty.standing().state == "paused"
    assert decided(desk) == ["paused", "resumed", "draining"]
    assert {one.who for one in desk.book.decisions.all()} == {"officer-1"}


def test_the_hospital_leaves_only_after_its_name_was_typed(officer, desk, clock):
    with agent_running(desk, World(), clock) as resident:
        for typed in ("", "south", "yes"):
            answer = order(officer, "leave", site=typed)
            assert (answer.status_code, "leave-unconfirmed" in answer.text) == (409, True)
        assert resident.duty.standing().state == "running"
        assert "has left" in order(officer, "leave", site="north").text
    assert decided(desk) == ["leaving"]


def test_a_steward_stops_nothing(steward, desk, clock):
    with agent_running(desk, World(), clock) as resident:
        form = form_of(steward.get("/duty"))
        assert "/duty/pause" not in steward.get("/duty").text
        for kind in ("pause", "resume", "drain", "leave"):
            fields = {"form": form, "site": "north"}
            answer = steward.post(f"/duty/{kind}", data=fields)
            assert (answer.status_code, "permission-missing" in answer.text) == (403, True)
        assert resident.duty.standing().state == "running"
    assert not decided(desk)
    assert len(desk.book.decisions.all()) == 4


def test_an_order_without_this_sessions_form_is_not_given(officer, desk, clock):
    with agent_running(desk, World(), clock) as resident:
        assert officer.post("/duty/pause", data={"form": "guessed"}).status_code == 403
        assert resident.duty.standing().state == "running"


def test_an_agent_that_does_not_run_is_shown_as_such(officer):
    assert "its agent does not run" in officer.get("/duty").text
    assert "does not run" in officer.get("/").text
    form = form_of(officer.get("/"))
    answer = officer.post("/duty/pause", data={"form": form})
    assert (answer.status_code, "agent-unreachable" in answer.text) == (409, True)


def test_an_order_that_there_is_not_is_not_found(officer):
    form = form_of(officer.get("/"))
    assert officer.post("/duty/destroy", data={"form": form}).status_code == 422


def test_the_page_loads_nothing_from_elsewhere_and_stands_in_no_frame(officer):
    policy = officer.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert officer.get("/").headers["cache-control"] == "no-store"
    assert officer.get("/static/officer.css").status_code == 200


def test_a_caller_by_another_name_is_turned_away(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_a_job_that_is_not_there_is_told_so(officer):
    assert officer.get(f"/jobs/{'f' * 64}").status_code == 409


def test_a_form_larger_than_any_of_ours_is_refused(officer, job):
    assert decide(officer, job, "approve", "x" * 10_000).status_code == 403


def test_an_officer_reads_the_code_a_job_brings_and_nobody_else_does(client, accounts, desk):
    job, bundle = code_job(desk)
    assert client.get(f"/jobs/{job.hash}/code").headers["content-type"].startswith("text/html")
    sign_in(client)
    page = client.get(f"/jobs/{job.hash}").text
    assert f"/jobs/{job.hash}/code" in page
    assert job.manifest.code in page
    assert f"runs {job.terms.training.features.function} on one patient" in Seen(page).text
    answer = client.get(f"/jobs/{job.hash}/code")
    assert answer.content == bundle
    assert answer.headers["content-disposition"].startswith("attachment")


def test_a_job_without_code_has_none_to_read(officer, job):
    assert f"/jobs/{job.hash}/code" not in officer.get(f"/jobs/{job.hash}").text
    assert "code-missing" in officer.get(f"/jobs/{job.hash}/code").text
