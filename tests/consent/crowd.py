"""Several processes grant and withdraw at once in one registry; run as a module by the tests."""

import hashlib
import sys
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.postgresql import open_postgresql
from consent.registry import Registry
from protocol.ids import SiteId, StudyId

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PROCESSES, GRANTS = 4, 25
"""Each grants so many and withdraws every one but the last: 196 changes, and 4 stay."""


def opened(target):
    database = open_postgresql(target) if "://" in target else target
    return Registry(database, registry_id="registry", signing_key=KEY)


def lane_in(registry):
    return registry.open_lane(StudyId("study"), SiteId("north"), "scans", 200, 4)


def work(target, number):
    """Do one process's part, on a registry that it opens itself and maybe founds."""
    registry, now = opened(target), datetime(2026, 11, 21, tzinfo=UTC)
    lane = lane_in(registry)
    first = 1 + number * GRANTS
    for leaf in range(first, first + GRANTS):
        code = b"code %d" % leaf
        receipt = registry.publish(lane, leaf, hashlib.sha256(code).digest(), now=now)
        if leaf != first + GRANTS - 1:
            registry.withdraw(receipt.grant, code, now=now)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
