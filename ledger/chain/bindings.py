"""Which wallet is paid out to which address: asked for by the party, kept with the books.

A wallet that is bound is emptied to its address with every epoch; one that is not stays in custody
(docs/chain.md). A binding can be replaced and ended; every one that was is kept.

What holds (tests/ledger/chain/test_adapter.py): the newest row of an account decides.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    func,
    insert,
    select,
)

from ledger import journal, store
from ledger.books import Ledger
from ledger.chain.outbox import METADATA, Outbox
from ledger.chart import kind_of
from ledger.journal import UnknownAccount
from ledger.store import ACCOUNTS
from protocol.errors import LedgerError
from protocol.ids import AccountId
from storage.database import reading

ADDRESS_BYTES: Final = 20
BINDINGS: Final = Table(
    "chain_bindings",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 1
    Column("account", ForeignKey(ACCOUNTS.c.account), nullable=False),
    Column("address", LargeBinary),  # 20 bytes; none where a binding ends
    Column("at", String, nullable=False),  # ISO 8601, UTC
)


class AddressUnusable(LedgerError):
    """A text is no address that can be paid, or an account none that can be paid out."""

    code = "chain-address-unusable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"this cannot be bound: {why}")


def address_of(text: str) -> bytes:
    """Return the address a person typed, 20 bytes.

    Raises:
        AddressUnusable: It is none, is nobody's, or its capital letters do not check (EIP-55).
    """
    from eth_utils import is_address, is_checksum_address  # noqa: PLC0415 - comes with web3

    if not is_address(text) or not text.startswith("0x"):
        raise AddressUnusable("an address is 0x and 40 hexadecimal digits")
    if text != text.lower() and not is_checksum_address(text):
        raise AddressUnusable("the address is mistyped: its capitals do not check; copy it again")
    address = bytes.fromhex(text[2:])
    if not any(address):
        raise AddressUnusable("the address 0 is nobody's")
    return address


def bind(ledger: Ledger, account: AccountId, address: bytes | None, *, now: datetime) -> None:
    """Pay ``account`` out to ``address`` from the next epoch on; or, with None, no more.

    Raises:
        AddressUnusable: The account is no wallet.
        UnknownAccount: It was never opened.
    """
    if kind_of(account) != "wallet":
        raise AddressUnusable(f"{account} is no wallet, and only wallets are paid out")
    assert address is None or (len(address) == ADDRESS_BYTES and any(address))
    Outbox(ledger.engine)
    with store.writing(ledger.engine, BINDINGS) as connection:
        if account not in journal.flows_of(connection, [account]):
            raise UnknownAccount(account)
        last = connection.execute(select(func.max(BINDINGS.c.number))).scalar() or 0
        row = {"number": last + 1, "account": account, "address": address, "at": now.isoformat()}
        connection.execute(insert(BINDINGS).values(**row))


def bound(connection: Connection) -> dict[AccountId, bytes]:
    """Return the address of every account that is bound."""
    rows = connection.execute(select(BINDINGS).order_by(BINDINGS.c.number)).all()
    newest = {AccountId(row.account): row.address for row in rows}
    return {account: address for account, address in sorted(newest.items()) if address is not None}


def bindings(ledger: Ledger) -> dict[AccountId, bytes]:
    """Return the address of every account that is bound."""
    Outbox(ledger.engine)
    with reading(ledger.engine) as connection:
        return bound(connection)
