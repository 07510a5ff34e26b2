"""Which processes a deployment on one machine consists of, in which order they start.

::

    superlink ──▶ roster ──▶ node-SITE ◀── agent-SITE
        └──▶ front ─────────────┘
    study (waits for a person's start), patient-page, live-page, officer-SITE

``HOME/deployment/environment.json``, if a person puts it there, adds to the environment of single
processes: ``{"agent-north": {"OMP_NUM_THREADS": "4"}}``.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from portal.deployment import loopback
from portal.deployment.front import Front, front_config
from portal.deployment.plan import Plan
from portal.deployment.roster import ready_file
from portal.deployment.units import FileThere, PortOpen, SocketOpen, Unit
from portal.deployment.workers import Workers
from protocol.errors import ConfigurationError
from protocol.ids import SiteId
from storage.files import PRIVATE, private_folder, write_whole

ENVIRONMENT: Final = "environment.json"
SBIN: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"


class NginxMissing(ConfigurationError):
    """There is no nginx on this machine."""

    code = "nginx-missing"

    def __init__(self) -> None:
        super().__init__("nginx is not installed; install it (Debian: apt install nginx-light)")


def nginx_program() -> str:
    """Return the path of nginx.

    Raises:
        NginxMissing: There is none.
    """
    found = shutil.which("nginx") or shutil.which("nginx", path=SBIN)
    if found is None:
        raise NginxMissing
    return found


def front_of(plan: Plan, workers: Workers | None = None) -> Front:
    """Return the front door of a plan, its workers handed over where some are named."""
    return Front(
        listen=f"{plan.listen}:{plan.port}",
        server_name=plan.server_name,
        certificate=(plan.authority / "server.crt").resolve(),
        key=(plan.authority / "server.key").resolve(),
        authority=(plan.authority / "ca.crt").resolve(),
        revoked=(plan.authority / "crl.pem").resolve(),
        superlink_port=plan.superlink_port,
        superlink_authority=loopback.paths_of(plan.flower).authority.resolve(),
        run=private_folder(plan.front / "run").resolve(),
        access_log=(private_folder(plan.folder / "logs") / "access.log").resolve(),
        workers=workers,
    )


def write_configurations(plan: Plan, workers: Workers | None = None) -> None:
    """Write what nginx reads.

    Args:
        plan: The deployment.
        workers: Whose nginx's workers are to be, where root will start it.
    """
    content = front_config(front_of(plan, workers)).encode()
    write_whole(plan.front / "nginx.conf", content, mode=PRIVATE)


def units_of(plan: Plan) -> list[Unit]:
    """Return the processes of a plan.

    Raises:
        NginxMissing: There is no nginx.
    """
    units = [_superlink(plan), _front(plan), _roster(plan)]
    for site in plan.sites:
        units += [_agent(plan, site), _node(plan, site)]
    units += [_study(plan), _patient_page(plan), _live_page(plan)]
    units += [_officer(plan, site, port) for site, port in plan.officers.items()]
    return [_with_own_environment(plan, unit) for unit in units]


def _with_own_environment(plan: Plan, unit: Unit) -> Unit:
    """Add what ``environment.json`` says for the unit: threads of an agent, a node's proxy."""
    file = plan.folder / ENVIRONMENT
    own = json.loads(file.read_text()).get(unit.name, {}) if file.is_file() else {}
    return replace(unit, environment={**unit.environment, **own})


def _superlink(plan: Plan) -> Unit:
    return Unit(
        "superlink",
        loopback.superlink_command(plan.flower, plan.superlink_port),
        ready=PortOpen(plan.superlink_port),
        environment=loopback.environment(plan.flower),
        address=f"https://127.0.0.1:{plan.superlink_port} (this machine only)",
    )


def _front(plan: Plan) -> Unit:
    front = plan.front.resolve()
    authority = plan.authority.resolve()
    return Unit(
        "front",
        (nginx_program(), "-p", str(front), "-c", str(front / "nginx.conf")),
        ready=PortOpen(plan.port, plan.reached),
        after=("superlink",),
        reload_on=tuple(authority / name for name in ("crl.pem", "ca.crt", "server.crt")),
        address=f"https://{plan.server_name}:{plan.port}",
    )


def _roster(plan: Plan) -> Unit:
    return Unit(
        "roster",
        _ours("deployment", "roster", "--home", _home(plan)),
        ready=FileThere(ready_file(plan)),
        after=("superlink",),
        environment=loopback.environment(plan.flower),
    )


def _agent(plan: Plan, site: SiteId) -> Unit:
    place = plan.agent(site)
    return Unit(
        f"agent-{site}",
        _ours("site", "run", site, "--home", _home(plan), "--socket", str(place)),
        ready=SocketOpen(place),
        environment=loopback.environment(plan.flower),
        address=f"unix:{place}",
    )


def _node(plan: Plan, site: SiteId) -> Unit:
    identity = plan.identity(site)
    return Unit(
        f"node-{site}",
        _ours(
            *("site", "node", site, "--home", _home(plan)),
            *("--superlink", f"{plan.server_name}:{plan.port}"),
            *("--root-certificates", str(identity.authority.resolve())),
            *("--auth-supernode-private-key", str(identity.node_key.resolve())),
            *("--client-certificate", str(identity.tls_certificate.resolve())),
            *("--client-key", str(identity.tls_key.resolve())),
            *("--agent", f"unix:{plan.agent(site)}"),
        ),
        after=("front", "roster", f"agent-{site}"),
        environment=loopback.environment(plan.flower),
        address=f"to https://{plan.server_name}:{plan.port}",
    )


def _study(plan: Plan) -> Unit:
    return Unit(
        "study",
        _ours("deployment", "study", "--home", _home(plan)),
        after=("roster",),
        environment=loopback.environment(plan.flower),
        ends=True,
    )


def _patient_page(plan: Plan) -> Unit:
    return Unit(
        "patient-page",
        _ours("patient", "serve", "--home", _home(plan), "--port", str(plan.page_port)),
        ready=PortOpen(plan.page_port),
        address=f"http://127.0.0.1:{plan.page_port}",
    )


def _live_page(plan: Plan) -> Unit:
    return Unit(
        "live-page",
        _ours("live", "serve", "--home", _home(plan), "--port", str(plan.live_port)),
        ready=PortOpen(plan.live_port),
        address=f"http://127.0.0.1:{plan.live_port}",
    )


def _officer(plan: Plan, site: SiteId, port: int) -> Unit:
    return Unit(
        f"officer-{site}",
        _ours("site", "officer", site, "--home", _home(plan), "--port", str(port)),
        ready=PortOpen(port),
        address=f"http://127.0.0.1:{port}",
    )


def _ours(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "portal", *words)


def _home(plan: Plan) -> str:
    return str(Path(plan.home).resolve())
