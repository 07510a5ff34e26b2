"""Read a hospital's FHIR R4 ``Consent`` into a patient's number and terms, or say what is wrong.

It is the way back from ``consent.fhir.consent_document``, for resources that a hospital's records
system made or kept. Terms say only "permit"; a resource that says more in an element that could
narrow or turn round its meaning is refused, not read in part: an exception below the provision, a
modifier extension, an actor, an action, a security label. Elements that describe without changing
what is permitted (``id``, ``meta``, ``text``, ``dateTime`` and such) are ignored.

    >>> from consent.fhir import consent_document
    >>> terms = Terms(grants=4, site=1, dataset=2, study=3, not_before=20000, expiry=20365)
    >>> text = json.dumps(consent_document(PatientId("4711"), terms))
    >>> read_consent(text) == (PatientId("4711"), terms)
    True

Purposes are read as they are listed. A purpose that includes others in the ontology does not bring
them in: who wants them lists them, as ``consent_document`` does.

What holds (tests/consent/test_fhir_in.py):

1. Reading undoes writing, for all terms.
2. What is not read is refused by the name of its element, never by the patient's number.

References:
    HL7 FHIR R4 (4.0.1), Consent; section 2.1 (modifier elements must not be ignored).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from consent.fhir import (
    CATEGORY_SYSTEM,
    DICOM_SYSTEM,
    DUO_SYSTEM,
    LOINC_SYSTEM,
    SCOPE_SYSTEM,
)
from consent.purposes import CATEGORIES, category_mask, purpose_mask
from consent.terms import Terms
from protocol.errors import ConsentError, ProofError
from protocol.ids import PatientId
from protocol.units import day_number

RESOURCE_MAX: Final = 1 << 18
"""Characters; ours have some 3,000, and a narrative may be long."""
CODES_MAX: Final = 64
PATIENT_MAX: Final = 128

DESCRIBES: Final = frozenset(
    {"id", "meta", "language", "text", "extension", "identifier", "dateTime", "performer"}
    | {"sourceAttachment", "sourceReference", "verification", "display"}
)
"""Elements that do not change what is permitted. Everything else that we do not read is refused."""
DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")


class ConsentResourceInvalid(ConsentError):
    """A FHIR Consent does not say what a grant needs, or says more than terms can."""

    code = "consent-resource-invalid"

    def __init__(self, element: str, why: str) -> None:
        self.element = element
        self.why = why
        super().__init__(f"{element}: {why}; correct the resource in the records system")


def read_consent(text: str) -> tuple[PatientId, Terms]:
    """Return whose consent a resource is, and to what.

    Args:
        text: JSON, from anybody.

    Raises:
        ConsentResourceInvalid: It is no active consent that terms can express.
    """
    resource = _Element("Consent", _parsed(text))
    resource.only("resourceType", "status", "scope", "category", "patient", "organization",
                  "policy", "provision")  # fmt: skip
    resource.expect("resourceType", "Consent")
    resource.expect("status", "active")
    resource.child("scope").coded(SCOPE_SYSTEM, "research")
    resource.single("category").coded(LOINC_SYSTEM, "59284-0")
    patient = resource.child("patient").identified("patient")
    if not 0 < len(patient) <= PATIENT_MAX or not patient.isprintable():
        raise ConsentResourceInvalid("Consent.patient.identifier.value", "it is no patient number")
    site = resource.single("organization").numbered("site", digits=8)
    study = resource.single("policy").only("uri").hexadecimal("uri", "urn:bithive:study:", 16)
    return PatientId(patient), _terms(resource.child("provision"), site, study)


def _terms(provision: _Element, site: int, study: int) -> Terms:
    provision.only("type", "period", "purpose", "class", "data")
    provision.expect("type", "permit")
    period = provision.child("period").only("start", "end")
    listed = provision.single("data").only("meaning", "reference")
    listed.expect("meaning", "related")
    dataset = listed.child("reference").numbered("dataset", digits=8)
    purposes = [one.code_in(DUO_SYSTEM) for one in provision.several("purpose")]
    grants = _purposes(purposes) | _categories(provision.several("class"))
    try:
        return Terms(
            grants=grants,
            site=site,
            dataset=dataset,
            study=study,
            not_before=period.day("start"),
            expiry=period.day("end") + 1,  # a FHIR period includes its end
        )
    except (ConsentError, ProofError) as error:
        if isinstance(error, ConsentResourceInvalid):
            raise
        raise ConsentResourceInvalid(period.name, "it covers no day that terms can name") from error


def _purposes(codes: list[str]) -> int:
    try:
        return purpose_mask(code.replace("_", ":") for code in codes)
    except ConsentError as error:
        raise ConsentResourceInvalid(
            "Consent.provision.purpose", "a code is not a purpose that terms can name"
        ) from error


def _categories(classes: list[_Element]) -> int:
    modality = {one.code for one in CATEGORIES if one.is_modality}
    codes = []
    for one in classes:
        ours = one.fields.get("system") == CATEGORY_SYSTEM
        code = one.code_in(CATEGORY_SYSTEM if ours else DICOM_SYSTEM)
        if (code in modality) == ours:
            raise ConsentResourceInvalid(one.name, "its code is not one of its system")
        codes.append(code)
    try:
        return category_mask(codes)
    except ConsentError as error:
        raise ConsentResourceInvalid(
            "Consent.provision.class", "a code is not a category that terms can name"
        ) from error


class _Element:
    """An object of the resource with its name; every question is refused by that name."""

    def __init__(self, name: str, fields: object) -> None:
        if not isinstance(fields, Mapping):
            raise ConsentResourceInvalid(name, "it is missing or is no object")
        self.name = name
        self.fields: Mapping[str, Any] = fields

    def only(self, *names: str) -> _Element:
        for field in self.fields:
            if field not in names and field not in DESCRIBES:
                shown = field if re.fullmatch(r"[A-Za-z_]{1,40}", field) else "an element"
                raise ConsentResourceInvalid(
                    f"{self.name}.{shown}", "it would say more than a grant can"
                )
        return self

    def text(self, field: str) -> str:
        value = self.fields.get(field)
        if not isinstance(value, str):
            raise ConsentResourceInvalid(f"{self.name}.{field}", "it is missing or is no text")
        return value

    def expect(self, field: str, value: str) -> None:
        if self.text(field) != value:
            raise ConsentResourceInvalid(f"{self.name}.{field}", f"it must be {value}")

    def child(self, field: str) -> _Element:
        return _Element(f"{self.name}.{field}", self.fields.get(field))

    def several(self, field: str) -> list[_Element]:
        listed, name = self.fields.get(field), f"{self.name}.{field}"
        if not isinstance(listed, list) or len(listed) > CODES_MAX:
            raise ConsentResourceInvalid(name, f"it is no list of up to {CODES_MAX}")
        return [_Element(f"{name}[{place}]", one) for place, one in enumerate(listed)]

    def single(self, field: str) -> _Element:
        listed = self.several(field)
        if len(listed) != 1:
            raise ConsentResourceInvalid(f"{self.name}.{field}", "there must be exactly one")
        return listed[0]

    def coded(self, system: str, code: str) -> None:
        coding = self.only("coding").single("coding")
        if coding.code_in(system) != code:
            raise ConsentResourceInvalid(f"{coding.name}.code", f"it must be {code}")

    def code_in(self, system: str) -> str:
        self.only("system", "version", "code")
        self.expect("system", system)
        return self.text("code")

    def identified(self, kind: str) -> str:
        identifier = self.only("identifier").child("identifier").only("system", "value")
        identifier.expect("system", f"urn:bithive:{kind}")
        return identifier.text("value")

    def numbered(self, kind: str, *, digits: int) -> int:
        self.identified(kind)
        return self.child("identifier").hexadecimal("value", "", digits)

    def hexadecimal(self, field: str, prefix: str, digits: int) -> int:
        found = re.fullmatch(f"{re.escape(prefix)}([0-9a-f]{{{digits}}})", self.text(field))
        if found is None:
            raise ConsentResourceInvalid(
                f"{self.name}.{field}", f"it must be {prefix or 'a number'} of {digits} digits"
            )
        return int(found[1], 16)

    def day(self, field: str) -> int:
        text = self.text(field)
        try:
            # Python reads more than FHIR's date: 20240101, 2024-W01-1.
            return day_number(date.fromisoformat(text if DAY.fullmatch(text) else ""))
        except ValueError as error:
            raise ConsentResourceInvalid(f"{self.name}.{field}", "it is no whole date") from error


def _parsed(text: str) -> object:
    if len(text) > RESOURCE_MAX:
        raise ConsentResourceInvalid("Consent", f"it is longer than {RESOURCE_MAX} characters")
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ConsentResourceInvalid("Consent", "it is not JSON") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError
    return fields
