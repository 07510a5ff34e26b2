# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive site jobs | approve | refuse | ...``: what officer and operator say to their agent.

Jobs are decided on in the site's folder, whether its agent runs or not. Pausing, draining and
leaving are said to the running agent over its operator's socket. Whoever runs a command is the
user that the operating system signed in, with the roles that the site gives her
(``portal.local_actor``); what she may not do is refused, and recorded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape

from portal.account_cli import app as accounts

if TYPE_CHECKING:  # a command loads only what it needs
    from identity.roles import Actor
    from portal.officer.desk import OfficerDesk

DEFAULT_HOME: Final = Path("bithive-home")
CODES: Final = "     Exit code: 0 done, 1 refused with a code, 2 misused."
Name = Annotated[str, typer.Argument(help="The site's name.")]
Job = Annotated[str, typer.Argument(help="The job's hash, or its first eight digits or more.")]
HomePath = Annotated[
    Path, typer.Option("--home", help="The run's folder.", file_okay=False, show_default=True)
]
Officer = Annotated[
    str, typer.Option(help="Who decided, where somebody else types it in. [the system's user]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Reason = Annotated[str, typer.Option(help="Why; it is recorded.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``bithive site``."""
    app.add_typer(accounts, name="account")
    app.command(
        "jobs", epilog="Examples:  bithive site jobs north  |  bithive site jobs north --json"
    )(jobs)
    app.command(
        "approve",
        epilog="Example:  bithive site approve north 3f2a91c0 --officer 'h.meier'" + CODES,
    )(approve)
    app.command(
        "refuse",
        epilog="Example:  bithive site refuse north 3f2a91c0 --officer 'h.meier'"
        " --reason 'the purpose is too wide'" + CODES,
    )(refuse)
    app.command("decisions", epilog="Example:  bithive site decisions north" + CODES)(decisions)
    app.command(
        "allow-code",
        epilog="Examples:  bithive site allow-code north --officer 'h.meier'  |"
        "  bithive site allow-code north --officer 'h.meier' --forbid" + CODES,
    )(allow_code)
    app.command(
        "code",
        epilog="Examples:  bithive site code north 3f2a91c0  |  "
        "bithive site code north 3f2a91c0 --out code.zip" + CODES,
    )(code)
    app.command("officer", epilog="Example:  bithive site officer north --port 8090" + CODES)(page)
    for order, words in ORDERS.items():
        app.command(order, help=words, epilog=f"Example:  bithive site {order} north" + CODES)(
            _ordering(order)
        )
    app.command(
        "status", epilog="Examples:  bithive site status north  |  bithive site status north --json"
    )(status)
    app.command("metrics", epilog="Example:  bithive site metrics north" + CODES)(metrics)


ORDERS: Final = {
    "pause": "Answer nothing from now on but that this site is paused.",
    "resume": "Take part again.",
    "drain": "Finish the round under way, then pause.",
    "leave": "Finish the round under way, then answer only that this site has left.",
}


def jobs(name: Name, *, home: HomePath = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show the jobs that were offered to this site, and how each stands."""
    found = _desk(home, name).jobs(_user(home, name))
    if as_json:
        sys.stdout.write(json.dumps({"site": name, "jobs": found}) + "\n")
        return
    out = Console()
    for one in found:
        _show(out, one)
    if not found:
        out.print(
            "no job was offered here yet; a study offers itself once its operator has started it "
            "(`bithive study start`) and this site's node and agent run",
            highlight=False,
            soft_wrap=True,
        )


def approve(
    name: Name,
    job: Job,
    *,
    officer: Officer = "",
    reason: Reason = "",
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Approve a job; the running agent serves it from its next frame on."""
    desk = _desk(home, name)
    _decided(desk.approve(job, _user(home, name, officer), reason), as_json=as_json)


def refuse(
    name: Name,
    job: Job,
    *,
    officer: Officer = "",
    reason: Reason,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Refuse a job, or revoke its approval; the reason is told to whoever offered it."""
    desk = _desk(home, name)
    _decided(desk.refuse(job, _user(home, name, officer), reason), as_json=as_json)


def decisions(name: Name, *, home: HomePath = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show all that officers decided here, after checking that nothing of it was changed."""
    desk = _desk(home, name)
    found, head = desk.decisions(_user(home, name)), desk.checkpoint()
    if as_json:
        shown = {"site": name, "decisions": found, "checkpoint": head}
        sys.stdout.write(json.dumps(shown) + "\n")
        return
    out = Console()
    for one in found:
        line = (
            f"{one['number']}  {one['at']}  {one['kind']}  {one['subject'][:16]}  by {one['who']}"
        )
        why = f": {one['reason']}" if one["reason"] else ""
        out.print(escape(line + why), highlight=False, soft_wrap=True)
    out.print(f"[green]sound[/]: {len(found)} decisions, under {head}", soft_wrap=True)


def code(
    name: Name,
    job: Job,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Write the zip here instead of printing its sources.")
    ] = None,
    home: HomePath = DEFAULT_HOME,
) -> None:
    """Read the code that a job brings along, before deciding on it."""
    from fl_client.job_code import files_of
    from storage.files import write_whole

    bundle = _desk(home, name).code(job, _user(home, name))
    if out is not None:
        write_whole(out, bundle)
        Console(stderr=True).print(f"{escape(str(out))}: {len(bundle)} bytes", highlight=False)
        return
    for path, text in files_of(bundle).items():
        sys.stdout.write(f"# {path}\n{text.decode()}\n")


def allow_code(
    name: Name,
    *,
    officer: Officer = "",
    reason: Reason = "",
    forbid: Annotated[bool, typer.Option("--forbid", help="Take the right away again.")] = False,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Let jobs that carry Python be approved; by default none can."""
    book = _desk(home, name).book
    made = book.allow_code(_user(home, name, officer), reason=reason, allowed=not forbid)
    _decided(made, as_json=as_json)


def page(name: Name, *, port: Port = 8090, home: HomePath = DEFAULT_HOME) -> None:
    """Serve the officer's page on this machine, until interrupted."""
    from portal.officer.server import serve
    from portal.officer.signin import Sessions, site_accounts

    desk = _desk(home, name)
    words = Console(stderr=True)
    words.print(f"the officer's page: http://127.0.0.1:{port}/", highlight=False)
    words.print(f"who may sign in: `bithive site account list {escape(name)}`", highlight=False)
    accounts = site_accounts(desk.folder, desk.book.decisions.log.append)
    try:
        serve(desk, Sessions(accounts, desk.site, desk.clock), port=port)
    finally:
        accounts.close()


def status(name: Name, *, home: HomePath = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show how this site's running agent is."""
    found = _desk(home, name).watched("status", _user(home, name))
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    out = Console()
    ready = "[green]ready[/]" if found["ready"] else "[yellow]not ready[/]"
    out.print(f"{escape(name)}: {ready}, {found['state']}", highlight=False)
    for study in found["studies"]:
        served = "served" if study["served"] else f"not served ({study['error'] or 'not yet'})"
        rounds = f"round {study['last_round']} of {study['rounds']} answered"
        out.print(f"{study['study']}: {served}, {rounds}", highlight=False)
    out.print(f"jobs that wait for an officer: {found['jobs_pending']}", highlight=False)
    if found["last_error"]:
        out.print(
            f"last refusal: {found['last_error']} (docs/errors.md: why, and the way out)",
            highlight=False,
        )
    low = " [red](low)[/]" if found["disk_low"] else ""
    out.print(f"free on the disk: {found['disk_free_bytes'] / 2**30:.1f} GiB{low}", highlight=False)
    ahead = found["clock_ahead_seconds"]
    if ahead is not None:
        out.print(f"this clock is {ahead:+.0f} s from the server's", highlight=False)


def metrics(name: Name, *, home: HomePath = DEFAULT_HOME) -> None:
    """Print the running agent's metrics in Prometheus' text format."""
    found = _desk(home, name).watched("metrics", _user(home, name))
    sys.stdout.write(str(found["text"]))


def _ordering(order: str) -> Any:
    def say(
        name: Name, *, reason: Reason = "", home: HomePath = DEFAULT_HOME, as_json: AsJson = False
    ) -> None:
        from fl_client.orders import ordered
        from portal.site_control import ask_agent
        from protocol.ids import SiteId

        found = ask_agent(home, SiteId(name), order, ordered(_user(home, name), reason))
        if as_json:
            sys.stdout.write(json.dumps(found) + "\n")
        else:
            Console().print(f"{escape(name)}: {found['state']}", highlight=False)

    return say


def _desk(home: Path, name: str) -> OfficerDesk:
    from portal.officer.desk import OfficerDesk, site_folder
    from protocol.ids import SiteId

    return OfficerDesk(site_folder(home, SiteId(name)), SiteId(name))


def _user(home: Path, name: str, officer: str = "") -> Actor:
    """Return who runs this command; ``officer`` is for whom, where she typed another's decision."""
    from dataclasses import replace

    from portal.local_actor import at_site, this_user
    from portal.officer.desk import site_folder
    from protocol.ids import SiteId

    user = this_user()
    actor = at_site(site_folder(home, SiteId(name)), SiteId(name), user)
    said = " ".join(officer.split())
    return replace(actor, name=f"{said}, typed by {user}") if said not in {"", user} else actor


def _decided(decision: Any, *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        sys.stdout.write(json.dumps(asdict(decision)) + "\n")
        return
    Console().print(
        f"{decision.kind}: {decision.subject[:16]} by {escape(decision.who)}, decision "
        f"{decision.number} of this site",
        highlight=False,
    )


def _show(out: Console, job: dict[str, Any]) -> None:
    colour = {"approved": "green", "pending": "yellow"}.get(job["state"], "red")
    purposes = ", ".join(f"{one['name']} ({one['code']})" for one in job["purposes"])
    hospitals = f"{len(job['hospitals'])} hospitals"
    training = f"{job['model']}, {job['algorithm']}, {job['rounds']} rounds, {hospitals}"
    known = "" if job["server_known"] else ", not approved here before"
    lines = [
        f"[bold]{job['job'][:16]}[/]  [{colour}]{job['state']}[/]  {escape(job['title'])}",
        f"  study      {job['study']}, offered {job['offered_at']}, until {job['expires']}",
        f"  data       {', '.join(job['datasets'])}: {', '.join(job['data'])}",
        f"  purpose    {purposes}",
        f"  asks       {job['asked_text']}",
        f"  cap leaves {job['left_text']}"
        + ("  [red]too little: it cannot be approved[/]" if job["over_budget"] else ""),
        f"  pays       {job['price_text']}",
        f"  code       {job['code_text']}",
        f"  training   {training}",
        f"  asked by   {escape(job['researcher'])}, key {job['researcher_key']}",
        f"  server     key {job['server_key']}{known}",
    ]
    if job["decision"] is not None:
        made = job["decision"]
        why = f": {escape(made['reason'])}" if made["reason"] else ""
        lines.append(f"  decided    {made['kind']} by {escape(made['who'])}, {made['at']}{why}")
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True)
    out.print()
