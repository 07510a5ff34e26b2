"""Compile the circuits and write what they are into ``build/manifest.json``.

Only a developer who changes a circuit runs this; provers and verifiers use the committed output.
The compiler is circom 2.2.3 as WebAssembly (npm ``circom2``), so every machine gets the same
bytes: ``--check`` compiles into a temporary folder and compares.

::

    cd zk/circuits && npm ci --ignore-scripts && cd ../..
    python -m zk.circuits.build            (30 s, 1 core)
    python -m zk.circuits.build --check

The r1cs files are stored as xz: 25.6 MB of ``cover64`` become 0.6 MB. The manifest pins the bytes
both ways; ``--check`` compares the unpacked ones, for another liblzma may pack differently.
The flag ``--O2`` lets the compiler substitute all linear constraints, which suits Groth16.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from protocol.errors import ConfigurationError, ProofError

HERE: Final = Path(__file__).parent
CIRCUITS: Final = {"cover8": 3, "cover64": 6}
"""Name of a circuit, and its K: it has ``2**K`` slots."""
SOURCES: Final = ("cover.circom", "cover8.circom", "cover64.circom", "package-lock.json")


class CompilerMissing(ConfigurationError):
    """Node or the npm packages that compile circuits are not installed."""

    code = "circuit-compiler-missing"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what} is missing; circuits are compiled with Node 20 or newer after "
            "`npm ci --ignore-scripts` in zk/circuits"
        )


class CircuitNotReproduced(ProofError):
    """Compiling the sources gave other bytes than those committed."""

    code = "circuit-not-reproduced"

    def __init__(self, differing: list[str]) -> None:
        self.differing = differing
        super().__init__(
            f"compiling gives other bytes for {', '.join(differing)} than the committed manifest; "
            "run `python -m zk.circuits.build` and review the difference"
        )


def compile_circuits(target: Path) -> dict[str, Any]:
    """Compile every circuit into ``target`` and return the manifest.

    The compiler runs inside WASI and sees only what lies below its working folder, so sources
    and circomlib are copied to a temporary one. That also keeps paths out of the output.

    Raises:
        CompilerMissing: Node, circom2 or circomlib is not there.
    """
    node = shutil.which("node")
    if node is None:
        raise CompilerMissing("node")
    modules = HERE / "node_modules"
    compiler = modules / "circom2" / "cli.js"
    library = modules / "circomlib" / "circuits"
    if not (compiler.exists() and library.exists()):
        raise CompilerMissing("npm package circom2 or circomlib")

    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copytree(library, work / "circomlib")
        for source in HERE.glob("*.circom"):
            shutil.copy(source, work)
        entries = {
            name: _compile_one(name, node, compiler, work, target) | {"depth": depth}
            for name, depth in CIRCUITS.items()
        }
    return {
        "format": "bithive-circuits-1",
        "flags": ["--O2"],
        "compiler": {"circom2": _version(modules / "circom2"), "circom": "2.2.3"},
        "circomlib": _version(modules / "circomlib"),
        "sources": {name: sha256(HERE / name) for name in SOURCES},
        "circuits": entries,
    }


def _compile_one(
    name: str, node: str, compiler: Path, work: Path, target: Path
) -> dict[str, int | str]:
    """Compile ``name`` in ``work``; move r1cs (packed) and wasm to ``target``."""
    flags = ["--r1cs", "--wasm", "--O2", "-l", "circomlib", "-o", "."]
    command = [node, str(compiler), f"{name}.circom", *flags]
    # The command is ours, the compiler is pinned by hash in package-lock.json.
    subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    r1cs = (work / f"{name}.r1cs").read_bytes()
    packed = target / f"{name}.r1cs.xz"
    packed.write_bytes(lzma.compress(r1cs, preset=6))
    wasm = target / f"{name}.wasm"
    shutil.move(work / f"{name}_js" / f"{name}.wasm", wasm)
    return {
        **r1cs_header(r1cs),
        "r1cs_bytes": len(r1cs),
        "r1cs_sha256": hashlib.sha256(r1cs).hexdigest(),
        "r1cs_xz_sha256": sha256(packed),
        "wasm_sha256": sha256(wasm),
    }


def r1cs_header(r1cs: bytes) -> dict[str, int]:
    """Read the sizes from an r1cs file.

    References:
        iden3, R1CS binary format, version 1, section 1 (header). The sections may come in any
        order; each is a type (4 bytes), a length (8 bytes) and its content, little-endian.
    """
    assert r1cs[:4] == b"r1cs"
    position = 12
    while int.from_bytes(r1cs[position : position + 4], "little") != 1:
        position += 12 + int.from_bytes(r1cs[position + 4 : position + 12], "little")
    start = position + 12
    field_bytes = int.from_bytes(r1cs[start : start + 4], "little")
    start += 4 + field_bytes
    wires, outputs, public, private = (
        int.from_bytes(r1cs[start + 4 * i : start + 4 * i + 4], "little") for i in range(4)
    )
    constraints = int.from_bytes(r1cs[start + 24 : start + 28], "little")
    return {
        "constraints": constraints,
        "wires": wires,
        "public_outputs": outputs,
        "public_inputs": public,
        "private_inputs": private,
    }


def check(committed: dict[str, Any]) -> None:
    """Compile again and compare with the ``committed`` manifest.

    Raises:
        CircuitNotReproduced: Sources, versions or compiled bytes differ.
        CompilerMissing: As in ``compile_circuits``.
    """
    with tempfile.TemporaryDirectory() as folder:
        fresh = compile_circuits(Path(folder))
    differing = [
        f"{name}.{key}"
        for name in CIRCUITS
        for key, value in fresh["circuits"][name].items()
        if key != "r1cs_xz_sha256" and committed["circuits"].get(name, {}).get(key) != value
    ]
    differing += [
        key
        for key in ("format", "flags", "compiler", "circomlib", "sources")
        if committed[key] != fresh[key]
    ]
    if differing:
        raise CircuitNotReproduced(differing)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version(package: Path) -> str:
    """Return the version of an installed npm package."""
    version: str = json.loads((package / "package.json").read_text())["version"]
    return version


def main(arguments: list[str] | None = None) -> int:
    """Compile, or with ``--check`` compare; exit 0 done, 1 refused."""
    parser = argparse.ArgumentParser(description="Compile the circuits of BitHive.")
    parser.add_argument("--check", action="store_true", help="Compare with the committed output.")
    options = parser.parse_args(arguments)
    manifest = HERE / "build" / "manifest.json"
    try:
        if options.check:
            check(json.loads(manifest.read_text()))
        else:
            text = json.dumps(compile_circuits(HERE / "build"), indent=2, sort_keys=True)
            draft = manifest.with_suffix(".draft")
            draft.write_text(text + "\n")
            draft.replace(manifest)
    except (CompilerMissing, CircuitNotReproduced) as refusal:
        sys.stderr.write(f"{refusal.code}: {refusal}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
