"""FedProx: every step of a site is pulled back towards the model the round began with.

A site minimises f_i(w) + mu/2 |w - x|^2 for the round's start x [1], so each step adds
mu (w - x) to its gradient. The pull depends on the weights alone, which under DP-SGD are noised
already: it costs no privacy.

It also shrinks the noise. With a = 1 - lr mu a step is w - x <- a (w - x) - lr g, so the noise of
step t arrives in the update multiplied by a^(K-1-t), and a coordinate's deviation is
lr sigma C / (q R) sqrt(1 + a^2 + ... + a^(2K-2)) instead of the same with sqrt(K).

References:
    [1] Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, Algorithm 2.
        arXiv:1812.06127
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from models.algorithms.interface import Algorithm, Beginning, Vector, Wide


class FedProx(Algorithm):
    """FedAvg with a pull of strength ``proximal`` in the sites' steps."""

    def begin(self, sent: Vector, kept: Wide | None, patients: int) -> Beginning:
        """Start at the model sent, with the pull as correction."""
        mu = self.constants.proximal

        def pull(moved: Any) -> Any:
            return mu * moved

        return replace(super().begin(sent, kept, patients), correction=pull)

    @property
    def contraction(self) -> float:
        """One step's shrinking of the way from the start."""
        return 1.0 - self.constants.learning_rate * self.constants.proximal
