"""Telling hospitals between rounds how their lanes stand, so that they prove before they must.

Each site is sent those chunks of its own lane that changed since it was last told, by a plan or by
news, with the registry's signed epoch and the paths that lead to its root: the site checks them as
it checks a plan's. The server needs nothing of the answer. A site that is silent or refuses is told
by its next plan, and no round waits for it or fails because of it.

What holds (tests/fl_server/test_ahead.py):

1. A site hears of each change of its own lane once, and of no other site's.
2. Where nothing changed nothing is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from consent.registry import Registry, SignedEpoch
from fl_server.lanes import lane_states
from fl_server.sites import Sites, refusal_of
from protocol.canonical import body, digest
from protocol.frames import encode
from protocol.ids import SiteId
from protocol.messages import ChunkState, Epoch
from protocol.progress import Progress, Step
from protocol.terms import StudyTerms

PREPARE_SECONDS: Final = 30.0
"""How long the server waits for the sites to say that they heard."""
Lanes = Mapping[SiteId, tuple[ChunkState, ...]]


def epoch_of(signed: SignedEpoch) -> Epoch:
    """Return a registry's signed state as messages carry it."""
    return Epoch(
        registry=signed.registry,
        number=signed.number,
        root=signed.root,
        at=signed.at,
        signature=signed.signature,
    )


@dataclass
class LaneNews:
    """What each site was told of its lane, and telling it the rest."""

    terms: StudyTerms
    sites: Sites
    registry: Registry
    progress: Progress
    seconds: float = PREPARE_SECONDS
    _told: dict[SiteId, dict[int, tuple[int, ...]]] = field(default_factory=dict)

    def told(self, lanes: Lanes) -> None:
        """Note what a plan tells the sites."""
        for site, chunks in lanes.items():
            self._told.setdefault(site, {}).update({one.chunk: one.leaves for one in chunks})

    def send(self, round_number: int) -> None:
        """Tell every connected site what changed; ``round_number`` is the last round's."""
        with self.registry.snapshot() as signed:
            lanes = lane_states(self.registry, self.terms)
        changed = {
            site: tuple(one for one in chunks if self._is_new(site, one))
            for site, chunks in lanes.items()
            if site in self.sites.nodes
        }
        requests = {
            site: encode(
                "prepare",
                {
                    "terms": digest(self.terms),
                    "epoch": body(epoch_of(signed)),
                    "chunks": [body(one) for one in chunks],
                },
            )
            for site, chunks in changed.items()
            if chunks
        }
        self.told(changed)
        group = f"prepare-{signed.number}"
        for site, reply in self.sites.ask("prepare", requests, group, self.seconds):
            if reply.kind == "preparing":
                self.progress(Step("prepare", round_number, site))
            else:
                code, reason = refusal_of(reply)
                self.progress(Step("prepare", round_number, site, note=f"{code}: {reason}"))

    def _is_new(self, site: SiteId, state: ChunkState) -> bool:
        return self._told.get(site, {}).get(state.chunk) != state.leaves
