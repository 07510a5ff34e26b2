"""Fill the staking pool: a share of the fees kept, and a capped part of the community bucket.

Both may be asked for as often as one likes. Of the fees, what was moved is at most the share of all
that the account ever received; of the bucket, at most the cap in a calendar year.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, select

from ledger import chart, journal
from ledger.books import Ledger
from ledger.journal import Leg, Transfer
from ledger.staking import POOL, WHOLE, StakingTerms
from ledger.store import LEGS, TRANSFERS
from protocol.ids import AccountId


def fund_from_fees(
    ledger: Ledger, terms: StakingTerms, purpose: str, *, now: datetime
) -> Transfer | None:
    """Move the pool's share of what ``fees:PURPOSE`` ever received; None if nothing is due.

    Raises:
        InsufficientFunds: The fees were spent otherwise before the pool had its share.
    """
    source = chart.fees(purpose)
    with ledger.begin() as connection:
        journal.open_accounts(connection, [POOL])
        flows = journal.flows_of(connection, [source])
        received = flows[source].credits if source in flows else 0
        due = received * terms.fee_share // WHOLE
        moved = _moved(connection, source, "")
        return _fund(connection, source, due - moved, f"pool:fees:{purpose}:{due}", now)


def fund_from_community(
    ledger: Ledger, terms: StakingTerms, amount: int, *, now: datetime
) -> Transfer | None:
    """Move ``amount``, or what the year's cap leaves of it, from the community bucket.

    Raises:
        UnknownAccount, InsufficientFunds: The bucket is not there or holds less.
    """
    source, year = chart.treasury("community"), now.astimezone(UTC).year
    with ledger.begin() as connection:
        journal.open_accounts(connection, [POOL])
        moved = _moved(connection, source, f"{year}-01-01T00:00:00")
        given = min(amount, terms.community_cap - moved)
        return _fund(connection, source, given, f"pool:community:{year}:{moved + given}", now)


def _fund(
    connection: Connection, source: AccountId, amount: int, key: str, now: datetime
) -> Transfer | None:
    if amount <= 0:
        return None
    return journal.post(connection, key, [Leg(source, POOL, amount)], memo="staking pool", now=now)


def _moved(connection: Connection, source: AccountId, since: str) -> int:
    """Return what went from ``source`` to the pool since an instant in ISO 8601, UTC."""
    legs = (
        select(LEGS.c.amount)
        .join_from(LEGS, TRANSFERS)
        .where(LEGS.c.debit == source, LEGS.c.credit == POOL, TRANSFERS.c.at >= since)
    )
    return sum(connection.execute(legs).scalars())
