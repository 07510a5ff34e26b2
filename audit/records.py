r"""What may stand in a record of the log: one event, as canonical JSON that names no patient.

    >>> record_of("round-closed", {"round": 1, "proven_patients": 12})
    b'{"facts":{"proven_patients":12,"round":1},"kind":"round-closed"}'
    >>> read_records(b'{"facts":{},"kind":"beat"}\n{"facts":{"n":2},"kind":"beat"}\n')
    [b'{"facts":{},"kind":"beat"}', b'{"facts":{"n":2},"kind":"beat"}']

What holds, each line a test in tests/audit/test_records.py:

1. What ``read_records`` takes is what ``record_of`` writes, and nothing else: a line is refused if
   it holds a float, white space, keys out of order or twice, or any other text of the same value.
2. No record names a patient: whatever is called after patients is a count of them.
3. Records and batches have a largest size; a batch that passes it is not parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import orjson

from protocol.errors import LedgerError
from storage.canonical import ENCODER, JSON, canonical_json

RECORD_BYTES_MAX: Final = 64 * 1024
BATCH_EVENTS_MAX: Final = 10_000
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,59}")


class FactRefused(LedgerError):
    """A fact may not be logged, because it could name a patient or is too long."""

    code = "fact-refused"

    def __init__(self, fact: str, why: str) -> None:
        self.fact = fact
        super().__init__(f"{fact} is not logged: {why}")


class RecordMalformed(LedgerError):
    """A line that was sent is not a record as the log writes them."""

    code = "record-malformed"

    def __init__(self, number: int, why: str) -> None:
        self.number = number
        super().__init__(
            f"line {number} of the batch is no record: {why}; send facts and kind as canonical "
            "JSON, one record a line; nothing of the batch was logged"
        )


class BatchTooLarge(LedgerError):
    """A batch has more records or bytes than are taken at once."""

    code = "batch-too-large"

    def __init__(self) -> None:
        super().__init__(
            f"a batch has at most {BATCH_EVENTS_MAX} records and {BATCH_BYTES_MAX} bytes; "
            "send it in parts"
        )


@dataclass(frozen=True)
class Event:
    """One record as it was logged; ``record`` is the canonical JSON that the tree hashes."""

    position: int
    kind: str
    facts: Mapping[str, JSON]
    record: str


def record_of(kind: str, facts: Mapping[str, JSON]) -> bytes:
    """Return the record of an event.

    Args:
        kind: What happened, e.g. ``round-closed``; at most 60 lower-case letters, digits, dashes.
        facts: JSON without floats. Names that mention patients must be counts.

    Raises:
        NotCanonical: A fact is a float or is not JSON.
        FactRefused: A fact could name a patient, or the record exceeds 64 KiB.
    """
    assert KIND.fullmatch(kind)
    _check_no_patient(facts)
    record = canonical_json({"facts": facts, "kind": kind})
    if len(record) > RECORD_BYTES_MAX:
        raise FactRefused(kind, f"the record exceeds {RECORD_BYTES_MAX} bytes")
    return record


def read_records(body: bytes) -> list[bytes]:
    """Return the records of a batch, one a line, after checking every one of them.

    Args:
        body: Hostile bytes.

    Raises:
        RecordMalformed: A line is not a record as ``record_of`` writes it.
        FactRefused: A fact could name a patient, or a record exceeds 64 KiB.
        BatchTooLarge: There are too many.
    """
    if len(body) > BATCH_BYTES_MAX or body.count(b"\n") > BATCH_EVENTS_MAX:
        raise BatchTooLarge
    lines = body.split(b"\n")
    if lines.pop() or not lines:
        raise RecordMalformed(len(lines) + 1, "the last line does not end, or there is none")
    events = _read_quickly(lines)
    if events is None:
        events = _read_closely(body, lines)
    if len(max(lines, key=len)) > RECORD_BYTES_MAX:
        raise FactRefused("a record", f"it exceeds {RECORD_BYTES_MAX} bytes")
    # A name of patients has these letters, which canonical JSON never writes as an escape. Where
    # every mention is a plain name of a count, nothing needs to be looked at more closely.
    lower = body.lower()
    if lower.count(b"patient") != len(_COUNTS.findall(lower)):
        for event in events:
            _check_no_patient(event["facts"])
    return lines


def event_of(position: int, record: bytes) -> Event:
    """Return a stored record as an event."""
    body = json.loads(record)
    return Event(position, body["kind"], body["facts"], record.decode())


def _read_quickly(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """Return the events of a batch that is clearly sound; None where it must be read closely."""
    try:
        events = [orjson.loads(line) for line in lines]
    except orjson.JSONDecodeError:
        return None
    kinds: set[str] = set()
    types: set[type] = set()
    for event in events:
        if _fault(event, kinds):
            return None
        types.update(map(type, event["facts"].values()))
    if not types <= _PLAIN:  # orjson reads fractions, which no record has
        return None
    # One text for all, since encoding is dear to begin and cheap to go on. Each line was one whole
    # JSON object and so is each encoding; no object's text begins with another's, so equal sums
    # have equal parts.
    return events if _written(events) == b"[%b]" % b",".join(lines) else None


def _read_closely(body: bytes, lines: list[bytes]) -> list[dict[str, Any]]:
    """Return the events of a batch, or name the first line that is none."""
    try:
        texts = body.decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        at = body.count(b"\n", 0, error.start) + 1
        raise RecordMalformed(at, "it is not UTF-8") from error
    kinds: set[str] = set()
    events = [_event(number, text, kinds) for number, text in enumerate(texts, start=1)]
    if _written(events) != b"[%b]" % b",".join(lines):
        for number, (event, text) in enumerate(zip(events, texts, strict=True), start=1):
            if ENCODER.encode(event) != text:
                raise RecordMalformed(number, "the same event is written in another way")
    return events


def _event(number: int, text: str, kinds: set[str]) -> dict[str, Any]:
    try:
        event, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, _Fraction) else "it is not JSON"
        raise RecordMalformed(number, why) from error
    if end != len(text):
        raise RecordMalformed(number, "something stands behind it")
    why = _fault(event, kinds)
    if why:
        raise RecordMalformed(number, why)
    found: dict[str, Any] = event
    return found


def _fault(event: Any, kinds: set[str]) -> str:
    """Say what is wrong with a decoded line; ``kinds`` are those found sound before."""
    if type(event) is not dict or event.keys() != _FIELDS or type(event["facts"]) is not dict:
        return "it has other fields than facts and kind"
    kind = event["kind"]
    if type(kind) is not str or (kind not in kinds and KIND.fullmatch(kind) is None):
        return "its kind is no short name in lower case"
    kinds.add(kind)
    return ""


def _written(events: list[dict[str, Any]]) -> bytes | None:
    """Return what ``ENCODER`` writes, in a third of its time, or None where only it can.

    orjson writes no number beyond 64 bits. It sorts names by their UTF-8, which is by code point.
    """
    try:
        return orjson.dumps(events, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return None


def _check_no_patient(facts: JSON, name: str = "") -> None:
    # A count such as proven_patients is a fact about a site. Anything else that is called after
    # patients could name one: text, a list, or a number of one patient.
    if "patient" in name and (type(facts) is not int or "patients" not in name):
        raise FactRefused(name, "what mentions patients must be a count of them")
    if isinstance(facts, Mapping):
        for inner_name, inner in facts.items():
            _check_no_patient(inner, str(inner_name).lower())
    elif isinstance(facts, list | tuple):
        for inner in facts:
            _check_no_patient(inner)


class _Fraction(ValueError):
    """A float, or what JSON has no word for."""


def _refuse(_: str) -> NoReturn:
    raise _Fraction("it holds a number with a fraction or exponent")


# A quotation mark before a colon ends a name; inside a text it would be escaped. So what matches is
# a name's end and its whole number.
_COUNTS: Final = re.compile(rb'patients[a-z_]*":-?[0-9]+(?=[,}])')
_PLAIN: Final = {str, int, bool, type(None)}
_FIELDS: Final = {"facts", "kind"}
_DECODER: Final = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse)
