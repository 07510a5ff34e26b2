"""Whatever reaches a door of a hospital is refused or answered, and the round goes on after it."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.frames import decode, encode
from tests.fl_client.mutation import changed, says
from tests.fl_server.cohort import Cohort

pytestmark = pytest.mark.slow

DOORS = {
    "members": ("join", "call", "train", "endorse", "unmask", "open"),
    "threshold": ("join", "call", "train", "endorse", "unmask", "share", "open"),
}
KEY_DOORS = {
    "members": ("deal-key", "take-key", "give-share", "recover-key"),
    "threshold": ("commit-key", "part-key", "join-key"),
}
seeds = st.integers(0, 2**32)


def besieged(cohort, random, doors, each):
    """Have every frame preceded by changed ones, and by those meant for other sites."""

    def before(kind, site, frame):
        if kind not in doors:
            return
        hospital = cohort.hospitals[site]
        for _ in range(each):
            says(hospital.answer(changed(frame, random)))

    cohort.transport.before = before


def goes_on(seed, opening, each):
    """Run a round in which every honest request comes after changed ones."""
    cohort = Cohort.meet(4, opening=opening)
    besieged(cohort, Random(seed), DOORS[opening], each)
    begun = cohort.upload(cohort.begin())
    assert set(begun.uploads) == set(cohort.sites)
    opened = cohort.open(begun)
    assert np.array_equal(opened.integers, cohort.total(1, cohort.sites)[0])
    assert opened.liars == ()


@pytest.mark.parametrize("opening", DOORS)
@settings(max_examples=6, deadline=None)
@given(seed=seeds)
def test_a_round_goes_on_after_any_changed_frames(opening, seed):
    goes_on(seed, opening, each=3)


@pytest.mark.parametrize("opening", DOORS)
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_a_round_goes_on_after_many_changed_frames(opening, seed):
    goes_on(seed, opening, each=10)


def key_frames(opening):
    """Return a cohort, and the frames of making, taking and recovering its key, by site."""
    cohort = Cohort.meet(5, opening=opening)

    def alter(kind, _site, reply):
        if kind != "deal-key":
            return reply
        frame = decode(reply)
        return encode(frame.kind, frame.body, {**frame.blobs, cohort.sites[4]: b"noise"})

    cohort.transport.alter = alter
    cohort.keeper.ensure(1, cohort.sites)
    asked = [one for one in cohort.transport.asked if one[0] in KEY_DOORS[opening]]
    assert {kind for kind, _, _ in asked} == set(KEY_DOORS[opening])
    return cohort, asked


@pytest.mark.parametrize("opening", KEY_DOORS)
@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_the_doors_of_the_key_refuse_or_answer_whatever_comes(opening, seed):
    cohort, asked = KEYED[opening]
    random = Random(seed)
    for _ in range(5):
        _, site, frame = random.choice(asked)
        for door in (site, random.choice(cohort.sites)):
            says(cohort.hospitals[door].answer(changed(frame, random)))


@pytest.fixture(scope="module", autouse=True)
def _keyed():
    KEYED.update({opening: key_frames(opening) for opening in KEY_DOORS})


KEYED: dict = {}


@pytest.mark.parametrize("opening", DOORS)
def test_a_frame_meant_for_another_site_does_no_harm(opening):
    cohort = Cohort.meet(4, opening=opening)

    def before(_kind, site, frame):
        for other, hospital in cohort.hospitals.items():
            if other != site:
                says(hospital.answer(frame))

    # Requests for shares of the key name their recipient; all others serve one site or all.
    cohort.transport.before = before
    begun = cohort.upload(cohort.begin())
    assert set(begun.uploads) == set(cohort.sites)
    assert np.array_equal(cohort.open(begun).integers, cohort.total(1, cohort.sites)[0])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([*DOORS["threshold"], *KEY_DOORS["members"]]))
def test_noise_at_any_door_is_refused(noise, door):
    hospital = KEYED["members"][0].hospitals["site-00"]
    assert says(hospital.answer(noise)) == "refused"
    assert says(hospital.answer(encode(door, {"noise": noise.hex()}, {"sum": noise}))) == "refused"
