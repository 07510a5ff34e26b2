"""Who pays for which round: the events of one data set, and the cohorts they were run on.

A cohort is a subset of a data set's patients that the steward fixes once. What is spent on it
counts for each of its patients and for nobody else, so disjoint cohorts spend side by side
(parallel composition), and a patient of two cohorts pays for both. Patients of the same cohorts pay
the same, so it is enough to add up once for each set of cohorts that some patient is in::

    cohorts   men: 1 2 3 4     old: 3 4 5      rounds   r1 on men, r2 on old, r3 on everyone
    payers    {men}: r1 r3     {men, old}: r1 r2 r3     {old}: r2 r3     {}: r3

What holds, each line a test in tests/privacy/test_cohorts.py:

1. The dearest payer's events are those of the patient who pays most, counted patient by patient.
2. A round on one cohort changes nothing for patients outside it.

Patients are fingerprints here: equal for equal patients of one ledger, and nothing else.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

from privacy.events import Event, ImpossibleEvent, read_event
from privacy.journal import BudgetUnreadable
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from privacy.journal import Entry, Pages

State = Literal["reserved", "committed"]

EVERYONE: Final = ""
"""The cohort of all patients of a data set, those who come later too."""
FINGERPRINT_DIGITS: Final = 16
"""Patients that share one by chance (below 1e-9 for 100,000) pay for one another's rounds too."""


class CohortUnknown(PrivacyError):
    """Epsilon was to be spent on a cohort that the steward never fixed."""

    code = "privacy-cohort-unknown"

    def __init__(self, dataset: str, cohort: str) -> None:
        self.dataset = dataset
        self.cohort = cohort
        super().__init__(
            f"data set {dataset} has no cohort {cohort}; let the data steward fix it, or spend on "
            "all patients"
        )


class NotOfCohort(PrivacyError):
    """Records were to be read of patients on whom the epsilon is not being spent."""

    code = "privacy-not-of-cohort"

    def __init__(self, cohort: str, patients: int) -> None:
        self.cohort = cohort
        self.patients = patients
        super().__init__(
            f"{patients} of the chosen patients are not of cohort {cohort}, whose budget pays; "
            "leave them out, or spend on a cohort that has them"
        )


@dataclass(frozen=True)
class Spending:
    """One round's event as the ledger holds it.

    Attributes:
        study: The study's id.
        round: Its round, from 1.
        event: What may be run.
        cohort: On whom; ``EVERYONE`` for the whole data set.
        researcher: For whom, as the hospital knows them.
        at: When it was reserved, in seconds since 1970.
        plan: Digest of the plan it was reserved for; empty where none was named, as in journals of
            earlier versions.
        state: ``"reserved"``, or ``"committed"`` once it may have left.
    """

    study: str
    round: int
    event: Event
    cohort: str
    researcher: str
    at: int
    state: State
    plan: str = ""


@dataclass
class Account:
    """One data set: its cap, its delta, its cohorts and what was spent, in order of reserving."""

    dataset: str
    delta: float
    limit: float
    cohorts: dict[str, frozenset[str]] = field(default_factory=dict)
    held: dict[tuple[str, int], Spending] = field(default_factory=dict)

    def check_cohort(self, cohort: str) -> None:
        """Raise ``CohortUnknown`` for a cohort that was not fixed."""
        if cohort != EVERYONE and cohort not in self.cohorts:
            raise CohortUnknown(self.dataset, cohort)

    def check_members(self, cohort: str, patients: Iterable[str], salt: bytes) -> None:
        """Raise ``NotOfCohort`` if some of ``patients`` are outside."""
        self.check_cohort(cohort)
        if cohort == EVERYONE:
            return
        members = self.cohorts[cohort]
        outside = sum(fingerprint(salt, patient) not in members for patient in patients)
        if outside:
            raise NotOfCohort(cohort, outside)

    def payers(self, cohort: str | None = None) -> list[list[Event]]:
        """Return the events of each kind of patient, without kinds that another includes.

        Args:
            cohort: Only patients of this one; ``EVERYONE`` and None for all.
        """
        kinds = {frozenset[str]()} if not cohort else set()
        member_of: dict[str, set[str]] = {}
        for name, members in self.cohorts.items():
            for member in members:
                member_of.setdefault(member, set()).add(name)
        kinds |= {frozenset(names) for names in member_of.values() if not cohort or cohort in names}
        largest = [kind for kind in kinds if not any(kind < other for other in kinds)]
        return [self.events_of(kind) for kind in sorted(largest, key=sorted)]

    def events_of(self, names: frozenset[str]) -> list[Event]:
        """Return what a patient of exactly the cohorts ``names`` pays for."""
        return [
            spending.event
            for spending in self.held.values()
            if spending.cohort == EVERYONE or spending.cohort in names
        ]


def fingerprint(salt: bytes, patient: str) -> str:
    """Return what stands for a patient in the ledger whose secret is ``salt``."""
    digest = hmac.digest(salt, patient.encode(), "sha256")
    return digest.hex()[:FINGERPRINT_DIGITS]


def open_account(pages: Pages, dataset: str, name: str) -> Account:
    """Return one data set's account as the journal tells it now.

    Raises:
        BudgetUnreadable: The journal is not one of this data set.
    """
    account = replay(pages.entries, name).get(dataset)
    if account is None:
        raise BudgetUnreadable(name, f"data set {dataset} is not in it")
    return account


def replay(entries: Iterable[Entry], name: str) -> dict[str, Account]:
    """Return every data set's account, from all entries in order.

    Args:
        entries: Verified, in order.
        name: The ledger's file name, for messages.

    Raises:
        BudgetUnreadable: An entry could not have come about.
    """
    accounts: dict[str, Account] = {}
    last = 0
    for entry in entries:
        try:
            _apply(accounts, entry, last)
        except (ImpossibleEvent, ValueError, TypeError, KeyError) as error:
            raise BudgetUnreadable(name, f"entry {entry.number} cannot have come about") from error
        last = entry.at
    return accounts


def _apply(accounts: dict[str, Account], entry: Entry, last: int) -> None:
    body = entry.body
    if entry.at < last and entry.kind != "clock":
        raise ValueError
    if entry.kind == "open":
        if entry.dataset in accounts:
            raise ValueError
        delta, limit = _number(body["delta"]), _number(body["limit"])
        accounts[entry.dataset] = Account(entry.dataset, delta, limit)
        return
    account = accounts[entry.dataset]
    if entry.kind == "limit":
        account.limit = _number(body["limit"])
    elif entry.kind == "cohort":
        if body["cohort"] in account.cohorts:
            raise ValueError
        account.cohorts[body["cohort"]] = frozenset(body["members"])
    elif entry.kind in {"reserve", "commit", "release"}:
        _spend(account, entry)
    elif entry.kind != "clock":
        raise ValueError


def _spend(account: Account, entry: Entry) -> None:
    body = entry.body
    key = (body["study"], body["round"])
    held = account.held.get(key)
    if entry.kind == "reserve":
        if held is not None or (body["cohort"] and body["cohort"] not in account.cohorts):
            raise ValueError
        account.held[key] = Spending(
            study=body["study"],
            round=body["round"],
            event=read_event(body["event"]),
            cohort=body["cohort"],
            researcher=body["researcher"],
            at=entry.at,
            state="reserved",
            plan=str(body.get("plan", "")),
        )
        return
    if held is None or held.state != "reserved":
        raise ValueError
    if entry.kind == "commit":
        account.held[key] = replace(held, state="committed")
    else:
        del account.held[key]


def _number(value: object) -> float:
    if type(value) is not float or not 0.0 < value < float("inf"):
        raise ValueError
    return value
