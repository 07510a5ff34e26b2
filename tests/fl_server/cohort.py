"""A cohort that only sums: real keys, stores and messages, without training, consent or proofs.

A hospital answers the frames of a secure sum as its agent does; what it "trained" is drawn from its
name and the round, so that a test knows the sum. The server's parts are the real ones too. ::

    cohort = Cohort.meet(6)
    round_ = cohort.begin()                      # call, group key, plan
    cohort.upload(round_, cohort.sites[:5])
    cohort.open(round_).integers                 # == cohort.total(1, cohort.sites[:5])

``Direct`` records every frame, and a test may make it lose, alter or stop some.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_client.contribution import signed_frame
from fl_client.group_keys import GroupKeys
from fl_client.masking import Masking
from fl_client.store import SiteStore
from fl_client.summation import Summation
from fl_server.calling import Called
from fl_server.group_key import GroupKeeper
from fl_server.questions import Questions
from fl_server.sites import Sites
from fl_server.store import ServerStore
from fl_server.summation import SecureSum
from privacy.keys import SiteKeys
from privacy.masks import apply
from privacy.packing import pack
from privacy.parameters import ParameterSet, parameter_set
from privacy.quantisation import QuantisedUpdate
from privacy.randomness import RandomStream
from privacy.signatures import check_signature
from privacy.update import IntegerUpdate
from protocol.canonical import body, digest, read
from protocol.errors import BitHiveError
from protocol.frames import Frame, MalformedFrame, decode, encode
from protocol.ids import SiteId
from protocol.messages import Contribution, Epoch, Join, Receipt, RoundPlan
from protocol.progress import silent
from protocol.terms import StudyTerms
from tests.study_terms import bare_terms, identities_of

LENGTH = 40
NOTHING = "0" * 64
STUDY = "study-of-sums"
ENCRYPTION = {"members": "packed-bfv", "threshold": "threshold-bfv"}
SUMMED = {"mechanism": "summed", "grid": 1024}
"""With a noise multiplier of 1, noise of deviation 1024 in a sum; one colluder."""


class Stopped(BaseException):
    """The server ends here; nothing may catch it."""


def names(n):
    """Return the ids of ``n`` sites, in order."""
    return tuple(SiteId(f"site-{k:02}") for k in range(n))


def terms_of(
    keys, server_key, *, opening, sites_min=3, key_rounds=10, noise="per-site", rounds=1000
):
    """Return terms of a study of these sites, with everything that a sum does not need at hand."""
    noisy = {} if noise == "per-site" else SUMMED | {"honest": sites_min - 1}
    return bare_terms(
        identities_of(keys),
        length=LENGTH,
        privacy={"epsilon": 1, "delta": 1e-6} | noisy,
        consent={"dataset": "none", "through_day": 20_010},
        study=STUDY,
        title="sums only",
        rounds=rounds,
        server_key=server_key.public_key().public_bytes_raw(),
        encryption=f"{ENCRYPTION[opening]}-{8 if noise == 'per-site' else 20}",
        sites_min=sites_min,
        opening=opening,
        key_rounds=key_rounds,
    )


def values_of(site, number):
    """Return the ``(LENGTH,)`` 8-bit integers that a site sends in a round."""
    seed = hashlib.sha256(f"{site} {number}".encode()).digest()
    return np.random.default_rng(list(seed)).integers(-127, 128, LENGTH).astype(np.int16)


def weight_of(site):
    """Return how many patients a site counts."""
    return 5 + sum(site.encode()) % 90


@dataclass
class Hospital:
    """One site's masks, keys and memory; ``answer`` is its only door, as the agent's is."""

    site: SiteId
    terms: StudyTerms
    keys: SiteKeys
    store: SiteStore
    path: Path | str

    def __post_init__(self):
        self.restart()

    def restart(self):
        """Begin anew on what is stored; on the disk, where there is a folder."""
        if self.path != ":memory:":
            self.store = SiteStore(self.path)
        parameters = parameter_set(self.terms.encryption)
        known = (self.site, self.terms, self.keys, self.store, parameters)
        self.group = GroupKeys(*known)
        self.masking = Masking(*known)
        self.summation = Summation(*known, self.group, silent)

    def answer(self, frame):
        doors = {
            "join": self.join,
            "call": self.masking.call,
            "deal-key": self.group.deal,
            "take-key": self.group.take,
            "give-share": self.group.give_share,
            "recover-key": self.group.recover,
            "commit-key": self.group.commit,
            "part-key": self.group.part,
            "join-key": self.group.join,
            "train": self.train,
            "endorse": self.summation.endorse,
            "unmask": self.summation.unmask,
            "share": self.summation.share,
            "open": self.summation.open,
        }
        try:
            request = decode(frame)
            if request.kind not in doors:
                raise MalformedFrame(f"there is no {request.kind!r}")
            return doors[request.kind](request)
        except BitHiveError as error:
            return encode("refused", {"code": error.code, "reason": str(error)})

    def join(self, request):
        held = self.store.keys.held(self.terms.study)
        join = read(
            Join,
            {
                "site": self.site,
                "terms": digest(self.terms),
                "nonce": request.body.get("nonce"),
                "key_id": "" if held is None else held.key_id,
            },
        )
        return encode("joined", body(join.signed_by(self.keys.sign)))

    def train(self, request):
        """Upload as ``fl_client.agent`` and ``fl_client.egress`` do, values drawn for training."""
        plan = read(RoundPlan, request.body.get("plan"))
        signed = plan.signed_bytes()
        check_signature(
            self.terms.server_key, plan.signature, signed, what="round plan", who="the server"
        )
        earlier = self.store.answer(plan.study, plan.round, digest(plan))
        if earlier is not None:
            return earlier
        self.masking.begin(plan, request.blobs.get("shares", b""))
        reply = self.contribution(plan, values_of(self.site, plan.round), weight_of(self.site))
        self.store.keep_answer(plan.study, plan.round, digest(plan), reply, None)
        return reply

    def contribution(self, plan, values, weight):
        parameters = parameter_set(self.terms.encryption)
        share = self.masking.noise_share(plan)
        if share is None:
            sent = QuantisedUpdate(values, parameters.value_bits, 0)
        else:
            noise = share.draw(values.size, RandomStream.from_system())
            sent = IntegerUpdate(values.astype(np.int64) + noise)
        self.sent = sent.values.astype(np.int64)
        packed = pack(sent, weight, parameters)
        masked = apply(packed, [self.masking.pad(plan)])
        update = self.group.cipher(plan.key_id).encrypt(masked)
        receipt = Receipt(
            study=plan.study,
            round=plan.round,
            site=self.site,
            ciphertext_sha256=hashlib.sha256(update.blob).hexdigest(),
            consent_root=plan.epoch.root,
            certificates=(),
            proven_patients=weight,
            gradients=weight,
            epsilon_spent="1",
            delta="0.000001",
            clipping_norm="1",
            model_sha256=plan.model,
            site_key=self.keys.signing_public,
        )
        return signed_frame(receipt, update, self.keys)


@dataclass
class Direct:
    """A transport that calls the hospitals; a test may lose, alter, stop or count what it carries.

    ``lost(kind, site)`` says who is silent, ``before(kind, site, frame)`` may do anything before
    a request arrives, ``alter(kind, site, reply)`` says what becomes of a reply; ``stop_at`` ends
    the server at the first request of a kind, which is recorded and not sent.
    """

    hospitals: dict
    before: Callable = lambda _kind, _site, _frame: None
    lost: Callable = lambda _kind, _site: False
    alter: Callable = lambda _kind, _site, reply: reply
    stop_at: str | None = None
    asked: list = field(default_factory=list)
    answered: list = field(default_factory=list)

    def nodes(self):
        return list(range(len(self.hospitals)))

    def late(self):
        return []

    def exchange(self, kind, requests, **_how):
        sites = sorted(self.hospitals)
        self.asked += [(kind, sites[node], frame) for node, frame in requests.items()]
        if kind == self.stop_at:
            raise Stopped(kind)
        for node, frame in requests.items():
            site = sites[node]
            if self.lost(kind, site):
                continue
            self.before(kind, site, frame)
            reply = self.alter(kind, site, self.hospitals[site].answer(frame))
            self.answered.append((kind, site, reply))
            yield node, reply

    def frame(self, kind, site):
        """Return the last request of a kind to a site."""
        return decode(next(one for *to, one in reversed(self.asked) if to == [kind, site]))

    def kinds(self):
        """Return the kinds of requests sent, each once, in order."""
        return list(dict.fromkeys(kind for kind, _, _ in self.asked))


@dataclass
class Begun:
    """A planned round: its plan, the call it follows, and what passed the gate."""

    called: Called
    plan: RoundPlan
    uploads: dict = field(default_factory=dict)


@dataclass
class Cohort:
    """Hospitals and the server's parts, in one process."""

    hospitals: dict[SiteId, Hospital]
    terms: StudyTerms
    server_key: Ed25519PrivateKey
    parameters: ParameterSet
    transport: Direct
    store: ServerStore

    @classmethod
    def meet(cls, n, *, opening="members", folder: Path | None = None, **terms):
        """Return ``n`` sites that know each other's keys.

        Args:
            n: How many.
            opening: The study's.
            folder: Where the hospitals remember; in memory when not given.
            terms: ``sites_min``, ``key_rounds``, ``rounds`` and ``noise``, where they matter.
        """
        keys = {site: SiteKeys.generate() for site in names(n)}
        server_key = Ed25519PrivateKey.generate()
        agreed = terms_of(keys, server_key, opening=opening, **terms)
        paths = {site: ":memory:" if folder is None else folder / f"{site}.db" for site in keys}
        hospitals = {
            site: Hospital(site, agreed, keys[site], SiteStore(paths[site]), paths[site])
            for site in keys
        }
        parameters = parameter_set(agreed.encryption)
        store = ServerStore(":memory:")
        return cls(hospitals, agreed, server_key, parameters, Direct(hospitals), store)

    def __post_init__(self):
        self.steps = []
        self.start()

    def start(self):
        """Begin anew on the server, as after a crash."""
        self.asking = Sites(self.terms, self.transport, self.steps.append)
        held = self.asking.roll_call(1.0)
        self.keeper = GroupKeeper(
            self.terms, self.asking, self.store, self.steps.append, 1.0, holding=held
        )
        questions = Questions(self.terms, self.asking, self.steps.append, 1.0)
        self.sum = SecureSum(self.terms, questions, self.server_key, self.parameters, 1.0)

    @property
    def sites(self):
        return tuple(sorted(self.hospitals))

    def begin(self, number=1, *, candidates=None, previous=NOTHING):
        """Call the candidates and plan the round with those that answered and hold its key."""
        called = self.sum.call(number, previous, candidates or self.sites)
        key_id, holding = self.keeper.ensure(number, sorted(called.keys))
        return Begun(called, self.plan(called, key_id, sorted(holding)))

    def plan(self, called, key_id, roster, **changes):
        """Return the signed plan of a call, for this roster."""
        plan = RoundPlan(
            study=self.terms.study,
            terms=digest(self.terms),
            round=called.call.round,
            model=NOTHING,
            key_id=key_id,
            steps=(1.0,),
            epoch=Epoch(registry="registry", number=0, root=0, at="never", signature=b""),
            call=digest(called.call),
            roster=tuple(called.keys[site] for site in roster),
            previous=called.call.previous,
        )
        return self.signed(plan.model_copy(update=changes))

    def train_frame(self, begun, site):
        """Return the request to train that the server sends a site."""
        shares = begun.called.plan_envelopes(begun.plan.sites)[site]
        return encode("train", {"plan": body(begun.plan)}, {"shares": shares})

    def upload(self, begun, uploading=None):
        """Have the sites of the roster train; keep the uploads of some as those that arrived."""
        frames = {site: self.train_frame(begun, site) for site in begun.plan.sites}
        for site, reply in self.asking.ask("train", frames, "train", 1.0):
            if reply.kind == "contribution" and (uploading is None or site in uploading):
                begun.uploads[site] = (read(Contribution, reply.body), reply.blobs["update"])
        return begun

    def open(self, begun):
        """Have the sum of what arrived opened."""
        return self.sum.open(begun.plan, len(begun.called.call.sites), begun.uploads)

    def stop_at(self, kind, begun):
        """Run the sum up to the first request of a kind, which every hospital has yet to see."""
        self.transport.stop_at = kind
        try:
            self.open(begun)
        except Stopped:
            self.transport.stop_at = None
            return
        raise AssertionError(kind)

    def total(self, number, sites):
        """Return the sum of what these sites send in a round, and of their weights."""
        return (
            np.sum([values_of(site, number).astype(np.int64) for site in sites], axis=0),
            sum(weight_of(site) for site in sites),
        )

    def signed(self, message):
        """Return a message under the server's signature."""
        return message.signed_by(self.server_key.sign)

    def ask(self, site, frame: Frame):
        """Return a site's reply to a frame."""
        return decode(self.hospitals[site].answer(encode(frame.kind, frame.body, frame.blobs)))
