"""Which node is which hospital, and asking them: frames out, checked frames back.

A hospital is known by a signed answer to a fresh nonce, never by its node number, which Flower
hands out anew at every start. Whatever a node does wrong becomes a refusal, so that one hospital's
failure is an answer and not an exception.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from fl_server.offering import Offering
from fl_server.phases import Wait
from fl_server.transport import Transport
from privacy.signatures import check_signature
from protocol.canonical import digest, read
from protocol.errors import FederationError
from protocol.frames import Frame, decode, encode
from protocol.ids import SiteId
from protocol.jobs import JobAnswer
from protocol.messages import Join
from protocol.plain import plain
from protocol.progress import Progress, Step
from protocol.terms import StudyTerms

AGAIN_SECONDS = 5.0
"""How long a node that did not say who it is is left alone before it is asked again."""

JOIN_SECONDS = 15.0
"""How long a node may take to say who it is before the others, and those that come, are asked."""

OFFER_SECONDS = 30.0
"""How long a node may take to say how the job stands; the others are called without it."""


class TooFewSites(FederationError):
    """Fewer sites than the study needs answered the roll call."""

    code = "too-few-sites"

    def __init__(self, present: int, needed: int, waiting: Mapping[SiteId, str] = {}) -> None:
        undecided = ", ".join(f"{site}: {state}" for site, state in sorted(waiting.items()))
        super().__init__(
            f"{present} sites answered and the study needs {needed}; start the missing sites and "
            "run again" + (f" (the job is not approved at {undecided})" if undecided else "")
        )


@dataclass
class Sites:
    """The hospitals that answered the roll call, and the way to them."""

    terms: StudyTerms
    transport: Transport
    progress: Progress
    nodes: dict[SiteId, int] = field(default_factory=dict)
    offering: Offering | None = None
    """The job that a hospital must have approved before it is called."""
    waiting: dict[SiteId, JobAnswer] = field(default_factory=dict)
    """The hospitals that have not approved it, and what they said."""
    on_late: Callable[[str, str, SiteId, bytes], None] = lambda _kind, _group, _site, _reply: None
    """Told of a reply that came after its step had ended: kind, group, site and the bytes."""

    def roll_call(self, seconds: float, at_most: float = 0.0) -> dict[SiteId, str]:
        """Find which node is which site; return the key id each site holds.

        A node whose agent is not up yet, or whose officer has not decided, is asked again until the
        time is over.

        Args:
            seconds: How long to wait for all.
            at_most: How long to wait for as many as the study needs, where that is longer: a
                machine that has just been switched on takes its time, and to end the run only
                begins the wait anew.

        Raises:
            TooFewSites: Fewer than the study needs said who they are in time.
        """
        held: dict[SiteId, str] = {}
        asked: dict[int, float] = {}
        known: set[int] = set()
        wanted = {identity.site for identity in self.terms.sites}
        began = time.monotonic()
        while wanted - set(held) - self._refusing():
            too_few = len(held) < self.terms.sites_min
            deadline = began + (max(seconds, at_most) if too_few else seconds)
            if (now := time.monotonic()) >= deadline:
                break
            due = [
                node
                for node in self.transport.nodes()
                if node not in known and now - asked.get(node, -AGAIN_SECONDS) >= AGAIN_SECONDS
            ]
            if not due:
                time.sleep(0.05)
                continue
            asked.update(dict.fromkeys(due, now))
            joined = self._joining(due, deadline - time.monotonic())
            known.update(self.nodes[site] for site in joined)
            held |= joined
        if len(held) < self.terms.sites_min:
            undecided = {site: answer.state for site, answer in self.waiting.items()}
            raise TooFewSites(len(held), self.terms.sites_min, undecided)
        return held

    def refresh(self, seconds: float) -> dict[SiteId, str]:
        """Forget nodes that are gone, and ask those that came who they are.

        Returns:
            The key id that each site holds which came, or came back under another node.
        """
        there = set(self.transport.nodes())
        self.nodes = {site: node for site, node in self.nodes.items() if node in there}
        unknown = sorted(there - set(self.nodes.values()))
        if len(self.nodes) == len(self.terms.sites) or not unknown:
            return {}
        return self._joining(unknown, seconds)

    def ask(
        self, kind: str, requests: Mapping[SiteId, bytes], group: str, seconds: float | Wait
    ) -> Iterator[tuple[SiteId, Frame]]:
        """Send each site its frame and yield the replies as they come.

        A site that is not connected, or stays silent until the wait is over, is not yielded.

        Args:
            kind: Of frame.
            requests: By site; looked up one at a time, so it may be a lazy mapping.
            group: Names the step and its round, for replies that come late.
            seconds: How long to wait for all, or a wait that counts what was accepted.
        """
        wait = seconds if isinstance(seconds, Wait) else Wait(seconds)
        sites = {self.nodes[site]: site for site in requests if site in self.nodes}
        for node, reply in self._exchange(kind, _ByNode(requests, sites), group, wait):
            yield sites[node], reply
        self.hear_late()

    def hear_late(self) -> None:
        """Look for replies of steps that have ended, and tell of them."""
        by_node = {node: site for site, node in self.nodes.items()}
        for late in self.transport.late():
            if late.node in by_node:
                self.on_late(late.kind, late.group, by_node[late.node], late.reply)

    def _joining(self, nodes: list[int], seconds: float) -> dict[SiteId, str]:
        """Ask nodes who they are; return the key id each site holds that said so."""
        held: dict[SiteId, str] = {}
        nodes = self._approving(nodes, max(1.0, seconds / 2))
        nonce = secrets.token_hex(32)
        frame = encode("join", {"terms": digest(self.terms), "nonce": nonce} | self._job())
        wait = Wait(max(1.0, min(seconds, JOIN_SECONDS)))
        for node, reply in self._exchange("join", dict.fromkeys(nodes, frame), "join", wait):
            join = self._joined(reply, nonce)
            if join is None:
                continue
            self.nodes[join.site] = node
            held[join.site] = join.key_id
            self.progress(Step("join", 0, join.site, len(self.nodes), len(self.terms.sites)))
        return held

    def _exchange(
        self, kind: str, requests: Mapping[int, bytes], group: str, wait: Wait
    ) -> Iterator[tuple[int, Frame]]:
        if requests:
            for node, reply in self.transport.exchange(
                kind, requests, group=group, deadline_seconds=wait.seconds, enough=wait.is_over
            ):
                decoded = [_decoded(reply)]
                del reply  # an upload is large: nobody here holds it while it is looked at
                yield node, decoded.pop()

    # The job

    def _job(self) -> dict[str, str]:
        return {} if self.offering is None else {"job": self.offering.job.hash}

    def _refusing(self) -> set[SiteId]:
        return {site for site, answer in self.waiting.items() if answer.state == "refused"}

    def _approving(self, nodes: list[int], seconds: float) -> list[int]:
        """Offer the job; return the nodes of hospitals that approved it, and note the others."""
        if self.offering is None:
            return nodes
        approving: list[int] = []
        nonce = secrets.token_hex(32)
        frames = dict.fromkeys(nodes, self.offering.frame(nonce))
        wait = min(seconds, OFFER_SECONDS)
        for node, reply in self._exchange("offer", frames, "offer", Wait(wait)):
            answer = self.offering.answer(reply, nonce)
            if answer is None:
                continue
            before = self.waiting.pop(answer.site, None)
            if answer.state == "approved":
                approving.append(node)
                continue
            self.waiting[answer.site] = answer
            if before is None or before.state != answer.state:
                note = f"the job is {answer.state} there: {answer.reason}"
                self.progress(Step("wait", 0, answer.site, note=note))
        return approving

    def _joined(self, reply: Frame, nonce: str) -> Join | None:
        try:
            join = read(Join, reply.body)
            identity = self.terms.identity(join.site)
            if identity is None or join.nonce != nonce or join.terms != digest(self.terms):
                return None
            check_signature(
                identity.signing_key,
                join.signature,
                join.signed_bytes(),
                what="answer to the roll call",
                who=join.site,
            )
        except FederationError:
            return None
        return join


def refusal_of(reply: Frame) -> tuple[str, str]:
    """Return the code and reason of a reply that is not what was due."""
    code, reason = reply.body.get("code"), reply.body.get("reason")
    if isinstance(code, str) and isinstance(reason, str):
        return plain(code), plain(reason)
    return "malformed-message", f"the site sent a {reply.kind!r} where something else was due"


class _ByNode(Mapping[int, bytes]):
    """Requests by node, each looked up when it is sent."""

    def __init__(self, requests: Mapping[SiteId, bytes], sites: Mapping[int, SiteId]) -> None:
        self._requests, self._sites = requests, sites

    def __getitem__(self, node: int) -> bytes:
        return self._requests[self._sites[node]]

    def __iter__(self) -> Iterator[int]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)


def _decoded(reply: bytes | None) -> Frame:
    if reply is None:
        return Frame("refused", {"code": "site-failed", "reason": "the site's process failed"})
    try:
        return decode(reply)
    except FederationError as error:
        return Frame("refused", {"code": error.code, "reason": str(error)})
