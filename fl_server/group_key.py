"""Seeing to it that a round's hospitals hold a group key of their own; the server holds none.

A new key is made when the hospitals of a round are not those the last key was made for, and after
``key_rounds`` rounds. The server carries sealed copies, keeps for each hospital the very frame it
passes on, and passes it on again to a hospital that lost its copy. What the hospitals do:
``fl_client/group_keys.py``.

What holds, each a test in tests/fl_server/test_group_key.py:

1. Another roster, or ``key_rounds`` rounds, bring another key; nothing else does.
2. Nothing the server keeps holds the key, a part of it or a share in the clear.
3. A hospital whose copy does not open recovers the key from a quorum of the others.
4. A hospital that deals a useless key, or shows a useless part of one, does not stop the others:
   the next one deals, or the others make a key without it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fl_server.sites import Sites, TooFewSites
from fl_server.store import HeldKey, ServerStore
from privacy.key_generation import commitment
from privacy.sharing import quorum
from privacy.signatures import check_site_message
from protocol.canonical import body, canonical, read
from protocol.errors import FederationError
from protocol.frames import Frame, decode, encode, join_parts, split_parts
from protocol.ids import KeyId, SiteId
from protocol.progress import Progress, Step
from protocol.summation import DealtKey, KeyCommitment, KeyPart, KeyRequest, ShareRequest
from protocol.terms import StudyTerms


@dataclass
class GroupKeeper:
    """The server's side of the group's keys."""

    terms: StudyTerms
    sites: Sites
    store: ServerStore
    progress: Progress
    seconds: float
    holding: dict[SiteId, str] = field(default_factory=dict)

    def ensure(self, round_number: int, cohort: Sequence[SiteId]) -> tuple[KeyId, set[SiteId]]:
        """See that the sites of a round hold its key.

        Args:
            round_number: The round that is about to begin.
            cohort: The sites that answered its call, sorted.

        Returns:
            The key's id, and those of the cohort that hold it.

        Raises:
            TooFewSites: No key could be made with as many sites as the study needs.
        """
        held = self.store.group_key()
        if held is None or self._is_due(held, round_number, cohort):
            held = self._next(held, round_number, cohort)
        refused = self._pass_on(held, cohort)
        for _another_dealer in cohort[1:]:
            if len(self._holders(held, cohort)) >= quorum(len(cohort)) or not refused:
                break
            held = self._next(held, round_number, cohort)
            refused = self._pass_on(held, cohort)
        return held.key_id, self._holders(held, cohort)

    def _next(self, held: HeldKey | None, round_number: int, cohort: Sequence[SiteId]) -> HeldKey:
        epoch = 1 if held is None else held.epoch + 1
        made = self._make(round_number, epoch, tuple(cohort))
        self.store.keep_group_key(made)
        return made

    def _holders(self, held: HeldKey, cohort: Sequence[SiteId]) -> set[SiteId]:
        return {site for site in cohort if self.holding.get(site) == held.key_id}

    def _is_due(self, held: HeldKey, round_number: int, cohort: Sequence[SiteId]) -> bool:
        aged = round_number - held.round >= self.terms.key_rounds
        return aged or tuple(cohort) != held.sites

    def _make(self, round_number: int, epoch: int, cohort: tuple[SiteId, ...]) -> HeldKey:
        make = self._dealt if self.terms.opening == "members" else self._collective
        while len(cohort) >= self.terms.sites_min:
            request = KeyRequest(
                terms=hashlib.sha256(canonical(self.terms)).hexdigest(),
                study=self.terms.study,
                epoch=epoch,
                sites=cohort,
            )
            made = make(request)
            if isinstance(made, HeldKey):
                return HeldKey(made.key_id, epoch, round_number, made.sites, made.frames)
            cohort = tuple(site for site in cohort if site not in made)
        raise TooFewSites(len(cohort), self.terms.sites_min)

    def _pass_on(self, held: HeldKey, cohort: Sequence[SiteId]) -> set[SiteId]:
        """Give the key to those that lack it; return who answered and did not take it."""
        kind = "take-key" if self.terms.opening == "members" else "join-key"
        lacking = {
            site: held.frames[site]
            for site in cohort
            if self.holding.get(site) != held.key_id and site in held.frames
        }
        unopened, refused = [], set()
        for site, reply in self.sites.ask(kind, lacking, "key", self.seconds):
            if reply.kind == "taken" and reply.body.get("key_id") == held.key_id:
                self.holding[site] = held.key_id
            else:
                refused.add(site)
                if reply.body.get("code") == "key-unwrap-failed" and kind == "take-key":
                    unopened.append(site)
            self.progress(Step("key", 0, site, note=reply.kind))
        for site in unopened:
            self._recover(site, held)
        return refused - self._holders(held, cohort)

    # Dealt by one hospital

    def _dealt(self, request: KeyRequest) -> HeldKey | set[SiteId]:
        """Have a hospital of the cohort deal the key; return those that failed to otherwise."""
        dealer = request.sites[request.epoch % len(request.sites)]
        ask = {dealer: encode("deal-key", body(request))}
        for _site, reply in self.sites.ask("deal-key", ask, "key", self.seconds):
            try:
                dealt = read(DealtKey, reply.body)
            except FederationError:
                break
            others = {site for site in request.sites if site != dealer}
            named = (dealt.study, dealt.epoch, dealt.sites, dealt.dealer)
            asked = (request.study, request.epoch, request.sites, dealer)
            if named != asked or set(reply.blobs) != others | {"sealed"}:
                break
            frames = {
                site: encode(
                    "take-key",
                    {"dealt": body(dealt)},
                    {"sealed": reply.blobs["sealed"], "wrapped": reply.blobs[site]},
                )
                for site in sorted(others)
            }
            self.holding[dealer] = dealt.key_id
            return HeldKey(dealt.key_id, request.epoch, 0, request.sites, frames)
        return {dealer}

    def _recover(self, site: SiteId, held: HeldKey) -> None:
        """Get a hospital its key from the others' shares of the wrapping key."""
        passed = decode(held.frames[site])
        asked = encode("give-share", body(ShareRequest(key_id=held.key_id, recipient=site)))
        givers = {other: asked for other in held.sites if other != site}
        shares = {
            giver: reply.blobs.get("share", b"")
            for giver, reply in self.sites.ask("give-share", givers, "key", self.seconds)
            if reply.kind == "share"
        }
        frame = encode(
            "recover-key",
            {"dealt": passed.body["dealt"], "givers": sorted(shares)},
            {
                "sealed": passed.blobs["sealed"],
                "shares": join_parts([shares[giver] for giver in sorted(shares)]),
            },
        )
        for _site, reply in self.sites.ask("recover-key", {site: frame}, "key", self.seconds):
            if reply.kind == "taken":
                self.holding[site] = held.key_id
            self.progress(Step("key", 0, site, note=f"recovery: {reply.kind}"))

    # Made by all

    def _collective(self, request: KeyRequest) -> HeldKey | set[SiteId]:
        """Have the cohort make a collective key; return those that failed to otherwise."""
        cohort = set(request.sites)
        commitments = self._commitments(request)
        if set(commitments) != cohort:
            return cohort - set(commitments)
        shown = {"commitments": [body(commitments[site]) for site in request.sites]}
        parts = self._parts(request, commitments, encode("part-key", shown))
        if set(parts) != cohort:
            return cohort - set(parts)
        signed = [parts[site].body for site in request.sites]
        publics = join_parts([parts[site].blobs["public"] for site in request.sites])
        sealed = {
            site: split_parts(parts[site].blobs["shares"], len(cohort) - 1)
            for site in request.sites
        }
        frames = {}
        for site in request.sites:
            others = [other for other in request.sites if other != site]
            mine = [sealed[other][_place(other, site, request.sites)] for other in others]
            frames[site] = encode(
                "join-key",
                {**shown, "parts": signed},
                {"publics": publics, "shares": join_parts(mine)},
            )
        joined = {}
        for site, reply in self.sites.ask("join-key", frames, "key", self.seconds):
            if reply.kind == "taken":
                joined[site] = str(reply.body.get("key_id"))
        if len(set(joined.values())) != 1 or set(joined) != cohort:
            return (cohort - set(joined)) or {request.sites[0]}
        self.holding.update(joined)
        key_id = KeyId(next(iter(joined.values())))
        return HeldKey(key_id, request.epoch, 0, request.sites, frames)

    def _commitments(self, request: KeyRequest) -> dict[SiteId, KeyCommitment]:
        """Return the commitments of those that gave one for this request."""
        frames = dict.fromkeys(request.sites, encode("commit-key", body(request)))
        found: dict[SiteId, KeyCommitment] = {}
        for site, reply in self.sites.ask("commit-key", frames, "key", self.seconds):
            self.progress(Step("key", 0, site, note=reply.kind))
            with contextlib.suppress(FederationError):
                one = read(KeyCommitment, reply.body)
                check_site_message(self.terms, one, "key commitment")
                named = (one.study, one.epoch, one.sites, one.site)
                if named == (request.study, request.epoch, request.sites, site):
                    found[site] = one
        return found

    def _parts(
        self, request: KeyRequest, commitments: Mapping[SiteId, KeyCommitment], shown: bytes
    ) -> dict[SiteId, Frame]:
        """Return the parts of those that showed the one they had committed to."""
        found: dict[SiteId, tuple[str, Frame]] = {}
        for site, reply in self.sites.ask(
            "part-key", dict.fromkeys(request.sites, shown), "key", self.seconds
        ):
            self.progress(Step("key", 0, site, note=reply.kind))
            public, shares = (reply.blobs.get(name, b"") for name in ("public", "shares"))
            with contextlib.suppress(FederationError):
                one = read(KeyPart, reply.body)
                check_site_message(self.terms, one, "part of the key")
                split_parts(shares, len(request.sites) - 1)
                named = (one.study, one.epoch, one.site)
                fits = commitment(public) == commitments[site].public_sha256
                if fits and named == (request.study, request.epoch, site):
                    found[site] = (one.commitments, reply)
        # All saw the same commitments, so who names others is on its own.
        agreed = Counter(named for named, _ in found.values()).most_common(1)
        return {site: reply for site, (named, reply) in found.items() if named == agreed[0][0]}


def _place(dealer: SiteId, holder: SiteId, sites: Sequence[SiteId]) -> int:
    """Return where among a dealer's envelopes, which leave the dealer out, a holder's is."""
    return [site for site in sites if site != dealer].index(holder)
