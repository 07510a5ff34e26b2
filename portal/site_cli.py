# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive site``: one hospital's agent, and its data steward's hold on the privacy ledger."""

from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from portal.officer_cli import register as register_officer
from portal.setup_cli import register as register_setup
from portal.site_grants_cli import register as register_grants

if TYPE_CHECKING:  # a command loads only what it needs
    from portal.budgets import Row
    from portal.stewarding import LedgerDesk
    from privacy.ledger_view import LedgerView

app = typer.Typer(no_args_is_help=True, help="One hospital: its agent and its privacy ledger.")
register_officer(app)
register_grants(app)
register_setup(app)

DEFAULT_HOME: Final = Path("bithive-home")
Name = Annotated[str, typer.Argument(help="The site's name.")]
HomePath = Annotated[
    Path, typer.Option("--home", help="The run's folder.", file_okay=False, show_default=True)
]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help="Of which data set; the only one by default.")
]
words = Console(stderr=True)


@app.command("run", epilog="Example:  bithive site run north --home bithive-home")
def run(
    name: Name,
    *,
    home: HomePath = DEFAULT_HOME,
    socket: Annotated[
        Path | None, typer.Option(help="Where to listen. [HOME/sites/NAME/agent.sock]")
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(help="Where the operator is listened to. [beside the other, .control]"),
    ] = None,
    metrics_file: Annotated[
        Path | None, typer.Option(help="Keep metrics here, for Prometheus' textfile collector.")
    ] = None,
) -> None:
    """Serve one hospital's agent, from its own folder alone: every study its officer approved."""
    from fl_client.logs import start_logs
    from portal.resident import serve_site

    start_logs(sys.stderr)
    serve_site(home, name, socket, control=control, metrics=metrics_file)


@app.command(
    "node",
    epilog="Example:  bithive site node north --superlink fleet.example.org:443"
    " --root-certificates identity/authority.crt --auth-supernode-private-key identity/node.key"
    " --client-certificate identity/tls.crt --client-key identity/tls.key"
    " --agent unix:/run/bithive/agent.sock"
    "     Exit code: 0 ended, 1 refused with a code, 2 misused.",
)
def node(
    name: Name,
    *,
    superlink: Annotated[str, typer.Option(help="The server's fleet API, HOST:PORT.")],
    root_certificates: Annotated[
        Path, typer.Option(help="What signs the server's certificate, PEM.", dir_okay=False)
    ],
    auth_supernode_private_key: Annotated[
        Path, typer.Option(help="The site's node key, as OpenSSH writes it.", dir_okay=False)
    ],
    agent: Annotated[str, typer.Option(help="Where the agent answers, unix:PATH.")],
    agent_token: Annotated[
        Path | None,
        typer.Option(help="The token of the agent's door. [HOME/sites/NAME/agent.token]"),
    ] = None,
    client_certificate: Annotated[
        Path | None, typer.Option(help="The site's certificate for the front door.")
    ] = None,
    client_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    home: HomePath = DEFAULT_HOME,
    state: Annotated[
        Path | None, typer.Option(help="What survives a crash. [HOME/sites/NAME/node]")
    ] = None,
    silence_seconds: Annotated[
        float,
        typer.Option(help="After this long without word the server gives the site up.", min=20),
    ] = 180.0,
) -> None:
    """Carry messages between the server and this hospital's agent, until interrupted."""
    from fl_client.node.fleet import Credentials
    from fl_client.node.resident import NodeSettings, run_node

    if (client_certificate is None) != (client_key is None):
        raise typer.BadParameter(
            "give both or none", param_hint="--client-certificate/--client-key"
        )
    _log_to_stderr()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request
    revoked = root_certificates.with_name("crl.pem")
    run_node(
        NodeSettings(
            superlink=superlink,
            agent=agent,
            agent_token=agent_token or home / "sites" / name / "agent.token",
            credentials=Credentials(
                root_certificates,
                auth_supernode_private_key,
                client_certificate,
                client_key,
                revoked if revoked.is_file() else None,
            ),
            state=state or home / "sites" / name / "node",
            silence_seconds=silence_seconds,
        )
    )


@app.command(
    epilog="Examples:  bithive site budget north  |  bithive site budget north --plot spent.svg  |"
    "  bithive site budget north --cap 6  |  bithive site budget north --cap 10 --confirm-raise"
    "     Exit code: 0 done, 1 refused with a code, 2 misused."
)
def budget(
    name: Name,
    *,
    home: HomePath = DEFAULT_HOME,
    dataset: DatasetName = None,
    cap: Annotated[
        float | None, typer.Option(help="Set the data steward's cap of epsilon; lower takes hold.")
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(help="With --cap and --dataset: open a data set that no study used yet."),
    ] = None,
    confirm_raise: Annotated[
        bool, typer.Option("--confirm-raise", help="The cap may be a higher one than before.")
    ] = False,
    accept_clock: Annotated[
        bool,
        typer.Option("--accept-clock", help="The clock had been ahead, and is right now."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw epsilon over rounds into a .svg or .png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what patients' privacy was spent on and what is left, or set the cap."""
    from portal import budgets

    if delta is not None:
        if cap is None or dataset is None:
            raise typer.BadParameter("it goes with --cap and --dataset", param_hint="--delta")
        path = home / "sites" / name / "budget.db"
        _desk(path, name, dataset, new=True).open_dataset(cap, delta)
    path = budgets.ledger_at(home, name)
    if cap is not None or accept_clock:
        desk = _desk(path, name, dataset)
        if accept_clock:
            desk.accept_clock()
        if cap is not None:
            desk.set_cap(cap, confirm_raise=confirm_raise)
    shown = [one for one in _read(path, name) if dataset in {None, one.dataset}]
    if plot is not None:
        from portal.budget_plot import write_plot

        wanted = _only(path, dataset)
        write_plot(next(one for one in shown if one.dataset == wanted), plot)
        words.print(f"plot: {escape(str(plot))}", highlight=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps(budgets.as_json(name, shown)) + "\n")
        return
    rows = [row for one in shown for row in budgets.rows_of(one)]
    _show(name, rows, {one.dataset: len(one.history()) for one in shown})


@app.command(
    epilog="Example:  bithive site cohort north adults adults.txt   (one patient number a line)"
)
def cohort(
    name: Name,
    title: Annotated[str, typer.Argument(help="The cohort's name, a slug.")],
    patients: Annotated[
        Path,
        typer.Argument(help="One patient number a line.", dir_okay=False, exists=True),
    ],
    *,
    home: HomePath = DEFAULT_HOME,
    dataset: DatasetName = None,
) -> None:
    """Fix a subset of the patients, once and for all, on which epsilon can be spent by itself."""
    from portal.budgets import ledger_at

    numbers = [line.strip() for line in patients.read_text().splitlines() if line.strip()]
    path = ledger_at(home, name)
    _desk(path, name, dataset).fix_cohort(title, numbers)
    Console().print(f"fixed: {title}, {len(set(numbers))} patients", highlight=False)


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s"
    )


def _desk(path: Path, name: str, dataset: str | None, *, new: bool = False) -> LedgerDesk:
    """Return the privacy ledger at ``path`` in the hands of whoever runs this command."""
    from portal.local_actor import at_site, this_user
    from portal.own_log import own_record
    from portal.stewarding import LedgerDesk
    from protocol.ids import SiteId

    actor = at_site(path.parent, SiteId(name), this_user())
    of = dataset if new and dataset is not None else _only(path, dataset)
    return LedgerDesk(SiteId(name), path, of, actor, own_record(path.parent))


def _read(path: Path, name: str) -> list[LedgerView]:
    """Return the privacy ledger's data sets, for whoever runs this command."""
    from portal.local_actor import at_site, this_user
    from portal.own_log import own_record
    from portal.stewarding import read_ledger
    from protocol.ids import SiteId

    actor = at_site(path.parent, SiteId(name), this_user())
    return read_ledger(SiteId(name), path, actor, own_record(path.parent))


def _only(path: Path, dataset: str | None) -> str:
    """Return the data set that was named, or the only one there is."""
    from privacy.ledger_view import datasets

    known = datasets(path)
    if dataset is None and len(known) != 1:
        raise typer.BadParameter(f"there are several: {', '.join(known)}", param_hint="--dataset")
    return known[0] if dataset is None else dataset


def _show(name: str, rows: list[Row], rounds: dict[str, int]) -> None:
    from privacy.statement import rounded_up

    out = Console()
    table = Table(title=f"Privacy ledger of {escape(name)}", title_justify="left")
    for heading in ("data set", "cohort", "patients", "rounds", "spent", "left", "cap"):
        table.add_column(heading, justify="left" if heading in {"data set", "cohort"} else "right")
    for row in rows:
        table.add_row(
            row.dataset,
            row.cohort or "all patients",
            "" if row.patients is None else str(row.patients),
            "" if row.cohort else str(rounds[row.dataset]),
            rounded_up(row.spent.epsilon),
            f"{math.floor(row.left * 100) / 100:.2f}",
            f"{row.limit:g}",
        )
    out.print(table)
    for row in rows:
        who = row.cohort or "all patients"
        out.print(f"{row.dataset}, {who}: {row.spent.text()}", highlight=False, soft_wrap=True)
