"""Run one site's node as a process: ``bithive site node``, thin over ``fl_client.node.loop``."""

from __future__ import annotations

import random
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from fl_client.link import ask
from fl_client.node.fleet import Credentials, Fleet
from fl_client.node.loop import Node
from fl_client.node.spool import Spool

SILENCE_SECONDS: Final = 180.0
"""A link cut for two minutes costs a site no round; a dead site is given up after three."""

ENDING: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class NodeSettings:
    """Where the server and the agent are, what the node shows, and where it keeps its state."""

    superlink: str
    agent: str
    agent_token: Path | None
    credentials: Credentials
    state: Path
    silence_seconds: float = SILENCE_SECONDS


def run_node(settings: NodeSettings) -> None:
    """Carry messages until SIGTERM or SIGINT.

    Raises:
        NodeBusy: Another process runs this site's node.
        NodeKeyUnreadable: The node's key cannot be used.
        CertificateUnreadable: A certificate cannot be used.
    """
    # Blocked here and in every thread from now on; waited for below, where nothing is interrupted.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    spool = Spool(settings.state)
    connection = Fleet(
        settings.superlink, settings.credentials, silence_seconds=settings.silence_seconds
    )
    node = Node(
        connection,
        partial(ask, settings.agent, token=settings.agent_token),
        spool,
        generator=random.Random(),  # noqa: S311  # spreads pauses, keeps no secret
    )
    with ThreadPoolExecutor(1, "node") as pool:
        running = pool.submit(node.run)
        while not (running.done() or signal.sigtimedwait(ENDING, 0.5)):
            pass
        node.end()
        running.result()
    spool.close()
