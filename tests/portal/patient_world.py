"""A home with a study of three hospitals and nothing else, and a patient without a browser.

``Patient`` does in Python what the page does in JavaScript, so that the API is tested with real
proofs where no browser is.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

from consent.grant import Opening, _salt, new_opening
from consent.grants_by_proof import grant_message, grant_scope, withdrawal_message
from consent.lanes import LanePolicy
from consent.proofing import Proofing
from consent.purposes import category_mask, granted_mask, purpose_mask
from consent.registry import Registry
from consent.terms import Terms
from portal.home import Home
from portal.patient.mailbox import Mailbox
from portal.patient.sealing import invitation_keys, open_person, opening_context, request_mac, seal
from portal.patient.server import open_group
from portal.patient.steward import Steward
from portal.site_settings import SiteOwn
from privacy.keys import SiteKeys
from privacy.signatures import signing_key
from protocol.canonical import canonical
from protocol.ids import PatientId, SiteId, StudyId, number_of
from protocol.terms import StudyTerms
from protocol.units import day_number
from storage.files import write_whole
from tests.study_terms import bare_terms, identities_of
from zk import semaphore_prover
from zk.lean_imt import LeanIMT

NORTH, SOUTH, EAST = SITES = (SiteId("north"), SiteId("south"), SiteId("east"))
STUDY = StudyId("breast-2026")
DATASET = "scans"
CHUNK = 8
SHEET = {
    "title": {
        "en": "Earlier detection of breast cancer with ultrasound",
        "zh": "超声早期发现乳腺癌研究",
    },
    "site_names": {
        "north": {"en": "North Hospital", "zh": "北方医院"},
        "south": {"en": "South Hospital", "zh": "南方医院"},
        "east": {"en": "East Hospital", "zh": "东方医院"},
    },
    "also_ask": ["GRU"],
    "also_categories": ["report"],
}


def terms_of(keys, registry_key, today):
    return bare_terms(
        identities_of(keys),
        consent={
            "registry_key": registry_key,
            "dataset": DATASET,
            "required": purpose_mask(["HMB"]) | category_mask(["US"]),
            "from_day": today,
            "through_day": today + 30,
        },
        study=STUDY,
        rounds=40,
    )


def set_up(home, site, terms):
    """Say what a hospital holds and trusts, as ``bithive site setup`` does."""
    consent = terms.consent
    SiteOwn(
        site=site,
        records="records",
        dataset=consent.dataset,
        modality="image",
        registry=consent.registry,
        registry_key=consent.registry_key,
        circuit=consent.circuit,
        key_hash=consent.key_hash,
    ).save(home.site(site))


@dataclass
class World:
    """A founded home and its hospitals."""

    home: Home
    terms: StudyTerms

    @classmethod
    def found(cls, path):
        home = Home(path)
        keys = {site: SiteKeys.load_or_make(home.site(site) / "keys.json") for site in SITES}
        registry_key = signing_key(home.server / "registry.key")
        today = day_number(datetime.now(UTC).date())
        terms = terms_of(keys, registry_key.public_key().public_bytes_raw(), today)
        registry = Registry(
            home.server / "registry.db", registry_id="registry", signing_key=registry_key
        )
        for site in SITES:
            registry.open_lane(
                STUDY, site, DATASET, capacity=24, chunk_size=CHUNK, policy=LanePolicy.PROVEN
            )
        registry.close()
        write_whole(home.server / "terms.json", canonical(terms))
        write_whole(home.server / "study-sheet.json", json.dumps(SHEET).encode())
        return cls(home, terms)

    def steward(self, site=NORTH):
        return Steward(
            self.home.site(site),
            site,
            terms=self.terms,
            mailbox=Mailbox(self.home.server / "mailbox.db"),
            group=open_group(self.home, self.terms),
            entropy=secrets.token_bytes,
        )

    def invite(self, patient="4711", site=NORTH, *, ward=None):
        return self.steward(site).invite(
            PatientId(patient), Proofing.IN_PERSON, now=datetime.now(UTC), ward=ward
        )

    def enrol_all(self, site=NORTH, *, now=None):
        steward = self.steward(site)
        for one in steward.waiting():
            steward.enrol(one.code, now=now or datetime.now(UTC))


@lru_cache(maxsize=64)
def commitment_of(secret):
    return semaphore_prover.commitment_of(secret)


@dataclass
class Patient:
    """A patient with a scalar of her own for each of her two identities."""

    client: object
    secret: int = field(default_factory=lambda: secrets.randbits(248) | 1)
    payout_secret: int = field(default_factory=lambda: secrets.randbits(248) | 1)
    person: object = None
    site: SiteId = NORTH

    @property
    def commitment(self):
        return commitment_of(self.secret)

    @property
    def payout_id(self):
        return commitment_of(self.payout_secret)

    def ask(self, code, *, ward=None):
        """Ask to be enrolled; a carer gives the ward's commitment too."""
        keys = invitation_keys(code)
        found = self.client.get(f"/api/invitations/{keys.lookup}").json()
        self.site = SiteId(found["site"])
        self.person = open_person(bytes.fromhex(found["envelope"]), keys, self.site)
        mac = request_mac(keys, self.site, self.commitment, ward=ward)
        body = {"lookup": keys.lookup, "commitment": str(self.commitment), "mac": mac.hex()}
        if ward is not None:
            body["ward"] = str(ward)
        return self.client.post("/api/enrolments", json=body)

    def terms(self, purposes=("HMB",), days=365):
        study = self.client.get("/api/study").json()
        return Terms(
            grants=granted_mask(purposes) | category_mask(["US"]),
            site=number_of(self.site, bits=32),
            dataset=number_of(study["dataset"], bits=32),
            study=number_of(study["study"], bits=64),
            not_before=study["from_day"],
            expiry=study["from_day"] + days,
        )

    def wish(self, *, terms=None, lane_site=None, code=None):
        """Return a grant's body and its code; ``lane_site`` is whose lane the proof names."""
        study = self.client.get("/api/study").json()
        terms = terms or self.terms()
        made, paper = new_opening(self.person.patient, 0, terms, entropy=secrets.token_bytes)
        # The hospital's salt stays with it: the subject came in the envelope.
        salt = _salt(made.randomness, self.person.patient, terms)
        opening = Opening(self.person.subject, salt, terms, made.randomness)
        secret = code or paper.secret
        revoke_hash = hashlib.sha256(secret).digest()
        lane = study["sites"][lane_site or self.site]["lane"]

        class Lane:
            first_chunk = lane

        message = grant_message(
            study["registry"], opening.leaf(), Lane, self.payout_id, revoke_hash
        )
        proof = self.prove(grant_scope(study["study"]), message)
        sealed = seal(
            json.dumps(
                {
                    "patient": self.person.patient,
                    "subject": str(opening.subject),
                    "salt": str(opening.salt),
                    "terms": str(terms.packed()),
                    "randomness": str(opening.randomness),
                }
            ).encode(),
            bytes.fromhex(study["sites"][self.site]["agreement_key"]),
            context=opening_context(study["registry"], lane, opening.leaf()),
        )
        body = {
            "site": self.site,
            "leaf": str(opening.leaf()),
            "payout_id": str(self.payout_id),
            "revoke_hash": revoke_hash.hex(),
            "sealed": sealed.hex(),
            "proof": proof.to_json(),
        }
        return body, secret

    def prove(self, scope, message):
        everybody = self.client.get("/api/enrolment/members").json()["members"]
        return semaphore_prover.prove(
            self.secret, LeanIMT([int(one) for one in everybody]), scope, message
        )

    def prove_withdrawal(self, leaf):
        return self.prove(grant_scope(STUDY), withdrawal_message("registry", int(leaf)))
