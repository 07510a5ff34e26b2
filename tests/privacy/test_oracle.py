"""seal-python, a second build of SEAL, decrypts what we send, and we open what it encrypts.

Residues are put into SEAL's saved form by hand here, apart from the code under test, and the
expansion of seeds is repeated in plain Python from the definition of BLAKE2Xb.
"""

import hashlib
import struct
from itertools import count

import numpy as np
import pytest

from privacy import residues
from privacy.bfv import (
    EncryptedSum,
    EncryptedUpdate,
    SecretKey,
    ServerContext,
    open_sum,
    sum_residues,
    update_residues,
)
from privacy.packing import pack, unpack
from privacy.parameters import parameter_set
from privacy.quantisation import QuantisedUpdate
from privacy.residues import Kind
from privacy.ring import ring
from privacy.wire import body, saved

seal = pytest.importorskip("seal")

MAGIC = bytes.fromhex("5ea110")
FULL_FRAME = 113  # bytes before the residues


def as_version(blob, minor):
    """Return a saved object with the version numbers that the other build of SEAL takes."""
    return blob.replace(MAGIC + bytes([4, 7 - minor]), MAGIC + bytes([4, minor]))


def seal_file(parameters, values, seed=None):
    """Write residues as the oracle reads them, by hand."""
    primes, degree = values.shape[1:]
    level = ring(parameters).seal.first_parms_id()
    form = struct.pack("<4QBQQQdQ", *level, 0, 2, degree, primes, 1.0, 1)
    words = values.astype("<u8").tobytes()
    content = form + saved(struct.pack("<Q", values.size) + words)
    content += saved(b"\x01" + seed) if seed else b""
    return as_version(saved(content), 4)


def words_of(ciphertext, primes, degree):
    """Return the residues of one of the oracle's ciphertexts, out of its bytes."""
    blob = ciphertext.to_string(seal.compr_mode_type.none)
    assert len(blob) == FULL_FRAME + 2 * primes * degree * 8
    return np.frombuffer(blob, "<u8", offset=FULL_FRAME).reshape(2, primes, degree)


class Oracle:
    """seal-python's context for a parameter set, and its copy of one of our keys."""

    def __init__(self, parameters, key, folder):
        self.parameters = parameters
        chosen = seal.EncryptionParameters(seal.scheme_type.bfv)
        chosen.set_poly_modulus_degree(parameters.ring_degree)
        chosen.set_coeff_modulus([seal.Modulus(prime) for prime in parameters.coeff_modulus])
        chosen.set_plain_modulus(seal.Modulus(parameters.plain_modulus))
        self.context = seal.SEALContext(chosen, True)
        assert self.context.parameters_set()
        self.key = seal.SecretKey()
        (folder / "key").write_bytes(as_version(saved(body(key.to_bytes(), limit=10**6)), 4))
        self.key.load(self.context, str(folder / "key"))

    def decrypted(self, blobs):
        """Return the slots of saved ciphertexts."""
        found = []
        for blob in blobs:
            ciphertext = seal.Ciphertext()
            ciphertext.load_bytes(self.context, blob)
            plaintext = seal.Decryptor(self.context, self.key).decrypt(ciphertext)
            found.append(seal.BatchEncoder(self.context).decode(plaintext))
        return (np.concatenate(found) % self.parameters.plain_modulus).astype(np.uint64)

    def encrypted(self, words, encryptor):
        """Return ``(ciphertexts, 2, primes, N)`` residues of what the oracle encrypts."""
        primes, degree = len(self.parameters.data_modulus), self.parameters.ring_degree
        encoder = seal.BatchEncoder(self.context)
        rows = [encryptor(encoder.encode(slots)) for slots in words.reshape(-1, degree)]
        return np.stack([words_of(row, primes, degree) for row in rows])


@pytest.fixture(scope="module")
def oracle(preset, group_key, tmp_path_factory):
    return Oracle(preset, group_key, tmp_path_factory.mktemp("oracle"))


ROWS = [np.arange(-100, 100).repeat(100), np.full(20_000, 127), np.full(20_000, -127)]


def test_it_decrypts_our_uploads_and_expands_their_seeds_itself(oracle, preset, group_key, upload):
    update = upload(group_key, ROWS[0], weight=9)
    sent = residues.read(update.blob, Kind.UPLOAD_SEEDED, update.length, preset)
    (seeds,) = sent.seeds
    files = [
        seal_file(preset, values, seeds[64 * i : 64 * i + 64])
        for i, values in enumerate(sent.values)
    ]
    assert len(files) == 2
    sums, weight = unpack(oracle.decrypted(files), update.length, 1, preset)
    assert np.array_equal(sums, ROWS[0])
    assert weight == 9


def test_it_decrypts_our_sums(oracle, preset, group_key, server, upload):
    total = server.add([upload(group_key, row, weight=9) for row in ROWS])
    files = [seal_file(preset, values) for values in sum_residues(total, preset)]
    sums, weight = unpack(oracle.decrypted(files), total.length, 3, preset)
    assert np.array_equal(sums, np.sum(ROWS, axis=0))
    assert weight == 27


def test_a_sum_is_the_one_it_adds_up(oracle, preset, group_key, server, upload):
    updates = [upload(group_key, row) for row in ROWS]
    evaluator = seal.Evaluator(oracle.context)
    summed = None
    for update in updates:
        ciphertext = seal.Ciphertext()
        values = update_residues(update, preset)[0]
        ciphertext.load_bytes(oracle.context, seal_file(preset, values))
        summed = ciphertext if summed is None else evaluator.add(summed, ciphertext)
    ours = sum_residues(server.add(updates), preset)[0]
    assert np.array_equal(ours, words_of(summed, 1, preset.ring_degree))


def test_a_seed_expands_to_what_blake2xb_makes_of_it(preset):
    """A slow twin; 512 hashes for one polynomial."""
    seed = bytes(range(64))
    blank = residues.Residues(np.zeros((1, 1, 1, preset.ring_degree), dtype=np.uint64), (seed,))
    found = ring(preset).expanded(blank)[0, 1, 0]
    assert found.tolist() == uniform_polynomial(seed, preset.data_modulus[0], preset.ring_degree)


def uniform_polynomial(seed, prime, degree):
    """Words of the keystream, in order; one too large is replaced by those after the last."""
    stream = keystream(seed)
    words = [next(stream) for _ in range(degree)]
    most = 2**64 - 1 - (2**64 - 1) % prime - 1
    for i in range(degree):
        while words[i] >= most:
            words[i] = next(stream)
    return [word % prime for word in words]


def keystream(seed):
    """Blocks of 4096 bytes, numbered from 0: BLAKE2Xb of the number, keyed by the seed."""
    for number in count():
        block = blake2xb(number.to_bytes(8, "little"), seed, 4096)
        yield from struct.unpack("<512Q", block)


def blake2xb(message, key, size):
    """BLAKE2X (Aumasson et al., 2016), section 2: the size stands above the node's offset."""
    root = hashlib.blake2b(message, key=key, node_offset=size << 32).digest()
    return b"".join(blake2b_node(root, i | size << 32) for i in range(size // 64))


INITIAL = [
    *(0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1),
    *(0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179),
]
ORDER = [
    [int(digit, 16) for digit in row]
    for row in (
        *("0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8"),
        *("905724afe1bc683d", "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a"),
        *("6fe9b308c2d714a5", "a2847615fb9e3cd0", "0123456789abcdef", "ea489fd61c02b753"),
    )
]
QUADS = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
DIAGONALS = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]


def blake2b_node(root, node_offset):
    """BLAKE2b (RFC 7693) of one block of 64 bytes, with fanout and depth 0 as hashlib has not."""
    parameters = struct.pack("<BBBBIQBB14x16x16x", 64, 0, 0, 0, 64, node_offset, 0, 64)
    state = [a ^ b for a, b in zip(INITIAL, struct.unpack("<8Q", parameters), strict=True)]
    words = struct.unpack("<16Q", root + bytes(64))
    v = state + INITIAL
    v[12] ^= len(root)
    v[14] ^= 2**64 - 1
    for order in ORDER:
        for i, (a, b, c, d) in enumerate(QUADS + DIAGONALS):
            for word, (right, left) in ((order[2 * i], (32, 24)), (order[2 * i + 1], (16, 63))):
                v[a] = (v[a] + v[b] + words[word]) % 2**64
                v[d] = rotated(v[d] ^ v[a], right)
                v[c] = (v[c] + v[d]) % 2**64
                v[b] = rotated(v[b] ^ v[c], left)
    mixed = [x ^ v[i] ^ v[i + 8] for i, x in enumerate(state)]
    return struct.pack("<8Q", *mixed)


def rotated(word, bits):
    return (word >> bits | word << (64 - bits)) % 2**64


def test_we_open_what_it_encrypts(oracle, preset, group_key, monkeypatch):
    """It gives no seed away, so its second polynomial is put where ours would be expanded."""
    values = np.arange(-127, 128).astype(np.int16)
    packed = pack(QuantisedUpdate(values, 8, 0), 4, preset)
    encryptor = seal.Encryptor(oracle.context, oracle.key)
    made = oracle.encrypted(packed.words, encryptor.encrypt_symmetric)
    first = residues.pack(made[:, :1], preset)
    blob = residues.write(Kind.SUM_SEEDED, [bytes(64)], first, preset)
    total = EncryptedSum(blob, group_key.key_id, preset.name, 255, 1)
    sum_residues(total, preset)
    total.expanded[preset] = made
    sums, weight = unpack(open_sum(total, group_key), 255, 1, preset)
    assert np.array_equal(sums, values)
    assert weight == 4


def test_we_add_and_open_what_it_encrypts_in_public(tmp_path):
    """Three primes, no seeds: both polynomials travel."""
    wide = parameter_set("threshold-bfv-8")
    key = SecretKey.from_bytes(bytes_of_a_new_key(wide), wide)
    oracle = Oracle(wide, key, tmp_path)
    public = seal.KeyGenerator(oracle.context, oracle.key).create_public_key()
    updates = []
    for row in ROWS:
        packed = pack(QuantisedUpdate(row.astype(np.int16), 8, 0), 9, wide)
        made = oracle.encrypted(packed.words, seal.Encryptor(oracle.context, public).encrypt)
        blob = residues.write(Kind.UPLOAD_FULL, [], residues.pack(made, wide), wide)
        updates.append(EncryptedUpdate(blob, key.key_id, wide.name, row.size))
    total = ServerContext(wide).add(updates)
    sums, weight = unpack(open_sum(total, key), 20_000, 3, wide)
    assert np.array_equal(sums, np.sum(ROWS, axis=0))
    assert weight == 27
    files = [seal_file(wide, values) for values in sum_residues(total, wide)]
    again, _ = unpack(oracle.decrypted(files), 20_000, 3, wide)
    assert np.array_equal(again, sums)


def bytes_of_a_new_key(parameters):
    from privacy.bfv import generate_key

    return generate_key(parameters).to_bytes()


def test_a_key_it_made_serves_us(oracle, preset, server, upload, tmp_path):
    seal.KeyGenerator(oracle.context).secret_key().save(str(tmp_path / "key"))
    secret = as_version((tmp_path / "key").read_bytes(), 3)
    key = SecretKey.from_bytes(secret, preset)
    total = server.add([upload(key, [3, -4], weight=2)] * 2)
    sums, weight = unpack(open_sum(total, key), 2, 2, preset)
    assert (sums.tolist(), weight) == ([6, -8], 4)
