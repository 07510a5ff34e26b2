"""SCAFFOLD: each site subtracts its own direction and adds the federation's, from one upload.

Site i keeps a control c_i, an estimate of its own mean gradient; the server has c, the estimate for
all. Each of a site's K steps goes along g + c - c_i instead of g [1, Algorithm 1]. After a round
that moved the weights from x to y_i, option II of the paper sets::

    c_i' = c_i - c + (x - y_i) / (K lr)                                                       (1)

The paper sends the change of c_i up as a second vector. That is not needed. The change is an affine
function of the update the site sends anyway, so the server gets the sum of the changes from the
opened sum of updates. With u_i = (n_i / R)(y_i - x), the scaled update, and a_i = (n_i / R) c_i,
the site's control scaled in the same way, (1) times n_i / R is::

    a_i' = a_i - (n_i / R) c - u_i / (K lr)                                                   (2)

and over the sites S of the round, with U = sum of u_i and W = sum of n_i, both opened::

    A' = A - (W / R) c - U / (K lr)      where A = sum of a_i over all sites of the study     (3)
    c' = A' R / M                        where M stands for the patients of all N sites       (4)

So there is no second upload, no second vector to clip and noise, and no further privacy cost: (2)
and (3) are post-processing of a noised update and of an opened sum.

*Weighting.* A site keeps a_i and derives c_i = a_i R / n_i from the patients it has in this round,
so A stays the exact sum of what the sites hold also when patients withdraw between rounds.
*Partial participation.* A site outside S keeps its a_i, and (3) leaves it in A. M is N W / |S|, the
patients all sites have if those absent are as large as those present; then (4) is
c' = (1 - |S|/N) c + (|S|/N) (-(mean update) / (K lr)) from equal weights: line 17 of the paper's
Algorithm 1. With everybody present c' = -(mean update) / (K lr), and the corrections of the next
round cancel in its weighted mean: sum of (n_i / R)(c - c_i) = 0.
*A lost upload.* A site goes on from its new a_i only if its update was in the opened sum, which it
knows because it helped to open it.

*Rounding.* u_i in (2) is the update as it was rounded for the sum, so (3) holds exactly.

*Noise.* c_i carries the noise of the round it was made in. With v the variance of one round's noise
in a coordinate of u_i, which is the same at all sites, (2) makes the variance of (n_i / R) K lr c_i
equal to v too, and that of (n_i / R) K lr c equal to |S| p_i^2 v with p_i = n_i / W. As c holds c_i
with weight p_i, an update has in all, from the second round on, the variance::

    v (1 + (1 - p_i)^2 + (|S| - 1) p_i^2)

which is at most 2 v while no site has more than twice its share. The quantisation scale uses this.
In the opened sum all but the first term cancels.

References:
    [1] Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning,
        ICML 2020. arXiv:1910.06378
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np

from models.algorithms.interface import (
    Algorithm,
    Beginning,
    GlobalState,
    Learn,
    StateMismatch,
    Vector,
    Wide,
)

CONTROLS: Final = "controls"
"""The name of A among what is carried: the sum of the sites' scaled controls."""
CONTROL: Final = "control"
"""The name of c: what is sent."""


class Scaffold(Algorithm):
    """FedAvg with control variates. The server sends ``(2 * parameters,)``: x, then c."""

    @property
    def keeps_what_entered(self) -> bool:
        """The server's A follows only updates that it saw in a sum."""
        return True

    def sent_size(self, parameters: int) -> int:
        """Return the size of model and control."""
        return 2 * parameters

    def begin(self, sent: Vector, kept: Wide | None, patients: int) -> Beginning:
        """Start at x, with c - c_i as correction; a site that kept nothing has c_i = 0."""
        assert patients >= 1
        model, control = _halves(sent)
        own = self._kept(sent, kept) * (self.constants.reference_patients / patients)
        difference = (control - own).astype(np.float32)

        def correct(moved: Any) -> Any:
            return moved.new_tensor(difference)

        return Beginning(model, correct, sent, kept, patients)

    def end(self, beginning: Beginning, update: Vector, entered: Wide, learn: Learn) -> Wide | None:
        """Return a_i' by (2)."""
        del update, learn
        constants = self.constants
        _, control = _halves(beginning.sent)
        weight = beginning.patients / constants.reference_patients
        way = constants.steps * constants.learning_rate
        return self._kept(beginning.sent, beginning.kept) - weight * control - entered / way

    def personal(self, sent: Vector, kept: Wide | None) -> Vector:
        """Return x: the controls are for training alone."""
        del kept
        return _halves(sent)[0]

    def first(self, vector: Vector) -> GlobalState:
        """Return the state before the first round: no controls."""
        nothing = np.zeros(vector.shape, np.float64)
        carried = {CONTROLS: nothing, CONTROL: nothing}
        return GlobalState(vector, np.zeros_like(vector), carried)

    def sent(self, state: GlobalState) -> Vector:
        """Return x and c."""
        return np.concatenate([state.vector, state.carried[CONTROL].astype(np.float32)])

    def step(self, before: GlobalState, total: Wide, *, weight: int, sites: int) -> GlobalState:
        """Step along the mean, and follow the sites' controls by (3) and (4)."""
        constants = self.constants
        after = super().step(before, total, weight=weight, sites=sites)
        sent = before.carried[CONTROL].astype(np.float32).astype(np.float64)
        way = constants.steps * constants.learning_rate
        scale = weight / constants.reference_patients
        controls = before.carried[CONTROLS] - scale * sent - total / way
        everyone = scale * constants.sites / sites
        return replace(after, carried={CONTROLS: controls, CONTROL: controls / everyone})

    def spread_growth(self, largest_share: float) -> float:
        """Return the root of the last formula of the module's head, at the worst site."""
        others = self.constants.sites - 1
        largest = (1 - largest_share) ** 2 + others * largest_share**2
        return math.sqrt(1 + max(1.0, largest))

    def _kept(self, sent: Vector, kept: Wide | None) -> Wide:
        size = sent.size // 2
        if kept is None:
            return np.zeros(size, np.float64)
        if kept.shape != (size,):
            raise StateMismatch("the control this site kept", size, kept.size)
        return kept


def _halves(sent: Vector) -> tuple[Vector, Wide]:
    """Return x, and c in double precision."""
    assert sent.size % 2 == 0
    half = sent.size // 2
    return sent[:half], sent[half:].astype(np.float64)
