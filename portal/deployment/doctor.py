"""Look at everything a deployment needs, and say of each what to do.

The doctor changes nothing. It works on a home that is up, on one that is down, and before there is
one: then it looks at the machine alone.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from portal.deployment import loopback, machine, trust, workers
from portal.deployment.control_lock import secret_path
from portal.deployment.findings import Finding, fails, ok, warning
from portal.deployment.plan import LOOPBACK, NothingDeployed, Plan
from portal.deployment.up import SERVING, status_of
from portal.site_control import ask_agent_of
from protocol.errors import BitHiveError
from protocol.ids import SiteId

LOOPBACK_DAYS_WARN: Final = 7
UNANSWERED: Final = "see `bithive status`, or ask at the hospital: `bithive site status`"
CONFIGURATIONS: Final = ("front/nginx.conf", "deployment.json")


def examine(home: Path, *, now: datetime | None = None) -> list[Finding]:
    """Return every finding about this machine and the deployment in ``home``."""
    now = now or datetime.now(UTC)
    found = [*machine.versions(), machine.memory(), machine.open_files(), machine.sandbox()]
    existing = next(one for one in (home, *home.resolve().parents) if one.is_dir())
    found += machine.disk(existing)
    try:
        plan = Plan.load(home)
    except NothingDeployed:
        return [*found, warning("deployment", "none here", "make one with `bithive up`")]
    except (ValueError, KeyError, TypeError):
        advice = "restore it from its backup, or run `bithive up` again"
        return [*found, fails("deployment", "deployment.json is unreadable", advice)]
    status = status_of(home)
    found += _processes(status)
    found += _ports(plan, status)
    found += _configurations(plan)
    found += workers.look(plan.front)
    found += _trust(plan, now)
    if status["supervisor"] is not None:
        found.append(_clock(plan))
        found += [_clock_of(plan, site) for site in plan.sites if _takes_part(plan, site)]
    return found


def passes(findings: list[Finding]) -> bool:
    """Say whether nothing fails."""
    return all(one.state != "fails" for one in findings)


def _processes(status: dict[str, Any]) -> list[Finding]:
    if status["supervisor"] is None:
        return [warning("processes", "down", "bring them up with `bithive up`")]
    late = [one for one in status["units"] if one["state"] not in SERVING]
    found = [
        fails(
            f"process {one['name']}",
            f"{one['state']} after {one['restarts']} restarts: {one['error'] or 'no word'}",
            f"read {status['home']}/deployment/logs/{one['name']}.log",
        )
        for one in late
    ]
    return found or [ok("processes", f"{len(status['units'])} serve")]


def _ports(plan: Plan, status: dict[str, Any]) -> list[Finding]:
    ours = {one["pid"]: one["name"] for one in status["units"] if one["pid"]}
    wanted = {
        "front door": (plan.reached, plan.port),
        "SuperLink": (LOOPBACK, plan.superlink_port),
        "patient's page": (LOOPBACK, plan.page_port),
        "live page": (LOOPBACK, plan.live_port),
    }
    return machine.ports(wanted, ours, up=status["supervisor"] is not None)


def _configurations(plan: Plan) -> list[Finding]:
    missing = [name for name in CONFIGURATIONS if not (plan.folder / name).is_file()]
    if missing:
        advice = "run `bithive down` and `bithive up`, which write them"
        return [fails("configuration", f"{', '.join(missing)} missing", advice)]
    return [ok("configuration", "all files are there")]


def _trust(plan: Plan, now: datetime) -> list[Finding]:
    folder = plan.authority
    authorities = trust.read_authorities(folder / "ca.crt")
    secret = [folder / name for name in ("ca.key", "operator.key", "server.key")]
    found = [
        trust.certificate("authority", folder / "ca.crt", [], now=now),
        trust.certificate("server certificate", folder / "server.crt", authorities, now=now),
        _loopback(plan, now),
        trust.revocations(folder / "crl.pem", now=now),
        trust.keys("operator's keys", secret),
        _control_secret(plan),
    ]
    for site in plan.sites:
        identity = plan.identity(site)
        path = identity.tls_certificate
        found.append(trust.certificate(f"certificate of {site}", path, authorities, now=now))
        found.append(trust.keys(f"keys of {site}", identity.key_files()))
    return found


def _loopback(plan: Plan, now: datetime) -> Finding:
    return trust.certificate(
        "SuperLink certificate",
        loopback.paths_of(plan.flower).certificate,
        [],
        now=now,
        days_warn=LOOPBACK_DAYS_WARN,
        renewal="run `bithive down` and `bithive up`, which make another",
    )


def _control_secret(plan: Plan) -> Finding:
    check, path = "SuperLink's secret", secret_path(plan.flower)
    if not path.exists():
        return warning(check, "none yet", "it is made when the SuperLink starts")
    return trust.keys(check, [path])


def _clock(plan: Plan) -> Finding:
    admitted = [site for site in plan.sites if _takes_part(plan, site)]
    if not admitted:
        return warning("clock", "no site takes part", "admit one with `bithive operator admit`")
    identity = plan.identity(plan.sites[plan.sites.index(admitted[0])])
    chain = identity.tls_certificate, identity.tls_key
    return trust.clock((plan.server_name, plan.port), identity.authority, chain)


def _clock_of(plan: Plan, site: SiteId) -> Finding:
    """Ask a site's agent how its clock stood against the server's when the server last wrote."""
    try:
        ahead = ask_agent_of(plan.site(site), "status").get("clock_ahead_seconds")
    except BitHiveError as error:
        return warning(f"clock of {site}", f"its agent does not say ({error.code})", UNANSWERED)
    return trust.site_clock(site, ahead)


def _takes_part(plan: Plan, site: str) -> bool:
    return (plan.authority / "nodes" / f"{site}.pub").is_file()


def as_json(findings: list[Finding]) -> str:
    """Return the findings as one JSON object."""
    rows = [
        {"check": one.check, "state": one.state, "found": one.found, "advice": one.advice}
        for one in findings
    ]
    return json.dumps({"passes": passes(findings), "findings": rows})
