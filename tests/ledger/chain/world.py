"""Books after genesis beside a chain where everything is deployed; waiting makes blocks."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from ledger import chart
from ledger.books import Ledger
from ledger.chain import bindings
from ledger.chain.adapter import Adapter
from ledger.chain.calls import decoded, encoded
from ledger.chain.deployment import deploy, open_deployment, write_deployment
from ledger.chain.node import connect, hexed
from ledger.chain.outbox import Outbox
from ledger.chain.reconcile import reconcile
from ledger.chain.sender import Limits, Sender
from ledger.chain.signer import LocalSigner
from ledger.contracts.tree import keccak256
from ledger.economy import load_economy
from ledger.journal import Leg

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
SIGNER = LocalSigner(keccak256(b"the settlement account"))
LIMITS = Limits(confirmations=2, polls=60, retry_seconds=0, poll_seconds=0, tries=3)
ECONOMY = load_economy()


def address(name):
    return keccak256(name.encode())[:20]


def deployed(chain):
    """Deploy everything, and return the deployment; the outbox it took is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.db")
        sender = Sender(connect(chain), SIGNER, Outbox(ledger.engine), LIMITS)
        path = Path(folder) / "deployment.json"
        made = deploy(sender, ECONOMY, path, clock=lambda: NOW, sleep=lambda _seconds: chain.mine())
        ledger.close()
        assert open_deployment(path, connect(chain)) == made
    return made


class World:
    """The books, the chain, and what joins them."""

    def __init__(self, chain, deployment, limits=LIMITS):
        self.chain, self.deployment, self.limits = chain, deployment, limits
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self.folder.name) / "ledger.db")
        self.ledger.genesis(ECONOMY.token.allocation, now=NOW)
        self.node = connect(chain)
        self.signer = SIGNER

    def close(self):
        self.ledger.close()
        self.folder.cleanup()

    def owe(self, amounts, key="start"):
        """Give parties BTT in the books, and bind their wallets to their addresses."""
        wallets = {name: chart.wallet(name) for name in amounts}
        self.ledger.open_accounts(wallets.values())
        legs = [
            Leg(chart.treasury("mining"), wallets[name], amount) for name, amount in amounts.items()
        ]
        self.ledger.transfer_many(key, legs, memo="", now=NOW)
        known = bindings.bindings(self.ledger)
        for name, wallet in wallets.items():
            if wallet not in known:
                bindings.bind(self.ledger, wallet, address(name), now=NOW)

    def write_deployment(self):
        path = Path(self.folder.name) / "deployment.json"
        write_deployment(path, self.deployment)
        return path

    def outbox(self):
        return Outbox(self.ledger.engine)

    def sender(self, transport=None, outbox=None):
        node = self.node if transport is None else connect(transport)
        return Sender(node, self.signer, outbox or self.outbox(), self.limits)

    def adapter(self, transport=None, outbox=None, batch=250):
        sender = self.sender(transport, outbox)
        return Adapter(self.ledger, self.deployment, sender, batch=batch)

    def settle(self, transport=None, outbox=None, batch=250):
        adapter = self.adapter(transport, outbox, batch)
        return adapter.settle(clock=lambda: NOW, sleep=lambda _seconds: self.chain.mine())

    def held(self, name):
        return self.balance(address(name))

    def balance(self, at):
        token = self.deployment.address("BTT")
        return decoded("BTT", "balanceOf", self.node.call(token, encoded("BTT", "balanceOf", at)))

    def all_held(self, names):
        token = hexed(self.deployment.address("BTT"))
        asked = [
            [{"to": token, "data": hexed(encoded("BTT", "balanceOf", address(one)))}, "latest"]
            for one in names
        ]
        found = self.chain.many("eth_call", asked)
        numbers = [one if isinstance(one, bytes) else bytes.fromhex(one[2:]) for one in found]
        return {one: int.from_bytes(held, "big") for one, held in zip(names, numbers, strict=True)}

    def reconciled(self):
        return reconcile(self.ledger, self.deployment, self.node)
