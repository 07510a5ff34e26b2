"""The model a run trained: evaluated on its held-out patients, described, and given away.

The weights are those of the last closed round in the server's store, the epsilon is the largest in
the hospitals' own ledgers, and the figures are computed here and now, by the same loader and the
same held-out patients as the run's report.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch

from fl_server.store import ServerStore
from models.bundle import ExportTaken, write_bundle, write_plain
from models.bundle_reader import read_bundle
from models.card import TrainingData, model_card
from models.evaluation import evaluate
from models.export import write_onnx
from models.networks import build, load_vector
from portal.books import NoRunHere
from portal.features import features_note, with_step
from portal.home import Home
from privacy.budget import PrivacyBudget
from protocol.errors import ConfigurationError
from records.sources import open_source

if TYPE_CHECKING:
    from torch import nn

    from privacy.statement import PrivacyStatement
    from protocol.terms import StudyTerms
    from records.dataset import Loader, StudyData

Format = Literal["onnx", "bundle"]
HELD_OUT: Final = "held out"
LINK: Final = "sigmoid gives the probability of the positive class"
MECHANISMS: Final = {
    "per-site": "DP-SGD, Poisson sampling, noise added at every site",
    "summed": "DP-SGD, Poisson sampling, noise shared by the sites and complete in their sum",
    "site-level": "each site's whole update clipped and noised",
}
SEEDED: Final = (
    "The noise of this run was seeded for a demonstration: it is reproducible and hides nothing."
)


class NotTrainedYet(ConfigurationError):
    """The run has closed no round, so there is no model."""

    code = "model-not-trained"

    def __init__(self, home: Path) -> None:
        self.home = home
        super().__init__(f"the run in {home} has closed no round; run `bithive demo` to go on")


@dataclass(frozen=True)
class Trained:
    """A run's model after ``rounds`` closed rounds, and its card."""

    module: nn.Module
    terms: StudyTerms
    rounds: int
    card: dict[str, Any]


def trained(home: Home, *, seed: int = 0) -> Trained:
    """Build the model of the run, evaluate it on held-out patients and write its card.

    Args:
        home: The run's folder; nothing in it is changed.
        seed: Of the bootstrap intervals.

    Raises:
        NoRunHere: There is none.
        NotTrainedYet: No round is closed.
        RecordError: The run's records are no longer there, or changed.
    """
    settings = home.settings()
    if settings is None or not home.is_founded():
        raise NoRunHere(home.path)
    store = ServerStore(home.server / "server.db")
    terms, rounds = store.terms(), store.rounds_closed()
    if terms is None or rounds == 0:
        raise NotTrainedYet(home.path)
    torch.set_num_threads(1)
    training = terms.training
    module = build(training.network, training.input_shape, 0)
    load_vector(module, store.models.at(rounds).vector)
    data, loader = open_source(
        settings["data"],
        home=home.data,
        seed=settings["seed"],
        sites=settings["sites"],
        patients_per_site=settings["patients"],
    )
    source = data.source
    described = TrainingData(
        title=source.title,
        synthetic=source.synthetic,
        unit=source.unit,
        sites=len(terms.sites),
        positive=source.positive,
        negative=source.negative,
        licence=source.licence,
    )
    seeded = bool(settings["seed_noise"])
    card = model_card(
        module,
        name=terms.study,
        network=training.network,
        input_shape=training.input_shape,
        training_data=described,
        privacy=None if seeded else _spent(home, terms, source.unit),
        mechanism=MECHANISMS[terms.privacy.mechanism],
        rounds=rounds,
        evaluation=evaluate(
            module, _held_out(data, with_step(loader, home.server, terms, home.data)), seed=seed
        ),
        features=features_note(training.features),
        limits=[SEEDED] if seeded else [],
    )
    return Trained(module, terms, rounds, card)


def export_run(home: Home, to: Path, form: Format) -> dict[str, Any]:
    """Write the run's model to ``to`` and return what was written, in plain values.

    Raises:
        ExportTaken: Something is there already.
        NoRunHere, NotTrainedYet, RecordError, StorageError: As for ``trained``.
    """
    if to.exists():  # before a minute's evaluation
        raise ExportTaken(to)
    found = trained(home)
    training = found.terms.training
    if form == "onnx":
        write_onnx(found.module, to, input_shape=training.input_shape, card=found.card, link=LINK)
    else:
        write_bundle(
            found.module,
            to,
            network=training.network,
            input_shape=training.input_shape,
            card=found.card,
        )
    return {
        "path": str(to),
        "format": form,
        "study": found.terms.study,
        "rounds": found.rounds,
        "network": training.network,
        "parameters": training.parameters,
        "auc": found.card["evaluation"]["overall"]["auc"],
        "auc_interval": found.card["evaluation"]["overall"]["auc_interval"],
        "privacy": found.card["privacy"].get("statement", found.card["privacy"]["note"]),
    }


def import_bundle(path: Path, to: Path, *, network_only: bool) -> dict[str, Any]:
    """Read a bundle without running it, and write its network and tensors as a plain one.

    What is written holds nothing of the original file: only checked arguments and numbers.

    Raises:
        ExportTaken: Something is at ``to`` already.
        BundleRefused, DesignRefused: The bundle is not plain.
    """
    if to.exists():
        raise ExportTaken(to)
    bundle = read_bundle(path, network_only=network_only)
    write_plain(bundle.module, to, bundle.design)
    return {**bundle.summary(), "path": str(to)}


def _spent(home: Home, terms: StudyTerms, unit: str) -> PrivacyStatement:
    """Return what the site that spent most has spent, in the unit the data have."""
    statements = [
        PrivacyBudget(
            home.site(one.site) / "budget.db",
            dataset=terms.consent.dataset,
            epsilon_limit=terms.privacy.epsilon,
            delta=terms.privacy.delta,
            accountant=terms.privacy.accountant,
        ).statement()
        for one in terms.sites
    ]
    most = max(statements, key=lambda one: one.epsilon)
    return replace(most, unit=unit) if most.unit == "patient" else most


def _held_out(data: StudyData, loader: Loader) -> dict[str, Any]:
    """Return the held-out records of each natural site, or of all patients together."""
    by_site = data.test_by_site()
    groups = dict(by_site) if by_site else {HELD_OUT: data.test}
    return {str(site): loader.load(patients) for site, patients in groups.items()}
