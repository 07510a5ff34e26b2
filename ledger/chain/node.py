"""A node of an Ethereum chain, asked over JSON-RPC: what we need of it, in types and named errors.

A ``Transport`` carries one method and returns its result; ``http_transport`` is web3's. Everything
else stands on it, so that tests put another one in its place, one that answers late or twice.

    >>> answers = {"eth_chainId": "0x7a69", "eth_blockNumber": "0x10"}
    >>> node = connect(lambda method, _parameters: answers[method], chain_id=31337)
    >>> node.height()
    16

What holds (tests/ledger/chain/test_node.py):

1. A node of another chain than the one named is refused before anything is sent to it.
2. No answer in time is ``NodeUnreachable``; the question may be repeated, for all of them are
   questions but ``send``, and sending the same bytes twice is sending them once.
3. An answer of nothing, or of another form than the method has, is ``NodeAnswerUnusable``: as no
   answer, it may be asked again.

References:
    Ethereum execution JSON-RPC specification (execution-apis), namespace ``eth``.
    EIP-1559 (fees), EIP-155 (chain ids in signatures).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from protocol.errors import LedgerError

TIMEOUT_SECONDS: Final = 20
LOG_BLOCKS_MAX: Final = 5_000
"""Blocks whose logs are asked for at once; nodes limit it."""

_Read = TypeVar("_Read")
Transport = Callable[[str, Sequence[Any]], Any]


class NodeUnreachable(LedgerError):
    """The node gave no answer, so nobody knows whether it took the question."""

    code = "chain-node-unreachable"

    def __init__(self, method: str, why: str) -> None:
        self.method = method
        super().__init__(
            f"the node did not answer {method} ({why}); see that it runs, then settle again, "
            "nothing is paid twice"
        )


class NodeAnswerUnusable(NodeUnreachable):
    """The node answered with nothing, or with what the method never returns."""

    code = "chain-answer-unusable"

    def __init__(self, node: str, method: str) -> None:
        self.node = node
        self.method = method
        LedgerError.__init__(
            self,
            f"{node} answered {method} with nothing that can be read; see that it is a whole node "
            "of the chain and has caught up, or name another with --node",
        )


class NodeRefused(LedgerError):
    """The node answered with an error."""

    code = "chain-node-refused"

    def __init__(self, method: str, message: str, data: bytes = b"") -> None:
        self.method = method
        self.message = message
        self.data = data
        super().__init__(f"the node refused {method}: {message}")


class NonceTaken(NodeRefused):
    """A transaction with this nonce is in a block already: this one, or another."""

    code = "chain-nonce-taken"


class FeeTooLow(NodeRefused):
    """The fee is below what the block asks, or too little to replace one with the same nonce."""

    code = "chain-fee-too-low"


class ChainDiffers(LedgerError):
    """The node is on another chain than the books were settled to."""

    code = "chain-differs"

    def __init__(self, what: str, found: object, expected: object) -> None:
        self.found = found
        self.expected = expected
        super().__init__(
            f"the node's {what} is {found}, not {expected}; give the address of a node of the "
            "chain that the books are settled to"
        )


@dataclass(frozen=True)
class Block:
    """What we need of a block; ``base_fee`` in wei for each gas."""

    number: int
    hash: bytes
    timestamp: int
    base_fee: int


@dataclass(frozen=True)
class Receipt:
    """What became of a transaction that is in a block."""

    block_number: int
    block_hash: bytes
    succeeded: bool
    gas_used: int
    contract: bytes | None


@dataclass(frozen=True)
class Log:
    """An event of a contract."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    transaction: bytes


@dataclass(frozen=True)
class Node:
    """One node of one chain.

    Every method may raise NodeUnreachable, NodeAnswerUnusable (which is one) or NodeRefused.
    """

    transport: Transport
    chain_id: int
    name: str = "the node"
    """How errors speak of it; no address that holds a password."""

    def height(self) -> int:
        """Return the number of the newest block."""
        return self._ask("eth_blockNumber", [], _number)

    def block(self, number: int | str) -> Block | None:
        """Return a block by its number, or by a tag such as ``latest``; None if there is none."""
        return self._ask("eth_getBlockByNumber", [_at(number), False], _block)

    def nonce(self, account: bytes, at: int | str = "latest") -> int:
        """Return how many transactions of an account are in the chain up to a block."""
        return self._ask("eth_getTransactionCount", [hexed(account), _at(at)], _number)

    def balance(self, account: bytes) -> int:
        """Return what an account can pay for gas with, in wei."""
        return self._ask("eth_getBalance", [hexed(account), "latest"], _number)

    def code(self, account: bytes) -> bytes:
        """Return the code that stands at an address."""
        return self._ask("eth_getCode", [hexed(account), "latest"], _bytes)

    def call(self, to: bytes, data: bytes, at: int | str = "latest") -> bytes:
        """Return what a call would return, without making it."""
        asked = {"to": hexed(to), "data": hexed(data)}
        return self._ask("eth_call", [asked, _at(at)], _bytes)

    def estimate(self, sender: bytes, to: bytes | None, data: bytes) -> int:
        """Return the gas that a transaction would take.

        Raises:
            NodeRefused: It would revert; the error's bytes are in ``data`` where the node says.
        """
        asked = {"from": hexed(sender), "data": hexed(data)}
        if to is not None:
            asked["to"] = hexed(to)
        return self._ask("eth_estimateGas", [asked], _number)

    def send(self, raw: bytes) -> None:
        """Give the node a signed transaction; what it has already is no error.

        Raises:
            NonceTaken: The nonce is behind the chain.
            FeeTooLow: It pays too little, or too little more than the one it would replace.
        """
        try:
            self.transport("eth_sendRawTransaction", [hexed(raw)])
        except NodeRefused as refusal:
            words = refusal.message.lower()
            if any(one in words for one in ("already known", "already imported", "known trans")):
                return
            for kind, signs in _SEND_ERRORS.items():
                if any(one in words for one in signs):
                    raise kind(refusal.method, refusal.message) from None
            raise

    def receipt(self, transaction: bytes) -> Receipt | None:
        """Return what became of a transaction; None while it is in no block."""
        return self._ask("eth_getTransactionReceipt", [hexed(transaction)], _receipt)

    def logs(
        self, address: bytes, topics: Sequence[bytes | None], first: int, last: int
    ) -> list[Log]:
        """Return the events of a contract from block ``first`` to ``last``, in order."""
        found = list[Log]()
        for begin in range(first, last + 1, LOG_BLOCKS_MAX):
            asked = {
                "address": hexed(address),
                "topics": [None if one is None else hexed(one) for one in topics],
                "fromBlock": hex(begin),
                "toBlock": hex(min(begin + LOG_BLOCKS_MAX - 1, last)),
            }
            found += self._ask("eth_getLogs", [asked], _logs)
        return found

    def _ask(self, method: str, parameters: Sequence[Any], read: Callable[[Any], _Read]) -> _Read:
        return _read(self.name, method, read, self.transport(method, parameters))


def connect(transport: Transport, *, chain_id: int | None = None, name: str = Node.name) -> Node:
    """Return the node behind ``transport``.

    Args:
        transport: Such as ``http_transport(url)``.
        chain_id: The chain it must be on; any if none is given.
        name: How errors speak of it.

    Raises:
        ChainDiffers: It is on another.
        NodeUnreachable, NodeAnswerUnusable, NodeRefused: It does not say.
    """
    method = "eth_chainId"
    found = _read(name, method, _number, transport(method, []))
    if chain_id is not None and found != chain_id:
        raise ChainDiffers("chain id", found, chain_id)
    return Node(transport, found, name)


def http_transport(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Transport:
    """Return the transport to a node at ``url``, over HTTP, by web3.

    It repeats nothing by itself: who asks knows what may be repeated.
    """
    # Loaded here: web3 takes seconds, and the books do without it.
    from web3 import HTTPProvider  # noqa: PLC0415

    settings = {"timeout": timeout_seconds}
    provider = HTTPProvider(url, request_kwargs=settings, exception_retry_configuration=None)

    def ask(method: str, parameters: Sequence[Any]) -> Any:
        try:
            answer = provider.make_request(method, list(parameters))
        except (
            OSError,
            ValueError,
        ) as error:  # requests' errors are OSErrors, bad JSON a ValueError
            raise NodeUnreachable(method, type(error).__name__) from error
        return answered(method, answer)

    return ask


def answered(method: str, answer: Mapping[str, Any]) -> Any:
    """Return the result of a JSON-RPC answer.

    Raises:
        NodeRefused: It holds an error.
    """
    error = answer.get("error")
    if error is None:
        return answer.get("result")
    message = error.get("message", "") if isinstance(error, Mapping) else str(error)
    data = error.get("data") if isinstance(error, Mapping) else None
    raise NodeRefused(method, message, _error_bytes(data))


def hexed(content: bytes) -> str:
    """Return bytes as JSON-RPC writes them."""
    return "0x" + content.hex()


_SEND_ERRORS: Final[dict[type[NodeRefused], tuple[str, ...]]] = {
    NonceTaken: ("nonce too low", "nonce below", "invalid nonce", "nonce too small"),
    FeeTooLow: (
        "underpriced",
        "fee too low",
        "less than block base fee",
        "fee cap",
        "less than the minimum",
        "below configured minimum",
    ),
}


def _error_bytes(data: object) -> bytes:
    if isinstance(data, Mapping):
        data = data.get("data")
    if isinstance(data, str) and data.startswith("0x"):
        try:
            return bytes.fromhex(data[2:])
        except ValueError:
            return b""
    return b""


def _read(node: str, method: str, read: Callable[[Any], _Read], answer: Any) -> _Read:
    try:
        return read(answer)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NodeAnswerUnusable(node, method) from error


def _block(found: Any) -> Block | None:
    if found is None:
        return None
    fee = _number(found.get("baseFeePerGas") or "0x0")
    number = _number(found["number"])
    return Block(number, _bytes(found["hash"]), _number(found["timestamp"]), fee)


def _receipt(found: Any) -> Receipt | None:
    if found is None or found.get("blockHash") is None:
        return None
    contract = found.get("contractAddress")
    return Receipt(
        _number(found["blockNumber"]),
        _bytes(found["blockHash"]),
        _number(found["status"]) == 1,
        _number(found["gasUsed"]),
        _bytes(contract) if contract else None,
    )


def _logs(found: Any) -> list[Log]:
    return [_log(one) for one in found]


def _log(one: Mapping[str, Any]) -> Log:
    return Log(
        _bytes(one["address"]),
        tuple(_bytes(topic) for topic in one["topics"]),
        _bytes(one["data"]),
        _number(one["blockNumber"]),
        _bytes(one["transactionHash"]),
    )


def _at(block: int | str) -> str:
    return block if isinstance(block, str) else hex(block)


def _number(text: Any) -> int:
    return text if isinstance(text, int) else int(text, 16)


def _bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else bytes.fromhex(text.removeprefix("0x"))
