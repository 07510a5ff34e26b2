"""No decision can be changed, dropped or moved in the site's log without being found."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from audit.log import AuditLog
from audit.store import BATCHES
from audit.verification import AuditDamaged, verify_log
from fl_client.decisions import DecisionIncomplete, Decisions, DecisionsDamaged
from fl_client.jobs import JobBook
from identity.roles import Permission, PermissionMissing
from privacy.signatures import signing_key
from storage.database import writing
from tests.fl_client.job_world import NOW, OFFICER, SITE, STEWARD, World


@pytest.fixture
def record(tmp_path):
    record = Decisions(tmp_path)
    for number in range(4):
        kind = "refused" if number % 2 else "approved"
        record.add(kind, f"{number:064}", who="officer-1", reason="because", now=NOW)
    return record


def tampering(record):
    """Return a transaction of somebody who owns the file, and so its triggers."""
    with writing(record.log.engine) as connection:
        for change in ("update", "delete"):
            drop = f"DROP TRIGGER IF EXISTS audit_batches_refuse_{change}"
            connection.exec_driver_sql(drop)
    return writing(record.log.engine)


def change(record, first, **values):
    with tampering(record) as connection:
        connection.execute(BATCHES.update().where(BATCHES.c.first == first).values(**values))


def stored(record, first):
    with record.log.engine.connect() as connection:
        return connection.execute(sa.select(BATCHES).where(BATCHES.c.first == first)).one()


def test_decisions_are_records_of_the_sites_own_log(record, tmp_path):
    assert [(one.number, one.kind) for one in record.all()] == [
        (0, "approved"),
        (1, "refused"),
        (2, "approved"),
        (3, "refused"),
    ]
    log = AuditLog(tmp_path / "audit.db", signing_key(tmp_path / "audit.key"))
    assert [one.kind for one in log.events()] == ["job-approved", "job-refused"] * 2
    assert log.verify().size == record.latest() == 4


def test_what_others_log_at_this_site_is_no_decision(record):
    record.log.append("cap-set", {"actor": "steward-1", "epsilon": "3.0"})
    record.log.append("permission-denied", {"actor": "x", "permission": "set the privacy cap"})
    assert [one.number for one in record.all()] == [0, 1, 2, 3]
    assert record.latest() == 6


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"job-approved", b"job-refused"),
        (b"officer-1", b"officer-2"),
        (b"because", b"forsooth"),
        (b"2026", b"2025"),
        (b"0000000002", b"0000000003"),
    ],
)
def test_any_changed_field_is_found_here_and_offline(record, old, new):
    changed = stored(record, 2).records.replace(old, new)
    assert changed != stored(record, 2).records
    change(record, 2, records=changed)
    with pytest.raises(DecisionsDamaged):
        record.all()
    with pytest.raises(AuditDamaged):
        verify_log(record.log.engine, record.log.key)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_dropped_record_is_found_here_and_offline(record, first):
    with tampering(record) as connection:
        connection.execute(sa.delete(BATCHES).where(BATCHES.c.first == first))
    with pytest.raises(DecisionsDamaged):
        record.all()
    with pytest.raises(AuditDamaged):
        verify_log(record.log.engine, record.log.key)


def test_a_log_that_was_cut_short_is_found_with_a_head_kept_elsewhere(record):
    kept = record.log.head()
    with tampering(record) as connection:
        connection.execute(sa.delete(BATCHES).where(BATCHES.c.first == 3))
    with pytest.raises(AuditDamaged):
        verify_log(record.log.engine, record.log.key, since=kept)


def test_an_older_copy_of_the_log_brings_no_decision_back(tmp_path, record):
    job = "f" * 64
    record.add("approved", job, who="officer-1", reason="", now=NOW)
    older = {name: (tmp_path / name).read_bytes() for name in ("audit.db", "audit.db-wal")}
    record.add("refused", job, who="officer-1", reason="no longer", now=NOW)
    assert record.all()[-1].kind == "refused"
    record.log.close()
    for name, content in older.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "audit.db-shm").unlink(missing_ok=True)
    with pytest.raises(DecisionsDamaged):
        Decisions(tmp_path).all()


def test_a_log_that_was_thrown_away_is_no_log_without_decisions(tmp_path, record):
    assert record.all()
    record.log.close()
    for name in ("audit.db", "audit.db-wal", "audit.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(DecisionsDamaged):
        Decisions(tmp_path).all()


def test_records_in_another_order_are_found(record):
    first, second = stored(record, 0).records, stored(record, 1).records
    change(record, 0, records=second)
    change(record, 1, records=first)
    with pytest.raises(DecisionsDamaged):
        record.all()


@pytest.mark.parametrize("values", [{"signature": bytes(64)}, {"root": bytes(32)}])
def test_a_head_that_the_sites_key_did_not_sign_is_found(record, values):
    change(record, 3, **values)
    with pytest.raises(DecisionsDamaged):
        record.all()


def test_a_record_that_is_no_record_is_found(record):
    change(record, 1, records=b"nothing\n")
    with pytest.raises(DecisionsDamaged):
        record.all()


def test_a_damaged_record_approves_nothing(tmp_path):
    book = JobBook(tmp_path / "site.db", SITE, clock=lambda: NOW)
    world = World()
    terms, manifest = world.job()
    book.keep(manifest, terms)
    book.refuse(manifest.hash, OFFICER, reason="no")
    records = stored(book.decisions, 0).records.replace(b"job-refused", b"job-approved")
    change(book.decisions, 0, records=records)
    with pytest.raises(DecisionsDamaged):
        book.approved("lesions")


@pytest.mark.parametrize(("who", "reason"), [("", "why"), ("x" * 81, "why"), ("officer-1", " ")])
def test_a_decision_names_somebody_and_a_refusal_a_reason(tmp_path, who, reason):
    record = Decisions(tmp_path)
    with pytest.raises(DecisionIncomplete):
        record.add("refused", "0" * 64, who=who, reason=reason, now=NOW)
    assert record.latest() == 0


@pytest.mark.parametrize("name", ["x" * 200, " ", "", "\x1b[2J"])
def test_who_may_not_decide_is_on_record_whatever_she_calls_herself(tmp_path, name):
    record = Decisions(tmp_path)
    with pytest.raises(PermissionMissing):
        record.check(replace(STEWARD, name=name), Permission.APPROVE_JOB, SITE, NOW)
    (denied,) = record.all()
    assert denied.kind == "permission-denied"
    assert denied.who.isprintable()


def test_no_name_and_no_reason_acts_on_who_reads_the_record(record):
    hostile = "because\x1b[1A \u202eapproved\x07"
    made = record.add("refused", "0" * 64, who=hostile, reason=hostile, now=NOW)
    facts = {"subject": "0" * 64, "actor": hostile, "reason": hostile, "at": "2026-11-21T12:00:00Z"}
    record.log.append("job-refused", facts)  # as an older version wrote it
    for one in (made, *record.all()[-2:]):
        assert one.who.isprintable()
        assert one.reason.isprintable()


def test_who_may_not_decide_is_refused_on_record(tmp_path):
    record = Decisions(tmp_path)
    record.check(OFFICER, Permission.APPROVE_JOB, SITE, NOW)
    assert record.all() == []
    with pytest.raises(PermissionMissing):
        record.check(STEWARD, Permission.APPROVE_JOB, SITE, NOW)
    (denied,) = record.all()
    assert (denied.kind, denied.subject, denied.who) == (
        "permission-denied",
        "approve a job",
        "steward-1",
    )
