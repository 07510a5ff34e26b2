"""Write a result with what decided it: configuration, commit, versions, seconds, machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from storage.files import write_whole

RESULTS: Final = Path(__file__).parent / "results"
ROOT: Final = Path(__file__).parent.parent
LIBRARIES: Final = ("torch", "flwr", "tenseal", "opacus", "monai", "py_ecc")


def record(name: str, config: Any, rows: Any, *, seconds: float) -> Path:
    """Write ``experiments/results/NAME.json`` and return its path."""
    path = RESULTS / f"{name}.json"
    result = {
        "experiment": name,
        "config": asdict(config),
        "rows": rows,
        "seconds": round(seconds, 1),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {library: version(library) for library in LIBRARIES},
    }
    write_whole(path, (json.dumps(result, indent=2) + "\n").encode())
    return path


def _git(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603  # git with our own arguments
        ["git", *arguments],  # noqa: S607  # whichever git the user has
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
