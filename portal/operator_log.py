"""The operator's own audit log, in which every act about sites and every refusal is kept.

AUTHORITY/audit.db, audit.key
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audit.log import AuditLog
from identity.consortium import Record
from privacy.signatures import signing_key
from storage.files import private_folder


def operator_log(folder: Path) -> AuditLog:
    """Return the log of the operator whose authority lies in ``folder``; the caller closes it.

    Raises:
        StorageError: The disk refused.
    """
    private_folder(folder)
    return AuditLog(folder / "audit.db", signing_key(folder / "audit.key"))


def open_operator_log(folder: Path) -> Record:
    """Return what appends to that log, opened for each event: acts about sites are rare."""

    def record(kind: str, facts: Mapping[str, Any], /, *, key: str | None = None) -> object:
        log = operator_log(folder)
        try:
            return log.append(kind, facts, key=key)
        finally:
            log.close()

    return record
