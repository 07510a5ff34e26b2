"""A grant waits for its batch at the patient's server, over any crash; a withdrawal never waits."""

import itertools
import json
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

pytest.importorskip("groth16py", reason="real proofs need the extra `prover`")

from consent.proofing import Removal
from consent.receipts import GrantReceipt
from portal.consents import Consents
from portal.patient import server
from portal.patient.desk import Accepted
from portal.patient.server import create_app, open_desk, read_sheet
from privacy.keys import SiteKeys
from protocol.errors import StorageFailed
from protocol.ids import GrantId
from tests.portal.patient_world import NORTH, Patient, World

pytestmark = pytest.mark.slow
HOUR = timedelta(hours=1)
START = datetime.now(UTC)


class Clock:
    """The desk's, which a test moves on."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def world(tmp_path):
    return World.found(tmp_path / "home")


@pytest.fixture
def desk(world, clock):
    return open_desk(world.home, clock=clock, batch=HOUR)


def client_of(world, desk):
    return TestClient(create_app(desk, read_sheet(world.home.server / "study-sheet.json")))


@pytest.fixture
def client(world, desk):
    return client_of(world, desk)


def enrolled(world, client, patient):
    one = Patient(client)
    assert one.ask(world.invite(patient)).status_code == 202
    world.enrol_all()
    return one


@pytest.fixture
def owner(world, client):
    return enrolled(world, client, "4711")


def leaves(client):
    return [one for one in client.get("/api/lanes/north/leaves").json()["leaves"] if one != "0"]


def send(client, body):
    answer = client.post("/api/grants", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_a_grant_is_accepted_and_published_when_its_batch_is_due(world, client, desk, owner, clock):
    body, _ = owner.wish()
    answer = send(client, body)
    assert answer["state"] == "waiting"
    assert datetime.fromisoformat(answer["due"]) == START + HOUR
    assert desk.publish_due() == 0
    assert leaves(client) == []
    assert world.steward().fetch().kept == 0
    clock.now += HOUR
    assert desk.publish_due() == 1
    assert leaves(client) == [body["leaf"]]
    (change,) = client.get("/api/lanes/north/changes").json()["changes"]
    batch = client.get("/api/lanes/north/receipts", params={"epoch": change["epoch"]}).json()
    (shown,) = batch["receipts"]
    assert shown["grant"] == answer["grant"]
    fields = shown | {"leaf": int(shown["leaf"]), "signature": bytes.fromhex(shown["signature"])}
    GrantReceipt(**fields).check(world.terms.consent.registry_key)
    assert world.steward().fetch().kept == 1


def test_everybody_may_know_how_long_a_batch_is(client):
    assert client.get("/health").json()["batch_seconds"] == 3600
    assert client.get("/api/study").json()["batch_seconds"] == 3600


def test_receipts_are_given_for_a_whole_epoch_and_lane(client):
    path = "/api/lanes/north/receipts"
    assert client.get(path, params={"epoch": 0}).json()["receipts"] == []
    assert client.get(path, params={"epoch": 9}).json()["code"] == "epoch-unknown"
    assert client.get(path).json()["code"] == "request-malformed"


def test_a_restart_loses_nothing_and_begins_no_interval_anew(world, client, desk, owner, clock):
    body, _ = owner.wish()
    send(client, body)
    clock.now += HOUR / 2
    again = open_desk(world.home, clock=clock, batch=HOUR)
    assert again.publish_due() == 0
    clock.now += HOUR / 2
    with client_of(world, again) as served:  # its task looks when it starts
        until(lambda: leaves(served) == [body["leaf"]])
    assert world.steward().fetch().kept == 1


def test_batches_are_published_beside_the_server_and_no_error_ends_it(  # noqa: PLR0917 - fixtures
    world, desk, clock, owner, client, monkeypatch, caplog
):
    monkeypatch.setattr(server, "LOOK_SECONDS", 0.05)
    publish, failed = desk.publish_due, []

    def fails_once():
        if failed:
            return publish()
        failed.append(1)
        raise StorageFailed("registry.db", "secret 4711")

    body, _ = owner.wish()
    send(client, body)
    monkeypatch.setattr(desk, "publish_due", fails_once)
    with client_of(world, desk):
        until(lambda: failed)
        assert leaves(client) == []
        clock.now += HOUR
        until(lambda: leaves(client) == [body["leaf"]])
    assert "StorageFailed" in caplog.text
    assert "4711" not in caplog.text


def test_a_server_that_stops_finishes_the_batch_that_it_began(world, desk, clock, owner, client):
    body, _ = owner.wish()
    send(client, body)
    clock.now += HOUR
    began, publish = threading.Event(), desk.registry.publish_checked

    def slowly(*grants, **how):
        began.set()
        time.sleep(0.3)
        return publish(*grants, **how)

    desk.registry.publish_checked = slowly
    with client_of(world, desk):
        assert began.wait(120)
    assert leaves(client) == [body["leaf"]]
    assert world.steward().fetch().kept == 1


def until(so):
    deadline = time.monotonic() + 120
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_who_withdraws_while_it_waits_is_never_published(world, client, desk, owner, clock):
    for proven in (False, True):
        body, code = owner.wish()
        grant = send(client, body)["grant"]
        wrong = client.post("/api/withdrawals", json={"grant": grant, "code": "00" * 16})
        assert (wrong.status_code, wrong.json()["code"]) == (409, "withdrawal-code-wrong")
        how = {"code": code.hex()}
        if proven:
            how = {"proof": owner.prove_withdrawal(body["leaf"]).to_json()}
        path = "/api/withdrawals/proven" if proven else "/api/withdrawals"
        for _ in range(2):  # an answer may be lost, and the question repeated
            done = client.post(path, json={"grant": grant} | how)
            assert done.status_code == 200, done.text
            assert done.json() == {"grant": grant, "state": "never-published"}
        assert desk.mailbox.unpublished() == []
        clock.now += HOUR
        assert desk.publish_due() == 0
    assert client.get("/api/lanes/north/changes").json()["changes"] == []
    assert world.steward().fetch().kept == 0


def test_another_persons_proof_withdraws_nothing_that_waits(world, client, desk, owner):
    stranger = enrolled(world, client, "4712")
    body, _ = owner.wish()
    grant = send(client, body)["grant"]
    for proof in (stranger.prove_withdrawal(body["leaf"]).to_json(), body["proof"]):
        answer = client.post("/api/withdrawals/proven", json={"grant": grant, "proof": proof})
        assert answer.status_code in {409, 422}
    assert desk.queue.waiting_grants() == {GrantId(grant)}
    assert len(desk.mailbox.unpublished()) == 1


def test_who_was_removed_still_withdraws_what_waits(world, client, desk, owner):
    body, _ = owner.wish()
    grant = send(client, body)["grant"]
    proof = owner.prove_withdrawal(body["leaf"]).to_json()
    left = Removal(site=NORTH, commitment=owner.commitment, at=START.isoformat())
    keys = SiteKeys.load(world.home.site(NORTH) / "keys.json")
    desk.group.remove(left.signed_by(keys.signing), now=START)
    done = client.post("/api/withdrawals/proven", json={"grant": grant, "proof": proof})
    assert done.json()["state"] == "never-published"


def test_a_change_takes_the_place_of_what_waits(world, client, desk, owner, clock):
    first, code = owner.wish()
    old = send(client, first)["grant"]
    second, _ = owner.wish(terms=owner.terms(days=30))
    new = send(client, second)["grant"]
    assert (
        desk.mailbox.unpublished() == [int(first["leaf"]), int(second["leaf"])]
        or len(desk.mailbox.unpublished()) == 2
    )
    proof = owner.prove_withdrawal(first["leaf"]).to_json()
    refused = client.post("/api/withdrawals/proven", json={"grant": old, "proof": proof})
    assert refused.json()["code"] == "grant-replaced"
    clock.now += HOUR
    assert desk.publish_due() == 1
    assert leaves(client) == [second["leaf"]]
    assert (world.steward().fetch().kept, desk.mailbox.unpublished()) == (1, [])
    ended = client.post("/api/withdrawals", json={"grant": old, "code": code.hex()})
    assert ended.json()["grant"] == new  # the old paper ends what took its place
    assert leaves(client) == []


def test_withdrawing_ends_what_stands_and_what_waits(client, desk, owner, clock):
    before, _ = owner.wish()
    send(client, before)
    clock.now += HOUR
    desk.publish_due()
    change, code = owner.wish(terms=owner.terms(days=30))
    grant = send(client, change)["grant"]
    assert leaves(client) == [before["leaf"]]  # until the batch it stands
    done = client.post("/api/withdrawals", json={"grant": grant, "code": code.hex()}).json()
    assert done["grant"] != grant
    assert leaves(client) == []
    clock.now += HOUR
    assert desk.publish_due() == 0


def test_a_paper_withdraws_what_waits_at_the_command_too(world, client, desk, owner):
    body, code = owner.wish()
    grant = GrantId(send(client, body)["grant"])
    assert Consents.of(world.home.path).withdraw(grant, code, now=START) is None
    assert desk.queue.waiting() == 0


@pytest.mark.parametrize("after", ["registry", "queue", "one opening"])
def test_a_crash_after_publishing_keeps_no_opening_back(  # noqa: PLR0917 - fixtures
    world, client, desk, owner, clock, monkeypatch, after
):
    other = enrolled(world, client, "4712")
    for one in (owner, other):
        send(client, one.wish()[0])
    clock.now += HOUR
    with monkeypatch.context() as patch:
        if after == "registry":
            publish = desk.registry.publish_checked
            patch.setattr(desk.registry, "publish_checked", dying_after(publish, 1))
        elif after == "queue":
            patch.setattr(desk, "_tidy", dying_after(lambda: None, 1))
        else:
            patch.setattr(desk.mailbox, "published", dying_after(desk.mailbox.published, 1))
        with pytest.raises(KeyboardInterrupt):
            desk.publish_due()
    assert len(leaves(client)) == 2
    again = open_desk(world.home, clock=clock, batch=HOUR)
    again.publish_due()
    assert len(leaves(client)) == 2
    fetched = world.steward().fetch()
    assert (fetched.kept, fetched.refused) == (2, ())
    assert again.queue.waiting() == 0


def dying_after(done, calls):
    made = itertools.count(1)

    def until_it_dies(*arguments, **named):
        done(*arguments, **named)
        if next(made) == calls:
            raise KeyboardInterrupt

    return until_it_dies


def test_an_opening_whose_grant_was_not_accepted_before_a_crash_is_thrown_away(
    client, desk, owner, monkeypatch
):
    body, _ = owner.wish()
    with monkeypatch.context() as patch:
        patch.setattr(desk.queue, "accept", dying_after(lambda *_, **__: None, 1))
        patch.setattr(desk.mailbox, "forget", lambda _leaf: None)
        with pytest.raises(KeyboardInterrupt):
            client.post("/api/grants", json=body)
    assert desk.mailbox.unpublished() == [int(body["leaf"])]
    desk.publish_due()
    assert desk.mailbox.unpublished() == []
    send(client, body)


def test_a_grant_shown_twice_waits_once(client, desk, owner):
    body, _ = owner.wish()
    send(client, body)
    again = client.post("/api/grants", json=body)
    assert (again.status_code, again.json()["code"]) == (409, "leaf-unusable")
    assert desk.queue.waiting() == 1
    assert desk.mailbox.unpublished() == [int(body["leaf"])]


def test_what_cannot_be_published_at_once_waits(world, owner, clock, monkeypatch):
    desk = open_desk(world.home, clock=clock)
    owner.client = client_of(world, desk)
    body, _ = owner.wish()
    publish = desk.registry.publish_checked

    def full(*_, **__):
        raise StorageFailed("registry.db", "no space")

    monkeypatch.setattr(desk.registry, "publish_checked", full)
    assert send(owner.client, body)["state"] == "waiting"
    monkeypatch.setattr(desk.registry, "publish_checked", publish)
    assert desk.publish_due() == 1
    assert world.steward().fetch().kept == 1


def test_what_the_operator_has_does_not_tell_who_came_first(world, client, desk, clock):
    """Four come by their leaves and against it; sorted rows and empty logs are left."""
    people = [enrolled(world, client, f"47{number}") for number in range(4)]
    for falling in (False, True):
        bodies = sorted((one.wish()[0] for one in people), key=leaf_of, reverse=falling)
        for body in bodies:
            send(client, body)
        waiting = rows(world, "queue.db", "waiting")
        assert waiting == sorted(waiting)
        clock.now += HOUR
        assert desk.publish_due() == 4
        for name in ("queue.db", "mailbox.db"):
            assert (world.home.server / f"{name}-wal").read_bytes() == b""
            for (table,) in rows(world, name, "sqlite_master", "name"):
                assert "sequence" not in table
        assert rows(world, "queue.db", "waiting") == []
        kept = [leaf for leaf, *_ in rows(world, "mailbox.db", "sealed_openings", "leaf, sealed")]
        assert kept == sorted(kept)
        assert b"enrolmentRoot" not in (world.home.server / "queue.db").read_bytes()
        proof = json.loads(bodies[0]["proof"])["points"][0].encode()
        assert proof not in (world.home.server / "queue.db").read_bytes()


def leaf_of(body):
    return int(body["leaf"])


def rows(world, file, table, columns="*"):
    with sqlite3.connect(world.home.server / file) as connection:
        return connection.execute(f"SELECT {columns} FROM {table}").fetchall()


def test_the_places_of_a_batch_are_in_random_order(world, client, desk, clock, monkeypatch):
    people = [enrolled(world, client, f"47{number}") for number in range(3)]
    bodies = [one.wish()[0] for one in people]
    for body in bodies:
        send(client, body)
    monkeypatch.setattr(
        desk.queue, "_shuffle", lambda grants: grants.sort(key=lambda one: -one.leaf)
    )
    clock.now += HOUR
    desk.publish_due()
    expected = sorted((body["leaf"] for body in bodies), key=int, reverse=True)
    assert leaves(client) == expected


def test_the_desk_says_when_a_batch_is_due(world, owner, desk, client):
    body, _ = owner.wish()
    seen = []
    grant = desk.grant
    desk.grant = lambda wish: seen.append(grant(wish)) or seen[-1]
    send(client, body)
    assert isinstance(seen[0], Accepted)
    assert seen[0].due == START + HOUR
