"""The privacy ledger of one hospital data set: epsilon is reserved before it can be spent.

A round reserves its event, trains, and commits once the update may have left. Whatever was
reserved counts as spent until it is released, so a crash between the steps errs on the patients'
side. The limit is the data steward's and covers all studies, rounds and researchers together.

    >>> folder = getfixture("tmp_path")
    >>> budget = PrivacyBudget(folder / "b.db", dataset="scans", epsilon_limit=8.0, delta=1e-5)
    >>> event = DpSgdEvent(sampling_rate=1.0, noise_multiplier=4.0, steps=10)
    >>> reservation = budget.reserve("lesions", 1, event)
    >>> budget.commit("lesions", 1)
    >>> round(budget.spent(), 1)
    3.4

What holds, each line a test in tests/privacy/test_budget.py:

1. The composed epsilon of everything reserved or committed never passes the limit, whatever the
   order of calls, and whichever process stops between any two of them.
2. Asking again for the same study, round and event changes nothing; another event is refused.
3. A committed event is never taken back, and a lowered limit stays lowered.
4. A file that cannot be read, or holds values that cannot be, refuses every reservation.

States of one (study, round)::

    (none) --reserve--> reserved --commit--> committed
                        reserved --release--> (none)      only if nothing left the hospital

A deleted file cannot be told from a new one; the epsilon signed into every receipt is what an
auditor compares it with.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import sqlalchemy as sa

from privacy.accounting import Accountant, epsilon
from privacy.events import DpSgdEvent, ImpossibleEvent
from protocol.errors import PrivacyError
from storage.database import DatabaseDamaged, open_database, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

State = Literal["reserved", "committed"]

EVENTS_MAX: Final = 100_000
"""Rows read at most; a data set does not take part in more rounds than this."""
_ROUNDING: Final = 1e-9  # a limit written as 8.0 is not missed by the last bit of a float

_METADATA: Final = sa.MetaData()
_LIMITS: Final = sa.Table(
    "limits",
    _METADATA,
    sa.Column("dataset", sa.Text, primary_key=True),
    sa.Column("epsilon_limit", sa.Float, nullable=False),
    sa.Column("delta", sa.Float, nullable=False),
)
_EVENTS: Final = sa.Table(
    "events",
    _METADATA,
    sa.Column("dataset", sa.Text, sa.ForeignKey("limits.dataset"), primary_key=True),
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("sampling_rate", sa.Float, nullable=False),
    sa.Column("noise_multiplier", sa.Float, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
)


class BudgetExceeded(PrivacyError):
    """The round would cost more epsilon than the data steward allows."""

    code = "privacy-budget-exceeded"

    def __init__(self, dataset: str, would_be: float, limit: float) -> None:
        self.dataset = dataset
        self.would_be = would_be
        self.limit = limit
        super().__init__(
            f"this round would bring data set {dataset} to epsilon {would_be:.3f}, above its limit "
            f"of {limit:.3f}; train with more noise or fewer steps, or ask the data steward"
        )


class BudgetConflict(PrivacyError):
    """A round was reserved once and is now asked for with another event, or another delta."""

    code = "privacy-budget-conflict"

    def __init__(self, what: str, stored: object, asked: object) -> None:
        self.stored = stored
        self.asked = asked
        super().__init__(
            f"the privacy ledger already holds {stored} for {what} and {asked} was asked for; "
            "repeat the same request or choose another round"
        )


class NotReserved(PrivacyError):
    """A round was committed or released that holds no reservation."""

    code = "privacy-not-reserved"

    def __init__(self, study: str, number: int, state: str) -> None:
        self.study = study
        self.round = number
        super().__init__(
            f"round {number} of study {study} is {state} in the privacy ledger; reserve it before "
            "training, and release it only while nothing has left the hospital"
        )


class BudgetUnreadable(PrivacyError):
    """The privacy ledger cannot be trusted, so nothing may be spent."""

    code = "privacy-ledger-unreadable"

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(
            f"the privacy ledger {name} cannot be trusted ({reason}), so no round may use the "
            "data; restore it from a backup"
        )


@dataclass(frozen=True)
class Reservation:
    """Epsilon set aside for one round.

    Attributes:
        study: The study's id.
        round: Its round, numbered from 1.
        event: What may be run.
        epsilon_spent: Composed epsilon of the data set with this event included.
        state: ``"committed"`` if the round had been finished before.
    """

    study: str
    round: int
    event: DpSgdEvent
    epsilon_spent: float
    state: State


class PrivacyBudget:
    """The ledger of one data set in one SQLite file; safe to open from several processes.

    Args:
        path: The file; created with mode 0600 where there is none.
        dataset: The hospital's name for the data; several may share a file.
        epsilon_limit: The steward's limit. A lower one than stored replaces it; a higher one is
            ignored until ``raise_limit`` is called, so that a changed setting cannot spend more.
        delta: The same for the life of the data set.
        accountant: How events are added up.

    Raises:
        BudgetUnreadable: The file is corrupt or holds impossible values.
        BudgetConflict: The stored delta differs.
        ImpossibleEvent: The limit or delta cannot be meant.
    """

    def __init__(
        self,
        path: Path,
        *,
        dataset: str,
        epsilon_limit: float,
        delta: float,
        accountant: Accountant = "prv",
    ) -> None:
        _check_limit(epsilon_limit)
        if not 0.0 < delta < 1.0:
            raise ImpossibleEvent("delta", delta, "above 0 and below 1")
        self.dataset = dataset
        self.delta = delta
        self._path = path
        self._accountant: Accountant = accountant
        try:
            self._engine = open_database(path, _METADATA, private=True)
        except DatabaseDamaged as error:
            raise BudgetUnreadable(path.name, "damaged pages") from error
        with self._transaction() as connection:
            if connection.exec_driver_sql("PRAGMA quick_check").scalar() != "ok":
                raise BudgetUnreadable(path.name, "damaged pages")
            self._settle_limit(connection, epsilon_limit)

    def reserve(
        self,
        study: str,
        round: int,  # noqa: A002 - the project's word for it
        event: DpSgdEvent,
    ) -> Reservation:
        """Set the event's epsilon aside, or refuse; call it before any patient is read.

        Args:
            study: The study's id.
            round: Its number, from 1.
            event: What the round is going to run.

        Returns:
            The reservation; the stored one if the same request was made before.

        Raises:
            BudgetExceeded: With this event the limit would be passed. Nothing was stored.
            BudgetConflict: The round is held with another event.
            BudgetUnreadable: The ledger cannot be trusted.
        """
        assert round >= 1
        with self._transaction() as connection:
            held = self._rows(connection)
            others = [e for (e, _) in held.values()]
            if (study, round) in held:
                stored, state = held[study, round]
                if stored != event:
                    raise BudgetConflict(f"round {round} of study {study}", stored, event)
                return Reservation(study, round, event, self._cost(others), state)
            would_be = self._cost([*others, event])
            limit = self._limit(connection)
            # Written so that a cost that is not a number is refused too.
            if not would_be <= limit + _ROUNDING:
                raise BudgetExceeded(self.dataset, would_be, limit)
            connection.execute(
                _EVENTS.insert().values(
                    dataset=self.dataset,
                    study=study,
                    round=round,
                    sampling_rate=event.sampling_rate,
                    noise_multiplier=event.noise_multiplier,
                    steps=event.steps,
                    state="reserved",
                )
            )
            return Reservation(study, round, event, would_be, "reserved")

    def commit(self, study: str, round: int) -> None:  # noqa: A002 - the project's word for it
        """Mark the round as spent for good; repeating it changes nothing.

        Raises:
            NotReserved: The round was never reserved, or was released.
        """
        with self._transaction() as connection:
            if (study, round) not in self._rows(connection):
                raise NotReserved(study, round, "absent")
            connection.execute(
                _EVENTS.update().where(*self._key(study, round)).values(state="committed")
            )

    def release(self, study: str, round: int) -> None:  # noqa: A002 - the project's word for it
        """Give a reservation back; the caller vouches that nothing left the hospital.

        Raises:
            NotReserved: The round holds no reservation, or was committed.
        """
        with self._transaction() as connection:
            held = self._rows(connection)
            if (study, round) not in held:
                raise NotReserved(study, round, "absent")
            if held[study, round][1] == "committed":
                raise NotReserved(study, round, "already spent")
            connection.execute(_EVENTS.delete().where(*self._key(study, round)))

    def raise_limit(self, epsilon_limit: float) -> None:
        """Store a new limit, higher or lower; the data steward's decision alone."""
        _check_limit(epsilon_limit)
        with self._transaction() as connection:
            self._store_limit(connection, epsilon_limit)

    def spent(self) -> float:
        """Return the composed epsilon of everything committed and everything still reserved."""
        return self._cost(self.events())

    def left(self) -> float:
        """Return the limit minus ``spent``, at least 0.

        Epsilon does not add up linearly: whether a round still fits is what ``reserve`` answers.
        """
        return max(0.0, self.limit() - self.spent())

    def limit(self) -> float:
        """Return the stored limit."""
        with self._transaction() as connection:
            return self._limit(connection)

    def events(self) -> list[DpSgdEvent]:
        """Return every event committed or reserved, ordered by study and round."""
        with self._transaction() as connection:
            return [event for (event, _) in self._rows(connection).values()]

    def _cost(self, events: list[DpSgdEvent]) -> float:
        return epsilon(events, self.delta, self._accountant)

    def _key(self, study: str, number: int) -> tuple[sa.ColumnElement[bool], ...]:
        columns = _EVENTS.c
        return columns.dataset == self.dataset, columns.study == study, columns.round == number

    def _rows(self, connection: sa.Connection) -> dict[tuple[str, int], tuple[DpSgdEvent, State]]:
        """Read the data set's rows, refusing any that could not have been written by us."""
        query = (
            sa.select(_EVENTS)
            .where(_EVENTS.c.dataset == self.dataset)
            .order_by(_EVENTS.c.study, _EVENTS.c.round)
            .limit(EVENTS_MAX + 1)
        )
        rows = connection.execute(query).all()
        if len(rows) > EVENTS_MAX:
            raise BudgetUnreadable(self._path.name, f"more than {EVENTS_MAX} events")
        held: dict[tuple[str, int], tuple[DpSgdEvent, State]] = {}
        for row in rows:
            try:
                event = DpSgdEvent(row.sampling_rate, row.noise_multiplier, row.steps)
            except (ImpossibleEvent, TypeError) as error:
                raise BudgetUnreadable(self._path.name, "an impossible event") from error
            if row.state not in ("reserved", "committed") or type(row.steps) is not int:
                raise BudgetUnreadable(self._path.name, "an impossible state")
            held[row.study, row.round] = event, row.state
        return held

    def _limit(self, connection: sa.Connection) -> float:
        limit = connection.execute(
            sa.select(_LIMITS.c.epsilon_limit).where(_LIMITS.c.dataset == self.dataset)
        ).scalar_one_or_none()
        if not isinstance(limit, float) or not math.isfinite(limit) or limit <= 0.0:
            raise BudgetUnreadable(self._path.name, "an impossible limit")
        return limit

    def _settle_limit(self, connection: sa.Connection, epsilon_limit: float) -> None:
        stored_delta = connection.execute(
            sa.select(_LIMITS.c.delta).where(_LIMITS.c.dataset == self.dataset)
        ).scalar_one_or_none()
        if stored_delta is None:
            connection.execute(
                _LIMITS.insert().values(
                    dataset=self.dataset, epsilon_limit=epsilon_limit, delta=self.delta
                )
            )
            return
        if stored_delta != self.delta:
            raise BudgetConflict(f"data set {self.dataset}", f"delta {stored_delta}", self.delta)
        self._rows(connection)
        if epsilon_limit < self._limit(connection):
            self._store_limit(connection, epsilon_limit)

    def _store_limit(self, connection: sa.Connection, epsilon_limit: float) -> None:
        connection.execute(
            _LIMITS.update()
            .where(_LIMITS.c.dataset == self.dataset)
            .values(epsilon_limit=epsilon_limit)
        )

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """Hold the file's write lock for a read-modify-write; all of it happens or none."""
        try:
            with writing(self._engine) as connection:
                yield connection
        except DatabaseDamaged as error:
            raise BudgetUnreadable(self._path.name, "damaged pages") from error


def _check_limit(epsilon_limit: float) -> None:
    if not (epsilon_limit > 0.0 and math.isfinite(epsilon_limit)):
        raise ImpossibleEvent("epsilon_limit", epsilon_limit, "positive and finite")
