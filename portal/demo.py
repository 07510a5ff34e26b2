"""One whole run, from patients' grants to receipts: what ``bithive demo`` does.

The parts are those of production: agents with their own folders, the Flower apps, the engine, the
registry, the ledger. What makes it a demonstration is said where it is: the draw of the patients'
wishes, a careless site, a check that looks into every site's folder, and proof keys of a
single-party development setup.

A run is resumed by its home folder. Everything here may be repeated after a crash at any instant.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from consent.lanes import LanePolicy
from consent.registry import Registry
from fl_client import link
from fl_client.agent import Agent
from fl_client.app import app as client_app
from fl_client.lane import newest_in
from fl_client.resident import Identity, Resident
from fl_client.store import SiteStore
from fl_client.telemetry import Telemetry
from fl_server import live, standing
from fl_server.app import assemble, keep_freed_memory
from fl_server.inprocess import InProcessGrid
from fl_server.store import ServerStore
from fl_server.transport import GridTransport
from marketplace.settlement import Settlement
from models.recipes import Recipe
from portal.baselines import Baselines, Comparison, Examined, train_baselines
from portal.careless import CarelessAgent
from portal.display import Display
from portal.features import check_unchanged, step_for, with_step
from portal.granting import withdraw_due
from portal.home import Home, Settings
from portal.hospital import open_agent
from portal.jobs import decide_for_demonstration, keep_job
from portal.market import BUDGET, SERVER, Market
from portal.noise import with_noise
from portal.patients import Wishes, draw_wishes
from portal.personal import personal_auc
from portal.report import make_report, write_report
from portal.site_settings import FOR_SITES, PROVING_KEY, check_held, site_keys
from portal.site_setup import set_up_demonstration
from portal.study_founding import hand_out, recipe_of
from portal.world import Founding, found
from privacy.signatures import signing_key
from protocol.ids import PatientId, SiteId
from protocol.messages import RoundClosed
from protocol.progress import Progress, Step, silent
from protocol.terms import StudyTerms
from records.dataset import Loader, Patient, StudyData
from records.sources import open_source
from storage.files import write_whole
from zk.circuit import circuit
from zk.keys import VerificationKey, development_key
from zk.prover import Prover

PROCESSES: Final = 2
"""How many sites train at once, how many proofs are made at once, how many baselines train."""


@dataclass
class Run:
    """A run with everything opened: data, terms, parties."""

    home: Home
    settings: Settings
    display: Display
    data: StudyData
    loader: Loader
    recipe: Recipe
    wishes: Wishes
    terms: StudyTerms
    store: ServerStore
    registry: Registry
    market: Market
    proving_key: Path
    verification_key: VerificationKey
    curve: dict[int, float] = field(default_factory=dict)
    sums_exact: dict[int, bool] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    watch: Progress = silent
    processes: int = PROCESSES

    @property
    def seed_noise(self) -> int | None:
        """The seed of the noise, where the user asked for a reproducible demonstration."""
        return self.settings.seed if self.settings.seed_noise else None

    @property
    def careless(self) -> SiteId:
        """The site that ignores a withdrawal in one round."""
        return careless_site(self.data)

    def observe(self, step: Step) -> None:
        """Draw a step, and add its seconds to its stage."""
        if step.seconds:
            self.stages[step.stage] = self.stages.get(step.stage, 0.0) + step.seconds
        self.watch(step)


def run_demo(home: Home, settings: Settings, display: Display) -> dict[str, Any]:
    """Run, or go on with, the demonstration in ``home``; return its report.

    Raises:
        BitHiveError: Anything expected that went wrong, by name; run again to resume.
    """
    with home.lock():
        home.claim(settings)
        if settings.features and home.is_founded():
            check_unchanged(settings.features, home.server)
        if home.report.is_file():
            return dict(json.loads(home.report.read_text()))
        started = time.monotonic()
        with display.live():
            run = prepare(home, settings, display)
            if settings.engine in {"superlink", "supernode"}:
                from portal.superlink import run_on_superlink  # noqa: PLC0415  # starts servers only where asked

                run_on_superlink(run)
            else:
                run_in_process(run)
            for closed in closed_rounds(run):
                after_close(run, closed)
            baselines = compare(run)
        run.market.finish()
        personal = {one.site: personal_auc(run, examined(run), one.site) for one in run.terms.sites}
        seconds = time.monotonic() - started
        report = make_report(run, baselines, seconds=seconds, personal=personal)
        write_report(home, report)
        return report


def prepare(home: Home, settings: Settings, display: Display, *, hospitals: bool = True) -> Run:
    """Open the data and found the world, or find it founded.

    Args:
        home: The demonstration's.
        settings: What it is.
        display: Told of what takes time.
        hospitals: Set them up, too; not asked of a process that is the server's alone.
    """
    torch.set_num_threads(1)  # sites train beside each other, one thread each
    data, loader = open_source(
        settings.data,
        home=home.data,
        seed=settings.seed,
        sites=settings.sites,
        patients_per_site=settings.patients,
        progress=lambda done, total: display.tick("data", done, total, "reading records"),
    )
    display.finish("data")
    recipe = with_noise(
        recipe_of(data.source.modality, settings.algorithm),
        settings.mechanism,
        data.source.modality,
    )
    wishes = draw_wishes(
        data.sites, rounds=settings.rounds, careless=careless_site(data), seed=settings.seed
    )
    display.tick("proof keys", 0, 1, "making development keys, once per machine")
    proving_key, verification_key = development_key(circuit(settings.circuit), cache_folder())
    display.finish("proof keys")
    terms_file = home.server / "terms.json"
    if not home.is_founded():
        features = step_for(settings.features, data.input_shape) if settings.features else None
        if features is not None:
            display.say(
                f"the study brings code, {features.terms.bundle[:16]}: it gets "
                f"{features.terms.seconds} s for each patient, once; where a demonstration "
                "approves, it allows the code in every officer's name"
            )
        if settings.grants == LanePolicy.PROVEN:
            display.say("every patient enrols and proves her grant: 0.3 s of a core each")
        terms = found(
            home,
            Founding(
                settings,
                data,
                recipe,
                wishes,
                verification_key,
                datetime.now(UTC).date(),
                title=f"{data.source.task} ({data.source.title})",
                features=features,
            ),
            tell=lambda doing, done, total: display.tick("grants", done, total, doing),
        )
        display.finish("grants")
        Market(home.market, terms, clock).found()
        home.mark_founded()
    terms = StudyTerms.model_validate_json(terms_file.read_bytes())
    keep_job(home, terms, price=BUDGET, now=clock())
    if not (home.server / FOR_SITES / PROVING_KEY).is_file():
        hand_out(home.server, terms, verification_key, proving_key)
    if hospitals:
        set_up_demonstration(home, settings, data)
    return Run(
        home,
        settings,
        display,
        data,
        loader,
        recipe,
        wishes,
        terms,
        ServerStore(home.server / "server.db"),
        Registry(
            home.server / "registry.db",
            registry_id=terms.consent.registry,
            signing_key=signing_key(home.server / "registry.key"),
        ),
        Market(home.market, terms, clock),
        proving_key,
        VerificationKey.load(home.server / "verification_key.json"),
        watch=display.step,
    )


def run_in_process(run: Run) -> None:
    """Run the Flower apps on a grid inside this process."""
    decide_for_demonstration(run.home, run.terms)
    keep_freed_memory()
    with agents_in_process(run) as addresses:
        grid = InProcessGrid(
            client_app, [{"agent": address} for address in addresses], threads=run.processes
        )
        try:
            assemble(
                run.home.server,
                run.store,
                GridTransport(grid, poll_seconds=0.01),
                after_close=lambda closed: after_close(run, closed),
                progress=run.observe,
            ).run()
        finally:
            grid.close()


@contextmanager
def agents_in_process(run: Run) -> Iterator[list[str]]:
    """Open every site's agent here; yield their addresses."""
    names: list[str] = []
    residents: list[Resident] = []
    with Prover(
        circuit(run.settings.circuit), run.proving_key, run.verification_key, workers=run.processes
    ) as prover:
        prover.warm()  # the workers load the key while the agents open
        try:
            for site in sorted(run.data.sites):
                resident = site_resident(run, site, prover)
                resident.refresh()
                residents.append(resident)
                names.append(f"{run.home.path}/{site}")
                link.register(names[-1], resident.answer)
            yield [f"local:{name}" for name in names]
        finally:
            for name in names:
                link.forget(name)
            for resident in residents:
                resident.close()


def site_resident(run: Run, site: SiteId, prover: Prover) -> Resident:
    """Open the resident of one site of the demonstration: it serves what its officer approved."""
    folder = run.home.site(site)
    telemetry = Telemetry()

    def observe(step: Step) -> None:
        telemetry.step(step)
        run.observe(step)

    return Resident(
        Identity(site, site_keys(folder)),
        folder,
        make=lambda job: site_agent(run, site, prover, job.terms, observe),
        clock=clock,
        telemetry=telemetry,
    )


def site_agent(
    run: Run, site: SiteId, prover: Prover, terms: StudyTerms, progress: Progress
) -> Agent:
    """Open the agent of one site of the demonstration for a study's terms.

    Raises:
        StudyNotHeld: The study is of other data than the demonstration's, or proves otherwise.
    """
    check_held(terms, run.terms.consent)
    own = terms == run.terms
    return open_agent(
        run.home.site(site),
        site,
        terms,
        patients=by_id(run.data.sites[site]),
        loader=run.loader,
        prover=prover,
        seed=run.seed_noise if own else None,
        demonstration=own,
        keep_integers=True,
        progress=progress,
        newest=newest_in(run.registry, terms, site),
        kind=CarelessAgent if own and site == run.careless else Agent,
    )


def after_close(run: Run, closed: RoundClosed) -> None:
    """What happens between rounds: settle, check, judge, and let patients withdraw.

    Called again for the same round, it changes nothing.
    """
    started = time.thread_time()
    if closed.round in run.curve:
        return
    settlement = run.market.settle(closed, actor=SERVER)
    run.observe(Step("settle", closed.round, None, seconds=time.thread_time() - started))
    run.sums_exact[closed.round] = sum_is_exact(run, closed)
    after_settling(run, closed, settlement)


def after_settling(run: Run, closed: RoundClosed, settlement: Settlement) -> None:
    """Judge the model on the held-out patients, and let patients withdraw; again, do nothing.

    No hospital's folder is opened: the held-out records and the patients' papers lie beside.
    """
    if closed.round in run.curve:
        return
    started = time.thread_time()
    state = run.store.models.at(closed.round)
    training = run.terms.training
    run.curve[closed.round] = examined(run).auc_of(
        training.network, training.input_shape, state.vector
    )
    run.observe(Step("judge", closed.round, None, seconds=time.thread_time() - started))
    if closed.round not in standing.summary(run.store).metrics:
        numbers = {"auc": run.curve[closed.round]}
        run.store.events.append(live.RunEvent("metrics", closed.round, "scoring", numbers=numbers))
    withdrawn = withdraw_due(run.home, run.registry, run.wishes, closed.round + 1)
    run.display.say(
        f"round {closed.round}/{run.terms.rounds}: {len(closed.receipts)} updates, "
        f"AUC {run.curve[closed.round]:.3f}, paid {settlement.paid / 10**18:,.2f} BTT"
        + (f", consent withdrawn after it: {len(withdrawn)}" if withdrawn else "")
    )


def sum_is_exact(run: Run, closed: RoundClosed) -> bool:
    """Compare what the sites opened with the sum of what each one sent, integer by integer.

    Only a demonstration can: it looks into every site's own folder.
    """
    stored = run.store.round(closed.round)
    if stored is None or stored.integers is None:
        return not closed.receipts
    total = np.zeros_like(stored.integers)
    for receipt in closed.receipts:
        kept = SiteStore(run.home.site(receipt.site) / "site.db").integers(
            closed.study, closed.round
        )
        if kept is None:
            return False
        total += np.frombuffer(kept, "<i8")
    return bool((total == stored.integers).all())


def compare(run: Run) -> Baselines:
    """Train the baselines, or find them trained."""
    kept = run.home.path / "baselines.json"
    if kept.is_file():
        found_ = json.loads(kept.read_text())
        return Baselines(found_["alone"], found_["pooled"])
    consenting = {
        site: with_step(run.loader, run.home.server, run.terms, run.home.data).load(
            [patient for patient in patients if run.wishes.decisions[site][patient.id] == "grants"]
        )
        for site, patients in run.data.sites.items()
    }
    total = len(consenting) + 1
    done: list[str] = []

    def on_done(name: str) -> None:
        done.append(name)
        run.display.tick("comparison", len(done), total, f"trained {name} for comparison")

    run.display.tick("comparison", 0, total, "training each site alone, and pooled")
    baselines = train_baselines(
        Comparison(run.terms, run.store.models.at(0).vector, examined(run), run.seed_noise),
        consenting,
        pooled_epochs=run.recipe.pooled_epochs,
        processes=run.processes,
        on_done=on_done,
    )
    run.display.finish("comparison")
    write_whole(kept, json.dumps({"alone": baselines.alone, "pooled": baselines.pooled}).encode())
    return baselines


def closed_rounds(run: Run) -> list[RoundClosed]:
    """Return every closed round, in order."""
    rounds = [run.store.round(number) for number in range(1, run.store.rounds_closed() + 1)]
    return [stored.closed for stored in rounds if stored is not None and stored.closed is not None]


def examined(run: Run) -> Examined:
    """Return the held-out patients, read once."""
    key = str(run.home.path)
    if key not in _examined:
        loader = with_step(run.loader, run.home.server, run.terms, run.home.data)
        arrays = loader.load(run.data.test)
        _examined[key] = Examined(arrays, np.array([one.label for one in run.data.test]))
    return _examined[key]


_examined: dict[str, Examined] = {}


def careless_site(data: StudyData) -> SiteId:
    """Return the site that plays the careless one: the third by name."""
    return sorted(data.sites)[2]


def by_id(patients: tuple[Patient, ...]) -> dict[PatientId, Patient]:
    """Index patients by the hospital's own number."""
    return {patient.id: patient for patient in patients}


def clock() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


def cache_folder() -> Path:
    """Return where proof keys are kept between runs: ``$XDG_CACHE_HOME/bithive``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bithive"
