"""Compare the books with the chain, account by account, to the base unit.

Both sides are derived anew: the books' from the journal's balances, the chain's from the events of
the contracts since they were deployed. Between them lies what the outbox holds and is not in the
chain yet; it is shown beside every row, and what remains is the difference.

=====================  =======================================  ==================================
row                    in the books                             on the chain
=====================  =======================================  ==================================
``chain:0x...``        moved to the address, ever               paid to it in batches, ever
``chain:claims``       set aside for claims, ever               total of the newest root
``burned``             burned                                   burned by the custody account
``custody``            every other account, together            its balance and its vesting wallets
``distributor``        (total less claimed, from the chain)     its balance
``supply``             all accounts, with the burned one        supply and burned
=====================  =======================================  ==================================

What an owner does with what she was paid is hers, and shows in no row. What anybody burns of her
own, or sends to the custody account, shows in ``supply`` or ``custody``.

What holds (tests/ledger/chain/test_reconcile.py):

1. After a settlement every difference is 0; one base unit too much or too little, anywhere, is not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ledger.books import Ledger
from ledger.chain.bookings import BURN, CLAIMS, PAY, ROOT
from ledger.chain.calls import arguments_of, decoded, encoded, topic
from ledger.chain.deployment import Deployment
from ledger.chain.node import Node
from ledger.chain.outbox import UNDONE, Outbox
from ledger.chart import BURNED, kind_of
from protocol.units import TOTAL_SUPPLY


@dataclass(frozen=True)
class Row:
    """One comparison, in base units; ``in_flight`` is booked and not in the chain yet."""

    account: str
    ledger: int
    chain: int
    in_flight: int = 0

    @property
    def difference(self) -> int:
        """What nothing explains; 0 is how it must be."""
        return self.ledger - self.in_flight - self.chain


@dataclass(frozen=True)
class ChainReport:
    """All rows, and the block they were read at."""

    height: int
    rows: tuple[Row, ...]

    @property
    def differences(self) -> tuple[Row, ...]:
        """The rows that differ."""
        return tuple(row for row in self.rows if row.difference)


def reconcile(ledger: Ledger, deployment: Deployment, node: Node) -> ChainReport:
    """Return every account of the books beside what the chain says of it.

    Raises:
        NodeUnreachable, NodeRefused: The node does not answer, or not as of that block.
        StorageError: The books cannot be read.
    """
    # First the chain, then the outbox: what is mined between the two shows as in flight, until
    # it is asked again, rather than twice.
    height = node.height()
    reading = _Chain(deployment, node, height)
    paid, claimed, burned = reading.paid(), reading.claimed(), reading.burned()
    flying = _in_flight(Outbox(ledger.engine), reading)
    balances = ledger.balances()
    kept = {name: amount for name, amount in balances.items() if kind_of(name) == "chain"}
    addresses = sorted({*kept, *(f"chain:{one}" for one in paid)} - {CLAIMS})
    rows = [
        Row(name, kept.get(name, 0), paid[name.removeprefix("chain:")], flying[name])  # type: ignore[call-overload] # a name is a name
        for name in addresses
    ]
    total = reading.number("Distributor", "total")
    rows.append(Row(CLAIMS, kept.get(CLAIMS, 0), total, flying[CLAIMS]))
    rows.append(Row(BURNED, balances.get(BURNED, 0), burned, flying[BURNED]))
    custodial = sum(balances.values()) - sum(kept.values()) - balances.get(BURNED, 0)
    leaving = -sum(flying.values())
    rows.append(Row("custody", custodial, reading.custody(), leaving))
    pool = reading.held(deployment.address("Distributor"))
    rows.append(Row("distributor", total - claimed, pool))
    existing = reading.number("BTT", "totalSupply") + burned
    rows.append(Row("supply", sum(balances.values()) or TOTAL_SUPPLY, existing))
    return ChainReport(height, tuple(rows))


class _Chain:
    """What the chain says as of one block."""

    def __init__(self, deployment: Deployment, node: Node, height: int) -> None:
        self._deployment = deployment
        self._node = node
        self._height = height

    def number(self, contract: str, function: str, *arguments: object) -> int:
        asked = encoded(contract, function, *arguments)
        output = self._node.call(self._deployment.address(contract), asked, self._height)
        return int(decoded(contract, function, output))

    def held(self, address: bytes) -> int:
        return self.number("BTT", "balanceOf", address)

    def custody(self) -> int:
        vesting = self._deployment.vesting().values()
        return self.held(self._deployment.custody) + sum(self.held(one) for one in vesting)

    def paid(self) -> Counter[str]:
        """Return what batches paid, by address in lower case."""
        found = Counter[str]()
        for one in self._transfers(self._deployment.address("Distributor"), None):
            found["0x" + one[0].hex()] += one[1]
        for recipient, amount in self._claims():
            found["0x" + recipient.hex()] -= amount
        return +found

    def claimed(self) -> int:
        return sum(amount for _, amount in self._claims())

    def burned(self) -> int:
        nobody = self._transfers(self._deployment.custody, bytes(20))
        return sum(amount for _, amount in nobody)

    def batches(self) -> set[bytes]:
        """Return the ids of the batches that were paid."""
        logs = self._logs("Distributor", "BatchPaid")
        return {topics[1] for topics, _ in logs}

    def roots(self) -> int:
        """Return the number of the newest root."""
        return self.number("Distributor", "epoch")

    def _transfers(self, sender: bytes, to: bytes | None) -> list[tuple[bytes, int]]:
        between = [bytes(12) + sender, None if to is None else bytes(12) + to]
        logs = self._logs("BTT", "Transfer", *between)
        return [(topics[2][12:], int.from_bytes(data, "big")) for topics, data in logs]

    def _claims(self) -> list[tuple[bytes, int]]:
        logs = self._logs("Distributor", "Claimed")
        return [(topics[2][12:], int.from_bytes(data, "big")) for topics, data in logs]

    def _logs(
        self, contract: str, event: str, *topics: bytes | None
    ) -> list[tuple[tuple[bytes, ...], bytes]]:
        first = self._deployment.first_block
        asked = [topic(contract, event), *topics]
        address = self._deployment.address(contract)
        found = self._node.logs(address, asked, first, self._height)
        return [(one.topics, one.data) for one in found]


def _in_flight(outbox: Outbox, chain: _Chain) -> Counter[str]:
    """Return what is booked and not in the chain, by the account it goes to."""
    found = Counter[str]()
    batches, roots = chain.batches(), chain.roots()
    for one in outbox.intents():
        if one.state not in {*UNDONE, "failed"}:
            continue
        if one.intent.startswith(PAY):
            batch, payouts = arguments_of("Distributor", "payBatch", one.data)
            if batch not in batches:
                for recipient, amount in payouts:
                    found[f"chain:{recipient.lower()}"] += amount
        elif one.intent.startswith(ROOT):
            number, _, total = arguments_of("Distributor", "settle", one.data)
            if number > roots:
                found[CLAIMS] += total - chain.number("Distributor", "total")
        elif one.intent.startswith(BURN) and one.state != "mined":
            found[BURNED] += arguments_of("BTT", "burn", one.data)[0]
    return found
