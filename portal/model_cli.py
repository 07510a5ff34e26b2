# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive model``: give a run's model to others, and take theirs without running them."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from protocol.plain import plain

app = typer.Typer(no_args_is_help=True, help="Trained models: export, inspect and import.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
BundlePath = Annotated[
    Path, typer.Argument(help="A MONAI bundle: a folder, or a .zip.", exists=True)
]
NetworkOnly = Annotated[
    bool,
    typer.Option(
        "--network-only",
        help="Leave everything but network_def and the weights unread, instead of refusing it.",
    ),
]


class Format(StrEnum):
    """What a model can be exported as."""

    onnx = "onnx"
    bundle = "bundle"


@app.command(
    epilog="Examples:  bithive model export bithive-home --format onnx  |  "
    "bithive model export busi --format bundle --to lesions.zip --json"
)
def export(
    run: Annotated[Path, typer.Argument(help="The run's folder (its --home).", file_okay=False)],
    *,
    form: Annotated[
        Format, typer.Option("--format", help="onnx: one file; bundle: for MONAI.")
    ] = Format.onnx,
    to: Annotated[
        Path | None, typer.Option(help="New file or folder. [RUN.onnx, or the folder RUN-bundle]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run's model on its held-out patients and write it with its model card."""
    from portal.home import Home
    from portal.trained import export_run

    ending = ".onnx" if form is Format.onnx else "-bundle"
    target = to or Path(f"{run.resolve().name}{ending}")
    found = export_run(Home(run), target, form.value)
    interval = found["auc_interval"]
    sure = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    area = "unknown" if found["auc"] is None else f"{found['auc']:.3f}{sure}"
    _show(
        found,
        f"{found['path']}: {found['network']}, {found['parameters']} parameters after "
        f"{found['rounds']} rounds; held-out AUC {area}; {found['privacy']}",
        as_json=as_json,
    )


@app.command(epilog="Example:  bithive model inspect lesions.zip --json")
def inspect(
    bundle: BundlePath, *, network_only: NetworkOnly = False, as_json: AsJson = False
) -> None:
    """Say what a bundle holds, having run nothing of it."""
    from models.bundle_reader import read_bundle

    found = read_bundle(bundle, network_only=network_only).summary()
    _show(found, _sentence(found), as_json=as_json)


@app.command(
    "import",
    epilog="Example:  bithive model import downloaded.zip --to plain --network-only",
)
def import_(
    bundle: BundlePath,
    *,
    to: Annotated[Path, typer.Option(help="New folder, or .zip, for the plain bundle.")],
    network_only: NetworkOnly = False,
    as_json: AsJson = False,
) -> None:
    """Check a bundle and write it again from its checked arguments and numbers alone."""
    from portal.trained import import_bundle

    found = import_bundle(bundle, to, network_only=network_only)
    _show(found, f"{found['path']}: {_sentence(found)}", as_json=as_json)


def _sentence(found: dict[str, Any]) -> str:
    private = "can" if found["per_record"] else "cannot (it normalises over a batch)"
    ignored = f"; left unread: {', '.join(found['ignored'])}" if found["ignored"] else ""
    return (
        f"{found['network']}, {found['parameters']} parameters, {private} be trained privately; "
        f"weights {found['weights_sha256'][:16]}{ignored}"
    )


def _show(found: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    # Names of files in a bundle are its author's: nothing in them may act on the terminal.
    Console().print(escape(plain(sentence)), highlight=False, soft_wrap=True)
