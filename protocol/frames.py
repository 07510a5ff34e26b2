"""Frames: how one request or reply travels, whether inside a Flower message or over a socket.

A frame is a JSON header and a run of binary blobs, so that a model of megabytes is never turned
into text and a reader knows every length before it allocates::

    b"BHF1" | header length, 4 bytes big-endian | header (JSON, UTF-8) | blob | blob | ...
    header = {"kind": "train", "body": {...}, "blobs": [["model", 65536], ...]}

Frames come from the network: ``decode`` refuses anything that is not exactly this, with a typed
error, and never allocates more than it was given.

    >>> frame = encode("train", {"round": 1}, {"model": b"abc"})
    >>> decode(frame)
    Frame(kind='train', body={'round': 1}, blobs={'model': b'abc'})
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from protocol.errors import FederationError

MAGIC: Final = b"BHF1"
HEADER_BYTES_MAX: Final = 8 * 2**20
"""Certificates of 1,000 chunks fit many times over."""
FRAME_BYTES_MAX: Final = 2**31
"""Two gibibytes: an upload of 500 million parameters."""
BLOBS_MAX: Final = 64
KIND_MAX: Final = 40


class MalformedFrame(FederationError):
    """The bytes received are not a frame of this protocol."""

    code = "malformed-frame"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the message received cannot be read ({why}); check that both sides run the same "
            "BitHive version"
        )


@dataclass(frozen=True)
class Frame:
    """One request or reply: what it is, its JSON body, and named binary blobs."""

    kind: str
    body: dict[str, Any]
    blobs: dict[str, bytes] = field(default_factory=dict)


def encode(kind: str, body: Mapping[str, Any], blobs: Mapping[str, bytes] | None = None) -> bytes:
    """Return the frame's bytes; equal arguments give equal bytes."""
    blobs = blobs or {}
    sizes = [[name, len(blob)] for name, blob in blobs.items()]
    return b"".join([_start(kind, body, sizes), *blobs.values()])


def encode_pieces(
    kind: str, body: Mapping[str, Any], blobs: Mapping[str, tuple[int, Iterable[bytes]]]
) -> bytes:
    """Return ``encode`` of blobs that come with their lengths and in pieces, each held once."""
    sizes = [[name, size] for name, (size, _) in blobs.items()]
    frame = io.BytesIO()
    frame.write(_start(kind, body, sizes))
    for size, pieces in blobs.values():
        before = frame.tell()
        for piece in pieces:
            frame.write(piece)
        assert frame.tell() == before + size
    return frame.getvalue()


def pieces_of(frame: Frame) -> Iterator[bytes]:
    """Yield the bytes of ``encode`` for a frame, blob by blob, so that none is copied."""
    sizes = [[name, len(blob)] for name, blob in frame.blobs.items()]
    yield _start(frame.kind, frame.body, sizes)
    yield from frame.blobs.values()


def _start(kind: str, body: Mapping[str, Any], sizes: list[list[Any]]) -> bytes:
    header = json.dumps(
        {"kind": kind, "body": body, "blobs": sizes}, sort_keys=True, separators=(",", ":")
    ).encode()
    assert len(header) <= HEADER_BYTES_MAX
    return MAGIC + len(header).to_bytes(4, "big") + header


def decode(frame: bytes) -> Frame:
    """Read a frame.

    Args:
        frame: Hostile bytes.

    Returns:
        The parts; the body is any JSON object, to be validated by whoever knows the kind.

    Raises:
        MalformedFrame: The bytes are not exactly one frame.
    """
    # Who only carries frames reads none, and loads nothing but Flower: ``fl_client.app``.
    from pydantic_core import from_json  # noqa: PLC0415 - see above

    start = len(MAGIC) + 4
    if len(frame) > FRAME_BYTES_MAX:
        raise MalformedFrame("it is larger than 2 GiB")
    if len(frame) < start or frame[: len(MAGIC)] != MAGIC:
        raise MalformedFrame("it does not start as a frame")
    length = int.from_bytes(frame[len(MAGIC) : start], "big")
    if length > HEADER_BYTES_MAX or start + length > len(frame):
        raise MalformedFrame("its header is cut off")
    try:
        # Not json.loads: deep nesting is an error here whatever the recursion limit is set to.
        header = from_json(frame[start : start + length], allow_inf_nan=False)
    except ValueError as error:
        raise MalformedFrame("its header is not JSON") from error
    kind, body, sizes = _checked_header(header)
    blobs: dict[str, bytes] = {}
    at = start + length
    for name, size in sizes:
        blobs[name] = frame[at : at + size]
        at += size
    if at != len(frame) or len(blobs) != len(sizes):
        raise MalformedFrame("its blobs do not fill it")
    return Frame(kind, body, blobs)


def join_parts(parts: Sequence[bytes]) -> bytes:
    """Return one blob of many parts, each preceded by its length in 4 bytes, big-endian.

    >>> split_parts(join_parts([b"ab", b""]), 2)
    [b'ab', b'']
    """
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def split_parts(blob: bytes, count: int) -> list[bytes]:
    """Return the ``count`` parts of a blob that ``join_parts`` made.

    Raises:
        MalformedFrame: It has another number of parts, or they do not fill it.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(blob) and len(parts) < count:
        size = int.from_bytes(blob[at : at + 4], "big")
        parts.append(blob[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(blob) or len(parts) != count:
        raise MalformedFrame("a blob has another number of parts than were due")
    return parts


def _checked_header(header: object) -> tuple[str, dict[str, Any], list[tuple[str, int]]]:
    if not isinstance(header, dict) or set(header) != {"kind", "body", "blobs"}:
        raise MalformedFrame("its header has other fields")
    kind, body, entries = header["kind"], header["body"], header["blobs"]
    if not isinstance(kind, str) or len(kind) > KIND_MAX or not isinstance(body, dict):
        raise MalformedFrame("its kind or body is of another type")
    if not isinstance(entries, list) or len(entries) > BLOBS_MAX:
        raise MalformedFrame("its list of blobs is of another type")
    sizes: list[tuple[str, int]] = []
    for entry in entries:
        match entry:
            case [str(name), int(size)] if 0 <= size <= FRAME_BYTES_MAX and size is not True:
                sizes.append((name, size))
            case _:
                raise MalformedFrame("a blob has no name and length")
    return kind, body, sizes
