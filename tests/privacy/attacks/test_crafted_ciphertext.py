"""A ciphertext of the server's choice makes the reference tell its key; ours cannot be written."""

import math
import secrets
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from privacy import residues, threshold
from privacy.bfv import EncryptedSum, ServerContext, open_sum, sum_residues, update_residues
from privacy.evaluations import secret_key
from privacy.masks import apply, remove
from privacy.packing import SumCorrupt, pack, unpack
from privacy.quantisation import QuantisedUpdate
from privacy.randomness import RandomStream
from privacy.residues import SEED_BYTES, Kind
from privacy.ring import ring
from privacy.tags import SumAltered, check_tags, tag
from privacy.wire import MalformedCiphertext
from tests.privacy.attacks.cohort import Cohort, looks_uniform, rewritten, secret_of
from tests.privacy.attacks.key_recovery import is_ternary, recover
from tests.privacy.attacks.quorum_group import HOLDERS
from tests.privacy.attacks.reference import (
    DEGREE,
    SLOTS,
    crafted,
    opened,
    plaintext_words,
    primes,
    secret_polynomial,
)
from tests.privacy.attacks.transform import centred, forward


def ask_for_the_key(residues, moduli):
    """Write (0, 1) and (0, X): they decrypt to s and X s, small numbers without any noise."""
    x = np.zeros(DEGREE, dtype=int)
    x[1] = 1
    residues[:, 0] = 0
    for row, q in enumerate(moduli):
        residues[0, 1, row] = 1  # the transform of the polynomial 1
        residues[1, 1, row] = forward(x, q).astype(np.uint64)


def test_the_reference_decrypts_its_own_key_for_the_server(reference, uploads):
    """TenSEAL takes the ciphertext, and the hospital reports "the new model"."""
    moduli = primes(reference.server)[:-1]  # the special one is not in ciphertexts
    question = crafted(reference.server, uploads[0], lambda rows: ask_for_the_key(rows, moduli))
    answer = opened(reference.client, question)
    assert answer.size == 2 * SLOTS
    key = recover(reference.server, question, answer)
    assert is_ternary(key)
    assert np.array_equal(key, secret_polynomial(reference.client))


# Ours. SEAL itself is as obedient as TenSEAL; it is the format that has no words for the question.


def the_question(preset):
    """Return the residues of (0, floor(q/t)), whose decryption is the group key."""
    values = np.zeros((2, 1, preset.ring_degree), dtype=np.uint64)
    values[1, 0, 0] = preset.coeff_modulus[0] // preset.plain_modulus
    return values


def uniform(preset):
    (q,) = preset.data_modulus
    words = RandomStream.from_system().below(q, preset.ring_degree)
    return words.reshape(1, 1, 1, -1)


def as_sum(preset, key, values, seeds):
    """Return a sum of two in our format, of any residues and seeds that can be written."""
    packed = residues.pack(values, preset)
    blob = residues.write(Kind.SUM_SEEDED, seeds, packed, preset, contributors=2)
    return EncryptedSum(blob, key.key_id, preset.name, 10, 2)


def test_whoever_hands_such_a_ciphertext_to_seal_with_our_key_gets_that_key(preset, group_key):
    plaintext = sealapi.Plaintext()
    made = ring(preset)
    group_key.decryptor().decrypt(made.ciphertext(the_question(preset)), plaintext)
    slots = made.decode(plaintext)
    assert np.array_equal(coefficients(slots, preset), secret_of(group_key))


def coefficients(slots, preset):
    """Return the polynomial that has these slots, centred on zero."""
    words = plaintext_words(ring(preset).encode(slots), preset.ring_degree)[0].astype(object)
    return centred(words, preset.plain_modulus)


def test_our_format_has_no_room_for_a_second_polynomial(preset, group_key):
    """Both polynomials are the other format, and SEAL's and TenSEAL's own are none here."""
    question = the_question(preset)
    sum_of_two = as_sum(preset, group_key, uniform(preset), [secrets.token_bytes(64)] * 2)
    both = residues.pack_bits(question.reshape(2, -1), bits=60).tobytes()
    header = bytearray(sum_of_two.blob[: len(sum_of_two.blob) - 2 * 64 - len(both) // 2])
    header[4] = Kind.SUM_FULL
    header[10] = 2  # polynomials
    for blob in (bytes(header) + both, sum_of_two.blob[: len(header)] + both, b"\x0a\x02\x80\x20"):
        with pytest.raises(MalformedCiphertext):
            open_sum(replace(sum_of_two, blob=blob), group_key)


@settings(max_examples=20, deadline=None)
@given(seeds=st.lists(st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES), min_size=2, max_size=2))
def test_whatever_the_server_writes_the_second_polynomial_is_one_that_seeds_expand_to(
    preset, group_key, seeds
):
    """And those are random: none of them, nor a sum of them, is the question."""
    total = as_sum(preset, group_key, uniform(preset), seeds)
    (q,) = preset.data_modulus
    drawn = [
        ring(preset).ciphertext(np.zeros((1, 1, preset.ring_degree), np.uint64), seed)
        for seed in seeds
    ]
    added = sum(ring(preset).residues(one)[1].astype(object) for one in drawn) % q
    assert np.array_equal(sum_residues(total, preset)[0, 1], added)
    assert np.unique(added).size > preset.ring_degree - 10


@pytest.mark.parametrize("first", ["zero", "one", "uniform"])
def test_a_first_polynomial_of_the_servers_choice_is_refused_before_decryption(
    first, preset, group_key, monkeypatch
):
    """Under seeds of its choice too: it is not random, or its noise is not that of a sum."""
    values = {
        "zero": np.zeros((1, 1, 1, preset.ring_degree), np.uint64),
        "one": np.ones((1, 1, 1, preset.ring_degree), np.uint64),
        "uniform": uniform(preset),
    }[first]

    def plaintext():
        raise AssertionError("decryption was reached")

    for seeds in ([bytes(64)] * 2, [secrets.token_bytes(64), secrets.token_bytes(64)]):
        total = as_sum(preset, group_key, values, seeds)
        with monkeypatch.context() as patch:
            patch.setattr(sealapi, "Plaintext", plaintext)
            with pytest.raises(MalformedCiphertext):
                open_sum(total, group_key)


# By quorum both polynomials travel, so the question can be written; the tags stand before it.


@pytest.fixture(scope="module")
def quorum_round(group):
    """A sum of two, its tags, and what it holds; the masks are left out, as they hide no key."""
    draw = np.random.default_rng(6).integers(-127, 128, (2, 100)).astype(np.int16)
    packed = [
        pack(QuantisedUpdate(values, group.parameters.value_bits, 0), 1, group.parameters)
        for values in draw
    ]
    uploads = [threshold.encrypt(apply(each, []), group.key) for each in packed]
    seed = secrets.token_bytes(32)
    tags = [tag(upload, seed, group.parameters) for upload in uploads]
    return ServerContext(group.parameters).add(uploads), packed, seed, tags


def with_the_question(total, parameters):
    """Add (0, floor(q/t)) to an honest sum: it looks as random as before."""
    delta = math.prod(parameters.data_modulus) // parameters.plain_modulus

    def change(values):
        for row, q in enumerate(parameters.data_modulus):
            values[0, 1, row, 0] = (int(values[0, 1, row, 0]) + delta) % q

    return rewritten(total, change, parameters)


def test_a_quorum_without_tags_would_decrypt_the_key_that_nobody_holds(group, quorum_round):
    """Who knows the sum, say as all its contributors, subtracts it: s remains, and decrypts all."""
    total, packed, _, _ = quorum_round
    t = np.uint64(group.parameters.plain_modulus)
    known = (packed[0].words + packed[1].words) % t
    words = group.open(with_the_question(total, group.parameters), [0, 1, 2, 3])
    found = coefficients((words + t - known) % t, group.parameters)
    assert set(found) <= set(range(-HOLDERS, HOLDERS + 1))  # one ternary part of each holder
    assert np.array_equal(decrypted_under(found, total, group.parameters), known)


def decrypted_under(coefficients_, total, parameters):
    """Return the slots of a sum's first ciphertext, decrypted as whoever found the key does."""
    made = ring(parameters)
    words = [forward(coefficients_, q).astype(np.uint64) for q in parameters.coeff_modulus]
    plaintext = sealapi.Plaintext()
    sealapi.Decryptor(made.seal, secret_key(np.stack(words), made)).decrypt(
        made.ciphertext(sum_residues(total, parameters)[0]), plaintext
    )
    return made.decode(plaintext)


def test_the_tags_refuse_it_before_any_share_is_given(group, quorum_round):
    total, _, seed, tags = quorum_round
    check_tags(total, tags, seed, group.parameters)
    with pytest.raises(SumAltered):
        check_tags(with_the_question(total, group.parameters), tags, seed, group.parameters)


def test_the_bare_question_is_not_random_and_refused_by_every_holder(group, quorum_round):
    total, *_ = quorum_round

    def change(values):
        values[:] = 0
        values[0, 1, :, 0] = 1

    for holder in range(HOLDERS):
        with pytest.raises(MalformedCiphertext):
            threshold.partial(
                rewritten(total, change, group.parameters), group.shares[holder], range(HOLDERS)
            )


# What no tag can tell: a hospital's own upload is what it says it is. The masks are for that.


def test_a_hospital_that_uploads_the_question_learns_the_key_and_still_reads_no_update(group):
    """It is in the sum, so it opens it, and knows all but one slot of the second ciphertext."""
    parameters, n = group.parameters, group.parameters.ring_degree
    length = parameters.fields * (n - 2)  # one slot of the second ciphertext is used
    cohort = Cohort.meet(3, parameters, length=length, key=group.key)
    uploads = [threshold.encrypt(cohort.masked[site], group.key) for site in cohort.sites]
    uploads[0] = asking(uploads[0], parameters)
    total = cohort.added(uploads)
    seed = secrets.token_bytes(32)
    check_tags(total, [tag(one, seed, parameters) for one in uploads], seed, parameters)
    opened_words = group.open(total, [0, 1, 2, 3])
    words = remove(opened_words, [cohort.leftover()], parameters)
    with pytest.raises(SumCorrupt):  # for the others the round is lost
        unpack(words, length, 3, parameters)

    found = key_behind_one_slot(words[n:], 3 * 2, parameters)
    others = cohort.added(uploads[1:2])
    read = decrypted_under(found, others, parameters)
    assert np.array_equal(read, cohort.masked[cohort.sites[1]].words[:n])
    assert looks_uniform(read, parameters.plain_modulus)


def asking(upload, parameters):
    """Return an upload with the question added to its second ciphertext."""
    delta = math.prod(parameters.data_modulus) // parameters.plain_modulus
    values = update_residues(upload, parameters).copy()
    for row, q in enumerate(parameters.data_modulus):
        values[1, 1, row, 0] = (int(values[1, 1, row, 0]) + delta) % q
    packed = residues.pack(values, parameters)
    return replace(upload, blob=residues.write(Kind.UPLOAD_FULL, [], packed, parameters))


def key_behind_one_slot(slots, check_word, parameters):
    """Return the small s whose slots these are, but for a check word and one slot's value."""
    t = parameters.plain_modulus
    slots = slots.copy()
    slots[0] = (int(slots[0]) - check_word) % t
    unit = np.zeros_like(slots)
    unit[1] = 1
    seen, basis = coefficients(slots, parameters), coefficients(unit, parameters)
    for guess in range(-HOLDERS, HOLDERS + 1):  # of the first coefficient
        value = (int(seen[0]) - guess) * pow(int(basis[0]), -1, t) % t
        found = centred((seen - value * basis) % t, t)
        if abs(found).max() <= HOLDERS:
            return found
    raise AssertionError("no key fits")
