"""What the parts of a Flower message become when they are put together, before anybody does it.

Flower cuts a message into objects, each ``TYPE CHILD,CHILD LENGTH``, a zero byte, and a body. An
array's body lists which of its children follow one another, and may list one of them a million
times: few bytes that come become many in memory. Both sides of the wire read such objects from
somebody they do not trust, so both count here first.

    >>> chunk = b"ArrayChunk  3" + bytes(1) + b"abc"
    >>> array = b"Array c 29" + bytes(1) + b'{"arraychunk_ids": [0, 0, 0]}'
    >>> joined_bytes({"c": chunk, "a": array}) == 3 * len(chunk)
    True

What holds, each a test in tests/protocol/test_parts.py:

1. What Flower puts together of the parts has no more bytes than are counted here.
2. Bytes that are no parts of a message are refused.

References:
    Flower 1.41, ``flwr.supercore.inflatable``, ``flwr.app.message.array``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic_core import from_json

from protocol.errors import FederationError
from protocol.frames import FRAME_BYTES_MAX

PARTS_MAX: Final = 1024
"""A frame of 2 GiB travels in about 410 objects of 5 MiB."""
MESSAGE_BYTES_MAX: Final = FRAME_BYTES_MAX + 16 * 2**20
"""A frame, and what Flower wraps around its parts."""
HEAD_BYTES_MAX: Final = 2**20
ORDER: Final = "arraychunk_ids"


class PartsRefused(FederationError):
    """The parts of a message are not as Flower makes them, or too large together."""

    code = "parts-refused"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"a message was not put together: {why}; check that both sides run the same versions"
        )


def check_parts(contents: Mapping[str, bytes], most: int = MESSAGE_BYTES_MAX) -> None:
    """Return if the parts may be put together.

    Args:
        contents: Each part by its id; hostile.
        most: How many bytes they may be, as they are and put together.

    Raises:
        PartsRefused: They are too large, or no parts.
    """
    if sum(map(len, contents.values())) > most or joined_bytes(contents) > most:
        raise PartsRefused(f"it has more than {most} bytes")


def joined_bytes(contents: Mapping[str, bytes]) -> int:
    """Return how many bytes all arrays among the parts have at most, put together.

    Raises:
        PartsRefused: They are no parts.
    """
    total = 0
    for content in contents.values():
        kind, children, body = _divided(content)
        if kind != "Array":
            continue
        try:
            order = from_json(body)[ORDER]
            total += sum(len(contents[children[place]]) for place in order)
        except (ValueError, LookupError, TypeError) as error:
            raise PartsRefused("an array does not say what it is made of") from error
    return total


def _divided(content: bytes) -> tuple[str, list[str], bytes]:
    end = content.find(b"\0", 0, HEAD_BYTES_MAX)
    try:
        kind, children, _ = content[: max(end, 0)].decode().split(" ")
    except ValueError as error:
        raise PartsRefused("one of its parts has no head") from error
    return kind, children.split(","), content[end + 1 :] if kind == "Array" else b""
