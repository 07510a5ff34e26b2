"""The opening of a sum: shares of its decryption by quorum, then its integers, the same from all.

Who opens a sum, says the study's terms. Where any member can, the sites of the sum are asked at
once. Where only a quorum can, its shares come first; where one of them fails, another quorum is
asked. A few sites send the integers and the others their hash: all that answer must agree, two at
least, and no site is believed alone.

What holds, each a test in tests/fl_server/test_summation.py:

1. Integers that a site sends are believed by the hash it signed alone.
2. A sum that the sites decrypted and refused is not asked for again: no later answer would differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_server.parts import narrow
from fl_server.questions import Questions, Requests
from fl_server.sites import refusal_of
from privacy.sharing import QuorumMissing
from protocol.canonical import digest
from protocol.errors import FederationError
from protocol.frames import Frame, encode, join_parts
from protocol.ids import SiteId
from protocol.messages import RoundPlan
from protocol.summation import Commitment, Opening, Partial, Unmasking

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
Unmaskings = Mapping[SiteId, tuple[Unmasking, dict[SiteId, bytes]]]
"""Each site's tag, and its reveals by opener."""


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
class SumOpening:
    """The opening of the sum that one commitment names."""

    questions: Questions
    plan: RoundPlan
    commitment: Commitment

    def partials(
        self,
        shown: dict[str, object],
        blobs: dict[str, bytes],
        *,
        threshold: int,
        alive: frozenset[SiteId],
    ) -> list[tuple[Partial, bytes]]:
        """Get a quorum's shares of the decryption; where one of it fails, ask another quorum."""
        # Who has just unmasked is there; a quorum that lacks one of its sites is asked in vain.
        willing = sorted(self.plan.sites, key=lambda site: site not in alive)
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
                partial = self.questions.signed(Partial, reply, "partial", site)
                share = reply.blobs.get("share", b"")
                named = None if partial is None else (partial.commitment, list(partial.quorum))
                if partial is None or named != (digest(self.commitment), asked):
                    return False
                if hashlib.sha256(share).hexdigest() != partial.share_sha256:
                    return False
                found[site] = (partial, share)
                return True

            question = hashlib.sha256(frame).hexdigest()
            requests = dict.fromkeys(asked, frame)
            self.questions.gather(
                "share",
                self.plan.round,
                question,
                requests,
                take=take,
                wait=self.questions.wait(len(asked)),
            )
            if set(found) == set(asked):
                return [found[site] for site in asked]
            willing = [site for site in willing if site not in asked or site in found]
        raise QuorumMissing(len(willing), threshold)

    def integers(
        self,
        unmaskings: Unmaskings,
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

        senders = set(self.commitment.sites[:INTEGERS_FROM])
        requests = Requests(
            self.commitment.sites, lambda opener: frame(opener, send=opener in senders)
        )
        taken = _Taken(digest(self.commitment), self.commitment.length)
        self._ask_to_open(taken, requests, "")
        if not taken.openings and _are_unsound(taken.declined):
            raise SumUnsound(self.plan.round, taken.declined)
        for site in sorted(taken.openings):
            if taken.integers is not None:
                break
            # The senders are gone; who has opened the sum opens it again to the same integers.
            again = Requests((site,), lambda opener: frame(opener, send=True))
            self._ask_to_open(taken, again, " again")
        found = {(one.integers_sha256, one.weight) for one in taken.openings.values()}
        if len(found) > 1 or any(weight != self.commitment.weight for _, weight in found):
            self.questions.answers.forget(self.plan.round, "open")  # asked again, they may agree
            raise OpeningDisputed(self.plan.round)
        if len(taken.openings) < OPENERS_MIN or taken.integers is None:
            raise OpeningMissing(self.plan.round, len(taken.openings), taken.declined)
        ((agreed, _),) = found
        return taken.integers, agreed

    def _ask_to_open(self, taken: _Taken, requests: Requests, attempt: str) -> None:
        """Add the openings that come to those taken, the integers, and who refused why."""

        def take(site: SiteId, reply: Frame) -> bool:
            opening = self.questions.signed(Opening, reply, "opening", site)
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

        wait = self.questions.wait(min(OPENERS_MIN, len(requests)))
        self.questions.gather(
            "open", self.plan.round, taken.commitment + attempt, requests, take=take, wait=wait
        )


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
