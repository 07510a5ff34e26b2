"""The log keeps what known witnesses signed of its own heads, and hands it out with them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoints import Head, read_head
from audit.cosignatures import CosignatureRefused, Cosignatures
from audit.log import AuditLog, HeadUnknown
from audit.notes import COSIGNED, Note, NoteMalformed, NoteUnsigned, check_signed, cosign, note_key
from audit.proofs import prove, read_proof
from audit.verification import WitnessesTooFew
from storage.merkle import HistoryDisagrees

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NAMES = ("north", "south", "stranger")
OWN = {name: Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32)) for name in NAMES}
KEYS = {name: note_key(name, COSIGNED, key) for name, key in OWN.items()}


@pytest.fixture
def log(tmp_path):
    log = AuditLog(tmp_path / "audit.db", KEY)
    log.append_batch([("beat", {"n": number}) for number in range(7)])
    yield log
    log.close()


@pytest.fixture
def cosignatures(log):
    return Cosignatures(log, [KEYS["north"], KEYS["south"]])


def signed(log, *names, at=1):
    note = log.head().note(log.public_key)
    return note.with_lines(*(cosign(note.body, name, OWN[name], at=at) for name in names)).text()


def test_lines_of_known_witnesses_come_with_the_head(log, cosignatures):
    cosignatures.accept(signed(log, "north", "stranger"))
    cosignatures.accept(signed(log, "south"))
    note = cosignatures.checkpoint()
    assert [line.name for line in note.signatures] == [log.origin, "north", "south"]
    for key in (log.key, KEYS["north"], KEYS["south"]):
        check_signed(note, key)


def test_the_newest_head_with_enough_cosignatures_is_found(log, cosignatures):
    cosignatures.accept(signed(log, "north", "south"))
    log.append("beat", {})
    cosignatures.accept(signed(log, "north"))
    log.append("beat", {})
    sizes = {
        demanded: read_head(cosignatures.checkpoint(cosigned_by=demanded).body).size
        for demanded in (0, 1, 2)
    }
    assert sizes == {0: 9, 1: 8, 2: 7}
    assert read_head(cosignatures.checkpoint(8).body).size == 8
    with pytest.raises(HeadUnknown):
        cosignatures.checkpoint(cosigned_by=3)


def test_the_same_line_sent_again_changes_nothing_and_a_later_one_neither(log, cosignatures):
    first = cosignatures.accept(signed(log, "north"))
    assert cosignatures.accept(signed(log, "north")) == first
    cosignatures.accept(signed(log, "north", at=99))
    assert check_signed(cosignatures.checkpoint(), KEYS["north"]) == 1


def test_other_heads_and_unknown_witnesses_are_refused(log, cosignatures):
    with pytest.raises(CosignatureRefused, match="no witness"):
        cosignatures.accept(signed(log, "stranger"))
    fork = Head(log.origin, 7, bytes(32)).body()
    line = cosign(fork, "north", OWN["north"], at=1)
    with pytest.raises(CosignatureRefused, match="another head"):
        cosignatures.accept(Note(fork, (line,)).text())
    unknown = Head(log.origin, 5, bytes(32)).body()
    with pytest.raises(HeadUnknown):
        cosignatures.accept(Note(unknown, (line,)).text())
    note = log.head().note(log.public_key)
    with pytest.raises(NoteUnsigned):
        cosignatures.accept(note.with_lines(line).text())
    with pytest.raises(NoteMalformed):
        cosignatures.accept("nothing")


def test_a_record_is_proven_without_the_log(log, cosignatures):
    cosignatures.accept(signed(log, "north"))
    witnesses = [KEYS["north"], KEYS["south"]]
    for position in range(7):
        text = prove(log, position, cosignatures.checkpoint()).text()
        proof = read_proof(text)
        proof.check(log.key, witnesses=witnesses, quorum=1)
        with pytest.raises(WitnessesTooFew):
            proof.check(log.key, witnesses=witnesses, quorum=2)
        forged = read_proof(text.replace(f'\\"n\\":{position}', '\\"n\\":9'))
        with pytest.raises(HistoryDisagrees):
            forged.check(log.key)
        other = note_key(log.origin, 1, OWN["north"])
        with pytest.raises(NoteUnsigned):
            proof.check(other)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"position": 1}', "[" * 99_999, "null"])
def test_what_is_no_proof_is_refused(text):
    with pytest.raises(NoteMalformed):
        read_proof(text)
