"""FedAdam: the server divides its step in each coordinate by the root of its mean square.

With the mean update d of a round [1, Algorithm 2]::

    m <- b1 m + (1 - b1) d       v <- b2 v + (1 - b2) d^2       x <- x + eta m / (sqrt(v) + tau)

v starts at tau^2. Everything is computed from opened sums, which under differential privacy are
noised: no privacy is spent. The noise is in d^2 too: where it outweighs the signal, all coordinates
have nearly the same v, and FedAdam is FedAvgM with a step of fixed length.

References:
    [1] Reddi et al., Adaptive Federated Optimization, ICLR 2021. arXiv:2003.00295
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.algorithms.interface import Algorithm, GlobalState, Vector, Wide

SQUARES: Final = "squares"
"""The name of v among what is carried."""


class FedAdam(Algorithm):
    """Adam as the server's optimizer, plain SGD at the sites."""

    def first(self, vector: Vector) -> GlobalState:
        """Return the state before the first round: v is tau squared."""
        squares = np.full(vector.shape, self.constants.adam_tau**2, np.float64)
        return GlobalState(vector, np.zeros_like(vector), {SQUARES: squares})

    def step(self, before: GlobalState, total: Wide, *, weight: int, sites: int) -> GlobalState:
        """Take one step of Adam along the mean update."""
        del sites
        constants = self.constants
        mean = self.mean(total, weight)
        beta1, beta2 = constants.adam_beta1, constants.adam_beta2
        momentum = beta1 * before.momentum.astype(np.float64) + (1 - beta1) * mean
        squares = beta2 * before.carried[SQUARES] + (1 - beta2) * mean**2
        direction = momentum / (np.sqrt(squares) + constants.adam_tau)
        return GlobalState(
            self.moved(before.vector, direction),
            momentum.astype(np.float32),
            {SQUARES: squares},
        )
