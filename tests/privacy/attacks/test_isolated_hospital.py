"""A server that counts one hospital and its own colluders alone would read that one's update."""

import numpy as np
import pytest

from fl_server import summation as server_summation
from privacy.sharing import QuorumMissing, quorum
from protocol.frames import decode
from tests.fl_server.cohort import Cohort, values_of
from tests.privacy.attacks.reference import opened

SITES = 7  # a quorum is 5


@pytest.fixture
def cohort():
    return Cohort.meet(SITES)


@pytest.fixture
def begun(cohort):
    """A round in which every site has uploaded."""
    return cohort.upload(cohort.begin())


def count_only(begun, sites):
    """Tell the round as if the uploads of all other sites had never come."""
    begun.uploads = {site: begun.uploads[site] for site in sorted(sites)}
    return begun


def test_the_reference_opens_a_sum_of_one(reference, updates, uploads):
    alone = reference.aggregate(uploads[1:2])
    assert np.allclose(opened(reference.client, alone), updates[1], atol=1e-6)


def test_a_sum_of_two_is_endorsed_by_nobody(cohort, begun, monkeypatch):
    victim, colluder = cohort.sites[3], cohort.sites[0]
    monkeypatch.setattr(server_summation, "quorum", lambda _n: 2)  # the server's own checks
    cohort.sum.terms = cohort.terms.model_copy(update={"sites_min": 2})
    with pytest.raises(QuorumMissing):
        cohort.open(count_only(begun, [colluder, victim]))
    codes = [
        decode(reply).body["code"]
        for kind, _, reply in cohort.transport.answered
        if kind == "endorse"
    ]
    assert codes == ["commitment-refused"] * SITES


@pytest.mark.parametrize("honest_server", [True, False])
def test_a_sum_of_a_victim_and_two_colluders_is_not_opened(
    cohort, begun, monkeypatch, honest_server
):
    """Two of seven are fewer than may collude, and know all of the sum but the victim's part."""
    if not honest_server:
        monkeypatch.setattr(server_summation, "quorum", lambda _n: 3)
    victim, colluders = cohort.sites[3], cohort.sites[:2]
    with pytest.raises(QuorumMissing):
        total = cohort.open(count_only(begun, [victim, *colluders])).integers
        known = sum(values_of(site, 1).astype(int) for site in colluders)
        assert np.array_equal(total - known, values_of(victim, 1))  # what opening it tells


def test_a_quorum_of_updates_has_two_honest_ones_for_all_the_colluders_we_bear():
    """So a received set of a quorum, unlike one of three, hides each honest one in their sum."""
    for n in range(3, 65):
        colluders = min(n - 2, 2 * quorum(n) - n - 1)
        assert quorum(n) - colluders >= 2
