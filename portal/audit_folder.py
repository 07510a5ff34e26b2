"""An audit log's folder: the log, its key, who may write to it, and whose cosignatures it keeps.

FOLDER/audit.db      the log; or ledger.db, the books with the log beside them, as a run has it
FOLDER/audit.key     signs heads, mode 0600
FOLDER/audit.token   what writers show, mode 0600; made on first use
FOLDER/witnesses     verifier keys of witnesses, one a line; may be missing
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from audit.log import AuditLog
from audit.notes import COSIGNED, NoteKey, NoteKeyMalformed, read_key
from privacy.signatures import signing_key
from protocol.errors import ConfigurationError, storage_error
from storage.files import PRIVATE, private_folder, write_whole

TOKEN_BYTES: Final = 32


class NoLogHere(ConfigurationError):
    """The folder holds no audit log, or the file is none."""

    code = "no-log-here"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"there is no audit log in {path}; give the --home of a run, or the --folder of a log"
        )


def open_folder(folder: Path) -> AuditLog:
    """Open the log of a folder.

    Raises:
        NoLogHere: There is none.
    """
    for name in ("audit.db", "ledger.db"):
        if (folder / name).is_file() and (folder / "audit.key").is_file():
            return AuditLog(folder / name, signing_key(folder / "audit.key"))
    raise NoLogHere(folder)


def make_folder(folder: Path) -> AuditLog:
    """Open the log of a folder, or begin one.

    Raises:
        StorageError: The disk refused.
    """
    try:
        return open_folder(folder)
    except NoLogHere:
        private_folder(folder)
        return AuditLog(folder / "audit.db", signing_key(folder / "audit.key"))


def writers_token(folder: Path) -> str:
    """Return what writers must show, made on first use.

    Raises:
        StorageError: The disk refused.
    """
    path = folder / "audit.token"
    if not path.exists():
        write_whole(path, secrets.token_hex(TOKEN_BYTES).encode(), mode=PRIVATE)
    return _read(path).strip()


def known_witnesses(folder: Path) -> list[NoteKey]:
    """Return the witnesses whose cosignatures the log keeps.

    Raises:
        NoteKeyMalformed: A line is no key of a witness.
    """
    path = folder / "witnesses"
    if not path.exists():
        return []
    keys = [read_key(line) for line in _read(path).splitlines() if line.strip()]
    if any(key.kind != COSIGNED for key in keys):
        raise NoteKeyMalformed("it is the key of a log and not of a witness")
    return keys


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise storage_error(error, path.name) from error
