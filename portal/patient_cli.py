# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive patient``: serve the patient's page, and what a hospital's steward does beside it.

The steward identifies a person and invites her; the code that is printed goes to her on paper. She
enters it on the page. The steward signs for her, or for all who wait, and fetches what opens the
leaves of those who granted. Server and steward have a home each (``portal.patient.homes``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

if TYPE_CHECKING:  # a command loads only what it needs
    from portal.patient.steward import Steward

app = typer.Typer(no_args_is_help=True, help="The patient's page, and the steward beside it.")

DEFAULT_HOME: Final = Path("bithive-home")
DEFAULT_PORT: Final = 8470
HomePath = Annotated[
    Path, typer.Option("--home", help="The run's folder.", file_okay=False, show_default=True)
]
StewardPath = Annotated[
    Path, typer.Option("--home", help="The steward's folder.", file_okay=False, show_default=True)
]
ServerPath = Annotated[
    Path | None,
    typer.Option("--server", help="The server's folder, if another than --home.", file_okay=False),
]
SiteName = Annotated[str, typer.Option("--site", help="The hospital whose steward this is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
words = Console(stderr=True)


@app.command(epilog="Example:  bithive patient serve --home bithive-home --port 8470")
def serve(
    *,
    home: HomePath = DEFAULT_HOME,
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = DEFAULT_PORT,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Browsers need https for any but this machine's."),
    ] = "127.0.0.1",
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="Address or network of a proxy in front, whose X-Forwarded-For is believed."
        ),
    ] = None,
    batch_minutes: Annotated[
        int,
        typer.Option(
            "--batch-minutes",
            min=0,
            max=24 * 60,
            help="How long grants are gathered before they are published together, in random "
            "order; 0 publishes each at once, and its time shows.",
        ),
    ] = 60,
) -> None:
    """Serve the patient's page until interrupted, and publish grants in batches."""
    from datetime import timedelta

    from portal.home import Home
    from portal.patient.homes import others_in
    from portal.patient.limits import Limits, read_proxies
    from portal.patient.server import serve as serve_page

    limits = Limits(proxies=read_proxies(proxy or []))
    if others := others_in(Home(home)):
        words.print(
            f"[yellow]{home} also holds {', '.join(others)}[/]: a demonstration may, a server must "
            "not; see `bithive patient part`",
            highlight=False,
            soft_wrap=True,
        )
    words.print(f"the patient's page: http://{host}:{port}/", highlight=False)
    batch = timedelta(minutes=batch_minutes)
    serve_page(home, host=host, port=port, limits=limits, batch=batch)


@app.command(
    epilog="Examples:  bithive patient invite 4711 --site north  |  "
    "bithive patient invite 4712 --carer-of child --until 2031-05-04 --site north"
)
def invite(
    patient: Annotated[str, typer.Argument(help="The hospital's own number for the person.")],
    *,
    site: SiteName,
    proofing: Annotated[
        str, typer.Option(help="in-person, electronic-id or known-patient: how she was identified.")
    ] = "in-person",
    carer_of: Annotated[
        str | None, typer.Option("--carer-of", help="The code is for a carer: child or ward.")
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until",
            formats=["%Y-%m-%d"],
            help="With --carer-of: the first day on which the patient decides alone.",
        ),
    ] = None,
    home: StewardPath = DEFAULT_HOME,
    server: ServerPath = None,
    as_json: AsJson = False,
) -> None:
    """Give an identified person a one-time code, to be handed to her on paper."""
    from consent.proofing import Proofing
    from portal.patient.sealing import Relation, Ward
    from portal.patient.server import utc_now
    from protocol.ids import PatientId

    how = next((one for one in Proofing if one.value == proofing), None)
    if how is None:
        known = ", ".join(one.value for one in Proofing)
        raise typer.BadParameter(f"use one of {known}", param_hint="--proofing")
    if (carer_of is None) != (until is None):
        raise typer.BadParameter("give both --carer-of and --until", param_hint="--carer-of")
    ward = None
    if carer_of is not None and until is not None:
        if carer_of not in list(Relation):
            raise typer.BadParameter("use child or ward", param_hint="--carer-of")
        ward = Ward(Relation(carer_of), until.date())
    with _steward(home, server, site) as steward:
        code = steward.invite(PatientId(patient), how, now=utc_now(), ward=ward)
    _show({"code": code}, code, as_json)


@app.command(epilog="Example:  bithive patient waiting --site north --home bithive-home")
def waiting(
    *,
    site: SiteName,
    home: StewardPath = DEFAULT_HOME,
    server: ServerPath = None,
    as_json: AsJson = False,
) -> None:
    """List who entered a code of this hospital and waits to be enrolled."""
    with _steward(home, server, site) as steward:
        found = [{"code": one.code, "commitment": str(one.commitment)} for one in steward.waiting()]
    lines = "\n".join(f"{one['code']}  {one['commitment']}" for one in found)
    _show({"waiting": found}, lines or "nobody waits", as_json)


@app.command(
    epilog="Examples:  bithive patient enrol 7K2M-9QXA-4TRC-W8HD-3NFB --site north  |  "
    "bithive patient enrol --all --site north"
)
def enrol(
    code: Annotated[str | None, typer.Argument(help="As given out.")] = None,
    commitment: Annotated[
        str | None, typer.Argument(help="To insist on this one, as the page shows it.")
    ] = None,
    *,
    everybody: Annotated[
        bool, typer.Option("--all", help="Everybody who entered a code of this hospital.")
    ] = False,
    site: SiteName,
    home: StewardPath = DEFAULT_HOME,
    server: ServerPath = None,
    as_json: AsJson = False,
) -> None:
    """Sign, with the hospital's key, for the commitment of an identified person."""
    from portal.patient.server import utc_now

    if everybody == (code is not None):
        raise typer.BadParameter("give either a code or --all", param_hint="CODE")
    if commitment is not None and not (commitment.isascii() and commitment.isdigit()):
        raise typer.BadParameter("a commitment is a decimal number", param_hint="COMMITMENT")
    with _steward(home, server, site) as steward:
        codes = [one.code for one in steward.waiting()] if code is None else [code]
        expected = None if commitment is None else int(commitment)
        done = [steward.enrol(one, expected, now=utc_now()) for one in dict.fromkeys(codes)]
    found = {"enrolled": [str(one.commitment) for one in done]}
    _show(found, f"{len(done)} enrolled", as_json)


@app.command(epilog="Example:  bithive patient remove 4711 --site north --home north-home")
def remove(
    patient: Annotated[str, typer.Argument(help="The hospital's own number for the person.")],
    *,
    site: SiteName,
    home: StewardPath = DEFAULT_HOME,
    server: ServerPath = None,
    as_json: AsJson = False,
) -> None:
    """End a person's enrolment, her carer's too, before inviting her anew; grants stay."""
    from portal.patient.server import utc_now
    from protocol.ids import PatientId

    with _steward(home, server, site) as steward:
        ended = steward.remove(PatientId(patient), now=utc_now())
    _show({"removed": [str(one) for one in ended]}, f"{len(ended)} enrolments ended", as_json)


@app.command(
    epilog="Example:  bithive patient fetch --site north --home north-home --server server-home"
)
def fetch(
    *,
    site: SiteName,
    home: StewardPath = DEFAULT_HOME,
    server: ServerPath = None,
    as_json: AsJson = False,
) -> None:
    """Take the sealed openings of new grants into the hospital's own book."""
    with _steward(home, server, site) as steward:
        done = steward.fetch()
    for error in done.refused:
        words.print(f"[yellow]{error.code}[/]: {error}", highlight=False, soft_wrap=True)
    found = {"kept": done.kept, "refused": [error.code for error in done.refused]}
    _show(found, f"{done.kept} openings kept, {len(done.refused)} refused", as_json)


@app.command(epilog="Example:  bithive patient payout --site north --home bithive-home")
def payout(
    *,
    site: SiteName,
    allow_small_group: Annotated[
        bool,
        typer.Option("--allow-small-group", help="Even if fewer than 20 share it; they are told."),
    ] = False,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Split what the hospital's patients' pool holds over the consents that are live now."""
    from consent.claims import SmallGroups
    from portal.home import Home
    from portal.patient.payouts import open_payout
    from protocol.ids import SiteId
    from protocol.units import btt_text

    small = SmallGroups.WARN if allow_small_group else SmallGroups.REFUSE
    made = open_payout(Home(home), SiteId(site), small_groups=small)
    found = {"epoch": made.epoch, "shares": made.shares, "pool_base_units": str(made.pool)}
    _show(found, f"{btt_text(made.pool)} in {made.shares} shares, epoch {made.epoch}", as_json)


@app.command(epilog="Example:  bithive patient pay --home bithive-home")
def pay(*, home: HomePath = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Pay every claim that waits to the wallet that it names."""
    from portal.home import Home
    from portal.patient.payouts import pay_claims
    from portal.patient.server import utc_now

    done = pay_claims(Home(home), now=utc_now())
    found = {"paid": len(done.claims), "unpayable": done.unpayable}
    _show(found, f"{len(done.claims)} paid, {done.unpayable} name no wallet here", as_json)


@app.command(
    epilog="Example:  bithive patient part --site north --home bithive-home --to north-home"
)
def part(
    *,
    site: SiteName,
    to: Annotated[Path, typer.Option("--to", help="A new folder.", file_okay=False)],
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Give a hospital's files a home of their own, so that the server's names no patient."""
    from portal.home import Home
    from portal.patient.homes import part as move
    from protocol.ids import SiteId

    folder = move(Home(home), SiteId(site), to)
    _show({"home": str(to), "files": str(folder)}, f"{site} is in {folder} now", as_json)


@contextmanager
def _steward(home: Path, server: Path | None, name: str) -> Iterator[Steward]:
    """Open a hospital's desk, and close it."""
    from portal.local_actor import this_user
    from portal.patient.homes import open_steward
    from protocol.ids import SiteId

    steward = open_steward(home, SiteId(name), server=server, user=this_user())
    try:
        yield steward
    finally:
        steward.close()


def _show(found: dict[str, Any], sentence: str, as_json: bool) -> None:  # noqa: FBT001 - the option's value
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        Console().print(sentence, highlight=False, soft_wrap=True)
