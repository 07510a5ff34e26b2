"""A quorum opens the exact sum, fewer open noise, and no share serves for anything else."""

from contextlib import suppress
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy import polynomials, tags
from privacy.bfv import (
    EncryptedSum,
    ForeignKeyCiphertext,
    ForeignParameters,
    ServerContext,
    sum_residues,
    update_residues,
)
from privacy.masks import MaskedUpdate, apply, remove
from privacy.packing import SumCorrupt, pack, unpack
from privacy.parameters import TooManySites, parameter_set
from privacy.polynomial_sharing import weights
from privacy.quantisation import QuantisedUpdate
from privacy.randomness import RandomStream
from privacy.residues import MalformedCiphertext
from privacy.ring import ring
from privacy.sharing import QuorumMissing
from privacy.threshold import (
    SMUDGING,
    DecryptionShareForeign,
    DecryptionShareMalformed,
    QuorumInvalid,
    _multiplied,
    combine,
    encrypt,
    partial,
    share_bytes,
)
from tests.privacy.collective import PARAMETERS, group, masked, summed
from tests.privacy.threshold_twin import centred, decrypt, phase

N, LENGTH = PARAMETERS.ring_degree, 100
ALL = [0, 1, 2, 3]
HEADING = 4 + 1 + 8 + 4 + 32


@pytest.fixture(scope="module")
def four():
    return group(4, 3)


@pytest.fixture(scope="module")
def values():
    generator = np.random.default_rng(1)
    return [generator.integers(-127, 128, LENGTH) for _ in range(3)]


@pytest.fixture(scope="module")
def total(four, values):
    return summed(values, four.key)


def slots(words):
    return unpack(words, LENGTH, 3, PARAMETERS)[0]


# Opening


@pytest.mark.parametrize("size", [3, 4])
def test_any_quorum_opens_the_exact_sum(four, values, total, size):
    for quorum in combinations(range(4), size):
        assert np.array_equal(slots(four.open(total, list(quorum))), sum(values))


@settings(max_examples=15, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_the_opened_sum_is_the_sum_mod_t_of_any_slots(four, data, seed):
    quorum = data.draw(st.permutations(ALL))[: data.draw(st.integers(3, 4))]
    stream = RandomStream.from_seed(seed)
    words = [stream.below(PARAMETERS.plain_modulus, N) for _ in range(data.draw(st.integers(1, 4)))]
    updates = [encrypt(MaskedUpdate(one, LENGTH, PARAMETERS), four.key) for one in words]
    opened = four.open(ServerContext(PARAMETERS).add(updates), quorum)
    expected = [sum(map(int, row)) % PARAMETERS.plain_modulus for row in zip(*words, strict=True)]
    assert opened.tolist() == expected


def test_64_uploads_of_extremes_open_exactly_with_16_holders():
    many = group(16, 11)
    update = encrypt(masked(np.full(LENGTH, 127)), many.key)
    more = [encrypt(masked(np.full(LENGTH, -127)), many.key) for _ in range(20)]
    opened = many.open(ServerContext(PARAMETERS).add([update] * 44 + more), list(range(5, 16)))
    sums, weight = unpack(opened, LENGTH, 64, PARAMETERS)
    assert weight == 64
    assert (sums == 24 * 127).all()


@pytest.mark.slow
def test_64_uploads_open_exactly_with_64_holders_all_of_them_answering():
    many = group(64, 43)
    updates = [encrypt(masked(np.full(LENGTH, 127)), many.key) for _ in range(64)]
    opened = many.open(ServerContext(PARAMETERS).add(updates), list(range(64)))
    assert (unpack(opened, LENGTH, 64, PARAMETERS)[0] == 64 * 127).all()


def test_several_ciphertexts_open_in_order(four):
    length = 2 * N * PARAMETERS.fields
    values = np.random.default_rng(2).integers(-127, 128, length)
    assert PARAMETERS.ciphertexts(length) == 3
    opened = four.open(summed([values], four.key), [1, 2, 3])
    assert np.array_equal(unpack(opened, length, 1, PARAMETERS)[0], values)


def test_masks_come_off_after_opening(four, values):
    stream = RandomStream.from_system()
    pads = [stream.below(PARAMETERS.plain_modulus, N) for _ in values]
    updates = [
        encrypt(
            apply(pack(QuantisedUpdate(v.astype(np.int16), 8, 0), 1, PARAMETERS), [p]), four.key
        )
        for v, p in zip(values, pads, strict=True)
    ]
    opened = four.open(ServerContext(PARAMETERS).add(updates), [0, 1, 2])
    with pytest.raises(SumCorrupt):
        slots(opened)
    assert np.array_equal(slots(remove(opened, pads, PARAMETERS)), sum(values))


def test_the_slow_twin_with_the_whole_secret_decrypts_the_same(four, values, total):
    ciphertext = sum_residues(total, PARAMETERS)[0]
    opened = ring(PARAMETERS).encode(four.open(total, [0, 1, 3]))
    message = decrypt(ciphertext, four.secret())
    assert message == [opened[i] if i < opened.coeff_count() else 0 for i in range(N)]


# Fewer than a quorum


def test_a_share_too_few_opens_noise(four, values, total):
    two = [replace(share, threshold=2) for share in four.shares[:2]]
    shares = {share.index: partial(total, share, [0, 1]) for share in two}
    noise = combine(total, shares, four.key, threshold=2)
    with pytest.raises(SumCorrupt):
        slots(noise)
    truth = four.open(total, [0, 1, 2])
    assert not (noise == truth).any()
    assert abs(np.corrcoef(noise.astype(float), truth.astype(float))[0, 1]) < 0.1
    top = (noise // np.uint64(PARAMETERS.plain_modulus // 16 + 1)).astype(int)
    assert stats.chisquare(np.bincount(top, minlength=16)).pvalue > 1e-4


def test_two_honest_shares_and_a_forged_third_open_noise(four, total):
    shares = four.partials(total, [0, 1, 2])
    stranger = group(4, 3, b"a group of strangers").shares[2]
    shares[2] = partial(total, replace(stranger, key_id=four.key.key_id), [0, 1, 2])
    with pytest.raises(SumCorrupt):
        slots(combine(total, shares, four.key, threshold=3))


def test_fewer_holders_than_the_threshold_are_not_answered(four, total):
    with pytest.raises(QuorumMissing) as refusal:
        partial(total, four.shares[0], [0, 1])
    assert (refusal.value.found, refusal.value.needed) == (2, 3)


def test_too_few_shares_are_not_combined(four, total):
    shares = four.partials(total, [0, 1, 2])
    del shares[1]
    with pytest.raises(QuorumMissing):
        combine(total, shares, four.key, threshold=3)


# What a share is for


def test_a_share_for_another_quorum_is_refused_and_named(four, total):
    shares = four.partials(total, [0, 1, 2])
    shares[2] = partial(total, four.shares[2], [0, 2, 3])
    with pytest.raises(DecryptionShareForeign) as refusal:
        combine(total, shares, four.key, threshold=3)
    assert (refusal.value.index, refusal.value.what) == (2, "quorum")


def test_a_share_for_another_sum_is_refused_and_named(four, values, total):
    shares = four.partials(total, [0, 1, 2])
    shares[1] = partial(summed(values, four.key), four.shares[1], [0, 1, 2])
    with pytest.raises(DecryptionShareForeign) as refusal:
        combine(total, shares, four.key, threshold=3)
    assert (refusal.value.index, refusal.value.what) == (1, "sum")


def test_a_share_handed_in_for_another_holder_is_refused(four, total):
    shares = four.partials(total, [0, 1, 2])
    shares[0] = shares[1]
    with pytest.raises(DecryptionShareMalformed) as refusal:
        combine(total, shares, four.key, threshold=3)
    assert refusal.value.index == 0


@pytest.mark.parametrize("quorum", [[0, 1, 1], [0, 1, 4], [0, -1, 2], [1, 2, 3]])
def test_a_quorum_that_repeats_invents_or_leaves_out_is_refused(four, total, quorum):
    with pytest.raises(QuorumInvalid):
        partial(total, four.shares[0], quorum)


def test_a_share_of_a_holder_there_is_not_is_refused(four, total):
    shares = four.partials(total, [0, 1, 2])
    shares[4] = shares.pop(2)
    with pytest.raises(QuorumInvalid):
        combine(total, shares, four.key, threshold=3)


# Sums that are not answered


def test_a_sum_under_another_key_is_refused(four, values):
    foreign = summed(values, group(4, 3, b"a group of strangers").key)
    with pytest.raises(ForeignKeyCiphertext):
        partial(foreign, four.shares[0], [0, 1, 2])
    with pytest.raises(ForeignKeyCiphertext):
        combine(foreign, dict.fromkeys(ALL, b""), four.key, threshold=3)


def test_a_sum_of_another_parameter_set_is_refused(four, total):
    with pytest.raises(ForeignParameters):
        partial(replace(total, parameters="packed-bfv-8"), four.shares[0], [0, 1, 2])


def test_an_update_of_another_parameter_set_is_not_encrypted(four):
    other = parameter_set("packed-bfv-8")
    packed = pack(QuantisedUpdate(np.zeros(3, dtype=np.int16), 8, 0), 1, other)
    with pytest.raises(ForeignParameters):
        encrypt(apply(packed, []), four.key)


def test_a_sum_of_more_sites_than_fit_is_refused(four, total):
    with pytest.raises(TooManySites):
        partial(replace(total, sites=65), four.shares[0], [0, 1, 2])


@pytest.mark.parametrize("change", ["cut", "longer", "constant"])
def test_a_broken_or_crafted_sum_is_refused(four, total, change):
    blob, half = total.blob, (len(total.blob) - 13) // 2
    crafted = {
        "cut": blob[:-1],
        "longer": blob + b"\0",
        # A second polynomial of zeros but for one number would multiply the secret by it.
        "constant": blob[:-half] + b"\1" + bytes(half - 1),
    }
    with pytest.raises(MalformedCiphertext):
        partial(replace(total, blob=crafted[change]), four.shares[0], [0, 1, 2])


def test_a_crafted_sum_would_give_the_secret_away_and_is_stopped_by_its_tags(four, values):
    updates = [encrypt(masked(one), four.key) for one in values]
    honest = ServerContext(PARAMETERS).add(updates)
    seed = bytes(range(32))
    shown = [tags.tag(update, seed, PARAMETERS) for update in updates]
    tags.check_tags(honest, shown, seed, PARAMETERS)
    blob = bytearray(honest.blob)
    blob[-9] ^= 1  # one bit of one residue of the second polynomial
    with pytest.raises(tags.SumAltered):
        tags.check_tags(replace(honest, blob=bytes(blob)), shown, seed, PARAMETERS)


# Noise


def test_asked_again_for_the_same_a_holder_gives_the_same_bytes(four, total):
    first, second = (partial(total, four.shares[0], [0, 1, 2]) for _ in range(2))
    assert first == second == partial(total, four.shares[0], [2, 0, 1])


def test_each_sum_and_each_quorum_gets_noise_of_its_own(four, values):
    total = summed(values, four.key)
    noises = [noise_of(total, four.shares[0], quorum) for quorum in ([0, 1, 2], [0, 1, 3], ALL)]
    other = summed(values, four.key)
    noises += [noise_of(other, four.shares[0], [0, 1, 2]), noise_of(total, four.shares[1], ALL)]
    for noise in noises:
        assert 0.95 < noise.std() / 2.0**48 < 1.05
    for one, another in combinations(noises, 2):
        assert abs(np.corrcoef(one.astype(float), another.astype(float))[0, 1]) < 0.06


def noise_of(total, share, quorum):
    """What a decryption share has beyond c_1 l S."""
    primes = PARAMETERS.data_modulus
    sent = polynomials.unpack(partial(total, share, quorum)[HEADING:], primes, N)
    factor = polynomials.multiply(share.values, weights(share.index, quorum, primes), primes)
    product = _multiplied(sum_residues(total, PARAMETERS)[:, 1], factor, ring(PARAMETERS))
    return centred(polynomials.add(sent, polynomials.negate(product, primes), primes)[0])


def test_a_sums_own_noise_is_what_the_smudging_was_sized_for(four):
    uploads = 3
    zero = MaskedUpdate(np.zeros(N, dtype=np.uint64), LENGTH, PARAMETERS)
    total = ServerContext(PARAMETERS).add([encrypt(zero, four.key) for _ in range(uploads)])
    noise = phase(sum_residues(total, PARAMETERS)[0], four.secret()).astype(float)
    expected = (uploads * 4 * N / 18) ** 0.5
    assert 0.9 < noise.std() / expected < 1.1
    assert float(SMUDGING.sigma) / noise.std() > 2**40


def test_encrypting_twice_gives_unrelated_ciphertexts(four, values):
    first, second = (encrypt(masked(values[0]), four.key) for _ in range(2))
    both = [update_residues(one, PARAMETERS) for one in (first, second)]
    assert not (both[0] == both[1]).any()


# Bytes


def test_uploads_and_shares_stay_below_their_bytes_per_parameter():
    assert share_bytes(1_000_000, PARAMETERS) < 3.9 * 1_000_000
    length = 2 * (N - 1) * PARAMETERS.fields
    update = encrypt(masked(np.zeros(length)), group(4, 3).key)
    assert len(update.blob) < 2 * 8.2 * length


def test_a_share_has_its_stated_size(four, total):
    assert len(partial(total, four.shares[0], [0, 1, 2])) == share_bytes(LENGTH, PARAMETERS)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_changed_share_is_refused_or_opens_noise(four, values, total, data):
    shares = opened_with(four, total)
    blob = bytearray(shares[1])
    cut = data.draw(st.sampled_from([len(blob), 0, 3, HEADING, len(blob) - 1, len(blob) // 2]))
    blob = blob[:cut] + data.draw(st.binary(max_size=3))
    for _ in range(data.draw(st.integers(0, 3))):
        if blob:
            where = st.one_of(st.integers(0, min(60, len(blob) - 1)), st.integers(0, len(blob) - 1))
            blob[data.draw(where)] ^= data.draw(st.integers(1, 255))
    try:
        words = combine(total, {**shares, 1: bytes(blob)}, four.key, threshold=3)
    except (DecryptionShareMalformed, DecryptionShareForeign) as refusal:
        assert refusal.index == 1
        return
    assert words.shape == (N,)
    with suppress(SumCorrupt):
        # A low bit may drown in the noise there is; then the sum is the sum still.
        assert np.array_equal(slots(words), sum(values))


@given(blob=st.binary(max_size=200))
def test_random_bytes_are_no_share(four, total, blob):
    shares = opened_with(four, total)
    with pytest.raises(DecryptionShareMalformed):
        combine(total, {**shares, 1: blob}, four.key, threshold=3)


def test_a_residue_that_is_not_below_its_prime_is_refused(four, total):
    shares = opened_with(four, total)
    shares = {**shares, 1: shares[1][:-8] + b"\xff" * 8}
    with pytest.raises(DecryptionShareMalformed):
        combine(total, shares, four.key, threshold=3)


KEPT: dict[EncryptedSum, dict[int, bytes]] = {}


def opened_with(four, total):
    if total not in KEPT:
        KEPT[total] = four.partials(total, [0, 1, 2])
    return KEPT[total]
