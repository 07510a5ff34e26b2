"""A funded study, its registered sites and server, and a way to close rounds as they would."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger import chart, tokenomics
from ledger.books import Ledger
from marketplace.study import Study, fund
from protocol.ids import StudyId
from protocol.messages import Receipt, RoundClosed

ZERO = "0" * 64


def key_of(name):
    """A fixed key per role; real ones are drawn from the operating system."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def raw(key):
    return key.public_key().public_bytes_raw()


class Signers:
    """The sites and the server of the tests, as those who sign."""

    server = key_of("the server")
    server_key = raw(server)

    def __init__(self):
        self.site_keys = {site: raw(key_of(site)) for site in ("north", "south", "west")}

    def receipt(self, site, gradients, *, signer=None, server=None, **changes):
        fields = {
            "study": "study",
            "round": 1,
            "site": site,
            "ciphertext_sha256": ZERO,
            "consent_root": 1,
            "certificates": (),
            "proven_patients": 9,
            "gradients": gradients,
            "epsilon_spent": "0.5",
            "delta": "0.00001",
            "clipping_norm": "1",
            "model_sha256": ZERO,
            "site_key": self.site_keys.get(site, bytes(32)),
        }
        receipt = Receipt(**(fields | changes))
        signature = (signer or key_of(site)).sign(receipt.site_bytes())
        receipt = receipt.model_copy(update={"site_signature": signature})
        countersignature = (server or self.server).sign(receipt.server_bytes())
        return receipt.model_copy(update={"server_signature": countersignature})

    def close(self, gradients, number=1, **changes):
        """Close round ``number`` with a receipt of each site in ``gradients``."""
        receipts = [self.receipt(site, n, round=number) for site, n in gradients.items()]
        return self.closed(receipts, round=number, **changes)

    def closed(self, receipts, **changes):
        fields = {
            "study": "study",
            "round": 1,
            "server_key": self.server_key,
            "model_sha256": ZERO,
            "manifest": ZERO,
            "receipts": tuple(receipts),
        }
        return RoundClosed(**(fields | changes))


@pytest.fixture(scope="session")
def signers():
    return Signers()


@pytest.fixture(scope="session")
def now():
    return datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def study():
    return Study(StudyId("study"), chart.wallet("buyer"), budget=1000, rounds=3)


@pytest.fixture
def unfunded(path, now):
    """Books in which the buyer holds 1,500 base units."""
    ledger = Ledger(path)
    ledger.genesis(tokenomics.load().allocation, now=now)
    buyer = ledger.open_account(chart.wallet("buyer"))
    ledger.transfer("start", chart.treasury("ecosystem"), buyer, 1500, memo="", now=now)
    yield ledger
    ledger.close()


@pytest.fixture
def ledger(unfunded, study, now):
    fund(unfunded, study, now=now)
    return unfunded
