"""Tags of honest uploads add up to that of their sum; with one altered or dropped, they do not."""

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy import residues, tags
from privacy.bfv import (
    ForeignParameters,
    ServerContext,
    generate_key,
    sum_residues,
    update_residues,
)
from privacy.parameters import PRESETS, TooManySites, parameter_set
from privacy.tags import VECTORS, Coefficients, SumAltered, check_tags, readd, tag, tag_residues
from privacy.wire import MalformedCiphertext

SEED = bytes(range(32))
Q = parameter_set("packed-bfv-8").data_modulus[0]
HEADER = 17


@pytest.fixture(scope="module", params=sorted(PRESETS))
def honest(request, upload):
    """Three uploads, their sum and their tags, for each parameter set."""
    parameters = parameter_set(request.param)
    key = generate_key(parameters)
    updates = [upload(key, np.full(20_000, i)) for i in (1, 2, 3)]
    total = ServerContext(parameters).add(updates)
    return parameters, updates, total, [tag(update, SEED, parameters) for update in updates]


def test_tags_of_honest_uploads_pass_in_any_order(honest):
    parameters, updates, total, found = honest
    check_tags(total, found, SEED, parameters)
    check_tags(total, found[::-1], SEED, parameters)
    check_tags(ServerContext(parameters).add(updates[::-1]), found, SEED, parameters)
    readd(updates, total, parameters)


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.one_of(st.integers(0, Q - 1), st.just(Q - 1)), min_size=1, max_size=9),
    repeat=st.sampled_from([1, 700]),
)
def test_a_tag_is_the_inner_product(numbers, repeat):
    values = np.array(numbers * repeat, dtype=np.uint64)
    vector = Coefficients(SEED, Q, 0).next(values.size)
    expected = sum(int(a) * int(b) for a, b in zip(values, vector, strict=True)) % Q
    assert tags._inner_product(values, Coefficients(SEED, Q, 0), Q) == expected


def test_the_largest_residues_are_added_exactly(monkeypatch):
    """Every limb and every sum of limbs at its largest."""
    monkeypatch.setattr(Coefficients, "next", lambda _, n: np.full(n, 2**60 - 1, dtype=np.uint64))
    values = np.full(3 * tags._BATCH + 5, 2**60 - 1, dtype=np.uint64)
    expected = values.size * (2**60 - 1) ** 2 % Q
    assert tags._inner_product(values, Coefficients(SEED, Q, 0), Q) == expected


def test_a_tag_covers_every_polynomial_and_prime(honest):
    parameters, updates, _, found = honest
    values = update_residues(updates[0], parameters)
    for index in np.ndindex(values.shape[:3]):
        changed = values.copy()
        changed[(*index, 77)] ^= 1
        other = tag_residues(changed, SEED, parameters)
        differs = [a != b for a, b in zip(other, found[0], strict=True)]
        one_vector = [i == index[2] for i in range(len(parameters.data_modulus))]
        assert differs == one_vector * VECTORS


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from([Q, 2**59 + 1, 2**60 - 1]),
    st.integers(0, VECTORS - 1),
)
def test_a_vector_is_the_keystreams_words_below_the_prime(first, second, prime, number):
    """A slow twin: AES-256-CTR under HKDF-SHA256 of the seed, a word at a time."""
    info = b"bithive tag\n" + prime.to_bytes(8, "big") + bytes([number])
    key = HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(SEED)
    keystream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    expected = []
    while len(expected) < first + second:
        word = int.from_bytes(keystream.update(bytes(8)), "little") >> (64 - prime.bit_length())
        expected += [word] if word < prime else []
    vector = Coefficients(SEED, prime, number)
    assert vector.next(first).tolist() + vector.next(second).tolist() == expected


def test_batches_do_not_show(honest, monkeypatch):
    parameters, updates, _, found = honest
    monkeypatch.setattr(tags, "_BATCH", 2 * tags._TERMS)
    assert tag(updates[0], SEED, parameters) == found[0]


def test_another_seed_gives_other_tags(honest):
    parameters, updates, total, found = honest
    other = bytes(32)
    assert tag(updates[0], other, parameters) != found[0]
    with pytest.raises(SumAltered):
        check_tags(total, found, other, parameters)


# What must not pass


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_one_altered_bit_of_the_sum_is_found(honest, data):
    """Of a residue or of a seed, wherever it is."""
    parameters, _, total, found = honest
    blob = bytearray(total.blob)
    position = data.draw(st.integers(HEADER, len(blob) - 1))
    blob[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((SumAltered, MalformedCiphertext)):
        check_tags(replace(total, blob=bytes(blob)), found, SEED, parameters)


def test_a_dropped_upload_is_found(honest):
    parameters, updates, _, found = honest
    short = ServerContext(parameters).add(updates[:2])
    with pytest.raises(SumAltered, match="3 tags came for 2 uploads"):
        check_tags(short, found, SEED, parameters)
    instead = ServerContext(parameters).add([*updates[:2], updates[0]])
    with pytest.raises(SumAltered, match="do not add up"):
        check_tags(instead, found, SEED, parameters)
    check_tags(short, found[:2], SEED, parameters)


def test_a_doubled_upload_is_found(honest):
    parameters, updates, _, found = honest
    doubled = ServerContext(parameters).add([*updates, updates[0]])
    with pytest.raises(SumAltered):
        check_tags(doubled, found, SEED, parameters)
    with pytest.raises(SumAltered):
        check_tags(doubled, [*found, found[1]], SEED, parameters)


def test_seeds_exchanged_for_others_are_found(preset, group_key, server, upload):
    """The first polynomials are untouched; only what the reader expands differs."""
    updates = [upload(group_key, [i]) for i in (1, 2)]
    found = [tag(update, SEED, preset) for update in updates]
    total = server.add(updates)
    other = server.add([updates[0], upload(group_key, [2])])
    end = HEADER + 2 * residues.SEED_BYTES
    mixed = replace(total, blob=other.blob[:end] + total.blob[end:])
    assert np.array_equal(sum_residues(mixed, preset)[:, 0], sum_residues(total, preset)[:, 0])
    with pytest.raises(SumAltered):
        check_tags(mixed, found, SEED, preset)


@pytest.mark.parametrize("change", ["other", "negative", "prime", "short", "long", "none", "bool"])
def test_a_false_or_malformed_tag_is_refused(change, honest):
    parameters, _, total, found = honest
    first = found[0]
    false = {
        "other": (first[0] ^ 1, *first[1:]),
        "negative": (first[0] - parameters.data_modulus[0], *first[1:]),
        "prime": (parameters.data_modulus[0], *first[1:]),
        "short": first[1:],
        "long": (*first, 0),
        "none": (),
        "bool": (True,) * len(first),
    }[change]
    with pytest.raises(SumAltered):
        check_tags(total, [false, *found[1:]], SEED, parameters)


def test_tags_as_many_as_sites_are_needed(honest):
    parameters, _, total, found = honest
    for some in ([], found[:2], [*found, (0,) * len(found[0])]):
        with pytest.raises(SumAltered):
            check_tags(total, some, SEED, parameters)
    with pytest.raises(TooManySites):
        check_tags(replace(total, sites=65), found * 21 + found[:2], SEED, parameters)


def test_other_parameter_sets_are_refused(honest):
    parameters, updates, total, found = honest
    other = next(parameter_set(name) for name in PRESETS if name != parameters.name)
    with pytest.raises(ForeignParameters):
        tag(updates[0], SEED, other)
    with pytest.raises((ForeignParameters, SumAltered)):
        check_tags(total, found, SEED, other)


def test_adding_again_finds_what_is_not_the_sum(honest):
    parameters, updates, total, _ = honest
    for others in (updates[:2], [*updates, updates[0]], [*updates[:2], updates[0]]):
        with pytest.raises(SumAltered):
            readd(others, total, parameters)
    blob = bytearray(total.blob)
    blob[-1] ^= 1
    with pytest.raises(SumAltered):
        readd(updates, replace(total, blob=bytes(blob)), parameters)
