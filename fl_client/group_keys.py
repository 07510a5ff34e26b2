"""The hospital's hold on its group's key: made here or taken, renewed, and recovered if need be.

Where members open (``privacy.opening``), one hospital deals the key. It is sealed once, under a
wrapping key that goes sealed to each hospital, and of which each also gets a Shamir share: should
a hospital's copy not open, a quorum of the others gives it the wrapping key back::

    deal-key ─▶ DealtKey, sealed key, {site: wrapping key and share, sealed to it}
    take-key ─▶ unwrap, unseal, compare with the announced id, keep
    give-share, recover-key ─▶ the same by t shares of the wrapping key

Where a quorum opens, nobody ever holds the key: each hospital commits to its part, shows it when
all have committed, and keeps the sum of the shares it got::

    key-commit ─▶ KeyCommitment        key-part ─▶ public part, {site: share, sealed to it}
    join-key   ─▶ collective public key and this site's share

The server carries all of it and can open none of it. A key's epoch grows with every new one; the
server asks for one when the roster changes or ``key_rounds`` have passed, and a hospital keeps the
newest and the one before.

What holds, each a test in tests/fl_client/test_group_keys.py:

1. Every site of the cohort ends with the same key id, and asked again gives the same answer.
2. A key from outside the cohort, of another epoch, or that is not the announced one is refused.
3. Any quorum of shares recovers a key that one site could not open; fewer do not.
4. A part that is not the one committed to is refused, and named; a part is shown for one set of
   commitments, since whoever saw it and could commit anew would own the key.
5. Where a quorum opens no dealt key is taken, which one hospital could use alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fl_client.key_store import HeldKey
from fl_client.store import SiteStore
from privacy import key_generation
from privacy.bfv import SecretKey, generate_key
from privacy.key_generation import CollectiveKey, KeyShare
from privacy.keys import KeyUnwrapFailed, SiteKeys, seal, unseal, unwrap, wrap
from privacy.opening import GroupCipher, MemberCipher, QuorumCipher
from privacy.parameters import ParameterSet
from privacy.recovery import recover
from privacy.sharing import SHARE_BYTES, quorum, split
from privacy.signatures import check_signature, check_site_message, registered
from protocol.canonical import body, canonical, read
from protocol.errors import FederationError, PrivacyError
from protocol.frames import Frame, decode, encode, join_parts, split_parts
from protocol.ids import SiteId
from protocol.summation import DealtKey, KeyCommitment, KeyPart, KeyRequest, ShareRequest
from protocol.terms import StudyTerms

WRAP_CONTEXT: Final = b"bithive group key v2"
KEK_BYTES: Final = 32


class KeyMissing(PrivacyError):
    """The group key of the encryption has not reached this hospital, or is another one."""

    code = "key-missing"

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"this hospital does not hold the group key {key_id}; ask the server to pass it on "
            "again"
        )


class KeyRefused(FederationError):
    """A group key, or a part of one, is not one this hospital takes."""

    code = "group-key-refused"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"this hospital does not take the group key: {why}")


@dataclass(frozen=True)
class GroupKeys:
    """One hospital's keys of one study."""

    site: SiteId
    terms: StudyTerms
    keys: SiteKeys
    store: SiteStore
    parameters: ParameterSet

    def cipher(self, key_id: str) -> GroupCipher:
        """Return what this hospital encrypts and opens with.

        Raises:
            KeyMissing: It does not hold this key.
        """
        held = self.store.keys.held(self.terms.study, key_id)
        if held is None:
            raise KeyMissing(key_id)
        record = decode(held.record)
        if record.kind == "member":
            return MemberCipher(SecretKey.from_bytes(record.blobs["secret"], self.parameters))
        return QuorumCipher(
            CollectiveKey.from_bytes(record.blobs["public"], self.parameters),
            KeyShare.from_bytes(record.blobs["share"], self.parameters),
            holders=tuple(SiteId(site) for site in record.body["holders"]),
            threshold=int(record.body["threshold"]),
        )

    def holders(self, key_id: str) -> tuple[SiteId, ...]:
        """Return the sites a key was made for, in the order of their shares.

        Raises:
            KeyMissing: This hospital does not hold this key.
        """
        held = self.store.keys.held(self.terms.study, key_id)
        if held is None:
            raise KeyMissing(key_id)
        record = decode(held.record)
        return tuple(SiteId(site) for site in record.body["holders"])

    # One hospital deals

    def deal(self, request: Frame) -> bytes:
        """Make a key for the cohort once; asked again, give the same sealed copies again."""
        self._check_way("members")
        asked = self._asked(request)
        cohort = _cohort(asked)
        earlier = self.store.keys.part(asked.study, asked.epoch, cohort)
        if earlier is not None:
            return earlier
        key = generate_key(self.parameters)
        kek = secrets.token_bytes(KEK_BYTES)
        threshold = quorum(len(asked.sites))
        dealt = DealtKey(
            study=asked.study,
            epoch=asked.epoch,
            dealer=self.site,
            sites=asked.sites,
            threshold=threshold,
            key_id=key.key_id,
            sealed_sha256="0" * 64,
        )
        sealed = seal(key.to_bytes(), kek, context=_key_context(dealt))
        dealt = dealt.model_copy(update={"sealed_sha256": hashlib.sha256(sealed).hexdigest()})
        dealt = dealt.signed_by(self.keys.sign)
        shares = dict(
            zip(asked.sites, split(kek, threshold=threshold, holders=len(asked.sites)), strict=True)
        )
        wrapped = {
            str(site): self._wrap(kek + shares[site], site, _copy_context(dealt, site))
            for site in asked.sites
            if site != self.site
        }
        reply = encode("dealt", body(dealt), {"sealed": sealed, **wrapped})
        self.store.keys.keep_part(asked.study, asked.epoch, cohort, reply)
        self._keep_member(dealt, key, shares[self.site])
        return reply

    def take(self, request: Frame) -> bytes:
        """Unwrap the key that a hospital of this study dealt, and keep it."""
        self._check_way("members")
        dealt, sealed = self._dealt(request)
        payload = unwrap(
            request.blobs.get("wrapped", b""),
            self._agreement_key(dealt.dealer),
            self.keys.agreement,
            context=_copy_context(dealt, self.site),
        )
        if len(payload) != KEK_BYTES + SHARE_BYTES:
            raise KeyUnwrapFailed
        return self._take(dealt, sealed, payload[:KEK_BYTES], payload[KEK_BYTES:])

    def give_share(self, request: Frame) -> bytes:
        """Give this hospital's share of a wrapping key to a hospital whose own copy fails."""
        asked = read(ShareRequest, request.body)
        held = self.store.keys.held(self.terms.study, asked.key_id)
        if held is None:
            raise KeyMissing(asked.key_id)
        record = decode(held.record)
        if record.kind != "member" or asked.recipient not in record.body["holders"]:
            raise KeyRefused(f"{asked.recipient} is not of the cohort it was made for")
        if not record.blobs["kek_share"]:
            raise KeyRefused("this hospital's own copy was recovered, and it holds no share")
        context = _share_context(asked.key_id, self.site, asked.recipient)
        share = self._wrap(record.blobs["kek_share"], asked.recipient, context)
        return encode("share", {"site": self.site}, {"share": share})

    def recover(self, request: Frame) -> bytes:
        """Recover the wrapping key from the shares that others gave, and keep the key.

        A share that does not open, or is false, is passed over where a quorum of others is left.
        """
        self._check_way("members")
        dealt, sealed = self._dealt(request)
        givers = _list(request.body.get("givers"))
        parts = split_parts(request.blobs.get("shares", b""), len(givers))
        shares: dict[SiteId, bytes] = {}
        for name, part in zip(givers, parts, strict=True):
            giver = next((site for site in dealt.sites if site == name), None)
            if giver is None:
                raise KeyRefused("a share comes from outside its cohort")
            context = _share_context(dealt.key_id, giver, self.site)
            key = self._agreement_key(giver)
            with contextlib.suppress(KeyUnwrapFailed):
                shares[giver] = unwrap(part, key, self.keys.agreement, context=context)

        def opens(kek: bytes) -> bool:
            try:
                unseal(sealed, kek, context=_key_context(dealt))
            except KeyUnwrapFailed:
                return False
            return True

        recovered = recover(
            dealt.dealer, shares, opens, holders=dealt.sites, threshold=dealt.threshold
        )
        return self._take(dealt, sealed, recovered.secret, b"")

    def _take(self, dealt: DealtKey, sealed: bytes, kek: bytes, kek_share: bytes) -> bytes:
        secret = unseal(sealed, kek, context=_key_context(dealt))
        key = SecretKey.from_bytes(secret, self.parameters)
        if key.key_id != dealt.key_id:
            raise KeyRefused("it is not the one that was announced")
        self._keep_member(dealt, key, kek_share)
        return encode("taken", {"key_id": key.key_id})

    def _keep_member(self, dealt: DealtKey, key: SecretKey, kek_share: bytes) -> None:
        facts = {"holders": list(dealt.sites)}
        blobs = {"secret": key.to_bytes(), "kek_share": kek_share}
        record = encode("member", facts, blobs)
        self.store.keys.keep(dealt.study, HeldKey(key.key_id, dealt.epoch, record))

    def _dealt(self, request: Frame) -> tuple[DealtKey, bytes]:
        dealt = read(DealtKey, request.body.get("dealt"))
        self._check_cohort(dealt.study, dealt.epoch, dealt.sites)
        if dealt.dealer not in dealt.sites or dealt.threshold != quorum(len(dealt.sites)):
            raise KeyRefused("its dealer or threshold is not that of its cohort")
        dealer = registered(self.terms, dealt.dealer)
        check_signature(
            dealer.signing_key,
            dealt.signature,
            dealt.signed_bytes(),
            what="group key",
            who=dealt.dealer,
        )
        sealed = request.blobs.get("sealed", b"")
        if hashlib.sha256(sealed).hexdigest() != dealt.sealed_sha256:
            raise KeyRefused("the sealed key is not the one its dealer announced")
        return dealt, sealed

    # Nobody deals: every hospital makes a part

    def commit(self, request: Frame) -> bytes:
        """Make this hospital's part of a collective key and commit to it."""
        self._check_way("threshold")
        asked = self._asked(request)
        part = self._part(asked) or self._made(asked)
        commitment = KeyCommitment(
            study=asked.study,
            epoch=asked.epoch,
            site=self.site,
            sites=asked.sites,
            public_sha256=key_generation.commitment(part.blobs["public"]),
        )
        return encode("key-commitment", body(commitment.signed_by(self.keys.sign)))

    def part(self, request: Frame) -> bytes:
        """Show this hospital's part, and the others their shares, now that all have committed.

        It is shown for one set of commitments: whoever saw it and could commit anew would choose
        a part that makes the whole a key of their own.
        """
        self._check_way("threshold")
        commitments = self._commitments(request)
        asked = self._request(commitments[self.site])
        made = self._committed(asked)
        shown = self.store.keys.part(asked.study, asked.epoch, _shown(asked))
        if shown is not None:
            if decode(shown).body["commitments"] != _together(commitments):
                raise KeyRefused("this hospital has shown its part for other commitments")
            return shown
        signed = KeyPart(
            study=asked.study,
            epoch=asked.epoch,
            site=self.site,
            commitments=_together(commitments),
        )
        signed = signed.signed_by(self.keys.sign)
        shares = split_parts(made.blobs["shares"], len(asked.sites))
        sealed = [
            self._wrap(share, site, _part_context(signed, site))
            for site, share in zip(asked.sites, shares, strict=True)
            if site != self.site
        ]
        blobs = {"public": made.blobs["public"], "shares": join_parts(sealed)}
        reply = encode("key-part", body(signed), blobs)
        self.store.keys.keep_part(asked.study, asked.epoch, _shown(asked), reply)
        return reply

    def join(self, request: Frame) -> bytes:
        """Add up the parts: the collective public key, and this hospital's share of the secret."""
        self._check_way("threshold")
        commitments = self._commitments(request)
        sites = commitments[self.site].sites
        epoch = commitments[self.site].epoch
        signed = [read(KeyPart, one) for one in _list(request.body.get("parts"))]
        if [one.site for one in signed] != list(sites):
            raise KeyRefused("a part is missing, or is not of its cohort")
        publics = split_parts(request.blobs.get("publics", b""), len(sites))
        sealed = split_parts(request.blobs.get("shares", b""), len(sites) - 1)
        asked = self._request(commitments[self.site])
        key = key_generation.collective_key(publics, self.parameters, context=_context(asked))
        if self.store.keys.held(self.terms.study, key.key_id) is not None:
            return encode("taken", {"key_id": key.key_id})  # joined before, and its parts forgotten
        place = sites.index(self.site)
        own = split_parts(self._committed(asked).blobs["shares"], len(sites))[place]
        shares: list[bytes] = []
        for one, public in zip(signed, publics, strict=True):
            check_site_message(self.terms, one, "part of the key")
            if one.commitments != _together(commitments):
                raise KeyRefused(f"the part of {one.site} was shown for other commitments")
            if key_generation.commitment(public) != commitments[one.site].public_sha256:
                raise KeyRefused(f"the part of {one.site} is not the one it committed to")
            if one.site == self.site:
                shares.append(own)
                continue
            context = _part_context(one, self.site)
            other = self._agreement_key(one.site)
            shares.append(unwrap(sealed.pop(0), other, self.keys.agreement, context=context))
        share = key_generation.join_shares(shares, self.parameters, index=place, key=key)
        facts = {"holders": list(sites), "threshold": quorum(len(sites))}
        record = encode("quorum", facts, {"public": key.to_bytes(), "share": share.to_bytes()})
        self.store.keys.keep(self.terms.study, HeldKey(key.key_id, epoch, record))
        self.store.keys.forget_parts(self.terms.study, epoch)  # t of our shares are our part
        return encode("taken", {"key_id": key.key_id})

    def _part(self, asked: KeyRequest) -> Frame | None:
        """Return this hospital's part for these sites, its shares of it too, or None."""
        earlier = self.store.keys.part(asked.study, asked.epoch, _cohort(asked))
        return None if earlier is None else decode(earlier)

    def _committed(self, asked: KeyRequest) -> Frame:
        """Return the part that this hospital made when it committed."""
        part = self._part(asked)
        if part is None:
            raise KeyRefused("this hospital no longer has the part that it committed to")
        return part

    def _made(self, asked: KeyRequest) -> Frame:
        made = key_generation.contribute(
            self.parameters,
            threshold=quorum(len(asked.sites)),
            holders=len(asked.sites),
            context=_context(asked),
        )
        blobs = {"public": made.public, "shares": join_parts(made.shares)}
        part = encode("part", {}, blobs)
        self.store.keys.keep_part(asked.study, asked.epoch, _cohort(asked), part)
        return decode(part)

    def _request(self, commitment: KeyCommitment) -> KeyRequest:
        """Return the request that this hospital's own commitment answered."""
        return KeyRequest(
            terms=self._terms_digest(),
            study=commitment.study,
            epoch=commitment.epoch,
            sites=commitment.sites,
        )

    def _commitments(self, request: Frame) -> dict[SiteId, KeyCommitment]:
        found = [read(KeyCommitment, one) for one in _list(request.body.get("commitments"))]
        commitments = {one.site: one for one in found}
        own = commitments.get(self.site)
        if own is None or [one.site for one in found] != list(own.sites):
            raise KeyRefused("not every site of its cohort has committed")
        self._check_cohort(own.study, own.epoch, own.sites)
        for one in found:
            if (one.study, one.epoch, one.sites) != (own.study, own.epoch, own.sites):
                raise KeyRefused(f"{one.site} committed for another cohort")
            check_site_message(self.terms, one, "key commitment")
        return commitments

    # Checks

    def _check_way(self, opening: str) -> None:
        if self.terms.opening != opening:
            raise KeyRefused(f"sums of this study are opened by {self.terms.opening}")

    def _asked(self, request: Frame) -> KeyRequest:
        asked = read(KeyRequest, request.body)
        if asked.terms != self._terms_digest():
            raise KeyRefused("it is for other terms than those that were approved")
        self._check_cohort(asked.study, asked.epoch, asked.sites)
        return asked

    def _check_cohort(self, study: str, epoch: int, sites: Sequence[SiteId]) -> None:
        registered = {one.site for one in self.terms.sites}
        if study != self.terms.study or not set(sites) <= registered:
            raise KeyRefused("it is for another study, or for a site that is not registered")
        if list(sites) != sorted(set(sites)) or self.site not in sites:
            raise KeyRefused("its cohort is without this hospital, or names one twice")
        if len(sites) < self.terms.sites_min:
            raise KeyRefused(f"a cohort of {len(sites)} sites is too small")
        newest = self.store.keys.held(self.terms.study)
        if newest is not None and epoch < newest.epoch:
            raise KeyRefused("it is older than the one this hospital holds")

    def _agreement_key(self, site: SiteId) -> bytes:
        return registered(self.terms, site).agreement_key

    def _wrap(self, secret: bytes, site: SiteId, context: bytes) -> bytes:
        return wrap(secret, self._agreement_key(site), self.keys.agreement, context=context)

    def _terms_digest(self) -> str:
        return hashlib.sha256(canonical(self.terms)).hexdigest()


def _list(received: object) -> list[object]:
    if not isinstance(received, list):
        raise KeyRefused("a list that belongs to it is missing")
    return received


def _cohort(asked: KeyRequest) -> str:
    return hashlib.sha256(_context(asked)).hexdigest()


def _shown(asked: KeyRequest) -> str:
    """Name the part as it was shown, beside the part as it was made."""
    return _cohort(asked) + "-shown"


def _context(asked: KeyRequest) -> bytes:
    facts = [asked.study, asked.epoch, list(asked.sites)]
    return WRAP_CONTEXT + b"\ncohort\n" + json.dumps(facts, separators=(",", ":")).encode()


def _key_context(dealt: DealtKey) -> bytes:
    facts = [dealt.study, dealt.epoch, dealt.dealer, list(dealt.sites), dealt.key_id]
    return WRAP_CONTEXT + b"\nkey\n" + json.dumps(facts, separators=(",", ":")).encode()


def _copy_context(dealt: DealtKey, recipient: SiteId) -> bytes:
    return _key_context(dealt) + b"\ncopy\n" + recipient.encode()


def _share_context(key_id: str, giver: SiteId, recipient: SiteId) -> bytes:
    return WRAP_CONTEXT + f"\nshare\n{key_id}\n{giver}\n{recipient}".encode()


def _part_context(part: KeyPart, recipient: SiteId) -> bytes:
    names = f"{part.study}\n{part.epoch}\n{part.commitments}\n{part.site}\n{recipient}"
    return WRAP_CONTEXT + b"\npart\n" + names.encode()


def _together(commitments: dict[SiteId, KeyCommitment]) -> str:
    together = hashlib.sha256(b"bithive key commitments\n")
    for site in sorted(commitments):
        together.update(canonical(commitments[site]))
    return together.hexdigest()
