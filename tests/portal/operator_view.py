"""What whoever runs registry, server and market can see, and the best that can be made of it.

``Dump`` holds every value of every table, as text and as bytes, and every file as raw bytes:
``secrets_in`` searches it for what must not be there. ``Links`` joins rows that share a value few
rows have, over any number of steps, in whatever form the value is written (a number as decimal or
hexadecimal text, or as bytes).
"""

import json
import re
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

PREFIX = 8
"""Bytes by which a sought value is found first; shorter ones are too common to seek."""
SIEVE = 1 << 24
"""Cells of the table that says where a closer look is worth it."""
ELEMENT = 32
DISTINCT = 1 << 32
"""Numbers below are counters and sizes, which thousands of rows share by chance."""
TEXT_MIN = 8
FEW = 20
"""Rows that share a value may be about one person only if they are fewer than a group."""
MANY = 100
"""A row of more values is about everybody: a round's lanes, a model."""


@dataclass(frozen=True)
class Row:
    file: str
    table: str
    values: tuple

    @property
    def name(self):
        return f"{self.file}:{self.table}"


def read_rows(folders):
    """Return every row of every database in the folders, tables of the row numbers included."""
    rows = []
    for file in sorted(file for folder in folders for file in folder.rglob("*.db")):
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in names.fetchall():
            held = connection.execute(f'SELECT * FROM "{table}"')
            rows += [Row(file.name, table, values) for values in held]
        connection.close()
    return rows


def dump(folders):
    """Return all that is in the folders: each row as text and bytes, then each file as it lies."""
    parts = []
    for row in read_rows(folders):
        for value in row.values:
            if isinstance(value, bytes):
                parts += [value, value.hex().encode()]
                if len(value) <= 2 * ELEMENT:
                    parts.append(str(int.from_bytes(value, "big")).encode())
            else:
                parts.append(str(value).encode())
    parts += [file.read_bytes() for folder in folders for file in _files(folder)]
    return b"\n".join(parts)


def forms_of(secret):
    """Return how a secret may be written: text, bytes, or a number in four ways."""
    if isinstance(secret, str):
        return {secret.encode()}
    if isinstance(secret, bytes):
        return {secret, secret.hex().encode()}
    # Without leading zeros, which files are full of; forms with them hold these.
    big = secret.to_bytes((secret.bit_length() + 7) // 8, "big")
    return {big, big[::-1], f"{secret:x}".encode(), str(secret).encode()}


def secrets_in(dumped, secrets):
    """Return which of the named secrets, in any form, stand in a dump."""
    sought = defaultdict(list)
    for name, secret in secrets:
        for form in forms_of(secret):
            assert len(form) >= PREFIX, name
            sought[form[:PREFIX]].append((name, form))
    maybe = np.zeros(SIEVE, bool)
    maybe[np.frombuffer(b"".join(sought), "<u8") % SIEVE] = True
    found = set()
    for shift in range(min(PREFIX, len(dumped))):
        words = np.frombuffer(dumped, "<u8", (len(dumped) - shift) // PREFIX, shift)
        for place in np.flatnonzero(maybe[words % SIEVE]):
            start = shift + int(place) * PREFIX
            for name, form in sought.get(dumped[start : start + PREFIX], ()):
                if dumped.startswith(form, start):
                    found.add(name)
    return found


@dataclass
class Links:
    """Rows joined through the values that few of them have."""

    rows: list
    _group: dict = field(default_factory=dict)

    def __post_init__(self):
        sharing = defaultdict(list)
        for number, row in enumerate(self.rows):
            values = distinct_values(row)
            if len(values) <= MANY:
                for value in values:
                    sharing[value].append(number)
        self.sharing = sharing
        self._parent = list(range(len(self.rows)))
        for numbers in sharing.values():
            if len(numbers) < FEW:
                for one, other in pairwise(numbers):
                    self._parent[self._root(one)] = self._root(other)

    def group_of(self, value):
        """Return the name of the joined rows in which a value stands; None if it is nowhere."""
        numbers = self.sharing.get(canonical(value), ())
        return self._root(numbers[0]) if numbers and len(numbers) < FEW else None

    def joined(self, ones, others):
        """Return the pairs, one of each list of values, that lead to the same rows."""
        by_group = defaultdict(list)
        for other in others:
            by_group[self.group_of(other)].append(other)
        by_group.pop(None, None)
        return [(one, other) for one in ones for other in by_group.get(self.group_of(one), ())]

    def _root(self, number):
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number


def distinct_values(row):
    """Return what could tell a row from others, as numbers and texts, JSON and joined texts too."""
    found = set()
    for value in row.values:
        _collect(value, found)
    return found


def canonical(value):
    """Return one form of a value however it is written; None for what says nothing."""
    if isinstance(value, bytes):
        return canonical(int.from_bytes(value, "big")) if len(value) <= 2 * ELEMENT else value
    if isinstance(value, bool | float) or value is None:
        return None
    if isinstance(value, int):
        return value if value >= DISTINCT else None
    if re.fullmatch(r"[0-9]{10,90}", value):
        return canonical(int(value))
    if re.fullmatch(r"[0-9a-f]{16,128}", value):
        return canonical(int(value, 16))
    return value if len(value) >= TEXT_MIN else None


def _collect(value, found):
    if isinstance(value, dict):
        for one in value.values():
            _collect(one, found)
    elif isinstance(value, list):
        for one in value:
            _collect(one, found)
    elif isinstance(value, str) and value[:1] in {"{", "["}:
        try:
            _collect(json.loads(value), found)
        except ValueError:
            found.add(value)
    else:
        found.add(canonical(value))
        if isinstance(value, str):  # claim:ID, wallet:NAME
            found |= {canonical(part) for part in value.split(":")}
        found.discard(None)


def _files(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())
