"""A round of shared noise opens to the sum of what was sent, less what so large a sum can spare."""

import numpy as np
import pytest

from fl_server.aggregation import first_steps, next_steps, without_surplus
from privacy.mechanism import round_plan, update_step
from privacy.noise_shares import surplus_noise
from privacy.parameters import parameter_set
from protocol.canonical import body, digest, read
from protocol.frames import Frame, decode, encode
from protocol.summation import SurplusNoise
from tests.fl_server.cohort import LENGTH, Cohort

pytestmark = pytest.mark.slow

N = 6  # a quorum is 5


def met(**options):
    return Cohort.meet(N, noise="summed", **options)


def opened(cohort, uploading=None):
    begun = cohort.upload(cohort.begin(), uploading)
    return begun, cohort.open(begun)


def left_of(cohort, begun, found):
    return without_surplus(
        cohort.terms,
        found.integers,
        found.surplus,
        roster=len(begun.plan.sites),
        arrived=len(begun.uploads),
    )


def sent(cohort, sites):
    return sum(cohort.hospitals[site].sent for site in sites)


@pytest.mark.parametrize("opening", ["members", "threshold"])
def test_with_all_sites_there_every_one_takes_back_one_part(opening):
    cohort = met(opening=opening)
    begun, found = opened(cohort)
    assert np.array_equal(found.integers, sent(cohort, cohort.sites))
    assert [len(one.seeds) for one in found.surplus] == [1] * N
    plan = round_plan(cohort.terms, N)
    assert (plan.most, plan.fewest, plan.colluders, plan.central) == (6, 5, 1, 1024.0)
    left, odd = left_of(cohort, begun, found)
    taken = sum(surplus_noise(plan, N, one.seeds, LENGTH) for one in found.surplus)
    assert odd == ()
    assert np.array_equal(left, found.integers - taken)
    noise = left - cohort.total(1, cohort.sites)[0]
    assert np.abs(noise).max() < 6 * 1024 * (6 / 5) ** 0.5


def test_with_a_site_missing_nothing_is_taken_back():
    cohort = met()
    begun, found = opened(cohort, cohort.sites[1:])
    assert np.array_equal(found.integers, sent(cohort, cohort.sites[1:]))
    assert found.surplus == ()
    assert np.array_equal(left_of(cohort, begun, found)[0], found.integers)
    assert not any("surplus" in decode(frame).blobs for _, _, frame in cohort.transport.answered)


def test_a_site_that_falls_silent_after_endorsing_leaves_its_noise():
    cohort = met()
    silent = cohort.sites[2]
    cohort.transport.lost = lambda kind, site: (kind, site) == ("unmask", silent)
    begun, found = opened(cohort)
    assert [one.site for one in found.surplus] == [s for s in cohort.sites if s != silent]
    plan = round_plan(cohort.terms, N)
    taken = sum(surplus_noise(plan, N, one.seeds, LENGTH) for one in found.surplus)
    assert np.array_equal(left_of(cohort, begun, found)[0], found.integers - taken)


def test_a_hospital_shows_the_same_seeds_again_also_after_a_restart(tmp_path):
    cohort = met(folder=tmp_path)
    _, found = opened(cohort)
    asked = encode(**vars(cohort.transport.frame("unmask", cohort.sites[0])))
    cohort.hospitals[cohort.sites[0]].restart()
    reply = decode(cohort.hospitals[cohort.sites[0]].answer(asked))
    again = read(SurplusNoise, decode(reply.blobs["surplus"]).body)
    assert again == found.surplus[0]


def test_no_seed_is_shown_without_a_quorum_of_endorsements():
    cohort = met()
    begun = cohort.upload(cohort.begin())
    cohort.stop_at("unmask", begun)
    shown = cohort.transport.frame("unmask", cohort.sites[0])
    few = {**shown.body, "endorsements": shown.body["endorsements"][:4]}
    reply = cohort.ask(cohort.sites[0], Frame("unmask", few, shown.blobs))
    assert (reply.kind, reply.body["code"]) == ("refused", "quorum-missing")
    assert reply.blobs == {}


def test_a_server_that_names_two_received_sets_gets_seeds_for_one_only():
    """Told that a site is missing, a hospital keeps more noise; told both, it answers once."""
    cohort = met()
    begun = cohort.upload(cohort.begin())
    cohort.stop_at("endorse", begun)
    whole = cohort.transport.frame("endorse", cohort.sites[0])
    del begun.uploads[cohort.sites[5]]
    cohort.stop_at("endorse", begun)
    smaller = cohort.transport.frame("endorse", cohort.sites[0])
    assert whole.body != smaller.body
    assert cohort.ask(cohort.sites[0], smaller).kind == "endorsement"
    refused = cohort.ask(cohort.sites[0], whole)
    assert refused.body["code"] == "sum-already-endorsed"


def altered(cohort, change):
    """Have the first site's surplus changed on its way to the server."""

    def alter(kind, site, reply):
        if (kind, site) != ("unmask", cohort.sites[0]):
            return reply
        frame = decode(reply)
        shown = read(SurplusNoise, decode(frame.blobs["surplus"]).body)
        blobs = {**frame.blobs, "surplus": change(shown)}
        return encode(frame.kind, frame.body, blobs)

    cohort.transport.alter = alter


def framed(message):
    return encode("surplus", body(message))


@pytest.mark.parametrize(
    "change",
    [
        lambda _shown: b"",
        lambda _shown: b"no frame at all",
        lambda shown: framed(shown.model_copy(update={"seeds": (bytes(32),)})),
        lambda shown: framed(shown.model_copy(update={"signature": b""})),
    ],
)
def test_seeds_that_their_site_did_not_sign_are_left_alone(change):
    cohort = met()
    altered(cohort, change)
    begun, found = opened(cohort)
    assert [one.site for one in found.surplus] == list(cohort.sites[1:])
    left_of(cohort, begun, found)


@pytest.mark.parametrize("seeds", [(), (bytes(32), bytes(32))])
def test_a_site_that_shows_other_seeds_than_the_sum_spares_is_named_and_keeps_its_noise(seeds):
    cohort = met()
    sign = cohort.hospitals[cohort.sites[0]].keys.sign
    altered(cohort, lambda s: framed(s.model_copy(update={"seeds": seeds}).signed_by(sign)))
    begun, found = opened(cohort)
    left, odd = left_of(cohort, begun, found)
    assert odd == (cohort.sites[0],)
    plan = round_plan(cohort.terms, N)
    taken = sum(surplus_noise(plan, N, one.seeds, LENGTH) for one in found.surplus[1:])
    assert np.array_equal(left, found.integers - taken)


def test_seeds_for_another_commitment_are_left_alone():
    cohort = met()
    sign = cohort.hospitals[cohort.sites[0]].keys.sign
    other = {"commitment": digest(cohort.terms)}
    altered(cohort, lambda s: framed(s.model_copy(update=other).signed_by(sign)))
    _, found = opened(cohort)
    assert [one.site for one in found.surplus] == list(cohort.sites[1:])


def test_the_step_size_is_the_grid_of_the_terms_in_every_round():
    terms = met().terms
    parameters = parameter_set(terms.encryption)
    first = first_steps(terms, parameters)
    assert first.tolist() == [update_step(terms)]
    assert np.array_equal(next_steps(terms, parameters, np.ones(LENGTH), 5), first)
