"""What a second implementation of the secure sum's formats would compute, from the specifications.

Nothing of ``privacy`` is used here but parameter sets; see docs/spec/round.md, ciphertext.md and
group-key.md. Pads and shares have a twin of their own in ``mask_twin``, the expansion of seeds in
``test_oracle``.
"""

import hashlib
import hmac
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

ID_BYTES = 40


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def compact(value):
    """JSON as it is hashed and signed: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def hkdf(material, info, salt=bytes(32)):
    """RFC 5869 with SHA-256, one block of 32 bytes."""
    return hmac.digest(hmac.digest(salt, material, "sha256"), info + b"\x01", "sha256")


# Messages


def signed(body, label, key):
    """Return a message's JSON object with its signature."""
    unsigned = {name: value for name, value in body.items() if name != "signature"}
    private = Ed25519PrivateKey.from_private_bytes(key)
    signature = private.sign(b"bithive " + label + b"\n" + compact(unsigned))
    return {**unsigned, "signature": signature.hex()}


def digest(body):
    return sha256(compact(body))


# Envelopes


def wrap(secret, sender, recipient, salt, context):
    """Seal between two static X25519 keys, each given by its private bytes."""
    mine, theirs = (X25519PrivateKey.from_private_bytes(key) for key in (sender, recipient))
    publics = [key.public_key().public_bytes_raw() for key in (mine, theirs)]
    bound = b"bithive wrapped key\n" + publics[0] + publics[1] + context
    shared = mine.exchange(X25519PublicKey.from_public_bytes(publics[1]))
    key = hkdf(shared, bound, salt)
    return b"\x01" + salt + ChaCha20Poly1305(key).encrypt(bytes(12), secret, bound)


def seal(secret, key, context):
    return ChaCha20Poly1305(key).encrypt(bytes(12), secret, b"bithive sealed key\n" + context)


# Rounds


def reveal(self_seed, self_shares, round_shares):
    """Return a reveal's bytes."""
    blob = b"\x01" + bytes([self_seed is not None]) + (self_seed or bytes(32))
    blob += bytes([len(self_shares), len(round_shares)])
    for shares in (self_shares, round_shares):
        for site in sorted(shares):
            blob += site.encode() + bytes(ID_BYTES - len(site)) + shares[site]
    return blob


def merkle_root(entries):
    """RFC 6962, section 2.1, as it is defined there."""
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    split = 1
    while 2 * split < len(entries):
        split *= 2
    halves = merkle_root(entries[:split]) + merkle_root(entries[split:])
    return hashlib.sha256(b"\x01" + halves).digest()


def uploads_root(receipts):
    entries = [
        json.dumps([one["site"], one["ciphertext_sha256"]], separators=(",", ":")).encode()
        for one in receipts
    ]
    return merkle_root(entries).hex()


def challenge(commitment, endorsements):
    parts = [bytes.fromhex(digest(one)) for one in (commitment, *endorsements)]
    return hashlib.sha256(b"bithive challenge\n" + b"".join(parts)).digest()


# Ciphertexts


def keystream(key):
    """Yield the little-endian words of 64 bits of AES-256-CTR from counter zero."""
    codebook = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    counter = 0
    while True:
        block = codebook.update(counter.to_bytes(16, "big"))
        yield int.from_bytes(block[:8], "little")
        yield int.from_bytes(block[8:], "little")
        counter += 1


def below(words, prime, count):
    """Return the first ``count`` of ``words``, cut to the prime's bits, that are below it."""
    found = []
    while len(found) < count:
        word = next(words) >> (64 - prime.bit_length())
        if word < prime:
            found.append(word)
    return found


def shake_words(seed, count):
    """Yield the words of SHAKE-256(seed), of which ``count`` suffice."""
    stream = hashlib.shake_256(seed).digest(8 * count)
    return (int.from_bytes(stream[i : i + 8], "little") for i in range(0, len(stream), 8))


def packed_bits(numbers, bits):
    """Return numbers one after the other, the lowest bit of the first byte first."""
    total = sum(number << (bits * place) for place, number in enumerate(numbers))
    return total.to_bytes(len(numbers) * bits // 8, "little")


def container(kind, parameters, ciphertexts, seeds):
    """Return the bytes of an upload or a sum.

    ``ciphertexts[i][j][k]`` are the residues of polynomial j of ciphertext i mod prime k.
    """
    primes = parameters.data_modulus
    numbers = [(kind, 1), (parameters.ring_degree, 4), (len(primes), 1), (len(ciphertexts[0]), 1)]
    numbers += [(len(ciphertexts), 4), (max(1, len(seeds)), 2)]
    blob = b"BHC1" + b"".join(number.to_bytes(size, "big") for number, size in numbers)
    blob += b"".join(seeds)
    for ciphertext in ciphertexts:
        for polynomial in ciphertext:
            for row, prime in zip(polynomial, primes, strict=True):
                blob += packed_bits(row, prime.bit_length())
    return blob


def coefficients(seed, prime, vector, count):
    """Return the first of a vector's coefficients mod one prime."""
    key = hkdf(seed, b"bithive tag\n" + prime.to_bytes(8, "big") + bytes([vector]))
    return below(keystream(key), prime, count)


def tag(ciphertexts, seed, primes):
    """Return one residue per vector and prime; all polynomials present, expanded ones too."""
    found = []
    for vector in range(2):
        for place, prime in enumerate(primes):
            rows = [row[place] for ciphertext in ciphertexts for row in ciphertext]
            values = [residue for row in rows for residue in row]
            rho = coefficients(seed, prime, vector, len(values))
            found.append(sum(a * b for a, b in zip(rho, values, strict=True)) % prime)
    return found


# Group keys


def member_key_id(secret, parameters):
    """Return the name of a key that members hold."""
    return sha256(hkdf(secret, b"bithive group key id\n" + parameters.name.encode()))[:16]


def context_digest(context, parameters):
    name = parameters.name.encode()
    head = b"bithive collective key v1\n" + bytes([len(name)]) + name
    return hashlib.sha256(head + context).digest()


def collective_key_id(parts):
    return sha256(b"bithive collective key v1\n" + b"".join(parts))[:16]


def common_polynomial(digest_, parameters):
    """Return the evaluations of a, one row per prime, the special prime's last."""
    seed, count = b"bithive collective key v1\n" + digest_, parameters.ring_degree
    return [
        below(shake_words(seed + bytes([i]), count + count // 4), prime, count)
        for i, prime in enumerate(parameters.coeff_modulus)
    ]


def weight(holder, quorum, prime):
    """Return Lagrange's weight at zero."""
    found = 1
    for other in quorum:
        if other != holder:
            found = found * (other + 1) * pow(other - holder, -1, prime) % prime
    return found


def decryption_share_heading(index, quorum, ciphertexts, total, facts):
    """Return the 49 bytes before the polynomials of a decryption share."""
    names = "".join(f"{fact}\n" for fact in facts).encode()
    bound = hashlib.sha256(b"bithive opened sum v1\n" + names + total).digest()
    members = sum(1 << one for one in quorum)
    numbers = bytes([index]) + members.to_bytes(8, "big") + ciphertexts.to_bytes(4, "big")
    return b"BHP1" + numbers + bound
