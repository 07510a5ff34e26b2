"""A hospital signs only for whom it invited, and keeps only what opens a leaf of its own."""

import json
import secrets
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from consent.grant import new_opening, subject_of
from consent.receipts import GrantReceipt
from consent.terms import Terms
from portal import patient_cli
from portal.patient.invitations import CodeNotIssued
from portal.patient.mailbox import Mailbox, Request
from portal.patient.sealing import (
    invitation_keys,
    opening_context,
    request_mac,
    seal,
)
from portal.patient.server import open_group
from portal.patient.steward import NobodyAsked
from privacy.keys import SiteKeys
from privacy.signatures import signing_key
from protocol.ids import GrantId, PatientId, number_of
from tests.portal.patient_world import DATASET, NORTH, SOUTH, STUDY, World

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)


@pytest.fixture
def world(tmp_path):
    return World.found(tmp_path / "home")


@pytest.fixture
def mailbox(world):
    return Mailbox(world.home.server / "mailbox.db")


def ask(mailbox, code, commitment, *, mac=None, site=NORTH):
    keys = invitation_keys(code)
    mac = mac or request_mac(keys, site, commitment)
    mailbox.request(Request(keys.lookup, commitment, mac), now=NOW)


def test_a_code_enrols_the_commitment_that_came_with_it_once(world, mailbox):
    steward, code = world.steward(), world.invite()
    with pytest.raises(NobodyAsked):
        steward.enrol(code, now=NOW)
    ask(mailbox, code, 666, mac=bytes(32))  # a server's own
    ask(mailbox, code, 7)
    assert [one.commitment for one in steward.waiting()] == [7]
    with pytest.raises(NobodyAsked):
        steward.enrol(code, 666, now=NOW)
    steward.enrol(code, 7, now=NOW)
    assert open_group(world.home, world.terms).members(now=NOW) == [7]
    with pytest.raises(CodeNotIssued):
        steward.enrol(code, now=NOW)


def test_a_code_of_another_hospital_is_refused(world, mailbox):
    code = world.invite()
    ask(mailbox, code, 7)
    with pytest.raises(CodeNotIssued):
        world.steward(SOUTH).enrol(code, now=NOW)


@pytest.fixture
def send(world, mailbox):
    """Seal an opening as a patient does, with changes, and return what the hospital makes of it."""
    salt = world.steward()._openings.hospital_salt
    to = SiteKeys.load(world.home.site(NORTH) / "keys.json").agreement_public
    registry = signing_key(world.home.server / "registry.key")
    numbers = {
        "site": number_of(NORTH, bits=32),
        "dataset": number_of(DATASET, bits=32),
        "study": number_of(STUDY, bits=64),
    }

    def sent(*, numbered=None, context=None, forged=False, **changes):
        wanted = Terms(grants=4, not_before=20000, expiry=20365, **numbers | (numbered or {}))
        opening, _ = new_opening(PatientId("4711"), salt, wanted, entropy=secrets.token_bytes)
        leaf = opening.leaf()
        body = {
            "patient": "4711",
            "subject": str(opening.subject),
            "salt": str(opening.salt),
            "terms": str(wanted.packed()),
            "randomness": str(opening.randomness),
        } | changes
        body = {name: value for name, value in body.items() if value is not None}
        box = seal(
            json.dumps(body).encode(),
            to,
            context=context or opening_context("registry", 0, leaf),
        )
        receipt = GrantReceipt(
            "registry",
            b"",
            grant=GrantId("00" * 10),
            index=5,
            leaf=leaf,
            epoch=1,
            at=NOW.isoformat(),
            policy="proven",
            proven=True,
        ).signed_by(registry)
        kept = mailbox.keep(NORTH, 0, leaf, box)
        mailbox.published(kept, replace(receipt, signature=bytes(64)) if forged else receipt)
        return world.steward().fetch()

    return sent


def test_what_opens_a_leaf_is_kept(send, world):
    assert send().kept == 1
    patient, opening = world.steward()._openings.opening_at(5)
    assert patient == "4711"
    assert opening.terms.grants == 4


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"context": b"registry\n0\n7"}, "sealed-message-broken"),
        ({"patient": None}, "sealed-message-broken"),
        ({"patient": ""}, "sealed-message-broken"),
        ({"patient": 4711}, "sealed-message-broken"),
        ({"salt": "-1"}, "sealed-message-broken"),
        ({"salt": "x"}, "sealed-message-broken"),
        ({"terms": str(1 << 192)}, "sealed-message-broken"),
        ({"patient": "4712"}, "opening-foreign"),
        ({"salt": "5"}, "opening-foreign"),
        ({"subject": "5"}, "opening-foreign"),
        ({"numbered": {"site": 1}}, "opening-foreign"),
        ({"numbered": {"dataset": 1}}, "opening-foreign"),
        ({"numbered": {"study": 1}}, "opening-foreign"),
        ({"randomness": "5"}, "consent-document-mismatch"),
        ({"forged": True}, "not-signed-by-registry"),
    ],
)
def test_what_does_not_is_thrown_away_and_named(send, world, changes, code):
    fetched = send(**changes)
    assert (fetched.kept, [error.code for error in fetched.refused]) == (0, [code])
    assert "4711" not in str(fetched.refused[0])
    assert world.steward()._openings.all() == {}


def test_a_pseudonym_is_for_its_hospital(world):
    north, south = (world.steward(site)._openings.hospital_salt for site in (NORTH, SOUTH))
    assert subject_of(PatientId("4711"), north) != subject_of(PatientId("4711"), south)


def test_the_commands_print_results_alone(world, mailbox):
    def run(*arguments):
        done = CliRunner().invoke(
            patient_cli.app,
            [*arguments, "--site", "north", "--home", str(world.home.path), "--json"],
            catch_exceptions=False,
        )
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    code = run("invite", "4711")["code"]
    assert run("waiting") == {"waiting": []}
    ask(mailbox, code, 7)
    assert run("waiting")["waiting"][0]["commitment"] == "7"
    assert run("enrol", "--all") == {"enrolled": ["7"]}
    assert run("fetch") == {"kept": 0, "refused": []}
    assert run("remove", "4711") == {"removed": ["7"]}
    misused = CliRunner().invoke(patient_cli.app, ["enrol", "--site", "north"])
    assert misused.exit_code == 2
