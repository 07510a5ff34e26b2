"""One run from enrolment to payment: six sites, their patients, and what each of them keeps.

``run_whole`` founds it, lets everybody grant by proof and one site's patients in a second study
too, runs the rounds with withdrawals between them, and lets ten patients claim. ``Whole`` is what
is left.
"""

import os
import random
import secrets
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from consent.claims import SmallGroups, claim_message
from consent.grant import subject_of
from consent.grants_by_proof import grant_scope, withdrawal_message
from consent.lanes import LanePolicy
from consent.openings import OpeningStore
from fl_server.app import assemble
from fl_server.store import ServerStore
from ledger.chart import wallet
from models.recipes import recipe_for
from portal.demo import by_id, cache_folder
from portal.granting import read_papers
from portal.home import Home
from portal.hospital import open_agent
from portal.market import SERVER, Market
from portal.options import settings_for
from portal.patient.payouts import open_payout, pay_claims
from portal.patient.sealing import Person
from portal.patient.server import open_desk
from portal.patients import Wishes
from portal.proven_grants import Desks, Member, grant
from portal.semaphore_workers import SemaphoreWorkers
from portal.world import Founding, found
from protocol.ids import PatientId, StudyId, number_of
from records.dataset import patient_digest
from records.tables import WISCONSIN, TableLoader, read_wisconsin
from tests.fl_server.study import Direct
from zk import semaphore_prover
from zk.circuit import circuit
from zk.keys import development_key
from zk.lean_imt import LeanIMT
from zk.prover import Prover

SITES, ROUNDS = 6, 4
PATIENTS = int(os.environ.get("BITHIVE_WHOLE_PATIENTS", "24"))
"""At each site; 64, six minutes of proofs, in `make exhaustive`."""
WORKERS = 2
CIRCUIT = "cover8"
"""Its key is made in seconds, and a withdrawal costs a proof of half a second."""
WITHDRAWALS = {2: ((0, "code"), (1, "proof")), 3: ((1, "code"), (2, "proof")), 4: ((3, "code"),)}
"""Before a round: at which site, how."""
CLAIMING = (1, 4)
"""Sites at which five patients claim; two of the first have withdrawn."""
OTHER_STUDY = StudyId("study-of-something-else")
OTHER_SITE = 5
"""Where every patient grants in two studies."""


def silent(*_progress):
    pass


def now():
    return datetime.now(UTC)


@dataclass
class Owner:
    """A patient and everything that only she and her hospital know."""

    site: str
    patient: PatientId
    record: int
    paper: dict
    opening: object = None
    index: int = 0
    other: object = None
    """Her paper of the second study."""
    other_opening: object = None
    other_index: int = 0

    @property
    def secret(self):
        return int(self.paper["secret"])

    @property
    def payout_secret(self):
        return int(self.paper["payout_secret"])

    def known(self):
        """Yield what must be nowhere else, with a name for each."""
        yield "number", str(self.patient)
        yield "record", self.record
        yield "code", bytes.fromhex(self.paper["code"])
        yield "secret", self.secret
        yield "payout secret", self.payout_secret
        if self.other:
            yield "code", self.other.code.secret
            yield "payout secret", self.other.payout_secret
        for opening in filter(None, (self.opening, self.other_opening)):
            yield "subject", opening.subject
            yield "salt", opening.salt
            yield "randomness", opening.randomness
            yield "terms", opening.terms.packed()


@dataclass
class Whole:
    """One run, as it stands at the end."""

    home: Home
    terms: object
    owners: dict
    market: Market
    desk: object
    hospital_salts: list
    closed: list = field(default_factory=list)
    withdrawn: list = field(default_factory=list)
    claims: list = field(default_factory=list)
    """Owner, proof, recipient, claim."""
    payouts: list = field(default_factory=list)
    paid: object = None

    @property
    def sites(self):
        return sorted(self.owners)

    @property
    def everybody(self):
        return [owner for site in self.sites for owner in self.owners[site]]

    @property
    def folders(self):
        """What the operator of registry, server and market has."""
        return [self.home.server, self.home.market]


def run_whole(home):
    """Run everything in an empty home."""
    data = records()
    proving_key, key = development_key(circuit(CIRCUIT), cache_folder())
    founding = founding_of(data, key)
    terms = found(home, founding)
    market = Market(home.market, terms, now)
    market.found()
    run = Whole(
        home=home,
        terms=terms,
        owners={site: [owner_of(site, one) for one in data.sites[site]] for site in data.sites},
        market=market,
        desk=open_desk(home, clock=now),
        hospital_salts=[],
    )
    for site in run.sites:
        papers = read_papers(home, site)
        for owner in run.owners[site]:
            owner.paper = papers[owner.patient]
    grant_in_another_study(run, founding)
    for site in run.sites:
        learn_openings(run, site)
    with Prover(circuit(CIRCUIT), proving_key, key, workers=WORKERS) as prover:
        run_rounds(run, data, prover)
    market.finish()
    claim_shares(run)
    return run


def records():
    """Return rows of a table for each site, under numbers that are found wherever they are."""
    data = read_wisconsin(sites=SITES, seed=1, alpha=1e6)
    sites = {
        site: tuple(
            replace(one, id=PatientId(f"owner-{site}-{secrets.token_hex(6)}"))
            for one in data.sites[site][:PATIENTS]
        )
        for site in sorted(data.sites)
    }
    assert [len(patients) for patients in sites.values()] == SITES * [PATIENTS]
    return replace(data, sites=sites)


def founding_of(data, key):
    settings = settings_for(
        data="wisconsin",
        seed=None,
        default_seed=1,
        engine="in-process",
        opening="members",
        sites=SITES,
        patients=PATIENTS,
        rounds=ROUNDS,
        circuit=CIRCUIT,
        epsilon=None,
        grants=LanePolicy.PROVEN,
    )
    decisions = {
        site: {patient.id: "grants" for patient in data.sites[site]} for site in data.sites
    }
    return Founding(
        settings=settings,
        data=data,
        recipe=recipe_for(data.source.modality),
        wishes=Wishes(decisions, ()),
        verification_key=key,
        today=now().date(),
        title="six sites",
    )


def owner_of(site, patient):
    return Owner(site, patient.id, patient_digest(patient), {})


def grant_in_another_study(run, founding):
    """Let all of one site grant in a second study too, as the same persons."""
    site = run.sites[OTHER_SITE]
    owners = run.owners[site]
    terms = run.terms.model_copy(update={"study": OTHER_STUDY})
    run.desk.registry.open_lane(
        OTHER_STUDY,
        site,
        terms.consent.dataset,
        capacity=PATIENTS,
        chunk_size=circuit(CIRCUIT).slots,
        policy=LanePolicy.PROVEN,
    )
    book = OpeningStore(run.home.site(site) / "openings.db")
    granted = dict(book.all().values())
    study = number_of(OTHER_STUDY, bits=64)
    wishes = []
    for owner in owners:
        person = Person(owner.patient, subject_of(owner.patient, book.hospital_salt))
        member = Member(site, person, owner.secret)
        wishes.append((member, replace(granted[owner.patient].terms, study=study)))
    desks = Desks.open(run.home, terms, run.desk.registry)
    with SemaphoreWorkers(WORKERS) as workers:
        papers = grant(desks, wishes, workers, shuffle=random.SystemRandom().shuffle, tell=silent)
    desks.close()
    for owner, paper in zip(owners, papers, strict=True):
        owner.other = paper


def learn_openings(run, site):
    """Note what the hospital holds of each of its patients, once for each study."""
    book = OpeningStore(run.home.site(site) / "openings.db")
    run.hospital_salts.append(book.hospital_salt)
    by_number = {owner.patient: owner for owner in run.owners[site]}
    lane = run.desk.lane(site)
    for index, (patient, opening) in book.all().items():
        owner = by_number[patient]
        if index in lane.indices:
            owner.opening, owner.index = opening, index
        else:
            owner.other_opening, owner.other_index = opening, index


def run_rounds(run, data, prover):
    """Train every round; after one, let those withdraw who want to before the next."""
    agents = {
        site: open_agent(
            run.home.site(site),
            site,
            run.terms,
            patients=by_id(data.sites[site]),
            loader=TableLoader(WISCONSIN),
            prover=prover,
        )
        for site in run.sites
    }

    def after_close(closed):
        run.closed.append(closed)
        run.market.settle(closed, actor=SERVER)
        for place, how in WITHDRAWALS.get(closed.round + 1, ()):
            withdraw(run, run.sites[place], how)

    store = ServerStore(run.home.server / "server.db")
    assemble(run.home.server, store, Direct(agents), after_close=after_close).run()


def withdraw(run, site, how):
    """Let the next patient of a site withdraw."""
    owner = next(one for one in run.owners[site] if one not in run.withdrawn)
    name = owner.paper["grant"]
    if how == "code":
        run.desk.withdraw(name, bytes.fromhex(owner.paper["code"]))
    else:
        said = withdrawal_message(run.desk.registry.id, owner.opening.leaf())
        _, members = run.desk.members()
        scope = grant_scope(run.terms.study)
        run.desk.withdraw_proven(name, prove(members, owner.secret, scope, said))
    run.withdrawn.append(owner)


def claim_shares(run):
    """Open two sites' pools, let five patients of each claim, and pay."""
    for place in CLAIMING:
        site = run.sites[place]
        payout = open_payout(run.home, site, small_groups=SmallGroups.REFUSE)
        run.payouts.append(payout)
        _, members = run.desk.payout(site, payout.epoch)
        for owner in run.owners[site][-5:]:
            recipient = wallet(secrets.token_hex(8))
            if len(run.claims) == 9:
                recipient = "0x" + secrets.token_hex(20)  # an address on a chain
            said = claim_message(recipient)
            proof = prove(members, owner.payout_secret, payout.scope, said)
            claim = run.desk.claim(site, payout.epoch, recipient, proof)
            run.claims.append((owner, proof, recipient, claim))
    run.paid = pay_claims(run.home, now=now())


def prove(members, secret, scope, message):
    return semaphore_prover.prove(secret, LeanIMT(members), scope, message)
