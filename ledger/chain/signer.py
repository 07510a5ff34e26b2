"""Who signs transactions: a key in this process, or a signer elsewhere, behind one interface.

A ``Signer`` has an address and signs. ``RemoteSigner`` asks another process, or a device behind
one, over HTTP or a Unix socket (``eth_signTransaction``, as web3signer and others answer it), so
that the key never enters this one. What it returns is checked: it must be this transaction, signed
by this address. A signer that was taken over can refuse to sign; it cannot pay anybody else.

What holds (tests/ledger/chain/test_signer.py):

1. A signature by another key, or over another transaction, is refused.
2. The same key signs the same transaction with the same bytes (RFC 6979).

References:
    EIP-1559 (transactions of type 2), EIP-155 (chain ids), RFC 6979 (deterministic ECDSA).
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from ledger.chain.node import NodeRefused, NodeUnreachable, answered, hexed, http_transport
from ledger.contracts.tree import keccak256
from protocol.errors import LedgerError

UNIX: Final = "unix:"
TIMEOUT_SECONDS: Final = 60
"""A person may have to press a button."""
ANSWER_BYTES_MAX: Final = 1 << 20


class SignatureForeign(LedgerError):
    """A signer returned something else than the transaction asked for, under its own key."""

    code = "chain-signature-foreign"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"the signer answered with another {what} than asked for; nothing was sent: see that "
            "it holds this key, and who can reach it"
        )


class SignerUnusable(LedgerError):
    """A signer elsewhere gave no signature."""

    code = "chain-signer-unusable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the signer gave no signature ({why}); see that it runs, and try again")


@dataclass(frozen=True)
class Transaction:
    """A transaction of type 2, without value; ``to`` is None where it creates a contract.

    Fees are in wei for each gas: ``fee`` the most, ``tip`` of it for who makes the block.
    """

    chain_id: int
    nonce: int
    to: bytes | None
    data: bytes
    gas: int
    fee: int
    tip: int

    def fields(self) -> dict[str, Any]:
        """Return it as ``eth_account`` takes it."""
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": self.chain_id,
            "nonce": self.nonce,
            "data": self.data,
            "value": 0,
            "gas": self.gas,
            "maxFeePerGas": self.fee,
            "maxPriorityFeePerGas": self.tip,
        }
        return fields if self.to is None else fields | {"to": self.to}


@dataclass(frozen=True)
class Signed:
    """The bytes that a node takes, and the hash that names them for ever."""

    raw: bytes
    hash: bytes


class Signer(Protocol):
    """Whoever holds the key of one address."""

    @property
    def address(self) -> bytes:
        """20 bytes."""
        ...

    def sign(self, transaction: Transaction) -> Signed:
        """Return the transaction, signed.

        Raises:
            SignerUnusable: It could not be asked, or refused.
            SignatureForeign: It answered with something else.
        """
        ...


class LocalSigner:
    """A key in the memory of this process; ``repr`` does not show it.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        from eth_account import Account  # noqa: PLC0415 - web3 is loaded when a chain is used

        self._account = Account.from_key(key)

    @property
    def address(self) -> bytes:
        """20 bytes."""
        return bytes.fromhex(self._account.address[2:])

    def sign(self, transaction: Transaction) -> Signed:
        """Return the transaction, signed."""
        signed = self._account.sign_transaction(transaction.fields())
        return Signed(bytes(signed.raw_transaction), bytes(signed.hash))

    def __repr__(self) -> str:
        return f"LocalSigner({hexed(self.address)})"


class RemoteSigner:
    """A signer behind ``unix:PATH`` or an HTTP address; a device fits behind either.

    Args:
        address: 20 bytes; whose signature is taken, no other.
        where: ``unix:/run/signer.sock``, ``http://localhost:9000``.
    """

    def __init__(self, address: bytes, where: str) -> None:
        self._address = address
        self._where = where

    @property
    def address(self) -> bytes:
        """20 bytes."""
        return self._address

    def sign(self, transaction: Transaction) -> Signed:
        """Return the transaction, signed; see ``Signer``."""
        try:
            found = self._ask("eth_signTransaction", [self._asked(transaction)])
        except (NodeUnreachable, NodeRefused) as error:
            raise SignerUnusable(str(error)) from error
        text = found.get("raw") if isinstance(found, Mapping) else found
        try:
            raw = bytes.fromhex(str(text).removeprefix("0x"))
        except ValueError:
            raise SignatureForeign("form") from None
        check_signed(raw, transaction, self._address)
        return Signed(raw, keccak256(raw))

    def _asked(self, transaction: Transaction) -> dict[str, str]:
        asked = {
            "from": hexed(self._address),
            "data": hexed(transaction.data),
            "value": "0x0",
            "nonce": hex(transaction.nonce),
            "gas": hex(transaction.gas),
            "maxFeePerGas": hex(transaction.fee),
            "maxPriorityFeePerGas": hex(transaction.tip),
            "chainId": hex(transaction.chain_id),
            "type": "0x2",
        }
        return asked if transaction.to is None else asked | {"to": hexed(transaction.to)}

    def _ask(self, method: str, parameters: list[Any]) -> Any:
        if not self._where.startswith(UNIX):
            return http_transport(self._where, timeout_seconds=TIMEOUT_SECONDS)(method, parameters)
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        link = _UnixConnection(Path(self._where.removeprefix(UNIX)))
        try:
            link.request("POST", "/", json.dumps(body), {"Content-Type": "application/json"})
            answer = json.loads(link.getresponse().read(ANSWER_BYTES_MAX))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise NodeUnreachable(method, type(error).__name__) from error
        finally:
            link.close()
        return answered(method, answer)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


def check_signed(raw: bytes, transaction: Transaction, address: bytes) -> None:
    """Return if ``raw`` is this transaction, signed by the key of ``address``.

    Raises:
        SignatureForeign: It is not; what differs is named.
    """
    from eth_account import Account  # noqa: PLC0415 - web3 is loaded when a chain is used
    from eth_account.typed_transactions import TypedTransaction  # noqa: PLC0415 - likewise
    from hexbytes import HexBytes  # noqa: PLC0415 - likewise

    try:
        found = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        signer = bytes.fromhex(Account.recover_transaction(raw)[2:])
    except Exception as error:  # the decoder raises whatever its parts raise
        raise SignatureForeign("form") from error
    expected = transaction.fields() | {"accessList": ()}
    expected.setdefault("to", b"")
    for name, value in expected.items():
        if _plain(found.get(name, b"")) != _plain(value):
            raise SignatureForeign(name)
    if signer != address:
        raise SignatureForeign("signer")


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, (bytes, bytearray)) else value
