"""Start one hospital's agent from its folder: the same way in the demonstration and on its own.

The agent reads its hospital's folder and the approved terms, and never another site's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from consent.openings import OpeningStore
from consent.registry import Registry
from fl_client.agent import Agent, SiteSettings
from fl_client.certifier import Certifier
from fl_client.features import with_features
from fl_client.lane import LaneState, Newest, newest_in
from fl_client.store import SiteStore
from models.networks import build
from portal.site_settings import SiteOwn, check_held, site_keys
from privacy.budget import PrivacyBudget
from privacy.cohorts import EVERYONE
from privacy.parameters import parameter_set
from protocol.canonical import digest
from protocol.ids import PatientId, SiteId
from protocol.progress import Progress, silent
from protocol.terms import StudyTerms
from records.dataset import Loader, Patient
from records.own import OwnRecords
from zk.prover import Prover


def agent_of(
    folder: Path,
    own: SiteOwn,
    terms: StudyTerms,
    records: OwnRecords,
    *,
    prover: Prover,
    progress: Progress = silent,
) -> Agent:
    """Return the agent of a hospital for a study that its officer approved.

    Args:
        folder: The hospital's own.
        own: Its settings.
        terms: The study's.
        records: What it holds.
        prover: Proves consent.
        progress: Told of every step.

    Raises:
        StudyNotHeld: The study is of other data, another registry, or proves otherwise.
        DatasetUnknown: As ``open_agent``.
    """
    check_held(terms, own)
    return open_agent(
        folder,
        own.site,
        terms,
        patients=records.patients,
        loader=records.loader,
        prover=prover,
        researcher=own.researcher,
        budget_cohort=own.budget_cohort,
        progress=progress,
        newest=newest_at(own, terms),
    )


def newest_at(own: SiteOwn, terms: StudyTerms) -> Newest | None:
    """Return how the registry is asked, where this machine has its database; else None.

    It is opened when it is first asked and read only, so a registry that is not there yet, or no
    more, keeps no agent from starting.
    """
    if own.registry_reader is None:
        return None
    database, opened = Path(own.registry_reader), list[Newest]()

    def newest() -> LaneState | None:
        if not opened:
            registry = Registry.reader(database, public_key=own.registry_key)
            opened.append(newest_in(registry, terms, own.site))
        return opened[0]()

    return newest


def open_agent(
    folder: Path,
    site: SiteId,
    terms: StudyTerms,
    *,
    patients: Mapping[PatientId, Patient],
    loader: Loader,
    prover: Prover,
    seed: int | None = None,
    demonstration: bool = False,
    keep_integers: bool = False,
    researcher: str = "",
    budget_cohort: str = EVERYONE,
    progress: Progress = silent,
    newest: Newest | None = None,
    kind: type[Agent] = Agent,
) -> Agent:
    """Return the agent of ``site``.

    Args:
        folder: The hospital's own folder, with its keys and openings.
        site: Which hospital this is.
        terms: The study's terms as its officer approved them.
        patients: The records it holds, by its own patient number.
        loader: Reads them; what it gives goes through the study's code where it brings any.
        prover: Proves consent; several agents of one machine may share one.
        seed: Makes a demonstration reproducible; None wherever noise must hide something.
        demonstration: Says that this is one, where a seed may be given.
        keep_integers: Keep plain integers, so that a demonstration can check the opened sum.
        researcher: For whom epsilon is spent, as the hospital's officer knows them.
        budget_cohort: On whom: a cohort that the data steward fixed; by default on all patients.
        progress: Told of every step.
        newest: Asks the registry how the lane stands, where this hospital can reach it.
        kind: The agent's class; a demonstration of cheating gives its own.

    Raises:
        CodeMissing: The study brings code, and it has not come.
        DatasetUnknown: The data steward has set no cap of epsilon for the study's data set; no
            study sets it for her.
        NoiseSeeded: There is a seed, and this is no demonstration.
    """
    training = terms.training
    store = SiteStore(folder / "site.db")
    return kind(
        settings=SiteSettings(
            site=site,
            home=folder,
            approved=digest(terms),
            seed=seed,
            demonstration=demonstration,
            keep_integers=keep_integers,
            researcher=researcher,
            budget_cohort=budget_cohort,
        ),
        terms=terms,
        keys=site_keys(folder),
        patients=patients,
        loader=with_features(loader, folder, site, terms),
        module=build(training.network, training.input_shape, 0),
        parameters=parameter_set(terms.encryption),
        openings=OpeningStore(folder / "openings.db"),
        budget=PrivacyBudget(
            folder / "budget.db",
            dataset=terms.consent.dataset,
            delta=terms.privacy.delta,
            accountant=terms.privacy.accountant,
        ),
        certifier=Certifier(terms, store, prover),
        store=store,
        progress=progress,
        newest=newest,
    )
