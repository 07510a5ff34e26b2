"""What finished rounds say of a hospital's patients: what was proven, what it cost, what was paid.

All of it is public and about a whole hospital. Which of it concerns her, a patient's browser works
out by itself.

What holds (tests/portal/test_patient_page_uses.py):

1. A round's coverage is that of its accepted certificates; its privacy and payment are those of the
   receipt that hospital and server signed, and of the books.
2. A round that is not closed is not told of; one that is closed never changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fl_server.store import ServerStore
from ledger.books import Ledger
from ledger.chart import pool
from protocol.ids import SiteId, StudyId
from zk.cover import CoverStatement


@dataclass(frozen=True)
class Coverage:
    """What one accepted certificate says: of this chunk, so many patients were used."""

    round: int
    epoch: int
    """Of the registry: the leaves that were live then could be used."""
    chunk: int
    chunk_root: int
    count: int
    required: int
    from_day: int
    through_day: int
    counted: bool = True
    """The hospital's update is in the round's sum; if not, it was refused or the round failed."""


@dataclass(frozen=True)
class RoundReceipt:
    """What a hospital's receipt says of one round, and what its patients' pool got for it."""

    round: int
    epoch: int
    """Of the registry."""
    patients: int
    """Whose live consent was proven."""
    gradients: int
    epsilon_spent: str
    """Decimal: what the hospital's data have spent with this round and all before, by patient."""
    delta: str
    paid: int
    """Base units that the round paid into the pool of the hospital's patients; 0 until settled."""


@dataclass
class Rounds:
    """The closed rounds of a study."""

    study: StudyId
    store: ServerStore | None
    """None where the study has not begun."""
    books: Ledger | None = None
    """None where nobody pays."""
    _covered: dict[int, dict[SiteId, list[Coverage]]] = field(default_factory=dict)
    _receipts: dict[int, dict[SiteId, RoundReceipt]] = field(default_factory=dict)
    """Of settled rounds: what was paid is final."""

    def coverage(self, site: SiteId) -> list[Coverage]:
        """Return what was proven of a hospital's lane in every closed round."""
        found: list[Coverage] = []
        for number in self._closed():
            if number not in self._covered:
                assert self.store is not None
                self._covered[number] = _coverage(self.store, number)
            found += self._covered[number].get(site, [])
        return found

    def receipts(self, site: SiteId) -> list[RoundReceipt]:
        """Return a hospital's receipts of every closed round that it took part in."""
        found = []
        for number in self._closed():
            receipts = self._receipts.get(number) or self._of_round(number)
            if site in receipts:
                found.append(receipts[site])
        return found

    def _closed(self) -> range:
        return range(1, 1 + (0 if self.store is None else self.store.rounds_closed()))

    def _of_round(self, number: int) -> dict[SiteId, RoundReceipt]:
        assert self.store is not None
        stored = self.store.planned(number)
        assert stored.closed is not None
        transfer = None if self.books is None else self.books.find(f"settle:{self.study}:{number}")
        paid = {leg.credit: leg.amount for leg in transfer.legs} if transfer else {}
        receipts = {
            one.site: RoundReceipt(
                round=number,
                epoch=stored.plan.epoch.number,
                patients=one.proven_patients,
                gradients=one.gradients,
                epsilon_spent=one.epsilon_spent,
                delta=one.delta,
                paid=paid.get(pool(self.study, one.site), 0),
            )
            for one in stored.closed.receipts
        }
        if transfer is not None or self.books is None:
            self._receipts[number] = receipts
        return receipts


def _coverage(store: ServerStore, number: int) -> dict[SiteId, list[Coverage]]:
    stored = store.planned(number)
    assert stored.closed is not None
    counted = {receipt.site for receipt in stored.closed.receipts}
    found: dict[SiteId, list[Coverage]] = {}
    for site in store.uploads.of(number):
        contribution = store.uploads.contribution(number, site)
        for certificate in contribution.certificates:
            statement = CoverStatement.from_public_inputs(certificate.public_inputs)
            found.setdefault(site, []).append(
                Coverage(
                    round=number,
                    epoch=stored.plan.epoch.number,
                    chunk=certificate.chunk,
                    chunk_root=statement.chunk_root,
                    count=statement.count,
                    required=statement.scope.required,
                    from_day=statement.scope.from_day,
                    through_day=statement.scope.through_day,
                    counted=site in counted,
                )
            )
    return found
