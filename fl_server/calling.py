"""Before a round: the sites' round keys, and the shares of their secrets that they sealed.

A site that answers a call commits to its secrets of the round, and seals shares of them to every
other site of the call. What it sealed travels with the plan (``Called.plan_envelopes``); the server
can open none of it. A round key that is not for this call, or with which no pad could be agreed, or
whose envelopes are not those it names, counts as no answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fl_server.questions import Questions
from privacy.sharing import quorum
from protocol.canonical import body, digest
from protocol.frames import MalformedFrame, encode, join_parts, split_parts
from protocol.ids import SiteId
from protocol.messages import RoundCall, RoundKey
from protocol.progress import Step


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


def gather_keys(questions: Questions, call: RoundCall, *, seconds: float) -> Called:
    """Send a signed call to its sites, and return what came of it in time."""
    called = Called(call, {}, {})
    frame = encode("call", body(call))
    requests = dict.fromkeys(call.sites, frame)
    group = f"call-{call.round}"
    wait = questions.wait(quorum(len(call.sites)), seconds=seconds)
    for site, reply in questions.sites.ask("call", requests, group, wait):
        key = questions.signed(RoundKey, reply, "round-key", site)
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
        questions.progress(Step("call", call.round, site, len(called.keys), len(call.sites)))
    return called


def _serves(key: RoundKey, call: RoundCall) -> bool:
    """Say whether a round key answers this call, and the others can agree on pads with it."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key.public_key))
    except ValueError:  # of small order: every agreement with it is zero
        return False
    return (key.study, key.round, key.call) == (call.study, call.round, digest(call))
