# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive ledger``: read the books of BTT, derive them again, and hand them to others.

Every command but ``burn`` and ``serve`` only reads. The books are a run's (``--home``) or on a
server (``--database``).
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from protocol.units import btt_text

if TYPE_CHECKING:
    from ledger.books import Ledger

app = typer.Typer(no_args_is_help=True, help="The books of BTT.")

DEFAULT_HOME: Final = Path("bithive-home")

HomePath = Annotated[
    Path, typer.Option("--home", help="The run's folder.", file_okay=False, show_default=True)
]
Database = Annotated[
    str | None,
    typer.Option(help="Books on a server instead: postgresql+psycopg://USER@HOST/DATABASE."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Preset = Annotated[str | None, typer.Option(help="A preset of tokenomics.yaml. [the one it names]")]
Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="A day, UTC.")]


@app.command("balance", epilog="Example:  bithive ledger balance wallet:")
def balance(
    prefix: Annotated[str, typer.Argument(help="Accounts that start so.")] = "",
    *,
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show balances."""
    balances = _books(home, database).balances(prefix)
    if as_json:
        _print({name: str(amount) for name, amount in balances.items()})
        return
    table = _table("account", "balance")
    for name, amount in balances.items():
        table.add_row(name, btt_text(amount))
    Console().print(table)


@app.command("verify", epilog="Example:  bithive ledger verify --home bithive-home")
def verify(
    *, home: HomePath = DEFAULT_HOME, database: Database = None, as_json: AsJson = False
) -> None:
    """Derive every balance from the journal again and compare."""
    report = _books(home, database).verify()
    if as_json:
        _print(
            {
                "accounts": report.accounts,
                "transfers": report.transfers,
                "supply_base_units": report.supply,
                "burned_base_units": report.burned,
                "head": report.head,
            }
        )
        return
    Console().print(
        f"[green]sound[/]: {report.transfers} transfers, supply {btt_text(report.supply)}",
        highlight=False,
        soft_wrap=True,
    )


@app.command("supply", epilog="Example:  bithive ledger supply --json")
def supply(
    *,
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
    preset: Preset = None,
    as_json: AsJson = False,
) -> None:
    """Show where the supply is, and what the schedules release by each year's end."""
    from ledger.chart import BURNED, kind_of
    from ledger.economy import load_economy, release_rows

    held: dict[str, int] = {}
    for account, amount in _books(home, database).balances().items():
        held[kind_of(account)] = held.get(kind_of(account), 0) + amount
    rows = release_rows(load_economy(preset=preset))
    total = sum(held.values())
    if as_json:
        _print(
            {
                "supply_base_units": str(total),
                "burned_base_units": str(held.get(BURNED, 0)),
                "by_kind": {kind: str(amount) for kind, amount in sorted(held.items())},
                "release": [
                    {
                        "year": row.year,
                        "released_base_units": str(row.released),
                        "released_basis_points": row.released_bp,
                        "forecast_basis_points": row.forecast_bp,
                        "difference_basis_points": row.difference_bp,
                    }
                    for row in rows
                ],
            }
        )
        return
    table = _table("held by", "amount")
    for kind, amount in sorted(held.items()):
        table.add_row(kind, btt_text(amount))
    table.add_row("together", btt_text(total))
    Console().print(table)
    table = _table("by the end of", "released at most", "forecast", "difference")
    for row in rows:
        shares = (row.released_bp, row.forecast_bp, row.difference_bp)
        table.add_row(str(row.year), *(_percent(share) for share in shares))
    Console().print(table)


@app.command(
    "statement", epilog="Example:  bithive ledger statement st-anna --since 2026-11-01 --json"
)
def statement(
    party: Annotated[str, typer.Argument(help="A party, as in wallet:PARTY, or one account.")],
    *,
    since: Day = None,
    until: Day = None,
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show what came and went on a party's accounts, from a day until before another."""
    from ledger.statements import statement as drawn

    found = drawn(_books(home, database), party, since=_utc(since), until=_utc(until))
    if as_json:
        _print(
            {
                "party": found.party,
                "accounts": list(found.accounts),
                "opening_base_units": str(found.opening),
                "received_base_units": str(found.received),
                "paid_base_units": str(found.paid),
                "closing_base_units": str(found.closing),
                "lines": [
                    {
                        "at": line.at.isoformat(),
                        "sequence": line.sequence,
                        "key": line.key,
                        "memo": line.memo,
                        "account": line.account,
                        "other": line.other,
                        "amount_base_units": str(line.amount),
                        "balance_base_units": str(line.balance),
                    }
                    for line in found.lines
                ],
            }
        )
        return
    table = _table("at", "account", "with", "amount", "balance")
    table.add_row("opening", "", "", "", btt_text(found.opening))
    for line in found.lines:
        at = line.at.isoformat(sep=" ", timespec="seconds")
        amounts = btt_text(line.amount), btt_text(line.balance)
        table.add_row(at, line.account, line.other, *amounts)
    Console().print(table)


@app.command("export", epilog="Example:  bithive ledger export --to books.beancount")
def export(
    *,
    to: Annotated[
        Path | None, typer.Option(help="A new file. [standard output]", dir_okay=False)
    ] = None,
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Verify the books and write them for beancount, whose bean-check derives them again."""
    from ledger.beancount import beancount_lines
    from storage.files import write_whole

    books = _books(home, database)
    report = books.verify()
    text = "\n".join(beancount_lines(books)) + "\n"
    if to is None:
        sys.stdout.write(text)
        return
    write_whole(to, text.encode())
    if as_json:
        _print({"file": str(to), "transfers": report.transfers, "head": report.head})
    else:
        Console().print(f"{to}: {report.transfers} transfers", highlight=False, soft_wrap=True)


@app.command("burn", epilog="Example:  bithive ledger burn 2026 --decision 'proposal 12'")
def burn(
    year: Annotated[int, typer.Argument(help="Whose milestone was met.")],
    *,
    decision: Annotated[str, typer.Option(help="Where governance decided that it was met.")],
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
    preset: Preset = None,
    as_json: AsJson = False,
) -> None:
    """Burn what a year's milestone burns, out of the ecosystem bucket, once."""
    from identity.roles import Permission
    from ledger.burns import burn_milestone
    from ledger.economy import load_economy
    from portal.study_rights import note, who_may

    actor = who_may(home, Permission.TRANSFER)
    books = _books(home, database)
    economy = load_economy(preset=preset)
    if not decision:
        raise typer.BadParameter("name the decision", param_hint="--decision")
    made = burn_milestone(books, economy, year, decision=decision, now=datetime.now(UTC))
    amount = made.legs[0].amount
    note(home, "milestone-burned", actor, key=made.key, amount=str(amount))
    if as_json:
        _print({"key": made.key, "burned_base_units": str(amount)})
    else:
        Console().print(f"{btt_text(amount)} burned", highlight=False, soft_wrap=True)


@app.command(
    "serve", epilog="Example:  bithive ledger serve --token-file operator.token --port 8090"
)
def serve(
    *,
    token_file: Annotated[
        Path,
        typer.Option(help="The operator's secret, a file of mode 0600; made if there is none."),
    ],
    host: Annotated[str, typer.Option(help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Where it listens.")] = 8090,
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
) -> None:
    """Serve the books over HTTP to who has the token, until interrupted."""
    import uvicorn

    from identity.roles import Permission
    from portal.ledger_api import ledger_app, operator_token
    from portal.study_rights import who_may

    who_may(home, Permission.TRANSFER)  # its token moves money
    token = operator_token(token_file)
    books = _books(home, database)
    application = ledger_app(books, token=token, clock=lambda: datetime.now(UTC))
    words = Console(stderr=True)
    words.print(f"the books answer at http://{host}:{port}", highlight=False, soft_wrap=True)
    uvicorn.run(application, host=host, port=port, log_level="warning", access_log=False)
    books.close()


def _books(home: Path, database: str | None) -> Ledger:
    from portal.books import open_books, open_shared_books

    return open_books(home) if database is None else open_shared_books(database)


def _print(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")


def _table(*headings: str) -> Table:
    table = Table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _percent(basis_points: int) -> str:
    whole, part = divmod(abs(basis_points), 100)
    return f"{'-' if basis_points < 0 else ''}{whole}.{part:02d} %"


def _utc(day: datetime | None) -> datetime | None:
    return None if day is None else day.replace(tzinfo=UTC)
