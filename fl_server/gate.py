"""The gate: what a contribution must show before it counts.

Checks run from cheap to dear, and none parses the ciphertext before consent is proven::

    registered site, its signature, this round's plan
      → hash of the ciphertext, key id, parameter set
      → privacy report within the study's terms
      → one certificate per chunk: lane, scope, days, context, chunk root at the round's epoch
      → count of patients and gradients
      → the proofs themselves (py_ecc), those not verified before, in one batch
      → shape of the ciphertext

What holds, each a test in tests/fl_server/test_gate.py:

1. An accepted contribution has, for every patient it counts, a live leaf under the plan's root.
2. A certificate for another site, study, data set, purpose, day or registry state is refused.
3. The identity of a certificate is its statement, never its proof bytes.
4. What is known already is looked up: neither proofs nor unchanged chunks are computed again.

References:
    Consent coverage certificates: docs/architecture.md, "Consent".
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from fl_server.chunk_roots import ChunkRoots
from privacy.bfv import EncryptedUpdate, ServerContext
from privacy.signatures import check_signature
from protocol.errors import FederationError, ProofError
from protocol.ids import SiteId, number_of
from protocol.messages import ChunkState, Contribution, CoverageCertificate, Receipt, RoundPlan
from protocol.terms import PROTOCOL_VERSION, StudyTerms
from zk.cover import CoverStatement, Scope, context_of
from zk.groth16 import verify_many
from zk.keys import VerificationKey

PROOFS_BATCH_MAX: Final = 64


class ContributionRefused(FederationError):
    """A contribution does not belong to this round, or says something else than it should."""

    code = "contribution-refused"

    def __init__(self, site: SiteId, why: str) -> None:
        self.site = site
        self.why = why
        super().__init__(f"the update of {site} does not count in this round: {why}")


class CertificateRefused(ProofError):
    """A certificate is for something else than what this round needs."""

    code = "certificate-refused"

    def __init__(self, chunk: int, why: str) -> None:
        self.chunk = chunk
        self.why = why
        super().__init__(f"the consent certificate for chunk {chunk} does not serve: {why}")


class CertificateStale(ProofError):
    """A certificate was proven against a registry state that has passed."""

    code = "certificate-stale"

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk
        super().__init__(
            f"the consent certificate for chunk {chunk} was proven against leaves that have "
            "changed since: a patient withdrew; leave her out, prove the chunk again, and send "
            "the next round's update"
        )


class ProvenTooMuch(ProofError):
    """The contribution counts more patients than its certificates prove."""

    code = "proven-too-much"

    def __init__(self, site: SiteId, claimed: int, proven: int) -> None:
        self.site = site
        super().__init__(f"{site} counts {claimed} patients and proves {proven}")


@dataclass(frozen=True)
class Admitted:
    """A contribution that passed.

    ``statements`` were newly verified for it, which took ``proof_seconds`` of processor time.
    """

    receipt: Receipt
    update: EncryptedUpdate
    statements: tuple[str, ...]
    proof_seconds: float


@dataclass(frozen=True)
class Gate:
    """The server's conditions for one study.

    ``verification_key`` is the one the study's terms name; whether a development key may serve
    was decided when it was loaded (``zk.keys.check_allowed``). ``today`` gives the day number.
    ``roots`` remembers what lanes of earlier rounds hashed to.
    """

    terms: StudyTerms
    verification_key: VerificationKey
    context: ServerContext
    today: Callable[[], int]
    roots: ChunkRoots = field(default_factory=ChunkRoots, kw_only=True)
    _scopes: dict[tuple[SiteId, int], Scope] = field(default_factory=dict, init=False, repr=False)

    def admit(
        self,
        contribution: Contribution,
        ciphertext: bytes,
        plan: RoundPlan,
        lane: Sequence[ChunkState],
        known: Mapping[str, bool],
    ) -> Admitted:
        """Check everything; return what may be added to the sum.

        Args:
            contribution: As the site sent it.
            ciphertext: The blob that came beside it; hostile.
            plan: The round's signed plan.
            lane: The chunks of this site's lane at the plan's epoch.
            known: For a statement's digest, whether it has been verified in an earlier round.

        Raises:
            ContributionRefused: It is not for this round, or its report breaks the terms.
            CertificateRefused: A certificate is for something else.
            CertificateStale: A certificate's chunk has changed since it was proven.
            ProvenTooMuch: It counts more patients than it proves.
            ProofInvalid: A proof does not hold.
            BadSignature: The site did not sign it.
            PrivacyError: The ciphertext is malformed or under another key.
        """
        receipt = contribution.receipt
        self._check_origin(receipt, plan)
        self._check_envelope(contribution, ciphertext, plan)
        self._check_privacy(receipt)
        statements = self._check_certificates(contribution, lane)
        proven = sum(statement.count for statement in statements)
        if receipt.proven_patients != proven or proven == 0:
            raise ProvenTooMuch(receipt.site, receipt.proven_patients, proven)
        if receipt.gradients != self.terms.privacy.gradients(proven):
            raise ContributionRefused(receipt.site, "its number of gradients does not follow")
        started = time.thread_time()
        fresh = self._verify(contribution, statements, known)
        proof_seconds = time.thread_time() - started
        update = EncryptedUpdate(
            blob=ciphertext,
            key_id=contribution.key_id,
            parameters=contribution.encryption,
            length=contribution.length,
        )
        self.context.check(update)
        return Admitted(receipt, update, fresh, proof_seconds)

    def _check_origin(self, receipt: Receipt, plan: RoundPlan) -> None:
        identity = self.terms.identity(receipt.site)
        if identity is None or identity.signing_key != receipt.site_key:
            raise ContributionRefused(receipt.site, "this site and key are not registered")
        check_signature(
            identity.signing_key,
            receipt.site_signature,
            receipt.site_bytes(),
            what="contribution",
            who=receipt.site,
        )
        if (receipt.study, receipt.round) != (plan.study, plan.round):
            raise ContributionRefused(receipt.site, "it is for another study or round")
        if receipt.model_sha256 != plan.model:
            raise ContributionRefused(receipt.site, "it was trained from another model")
        if receipt.consent_root != plan.epoch.root:
            raise ContributionRefused(receipt.site, "it names another consent root")

    def _check_envelope(
        self, contribution: Contribution, ciphertext: bytes, plan: RoundPlan
    ) -> None:
        receipt = contribution.receipt
        if hashlib.sha256(ciphertext).hexdigest() != receipt.ciphertext_sha256:
            raise ContributionRefused(receipt.site, "the ciphertext is not the one it signed")
        if contribution.encryption != self.terms.encryption:
            raise ContributionRefused(receipt.site, "it uses another parameter set")
        if contribution.key_id != plan.key_id:
            raise ContributionRefused(receipt.site, "it is encrypted under another key")
        if contribution.length != self.terms.training.parameters:
            raise ContributionRefused(receipt.site, "it has another number of parameters")

    def _check_privacy(self, receipt: Receipt) -> None:
        privacy = self.terms.privacy
        if Decimal(receipt.epsilon_spent) > Decimal(str(privacy.epsilon)):
            raise ContributionRefused(receipt.site, "it spent more epsilon than the study allows")
        if Decimal(receipt.delta) != Decimal(str(privacy.delta)):
            raise ContributionRefused(receipt.site, "it reports another delta")
        if Decimal(receipt.clipping_norm) != Decimal(str(privacy.clipping_norm)):
            raise ContributionRefused(receipt.site, "it used another clipping norm")

    def _check_certificates(
        self, contribution: Contribution, lane: Sequence[ChunkState]
    ) -> list[CoverStatement]:
        consent = self.terms.consent
        if not consent.from_day <= self.today() <= consent.through_day:
            raise ContributionRefused(
                contribution.receipt.site, "the study's days of consent have passed"
            )
        leaves = {state.chunk: state.leaves for state in lane}
        receipt = contribution.receipt
        statements: list[CoverStatement] = []
        seen: set[int] = set()
        for certificate in contribution.certificates:
            if certificate.chunk in seen:
                raise CertificateRefused(certificate.chunk, "the chunk is counted twice")
            seen.add(certificate.chunk)
            if certificate.chunk not in leaves:
                raise CertificateRefused(certificate.chunk, "it is not of this site's lane")
            root = self.roots.of(leaves[certificate.chunk])
            statements.append(self._statement(receipt.site, certificate, root))
        digests = tuple(statement.digest() for statement in statements)
        if digests != receipt.certificates:
            raise ContributionRefused(receipt.site, "its receipt names other certificates")
        return statements

    def _statement(
        self, site: SiteId, certificate: CoverageCertificate, root: int
    ) -> CoverStatement:
        consent = self.terms.consent
        if certificate.circuit != consent.circuit or certificate.key_hash != consent.key_hash:
            raise CertificateRefused(certificate.chunk, "it uses another circuit or key")
        statement = CoverStatement.from_public_inputs(list(certificate.public_inputs))
        if statement.scope != self._scope(site, certificate.chunk):
            raise CertificateRefused(
                certificate.chunk, "it is for another study, site, data set, purpose or time"
            )
        if statement.chunk_root != root:
            raise CertificateStale(certificate.chunk)
        return statement

    def _scope(self, site: SiteId, chunk: int) -> Scope:
        """Return what ``scope_of`` does, once for each chunk of the sites' lanes."""
        scope = self._scopes.get((site, chunk))
        if scope is None:
            scope = self._scopes[site, chunk] = scope_of(self.terms, site, chunk)
        return scope

    def _verify(
        self,
        contribution: Contribution,
        statements: Sequence[CoverStatement],
        known: Mapping[str, bool],
    ) -> tuple[str, ...]:
        named = contribution.receipt.certificates  # the statements' digests: compared above
        fresh = {
            digest: (statement, certificate.proof)
            for digest, statement, certificate in zip(
                named, statements, contribution.certificates, strict=True
            )
            if not known.get(digest, False)
        }
        proofs = list(fresh.values())
        for start in range(0, len(proofs), PROOFS_BATCH_MAX):
            verify_many(self.verification_key, proofs[start : start + PROOFS_BATCH_MAX])
        return tuple(fresh)


def scope_of(terms: StudyTerms, site: SiteId, chunk: int) -> Scope:
    """Return what a certificate of ``site`` for ``chunk`` must be about in this study."""
    consent = terms.consent
    return Scope(
        study=number_of(terms.study, bits=64),
        site=number_of(site, bits=32),
        dataset=number_of(consent.dataset, bits=32),
        required=consent.required,
        from_day=consent.from_day,
        through_day=consent.through_day,
        context=context_of(PROTOCOL_VERSION, consent.registry, consent.key_hash, chunk),
    )
