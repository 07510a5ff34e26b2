"""Serve one site of a home as a resident process: ``bithive site run``."""

from __future__ import annotations

import json
import logging
import signal
import threading
from pathlib import Path

from rich.console import Console

from fl_client.service import listening, make_token, serve
from portal.books import NoRunHere
from portal.demo import prepare, site_agent
from portal.display import Display
from portal.home import Home, Settings
from protocol.errors import ConfigurationError
from protocol.ids import SiteId
from protocol.progress import Step
from zk.circuit import circuit
from zk.prover import Prover

log = logging.getLogger("bithive.site")


class SiteUnknown(ConfigurationError):
    """The run has no site of this name."""

    code = "site-unknown"

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"there is no site {name!r} here; the sites are {', '.join(known)}")


def token_at(folder: Path) -> Path:
    """Return where a site's folder keeps the token of its agent's door."""
    return folder / "agent.token"


def serve_site(path: Path, name: str, place: Path | None) -> None:
    """Answer for site ``name`` of the run at ``path`` until SIGTERM or SIGINT.

    Raises:
        NoRunHere: The home holds no founded run.
        SiteUnknown: The run has no such site.
    """
    home = Home(path)
    kept = home.settings()
    if kept is None or not home.is_founded():
        raise NoRunHere(path)
    run = prepare(home, Settings(**kept), Display(Console(stderr=True), quiet=True))
    site = SiteId(name)
    if site not in run.data.sites:
        raise SiteUnknown(name, sorted(run.data.sites))
    run.watch = _log_step
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Prover(
        circuit(run.settings.circuit), run.proving_key, run.verification_key, workers=1
    ) as prover:
        agent = site_agent(run, site, prover)
        socket = place or home.site(site) / "agent.sock"
        log.info("serving %s", site)
        token = make_token(token_at(home.site(site)))
        with listening(socket) as listener:
            serve(agent.answer, listener, stop, token=token)
        agent.close()
    log.info("stopped %s", site)


def _log_step(step: Step) -> None:
    if step.seconds:
        log.info(
            json.dumps(
                {"stage": step.stage, "round": step.round, "seconds": round(step.seconds, 3)}
            )
        )
