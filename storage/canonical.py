"""One text per value: JSON that two programs always write the same way, so that it can be hashed.

Keys are sorted, there is no white space, text is UTF-8 as it is, and there are no floats, since
their shortest decimal differs between languages. Amounts and rates travel as decimal text.

    >>> canonical_json({"b": [1, True, None], "a": "naïve"}).decode()
    '{"a":"naïve","b":[1,true,null]}'

For the values accepted here this is the output of RFC 8785 (JSON Canonicalization Scheme), except
that keys are sorted by code point and whole numbers may pass 2**53.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from protocol.errors import LedgerError

ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)

JSON: TypeAlias = "bool | int | str | Sequence[JSON] | Mapping[str, JSON] | None"
"""What may be written: no floats, no bytes (write hexadecimal), no dates (write ISO 8601)."""


class NotCanonical(LedgerError):
    """A value has no canonical JSON text: a float, or something that is not JSON."""

    code = "not-canonical"

    def __init__(self, where: str, kind: str) -> None:
        self.where = where
        self.kind = kind
        super().__init__(f"{where} is a {kind}, which cannot be logged; write it as text")


def canonical_json(value: JSON) -> bytes:
    """Return the canonical UTF-8 text of ``value``.

    Raises:
        NotCanonical: A float, an unpaired surrogate, a key that is not text, or an object that
            is not JSON, at any depth; the message names the path to it.
    """
    _check(value, "the value")
    return ENCODER.encode(value).encode()


def _check(value: JSON, where: str) -> None:
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise NotCanonical(f"a key of {where}", type(key).__name__)
            _check_text(key, f"a key of {where}")
            _check(inner, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check(inner, f"{where}[{index}]")
    elif not (value is None or isinstance(value, int)):
        raise NotCanonical(where, type(value).__name__)


def _check_text(text: str, where: str) -> None:
    # Asked of every text that is hashed: most are ASCII, which has no surrogates.
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise NotCanonical(where, "text with an unpaired surrogate")
