"""A node is asked in types; another chain, no answer and errors have names."""

from __future__ import annotations

import http.server
import threading

import pytest

from ledger.chain.node import (
    ChainDiffers,
    FeeTooLow,
    NodeAnswerUnusable,
    NodeRefused,
    NodeUnreachable,
    NonceTaken,
    answered,
    connect,
    http_transport,
)


def node_that_says(message):
    def ask(method, _parameters):
        if method == "eth_chainId":
            return "0x7"
        raise NodeRefused(method, message)

    return connect(ask)


def test_another_chain_is_refused():
    assert connect(lambda *_: "0x7", chain_id=7).chain_id == 7
    with pytest.raises(ChainDiffers, match="is 7, not 8"):
        connect(lambda *_: "0x7", chain_id=8)


@pytest.mark.parametrize(
    "message", ["already known", "transaction already imported", "Known transaction"]
)
def test_what_a_node_has_already_may_be_sent_again(message):
    node_that_says(message).send(b"raw")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("nonce too low", NonceTaken),
        ("Nonce below account's", NonceTaken),
        ("replacement transaction underpriced", FeeTooLow),
        ("max fee per gas less than block base fee", FeeTooLow),
        ("insufficient funds", NodeRefused),
    ],
)
def test_a_refusal_has_a_name(message, error):
    with pytest.raises(error) as refusal:
        node_that_says(message).send(b"raw")
    assert type(refusal.value) is error


@pytest.mark.parametrize(
    ("data", "found"),
    [("0x08c379a0", b"\x08\xc3\x79\xa0"), ({"data": "0x01"}, b"\x01"), ("0xz", b""), (None, b"")],
)
def test_the_bytes_of_a_revert_are_kept(data, found):
    with pytest.raises(NodeRefused) as refusal:
        answered("eth_call", {"error": {"message": "reverted", "data": data}})
    assert refusal.value.data == found


def test_an_answer_without_error_is_its_result():
    assert answered("eth_call", {"result": "0x1"}) == "0x1"
    with pytest.raises(NodeRefused, match="broken"):
        answered("eth_call", {"error": "broken"})


QUESTIONS = {
    "eth_blockNumber": lambda node: node.height(),
    "eth_getTransactionCount": lambda node: node.nonce(b"a" * 20),
    "eth_getBalance": lambda node: node.balance(b"a" * 20),
    "eth_getCode": lambda node: node.code(b"a" * 20),
    "eth_call": lambda node: node.call(b"a" * 20, b""),
    "eth_estimateGas": lambda node: node.estimate(b"a" * 20, None, b""),
    "eth_getLogs": lambda node: node.logs(b"a" * 20, [], 1, 2),
}


@pytest.mark.parametrize("method", QUESTIONS)
@pytest.mark.parametrize("answer", [None, {"a": 1}, "no", [None], 1.5])
def test_an_answer_of_nothing_names_the_node_and_the_question(method, answer):
    node = connect(
        lambda asked, _: "0x7" if asked == "eth_chainId" else answer, name="the node at here:1"
    )
    with pytest.raises(NodeAnswerUnusable, match=f"the node at here:1 answered {method} with"):
        QUESTIONS[method](node)


def test_a_node_that_names_no_chain_is_refused():
    with pytest.raises(NodeAnswerUnusable, match="eth_chainId"):
        connect(lambda *_: None)


def test_no_block_and_no_receipt_are_answers_and_half_of_one_is_none():
    node = connect(lambda asked, _: "0x7" if asked == "eth_chainId" else None)
    assert node.block(1) is None
    assert node.receipt(b"t" * 32) is None
    halves = connect(lambda asked, _: "0x7" if asked == "eth_chainId" else {"blockHash": "0x01"})
    for half in (lambda: halves.block(1), lambda: halves.receipt(b"t" * 32)):
        with pytest.raises(NodeAnswerUnusable):
            half()


class Broken(http.server.BaseHTTPRequestHandler):
    """Answers with a status, or words that are no JSON, by the path."""

    def do_POST(self):
        self.send_response(int(self.path[1:]))
        self.end_headers()
        self.wfile.write(b"no JSON")

    def log_message(self, *_about):
        pass


@pytest.mark.slow
def test_no_answer_in_time_or_in_form_is_no_answer():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"http://127.0.0.1:{server.server_port}"
        for path in ("200", "500"):
            with pytest.raises(NodeUnreachable):
                http_transport(f"{where}/{path}", timeout_seconds=60)("eth_chainId", [])
        server.shutdown()
    with pytest.raises(NodeUnreachable):
        http_transport("http://127.0.0.1:1", timeout_seconds=1)("eth_chainId", [])
