"""Ditto: beside the global model each site trains one of its own, held near the global one.

The global model is FedAvg's, untouched. Beside it site i minimises f_i(v) + lambda/2 |v - x|^2 over
its own patients for a model v that it keeps from round to round [1, Algorithm 1]: lambda = 0 is
training alone, a large lambda the global model, and between them each site gains what suits it.

*Privacy.* v is trained on the hospital's own records without noise, and never leaves: it has no
part in any update, so the study's epsilon says nothing about it and does not grow by it. It may be
used where the records themselves may be used. Whoever wants to show it outside, or predictions
of it to people who may not see the records, trains it by DP-SGD (``privacy.dpsgd.train_private``
takes the same correction) and accounts for that as a study of its own.

*Withdrawal.* Once a patient whose records shaped v no longer takes part, v starts anew from the
global model at the site's next round: nothing of v but the global model, in which noise hides her,
is gone on with (``keeps_what_records_say``). After the last round no such round comes; then the
hospital has to put v away with the records.

References:
    [1] Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021.
        arXiv:2012.04221
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.algorithms.interface import (
    Algorithm,
    Beginning,
    Learn,
    StateMismatch,
    Vector,
    Wide,
)


class Ditto(Algorithm):
    """FedAvg, and a personal model pulled towards it with strength ``proximal``."""

    @property
    def keeps_what_records_say(self) -> bool:
        """The personal model is trained without noise."""
        return True

    def end(self, beginning: Beginning, update: Vector, entered: Wide, learn: Learn) -> Wide | None:
        """Return the personal model after this round's steps."""
        del update, entered
        own = self.personal(beginning.sent, beginning.kept)
        strength, away = self.constants.proximal, own - beginning.sent

        def pull(moved: Any) -> Any:
            return strength * (moved + moved.new_tensor(away))

        return learn(own, pull).astype(np.float64)

    def personal(self, sent: Vector, kept: Wide | None) -> Vector:
        """Return the personal model, which starts as the global one."""
        if kept is None:
            return sent
        if kept.shape != sent.shape:
            raise StateMismatch("the personal model this site kept", sent.size, kept.size)
        return kept.astype(np.float32)
