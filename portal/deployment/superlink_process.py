"""Run Flower's SuperLink with a lock on its control API, in place of Flower's own program.

::

    python -m portal.deployment.superlink_process HOME/deployment/flower 9092

Flower's own server, unchanged, in Flower's own configuration: TLS, nodes with registered keys,
SQLite. Three things differ from ``flower-superlink``: the control API opens to a secret
(``control_lock``), no caller can claim tasks through the runtime API, and the SuperLink starts
ServerApps itself (``server_apps``). Nothing of Flower is replaced at run time; every difference is
an argument that ``create_app`` takes.

What holds, each line a test in tests/federation/test_control_door.py:

1. Without the secret every call of the control API is refused, whatever path or header it uses.
2. Every call of the runtime API is refused that does not show a running task's own token.
3. What is left to everybody on this machine: ``/health``, the description of Flower's API, and
   refusals. The fleet API asks for a registered node's signature, as it does behind the front door.
"""

from __future__ import annotations

import argparse
import os
import secrets
from pathlib import Path
from typing import Final

import uvicorn
from flwr.common.constant import (
    FLWR_INTERNAL_GRPC_CONTROL_API,
    FLWR_INTERNAL_GRPC_FLEET_API,
    ISOLATION_MODE_PROCESS,
    TRANSPORT_TYPE_GRPC_RERE,
)
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.logger import console_handler
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.servicer.runtime import runtime_handlers

from portal.deployment.control_lock import lock_of
from portal.deployment.loopback import paths_of
from portal.deployment.plan import LOOPBACK
from portal.deployment.server_apps import ServerApps

CLOSED_SECRET_BYTES: Final = 32


class Lifespan(SuperLinkLifespan):  # type: ignore[misc]  # Flower ships no types
    """What lives as long as the server: Flower's share of it, and the ServerApps' processes."""

    def __init__(self, config: SuperLinkLifespanConfig, state_factory: LinkStateFactory) -> None:
        super().__init__(config, state_factory)
        assert config.ssl_ca_certfile is not None
        self._apps = ServerApps(
            lambda request: runtime_handlers.acquire_task(request, state_factory.state()),
            f"{config.host}:{config.port}",
            Path(config.ssl_ca_certfile),
        )

    def startup(self) -> None:
        """Start both."""
        super().startup()
        self._apps.start()

    def shutdown(self) -> None:
        """Stop both."""
        self._apps.stop()
        super().shutdown()


def configuration(flower: Path, port: int) -> SuperLinkLifespanConfig:
    """Return Flower's configuration of the SuperLink whose folder is ``flower``.

    Raises:
        ControlSecretUnfit: The secret that lies there is none.
    """
    tls = paths_of(flower)
    return SuperLinkLifespanConfig(
        control_address="",  # of the gRPC that is not started
        health_server_address=None,
        host=LOOPBACK,
        port=port,
        insecure=False,
        certificates=None,  # likewise; HTTP is served with the files named below
        # Told to nobody: no task is claimed through the port.
        superexec_auth_secret=secrets.token_bytes(CLOSED_SECRET_BYTES),
        authn_plugin=lock_of(flower),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(tls.authority),
        ssl_certfile=str(tls.certificate),
        ssl_keyfile=str(tls.key),
        database=str(flower / "state.db"),
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="Run Flower's SuperLink on loopback, locked.")
    parser.add_argument("flower", type=Path, help="its folder: certificates, state.db")
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    # Flower's older servers, which would open ports of their own.
    for name in (FLWR_INTERNAL_GRPC_CONTROL_API, FLWR_INTERNAL_GRPC_FLEET_API):
        os.environ.pop(name, None)
    config = configuration(arguments.flower, arguments.port)
    uvicorn.run(
        create_app(config, Lifespan),
        host=config.host,
        port=config.port,
        log_config=get_uvicorn_log_config(console_handler.level),
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
        workers=1,
    )


if __name__ == "__main__":
    main()
