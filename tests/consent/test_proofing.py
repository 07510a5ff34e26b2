"""A steward's statement holds as it was signed, by the hospital it names, and as nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.proofing import (
    CARER,
    CarerTermsTooLong,
    Enrolment,
    NotSignedByHospital,
    Policy,
    Proofing,
    Removal,
    check_carer_terms,
    minor,
)
from consent.terms import Terms
from protocol.ids import SiteId
from protocol.units import day_number

NORTH, SOUTH = SiteId("north"), SiteId("south")
AT = "2026-11-21T09:30:00+00:00"
UNTIL = date(2031, 5, 4)


@pytest.fixture(scope="module")
def steward():
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def public(steward):
    return steward.public_key().public_bytes_raw()


@pytest.fixture
def ward(steward):
    return Enrolment(
        site=NORTH, commitment=7, at=AT, proofing=Proofing.IN_PERSON, policy=minor(UNTIL, 8)
    ).signed_by(steward)


def test_a_signed_statement_holds(ward, public):
    ward.check(public)


@pytest.mark.parametrize(
    "change",
    [
        {"site": SOUTH},
        {"commitment": 9},
        {"at": "2026-11-22T09:30:00+00:00"},
        {"proofing": Proofing.KNOWN_PATIENT},
        {"policy": CARER},
        {"policy": minor(UNTIL, 9)},
        {"policy": minor(date(2031, 5, 5), 8)},
        {"signature": bytes(64)},
        {"signature": b""},
    ],
)
def test_a_statement_of_which_anything_was_changed_is_refused(ward, public, change):
    with pytest.raises(NotSignedByHospital):
        replace(ward, **change).check(public)


def test_a_statement_by_another_key_is_refused(ward):
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(NotSignedByHospital):
        ward.check(stranger)


def test_an_enrolment_is_no_removal(steward, public):
    enrolled = Enrolment(site=NORTH, commitment=7, at=AT, proofing=Proofing.IN_PERSON)
    signature = enrolled.signed_by(steward).signature
    with pytest.raises(NotSignedByHospital):
        Removal(site=NORTH, commitment=7, at=AT, signature=signature).check(public)


def test_a_minor_has_a_day_and_a_carer_and_nobody_else_has(ward):
    for kind, until, carer in [("minor", None, 8), ("minor", UNTIL, None), ("self", UNTIL, None)]:
        with pytest.raises(AssertionError):
            Policy(type(ward.policy.kind)(kind), until, carer)


def test_a_carer_may_grant_until_the_wards_day_and_not_one_day_longer():
    day = day_number(UNTIL)
    terms = Terms(grants=4, site=1, dataset=2, study=3, not_before=20000, expiry=day)
    check_carer_terms(minor(UNTIL, 8), terms)
    with pytest.raises(CarerTermsTooLong, match="2031-05-04"):
        check_carer_terms(minor(UNTIL, 8), replace(terms, expiry=day + 1))
