"""What a site is told of its own lane: the leaves at the round's epoch, and the way to the root.

The leaves are public (the registry logs them), so a site could rebuild the tree from the log; the
siblings save it that work and still let it check the server against the registry's signature.
"""

from __future__ import annotations

from consent.registry import Registry
from protocol.ids import SiteId
from protocol.messages import ChunkState
from protocol.terms import StudyTerms


def lane_states(registry: Registry, terms: StudyTerms) -> dict[SiteId, tuple[ChunkState, ...]]:
    """Return every chunk of every site's lane in this study, as the registry stands now."""
    sites = {identity.site for identity in terms.sites}
    states: dict[SiteId, tuple[ChunkState, ...]] = {}
    for lane in registry.lanes():
        if lane.study != terms.study or lane.dataset != terms.consent.dataset:
            continue
        if lane.site in sites:
            states[lane.site] = tuple(
                ChunkState(
                    chunk=chunk,
                    leaves=tuple(registry.chunk_leaves(chunk)),
                    siblings=tuple(registry.chunk_path(chunk)),
                )
                for chunk in lane.chunks
            )
    return states
