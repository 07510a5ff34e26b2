"""The server's part in a secure sum: it carries messages, keeps the order, and learns the sum only.

What the hospitals do with what it carries, and what a dishonest server cannot get from them:
``fl_client/summation.py``. Here is what an honest one does::

    call ─▶ round keys, sealed shares          (before the plan)
    commit ─▶ endorsements of one set          t of the called sites, or the round ends here
    unmask ─▶ tags, sealed reveals             from whoever is still there, t at least
    share ─▶ shares of the decryption          by quorum only; another quorum where one fails
    open ─▶ integers, the same from all

What is asked before the plan: ``calling.py``; how any step is asked, stored and ended:
``questions.py``; the last two steps: ``opening.py``. The commitment follows from what was stored.

What holds, each a test in tests/fl_server/test_summation.py:

1. The sum opens for every pattern of dropouts with a quorum alive, and to the exact integers.
2. Without a quorum the round ends without an update, and no reveal was sent.
3. Wrong tags do not stop a round: whose word is wrong is found from the stored uploads and named.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from fl_server.calling import Called, gather_keys
from fl_server.opening import SumOpening, Unmaskings
from fl_server.questions import Questions
from privacy.bfv import EncryptedSum, EncryptedUpdate, ServerContext
from privacy.blame import SERVER, Dispute, judge
from privacy.commitment import challenge, uploads_root
from privacy.parameters import ParameterSet
from privacy.sharing import QuorumMissing, quorum
from privacy.tags import SumAltered, check_tags, tag
from protocol.canonical import body, digest
from protocol.frames import Frame, MalformedFrame, decode, encode, join_parts, split_parts
from protocol.ids import SiteId
from protocol.messages import Contribution, RoundCall, RoundPlan
from protocol.progress import Step
from protocol.summation import Commitment, Endorsement, Fault, SurplusNoise, Unmasking
from protocol.terms import StudyTerms

Uploads = Mapping[SiteId, tuple[Contribution, bytes]]


@dataclass(frozen=True)
class Opened:
    """The integers of a sum, and the commitment they were opened under.

    ``surplus`` is what sites showed of noise in the integers that the sum can spare, and
    ``integers_sha256`` what the manifest names the integers by.
    """

    integers: NDArray[np.signedinteger[Any]]
    weight: int
    commitment: Commitment
    faults: tuple[Fault, ...]
    surplus: tuple[SurplusNoise, ...]
    integers_sha256: str

    @property
    def liars(self) -> tuple[SiteId, ...]:
        """The sites whose tag was not that of their upload; their uploads stand."""
        return tuple(fault.site for fault in self.faults)


@dataclass
class SecureSum:
    """The server's side of the secure sums of one study."""

    terms: StudyTerms
    questions: Questions
    signing_key: Ed25519PrivateKey
    parameters: ParameterSet
    call_seconds: float

    def __post_init__(self) -> None:
        self._context = ServerContext(self.parameters)

    def call(self, round_number: int, previous: str, candidates: Sequence[SiteId]) -> Called:
        """Ask the candidates for round keys."""
        call = RoundCall(
            study=self.terms.study,
            terms=digest(self.terms),
            round=round_number,
            sites=tuple(sorted(candidates)),
            previous=previous,
        )
        signed = call.signed_by(self.signing_key.sign)
        return gather_keys(self.questions, signed, seconds=self.call_seconds)

    def open(self, plan: RoundPlan, called: int, uploads: Uploads) -> Opened:
        """Add the uploads and have the sum opened.

        Args:
            plan: The round's.
            called: How many sites its call named; the quorum follows from it.
            uploads: By site, sorted; those that passed the gate.

        Raises:
            QuorumMissing: Too few sites are left; nothing was revealed, or too little to open.
            SumUnsound: The sites refused what they decrypted; asking again would not help.
            OpeningDisputed, OpeningMissing: See there; the round can be opened again.
        """
        threshold = quorum(called)
        if len(uploads) < max(self.terms.sites_min, threshold):
            raise QuorumMissing(len(uploads), max(self.terms.sites_min, threshold))
        total = self._add(plan, uploads)
        commitment = self._commit(plan, uploads, total)
        endorsements = self._endorsements(plan, commitment, threshold)
        if len(endorsements) < threshold:
            raise QuorumMissing(len(endorsements), threshold)
        seed = challenge(commitment, endorsements)
        shown: dict[str, object] = {
            "commitment": body(commitment),
            "endorsements": [body(one) for one in endorsements],
        }
        unmaskings, surplus = self._unmaskings(plan, commitment, shown, seed.hex(), threshold)
        if len(unmaskings) < threshold:
            raise QuorumMissing(len(unmaskings), threshold)
        faults = self._find_faults(commitment, unmaskings, uploads, total, seed)
        for fault in faults:  # its upload stands for its tag
            del unmaskings[fault.site]
        if len(unmaskings) < threshold:
            raise QuorumMissing(len(unmaskings), threshold)
        missing = [
            site
            for site in commitment.sites
            if site not in unmaskings or not unmaskings[site][0].tag
        ]
        blobs = {
            "sum": total.blob,
            "uploads": join_parts([uploads[site][1] for site in missing]),
        }
        shown["unmaskings"] = [body(unmaskings[site][0]) for site in sorted(unmaskings)]
        opening = SumOpening(self.questions, plan, commitment)
        if self.terms.opening == "threshold":
            alive = frozenset(unmaskings)
            partials = opening.partials(shown, blobs, threshold=threshold, alive=alive)
            shown["partials"] = [body(one) for one, _ in partials]
            blobs["partials"] = join_parts([share for _, share in partials])
        integers, agreed = opening.integers(unmaskings, shown, blobs)
        return Opened(integers, commitment.weight, commitment, faults, surplus, agreed)

    def _add(self, plan: RoundPlan, uploads: Uploads) -> EncryptedSum:
        started = time.thread_time()
        total = self._context.add(self._update(*uploads[site]) for site in uploads)
        self.questions.progress(Step("add", plan.round, None, seconds=time.thread_time() - started))
        return total

    def _commit(self, plan: RoundPlan, uploads: Uploads, total: EncryptedSum) -> Commitment:
        receipts = tuple(uploads[site][0].receipt for site in sorted(uploads))
        commitment = Commitment(
            study=plan.study,
            round=plan.round,
            plan=digest(plan),
            key_id=plan.key_id,
            length=self.terms.training.parameters,
            uploads_root=uploads_root(receipts),
            sum_sha256=hashlib.sha256(total.blob).hexdigest(),
            receipts=receipts,
        )
        return commitment.signed_by(self.signing_key.sign)

    def _endorsements(
        self, plan: RoundPlan, commitment: Commitment, threshold: int
    ) -> list[Endorsement]:
        named = digest(commitment)
        requests = dict.fromkeys(plan.sites, encode("endorse", body(commitment)))
        found: dict[SiteId, Endorsement] = {}

        def take(site: SiteId, reply: Frame) -> bool:
            endorsement = self.questions.signed(Endorsement, reply, "endorsement", site)
            if endorsement is None or endorsement.commitment != named:
                return False
            found[site] = endorsement
            return True

        self.questions.gather(
            "endorse", plan.round, named, requests, take=take, wait=self.questions.wait(threshold)
        )
        return [found[site] for site in sorted(found)]

    def _unmaskings(
        self,
        plan: RoundPlan,
        commitment: Commitment,
        shown: dict[str, object],
        seed: str,
        threshold: int,
    ) -> tuple[dict[SiteId, tuple[Unmasking, dict[SiteId, bytes]]], tuple[SurplusNoise, ...]]:
        """Return each site's tag and sealed reveals, and the noise that sites in the sum spare."""
        named = digest(commitment)
        requests = dict.fromkeys(plan.sites, encode("unmask", shown))
        found: dict[SiteId, tuple[Unmasking, dict[SiteId, bytes]]] = {}
        spared: dict[SiteId, SurplusNoise] = {}

        def take(site: SiteId, reply: Frame) -> bool:
            unmasking = self.questions.signed(Unmasking, reply, "unmasking", site)
            if unmasking is None or (unmasking.commitment, unmasking.challenge) != (named, seed):
                return False
            openers = [opener for opener in commitment.sites if opener != site]
            try:
                parts = split_parts(reply.blobs.get("reveals", b""), len(openers))
            except MalformedFrame:
                return False
            found[site] = (unmasking, dict(zip(openers, parts, strict=True)))
            surplus = self._surplus(reply, site, named)
            if surplus is not None and site in commitment.sites:
                spared[site] = surplus
            return True

        self.questions.gather(
            "unmask", plan.round, seed, requests, take=take, wait=self.questions.wait(threshold)
        )
        return found, tuple(spared[site] for site in sorted(spared))

    def _surplus(self, reply: Frame, site: SiteId, commitment: str) -> SurplusNoise | None:
        """Return the seeds that ride beside an unmasking; without them the noise stays."""
        blob = reply.blobs.get("surplus")
        if blob is None:
            return None
        try:
            shown = decode(blob)
        except MalformedFrame:
            return None
        spared = self.questions.signed(SurplusNoise, shown, "surplus", site)
        return None if spared is None or spared.commitment != commitment else spared

    def _find_faults(
        self,
        commitment: Commitment,
        unmaskings: Unmaskings,
        uploads: Uploads,
        total: EncryptedSum,
        seed: bytes,
    ) -> tuple[Fault, ...]:
        """Return the signed tags that are not those of the uploads their sites signed.

        The sum of all tags is compared first, and single uploads only if it is not the sum's. What
        ``judge`` finds against this server itself is not for it to say: the sites will refuse.
        """
        told = {site: tuple(map(int, one.tag)) for site, (one, _) in unmaskings.items() if one.tag}
        tags = [
            told[site] if site in told else self._tag(uploads[site], seed)
            for site in commitment.sites
        ]
        try:
            check_tags(total, tags, seed, self.parameters, expand=False)
        except SumAltered:
            verdicts = judge(
                Dispute(
                    receipts={one.site: one.ciphertext_sha256 for one in commitment.receipts},
                    uploads={site: self._update(*uploads[site]) for site in commitment.sites},
                    tags={site: told[site] for site in commitment.sites if site in told},
                    total=total,
                    sum_sha256=commitment.sum_sha256,
                    seed=seed,
                ),
                self.parameters,
            )
            return tuple(
                Fault(what=one.what, word=unmaskings[one.party][0], evidence=dict(one.evidence))
                for one in verdicts
                if one.party != SERVER and one.what == "tag-false"
            )
        return ()

    def _tag(self, upload: tuple[Contribution, bytes], seed: bytes) -> tuple[int, ...]:
        return tag(self._update(*upload), seed, self.parameters)

    def _update(self, contribution: Contribution, blob: bytes) -> EncryptedUpdate:
        return EncryptedUpdate(
            blob=blob,
            key_id=contribution.key_id,
            parameters=contribution.encryption,
            length=contribution.length,
        )
