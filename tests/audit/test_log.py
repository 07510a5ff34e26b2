"""The audit log finds every change to it, and holds neither floats nor patients."""

from __future__ import annotations

import sqlite3
import threading
from multiprocessing import get_context

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoints import AuditDamaged
from audit.log import AuditLog, EntryUnknown, EventRepeated, HeadUnknown
from audit.records import FactRefused
from storage.canonical import NotCanonical
from storage.merkle import check_consistency, check_inclusion, leaf_hash

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
INSERTED = """
    INSERT INTO audit_batches
    SELECT first + 1, size + 1, NULL, records, frontier, root, signature
    FROM audit_batches WHERE first = 4
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.db"


@pytest.fixture
def log(path):
    log = AuditLog(path, KEY)
    for number in range(1, 6):
        log.append("round-closed", {"round": number})
    yield log
    log.close()


def edit(path, *statements):
    """Change the file as someone with write access and without the key could."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP TRIGGER audit_batches_refuse_update")
    connection.execute("DROP TRIGGER audit_batches_refuse_delete")
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_an_empty_log_has_a_signed_head_of_nothing(path):
    log = AuditLog(path, KEY)
    head = log.verify()
    head.check(KEY.public_key())
    assert head.size == 0
    log.close()


def test_events_stay_in_order_with_the_facts_given(log):
    assert [(event.position, event.facts["round"]) for event in log.events(3)] == [(3, 4), (4, 5)]
    assert log.events()[0].record == '{"facts":{"round":1},"kind":"round-closed"}'
    assert log.verify() == log.head()


def test_every_event_and_every_earlier_head_can_be_proven(log):
    first = log.head()
    log.append("study-finished", {"study": "busi-2026"})
    head = log.head()
    check_consistency(first.size, first.root, head.size, head.root, log.consistency_proof(5))
    for event in log.events():
        leaf, proof = leaf_hash(event.record.encode()), log.inclusion_proof(event.position)
        check_inclusion(head.root, head.size, event.position, leaf, proof)


@pytest.mark.parametrize("position", range(5))
def test_a_changed_record_is_found(log, path, position):
    changed = "CAST(replace(records, 'round', 'found') AS BLOB)"
    edit(path, f"UPDATE audit_batches SET records = {changed} WHERE first = {position}")
    with pytest.raises(AuditDamaged, match=f"event {position}"):
        log.verify()


@pytest.mark.parametrize(
    "statements",
    [
        ("DELETE FROM audit_batches WHERE first = 2",),
        ("DELETE FROM audit_batches WHERE first = 0",),
        (
            "UPDATE audit_batches SET first = 9, size = 10 WHERE first = 1",
            "UPDATE audit_batches SET first = 1, size = 2 WHERE first = 2",
            "UPDATE audit_batches SET first = 2, size = 3 WHERE first = 9",
        ),
        ("UPDATE audit_batches SET signature = zeroblob(64) WHERE first = 3",),
        ("UPDATE audit_batches SET root = zeroblob(32) WHERE first = 3",),
        ("UPDATE audit_batches SET frontier = zeroblob(32) WHERE first = 3",),
        ("UPDATE audit_batches SET first = first + 1, size = size + 1 WHERE first = 4",),
        (INSERTED,),
    ],
)
def test_a_dropped_moved_inserted_or_forged_entry_is_found(log, path, statements):
    edit(path, *statements)
    with pytest.raises(AuditDamaged):
        log.verify()


def test_dropping_the_newest_events_is_found_with_a_head_kept_elsewhere(log, path):
    kept = log.head()
    log.verify(since=kept)
    edit(
        path,
        "DELETE FROM audit_batches WHERE first >= 3",
        "UPDATE audit_tiles SET hashes = substr(hashes, 1, 96)",
    )
    log.verify()
    with pytest.raises(AuditDamaged, match="5 events"):
        log.verify(since=kept)


def test_a_log_rewritten_under_another_key_is_found(log, path):
    log.close()
    reopened = AuditLog(path, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    with pytest.raises(AuditDamaged, match="not signed"):
        reopened.verify()
    reopened.close()


def test_the_database_itself_refuses_to_edit_the_log(log, path):
    connection = sqlite3.connect(path)
    for statement in ("DELETE FROM audit_batches", "UPDATE audit_batches SET records = ''"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def test_an_event_with_a_key_is_logged_once(log):
    position = log.append("settled", {"round": 1}, key="settled:1")
    assert log.append("settled", {"round": 1}, key="settled:1") == position
    assert log.head().size == position + 1
    with pytest.raises(EventRepeated):
        log.append("settled", {"round": 2}, key="settled:1")


@pytest.mark.parametrize(
    "facts",
    [
        {"patient": "P-17"},
        {"patient_id": 17},
        {"patients": ["P-17"]},
        {"site": {"Patient": 1}},
        {"rows": [{"patients": "P-17"}]},
        {"text": "x" * 70_000},
    ],
)
def test_what_could_name_a_patient_or_is_too_long_is_not_logged(log, facts):
    with pytest.raises(FactRefused):
        log.append("round-closed", facts)
    assert log.head().size == 5


def test_a_count_of_patients_may_be_logged_and_a_float_may_not(log):
    log.append("round-closed", {"proven_patients": 12})
    with pytest.raises(NotCanonical):
        log.append("round-closed", {"auc": 0.9})


def append_twenty(path):
    log = AuditLog(path, KEY)
    for _ in range(20):
        log.append("beat", {})
    log.close()


def test_two_processes_append_to_one_history(log, path):
    context = get_context("spawn")
    writers = [context.Process(target=append_twenty, args=(path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert log.verify().size == 45


def test_a_batch_stands_together_under_one_head(path):
    log = AuditLog(path, KEY)
    made = log.append_batch([("paid", {"site": site}) for site in "abc"])
    assert (made.first, made.count, made.head.size) == (0, 3, 3)
    made = log.append_batch([("paid", {"site": site}) for site in "de"])
    assert (made.first, made.count, made.head) == (3, 2, log.head())
    assert [event.facts["site"] for event in log.events()] == list("abcde")
    assert [event.position for event in log.events(1, 3)] == [1, 2, 3]
    assert log.head_at(3).size == 3
    log.close()


def test_a_batch_with_one_refused_event_is_not_logged_at_all(log):
    for bad in ({"patient": "P-17"}, {"text": "x" * 70_000}):
        with pytest.raises(FactRefused):
            log.append_batch([("paid", {}), ("paid", bad), ("paid", {})])
    with pytest.raises(NotCanonical):
        log.append_batch([("paid", {}), ("paid", {"auc": 0.5})])
    assert log.head().size == 5
    log.verify()


def test_a_batch_with_a_key_is_logged_once(log):
    events = [("paid", {"site": site}) for site in "abc"]
    made = log.append_batch(events, key="round 1")
    log.append("beat", {})
    assert log.append_batch(events, key="round 1") == made
    with pytest.raises(EventRepeated):
        log.append_batch(events[:2], key="round 1")
    assert log.head().size == 9


def test_what_was_never_signed_or_logged_is_unknown(log):
    made = log.append_batch([("paid", {}), ("paid", {})])
    for size in (6, 8, 1000):
        with pytest.raises(HeadUnknown):
            log.head_at(size)
    for size in (8, 1000):
        with pytest.raises(HeadUnknown):
            log.consistency_proof(3, size)
    with pytest.raises(HeadUnknown):
        log.consistency_proof(made.head.size, 3)
    with pytest.raises(EntryUnknown):
        log.inclusion_proof(7)
    with pytest.raises(EntryUnknown):
        log.inclusion_proof(5, 5)
    assert log.head_at(0).size == 0


def test_proofs_of_older_heads_stay(log):
    heads = [log.head_at(size) for size in range(6)]
    log.append_batch([("paid", {"n": number}) for number in range(600)])
    for old in heads:
        for new in heads[old.size :]:
            proof = log.consistency_proof(old.size, new.size)
            check_consistency(old.size, old.root, new.size, new.root, proof)
    for event in log.events(0, 5):
        proof = log.inclusion_proof(event.position, 5)
        leaf = leaf_hash(event.record.encode())
        check_inclusion(heads[5].root, 5, event.position, leaf, proof)


def test_threads_append_to_one_history(log):
    def append():
        for number in range(10):
            log.append_batch([("beat", {"n": number}), ("beat", {})])

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.verify().size == 5 + 4 * 10 * 2


def test_the_file_is_private(path, log):
    assert path.stat().st_mode & 0o077 == 0
