"""Run npm's ``solc``, the Solidity compiler as WebAssembly, as a program of its own.

The compiler is GPL-3.0 and is only run, never linked. It is installed from a lock file in the
folder of those who compile (``npm ci --ignore-scripts``), and reads imports from there alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from protocol.errors import ConfigurationError

SECONDS_MAX: Final = 300

# Reads standard JSON from standard input; names the compiler in what it writes. An import is a
# file under one of the packages that the caller names.
_PROGRAM: Final = """
const fs = require("fs");
const path = require("path");
const solc = require("solc");
const packages = process.argv.slice(1);
const find = (name) => {
  const known = packages.some((one) => name.startsWith(one + "/")) && !name.includes("..");
  if (!known) return { error: "not imported: " + name };
  return { contents: fs.readFileSync(path.join("node_modules", name), "utf8") };
};
const output = JSON.parse(solc.compile(fs.readFileSync(0, "utf8"), { import: find }));
process.stdout.write(JSON.stringify({ version: solc.version(), ...output }));
"""


class SolidityCompilerMissing(ConfigurationError):
    """Node, or an npm package that contracts are compiled with, is not installed."""

    code = "solidity-compiler-missing"

    def __init__(self, what: str, folder: Path) -> None:
        self.what = what
        self.folder = folder
        super().__init__(
            f"{what} is missing; contracts are compiled with Node 20 or newer after "
            f"`npm ci --ignore-scripts` in {folder.parent.name}/{folder.name}"
        )


def run_solc(
    asked: dict[str, Any], folder: Path, *, packages: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Return what the compiler answers, with its ``version``; None if it broke off.

    Args:
        asked: The compiler's standard JSON.
        folder: Where ``node_modules`` is.
        packages: From which packages there sources may be imported.

    Raises:
        SolidityCompilerMissing: Node, the compiler or a package is not there.
    """
    node = shutil.which("node")
    if node is None:
        raise SolidityCompilerMissing("node", folder)
    for package in ("solc", *packages):
        if not (folder / "node_modules" / package).is_dir():
            raise SolidityCompilerMissing(f"npm package {package}", folder)
    ended = subprocess.run(  # noqa: S603 - the program is pinned by hash in package-lock.json
        [node, "-e", _PROGRAM, *packages],
        input=json.dumps(asked),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    if ended.returncode != 0:
        return None
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer
