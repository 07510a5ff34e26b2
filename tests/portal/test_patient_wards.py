"""A carer decides for her ward until the ward's day, and from that day the ward alone."""

from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

pytest.importorskip("groth16py", reason="real proofs need the extra `prover`")

from consent.enrolment import MemberUnknown, WardOfAge
from consent.proofing import CarerTermsTooLong
from portal.patient.sealing import (
    Relation,
    RequestNotOfCode,
    Ward,
    check_request,
    invitation_keys,
    request_mac,
)
from portal.patient.server import create_app, open_desk, read_sheet
from portal.patient.steward import NobodyAsked
from protocol.units import day_number
from tests.portal.patient_world import NORTH, Patient, World

pytestmark = pytest.mark.slow
TODAY = datetime.now(UTC).date()
UNTIL = TODAY + timedelta(days=100)
CHILD = Ward(Relation.CHILD, UNTIL)
NOW = datetime.now(UTC)
HER_DAY = datetime(UNTIL.year, UNTIL.month, UNTIL.day, tzinfo=UTC)


class Clock:
    now = NOW

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
    return open_desk(world.home, clock=clock)


@pytest.fixture
def client(world, desk):
    return TestClient(create_app(desk, read_sheet(world.home.server / "study-sheet.json")))


@pytest.fixture
def ward(client):
    return Patient(client)


@pytest.fixture
def carer(world, client, ward):
    """Enrolled for the ward; the ward knows what her carer was told."""
    made = Patient(client)
    assert made.ask(world.invite("4712", ward=CHILD), ward=ward.commitment).status_code == 202
    world.enrol_all()
    ward.person, ward.site = made.person, made.site
    return made


def test_a_carer_acts_in_her_wards_place_until_the_day_and_the_ward_from_it_on(  # noqa: PLR0917 - fixtures
    client, carer, ward, clock, desk, world
):
    assert desk.members()[1] == [carer.commitment]
    assert carer.person.ward == CHILD
    hers, _ = carer.wish(terms=carer.terms(days=90))
    assert client.post("/api/grants", json=hers).status_code == 201
    assert world.steward().fetch().kept == 1
    prepared, _ = carer.wish(terms=carer.terms(days=95))
    clock.now = HER_DAY
    assert desk.members()[1] == [ward.commitment]
    refused = client.post("/api/grants", json=prepared)
    assert (refused.status_code, refused.json()["code"]) == (409, "enrolment-root-stale")
    own, _ = ward.wish(terms=ward.terms(days=700))
    assert client.post("/api/grants", json=own).status_code == 201
    fetched = world.steward().fetch()
    assert (fetched.kept, fetched.refused) == (1, ())


def test_what_a_carer_grants_beyond_the_day_is_not_kept(client, carer, world):
    body, _ = carer.wish(terms=carer.terms(days=100))  # its last day is the day before hers
    assert client.post("/api/grants", json=body).status_code == 201
    assert world.steward().fetch().kept == 1
    body, _ = carer.wish(terms=carer.terms(days=101))
    assert client.post("/api/grants", json=body).status_code == 201
    fetched = world.steward().fetch()
    assert fetched.kept == 0
    assert isinstance(fetched.refused[0], CarerTermsTooLong)
    assert fetched.refused[0].expiry == day_number(UNTIL) + 1


def test_a_carer_withdraws_what_she_granted_also_after_the_day(client, carer, clock):
    body, _ = carer.wish(terms=carer.terms(days=90))
    grant = client.post("/api/grants", json=body).json()["grant"]
    proof = carer.prove_withdrawal(body["leaf"]).to_json()
    clock.now = HER_DAY
    done = client.post("/api/withdrawals/proven", json={"grant": grant, "proof": proof})
    assert done.status_code == 200, done.text


def test_a_carers_code_takes_a_wards_commitment_and_no_other_code_does(world, client):
    without, with_ = Patient(client), Patient(client)
    first = world.invite("4712", ward=CHILD)
    without.ask(first)
    second = world.invite("4713")
    with_.ask(second, ward=77)
    for code in (first, second):
        with pytest.raises(NobodyAsked):
            world.steward().enrol(code, now=NOW)


def test_a_server_cannot_put_another_wards_commitment_into_a_request(world):
    keys = invitation_keys(world.invite("4712", ward=CHILD))
    mac = request_mac(keys, NORTH, 7, ward=8)
    check_request(keys, NORTH, 7, mac, ward=8)
    for ward in (9, None):
        with pytest.raises(RequestNotOfCode):
            check_request(keys, NORTH, 7, mac, ward=ward)


def test_after_a_crash_between_carer_and_ward_enrolling_goes_on(world, client, ward, monkeypatch):
    carer, code = Patient(client), world.invite("4712", ward=CHILD)
    carer.ask(code, ward=ward.commitment)
    steward = world.steward()
    with monkeypatch.context() as patch:
        patch.setattr(steward, "_signed", _only_the_carer(steward))
        with pytest.raises(ZeroDivisionError):
            steward.enrol(code, now=NOW)
    assert world.steward()._group.members(now=NOW) == []
    world.steward().enrol(code, now=NOW)
    assert world.steward()._group.members(now=NOW) == [carer.commitment]


def _only_the_carer(steward):
    signed, calls = steward._signed, []

    def until_the_second(*arguments):
        calls.append(arguments)
        return signed(*arguments) if len(calls) < 2 else 1 / 0

    return until_the_second


def test_nobody_is_invited_or_enrolled_for_a_ward_who_is_of_age(world, client, ward):
    with pytest.raises(WardOfAge):
        world.invite("4712", ward=Ward(Relation.WARD, TODAY))
    code = world.invite("4712", ward=CHILD)
    Patient(client).ask(code, ward=ward.commitment)
    with pytest.raises(WardOfAge):
        world.steward().enrol(code, now=HER_DAY)


def test_a_carer_who_was_removed_acts_no_more_and_the_patient_can_be_invited_anew(
    client, carer, world, desk, ward
):
    body, _ = carer.wish(terms=carer.terms(days=90))
    steward = world.steward()
    assert sorted(steward.remove("4712", now=NOW)) == sorted([carer.commitment, ward.commitment])
    assert desk.members()[1] == [0]
    refused = client.post("/api/grants", json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "enrolment-root-stale")
    with pytest.raises(MemberUnknown):
        steward.remove("4712", now=NOW)
    again = Patient(client)
    again.ask(world.invite("4712"))
    world.enrol_all()
    assert desk.members()[1] == [0, again.commitment]
