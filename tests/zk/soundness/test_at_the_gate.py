"""What must not count is refused at the gate by a code of its own, and nothing counts twice.

The gate's checks of certificates run here on one chunk with a real proof; the rest of the gate
(signatures, plans, ciphertexts) is tested in tests/fl_server/test_gate.py.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from fl_server.gate import CertificateRefused, Gate, scope_of
from protocol.errors import BitHiveError
from protocol.ids import SiteId
from protocol.messages import ChunkState, CoverageCertificate
from protocol.terms import CERTIFICATE_DAYS_MAX, ConsentTerms
from tests.zk.conftest import Chunk
from tests.zk.soundness.attacks import WRAP
from tests.zk.test_groth16 import Q, R, malleated, packed, words
from tests.zk.test_second_opinions import encoded, on_the_twist, points
from zk.cover import Slot, closed_slot, leaf_of, pack_terms
from zk.keys import check_allowed
from zk.poseidon import poseidon

pytestmark = pytest.mark.slow

SITE, STRANGER = SiteId("site-1"), SiteId("site-2")
CHUNK, OTHER_CHUNK = 3, 4
FIRST_DAY = 20777


def consent_terms(vk, **changes):
    fields = {
        "registry": "registry-1",
        "registry_key": "00" * 32,
        "dataset": "images",
        "required": 0b101,
        "from_day": FIRST_DAY,
        "through_day": FIRST_DAY + CERTIFICATE_DAYS_MAX,
        "circuit": "cover8",
        "key_hash": vk.hash,
    }
    return ConsentTerms(**fields | changes)


def slot_for(scope, number):
    subject, salt, record = (poseidon(kind, number) for kind in (1, 2, 3))
    dates = scope.from_day, scope.through_day + 1
    leaf = leaf_of(subject, pack_terms(0b111, scope.site, scope.dataset, scope.study, *dates), salt)
    return Slot(leaf, True, subject, salt, 0b111, *dates, record)


class Admission:
    """A gate, an honest certificate, and what the gate says to others."""

    def __init__(self, vk, prover) -> None:
        self.vk = vk
        self.terms = SimpleNamespace(study="study-1", consent=consent_terms(vk))
        scope = scope_of(self.terms, SITE, CHUNK)
        slots = [slot_for(scope, number) for number in range(8)]
        slots[2], slots[5] = closed_slot(slots[2].leaf), closed_slot(0)
        self.chunk = Chunk(tuple(slots), scope, 5)
        statement, proof = prover.prove(slots, scope, 5)
        self.honest = CoverageCertificate(
            circuit="cover8",
            chunk=CHUNK,
            key_hash=vk.hash,
            public_inputs=tuple(statement.public_inputs()),
            proof=proof,
        )
        leaves = tuple(slot.leaf for slot in slots)
        self.lane = [
            ChunkState(chunk=number, leaves=leaves, siblings=()) for number in (CHUNK, OTHER_CHUNK)
        ]

    def admit(self, *certificates, site=SITE, known=None, terms=None):
        """Return the statements that count, and the digests of those newly verified."""
        gate = Gate(terms or self.terms, self.vk, None, lambda: FIRST_DAY)
        digests = tuple(statement_of(one).digest() for one in certificates)
        receipt = SimpleNamespace(site=site, certificates=digests)
        sent = SimpleNamespace(receipt=receipt, certificates=certificates)
        statements = gate._check_certificates(sent, self.lane)
        return statements, gate._verify(sent, statements, known or {})

    def but(self, **changes):
        return self.honest.model_copy(update=changes)

    def stating(self, position, value):
        numbers = list(self.honest.public_inputs)
        numbers[position] = value
        return self.but(public_inputs=tuple(numbers))


def statement_of(certificate):
    """What its digest is taken of; the gate itself reads the numbers strictly."""
    from zk.cover import CoverStatement

    try:
        return CoverStatement.from_public_inputs(list(certificate.public_inputs))
    except BitHiveError:
        return SimpleNamespace(digest=lambda: "none")


@pytest.fixture(scope="module")
def admission(vk, prover):
    return Admission(vk, prover)


def test_an_honest_certificate_counts_its_patients(admission):
    (statement,), fresh = admission.admit(admission.honest)
    assert statement == admission.chunk.statement
    assert fresh == (statement.digest(),)
    assert statement.count == 6


def test_a_malleated_proof_cannot_be_counted_beside_its_twin(admission):
    twin = admission.but(proof=malleated(admission.honest.proof))
    with pytest.raises(CertificateRefused, match="counted twice"):
        admission.admit(admission.honest, twin)


def test_a_malleated_proof_cannot_be_counted_as_another_chunk(admission):
    """Not even where the other chunk holds the same leaves: the context names the chunk."""
    twin = admission.but(proof=malleated(admission.honest.proof), chunk=OTHER_CHUNK)
    with pytest.raises(CertificateRefused, match="another study, site"):
        admission.admit(admission.honest, twin)


def test_a_malleated_proof_alone_is_the_certificate_it_was_made_of(admission):
    twin = admission.but(proof=malleated(admission.honest.proof))
    statements, fresh = admission.admit(twin)
    assert [one.digest() for one in statements] == [admission.chunk.statement.digest()]
    # Known by its statement, it is not verified again, nor is it anything new.
    assert admission.admit(twin, known=dict.fromkeys(fresh, True)) == (statements, ())


def point_outside_the_subgroup(admission):
    A, _B, C = points(admission.honest.proof)
    return admission.but(proof=encoded(A, on_the_twist(random.Random(1)), C))


def word_changed(admission, word, change):
    n = words(admission.honest.proof)
    n[word] = change(n[word])
    return admission.but(proof=packed(n))


def public_input_changed(position, change):
    return lambda admission: admission.stating(
        position, change(admission.honest.public_inputs[position])
    )


# What must not count: the refusal's code, and how to come by it.
REFUSALS = {
    "a stale root": ("certificate-stale", public_input_changed(2, lambda root: root ^ 1)),
    "another study": ("certificate-refused", public_input_changed(3, lambda study: study ^ 1)),
    "a foreign hospital's lane": ("certificate-refused", public_input_changed(4, lambda s: s ^ 1)),
    "another data set": ("certificate-refused", public_input_changed(5, lambda one: one ^ 1)),
    "fewer purposes": ("certificate-refused", public_input_changed(6, lambda _mask: 0b001)),
    "an earlier first day": ("certificate-refused", public_input_changed(7, lambda day: day - 1)),
    "overlong validity": ("certificate-refused", public_input_changed(8, lambda day: day + 1)),
    "another context": ("certificate-refused", public_input_changed(9, lambda one: one ^ 1)),
    "one patient more": ("proof-invalid", public_input_changed(1, lambda count: count + 1)),
    "other records": ("proof-invalid", public_input_changed(0, lambda ds: ds ^ 1)),
    "more patients than slots": ("statement-malformed", public_input_changed(1, lambda _n: 65)),
    "a number not reduced": ("statement-malformed", public_input_changed(0, lambda ds: ds + R)),
    "a day of 17 bits": ("proof-field-out-of-range", public_input_changed(8, lambda d: d + WRAP)),
    "a coordinate not reduced": ("proof-invalid", lambda a: word_changed(a, 6, lambda x: x + Q)),
    "a point off the curve": ("proof-invalid", lambda a: word_changed(a, 0, lambda x: x ^ 1)),
    "a point outside the subgroup": ("proof-invalid", point_outside_the_subgroup),
    "a proof cut short": ("proof-invalid", lambda a: a.but(proof=a.honest.proof[:-1])),
    "another key": ("certificate-refused", lambda a: a.but(key_hash="00" * 32)),
    "another circuit": ("certificate-refused", lambda a: a.but(circuit="cover64")),
    "a chunk of nobody's": ("certificate-refused", lambda a: a.but(chunk=9)),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_must_not_count_is_refused_by_its_code(admission, what):
    code, made = REFUSALS[what]
    with pytest.raises(BitHiveError) as refused:
        admission.admit(made(admission))
    assert refused.value.code == code


def test_a_certificate_does_not_serve_another_hospital(admission):
    with pytest.raises(CertificateRefused, match="another study, site"):
        admission.admit(admission.honest, site=STRANGER)


def test_a_certificate_does_not_serve_a_study_of_another_name(admission):
    other = SimpleNamespace(study="study-2", consent=admission.terms.consent)
    with pytest.raises(CertificateRefused, match="another study"):
        admission.admit(admission.honest, terms=other)


def test_a_study_cannot_ask_for_validity_beyond_a_month(vk):
    with pytest.raises(ValidationError, match="31 days"):
        consent_terms(vk, through_day=FIRST_DAY + CERTIFICATE_DAYS_MAX + 1)


def test_a_development_key_does_not_serve_where_forgeries_matter(vk):
    with pytest.raises(BitHiveError) as refused:
        check_allowed(vk, [vk.hash], allow_development=False)
    assert refused.value.code == "development-key-refused"
