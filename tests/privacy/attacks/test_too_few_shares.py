"""One hospital opens everything in the reference; here t - 1 hold nothing and t hold enough."""

import secrets

import numpy as np
import pytest

from privacy import threshold
from privacy.bfv import ServerContext
from privacy.masks import remove
from privacy.packing import SumCorrupt, unpack
from privacy.sharing import PRIME, SHARE_BYTES, QuorumMissing, join, quorum, split
from privacy.threshold import DecryptionShareForeign
from tests.privacy.attacks.cohort import Cohort, looks_uniform
from tests.privacy.attacks.reference import opened

HOLDERS = 7
NEEDED = quorum(HOLDERS)


def test_in_the_reference_any_one_hospital_opens_every_upload(reference, updates, uploads):
    one = reference.another_client()
    for update, upload in zip(updates, uploads, strict=True):
        assert np.allclose(opened(one, upload), update, atol=1e-6)


def test_a_quorum_of_shares_joins_to_the_seed_whoever_is_in_it():
    seed = secrets.token_bytes(32)
    shares = split(seed, threshold=NEEDED, holders=HOLDERS)
    for absent in range(HOLDERS - NEEDED + 1):
        chosen = {place: shares[place] for place in range(absent, absent + NEEDED)}
        assert join(chosen, threshold=NEEDED) == seed


def test_one_share_fewer_fits_every_seed_there_is():
    """To whatever seed the attacker guesses there is a last share that makes it the right one."""
    known = dict(enumerate(split(bytes(32), threshold=NEEDED, holders=HOLDERS)[: NEEDED - 1]))
    for _ in range(5):
        guess = secrets.token_bytes(32)
        missing = share_that_would_make(guess, known, HOLDERS - 1)
        assert join({**known, HOLDERS - 1: missing}, threshold=NEEDED) == guess


def share_that_would_make(secret, known, place):
    """Return the value at ``place`` of the polynomial through the secret and the known shares."""
    points = {0: int.from_bytes(secret)} | {i + 1: int.from_bytes(v) for i, v in known.items()}
    value = 0
    for i, y in points.items():
        term = y
        for j in points:
            if j != i:
                term = term * (place + 1 - j) * pow(i - j, -1, PRIME) % PRIME
        value += term
    return (value % PRIME).to_bytes(SHARE_BYTES)


def test_joining_a_share_too_few_is_refused():
    shares = dict(enumerate(split(bytes(32), threshold=NEEDED, holders=HOLDERS)))
    del shares[0], shares[1], shares[2]
    with pytest.raises(QuorumMissing):
        join(shares, threshold=NEEDED)


# The collective key of opening by quorum: no hospital holds it, and t of them decrypt together.


@pytest.fixture(scope="module")
def masked_round(group):
    """A round of three sites under the collective key."""
    return Cohort.meet(3, group.parameters, length=2000, key=group.key)


@pytest.fixture(scope="module")
def masked_uploads(group, masked_round):
    return [threshold.encrypt(masked_round.masked[site], group.key) for site in masked_round.sites]


@pytest.fixture(scope="module")
def total(group, masked_uploads):
    return ServerContext(group.parameters).add(masked_uploads)


def test_any_quorum_opens_the_sum(group, masked_round, total):
    for quorum_ in ([0, 1, 2, 3], [0, 2, 3, 4], [0, 1, 2, 3, 4]):
        words = remove(group.open(total, quorum_), [masked_round.leftover()], group.parameters)
        sums, weight = unpack(words, 2000, 3, group.parameters)
        assert np.array_equal(sums, sum(one.astype(int) for one in masked_round.values.values()))
        assert weight == 3 * masked_round.weight


def test_one_holder_too_few_is_refused_by_who_gives_and_by_who_combines(group, total):
    with pytest.raises(QuorumMissing):
        threshold.partial(total, group.shares[0], [0, 1, 2])
    given = {i: threshold.partial(total, group.shares[i], [0, 1, 2, 3]) for i in range(3)}
    with pytest.raises(QuorumMissing):
        threshold.combine(total, given, group.key, threshold=group.key.threshold)


def test_one_holder_too_few_that_goes_on_regardless_gets_noise(group, masked_round, total):
    """The masks have been lifted here, so what hides the sum is the missing share alone."""
    words = remove(group.open(total, [1, 2, 4]), [masked_round.leftover()], group.parameters)
    with pytest.raises(SumCorrupt):
        unpack(words, 2000, 3, group.parameters)
    assert looks_uniform(words, group.parameters.plain_modulus)
    truth = sum(masked_round.packed(site).words.astype(object) for site in masked_round.sites)
    used = slice(3, 503)  # the slots that hold values
    both = [np.asarray(each[used], dtype=float) for each in (words, truth)]
    assert abs(np.corrcoef(both)[0, 1]) < 6 / np.sqrt(500)


def test_a_quorum_that_turns_on_one_site_opens_its_upload_to_noise(
    group, masked_round, masked_uploads
):
    """The key it could abuse lies around the masks, not in place of them."""
    alone = ServerContext(group.parameters).add(masked_uploads[:1])
    words = group.open(alone, [0, 1, 2, 3])
    assert np.array_equal(words, masked_round.masked[masked_round.sites[0]].words)
    assert looks_uniform(words, group.parameters.plain_modulus)


def test_a_share_of_a_decryption_serves_no_other_sum(group, masked_uploads, total):
    """So shares collected for the sum of a round do not open one of its uploads."""
    given = {i: threshold.partial(total, group.shares[i], [0, 1, 2, 3]) for i in range(4)}
    alone = ServerContext(group.parameters).add(masked_uploads[:1])
    with pytest.raises(DecryptionShareForeign):
        threshold.combine(alone, given, group.key, threshold=group.key.threshold)
