"""A grant before it is published: its opening, which the hospital keeps, and the withdrawal code.

The leaf that goes to the registry commits to who (a pseudonym under the hospital's salt), to the
terms and to the consent document, and hides all three. The code is the patient's: whoever shows
it ends the grant, from a sheet of paper and without any proof.

    >>> terms = Terms(grants=4, site=1, dataset=2, study=3, not_before=20000, expiry=20365)
    >>> opening, code = new_opening(PatientId("4711"), 5, terms, entropy=bytes)
    >>> opening, code
    (Opening(terms hidden), WithdrawalCode(hidden))

(``entropy=bytes`` gives zeros: for examples only.)

What holds (tests/consent/test_grant.py):

1. The leaf is the one the circuit computes from the opening.
2. Two openings of the same patient and terms have unrelated leaves: the salt is fresh.
3. An opening matches its own consent document and no other.
4. Neither shows what it holds when it is printed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from consent.fhir import consent_document, document_hash
from consent.terms import Terms
from protocol.errors import ConsentError
from protocol.ids import PatientId
from zk.cover import leaf_of
from zk.poseidon import FIELD, poseidon

CODE_BYTES: Final = 16
"""128 bits: nobody guesses it, and it fits a line on paper."""


class DocumentMismatch(ConsentError):
    """A consent document is not the one its grant commits to."""

    code = "consent-document-mismatch"

    def __init__(self) -> None:
        super().__init__(
            "the consent document is not the one this grant commits to; "
            "look for the version that was signed"
        )


@dataclass(frozen=True, repr=False)
class Opening:
    """What opens a leaf. It identifies a patient to whoever knows the hospital's salt."""

    subject: int
    salt: int
    terms: Terms
    randomness: int = 0
    """What the salt was made from besides the document; needed to check a document only."""

    def __repr__(self) -> str:
        return "Opening(terms hidden)"

    def leaf(self) -> int:
        """Return the commitment that the registry publishes."""
        return leaf_of(self.subject, self.terms.packed(), self.salt)

    def check_document(self, patient: PatientId) -> None:
        """Return if the leaf commits to the consent document of this patient and these terms.

        Raises:
            DocumentMismatch: It does not.
        """
        if self.salt != _salt(self.randomness, patient, self.terms):
            raise DocumentMismatch


@dataclass(frozen=True, repr=False)
class WithdrawalCode:
    """What ends a grant; the patient keeps ``secret``, the registry only its hash."""

    secret: bytes

    def __repr__(self) -> str:
        return "WithdrawalCode(hidden)"

    @property
    def revoke_hash(self) -> bytes:
        """The SHA-256 of the secret, published with the leaf."""
        return revoke_hash_of(self.secret)


def new_opening(
    patient: PatientId,
    hospital_salt: int,
    terms: Terms,
    *,
    entropy: Callable[[int], bytes],
) -> tuple[Opening, WithdrawalCode]:
    """Make a grant's opening and its withdrawal code.

    Args:
        patient: The hospital's own number.
        hospital_salt: A secret field element, the same for all patients of the hospital.
        terms: What the patient agreed to.
        entropy: Gives so many unpredictable bytes: ``secrets.token_bytes``.
    """
    subject = subject_of(patient, hospital_salt)
    return opening_of(patient, subject, terms, entropy=entropy)


def opening_of(
    patient: PatientId, subject: int, terms: Terms, *, entropy: Callable[[int], bytes]
) -> tuple[Opening, WithdrawalCode]:
    """Make the same as ``new_opening`` where the hospital's salt is not known, as a patient does.

    Args:
        patient: The hospital's own number.
        subject: Her pseudonym, as the hospital told her.
        terms: What she agrees to.
        entropy: Gives so many unpredictable bytes: ``secrets.token_bytes``.
    """
    randomness = _element(entropy(64))
    salt = _salt(randomness, patient, terms)
    return Opening(subject, salt, terms, randomness), WithdrawalCode(entropy(CODE_BYTES))


def subject_of(patient: PatientId, hospital_salt: int) -> int:
    """Return the pseudonym of a patient: the same in all grants of one hospital."""
    number = hashlib.sha512(b"bithive subject\n" + patient.encode()).digest()
    return poseidon(_element(number), hospital_salt)


def revoke_hash_of(secret: bytes) -> bytes:
    """Return what the registry keeps of a withdrawal code."""
    return hashlib.sha256(secret).digest()


def _salt(randomness: int, patient: PatientId, terms: Terms) -> int:
    document = document_hash(consent_document(patient, terms))
    return poseidon(randomness, int.from_bytes(document, "big") % FIELD)


def _element(number: bytes) -> int:
    # 512 bits over a field of 254 leave a bias below 2^-256.
    assert len(number) == 64
    return int.from_bytes(number, "big") % FIELD
