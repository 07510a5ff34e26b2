"""How much a node takes from its server: of one answer, and of one message.

A server may be somebody else's by tomorrow, and an answer is in memory before anybody can read it.
So its bytes are counted while they come, and no more are taken than the largest honest answer has;
neither is an answer that says it is compressed, which could be a few bytes and become anything, nor
one that leads to another address.

    >>> budget = Budget(10)
    >>> budget.take(6)
    >>> budget.take(6)
    Traceback (most recent call last):
    fl_client.node.bounds.MessageTooLarge: the server sends a message of more than 10 bytes, ...

What holds (tests/fl_client/test_node_bounds.py):

1. No more than ``ANSWER_BYTES_MAX`` of an answer are read, and none of one that announces more.
2. All parts of a message together have no more than a frame may have.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from typing import Final

import httpx

from protocol.errors import FederationError
from protocol.parts import MESSAGE_BYTES_MAX

ANSWER_BYTES_MAX: Final = 16 * 2**20
"""Flower cuts a message into objects of 5 MiB; ``CONFIG`` of the front door lets as much through.
"""
PLAIN: Final = frozenset({"", "identity"})


class MessageTooLarge(FederationError):
    """The server sends more than any message of ours has."""

    code = "message-too-large"

    def __init__(self, most: int) -> None:
        self.most = most
        super().__init__(
            f"the server sends a message of more than {most} bytes, which none of ours has; the "
            "node does not take it: ask the operator what was sent"
        )


class Budget:
    """What a message may still have; several threads take from it."""

    def __init__(self, most: int = MESSAGE_BYTES_MAX) -> None:
        self._most = most
        self._left = most
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Count bytes that came.

        Raises:
            MessageTooLarge: They are too many.
        """
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise MessageTooLarge(self._most)


class BoundedTransport(httpx.BaseTransport):
    """Pass requests on, and end an answer that has too many bytes."""

    def __init__(self, inner: httpx.BaseTransport, most: int = ANSWER_BYTES_MAX) -> None:
        self._inner = inner
        self._most = most

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer, whose bytes are counted while they are read.

        Raises:
            MessageTooLarge: It announces too many, or bytes that stand for more.
        """
        request.headers["accept-encoding"] = "identity"
        answer = self._inner.handle_request(request)
        announced = answer.headers.get("content-length", "0")
        too_many = not announced.isdecimal() or int(announced) > self._most
        if too_many or answer.headers.get("content-encoding", "").lower() not in PLAIN:
            answer.close()
            raise MessageTooLarge(self._most)
        assert isinstance(answer.stream, httpx.SyncByteStream)
        counted = _Counted(answer.stream, Budget(self._most))
        return httpx.Response(
            answer.status_code,
            headers=answer.headers,
            stream=counted,
            extensions=answer.extensions,
        )

    def close(self) -> None:
        """Close what is below."""
        self._inner.close()


class _Counted(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, budget: Budget) -> None:
        self._inner = inner
        self._budget = budget

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._inner:
            self._budget.take(len(chunk))
            yield chunk

    def close(self) -> None:
        self._inner.close()


def bounded_client(verify: ssl.SSLContext, *, timeout_seconds: float) -> httpx.Client:
    """Return a client that takes no more of an answer than it should, and follows it nowhere."""
    transport = BoundedTransport(httpx.HTTPTransport(verify=verify))
    return httpx.Client(transport=transport, timeout=timeout_seconds, follow_redirects=False)
