"""What a round costs follows from the approved terms, and terms that would leak are refused."""

import pytest
from pydantic import ValidationError

from portal.noise import honest_of
from privacy.events import DpSgdEvent, SiteLevelEvent, SummedNoiseEvent
from privacy.mechanism import (
    MechanismUnusable,
    check_mechanism,
    round_event,
    round_plan,
    study_plan,
    update_step,
)
from privacy.noise_shares import NoisePlanUnsound
from privacy.parameters import parameter_set
from privacy.sharing import colluders, quorum
from privacy.summed_noise import sensitivity
from protocol.terms import PrivacyTerms, StudyTerms
from tests.fl_server.cohort import LENGTH, Cohort


@pytest.fixture(scope="module")
def terms():
    return Cohort.meet(6, noise="summed", sites_min=5).terms


def changed(terms, training=None, **privacy) -> StudyTerms:
    return terms.model_copy(
        update={
            "privacy": terms.privacy.model_copy(update=privacy),
            "training": terms.training.model_copy(update=training or {}),
        }
    )


def test_summed_noise_is_accounted_for_as_the_shares_of_the_fewest_sites(terms):
    event = round_event(changed(terms, honest=3))
    assert isinstance(event, SummedNoiseEvent)
    assert (event.honest, event.dimension, event.steps, event.unit) == (3, LENGTH, 1, "patient")
    assert event.sensitivity == sensitivity(1024, LENGTH)
    assert event.share_deviation == pytest.approx(1024 / 3**0.5)


def test_the_other_mechanisms_are_accounted_for_in_their_own_unit(terms):
    assert round_event(changed(terms, mechanism="per-site", steps=4)) == DpSgdEvent(1.0, 1.0, 4)
    site = round_event(changed(terms, mechanism="site-level"))
    assert (site, site.unit) == (SiteLevelEvent(1.0, 1), "site")


@pytest.mark.parametrize("roster", [5, 6])
def test_a_rounds_plan_never_counts_more_noise_than_the_event(terms, roster):
    event, plan = round_event(terms), round_plan(terms, roster)
    assert plan.fewest == max(5, quorum(roster))
    assert plan.colluders == 1
    for arrived in range(plan.fewest, plan.most + 1):
        counted = plan.kept(arrived) * (arrived - plan.colluders)
        assert counted == pytest.approx(event.honest * event.share_deviation**2)


def test_a_grid_unit_is_worth_the_clipping_norm_over_grid_patients_and_rate(terms):
    found = update_step(changed(terms, training={"learning_rate": 2.0}, sampling_rate=0.5))
    assert found == pytest.approx(2.0 * 1.0 / (1024 * 0.5 * 10))


@pytest.mark.parametrize("honest", [1, 2])
def test_terms_that_count_on_more_colluders_than_the_sum_withstands_are_refused(terms, honest):
    """Of 5 called sites 2 may collude; then 3 of the 5 in a sum are honest, and no fewer."""
    with pytest.raises(NoisePlanUnsound, match="collude"):
        check_mechanism(changed(terms, honest=honest), parameter_set("packed-bfv-20"))
    check_mechanism(changed(terms, honest=3), parameter_set("packed-bfv-20"))


@pytest.mark.parametrize("n", range(3, 65))
def test_what_the_demonstration_assumes_is_what_the_sum_withstands(n):
    for fewest in range(max(3, quorum(n)), n + 1):
        assumed = fewest - honest_of(n, fewest)
        assert assumed >= 1
        assert all(assumed <= colluders(called) for called in range(fewest, n + 1))


@pytest.mark.parametrize("honest", [5, 6])
def test_terms_that_count_a_hospitals_own_noise_against_it_are_refused(terms, honest):
    with pytest.raises(NoisePlanUnsound, match="knows its own"):
        check_mechanism(changed(terms, honest=honest), parameter_set("packed-bfv-20"))


def test_a_roster_below_the_fewest_sites_has_no_plan(terms):
    with pytest.raises(NoisePlanUnsound, match="needed"):
        round_plan(terms, 4)
    assert study_plan(terms).most == 6


@pytest.mark.parametrize("algorithm", ["scaffold", "fedbn"])
@pytest.mark.parametrize("mechanism", ["summed", "site-level"])
def test_algorithms_that_send_more_than_one_sum_of_gradients_are_refused(
    terms, algorithm, mechanism
):
    other = changed(terms, training={"algorithm": algorithm}, mechanism=mechanism)
    with pytest.raises(MechanismUnusable, match=algorithm):
        check_mechanism(other, parameter_set("packed-bfv-20"))


def test_a_parameter_set_that_the_integers_do_not_fit_is_refused(terms):
    with pytest.raises(MechanismUnusable, match="20 bits"):
        check_mechanism(terms, parameter_set("packed-bfv-8"))
    check_mechanism(terms, parameter_set("packed-bfv-20"))
    check_mechanism(changed(terms, mechanism="per-site"), parameter_set("packed-bfv-8"))


def test_a_round_of_summed_noise_is_one_step(terms):
    body = {**terms.privacy.model_dump(), "steps": 2}
    with pytest.raises(ValidationError, match="one step"):
        PrivacyTerms(**body)
