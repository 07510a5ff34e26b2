# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive site setup``: what a hospital has and whom it trusts, once, before its agent starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from portal.site_setup import SetUp

DEFAULT_HOME: Final = Path("bithive-home")
DEFAULT_SEED: Final = 7
"""What other commands draw a demonstration's records with, too."""
words = Console(stderr=True)


def register(app: typer.Typer) -> None:
    """Add the command to ``bithive site``."""
    app.command(
        "setup",
        epilog="Examples:  bithive site setup north --records /srv/mammograms --study for-sites"
        ' --registry-fingerprint "6668 7aad ..."  |  bithive site setup north --records phantom'
        ' --sites 3 --study for-sites --registry-fingerprint "6668 7aad ..."'
        "     Exit code: 0 set up, 1 refused with a code, 2 misused.",
    )(setup)


def setup(
    name: Annotated[str, typer.Argument(help="The site's name.")],
    *,
    records: Annotated[
        str,
        typer.Option(help="The folder with the records; or phantom, wisconsin to try it out."),
    ],
    study: Annotated[
        Path,
        typer.Option(help="The folder for-sites that the server handed over.", file_okay=False),
    ],
    registry_fingerprint: Annotated[
        str, typer.Option(help="Of the registry's key, as the server's operator read it out.")
    ],
    home: Annotated[
        Path, typer.Option(help="Holds the site's folder, sites/NAME.", file_okay=False)
    ] = DEFAULT_HOME,
    positive: Annotated[
        str, typer.Option(help="The label told apart from all others, of images.")
    ] = "malignant",
    cap: Annotated[
        float | None,
        typer.Option(help="As data steward: open the data set's privacy ledger, at most so much."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of phantom and wisconsin.", min=0)] = DEFAULT_SEED,
    sites: Annotated[
        int,
        typer.Option(
            help="How many hospitals phantom and wisconsin are divided among.", min=1, max=100
        ),
    ] = 3,
    patients: Annotated[
        int, typer.Option(help="How many patients phantom has at each.", min=1, max=10_000)
    ] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check the records and the server's folder, and keep what the agent starts from."""
    from portal.display import Display
    from portal.site_settings import site_folder
    from portal.site_setup import Holding, set_up
    from protocol.ids import SiteId
    from records.own import Divided
    from records.sources import PACKAGED

    site, folder = SiteId(name), site_folder(home, name)
    display = Display(words, quiet=as_json)
    holding = Holding(
        records=records,
        positive=positive,
        divided=Divided(seed, sites) if records in PACKAGED else None,
        patients=patients,
    )
    with display.live():
        done = set_up(
            folder,
            site,
            holding,
            study,
            fingerprint=registry_fingerprint,
            progress=lambda at, of: display.tick("data", at, of, "reading records"),
        )
    if cap is not None:
        _open_ledger(folder, done, cap)
    _show(folder, done, as_json=as_json)


def _open_ledger(folder: Path, done: SetUp, cap: float) -> None:
    from portal.local_actor import at_site, this_user
    from portal.own_log import own_record
    from portal.stewarding import LedgerDesk

    site = done.own.site
    actor = at_site(folder, site, this_user())
    desk = LedgerDesk(site, folder / "budget.db", done.own.dataset, actor, own_record(folder))
    desk.open_dataset(cap, done.terms.privacy.delta)


def _show(folder: Path, done: SetUp, *, as_json: bool) -> None:
    from privacy.ledger_view import datasets

    own, ledger = done.own, folder / "budget.db"
    assert done.records is not None
    is_open = ledger.is_file() and own.dataset in datasets(ledger)
    if as_json:
        shown = {
            "site": own.site,
            "study": done.terms.study,
            "dataset": own.dataset,
            "modality": own.modality,
            "patients": len(done.records.patients),
            "registry": own.registry,
            "circuit": own.circuit,
            "ledger_open": is_open,
        }
        sys.stdout.write(json.dumps(shown) + "\n")
        return
    out = Console()
    out.print(
        f"{own.site} is set up for {escape(done.terms.title)}: {len(done.records.patients)} "
        f"patients of {own.dataset}, consent as {own.registry} has it",
        highlight=False,
        soft_wrap=True,
    )
    if not is_open:
        words.print(
            "no study may use the data set until the data steward gives it a cap:\n"
            f"  bithive site budget {own.site} --cap EPSILON --dataset {own.dataset} "
            f"--delta {done.terms.privacy.delta:g} --home {escape(str(folder.parent.parent))}",
            highlight=False,
            soft_wrap=True,
        )
