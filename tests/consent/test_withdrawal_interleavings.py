"""A withdrawal at any instant is effective in the next round at the latest, whatever a site does.

The registry, the site's choice and certificates, and the server's gate are the real ones. Proofs
are not: in their place the circuit's conditions are checked on the witness (``Witness``), and the
gate asks whether a statement passed that check. Nothing is trained; "opened" stands for it.
"""

from __future__ import annotations

import hashlib
import secrets
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.grant import new_opening
from consent.openings import OpeningStore
from consent.registry import Registry
from consent.terms import Terms
from consent.withdrawal import SiteWithdrawal
from fl_client.certifier import Certifier
from fl_client.coverage import select
from fl_client.store import SiteStore
from fl_server.gate import CertificateStale, Gate
from fl_server.lanes import lane_states
from privacy.keys import SiteKeys
from protocol.ids import PatientId, SiteId, number_of
from protocol.messages import Contribution, Epoch, Receipt
from protocol.units import day_number
from records.dataset import Patient, TableRow
from tests.portal.patient_world import DATASET, STUDY, terms_of
from zk.cover import leaf_of, pack_terms, state
from zk.groth16 import ProofInvalid

pytestmark = pytest.mark.slow

NORTH = SiteId("north")
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
TODAY = day_number(NOW.date())
PATIENTS = [PatientId(f"patient {number}") for number in range(10)]
REGISTRY_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SITE_KEYS = {site: SiteKeys.generate() for site in (NORTH, SiteId("south"), SiteId("east"))}
TERMS = terms_of(SITE_KEYS, REGISTRY_KEY.public_key().public_bytes_raw(), TODAY)
STEPS = ("plan", "select", "prove", "open", "submit")
WITHDRAWALS = st.dictionaries(
    st.sampled_from(PATIENTS),
    st.tuples(st.integers(0, 3), st.sampled_from(STEPS), st.sampled_from(["code", "hospital"])),
    max_size=6,
)
"""By patient: before which step of which round she withdraws, and how."""


class Witness:
    """Stands for prover and verifier: knows the statements whose witness satisfied the circuit."""

    def __init__(self):
        self.passed = set()

    def submit(self, slots, scope, blind):
        for slot in slots:
            if slot.used:
                terms = pack_terms(
                    slot.grants,
                    scope.site,
                    scope.dataset,
                    scope.study,
                    slot.not_before,
                    slot.expiry,
                )
                assert slot.leaf == leaf_of(slot.subject, terms, slot.salt) != 0
                assert scope.required & ~slot.grants == 0
                assert slot.not_before <= scope.from_day <= scope.through_day < slot.expiry
        statement = state(slots, scope, blind)
        self.passed.add(statement.digest())
        future = Future()
        future.set_result((statement, bytes(256)))
        return future


@dataclass(frozen=True)
class WitnessGate(Gate):
    """The gate, which asks the witness where it would verify a proof."""

    witness: Witness = field(default_factory=Witness)

    def _verify(self, certificates, statements, known):  # noqa: ARG002 - the gate's signature
        digests = tuple(statement.digest() for statement in statements)
        if not self.witness.passed.issuperset(digests):
            raise ProofInvalid
        return digests


class World:
    """One hospital with ten patients who granted, and the server's side of a round."""

    def __init__(self, folder):
        self.registry = Registry(":memory:", registry_id="registry", signing_key=REGISTRY_KEY)
        lane = self.registry.open_lane(STUDY, NORTH, DATASET, 10, 8)
        self.openings = OpeningStore(folder / "openings.db")
        self.papers = {}
        terms = Terms(
            grants=TERMS.consent.required,
            site=number_of(NORTH, bits=32),
            dataset=number_of(DATASET, bits=32),
            study=number_of(STUDY, bits=64),
            not_before=TODAY,
            expiry=TODAY + 365,
        )
        made = [
            new_opening(one, self.openings.hospital_salt, terms, entropy=secrets.token_bytes)
            for one in PATIENTS
        ]
        grants = [(opening.leaf(), code.revoke_hash) for opening, code in made]
        receipts = self.registry.publish_many(lane, grants, NOW)
        for patient, (_, code), receipt in zip(PATIENTS, made, receipts, strict=True):
            self.papers[patient] = receipt.grant, code.secret
        self.openings.add_many(
            (patient, opening, receipt)
            for patient, (opening, _), receipt in zip(PATIENTS, made, receipts, strict=True)
        )
        self.records = {
            patient: Patient(patient, 1, (TableRow(key=patient, values=(1.0,)),))
            for patient in PATIENTS
        }
        self.witness = Witness()
        self.store = SiteStore(folder / "site.db")
        self.certifier = Certifier(TERMS, self.store, self.witness)
        self.gate = WitnessGate(
            TERMS,
            None,
            SimpleNamespace(check=lambda _update: None),
            lambda: TODAY,
            self.witness,
        )

    def close(self):
        self.registry.close()
        self.openings.close()

    def withdraw(self, patient, how):
        grant, code = self.papers[patient]
        if how == "code":
            self.registry.withdraw(grant, code, now=NOW)
            return
        unsigned = SiteWithdrawal(NORTH, grant, NOW.isoformat())
        key = SITE_KEYS[NORTH]
        signed = replace(unsigned, signature=key.sign(unsigned.signed_bytes()))
        self.registry.withdraw_for_site(signed, key.signing_public, now=NOW)

    def plan(self, number):
        """The server's snapshot: epoch and lanes of one instant, as its engine takes them."""
        with self.registry.snapshot() as epoch:
            chunks = lane_states(self.registry, TERMS)[NORTH]
        plan = SimpleNamespace(
            study=STUDY,
            round=number,
            model="11" * 32,
            key_id="22" * 32,
            epoch=Epoch(**vars(epoch)),
        )
        return plan, chunks

    def select(self, plan, chunks):
        return select(TERMS, NORTH, plan, chunks, openings=self.openings, patients=self.records)

    def certify(self, selections):
        return self.certifier.finish(self.certifier.begin(selections))

    def submit(self, plan, chunks, certificates, patients):
        """Send what a site would send, and return what the gate admits."""
        blob = b"ciphertext"
        digests = tuple(
            self.gate._statement(NORTH, one, one.public_inputs[2]).digest() for one in certificates
        )
        receipt = Receipt(
            study=STUDY,
            round=plan.round,
            site=NORTH,
            ciphertext_sha256=hashlib.sha256(blob).hexdigest(),
            consent_root=plan.epoch.root,
            certificates=digests,
            proven_patients=patients,
            gradients=TERMS.privacy.gradients(patients),
            epsilon_spent="1",
            delta="0.00001",
            clipping_norm="1",
            model_sha256=plan.model,
            site_key=SITE_KEYS[NORTH].signing_public,
        )
        signed = receipt.model_copy(
            update={"site_signature": SITE_KEYS[NORTH].sign(receipt.site_bytes())}
        )
        contribution = Contribution.model_construct(
            receipt=signed,
            encryption=TERMS.encryption,
            key_id=plan.key_id,
            length=TERMS.training.parameters,
            certificates=certificates,
        )
        return self.gate.admit(contribution, blob, plan, chunks, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interleavings")


def ids_of(selections):
    return [patient.id for selection in selections for patient in selection.patients]


def due(withdrawals, number, step):
    return [
        (patient, how)
        for patient, (before_round, before_step, how) in withdrawals.items()
        if (before_round, before_step) == (number, step)
    ]


def play(world, withdrawals, rounds, *, careless):
    """Run rounds with withdrawals between their steps; yield what each used and when it began.

    A careless site goes on with its first choice and certificates as long as the gate lets it.
    """
    gone = set()
    first = None
    for number in range(rounds):
        used, admitted, before = [], False, set()
        for step in STEPS:
            for patient, how in due(withdrawals, number, step):
                world.withdraw(patient, how)
                gone.add(patient)
            match step:
                case "plan":
                    before = set(gone)
                    plan, chunks = world.plan(number + 1)
                case "select":
                    chosen = world.select(plan, chunks)
                    first = chosen if first is None else first
                    chosen = first if careless else chosen
                case "prove":
                    certificates = world.certify(chosen)
                case "open":
                    used = ids_of(chosen)
                case "submit" if used:
                    try:
                        world.submit(plan, chunks, certificates, len(used))
                        admitted = True
                    except CertificateStale:
                        admitted = False
        yield before, used, admitted


@settings(max_examples=15, deadline=None)
@given(withdrawals=WITHDRAWALS)
def test_an_honest_site_opens_nobody_who_withdrew_before_the_round_began(folder, withdrawals):
    world = world_in(folder)
    try:
        for before, used, admitted in play(world, withdrawals, 4, careless=False):
            assert not before & set(used)
            assert set(used) | before == set(PATIENTS)  # and nobody else is left out
            assert admitted == bool(used)
    finally:
        world.close()


@settings(max_examples=15, deadline=None)
@given(withdrawals=WITHDRAWALS)
def test_a_careless_sites_update_does_not_count_once_somebody_in_it_withdrew(folder, withdrawals):
    world = world_in(folder)
    try:
        for before, used, admitted in play(world, withdrawals, 4, careless=True):
            assert admitted == (not before & set(used))
    finally:
        world.close()


def world_in(folder):
    fresh = folder / secrets.token_hex(8)
    fresh.mkdir()
    return World(fresh)


def test_every_instant_of_a_round_is_covered_by_the_next(folder):
    """The same, exhaustively for one patient: before each step, by code and by her hospital."""
    for how in ("code", "hospital"):
        for step in STEPS:
            world = world_in(folder)
            withdrawals = {PATIENTS[3]: (0, step, how)}
            rounds = list(play(world, withdrawals, 2, careless=False))
            assert PATIENTS[3] not in rounds[1][1]
            assert (PATIENTS[3] in rounds[0][1]) == (step != "plan")
            world.close()


def test_an_expired_grant_is_not_used_either(folder):
    """A grant that ends within the study's days covers none of them."""
    world = world_in(folder)
    late = TERMS.model_copy(
        update={
            "consent": TERMS.consent.model_copy(update={"through_day": TODAY + 365}),
        }
    )
    plan, chunks = world.plan(1)
    chosen = select(late, NORTH, plan, chunks, openings=world.openings, patients=world.records)
    assert chosen == []
    world.close()
