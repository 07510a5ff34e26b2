"""Write the journal for beancount, so that another program checks what we say of ourselves.

The file opens every account, has one balanced transaction for each transfer, and ends by asserting
every balance as the ledger's tables state it. ``bean-check`` derives them again from the
transactions: it exits 0 only if they agree to the base unit.

Amounts are whole base units in a commodity of their own, ``BTT-BASE``: beancount allows a tolerance
for numbers with decimals and none for whole ones. An account's parts become beancount's, with the
first letter capital and ``_`` as ``-U-``, from which the name can be read back.

References:
    Beancount documentation, "Beancount Language Syntax" (2022).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

from sqlalchemy import select

from ledger.books import Ledger
from ledger.chart import BURNED, GENESIS
from ledger.reconcile import transfers_in_order
from ledger.store import ACCOUNTS
from protocol.ids import AccountId
from storage.database import reading

COMMODITY: Final = "BTT-BASE"


def beancount_account(account: AccountId) -> str:
    """Return an account's name in beancount.

    Examples:
        >>> beancount_account(AccountId("treasury:founding_lab"))
        'Assets:Treasury:Founding-U-lab'
        >>> beancount_account(BURNED)
        'Expenses:Burned'
    """
    root = {GENESIS: "Equity", BURNED: "Expenses"}.get(account, "Assets")
    parts = [part[0].upper() + part[1:].replace("_", "-U-") for part in account.split(":")]
    return ":".join([root, *parts])


def beancount_lines(ledger: Ledger) -> Iterator[str]:
    """Yield the lines of the file; the books must be sound (``Ledger.verify``)."""
    with reading(ledger.engine) as connection:
        transfers = [transfer for transfer, _ in transfers_in_order(connection)]
        balances = {
            AccountId(row.account): row.credits - row.debits
            for row in connection.execute(select(ACCOUNTS).order_by(ACCOUNTS.c.account))
        }
    days = [transfer.at.date() for transfer in transfers] or [date(1970, 1, 1)]
    yield 'option "title" "BTT"'
    yield f'option "operating_currency" "{COMMODITY}"'
    for account in balances:
        yield f"{min(days)} open {beancount_account(account)} {COMMODITY}"
    for transfer in transfers:
        # A transfer's narration, and its key as a link would be, cannot hold every character.
        yield ""
        yield f"{transfer.at.date()} * {_quoted(transfer.memo)}"
        yield f"  key: {_quoted(transfer.key)}"
        yield f'  sequence: "{transfer.sequence}"'
        for leg in transfer.legs:
            yield f"  {beancount_account(leg.debit)}  {-leg.amount} {COMMODITY}"
            yield f"  {beancount_account(leg.credit)}  {leg.amount} {COMMODITY}"
    yield ""
    after = max(days) + timedelta(days=1)  # a balance is asserted for the morning of its day
    for account, balance in balances.items():
        yield f"{after} balance {beancount_account(account)}  {balance} {COMMODITY}"


def _quoted(text: str) -> str:
    return json.dumps(" ".join(text.split()), ensure_ascii=False)
