"""The ``bithive`` command: parse, call one function, print.

Results go to standard output (one JSON object with ``--json``), words and bars to standard error.
Exit 0 is done, 1 refused (``code: message``, no traceback), 2 misused.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from portal.audit_cli import app as audit
from portal.ceremony_cli import app as ceremony
from portal.chain_cli import app as chain
from portal.consent_cli import app as consent
from portal.deployment.cli import register as register_deployment
from portal.features_cli import app as features_app
from portal.ledger_cli import app as ledger
from portal.live.cli import app as live
from portal.live.cli import watch
from portal.model_cli import app as model
from portal.onboarding_cli import app as operator
from portal.patient_cli import app as patient
from portal.site_cli import app as site
from protocol.errors import BitHiveError
from protocol.plain import plain

app = typer.Typer(
    name="bithive",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Hospitals train a model together without showing anyone their patients.",
)
app.add_typer(ledger, name="ledger")
app.add_typer(chain, name="chain")
app.add_typer(audit, name="audit")
app.add_typer(site, name="site")
app.add_typer(consent, name="consent")
app.add_typer(patient, name="patient")
app.add_typer(ceremony, name="ceremony")
app.add_typer(model, name="model")
app.add_typer(live, name="live")
app.command(epilog="Examples:  bithive watch  |  bithive watch --url http://127.0.0.1:8480 --json")(
    watch
)
app.add_typer(operator, name="operator")
app.add_typer(features_app, name="features")
register_deployment(app)

DEFAULT_HOME: Final = Path("bithive-home")
DEFAULT_SEED: Final = 7
words = Console(stderr=True)

HomePath = Annotated[
    Path, typer.Option("--home", help="The run's folder.", file_okay=False, show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(
    epilog="Examples:  bithive demo  |  bithive demo --data wisconsin --json  |  "
    "bithive demo --data ../shared/data/busi_breast_us --home busi"
)
def demo(
    *,
    data: Annotated[
        str,
        typer.Option(help="phantom (made here), wisconsin, or a folder of images or tables."),
    ] = "phantom",
    home: Annotated[
        Path | None,
        typer.Option(
            help="Keep the run here, and go on with it if it is unfinished. [bithive-home]",
            file_okay=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Make the run reproducible. The noise is then reproducible too and hides "
            "nothing: for demonstrations.",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="in-process, or real servers on this machine: superlink with our own nodes, "
            "supernode with Flower's."
        ),
    ] = "in-process",
    opening: Annotated[
        str,
        typer.Option(
            help="members: each hospital can decrypt a masked sum; threshold: a quorum together."
        ),
    ] = "members",
    algorithm: Annotated[
        str,
        typer.Option(
            help="fedavg, fedavgm, fedadam, fedprox, scaffold, fedbn or ditto: how updates become "
            "one model, and what each site keeps."
        ),
    ] = "fedavg",
    noise: Annotated[
        str,
        typer.Option(
            help="per-site: each site's noise is enough alone; summed: sites share the noise of "
            "the sum, of which nobody sees a part."
        ),
    ] = "per-site",
    rounds: Annotated[int | None, typer.Option(min=1, max=500, help="Rounds to train.")] = None,
    epsilon: Annotated[
        float | None, typer.Option(min=0.1, max=100, help="Privacy limit of the study, per site.")
    ] = None,
    sites: Annotated[int, typer.Option(min=3, max=64, help="Hospitals, where not natural.")] = 6,
    patients: Annotated[
        int, typer.Option(min=10, max=500, help="Patients per site of the phantom.")
    ] = 64,
    circuit: Annotated[
        str, typer.Option(help="cover64 (64 patients a proof) or cover8 (small, for tests).")
    ] = "cover64",
    grants: Annotated[
        str,
        typer.Option(
            help="hospital: on the hospital's word; proven: every patient enrols and proves hers."
        ),
    ] = "hospital",
    features: Annotated[
        str,
        typer.Option(
            help="The study's own code, BUNDLE.zip:module:function, run on each patient's records "
            "in a sandbox. Every site's officer allows it here."
        ),
    ] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over in this home.")] = False,
    as_json: AsJson = False,
) -> None:
    """Six hospitals train together, are proven, encrypted and paid, in one command."""
    from portal.demo import run_demo
    from portal.display import Display
    from portal.home import Home
    from portal.options import settings_for
    from portal.report import summary

    where = Home(home or DEFAULT_HOME)
    settings = settings_for(
        data=data,
        seed=seed,
        default_seed=DEFAULT_SEED,
        engine=engine,
        opening=opening,
        sites=sites,
        patients=patients,
        rounds=rounds,
        circuit=circuit,
        epsilon=epsilon,
        algorithm=algorithm,
        grants=grants,
        noise=noise,
        features=features,
    )
    # Without --home a finished demonstration makes room for the next one; a named home is kept.
    if fresh or (home is None and where.report.is_file()):
        with where.lock():
            where.clear()
    report = run_demo(where, settings, Display(words, quiet=as_json and not words.is_terminal))
    if as_json:
        sys.stdout.write(json.dumps(summary(report)) + "\n")
    else:
        show(report)


@app.command(epilog="Example:  bithive version")
def version() -> None:
    """Print the version."""
    try:
        found = importlib.metadata.version("bithive")
    except importlib.metadata.PackageNotFoundError:
        found = "0.1.0 (from a clone)"
    sys.stdout.write(f"bithive {found}\n")


def show(report: dict[str, Any]) -> None:
    """Print a run's table for a person."""
    from privacy.statement import read_statement, rounded_up

    out = Console()
    table = Table(title=report["study"]["title"], title_justify="left")
    for heading in (
        "site",
        "patients",
        "proven",
        "AUC alone",
        "epsilon",
        "hospital",
        "its patients",
    ):
        table.add_column(heading, justify="left" if heading == "site" else "right")
    for one in report["per_site"]:
        table.add_row(
            one["site"],
            str(one["patients"]),
            str(one["patients_proven"]),
            f"{one['auc_alone']:.3f}",
            rounded_up(one["epsilon"]),
            _short(one["hospital_base_units"]),
            _short(one["patients_base_units"]),
        )
    privacy = read_statement(report)
    out.print(table)
    mean = sum(report["auc_single_site"]) / report["sites"]
    out.print(
        f"held-out AUC  federated [bold]{report['auc_federated']:.3f}[/]   "
        f"mean single site {mean:.3f}   pooled without privacy {report['auc_pooled']:.3f}",
        highlight=False,
    )
    exact = "exact" if report["sum_exact"] else "[bold red]NOT EXACT[/]"
    out.print(privacy.text(), highlight=False, soft_wrap=True)
    out.print(
        f"opened sums {exact}   {report['proofs_verified']} proofs verified   "
        f"{report['updates_refused']} updates refused",
        highlight=False,
    )
    if report["noise"] == "seeded":
        out.print("[yellow]noise was seeded: reproducible, and therefore not private[/]")
    out.print(f"report: {report['report']}", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command; turn expected errors into one line and exit code 1."""
    _quiet_environment()
    try:
        app(prog_name="bithive")
    except BitHiveError as error:
        # What it says may be another's words: a node's, an agent's, a server's.
        said = escape(plain(" ".join(str(error).split())))
        words.print(f"[bold red]{error.code}[/]: {said}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        words.print("interrupted; run the same command again to go on", highlight=False)
        sys.exit(130)


def _quiet_environment() -> None:
    """Set before the libraries load: Flower's calls home are off, threads are ours."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _short(amount: int) -> str:
    return f"{amount // 10**16 / 100:,.2f} BTT"
