"""The hospital's agent: it holds data, keys and budget, and answers frames.

It obeys nobody. A request is read as hostile, checked against the study terms that this hospital
approved, and answered or refused with a code and a sentence::

    join      ─▶ who we are, signed over the server's nonce
    call      ─▶ fresh secrets for the round's masks                      (fl_client/masking.py)
    ...-key   ─▶ make, take or recover a key of the group               (fl_client/group_keys.py)
    prepare   ─▶ check news of the lane, prove ahead of rounds        (fl_client/preparation.py)
    train     ─▶ select, reserve, train, mask, seal, prove, sign           (fl_client/egress.py)
    endorse, unmask, share, open ─▶ the one sum of the round            (fl_client/summation.py)

What holds, each a test in tests/fl_client/test_agent.py:

1. A plan the server did not sign, of other terms, or for a round answered otherwise, is refused.
2. The same plan asked twice gets the same bytes twice, across restarts.
3. Nothing is read without a consent selection, and nothing leaves without reserved epsilon, nor
   twice with it.
4. A plan goes on from the manifest of the round before, whose sum this hospital opened.
5. Who withdrew by anything this hospital was told or could ask is left out before a file is opened.
6. After the study's last day of consent, by the hospital's own calendar, nothing is read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import torch

from consent.openings import OpeningStore
from fl_client.certifier import Certifier
from fl_client.cohort import Cohort, gather
from fl_client.contribution import Accounts, contribution
from fl_client.coverage import CohortTooSmall, Selection, left_out, select, select_checked
from fl_client.egress import Egress, Outgoing
from fl_client.group_keys import GroupKeys
from fl_client.jobs import CodeNotAllowed, JobNotApproved
from fl_client.lane import LaneMemory, Newest
from fl_client.logs import event
from fl_client.masking import Masking
from fl_client.plans import PlanRefused, check_days, check_history, check_plan, model_of
from fl_client.preparation import Preparation
from fl_client.refusals import refusal
from fl_client.sandbox import CodeChanged, SandboxUnavailable
from fl_client.spending import Spending
from fl_client.store import SiteStore
from fl_client.summation import Summation
from privacy.bfv import self_test
from privacy.budget import PrivacyBudget
from privacy.cohorts import EVERYONE
from privacy.keys import SiteKeys
from privacy.mechanism import check_mechanism
from privacy.opening import check_way
from privacy.packing import ValuesTooLarge
from privacy.parameters import ParameterSet
from privacy.randomness import RandomStream
from protocol.canonical import body, digest, read
from protocol.errors import BitHiveError, PrivacyError, RecordError
from protocol.frames import Frame, MalformedFrame, decode, encode
from protocol.ids import PatientId, SiteId
from protocol.messages import ChunkState, Join, RoundPlan, TrainRequest
from protocol.progress import Progress, Step, silent
from protocol.terms import StudyTerms
from protocol.units import day_number
from records.dataset import Loader, Patient

log = logging.getLogger("bithive.agent")
CODE_NOT_RUN: Final = (JobNotApproved, CodeNotAllowed, CodeChanged, SandboxUnavailable)
"""Why the code that a study brings may not be run, before it has seen all the records."""
COHORT_MIN: Final = 5
"""Fewest patients a site trains on; below it, statistics are about persons."""


class NoiseSeeded(PrivacyError):
    """An agent was to draw noise from a seed, outside a demonstration."""

    code = "noise-seeded"

    def __init__(self, study: str) -> None:
        self.study = study
        super().__init__(
            f"the noise of study {study} was to be drawn from a seed, so whoever knows it takes "
            "the noise away; take the seed out of this hospital's settings, only a demonstration "
            "has one"
        )


@dataclass(frozen=True)
class SiteSettings:
    """What a hospital decides for itself.

    ``approved`` is the digest of the study terms that its officer approved; ``seed`` makes a
    demonstration reproducible and is refused anywhere else, since noise that can be drawn
    again hides nothing; ``keep_integers`` lets a demonstration check the opened sum. A round that
    meets a withdrawal waits ``reprove_seconds`` for the proofs that this takes, before it trains,
    and goes on without the patients of chunks whose proofs are not there then. Epsilon is spent on
    ``budget_cohort`` for ``researcher``: by default all patients, and who holds the server's key.
    """

    site: SiteId
    home: Path
    approved: str
    seed: int | None = None
    demonstration: bool = False
    keep_integers: bool = False
    cohort_min: int = COHORT_MIN
    researcher: str = ""
    budget_cohort: str = EVERYONE
    reprove_seconds: float = 120.0


@dataclass
class Agent:
    """One hospital's agent for one study. ``answer`` is its only door.

    ``newest`` asks the registry how the lane stands, where this hospital can reach it; ``today``
    is the day by the hospital's own calendar, as ``protocol.units.day_number`` counts.
    """

    settings: SiteSettings
    terms: StudyTerms
    keys: SiteKeys
    patients: Mapping[PatientId, Patient]
    loader: Loader
    module: torch.nn.Module
    parameters: ParameterSet
    openings: OpeningStore
    budget: PrivacyBudget
    certifier: Certifier
    store: SiteStore
    progress: Progress = silent
    newest: Newest | None = None
    today: Callable[[], int] = lambda: day_number(datetime.now(UTC).date())

    def __post_init__(self) -> None:
        if self.settings.seed is not None and not self.settings.demonstration:
            raise NoiseSeeded(self.terms.study)
        self_test(self.parameters)
        if digest(self.terms) != self.settings.approved:
            raise PlanRefused("its terms are not those that were approved")
        check_way(self.parameters, self.terms.opening)
        check_mechanism(self.terms, self.parameters)
        self._spending = Spending(
            self.budget,
            self.terms,
            self.store,
            cohort=self.settings.budget_cohort,
            researcher=self.settings.researcher,
        )
        self._spending.check_ledger()
        self._lock = threading.Lock()
        self._lane = LaneMemory(self.terms, self.store, self.newest)
        self._preparation = Preparation(
            self.settings.approved, self._lane, self._choose_ahead, self.certifier
        )
        self._group = GroupKeys(
            self.settings.site, self.terms, self.keys, self.store, self.parameters
        )
        self._masking = Masking(
            self.settings.site, self.terms, self.keys, self.store, self.parameters
        )
        self._summation = Summation(
            self.settings.site,
            self.terms,
            self.keys,
            self.store,
            self.parameters,
            self._group,
            self.progress,
        )
        self._egress = Egress(
            self.terms,
            self.settings.site,
            self.module,
            self.loader,
            self.parameters,
            self.progress,
        )

    def answer(self, frame: bytes) -> bytes:
        """Answer one frame; a refusal is an answer too, and says why."""
        doors: dict[str, Callable[[Frame], bytes]] = {
            "join": self._join,
            "call": self._masking.call,
            "deal-key": self._group.deal,
            "take-key": self._group.take,
            "give-share": self._group.give_share,
            "recover-key": self._group.recover,
            "commit-key": self._group.commit,
            "part-key": self._group.part,
            "join-key": self._group.join,
            "prepare": self._preparation.answer,
            "train": self._train,
            "endorse": self._summation.endorse,
            "unmask": self._summation.unmask,
            "share": self._summation.share,
            "open": self._summation.open,
        }
        try:
            request = decode(frame)
            door = doors.get(request.kind)
            if door is None:
                raise MalformedFrame(f"there is no {request.kind!r}")
            # News must come in while a round is trained, and a server that was begun anew finds us.
            if request.kind in {"prepare", "join"}:
                return door(request)
            with self._lock:
                return door(request)
        except BitHiveError as error:
            event(log, "refused", logging.WARNING, study=self.terms.study, code=error.code)
            return refusal(error)

    def close(self) -> None:
        """Stop what works behind the door; close the prover after it."""
        self._preparation.close()

    # Who we are

    def _join(self, request: Frame) -> bytes:
        self._check_terms(request)
        held = self.store.keys.held(self.terms.study)
        join = read(
            Join,
            {
                "site": self.settings.site,
                "terms": self.settings.approved,
                "nonce": request.body.get("nonce"),
                "key_id": "" if held is None else held.key_id,
            },
        )
        signature = self.keys.sign(join.signed_bytes())
        return encode("joined", body(join.model_copy(update={"signature": signature})))

    # Train

    def _train(self, request: Frame) -> bytes:
        asked = read(TrainRequest, request.body)
        plan = asked.plan
        check_plan(plan, self.terms, self.settings.approved)
        plan_digest = digest(plan)
        earlier = self.store.answer(plan.study, plan.round, plan_digest)
        if earlier is not None:
            self._spending.commit(plan)
            return earlier
        check_days(self.terms, self.today())
        size = self._egress.algorithm.sent_size(self.terms.training.parameters)
        model = model_of(request.blobs.get("model", b""), plan, size)
        check_history(plan, asked.manifest, self.terms, self.store)
        self._masking.begin(plan, request.blobs.get("shares", b""))
        cohort = self._cohort(plan, asked.chunks)
        patients = cohort.patients
        try:
            outgoing, personal = self._update(plan, model, patients)
        except (RecordError, ValuesTooLarge, *CODE_NOT_RUN):
            # Records that could not be read were not trained on, and nothing left.
            self._spending.release(plan)
            raise
        started = time.thread_time()
        certificates = self.certifier.finish(cohort.certification)
        seconds = time.thread_time() - started
        note = f"{cohort.ahead} of {len(certificates)} certificates were made ahead"
        self.progress(Step("prove", plan.round, self.settings.site, seconds=seconds, note=note))

        spent = self._spending.of_study()
        accounts = Accounts(
            plan, self.terms, self.settings.site, spent, len(patients), cohort.left_out
        )
        reply = contribution(accounts, outgoing, certificates, self.keys)
        kept = outgoing.integers.astype("<i8").tobytes() if self.settings.keep_integers else None
        self.store.keep_answer(
            plan.study,
            plan.round,
            plan_digest,
            reply,
            kept,
            personal=personal,
            members=[patient.id for patient in patients],
        )
        self._spending.commit(plan)
        return reply

    def _cohort(self, plan: RoundPlan, chunks: tuple[ChunkState, ...]) -> Cohort:
        """Gather the round's patients; say how many withdrew after the plan, and no names.

        Raises:
            CohortTooSmall: So many withdrew, or were left out, while it gathered. What was reserved
                by then is given back.
        """
        try:
            cohort = gather(
                lambda: self.choose(plan, chunks),
                lambda chosen: self._spending.reserve(plan, chosen),
                plan,
                chunks,
                lane=self._lane,
                certifier=self.certifier,
                seconds=self.settings.reprove_seconds,
            )
            self._check_size(cohort.selections)
        except CohortTooSmall:
            self._spending.give_back(plan)
            raise
        gone = self._lane.gone(chunks)
        withdrew = left_out(self.terms, chunks, self.openings, self.patients, gone=gone)
        cohort = replace(cohort, left_out=cohort.left_out + withdrew)
        if cohort.left_out:
            note = f"{cohort.left_out} patients withdrew since the plan or were left out with them"
            event(log, "left-out", logging.WARNING, study=plan.study, round=plan.round)
            self.progress(Step("leave-out", plan.round, self.settings.site, note=note))
        return cohort

    def choose(self, plan: RoundPlan, chunks: tuple[ChunkState, ...]) -> list[Selection]:
        """Choose this round's patients from what their consent allows.

        Raises:
            CohortTooSmall: Fewer than the site's minimum.
            ConsentError: The lane or epoch is not what the registry signed.
        """
        selections = select(
            self.terms,
            self.settings.site,
            plan,
            chunks,
            openings=self.openings,
            patients=self.patients,
            gone=self._lane.gone(chunks),
        )
        self._check_size(selections)
        return selections

    def _check_size(self, selections: Sequence[Selection]) -> None:
        found = sum(len(selection.patients) for selection in selections)
        if found < self.settings.cohort_min:
            raise CohortTooSmall(found, self.settings.cohort_min)

    def _choose_ahead(self, chunks: tuple[ChunkState, ...]) -> list[Selection]:
        """Choose from checked chunks what a round would choose from them."""
        return select_checked(
            self.terms,
            self.settings.site,
            chunks,
            openings=self.openings,
            patients=self.patients,
            gone=self._lane.gone(chunks),
        )

    def _update(
        self, plan: RoundPlan, model: np.ndarray, patients: list[Patient]
    ) -> tuple[Outgoing, bytes | None]:
        """Train on the chosen patients and seal the update; say what this site keeps."""
        stream = self._stream(plan)
        kept = self._kept(plan, patients)
        share = self._masking.noise_share(plan)
        trained = self._egress.train(
            plan, model, patients, stream.child("train"), kept, share=share
        )
        outgoing = self._egress.seal(
            plan,
            trained.update,
            len(patients),
            cipher=self._group.cipher(plan.key_id),
            pad=self._masking.pad(plan),
            stream=stream.child("round"),
        )
        personal = self._egress.keep(plan, trained, outgoing, stream.child("personal"))
        return outgoing, None if personal is None else personal.astype("<f8").tobytes()

    def _kept(self, plan: RoundPlan, patients: Sequence[Patient]) -> np.ndarray | None:
        """Return what the algorithm kept in this site's last round that serves it.

        What records shaped without noise is forgotten as soon as one of those patients does not
        take part any more: it starts anew without her.
        """
        present = [patient.id for patient in patients]
        for number, blob in self.store.personal(plan.study, before=plan.round):
            opened = self.store.endorsed(plan.study, number)
            in_sum = opened is not None and opened[1] is not None
            if in_sum or not self._egress.algorithm.keeps_what_entered:
                shaped = self._egress.algorithm.keeps_what_records_say
                if shaped and not self.store.personal_is_of(plan.study, number, present):
                    self.store.forget_personal(plan.study, before=plan.round)
                    event(log, "personal-begun-anew", study=plan.study, round=plan.round)
                    return None
                self.store.forget_personal(plan.study, before=number)
                return np.frombuffer(blob, "<f8").astype(np.float64)
        return None

    def _stream(self, plan: RoundPlan) -> RandomStream:
        if self.settings.seed is None:
            return RandomStream.from_system()
        return RandomStream.from_seed(
            self.settings.seed, self.terms.study, self.settings.site, str(plan.round)
        )

    # Checks

    def _check_terms(self, request: Frame) -> None:
        if request.body.get("terms") != self.settings.approved:
            raise PlanRefused("its terms are not those that were approved")
