"""Both secrets of a site show its update, so no hospital ever reveals shares of both."""

from importlib import import_module

import numpy as np
import pytest

from privacy.bfv import open_sum
from privacy.masks import remove
from privacy.packing import unpack
from privacy.round_secrets import (
    BothSecretsAsked,
    Reveal,
    RosterNotCovered,
    RoundSecrets,
    deal,
    leftover,
    reveal,
    total_pad,
)
from privacy.sharing import QuorumMissing, join, quorum
from tests.privacy.attacks.cohort import CONTEXT, Cohort, looks_uniform

flower = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
"""The module; its package has a function of the same name in its place."""
SITES = 7
LENGTH = 30_000


@pytest.fixture(scope="module")
def cohort(preset):
    return Cohort.meet(SITES, preset, length=LENGTH)


def shares_of_two_stories(victim_secrets, threshold, colluders, first, second):
    """Return the shares that a server gets by telling two groups of sites two received sets.

    ``first`` honest sites are told that the victim's update came, ``second`` that it did not;
    the colluders give their shares of both secrets.
    """
    dealt = deal(victim_secrets, threshold=threshold, holders=SITES)
    assert colluders + first + second == SITES
    both = range(colluders)
    self_shares = [*both, *range(colluders, colluders + first)]
    round_shares = [*both, *range(colluders + first, SITES)]
    return (
        {place: dealt[place].self_share for place in self_shares},
        {place: dealt[place].round_share for place in round_shares},
    )


def read_update(cohort, victim, self_seed, round_seed):
    """Grow the victim's whole pad and remove it from its single upload."""
    stolen = RoundSecrets(self_seed, round_seed)
    shape = {"context": CONTEXT, "size": cohort.size, "parameters": cohort.parameters}
    pad = total_pad(stolen, victim, cohort.roster, **shape)
    words = remove(open_sum(cohort.total([victim]), cohort.key), [pad], cohort.parameters)
    return unpack(words, cohort.length, 1, cohort.parameters)[0]


def test_two_stories_show_an_update_where_a_majority_is_the_threshold(cohort):
    """With t = 4 of 7, as n/2 suggests, one dishonest site and a lying server are enough."""
    victim = cohort.sites[3]
    selfs, rounds = shares_of_two_stories(cohort.secrets[victim], 4, 1, 3, 3)
    seeds = join(selfs, threshold=4), join(rounds, threshold=4)
    assert np.array_equal(read_update(cohort, victim, *seeds), cohort.values[victim])


def test_two_stories_never_find_two_quorums_of_ours(cohort):
    """Up to 2 t - n - 1 dishonest sites, however the honest ones are divided."""
    threshold = quorum(SITES)
    for colluders in range(2 * threshold - SITES):
        honest = SITES - colluders
        for first in range(honest + 1):
            told = shares_of_two_stories(
                cohort.secrets[cohort.sites[3]], threshold, colluders, first, honest - first
            )
            with pytest.raises(QuorumMissing):
                for shares in told:
                    join(shares, threshold=threshold)


def test_one_dishonest_site_more_than_we_claim_is_one_too_many(cohort):
    """So the bound in our threat model is the true one."""
    victim, threshold = cohort.sites[6], quorum(SITES)
    selfs, rounds = shares_of_two_stories(cohort.secrets[victim], threshold, 3, 2, 2)
    seeds = join(selfs, threshold=threshold), join(rounds, threshold=threshold)
    assert np.array_equal(read_update(cohort, victim, *seeds), cohort.values[victim])


def test_a_client_of_flower_gives_its_shares_of_both_secrets_when_asked():
    """The weak setting: the lists of the active and the dead are not compared."""
    client = flower.SecAggPlusState(
        threshold=2, rd_seed_share_dict={1: b"of seed", 2: b""}, sk1_share_dict={1: b"of key"}
    )
    given = flower._unmask(client, {"active_nids": [1, 2], "dead_nids": [1]})
    assert list(zip(given["nids"], given["shares"], strict=True)) == [
        (1, b"of seed"),
        (2, b""),
        (1, b"of key"),
    ]


def ask(cohort, site, present, absent):
    return reveal(
        cohort.secrets[site],
        site,
        cohort.held[site],
        present=frozenset(present),
        absent=frozenset(absent),
        roster=cohort.sites,
    )


def test_a_hospital_asked_for_both_secrets_of_a_site_reveals_nothing(cohort):
    victim, *others = cohort.sites
    with pytest.raises(BothSecretsAsked) as refused:
        ask(cohort, others[0], cohort.sites, [victim])
    assert refused.value.sites == (victim,)


def test_a_hospital_asked_about_a_site_outside_the_roster_reveals_nothing(cohort):
    with pytest.raises(RosterNotCovered):
        ask(cohort, cohort.sites[0], [*cohort.sites, "stranger"], [])


def test_a_hospital_not_told_of_a_site_of_the_roster_reveals_nothing(cohort):
    with pytest.raises(RosterNotCovered):
        ask(cohort, cohort.sites[0], cohort.sites[1:], [])


def test_a_reveal_of_both_secrets_of_a_site_can_be_neither_made_nor_read(cohort):
    site, other = cohort.sites[:2]
    pair = cohort.held[site][other]
    with pytest.raises(BothSecretsAsked):
        Reveal(None, {other: pair.self_share}, {other: pair.round_share})
    present = ask(cohort, site, [other], set(cohort.sites) - {other}).to_bytes()
    absent = ask(cohort, site, set(cohort.sites) - {other}, [other]).to_bytes()
    spliced = splice(present, absent)
    with pytest.raises(BothSecretsAsked):
        Reveal.from_bytes(spliced)


def splice(present, absent):
    """Join the one self share of the first reveal and the one round share of the second."""
    entry = 40 + 33
    return present[:34] + b"\x01\x01" + present[36 : 36 + entry] + absent[-entry:]


def test_an_update_that_came_too_late_stays_hidden_from_everybody(cohort):
    """All sites answer, the late one's round seed is joined, the group key leaks: noise."""
    late, *others = cohort.sites
    answers = {site: ask(cohort, site, others, [late]) for site in others}
    round_seed = join(
        {cohort.sites.index(site): answers[site].round_shares[late] for site in others},
        threshold=cohort.threshold,
    )
    assert round_seed == cohort.secrets[late].round_seed
    assert all(late not in answer.self_shares for answer in answers.values())
    guess = RoundSecrets(bytes(32), round_seed)  # its self seed is what nobody revealed
    announced = cohort.roster | {late: guess.public}
    shape = {"context": CONTEXT, "size": cohort.size, "parameters": cohort.parameters}
    pad = total_pad(guess, late, announced, **shape)
    words = remove(open_sum(cohort.total([late]), cohort.key), [pad], cohort.parameters)
    assert looks_uniform(words, cohort.parameters.plain_modulus)


def test_one_received_set_opens_to_the_sum_and_to_that_alone(cohort):
    """What the protocol is for, so that the refusals above are not mere silence."""
    late, *others = cohort.sites
    answers = {site: ask(cohort, site, others, [late]) for site in others}
    found = leftover(
        cohort.roster,
        answers,
        holders=cohort.sites,
        threshold=cohort.threshold,
        present=frozenset(others),
        absent=frozenset([late]),
        context=CONTEXT,
        size=cohort.size,
        parameters=cohort.parameters,
    )
    words = remove(open_sum(cohort.total(others), cohort.key), [found.pad], cohort.parameters)
    sums, weight = unpack(words, LENGTH, len(others), cohort.parameters)
    assert np.array_equal(sums, sum(cohort.values[site].astype(int) for site in others))
    assert weight == len(others) * cohort.weight
    for site in others:
        alone = remove(open_sum(cohort.total([site]), cohort.key), [found.pad], cohort.parameters)
        assert looks_uniform(alone, cohort.parameters.plain_modulus)
