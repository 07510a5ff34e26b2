"""What a hospital's steward changes in its privacy ledger, by right and on the record.

``privacy.stewardship`` knows no persons; here somebody who is known asks, her right is checked at
her own site, and what was done goes into the site's own audit log.

What holds, each line a test in tests/portal/test_stewarding.py:

1. Nobody but a steward of this site changes anything, nobody but she and its officer reads it, and
   every refused attempt is on record.
2. What was changed is on record with who changed it; no record holds a patient's number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from identity.roles import About, Actor, Denied, Permission, check
from portal.budgets import open_budgets
from privacy.ledger_view import LedgerView
from privacy.stewardship import Steward, open_dataset
from protocol.ids import SiteId


def read_ledger(site: SiteId, ledger: Path, actor: Actor, audit: Denied) -> list[LedgerView]:
    """Return the data sets of a site's privacy ledger, to be read.

    Raises:
        PermissionMissing: The actor may not.
        BudgetUnreadable: It cannot be trusted.
    """
    check(actor, Permission.READ_BUDGET, about=About(site=site), audit=audit)
    return open_budgets(ledger)


@dataclass(frozen=True)
class LedgerDesk:
    """One actor's hold on one data set of a site's privacy ledger.

    Args:
        site: Whose ledger it is.
        ledger: Its file.
        dataset: Which data set.
        actor: Who asks.
        audit: The site's log.
    """

    site: SiteId
    ledger: Path
    dataset: str
    actor: Actor
    audit: Denied

    def open_dataset(self, epsilon_limit: float, delta: float) -> None:
        """Give the data set its first cap and its delta; no study may use it before.

        Raises:
            PermissionMissing: The actor may not.
            BudgetConflict, ImpossibleEvent: As ``privacy.stewardship``.
        """
        self._check(Permission.SET_CAP)
        open_dataset(self.ledger, self.dataset, epsilon_limit=epsilon_limit, delta=delta)
        self._record("data-set-opened", epsilon=repr(float(epsilon_limit)), delta=repr(delta))

    def set_cap(self, epsilon_limit: float, *, confirm_raise: bool = False) -> None:
        """Store a new cap.

        Raises:
            PermissionMissing: The actor may not.
            CapRaiseUnconfirmed, ImpossibleEvent: As ``privacy.stewardship``.
        """
        self._check(Permission.RAISE_CAP if confirm_raise else Permission.SET_CAP)
        self._steward().set_limit(epsilon_limit, confirm_raise=confirm_raise)
        self._record("cap-set", epsilon=repr(float(epsilon_limit)))

    def fix_cohort(self, name: str, numbers: Iterable[str]) -> None:
        """Name a subset of the patients, once and for all.

        Raises:
            PermissionMissing: The actor may not.
            CohortFixed: As ``privacy.stewardship``.
        """
        self._check(Permission.FIX_COHORT)
        self._steward().fix_cohort(name, numbers)
        self._record("cohort-fixed", cohort=name)

    def accept_clock(self) -> None:
        """Go on from the present time although it is before the last entry.

        Raises:
            PermissionMissing: The actor may not.
        """
        self._check(Permission.ACCEPT_CLOCK)
        self._steward().accept_clock()
        self._record("clock-accepted")

    def _check(self, permission: Permission) -> None:
        check(self.actor, permission, about=About(site=self.site), audit=self.audit)

    def _steward(self) -> Steward:
        return Steward(self.ledger, self.dataset)

    def _record(self, kind: str, **facts: Any) -> None:
        known = {"site": self.site, "dataset": self.dataset, "actor": self.actor.shown}
        self.audit(kind, known | facts)
