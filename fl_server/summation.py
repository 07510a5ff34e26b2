"""The server's part in a secure sum: it carries messages, keeps the order, and learns the sum only.

What the hospitals do with what it carries, and what a dishonest server cannot get from them:
``fl_client/summation.py``. Here is what an honest one does::

    call ─▶ round keys, sealed shares          (before the plan)
    commit ─▶ endorsements of one set          t of the called sites, or the round ends here
    unmask ─▶ tags, sealed reveals             from whoever is still there, t at least
    share ─▶ shares of the decryption          by quorum only; another quorum where one fails
    open ─▶ integers, the same from all

Every answer to a step after the uploads is stored (``fl_server.answers``); a server that was killed
goes on with those, asks the others, and would get the same answers to the same questions anyway. A
step ends by ``Wait``: a quorum and a grace, or its deadline. The commitment follows from what was
stored.

What holds, each a test in tests/fl_server/test_summation.py:

1. The sum opens for every pattern of dropouts with a quorum alive, and to the exact integers.
2. Without a quorum the round ends without an update, and no reveal was sent.
3. Wrong tags do not stop a round: whose word is wrong is found from the stored uploads and named.
4. An answer that was stored is not asked for again; a step that has ended stays as it ended.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from fl_server.answers import Answers, Forgetful
from fl_server.parts import narrow
from fl_server.phases import Wait
from fl_server.sites import Sites, refusal_of
from privacy.bfv import EncryptedSum, EncryptedUpdate, ServerContext
from privacy.blame import SERVER, Dispute, judge
from privacy.commitment import challenge, uploads_root
from privacy.parameters import ParameterSet
from privacy.sharing import QuorumMissing, quorum
from privacy.signatures import check_site_message
from privacy.tags import SumAltered, check_tags, tag
from protocol.canonical import SiteMessage, body, digest, read
from protocol.errors import FederationError
from protocol.frames import Frame, MalformedFrame, decode, encode, join_parts, split_parts
from protocol.ids import SiteId
from protocol.messages import Contribution, RoundCall, RoundKey, RoundPlan
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
from protocol.terms import StudyTerms

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
INTEGER_BYTES: Final = (2, 4, 8)
"""How wide the opened integers may travel; a site that is not asked for narrow ones sends 8."""
_PIECE: Final = 2**17
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
    sites: Sites
    signing_key: Ed25519PrivateKey
    parameters: ParameterSet
    progress: Progress
    call_seconds: float
    open_seconds: float
    answers: Answers = field(default_factory=Forgetful)
    grace: float = 10.0
    patience: float = 1.0
    entered: Callable[[int, str, int, int], None] = lambda _number, _kind, _quorum, _asked: None
    """Told of each step that begins: round, kind, quorum, how many sites it is for."""

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
        wait = self._wait(quorum(len(call.sites)), seconds=self.call_seconds)
        for site, reply in self.sites.ask("call", requests, group, wait):
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
            wait.count()
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
        if self.terms.opening == "threshold":
            alive = frozenset(unmaskings)
            partials = self._partials(
                plan, commitment, shown, blobs, threshold=threshold, alive=alive
            )
            shown["partials"] = [body(one) for one, _ in partials]
            blobs["partials"] = join_parts([share for _, share in partials])
        integers, agreed = self._openings(plan, commitment, unmaskings, shown, blobs)
        return Opened(integers, commitment.weight, commitment, faults, surplus, agreed)

    def _add(self, plan: RoundPlan, uploads: Uploads) -> EncryptedSum:
        started = time.thread_time()
        total = self._context.add(self._update(*uploads[site]) for site in uploads)
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

    def _endorsements(
        self, plan: RoundPlan, commitment: Commitment, threshold: int
    ) -> list[Endorsement]:
        named = digest(commitment)
        requests = dict.fromkeys(plan.sites, encode("endorse", body(commitment)))
        found: dict[SiteId, Endorsement] = {}

        def take(site: SiteId, reply: Frame) -> bool:
            endorsement = self._signed(Endorsement, reply, "endorsement", site)
            if endorsement is None or endorsement.commitment != named:
                return False
            found[site] = endorsement
            return True

        self._gather("endorse", plan.round, named, requests, take=take, wait=self._wait(threshold))
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
            unmasking = self._signed(Unmasking, reply, "unmasking", site)
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

        self._gather("unmask", plan.round, seed, requests, take=take, wait=self._wait(threshold))
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

    def _partials(
        self,
        plan: RoundPlan,
        commitment: Commitment,
        shown: dict[str, object],
        blobs: dict[str, bytes],
        *,
        threshold: int,
        alive: frozenset[SiteId],
    ) -> list[tuple[Partial, bytes]]:
        """Get a quorum's shares of the decryption; where one of it fails, ask another quorum."""
        # Who has just unmasked is there; a quorum that lacks one of its sites is asked in vain.
        willing = sorted(plan.sites, key=lambda site: site not in alive)
        while len(willing) >= threshold:
            asked = sorted(willing[:threshold])
            frame = encode("share", {**shown, "quorum": asked}, blobs)
            found: dict[SiteId, tuple[Partial, bytes]] = {}

            def take(
                site: SiteId,
                reply: Frame,
                found: dict[SiteId, tuple[Partial, bytes]] = found,
                asked: list[SiteId] = asked,
            ) -> bool:
                partial = self._signed(Partial, reply, "partial", site)
                share = reply.blobs.get("share", b"")
                named = None if partial is None else (partial.commitment, list(partial.quorum))
                if partial is None or named != (digest(commitment), asked):
                    return False
                if hashlib.sha256(share).hexdigest() != partial.share_sha256:
                    return False
                found[site] = (partial, share)
                return True

            question = hashlib.sha256(frame).hexdigest()
            requests = dict.fromkeys(asked, frame)
            self._gather(
                "share", plan.round, question, requests, take=take, wait=self._wait(len(asked))
            )
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
    ) -> tuple[NDArray[np.signedinteger[Any]], str]:
        """Ask the sites in the sum to open it; all that answer must agree.

        Returns:
            The integers, and their digest as every site that answered has it.
        """

        def frame(opener: SiteId, *, send: bool) -> bytes:
            revealed = [
                unmaskings[site][1][opener] for site in sorted(unmaskings) if site != opener
            ]
            return encode(
                "open",
                {**shown, "send_integers": send, "narrow": send},
                {**blobs, "reveals": join_parts(revealed)},
            )

        senders = set(commitment.sites[:INTEGERS_FROM])
        requests = Requests(commitment.sites, lambda opener: frame(opener, send=opener in senders))
        taken = _Taken(digest(commitment), commitment.length)
        self._ask_to_open(plan, taken, requests, "")
        if not taken.openings and _are_unsound(taken.declined):
            raise SumUnsound(plan.round, taken.declined)
        for site in sorted(taken.openings):
            if taken.integers is not None:
                break
            # The senders are gone; who has opened the sum opens it again to the same integers.
            again = Requests((site,), lambda opener: frame(opener, send=True))
            self._ask_to_open(plan, taken, again, " again")
        found = {(one.integers_sha256, one.weight) for one in taken.openings.values()}
        if len(found) > 1 or any(weight != commitment.weight for _, weight in found):
            self.answers.forget(plan.round, "open")  # asked again, they may agree
            raise OpeningDisputed(plan.round)
        if len(taken.openings) < OPENERS_MIN or taken.integers is None:
            raise OpeningMissing(plan.round, len(taken.openings), taken.declined)
        ((agreed, _),) = found
        return taken.integers, agreed

    def _ask_to_open(
        self, plan: RoundPlan, taken: _Taken, requests: Requests, attempt: str
    ) -> None:
        """Add the openings that come to those taken, the integers, and who refused why."""

        def take(site: SiteId, reply: Frame) -> bool:
            opening = self._signed(Opening, reply, "opening", site)
            if reply.kind == "refused":
                taken.declined[site] = refusal_of(reply)[0]
            if opening is None or opening.commitment != taken.commitment:
                return False
            taken.openings[site] = opening
            if taken.integers is None:
                sent = reply.blobs.get("integers", b"")
                taken.integers = integers_of(sent, taken.length, opening.integers_sha256)
                if taken.integers is not None and taken.integers.itemsize > INTEGER_BYTES[0]:
                    reply.blobs["integers"] = b"".join(narrow(taken.integers))
            else:
                reply.blobs.pop("integers", None)  # they are kept once
            return True

        wait = self._wait(min(OPENERS_MIN, len(requests)))
        self._gather("open", plan.round, taken.commitment + attempt, requests, take=take, wait=wait)

    # Steps

    def _wait(self, enough: int, *, seconds: float | None = None) -> Wait:
        return Wait(
            self.open_seconds if seconds is None else seconds,
            quorum=enough,
            grace=self.grace,
            patience=self.patience,
            idle=self.answers.gather,
        )

    def _gather(
        self,
        kind: str,
        number: int,
        question: str,
        requests: Mapping[SiteId, bytes],
        *,
        take: Callable[[SiteId, Frame], bool],
        wait: Wait,
    ) -> None:
        """Take the stored answers to a question, and ask who has not given one.

        A step that ended with its quorum is over for good. One that ended without is asked again
        of those who did not answer: its deadline passed, and perhaps they are back.
        """
        self.entered(number, kind, wait.quorum or 0, len(requests))
        answered = {
            site
            for site, reply in self.answers.kept(number, kind, question)
            if site in requests and take(site, reply)
        }
        wait.count(len(answered))
        missing = [site for site in requests if site not in answered]
        if not missing or self.answers.ended(number, kind, question):
            return
        asked = Requests(missing, requests.__getitem__)
        for site, reply in self.sites.ask(kind, asked, f"{kind}-{number}", wait):
            if site not in answered and take(site, reply):
                answered.add(site)
                self.answers.keep(number, kind, question, site, reply)
                wait.count()
                self.progress(Step(kind, number, site))
        if wait.quorum is not None and wait.answered >= wait.quorum:
            self.answers.end(number, kind, question, wait, len(requests))
        else:
            self.answers.store()  # tried again, the step begins with what came

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


class Requests(Mapping[SiteId, bytes]):
    """One frame for each site, made when it is sent."""

    def __init__(self, sites: Sequence[SiteId], make: Callable[[SiteId], bytes]) -> None:
        self._sites, self._make = tuple(sites), make

    def __getitem__(self, site: SiteId) -> bytes:
        return self._make(site)

    def __iter__(self) -> Iterator[SiteId]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)


@dataclass
class _Taken:
    """What came of asking for an opening."""

    commitment: str
    length: int
    openings: dict[SiteId, Opening] = field(default_factory=dict)
    integers: NDArray[np.signedinteger[Any]] | None = None
    declined: dict[SiteId, str] = field(default_factory=dict)


def integers_of(blob: bytes, length: int, sha256: str) -> NDArray[np.signedinteger[Any]] | None:
    """Return the integers that a site sent, of 2, 4 or 8 bytes each; None where they are others.

    Their hash is that of 8 bytes each, whatever they travelled in.
    """
    width, rest = divmod(len(blob), length)
    if rest or width not in INTEGER_BYTES:
        return None
    integers = np.frombuffer(blob, f"<i{width}")
    return integers if sha256_of(integers) == sha256 else None


def sha256_of(integers: NDArray[np.signedinteger[Any]]) -> str:
    """Return the SHA-256 of integers as little-endian int64, worked out in pieces."""
    found = hashlib.sha256()
    for start in range(0, integers.size, _PIECE):
        found.update(integers[start : start + _PIECE].astype("<i8").tobytes())
    return found.hexdigest()


def _are_unsound(declined: Mapping[SiteId, str]) -> bool:
    return len(declined) >= OPENERS_MIN and set(declined.values()) <= UNSOUND


def _serves(key: RoundKey, call: RoundCall) -> bool:
    """Say whether a round key answers this call, and the others can agree on pads with it."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key.public_key))
    except ValueError:  # of small order: every agreement with it is zero
        return False
    return (key.study, key.round, key.call) == (call.study, call.round, digest(call))
