"""A server's home with three admitted sites, each in a folder of its own, and nobody's records."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from identity.admission import install
from identity.consortium import Consortium
from identity.joining import prepare
from identity.requests import fingerprint
from identity.roles import Actor, Role
from identity.site_folder import SiteFolder
from portal.home import Home
from portal.options import settings_for
from portal.site_grants import GrantDesk
from portal.site_settings import SiteOwn
from portal.study_founding import Asked, Design, found_study, input_shape_of, recipe_of
from protocol.canonical import canonical
from protocol.units import BASE_UNITS_PER_BTT
from zk.keys import VerificationKey

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
OPERATOR = Actor("operator", frozenset({Role.OPERATOR}))
SITES = ("east", "north", "south")
VECTOR = Path(__file__).parents[1] / "vectors/zk/cover8.json"


def verification_key():
    """Return a development key that nobody proves with."""
    return VerificationKey.from_json(json.dumps(json.loads(VECTOR.read_text())["verification_key"]))


def design(**changes):
    """Return the design of a small study on the public table of cell nuclei."""
    settings = settings_for(
        data="wisconsin",
        seed=None,
        default_seed=7,
        engine="superlink",
        opening="members",
        sites=3,
        patients=16,
        rounds=2,
        circuit="cover8",
        epsilon=None,
    )
    made = Design(
        settings=settings,
        dataset="wisconsin",
        modality="table",
        input_shape=input_shape_of("wisconsin", "table"),
        title="Cell nuclei",
        recipe=recipe_of("table", "fedavg"),
        verification_key=verification_key(),
        today=NOW.date(),
    )
    return replace(made, **changes)


@dataclass
class Apart:
    """The server's home, and beside it a home for each hospital."""

    path: Path
    sites: tuple[str, ...] = SITES

    def __post_init__(self):
        self.server = Home(self.path / "server-home")
        self.proving_key = self.path / "a.key"
        self.path.mkdir(exist_ok=True)
        self.proving_key.write_bytes(b"what hospitals prove with")
        self.consortium = Consortium.found(
            self.server.path / "operator/authority",
            "lungs",
            addresses=["fed.example.org:443"],
            terms="",
            actor=OPERATOR,
            record=lambda *_, **__: None,
            now=NOW,
        )
        for site in self.sites:
            self.join(site)

    def home(self, site):
        return Home(self.path / f"{site}-home")

    def folder(self, site):
        return self.home(site).site(site)

    def join(self, site):
        made, _ = prepare(self.folder(site), site, now=NOW, entropy=bytes)
        admission = self.consortium.admit(
            canonical(made), given_fingerprint=fingerprint(made.digest()), actor=OPERATOR, now=NOW
        )
        operator = fingerprint(self.consortium.operator_digest)
        install(SiteFolder.of(self.folder(site)), admission, operator=operator, now=NOW)

    def set_up(self, site, study):
        """Say what a hospital holds and trusts, as ``bithive site setup`` does."""
        consent = study.terms.consent
        own = SiteOwn(
            site=site,
            records="wisconsin",
            dataset=consent.dataset,
            modality="table",
            registry=consent.registry,
            registry_key=consent.registry_key,
            circuit=consent.circuit,
            key_hash=consent.key_hash,
        )
        own.save(self.folder(site))
        return GrantDesk(self.folder(site), own)

    def asked(self, **changes):
        made = Asked((), 16, 30 * BASE_UNITS_PER_BTT, "Institute of Cells", self.proving_key)
        return replace(made, **changes)

    def found(self, **changes):
        return found_study(self.server, design(), self.asked(**changes), now=NOW)
