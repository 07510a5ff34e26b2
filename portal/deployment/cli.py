# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive up``, ``down``, ``status``, ``doctor``, ``study`` and ``deployment``."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from portal.study_cli import register as register_founding

deployment = typer.Typer(
    no_args_is_help=True, help="The parts of a deployment, for who runs them by hand."
)
study = typer.Typer(no_args_is_help=True, help="The study of a deployment.")
register_founding(study)

DEFAULT_HOME: Final = Path("bithive-home")
DEFAULT_PORT: Final = 8443
DEFAULT_SEED: Final = 7
COLOURS: Final = {"ready": "green", "done": "green", "failed": "red", "backing-off": "yellow"}
words = Console(stderr=True)

HomePath = Annotated[Path, typer.Option("--home", help="The deployment's folder.", file_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def up(
    *,
    home: HomePath = DEFAULT_HOME,
    sites: Annotated[int, typer.Option(min=3, max=64, help="Hospitals, where not natural.")] = 3,
    data: Annotated[
        str,
        typer.Option(help="phantom (made here), wisconsin, or a folder of images or tables."),
    ] = "phantom",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of the front door, for hospitals.")
    ] = DEFAULT_PORT,
    listen: Annotated[str, typer.Option(help="Address of the front door.")] = "127.0.0.1",
    server_name: Annotated[
        str, typer.Option(help="The name hospitals reach it by; its certificate says so.")
    ] = "localhost",
    patients: Annotated[
        int, typer.Option(min=10, max=500, help="Patients per site of the phantom.")
    ] = 64,
    rounds: Annotated[int | None, typer.Option(min=1, max=500, help="Rounds to train.")] = None,
    circuit: Annotated[
        str, typer.Option(help="cover64 (64 patients a proof) or cover8 (small, for tests).")
    ] = "cover64",
    features: Annotated[
        str,
        typer.Option(
            help="The study's own code, BUNDLE.zip:module:function, run on each patient's records "
            "in a sandbox. With --approve every site's officer allows it."
        ),
    ] = "",
    approve: Annotated[
        bool,
        typer.Option(
            "--approve",
            help="Approve the study for every hospital: for demonstrations, where one person is "
            "all of them.",
        ),
    ] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and take everything down at the end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring up a whole federation on this machine; again, start what is missing."""
    from portal.deployment.plan import Plan
    from portal.deployment.study import started_file
    from portal.deployment.up import Wanted, bring_up, status_of, take_down
    from portal.display import Display
    from portal.home import Home
    from portal.options import settings_for

    settings = settings_for(
        data=data,
        seed=None,
        default_seed=DEFAULT_SEED,
        engine="superlink",
        opening="members",
        sites=sites,
        patients=patients,
        rounds=rounds,
        circuit=circuit,
        epsilon=None,
        features=features,
    )
    wanted = Wanted(settings, port, approve=approve, listen=listen, server_name=server_name)
    display = Display(words, quiet=as_json and not words.is_terminal)
    started = bring_up(Home(home), wanted, display, say=_say)
    if not started:
        _say("everything is up already")
    _show(status_of(home), as_json=as_json)
    if not as_json and not started_file(Plan.load(home)).is_file():
        _say(f"next: `bithive study start --home {home}`, then `bithive watch --home {home}`")
        _say(
            "officers sign in to their hospital's page after `bithive site account add SITE NAME "
            f"--role officer --home {home}`"
        )
    if foreground:
        stop = _until_interrupted()
        stop.wait()
        _say(take_down(home))


def down(*, home: HomePath = DEFAULT_HOME) -> None:
    """Stop every process of the deployment; what they keep stays."""
    from portal.deployment.up import take_down

    _say(take_down(home))


def status(*, home: HomePath = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show the deployment's processes. Exit code 1 where one of them does not serve."""
    from portal.deployment.up import status_of

    found = status_of(home)
    _show(found, as_json=as_json)
    if not found["up"]:
        raise typer.Exit(1)


def doctor(*, home: HomePath = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Look at everything a deployment needs. Exit code 1 where something does not work."""
    from portal.deployment.doctor import as_json as in_json
    from portal.deployment.doctor import examine, passes

    findings = examine(home)
    if as_json:
        sys.stdout.write(in_json(findings) + "\n")
    else:
        table = Table(title=f"Doctor, {escape(str(home))}", title_justify="left")
        for heading in ("check", "", "found", "what to do"):
            table.add_column(heading)
        for one in findings:
            colour = {"ok": "green", "warning": "yellow", "fails": "red"}[one.state]
            row = (escape(one.check), escape(one.found), escape(one.advice))
            table.add_row(row[0], f"[{colour}]{one.state}[/]", *row[1:])
        Console().print(table)
    if not passes(findings):
        raise typer.Exit(1)


@study.command("start", epilog="Example:  bithive study start --home bithive-home")
def study_start(
    *,
    home: HomePath = DEFAULT_HOME,
    wait: Annotated[bool, typer.Option("--wait", help="Return after the last round.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let the study's rounds run; hospitals that have not approved it take no part."""
    from portal.deployment.plan import Plan
    from portal.deployment.progress import follow, progress_of
    from portal.deployment.study import start_study
    from portal.study_rights import here

    plan = Plan.load(home)
    start_study(plan, here(plan.home))
    if wait:
        follow(plan, say=_say)
    found = progress_of(plan)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    _say(f"{found['rounds_settled']} of {found['rounds']} rounds are settled")
    if not wait:
        _say(
            f"offered to every hospital: see it with `bithive site jobs SITE --home {home}`, "
            f"approve it there, then follow it with `bithive watch --home {home}`"
        )


@study.command("stop", epilog="Example:  bithive study stop --home bithive-home")
def study_stop(*, home: HomePath = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """End the study's run until it is started again; its rounds are kept."""
    from portal.deployment.plan import Plan
    from portal.deployment.progress import progress_of
    from portal.deployment.study import stop_study
    from portal.study_rights import here

    plan = Plan.load(home)
    stop_study(plan, here(plan.home))
    found = progress_of(plan)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    _say(
        f"stopped after {found['rounds_closed']} of {found['rounds']} rounds; its run ends within "
        "seconds, and `bithive study start` goes on with it"
    )


@study.command("status", epilog="Example:  bithive study status --home bithive-home --json")
def study_status(*, home: HomePath = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show how far the study is."""
    from identity.roles import Permission
    from portal.deployment.plan import Plan
    from portal.deployment.progress import progress_of
    from portal.study_rights import check_may, here

    plan = Plan.load(home)
    check_may(plan.home, here(plan.home), Permission.WATCH_RUN)
    found = progress_of(plan)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    started = "started" if found["started"] else "not started"
    _say(
        f"{found['study']}: {started}, {found['rounds_closed']} of {found['rounds']} rounds "
        f"closed, {found['rounds_settled']} settled"
    )


@deployment.command(
    "supervise", epilog="Example:  bithive deployment supervise --home bithive-home"
)
def supervise_here(*, home: HomePath = DEFAULT_HOME) -> None:
    """Keep a deployment's processes running, until SIGTERM; `bithive up` starts this."""
    from portal.deployment.up import supervise

    supervise(home)


@deployment.command("roster", epilog="Example:  bithive deployment roster --home bithive-home")
def roster(*, home: HomePath = DEFAULT_HOME) -> None:
    """Keep the SuperLink's nodes the same as the admitted sites, until interrupted."""
    from portal.deployment.plan import Plan
    from portal.deployment.roster import keep_roster

    _log_to_stderr()
    keep_roster(Plan.load(home), _until_interrupted())


@deployment.command("study", epilog="Example:  bithive deployment study --home bithive-home")
def see_through(*, home: HomePath = DEFAULT_HOME) -> None:
    """See a started study through to its last round, settling what closes."""
    from portal.deployment.plan import Plan
    from portal.deployment.study import keep_study

    _log_to_stderr()
    keep_study(Plan.load(home), _until_interrupted())


@deployment.command(
    "nginx",
    epilog="Example:  bithive deployment nginx --server-name fleet.example.org --listen 443"
    " > /etc/bithive/nginx.conf",
)
def nginx(
    *,
    server_name: Annotated[str, typer.Option(help="The name hospitals reach the server by.")],
    listen: Annotated[str, typer.Option(help="Port, or ADDRESS:PORT.")] = "443",
    authority_folder: Annotated[
        Path, typer.Option(help="The operator's, with server.crt, ca.crt and crl.pem.")
    ] = Path("/etc/bithive/authority"),
    superlink_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of the SuperLink on loopback.")
    ] = 9092,
    superlink_authority: Annotated[
        Path, typer.Option(help="What signs the SuperLink's certificate, PEM.")
    ] = Path("/var/lib/bithive/flower/certificates/ca.pem"),
    run: Annotated[Path, typer.Option(help="For nginx's pid and temporary files.")] = Path(
        "/run/bithive-front"
    ),
    log: Annotated[Path, typer.Option(help="The access log.")] = Path(
        "/var/log/bithive/access.log"
    ),
) -> None:
    """Print the front door's nginx configuration for a server of its own."""
    from portal.deployment.served import server_front

    sys.stdout.write(
        server_front(
            server_name=server_name,
            listen=listen,
            authority_folder=authority_folder,
            superlink_port=superlink_port,
            superlink_authority=superlink_authority,
            run=run,
            log=log,
        )
    )


@deployment.command(
    "server",
    epilog="Example:  bithive deployment server --home /var/lib/bithive"
    " --server-name fed.example.org --listen 0.0.0.0 --port 443",
)
def server(
    *,
    home: HomePath = DEFAULT_HOME,
    server_name: Annotated[str, typer.Option(help="The name hospitals reach the server by.")],
    listen: Annotated[str, typer.Option(help="Address of the front door.")] = "0.0.0.0",  # noqa: S104  # hospitals come from elsewhere
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the front door.")] = 443,
    superlink_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of the SuperLink on loopback.")
    ] = 9092,
) -> None:
    """Write what the processes of a server of its own read: certificates, nginx, Flower."""
    from portal.deployment.up import plan_server

    plan = plan_server(
        home, server_name=server_name, listen=listen, port=port, superlink=superlink_port
    )
    _say(f"wrote {plan.folder}; check it with `nginx -t -c {plan.front / 'nginx.conf'}`")


@deployment.command(
    "superlink", epilog="Example:  bithive deployment superlink --home bithive-home"
)
def superlink(*, home: HomePath = DEFAULT_HOME) -> None:
    """Become the SuperLink of a deployment, on loopback; it does not return."""
    import os

    from portal.deployment.loopback import environment, superlink_command
    from portal.deployment.plan import Plan

    plan = Plan.load(home)
    command = superlink_command(plan.flower, plan.superlink_port)
    os.execve(command[0], list(command), {**os.environ, **environment(plan.flower)})  # noqa: S606  # our own command


def register(app: typer.Typer) -> None:
    """Add these commands to ``bithive``."""
    app.command(
        "up",
        epilog="Examples:  bithive up --sites 3  |  bithive up --sites 3 --approve --rounds 2"
        "     Exit code: 0 up, 1 refused with a code, 2 misused.",
    )(up)
    app.command("down", epilog="Example:  bithive down --home bithive-home")(down)
    app.command("status", epilog="Example:  bithive status --home bithive-home --json")(status)
    app.command("doctor", epilog="Example:  bithive doctor --home bithive-home --json")(doctor)
    app.add_typer(study, name="study")
    app.add_typer(deployment, name="deployment")


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    out = Console()
    table = Table(title=f"Federation in {escape(found['home'])}", title_justify="left")
    for heading in ("process", "state", "restarts"):
        table.add_column(heading, justify="right" if heading == "restarts" else "left")
    table.add_column("address", overflow="fold")
    for one in found["units"]:
        colour = COLOURS.get(one["state"], "white")
        state = f"[{colour}]{one['state']}[/]"
        table.add_row(one["name"], state, str(one["restarts"]), escape(one["address"]))
    out.print(table)
    for one in found["units"]:
        if one["error"]:
            sentence = escape(f"{one['name']} last said: {one['error']}")
            out.print(sentence, highlight=False, soft_wrap=True)
    if found["supervisor"] is None:
        out.print("it is down; bring it up with `bithive up`", highlight=False)


def _until_interrupted() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s %(message)s"
    )
    logging.getLogger("bithive").setLevel(logging.INFO)


def _say(sentence: str) -> None:
    words.print(sentence, highlight=False, soft_wrap=True)
