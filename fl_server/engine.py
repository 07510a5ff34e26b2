"""The round engine: a state machine that a killed server takes up where it was.

::

    roll call ─▶ group key ─▶ ┌ planned ─▶ frozen ─▶ closed ┐ ─▶ (next round)
                              └──────── one round ──────────┘

*planned*  the signed plan and the lanes it refers to are stored; sites are asked, and every answer
           is stored as it passes the gate, or its refusal is.
*frozen*   no answer enters any more: one set of contributions, one sum, one opening.
*closed*   the new model, the countersigned receipts and the flag appear in one transaction.

A site that answered a plan gives the same answer when it is asked again, so after a crash the
engine simply asks again. Exceptions of one site never end a round; too few sites do not either:
the round closes without an update, and nobody is paid for it.

The engine knows no Flower (``Transport`` does), no money (``after_close`` gets a ``RoundClosed``)
and no secret key of the encryption.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from consent.registry import Registry
from fl_server.aggregation import apply_sum
from fl_server.gate import Admitted, Gate
from fl_server.lanes import lane_states
from fl_server.store import ModelState, ServerStore
from fl_server.transport import Transport
from privacy.bfv import EncryptedSum, EncryptedUpdate, ServerContext, self_test
from privacy.parameters import ParameterSet
from privacy.signatures import check_signature
from protocol.errors import BitHiveError, FederationError
from protocol.frames import Frame, decode, encode
from protocol.ids import KeyId, SiteId
from protocol.messages import (
    ChunkState,
    Contribution,
    Epoch,
    Join,
    Opening,
    OpenRequest,
    Receipt,
    Refusal,
    RoundClosed,
    RoundPlan,
    StudyTerms,
    TrainRequest,
    body,
    digest,
    read,
)
from protocol.progress import Progress, Step, silent
from protocol.units import day_number
from zk.keys import VerificationKey

NO_PLAN: Final = "0" * 64
INTEGERS_FROM: Final = 2
"""How many sites send the opened integers; the others send their hash only."""


class TooFewSites(FederationError):
    """Fewer sites than the study needs answered the roll call."""

    code = "too-few-sites"

    def __init__(self, present: int, needed: int) -> None:
        super().__init__(
            f"{present} sites answered and the study needs {needed}; start the missing sites and "
            "run again"
        )


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

    def __init__(self, round_number: int, present: int) -> None:
        super().__init__(
            f"only {present} sites opened the sum of round {round_number} and two are needed; run "
            "again once they are back"
        )


@dataclass(frozen=True)
class Deadlines:
    """How long each phase waits for its slowest site, in seconds."""

    join: float = 120.0
    train: float = 3600.0
    open: float = 600.0


@dataclass
class Engine:
    """Runs one study's rounds to the end."""

    terms: StudyTerms
    store: ServerStore
    registry: Registry
    transport: Transport
    verification_key: VerificationKey
    signing_key: Ed25519PrivateKey
    parameters: ParameterSet
    after_close: Callable[[RoundClosed], None]
    progress: Progress = silent
    deadlines: Deadlines = field(default_factory=Deadlines)
    today: Callable[[], int] = lambda: day_number(datetime.now(UTC).date())

    def __post_init__(self) -> None:
        self_test(self.parameters)
        self._context = ServerContext(self.parameters)
        self._gate = Gate(self.terms, self.verification_key, self._context, self.today)
        self._nodes: dict[SiteId, int] = {}
        self._key_id = KeyId("")

    def run(self) -> None:
        """Run every round that is not closed yet.

        Raises:
            TooFewSites: The roll call found fewer sites than the study needs.
            OpeningDisputed: Sites opened a sum to different integers.
            OpeningMissing: Fewer than two sites opened it.
            StorageError: The server's disk refused; run again, closed rounds are kept.
        """
        last = self.store.rounds_closed()
        stored = self.store.round(last) if last else None
        if stored is not None and stored.closed is not None and not stored.settled:
            self._hand_over(stored.closed)
        if last == self.terms.rounds:
            return
        held = self._roll_call()
        self._share_key(held)
        for number in range(last + 1, self.terms.rounds + 1):
            self._hand_over(self._round(number))

    # Roll call and group key

    def _roll_call(self) -> dict[SiteId, str]:
        """Find which node is which site; return the key id each site holds."""
        held: dict[SiteId, str] = {}
        asked: set[int] = set()
        wanted = {identity.site for identity in self.terms.sites}
        deadline = time.monotonic() + self.deadlines.join
        while set(held) != wanted and time.monotonic() < deadline:
            fresh = [node for node in self.transport.nodes() if node not in asked]
            if not fresh:
                time.sleep(0.2)
                continue
            asked.update(fresh)
            nonce = secrets.token_hex(32)
            frame = encode("join", {"terms": digest(self.terms), "nonce": nonce})
            left = max(1.0, deadline - time.monotonic())
            for node, reply in self._ask("join", dict.fromkeys(fresh, frame), "join", left):
                join = self._joined(reply, nonce)
                if join is None:
                    continue
                self._nodes[join.site] = node
                held[join.site] = join.key_id
                self.progress(Step("join", 0, join.site, len(held), len(wanted)))
        if len(held) < self.terms.sites_min:
            raise TooFewSites(len(held), self.terms.sites_min)
        return held

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

    def _share_key(self, held: Mapping[SiteId, str]) -> None:
        """See that every site holds the group key; the server passes on wrapped copies only."""
        dealt = self.store.wrapped()
        if dealt is None:
            dealt = self._deal_key(min(held))
        dealer, key_id, wrapped = dealt
        self._key_id = KeyId(key_id)
        lacking = {
            self._nodes[site]: encode(
                "take-key", {"dealer": dealer, "key_id": key_id}, {"wrapped": wrapped[site]}
            )
            for site, its_key in held.items()
            if its_key != key_id and site != dealer
        }
        for _node, reply in self._ask("take-key", lacking, "key", self.deadlines.join):
            self.progress(Step("key", 0, None, note=reply.kind))

    def _deal_key(self, dealer: SiteId) -> tuple[str, str, dict[str, bytes]]:
        request = {self._nodes[dealer]: encode("deal-key", {"terms": digest(self.terms)})}
        for _node, reply in self._ask("deal-key", request, "key", self.deadlines.join):
            others = {one.site for one in self.terms.sites if one.site != dealer}
            key_id = reply.body.get("key_id")
            if reply.kind == "key" and set(reply.blobs) == others and isinstance(key_id, str):
                self.store.keep_wrapped(dealer, key_id, reply.blobs)
                return dealer, key_id, reply.blobs
        raise TooFewSites(0, 1)

    # One round

    def _round(self, number: int) -> RoundClosed:
        before = self.store.model(number - 1)
        stored = self.store.round(number)
        if stored is None:
            plan, lanes = self._plan(number, before)
            self.store.plan(plan, lanes)
            frozen = False
        else:
            plan, lanes, frozen = stored.plan, stored.lanes, stored.frozen
        if not frozen:
            self._collect(plan, lanes, before)
            self.store.freeze(number)
        return self._close(plan, before)

    def _plan(
        self, number: int, before: ModelState
    ) -> tuple[RoundPlan, dict[SiteId, tuple[ChunkState, ...]]]:
        with self.registry.snapshot() as epoch:  # no withdrawal between the root and the lanes
            lanes = lane_states(self.registry, self.terms)
        previous = self.store.round(number - 1)
        plan = RoundPlan(
            study=self.terms.study,
            terms=digest(self.terms),
            round=number,
            model=before.sha256,
            key_id=self._key_id,
            steps=tuple(float(step) for step in before.steps),
            epoch=Epoch(
                registry=self.terms.consent.registry,
                number=epoch.number,
                root=epoch.root,
                at=epoch.at,
                signature=epoch.signature,
            ),
            previous=NO_PLAN if previous is None else digest(previous.plan),
        )
        signature = self.signing_key.sign(plan.signed_bytes())
        return plan.model_copy(update={"signature": signature}), lanes

    def _collect(
        self, plan: RoundPlan, lanes: Mapping[SiteId, tuple[ChunkState, ...]], before: ModelState
    ) -> None:
        answered = set(self.store.uploads(plan.round))
        answered |= {refusal.site for refusal in self.store.refusals(plan.round)}
        model = before.vector.astype("<f4").tobytes()
        requests = {
            node: encode(
                "train",
                body(TrainRequest(plan=plan, chunks=lanes.get(site, ()))),
                {"model": model},
            )
            for site, node in self._nodes.items()
            if site not in answered
        }
        sites = {node: site for site, node in self._nodes.items()}
        group = f"round-{plan.round}"
        for node, reply in self._ask("train", requests, group, self.deadlines.train):
            self._consider(sites.pop(node), reply, plan, lanes)
        for site in {one.site for one in self.terms.sites} - answered:
            if site in sites.values() or site not in self._nodes:
                self._refuse(site, plan.round, "no-answer", "the site did not answer in time")

    def _consider(
        self,
        site: SiteId,
        reply: Frame,
        plan: RoundPlan,
        lanes: Mapping[SiteId, tuple[ChunkState, ...]],
    ) -> None:
        """Let one answer through the gate, or record why not."""
        if reply.kind != "contribution":
            code, reason = _refusal_of(reply)
            self._refuse(site, plan.round, code, reason)
            return
        started = time.thread_time()
        try:
            admitted, contribution = self._admit(site, reply, plan, lanes.get(site, ()))
        except BitHiveError as error:
            self._refuse(site, plan.round, error.code, str(error))
            return
        self.store.accept(contribution, admitted.update.blob, list(admitted.statements))
        spent = time.thread_time() - started
        self.progress(Step("gate", plan.round, site, seconds=spent - admitted.proof_seconds))
        self.progress(Step("verify", plan.round, site, seconds=admitted.proof_seconds))

    def _admit(
        self, site: SiteId, reply: Frame, plan: RoundPlan, lane: tuple[ChunkState, ...]
    ) -> tuple[Admitted, Contribution]:
        contribution = read(Contribution, reply.body)
        if contribution.receipt.site != site:
            raise FederationError(f"{site} answered in the name of another site")
        known = {
            statement: self.store.is_verified(statement)
            for statement in contribution.receipt.certificates
        }
        ciphertext = reply.blobs.get("update", b"")
        return self._gate.admit(contribution, ciphertext, plan, lane, known), contribution

    def _refuse(self, site: SiteId, number: int, code: str, reason: str) -> None:
        refusal = Refusal(site=site, round=number, code=code[:60], reason=reason[:1000])
        self.store.refuse(refusal)
        self.progress(Step("refuse", number, site, note=f"{code}: {reason}"))

    def _close(self, plan: RoundPlan, before: ModelState) -> RoundClosed:
        uploads = self.store.uploads(plan.round)
        if len(uploads) < self.terms.sites_min:
            return self._store_close(plan, (), before, None)
        receipts = tuple(contribution.receipt for contribution, _ in uploads.values())
        total = self._add(uploads, plan.round)
        integers, weight = self._open(plan, receipts, total)
        after = apply_sum(
            self.terms, self.parameters, before, integers, weight=weight, sites=len(receipts)
        )
        countersigned = tuple(
            receipt.model_copy(
                update={"server_signature": self.signing_key.sign(receipt.server_bytes())}
            )
            for receipt in receipts
        )
        return self._store_close(plan, countersigned, after, integers)

    def _add(self, uploads: Mapping[str, tuple[Contribution, bytes]], number: int) -> EncryptedSum:
        started = time.thread_time()
        total = self._context.add(
            [
                EncryptedUpdate(
                    blob=blob,
                    key_id=contribution.key_id,
                    parameters=contribution.encryption,
                    length=contribution.length,
                )
                for contribution, blob in uploads.values()
            ]
        )
        self.progress(Step("add", number, None, seconds=time.thread_time() - started))
        return total

    def _open(
        self, plan: RoundPlan, receipts: tuple[Receipt, ...], total: EncryptedSum
    ) -> tuple[NDArray[np.int64], int]:
        """Ask the sites in the sum to open it; all that answer must agree."""
        request = OpenRequest(
            study=plan.study,
            round=plan.round,
            key_id=self._key_id,
            sum_sha256=hashlib.sha256(total.blob).hexdigest(),
            length=self.terms.training.parameters,
            receipts=receipts,
        )
        signature = self.signing_key.sign(request.signed_bytes())
        request = request.model_copy(update={"signature": signature})
        senders = {receipt.site for receipt in receipts[:INTEGERS_FROM]}
        frames = {
            self._nodes[receipt.site]: encode(
                "open",
                {"request": body(request), "send_integers": receipt.site in senders},
                {"sum": total.blob},
            )
            for receipt in receipts
            if receipt.site in self._nodes
        }
        openings: list[Opening] = []
        integers: NDArray[np.int64] | None = None
        group = f"open-{plan.round}"
        for _node, reply in self._ask("open", frames, group, self.deadlines.open):
            opening = self._opening(reply, request)
            if opening is None:
                continue
            openings.append(opening)
            blob = reply.blobs.get("integers", b"")
            if hashlib.sha256(blob).hexdigest() == opening.integers_sha256:
                integers = np.frombuffer(blob, "<i8").astype(np.int64)
            self.progress(Step("open", plan.round, opening.site))
        if len({(one.integers_sha256, one.weight) for one in openings}) > 1:
            raise OpeningDisputed(plan.round)
        if len(openings) < 2 or integers is None or integers.size != request.length:
            raise OpeningMissing(plan.round, len(openings))
        weight = sum(receipt.proven_patients for receipt in receipts)
        if openings[0].weight != weight:
            raise OpeningDisputed(plan.round)
        return integers, weight

    def _opening(self, reply: Frame, request: OpenRequest) -> Opening | None:
        if reply.kind != "opening":
            return None
        try:
            opening = read(Opening, reply.body)
            identity = self.terms.identity(opening.site)
            if identity is None or opening.sum_sha256 != request.sum_sha256:
                return None
            check_signature(
                identity.signing_key,
                opening.signature,
                opening.signed_bytes(),
                what="opening",
                who=opening.site,
            )
        except FederationError:
            return None
        return opening

    def _store_close(
        self,
        plan: RoundPlan,
        receipts: tuple[Receipt, ...],
        after: ModelState,
        integers: NDArray[np.int64] | None,
    ) -> RoundClosed:
        closed = RoundClosed(
            study=plan.study,
            round=plan.round,
            server_key=self.terms.server_key,
            model_sha256=after.sha256,
            receipts=receipts,
            refused=self.store.refusals(plan.round),
        )
        self.store.close(closed, after, integers)
        self.progress(Step("close", plan.round, None, plan.round, self.terms.rounds))
        return closed

    def _hand_over(self, closed: RoundClosed) -> None:
        self.after_close(closed)
        self.store.settled(closed.round)

    def _ask(
        self, kind: str, requests: Mapping[int, bytes], group: str, seconds: float
    ) -> Iterator[tuple[int, Frame]]:
        """Exchange frames; a reply that is no frame becomes a refusal."""
        if requests:
            for node, reply in self.transport.exchange(
                kind, requests, group=group, deadline_seconds=seconds
            ):
                yield node, _decoded(reply)


def _decoded(reply: bytes | None) -> Frame:
    if reply is None:
        return Frame("refused", {"code": "site-failed", "reason": "the site's process failed"})
    try:
        return decode(reply)
    except FederationError as error:
        return Frame("refused", {"code": error.code, "reason": str(error)})


def _refusal_of(reply: Frame) -> tuple[str, str]:
    code, reason = reply.body.get("code"), reply.body.get("reason")
    if isinstance(code, str) and isinstance(reason, str):
        return code, reason
    return "malformed-message", f"the site sent a {reply.kind!r} where an update was due"
