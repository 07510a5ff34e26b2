"""SEAL's saved form of an object, which TenSEAL offers as the only way to its coefficients.

A saved object is a header and a body; the body may be compressed, and may hold saved objects
itself, such as arrays [1]::

    header   magic 0xA15E (2) | header size 16 (1) | version 4, 3 (1, 1) | compression (1) | 0 (2)
             | size, header included (8)                                      all little-endian
    array    header | count (8) | count words (8 each)

SEAL compresses what it saves with Zstandard [2] and reads what is not compressed, so this module
inflates and never deflates. The layout is no promise of SEAL's: ``ring`` compares it with what the
installed one writes, and ``privacy.bfv.self_test`` finds out when it changes.

    >>> saved(b"body").hex(" ")
    '5e a1 10 04 03 00 00 00 14 00 00 00 00 00 00 00 62 6f 64 79'
    >>> body(saved(b"body"), limit=100)
    b'body'

What holds, each line a property test in tests/privacy/test_wire.py:

1. ``body`` returns what ``saved`` was given, compressed or not, and refuses every other header.
2. It returns no more than ``limit`` bytes, whatever a compressed body claims.

References:
    [1] SEAL 4.3, native/src/seal/serialization.h and dynarray.h. [2] RFC 8878.
"""

from __future__ import annotations

import struct
from typing import Final

import zstandard

from protocol.errors import PrivacyError

_HEADER: Final = struct.Struct("<HBBBBHQ")
_MAGIC, _VERSION, _PLAIN, _ZSTANDARD = 0xA15E, (4, 3), 0, 2


class MalformedCiphertext(PrivacyError):
    """Bytes that should be an encrypted update or sum are not."""

    code = "ciphertext-malformed"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the encrypted update or sum cannot be used: {why}; ask its sender for it again"
        )


def saved(content: bytes) -> bytes:
    """Return ``content`` as SEAL saves it without compression."""
    return header(len(content)) + content


def header(size: int) -> bytes:
    """Return the header of an uncompressed body of ``size`` bytes."""
    return _HEADER.pack(_MAGIC, _HEADER.size, *_VERSION, _PLAIN, 0, _HEADER.size + size)


def array_header(count: int) -> bytes:
    """Return what precedes the words of a saved array of ``count`` words."""
    return header(8 + 8 * count) + struct.pack("<Q", count)


def body(blob: bytes, *, limit: int) -> bytes:
    """Return what an object saved as ``blob`` holds.

    Args:
        blob: One saved object, nothing after it.
        limit: How many bytes its body may have.

    Raises:
        MalformedCiphertext: It is none, is of another version, or holds more.
    """
    if len(blob) < _HEADER.size:
        raise MalformedCiphertext("it is shorter than what SEAL saves")
    magic, size, major, minor, compression, rest, total = _HEADER.unpack_from(blob)
    fixed = magic, size, (major, minor), rest
    if fixed != (_MAGIC, _HEADER.size, _VERSION, 0) or total != len(blob):
        raise MalformedCiphertext("its header is not that of this version of SEAL")
    content = blob[_HEADER.size :]
    if compression == _ZSTANDARD:
        content = _inflated(content, limit)
    elif compression != _PLAIN:
        raise MalformedCiphertext("it is compressed in another way")
    if len(content) > limit:
        raise MalformedCiphertext("it holds more than such an object can")
    return content


def _inflated(content: bytes, limit: int) -> bytes:
    try:
        announced = zstandard.frame_content_size(content)  # -1 where the frame does not say
        if announced > limit:
            raise MalformedCiphertext("it holds more than such an object can")
        # Room for one byte more, as a limit of zero would mean none at all.
        return zstandard.ZstdDecompressor().decompress(
            content, max_output_size=limit + 1, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise MalformedCiphertext("its compressed body is damaged") from error
