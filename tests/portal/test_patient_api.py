"""The patient's API does what was proven, refuses all else by its code, and keeps nothing of it."""

import json
import logging
import sqlite3
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient

pytest.importorskip("groth16py", reason="real proofs need the extra `prover`")

from consent.grants_by_proof import grant_scope
from portal.patient.limits import Buckets, GrantedTooOften, Rate
from portal.patient.problems import BODY_MAX
from portal.patient.server import create_app, open_desk, read_sheet
from tests.portal.patient_world import (
    CHUNK,
    EAST,
    NORTH,
    SOUTH,
    STUDY,
    Patient,
    World,
    semaphore_prover,
)
from zk.lean_imt import LeanIMT
from zk.semaphore import number_for

pytestmark = pytest.mark.slow
MESSAGE_WRONG = "semaphore-message-wrong"


def now():
    return datetime.now(UTC)


@pytest.fixture
def world(tmp_path):
    return World.found(tmp_path / "home")


@pytest.fixture
def desk(world):
    return open_desk(world.home, clock=now)


@pytest.fixture
def client(world, desk):
    return TestClient(create_app(desk, read_sheet(world.home.server / "study-sheet.json")))


@pytest.fixture
def owner(world, client):
    patient = Patient(client)
    assert patient.ask(world.invite()).status_code == 202
    world.enrol_all()
    return patient


@pytest.fixture
def state(desk):
    """Return what must not change when something is refused."""

    def look():
        boxes = [len(desk.mailbox.boxes(site)) for site in (NORTH, SOUTH, EAST)]
        return desk.registry.epoch(), desk.members(), boxes, desk.claims.unpaid()

    return look


def refused(answer, status, code):
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert problem["type"] == f"/problems/{code}"
    assert problem["status"] == status
    return problem


def test_a_patient_enrols_grants_and_her_hospital_opens_what_she_granted(world, client, owner):
    body, _ = owner.wish()
    answer = client.post("/api/grants", json=body)
    assert answer.status_code == 201, answer.text
    receipt = answer.json()
    assert receipt["leaf"] == body["leaf"]
    assert receipt["proven"] is True
    fetched = world.steward().fetch()
    assert (fetched.kept, fetched.refused) == (1, ())
    patient, opening = world.steward()._openings.opening_at(receipt["index"])
    assert patient == "4711"
    assert str(opening.leaf()) == body["leaf"]
    assert world.steward().fetch().kept == 0  # it is gone from the server


def test_a_second_grant_takes_the_place_of_the_first(client, desk, owner):
    first, _ = owner.wish()
    second, _ = owner.wish(terms=owner.terms(purposes=("DS",), days=30))
    one = client.post("/api/grants", json=first).json()
    two = client.post("/api/grants", json=second).json()
    assert two["replaces"] == one["grant"]
    leaves = client.get("/api/lanes/north/leaves").json()["leaves"]
    assert [leaf for leaf in leaves if leaf != "0"] == [second["leaf"]]
    assert len(leaves) == 3 * CHUNK
    before = client.get("/api/lanes/north/leaves", params={"at": one["epoch"]}).json()["leaves"]
    assert first["leaf"] in before


def test_a_grant_shown_twice_is_refused_and_stays(client, owner, state):
    body, _ = owner.wish()
    assert client.post("/api/grants", json=body).status_code == 201
    before = state()
    refused(client.post("/api/grants", json=body), 409, "leaf-unusable")
    assert state() == before


def test_only_grants_that_held_count_towards_how_often_she_may_grant(client, desk, owner, state):
    desk.granting = Buckets(Rate(1, 3600), bytes(32), refusal=GrantedTooOften)
    body, _ = owner.wish()
    nullifier = json.loads(body["proof"])["nullifier"]
    for _ in range(3):  # a stranger who has seen her nullifier
        refused(client.post("/api/grants", json=body | {"leaf": "7"}), 422, MESSAGE_WRONG)
    desk.granting.check(nullifier, at=desk.ticks())
    assert client.post("/api/grants", json=body).status_code == 201
    before = state()
    again, _ = owner.wish()
    answer = client.post("/api/grants", json=again)
    assert refused(answer, 429, "granted-too-often")["retry_after_seconds"] > 3500
    assert int(answer.headers["retry-after"]) > 3500
    assert state() == before
    proof = owner.prove_withdrawal(body["leaf"]).to_json()
    grant = desk.mailbox.boxes(NORTH)[0].receipt.grant
    ended = client.post("/api/withdrawals/proven", json={"grant": grant, "proof": proof})
    assert ended.status_code == 200


def test_a_grant_for_a_foreign_lane_is_refused(client, owner, state):
    body, _ = owner.wish(lane_site=SOUTH)
    before = state()
    refused(client.post("/api/grants", json=body), 422, "semaphore-message-wrong")
    refused(client.post("/api/grants", json=body | {"site": "west"}), 404, "lane-unknown")
    assert state() == before


@pytest.mark.parametrize("field", ["leaf", "payout_id", "revoke_hash"])
def test_what_a_proof_does_not_say_is_refused(client, owner, state, field):
    body, _ = owner.wish()
    other = "7" if field != "revoke_hash" else "ab" * 32
    before = state()
    refused(client.post("/api/grants", json=body | {field: other}), 422, "semaphore-message-wrong")
    assert state() == before


def test_a_stranger_cannot_grant(client, owner, state):
    body, _ = owner.wish()
    secret = 991
    group = LeanIMT([semaphore_prover.commitment_of(secret)])
    message = int(json.loads(body["proof"])["message"])
    forged = semaphore_prover.prove(secret, group, grant_scope(STUDY), message).to_json()
    before = state()
    refused(
        client.post("/api/grants", json=body | {"proof": forged}), 409, "enrolment-root-unknown"
    )
    refused(
        client.post("/api/grants", json=body | {"proof": "{}"}), 422, "semaphore-proof-malformed"
    )
    assert state() == before


def test_a_withdrawal_needs_its_code_or_its_identity(client, owner, state):
    body, code = owner.wish()
    grant = client.post("/api/grants", json=body).json()["grant"]
    before = state()
    wrong = {"grant": grant, "code": "00" * 16}
    refused(client.post("/api/withdrawals", json=wrong), 409, "withdrawal-code-wrong")
    unknown = {"grant": "0" * 20, "code": code.hex()}
    refused(client.post("/api/withdrawals", json=unknown), 404, "grant-unknown")
    replay = {"grant": grant, "proof": body["proof"]}
    refused(client.post("/api/withdrawals/proven", json=replay), 422, "semaphore-message-wrong")
    assert state() == before
    proof = owner.prove_withdrawal(body["leaf"]).to_json()
    done = client.post("/api/withdrawals/proven", json={"grant": grant, "proof": proof})
    assert done.status_code == 200, done.text
    again = client.post("/api/withdrawals", json={"grant": grant, "code": code.hex()})
    assert again.json()["epoch"] == done.json()["epoch"]


def test_a_share_is_claimed_once_and_by_its_group(client, desk, owner):
    body, _ = owner.wish()
    epoch = client.post("/api/grants", json=body).json()["epoch"]
    ids = desk.registry.payout_ids(STUDY, NORTH)
    desk.claims.open_payout(STUDY, epoch, NORTH, ids, pool=10**18)
    listed = client.get("/api/payouts/north").json()["payouts"]
    assert [(one["epoch"], one["shares"], one["small"]) for one in listed] == [(epoch, 1, True)]
    group = client.get(f"/api/payouts/north/{epoch}").json()["members"]
    assert group == [str(owner.payout_id)]

    def claim(recipient, said=None, site="north", at=epoch):
        scope = number_for("bithive-payout-1", "registry", STUDY, at, site)
        message = number_for("bithive-claim-1", said or recipient)
        members = LeanIMT([int(one) for one in group])
        proof = semaphore_prover.prove(owner.payout_secret, members, scope, message).to_json()
        fields = {"site": "north", "epoch": epoch, "recipient": recipient, "proof": proof}
        return client.post("/api/claims", json=fields)

    refused(claim("wallet:thief", said="wallet:owner"), 422, "semaphore-message-wrong")
    refused(claim("wallet:owner", site="south"), 422, "semaphore-scope-wrong")
    refused(claim("two words", said="wallet:owner"), 409, "recipient-unusable")
    assert desk.claims.unpaid() == []
    assert claim("wallet:owner").json()["amount"] == str(10**18)
    refused(claim("wallet:other"), 409, "claimed-already")
    assert [one.recipient for one in desk.claims.unpaid()] == ["wallet:owner"]
    unknown = client.get("/api/payouts/north/999")
    refused(unknown, 404, "payout-unknown")


def test_an_invitation_that_nobody_issued_is_unknown(client):
    refused(client.get("/api/invitations/" + "0" * 32), 404, "invitation-unknown")
    body = {"lookup": "0" * 32, "commitment": "7", "mac": "00" * 32}
    refused(client.post("/api/enrolments", json=body), 404, "invitation-unknown")


def test_requests_for_one_invitation_end(world, client):
    from portal.patient.sealing import invitation_keys

    lookup = invitation_keys(world.invite()).lookup
    for commitment in range(1, 9):
        body = {"lookup": lookup, "commitment": str(commitment), "mac": "00" * 32}
        assert client.post("/api/enrolments", json=body).status_code == 202
    body = {"lookup": lookup, "commitment": "9", "mac": "00" * 32}
    refused(client.post("/api/enrolments", json=body), 429, "mailbox-full")
    assert world.steward().waiting() == []  # none came with the code


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 8000,
        b'{"grant": "x", "code": "00"}',
        b'{"grant": "00000000000000000000", "code": "00", "more": 1}',
        b'{"grant": "00000000000000000000", "code": NaN}',
        b'{"grant": "00000000000000000000", "code": "zz"}',
        b"\xff\xfe",
    ],
)
def test_what_cannot_be_read_is_refused(client, body):
    headers = {"content-type": "application/json"}
    problem = refused(
        client.post("/api/withdrawals", content=body, headers=headers), 400, "request-malformed"
    )
    assert "zz" not in problem["detail"]


def test_too_much_is_refused_before_it_is_read(client):
    for content in (b"0" * (BODY_MAX + 1), iter([b"0" * 5000] * 4)):
        headers = {"content-type": "application/json"}
        answer = client.post("/api/grants", content=content, headers=headers)
        refused(answer, 413, "request-too-large")


def test_what_is_not_there_is_a_problem_too(client):
    refused(client.get("/nowhere"), 404, "not-here")
    refused(client.get("/files/00000000000000000000000000000000/page.js"), 404, "not-here")
    refused(client.get("/files/x/..%2f..%2fserver.py"), 404, "not-here")
    refused(client.put("/api/grants"), 400, "request-malformed")
    refused(client.get("/api/lanes/NORTH/leaves"), 400, "request-malformed")
    refused(client.get("/api/lanes/north/leaves", params={"at": 99}), 404, "epoch-unknown")


def test_every_answer_carries_the_policy(client):
    for path in ("/", "/api/study", "/nowhere", "/health"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "connect-src 'self'" in policy
    assert client.get("/api/study").headers["cache-control"] == "no-store"


def test_an_answer_that_nobody_expected_tells_nothing(client, desk, caplog, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("secret 4711")

    monkeypatch.setattr(desk.registry, "withdraw", broken)
    body = {"grant": "0" * 20, "code": "00"}
    with caplog.at_level(logging.DEBUG):
        refused_body = client.post("/api/withdrawals", json=body)
    assert refused_body.status_code == 500
    assert refused_body.json()["code"] == "internal"
    assert "4711" not in caplog.text + refused_body.text


def test_the_whole_group_and_lane_are_given_whoever_asks(client, owner, desk):
    body, _ = owner.wish()
    client.post("/api/grants", json=body)
    members = client.get("/api/enrolment/members").json()
    assert members["members"] == [str(one) for one in desk.group.members(now=now())]
    page = client.get("/api/lanes/north/changes").json()
    assert [change["leaf"] for change in page["changes"]] == [body["leaf"]]
    last = page["changes"][-1]["sequence"]
    assert client.get(f"/api/lanes/north/changes?after={last}").json()["changes"] == []
    assert client.get("/api/lanes/south/changes").json()["changes"] == []
    paths = client.get("/openapi.json").json()["paths"] if client.app.openapi_url else {}
    named = {part for path in paths for part in path.split("/") if part.startswith("{")}
    assert named <= {"{lookup}", "{site}", "{epoch}", "{digest}", "{name}"}


def test_the_log_that_is_served_rebuilds_the_registry(client, owner, desk):
    body, _ = owner.wish()
    client.post("/api/grants", json=body)
    lines = client.get("/api/log").json()
    assert len(lines) == desk.registry.epoch().number + 1
    assert body["leaf"] in lines[-1]


def test_nothing_that_the_server_keeps_names_a_patient(world, client):
    owner = Patient(client)
    owner.ask(world.invite("MRN-0815-Q"))
    world.enrol_all()
    body, code = owner.wish()
    client.post("/api/grants", json=body)
    subject = str(owner.person.subject)
    for path in world.home.server.glob("*.db"):
        with sqlite3.connect(path) as connection:
            dump = "\n".join(connection.iterdump())
        for secret in ("MRN-0815-Q", subject, f"{owner.person.subject:064x}", code.hex()):
            assert secret not in dump, path.name
            assert secret.upper() not in dump, path.name
