"""Parts add up to a key that nobody holds, and hostile parts and shares are refused by name."""

import hashlib
import pickle
from contextlib import suppress
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy import evaluations, polynomial_sharing, polynomials
from privacy.key_generation import (
    ERROR,
    HOLDERS_MAX,
    CollectiveKey,
    CollectiveKeyMalformed,
    KeyPartChanged,
    KeyPartMalformed,
    KeyShare,
    KeyShareMalformed,
    check_commitments,
    collective_key,
    commitment,
    common_polynomial,
    contribute,
    join_shares,
)
from privacy.parameters import parameter_set
from privacy.ring import ring
from tests.privacy.collective import CONTEXT, PARAMETERS, group
from tests.privacy.threshold_twin import centred, coefficients

KEYS, DATA, N = PARAMETERS.coeff_modulus, PARAMETERS.data_modulus, PARAMETERS.ring_degree
QUORUM, HOLDERS = 3, 4


@pytest.fixture(scope="module")
def four():
    return group(HOLDERS, QUORUM)


def secret_of(part):
    """The secret of one part, from its shares; mod the primes of ciphertexts."""
    length = 2 * N * 60 // 8
    shares = {
        i: polynomials.unpack(share[-length:], DATA, N)[0] for i, share in enumerate(part.shares)
    }
    return polynomial_sharing.join(shares, primes=DATA)


def public_of(part):
    return polynomials.unpack(part.public[-3 * N * 60 // 8 :], KEYS, N)[0]


# What is made


def test_a_secret_is_ternary_each_value_a_third_of_the_time(four):
    found = np.concatenate([centred(coefficients(secret_of(part))) for part in four.parts])
    counts = [int((found == value).sum()) for value in (-1, 0, 1)]
    assert sum(counts) == found.size
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_part_is_the_product_with_the_common_polynomial_but_for_a_small_error(four):
    common = common_polynomial(PARAMETERS, four.key.context)[:2]
    for part in four.parts:
        product = polynomials.multiply(common, secret_of(part), DATA)
        error = centred(coefficients(polynomials.add(product, public_of(part)[:2], DATA)))
        assert np.abs(error).max() <= ERROR.largest
        assert 3.0 < error.std() < 3.4


def test_the_special_prime_has_the_same_secret_and_error(four):
    part = four.parts[0]
    common, secret = common_polynomial(PARAMETERS, four.key.context), secret_of(part)
    small = evaluations.evaluate(centred(coefficients(secret)).astype(np.int64), ring(PARAMETERS))
    product = polynomials.add(polynomials.multiply(common, small, KEYS), public_of(part), KEYS)
    error = centred(coefficients(product[:2])).astype(np.int64)
    assert np.array_equal(product, evaluations.evaluate(error, ring(PARAMETERS)))


def test_the_collective_secret_is_the_sum_of_all(four):
    total = sum(centred(coefficients(secret_of(part))) for part in four.parts)
    assert np.array_equal(centred(coefficients(four.secret())), total)


def test_every_quorum_of_joined_shares_determines_the_same_secret(four):
    for left_out in range(HOLDERS):
        shares = {s.index: s.values for s in four.shares if s.index != left_out}
        assert np.array_equal(polynomial_sharing.join(shares, primes=DATA), four.secret())


def test_the_common_polynomial_depends_on_context_and_parameters_alone(four):
    again = common_polynomial(PARAMETERS, four.key.context)
    assert np.array_equal(again, common_polynomial(PARAMETERS, four.key.context))
    other = common_polynomial(PARAMETERS, hashlib.sha256(b"another").digest())
    assert not (again == other).any()
    halves = (again // np.uint64(2**59)).reshape(-1)
    assert stats.chisquare(np.bincount(halves.astype(int), minlength=2)).pvalue > 1e-4


def test_no_object_holds_the_secret_or_that_of_a_part(four):
    secrets = [four.secret(), *(secret_of(part) for part in four.parts)]
    held = [four.key.values, *(share.values for share in four.shares)]
    for made in [*four.parts, four.key, *four.shares]:
        arrays = [v for f in fields(made) if isinstance(v := getattr(made, f.name), np.ndarray)]
        assert all(any(one is known for known in held) for one in arrays)
    for array in held:
        assert not any(np.array_equal(array[:2], secret) for secret in secrets)


def test_two_contributions_have_nothing_in_common():
    first, second = (
        contribute(PARAMETERS, threshold=2, holders=2, context=CONTEXT) for _ in range(2)
    )
    assert not (public_of(first) == public_of(second)).any()
    assert first.commitment != second.commitment


def test_a_key_id_names_the_parts_and_their_order(four):
    turned = joined_key(reversed([part.public for part in four.parts]))
    assert turned.key_id != four.key.key_id
    assert {share.key_id for share in four.shares} == {four.key.key_id}


def joined_key(publics, context=CONTEXT):
    return collective_key(list(publics), PARAMETERS, context=context)


# What is refused


def test_a_part_that_was_not_committed_to_is_named(four):
    publics = [part.public for part in four.parts]
    commitments = [part.commitment for part in four.parts]
    check_commitments(publics, commitments)
    rogue = contribute(PARAMETERS, threshold=QUORUM, holders=HOLDERS, context=CONTEXT).public
    with pytest.raises(KeyPartChanged) as refusal:
        check_commitments([*publics[:3], rogue], commitments)
    assert refusal.value.index == 3


def test_without_commitments_the_last_site_could_choose_the_key(four):
    own = contribute(PARAMETERS, threshold=QUORUM, holders=HOLDERS, context=CONTEXT)
    others = [part.public for part in four.parts[:3]]
    cancelled = public_of(own)
    for part in four.parts[:3]:
        cancelled = polynomials.add(cancelled, polynomials.negate(public_of(part), KEYS), KEYS)
    rogue = own.public[: -3 * N * 60 // 8] + polynomials.pack(cancelled, KEYS)
    assert np.array_equal(joined_key([*others, rogue]).values, public_of(own))
    with pytest.raises(KeyPartChanged):
        check_commitments([*others, rogue], [commitment(one) for one in (*others, own.public)])


def test_a_part_for_another_context_is_refused(four):
    publics = [part.public for part in four.parts]
    with pytest.raises(KeyPartMalformed):
        joined_key(publics, b"another epoch")


def test_a_missing_part_is_noticed(four):
    with pytest.raises(KeyPartMalformed):
        joined_key([part.public for part in four.parts[:3]])


def test_a_part_shown_twice_is_refused(four):
    publics = [part.public for part in four.parts]
    with pytest.raises(KeyPartMalformed) as refusal:
        joined_key([*publics[:3], publics[0]])
    assert refusal.value.index == 3


def test_a_part_that_asks_for_a_lower_threshold_is_named(four):
    lower = contribute(PARAMETERS, threshold=2, holders=HOLDERS, context=CONTEXT).public
    publics = [part.public for part in four.parts]
    with pytest.raises(KeyPartMalformed) as refusal:
        joined_key([*publics[:2], lower, publics[3]])
    assert refusal.value.index == 2


def test_a_share_for_another_holder_is_refused_and_its_dealer_named(four):
    shares = [part.shares[1] for part in four.parts]
    shares[2] = four.parts[2].shares[0]
    with pytest.raises(KeyShareMalformed) as refusal:
        join_shares(shares, PARAMETERS, index=1)
    assert refusal.value.index == 2


def test_shares_of_another_holder_throughout_are_refused(four):
    with pytest.raises(KeyShareMalformed):
        join_shares([part.shares[1] for part in four.parts], PARAMETERS, index=0)


def test_a_share_of_a_part_outside_the_key_is_refused(four):
    other = contribute(PARAMETERS, threshold=QUORUM, holders=HOLDERS, context=CONTEXT)
    shares = [*(part.shares[0] for part in four.parts[:3]), other.shares[0]]
    with pytest.raises(KeyShareMalformed) as refusal:
        join_shares(shares, PARAMETERS, index=0, key=four.key)
    assert refusal.value.index == 3
    assert join_shares(shares, PARAMETERS, index=0).key_id != four.key.key_id


def test_a_missing_share_is_noticed(four):
    with pytest.raises(KeyShareMalformed):
        join_shares([part.shares[0] for part in four.parts[:3]], PARAMETERS, index=0)


@pytest.mark.parametrize(("threshold", "holders"), [(1, 3), (4, 3), (2, HOLDERS_MAX + 1)])
def test_a_threshold_of_one_or_above_the_holders_is_a_mistake(threshold, holders):
    with pytest.raises(AssertionError):
        contribute(PARAMETERS, threshold=threshold, holders=holders, context=CONTEXT)


def test_a_set_whose_members_hold_the_key_has_no_collective_one():
    members = parameter_set("packed-bfv-8")
    with pytest.raises(AssertionError):
        contribute(members, threshold=2, holders=2, context=CONTEXT)


# Secrets stay secret


def test_a_share_shows_and_pickles_nothing(four):
    share = four.shares[0]
    assert repr(share) == f"KeyShare(0 of {four.key.key_id})"
    assert "shares" not in repr(four.parts[0])
    with pytest.raises(TypeError):
        pickle.dumps(share)


# Bytes


def test_keys_and_shares_are_read_back(four):
    key = CollectiveKey.from_bytes(four.key.to_bytes(), PARAMETERS)
    assert key.to_bytes() == four.key.to_bytes()
    assert (key.key_id, key.threshold, key.holders) == (four.key.key_id, QUORUM, HOLDERS)
    for share in four.shares:
        read = KeyShare.from_bytes(share.to_bytes(), PARAMETERS)
        assert read.to_bytes() == share.to_bytes()
        assert (read.index, read.threshold, read.key_id) == (share.index, QUORUM, share.key_id)


def forms(four):
    """Every form: a name, honest bytes, a reader that returns bytes again, and its refusal."""
    publics = [part.public for part in four.parts]
    dealt = [part.shares[2] for part in four.parts]

    def part(blob):
        joined_key([*publics[:3], blob])
        return blob

    def share(blob):
        join_shares([*dealt[:3], blob], PARAMETERS, index=2, key=four.key)
        return blob

    return {
        "key": (
            four.key.to_bytes(),
            lambda blob: CollectiveKey.from_bytes(blob, PARAMETERS).to_bytes(),
            CollectiveKeyMalformed,
        ),
        "joined": (
            four.shares[2].to_bytes(),
            lambda blob: KeyShare.from_bytes(blob, PARAMETERS).to_bytes(),
            KeyShareMalformed,
        ),
        "part": (publics[3], part, KeyPartMalformed),
        "share": (dealt[3], share, KeyShareMalformed),
    }


FORMS = ["key", "joined", "part", "share"]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_changed_bytes_are_refused_or_are_the_only_way_to_write_what_they_say(four, form, data):
    honest, read, refusal = forms(four)[form]
    blob = bytearray(honest)
    cut = data.draw(st.sampled_from([len(blob), 0, 3, 6, 8, 40, len(blob) - 1, len(blob) // 2]))
    blob = blob[:cut] + data.draw(st.binary(max_size=3))
    for _ in range(data.draw(st.integers(0, 3))):
        if blob:
            where = st.one_of(st.integers(0, min(50, len(blob) - 1)), st.integers(0, len(blob) - 1))
            blob[data.draw(where)] ^= data.draw(st.integers(1, 255))
    with suppress(refusal):
        assert read(bytes(blob)) == bytes(blob)


@pytest.mark.parametrize("form", FORMS)
@given(blob=st.binary(max_size=300))
def test_random_bytes_are_refused(four, form, blob):
    _, read, refusal = forms(four)[form]
    with pytest.raises(refusal):
        read(blob)


@pytest.mark.parametrize("form", FORMS)
def test_a_residue_that_is_not_below_its_prime_is_refused(four, form):
    honest, read, refusal = forms(four)[form]
    with pytest.raises(refusal):
        read(honest[:-8] + b"\xff" * 8)


@pytest.mark.slow
def test_the_largest_group_makes_a_key():
    made = group(HOLDERS_MAX, 43)
    shares = {share.index: share.values for share in made.shares[21:]}
    secret = centred(coefficients(polynomial_sharing.join(shares, primes=DATA)))
    assert np.abs(secret).max() <= HOLDERS_MAX
    assert abs(secret.std() - np.sqrt(HOLDERS_MAX * 2 / 3)) < 0.3
