"""A small study that is really founded: three sites, a real registry, real agents, real proofs.

The table's first twelve patients of each site make two chunks of eight slots, so that all the
proofs of a round take a few seconds. ``Study.copy`` gives a test its own to damage.
"""

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from consent.registry import Registry
from fl_client.agent import Agent
from fl_server.app import assemble
from fl_server.store import ServerStore
from portal.demo import by_id, cache_folder
from portal.granting import withdraw_due
from portal.home import Home
from portal.hospital import open_agent
from portal.options import settings_for
from portal.patients import draw_wishes
from portal.study_founding import recipe_of
from portal.world import Founding, found
from privacy.keys import SiteKeys
from privacy.signatures import signing_key
from protocol.canonical import body, read
from protocol.frames import decode, encode
from protocol.messages import Contribution, TrainRequest
from protocol.terms import StudyTerms
from records.sources import open_source
from zk.circuit import circuit
from zk.keys import VerificationKey, development_key
from zk.prover import Prover

PATIENTS = 12
ROUNDS = 2
SEED = 3


@dataclass
class Direct:
    """A transport that calls the agents; a test may refuse, alter or count what goes over it."""

    agents: dict
    before: object = lambda _kind, _node: None
    alter: object = lambda _kind, _node, reply: reply
    asked: list = field(default_factory=list)

    def nodes(self):
        return list(range(len(self.agents)))

    def late(self):
        return []

    def exchange(self, kind, requests, **_how):
        sites = sorted(self.agents)
        for node, frame in requests.items():
            self.before(kind, node)
            self.asked.append((kind, sites[node], frame))
            reply = self.agents[sites[node]].answer(frame)
            yield node, self.alter(kind, node, reply)


@dataclass
class Study:
    home: Home
    terms: StudyTerms
    data: object
    loader: object
    wishes: object
    verification_key: VerificationKey
    prover: Prover

    def __post_init__(self):
        self.store = ServerStore(self.home.server / "server.db")
        self.registry = Registry(
            self.home.server / "registry.db",
            registry_id=self.terms.consent.registry,
            signing_key=signing_key(self.home.server / "registry.key"),
        )
        self.agents = {site: self.agent(site) for site in sorted(self.data.sites)}
        self.sites = sorted(self.agents)

    def copy(self, path):
        shutil.copytree(self.home.path, path)
        return replace(self, home=Home(path))

    def agent(self, site, *, loader=None, newest=None, kind=Agent):
        """Open a site's agent anew on its folder, as after a restart."""
        return open_agent(
            self.home.site(site),
            site,
            self.terms,
            patients=by_id(self.data.sites[site]),
            loader=self.loader if loader is None else loader,
            prover=self.prover,
            keep_integers=True,
            newest=newest,
            kind=kind,
        )

    def keys(self, site):
        return SiteKeys.load(self.home.site(site) / "keys.json")

    def server_key(self):
        return signing_key(self.home.server / "server.key")

    def engine(self, transport=None, *, after_close=lambda _closed: None):
        return assemble(
            self.home.server,
            ServerStore(self.home.server / "server.db"),
            transport or Direct(self.agents),
            after_close=after_close,
        )

    def withdraw(self, before_round):
        return withdraw_due(self.home, self.registry, self.wishes, before_round)

    def planned(self, number=1):
        """Plan a round as the server would, with round keys and the group key shared."""
        engine = self.engine()
        engine._start()
        return engine._plan(number)

    def sign_plan(self, plan, **changes):
        return plan.model_copy(update=changes).signed_by(self.server_key().sign)

    def train_frame(self, planned, site, *, plan=None, chunks=None):
        """The call to train that the server would send a site."""
        plan = plan or planned.plan
        chunks = planned.lanes[site] if chunks is None else chunks
        model = self.store.models.at(plan.round - 1).blob
        before = self.store.round(plan.round - 1)
        manifest = None if before is None else before.manifest
        request = TrainRequest(plan=plan, manifest=manifest, chunks=chunks)
        return encode("train", body(request), {"model": model, "shares": planned.shares[site]})

    def contribution(self, site, planned):
        """What the site answers to the plan: its contribution and ciphertext."""
        reply = decode(self.agents[site].answer(self.train_frame(planned, site)))
        assert reply.kind == "contribution", reply.body
        return read(Contribution, reply.body), reply.blobs["update"]


@contextmanager
def small_study(folder: Path, algorithm: str = "fedavg"):
    """Found the study in ``folder``; its prover lives as long as the block."""
    settings = settings_for(
        data="wisconsin",
        seed=SEED,
        default_seed=SEED,
        engine="in-process",
        opening="members",
        sites=3,
        patients=PATIENTS,
        rounds=ROUNDS,
        circuit="cover8",
        epsilon=None,
        algorithm=algorithm,
    )
    data, loader = open_source(
        settings.data,
        home=folder / "data",
        seed=SEED,
        sites=settings.sites,
        patients_per_site=PATIENTS,
        progress=lambda _done, _total: None,
    )
    data = replace(data, sites={site: data.sites[site][:PATIENTS] for site in data.sites})
    wishes = draw_wishes(data.sites, rounds=ROUNDS, careless=None, seed=SEED)
    proving_key, verification_key = development_key(circuit(settings.circuit), cache_folder())
    home = Home(folder)
    terms = found(
        home,
        Founding(
            settings,
            data,
            recipe_of(data.source.modality, algorithm),
            wishes,
            verification_key,
            datetime.now(UTC).date(),
            title="three small sites",
        ),
    )
    with Prover(circuit(settings.circuit), proving_key, verification_key, workers=2) as prover:
        yield Study(home, terms, data, loader, wishes, verification_key, prover)
