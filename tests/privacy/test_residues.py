"""There is one way to write a ciphertext's residues, and every other byte string is refused."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy import residues
from privacy.parameters import PRESETS, parameter_set
from privacy.randomness import RandomStream
from privacy.residues import SEED_BYTES, Kind, read, size, unpack_bits, write
from privacy.wire import MalformedCiphertext

sets = st.sampled_from(sorted(PRESETS)).map(parameter_set)


def uniform(parameters, ciphertexts, seed=7):
    """Residues as honest parties make them."""
    polynomials = 1 if parameters.seeded else 2
    stream = RandomStream.from_seed(seed, "residues")
    shape = ciphertexts, polynomials, parameters.ring_degree
    rows = [stream.below(q, int(np.prod(shape))).reshape(shape) for q in parameters.data_modulus]
    return np.stack(rows, axis=2)


def seeds_of(parameters, ciphertexts, contributors):
    stream = RandomStream.from_seed(1, "seeds")
    each = SEED_BYTES * ciphertexts
    return tuple(stream.bytes(each) for _ in range(contributors)) if parameters.seeded else ()


def length_of(parameters, ciphertexts):
    """The most values that so many ciphertexts hold."""
    return (ciphertexts * (parameters.ring_degree - 1) - 2) * parameters.fields


def written(parameters, values, contributors=1, *, summed=False):
    kind = Kind.of(parameters, summed=summed)
    seeds = seeds_of(parameters, len(values), contributors)
    packed = residues.pack(values, parameters)
    return write(kind, seeds, packed, parameters, contributors=contributors)


@settings(max_examples=20, deadline=None)
@given(sets, st.integers(1, 3), st.integers(1, 5), st.booleans())
def test_reading_returns_what_was_written(parameters, ciphertexts, contributors, summed):
    values = uniform(parameters, ciphertexts)
    blob = written(parameters, values, contributors, summed=summed)
    length = length_of(parameters, ciphertexts)
    kind = Kind.of(parameters, summed=summed)
    found = read(blob, kind, length, parameters, contributors=contributors)
    assert np.array_equal(found.values, values)
    assert found.seeds == seeds_of(parameters, ciphertexts, contributors)
    assert len(blob) == size(ciphertexts, contributors, parameters)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 63), st.integers(1, 3), st.data())
def test_packing_is_binary_from_the_lowest_bit_up(bits, rows, data):
    """A slow twin: one large number, whose bytes stand lowest first."""
    number = st.one_of(st.integers(0, 2**bits - 1), st.just(2**bits - 1))
    table = [data.draw(st.lists(number, min_size=64, max_size=64)) for _ in range(rows)]
    packed = residues.pack_bits(np.array(table, dtype=np.uint64), bits)
    for row, numbers in zip(packed, table, strict=True):
        whole = sum(number << (bits * k) for k, number in enumerate(numbers))
        assert row.tobytes() == whole.to_bytes(64 * bits // 8, "little")
    assert unpack_bits(packed, bits).tolist() == table


def test_blocks_of_packing_do_not_show(monkeypatch):
    table = RandomStream.from_seed(3).below(2**60, 4096 * 20).reshape(20, 4096)
    whole = residues.pack_bits(table, 60)
    monkeypatch.setattr(residues, "_BLOCK", 1000)
    assert np.array_equal(residues.pack_bits(table, 60), whole)
    assert np.array_equal(unpack_bits(whole, 60), table)


@settings(max_examples=20, deadline=None)
@given(sets, st.integers(0, 2**32))
def test_adding_is_adding_mod_each_prime(parameters, seed):
    left, right = uniform(parameters, 1, seed), uniform(parameters, 1, seed + 1)
    primes = np.array(parameters.data_modulus, dtype=object)[:, None]
    expected = (left.astype(object) + right.astype(object)) % primes
    total = left.copy()
    residues.add(total, right, parameters)
    assert (total == expected).all()


def test_a_parameter_costs_1_91_bytes_up(preset):
    assert size(preset.ciphertexts(1_000_000), 1, preset) / 1e6 <= 1.91


# Refusals


@pytest.fixture
def good(preset):
    return written(preset, uniform(preset, 1))


def refuse(blob, preset, kind=Kind.UPLOAD_SEEDED, length=1, contributors=1):
    with pytest.raises(MalformedCiphertext):
        read(blob, kind, length, preset, contributors=contributors)


@pytest.mark.parametrize("position", range(17))
def test_each_byte_of_the_header_is_fixed(position, good, preset):
    read(good, Kind.UPLOAD_SEEDED, 1, preset)
    changed = bytearray(good)
    changed[position] ^= 1
    refuse(bytes(changed), preset)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_residue_that_is_not_below_its_prime_is_refused(name):
    parameters = parameter_set(name)
    values = uniform(parameters, 1)
    for index in ((0, -1, 0, 5), (0, 0, -1, -1)):
        wrong = values.copy()
        wrong[index] = parameters.data_modulus[index[2]] - 1
        blob = bytearray(written(parameters, wrong))
        read(bytes(blob), Kind.of(parameters, summed=False), 1, parameters)
        wrong[index] += 1
        rows = wrong.reshape(-1, parameters.ring_degree)
        start = len(blob) - parameters.ring_degree * len(rows) * 60 // 8
        blob[start:] = residues.pack_bits(rows, 60).tobytes()
        with pytest.raises(MalformedCiphertext, match="below its prime"):
            read(bytes(blob), Kind.of(parameters, summed=False), 1, parameters)


@pytest.mark.parametrize("shape", ["zero", "small", "few", "repeated", "one row of many"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_residues_that_are_not_random_are_refused(name, shape):
    parameters = parameter_set(name)
    values = uniform(parameters, 3)
    if shape == "zero":
        values[:] = 0
    elif shape == "small":
        values %= np.uint64(2**49)
    elif shape == "few":
        values[..., np.arange(parameters.ring_degree) % 16 > 0] = 0
    elif shape == "repeated":
        values[:] = values[..., :1]
    else:
        values[1, -1] = 0
    with pytest.raises(MalformedCiphertext, match="not random"):
        read(
            written(parameters, values),
            Kind.of(parameters, summed=False),
            length_of(parameters, 3),
            parameters,
        )


def test_every_other_size_is_refused_by_its_length_alone(good, preset):
    for blob in (b"", good[:16], good[:-1], good + b"\0", good * 2):
        refuse(blob, preset)
    for length in (0, -1, length_of(preset, 1) + 1, 10**9, 2**70):
        refuse(good, preset, length=length)
    for contributors in (0, 2, 2**16, -1):
        refuse(good, preset, contributors=contributors)


def test_a_sum_is_no_upload_and_an_upload_no_sum(good, preset):
    refuse(good, preset, kind=Kind.SUM_SEEDED)
    total = written(preset, uniform(preset, 1), summed=True)
    refuse(total, preset)


def test_a_claim_allocates_nothing(preset):
    header = written(preset, uniform(preset, 1))[:17]
    tracemalloc.start()
    try:
        refuse(header, preset, length=10**12)
        refuse(header, preset, length=10**6, contributors=60_000)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_bytes_are_refused_or_are_the_one_way_to_write_what_is_read(preset, data):
    blob = bytearray(written(preset, uniform(preset, 1), 2, summed=True))
    kind = data.draw(st.sampled_from(["cut", "overwrite", "insert", "alone", "flip"]))
    start = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(blob) - 1)))
    change = data.draw(st.binary(max_size=20))
    if kind == "cut":
        blob = blob[:start]
    elif kind == "overwrite":
        blob[start : start + len(change)] = change
    elif kind == "insert":
        blob[start:start] = change
    elif kind == "flip":
        blob[start] ^= 1 << data.draw(st.integers(0, 7))
    else:
        blob = bytearray(change)
    try:
        found = read(bytes(blob), Kind.SUM_SEEDED, 1, preset, contributors=2)
    except MalformedCiphertext:
        return
    packed = residues.pack(found.values, preset)
    assert write(Kind.SUM_SEEDED, found.seeds, packed, preset, contributors=2) == bytes(blob)


@given(st.binary(max_size=200), st.integers(-1, 10**7), st.integers(-1, 70))
def test_arbitrary_bytes_are_refused(preset, blob, length, contributors):
    for kind in Kind:
        refuse(blob, preset, kind=kind, length=length, contributors=contributors)
        refuse(b"BHC1" + blob, preset, kind=kind, length=length, contributors=contributors)


def test_primes_of_different_widths_are_packed_each_to_its_own(preset):
    mixed = replace(
        parameter_set("threshold-bfv-8"),
        coeff_modulus=(1152921504606683137, 2**40 - 87 * 2**14 + 1, 1152921504606830593),
    )
    values = uniform(mixed, 2)
    packed = residues.pack(values, mixed)
    assert len(packed) == 2 * 2 * 8192 * (60 + 40) // 8
    assert np.array_equal(residues.unpack(packed, mixed), values)
