# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive features``: pack a researcher's own feature step, and try it where it will run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    no_args_is_help=True,
    help="A study's own code, which hospitals run on one patient at a time in a sandbox.",
)

CODES: Final = "     Exit code: 0 done, 1 refused with a code, 2 misused."
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
words = Console(stderr=True)


@app.command(epilog="Example:  bithive features pack steps/ --out blocks.zip" + CODES)
def pack(
    folder: Annotated[
        Path, typer.Argument(help="With the Python files.", exists=True, file_okay=False)
    ],
    *,
    out: Annotated[Path, typer.Option(help="The new bundle.", dir_okay=False)],
    as_json: AsJson = False,
) -> None:
    """Pack sources into a bundle that reads alike everywhere, and print its hash."""
    from hashlib import sha256

    from fl_client.job_code import files_of
    from portal.features import pack_folder
    from storage.files import write_whole

    bundle = pack_folder(folder)
    write_whole(out, bundle)
    found = {
        "path": str(out),
        "sha256": sha256(bundle).hexdigest(),
        "files": list(files_of(bundle)),
    }
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    _say(f"{out}: {len(found['files'])} files, {len(bundle)} bytes, SHA-256 {found['sha256']}")


@app.command(
    epilog="Example:  bithive features check blocks.zip --function steps:halve --data phantom"
    + CODES
)
def check(
    bundle: Annotated[Path, typer.Argument(help="The bundle.", exists=True, dir_okay=False)],
    *,
    function: Annotated[str, typer.Option(help="module:function, from bytes to bytes.")],
    data: Annotated[
        str, typer.Option(help="phantom (synthetic patients, made here), wisconsin, or a folder.")
    ] = "phantom",
    patients: Annotated[int, typer.Option(min=1, max=100, help="How many are tried.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Run a step on some patients in the sandbox that hospitals use; print what it makes."""
    from portal.features import read_bundle, try_step

    content = read_bundle(bundle)
    trial = try_step(content, function, _records(data, patients))
    found = trial.as_json()
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    shape = " x ".join(map(str, trial.shape))
    _say(f"{found['patients']} patients became {sum(trial.records)} records of {shape}")
    _say(
        f"{found['seconds_per_patient']:.2f} s a patient, the slowest "
        f"{found['seconds_slowest']:.2f} s: terms give each {found['seconds_needed']} s"
    )


def _records(data: str, patients: int) -> list[Any]:
    """Return the records of some patients of a source."""
    import tempfile

    from records.sources import open_source

    with tempfile.TemporaryDirectory() as folder:
        study, loader = open_source(
            data, home=Path(folder), seed=1, sites=3, patients_per_site=max(10, patients)
        )
        everyone = [one for _, group in sorted(study.sites.items()) for one in group]
        return [loader.load([one]).x for one in everyone[:patients]]


def _say(line: str) -> None:
    words.print(escape(line), highlight=False, soft_wrap=True)
