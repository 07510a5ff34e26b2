"""Every patient is at exactly one site or held out, the same way each time."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import SLUG
from records.split import SITES_MAX, TooFewPatients, dirichlet_split, hold_out, site_names

labels = st.lists(st.integers(0, 3), min_size=1, max_size=80)
seeds = st.integers(0, 2**32)
alphas = st.sampled_from([1e-4, 0.1, 1.0, 100.0])


@given(labels, st.integers(1, 8), alphas, st.integers(0, 5), seeds)
def test_a_split_is_a_partition_that_keeps_the_minimum(labels, sites, alpha, minimum, seed):
    if len(labels) < sites * minimum:
        with pytest.raises(TooFewPatients):
            dirichlet_split(labels, sites=sites, alpha=alpha, minimum=minimum, seed=seed)
        return
    split = dirichlet_split(labels, sites=sites, alpha=alpha, minimum=minimum, seed=seed)
    assert len(split) == sites
    assert sorted(position for site in split for position in site) == list(range(len(labels)))
    assert all(len(site) >= minimum for site in split)
    assert all(site == sorted(site) for site in split)


@given(labels, seeds)
def test_the_same_seed_splits_alike(labels, seed):
    once, again = (dirichlet_split(labels, sites=2, minimum=0, seed=seed) for _ in range(2))
    assert once == again
    assert hold_out(labels, seed=seed) == hold_out(labels, seed=seed)


@given(labels, st.floats(0.05, 0.95), seeds)
def test_holding_out_takes_its_share_of_every_class(labels, fraction, seed):
    kept, held = hold_out(labels, fraction=fraction, seed=seed)
    assert sorted(kept + held) == list(range(len(labels)))
    taken = Counter(labels[position] for position in held)
    for label, count in Counter(labels).items():
        assert abs(taken[label] - fraction * count) <= 1
        assert taken[label] < count
        assert taken[label] >= min(1, count - 1)


def test_a_small_alpha_makes_sites_differ_and_a_large_one_makes_them_alike():
    labels = [0] * 300 + [1] * 300

    def spread(alpha):
        split = dirichlet_split(labels, sites=6, alpha=alpha, minimum=5, seed=3)
        return np.std([np.mean([labels[position] for position in site]) for site in split])

    assert spread(0.3) > 0.2
    assert spread(1000.0) < 0.05


def test_other_seeds_split_otherwise():
    labels = [0, 1] * 50
    splits = {str(dirichlet_split(labels, sites=3, seed=seed)) for seed in range(5)}
    assert len(splits) == 5


def test_every_site_has_a_name_of_its_own_that_may_be_an_id():
    names = site_names(SITES_MAX)
    assert len(set(names)) == SITES_MAX
    assert all(SLUG.fullmatch(name) for name in names)
    assert site_names(3) == names[:3]
