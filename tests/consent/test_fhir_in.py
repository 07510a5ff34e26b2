"""A hospital's Consent reads back as the terms it was written from, or is refused by element."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.fhir import consent_document
from consent.fhir_in import RESOURCE_MAX, ConsentResourceInvalid, read_consent
from consent.purposes import CATEGORIES, PURPOSES
from consent.terms import Terms
from protocol.ids import PatientId

PATIENT = PatientId("4711")
GRANTS = sum(1 << bit for bit in range(len(PURPOSES))) | sum(
    1 << 16 + bit for bit in range(len(CATEGORIES))
)
GOOD = consent_document(
    PATIENT, Terms(grants=4 | 1 << 16, site=1, dataset=2, study=3, not_before=20000, expiry=20365)
)


def read(document):
    return read_consent(json.dumps(document))


@given(
    grants=st.integers(0, 2**32 - 1).map(lambda bits: bits & GRANTS),
    names=st.tuples(
        st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
    ),
    days=st.tuples(st.integers(0, 2**16 - 2), st.integers(0, 2**16 - 2)).map(sorted),
    patient=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=20),
)
def test_reading_undoes_writing(grants, names, days, patient):
    terms = Terms(grants, *names, days[0], days[1] + 1)
    assert read(consent_document(PatientId(patient), terms)) == (patient, terms)


def changed(path, value):
    document = copy.deepcopy(GOOD)
    *above, last = path
    owner = document
    for key in above:
        owner = owner[key]
    if value is None:
        del owner[last]
    else:
        owner[last] = value
    return document


def named(path):
    name = "Consent"
    for key in path:
        name += f"[{key}]" if isinstance(key, int) else f".{key}"
    return name


def leaves_of(value, path=()):
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves_of(value[key], (*path, key))
    elif path[-1] != "display":
        yield path


LEAVES = list(leaves_of(GOOD))


@pytest.mark.parametrize("path", LEAVES, ids=named)
@pytest.mark.parametrize("value", [None, 5, {}, [], "x" * 200, "\u0000"], ids=str)
def test_every_element_that_is_read_is_checked_and_named(path, value):
    with pytest.raises(ConsentResourceInvalid) as refusal:
        read(changed(path, value))
    assert refusal.value.element.startswith("Consent")
    assert PATIENT not in str(refusal.value)


@pytest.mark.parametrize(
    "path",
    [
        ("modifierExtension",),
        ("implicitRules",),
        ("policyRule",),
        ("contained",),
        ("provision", "provision"),
        ("provision", "actor"),
        ("provision", "action"),
        ("provision", "securityLabel"),
        ("provision", "code"),
        ("provision", "dataPeriod"),
        ("provision", "modifierExtension"),
        ("provision", "data", 0, "modifierExtension"),
        ("provision", "purpose", 0, "userSelected"),
        ("patient", "reference"),
    ],
    ids=named,
)
def test_what_could_turn_the_meaning_round_is_refused_not_ignored(path):
    with pytest.raises(ConsentResourceInvalid, match="more than a grant can") as refusal:
        read(changed(path, [{}]))
    assert refusal.value.element == named(path)


@pytest.mark.parametrize("path", [("id",), ("meta",), ("text",), ("dateTime",), ("verification",)])
def test_what_only_describes_is_ignored(path):
    assert read(changed(path, {"any": "thing"})) == read(GOOD)


@pytest.mark.parametrize(
    ("path", "value", "element"),
    [
        (("status",), "proposed", "Consent.status"),
        (("status",), "inactive", "Consent.status"),
        (("provision", "type"), "deny", "Consent.provision.type"),
        (("provision", "period", "start"), "2024", "Consent.provision.period.start"),
        (("provision", "period", "end"), "2024-02-30", "Consent.provision.period.end"),
        (("provision", "period", "end"), "2024-01-01", "Consent.provision.period"),
        (("provision", "period", "start"), "1969-12-31", "Consent.provision.period"),
        (("provision", "period", "end"), "9999-12-31", "Consent.provision.period"),
        (("provision", "purpose"), [{}] * 65, "Consent.provision.purpose"),
        (("organization",), [], "Consent.organization"),
        (("organization",), GOOD["organization"] * 2, "Consent.organization"),
        (("policy", 0, "uri"), "urn:bithive:study:00000000000000AB", "Consent.policy[0].uri"),
        (("patient",), "4711", "Consent.patient"),
        (("provision", "purpose", 0, "code"), "DUO_9999999", "Consent.provision.purpose"),
        (("provision", "class", 0, "code"), "US", "Consent.provision.class[0]"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named(path, value, element):
    with pytest.raises(ConsentResourceInvalid) as refusal:
        read(changed(path, value))
    assert refusal.value.element == element


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "5", "[" * 100_000, '{"status":"active","status":"active"}', "{" * 10],
    ids=range(7),
)
def test_what_is_no_resource_is_refused(text):
    with pytest.raises(ConsentResourceInvalid):
        read_consent(text)


def test_a_resource_too_long_is_not_even_parsed():
    with pytest.raises(ConsentResourceInvalid, match="longer"):
        read_consent(" " * (RESOURCE_MAX + 1))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=10,
    ),
    st.sampled_from([path for path in LEAVES if path != ("patient", "identifier", "value")]),
)
def test_hostile_values_are_refused_by_name(value, path):
    with pytest.raises(ConsentResourceInvalid):
        read(changed(path, 0 if value is None else value))
