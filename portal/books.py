"""Open a finished or running home's ledger and audit log, to read and verify them."""

from __future__ import annotations

from pathlib import Path

from audit.log import AuditLog
from ledger.books import Ledger
from ledger.store import open_tables
from portal.home import Home
from privacy.signatures import signing_key
from protocol.errors import ConfigurationError
from storage.postgresql import open_postgresql


class NoRunHere(ConfigurationError):
    """The folder holds no run."""

    code = "no-run-here"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"there is no run in {path}; give the --home of one, or run `bithive demo`"
        )


def open_books(path: Path) -> Ledger:
    """Open the ledger of the run at ``path``.

    Raises:
        NoRunHere: There is none.
    """
    return Ledger(_existing(path) / "ledger.db")


def open_shared_books(url: str) -> Ledger:
    """Open the books on a PostgreSQL server.

    Raises:
        PostgresqlUnusable: The address is no server's, or it does not keep what it acknowledges.
        StorageError: It does not answer.
    """
    return Ledger(open_tables(open_postgresql(url)))


def open_audit(path: Path) -> AuditLog:
    """Open the audit log of the run at ``path``.

    Raises:
        NoRunHere: There is none.
    """
    folder = _existing(path)
    return AuditLog(folder / "ledger.db", signing_key(folder / "audit.key"))


def _existing(path: Path) -> Path:
    folder = Home(path).market
    if not (folder / "ledger.db").is_file():
        raise NoRunHere(path)
    return folder
