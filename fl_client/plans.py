"""What a round's plan must be before this hospital trains on it.

The server signs it, it is for the terms that were approved, and it goes on from the round before as
this hospital knows it: from the manifest of the sum that it opened itself, and from no other
history than it was told before.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_client.store import SiteStore
from privacy.signatures import check_signature
from protocol.canonical import digest
from protocol.errors import FederationError
from protocol.messages import Manifest, RoundPlan
from protocol.terms import StudyTerms

NO_MANIFEST: Final = "0" * 64


class PlanRefused(FederationError):
    """A plan or request is not for the study this hospital approved."""

    code = "plan-refused"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"this hospital does not take part in that: {why}")


def check_plan(plan: RoundPlan, terms: StudyTerms, approved: str) -> None:
    """Return if the server signed this plan for the terms of this digest that were approved.

    Raises:
        PlanRefused: It is for other terms, past the last round, or does not fit the model.
        BadSignature: The server did not sign it.
    """
    if plan.study != terms.study or plan.terms != approved:
        raise PlanRefused("the plan is for other terms than those that were approved")
    if plan.round > terms.rounds:
        raise PlanRefused(f"the study has {terms.rounds} rounds")
    check_signature(
        terms.server_key,
        plan.signature,
        plan.signed_bytes(),
        what="round plan",
        who="the server",
    )
    if len(plan.steps) != len(terms.training.tensor_sizes) or min(plan.steps) <= 0:
        raise PlanRefused("the plan's step sizes do not fit the model")


def check_days(terms: StudyTerms, today: int) -> None:
    """Return if the study's days of consent have not passed, by this hospital's own calendar.

    A patient's grant covers every day of the study, and may end with the last. That a study has
    not begun is no reason to refuse: a clock may be behind the server's by an hour.

    Args:
        terms: The study's.
        today: Days since 1970-01-01.

    Raises:
        PlanRefused: They have.
    """
    if today > terms.consent.through_day:
        raise PlanRefused("the study's days of consent have passed")


def check_history(
    plan: RoundPlan, manifest: Manifest | None, terms: StudyTerms, store: SiteStore
) -> None:
    """Return if the plan goes on from the round before as this hospital knows it; remember it.

    Raises:
        PlanRefused: The manifest is missing, another one, or of another history or sum.
        BadSignature: The server did not sign it.
    """
    if manifest is None:
        if plan.round != 1 or plan.previous != NO_MANIFEST:
            raise PlanRefused("the manifest of the round before is missing")
        return
    check_signature(
        terms.server_key,
        manifest.signature,
        manifest.signed_bytes(),
        what="manifest",
        who="the server",
    )
    named = digest(manifest)
    if (manifest.study, manifest.round) != (plan.study, plan.round - 1):
        raise PlanRefused("the manifest is not of the round before")
    if (plan.previous, plan.model) != (named, manifest.model_sha256):
        raise PlanRefused("the plan does not go on from the manifest it names")
    if store.manifest(plan.study, manifest.round) not in {None, named}:
        raise PlanRefused("this hospital went on from another manifest of that round before")
    before = store.manifest(plan.study, plan.round - 2)
    if before is not None and manifest.previous != before:
        raise PlanRefused("the manifest tells another history than this hospital knows")
    endorsed = store.endorsed(plan.study, manifest.round)
    if manifest.commitment != NO_MANIFEST and endorsed is not None:
        commitment, opened = endorsed
        if manifest.commitment != commitment or opened not in {None, manifest.integers_sha256}:
            raise PlanRefused("the manifest is of another sum than this hospital opened")
    store.keep_manifest(plan.study, manifest.round, named)


def model_of(blob: bytes, plan: RoundPlan, parameters: int) -> NDArray[np.float32]:
    """Return the ``(parameters,)`` weights that came beside the plan.

    Raises:
        PlanRefused: They are not those the plan names, or no weights of this model.
    """
    if hashlib.sha256(blob).hexdigest() != plan.model:
        raise PlanRefused("the model that came is not the one the plan names")
    vector = np.frombuffer(blob, "<f4").astype(np.float32)
    if vector.size != parameters or not np.isfinite(vector).all():
        raise PlanRefused("the model has another size, or numbers that are not finite")
    return vector
