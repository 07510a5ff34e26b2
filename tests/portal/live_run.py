"""A home in which a run's events are written one by one, by a clock that the test moves.

Only the server's database and the settings are there: what is watched is what was written down.
"""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from fl_server.database import ServerDatabase
from fl_server.live import RunEvent, RunEvents
from fl_server.tables import STUDY
from portal.home import Home
from protocol.canonical import canonical
from protocol.ids import SiteId
from protocol.terms import SiteIdentity, StudyTerms
from tests.study_terms import bare_terms

SITES = tuple(map(SiteId, ("harbour", "hillside", "lakeside", "meadow", "northgate", "riverbank")))
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROUNDS = 10


def terms_of(rounds=ROUNDS, sites=SITES):
    def key(site, use):
        return hashlib.sha256(f"{site} {use}".encode()).digest()

    found = (
        SiteIdentity(site=site, signing_key=key(site, "sign"), agreement_key=key(site, "agree"))
        for site in sites
    )
    return bare_terms(found, rounds=rounds)


@dataclass
class LiveRun:
    """A run as a server writes it down."""

    home: Home
    terms: StudyTerms = field(default_factory=terms_of)
    at: datetime = NOON

    def __post_init__(self):
        self.home.path.mkdir(parents=True, exist_ok=True)
        (self.home.path / "settings.json").write_text(json.dumps({"data": "phantom"}))
        self.database = ServerDatabase(self.home.server / "server.db")
        with self.database.writing() as connection:
            text = canonical(self.terms).decode()
            connection.execute(STUDY.insert().values(id=self.terms.study, terms=text))
        self.events = RunEvents(self.database, now=lambda: self.at)

    @property
    def sites(self):
        return sorted(one.site for one in self.terms.sites)

    def wait(self, seconds):
        self.at += timedelta(seconds=seconds)

    def write(self, kind, round_number=0, **rest):
        self.events.append(RunEvent(kind, round_number, **rest))

    def begin(self):
        self.write("run", code="started")
        for site in self.sites:
            self.write("joined", site=site, phase="")

    def phase(self, number, phase, *, but=(), seconds=1.0, size=900, codes=None):
        """Enter a phase and let every site answer but some."""
        codes = codes or {}
        asked = {"asked": len(self.sites), "quorum": 5, "deadline_seconds": 600.0}
        self.write("phase", number, phase=phase, numbers=asked)
        for place, site in enumerate(self.sites):
            if site in but:
                continue
            self.wait(seconds / len(self.sites))
            spent = seconds * (place + 1) / len(self.sites)
            if site in codes:
                self.write("refused", number, phase=phase, site=site, code=codes[site])
            else:
                self.write(
                    "answered", number, phase=phase, site=site, seconds=spent, bytes=size + place
                )

    def round(self, number, *, auc=None, codes=None):
        began = self.at
        self.phase(number, "roster", seconds=0.8)
        self.phase(number, "uploads", seconds=14 + 2 * (number % 3), size=30_801, codes=codes)
        self.phase(number, "unmasking", seconds=0.6)
        self.phase(number, "opening", seconds=0.4, size=61_000)
        self.write("phase", number, phase="closing")
        self.wait(0.2)
        took = (self.at - began).total_seconds()
        self.write("closed", number, code="with-update", seconds=took)
        self.write("phase", number, phase="scoring")
        self.wait(0.3)
        self.write("metrics", number, numbers={"auc": auc or 0.97 - 0.3 / (number + 1)})

    def finish(self):
        self.write("run", self.terms.rounds, code="finished")
