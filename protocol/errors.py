"""The error tree: what the world may do to us, named so that ``except`` reads as a sentence.

::

    BitHiveError
    ├── ConfigurationError   a setting, preset or command line that cannot be meant
    ├── StorageError         a disk, database or home folder that does not take or give our bytes
    ├── RecordError          a medical file, table or manifest that is not what it says
    ├── ConsentError         a grant, lane or registry state that forbids what was asked
    ├── ProofError           a statement or proof that does not hold
    ├── PrivacyError         a budget, update, ciphertext or key that must not be used
    ├── FederationError      a site, message, signature or round that went wrong
    ├── IdentityError        a name, key, certificate, file or right that does not hold
    ├── LedgerError          an amount, account, transfer or escrow that would break the books
    └── MarketError          an order, contribution or settlement that cannot be

The families are here because every layer catches them; a concrete error lives beside the code
that raises it. Each has a ``code`` that never changes: exit messages, HTTP problems, logs and
``docs/errors.md`` use it. Messages name values and the way out, never a patient.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar


class BitHiveError(Exception):
    """An expected failure: one sentence that a person can act on, and a stable code."""

    code: ClassVar[str] = "bithive"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes with message and facts, whatever the constructor takes."""
        return _revived, (type(self), self.args, self.__dict__.copy())


def _revived(
    kind: type[BitHiveError], arguments: tuple[Any, ...], facts: dict[str, Any]
) -> BitHiveError:
    error = kind.__new__(kind)
    Exception.__init__(error, *arguments)
    error.__dict__.update(facts)
    return error


class ConfigurationError(BitHiveError):
    """A setting, preset or command line that cannot be meant."""

    code = "configuration"


class StorageError(BitHiveError):
    """A disk, database or home folder that does not take or give our bytes."""

    code = "storage"


class RecordError(BitHiveError):
    """A medical file, table or manifest that is not what it says."""

    code = "record"


class ConsentError(BitHiveError):
    """A grant, lane or registry state that forbids what was asked."""

    code = "consent"


class ProofError(BitHiveError):
    """A statement or proof that does not hold."""

    code = "proof"


class PrivacyError(BitHiveError):
    """A budget, update, ciphertext or key that must not be used."""

    code = "privacy"


class FederationError(BitHiveError):
    """A site, message, signature or round that went wrong."""

    code = "federation"


class IdentityError(BitHiveError):
    """A name, key, certificate, file or right that does not hold."""

    code = "identity"


class LedgerError(BitHiveError):
    """An amount, account, transfer or escrow that would break the books."""

    code = "ledger"


class MarketError(BitHiveError):
    """An order, contribution or settlement that cannot be."""

    code = "market"


class DiskFull(StorageError):
    """The disk took no more bytes; what was committed before is untouched."""

    code = "disk-full"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"no space left on the disk while writing {what}; free some and run again, "
            "finished rounds are kept"
        )


class StorageFailed(StorageError):
    """The operating system or the database refused a write or a read."""

    code = "storage-failed"

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        super().__init__(f"could not store {what}: {reason}")


def storage_error(error: Exception, what: str) -> StorageError:
    """Return the typed error for an ``OSError`` or database error met while storing ``what``.

    SQLite reports a full disk in words only, ``database or disk is full``, which SQLAlchemy wraps.
    """
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(what)
    if "disk is full" in str(error):
        return DiskFull(what)
    return StorageFailed(what, str(error).splitlines()[0])
