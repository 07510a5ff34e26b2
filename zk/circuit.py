"""The compiled circuits, each checked against the committed manifest before anybody uses it.

    >>> circuit("cover8").slots
    8

What holds (tests/zk/test_circuit.py):

1. A circuit is returned only if its files have the hashes of ``manifest.json``.
2. The manifest names the hashes of the sources as they are committed.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.errors import ConfigurationError, ProofError, storage_error

CIRCUITS: Final = ("cover8", "cover64")
BUILD: Final = Path(__file__).parent / "circuits" / "build"


class CircuitUnknown(ConfigurationError):
    """No circuit has this name."""

    code = "circuit-unknown"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is no circuit {name!r}; choose one of {', '.join(CIRCUITS)}")


class CircuitAltered(ProofError):
    """A compiled circuit is missing or is not the one the manifest names."""

    code = "circuit-altered"

    def __init__(self, file: str, reason: str) -> None:
        self.file = file
        self.reason = reason
        super().__init__(
            f"the circuit file {file} {reason}; restore zk/circuits/build from the repository"
        )


@dataclass(frozen=True)
class Circuit:
    """A compiled circuit ``cover(K)`` whose files were found unaltered."""

    name: str
    depth: int
    """K: a chunk is a Merkle tree of this depth."""
    r1cs: Path
    """The constraints, packed as xz; ``r1cs_bytes`` gives them unpacked."""
    wasm: Path
    """The witness calculator."""
    r1cs_sha256: str
    """Of the unpacked constraints: the name of what a key was made for."""
    wasm_sha256: str
    constraints: int

    @property
    def slots(self) -> int:
        """Leaves in a chunk."""
        return 1 << self.depth

    def r1cs_bytes(self) -> bytes:
        """Unpack the constraints.

        Raises:
            CircuitAltered: They are not those the manifest names.
        """
        try:
            unpacked = lzma.decompress(_read(self.r1cs))
        except lzma.LZMAError as error:
            raise CircuitAltered(self.r1cs.name, "cannot be unpacked") from error
        _expect(unpacked, self.r1cs_sha256, self.r1cs.name)
        return unpacked

    def wasm_bytes(self) -> bytes:
        """Read the witness calculator.

        Raises:
            CircuitAltered: It is not the one the manifest names.
        """
        code = _read(self.wasm)
        _expect(code, self.wasm_sha256, self.wasm.name)
        return code


def circuit(name: str, *, build: Path = BUILD) -> Circuit:
    """Return a circuit after comparing its files with the manifest.

    Args:
        name: One of ``CIRCUITS``.
        build: The folder of the compiled files and their ``manifest.json``.

    Raises:
        CircuitUnknown: No such circuit.
        CircuitAltered: A file is missing or has another hash.
    """
    if name not in CIRCUITS:
        raise CircuitUnknown(name)
    entry = _manifest(build)["circuits"][name]
    found = Circuit(
        name=name,
        depth=entry["depth"],
        r1cs=build / f"{name}.r1cs.xz",
        wasm=build / f"{name}.wasm",
        r1cs_sha256=entry["r1cs_sha256"],
        wasm_sha256=entry["wasm_sha256"],
        constraints=entry["constraints"],
    )
    _expect(_read(found.r1cs), entry["r1cs_xz_sha256"], found.r1cs.name)
    _expect(_read(found.wasm), entry["wasm_sha256"], found.wasm.name)
    return found


def _manifest(build: Path) -> dict[str, Any]:
    path = build / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(_read(path))
    except ValueError as error:
        raise CircuitAltered(path.name, "is not JSON") from error
    return manifest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CircuitAltered(path.name, "is missing") from error
    except OSError as error:
        raise storage_error(error, path.name) from error


def _expect(content: bytes, digest: str, name: str) -> None:
    if hashlib.sha256(content).hexdigest() != digest:
        raise CircuitAltered(name, "does not have the hash in the manifest")
