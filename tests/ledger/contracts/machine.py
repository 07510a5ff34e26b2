"""An Ethereum virtual machine for the tests of contracts: calls, errors, events, gas, time.

py-evm at cancun, without blocks or signatures: a transaction is applied to the state as it would be
inside a block, from any address. Gas is what the sender pays. Nothing is undone: a
test that needs a clean slate deploys anew, which takes a tenth of a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ledger.contracts.artifacts import load
from ledger.contracts.tree import keccak256

# Importing it here, before any test runs, also raises the recursion limit before Hypothesis looks.
pytest.importorskip("eth", reason="py-evm is not installed (the extra `dev` has it)")

SUPPLY = 210_000_000 * 10**18
START = 1_800_000_000
DAY = 86_400
GAS_MAX = 30_000_000
ETHER = 10**30
NOBODY = bytes(20)


def address(role: str) -> bytes:
    """The address of a role, such as ``buyer``."""
    return keccak256(role.encode())[:20]


@dataclass(frozen=True)
class Reverted(Exception):
    """A call reverted with this error and these arguments."""

    error: str
    arguments: tuple


@dataclass
class Done:
    """What a transaction returned, logged and cost."""

    value: object
    events: list
    gas: int


def signature(entry):
    return f"{entry['name']}({','.join(type_of(one) for one in entry['inputs'])})"


def type_of(one):
    if one["type"].startswith("tuple"):
        inner = ",".join(type_of(part) for part in one["components"])
        return f"({inner}){one['type'].removeprefix('tuple')}"
    return one["type"]


# What Solidity itself reverts with.
BUILT_IN = {keccak256(b"Panic(uint256)")[:4]: {"name": "Panic", "inputs": [{"type": "uint256"}]}}


class Machine:
    """A state, a clock, and what is deployed."""

    def __init__(self):
        from eth import constants
        from eth.chains.base import MiningChain
        from eth.consensus.noproof import NoProofConsensus
        from eth.db.atomic import AtomicDB
        from eth.vm.forks.cancun import CancunVM

        machine = CancunVM.configure(consensus_class=NoProofConsensus)
        chain = MiningChain.configure(vm_configuration=((constants.GENESIS_BLOCK_NUMBER, machine),))
        genesis = {"difficulty": 0, "gas_limit": GAS_MAX, "timestamp": 1}
        self.vm = chain.from_genesis(AtomicDB(), genesis, {}).get_vm()
        self.errors = dict(BUILT_IN)
        self.now = START

    @property
    def now(self):
        return self.vm.state.timestamp

    @now.setter
    def now(self, seconds):
        self.vm.state.execution_context._timestamp = seconds

    def apply(self, sender, to, data):
        """Apply a transaction, and return its computation and gas."""
        from eth.vm.spoof import SpoofTransaction

        state = self.vm.state
        state.set_balance(sender, ETHER)
        price = 10**10
        transaction = self.vm.create_unsigned_transaction(
            nonce=state.get_nonce(sender), gas_price=price, gas=GAS_MAX, to=to, value=0, data=data
        )
        computation = state.apply_transaction(SpoofTransaction(transaction, from_=sender))
        gas = (ETHER - state.get_balance(sender)) // price
        state.lock_changes()  # as at the end of every transaction: the next one starts cold
        return computation, gas

    def deploy(self, name, *arguments, sender=None):
        """Deploy a contract of the repository, and return it."""
        from eth_abi import encode

        artifact = load(name)
        abi = artifact.abi
        types = [
            type_of(one)
            for entry in abi
            if entry["type"] == "constructor"
            for one in entry["inputs"]
        ]
        for entry in abi:
            if entry["type"] == "error":
                self.errors[keccak256(signature(entry).encode())[:4]] = entry
        data = artifact.bytecode + encode(types, arguments)
        computation, gas = self.apply(sender or address("deployer"), b"", data)
        if computation.is_error:
            raise self.reverted(bytes(computation.output))
        contract = Contract(self, name, abi, computation.msg.storage_address, gas)
        contract.deployed = self.events(computation, contract)
        return contract

    def place(self, code, at="placed"):
        """Put raw code at an address: a contract that nobody would deploy on purpose."""
        self.vm.state.set_code(address(at), code)
        self.vm.state.set_nonce(address(at), 1)
        return address(at)

    def reverted(self, output):
        from eth_abi import decode

        if not output:
            return Reverted("", ())
        entry = self.errors[output[:4]]
        return Reverted(
            entry["name"], tuple(decode([type_of(one) for one in entry["inputs"]], output[4:]))
        )

    def events(self, computation, contract):
        """The events of the contract, in order, and those of others by their address."""
        return [
            contract.event(topics, data)
            for _, at, topics, data in sorted(computation.get_raw_log_entries())
            if at == contract.address
        ]


@dataclass
class Contract:
    """A deployed contract: ``escrow.hold(order, sender=buyer)`` is a transaction."""

    machine: Machine
    kind: str
    abi: list
    address: bytes
    deploy_gas: int
    deployed: list = field(default_factory=list)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        entries = [one for one in self.abi if one["type"] == "function" and one["name"] == name]
        if not entries:
            raise AttributeError(name)

        def call(*arguments, sender=None):
            return self.transact(entries, arguments, sender)

        return call

    def encoded(self, entry, arguments):
        from eth_abi import encode

        selector = keccak256(signature(entry).encode())[:4]
        return selector + encode([type_of(one) for one in entry["inputs"]], arguments)

    def transact(self, entries, arguments, sender):
        from eth_abi import decode

        (entry,) = [one for one in entries if len(one["inputs"]) == len(arguments)]
        view = entry["stateMutability"] in {"view", "pure"}
        data = self.encoded(entry, arguments)
        caller = sender or address("reader" if view else "stranger")
        computation, gas = self.machine.apply(caller, self.address, data)
        output = bytes(computation.output)
        if computation.is_error:
            raise self.machine.reverted(output)
        values = decode([type_of(one) for one in entry["outputs"]], output)
        value = values[0] if len(values) == 1 else (tuple(values) or None)
        if view:
            return value
        return Done(value, self.machine.events(computation, self), gas)

    def event(self, topics, data):
        from eth_abi import decode

        for entry in self.abi:
            if entry["type"] != "event":
                continue
            if int.from_bytes(keccak256(signature(entry).encode()), "big") != topics[0]:
                continue
            plain = iter(decode([type_of(o) for o in entry["inputs"] if not o["indexed"]], data))
            indexed = iter(topics[1:])
            values = []
            for one in entry["inputs"]:
                if one["indexed"]:
                    word = next(indexed).to_bytes(32, "big")
                    values.append(decode([one["type"]], word)[0])
                else:
                    values.append(next(plain))
            return (entry["name"], *values)
        raise AssertionError(topics)


def hexed(at):
    """An address as ABI decoding gives it."""
    return "0x" + at.hex()


def deploy_btt(machine, holders=None):
    """BTT, all of it with ``treasury`` unless others are named."""
    holders = holders or {address("treasury"): SUPPLY}
    return machine.deploy("BTT", "BitHive Token", "BTT", list(holders), list(holders.values()))


def reverts(error, *arguments):
    """``with reverts("OrderExpired")``: the call inside reverts with that error."""
    return _Reverts(error, arguments)


class _Reverts:
    def __init__(self, error, arguments):
        self.error, self.arguments = error, arguments

    def __enter__(self):
        return self

    def __exit__(self, kind, value, _trace):
        assert kind is Reverted, f"expected {self.error}, got {value!r}"
        assert value.error == self.error, value
        if self.arguments:
            assert value.arguments == self.arguments
        return True
