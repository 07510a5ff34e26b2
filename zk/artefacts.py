"""Semaphore's committed files, each checked against the manifest before anybody uses it.

``zk/semaphore`` holds the circuit for groups of up to 2^16 members exactly as its publishers ship
it (npm ``@zk-kit/semaphore-artifacts`` 4.13.0): the proving key ``semaphore-16.zkey``, the witness
calculator ``semaphore-16.wasm``, and the verification key. A patient's page is served these two and
``semaphore.js``, 5.8 MB together, from our own server; whoever verifies reads the verification key
alone. ``zk/semaphore/NOTICE`` says whose work the files are and under which licences.

    >>> sorted(check_files())
    ['semaphore-16.wasm', 'semaphore-16.zkey', 'semaphore.js', 'verification-key.json']

What holds (tests/zk/test_artefacts.py):

1. A file is given out only if it has the length and hash of ``manifest.json``.
2. The verification key is the one whose hash stands in this module, whatever the manifest says.
3. Building again from the lock gives the same bytes (where node is installed).

The proving key records 400 contributions, the last a beacon, and its verification key is the one
beside it; both were looked at when the files were committed. That those contributions were made by
whom they name is the publishers' word: ``snarkjs zkey verify`` with the phase-1 file they name can
be run by anybody who does not take it.

References:
    Semaphore protocol, version 4, circuits package (circuit ``Semaphore(16)``).
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from protocol.errors import ProofError, storage_error
from zk.keys import VerificationKey

FOLDER: Final = Path(__file__).parent / "semaphore"
KEY_FILE: Final = "verification-key.json"
KEY_HASH: Final = "da9ce5939eebad2ae555c006d478a5205f1c6167b73e3d0490fa46e225d31acb"
"""``VerificationKey.hash`` of the published key: proofs under any other are not Semaphore's."""


class ArtefactAltered(ProofError):
    """A file of Semaphore is missing or is not the one the manifest names."""

    code = "semaphore-file-altered"

    def __init__(self, file: str, reason: str) -> None:
        self.file = file
        self.reason = reason
        super().__init__(
            f"the Semaphore file {file} {reason}; restore zk/semaphore from the repository"
        )


def check_files(folder: Path = FOLDER) -> dict[str, Path]:
    """Return every file of the manifest by its name, after comparing it.

    Raises:
        ArtefactAltered: One is missing or has other bytes.
        StorageError: One cannot be read.
    """
    names = list(_manifest(folder)["files"])
    for name in names:
        read_file(name, folder)
    return {name: folder / name for name in names}


def read_file(name: str, folder: Path = FOLDER) -> bytes:
    """Return the content of one file of the manifest.

    Raises:
        ArtefactAltered: It is missing or has other bytes.
        StorageError: It cannot be read.
    """
    entry = _manifest(folder)["files"][name]
    content = _read(folder / name)
    if len(content) != entry["bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ArtefactAltered(name, "does not have the hash in the manifest")
    return content


@lru_cache(maxsize=1)
def verification_key(folder: Path = FOLDER) -> VerificationKey:
    """Return Semaphore's verification key for groups of up to 2^16 members.

    Raises:
        ArtefactAltered: The file does not hold it.
    """
    text = read_file(KEY_FILE, folder).decode()
    key = VerificationKey.from_json(text, status="ceremony")
    if key.hash != KEY_HASH:
        raise ArtefactAltered(KEY_FILE, "is not the published verification key")
    return key


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(_read(folder / "manifest.json"))
    except ValueError as error:
        raise ArtefactAltered("manifest.json", "is not JSON") from error
    return manifest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtefactAltered(path.name, "is missing") from error
    except OSError as error:
        raise storage_error(error, path.name) from error
