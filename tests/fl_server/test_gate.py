"""The gate lets in what is proven, signed and of this round, and names what it keeps out."""

import hashlib
from dataclasses import dataclass, replace

import pytest

from fl_server import gate as gate_module
from fl_server.gate import (
    CertificateRefused,
    CertificateStale,
    ContributionRefused,
    Gate,
    ProvenTooMuch,
    scope_of,
)
from privacy.bfv import ServerContext
from privacy.keys import SiteKeys
from privacy.parameters import parameter_set
from privacy.signatures import BadSignature
from protocol.errors import FederationError, PrivacyError, ProofError
from tests.fl_server.study import Study
from zk.cover import CoverStatement
from zk.groth16 import ProofInvalid

pytestmark = pytest.mark.slow

# The prime of the curve's coordinates (EIP-197): a point is negated by negating its y modulo it.
COORDINATES = 21888242871839275222246405745257275088696311157297823662689037894645226208583


@dataclass(frozen=True)
class Sent:
    """An honest answer and what the gate compares it with."""

    study: Study
    contribution: object
    ciphertext: bytes
    plan: object
    lane: tuple
    keys: SiteKeys

    def signed(self, certificates=None, /, *, other=None, **receipt):
        """Return the answer with other fields, signed again by its own site."""
        changes = dict(other or {})
        if certificates is not None:
            changes["certificates"] = tuple(certificates)
            receipt.setdefault("certificates", tuple(digest_of(one) for one in certificates))
        changed = self.contribution.receipt.model_copy(update=receipt)
        signature = self.keys.sign(changed.site_bytes())
        changes["receipt"] = changed.model_copy(update={"site_signature": signature})
        return replace(self, contribution=self.contribution.model_copy(update=changes))

    def admit(self, known=None, *, day=None, context=None):
        terms = self.study.terms
        return Gate(
            terms,
            self.study.verification_key,
            context or ServerContext(parameter_set(terms.encryption)),
            lambda: terms.consent.from_day if day is None else day,
        ).admit(self.contribution, self.ciphertext, self.plan, self.lane, known or {})


def statement_of(certificate):
    return CoverStatement.from_public_inputs(list(certificate.public_inputs))


def digest_of(certificate):
    return statement_of(certificate).digest()


def stating(certificate, statement):
    return certificate.model_copy(update={"public_inputs": tuple(statement.public_inputs())})


@pytest.fixture(scope="module")
def answers(primed):
    planned = primed.planned()
    return {
        site: Sent(
            primed,
            *primed.contribution(site, planned),
            planned.plan,
            planned.lanes[site],
            primed.keys(site),
        )
        for site in primed.sites
    }


@pytest.fixture
def sent(answers):
    return answers[min(answers)]


@pytest.fixture
def certificates(sent):
    return sent.contribution.certificates


def test_what_is_accepted_counts_exactly_the_patients_whose_live_grant_allows_it(answers):
    for site, sent in answers.items():
        admitted = sent.admit()
        granting = [
            patient
            for patient, decision in sent.study.wishes.decisions[site].items()
            if decision == "grants"
        ]
        live = sum(leaf != 0 for state in sent.lane for leaf in state.leaves)
        assert admitted.receipt.proven_patients == len(granting) <= live
        assert admitted.statements == admitted.receipt.certificates
        assert admitted.update.blob == sent.ciphertext


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("round", 2, "another study or round"),
        ("study", "study-other", "another study or round"),
        ("model_sha256", "0" * 64, "another model"),
        ("consent_root", 1, "another consent root"),
        ("ciphertext_sha256", "0" * 64, "not the one it signed"),
        ("epsilon_spent", "1000", "more epsilon"),
        ("delta", "0.01", "another delta"),
        ("clipping_norm", "2", "another clipping norm"),
        ("gradients", 1_000_000, "number of gradients"),
        ("certificates", (), "names other certificates"),
    ],
)
def test_a_signed_receipt_that_says_something_else_is_refused(sent, field, value, why):
    with pytest.raises(ContributionRefused, match=why):
        sent.signed(**{field: value}).admit()


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("key_id", "0" * 16, "under another key"),
        ("encryption", "packed-bfv-99", "another parameter set"),
        ("length", 5, "another number of parameters"),
    ],
)
def test_an_envelope_that_is_not_the_studys_is_refused(sent, field, value, why):
    with pytest.raises(ContributionRefused, match=why):
        sent.signed(other={field: value}).admit()


def test_a_ciphertext_that_was_changed_on_the_way_is_refused(sent):
    changed = bytes([sent.ciphertext[0] ^ 1]) + sent.ciphertext[1:]
    with pytest.raises(ContributionRefused, match="not the one it signed"):
        replace(sent, ciphertext=changed).admit()


def test_a_signed_ciphertext_that_is_none_is_refused(sent):
    junk = b"not a ciphertext"
    signed = sent.signed(ciphertext_sha256=hashlib.sha256(junk).hexdigest())
    with pytest.raises(PrivacyError):
        replace(signed, ciphertext=junk).admit()


def test_the_ciphertext_is_not_looked_at_before_consent_is_proven(sent, certificates):
    class Untouchable:
        def check(self, update):
            raise AssertionError(update)

    stale = replace(statement_of(certificates[0]), chunk_root=1)
    with pytest.raises(ProofError):
        sent.signed([stating(certificates[0], stale)]).admit(context=Untouchable())


def test_a_key_that_is_not_registered_is_refused_although_it_signs_well(sent):
    stranger = SiteKeys.generate()
    with pytest.raises(ContributionRefused, match="not registered"):
        replace(sent, keys=stranger).signed(site_key=stranger.signing_public).admit()


def test_a_site_that_is_not_of_the_study_is_refused(sent):
    with pytest.raises(ContributionRefused, match="not registered"):
        sent.signed(site="stranger").admit()


def test_a_signature_of_somebody_else_is_refused(sent):
    with pytest.raises(BadSignature):
        replace(sent, keys=SiteKeys.generate()).signed().admit()


def test_a_receipt_changed_after_signing_is_refused(sent):
    receipt = sent.contribution.receipt.model_copy(update={"gradients": 1})
    changed = sent.contribution.model_copy(update={"receipt": receipt})
    with pytest.raises(BadSignature):
        replace(sent, contribution=changed).admit()


@pytest.mark.parametrize(
    "field", ["study", "site", "dataset", "required", "from_day", "through_day", "context"]
)
def test_a_certificate_for_another_scope_is_refused(sent, certificates, field):
    statement = statement_of(certificates[0])
    scope = replace(statement.scope, **{field: getattr(statement.scope, field) + 1})
    changed = stating(certificates[0], replace(statement, scope=scope))
    with pytest.raises(CertificateRefused, match="another study, site"):
        sent.signed([changed, *certificates[1:]]).admit()


def test_a_certificate_of_another_site_is_refused(answers, sent):
    other = answers[max(answers)].contribution.certificates
    with pytest.raises(CertificateRefused, match="not of this site's lane"):
        sent.signed(other).admit()
    here = sent.contribution.certificates[0].chunk
    with pytest.raises(CertificateRefused, match="another study, site"):
        sent.signed([other[0].model_copy(update={"chunk": here})]).admit()


def test_a_certificate_of_another_chunk_of_the_same_lane_is_refused(sent, certificates):
    first, second = certificates
    with pytest.raises(CertificateRefused):
        sent.signed([first, first.model_copy(update={"chunk": second.chunk})]).admit()


@pytest.mark.parametrize("change", [{"circuit": "cover64"}, {"key_hash": "0" * 64}])
def test_a_certificate_of_another_circuit_or_key_is_refused(sent, certificates, change):
    changed = certificates[0].model_copy(update=change)
    with pytest.raises(CertificateRefused, match="another circuit or key"):
        sent.signed([changed, *certificates[1:]]).admit()


def test_a_chunk_counted_twice_is_refused(sent, certificates):
    with pytest.raises(CertificateRefused, match="counted twice"):
        sent.signed([*certificates, certificates[0]]).admit()


def test_a_certificate_from_before_a_withdrawal_is_stale(sent, study):
    assert sent.contribution.receipt.site in study.withdraw(before_round=2)
    planned = study.planned()
    assert planned.plan.epoch.root != sent.plan.epoch.root
    lane = planned.lanes[sent.contribution.receipt.site]
    later = replace(sent, plan=planned.plan, lane=lane)
    with pytest.raises(CertificateStale, match="withdrew"):
        later.signed(consent_root=planned.plan.epoch.root).admit()


def test_a_statement_of_another_root_is_stale_even_if_it_was_verified_before(sent, certificates):
    old = stating(certificates[0], replace(statement_of(certificates[0]), chunk_root=1))
    with pytest.raises(CertificateStale):
        sent.signed([old, *certificates[1:]]).admit({digest_of(old): True})


@pytest.mark.parametrize("more", [1, -1])
def test_a_count_that_is_not_the_proven_one_is_refused(sent, more):
    proven = sent.contribution.receipt.proven_patients
    gradients = sent.study.terms.privacy.gradients(proven + more)
    with pytest.raises(ProvenTooMuch, match=str(proven)):
        sent.signed(proven_patients=proven + more, gradients=gradients).admit()


def test_an_update_that_proves_nobody_is_refused(sent):
    with pytest.raises(ProvenTooMuch):
        sent.signed([], proven_patients=0, gradients=0).admit()


@pytest.mark.parametrize("field", ["count", "records_commitment"])
def test_a_statement_that_was_not_proven_is_refused(sent, certificates, field):
    statement = statement_of(certificates[0])
    changed = replace(statement, **{field: getattr(statement, field) + 1})
    proven = sum(statement_of(one).count for one in certificates) + (field == "count")
    signed = sent.signed(
        [stating(certificates[0], changed), *certificates[1:]],
        proven_patients=proven,
        gradients=sent.study.terms.privacy.gradients(proven),
    )
    with pytest.raises(ProofInvalid):
        signed.admit()


@pytest.mark.parametrize("place", [0, 63, 100, 255])
def test_a_proof_with_a_flipped_byte_is_refused(sent, certificates, place):
    proof = bytearray(certificates[0].proof)
    proof[place] ^= 1
    flipped = certificates[0].model_copy(update={"proof": bytes(proof)})
    with pytest.raises(ProofInvalid):
        sent.signed([flipped, *certificates[1:]]).admit()


def test_a_malleated_proof_is_the_same_certificate(sent, certificates):
    """(-A, -B, C) proves what (A, B, C) does; only the statement may tell certificates apart."""
    numbers = [
        int.from_bytes(certificates[0].proof[at : at + 32], "big") for at in range(0, 256, 32)
    ]
    for ordinate in (1, 4, 5):  # y of A; both parts of the y of B
        numbers[ordinate] = COORDINATES - numbers[ordinate]
    proof = b"".join(number.to_bytes(32, "big") for number in numbers)
    assert proof != certificates[0].proof
    twin = certificates[0].model_copy(update={"proof": proof})
    admitted = sent.signed([twin, *certificates[1:]]).admit()
    assert admitted.statements == sent.contribution.receipt.certificates


def test_a_statement_that_is_known_is_not_verified_again(sent, monkeypatch):
    def never(key, proofs):
        raise AssertionError(proofs)

    known = dict.fromkeys(sent.contribution.receipt.certificates, True)
    monkeypatch.setattr(gate_module, "verify_many", never)
    assert sent.admit(known).statements == ()


def test_only_what_is_not_known_is_verified(sent, certificates):
    admitted = sent.admit({digest_of(certificates[0]): True})
    assert admitted.statements == (digest_of(certificates[1]),)


def test_the_first_and_the_last_day_of_consent_are_in_and_their_neighbours_are_out(sent):
    consent = sent.study.terms.consent
    known = dict.fromkeys(sent.contribution.receipt.certificates, True)
    for day in (consent.from_day, consent.through_day):
        sent.admit(known, day=day)
    for day in (consent.from_day - 1, consent.through_day + 1):
        with pytest.raises(ContributionRefused, match="days of consent"):
            sent.admit(known, day=day)


def test_every_refusal_of_an_update_is_of_the_federation_family(sent):
    with pytest.raises(FederationError) as caught:
        sent.signed(round=2).admit()
    assert caught.value.code == "contribution-refused"
    assert sent.contribution.receipt.site in str(caught.value)


def test_the_scope_of_a_chunk_is_that_of_no_other_chunk_or_site(primed):
    scopes = {scope_of(primed.terms, site, chunk) for site in primed.sites for chunk in range(6)}
    assert len(scopes) == 6 * len(primed.sites)
