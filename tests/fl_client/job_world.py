"""Studies and jobs for the tests of approval: real keys and signatures, no training, no torch."""

import hashlib
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.purposes import category_mask, purpose_mask
from fl_client.offers import purposes_of, unit_of
from fl_client.resident import Identity, Resident
from identity.roles import Actor, Role
from privacy.keys import SiteKeys
from protocol.canonical import body, digest, read
from protocol.frames import decode, encode
from protocol.ids import SiteId
from protocol.jobs import CODE_BLOB, JobAnswer, JobManifest, JobOffer, instant
from protocol.terms import ConsentTerms, PrivacyTerms, SiteIdentity, StudyTerms, TrainingTerms

SITE = SiteId("north")
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NONCE = hashlib.sha256(b"nonce").hexdigest()
OFFICER = Actor("officer-1", frozenset({Role.OFFICER}), site=SITE)
STEWARD = Actor("steward-1", frozenset({Role.STEWARD}), site=SITE)
STRANGER = Actor("officer-2", frozenset({Role.OFFICER}), site=SiteId("south"))


@dataclass
class Clock:
    """A clock that a test moves."""

    now: datetime = NOW

    def __call__(self):
        return self.now

    def pass_(self, **time):
        self.now += timedelta(**time)


@dataclass
class World:
    """A server, three hospitals, and the studies that it offers them."""

    server: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    keys: dict = field(
        default_factory=lambda: {
            SiteId(name): SiteKeys.generate() for name in ("north", "south", "west")
        }
    )

    def terms(self, study="lesions", **changes):
        """Return the terms of a study; ``changes`` are of its privacy or its own fields."""
        privacy = {
            "epsilon": 2.0,
            "delta": 1e-5,
            "sampling_rate": 0.5,
            "noise_multiplier": 1.0,
            "clipping_norm": 1.0,
            "steps": 1,
            "accountant": "prv",
        }
        privacy |= {name: changes.pop(name) for name in list(changes) if name in privacy}
        fields = {
            "study": study,
            "title": "lesion against none",
            "rounds": 5,
            "sites": tuple(
                SiteIdentity(
                    site=site, signing_key=one.signing_public, agreement_key=one.agreement_public
                )
                for site, one in sorted(self.keys.items())
            ),
            "server_key": self.server.public_key().public_bytes_raw(),
            "training": TrainingTerms(
                network="sonogram",
                input_shape=(4,),
                tensor_sizes=(4,),
                reference_patients=10,
                learning_rate=1,
                server_learning_rate=1,
                server_momentum=0,
                augment=False,
            ),
            "privacy": PrivacyTerms(**privacy),
            "consent": ConsentTerms(
                registry="registry",
                registry_key=bytes(32),
                dataset="scans",
                required=purpose_mask(["HMB"]) | category_mask(["US"]),
                from_day=20_000,
                through_day=20_010,
                circuit="cover8",
                key_hash="0" * 64,
            ),
            "encryption": "packed-bfv-8",
        }
        return StudyTerms(**fields | changes)

    def manifest(self, terms, *, signer=None, **changes):
        """Return the job of a study, signed; ``changes`` make it another or a false one."""
        fields = {
            "study": terms.study,
            "terms": digest(terms),
            "model": terms.training.network,
            "algorithm": terms.training.algorithm,
            "datasets": (terms.consent.dataset,),
            "purposes": purposes_of(terms),
            "rounds": terms.rounds,
            "epsilon": terms.privacy.epsilon,
            "delta": terms.privacy.delta,
            "unit": unit_of(terms),
            "price": 10**21,
            "researcher": "researcher",
            "researcher_key": bytes(32),
            "expires": instant(NOW + timedelta(days=30)),
        }
        return JobManifest(**fields | changes).signed_by((signer or self.server).sign)

    def offer(self, manifest, terms, *, signer=None, job=None, nonce=NONCE, at=NOW, bundle=None):
        """Return the frame that offers a job."""
        offer = JobOffer(job=job or manifest.hash, nonce=nonce, at=instant(at))
        signed = offer.signed_by((signer or self.server).sign)
        return encode(
            "offer",
            {"offer": body(signed), "manifest": body(manifest), "terms": body(terms)},
            {} if bundle is None else {CODE_BLOB: bundle},
        )

    def job(self, study="lesions", **changes):
        """Return terms and manifest of a study."""
        terms = self.terms(study, **changes)
        return terms, self.manifest(terms)


@dataclass
class Echo:
    """An agent that notes what it is asked and repeats its study."""

    study: str
    asked: list = field(default_factory=list)
    closed: bool = False

    def answer(self, frame):
        request = decode(frame)
        self.asked.append(request.kind)
        if request.body.get("fail"):
            raise RuntimeError("patient 4711 is not there")
        return encode("echo", {"study": self.study})

    def close(self):
        self.closed = True


def resident_at(folder, world, clock, *, make=None):
    """Return a resident with agents that echo, and those agents as they are made."""
    made = []

    def echo(job):
        made.append(Echo(job.manifest.study))
        return made[-1]

    resident = Resident(Identity(SITE, world.keys[SITE]), folder, make=make or echo, clock=clock)
    return resident, made


def approve(resident, manifest, officer=OFFICER):
    return resident.book.approve(manifest.hash, officer, left=lambda _job: math.inf)


def told(reply):
    """Return the job answer in a reply."""
    answer = decode(reply)
    assert answer.kind == "job", answer.body
    return read(JobAnswer, answer.body)


def code_of(reply):
    """Return the code of a refusal."""
    answer = decode(reply)
    assert answer.kind == "refused", answer.kind
    return answer.body["code"]


def frame_for(kind, study, number=1, **more):
    """Return a frame of a study that an ``Echo`` can answer."""
    inner = {"study": study, "round": number}
    if kind in {"unmask", "share", "open"}:
        return encode(kind, {"commitment": inner} | more)
    if kind == "train":
        return encode(kind, {"plan": inner} | more)
    return encode(kind, inner | more)
