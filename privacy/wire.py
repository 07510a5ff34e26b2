"""TenSEAL's two Protocol Buffers messages, written by hand and read strictly.

TenSEAL's own constructors make relinearisation keys, which a ring with a single prime cannot
have, and encrypt at twice the size; yet its loaders take both a single-prime context and seeded
ciphertexts. So the messages are made here, field for field [1]::

    TenSEALContextProto  1: SEAL parameters  2: {2: flags = 0, 3: scale = -1.0}  4: symmetric = 1
    BFVVectorProto       1: slots used in each ciphertext (packed)  2: each ciphertext

The layout is not a promise of TenSEAL's; ``privacy.bfv.self_test`` finds out when it changes.

    >>> blob = vector_bytes([b"abc", b"de"], slots=4096)
    >>> blob.hex(" ")
    '0a 04 80 20 80 20 12 03 61 62 63 12 02 64 65'
    >>> read_vector(blob, slots=4096)
    [b'abc', b'de']

What holds, each line a property test in tests/privacy/test_wire.py:

1. ``read_vector`` returns what ``vector_bytes`` was given.
2. Every other message is refused: there is one way to write a vector.

References:
    [1] TenSEAL 0.3.18, tenseal/proto/tensealcontext.proto and tensors.proto. The encoding is
    Protocol Buffers', https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from protocol.errors import PrivacyError

CIPHERTEXTS_MAX: Final = 2**16
"""Ciphertexts in one vector; a billion values, as many as a message may announce."""
_VARINT, _FIXED64, _BYTES = 0, 1, 2


class MalformedCiphertext(PrivacyError):
    """Bytes that should be an encrypted update or sum are not."""

    code = "ciphertext-malformed"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the encrypted update or sum cannot be used: {why}; ask its sender for it again"
        )


def context_bytes(seal_parameters: bytes) -> bytes:
    """Return a TenSEAL context of these parameters that holds no key of any kind."""
    flags_and_scale = _tag(2, _VARINT) + _varint(0) + _tag(3, _FIXED64) + struct.pack("<d", -1.0)
    symmetric = _tag(4, _VARINT) + _varint(1)
    return _field(1, seal_parameters) + _field(2, flags_and_scale) + symmetric


def vector_bytes(ciphertexts: Sequence[bytes], slots: int) -> bytes:
    """Return the TenSEAL vector made of ``ciphertexts`` that use all their ``slots``."""
    header = _field(1, _varint(slots) * len(ciphertexts))
    return header + b"".join(_field(2, ciphertext) for ciphertext in ciphertexts)


def vector_size(ciphertexts: int, size: int, slots: int) -> int:
    """Return the bytes of a vector of so many ciphertexts of ``size`` bytes each."""
    header = _field(1, _varint(slots) * ciphertexts)
    return len(header) + ciphertexts * (1 + len(_varint(size)) + size)


def read_vector(blob: bytes, slots: int) -> list[bytes]:
    """Return the ciphertexts of a TenSEAL vector.

    Args:
        blob: Hostile bytes.
        slots: How many slots every ciphertext must use.

    Raises:
        MalformedCiphertext: It is anything but what ``vector_bytes`` writes.
    """
    sizes, position = _read_field(blob, 0, 1)
    each = _varint(slots)
    count = len(sizes) // len(each)
    if not 1 <= count <= CIPHERTEXTS_MAX or sizes != each * count:
        raise MalformedCiphertext("its header is not one of this parameter set")
    ciphertexts: list[bytes] = []
    while position < len(blob):
        if len(ciphertexts) == count:
            raise MalformedCiphertext("it has more ciphertexts than it announces")
        ciphertext, position = _read_field(blob, position, 2)
        ciphertexts.append(ciphertext)
    if len(ciphertexts) != count:
        raise MalformedCiphertext("it has fewer ciphertexts than it announces")
    return ciphertexts


def _read_field(blob: bytes, position: int, number: int) -> tuple[bytes, int]:
    """Return the bytes of the field that must start at ``position``, and where it ends."""
    if blob[position : position + 1] != _tag(number, _BYTES):
        raise MalformedCiphertext("it is no TenSEAL vector")
    start, size = position + 1, 0
    for shift in range(0, 35, 7):
        if start >= len(blob):
            break
        byte = blob[start]
        start += 1
        size |= (byte & 127) << shift
        if byte < 128:
            if blob[position + 1 : start] != _varint(size) or start + size > len(blob):
                break
            return blob[start : start + size], start + size
    raise MalformedCiphertext("it is truncated or holds a wrong length")


def _field(number: int, content: bytes) -> bytes:
    return _tag(number, _BYTES) + _varint(len(content)) + content


def _tag(number: int, kind: int) -> bytes:
    return bytes([number << 3 | kind])


def _varint(value: int) -> bytes:
    """Return ``value`` in base 128, lowest digit first, every byte but the last marked."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)
