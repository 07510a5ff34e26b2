"""What the journal booked for the chain, as the calls that do it there.

A transfer of the journal whose key begins with ``PAY`` or ``ROOT`` is a promise: its batch is to be
paid, its root to be published. The call follows from the transfer and the deployment alone, so an
outbox that was lost is derived anew. The id of a batch is a hash of the transfer's key and of where
it is paid; the distributor pays an id once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import Connection, select

from ledger import chart, journal
from ledger.chain.calls import encoded
from ledger.chain.deployment import Deployment
from ledger.chain.outbox import Intent
from ledger.contracts.tree import keccak256
from ledger.journal import Transfer
from ledger.store import TRANSFERS
from protocol.ids import AccountId

PAY, ROOT = journal.CHAIN_KEYS
BURN: Final = "chain:burn:"
RELEASE: Final = "chain:release:"
CLAIMS: Final = chart.chain("claims")
_KEYS_AT_ONCE: Final = 500


def payment(deployment: Deployment, transfer: Transfer) -> Intent:
    """Return the call that pays a batch."""
    payouts = [(_address(leg.credit), leg.amount) for leg in transfer.legs]
    data = encoded("Distributor", "payBatch", batch_id(deployment, transfer.key), payouts)
    return Intent(transfer.key, _epoch(transfer.key), deployment.address("Distributor"), data)


def root(deployment: Deployment, transfer: Transfer) -> Intent:
    """Return the call that publishes a root of claims, and funds it."""
    number = int(transfer.key.removeprefix(ROOT))
    _, promised, _, total = transfer.memo.split()
    data = encoded("Distributor", "settle", number, bytes.fromhex(promised), int(total))
    return Intent(transfer.key, 0, deployment.address("Distributor"), data)


def batch_id(deployment: Deployment, key: str) -> bytes:
    """Return the id under which the distributor pays the transfer of this key, once."""
    where = deployment.chain_id.to_bytes(32, "big") + deployment.address("Distributor")
    return keccak256(b"bithive-batch-1\n" + where + key.encode())


def last_epoch(connection: Connection) -> int:
    """Return the number of the last epoch that paid anybody, 0 for none."""
    return max((_epoch(key) for key in keys_under(connection, PAY)), default=0)


def under(connection: Connection, prefix: str, known: Collection[str]) -> list[Transfer]:
    """Return the transfers whose keys begin so and are not known, by key."""
    keys = [key for key in keys_under(connection, prefix) if key not in known]
    found = dict[str, Transfer]()
    for begin in range(0, len(keys), _KEYS_AT_ONCE):
        found |= journal.find_many(connection, keys[begin : begin + _KEYS_AT_ONCE])
    return [found[key] for key in sorted(found)]


def keys_under(connection: Connection, prefix: str) -> Sequence[str]:
    """Return the keys of all transfers that begin so."""
    key = TRANSFERS.c.key
    found = select(key).where(key.startswith(prefix, autoescape=True))
    return connection.execute(found).scalars().all()


def _epoch(key: str) -> int:
    return int(key.removeprefix(PAY).partition(":")[0])


def _address(account: AccountId) -> bytes:
    return bytes.fromhex(account.removeprefix("chain:0x"))
