"""A registry with one lane of two small chunks, and grants whose patients are numbers."""

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.registry import Registry
from protocol.ids import SiteId, StudyId

STUDY = StudyId("study")
NORTH = SiteId("north")
SOUTH = SiteId("south")
CHUNK = 4


def code_of(leaf: int) -> bytes:
    return b"code %d" % leaf


def hash_of(leaf: int) -> bytes:
    return hashlib.sha256(code_of(leaf)).digest()


@pytest.fixture
def now():
    return datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="session")
def key():
    return Ed25519PrivateKey.generate()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "registry.db"


@pytest.fixture
def open_registry(path, key):
    opened = []

    def open_again(**changes):
        settings = {"registry_id": "registry", "signing_key": key}
        opened.append(Registry(path, **(settings | changes)))
        return opened[-1]

    yield open_again
    for registry in opened:
        registry.close()


@pytest.fixture
def registry(open_registry):
    return open_registry()


@pytest.fixture
def lane(registry):
    return registry.open_lane(STUDY, NORTH, "scans", capacity=2 * CHUNK, chunk_size=CHUNK)


@pytest.fixture
def publish(registry, lane, now):
    def publish_leaves(*leaves):
        grants = [(leaf, hash_of(leaf)) for leaf in leaves]
        return registry.publish_many(lane, grants, now=now)

    return publish_leaves
