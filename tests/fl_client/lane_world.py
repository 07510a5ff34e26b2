"""One hospital's lane of three small chunks, a registry that changes, and a prover held by hand."""

import secrets
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.grant import new_opening
from consent.openings import OpeningStore
from consent.registry import Registry
from consent.terms import Terms
from fl_client.lane import LaneState, newest_in
from fl_client.store import SiteStore
from privacy.keys import SiteKeys
from protocol.ids import PatientId, SiteId, number_of
from protocol.units import day_number
from records.dataset import Patient, TableRow
from tests.portal.patient_world import DATASET, STUDY, terms_of
from zk.cover import state

NORTH, SOUTH, EAST = (SiteId(name) for name in ("north", "south", "east"))
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
TODAY = day_number(NOW.date())
REGISTRY_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SITE_KEYS = {site: SiteKeys.generate() for site in (NORTH, SOUTH, EAST)}
TERMS = terms_of(SITE_KEYS, REGISTRY_KEY.public_key().public_bytes_raw(), TODAY)
CHUNKS, SLOTS = 3, 8
PATIENTS = [PatientId(f"patient {number}") for number in range(CHUNKS * SLOTS)]


class LaneWorld:
    """A lane full of grants; ``withdraw`` by the patients' number."""

    def __init__(self, folder):
        self.folder = folder
        self.registry = Registry(":memory:", registry_id="registry", signing_key=REGISTRY_KEY)
        lane = self.registry.open_lane(STUDY, NORTH, DATASET, len(PATIENTS), SLOTS)
        self.openings = OpeningStore(folder / "openings.db")
        self.store = SiteStore(folder / "site.db")
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
        self.openings.add_many(
            (patient, opening, receipt)
            for patient, (opening, _), receipt in zip(PATIENTS, made, receipts, strict=True)
        )
        self.papers = [
            (receipt.grant, code.secret) for (_, code), receipt in zip(made, receipts, strict=True)
        ]
        self.records = {
            patient: Patient(patient, 1, (TableRow(key=patient, values=(1.0,)),))
            for patient in PATIENTS
        }
        self.newest = newest_in(self.registry, TERMS, NORTH)

    def withdraw(self, *numbers):
        for number in numbers:
            grant, code = self.papers[number]
            self.registry.withdraw(grant, code, now=NOW)

    def state(self, *chunks) -> LaneState:
        """The lane now, or some chunks of it."""
        state = self.newest()
        kept = tuple(one for one in state.chunks if not chunks or one.chunk in chunks)
        return LaneState(state.epoch, kept)

    def close(self):
        self.registry.close()
        self.openings.close()


@dataclass
class HandProver:
    """Proves when told to; ``jobs`` are the futures in the order of submission."""

    jobs: list = field(default_factory=list)
    chunks: list = field(default_factory=list)

    def submit(self, slots, scope, blind):
        future = Future()
        future.made = lambda: future.set_result((state(slots, scope, blind), bytes(256)))
        self.jobs.append(future)
        return future

    def work(self):
        """Do everything that waits, and what comes of it."""
        done = 0
        while done < len(self.jobs):
            future = self.jobs[done]
            done += 1
            if not future.done() and future.set_running_or_notify_cancel():
                future.made()

    @property
    def in_work(self):
        """How many were asked for and are not done."""
        return sum(not future.done() for future in self.jobs)
