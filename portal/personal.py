"""How well a site's own model does, where the study's algorithm gives it one (FedBN, Ditto).

Such a model never leaves its site. The demonstration looks into the site's folder, as no one else
can, to show what the site gains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fl_client.store import SiteStore
from models.algorithms.catalogue import algorithm_of
from models.algorithms.interface import Constants
from models.networks import build
from protocol.ids import SiteId

if TYPE_CHECKING:
    from portal.baselines import Examined
    from portal.demo import Run

PERSONAL: Final = ("fedbn", "ditto")


def personal_auc(run: Run, judge: Examined, site: SiteId) -> float | None:
    """Return the held-out AUC of a site's own model after the last round, None without one."""
    training = run.terms.training
    if training.algorithm not in PERSONAL:
        return None
    kept = SiteStore(run.home.site(site) / "site.db").personal(
        run.terms.study, before=run.terms.rounds + 1
    )
    if not kept:
        return None
    module = build(training.network, training.input_shape, 0)
    constants = Constants.of(training, steps=run.terms.privacy.steps, sites=len(run.terms.sites))
    own = algorithm_of(constants, module).personal(
        run.store.models.at(run.terms.rounds).sent, np.frombuffer(kept[0][1], "<f8")
    )
    return round(judge.auc_of(training.network, training.input_shape, own), 6)
