"""Whatever is changed, dropped, doubled or exchanged in a stored log is found offline."""

from __future__ import annotations

import sqlite3

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoints import AuditDamaged, Head
from audit.cosignatures import Cosignatures
from audit.log import AuditLog
from audit.notes import COSIGNED, cosign, note_key
from audit.store import open_tables
from audit.verification import WitnessesTooFew, verify_log
from protocol.errors import StorageFailed

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESSES = {
    name: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    for number, name in enumerate(("north", "south", "west"), start=1)
}
WITNESS_KEYS = [note_key(name, COSIGNED, key) for name, key in WITNESSES.items()]
TABLES = ("audit_batches", "audit_cosignatures")


class Forger:
    """Somebody with write access to the file and without a key."""

    def __init__(self, path):
        self.connection = sqlite3.connect(path, isolation_level=None)
        for table in TABLES:
            for change in ("update", "delete"):
                self.connection.execute(f"DROP TRIGGER {table}_refuse_{change}")

    def run(self, statement, *values):
        self.connection.execute(statement, values)

    def rows(self, statement):
        return self.connection.execute(statement).fetchall()

    def records(self, first):
        return self.rows(f"SELECT records FROM audit_batches WHERE first = {first}")[0][0]

    def write(self, first, records):
        self.run("UPDATE audit_batches SET records = ? WHERE first = ?", records, first)


def cosigned(log, *names):
    """Have witnesses cosign the newest head, without looking."""
    cosignatures = Cosignatures(log, WITNESS_KEYS)
    note = log.head().note(log.public_key)
    lines = [cosign(note.body, name, WITNESSES[name], at=1_795_251_600) for name in names]
    cosignatures.accept(note.with_lines(*lines).text())


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "audit.db"
    log = AuditLog(path, KEY)
    log.append_batch([("accepted", {"round": 1, "site": site}) for site in "abcde"])
    cosigned(log, "north", "south")
    log.append("round-closed", {"proven_patients": 12, "round": 1})
    cosigned(log, "north")
    log.append_batch([("paid", {"site": site}) for site in "abcd"])
    log.close()
    return path


@pytest.fixture
def forger(path):
    forger = Forger(path)
    yield forger
    forger.connection.close()


@pytest.fixture
def verify(path):
    engine = open_tables(path)
    log = AuditLog(path, KEY)
    yield lambda **demanded: verify_log(engine, log.key, **demanded)
    log.close()
    engine.dispose()


def test_a_sound_log_is_called_sound_with_its_key_alone(verify):
    found = verify()
    assert (found.size, found.batches, found.cosigned) == (10, 3, 0)


def test_every_changed_byte_of_every_record_is_found(forger, verify):
    for first in (0, 5, 6):
        records = forger.records(first)
        for place in range(len(records)):
            changed = bytearray(records)
            changed[place] ^= 1 << (place % 8)
            forger.write(first, bytes(changed))
            with pytest.raises(AuditDamaged):
                verify()
        forger.write(first, records)
    verify()


def test_every_dropped_doubled_or_exchanged_record_of_a_batch_is_found(forger, verify):
    for first in (0, 6):
        whole = forger.records(first)
        lines = whole.splitlines(keepends=True)
        others = [lines[:at] + lines[at + 1 :] for at in range(len(lines))]
        others += [[*lines[:at], lines[at], *lines[at:]] for at in range(len(lines))]
        for at in range(len(lines)):
            for other in range(at):
                moved = list(lines)
                moved[at], moved[other] = moved[other], moved[at]
                others.append(moved)
        for changed in others:
            forger.write(first, b"".join(changed))
            with pytest.raises(AuditDamaged):
                verify()
        forger.write(first, whole)
    verify()


def test_records_exchanged_between_batches_are_found(forger, verify):
    first, last = (forger.records(at).splitlines(keepends=True) for at in (0, 6))
    for at in range(len(first)):
        for other in range(len(last)):
            a, b = list(first), list(last)
            a[at], b[other] = b[other], a[at]
            forger.write(0, b"".join(a))
            forger.write(6, b"".join(b))
            with pytest.raises(AuditDamaged):
                verify()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit_batches WHERE first = 0",
        "DELETE FROM audit_batches WHERE first = 5",
        "UPDATE audit_batches SET size = 9 WHERE first = 6",
        "UPDATE audit_batches SET first = 7 WHERE first = 6",
        "UPDATE audit_batches SET records = x'' WHERE first = 5",
        "UPDATE audit_batches SET records = x'0a' WHERE first = 5",
        "UPDATE audit_batches SET records = CAST(records AS TEXT) WHERE first = 5",
        "UPDATE audit_batches SET records = substr(records, 1, length(records) - 1)",
        "UPDATE audit_batches SET root = zeroblob(32) WHERE first = 0",
        "UPDATE audit_batches SET frontier = zeroblob(64) WHERE first = 0",
        "UPDATE audit_batches SET signature = zeroblob(64) WHERE first = 0",
        "UPDATE audit_batches SET signature = '' WHERE first = 6",
        (
            "UPDATE audit_batches SET signature ="
            " (SELECT signature FROM audit_batches WHERE first = 0) WHERE first = 5"
        ),
        "DELETE FROM audit_tiles",
        "UPDATE audit_tiles SET hashes = zeroblob(320)",
        "UPDATE audit_tiles SET hashes = hashes || zeroblob(32)",
        "UPDATE audit_tiles SET hashes = CAST(hashes || zeroblob(32) AS BLOB)",
        "INSERT INTO audit_tiles VALUES (1, 0, zeroblob(32))",
        "UPDATE audit_cosignatures SET size = 7 WHERE key LIKE 'south+%'",
        "UPDATE audit_cosignatures SET size = 10 WHERE key LIKE 'south+%'",
        "UPDATE audit_cosignatures SET line = 'x' WHERE key LIKE 'south+%'",
        "UPDATE audit_cosignatures SET line = NULL WHERE key LIKE 'south+%'",
        "UPDATE audit_cosignatures SET line = replace(line, 'A', 'B') WHERE key LIKE 'south+%'",
        (
            "UPDATE audit_cosignatures SET line ="
            " (SELECT line FROM audit_cosignatures WHERE key LIKE 'north+%' AND size = 5)"
            " WHERE key LIKE 'south+%'"
        ),
    ],
)
def test_a_changed_head_tile_or_cosignature_is_found(forger, verify, statement):
    try:
        forger.run(statement)
    except sqlite3.IntegrityError:
        return  # the table itself refuses it
    # Bytes where text was stored, or the reverse, may end the reading itself.
    with pytest.raises((AuditDamaged, StorageFailed)):
        verify(witnesses=WITNESS_KEYS, quorum=2)


def test_a_history_written_anew_under_another_key_is_found(path, verify, tmp_path):
    other = AuditLog(tmp_path / "other.db", Ed25519PrivateKey.generate())
    other.append("round-closed", {"round": 2})
    log = AuditLog(path, KEY)
    with pytest.raises(AuditDamaged, match="not signed"):
        verify_log(other.engine, log.key)
    for one in (other, log):
        one.close()


def test_the_log_does_not_sign_on_top_of_a_changed_head(path, forger):
    for change in (
        "UPDATE audit_batches SET frontier = zeroblob(64) WHERE first = 6",
        "UPDATE audit_batches SET root = zeroblob(32) WHERE first = 6",
        "UPDATE audit_batches SET signature = zeroblob(64) WHERE first = 6",
        "DELETE FROM audit_tiles",
    ):
        forger.run("SAVEPOINT before")
        forger.run(change)
        forger.run("RELEASE before")
        log = AuditLog(path, KEY)
        with pytest.raises(AuditDamaged):
            log.append("paid", {"site": "e"})
        log.close()


def test_the_longest_head_with_enough_witnesses_is_found(verify):
    assert verify(witnesses=WITNESS_KEYS[:1], quorum=1).cosigned == 6
    assert verify(witnesses=WITNESS_KEYS[:2], quorum=2).cosigned == 5
    assert verify(witnesses=WITNESS_KEYS, quorum=2).cosigned == 5


@pytest.mark.parametrize(("keys", "quorum"), [(WITNESS_KEYS, 3), (WITNESS_KEYS[2:], 1)])
def test_fewer_witnesses_than_demanded_are_too_few(verify, keys, quorum):
    with pytest.raises(WitnessesTooFew) as refused:
        verify(witnesses=keys, quorum=quorum)
    assert refused.value.demanded == quorum
    assert refused.value.most < quorum


def test_one_witness_cannot_stand_for_two(forger, verify):
    row = forger.rows("SELECT line FROM audit_cosignatures WHERE size = 6")[0]
    forger.run("INSERT INTO audit_cosignatures VALUES (6, ?, ?)", WITNESS_KEYS[2].text(), row[0])
    with pytest.raises(AuditDamaged):
        verify(witnesses=WITNESS_KEYS, quorum=2)


def test_one_key_under_two_names_is_one_witness(path, verify):
    key = WITNESSES["north"]
    both = [note_key(name, COSIGNED, key) for name in ("north", "north-again")]
    log = AuditLog(path, KEY)
    note = log.head().note(log.public_key)
    lines = [cosign(note.body, one.name, key, at=1_795_251_600) for one in both]
    Cosignatures(log, both).accept(note.with_lines(*lines).text())
    log.close()
    assert verify(witnesses=both, quorum=1).cosigned == 10
    with pytest.raises(WitnessesTooFew):
        verify(witnesses=both, quorum=2)


def test_a_head_kept_elsewhere_must_be_one_the_log_signed(path, verify):
    log = AuditLog(path, KEY)
    verify(since=log.head_at(5))
    verify(since=Head(log.origin, 5, log.head_at(5).root))
    for other in (
        Head(log.origin, 5, bytes(32)),
        Head(log.origin, 11, log.head().root),
        Head("another", 5, log.head_at(5).root),
    ):
        with pytest.raises(AuditDamaged):
            verify(since=other)
    log.close()


def test_a_log_of_an_older_form_is_refused_and_not_called_empty(tmp_path):
    connection = sqlite3.connect(tmp_path / "old.db")
    connection.execute("CREATE TABLE audit (position INTEGER PRIMARY KEY, record TEXT)")
    connection.close()
    with pytest.raises(AuditDamaged, match="older version"):
        AuditLog(tmp_path / "old.db", KEY)
