"""Terms, plans and contributions that a store takes without looking: for tests of what is kept."""

import functools
import hashlib

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_server.model_state import ModelState
from fl_server.store import ClosedRound, PlannedRound
from privacy.keys import SiteKeys
from protocol.messages import (
    Contribution,
    Epoch,
    Manifest,
    Receipt,
    RoundClosed,
    RoundKey,
    RoundPlan,
)
from tests.fl_server.cohort import NOTHING, STUDY, names, terms_of

SITES = names(3)


@functools.cache
def terms():
    keys = {site: SiteKeys.generate() for site in SITES}
    return terms_of(keys, Ed25519PrivateKey.generate(), opening="members")


def model(value=0.0, size=40):
    vector = np.full(size, value, np.float32)
    return ModelState(vector, vector, np.ones(1))


def planned(number=1):
    keys = [
        RoundKey(
            study=STUDY,
            round=number,
            call=NOTHING,
            site=site,
            public_key=bytes(32),
            seed_sha256=NOTHING,
            sealing_key=bytes(32),
            envelopes=(NOTHING, NOTHING),
        )
        for site in SITES
    ]
    plan = RoundPlan(
        study=STUDY,
        terms=NOTHING,
        round=number,
        model=NOTHING,
        key_id="0" * 16,
        steps=(1.0,),
        epoch=Epoch(registry="registry", number=0, root=0, at="never", signature=b""),
        call=NOTHING,
        roster=tuple(keys),
        previous=NOTHING,
    )
    return PlannedRound(plan, 3, {}, dict.fromkeys(SITES, b"shares"))


def contribution(site, blob, number=1):
    receipt = Receipt(
        study=STUDY,
        round=number,
        site=site,
        ciphertext_sha256=hashlib.sha256(blob).hexdigest(),
        consent_root=0,
        certificates=(),
        proven_patients=5,
        gradients=5,
        epsilon_spent="1",
        delta="0.000001",
        clipping_norm="1",
        model_sha256=NOTHING,
        site_key=bytes(32),
    )
    return Contribution(
        receipt=receipt, encryption="packed-bfv-8", key_id="0" * 16, length=40, certificates=()
    )


def closing(number, integers=None):
    manifest = Manifest(
        study=STUDY,
        round=number,
        plan=NOTHING,
        commitment=NOTHING,
        integers_sha256=NOTHING,
        model_sha256=model(number).sha256,
        previous=NOTHING,
    )
    closed = RoundClosed(
        study=STUDY,
        round=number,
        server_key=bytes(32),
        model_sha256=manifest.model_sha256,
        manifest=NOTHING,
        receipts=(),
        refused=(),
    )
    return ClosedRound(closed, manifest, None, integers)
