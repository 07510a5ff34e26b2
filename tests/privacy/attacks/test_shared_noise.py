"""A share of noise is too little for one update, which nobody sees; what is seen has enough."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from privacy.bfv import open_sum
from privacy.masks import remove
from privacy.noise_shares import NoisePlan, NoiseShare, noise_root, surplus_noise
from privacy.packing import SumCorrupt, unpack
from privacy.parameters import parameter_set
from privacy.randomness import RandomStream
from privacy.round_secrets import _private_key
from privacy.sharing import colluders, quorum
from tests.privacy.attacks.cohort import Cohort, looks_uniform
from tests.privacy.attacks.test_server_and_hospital import without_what_they_know

SITES, LENGTH = 5, 20_000
PLAN = NoisePlan(central=2000.0, most=SITES, fewest=quorum(SITES), colluders=1)
WIDE = 6 * math.sqrt(2 / LENGTH)
"""How far a sample variance of this many coordinates may be off, relative, in an honest run."""


@pytest.fixture(scope="module")
def shares():
    def of(cohort):
        return {
            site: NoiseShare(PLAN, noise_root(secrets.round_seed))
            for site, secrets in cohort.secrets.items()
        }

    return of


@pytest.fixture(scope="module")
def cohort(shares):
    """Sites whose true updates are all zero, so that what is left is noise alone."""
    met = Cohort.meet(SITES, parameter_set("packed-bfv-20"), length=LENGTH)
    stream = RandomStream.from_seed(4)
    values = {s: share.draw(LENGTH, stream.child(s)) for s, share in shares(met).items()}
    return replace(met, values=values)


def opened(cohort, present):
    words = remove(
        open_sum(cohort.total(present), cohort.key), [cohort.leftover(present)], cohort.parameters
    )
    return unpack(words, LENGTH, len(present), cohort.parameters)[0]


def test_one_share_alone_would_be_too_little_and_is_under_masks(cohort):
    for site in cohort.sites:
        assert cohort.values[site].var() < PLAN.central**2 / 2
        words = open_sum(cohort.total([site]), cohort.key)  # with a stolen group key
        assert looks_uniform(words, cohort.parameters.plain_modulus)
        with pytest.raises(SumCorrupt):
            unpack(words, LENGTH, 1, cohort.parameters)


@pytest.mark.parametrize("arrived", [4, 5])
def test_the_server_and_a_colluder_see_noise_of_the_central_amount(cohort, shares, arrived):
    """They subtract what the sites show and all that the colluder knows of itself."""
    present, held = cohort.sites[:arrived], shares(cohort)
    seen = opened(cohort, present)
    for site in present:
        seen = seen - surplus_noise(PLAN, arrived, held[site].surplus(arrived), LENGTH)
    for colluder in present:
        own = cohort.values[colluder]
        own = own - surplus_noise(PLAN, arrived, held[colluder].surplus(arrived), LENGTH)
        assert (seen - own).var() > PLAN.central**2 * (1 - WIDE)


def test_no_set_of_colluders_that_masks_withstand_takes_the_sum_apart(cohort):
    """Beyond the bound on colluders masks give way first: see ``colluders`` and its tests."""
    for insiders in combinations(cohort.sites[1:], colluders(SITES)):
        words = without_what_they_know(cohort, cohort.sites[0], insiders, self_seed=True)
        assert looks_uniform(words, cohort.parameters.plain_modulus)


def test_a_site_called_absent_shows_its_noise_and_not_its_update(cohort, shares):
    """Its round seed is joined, and with it pads and parts; the pad of its self seed stays."""
    victim, *others = cohort.sites
    round_seed = cohort.secrets[victim].round_seed
    assert noise_root(round_seed) == shares(cohort)[victim].root
    _private_key(round_seed)  # all pairwise pads of the victim are the server's now
    words = without_what_they_know(cohort, victim, others, self_seed=False)
    assert looks_uniform(words, cohort.parameters.plain_modulus)


def test_two_stories_of_who_arrived_need_two_quorums():
    """To have a sum of few opened and the seeds of a sum of many shown takes both."""
    for n in range(3, 65):
        assert 2 * quorum(n) - n > colluders(n)


def test_seeds_tell_nothing_of_the_part_that_stays(cohort, shares):
    """Over sites and coordinates, what is shown and what stays have no correlation."""
    for site, share in shares(cohort).items():
        shown = surplus_noise(PLAN, SITES, share.surplus(SITES), LENGTH)
        stays = cohort.values[site] - shown
        assert abs(np.corrcoef(shown, stays)[0, 1]) < 6 / math.sqrt(LENGTH)
