# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive site account``: who may sign in to a hospital's page, and as what.

The accounts are the site's own, in its folder; no operator of the federation sees or makes them.
A password is typed unseen or comes by a pipe; on the command line others could see it.
"""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from identity.accounts import Accounts
    from identity.roles import Actor

app = typer.Typer(no_args_is_help=True, help="Who may sign in to this hospital's page.")

DEFAULT_HOME: Final = Path("bithive-home")
ROLES: Final = ("officer", "steward")
CODES: Final = "     Exit code: 0 done, 1 refused with a code, 2 misused."
Name = Annotated[str, typer.Argument(help="The site's name.")]
User = Annotated[str, typer.Argument(help="The account's name.")]
HomePath = Annotated[
    Path, typer.Option("--home", help="The run's folder.", file_okay=False, show_default=True)
]
FromPipe = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password's one line from a pipe.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(
    "add", epilog="Example:  bithive site account add north h.meier --role officer" + CODES
)
def add(
    name: Name,
    user: User,
    *,
    role: Annotated[list[str], typer.Option(help="officer or steward; repeatable.")],
    password_stdin: FromPipe = False,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Make an account; its password has 15 characters at least."""
    from identity.roles import Role
    from protocol.ids import SiteId

    if not set(role) <= set(ROLES):
        raise typer.BadParameter(f"one of {', '.join(ROLES)}", param_hint="--role")
    with _accounts(home, name) as (accounts, actor):
        password = _password(piped=password_stdin)
        roles = frozenset(Role(one) for one in role)
        accounts.add(user, password, roles=roles, actor=actor, site=SiteId(name))
    _done({"site": name, "account": user, "roles": sorted(set(role))}, "made", as_json=as_json)


@app.command("list", epilog="Example:  bithive site account list north --json" + CODES)
def show(name: Name, *, home: HomePath = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show who may sign in, and who no longer may."""
    from protocol.ids import SiteId

    with _accounts(home, name) as (accounts, actor):
        people = accounts.people(actor, site=SiteId(name))
    found = [
        {"account": one.name, "roles": sorted(map(str, one.roles)), "removed": one.disabled}
        for one in people
    ]
    if as_json:
        sys.stdout.write(json.dumps({"site": name, "accounts": found}) + "\n")
        return
    out = Console()
    for one in people:
        state = "  [red]removed[/]" if one.disabled else ""
        roles = ", ".join(sorted(one.roles))
        out.print(f"{escape(one.name)}  {roles}{state}", highlight=False)
    if not people:
        out.print(f"nobody yet: `bithive site account add {escape(name)} USER --role officer`")


@app.command("remove", epilog="Example:  bithive site account remove north h.meier" + CODES)
def remove(
    name: Name, user: User, *, home: HomePath = DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """Let an account sign in no more; what it decided stays recorded, and its name taken."""
    with _accounts(home, name) as (accounts, actor):
        accounts.disable(user, actor=actor)
    _done({"site": name, "account": user}, "removed", as_json=as_json)


@app.command("reset", epilog="Example:  bithive site account reset north h.meier" + CODES)
def reset(
    name: Name,
    user: User,
    *,
    password_stdin: FromPipe = False,
    home: HomePath = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Give an account another password; its sessions end."""
    with _accounts(home, name) as (accounts, actor):
        accounts.reset_password(user, _password(piped=password_stdin), actor=actor)
    _done({"site": name, "account": user}, "reset", as_json=as_json)


@contextmanager
def _accounts(home: Path, name: str) -> Iterator[tuple[Accounts, Actor]]:
    """Give a site's accounts, and whoever runs this command."""
    from portal.local_actor import at_site, this_user
    from portal.officer.desk import site_folder
    from portal.officer.signin import site_accounts
    from portal.own_log import own_record
    from protocol.ids import SiteId

    folder = site_folder(home, SiteId(name))
    accounts = site_accounts(folder, own_record(folder))
    try:
        yield accounts, at_site(folder, SiteId(name), this_user())
    finally:
        accounts.close()


def _password(*, piped: bool) -> str:
    if piped:
        return sys.stdin.readline().rstrip("\r\n")
    if not _at_terminal():
        raise typer.BadParameter(
            "there is no terminal to type it at", param_hint="--password-stdin"
        )
    typed = getpass.getpass("Password: ")
    if typed != getpass.getpass("Again: "):
        raise typer.BadParameter("the two are not the same", param_hint="Password")
    return typed


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _done(facts: dict[str, Any], done: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(facts | {"done": done}) + "\n")
    else:
        Console().print(f"account {escape(facts['account'])}: {done}", highlight=False)
