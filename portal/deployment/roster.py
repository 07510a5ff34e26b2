"""Keep the SuperLink's registered nodes the same as the sites that take part.

The operator's folder is the truth: ``AUTHORITY/nodes/SITE.pub`` exists for exactly the sites that
take part. A key that is there and not registered is registered; a node whose key is not there any
more is put out, so that an expelled site loses its place in the fleet beside its certificate.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Final

from portal.deployment.loopback import Control, SuperLinkSilent, control, node_bytes
from portal.deployment.plan import Plan
from storage.files import write_whole

log = logging.getLogger("bithive.roster")
LOOK_SECONDS: Final = 0.5
AGAIN_SECONDS: Final = 30.0
"""A SuperLink that lost its database is told again without a change of the folder."""


def reconcile(nodes: Path, superlink: Control) -> tuple[list[str], list[int]]:
    """Register who is missing and put out who is too many; return both.

    Raises:
        SuperLinkSilent: It does not answer.
    """
    wanted = {node_bytes(file.read_bytes()): file.stem for file in sorted(nodes.glob("*.pub"))}
    present = {one.public_key: one.id for one in superlink.nodes()}
    missing = [key for key in wanted if key not in present]
    gone = [number for key, number in present.items() if key not in wanted]
    for key in missing:
        superlink.register(key, wanted[key])
    for number in gone:
        superlink.unregister(number)
    return [wanted[key] for key in missing], gone


def keep_roster(plan: Plan, stop: threading.Event) -> None:
    """Reconcile whenever the operator's folder changes, until ``stop``; mark the first time."""
    nodes, done = plan.authority / "nodes", False
    seen, waited = -1, 0.0
    while not stop.is_set():
        stamp = nodes.stat().st_mtime_ns if nodes.is_dir() else 0
        if stamp != seen or waited >= AGAIN_SECONDS:
            try:
                with control(plan.flower, plan.superlink_port) as superlink:
                    added, put_out = reconcile(nodes, superlink)
            except SuperLinkSilent as error:
                log.warning("%s: %s", error.code, error)
            else:
                seen, waited = stamp, 0.0
                for name in added:
                    log.info("registered the node of %s", name)
                for number in put_out:
                    log.info("put out node %s", number)
                if not done:
                    done = True
                    write_whole(ready_file(plan), b"ready\n")
        stop.wait(LOOK_SECONDS)
        waited += LOOK_SECONDS


def ready_file(plan: Plan) -> Path:
    """Return the file that says that the nodes are registered."""
    return plan.folder / "roster.ready"
