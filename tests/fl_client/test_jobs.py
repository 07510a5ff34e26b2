"""Only what an officer approved, and as she approved it, may run; every decision is recorded."""

import math

import pytest

from fl_client.decisions import DecisionIncomplete
from fl_client.jobs import (
    PENDING_MAX,
    CodeNotAllowed,
    JobBook,
    JobDamaged,
    JobExpired,
    JobNotApproved,
    JobOverBudget,
    JobPrefixShort,
    JobsFull,
    JobUnknown,
)
from fl_client.tables import JOBS, METADATA
from identity.roles import PermissionMissing
from protocol.canonical import canonical
from storage.database import open_database, writing
from tests.fl_client.job_world import OFFICER, SITE, STEWARD, STRANGER, Clock, World

CODE = "c" * 64


def anything(_job):
    return math.inf


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def world():
    return World()


@pytest.fixture
def book(tmp_path, clock):
    return JobBook(tmp_path / "site.db", SITE, clock=clock)


@pytest.fixture
def job(book, world):
    terms, manifest = world.job()
    return book.keep(manifest, terms)


def test_an_offered_job_is_pending_and_does_not_run(book, job, clock):
    assert job.state(clock()) == "pending"
    with pytest.raises(JobNotApproved, match="pending"):
        book.approved("lesions")


def test_an_approved_job_runs_and_who_approved_it_is_recorded(book, job, clock):
    book.approve(job.hash, OFFICER, reason="looks right", left=anything)
    found = book.approved("lesions")
    assert found.hash == job.hash
    assert (found.decision.who, found.decision.reason) == ("officer-1", "looks right")
    assert found.decision.at == "2026-11-21T12:00:00Z"


def test_another_page_or_other_terms_under_an_approved_hash_do_not_run(book, world, job, tmp_path):
    book.approve(job.hash, OFFICER, left=anything)
    terms, dearer = world.terms(), world.terms(epsilon=3.0)
    for changed in (
        {"terms": canonical(dearer).decode()},
        {"manifest": canonical(world.manifest(terms, price=1)).decode()},
        {
            "terms": canonical(dearer).decode(),
            "manifest": canonical(world.manifest(dearer)).decode(),
        },
        {"manifest": "{}"},
    ):
        with writing(open_database(tmp_path / "site.db", METADATA, private=True)) as connection:
            kept = connection.execute(JOBS.select()).one()
            connection.execute(JOBS.update().values(**changed))
        for refused in (lambda: book.approved("lesions"), book.jobs):
            with pytest.raises(JobDamaged):
                refused()
        with writing(open_database(tmp_path / "site.db", METADATA, private=True)) as connection:
            connection.execute(JOBS.update().values(**kept._asdict()))
    assert book.approved("lesions").hash == job.hash


def test_an_approved_job_does_not_run_for_another_study(book, job, tmp_path):
    book.approve(job.hash, OFFICER, left=anything)
    with writing(open_database(tmp_path / "site.db", METADATA, private=True)) as connection:
        connection.execute(JOBS.update().values(study="others"))
    with pytest.raises(JobDamaged):
        book.approved("others")


def test_an_approval_outlives_the_process(book, job, tmp_path, clock):
    book.approve(job.hash, OFFICER, left=anything)
    assert JobBook(tmp_path / "site.db", SITE, clock=clock).approved("lesions").hash == job.hash


def test_a_later_refusal_revokes_and_a_later_approval_restores(book, job):
    book.approve(job.hash, OFFICER, left=anything)
    book.refuse(job.hash, OFFICER, reason="a patient asked")
    with pytest.raises(JobNotApproved, match="refused"):
        book.approved("lesions")
    book.approve(job.hash, OFFICER, left=anything)
    assert book.approved("lesions").hash == job.hash
    assert [one.kind for one in book.decisions.all()] == ["approved", "refused", "approved"]


def test_a_refusal_needs_a_reason_and_a_decision_a_name(book, job):
    with pytest.raises(DecisionIncomplete, match="reason"):
        book.refuse(job.hash, OFFICER, reason="  ")
    nobody = type(OFFICER)(" ", OFFICER.roles, site=SITE)
    with pytest.raises(DecisionIncomplete, match="who"):
        book.approve(job.hash, nobody, left=anything)
    assert book.decisions.all() == []


def test_an_approval_ends_with_its_job(book, job, clock):
    book.approve(job.hash, OFFICER, left=anything)
    clock.pass_(days=30)
    with pytest.raises(JobNotApproved, match="expired"):
        book.approved("lesions")
    with pytest.raises(JobExpired):
        book.approve(job.hash, OFFICER, left=anything)


def test_a_changed_manifest_is_another_job(book, job, world):
    book.approve(job.hash, OFFICER, left=anything)
    other = world.manifest(job.terms, price=1)
    assert book.keep(other, job.terms).decision is None
    assert book.approved("lesions").hash == job.hash
    book.refuse(job.hash, OFFICER, reason="too expensive")
    with pytest.raises(JobNotApproved):
        book.approved("lesions")


def test_of_two_approved_jobs_of_a_study_the_one_approved_last_runs(book, job, world):
    other = book.keep(world.manifest(job.terms, price=1), job.terms)
    for one in (other, job):
        book.approve(one.hash, OFFICER, left=anything)
        assert book.approved("lesions").hash == one.hash


def test_a_job_that_asks_more_than_the_cap_leaves_cannot_be_approved(book, job):
    with pytest.raises(JobOverBudget, match=r"2\.00 \(delta .* leaves less .* 1\.98"):
        book.approve(job.hash, OFFICER, left=lambda _job: 1.985)
    book.approve(job.hash, OFFICER, left=lambda _job: 2.0)


def test_what_is_left_but_no_number_is_not_enough(book, job):
    with pytest.raises(JobOverBudget):
        book.approve(job.hash, OFFICER, left=lambda _job: float("nan"))


def test_python_needs_a_right_of_its_own_that_is_off_at_first(book, world):
    terms = world.terms()
    job = book.keep(world.manifest(terms, code=CODE), terms)
    with pytest.raises(CodeNotAllowed):
        book.approve(job.hash, OFFICER, left=anything)
    book.allow_code(OFFICER)
    book.approve(job.hash, OFFICER, left=anything)
    assert book.approved("lesions").hash == job.hash
    book.allow_code(OFFICER, allowed=False)
    with pytest.raises(CodeNotAllowed):
        book.approved("lesions")


@pytest.mark.parametrize("actor", [STEWARD, STRANGER])
def test_whoever_may_not_decide_is_refused_and_that_is_recorded(book, job, actor):
    for act in (
        lambda: book.approve(job.hash, actor, left=anything),
        lambda: book.refuse(job.hash, actor, reason="no"),
        lambda: book.allow_code(actor),
    ):
        with pytest.raises(PermissionMissing):
            act()
    assert [one.kind for one in book.decisions.all()] == ["permission-denied"] * 3
    assert not book.code_allowed()
    with pytest.raises(JobNotApproved):
        book.approved("lesions")


def test_a_job_is_named_by_eight_digits_or_more(book, job):
    assert book.named(job.hash[:8]).hash == job.hash
    for prefix in ("f" * 64, job.hash + "0"):
        with pytest.raises(JobUnknown, match="no single job"):
            book.named(prefix)
    for prefix in (job.hash[:7], ""):
        with pytest.raises(JobPrefixShort, match=f"has {len(prefix)} digits .* named by 8"):
            book.named(prefix)


def test_offering_again_changes_nothing(book, job):
    book.refuse(job.hash, OFFICER, reason="no")
    assert book.keep(job.manifest, job.terms).decision.kind == "refused"
    assert len(book.jobs()) == 1


def test_only_so_many_jobs_wait(book, world, monkeypatch):
    monkeypatch.setattr("fl_client.jobs.PENDING_MAX", 3)
    assert PENDING_MAX == 100
    terms = world.terms()
    kept = [book.keep(world.manifest(terms, price=price), terms) for price in range(3)]
    with pytest.raises(JobsFull):
        book.keep(world.manifest(terms, price=4), terms)
    book.refuse(kept[0].hash, OFFICER, reason="no")
    book.keep(world.manifest(terms, price=4), terms)


def test_offers_that_end_at_once_fill_no_disk(book, world, clock, monkeypatch):
    monkeypatch.setattr("fl_client.jobs.PENDING_MAX", 3)
    terms = world.terms()
    for price in range(3):
        book.keep(world.manifest(terms, price=price, expires="2026-11-21T12:00:01Z"), terms)
    clock.pass_(seconds=2)
    with pytest.raises(JobsFull):
        book.keep(world.manifest(terms, price=4), terms)
    clock.pass_(days=1)
    book.keep(world.manifest(terms, price=4), terms)
    assert [job.manifest.price for job in book.jobs()] == [4]


def test_an_offer_that_has_ended_is_told_so_and_not_kept(book, world, clock):
    terms = world.terms()
    job = book.keep(world.manifest(terms, expires="2026-11-21T11:59:59Z"), terms)
    assert job.state(clock()) == "expired"
    assert book.jobs() == []


def test_what_was_decided_is_never_dropped_for_room(book, world, clock, monkeypatch):
    monkeypatch.setattr("fl_client.jobs.PENDING_MAX", 1)
    terms = world.terms()
    refused = book.keep(world.manifest(terms, price=1, expires="2026-11-22T12:00:00Z"), terms)
    book.refuse(refused.hash, OFFICER, reason="no")
    book.keep(world.manifest(terms, price=2, expires="2026-11-22T12:00:00Z"), terms)
    clock.pass_(days=3)
    book.keep(world.manifest(terms, price=3), terms)
    assert [job.manifest.price for job in book.jobs()] == [1, 3]


def test_what_stands_is_told_by_study(book, job, world):
    terms, manifest = world.job("others")
    book.keep(manifest, terms)
    book.approve(job.hash, OFFICER, left=anything)
    assert {study: one.hash for study, one in book.standing().items()} == {"lesions": job.hash}
