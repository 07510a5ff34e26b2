"""Structured logs of a hospital's process: one JSON object a line, of fields named here alone.

A line of log leaves the machine sooner or later, so nothing is written into it that was not chosen
beforehand. An event has a name in kebab case and fields from ``FIELDS``, whose values are short
words and numbers; everything else is dropped, whoever logged it. A sentence of our own code becomes
the name of an event, without what is filled in; what a library logs shows as ``foreign``.

    >>> record = logging.makeLogRecord({"name": "bithive.agent", "msg": "round-answered"})
    >>> record.fields = {"study": "lesions", "round": 3, "patient": "4711"}
    >>> '"patient"' in Lines().format(record)
    False

What holds, each line a test in tests/fl_client/test_logs.py:

1. A field that is not allowed, or a value that is no word or number, is not written.
2. An exception is its type and where it was raised, never its message.
3. A line is one JSON object, whatever was logged.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

FIELDS: Final = frozenset(
    {
        *("study", "round", "site", "stage", "kind", "job", "state", "code", "dataset"),
        *("seconds", "bytes", "rounds", "sites", "count", "ahead", "pid", "port"),
    }
)
EVENT: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
WORD: Final = re.compile(r"[A-Za-z0-9._:-]{1,80}")
NAME_MAX: Final = 60
FOREIGN: Final = "foreign"


def event(
    logger: logging.Logger, name: str, level: int = logging.INFO, /, **fields: object
) -> None:
    """Log one event with its fields."""
    assert EVENT.fullmatch(name)
    logger.log(level, name, extra={"fields": fields})


class Lines(logging.Formatter):
    """Write records as JSON lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line, of allowed fields alone."""
        ours = record.name.partition(".")[0] == "bithive"
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name if WORD.fullmatch(record.name) else FOREIGN,
            "event": named(str(record.msg)) if ours else FOREIGN,
        }
        if ours:
            line |= allowed(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[0] is not None:
            line |= _fault(record.exc_info)
        return json.dumps(line, separators=(",", ":"))


def allowed(fields: Any) -> dict[str, str | int | float]:
    """Return those of ``fields`` that may be written."""
    kept: dict[str, str | int | float] = {}
    for name, value in dict(fields).items():
        if name not in FIELDS:
            continue
        if isinstance(value, float):
            kept[name] = round(value, 3)
        elif isinstance(value, int) or (isinstance(value, str) and WORD.fullmatch(value)):
            kept[name] = value
    return kept


def named(template: str) -> str:
    """Return the event that a message's template names; what is filled in is not part of it.

    >>> named("no certificate for chunk %d: %s")
    'no-certificate-for-chunk'
    """
    words = re.sub(r"%[-#0-9.]*[a-z]", " ", template.lower())
    return "-".join(re.findall(r"[a-z0-9]+", words))[:NAME_MAX] or FOREIGN


def start_logs(stream: TextIO, level: int = logging.INFO) -> None:
    """Send every log of this process to ``stream``, as lines."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("bithive").setLevel(level)


def _fault(raised: Any) -> dict[str, str]:
    kind, _, trace = raised
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else Path(trace.tb_frame.f_code.co_filename).name
    number = 0 if trace is None else trace.tb_lineno
    return {"fault": kind.__name__, "where": f"{where}:{number}"}
