"""The audit log over HTTP: writers have a token, readers need none, refusals are problems."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient

from audit.checkpoints import read_head
from audit.cosignatures import Cosignatures
from audit.log import AuditLog
from audit.notes import COSIGNED, check_signed, cosign, note_key, read_note
from audit.records import BATCH_BYTES_MAX, record_of
from identity.accounts import Accounts
from identity.passwords import Cost
from identity.roles import Actor, Role
from portal.audit_api import audit_app
from storage.merkle import check_consistency, check_inclusion, leaf_hash

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
WITNESS_KEY = note_key("north.example/witness", COSIGNED, WITNESS)
TOKEN = "t" * 32
WRITER = {"Authorization": f"Bearer {TOKEN}"}
RECORDS = [record_of("paid", {"n": number, "proven_patients": 3}) for number in range(5)]
BATCH = b"".join(record + b"\n" for record in RECORDS)


@pytest.fixture
def log(tmp_path):
    log = AuditLog(tmp_path / "audit.db", KEY)
    yield log
    log.close()


@pytest.fixture
def client(log):
    app = audit_app(log, Cosignatures(log, [WITNESS_KEY]), token=TOKEN)
    return TestClient(app, raise_server_exceptions=False)


def post(client, body=BATCH, **headers):
    return client.post("/batches", content=body, headers=WRITER | headers)


def head(client, **asked):
    answer = client.get("/checkpoint", params=asked)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    return read_head(read_note(answer.text).body)


def test_a_batch_is_logged_and_answered_with_its_signed_head(client, log):
    answer = post(client)
    assert answer.status_code == 201
    assert (answer.json()["first"], answer.json()["count"]) == (0, 5)
    check_signed(read_note(answer.json()["checkpoint"]), log.key)
    assert head(client).size == 5
    assert [event.record.encode() for event in log.events()] == RECORDS


def test_a_batch_sent_again_under_its_key_is_logged_once(client, log):
    keyed = {"Idempotency-Key": "north/17"}
    first = post(client, **keyed)
    assert post(client, **keyed).json() == first.json()
    assert log.head().size == 5
    other = post(client, RECORDS[0] + b"\n", **keyed)
    assert (other.status_code, other.json()["type"]) == (409, "/problems/event-repeated")


def test_proofs_lead_from_records_to_heads(client):
    post(client)
    old = head(client)
    post(client)
    new = head(client)
    answer = client.get("/proofs/consistency", params={"old": 5}).json()
    hashes = [base64.b64decode(one) for one in answer["hashes"]]
    check_consistency(5, old.root, 10, new.root, hashes)
    for shown in (old, new):
        asked = {"position": 2, "size": shown.size}
        answer = client.get("/proofs/inclusion", params=asked).json()
        hashes = [base64.b64decode(one) for one in answer["hashes"]]
        check_inclusion(shown.root, shown.size, 2, leaf_hash(RECORDS[2]), hashes)
    assert head(client, size=5) == old


def test_a_witness_hands_in_its_line_and_everybody_gets_it(client):
    post(client)
    note = read_note(client.get("/checkpoint").text)
    line = cosign(note.body, WITNESS_KEY.name, WITNESS, at=7)
    answer = client.post("/cosignatures", content=note.with_lines(line).text().encode())
    assert answer.status_code == 200
    post(client)
    for asked in ({"size": 5}, {"cosigned_by": 1}):
        shown = read_note(client.get("/checkpoint", params=asked).text)
        assert check_signed(shown, WITNESS_KEY) == 7
    assert head(client).size == 10


def test_nobody_writes_without_the_token(client, log):
    for shown in ({}, {"Authorization": "Bearer other"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = client.post("/batches", content=BATCH, headers=shown)
        assert answer.status_code in {401, 403}
    assert log.head().size == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "record-malformed"),
        (b'{"facts":{"auc":0.5},"kind":"beat"}\n', 422, "record-malformed"),
        (b'{"facts":{"patient":"P-17"},"kind":"beat"}\n', 422, "fact-refused"),
        (b"\xff\n", 422, "record-malformed"),
        (b"\n" * 10_001, 413, "batch-too-large"),
        (b"x" * (BATCH_BYTES_MAX + 1), 413, "batch-too-large"),
    ],
)
def test_what_may_not_be_logged_is_refused_as_a_whole(client, log, body, status, code):
    answer = post(client, BATCH + body if len(body) > 1 and b"}" in body else body)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{code}")
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"P-17" not in answer.content
    assert log.head().size == 0


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/checkpoint?size=4", 404, "head-unknown"),
        ("/checkpoint?cosigned_by=1", 404, "head-unknown"),
        ("/proofs/inclusion?position=5", 404, "entry-unknown"),
        ("/proofs/inclusion?position=0&size=9", 404, "head-unknown"),
        ("/proofs/consistency?old=6", 404, "head-unknown"),
    ],
)
def test_what_the_log_does_not_have_is_not_found(client, path, status, code):
    post(client)
    answer = client.get(path)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{code}")


@pytest.mark.parametrize(
    "path",
    [
        "/checkpoint?size=-1",
        "/checkpoint?size=x",
        "/proofs/inclusion",
        "/proofs/inclusion?position=-1",
        "/proofs/consistency?old=99999999999999999999",
    ],
)
def test_a_question_that_cannot_be_meant_is_not_answered(client, path):
    assert client.get(path).status_code == 422


def test_a_cosignature_of_nobody_or_of_nothing_is_refused(client):
    post(client)
    note = read_note(client.get("/checkpoint").text)
    stranger = cosign(note.body, "stranger", KEY, at=7)
    forged = type(stranger)(WITNESS_KEY.name, WITNESS_KEY.key_id, stranger.signature)
    for content, status, code in (
        (note.with_lines(stranger).text().encode(), 409, "cosignature-refused"),
        (note.with_lines(forged).text().encode(), 403, "note-unsigned"),
        (b"nothing", 422, "note-malformed"),
        (b"\xff", 422, "note-malformed"),
        (b"x" * 70_000, 422, "note-malformed"),
    ):
        answer = client.post("/cosignatures", content=content)
        assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{code}")


# Records, for who may read them

ACTOR = Actor("operator", frozenset({Role.OPERATOR}))
PASSWORD = "four long plain words"


@pytest.fixture
def people(tmp_path, log):
    cheap = Cost(iterations=1, lanes=1, memory_kib=8)
    people = Accounts(tmp_path / "accounts.db", audit=log.append, cost=cheap)
    people.add("a.audit", PASSWORD, roles={Role.AUDITOR}, actor=ACTOR)
    people.add("r.west", PASSWORD, roles={Role.RESEARCHER}, actor=ACTOR)
    yield people
    people.close()


@pytest.fixture
def readable(log, people):
    app = audit_app(log, Cosignatures(log, []), token=TOKEN, accounts=people, clock=lambda: 0.0)
    return TestClient(app, raise_server_exceptions=False)


def signed_in(client, name):
    answer = client.post("/sessions", json={"name": name, "password": PASSWORD})
    assert answer.status_code == 201
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def test_an_auditor_reads_the_records_as_the_tree_hashes_them(readable, log):
    before = log.head().size
    post(readable)
    asked = {"first": before + 1, "count": 3}
    answer = readable.get("/records", params=asked, headers=signed_in(readable, "a.audit"))
    assert answer.content.splitlines() == RECORDS[1:4]


def test_who_may_not_read_records_is_refused_and_logged(readable, log):
    answer = readable.get("/records", headers=signed_in(readable, "r.west"))
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/permission-missing")
    (last,) = log.events(log.head().size - 1)
    assert (last.kind, last.facts["actor"]) == ("permission-denied", "r.west")


@pytest.mark.parametrize("shown", [{}, WRITER, {"Authorization": "Bearer guessed"}])
def test_nobody_reads_records_without_signing_in(readable, shown):
    assert readable.get("/records", headers=shown).status_code in {401, 403}


def test_a_wrong_password_opens_no_session(readable):
    asked = {"name": "a.audit", "password": "another few long words"}
    answer = readable.post("/sessions", json=asked)
    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/sign-in-refused")


def test_a_log_without_accounts_shows_no_record(client):
    assert client.get("/records", headers=WRITER).status_code == 404
