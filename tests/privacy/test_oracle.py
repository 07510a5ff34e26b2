"""seal-python, a second build of SEAL, decrypts what TenSEAL encrypts, and the reverse.

Its wheel reads uncompressed files only, so the Zstandard frames around our bytes are opened here:
what cannot be compressed is stored in them as it is (RFC 8878, section 3.1.1.2).
"""

import struct

import numpy as np
import pytest

from privacy.bfv import EncryptedSum, SecretKey, open_sum
from privacy.packing import pack, unpack
from privacy.quantisation import QuantisedUpdate
from privacy.wire import read_vector, vector_bytes

seal = pytest.importorskip("seal")

VERSION = 4, 3  # of the SEAL inside TenSEAL


def inflated(saved):
    """Return a SEAL file without its compression; refuse what was really compressed."""
    body = saved[16:]
    if saved[5] == 2:
        assert body[:4] == bytes.fromhex("28b52ffd")
        single = body[4] >> 5 & 1
        position = 5 + (1 - single) + {0: single, 1: 2, 2: 4, 3: 8}[body[4] >> 6]
        content, last = b"", False
        while not last:
            header = int.from_bytes(body[position : position + 3], "little")
            last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
            assert kind == 0, "a block that is not stored as it is"
            content += body[position + 3 : position + 3 + size]
            position += 3 + size
        body = content
    return struct.pack("<HBBBBHQ", 0xA15E, 16, *VERSION, 0, 0, 16 + len(body)) + body


def as_tenseals_version(saved):
    """Return a seal-python file with the version numbers that TenSEAL's SEAL takes."""
    return saved.replace(
        bytes.fromhex("5ea110") + b"\x04\x04", bytes.fromhex("5ea110") + b"\x04\x03"
    )


@pytest.fixture(scope="module")
def oracle(preset):
    chosen = seal.EncryptionParameters(seal.scheme_type.bfv)
    chosen.set_poly_modulus_degree(preset.ring_degree)
    chosen.set_coeff_modulus([seal.Modulus(prime) for prime in preset.coeff_modulus])
    chosen.set_plain_modulus(seal.Modulus(preset.plain_modulus))
    context = seal.SEALContext(chosen, True)
    assert context.parameters_set()
    return context


@pytest.fixture
def oracle_key(oracle, group_key, tmp_path):
    (tmp_path / "key").write_bytes(inflated(group_key.to_bytes()))
    key = seal.SecretKey()
    key.load(oracle, str(tmp_path / "key"))
    return key


def test_the_oracle_decrypts_our_uploads_and_sums(oracle, oracle_key, group_key, server, upload):
    preset = group_key.parameters
    rows = [np.arange(-100, 100), np.full(200, 127), np.full(200, -127)]
    uploads = [upload(group_key, row, weight=9) for row in rows]
    total = server.add(uploads)
    for blob, sites, expected in ((uploads[0].blob, 1, rows[0]), (total.blob, 3, sum(rows))):
        (saved,) = read_vector(blob, preset.ring_degree)
        ciphertext = seal.Ciphertext()
        ciphertext.load_bytes(oracle, inflated(saved))
        plaintext = seal.Decryptor(oracle, oracle_key).decrypt(ciphertext)
        signed = seal.BatchEncoder(oracle).decode(plaintext)
        words = (signed % preset.plain_modulus).astype(np.uint64)
        sums, weight = unpack(words, 200, sites, preset)
        assert np.array_equal(sums, expected)
        assert weight == 9 * sites


def test_we_open_what_the_oracle_encrypts(oracle, oracle_key, preset, group_key, tmp_path):
    values = np.arange(-127, 128).astype(np.int16)
    packed = pack(QuantisedUpdate(values, 8, 0), 4, preset)
    plaintext = seal.BatchEncoder(oracle).encode(packed.words)
    ciphertext = seal.Encryptor(oracle, oracle_key).encrypt_symmetric(plaintext)
    ciphertext.save(str(tmp_path / "ciphertext"))
    saved = as_tenseals_version((tmp_path / "ciphertext").read_bytes())
    blob = vector_bytes([saved], preset.ring_degree)
    total = EncryptedSum(blob, group_key.key_id, preset.name, 255, 1)
    sums, weight = unpack(open_sum(total, group_key), 255, 1, preset)
    assert np.array_equal(sums, values)
    assert weight == 4


def test_a_key_the_oracle_made_serves_us(oracle, preset, server, upload, tmp_path):
    seal.KeyGenerator(oracle).secret_key().save(str(tmp_path / "key"))
    secret = as_tenseals_version((tmp_path / "key").read_bytes())
    key = SecretKey.from_bytes(secret, preset)
    total = server.add([upload(key, [3, -4], weight=2)] * 2)
    sums, weight = unpack(open_sum(total, key), 2, 2, preset)
    assert (sums.tolist(), weight) == ([6, -8], 4)
