"""What the chain shows of what was to be done on it: paid, published, burned, and exactly so.

A transaction that this process sent may be lost, or stand in a block under another hash. So what
is done is never taken from a receipt alone: the contracts and their events are asked, as of a
block, and compared with what the journal says (``bookings.py``).

What holds (tests/ledger/chain/test_adapter.py, test_crash.py):

1. A batch that the chain paid to others than the journal says is an error, never taken for ours.
2. A burn that would burn more than the books did counts as done.
"""

from __future__ import annotations

from typing import Final

from ledger.books import Ledger
from ledger.chain import bookings
from ledger.chain.bookings import BURN, PAY, ROOT
from ledger.chain.calls import arguments_of, decoded, encoded, topic
from ledger.chain.deployment import Deployment
from ledger.chain.node import Node
from ledger.chain.outbox import Intent
from ledger.chart import BURNED
from protocol.errors import LedgerError

NOBODY: Final = bytes(20)


class BatchDiffers(LedgerError):
    """The chain paid a batch of this id to others, or other amounts, than the journal says."""

    code = "chain-batch-differs"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(
            f"the chain paid {key} otherwise than the journal says; the books are not those that "
            "were settled: restore their newest backup, and reconcile"
        )


class Evidence:
    """The contracts of a deployment, read as of a block."""

    def __init__(self, ledger: Ledger, deployment: Deployment, node: Node) -> None:
        self._ledger = ledger
        self._deployment = deployment
        self._node = node

    def shown(self, intent: Intent, at: int | str) -> bool:
        """Say whether the chain, as of a block, shows an intent as done.

        A burn is, where it would burn more than the books did: others of ours burned it.

        Raises:
            BatchDiffers: It shows it done otherwise.
        """
        distributor = self._deployment.address("Distributor")
        if intent.intent.startswith(PAY):
            asked = encoded(
                "Distributor", "batchPaid", bookings.batch_id(self._deployment, intent.intent)
            )
            output = self._node.call(distributor, asked, at)
            if not output or not decoded("Distributor", "batchPaid", output):
                return False  # without output: the block is before the distributor
            self._check_batch(intent)
            return True
        if intent.intent.startswith(ROOT):
            output = self._node.call(distributor, encoded("Distributor", "epoch"), at)
            number, root, total = arguments_of("Distributor", "settle", intent.data)
            if not output or decoded("Distributor", "epoch", output) < number:
                return False
            self._check_root(number, root, total)
            return True
        if intent.intent.startswith(BURN):
            (amount,) = arguments_of("BTT", "burn", intent.data)
            return self.burned(at) + int(amount) > self._ledger.balances(BURNED).get(BURNED, 0)
        return False

    def root_number(self) -> int:
        """Return the number of the newest root of claims, 0 for none."""
        output = self._node.call(
            self._deployment.address("Distributor"), encoded("Distributor", "epoch")
        )
        return int(decoded("Distributor", "epoch", output))

    def held(self) -> int:
        """Return the base units that the custody account holds."""
        custody = encoded("BTT", "balanceOf", self._deployment.custody)
        output = self._node.call(self._deployment.address("BTT"), custody)
        return int(decoded("BTT", "balanceOf", output))

    def burned(self, at: int | str) -> int:
        """Return the base units that the custody account burned, up to a block."""
        token = self._deployment.address("BTT")
        topics = [topic("BTT", "Transfer"), _word(self._deployment.custody), _word(NOBODY)]
        last = at if isinstance(at, int) else self._node.height()
        burns = self._node.logs(token, topics, self._deployment.first_block, last)
        return sum(int.from_bytes(one.data, "big") for one in burns)

    def _check_batch(self, intent: Intent) -> None:
        """Compare what the chain paid under a batch's id with what the journal says."""
        batch, payouts = arguments_of("Distributor", "payBatch", intent.data)
        node, distributor = self._node, self._deployment.address("Distributor")
        first, last = self._deployment.first_block, node.height()
        paid = node.logs(distributor, [topic("Distributor", "BatchPaid"), batch], first, last)
        if len(paid) != 1:
            raise BatchDiffers(intent.intent)
        topics = [topic("BTT", "Transfer"), _word(distributor)]
        number = paid[0].block_number
        made = node.logs(self._deployment.address("BTT"), topics, number, number)
        found = [
            ("0x" + one.topics[2][12:].hex(), int.from_bytes(one.data, "big"))
            for one in made
            if one.transaction == paid[0].transaction
        ]
        if found != [tuple(one) for one in payouts]:
            raise BatchDiffers(intent.intent)

    def _check_root(self, number: int, root: bytes, total: int) -> None:
        node, distributor = self._node, self._deployment.address("Distributor")
        topics = [topic("Distributor", "EpochSettled"), number.to_bytes(32, "big")]
        found = node.logs(distributor, topics, self._deployment.first_block, node.height())
        expected = root + total.to_bytes(32, "big")
        if len(found) != 1 or found[0].data[:64] != expected:
            raise BatchDiffers(f"{ROOT}{number:08d}")


def _word(address: bytes) -> bytes:
    return bytes(12) + address
