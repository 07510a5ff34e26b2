"""A server's whole way with a contribution whose certificates it has seen, for measuring.

The gate is the real one, over a real store: the site's signature, the hashes, the privacy report,
every certificate's lane, scope and chunk root, the look-up of what is known, the counts. Only the
ciphertext is a stand-in of 1 KiB whose form is not checked: what ciphertexts cost is the question
of experiments/aggregation_cost.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

from fl_server.gate import Gate, scope_of
from fl_server.store import PlannedRound, ServerStore
from privacy.bfv import EncryptedUpdate, ServerContext
from privacy.keys import SiteKeys
from protocol.ids import KeyId, SiteId, StudyId
from protocol.messages import (
    ChunkState,
    Contribution,
    CoverageCertificate,
    Epoch,
    Receipt,
    RoundPlan,
)
from protocol.terms import ConsentTerms, PrivacyTerms, SiteIdentity, StudyTerms, TrainingTerms
from zk.cover import CoverStatement, Scope
from zk.keys import VerificationKey

SITE: Final = SiteId("site-1")
STUDY: Final = StudyId("study-1")
REQUIRED: Final = 0b101
FIRST_DAY, LAST_DAY = 20777, 20807
BLOB: Final = bytes(1024)
DIGEST: Final = "11" * 32
KEY_ID: Final = KeyId("22" * 8)


@dataclass(frozen=True)
class Study:
    """What a site proves for: terms, the key of the proofs, and the site's own keys."""

    terms: StudyTerms
    vk: VerificationKey
    keys: SiteKeys

    @classmethod
    def of(cls, vk: VerificationKey, circuit: str) -> Study:
        """Return a study whose proofs this key verifies."""
        keys = SiteKeys.generate()
        return cls(_terms(vk, circuit, keys), vk, keys)

    def scope(self, chunk: int) -> Scope:
        """Return what a certificate for a chunk must be about."""
        return scope_of(self.terms, SITE, chunk)


def _terms(vk: VerificationKey, circuit: str, keys: SiteKeys) -> StudyTerms:
    """Return terms under which certificates of this key serve; most of the rest is anything."""
    return StudyTerms(
        study=STUDY,
        title="consent proof cost",
        rounds=1,
        sites=tuple(
            SiteIdentity(
                site=SiteId(f"site-{number}"),
                signing_key=one.signing_public,
                agreement_key=one.agreement_public,
            )
            for number, one in enumerate((keys, SiteKeys.generate(), SiteKeys.generate()), 1)
        ),
        server_key=bytes(32),
        training=TrainingTerms(
            network="none",
            input_shape=(1,),
            tensor_sizes=(1,),
            reference_patients=1,
            learning_rate=1,
            server_learning_rate=1,
            server_momentum=0,
            augment=False,
        ),
        privacy=PrivacyTerms(
            epsilon=1,
            delta=1e-6,
            sampling_rate=1,
            noise_multiplier=1,
            clipping_norm=1,
            steps=1,
            accountant="rdp",
        ),
        consent=ConsentTerms.model_validate(
            {
                "registry": "experiment",
                "registry_key": bytes(32),
                "dataset": "images",
                "required": REQUIRED,
                "from_day": FIRST_DAY,
                "through_day": LAST_DAY,
                "circuit": circuit,
                "key_hash": vk.hash,
            }
        ),
        encryption="packed-bfv-8",
    )


class GatePath:
    """A server that has verified one contribution's certificates, and meets them again."""

    def __init__(
        self,
        study: Study,
        proven: Sequence[tuple[CoverStatement, bytes]],
        lane: Sequence[Sequence[int]],
    ) -> None:
        """Let the server see the certificates once.

        Args:
            study: What they were proven for.
            proven: A statement and its proof for each chunk of the lane, in order.
            lane: The leaves of each chunk.
        """
        self._lane = tuple(
            ChunkState(chunk=chunk, leaves=tuple(leaves), siblings=())
            for chunk, leaves in enumerate(lane)
        )
        self._plan = _plan(study.terms)
        self._contribution = _contribution(study.terms, study.keys, proven)
        unchecked = cast("ServerContext", _Unchecked())
        self._gate = Gate(study.terms, study.vk, unchecked, lambda: FIRST_DAY)
        self._folder = TemporaryDirectory(prefix="bithive-gate-")
        self._store = ServerStore(Path(self._folder.name) / "server.db")
        self._store.plan(PlannedRound(self._plan, called=3, lanes={}, shares={}))
        statements = list(self._contribution.receipt.certificates)
        self._store.uploads.accept(self._contribution, BLOB, statements)
        self.again()

    def again(self) -> None:
        """Look up what is known, and admit."""
        statements = self._contribution.receipt.certificates
        known = dict.fromkeys(self._store.uploads.verified(statements), True)
        admitted = self._gate.admit(self._contribution, BLOB, self._plan, self._lane, known)
        assert admitted.statements == ()

    def close(self) -> None:
        """Remove the store."""
        self._folder.cleanup()


class _Unchecked:
    """Stands for the server's side of the encryption, and takes every ciphertext."""

    def check(self, update: EncryptedUpdate) -> None:
        """Return."""


def _plan(terms: StudyTerms) -> RoundPlan:
    epoch = Epoch(registry="experiment", number=1, root=1, at="", signature=b"")
    return RoundPlan.model_construct(
        study=terms.study,
        terms=DIGEST,
        round=1,
        model=DIGEST,
        key_id=KEY_ID,
        steps=(1.0,),
        epoch=epoch,
        call=DIGEST,
        roster=(),
        previous=DIGEST,
        signature=b"",
    )


def _contribution(
    terms: StudyTerms, keys: SiteKeys, proven: Sequence[tuple[CoverStatement, bytes]]
) -> Contribution:
    patients = sum(statement.count for statement, _ in proven)
    receipt = Receipt(
        study=terms.study,
        round=1,
        site=SITE,
        ciphertext_sha256=hashlib.sha256(BLOB).hexdigest(),
        consent_root=1,
        certificates=tuple(statement.digest() for statement, _ in proven),
        proven_patients=patients,
        gradients=terms.privacy.gradients(patients),
        epsilon_spent="1",
        delta="0.000001",
        clipping_norm="1",
        model_sha256=DIGEST,
        site_key=keys.signing_public,
    )
    signature = keys.sign(receipt.site_bytes())
    return Contribution(
        receipt=receipt.model_copy(update={"site_signature": signature}),
        encryption=terms.encryption,
        key_id=KEY_ID,
        length=terms.training.parameters,
        certificates=tuple(
            CoverageCertificate(
                circuit=terms.consent.circuit,
                chunk=chunk,
                key_hash=terms.consent.key_hash,
                public_inputs=tuple(statement.public_inputs()),
                proof=proof,
            )
            for chunk, (statement, proof) in enumerate(proven)
        ),
    )
