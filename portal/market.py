"""The money side of a run: genesis, the study's escrow, settlement of closed rounds, the audit log.

Assembles ``ledger`` and ``marketplace`` for one study. Every call may be repeated: a run that was
killed between closing a round and settling it settles it once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from audit.checkpoints import SignedHead
from audit.log import AuditLog
from identity.roles import Actor, Permission, Role, check
from ledger import chart, tokenomics
from ledger.books import Ledger
from ledger.escrow import escrow_of
from ledger.store import open_tables
from marketplace.settlement import Settlement, finish, receipts_hash, settle
from marketplace.study import Study, fund
from privacy.signatures import signing_key
from protocol.canonical import digest
from protocol.messages import RoundClosed
from protocol.terms import StudyTerms
from protocol.units import BASE_UNITS_PER_BTT

SERVER: Final = Actor("server", frozenset({Role.SERVER}))
"""The process that sees a study through: no person is needed to pay what was proven."""
RESEARCHER: Final = chart.wallet("researcher")
FUNDS_FROM: Final = chart.treasury("ecosystem")
"""Where the demonstration's researcher got her BTT from."""
BUDGET: Final = 1_000 * BASE_UNITS_PER_BTT


@dataclass(frozen=True)
class Books:
    """What the report says of money, all in base units."""

    supply: int
    budget: int
    in_escrow: int
    paid: int
    balances: dict[str, int]


class Market:
    """One study's money."""

    def __init__(
        self,
        folder: Path,
        terms: StudyTerms,
        clock: Callable[[], datetime],
        *,
        budget: int = BUDGET,
    ) -> None:
        engine = open_tables(folder / "ledger.db")
        self.ledger = Ledger(engine)
        self.audit = AuditLog(engine, signing_key(folder / "audit.key"))
        self._terms = terms
        self._clock = clock
        self._study = Study(terms.study, RESEARCHER, budget, terms.rounds)

    def found(self) -> None:
        """Mint the supply, give the researcher her budget, and put it in escrow."""
        now = self._clock()
        self.ledger.genesis(tokenomics.load().allocation, now=now)
        self.ledger.open_account(RESEARCHER)
        self.ledger.transfer(
            f"grant:{self._terms.study}",
            FUNDS_FROM,
            RESEARCHER,
            self._study.budget,
            memo="demonstration grant",
            now=now,
        )
        fund(self.ledger, self._study, now=now)
        self.audit.append(
            "study-funded",
            {
                "study": self._terms.study,
                "terms": digest(self._terms),
                "budget": str(self._study.budget),
            },
            key=f"fund:{self._terms.study}",
        )

    def settle(self, closed: RoundClosed, *, actor: Actor) -> Settlement:
        """Pay a closed round, once, and log what was paid and refused.

        Raises:
            PermissionMissing: The actor may not settle; it is logged.
            MarketplaceError: The round may not be paid, as ``marketplace.settlement.settle``.
        """
        check(actor, Permission.SETTLE, audit=self.audit.append)
        settlement = settle(
            self.ledger,
            self._study,
            closed,
            site_keys={one.site: one.signing_key for one in self._terms.sites},
            server_key=self._terms.server_key,
            now=self._clock(),
        )
        self.audit.append(
            "round-settled",
            {
                "study": closed.study,
                "round": closed.round,
                "model": closed.model_sha256,
                "receipts": receipts_hash(closed),
                "sites": [receipt.site for receipt in closed.receipts],
                "refused": [f"{one.site}: {one.code}" for one in closed.refused],
                "paid": str(settlement.paid),
            },
            key=f"settle:{closed.study}:{closed.round}",
        )
        return settlement

    def finish(self) -> None:
        """Give the researcher back what no round earned, once."""
        finish(self.ledger, self._study, now=self._clock())

    def books(self) -> Books:
        """Return the state of the money, after checking every balance against the journal.

        Raises:
            LedgerDamaged: A balance does not follow from the journal.
        """
        self.ledger.verify()
        escrow = escrow_of(self.ledger, self._terms.study)
        balances = {
            str(account): amount
            for prefix in ("wallet:", "pool:", "escrow:", "treasury:")
            for account, amount in self.ledger.balances(prefix).items()
        }
        pools = self.ledger.balances(f"pool:{self._terms.study}:")
        wallets = {one.site: balances.get(chart.wallet(one.site), 0) for one in self._terms.sites}
        return Books(
            supply=self.ledger.supply(),
            budget=escrow.amount,
            in_escrow=escrow.remaining,
            paid=sum(pools.values()) + sum(wallets.values()),
            balances=balances,
        )

    def head(self) -> SignedHead:
        """Verify the audit log and return its signed head."""
        return self.audit.verify()
