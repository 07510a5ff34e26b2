"""A grant as an HL7 FHIR R4 ``Consent``: the form in which a hospital's records system keeps it.

The resource is made from the patient's number and the terms alone, so it can be made again at any
time, and its hash, which is part of the leaf's salt, ties the commitment to what was agreed.
It names a patient: it stays in the hospital.

References:
    HL7 FHIR R4 (4.0.1), Consent; its invariant ppc-1 asks for a policy.
    LOINC 59284-0 (patient consent); DICOM PS3.16 for modality codes, system DCM.
"""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any, Final

from consent.purposes import Category, categories_in, purposes_in
from consent.terms import Terms
from protocol.ids import PatientId
from protocol.units import EPOCH_DAY

SCOPE_SYSTEM: Final = "http://terminology.hl7.org/CodeSystem/consentscope"
LOINC_SYSTEM: Final = "http://loinc.org"
DUO_SYSTEM: Final = "http://purl.obolibrary.org/obo/duo.owl"
DICOM_SYSTEM: Final = "http://dicom.nema.org/resources/ontology/DCM"
CATEGORY_SYSTEM: Final = "urn:bithive:data-category"


def consent_document(patient: PatientId, terms: Terms) -> dict[str, Any]:
    """Return the FHIR R4 Consent resource of a grant.

    Args:
        patient: The hospital's own number.
        terms: What was agreed. Numbers of site, data set and study appear in hexadecimal.

    Examples:
        >>> terms = Terms(grants=4, site=1, dataset=2, study=3, not_before=20000, expiry=20365)
        >>> consent_document(PatientId("4711"), terms)["provision"]["period"]
        {'start': '2024-10-04', 'end': '2025-10-03'}
    """
    last_day = terms.expiry - 1  # a FHIR period includes its end
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": SCOPE_SYSTEM, "code": "research"}]},
        "category": [{"coding": [{"system": LOINC_SYSTEM, "code": "59284-0"}]}],
        "patient": {"identifier": _identifier("patient", patient)},
        "organization": [{"identifier": _identifier("site", f"{terms.site:08x}")}],
        "policy": [{"uri": f"urn:bithive:study:{terms.study:016x}"}],
        "provision": {
            "type": "permit",
            "period": {"start": _day(terms.not_before), "end": _day(last_day)},
            "purpose": [
                {"system": DUO_SYSTEM, "code": one.code.replace(":", "_"), "display": one.name}
                for one in purposes_in(terms.grants)
            ],
            "class": [_class(one) for one in categories_in(terms.grants)],
            "data": [
                {
                    "meaning": "related",
                    "reference": {"identifier": _identifier("dataset", f"{terms.dataset:08x}")},
                }
            ],
        },
    }


def document_hash(document: dict[str, Any]) -> bytes:
    """Return the SHA-256 of the resource as sorted, compact JSON in UTF-8."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).digest()


def _identifier(kind: str, number: str) -> dict[str, str]:
    return {"system": f"urn:bithive:{kind}", "value": number}


def _class(category: Category) -> dict[str, str]:
    system = DICOM_SYSTEM if category.is_modality else CATEGORY_SYSTEM
    return {"system": system, "code": category.code, "display": category.name}


def _day(number: int) -> str:
    return (EPOCH_DAY + timedelta(days=number)).isoformat()
