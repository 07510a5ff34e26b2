"""Both ways of opening give the same integers, and a parameter set serves exactly one of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy import key_generation
from privacy.bfv import ForeignParameters, ServerContext, generate_key
from privacy.masks import apply
from privacy.opening import MemberCipher, OpeningMismatch, QuorumCipher, check_way
from privacy.packing import pack, unpack
from privacy.parameters import PRESETS, parameter_set
from privacy.quantisation import QuantisedUpdate
from privacy.sharing import QuorumMissing
from privacy.threshold import QuorumInvalid
from protocol.ids import SiteId

SITES = tuple(SiteId(name) for name in ("east", "north", "south", "west"))
THRESHOLD = 3
LENGTH = 40


@pytest.fixture(scope="module")
def members():
    key = generate_key(parameter_set("packed-bfv-8"))
    return dict.fromkeys(SITES, MemberCipher(key))


@pytest.fixture(scope="module")
def group():
    """Each site's hold on one collective key."""
    parameters = parameter_set("threshold-bfv-8")
    parts = [
        key_generation.contribute(parameters, threshold=THRESHOLD, holders=4, context=b"test")
        for _ in SITES
    ]
    publics = [part.public for part in parts]
    key = key_generation.collective_key(publics, parameters, context=b"test")
    return {
        site: QuorumCipher(
            key,
            key_generation.join_shares([part.shares[place] for part in parts], parameters),
            holders=SITES,
            threshold=THRESHOLD,
        )
        for place, site in enumerate(SITES)
    }


def total_of(ciphers, parameters, updates):
    """Return the encrypted sum of each site's values, without masks."""
    bits = parameters.value_bits
    packed = [pack(QuantisedUpdate(values, bits, 0), 7, parameters) for values in updates]
    encrypted = [
        cipher.encrypt(apply(one, [])) for cipher, one in zip(ciphers.values(), packed, strict=True)
    ]
    return ServerContext(parameters).add(encrypted)


def opened(ciphers, parameters, updates, quorum, opener):
    total = total_of(ciphers, parameters, updates)
    shares = {site: ciphers[site].share(total, quorum) for site in quorum}
    words = ciphers[opener].open(total, shares)
    return unpack(words, LENGTH, len(updates), parameters)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_both_ways_open_the_same_sum_to_the_same_integers(members, group, data):
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32))).integers
    updates = [draw(-127, 128, LENGTH).astype(np.int16) for _ in SITES]
    chosen = data.draw(st.permutations(SITES))[: data.draw(st.integers(THRESHOLD, 4))]
    opener = data.draw(st.sampled_from(SITES))
    alone = opened(members, parameter_set("packed-bfv-8"), updates, [], opener)
    together = opened(group, parameter_set("threshold-bfv-8"), updates, sorted(chosen), opener)
    for integers, weight in (alone, together):
        assert np.array_equal(integers, np.sum(updates, axis=0, dtype=np.int64))
        assert weight == 4 * 7


def test_a_member_needs_nobodys_share(members):
    updates = [np.zeros(LENGTH, dtype=np.int16)] * 4
    total = total_of(members, parameter_set("packed-bfv-8"), updates)
    assert members["east"].share(total, SITES) == b""
    assert np.array_equal(members["east"].open(total, {}), members["west"].open(total, {}))


def test_all_holds_on_one_key_have_its_name(members, group):
    for ciphers in (members, group):
        assert len({cipher.key_id for cipher in ciphers.values()}) == 1


def test_fewer_shares_than_a_quorum_open_nothing(group):
    updates = [np.zeros(LENGTH, dtype=np.int16)] * 4
    total = total_of(group, parameter_set("threshold-bfv-8"), updates)
    shares = {site: group[site].share(total, SITES[:3]) for site in SITES[:3]}
    for count in range(THRESHOLD):
        with pytest.raises(QuorumMissing):
            group["east"].open(total, dict(list(shares.items())[:count]))
    with pytest.raises(QuorumMissing):
        group["east"].share(total, SITES[:2])


def test_a_hospital_gives_no_share_for_a_quorum_without_it(group):
    total = total_of(group, parameter_set("threshold-bfv-8"), [np.zeros(LENGTH, np.int16)] * 4)
    with pytest.raises(QuorumInvalid):
        group["west"].share(total, SITES[:3])


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_parameter_set_serves_one_way_only_and_says_which(name):
    parameters = parameter_set(name)
    way, other = ("members", "threshold") if parameters.seeded else ("threshold", "members")
    check_way(parameters, way)
    with pytest.raises(OpeningMismatch, match=f"{name} does not serve opening by {other}"):
        check_way(parameters, other)


def test_an_update_packed_for_the_other_way_is_not_encrypted(members, group):
    for ciphers, name in ((members, "threshold-bfv-8"), (group, "packed-bfv-8")):
        updates = [np.zeros(LENGTH, dtype=np.int16)] * 4
        with pytest.raises(ForeignParameters):
            total_of(ciphers, parameter_set(name), updates)
