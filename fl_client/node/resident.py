"""Run one site's node as a process: ``bithive site node``, thin over ``fl_client.node.loop``."""

from __future__ import annotations

import random
import signal
import threading
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
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    spool = Spool(settings.state)
    connection = Fleet(
        settings.superlink, settings.credentials, silence_seconds=settings.silence_seconds
    )
    node = Node(
        connection,
        partial(ask, settings.agent, token=settings.agent_token),
        spool,
        generator=random.Random(),  # noqa: S311  # spreads pauses, keeps no secret
        stop=stop,
    )
    node.run()
    spool.close()
