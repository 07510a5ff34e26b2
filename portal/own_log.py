"""A party's own audit log, in its own folder: the operator's acts about sites, a site's refusals.

FOLDER/audit.db, audit.key
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audit.log import AuditLog
from identity.consortium import Record
from privacy.signatures import signing_key
from storage.files import private_folder


def own_log(folder: Path) -> AuditLog:
    """Return the log in ``folder``; the caller closes it.

    Raises:
        StorageError: The disk refused.
    """
    private_folder(folder)
    return AuditLog(folder / "audit.db", signing_key(folder / "audit.key"))


def own_record(folder: Path) -> Record:
    """Return what appends to that log, opened for each event: such events are rare."""

    def record(kind: str, facts: Mapping[str, Any], /, *, key: str | None = None) -> object:
        log = own_log(folder)
        try:
            return log.append(kind, facts, key=key)
        finally:
            log.close()

    return record
