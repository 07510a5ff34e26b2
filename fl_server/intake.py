"""The uploads of a round: ask who has not answered, let answers through the gate, store or refuse.

An answer counts by (run, round, site): its bytes again change nothing, other bytes are refused and
named, and what comes after the phase is kept as late. Each stored answer is one transaction.

What holds, each a test in tests/fl_server/test_faults.py or test_engine.py:

1. A stored upload is never asked for again, whatever ends the server.
2. One site's failure is a refusal with a code; it ends no round.
3. A site that sends two different updates is named, and the first stands.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from fl_server.gate import Admitted, Gate
from fl_server.phases import Deadlines, Wait
from fl_server.questions import Requests
from fl_server.reporter import Reporter
from fl_server.sites import Sites, refusal_of
from fl_server.store import ServerStore, StoredRound
from fl_server.uploads import RoundFrozen, UploadConflict
from privacy.sharing import quorum
from protocol.canonical import body, canonical, read
from protocol.errors import BitHiveError, FederationError, StorageError
from protocol.frames import Frame, encode, encode_pieces
from protocol.ids import SiteId
from protocol.messages import ChunkState, Contribution, Manifest, Refusal, TrainRequest
from protocol.progress import Step
from protocol.terms import StudyTerms

COUNT_BYTES: Final = 4


@dataclass
class Intake:
    """Collects the updates of one study's rounds."""

    terms: StudyTerms
    sites: Sites
    store: ServerStore
    gate: Gate
    report: Reporter
    deadlines: Deadlines
    _refused: set[SiteId] = field(default_factory=set, init=False)

    def collect(self, stored: StoredRound) -> None:
        """Ask the sites of the roster that have not answered, until quorum and grace or deadline.

        Raises:
            StorageError: The disk refused; what was stored is kept.
            LeaseLost: Another server has the run.
        """
        number = stored.plan.round
        accepted = set(self.store.uploads.of(number))
        self._refused = {refusal.site for refusal in self.store.uploads.refusals(number)}
        wait = Wait(
            self.deadlines.train,
            quorum=max(self.terms.sites_min, quorum(stored.called)),
            grace=self.deadlines.train_grace,
            patience=self.deadlines.patience,
            idle=self.store.answers.gather,
        )
        wait.count(len(accepted))
        due = [site for site in stored.plan.sites if site not in accepted | self._refused]
        requests = Requests(due, self._asking(stored))
        for site, reply in self.sites.ask("train", requests, f"round-{number}", wait):
            if self._consider(site, reply, stored):
                wait.count()
        answered = set(self.store.uploads.of(number)) | self._refused
        for identity in self.terms.sites:
            if identity.site not in answered:
                self.refuse(identity.site, number, "no-answer", "the site did not answer in time")

    def refuse(self, site: SiteId, number: int, code: str, reason: str) -> None:
        """Keep that a site's answer does not count; the first refusal of a round stands."""
        self._refused.add(site)
        self.report.refused(site, code)
        self.store.uploads.refuse(
            Refusal(site=site, round=number, code=code[:60], reason=reason[:1000])
        )
        self.report(Step("refuse", number, site, note=f"{code}: {reason}"))

    def stray(self, kind: str, number: int, site: SiteId, code: str, content: bytes) -> None:
        """Keep that a reply came which does not count: too late, or beside another."""
        self.store.answers.stray(number, kind, site, code, content)
        self.report.late(number, site, code, len(content))
        self.report(Step("late", number, site, note=f"{kind}: {code}"))

    def _asking(self, stored: StoredRound) -> _Asking:
        before = stored.plan.round - 1
        size = self.store.models.sent_bytes(before, self.terms.training.parameters)
        wait_seconds = math.ceil(self.deadlines.train)
        return _Asking(self.store, stored, self.store.manifest(before), size, wait_seconds)

    def _consider(self, site: SiteId, reply: Frame, stored: StoredRound) -> bool:
        """Let one answer through the gate, or record why not; say whether it is new and counts."""
        number = stored.plan.round
        if self._is_known(site, reply, number):
            return False
        if reply.kind != "contribution":
            self.refuse(site, number, *refusal_of(reply))
            return False
        started = time.thread_time()
        try:
            admitted, contribution = self._admit(site, reply, stored)
        except StorageError:
            raise  # the server's own disk: no word about the site
        except BitHiveError as error:
            self.refuse(site, number, error.code, str(error))
            return False
        left_out = left_out_by(reply, stored.lanes.get(site, ()))
        ciphertext = admitted.update.blob
        self.report.uploaded(site, len(ciphertext))
        self.store.uploads.accept(
            contribution, ciphertext, list(admitted.statements), left_out=left_out
        )
        if left_out:
            note = f"{left_out} patients withdrew after the plan and were left out"
            self.report(Step("leave-out", number, site, note=note))
        spent = time.thread_time() - started
        self.report(Step("gate", number, site, seconds=spent - admitted.proof_seconds))
        self.report(Step("verify", number, site, seconds=admitted.proof_seconds))
        return True

    def _is_known(self, site: SiteId, reply: Frame, number: int) -> bool:
        """Say whether the site has answered this round before; name one that answers otherwise."""
        uploads = self.store.uploads.of(number)
        if site not in uploads and site not in self._refused:
            return False
        content = encode(reply.kind, reply.body)  # the ciphertext's hash is in the signed receipt
        if site in self._refused:
            self.stray("train", number, site, RoundFrozen.code, content)
            return True
        kept = self.store.uploads.contribution(number, site)
        try:
            same = canonical(read(Contribution, reply.body)) == canonical(kept)
        except FederationError:
            same = False
        if not same:
            self.stray("train", number, site, UploadConflict.code, content)
        return True

    def _admit(
        self, site: SiteId, reply: Frame, stored: StoredRound
    ) -> tuple[Admitted, Contribution]:
        contribution = read(Contribution, reply.body)
        if contribution.receipt.site != site:
            raise FederationError(f"{site} answered in the name of another site")
        known = dict.fromkeys(self.store.uploads.verified(contribution.receipt.certificates), True)
        ciphertext = reply.blobs.get("update", b"")
        lane = stored.lanes.get(site, ())
        return self.gate.admit(contribution, ciphertext, stored.plan, lane, known), contribution


@dataclass(frozen=True)
class _Asking:
    """Makes the request to train of one site; the model is read for each, and kept for none."""

    store: ServerStore
    stored: StoredRound
    manifest: Manifest | None
    model_bytes: int
    wait_seconds: int

    def __call__(self, site: SiteId) -> bytes:
        plan = self.stored.plan
        chunks = self.stored.lanes.get(site, ())
        shares = self.stored.shares[site]
        return encode_pieces(
            "train",
            body(
                TrainRequest(
                    plan=plan,
                    manifest=self.manifest,
                    chunks=chunks,
                    wait_seconds=self.wait_seconds,
                )
            ),
            {
                "model": (self.model_bytes, self.store.models.sent(plan.round - 1)),
                "shares": (len(shares), [shares]),
            },
        )


def left_out_by(reply: Frame, lane: Sequence[ChunkState]) -> int:
    """Return how many patients a site says it left out: told, not proven, and paid to nobody."""
    count = int.from_bytes(reply.blobs.get("left-out", b"")[:COUNT_BYTES], "big")
    live = sum(leaf != 0 for state in lane for leaf in state.leaves)
    return count if count <= live else 0
