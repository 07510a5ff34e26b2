# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive site grants | receipts | withdraw | erase``: consents of a hospital, as files."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

if TYPE_CHECKING:  # a command loads only what it needs
    from identity.roles import Permission
    from portal.site_grants import GrantDesk

DEFAULT_HOME: Final = Path("bithive-home")
CODES: Final = "     Exit code: 0 done, 1 refused with a code, 2 misused."
Name = Annotated[str, typer.Argument(help="The site's name.")]
HomePath = Annotated[
    Path, typer.Option("--home", help="The home with the site's folder.", file_okay=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``bithive site``."""
    app.command(
        "grants",
        epilog="Example:  bithive site grants north --study for-sites --patients granted.csv"
        + CODES,
    )(grants)
    app.command(
        "receipts", epilog="Example:  bithive site receipts north north.receipts.json" + CODES
    )(receipts)
    app.command(
        "withdraw",
        epilog="Examples:  bithive site withdraw north  |  bithive site withdraw north"
        " --patient 4711  |  bithive site withdraw north --again" + CODES,
    )(withdraw)
    app.command(
        "erase",
        epilog="Examples:  bithive site erase north  |  bithive site erase north --patient 4711"
        " --yes --json" + CODES,
    )(erase)


def grants(
    name: Name,
    *,
    study: Annotated[
        Path,
        typer.Option(help="What the server handed out: the folder with terms.json.", exists=True),
    ],
    patients: Annotated[
        Path,
        typer.Option(
            help="Who agreed on paper, one a line: NUMBER, or NUMBER,PURPOSES,UNTIL.",
            dir_okay=False,
            exists=True,
        ),
    ],
    anew: Annotated[
        Path | None,
        typer.Option(
            help="Likewise: who withdrew here and has agreed on paper again since.",
            dir_okay=False,
            exists=True,
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="The file for the server. [NAME.grants.json]")
    ] = None,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Ask for the grants of patients who agreed on paper: one file, in which nobody is named."""
    import secrets

    from consent.purposes import names_of
    from identity.requests import read_bounded
    from identity.roles import Permission
    from portal.patient_list import BYTES_MAX, read_list
    from portal.site_setup import read_study
    from storage.files import write_whole

    desk = _desk_for(home, name, Permission.PUBLISH_GRANT)
    wishes = read_list(read_bounded(patients, limit=BYTES_MAX))
    again = () if anew is None else read_list(read_bounded(anew, limit=BYTES_MAX))
    terms, _ = read_study(study)
    asking = desk.ask(terms, wishes, anew=again, entropy=secrets.token_bytes)
    uses = names_of(terms.consent.required)
    left = (
        f"{asking.withdrew} patients of the list withdrew here and are left out; name with --anew "
        "who has agreed on paper again.\n"
        if asking.withdrew
        else ""
    )
    file = to or Path(f"{name}.grants.json")
    write_whole(file, asking.content)
    _print(
        {
            "site": name,
            "file": str(file),
            "grants": asking.waiting,
            "new": asking.new,
            "already": asking.already,
            "withdrew": asking.withdrew,
            "study": terms.study,
            "uses": uses,
        },
        f"file: {file}\n{asking.waiting} grants wait for the server's receipts, {asking.new} of "
        f"them new; {asking.already} patients of the list have theirs.\n{left}Study {terms.study} "
        f"is granted {', '.join(uses)}, where the list names no purposes: compare it with what "
        "was signed on paper.\nSend the file to the "
        "server, and take in what comes back with `bithive site receipts`.",
        as_json=as_json,
    )


def receipts(
    name: Name,
    file: Annotated[
        Path, typer.Argument(help="As the server sent it.", dir_okay=False, exists=True)
    ],
    *,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Check the server's receipts and keep what they are for: now the patients can take part."""
    from identity.requests import read_bounded
    from identity.roles import Permission
    from portal.consent_files import ReceiptsFile

    desk = _desk_for(home, name, Permission.PUBLISH_GRANT)
    taken = desk.take(read_bounded(file, limit=ReceiptsFile.bytes_max))
    papers = None if taken.papers is None else str(taken.papers)
    sentence = (
        f"{taken.added} grants can be used now, {taken.known} were known, {taken.ended} ended; "
        f"{taken.waiting} still wait for a receipt."
    )
    if papers is not None:
        sentence += (
            f"\npapers: {papers}\nGive each patient hers, the grant and the code that ends it, "
            "then remove the file."
        )
    _print(
        {
            "site": name,
            "added": taken.added,
            "known": taken.known,
            "ended": taken.ended,
            "waiting": taken.waiting,
            "papers": papers,
        },
        sentence,
        as_json=as_json,
    )


def withdraw(
    name: Name,
    *,
    patient: Annotated[
        str | None,
        typer.Option(
            help="The hospital's number; asked for if it is not given.", show_default=False
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Nobody new: write what is not confirmed yet.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option(help="The file for the server. [NAME.withdrawals.json]")
    ] = None,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """End a patient's grants: she is left out from now on, before the server has heard of it."""
    from fl_client.feature_store import forget
    from identity.roles import Permission
    from protocol.ids import PatientId
    from storage.files import write_whole

    if again and patient is not None:
        raise typer.BadParameter("give one of the two", param_hint="--patient/--again")
    desk = _desk_for(home, name, Permission.END_GRANT)
    number = None
    if not again:
        asked = typer.prompt("Patient number", err=True) if patient is None else patient
        number = PatientId(asked.strip())
    ending = desk.end(number, now=datetime.now(UTC))
    file = to or Path(f"{name}.withdrawals.json")
    write_whole(file, ending.content)
    if number is not None:
        forget(desk.folder, number)
    _print(
        {"site": name, "file": str(file), "grants": ending.grants},
        f"file: {file}\nSend it to the server, and take in what comes back with `bithive site "
        "receipts`. Whoever withdrew is left out already.",
        as_json=as_json,
    )


def erase(
    name: Name,
    *,
    patient: Annotated[
        str | None,
        typer.Option(
            help="The hospital's number; asked for if it is not given.", show_default=False
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")] = False,
    server: Annotated[
        Path | None,
        typer.Option(
            help="The server's folder, as mounted here, for whom the steward enrolled.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="The file for the server. [NAME.withdrawals.json]")
    ] = None,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """End a patient's grants and destroy all that links her to them; it cannot be undone."""
    from portal.erasing import erase_at_site
    from portal.local_actor import this_user
    from protocol.ids import PatientId, SiteId
    from storage.files import write_whole

    desk = _desk(home, name)
    asked = typer.prompt("Patient number", err=True) if patient is None else patient
    if not yes:
        typer.confirm("Destroy what opens her grants, for good?", abort=True, err=True)
    done = erase_at_site(
        desk,
        PatientId(asked.strip()),
        home=home,
        server=server,
        user=this_user(),
        now=datetime.now(UTC),
    )
    file, sentence = None, done.text()
    if done.ending is not None:
        file = to or Path(f"{name}.withdrawals.json")
        write_whole(file, done.ending.content)
        sentence += (
            f"\nfile: {file}\nSend it to the server, and take in what comes back with `bithive "
            "site receipts`. She is left out already."
        )
    found = {"site": SiteId(name), "file": None if file is None else str(file)}
    _print(found | {"grants": done.ended} | done.as_json(), sentence, as_json=as_json)


def _desk(home: Path, name: str) -> GrantDesk:
    from portal.site_grants import GrantDesk
    from portal.site_settings import site_folder
    from protocol.ids import SiteId

    return GrantDesk.open(site_folder(home, name), SiteId(name))


def _desk_for(home: Path, name: str, permission: Permission) -> GrantDesk:
    """Return the site's desk to who may do this there; the site's log keeps a refusal."""
    from identity.roles import About, check
    from portal.local_actor import at_site, this_user
    from portal.own_log import own_record

    desk = _desk(home, name)
    actor = at_site(desk.folder, desk.own.site, this_user())
    check(actor, permission, about=About(site=desk.own.site), audit=own_record(desk.folder))
    return desk


def _print(found: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        Console().print(sentence, highlight=False, soft_wrap=True, markup=False)
