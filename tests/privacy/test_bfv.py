"""Encrypted sums open to exact sums, uploads have the promised size, refusals have names."""

import copy
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
import tenseal
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from privacy import bfv, residues
from privacy.bfv import (
    EncryptedSum,
    ForeignKeyCiphertext,
    ForeignParameters,
    SecretKey,
    SecretKeyMalformed,
    ServerContext,
    encrypt,
    generate_key,
    open_sum,
    self_test,
    sum_bytes,
    sum_residues,
    update_residues,
    upload_bytes,
)
from privacy.masks import MaskedUpdate, apply, negate, remove
from privacy.packing import SumCorrupt, pack, unpack
from privacy.parameters import PRESETS, TooManySites, parameter_set
from privacy.quantisation import QuantisedUpdate
from privacy.randomness import RandomStream
from privacy.residues import Kind
from privacy.ring import Ring, TensealIncompatible, ring
from privacy.scratch import scratch_file
from privacy.wire import MalformedCiphertext


def values_of(seed, length, top=127):
    return RandomStream.from_seed(seed).below(2 * top + 1, length).astype(np.int64) - top


@pytest.mark.parametrize("sites", range(2, 17))
def test_the_opened_sum_is_the_integer_sum_for_every_cohort(
    sites, preset, group_key, server, upload
):
    length = 20_000 if sites in {2, 16} else 1_000
    rows = [values_of(seed, length) for seed in range(sites)]
    total = server.add([upload(group_key, row, weight=i + 1) for i, row in enumerate(rows)])
    sums, weight = unpack(open_sum(total, group_key), length, sites, preset)
    assert np.array_equal(sums, np.sum(rows, axis=0))
    assert weight == sites * (sites + 1) // 2
    assert (total.sites, total.length, total.key_id) == (sites, length, group_key.key_id)


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("sign", [1, -1])
def test_sixteen_sites_at_the_largest_values_are_exact(name, sign, upload):
    chosen = parameter_set(name)
    key = generate_key(chosen)
    row = np.full(50, sign * chosen.value_max)
    total = ServerContext(chosen).add([upload(key, row)] * 16)
    sums, _ = unpack(open_sum(total, key), 50, 16, chosen)
    assert sums.tolist() == [16 * sign * chosen.value_max] * 50


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(4)))
def test_the_order_of_adding_is_that_of_the_seeds_and_of_nothing_else(
    preset, group_key, server, upload, order
):
    cached = test_the_order_of_adding_is_that_of_the_seeds_and_of_nothing_else.__dict__
    uploads = cached.setdefault("uploads", [upload(group_key, values_of(i, 9)) for i in range(4)])
    total, other = server.add(uploads), server.add([uploads[i] for i in order])
    start, each = 17, residues.SEED_BYTES
    assert other.blob[:start] == total.blob[:start]
    assert other.blob[start + 4 * each :] == total.blob[start + 4 * each :]
    for position, i in enumerate(order):
        seed = other.blob[start + position * each :][:each]
        assert seed == total.blob[start + i * each :][:each] == uploads[i].blob[start:][:each]
    assert np.array_equal(sum_residues(other, preset), sum_residues(total, preset))


def proto(number, content):
    """A field of a Protocol Buffers message."""
    size, value = bytearray(), len(content)
    while value > 127:
        size.append(value & 127 | 128)
        value >>= 7
    return bytes([number << 3 | 2, *size, value]) + content


def tenseals(parameters, made, values):
    """The TenSEAL vector of these ciphertexts, in a context of TenSEAL's that holds no key."""
    wanted = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    wanted.set_poly_modulus_degree(parameters.ring_degree)
    wanted.set_coeff_modulus([sealapi.Modulus(prime) for prime in parameters.coeff_modulus])
    wanted.set_plain_modulus(parameters.plain_modulus)
    fields = [bytes([128, 32]) * len(values)]  # 4096 slots in each
    with scratch_file() as file:
        wanted.save(file.path)
        flags = b"\x10\x00\x19" + struct.pack("<d", -1.0)
        context = tenseal.context_from(proto(1, file.read()) + proto(2, flags) + b"\x20\x01")
        for one in values:
            made.ciphertext(one).save(file.path)
            fields.append(file.read())
    blob = b"".join(proto(1 + (i > 0), field) for i, field in enumerate(fields))
    return tenseal.bfv_vector_from(context, blob)


@pytest.mark.parametrize("name", ["packed-bfv-8", "packed-bfv-12"])
def test_a_sum_is_the_one_tenseal_adds_up(name, upload):
    parameters = parameter_set(name)
    key, made = generate_key(parameters), ring(parameters)
    updates = [upload(key, values_of(i, 40_000)) for i in range(3)]
    total, *others = [
        tenseals(parameters, made, update_residues(update, parameters)) for update in updates
    ]
    for other in others:
        total.add_(other)
    ours = sum_residues(ServerContext(parameters).add(updates), parameters)
    theirs = [made.residues(ciphertext) for ciphertext in total.ciphertext()]
    assert np.array_equal(ours, theirs)


def test_what_the_seeds_of_a_sum_expand_to_is_kept_with_it(preset, group_key, server, upload):
    total = server.add([upload(group_key, [1])])
    kept = sum_residues(total, preset)
    assert sum_residues(total, preset) is kept
    assert not kept.flags.writeable
    again = replace(total)
    assert sum_residues(again, preset) is not kept
    assert again == total


def test_masked_updates_open_to_the_sum_once_the_pads_are_removed(preset, group_key, server):
    pads = [RandomStream.from_system().below(preset.plain_modulus, 4096) for _ in range(3)]
    own = [[pads[0], pads[2]], [negate(pads[0], preset), pads[1]]]
    updates = []
    for i, chosen in enumerate(own):
        packed = pack(QuantisedUpdate(np.array([5, -7 * i], dtype=np.int16), 8, 0), 3, preset)
        updates.append(encrypt(apply(packed, chosen), group_key))
    opened = open_sum(server.add(updates), group_key)
    with pytest.raises(SumCorrupt):
        unpack(opened, 2, 2, preset)
    sums, weight = unpack(remove(opened, pads[1:], preset), 2, 2, preset)
    assert (sums.tolist(), weight) == ([10, -7], 6)


@pytest.mark.parametrize("length", [1, 16_376, 16_377, 100_000])
def test_the_size_of_an_upload_is_known_before_it_is_made(length, preset, group_key, upload):
    assert len(upload(group_key, np.zeros(length)).blob) == upload_bytes(length, preset)


def test_a_parameter_costs_1_91_bytes_up_and_2_down(preset):
    assert upload_bytes(1_000_000, preset) / 1e6 <= 1.91
    assert sum_bytes(1_000_000, 10, preset) / 1e6 <= 2.0
    assert sum_bytes(1_000_000, 64, preset) / 1e6 <= 2.2
    assert upload_bytes(1_000_000, parameter_set("packed-bfv-12")) / 1e6 <= 2.55
    assert upload_bytes(1_000_000, parameter_set("threshold-bfv-8")) / 1e6 <= 8.2


@pytest.mark.parametrize("sites", [1, 3, 64])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_size_of_a_sum_is_known_before_it_is_made(name, sites, upload):
    parameters = parameter_set(name)
    one = upload(generate_key(parameters), np.zeros(5))
    total = ServerContext(parameters).add([one] * sites)
    assert len(total.blob) == sum_bytes(5, sites, parameters)


def test_two_encryptions_of_one_update_differ(group_key, upload):
    assert upload(group_key, [1]).blob != upload(group_key, [1]).blob


# Keys


def test_a_key_survives_its_bytes_and_its_id_does_not_show_them(preset, group_key):
    again = SecretKey.from_bytes(group_key.to_bytes(), preset)
    assert again.key_id == group_key.key_id
    assert len(again.key_id) == 16
    assert bytes.fromhex(again.key_id) not in group_key.to_bytes()
    assert generate_key(preset).key_id != group_key.key_id


def test_a_key_neither_prints_nor_pickles_its_secret(group_key):
    assert repr(group_key) == f"SecretKey({group_key.key_id})"
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            duplicate(group_key)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_bytes_that_are_no_key_are_refused(preset, group_key, data):
    good = group_key.to_bytes()
    bad = data.draw(
        st.one_of(st.binary(max_size=100), st.integers(0, 1000).map(lambda n: good[:n]))
    )
    with pytest.raises(SecretKeyMalformed):
        SecretKey.from_bytes(bad, preset)


# Refusals by name


def test_the_server_refuses_uploads_that_name_different_keys(
    group_key, foreign_key, server, upload
):
    uploads = [upload(group_key, [1]), upload(foreign_key, [1])]
    with pytest.raises(ForeignKeyCiphertext) as refused:
        server.add(uploads)
    assert refused.value.found == foreign_key.key_id
    with pytest.raises(ForeignKeyCiphertext):
        server.add(uploads[1:], key_id=group_key.key_id)


def test_a_hospital_refuses_a_sum_under_another_key(group_key, foreign_key, server, upload):
    with pytest.raises(ForeignKeyCiphertext):
        open_sum(server.add([upload(foreign_key, [1])]), group_key)


def test_a_foreign_ciphertext_under_a_lying_id_is_found_when_opened(
    preset, group_key, foreign_key, server, upload
):
    liar = replace(upload(foreign_key, [1]), key_id=group_key.key_id)
    total = server.add([upload(group_key, [1]), liar])
    with pytest.raises((SumCorrupt, MalformedCiphertext)):
        unpack(open_sum(total, group_key), 1, 2, preset)


def test_other_parameter_sets_are_refused(preset, group_key, server, upload):
    wide = generate_key(parameter_set("packed-bfv-12"))
    foreign = upload(wide, [1])
    for refuse in (server.check, lambda update: server.add([update])):
        with pytest.raises(ForeignParameters):
            refuse(foreign)
    with pytest.raises(ForeignParameters):
        open_sum(ServerContext(wide.parameters).add([foreign]), group_key)
    packed = pack(QuantisedUpdate(np.array([1], dtype=np.int16), 12, 0), 1, wide.parameters)
    with pytest.raises(ForeignParameters):
        encrypt(apply(packed, []), group_key)


@pytest.mark.parametrize("claimed", [0, -1, 16_377, 10**9])
def test_an_upload_of_another_length_than_it_says_is_refused(claimed, group_key, server, upload):
    with pytest.raises(MalformedCiphertext):
        server.check(replace(upload(group_key, [1]), length=claimed))


def test_uploads_of_different_lengths_are_not_added(group_key, server, upload):
    with pytest.raises(MalformedCiphertext):
        server.add([upload(group_key, [1]), upload(group_key, [1, 2])])


@pytest.mark.parametrize("sites", [0, 65])
def test_a_cohort_that_does_not_fit_is_refused(sites, group_key, server, upload):
    with pytest.raises(TooManySites):
        server.add([upload(group_key, [1])] * sites)
    one = server.add([upload(group_key, [1])])
    with pytest.raises(TooManySites):
        open_sum(replace(one, sites=sites), group_key)


def test_a_sum_is_not_taken_for_an_upload_nor_an_upload_for_a_sum(group_key, server, upload):
    one = upload(group_key, [1])
    total = server.add([one])
    with pytest.raises(MalformedCiphertext):
        server.check(replace(one, blob=total.blob))
    with pytest.raises(MalformedCiphertext):
        open_sum(replace(total, blob=one.blob), group_key)


def test_too_much_noise_is_refused_before_decryption(preset, group_key, server, upload):
    """Adding a sum to itself eight times costs the noise budget that decryption needs."""
    seeds, values = [], None
    one = upload(group_key, [0])
    sent = residues.read(one.blob, Kind.UPLOAD_SEEDED, 1, preset)
    for _ in range(8):
        if values is None:
            seeds, values = list(sent.seeds), sent.values.copy()
        seeds += seeds
        residues.add(values, values.copy(), preset)
    packed = residues.pack(values, preset)
    blob = residues.write(Kind.SUM_SEEDED, seeds, packed, preset, contributors=256)
    noisy = EncryptedSum(blob, group_key.key_id, preset.name, 1, 256)
    with pytest.raises(TooManySites):
        open_sum(noisy, group_key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(preset), "check_sites", lambda *_: None)
        with pytest.raises(MalformedCiphertext, match="noise"):
            open_sum(noisy, group_key)


# Start-up


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_installed_tenseal_passes_the_self_test(name):
    self_test(parameter_set(name))


def test_a_tenseal_that_adds_wrongly_or_refuses_is_found_at_the_start(preset, monkeypatch):
    honest = bfv.open_sum
    self_test.cache_clear()
    monkeypatch.setattr(bfv, "open_sum", lambda total, key: honest(total, key) * np.uint64(0))
    with pytest.raises(TensealIncompatible):
        self_test(preset)

    def refuse(*_):
        raise RuntimeError("incompatible version")

    monkeypatch.setattr(bfv, "open_sum", refuse)
    with pytest.raises(TensealIncompatible, match="incompatible version"):
        self_test(preset)


@pytest.mark.parametrize("change", ["head", "seed", "residues", "garbage"])
def test_a_seal_that_lays_ciphertexts_out_otherwise_is_found_at_the_start(
    change, preset, monkeypatch
):
    ring.cache_clear()
    honest_head, honest_residues = Ring._head, Ring.residues
    if change == "head":
        monkeypatch.setattr(Ring, "_head", lambda *a: honest_head(*a)[:-1] + b"\1")
    elif change == "seed":
        monkeypatch.setattr("privacy.ring._GENERATOR", b"\0" * 17)
    elif change == "residues":
        monkeypatch.setattr(Ring, "residues", lambda *a: honest_residues(*a) // np.uint64(2))
    else:
        monkeypatch.setattr("privacy.ring.body", lambda *_, **__: b"garbage")
    try:
        with pytest.raises(TensealIncompatible):
            self_test(replace(preset, name=change))
    finally:
        ring.cache_clear()


def test_parameters_the_library_refuses_are_a_typed_error():
    unusual = replace(parameter_set("packed-bfv-8"), name="odd", coeff_modulus=(2**59 + 1,))
    with pytest.raises(TensealIncompatible):
        ServerContext(unusual)


@pytest.mark.slow
def test_a_million_values_are_exact(preset, group_key, server, upload):
    rows = [values_of(seed, 1_000_000) for seed in range(3)]
    total = server.add([upload(group_key, row) for row in rows])
    sums, weight = unpack(open_sum(total, group_key), 1_000_000, 3, preset)
    assert np.array_equal(sums, np.sum(rows, axis=0))
    assert weight == 3


def test_only_masked_updates_are_encrypted():
    assert encrypt.__annotations__["masked"] in {"MaskedUpdate", MaskedUpdate}
