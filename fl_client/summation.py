"""The hospital's part in a secure sum: masks that only a quorum can lift, and only from the sum.

The protocol is that of Bonawitz et al. [1] with two changes: the masks lie inside a packed BFV
ciphertext, so that whoever is to read even the masked words needs the hospitals' key; and the
server shows the hospitals what it added (commitment, endorsements, tags) before they open it::

    call     ─▶ fresh secrets: a self seed b and a round key; Shamir shares of both, sealed to each
    upload   ─▶ x + PRG(b) + sum over j after us of PRG(k_ij) - sum over j before us of PRG(k_ij)
                                                               (fl_client/masking.py, up to here)
    endorse  ─▶ our signature under the one received set of this round, with a nonce
    unmask   ─▶ our tag; per opener, sealed: our b and our shares of the received sites' b,
                our shares of the missing sites' round keys
    share    ─▶ by quorum only: our part of the decryption, once the tags show whose sum it is
    open     ─▶ tags against sum, decrypt, take off what did not cancel, unpack, sign the integers

**Threat model.** The server is malicious: it may drop, delay, repeat and forge whatever is not
signed, and lie about who answered. c of the n called sites collude with it. Honest sites reveal
either the self seed or the round key of a site, never both, and only for a set that a quorum of
t > (n + c)/2 endorsed, of which there is one. Then server and colluders together learn the sum of
the honest sites' updates in that set, if they open it, and nothing else about any of them. What
the sum itself tells is for the noise in it to bound. A site may still send any update it likes.

**What the tags add.** The sum is opened only if it is, but for 2^-60 a prime, the sum of the very
ciphertexts that the received sites signed: nothing altered, added, doubled or left out, hence
nothing crafted by the server either. A site that cannot give its tag any more is replaced by its
upload, from which every hospital computes the tag itself.

What holds, each a test in tests/fl_client/test_summation.py or tests/privacy/attacks:

1. Endorsing a second commitment of a round is refused, also after a restart.
2. Nothing is revealed without a quorum of endorsements, nor to a site outside the received set.
3. The opened integers are the sum of what the received sites sent, for every pattern of dropouts
   with a quorum alive.
4. A sum whose tags do not add up is not decrypted.

References:
    [1] Bonawitz et al., Practical Secure Aggregation, CCS 2017, section 4, figure 4, and section 6
        for the threshold against an active server.
    [2] Mouchet et al., PETS 2021 (ePrint 2020/304), for opening by quorum.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fl_client.group_keys import GroupKeys
from fl_client.masking import SummationRefused, publics_of, slots_of, unpacked
from fl_client.store import SiteStore
from privacy.bfv import EncryptedSum, EncryptedUpdate
from privacy.commitment import (
    challenge,
    check_commitment,
    check_endorsements,
)
from privacy.keys import KeyUnwrapFailed, SiteKeys, unwrap, wrap
from privacy.masks import remove
from privacy.mechanism import round_plan
from privacy.noise_shares import NoiseShare, noise_root
from privacy.packing import unpack
from privacy.parameters import ParameterSet
from privacy.round_secrets import (
    PublicSecrets,
    Reveal,
    RoundSecrets,
    SharePair,
    leftover,
    reveal,
)
from privacy.sharing import quorum
from privacy.signatures import check_site_message, registered
from privacy.tags import check_tags, tag
from protocol.canonical import body, digest, read
from protocol.errors import PrivacyError
from protocol.frames import Frame, decode, encode, join_parts, split_parts
from protocol.ids import SiteId
from protocol.messages import Contribution, Receipt, RoundCall, RoundPlan
from protocol.progress import Progress, Step
from protocol.summation import (
    Commitment,
    Endorsement,
    Opening,
    Partial,
    SurplusNoise,
    Unmasking,
)
from protocol.terms import StudyTerms

log = logging.getLogger("bithive.agent")
REVEAL_CONTEXT: Final = b"bithive reveal v1\n"


@dataclass(frozen=True)
class _Round:
    """What this hospital knows of a round whose commitment it endorsed."""

    plan: RoundPlan
    call: RoundCall
    secrets: RoundSecrets
    shares: dict[SiteId, SharePair]
    commitment: Commitment

    @property
    def threshold(self) -> int:
        return quorum(len(self.call.sites))

    @property
    def context(self) -> bytes:
        return bytes.fromhex(digest(self.plan))

    @property
    def roster(self) -> dict[SiteId, PublicSecrets]:
        return publics_of(self.plan)

    @property
    def present(self) -> frozenset[SiteId]:
        return frozenset(self.commitment.sites)

    @property
    def absent(self) -> frozenset[SiteId]:
        return frozenset(self.plan.sites) - self.present


@dataclass(frozen=True)
class Summation:
    """One hospital's endorsements and openings in one study. Requests are hostile until checked."""

    site: SiteId
    terms: StudyTerms
    keys: SiteKeys
    store: SiteStore
    parameters: ParameterSet
    group: GroupKeys
    progress: Progress

    def endorse(self, request: Frame) -> bytes:
        """Stand by one set of uploads of a round."""
        commitment = read(Commitment, request.body)
        plan = self._plan(commitment)
        held = self.store.round_secrets(plan.study, plan.round, plan.call)
        if held is None:
            raise SummationRefused("this hospital has forgotten the secrets of that round")
        threshold = quorum(len(held.call.sites))
        check_commitment(commitment, plan, self.terms, threshold=threshold)
        self._check_own(commitment)
        named = digest(commitment)
        nonce = self.store.endorse_once(
            commitment.study, commitment.round, named, secrets.token_hex(32)
        )
        endorsement = Endorsement(commitment=named, site=self.site, nonce=nonce)
        return encode("endorsement", body(endorsement.signed_by(self.keys.sign)))

    def unmask(self, request: Frame) -> bytes:
        """Give the tag of our upload, and to each opener what lifts the masks off the sum."""
        started = time.thread_time()
        now, endorsements = self._endorsed(request)
        seed = challenge(now.commitment, endorsements)
        revealed = self._reveal(now).to_bytes()
        named = digest(now.commitment)
        envelopes = [
            wrap(
                revealed,
                self._agreement_key(opener),
                self.keys.agreement,
                context=_reveal_context(named, self.site, opener),
            )
            for opener in now.commitment.sites
            if opener != self.site
        ]
        own_tag: tuple[int, ...] = ()
        if self.site in now.present:
            own_tag = tag(self._own_update(now), seed, self.parameters)
        unmasking = Unmasking(
            commitment=named,
            challenge=seed.hex(),
            site=self.site,
            tag=tuple(str(residue) for residue in own_tag),
        )
        blobs = {"reveals": join_parts(envelopes), **self._surplus(now)}
        self._measured("unmask", now, started)
        return encode("unmasking", body(unmasking.signed_by(self.keys.sign)), blobs)

    def share(self, request: Frame) -> bytes:
        """Give our part of a decryption, once the tags show whose sum it is."""
        started = time.thread_time()
        now, total, _ = self._shown(request)
        quorum_sites = self._quorum(request, now)
        blob = self.group.cipher(now.plan.key_id).share(total, quorum_sites)
        partial = Partial(
            commitment=digest(now.commitment),
            site=self.site,
            quorum=quorum_sites,
            share_sha256=hashlib.sha256(blob).hexdigest(),
        )
        self._measured("share", now, started)
        return encode("partial", body(partial.signed_by(self.keys.sign)), {"share": blob})

    def open(self, request: Frame) -> bytes:
        """Open the sum and sign what it holds."""
        started = time.thread_time()
        now, total, unmaskings = self._shown(request)
        if self.site not in now.present:
            raise SummationRefused("only sites whose updates are in a sum open it")
        shares = self._partials(request, now)
        reveals = self._reveals(request, now, unmaskings)
        words = self.group.cipher(now.plan.key_id).open(total, shares)
        left = leftover(
            now.roster,
            reveals,
            holders=now.call.sites,
            threshold=now.threshold,
            present=now.present,
            absent=now.absent,
            context=now.context,
            size=slots_of(self.terms, self.parameters),
            parameters=self.parameters,
        )
        for liar in left.liars:
            log.warning("%s revealed something else than it had committed to", liar)
        words = remove(words, [left.pad], self.parameters)
        integers, weight = unpack(
            words, now.commitment.length, len(now.commitment.receipts), self.parameters
        )
        if weight != now.commitment.weight:
            raise SummationRefused("the sum holds another weight than its receipts prove")
        opened = integers.astype("<i8").tobytes()
        opening = Opening(
            commitment=digest(now.commitment),
            site=self.site,
            integers_sha256=hashlib.sha256(opened).hexdigest(),
            weight=weight,
        )
        self.store.opened(now.plan.study, now.plan.round, opening.integers_sha256)
        blobs = {"integers": opened} if request.body.get("send_integers") is True else {}
        if blobs and request.body.get("narrow") is True and abs(integers).max() < 2**15:
            blobs = {
                "integers": integers.astype("<i2").tobytes()
            }  # the digest stays that of 8 bytes
        self._measured("open", now, started)
        return encode("opening", body(opening.signed_by(self.keys.sign)), blobs)

    # What a request shows

    def _endorsed(self, request: Frame) -> tuple[_Round, list[Endorsement]]:
        """Read the commitment this hospital endorsed and the quorum's endorsements of it."""
        commitment = read(Commitment, request.body.get("commitment"))
        plan = self._plan(commitment)
        stood_by = self.store.endorsed(commitment.study, commitment.round)
        if stood_by is None or stood_by[0] != digest(commitment):
            raise SummationRefused("it is for a commitment that this hospital did not endorse")
        held = self.store.round_secrets(plan.study, plan.round, plan.call)
        kept = self.store.plan(plan.study, plan.round)
        if held is None or kept is None:
            raise SummationRefused("this hospital has forgotten the secrets of that round")
        made, _ = unpacked(held.secrets)
        blobs = decode(kept[1]).blobs
        shares = {SiteId(site): SharePair.from_bytes(pair) for site, pair in blobs.items()}
        now = _Round(plan, held.call, made, shares, commitment)
        endorsements = [read(Endorsement, one) for one in _list(request, "endorsements")]
        check_endorsements(commitment, endorsements, plan, self.terms, threshold=now.threshold)
        return now, endorsements

    def _shown(self, request: Frame) -> tuple[_Round, EncryptedSum, list[Unmasking]]:
        """Read the sum and the tags, and see that they add up to it."""
        now, endorsements = self._endorsed(request)
        seed = challenge(now.commitment, endorsements)
        blob = request.blobs.get("sum", b"")
        if hashlib.sha256(blob).hexdigest() != now.commitment.sum_sha256:
            raise SummationRefused("the encrypted sum is not the one that was committed to")
        total = EncryptedSum(
            blob=blob,
            key_id=now.commitment.key_id,
            parameters=self.terms.encryption,
            length=now.commitment.length,
            sites=len(now.commitment.receipts),
        )
        unmaskings = [read(Unmasking, one) for one in _list(request, "unmaskings")]
        tags = self._tags(request, now, unmaskings, seed)
        check_tags(total, tags, seed, self.parameters)
        return now, total, unmaskings

    def _tags(
        self, request: Frame, now: _Round, unmaskings: Sequence[Unmasking], seed: bytes
    ) -> list[tuple[int, ...]]:
        """Return every received site's tag: its own word, or computed from its upload."""
        named, tags = digest(now.commitment), {}
        for one in unmaskings:
            if (one.commitment, one.challenge) != (named, seed.hex()) or one.site in tags:
                raise SummationRefused(f"the tag of {one.site} is for another challenge")
            check_site_message(self.terms, one, "tag")
            tags[one.site] = tuple(int(residue) for residue in one.tag)
        missing = [one for one in now.commitment.receipts if not tags.get(one.site)]
        uploads = split_parts(request.blobs.get("uploads", b""), len(missing))
        for receipt, upload in zip(missing, uploads, strict=True):
            if hashlib.sha256(upload).hexdigest() != receipt.ciphertext_sha256:
                raise SummationRefused(f"the upload of {receipt.site} is not the one it signed")
            tags[receipt.site] = tag(self._update(now, upload), seed, self.parameters)
        return [tags[site] for site in now.commitment.sites]

    def _reveals(
        self, request: Frame, now: _Round, unmaskings: Sequence[Unmasking]
    ) -> dict[SiteId, Reveal]:
        """Unseal what the others revealed to this hospital, and add its own."""
        others = [one.site for one in unmaskings if one.site != self.site]
        reveals = {self.site: self._reveal(now)}
        parts = split_parts(request.blobs.get("reveals", b""), len(others))
        for other, part in zip(others, parts, strict=True):
            try:
                opened = unwrap(
                    part,
                    self._agreement_key(other),
                    self.keys.agreement,
                    context=_reveal_context(digest(now.commitment), other, self.site),
                )
                reveals[other] = Reveal.from_bytes(opened)
            except (KeyUnwrapFailed, PrivacyError) as error:  # a quorum of others may suffice
                log.warning("what %s revealed cannot be used: %s", other, error.code)
        return reveals

    def _quorum(self, request: Frame, now: _Round) -> tuple[SiteId, ...]:
        """Read the sites that are to decrypt together, this one among them."""
        asked = _list(request, "quorum")
        sites = tuple(SiteId(site) for site in asked if isinstance(site, str))
        of_round = self.site in sites and set(sites) <= set(now.plan.sites)
        if asked != sorted(set(sites)) or not of_round:
            raise SummationRefused("the quorum it names is not of the round, sorted, once each")
        if len(sites) < now.threshold or not set(sites) <= set(self.group.holders(now.plan.key_id)):
            raise SummationRefused("the quorum it names is too small, or does not hold the key")
        return sites

    def _partials(self, request: Frame, now: _Round) -> dict[SiteId, bytes]:
        partials = [read(Partial, one) for one in _list(request, "partials")]
        parts = split_parts(request.blobs.get("partials", b""), len(partials))
        givers = [one.site for one in partials]
        if not set(givers) <= set(self.group.holders(now.plan.key_id)):
            raise SummationRefused("a share comes from a site that does not hold the key")
        for one, part in zip(partials, parts, strict=True):
            if one.commitment != digest(now.commitment) or list(one.quorum) != givers:
                raise SummationRefused(f"the share of {one.site} is of another sum or quorum")
            if hashlib.sha256(part).hexdigest() != one.share_sha256:
                raise SummationRefused(f"the share of {one.site} is not the one it signed")
            check_site_message(self.terms, one, "share")
        return {one.site: part for one, part in zip(partials, parts, strict=True)}

    def _reveal(self, now: _Round) -> Reveal:
        return reveal(now.secrets, self.site, now.shares, present=now.present, absent=now.absent)

    def _surplus(self, now: _Round) -> dict[str, bytes]:
        """Return the seeds of our noise that so large a sum can spare, where sites share noise.

        One received set is endorsed in a round and named in the seeds' message, so that no site
        takes back more than the set it stands by can spare.
        """
        if self.terms.privacy.mechanism != "summed" or self.site not in now.present:
            return {}
        share = NoiseShare(
            round_plan(self.terms, len(now.plan.sites)), noise_root(now.secrets.round_seed)
        )
        seeds = share.surplus(len(now.present))
        if not seeds:
            return {}
        shown = SurplusNoise(commitment=digest(now.commitment), site=self.site, seeds=seeds)
        return {"surplus": encode("surplus", body(shown.signed_by(self.keys.sign)))}

    def _own_update(self, now: _Round) -> EncryptedUpdate:
        reply = self.store.answer(now.plan.study, now.plan.round, digest(now.plan))
        if reply is None:
            raise SummationRefused("it counts an upload that this hospital did not send")
        return self._update(now, decode(reply).blobs["update"])

    def _update(self, now: _Round, blob: bytes) -> EncryptedUpdate:
        return EncryptedUpdate(
            blob, now.commitment.key_id, self.terms.encryption, now.commitment.length
        )

    # Checks

    def _check_own(self, commitment: Commitment) -> None:
        """A receipt in our name is one we signed in this round."""
        for receipt in commitment.receipts:
            if receipt.site == self.site and receipt != self._own_receipt(commitment):
                raise SummationRefused("it counts an upload that this hospital did not send")

    def _own_receipt(self, commitment: Commitment) -> Receipt | None:
        reply = self.store.answer(commitment.study, commitment.round, commitment.plan)
        return None if reply is None else read(Contribution, decode(reply).body).receipt

    def _agreement_key(self, site: SiteId) -> bytes:
        return registered(self.terms, site).agreement_key

    def _plan(self, commitment: Commitment) -> RoundPlan:
        kept = self.store.plan(commitment.study, commitment.round)
        if kept is None:
            raise SummationRefused("it is for a round whose plan this hospital does not hold")
        return kept[0]

    def _measured(self, stage: str, now: _Round, started: float) -> None:
        seconds = time.thread_time() - started
        self.progress(Step(stage, now.plan.round, self.site, seconds=seconds))


def _reveal_context(commitment: str, revealer: SiteId, opener: SiteId) -> bytes:
    return REVEAL_CONTEXT + f"{commitment}\n{revealer}\n{opener}".encode()


def _list(request: Frame, name: str) -> list[object]:
    received = request.body.get(name, [])
    if not isinstance(received, list):
        raise SummationRefused(f"its {name} are not a list")
    return received
