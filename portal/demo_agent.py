"""One hospital of the demonstration as a process: what ``bithive demo --engine superlink`` starts.

It is the resident of ``bithive site run`` with what only a demonstration may have: the noise's seed
where one was given, the careless site, and integers kept so that the sum can be checked. So it
opens the whole run; a hospital's agent (``portal.resident``) opens its own folder.

    python -m portal.demo_agent HOME SITE SOCKET
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from fl_client.logs import start_logs
from portal.books import NoRunHere
from portal.demo import prepare, site_resident
from portal.display import Display
from portal.home import Home, Settings
from portal.resident import serve_resident
from protocol.ids import SiteId
from zk.circuit import circuit
from zk.prover import Prover


def serve_demonstration(path: Path, site: SiteId, frames: Path) -> None:
    """Answer for one site of the demonstration at ``path`` until SIGTERM or SIGINT.

    Args:
        path: The run's home.
        site: One of its sites.
        frames: The socket; the operator's is beside it, with the suffix ``.control``.

    Raises:
        NoRunHere: The home holds no founded run.
    """
    home = Home(path)
    kept = home.settings()
    if kept is None or not home.is_founded():
        raise NoRunHere(path)
    run = prepare(home, Settings(**kept), Display(Console(stderr=True), quiet=True))
    with Prover(
        circuit(run.settings.circuit), run.proving_key, run.verification_key, workers=1
    ) as prover:
        resident = site_resident(run, site, prover)
        try:
            serve_resident(resident, home.site(site), frames, frames.with_suffix(".control"))
        finally:
            resident.close()


if __name__ == "__main__":
    start_logs(sys.stderr)
    serve_demonstration(Path(sys.argv[1]), SiteId(sys.argv[2]), Path(sys.argv[3]))
