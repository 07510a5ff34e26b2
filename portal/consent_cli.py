# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive consent``: grant, show, withdraw, receipts, the public log, and erasing a patient.

A steward works with the hospital's own folder in the home, a patient with the code on her paper,
and anybody verifies receipts and the log with the registry's public key. A withdrawal code is read
from standard input or typed unseen, never from the command line, where other users would see it.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from protocol.ids import GrantId, PatientId, SiteId

if TYPE_CHECKING:  # a command loads only what it needs
    from consent.versions import Version

app = typer.Typer(no_args_is_help=True, help="Patients' consent: grants, withdrawals, receipts.")

DEFAULT_HOME: Final = Path("bithive-home")
DEFAULT_DAYS: Final = 365
HomePath = Annotated[Path, typer.Option("--home", help="The run's folder.", file_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Site = Annotated[str, typer.Argument(help="The hospital.")]
Patient = Annotated[str, typer.Argument(help="The hospital's own number for the patient.")]
Grant = Annotated[str, typer.Argument(help="As printed on the receipt.")]
Key = Annotated[
    str | None,
    typer.Option(help="The registry's public key, 64 hexadecimal digits. [the home's]"),
]
words = Console(stderr=True)


@app.command(
    epilog="Example:  bithive consent grant north 4711 --purpose HMB --category US "
    "--until 2027-11-20"
)
def grant(
    site: Site,
    patient: Patient,
    *,
    purpose: Annotated[
        list[str], typer.Option(help="DUO code or shorthand, as the patient signed; repeatable.")
    ],
    category: Annotated[list[str], typer.Option(help="Kind of data, e.g. US; repeatable.")],
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Last day of use. [a year from today]"),
    ] = None,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Publish a patient's grant on the hospital's word; print the paper that she takes home."""
    from consent.receipts import receipt_json
    from portal.consents import Consents
    from portal.local_actor import this_user

    now = _now()
    last_day = now.date() + timedelta(days=DEFAULT_DAYS) if until is None else until.date()
    paper = Consents.of(home).grant(
        SiteId(site),
        PatientId(patient),
        purposes=purpose,
        categories=category,
        until=last_day,
        now=now,
        user=this_user(),
    )
    code = paper.code.secret.hex()
    found = {
        "grant": paper.grant,
        "withdrawal_code": code,
        "epoch": paper.receipt.epoch,
        "until": last_day.isoformat(),
        "receipt": json.loads(receipt_json(paper.receipt)),
    }
    _show(
        found,
        f"grant {paper.grant}\nwithdrawal code {code}\ncounts from epoch {paper.receipt.epoch}, "
        f"until {last_day.isoformat()}\nKeep this paper: who has the code can end the grant.",
        as_json,
    )


@app.command(epilog="Example:  bithive consent show north 4711 --home bithive-home")
def show(
    site: Site,
    patient: Patient,
    *,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show what a patient has granted, narrowed and withdrawn, as her hospital knows it."""
    from portal.consents import Consents

    versions = Consents.of(home).history(SiteId(site), PatientId(patient))
    if as_json:
        sys.stdout.write(json.dumps({"versions": [_version(one) for one in versions]}) + "\n")
        return
    if not versions:
        words.print("this hospital keeps no grant of such a patient", highlight=False)
        return
    table = Table("epoch", "time", "event", "grant", "for", "last day")
    for one in versions:
        line = _version(one)
        table.add_row(
            str(one.epoch),
            one.at[:16],
            one.event,
            one.grant,
            ", ".join(line["for"]),
            line["last_day"],
        )
    Console(width=max(Console().width, 160) if not sys.stdout.isatty() else None).print(table)


@app.command(
    epilog="Example:  bithive consent withdraw 0123456789abcdef0123 --home bithive-home  "
    "(then type the code, or send it on standard input)"
)
def withdraw(
    grant: Grant,
    *,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """End a grant by the code on its paper; rounds that start later do not use the data."""
    from consent.receipts import receipt_json
    from portal.consents import Consents

    consents = Consents.of(home)
    receipt = consents.withdraw(GrantId(grant), _code(), now=_now())
    if receipt is None:
        never = {"grant": grant, "state": "never-published"}
        _show(never, f"grant {grant} waited for its batch and will not be published", as_json)
        return
    sentence = f"grant {receipt.grant} ended with epoch {receipt.epoch} at {receipt.at}"
    if receipt.grant != grant:
        sentence += f", which had taken the place of {grant}"
    _show(json.loads(receipt_json(receipt)), sentence, as_json)


@app.command(
    epilog="Examples:  bithive consent receipt --site north 0123456789abcdef0123  |  "
    "bithive consent receipt --check receipt.json --key KEY"
)
def receipt(
    grant: Annotated[str | None, typer.Argument(help="As printed when it was granted.")] = None,
    *,
    site: Annotated[str | None, typer.Option(help="The hospital that keeps it.")] = None,
    check: Annotated[
        Path | None,
        typer.Option(dir_okay=False, exists=True, help="Verify this receipt instead."),
    ] = None,
    key: Key = None,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Print a grant's receipt, or verify one without asking anybody."""
    from consent.receipts import receipt_json
    from portal.consents import Consents, check_receipt

    if check is not None:
        if grant is not None or site is not None:
            raise typer.BadParameter("--check takes neither a grant nor --site")
        found = check_receipt(check.read_text(), _registry_key(key, home))
        _show(
            json.loads(receipt_json(found)) | {"signed": True},
            f"signed by {found.registry}: {found.label} of {found.grant}, epoch {found.epoch}",
            as_json,
        )
        return
    if grant is None or site is None:
        raise typer.BadParameter("give a grant and --site, or --check FILE")
    text = receipt_json(Consents.of(home).receipt(SiteId(site), GrantId(grant)))
    sys.stdout.write((json.dumps(json.loads(text)) if as_json else text) + "\n")


@app.command(epilog="Example:  bithive consent log --home bithive-home > registry.log")
def log(*, home: HomePath = DEFAULT_HOME) -> None:
    """Print the registry's public log, one epoch a line: what `verify --log` reads."""
    from portal.consents import Consents

    for line in Consents.of(home).log():
        sys.stdout.write(line.to_json() + "\n")


@app.command(
    epilog="Examples:  bithive consent verify --home bithive-home  |  "
    "bithive consent verify --log registry.log --key KEY"
)
def verify(
    *,
    log: Annotated[
        Path | None,
        typer.Option(dir_okay=False, exists=True, help="A saved log. [the home's own]"),
    ] = None,
    key: Key = None,
    every_root: Annotated[
        bool, typer.Option("--every-root", help="Check the root of every epoch; slower.")
    ] = False,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Rebuild the registry from its log and hold it against what the registry signed."""
    from portal.consents import Consents, check_log

    if log is None:
        lines = (line.to_json() for line in Consents.of(home).log())
        rebuilt = check_log(lines, _registry_key(key, home), every_root=every_root)
    else:
        with log.open() as file:
            rebuilt = check_log(iter(file), _registry_key(key, home), every_root=every_root)
    found = {
        "registry": rebuilt.registry,
        "epochs": rebuilt.epochs,
        "root": str(rebuilt.root),
        "head": rebuilt.head,
        "lanes": len(rebuilt.lanes),
        "grants": rebuilt.grants,
        "live": len(rebuilt.leaves),
        "live_proven": len(rebuilt.nullifiers),
    }
    _show(
        found,
        f"sound: {rebuilt.epochs} epochs, {rebuilt.grants} grants in {len(rebuilt.lanes)} lanes, "
        f"{len(rebuilt.leaves)} live; head {rebuilt.head}",
        as_json,
    )


@app.command(epilog="Example:  bithive consent erase north 4711 --home bithive-home")
def erase(
    site: Site,
    patient: Patient,
    *,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Withdraw all of a patient's grants and destroy what links them to her."""
    from portal.erasing import erase_in_home
    from portal.home import Home
    from portal.local_actor import this_user

    done = erase_in_home(Home(home), SiteId(site), PatientId(patient), user=this_user(), now=_now())
    grants = () if done.ending is None else done.ending.ids
    _show(
        {"grants": list(grants)} | done.as_json(),
        f"{len(grants)} grants withdrawn\n{done.text()}",
        as_json,
    )


def _version(version: Version) -> dict[str, Any]:
    from consent.purposes import names_of
    from protocol.units import EPOCH_DAY

    last_day = EPOCH_DAY + timedelta(days=version.terms.expiry - 1)
    return {
        "event": version.event,
        "grant": version.grant,
        "epoch": version.epoch,
        "at": version.at,
        "for": names_of(version.terms.grants),
        "last_day": last_day.isoformat(),
        "proven": version.receipt.proven,
    }


def _code() -> bytes:
    """Read a withdrawal code: unseen at a terminal, else a line of standard input."""
    if sys.stdin.isatty():
        text = typer.prompt("withdrawal code", hide_input=True)
    else:
        text = sys.stdin.readline()
    try:
        return bytes.fromhex(text.strip())
    except ValueError as error:
        raise typer.BadParameter("a withdrawal code is 32 hexadecimal digits") from error


def _registry_key(key: str | None, home: Path) -> bytes:
    from portal.consents import Consents

    if key is None:
        return Consents.of(home).registry_key
    try:
        return bytes.fromhex(key)
    except ValueError as error:
        raise typer.BadParameter("a key is 64 hexadecimal digits") from error


def _now() -> datetime:
    return datetime.now(UTC)


def _show(found: dict[str, Any], sentence: str, as_json: bool) -> None:  # noqa: FBT001  # the option's value
    sys.stdout.write((json.dumps(found) if as_json else sentence) + "\n")
