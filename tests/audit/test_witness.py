"""A witness cosigns one history of a log, whoever asks it and in whatever order."""

from __future__ import annotations

import itertools
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.checkpoints import read_head, sign_head
from audit.log import AuditLog
from audit.notes import SIGNED, NoteMalformed, NoteUnsigned, check_signed, note_key, read_note
from audit.witness import (
    HistoryForked,
    HistoryRolledBack,
    LogUnknown,
    Witness,
    WitnessElsewhere,
)
from storage.database import DatabaseDamaged
from storage.merkle import HistoryDisagrees, consistency_proof, leaf_hash, root

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG = note_key("example.com/log", SIGNED, KEY)
OWN = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
LEAVES = [leaf_hash(b"%d" % number) for number in range(40)]
OTHERS = [leaf_hash(b"another %d" % number) for number in range(40)]


def head_of(leaves, key=KEY, name=LOG.name):
    """Return a signed head over leaves, as text."""
    return sign_head(name, len(leaves), root(leaves), key).note(key.public_key()).text()


def witness_at(path, now=1_795_251_600):
    return Witness(path, "north.example/witness", OWN, lambda: now)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "witness.db"


@pytest.fixture
def witness(path):
    witness = witness_at(path)
    witness.watch(LOG)
    yield witness
    witness.close()


def test_it_cosigns_a_head_that_goes_on_from_the_last(witness):
    for size, old in ((3, 0), (3, 3), (8, 3), (21, 8)):
        leaves = LEAVES[:size]
        note = witness.cosign(LOG, head_of(leaves), old, consistency_proof(leaves, old))
        assert check_signed(note, witness.key) == 1_795_251_600
        assert check_signed(note, LOG) == 0
        assert witness.seen(LOG.name) == read_head(note.body)
    assert witness.evidence() == []


def test_it_remembers_over_a_restart(path, witness):
    witness.cosign(LOG, head_of(LEAVES[:9]), 0, [])
    witness.close()
    again = witness_at(path)
    again.watch(LOG)  # changes nothing of a log that is watched
    assert again.seen(LOG.name).size == 9
    with pytest.raises(HistoryRolledBack):
        again.cosign(LOG, head_of(LEAVES[:8]), 9, [])
    again.close()


def test_a_fork_is_refused_and_kept_as_evidence(path, witness):
    witness.cosign(LOG, head_of(LEAVES[:9]), 0, [])
    fork = head_of([*LEAVES[:8], OTHERS[8]])
    with pytest.raises(HistoryForked):
        witness.cosign(LOG, fork, 9, [])
    witness.close()
    again = witness_at(path)
    ((seen, shown),) = again.evidence()
    for text in (seen, shown):
        check_signed(read_note(text), LOG)
    assert read_head(read_note(seen).body).size == read_head(read_note(shown).body).size == 9
    assert seen != shown
    assert again.seen(LOG.name).root == root(LEAVES[:9])
    again.close()


def test_a_longer_fork_has_no_proof(witness):
    witness.cosign(LOG, head_of(LEAVES[:9]), 0, [])
    forked = [*LEAVES[:8], *OTHERS[8:20]]
    for proof in (consistency_proof(forked, 9), consistency_proof(LEAVES[:20], 9), []):
        with pytest.raises(HistoryDisagrees):
            witness.cosign(LOG, head_of(forked), 9, proof)
    assert witness.seen(LOG.name).size == 9


def test_a_proof_from_elsewhere_is_refused_with_the_size_to_prove_from(witness):
    witness.cosign(LOG, head_of(LEAVES[:9]), 0, [])
    for old in (0, 8, 10):
        with pytest.raises(WitnessElsewhere) as refused:
            witness.cosign(LOG, head_of(LEAVES[:20]), old, consistency_proof(LEAVES[:20], old))
        assert refused.value.size == 9


def test_what_the_log_did_not_sign_is_refused(witness):
    for text in (
        head_of(LEAVES[:3], OWN),
        head_of(LEAVES[:3]).replace("\n3\n", "\n4\n"),
    ):
        with pytest.raises(NoteUnsigned):
            witness.cosign(LOG, text, 0, [])
    with pytest.raises(NoteMalformed):
        witness.cosign(LOG, "no note", 0, [])


def test_a_log_it_was_not_told_of_is_refused(witness):
    other = note_key("example.com/other", SIGNED, KEY)
    with pytest.raises(LogUnknown):
        witness.cosign(LOG, head_of(LEAVES[:3], name=other.name), 0, [])
    with pytest.raises(LogUnknown):
        witness.cosign(other, head_of(LEAVES[:3], name=other.name), 0, [])
    usurper = note_key(LOG.name, SIGNED, OWN)
    with pytest.raises(LogUnknown):
        witness.cosign(usurper, head_of(LEAVES[:3], OWN), 0, [])


def test_a_lost_state_cosigns_nothing_until_it_is_told_to_begin(path, witness):
    witness.cosign(LOG, head_of(LEAVES[:9]), 0, [])
    witness.close()
    for file in path.parent.glob("witness.db*"):
        file.unlink()
    again = witness_at(path)
    with pytest.raises(LogUnknown, match="compare"):
        again.cosign(LOG, head_of(OTHERS[:9]), 0, [])
    again.close()


def test_a_damaged_state_cosigns_nothing(path, witness):
    witness.cosign(LOG, head_of(LEAVES[:9]), 0, [])
    witness.close()
    path.write_bytes(b"no database at all, for longer than its header would be" * 100)
    with pytest.raises(DatabaseDamaged):
        witness_at(path).watch(LOG)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 40)), max_size=12))
def test_all_that_it_ever_cosigned_is_one_history(tmp_path_factory, shown):
    witness = witness_at(tmp_path_factory.mktemp("witness") / "witness.db")
    witness.watch(LOG)
    # Two histories that part after five records.
    histories = (LEAVES, [*LEAVES[:5], *OTHERS[5:]])
    cosigned = []
    for second, size, old in shown:
        leaves = histories[second][:size]
        proof = consistency_proof(leaves, min(old, size))
        try:
            witness.cosign(LOG, head_of(leaves), old, proof)
        except (HistoryForked, HistoryRolledBack, WitnessElsewhere, HistoryDisagrees):
            continue
        cosigned.append(leaves)
    witness.close()
    for earlier, later in itertools.pairwise(cosigned):
        assert later[: len(earlier)] == earlier


def test_threads_that_ask_at_once_get_one_history(path, witness):
    got = []

    def ask(leaves):
        own = witness_at(path)
        try:
            own.cosign(LOG, head_of(leaves), 0, [])
            got.append(root(leaves))
        except (HistoryForked, HistoryRolledBack, WitnessElsewhere):
            pass
        own.close()

    histories = [[*LEAVES[:7], OTHERS[number]] for number in range(6)]
    threads = [threading.Thread(target=ask, args=(leaves,)) for leaves in histories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [witness.seen(LOG.name).root]


def test_it_follows_a_real_log(tmp_path, witness):
    log = AuditLog(tmp_path / "audit.db", KEY, origin=LOG.name)
    for count in (1, 300, 1, 40):
        log.append_batch([("beat", {"n": number}) for number in range(count)])
        old, head = witness.seen(LOG.name).size, log.head()
        text = head.note(log.public_key).text()
        witness.cosign(LOG, text, old, log.consistency_proof(old, head.size))
    assert witness.seen(LOG.name).size == 342
    log.close()
