"""Polynomials by their values at roots of unity, as SEAL keeps keys, and SEAL's objects from them.

In evaluation form a product of polynomials is entry by entry. The values of a polynomial mod each
prime at the primitive 2N-th roots of unity stand in the order of SEAL's own transform; as nothing
else here evaluates a polynomial, no other order could appear. SEAL's objects are made from its
saved forms (``privacy.wire``), as TenSEAL offers no other way to their coefficients [1]::

    plaintext    level (32), 0 for coefficients | words | scale 1.0 | array   a secret key too
    public key   level (32) | 1 (1) | 2 polynomials | N | primes | scale 1.0, correction 1 | array

What holds, each a test in tests/privacy/test_evaluations.py:

1. Evaluations multiply as polynomials mod x^N + 1 do.
2. A public key made from parts encrypts what the matching secret key decrypts, in SEAL's code.

References:
    [1] SEAL 4.3, native/src/seal/plaintext.h and ciphertext.cpp, save_members.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from tenseal import sealapi

from privacy.parameters import ParameterSet
from privacy.ring import LIBRARY_ERRORS, Ring, TensealIncompatible
from privacy.scratch import scratch_file
from privacy.wire import MalformedCiphertext, array_header, body, saved

if TYPE_CHECKING:
    from numpy.typing import NDArray


def evaluate(values: NDArray[np.int64], made: Ring) -> NDArray[np.uint64]:
    """Return the evaluations of a small polynomial, mod every prime of keys.

    Args:
        values: ``(ring_degree,)`` signed coefficients, of magnitudes below t / 2.
        made: The ring.

    Returns:
        ``(primes, ring_degree)``, the special prime last.
    """
    parameters = made.parameters
    assert values.shape == (parameters.ring_degree,)
    words = np.where(values < 0, values + parameters.plain_modulus, values).astype(np.uint64)
    level = made.seal.key_parms_id()
    plaintext = _load(sealapi.Plaintext(), _plaintext((0, 0, 0, 0), words), made)
    count = len(parameters.coeff_modulus) * parameters.ring_degree
    head = _plaintext_head(level, count)
    try:
        sealapi.Evaluator(made.seal).transform_to_ntt_inplace(plaintext, level)
        with scratch_file() as file:
            plaintext.save(file.path)
            content = body(file.read(), limit=len(head) + 8 * count)
    except (MalformedCiphertext, *LIBRARY_ERRORS) as error:
        raise TensealIncompatible("it does not evaluate a polynomial") from error
    if content[: len(head)] != head or len(content) != len(head) + 8 * count:
        raise TensealIncompatible("it lays out plaintexts in another way")
    found = np.frombuffer(content, "<u8", count, len(head)).astype(np.uint64, copy=False)
    return found.reshape(-1, parameters.ring_degree)


def multiplier(values: NDArray[np.uint64], made: Ring) -> Any:
    """Return the plaintext that SEAL multiplies ciphertexts in evaluation form by.

    Args:
        values: ``(data primes, ring_degree)`` evaluations.
        made: The ring.
    """
    assert values.shape == _shape(made.parameters, len(made.parameters.data_modulus))
    return _load(sealapi.Plaintext(), _plaintext(made.seal.first_parms_id(), values), made)


def secret_key(values: NDArray[np.uint64], made: Ring) -> Any:
    """Return SEAL's secret key of these ``(primes, ring_degree)`` evaluations."""
    assert values.shape == _shape(made.parameters, len(made.parameters.coeff_modulus))
    return _load(sealapi.SecretKey(), _plaintext(made.seal.key_parms_id(), values), made)


def public_key(values: NDArray[np.uint64], made: Ring) -> Any:
    """Return SEAL's public key (b, a) with b + a s small.

    Args:
        values: ``(2, primes, ring_degree)`` evaluations, b first.
        made: The ring.
    """
    degree, primes = made.parameters.ring_degree, len(made.parameters.coeff_modulus)
    assert values.shape == (2, primes, degree)
    form = struct.pack("<4QBQQQdQ", *made.seal.key_parms_id(), 1, 2, degree, primes, 1.0, 1)
    content = form + array_header(values.size) + _words(values)
    return _load(sealapi.PublicKey(), saved(content), made)


def _load(empty: Any, blob: bytes, made: Ring) -> Any:
    """Return SEAL's object; whatever is loaded here, this module has written."""
    try:
        with scratch_file() as file:
            file.write(blob)
            empty.load(made.seal, file.path)
    except LIBRARY_ERRORS as error:
        raise TensealIncompatible("it does not read its own saved forms") from error
    return empty


def _plaintext(level: tuple[int, ...] | list[int], values: NDArray[np.uint64]) -> bytes:
    return saved(_plaintext_head(level, values.size) + _words(values))


def _plaintext_head(level: tuple[int, ...] | list[int], count: int) -> bytes:
    return struct.pack("<4QQd", *level, count, 1.0) + array_header(count)


def _words(values: NDArray[np.uint64]) -> bytes:
    return values.astype("<u8", copy=False).tobytes()


def _shape(parameters: ParameterSet, primes: int) -> tuple[int, int]:
    return primes, parameters.ring_degree
