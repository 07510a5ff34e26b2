"""A node takes no more from its server than the largest honest answer and message have."""

import ssl

import httpx
import pytest

from fl_client.node.bounds import BoundedTransport, Budget, MessageTooLarge, bounded_client
from protocol.frames import FRAME_BYTES_MAX


class Endless(httpx.SyncByteStream):
    """A body that goes on for as long as somebody reads it."""

    def __init__(self):
        self.sent, self.closed = 0, False

    def __iter__(self):
        while True:
            self.sent += 1000
            yield bytes(1000)

    def close(self):
        self.closed = True


def ask(answer, most=10_000):
    transport = BoundedTransport(httpx.MockTransport(lambda _: answer), most)
    with httpx.Client(transport=transport) as client:
        return client.get("https://server/")


def test_an_answer_without_end_is_cut_and_its_connection_closed():
    body = Endless()
    with pytest.raises(MessageTooLarge):
        ask(httpx.Response(200, stream=body))
    assert body.sent == 11_000
    assert body.closed


def test_an_answer_that_announces_too_much_is_not_read():
    body = Endless()
    with pytest.raises(MessageTooLarge):
        ask(httpx.Response(200, headers={"content-length": "10001"}, stream=body))
    assert body.sent == 0
    assert body.closed


def test_an_answer_that_would_grow_when_it_is_unpacked_is_not_read():
    body = Endless()
    with pytest.raises(MessageTooLarge):
        ask(httpx.Response(200, headers={"content-encoding": "gzip"}, stream=body))
    assert body.sent == 0


def test_an_answer_of_the_largest_size_is_read_whole():
    assert ask(httpx.Response(200, content=bytes(10_000))).content == bytes(10_000)
    assert ask(httpx.Response(404, content=b"no")).status_code == 404


def test_an_answer_that_leads_elsewhere_is_not_followed():
    client = bounded_client(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), timeout_seconds=1)
    assert not client.follow_redirects
    client.close()


def test_the_parts_of_a_message_are_counted_together():
    budget = Budget(100)
    budget.take(60)
    budget.take(40)
    with pytest.raises(MessageTooLarge) as refusal:
        budget.take(1)
    assert refusal.value.most == 100


def test_the_largest_frame_fits():
    Budget().take(FRAME_BYTES_MAX)
