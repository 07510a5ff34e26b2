"""The FHIR form of a grant is a valid R4 Consent, the same each time, and says what was agreed."""

import json
from datetime import date

from consent.fhir import consent_document, document_hash
from consent.purposes import category_mask, purpose_mask
from consent.terms import Terms
from protocol.ids import PatientId
from protocol.units import day_number

TERMS = Terms(
    grants=purpose_mask(["HMB"]) | category_mask(["image", "US"]),
    site=1,
    dataset=2,
    study=3,
    not_before=day_number(date(2026, 11, 21)),
    expiry=day_number(date(2027, 11, 21)),
)
OWNER = PatientId("4711")
# Elements of R4 Consent and of its provision, with those that R4 requires.
ELEMENTS = {
    "resourceType", "id", "identifier", "status", "scope", "category", "patient", "dateTime",
    "performer", "organization", "source", "policy", "policyRule", "verification", "provision",
}  # fmt: skip
REQUIRED = {"resourceType", "status", "scope", "category"}
PROVISION = {
    "type", "period", "actor", "action", "securityLabel", "purpose", "class", "code",
    "dataPeriod", "data", "provision",
}  # fmt: skip


def test_it_has_the_elements_of_the_resource_and_a_policy():
    document = consent_document(OWNER, TERMS)
    assert REQUIRED <= set(document) <= ELEMENTS
    assert set(document["provision"]) <= PROVISION
    assert document["resourceType"] == "Consent"
    assert document["policy"] == [{"uri": "urn:bithive:study:0000000000000003"}]  # ppc-1
    assert json.loads(json.dumps(document)) == document


def test_it_says_what_was_agreed():
    provision = consent_document(OWNER, TERMS)["provision"]
    assert [one["code"] for one in provision["purpose"]] == ["DUO_0000006"]
    assert [one["code"] for one in provision["class"]] == ["image", "US"]
    assert provision["class"][1]["system"].endswith("/DCM")
    assert provision["period"] == {"start": "2026-11-21", "end": "2027-11-20"}


def test_its_hash_changes_with_everything_it_says():
    others = [
        consent_document(PatientId("4712"), TERMS),
        *(
            consent_document(OWNER, Terms(**(vars(TERMS) | {name: value + 1})))
            for name, value in vars(TERMS).items()
        ),
    ]
    hashes = {document_hash(document) for document in [consent_document(OWNER, TERMS), *others]}
    assert len(hashes) == 8
    assert document_hash(consent_document(OWNER, TERMS)) in hashes
