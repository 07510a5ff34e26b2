"""Calls of contracts as bytes, by the ABI of their committed artifacts.

    >>> encoded("BTT", "transfer", bytes(20), 1)[:4].hex()
    'a9059cbb'
    >>> topic("BTT", "Transfer").hex()[:8]
    'ddf252ad'

References:
    Solidity documentation, "Contract ABI Specification".
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from ledger.chain.node import NodeAnswerUnusable
from ledger.contracts.artifacts import CONTRACTS, load
from ledger.contracts.tree import keccak256


def encoded(contract: str, function: str, *arguments: Any) -> bytes:
    """Return the bytes of a call; addresses are 20 bytes or EIP-55 text.

    A function of several forms is named with its types, as ``release(address)``.
    """
    entry = _function(contract, function)
    return _selector(entry) + _encode(entry["inputs"], arguments)


def creation(contract: str, *arguments: Any) -> bytes:
    """Return the bytes that create a contract."""
    artifact = load(contract)
    inputs = [
        one for entry in artifact.abi if entry["type"] == "constructor" for one in entry["inputs"]
    ]
    return artifact.bytecode + _encode(inputs, arguments)


def decoded(contract: str, function: str, output: bytes) -> Any:
    """Return what a call returned, by a node's word: one value, or several in a tuple.

    Raises:
        NodeAnswerUnusable: The function never returns such bytes.
    """
    from eth_abi.exceptions import DecodingError  # noqa: PLC0415 - comes with web3, as below

    try:
        values = _decode(_function(contract, function)["outputs"], output)
    except DecodingError as error:
        raise NodeAnswerUnusable("the node", f"{contract}.{function}") from error
    return values[0] if len(values) == 1 else values


def arguments_of(contract: str, function: str, data: bytes) -> tuple[Any, ...]:
    """Return what a call was made with; ``data`` must be a call of that function."""
    entry = _function(contract, function)
    assert data[:4] == _selector(entry)
    return _decode(entry["inputs"], data[4:])


def topic(contract: str, event: str) -> bytes:
    """Return the first topic of an event."""
    entry = next(
        one for one in load(contract).abi if one["type"] == "event" and one["name"] == event
    )
    return keccak256(_signature(entry).encode())


def error_named(output: bytes) -> str:
    """Return the name of the error that a call reverted with; empty if it is none of ours."""
    return _errors().get(output[:4], "")


@cache
def _errors() -> dict[bytes, str]:
    return {
        _selector(one): one["name"]
        for name in CONTRACTS
        for one in load(name).abi
        if one["type"] == "error"
    }


@cache
def _function(contract: str, function: str) -> dict[str, Any]:
    (entry,) = (
        one
        for one in load(contract).abi
        if one["type"] == "function" and function in {one["name"], _signature(one)}
    )
    return entry


def _signature(entry: dict[str, Any]) -> str:
    return f"{entry['name']}({','.join(_types(entry['inputs']))})"


def _selector(entry: dict[str, Any]) -> bytes:
    return keccak256(_signature(entry).encode())[:4]


def _types(inputs: Iterable[dict[str, Any]]) -> list[str]:
    return [_type(one) for one in inputs]


def _type(one: dict[str, Any]) -> str:
    if one["type"].startswith("tuple"):
        inner = ",".join(_types(one["components"]))
        return f"({inner}){one['type'].removeprefix('tuple')}"
    return str(one["type"])


def _encode(inputs: Iterable[dict[str, Any]], arguments: tuple[Any, ...]) -> bytes:
    from eth_abi.abi import encode  # noqa: PLC0415 - comes with web3, which the books do without

    return bytes(encode(_types(inputs), arguments))


def _decode(outputs: Iterable[dict[str, Any]], output: bytes) -> tuple[Any, ...]:
    from eth_abi.abi import decode  # noqa: PLC0415 - as above

    return tuple(decode(_types(outputs), output))
