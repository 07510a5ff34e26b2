"""The hospital's masks of a round: its secrets, the shares of them it keeps, and the pad.

What happens before an update is sent, in the protocol that ``fl_client/summation.py`` describes
and argues for::

    call     ─▶ fresh secrets: a self seed b and a round key; Shamir shares of both, sealed to each
    plan     ─▶ the roster's round keys and sealed shares, checked and kept
    upload   ─▶ x + PRG(b) + sum over j after us of PRG(k_ij) - sum over j before us of PRG(k_ij)

What holds, each a test in tests/fl_client/test_summation.py:

1. A call asked again is answered alike, also after a restart; another call of a round that was
   planned is refused.
2. A roster that is too small, of another call, or without our own round key is refused before
   anything is trained.
3. A pad is for one plan.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl_client.store import HeldSecrets, RoundAlreadyAnswered, SiteStore
from privacy.commitment import envelope_for
from privacy.keys import SiteKeys, unwrap, wrap
from privacy.mechanism import round_plan
from privacy.noise_shares import NoiseShare, noise_root
from privacy.parameters import ParameterSet
from privacy.round_secrets import (
    ROUND_SECRETS_BYTES,
    PublicSecrets,
    RoundSecrets,
    SharePair,
    deal,
    total_pad,
)
from privacy.sharing import quorum
from privacy.signatures import check_signature, check_site_message, registered
from protocol.canonical import body, digest, read
from protocol.errors import FederationError, PrivacyError
from protocol.frames import Frame, encode, join_parts, split_parts
from protocol.ids import SiteId
from protocol.messages import RoundCall, RoundKey, RoundPlan
from protocol.terms import StudyTerms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("bithive.agent")
SHARES_CONTEXT: Final = b"bithive round shares v1\n"


class SummationRefused(FederationError):
    """A call, roster or request to open is not one this hospital answers."""

    code = "summation-refused"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"this hospital does not go on with the round's sum: {why}")


@dataclass(frozen=True)
class Masking:
    """One hospital's masks in one study. Calls and plans are hostile until checked."""

    site: SiteId
    terms: StudyTerms
    keys: SiteKeys
    store: SiteStore
    parameters: ParameterSet

    def call(self, request: Frame) -> bytes:
        """Make this hospital's secrets for a call; asked again, give the same answer again."""
        asked = read(RoundCall, request.body)
        self._check_call(asked)
        named = digest(asked)
        planned = self.store.plan(asked.study, asked.round)
        if planned is not None and planned[0].call != named:
            raise RoundAlreadyAnswered(asked.round)
        held = self.store.round_secrets(asked.study, asked.round, named)
        if held is not None:
            return held.reply
        made = RoundSecrets.generate()
        dealt = dict(zip(asked.sites, self._deal(made, asked), strict=True))
        sealing = X25519PrivateKey.generate()  # whoever steals our long-term key opens none of it
        envelopes = [
            wrap(
                dealt[other].to_bytes(),
                self._agreement_key(other),
                sealing,
                context=_shares_context(named, self.site, other),
            )
            for other in asked.sites
            if other != self.site
        ]
        key = RoundKey(
            study=asked.study,
            round=asked.round,
            call=named,
            site=self.site,
            public_key=made.public.public_key,
            seed_sha256=made.public.seed_sha256,
            sealing_key=sealing.public_key().public_bytes_raw(),
            envelopes=tuple(hashlib.sha256(envelope).hexdigest() for envelope in envelopes),
        )
        reply = encode(
            "round-key", body(key.signed_by(self.keys.sign)), {"shares": join_parts(envelopes)}
        )
        kept = made.to_bytes() + dealt[self.site].to_bytes()
        self.store.keep_round_secrets(HeldSecrets(asked, kept, reply))
        return reply

    def begin(self, plan: RoundPlan, envelopes: bytes) -> None:
        """Check a plan's roster and keep the others' shares, before anything is trained.

        Args:
            plan: Signed by the server.
            envelopes: The shares each other site of the roster sealed for this one.

        Raises:
            SummationRefused: The roster is not of a call this hospital answered, or too small.
            MalformedFrame: There is not one envelope from each.
            RoundAlreadyAnswered: Another plan of this round is kept.
            BadSignature: A round key is not signed by its site.
        """
        held = self._held(plan)
        made, own = unpacked(held.secrets)
        self._check_roster(plan, held.call, made.public)
        others = [key for key in plan.roster if key.site != self.site]
        shares = {self.site: own}
        for key, part in zip(others, split_parts(envelopes, len(others)), strict=True):
            if hashlib.sha256(part).hexdigest() != envelope_for(key, held.call, self.site):
                raise SummationRefused(f"the shares of {key.site} are not those it signed")
            try:
                opened = unwrap(
                    part,
                    key.sealing_key,
                    self.keys.agreement,
                    context=_shares_context(plan.call, key.site, self.site),
                )
                shares[key.site] = SharePair.from_bytes(opened)
            except PrivacyError as error:  # a quorum of the others has shares that serve
                log.warning("the shares of %s cannot be used: %s", key.site, error.code)
        kept = encode("shares", {}, {site: pair.to_bytes() for site, pair in shares.items()})
        self.store.keep_plan(plan, kept)

    def noise_share(self, plan: RoundPlan) -> NoiseShare | None:
        """Return this hospital's share of a round's noise, where the study's sites share it."""
        if self.terms.privacy.mechanism != "summed":
            return None
        made, _ = unpacked(self._held(plan).secrets)
        return NoiseShare(round_plan(self.terms, len(plan.sites)), noise_root(made.round_seed))

    def pad(self, plan: RoundPlan) -> NDArray[np.uint64]:
        """Return what this hospital adds to its packed update in this round.

        Returns:
            ``(ciphertexts * ring_degree,)`` integers below t.
        """
        return total_pad(
            unpacked(self._held(plan).secrets)[0],
            self.site,
            publics_of(plan),
            context=bytes.fromhex(digest(plan)),
            size=slots_of(self.terms, self.parameters),
            parameters=self.parameters,
        )

    def _held(self, plan: RoundPlan) -> HeldSecrets:
        held = self.store.round_secrets(plan.study, plan.round, plan.call)
        if held is None:
            raise SummationRefused("its plan is for a call that this hospital did not answer")
        return held

    # Checks

    def _check_call(self, asked: RoundCall) -> None:
        check_signature(
            self.terms.server_key,
            asked.signature,
            asked.signed_bytes(),
            what="round call",
            who="the server",
        )
        if asked.study != self.terms.study or asked.terms != digest(self.terms):
            raise SummationRefused("its call is for other terms than those that were approved")
        if asked.round > self.terms.rounds:
            raise SummationRefused(f"the study has {self.terms.rounds} rounds")
        if self.site not in asked.sites or len(asked.sites) < self.terms.sites_min:
            raise SummationRefused("its call is without this hospital, or of too few sites")
        if not all(self.terms.identity(site) for site in asked.sites):
            raise SummationRefused("its call names a site that is not registered")

    def _check_roster(self, plan: RoundPlan, call: RoundCall, own: PublicSecrets) -> None:
        if len(plan.roster) < max(self.terms.sites_min, quorum(len(call.sites))):
            raise SummationRefused(f"a roster of {len(plan.roster)} sites is too small")
        if not set(plan.sites) <= set(call.sites) or plan.previous != call.previous:
            raise SummationRefused("its roster or history is not that of the call")
        for key in plan.roster:
            if (key.study, key.round, key.call) != (plan.study, plan.round, plan.call):
                raise SummationRefused(f"the round key of {key.site} is for another call")
            check_site_message(self.terms, key, "round key")
        if publics_of(plan).get(self.site) != own:
            raise SummationRefused("its roster is without this hospital's round key")

    def _agreement_key(self, site: SiteId) -> bytes:
        return registered(self.terms, site).agreement_key

    def _deal(self, made: RoundSecrets, call: RoundCall) -> tuple[SharePair, ...]:
        sites = len(call.sites)
        return deal(made, threshold=quorum(sites), holders=sites)


def publics_of(plan: RoundPlan) -> dict[SiteId, PublicSecrets]:
    """Return what each site of a roster announced of its secrets."""
    return {key.site: PublicSecrets(key.public_key, key.seed_sha256) for key in plan.roster}


def unpacked(kept: bytes) -> tuple[RoundSecrets, SharePair]:
    """Return this site's secrets and its own share of them, as ``call`` kept them."""
    return (
        RoundSecrets.from_bytes(kept[:ROUND_SECRETS_BYTES]),
        SharePair.from_bytes(kept[ROUND_SECRETS_BYTES:]),
    )


def slots_of(terms: StudyTerms, parameters: ParameterSet) -> int:
    """Return how many slots the packed update of a study fills, and so the size of a pad."""
    return parameters.ciphertexts(terms.training.parameters) * parameters.ring_degree


def _shares_context(call: str, dealer: SiteId, holder: SiteId) -> bytes:
    return SHARES_CONTEXT + f"{call}\n{dealer}\n{holder}".encode()
