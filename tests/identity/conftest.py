"""A federation, a site that asks to join it, and a log that listens."""

from datetime import UTC, datetime

import pytest

from identity.admission import install, read_admission
from identity.consortium import Consortium
from identity.joining import prepare
from identity.requests import fingerprint
from identity.roles import Actor, Role
from identity.site_folder import SiteFolder
from protocol.canonical import canonical

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
OPERATOR = Actor("operator", frozenset({Role.OPERATOR}))


class Log(list):
    """Keeps events as an audit log does: once under one key."""

    def __call__(self, kind, facts, *, key=None):
        if key is None or key not in {one[2] for one in self}:
            self.append((kind, dict(facts), key))

    def kinds(self):
        return [kind for kind, _, _ in self]


class World:
    """The folders of an operator and its sites."""

    now = NOW
    operator = OPERATOR

    def __init__(self, path):
        self.path = path
        self.log = Log()
        self.authority = path / "operator/authority"
        self.consortium = Consortium.found(
            self.authority,
            "lungs",
            addresses=["fed.example.org:8443"],
            terms="Be good.",
            actor=OPERATOR,
            record=self.log,
            now=NOW,
        )

    def folder(self, site):
        return SiteFolder.of(self.path / site)

    def request(self, site, *, now=NOW, rotate=False):
        made, _ = prepare(self.path / site, site, now=now, entropy=_entropy(self), rotate=rotate)
        return made

    def admit(self, site, *, now=NOW):
        asked = self.request(site, now=now)
        return self.consortium.admit(
            canonical(asked), given_fingerprint=fingerprint(asked.digest()), actor=OPERATOR, now=now
        )

    @property
    def operator_fingerprint(self):
        return fingerprint(self.consortium.operator_digest)

    def install(self, site, admission, *, now=NOW, operator="ours"):
        given = self.operator_fingerprint if operator == "ours" else operator
        content = canonical(admission)
        return install(self.folder(site), read_admission(content), operator=given, now=now)

    def join(self, site, *, now=NOW):
        admission = self.admit(site, now=now)
        self.install(site, admission, now=now)
        return admission


def _entropy(world):
    world.drawn = getattr(world, "drawn", 0)

    def draw(size):
        world.drawn += 1
        return world.drawn.to_bytes(size, "big")

    return draw


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)
