"""A hospital that ignores a withdrawal, for the demonstration: the server must refuse it.

In one round it fills its lane with the leaves it remembers instead of those the registry has, so
that it trains on the patient who has withdrawn and sends the certificate it proved before.
Everything else about it is the ordinary agent.
"""

from __future__ import annotations

from dataclasses import dataclass

from fl_client.agent import Agent
from fl_client.coverage import Selection, select_chunk
from portal.patients import careless_round
from protocol.messages import ChunkState, RoundPlan


@dataclass
class CarelessAgent(Agent):
    """An agent that keeps to yesterday's grants in one round."""

    def choose(self, plan: RoundPlan, chunks: tuple[ChunkState, ...]) -> list[Selection]:
        """Choose as if nobody had withdrawn, in the one round; as one must, in the others."""
        if plan.round != careless_round(self.terms.rounds):
            return super().choose(plan, chunks)
        site = self.settings.site
        remembered = [
            select_chunk(self.terms, site, self._remember(state), self.openings, self.patients)
            for state in chunks
        ]
        return [selection for selection in remembered if selection.patients]

    def _remember(self, state: ChunkState) -> ChunkState:
        """Put back the leaves that the registry has zeroed."""
        first = state.chunk * len(state.leaves)
        leaves = []
        for offset, leaf in enumerate(state.leaves):
            known = self.openings.opening_at(first + offset)
            leaves.append(leaf if known is None else known[1].leaf())
        return state.model_copy(update={"leaves": tuple(leaves)})
