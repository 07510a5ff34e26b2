"""The genesis block of a consortium's chain: Besu's QBFT, its validators chosen by a contract.

A network is described by a JSON file (``deploy/besu/network.example.json``); what comes out is the
genesis file that every node starts from, the same bytes for the same description::

    python -m ledger.chain.besu network.json genesis.json        also `bithive chain genesis`

The block holds ``ValidatorSet`` at a fixed address, with the first set in its storage, so that Besu
can ask it before the first block. The contract's code is the runtime code: the constructor's bytes
in its place make Besu fail at its first question.

**This was not run against Besu here.** The fields are those of its documentation; the contract's
storage is checked on py-evm (tests/ledger/chain/test_besu.py), which answers ``getValidators``.

What holds (same tests):

1. The contract answers with the nodes of the description, in their order.
2. Fewer than four, not 3f + 1, a node or an entity twice: refused.

References:
    Besu documentation, "Configure QBFT consensus", contract validator selection.
    Solidity documentation, "Layout of State Variables in Storage".
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledger.contracts.artifacts import load
from ledger.contracts.tree import keccak256
from protocol.errors import BitHiveError, ConfigurationError, storage_error
from storage.files import write_whole

PLACE: Final = bytes.fromhex("0000000000000000000000000000000000009e5e")
"""Where the contract stands; any address that no key has."""
BLOCK_SECONDS: Final = 3
REQUEST_TIMEOUT_SECONDS: Final = 10
EPOCH_LENGTH: Final = 30_000
"""Of QBFT's own votes, which contract selection does not use; the documentation's value."""
GAS_LIMIT: Final = 100_000_000
GAS_MONEY: Final = 10**24
"""Wei for each funded account: gas is not what protects a permissioned chain."""
VALIDATORS_MIN: Final = 4
NO_VALIDATORS: Final = "0xe5a0" + "00" * 32 + "c0c080c0"
"""RLP of QBFT's extra data: 32 bytes of vanity, no validators, no vote, round 0, no seals."""
MIX_HASH: Final = "0x63746963616c2062797a616e74696e65206661756c7420746f6c6572616e6365"
"""By which Besu knows a block of its BFT protocols."""
SLOTS: Final = {"validators": 0, "governor": 1, "oracle": 2, "candidates": 4, "nodes": 5, "of": 6}


class NetworkUnusable(ConfigurationError):
    """The description of a network contradicts itself, or cannot be read."""

    code = "chain-network-unusable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"no chain can start from this network: {why}; correct its description")


@dataclass(frozen=True)
class Network:
    """A consortium's chain: who makes blocks first, who governs the set, who is given gas.

    ``validators`` are addresses of nodes, of 20 bytes, by commitments to their legal entities, of
    32 bytes.

    Raises:
        NetworkUnusable: They are no set that tolerates a fault.
    """

    chain_id: int
    governor: bytes
    oracle: bytes
    validators: tuple[tuple[bytes, bytes], ...]
    funded: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Check the set."""
        count = len(self.validators)
        if count < VALIDATORS_MIN or count % 3 != 1:
            raise NetworkUnusable(f"{count} validators are not 3f + 1 with f at least 1")
        for which, name in ((0, "node"), (1, "entity")):
            found = [one[which] for one in self.validators]
            if len(set(found)) != count or any(not any(one) for one in found):
                raise NetworkUnusable(f"every validator needs a {name} of its own")
        if not any(self.governor) or not 0 < self.chain_id < 1 << 53:
            raise NetworkUnusable("it needs a governor, and a chain id above 0 and below 2**53")


def read_network(path: Path) -> Network:
    """Read a description.

    Raises:
        NetworkUnusable: It is none.
        StorageError: The file cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
        return Network(
            int(document["chain_id"]),
            _hex(document["governor"], 20),
            _hex(document["oracle"], 20),
            tuple(
                (_hex(one["node"], 20), _hex(one["entity"], 32)) for one in document["validators"]
            ),
            tuple(_hex(one, 20) for one in document["funded"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise NetworkUnusable(f"{path.name} lacks or mistypes {error}") from None
    except OSError as error:
        raise storage_error(error, path.name) from error


def genesis(network: Network, *, timestamp: int = 0) -> dict[str, Any]:
    """Return the genesis file of a network, as Besu reads it."""
    forks = (
        "homestead eip150 eip155 eip158 byzantium constantinople petersburg istanbul berlin london"
    )
    rich = dict.fromkeys([*(node for node, _ in network.validators), *network.funded])
    contract = {
        "comment": "ValidatorSet",
        "balance": "0x0",
        "code": "0x" + load("ValidatorSet").deployed.hex(),
        "storage": {_slot(key): _slot(value) for key, value in sorted(storage(network).items())},
    }
    return {
        "config": {
            "chainId": network.chain_id,
            **{f"{fork}Block": 0 for fork in forks.split()},
            "shanghaiTime": 0,
            "cancunTime": 0,
            "qbft": {
                "epochlength": EPOCH_LENGTH,
                "blockperiodseconds": BLOCK_SECONDS,
                "requesttimeoutseconds": REQUEST_TIMEOUT_SECONDS,
                "validatorcontractaddress": "0x" + PLACE.hex(),
            },
        },
        "nonce": "0x0",
        "timestamp": hex(timestamp),
        "extraData": NO_VALIDATORS,
        "gasLimit": hex(GAS_LIMIT),
        "difficulty": "0x1",
        "mixHash": MIX_HASH,
        "coinbase": "0x" + "00" * 20,
        "alloc": {
            **{one.hex(): {"balance": hex(GAS_MONEY)} for one in rich},
            PLACE.hex(): contract,
        },
    }


def storage(network: Network) -> dict[int, int]:
    """Return what the contract's storage holds at the beginning, by slot."""
    nodes = [node for node, _ in network.validators]
    words = {SLOTS["governor"]: _number(network.governor), SLOTS["oracle"]: _number(network.oracle)}
    words |= _array(SLOTS["validators"], nodes)
    words |= _array(SLOTS["candidates"], nodes)
    for node, entity in network.validators:
        at = _mapped(node, SLOTS["nodes"])
        words[at] = _number(entity)
        words[at + 2] = 1 << 128  # seated; not rated, not seen, not leaving
        words[_mapped(entity, SLOTS["of"])] = _number(node)
    return words


def written(document: Mapping[str, Any]) -> bytes:
    """Return a genesis file's bytes."""
    return (json.dumps(document, indent=1) + "\n").encode()


def _array(slot: int, items: Sequence[bytes]) -> dict[int, int]:
    begin = _number(keccak256(slot.to_bytes(32, "big")))
    return {slot: len(items), **{begin + i: _number(one) for i, one in enumerate(items)}}


def _mapped(key: bytes, slot: int) -> int:
    return _number(keccak256(key.rjust(32, b"\0") + slot.to_bytes(32, "big")))


def _number(word: bytes) -> int:
    return int.from_bytes(word, "big")


def _slot(number: int) -> str:
    return f"0x{number:064x}"


def _hex(text: str, count: int) -> bytes:
    if not re.fullmatch(rf"0x[0-9a-fA-F]{{{2 * count}}}", text):
        raise ValueError(text)
    return bytes.fromhex(text[2:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a genesis file; exit 0 done, 1 refused."""
    parser = argparse.ArgumentParser(description="Make the genesis file of a Besu QBFT network.")
    parser.add_argument("network", type=Path, help="The network's description, as JSON.")
    parser.add_argument("genesis", type=Path, help="Where to write.")
    options = parser.parse_args(arguments)
    try:
        write_whole(options.genesis, written(genesis(read_network(options.network))))
    except BitHiveError as refusal:
        sys.stderr.write(f"{refusal.code}: {refusal}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
