"""What a round costs when nobody trains and nothing is encrypted: the loop, the store and the grid.

Measured, in one process: the real ``Engine`` on a real SQLite file (every commit fsynced), over the
real in-process grid, which carries Flower's own messages to Flower's own ``ClientApp``. In a round
each of ``sites`` hospitals is called, gets the model as float32 and sends as many bytes back,
endorses, unmasks, and opens, where it gets as many bytes again; two send int64 zeros. All of it is
stored as always: plan, uploads, answers, the new model with its momentum, the opened integers,
events, the lease's heartbeat. FedAvg's step is taken.

Not measured, because stubbed here: training, encryption, adding ciphertexts, tags, proofs, pads,
group keys, the registry, signatures of single steps (the roll call's and the plan's are real).

    from experiments._noop_round import in_process_seconds_per_round
    in_process_seconds_per_round(1_000_000, rounds=5)

The first round is not counted: it meets cold caches. What is returned is the median of the others.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.registry import Registry, SignedEpoch
from fl_client import link
from fl_client.app import app as carrier
from fl_server.app import keep_freed_memory
from fl_server.calling import Called
from fl_server.engine import Engine
from fl_server.gate import Admitted, Gate
from fl_server.inprocess import InProcessGrid
from fl_server.model_state import ModelState
from fl_server.opening import integers_of
from fl_server.parts import narrow
from fl_server.questions import Requests
from fl_server.store import ServerStore
from fl_server.summation import Opened, SecureSum, Uploads
from fl_server.transport import GridTransport
from privacy.bfv import EncryptedUpdate
from privacy.keys import SiteKeys
from privacy.parameters import parameter_set
from privacy.sharing import quorum
from protocol.canonical import body, digest, read
from protocol.frames import Frame, decode, encode
from protocol.ids import KeyId, SiteId, StudyId
from protocol.messages import Contribution, Join, Receipt, RoundCall, RoundKey, RoundPlan
from protocol.progress import Step
from protocol.summation import Commitment, Opening
from protocol.terms import ConsentTerms, PrivacyTerms, SiteIdentity, StudyTerms, TrainingTerms
from zk.keys import VerificationKey

ENCRYPTION: Final = "packed-bfv-8"
NOTHING: Final = "0" * 64
KEY_ID: Final = KeyId("0" * 16)
ROUNDS_MAX: Final = 1000


def in_process_seconds_per_round(floats: int, rounds: int, *, sites: int = 3) -> float:
    """Return the median seconds of a round of clients that do nothing.

    Args:
        floats: In the model, and in each site's update.
        rounds: To measure, after one that is not.
        sites: In the study.
    """
    return median(seconds_of_rounds(floats, rounds, sites=sites))


def seconds_of_rounds(floats: int, rounds: int, *, sites: int = 3) -> list[float]:
    """Return the seconds of each measured round, from closing to closing."""
    assert 1 <= rounds < ROUNDS_MAX
    assert floats >= 1
    keys = {SiteId(f"site-{number:02}"): SiteKeys.generate() for number in range(sites)}
    server_key = Ed25519PrivateKey.generate()
    terms = _terms(keys, server_key, floats, rounds + 1)
    clients = {site: _Client(site, terms, one) for site, one in keys.items()}
    closed: list[float] = []
    keep_freed_memory()

    def observe(step: Step) -> None:
        if step.stage == "close":
            closed.append(time.perf_counter())

    with tempfile.TemporaryDirectory(prefix="bithive-noop-") as folder:
        store = ServerStore(Path(folder) / "server.db")
        zeros = np.zeros(floats, np.float32)
        store.found(terms, ModelState(zeros, zeros, np.ones(1)))
        addresses = [link.register(f"{folder}/{site}", one.answer) for site, one in clients.items()]
        grid = InProcessGrid(carrier, [{"agent": address} for address in addresses])
        try:
            _Engine(
                terms=terms,
                store=store,
                registry=cast("Registry", _NoRegistry()),
                transport=GridTransport(grid, poll_seconds=0.01),
                verification_key=cast("VerificationKey", None),
                signing_key=server_key,
                parameters=parameter_set(ENCRYPTION),
                after_close=lambda _closed: None,
                progress=observe,
            ).run()
        finally:
            grid.close()
            for address in addresses:
                link.forget(address.removeprefix("local:"))
    return [after - before for before, after in itertools.pairwise(closed)]


class _Engine(Engine):
    """The engine with everything cryptographic left out."""

    def _start(self, number: int = 1) -> None:
        super()._start(number)
        self._keeper = cast("Any", _NoKeys())
        self._intake.gate = cast("Gate", _NoGate())
        real = self._sum
        self._sum = _NoCrypto(**{name: getattr(real, name) for name in real.__dataclass_fields__})


class _NoCrypto(SecureSum):
    """The steps of a secure sum, each asked and stored, without what they are for."""

    @functools.cached_property
    def zeros(self) -> str:
        """The digest of the integers that everybody opens, told so that no client works it out."""
        return hashlib.sha256(bytes(8 * self.terms.training.parameters)).hexdigest()

    def call(self, round_number: int, previous: str, candidates: Any) -> Called:
        call = RoundCall(
            study=self.terms.study,
            terms=digest(self.terms),
            round=round_number,
            sites=tuple(candidates),
            previous=previous,
        ).signed_by(self.signing_key.sign)
        called = Called(call, {}, {})
        requests = dict.fromkeys(call.sites, encode("call", body(call)))
        wait = self.questions.wait(quorum(len(call.sites)), seconds=self.call_seconds)
        for site, reply in self.questions.sites.ask("call", requests, f"call-{round_number}", wait):
            called.keys[site] = read(RoundKey, reply.body)
            called.envelopes[site] = dict.fromkeys(call.sites, b"share")
            wait.count()
        return called

    def open(self, plan: RoundPlan, called: int, uploads: Uploads) -> Opened:
        total = np.zeros(self.terms.training.parameters, np.float32)
        receipts = []
        for site in uploads:
            contribution, blob = uploads[site]
            total += np.frombuffer(blob, "<f4")
            receipts.append(contribution.receipt)
        commitment = Commitment(
            study=plan.study,
            round=plan.round,
            plan=digest(plan),
            key_id=plan.key_id,
            length=self.terms.training.parameters,
            uploads_root=NOTHING,
            sum_sha256=hashlib.sha256(total.tobytes()).hexdigest(),
            receipts=tuple(receipts),
        ).signed_by(self.signing_key.sign)
        named, wait = digest(commitment), self.questions.wait(quorum(called))
        for kind in ("endorse", "unmask"):
            frame = encode(kind, {"commitment": named})
            asked = dict.fromkeys(plan.sites, frame)
            self.questions.gather(kind, plan.round, named, asked, take=_anything, wait=wait)
            wait = self.questions.wait(quorum(called))
        found: dict[SiteId, Any] = {}

        def take(site: SiteId, reply: Frame) -> bool:
            blob = reply.blobs.pop("integers")
            if blob and not found:
                opening = read(Opening, reply.body)
                found[site] = integers_of(blob, commitment.length, opening.integers_sha256)
                reply.blobs["integers"] = b"".join(narrow(found[site]))
            return True

        sums = {"sum": total.tobytes()}
        opened = {"c": named, "zeros": self.zeros}
        senders = plan.sites[:2]
        frames = Requests(
            plan.sites,
            lambda site: encode("open", {**opened, "send": site in senders}, sums),
        )
        wait = self.questions.wait(2)
        self.questions.gather("open", plan.round, named, frames, take=take, wait=wait)
        integers = next(iter(found.values()))
        return Opened(integers, commitment.weight, commitment, (), (), self.zeros)


def _anything(_site: SiteId, _reply: Frame) -> bool:
    return True


@dataclass
class _Client:
    """A hospital that answers everything and does nothing."""

    site: SiteId
    terms: StudyTerms
    keys: SiteKeys
    opened: dict[str, tuple[bytes, str]] = field(default_factory=dict)

    def answer(self, frame: bytes) -> bytes:
        request = decode(frame)
        return getattr(self, f"_{request.kind}")(request)  # type: ignore[no-any-return]  # our own

    def _join(self, request: Frame) -> bytes:
        join = Join(
            site=self.site, terms=digest(self.terms), nonce=request.body["nonce"], key_id=""
        )
        return encode("joined", body(join.signed_by(self.keys.sign)))

    def _call(self, request: Frame) -> bytes:
        call = read(RoundCall, request.body)
        key = RoundKey(
            study=call.study,
            round=call.round,
            call=digest(call),
            site=self.site,
            public_key=bytes(32),
            seed_sha256=NOTHING,
            sealing_key=bytes(32),
            envelopes=(NOTHING,) * (len(call.sites) - 1),
        )
        return encode("round-key", body(key))

    def _train(self, request: Frame) -> bytes:
        plan = read(RoundPlan, request.body["plan"])
        update = request.blobs["model"]
        receipt = Receipt(
            study=plan.study,
            round=plan.round,
            site=self.site,
            ciphertext_sha256=plan.model,  # its own model again
            consent_root=plan.epoch.root,
            certificates=(),
            proven_patients=10,
            gradients=10,
            epsilon_spent="1",
            delta="0.000001",
            clipping_norm="1",
            model_sha256=plan.model,
            site_key=self.keys.signing_public,
        )
        contribution = Contribution(
            receipt=receipt,
            encryption=ENCRYPTION,
            key_id=KEY_ID,
            length=self.terms.training.parameters,
            certificates=(),
        )
        return encode("contribution", body(contribution), {"update": update})

    def _endorse(self, _request: Frame) -> bytes:
        return encode("endorsement", {"site": self.site})

    def _unmask(self, _request: Frame) -> bytes:
        return encode("unmasking", {"site": self.site}, {"reveals": bytes(512)})

    def _open(self, request: Frame) -> bytes:
        sent = bytes(8 * self.terms.training.parameters) if request.body["send"] else b""
        opening = Opening(
            commitment=request.body["c"],
            site=self.site,
            integers_sha256=request.body["zeros"],
            weight=10,
        )
        return encode("opening", body(opening), {"integers": sent})


class _NoKeys:
    """A group key that nobody needs."""

    holding: dict[SiteId, str] = {}  # noqa: RUF012  # never written to

    def ensure(self, _number: int, cohort: list[SiteId]) -> tuple[KeyId, set[SiteId]]:
        return KEY_ID, set(cohort)


class _NoGate:
    """Admits everything."""

    def admit(self, contribution: Contribution, ciphertext: bytes, *_rest: object) -> Admitted:
        update = EncryptedUpdate(ciphertext, KEY_ID, ENCRYPTION, contribution.length)
        return Admitted(contribution.receipt, update, (), 0.0)


class _NoRegistry:
    """A registry without patients."""

    @contextmanager
    def snapshot(self) -> Iterator[SignedEpoch]:
        yield SignedEpoch(registry="none", number=0, root=0, at="", signature=b"")

    def lanes(self) -> list[object]:
        return []


def _terms(
    keys: dict[SiteId, SiteKeys], server_key: Ed25519PrivateKey, floats: int, rounds: int
) -> StudyTerms:
    return StudyTerms(
        study=StudyId("nothing"),
        title="clients that do nothing",
        rounds=rounds,
        sites=tuple(
            SiteIdentity(
                site=site, signing_key=one.signing_public, agreement_key=one.agreement_public
            )
            for site, one in keys.items()
        ),
        server_key=server_key.public_key().public_bytes_raw(),
        training=TrainingTerms(
            network="none",
            input_shape=(1,),
            tensor_sizes=(floats,),
            reference_patients=10,
            learning_rate=1,
            server_learning_rate=1,
            server_momentum=0,
            augment=False,
        ),
        privacy=PrivacyTerms(
            epsilon=1,
            delta=1e-6,
            sampling_rate=1,
            noise_multiplier=1,
            clipping_norm=1,
            steps=1,
            accountant="rdp",
        ),
        consent=ConsentTerms(
            registry="none",
            registry_key=bytes(32),
            dataset="none",
            required=1,
            from_day=20_000,
            through_day=20_010,
            circuit="cover8",
            key_hash=NOTHING,
        ),
        encryption=ENCRYPTION,
    )


if __name__ == "__main__":
    print([round(one, 4) for one in seconds_of_rounds(1_000_000, 5)])
