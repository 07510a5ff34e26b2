"""The openings that patients' pages sealed for their hospital: hostile, until every check passed.

What was sealed came from a browser and through the server. It is used only if it opens its leaf,
for this hospital's patient, study and data set, is tied to the consent document that the hospital
would write itself, and, from a carer, stays within her office.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from consent.grant import Opening, subject_of
from consent.proofing import check_carer_terms, minor
from consent.receipts import GrantReceipt
from consent.terms import PACKED_BITS, Terms
from portal.patient.invitations import InvitationBook
from portal.patient.mailbox import Box
from portal.patient.sealing import SealedBroken, opening_context, read_object, unseal
from protocol.errors import ConsentError
from protocol.ids import PatientId, SiteId, number_of
from protocol.terms import StudyTerms
from zk.cover import DATASET_BITS, SITE_BITS, STUDY_BITS
from zk.poseidon import FIELD


class OpeningForeign(ConsentError):
    """What a patient sent does not open a leaf that this hospital can use."""

    code = "opening-foreign"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"a sealed opening cannot be used: {why}; its grant stays in the registry and covers "
            "nothing, and the patient can grant anew"
        )


@dataclass(frozen=True)
class BoxReader:
    """What a hospital reads boxes with: its keys, its salt, its list of wards."""

    site: SiteId
    terms: StudyTerms
    agreement: X25519PrivateKey = field(repr=False)
    salt: int = field(repr=False)
    book: InvitationBook

    def read(self, box: Box) -> tuple[PatientId, Opening]:
        """Return whose opening a box holds, and the opening.

        Raises:
            ConsentError: It holds none that this hospital can use; the class says why.
        """
        box.receipt.check(self.terms.consent.registry_key)
        registry = self.terms.consent.registry
        context = opening_context(registry, box.lane, box.leaf)
        body = read_object(unseal(box.sealed, self.agreement, context=context), "opening")
        patient, opening = _read(body)
        if opening.subject != subject_of(patient, self.salt):
            raise OpeningForeign("it is for nobody whom this hospital knows by that number")
        if opening.leaf() != box.leaf:
            raise OpeningForeign("it does not open its leaf")
        terms = opening.terms
        numbers = (terms.site, terms.dataset, terms.study)
        expected = (
            number_of(self.site, bits=SITE_BITS),
            number_of(self.terms.consent.dataset, bits=DATASET_BITS),
            number_of(self.terms.study, bits=STUDY_BITS),
        )
        if numbers != expected:
            raise OpeningForeign("its terms name another hospital, data set or study")
        opening.check_document(patient)
        self._check_carer(patient, terms, box.receipt)
        return patient, opening

    def _check_carer(self, patient: PatientId, terms: Terms, receipt: GrantReceipt) -> None:
        """Refuse what a carer granted beyond her office; on the ward's day and later she is free.

        Until that day nobody but the carer can prove to be in the ward's place.
        """
        office = self.book.office(patient)
        if office is None:
            return
        if datetime.fromisoformat(receipt.at).astimezone(UTC).date() < office.until:
            check_carer_terms(minor(office.until, office.carer), terms)


def _read(body: dict[str, Any]) -> tuple[PatientId, Opening]:
    """Read what a browser sealed; hostile."""
    try:
        patient = PatientId(_text(body["patient"]))
        subject, salt, packed, randomness = (
            int(_text(body[name])) for name in ("subject", "salt", "terms", "randomness")
        )
    except (KeyError, ValueError) as error:
        raise SealedBroken("opening") from error
    if not all(0 <= number < FIELD for number in (subject, salt, randomness)):
        raise SealedBroken("opening")
    if not 0 <= packed < 1 << PACKED_BITS:
        raise SealedBroken("opening")
    return patient, Opening(subject, salt, Terms.unpacked(packed), randomness)


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ValueError("not a text of 1 to 200 characters")
    return value
