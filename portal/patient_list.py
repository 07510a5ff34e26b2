"""The list of patients that a hospital grants for: one a line, as its steward wrote it.

The first column is the hospital's own number. A second, where there is one, names purposes in codes
of the Data Use Ontology with spaces between, a third the last day of use::

    4711
    4712,HMB
    4713,HMB GRU,2027-06-30

A first line ``patient,purposes,until`` is taken for a heading. No message repeats a number.

What holds, each line a test in tests/portal/test_patient_list.py:

1. Each patient is named once.
2. A line that cannot be meant is refused by its number, and with it the list.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import date
from typing import Final

from consent.purposes import UnknownPurpose, granted_mask
from protocol.errors import ConsentError
from protocol.ids import PatientId

BYTES_MAX: Final = 16 * 2**20
NUMBER_CHARACTERS_MAX: Final = 200
COLUMNS_MAX: Final = 3
HEADING: Final = "patient"


class PatientListUnusable(ConsentError):
    """A list of patients has a line that says nothing that can be meant."""

    code = "patient-list-unusable"

    def __init__(self, line: int, why: str) -> None:
        self.line = line
        self.why = why
        super().__init__(
            f"line {line} of the list of patients {why}; write one patient number a line, and if "
            "she agreed to other than the study's, her purposes and the last day of use"
        )


@dataclass(frozen=True)
class Wish:
    """What one patient agreed to on paper; None for what the study asks."""

    patient: PatientId
    purposes: tuple[str, ...] | None = None
    until: date | None = None


def read_list(content: bytes) -> list[Wish]:
    r"""Return the patients of a list, in its order.

    Raises:
        PatientListUnusable: A line cannot be meant, or the list names nobody.

    Examples:
        >>> read_list(b"4711\n4713,HMB GRU,2027-06-30\n")[1].until
        datetime.date(2027, 6, 30)
    """
    if len(content) > BYTES_MAX:
        raise PatientListUnusable(1, f"begins a list of more than {BYTES_MAX} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PatientListUnusable(line, "is not text in UTF-8") from None
    wishes: dict[PatientId, Wish] = {}
    lines = csv.reader(text.splitlines(), strict=True)
    try:
        for cells in lines:
            row = [cell.strip() for cell in cells]
            if not any(row) or (lines.line_num == 1 and row[0].lower() == HEADING):
                continue
            wish = _wish(row, lines.line_num)
            if wish.patient in wishes:
                raise PatientListUnusable(lines.line_num, "names a patient a second time")
            wishes[wish.patient] = wish
    except csv.Error as error:
        raise PatientListUnusable(lines.line_num, "is no line of a table") from error
    if not wishes:
        raise PatientListUnusable(1, "and all others name nobody")
    return list(wishes.values())


def _wish(row: list[str], line: int) -> Wish:
    if len(row) > COLUMNS_MAX:
        raise PatientListUnusable(line, f"has more than {COLUMNS_MAX} columns")
    number, purposes, until = (*row, "", "")[:COLUMNS_MAX]
    if not (0 < len(number) <= NUMBER_CHARACTERS_MAX and number.isprintable()):
        raise PatientListUnusable(line, "has no patient number, or one that cannot be printed")
    words = tuple(purposes.split()) or None
    try:
        granted_mask(words or ())
    except UnknownPurpose:  # it would say what stands there, which may be a number
        raise PatientListUnusable(line, "names a purpose that has no such code") from None
    try:
        last = date.fromisoformat(until) if until else None
    except ValueError:
        raise PatientListUnusable(line, "has no day as 2027-06-30 in its third column") from None
    return Wish(PatientId(number), words, last)
