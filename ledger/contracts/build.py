"""Compile the contracts into ``build``, or compare what is there with its sources.

Only a developer who changes a contract runs this; whoever deploys or calls one uses the committed
artifacts (``artifacts.py``). The compiler is npm ``solc`` 0.8.37 as WebAssembly and the library
npm ``@openzeppelin/contracts`` 5.7.0, both locked, so every machine gets the same bytes.

::

    cd ledger/contracts && npm ci --ignore-scripts && cd ../..
    python -m ledger.contracts.build            (20 s, 1 core)
    python -m ledger.contracts.build --check    also `make contracts`

What holds (tests/ledger/contracts/test_artifacts.py):

1. The same sources give the same artifacts, byte for byte; a difference is named by its file.
2. The compiler's warnings about our sources are errors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from ledger.contracts import verifier
from ledger.contracts.artifacts import CONTRACTS, FOLDER, FORMAT, PLACED, hash_of
from protocol.errors import BitHiveError, LedgerError
from storage.files import write_whole
from zk.solidity.solc import run_solc

HERE: Final = Path(__file__).parent
MODULES: Final = HERE / "node_modules"
LIBRARY: Final = "@openzeppelin/contracts"
SETTINGS: Final[dict[str, Any]] = {
    # For cheap calls, not short code: the largest contract has two thirds of the bytes allowed.
    "optimizer": {"enabled": True, "runs": 1_000_000},
    # By the older code generator a batch to 100 new recipients costs more than 3,000,000 gas.
    "viaIR": True,
    # Transient storage and MCOPY, which the library uses, came with cancun.
    "evmVersion": "cancun",
    # Without the hash of comments and file names, equal code has equal bytes.
    "metadata": {"appendCBOR": False, "bytecodeHash": "none"},
    "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]}},
}
IMPORT: Final = re.compile(r"""^import\s[^;"']*["']([^"']+)["'];""", re.MULTILINE)
DEPLOYED_BYTES_MAX: Final = 24_576
"""EIP-170."""


class ContractRefused(LedgerError):
    """The compiler refused a contract, or warned about it, or it is too large to be deployed."""

    code = "contract-refused"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the contracts do not compile: {reason}; correct the source named")


class ContractsNotReproduced(LedgerError):
    """Compiling the sources gave other artifacts than those committed."""

    code = "contracts-not-reproduced"

    def __init__(self, files: list[str]) -> None:
        self.files = files
        super().__init__(
            f"compiling gives other bytes for {', '.join(files)} than those committed; run "
            "`python -m ledger.contracts.build` and review the difference"
        )


def sources() -> dict[str, str]:
    """Return our sources by name, with the verifier as its key gives it."""
    found = {path.name: path.read_text() for path in sorted(HERE.glob("*.sol"))}
    found[f"{verifier.NAME}.sol"] = verifier.source()
    return found


def compile_contracts(texts: dict[str, str]) -> dict[str, bytes]:
    """Return what each file of ``build`` holds, by its name.

    Args:
        texts: ``sources()``.

    Raises:
        SolidityCompilerMissing: Node or an npm package is not there.
        ContractRefused: The compiler complains.
    """
    output = _compiled(texts)
    for complaint in output.get("errors", []):
        file = complaint.get("sourceLocation", {}).get("file", "")
        # Warnings about the library are its authors' to heed.
        if complaint["severity"] == "error" or not file.startswith("@openzeppelin/"):
            raise ContractRefused(complaint["formattedMessage"].strip())
    hashes = {name: _sha256(_content(name, texts)) for name in output["sources"]}
    return {
        f"{name}.json": _artifact(name, output, _needed(f"{name}.sol", texts, hashes))
        for name in CONTRACTS
    }


def build(folder: Path = FOLDER) -> None:
    """Compile and write all artifacts, and the generated source.

    Raises:
        SolidityCompilerMissing, ContractRefused: As in ``compile_contracts``.
        StorageError: A file cannot be written.
    """
    texts = sources()
    generated = f"{verifier.NAME}.sol"
    write_whole(HERE / generated, texts[generated].encode())
    for name, content in compile_contracts(texts).items():
        write_whole(folder / name, content)


def check(folder: Path = FOLDER) -> None:
    """Return if ``folder`` holds what compiling the sources gives.

    Raises:
        ContractsNotReproduced: It does not.
        SolidityCompilerMissing, ContractRefused: As in ``compile_contracts``.
    """
    texts = sources()
    made = {folder / name: content for name, content in compile_contracts(texts).items()}
    generated = f"{verifier.NAME}.sol"
    made[HERE / generated] = texts[generated].encode()
    differing = [
        path.name
        for path, content in made.items()
        if not path.exists() or path.read_bytes() != content
    ]
    if differing:
        raise ContractsNotReproduced(differing)


def _compiled(texts: dict[str, str]) -> dict[str, Any]:
    asked = {
        "language": "Solidity",
        "sources": {name: {"content": text} for name, text in texts.items()},
        "settings": SETTINGS,
    }
    output = run_solc(asked, HERE, packages=[LIBRARY])
    if output is None:
        raise ContractRefused("the compiler broke off")
    return output


def _artifact(name: str, output: dict[str, Any], hashes: dict[str, str]) -> bytes:
    contract = output["contracts"][f"{name}.sol"][name]
    code = contract["evm"]["bytecode"]["object"]
    deployed = contract["evm"]["deployedBytecode"]["object"]
    if len(deployed) // 2 > DEPLOYED_BYTES_MAX:
        raise ContractRefused(f"{name} has {len(deployed) // 2} bytes")
    document = {
        "format": FORMAT,
        "contract": name,
        "compiler": output["version"],
        "settings": SETTINGS,
        "sources": hashes,
        "source_sha256": hash_of(hashes),
        "abi": contract["abi"],
        "bytecode": code,
        "bytecode_sha256": _sha256(bytes.fromhex(code)),
        "deployed_bytes": len(deployed) // 2,
    }
    if name in PLACED:
        document |= {"deployed": deployed, "deployed_sha256": _sha256(bytes.fromhex(deployed))}
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _needed(start: str, texts: dict[str, str], hashes: dict[str, str]) -> dict[str, str]:
    """Return the hashes of a source and of all that it imports, directly or not."""
    waiting, found = [start], set[str]()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imports(name, _content(name, texts).decode())
    return {name: hashes[name] for name in sorted(found)}


def _imports(name: str, text: str) -> list[str]:
    return [_resolved(name, target) for target in IMPORT.findall(text)]


def _resolved(name: str, target: str) -> str:
    if not target.startswith("."):
        return target
    parts = name.split("/")[:-1]
    for step in target.split("/"):
        if step == "..":
            parts.pop()
        elif step != ".":
            parts.append(step)
    return "/".join(parts)


def _content(name: str, texts: dict[str, str]) -> bytes:
    return texts[name].encode() if name in texts else (MODULES / name).read_bytes()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Compile, or compare; exit 0 done, 1 refused."""
    parser = argparse.ArgumentParser(description="Compile the contracts of BTT.")
    parser.add_argument("--check", action="store_true", help="Compare with what is there.")
    options = parser.parse_args(arguments)
    try:
        check() if options.check else build()
    except BitHiveError as refusal:
        sys.stderr.write(f"{refusal.code}: {refusal}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
