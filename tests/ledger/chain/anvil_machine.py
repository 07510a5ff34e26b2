"""Anvil with the face of ``tests.ledger.contracts.machine.Machine``: calls from any address."""

from __future__ import annotations

from ledger.chain import calls
from ledger.chain.node import NodeRefused, hexed
from tests.ledger.chain.nodes import Anvil
from tests.ledger.contracts.machine import Reverted, address


class AnvilMachine:
    """Transactions of anybody, mined one by one."""

    def __init__(self):
        self.anvil = Anvil("--auto-impersonate", "--gas-price", "0", "--base-fee", "0")
        self.time = 0

    @property
    def now(self):
        return self.time

    @now.setter
    def now(self, seconds):
        self.time = seconds
        self.anvil("evm_setNextBlockTimestamp", [hex(seconds)])
        self.anvil.mine()

    def send(self, sender, to, data):
        # Time stands still between steps, as on the other machine: blocks need a second each.
        asked = {"from": hexed(sender), "data": hexed(data), "gas": hex(16_000_000)}
        if to is not None:
            asked["to"] = hexed(to)
        try:
            self.anvil("eth_call", [asked, "latest"])
        except NodeRefused as refusal:
            raise Reverted(calls.error_named(refusal.data), ()) from None
        asked |= {"gasPrice": "0x0"}
        sent = self.anvil("eth_sendTransaction", [asked])
        self.anvil.mine()
        self.time += 1
        receipt = self.anvil("eth_getTransactionReceipt", [sent])
        assert receipt["status"] == "0x1"
        return receipt

    def deploy(self, name, *arguments):
        receipt = self.send(address("deployer"), None, calls.creation(name, *arguments))
        return AnvilContract(self, name, bytes.fromhex(receipt["contractAddress"][2:]))

    def place(self, code, at):
        self.anvil("anvil_setCode", [hexed(address(at)), hexed(code)])
        return address(at)

    def stop(self):
        self.anvil.stop()


class AnvilContract:
    """``escrow.hold(order, sender=buyer)`` is a transaction; without a sender it is a question."""

    def __init__(self, machine, kind, at):
        self.machine, self.kind, self.address = machine, kind, at

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments, sender=None):
            data = calls.encoded(self.kind, name, *arguments)
            if sender is not None:
                return self.machine.send(sender, self.address, data)
            asked = {"to": hexed(self.address), "data": hexed(data)}
            output = self.machine.anvil("eth_call", [asked, "latest"])
            return calls.decoded(self.kind, name, bytes.fromhex(output[2:]))

        return call
