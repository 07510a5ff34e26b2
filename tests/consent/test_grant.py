"""A leaf hides who granted what, and opens in one way only."""

import hashlib
import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.grant import (
    CODE_BYTES,
    DocumentMismatch,
    Opening,
    WithdrawalCode,
    new_opening,
    opening_of,
    subject_of,
)
from consent.terms import Terms
from protocol.ids import PatientId
from zk.cover import Scope, Slot, state
from zk.poseidon import FIELD, poseidon

TERMS = Terms(grants=5, site=1, dataset=2, study=3, not_before=20000, expiry=20365)
OWNER, STRANGER = PatientId("4711"), PatientId("4712")
SALT = 123456789


def opened(patient=OWNER, terms=TERMS):
    return new_opening(patient, SALT, terms, entropy=secrets.token_bytes)


def test_a_patient_makes_what_her_hospital_would_without_knowing_its_salt():
    zeros = {"entropy": bytes}
    assert opening_of(OWNER, subject_of(OWNER, SALT), TERMS, **zeros) == new_opening(
        OWNER, SALT, TERMS, **zeros
    )
    opening, _ = opening_of(OWNER, subject_of(OWNER, SALT), TERMS, entropy=secrets.token_bytes)
    opening.check_document(OWNER)
    with pytest.raises(DocumentMismatch):
        opening.check_document(STRANGER)


def test_the_leaf_is_what_the_circuit_hashes():
    opening, _ = opened()
    assert opening.leaf() == poseidon(opening.subject, TERMS.packed(), opening.salt)
    slot = Slot(opening.leaf(), True, opening.subject, opening.salt, 5, 20000, 20365, 9)
    scope = Scope(
        study=3, site=1, dataset=2, required=4, from_day=20000, through_day=20364, context=0
    )
    assert state([slot], scope, blind=0).chunk_root == opening.leaf()


def test_the_same_consent_twice_is_two_unrelated_leaves_of_one_subject():
    one, other = opened()[0], opened()[0]
    assert one.subject == other.subject
    assert one.salt != other.salt
    assert one.leaf() != other.leaf()


@settings(max_examples=30)
@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, FIELD - 1))
def test_a_subject_is_one_patients_under_one_salt(one, other, salt):
    assert (subject_of(PatientId(one), salt) == subject_of(PatientId(other), salt)) == (
        one == other
    )
    assert subject_of(PatientId(one), salt) != subject_of(PatientId(one), (salt + 1) % FIELD)


def test_an_opening_matches_its_own_document():
    opened()[0].check_document(OWNER)


def test_a_document_of_another_patient_or_other_terms_is_refused():
    opening, _ = opened()
    with pytest.raises(DocumentMismatch):
        opening.check_document(STRANGER)
    wider = Terms(**(vars(TERMS) | {"grants": 7}))
    with pytest.raises(DocumentMismatch):
        Opening(opening.subject, opening.salt, wider, opening.randomness).check_document(OWNER)


def test_the_code_is_long_fresh_and_known_to_the_registry_by_its_hash_only():
    codes = [opened()[1] for _ in range(3)]
    assert len({code.secret for code in codes}) == 3
    assert all(len(code.secret) == CODE_BYTES for code in codes)
    assert codes[0].revoke_hash == hashlib.sha256(codes[0].secret).digest()


def test_neither_an_opening_nor_a_code_shows_itself():
    opening, code = opened()
    shown = repr([opening, code]) + str(opening) + f"{code}"
    for secret in (opening.subject, opening.salt, opening.randomness, code.secret.hex(), OWNER):
        assert str(secret) not in shown
    assert WithdrawalCode(code.secret) == code
