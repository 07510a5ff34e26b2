"""The weak setting the attacks are shown on first: NVIDIA FLARE 2.9's shared-key CKKS.

Built here with plain TenSEAL from the parameters that NVIDIA FLARE documents for its homomorphic
provisioning [1]: CKKS, N = 8192, primes of 60, 40 and 40 bits, scale 2**40, symmetric encryption.
Every client gets the same context, with the secret key; the server gets it without::

    client ── encrypt(weight * update) ─▶ server ── (sum) * 1 / (sum of weights) ─▶ every client
     key                                  no key                                        key

Nothing is signed, masked, committed to or named, which is what the attacks use.

References:
    [1] NVIDIA FLARE 2.9, nvflare/lighter/impl/he.py (defaults of HEBuilder) and
    docs/design/distributed_provisioning.md.
"""

import struct
from dataclasses import dataclass

import numpy as np
import tenseal

from privacy.scratch import scratch_file
from privacy.wire import array_header, body, saved
from tests.privacy.attacks.transform import forward, inverse

DEGREE = 8192
SLOTS = DEGREE // 2
SCALE = 2.0**40
_CIPHERTEXT_FRAME, _PLAINTEXT_FRAME = 97, 72  # bytes that SEAL saves before the residues
_SCALE_TAG = b"\x19"  # field 3 of CKKSVectorProto, a double


@dataclass(frozen=True)
class Reference:
    """One study: the context that every client shares, and the server's."""

    client: tenseal.enc_context.Context
    server: tenseal.enc_context.Context

    @classmethod
    def provision(cls):
        """Make the kits as the provisioning does: one secret key, copied to all clients."""
        client = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            DEGREE,
            coeff_mod_bit_sizes=[60, 40, 40],
            encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        )
        client.global_scale = SCALE
        return cls(client, tenseal.context_from(client.serialize(save_secret_key=False)))

    def another_client(self):
        """Return the kit of any other hospital, as it is read from its file."""
        return tenseal.context_from(self.client.serialize(save_secret_key=True))

    def encrypt(self, values, weight=1):
        """Return what a client uploads: one serialised vector, weighted before encryption."""
        weighted = np.asarray(values, dtype=np.float64) * weight
        return tenseal.ckks_vector(self.client, weighted.tolist()).serialize()

    def aggregate(self, uploads, weights=None):
        """Return the weighted mean as the server makes it, or the plain sum without weights."""
        total = tenseal.ckks_vector_from(self.server, uploads[0])
        for upload in uploads[1:]:
            total += tenseal.ckks_vector_from(self.server, upload)
        if weights is not None:
            total *= 1.0 / sum(weights)
        return total.serialize()


def opened(context, blob):
    """Return what a context with a secret key decrypts, as float64."""
    return np.array(tenseal.ckks_vector_from(context, blob).decrypt())


def primes(context):
    """Return the primes of the key level, the special one last."""
    return [
        q.value() for q in context.seal_context().data.key_context_data().parms().coeff_modulus()
    ]


def polynomials(context, blob):
    """Return ``(ciphertexts, 2, primes, N)`` residues of a serialised vector, transformed."""
    found = []
    for ciphertext in tenseal.ckks_vector_from(context, blob).ciphertext():
        words = np.frombuffer(_saved(ciphertext)[_CIPHERTEXT_FRAME:], "<u8")
        found.append(words.reshape(ciphertext.size(), -1, DEGREE))
    return np.stack(found)


def scale_of(context, blob):
    """Return the scale that a serialised vector announces."""
    return tenseal.ckks_vector_from(context, blob).ciphertext()[0].scale


def plaintext_words(plaintext, degree=DEGREE):
    """Return the words of one of SEAL's plaintexts, one row for each prime."""
    return np.frombuffer(_saved(plaintext)[_PLAINTEXT_FRAME:], "<u8").reshape(-1, degree)


def secret_polynomial(context):
    """Return the ``(N,)`` ternary coefficients of the secret key that a context holds."""
    return inverse(plaintext_words(context.secret_key().data)[0], primes(context)[0])


def with_secret(context, coefficients):
    """Return a keyless context with this ternary polynomial put in as its secret key."""
    parms_id = context.seal_context().data.key_parms_id()
    words = np.concatenate([forward(coefficients, q) for q in primes(context)]).astype("<u8")
    head = struct.pack("<4QQd", *parms_id, words.size, 1.0)
    key = saved(head + array_header(words.size) + words.tobytes())
    return tenseal.context_from(
        context.serialize(save_secret_key=False) + _field(3, _field(1, key))
    )


def crafted(context, blob, change):
    """Return the vector with ``change`` applied to its ``(ciphertexts, 2, primes, N)`` residues."""
    vector = tenseal.ckks_vector_from(context, blob)
    words = polynomials(context, blob)
    change(words)
    size = vector.size()
    message = _field(1, b"".join(_varint(min(SLOTS, size - k)) for k in range(0, size, SLOTS)))
    for ciphertext, rows in zip(vector.ciphertext(), words, strict=True):
        frame = _saved(ciphertext)[: -rows.nbytes]
        message += _field(2, saved(frame + rows.astype("<u8").tobytes()))
    return message + _SCALE_TAG + struct.pack("<d", scale_of(context, blob))


def _saved(thing):
    """Return what SEAL saves of an object, decompressed."""
    with scratch_file() as file:
        thing.save(file.path)
        return body(file.read(), limit=2**24)


def _field(number, content):
    """Return a Protocol Buffers field of bytes; TenSEAL's messages are made of them."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value):
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
