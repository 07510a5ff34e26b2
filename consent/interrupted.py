"""Which erasures were begun and are not finished: a mark for each, which names nobody.

An erasure that is killed between two steps leaves bytes behind that no table shows any more. So it
puts down a mark before the first step and takes it away after the last, and whoever comes back with
the patient's number is known by it::

    FOLDER/ID.json    {"at": ..., "by": ..., "salt": ..., "patient": HMAC-SHA256(salt, number)}

What holds (tests/consent/test_erasure.py):

1. A mark is found by the patient's number alone, and its file does not have the number.
2. Nothing stays of a mark that was taken away.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from protocol.errors import storage_error
from protocol.ids import PatientId
from storage.files import PRIVATE, private_folder, write_whole

SALT_BYTES: Final = 16


@dataclass(frozen=True)
class Begun:
    """An erasure that was begun."""

    id: str
    at: str
    """ISO 8601, UTC."""
    by: str


class Interrupted:
    """The marks of one hospital."""

    def __init__(self, folder: Path, *, entropy: Callable[[int], bytes]) -> None:
        """Say where the marks are.

        Args:
            folder: Made with the first mark, closed to others.
            entropy: Gives so many unpredictable bytes: ``secrets.token_bytes``.
        """
        self._folder = folder
        self._entropy = entropy

    def find(self, patient: PatientId) -> Begun | None:
        """Return the erasure of this patient that was begun; None if there is none.

        Raises:
            StorageError: A mark cannot be read.
        """
        for file in self._files():
            mark = _read(file)
            named = _fingerprint(bytes.fromhex(mark["salt"]), patient)
            if hmac.compare_digest(named, mark["patient"]):
                return Begun(file.stem, mark["at"], mark["by"])
        return None

    def begin(self, patient: PatientId, *, by: str, now: datetime) -> Begun:
        """Put a mark down.

        Raises:
            StorageError: The disk refused.
        """
        salt, begun = self._entropy(SALT_BYTES), Begun(self._entropy(8).hex(), now.isoformat(), by)
        mark = {
            "at": begun.at,
            "by": by,
            "salt": salt.hex(),
            "patient": _fingerprint(salt, patient),
        }
        content = json.dumps(mark).encode() + b"\n"
        write_whole(private_folder(self._folder) / f"{begun.id}.json", content, mode=PRIVATE)
        return begun

    def end(self, begun: Begun) -> None:
        """Take a mark away.

        Raises:
            StorageError: The disk refused.
        """
        try:
            (self._folder / f"{begun.id}.json").unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, self._folder.name) from error

    def count(self) -> int:
        """Return how many erasures are not finished."""
        return len(self._files())

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.json"))


def _read(file: Path) -> dict[str, Any]:
    try:
        mark: dict[str, Any] = json.loads(file.read_bytes())
    except OSError as error:
        raise storage_error(error, file.name) from error
    return mark


def _fingerprint(salt: bytes, patient: PatientId) -> str:
    return hmac.digest(salt, patient.encode(), "sha256").hex()
