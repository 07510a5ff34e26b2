"""Several processes at once in one registry, group and book; run as a module by the tests."""

import hashlib
import sys
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.claims import ClaimBook, ClaimedAlready, claim_message
from consent.enrolment import EnrolmentGroup
from consent.postgresql import open_postgresql
from consent.proofing import Enrolment, Proofing
from consent.registry import Registry
from protocol.ids import SiteId, StudyId
from zk.semaphore import SemaphoreProof

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PROCESSES, GRANTS = 4, 25
"""Each grants so many and withdraws every one but the last: 196 changes, and 4 stay."""
ENROLMENTS = CLAIMS = 50
"""Of each process: 200 together."""
NOW = datetime(2026, 11, 21, tzinfo=UTC)
STUDY, NORTH = StudyId("study"), SiteId("north")
POOL = 10**18 + 7


def database(target):
    return open_postgresql(target) if "://" in target else target


def opened(target):
    return Registry(database(target), registry_id="registry", signing_key=KEY)


def group_in(target):
    return EnrolmentGroup(database(target), {NORTH: KEY.public_key().public_bytes_raw()})


def book_in(target):
    return ClaimBook(database(target), registry="registry")


def lane_in(registry):
    return registry.open_lane(STUDY, NORTH, "scans", 200, 4)


def grant(target, number):
    """Do one process's part, on a registry that it opens itself and maybe founds."""
    registry = opened(target)
    lane = lane_in(registry)
    first = 1 + number * GRANTS
    for leaf in range(first, first + GRANTS):
        code = b"code %d" % leaf
        receipt = registry.publish(lane, leaf, hashlib.sha256(code).digest(), now=NOW)
        if leaf != first + GRANTS - 1:
            registry.withdraw(receipt.grant, code, now=NOW)


def enrol(target, number):
    """Enrol fifty people; every process also reads the root after each, as a server does."""
    group = group_in(target)
    first = 1 + number * ENROLMENTS
    for commitment in range(first, first + ENROLMENTS):
        statement = Enrolment(
            site=NORTH, commitment=commitment, proofing=Proofing.IN_PERSON, at=NOW.isoformat()
        )
        group.enrol(statement.signed_by(KEY), now=NOW)
        group.root(now=NOW)


def claim(target, number):
    """Claim fifty shares, and each one that the process before claims too."""
    book = book_in(target)
    total = PROCESSES * CLAIMS
    payout = book.payout(STUDY, 5, NORTH)
    for step in range(2 * CLAIMS):
        nullifier = 1 + (number * CLAIMS + step) % total
        recipient = f"wallet:{nullifier}"
        # What is tested is the book: proofs are for tests/consent/test_claims.py.
        proof = SemaphoreProof(
            root=payout.root,
            nullifier=nullifier,
            message=claim_message(recipient),
            scope=payout.scope,
            points=bytes(256),
        )
        try:
            book.claim(proof, STUDY, 5, NORTH, recipient, now=NOW, verifier=lambda *_: None)
        except ClaimedAlready as refused:
            assert refused.claim.recipient == recipient


WORK = {"grant": grant, "enrol": enrol, "claim": claim}

if __name__ == "__main__":
    WORK[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
