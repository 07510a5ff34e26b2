"""The server's part in a secure sum: it carries messages, keeps the order, and learns the sum only.

What the hospitals do with what it carries, and what a dishonest server cannot get from them:
``fl_client/summation.py``. Here is what an honest one does::

    call ─▶ round keys, sealed shares          (before the plan)
    commit ─▶ endorsements of one set          t of the called sites, or the round ends here
    unmask ─▶ tags, sealed reveals             from whoever is still there, t at least
    share ─▶ shares of the decryption          by quorum only; another quorum where one fails
    open ─▶ integers, the same from all

Each step can be asked again after a crash: hospitals give the same answers to the same questions,
and the commitment follows from what was stored.

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
from typing import Final, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from fl_server.sites import Sites, refusal_of
from privacy.bfv import EncryptedSum, EncryptedUpdate, ServerContext
from privacy.blame import SERVER, Dispute, judge
from privacy.commitment import challenge, uploads_root
from privacy.parameters import ParameterSet
from privacy.sharing import QuorumMissing, quorum
from privacy.signatures import check_site_message
from privacy.tags import SumAltered, check_tags, tag
from protocol.errors import FederationError
from protocol.frames import Frame, MalformedFrame, decode, encode, join_parts, split_parts
from protocol.ids import SiteId
from protocol.messages import (
    Contribution,
    RoundCall,
    RoundKey,
    RoundPlan,
    SiteMessage,
    StudyTerms,
    body,
    digest,
    read,
)
from protocol.progress import Progress, Step
from protocol.summation import (
    Commitment,
    Endorsement,
    Fault,
    Opening,
    Partial,
    SurplusNoise,
    Unmasking,
)

AnySiteMessage = TypeVar("AnySiteMessage", bound=SiteMessage)
INTEGERS_FROM: Final = 2
"""How many sites send the opened integers; the others send their hash only."""
UNSOUND: Final = frozenset(
    {
        "sum-corrupt",
        "secret-unrecoverable",
        "ciphertext-malformed",
        "decryption-share-malformed",
        "decryption-share-foreign",
    }
)
"""How a site refuses a sum whose tags add up: no later answer would differ."""
OPENERS_MIN: Final = 2
"""One opening alone is not believed."""
INTEGER_BYTES: Final = 8
Uploads = Mapping[SiteId, tuple[Contribution, bytes]]


class OpeningDisputed(FederationError):
    """Two sites opened the same encrypted sum to different integers."""

    code = "opening-disputed"

    def __init__(self, round_number: int) -> None:
        super().__init__(
            f"the sites do not agree on what the sum of round {round_number} holds; the round is "
            "not closed, compare the sites' versions and keys"
        )


class OpeningMissing(FederationError):
    """Too few sites opened the sum in time."""

    code = "opening-missing"

    def __init__(
        self, round_number: int, present: int, declined: Mapping[SiteId, str] | None = None
    ) -> None:
        self.declined = dict(declined or {})
        why = "".join(f"; {site} declined: {code}" for site, code in self.declined.items())
        super().__init__(
            f"only {present} sites opened the sum of round {round_number} and two are needed; run "
            f"again once they are back{why}"
        )


class SumUnsound(FederationError):
    """The sites decrypted the sum and found that it is none: an upload in it was no honest one."""

    code = "sum-unsound"

    def __init__(self, round_number: int, declined: Mapping[SiteId, str]) -> None:
        self.declined = dict(declined)
        codes = ", ".join(sorted(set(self.declined.values())))
        super().__init__(
            f"{len(self.declined)} sites could not open the sum of round {round_number} ({codes}): "
            "a site sent something else than a masked update, or revealed something else than its "
            "secrets; the round ends without an update, look for that site's log"
        )


@dataclass(frozen=True)
class Called:
    """What came of a call: the round keys, and each site's sealed shares by holder."""

    call: RoundCall
    keys: dict[SiteId, RoundKey]
    envelopes: dict[SiteId, dict[SiteId, bytes]]

    def plan_envelopes(self, roster: Sequence[SiteId]) -> dict[SiteId, bytes]:
        """Return, for each site of the roster, what the others of it sealed for it."""
        return {
            holder: join_parts(
                [self.envelopes[dealer][holder] for dealer in roster if dealer != holder]
            )
            for holder in roster
        }


@dataclass(frozen=True)
class Opened:
    """The integers of a sum, and the commitment they were opened under.

    ``surplus`` is what sites showed of noise in the integers that the sum can spare.
    """

    integers: NDArray[np.int64]
    weight: int
    commitment: Commitment
    faults: tuple[Fault, ...]
    surplus: tuple[SurplusNoise, ...] = ()

    @property
    def liars(self) -> tuple[SiteId, ...]:
        """The sites whose tag was not that of their upload; their uploads stand."""
        return tuple(fault.site for fault in self.faults)

    @property
    def integers_sha256(self) -> str:
        """What the manifest names the integers by."""
        return hashlib.sha256(self.integers.astype("<i8").tobytes()).hexdigest()


@dataclass
class SecureSum:
    """The server's side of the secure sums of one study."""

    terms: StudyTerms
    sites: Sites
    signing_key: Ed25519PrivateKey
    parameters: ParameterSet
    progress: Progress
    call_seconds: float
    open_seconds: float

    def __post_init__(self) -> None:
        self._context = ServerContext(self.parameters)

    # Before the round

    def call(self, round_number: int, previous: str, candidates: Sequence[SiteId]) -> Called:
        """Ask the candidates for round keys."""
        call = RoundCall(
            study=self.terms.study,
            terms=digest(self.terms),
            round=round_number,
            sites=tuple(sorted(candidates)),
            previous=previous,
        )
        call = call.signed_by(self.signing_key.sign)
        called = Called(call, {}, {})
        frame = encode("call", body(call))
        requests = dict.fromkeys(call.sites, frame)
        group = f"call-{round_number}"
        for site, reply in self.sites.ask("call", requests, group, self.call_seconds):
            key = self._signed(RoundKey, reply, "round-key", site)
            if key is None or not _serves(key, call):
                continue
            others = [other for other in call.sites if other != site]
            try:
                parts = split_parts(reply.blobs.get("shares", b""), len(others))
            except MalformedFrame:
                continue
            hashes = tuple(hashlib.sha256(part).hexdigest() for part in parts)
            if hashes != key.envelopes:
                continue
            called.keys[site] = key
            called.envelopes[site] = dict(zip(others, parts, strict=True))
            self.progress(Step("call", round_number, site, len(called.keys), len(call.sites)))
        return called

    # After the uploads

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
        endorsements = self._endorsements(plan, commitment)
        if len(endorsements) < threshold:
            raise QuorumMissing(len(endorsements), threshold)
        seed = challenge(commitment, endorsements)
        shown: dict[str, object] = {
            "commitment": body(commitment),
            "endorsements": [body(one) for one in endorsements],
        }
        unmaskings, surplus = self._unmaskings(plan, commitment, shown, seed.hex())
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
        if self.terms.opening == "threshold":
            partials = self._partials(plan, commitment, shown, blobs, threshold)
            shown["partials"] = [body(one) for one, _ in partials]
            blobs["partials"] = join_parts([share for _, share in partials])
        integers = self._openings(plan, commitment, unmaskings, shown, blobs)
        return Opened(integers, commitment.weight, commitment, faults, surplus)

    def _add(self, plan: RoundPlan, uploads: Uploads) -> EncryptedSum:
        started = time.thread_time()
        total = self._context.add([self._update(one, blob) for one, blob in uploads.values()])
        self.progress(Step("add", plan.round, None, seconds=time.thread_time() - started))
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

    def _endorsements(self, plan: RoundPlan, commitment: Commitment) -> list[Endorsement]:
        named = digest(commitment)
        requests = dict.fromkeys(plan.sites, encode("endorse", body(commitment)))
        found: dict[SiteId, Endorsement] = {}
        group = f"endorse-{plan.round}"
        for site, reply in self.sites.ask("endorse", requests, group, self.open_seconds):
            endorsement = self._signed(Endorsement, reply, "endorsement", site)
            if endorsement is not None and endorsement.commitment == named:
                found[site] = endorsement
                self.progress(Step("endorse", plan.round, site))
        return [found[site] for site in sorted(found)]

    def _unmaskings(
        self, plan: RoundPlan, commitment: Commitment, shown: dict[str, object], seed: str
    ) -> tuple[dict[SiteId, tuple[Unmasking, dict[SiteId, bytes]]], tuple[SurplusNoise, ...]]:
        """Return each site's tag and sealed reveals, and the noise that sites in the sum spare."""
        named = digest(commitment)
        requests = dict.fromkeys(plan.sites, encode("unmask", shown))
        found: dict[SiteId, tuple[Unmasking, dict[SiteId, bytes]]] = {}
        spared: dict[SiteId, SurplusNoise] = {}
        group = f"unmask-{plan.round}"
        for site, reply in self.sites.ask("unmask", requests, group, self.open_seconds):
            unmasking = self._signed(Unmasking, reply, "unmasking", site)
            if unmasking is None or (unmasking.commitment, unmasking.challenge) != (named, seed):
                continue
            openers = [opener for opener in commitment.sites if opener != site]
            try:
                parts = split_parts(reply.blobs.get("reveals", b""), len(openers))
            except MalformedFrame:
                continue
            found[site] = (unmasking, dict(zip(openers, parts, strict=True)))
            surplus = self._surplus(reply, site, named)
            if surplus is not None and site in commitment.sites:
                spared[site] = surplus
            self.progress(Step("unmask", plan.round, site))
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
        spared = self._signed(SurplusNoise, shown, "surplus", site)
        return None if spared is None or spared.commitment != commitment else spared

    def _find_faults(
        self,
        commitment: Commitment,
        unmaskings: Mapping[SiteId, tuple[Unmasking, dict[SiteId, bytes]]],
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
            check_tags(total, tags, seed, self.parameters)
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

    def _partials(
        self,
        plan: RoundPlan,
        commitment: Commitment,
        shown: dict[str, object],
        blobs: dict[str, bytes],
        threshold: int,
    ) -> list[tuple[Partial, bytes]]:
        """Get a quorum's shares of the decryption; where one of it fails, ask another quorum."""
        willing = list(plan.sites)
        while len(willing) >= threshold:
            asked = willing[:threshold]
            frame = encode("share", {**shown, "quorum": asked}, blobs)
            requests = dict.fromkeys(asked, frame)
            found: dict[SiteId, tuple[Partial, bytes]] = {}
            group = f"share-{plan.round}"
            for site, reply in self.sites.ask("share", requests, group, self.open_seconds):
                partial = self._signed(Partial, reply, "partial", site)
                share = reply.blobs.get("share", b"")
                named = None if partial is None else (partial.commitment, list(partial.quorum))
                if partial is None or named != (digest(commitment), asked):
                    continue
                if hashlib.sha256(share).hexdigest() == partial.share_sha256:
                    found[site] = (partial, share)
                    self.progress(Step("share", plan.round, site))
            if set(found) == set(asked):
                return [found[site] for site in asked]
            willing = [site for site in willing if site not in asked or site in found]
        raise QuorumMissing(len(willing), threshold)

    def _openings(
        self,
        plan: RoundPlan,
        commitment: Commitment,
        unmaskings: Mapping[SiteId, tuple[Unmasking, dict[SiteId, bytes]]],
        shown: dict[str, object],
        blobs: dict[str, bytes],
    ) -> NDArray[np.int64]:
        """Ask the sites in the sum to open it; all that answer must agree."""

        def frame(opener: SiteId, *, send: bool) -> bytes:
            revealed = [
                unmaskings[site][1][opener] for site in sorted(unmaskings) if site != opener
            ]
            return encode(
                "open",
                {**shown, "send_integers": send},
                {**blobs, "reveals": join_parts(revealed)},
            )

        senders = set(commitment.sites[:INTEGERS_FROM])
        requests = {one: frame(one, send=one in senders) for one in commitment.sites}
        declined: dict[SiteId, str] = {}
        openings, integers = self._ask_to_open(plan, commitment, requests, declined)
        if not openings and len(declined) >= OPENERS_MIN and set(declined.values()) <= UNSOUND:
            raise SumUnsound(plan.round, declined)
        for site in sorted(openings):
            if integers is not None:
                break
            # The senders are gone; who has opened the sum opens it again to the same integers.
            again = {site: frame(site, send=True)}
            openings, integers = self._ask_to_open(
                plan, commitment, again, declined, known=openings
            )
        if len({(one.integers_sha256, one.weight) for one in openings.values()}) > 1:
            raise OpeningDisputed(plan.round)
        if len(openings) < OPENERS_MIN or integers is None:
            raise OpeningMissing(plan.round, len(openings), declined)
        if any(one.weight != commitment.weight for one in openings.values()):
            raise OpeningDisputed(plan.round)
        return integers

    def _ask_to_open(
        self,
        plan: RoundPlan,
        commitment: Commitment,
        requests: Mapping[SiteId, bytes],
        declined: dict[SiteId, str],
        known: Mapping[SiteId, Opening] | None = None,
    ) -> tuple[dict[SiteId, Opening], NDArray[np.int64] | None]:
        """Return the openings that came, those known before included, and the integers if any.

        Whoever refused is added to ``declined``, with the code.
        """
        openings = dict(known or {})
        integers: NDArray[np.int64] | None = None
        group = f"open-{plan.round}"
        for site, reply in self.sites.ask("open", requests, group, self.open_seconds):
            opening = self._signed(Opening, reply, "opening", site)
            if reply.kind == "refused":
                declined[site] = refusal_of(reply)[0]
            if opening is None or opening.commitment != digest(commitment):
                continue
            openings[site] = opening
            blob = reply.blobs.get("integers", b"")
            fits = len(blob) == INTEGER_BYTES * commitment.length
            if fits and hashlib.sha256(blob).hexdigest() == opening.integers_sha256:
                integers = np.frombuffer(blob, "<i8").astype(np.int64)
            self.progress(Step("open", plan.round, site))
        return openings, integers

    def _signed(
        self, shape: type[AnySiteMessage], reply: Frame, kind: str, site: SiteId
    ) -> AnySiteMessage | None:
        """Return a site's signed message, or None where it is another's, unsigned or no such."""
        if reply.kind != kind:
            code, _ = refusal_of(reply)
            self.progress(Step("decline", 0, site, note=f"{kind}: {code}"))
            return None
        try:
            message = read(shape, reply.body)
            check_site_message(self.terms, message, kind)
        except FederationError as error:
            self.progress(Step("decline", 0, site, note=f"{kind}: {error.code}"))
            return None
        return message if message.site == site else None

    def _tag(self, upload: tuple[Contribution, bytes], seed: bytes) -> tuple[int, ...]:
        return tag(self._update(*upload), seed, self.parameters)

    def _update(self, contribution: Contribution, blob: bytes) -> EncryptedUpdate:
        return EncryptedUpdate(
            blob=blob,
            key_id=contribution.key_id,
            parameters=contribution.encryption,
            length=contribution.length,
        )


def _serves(key: RoundKey, call: RoundCall) -> bool:
    """Say whether a round key answers this call, and the others can agree on pads with it."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key.public_key))
    except ValueError:  # of small order: every agreement with it is zero
        return False
    return (key.study, key.round, key.call) == (call.study, call.round, digest(call))
