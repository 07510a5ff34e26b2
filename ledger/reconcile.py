"""Reconciliation: fold the journal from its first row and compare with what the tables say.

Nothing is trusted but the journal's rows, and those are tied together by their hash chain, so a
changed, dropped, inserted or reordered row shows, and so does a balance edited beside the journal.
Whoever can rewrite the whole file can also recompute the chain; against that, log the report's
``head`` in the audit log, whose signing key is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, func, select

from ledger.chart import BURNED, GENESIS, PENDING, escrow, kind_of, stake
from ledger.journal import (
    CHAIN_START,
    Flow,
    InsufficientFunds,
    Leg,
    Transfer,
    UnknownAccount,
    apply_leg,
    chained,
)
from ledger.store import ACCOUNTS, ESCROWS, HOLDS, LEGS, STAKES, TRANSFERS
from protocol.errors import LedgerError
from protocol.ids import AccountId
from protocol.units import TOTAL_SUPPLY


class LedgerDamaged(LedgerError):
    """The stored books contradict themselves."""

    code = "ledger-damaged"

    def __init__(self, finding: str) -> None:
        self.finding = finding
        super().__init__(
            f"the ledger is damaged: {finding}; restore the last backup and settle again, "
            "what it already holds is not paid twice"
        )


@dataclass(frozen=True)
class LedgerReport:
    """What a sound ledger holds: counts, base units, and the last link of the journal's chain."""

    accounts: int
    transfers: int
    supply: int
    burned: int
    head: str


def reconcile(connection: Connection) -> LedgerReport:
    """Check the whole ledger and return what was found.

    Raises:
        LedgerDamaged: The file, the chain, a balance, an escrow or the supply is not as it must be.
    """
    _check_file(connection)
    stored = {
        AccountId(row.account): Flow(row.debits, row.credits)
        for row in connection.execute(select(ACCOUNTS))
    }
    folded = {account: Flow() for account in stored}
    transfers, head = _fold(connection, folded)
    for account, flow in folded.items():
        if flow != stored[account]:
            raise LedgerDamaged(f"{account} is not the sum of its transfers")
    supply = sum(flow.balance for account, flow in folded.items() if account != GENESIS)
    if supply != (TOTAL_SUPPLY if transfers else 0):
        raise LedgerDamaged(f"the supply is {supply} base units")
    _check_escrows(connection, folded)
    _check_holds(connection, folded)
    _check_stakes(connection, folded)
    burned = folded.get(BURNED, Flow()).balance
    return LedgerReport(len(stored), transfers, supply, burned, head.hex())


def _check_file(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        return  # a server checks its own pages, where it was made with checksums
    verdict = connection.exec_driver_sql("PRAGMA integrity_check").scalars().first()
    if verdict != "ok":
        raise LedgerDamaged(f"the database file is damaged ({verdict})")


def _fold(connection: Connection, flows: dict[AccountId, Flow]) -> tuple[int, bytes]:
    """Apply every transfer to ``flows``; return how many there are and the last link."""
    chain, sequence, legs = CHAIN_START, 0, 0
    for transfer, link in transfers_in_order(connection):
        sequence += 1
        legs += len(transfer.legs)
        chain = chained(chain, transfer)
        if transfer.sequence != sequence or link != chain:
            raise LedgerDamaged(f"transfer {sequence} of the journal was changed or is missing")
        for leg in transfer.legs:
            if leg.debit == BURNED or (leg.debit == GENESIS and sequence != 1):
                raise LedgerDamaged(f"transfer {sequence} takes money out of {leg.debit}")
            try:
                apply_leg(flows, leg)
            except (InsufficientFunds, UnknownAccount) as error:
                raise LedgerDamaged(f"at transfer {sequence}, {error}") from error
    if connection.execute(select(func.count()).select_from(LEGS)).scalar_one() != legs:
        raise LedgerDamaged("the journal has legs of no transfer")
    return sequence, chain


def transfers_in_order(connection: Connection) -> Iterator[tuple[Transfer, bytes]]:
    """Yield every transfer of the journal with its stored link, unchecked."""
    joined = (
        select(TRANSFERS, LEGS.c.debit, LEGS.c.credit, LEGS.c.amount)
        .join_from(TRANSFERS, LEGS, isouter=True)
        .order_by(TRANSFERS.c.sequence, LEGS.c.position)
    )
    rows = connection.execute(joined, execution_options={"yield_per": 1000})
    for sequence, of_transfer in groupby(rows, key=lambda row: row.sequence):
        yield _transfer(sequence, list(of_transfer))


def _transfer(sequence: int, rows: list[Any]) -> tuple[Transfer, bytes]:
    first = rows[0]
    legs = tuple(Leg(row.debit, row.credit, row.amount) for row in rows if row.debit is not None)
    try:
        at = datetime.fromisoformat(first.at)
    except ValueError as error:
        raise LedgerDamaged(f"transfer {sequence} has no time") from error
    return Transfer(sequence, first.key, legs, first.memo, at), first.chain


def _check_escrows(connection: Connection, flows: dict[AccountId, Flow]) -> None:
    for row in connection.execute(select(ESCROWS)):
        flow = flows.get(escrow(row.order), Flow())
        if flow.credits != row.amount or (flow.balance == 0) != (row.state != "held"):
            raise LedgerDamaged(
                f"the escrow of {row.order} is {row.state} with {flow.balance} left"
            )


def _check_holds(connection: Connection, flows: dict[AccountId, Flow]) -> None:
    rows = connection.execute(select(HOLDS)).all()
    held = sum(row.amount for row in rows if row.state == "pending")
    pending = flows.get(PENDING, Flow())
    if pending.balance != held or pending.credits != sum(row.amount for row in rows):
        raise LedgerDamaged(f"pending holds {pending.balance}, its holds say {held}")


def _check_stakes(connection: Connection, flows: dict[AccountId, Flow]) -> None:
    at_stake: dict[AccountId, int] = {
        account: 0 for account in flows if kind_of(account) == "stake"
    }
    for row in connection.execute(select(STAKES)):
        account = stake(row.party)
        at_stake[account] = at_stake.get(account, 0) + row.amount
    for account, amount in at_stake.items():
        if flows.get(account, Flow()).balance != amount:
            raise LedgerDamaged(f"{account} is not the sum of its stakes, {amount} base units")
