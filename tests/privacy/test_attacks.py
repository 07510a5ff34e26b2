"""Crafted ciphertexts and hostile bytes end in a typed error; the server holds nothing to steal."""

import gc
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from privacy.bfv import EncryptedSum, ServerContext, generate_key, open_sum
from privacy.packing import SumCorrupt, unpack
from privacy.randomness import RandomStream
from privacy.ring import ring
from privacy.scratch import scratch_file
from privacy.wire import MalformedCiphertext, read_vector, vector_bytes
from protocol.errors import PrivacyError

N = 4096


def saved(body):
    """SEAL's header for uncompressed content, version 4.3."""
    return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 0, 0, 16 + len(body)) + body


def crafted(preset, c0, c1, *, level=None, polynomials=2, ntt=False):
    """Return a full-size SEAL ciphertext of two polynomials of our choice."""
    parms_id = ring(preset).seal.first_parms_id() if level is None else level
    words = np.concatenate([c0, c1] + [c1] * (polynomials - 2)).astype("<u8")
    body = struct.pack("<4QBQQQdQ", *parms_id, ntt, polynomials, N, 1, 1.0, 1)
    return saved(body + saved(struct.pack("<Q", words.size) + words.tobytes()))


def sum_of(preset, key, ciphertext, sites=2):
    blob = vector_bytes([ciphertext], N)
    return EncryptedSum(blob, key.key_id, preset.name, 10, sites)


def uniform(preset, seed):
    return RandomStream.from_seed(seed).below(preset.coeff_modulus[0], N)


def unit(preset):
    one = np.zeros(N, dtype=np.uint64)
    one[0] = preset.coeff_modulus[0] // preset.plain_modulus
    return one


def decrypt_anything(key, ciphertext):
    """Decrypt as a hospital without any check would; return the plaintext's coefficients."""
    with scratch_file() as file:
        file.write(ciphertext)
        loaded = sealapi.Ciphertext()
        loaded.load(key.ring.seal, file.path)
    plaintext = sealapi.Plaintext()
    key.decryptor().decrypt(loaded, plaintext)
    return {term.strip().split("x^")[0] for term in plaintext.to_string().split("+")}


def test_the_crafted_ciphertext_would_decrypt_to_the_secret_key(preset, group_key):
    """Coefficients are 1 and t - 1 (and 0, not printed): the ternary key itself."""
    coefficients = decrypt_anything(group_key, crafted(preset, np.zeros(N), unit(preset)))
    minus_one = f"{preset.plain_modulus - 1:X}"
    assert {"1", minus_one} <= coefficients
    assert coefficients <= {"1", minus_one, "0"}


@pytest.mark.parametrize("shape", ["key", "masked key", "scaled", "few terms", "repeated", "zero"])
def test_a_crafted_ciphertext_is_refused_before_decryption(shape, preset, group_key, monkeypatch):
    few = np.zeros(N, dtype=np.uint64)
    few[::16] = uniform(preset, 3)[::16]
    c0, c1 = {
        "key": (np.zeros(N), unit(preset)),
        "masked key": (uniform(preset, 1), unit(preset)),
        "scaled": (uniform(preset, 1), np.roll(unit(preset), 5)),
        "few terms": (uniform(preset, 1), few),
        "repeated": (uniform(preset, 1), np.full(N, uniform(preset, 2)[0])),
        "zero": (uniform(preset, 1), np.zeros(N)),
    }[shape]
    forbid_decryption(monkeypatch)
    with pytest.raises(MalformedCiphertext):
        open_sum(sum_of(preset, group_key, crafted(preset, c0, c1)), group_key)


def forbid_decryption(monkeypatch):
    def plaintext():
        raise AssertionError("decryption was reached")

    monkeypatch.setattr(sealapi, "Plaintext", plaintext)


def test_uniform_garbage_is_refused_before_decryption(preset, group_key, monkeypatch):
    forbid_decryption(monkeypatch)
    garbage = crafted(preset, uniform(preset, 1), uniform(preset, 2))
    with pytest.raises(MalformedCiphertext, match="noise"):
        open_sum(sum_of(preset, group_key, garbage), group_key)


def test_the_key_hidden_in_an_honest_sum_is_refused_before_anything_is_told(
    preset, group_key, server, upload
):
    honest = server.add([upload(group_key, [1, 2, 3])] * 2)
    vector = group_key.ring.load(honest.blob, 3, seeded=False)
    hidden = crafted(preset, np.zeros(N), unit(preset))
    with scratch_file() as file:
        file.write(hidden)
        evil = sealapi.Ciphertext()
        evil.load(group_key.ring.seal, file.path)
        (carrier,) = vector.ciphertext()
        carrier.save(file.path)
        summed = sealapi.Ciphertext()
        summed.load(group_key.ring.seal, file.path)
        sealapi.Evaluator(group_key.ring.seal).add_inplace(summed, evil)
        summed.save(file.path)
        attack = replace(honest, blob=vector_bytes([file.read()], N))
    words = open_sum(attack, group_key)  # it looks like a sum from outside
    with pytest.raises(SumCorrupt):
        unpack(words, 3, 2, preset)


@pytest.mark.parametrize(
    "change",
    [{"polynomials": 3}, {"ntt": True}, {"level": (1, 2, 3, 4)}],
    ids=["three polynomials", "transformed", "another level"],
)
def test_a_ciphertext_of_another_form_is_refused(change, preset, group_key):
    strange = crafted(preset, uniform(preset, 1), uniform(preset, 2), **change)
    with pytest.raises(MalformedCiphertext):
        open_sum(sum_of(preset, group_key, strange), group_key)


def test_a_coefficient_beyond_the_modulus_is_refused(preset, group_key):
    c1 = uniform(preset, 2)
    c1[7] = preset.coeff_modulus[0]
    with pytest.raises(MalformedCiphertext):
        open_sum(sum_of(preset, group_key, crafted(preset, uniform(preset, 1), c1)), group_key)


def test_a_replaced_ciphertext_of_many_is_found(preset, group_key, server, upload):
    """Each ciphertext has its own check word, so exchanging two of one sum shows as well."""
    total = server.add([upload(group_key, np.ones(40_000))] * 3)
    first, second, *rest = read_vector(total.blob, N)
    swapped = replace(total, blob=vector_bytes([second, first, *rest], N))
    with pytest.raises(SumCorrupt):
        unpack(open_sum(swapped, group_key), 40_000, 3, preset)
    other = server.add([upload(group_key, np.ones(40_000))] * 2)
    mixed = replace(total, blob=vector_bytes([first, second, *read_vector(other.blob, N)[2:]], N))
    with pytest.raises(SumCorrupt):
        unpack(open_sum(mixed, group_key), 40_000, 3, preset)


def test_a_left_out_or_repeated_upload_is_found(preset, group_key, server, upload):
    uploads = [upload(group_key, [1]), upload(group_key, [2])]
    for added in (uploads[:1], [*uploads, uploads[0]]):
        total = replace(server.add(added), sites=2)
        with pytest.raises(SumCorrupt):
            unpack(open_sum(total, group_key), 1, 2, preset)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_bytes_end_in_a_typed_error(preset, group_key, server, upload, data):
    """Cut, overwrite, splice: at the server and at the hospital, whatever is not refused opens."""
    kept = test_hostile_bytes_end_in_a_typed_error.__dict__
    good = kept.setdefault("upload", upload(group_key, [1, 2, 3]))
    total = kept.setdefault("sum", server.add([good]))
    for sent, use in ((good, server.check), (total, lambda t: open_and_unpack(t, group_key))):
        blob = bytearray(sent.blob)
        start = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(blob) - 1)))
        change = data.draw(st.binary(max_size=12))
        kind = data.draw(st.sampled_from(["cut", "overwrite", "insert", "alone"]))
        if kind == "cut":
            blob = blob[:start]
        elif kind == "overwrite":
            blob[start : start + len(change)] = change
        elif kind == "insert":
            blob[start:start] = change
        else:
            blob = bytearray(change)
        try:
            use(replace(sent, blob=bytes(blob)))
        except PrivacyError:
            continue


def open_and_unpack(total, key):
    unpack(open_sum(total, key), total.length, total.sites, key.parameters)


@settings(max_examples=40, deadline=None)
@given(flip=st.tuples(st.integers(200, 60_000), st.integers(0, 7)))
def test_one_flipped_bit_never_changes_a_sum_unnoticed(preset, group_key, server, upload, flip):
    """A low bit is noise, and decryption removes it; a high bit reaches every slot."""
    kept = test_one_flipped_bit_never_changes_a_sum_unnoticed.__dict__
    total = kept.setdefault("sum", server.add([upload(group_key, [1, 2, 3], weight=8)]))
    blob = bytearray(total.blob)
    blob[flip[0]] ^= 1 << flip[1]
    try:
        words = open_sum(replace(total, blob=bytes(blob)), group_key)
        sums, weight = unpack(words, 3, 1, preset)
    except PrivacyError:
        return
    assert (sums.tolist(), weight) == ([1, 2, 3], 8)


def test_a_server_context_holds_no_secret_key(preset, upload):
    key = generate_key(preset)
    server = ServerContext(preset)
    one = upload(key, [1])
    total = server.add([one])
    keyless = ring(preset).keyless
    assert not keyless.has_secret_key()
    with pytest.raises(ValueError, match="public"):
        keyless.serialize(save_secret_key=True)
    with pytest.raises(ValueError, match="secret"):
        ring(preset).load(total.blob, 1, seeded=False).decrypt()
    assert "SecretKey" in reachable_types({"a": [key]})  # the search finds a key where there is one
    assert "SecretKey" not in reachable_types(server)


def reachable_types(start):
    """Names of the types of all that Python can reach from an object through attributes."""
    seen, waiting = {}, [start]
    while waiting:
        found = waiting.pop()
        if id(found) not in seen and not isinstance(found, type) and not callable(found):
            seen[id(found)] = found
            waiting += [x for x in gc.get_referents(found) if type(x).__name__ != "module"]
    return {type(found).__name__ for found in seen.values()}
