"""The server with one hospital reads every update in the reference; here only the honest sum."""

from itertools import combinations

import numpy as np
import pytest

from privacy.bfv import open_sum
from privacy.masks import pad_sum, pair_pad_key, remove, self_pad_key
from privacy.packing import SumCorrupt, unpack
from tests.privacy.attacks.cohort import CONTEXT, Cohort, looks_uniform, round_key
from tests.privacy.attacks.reference import opened

SITES = 5
LENGTH = 30_000


@pytest.fixture(scope="module")
def cohort(preset):
    return Cohort.meet(SITES, preset, length=LENGTH)


def lowest_fields(words, parameters):
    """Return the lowest field of every slot, in which a quarter of the values are."""
    half = 1 << (parameters.field_bits - 1)
    signed = words.astype(np.int64)
    signed[signed > parameters.plain_modulus // 2] -= parameters.plain_modulus
    return ((signed + half) & (2 * half - 1)) - half


def test_in_the_reference_a_hospital_opens_for_the_server_what_another_sent(
    reference, updates, uploads
):
    insider = reference.another_client()
    for update, upload in zip(updates, uploads, strict=True):
        assert np.allclose(opened(insider, upload), update, atol=1e-6)


def test_the_group_key_opens_a_single_upload_to_noise(cohort):
    """The encryption is no obstacle to the two of them; the masks are."""
    for site in cohort.sites:
        words = open_sum(cohort.total([site]), cohort.key)
        assert np.array_equal(words, cohort.masked[site].words)
        with pytest.raises(SumCorrupt):
            unpack(words, LENGTH, 1, cohort.parameters)
        truth = cohort.packed(site).words
        assert looks_uniform(words, cohort.parameters.plain_modulus)
        assert not looks_uniform(truth, cohort.parameters.plain_modulus)
        fields = [lowest_fields(each, cohort.parameters) for each in (words, truth)]
        assert abs(np.corrcoef(fields)[0, 1]) < 6 / np.sqrt(words.size)


def test_no_sum_over_some_of_the_sites_opens_to_anything_but_noise(cohort):
    """Differences of two such sums included: the masks of who is missing are not in them."""
    modulus = np.uint64(cohort.parameters.plain_modulus)
    some = cohort.sites[:3]
    subsets = [chosen for k in (1, 2, 3) for chosen in combinations(some, k)]
    opened_words = [open_sum(cohort.total(chosen), cohort.key) for chosen in subsets]
    for first, second in combinations([np.zeros(cohort.size, np.uint64), *opened_words], 2):
        assert looks_uniform((second + modulus - first) % modulus, int(modulus))


def without_what_they_know(cohort, target, colluders, *, self_seed):
    """Return a site's words less all pads that the colluders and the server can grow.

    The group key is theirs, every pad they share with the target, and where the round went on
    to its opening, the target's self seed too.
    """
    words = open_sum(cohort.total([target]), cohort.key)
    added, subtracted = [], []
    for one in colluders:
        announced = cohort.roster[target].public_key
        key = pair_pad_key(round_key(cohort.secrets[one]), one, announced, target, context=CONTEXT)
        (added if target < one else subtracted).append(key)
    if self_seed:
        seed = cohort.secrets[target].self_seed
        added.append(self_pad_key(seed, target, context=CONTEXT))
    pads = pad_sum(added, subtracted, size=cohort.size, parameters=cohort.parameters)
    return remove(words, [pads], cohort.parameters)


def test_all_the_others_together_know_the_last_one_which_no_sum_can_prevent(cohort):
    target, *others = cohort.sites
    words = without_what_they_know(cohort, target, others, self_seed=True)
    values, weight = unpack(words, LENGTH, 1, cohort.parameters)
    assert np.array_equal(values, cohort.values[target])
    assert weight == cohort.weight


def test_all_but_two_and_the_server_learn_the_sum_of_the_two_and_nothing_else(cohort):
    modulus = np.uint64(cohort.parameters.plain_modulus)
    honest, colluders = cohort.sites[1:3], [cohort.sites[0], *cohort.sites[3:]]
    for revealed in (False, True):
        left = [
            without_what_they_know(cohort, site, colluders, self_seed=revealed) for site in honest
        ]
        assert all(looks_uniform(words, int(modulus)) for words in left)
        assert looks_uniform((left[0] + modulus - left[1]) % modulus, int(modulus))
        both = (left[0] + left[1]) % modulus
        if not revealed:
            assert looks_uniform(both, int(modulus))
            continue
        values, _ = unpack(both, LENGTH, 2, cohort.parameters)
        assert np.array_equal(values, sum(cohort.values[site].astype(int) for site in honest))
