"""Flower's SuperLink on loopback: its command, its environment, and calls of its control API.

It takes the control API's own client, ``ControlHttpClient`` of Flower 1.41; what of it is used is
pinned by tests/federation/test_front_door.py. Certificates of the loopback are signed by an
authority of their own, made anew for each deployment, whose key is thrown away, so that our own
programs speak to no other server. The port itself asks nobody who he is: every program on this
machine may call it, and whoever does can submit code (docs/threat-model.md).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from portal.certificates import ServerCertificates, make_certificates
from protocol.errors import FederationError
from storage.files import write_whole

ROOT: Final = Path(__file__).resolve().parent.parent.parent
FEDERATION: Final = "bithive"
START_RUN_SECONDS: Final = 300.0


class SuperLinkSilent(FederationError):
    """The SuperLink does not answer on its port of loopback, or not as it should."""

    code = "superlink-silent"

    def __init__(self, port: int, reason: str) -> None:
        self.port = port
        super().__init__(
            f"the SuperLink at 127.0.0.1:{port} does not answer ({reason}); see `bithive status`"
        )


@dataclass(frozen=True)
class Node:
    """A node as the SuperLink knows it; ``status`` is Flower's word."""

    id: int
    public_key: bytes
    status: str


@dataclass(frozen=True)
class FlowerRun:
    """A run as the SuperLink knows it."""

    id: int
    status: str
    sub_status: str

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status == "finished"


def certificates_of(flower: Path) -> ServerCertificates:
    """Return the SuperLink's certificates, made once for a deployment and renewed with each."""
    return make_certificates(flower / "certificates")


def paths_of(flower: Path) -> ServerCertificates:
    """Return where ``certificates_of`` has put them."""
    folder = flower / "certificates"
    return ServerCertificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")


def environment(flower: Path) -> dict[str, str]:
    """Return what Flower's processes are told: nothing calls home or installs anything."""
    return {
        "FLWR_HOME": str(flower.resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def superlink_command(flower: Path, port: int) -> tuple[str, ...]:
    """Return the command that starts the SuperLink on loopback, with TLS and registered nodes."""
    tls = paths_of(flower)
    return (
        str(Path(sys.executable).parent / "flower-superlink"),
        *("--ssl-ca-certfile", str(tls.authority.resolve())),
        *("--ssl-certfile", str(tls.certificate.resolve())),
        *("--ssl-keyfile", str(tls.key.resolve())),
        "--enable-supernode-auth",
        *("--database", str((flower / "state.db").resolve())),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        "--disable-runtime-dependency-installation",
    )


def write_connection(flower: Path, port: int) -> None:
    """Tell the ``flwr`` command where the SuperLink is."""
    text = (
        f'[superlink.{FEDERATION}]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{paths_of(flower).authority.resolve()}"\n'
    )
    write_whole(flower / "config.toml", text.encode())


class Control:
    """The SuperLink's control API, as far as a deployment needs it."""

    def __init__(self, client: ControlHttpClient, port: int) -> None:
        self._client = client
        self._port = port

    def nodes(self) -> list[Node]:
        """Return the registered nodes; Flower goes on listing those that were put out."""
        with self._named():
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        nodes = [Node(one.node_id, bytes(one.public_key), str(one.status)) for one in found]
        return [one for one in nodes if one.status != NodeStatus.UNREGISTERED]

    def register(self, public_key: bytes, name: str) -> None:
        """Let the holder of a key in, given as Flower's bytes."""
        with self._named():
            self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))

    def unregister(self, node: int) -> None:
        """Let a node in no more."""
        with self._named():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def runs(self) -> list[FlowerRun]:
        """Return all runs, in the order of their numbers."""
        with self._named():
            found = self._client.ListRuns(ListRunsRequest()).run_dict
        return [
            FlowerRun(number, run.status.status, run.status.sub_status)
            for number, run in sorted(found.items())
        ]

    def stop(self, run: int) -> None:
        """End a run."""
        with self._named():
            self._client.StopRun(StopRunRequest(run_id=run))

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise SuperLinkSilent(self._port, type(error).__name__) from error


@contextmanager
def control(flower: Path, port: int) -> Iterator[Control]:
    """Open the control API of the SuperLink whose folder is ``flower``."""
    client = ControlHttpClient.from_server_address(
        f"127.0.0.1:{port}",
        insecure=False,
        root_certificates=str(paths_of(flower).authority),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        yield Control(client, port)
    finally:
        client.close()


def node_bytes(openssh: bytes) -> bytes:
    """Return a node's public key as Flower keeps it, from OpenSSH's form."""
    return bytes(public_key_to_bytes(load_ssh_public_key(openssh)))


def start_run(flower: Path, log: Path, configuration: dict[str, str]) -> None:
    """Submit this repository's apps as a new Flower run.

    Raises:
        SuperLinkSilent: It was not taken; the log says why.
    """
    pairs = " ".join(f"{key}='{value}'" for key, value in configuration.items())
    with log.open("ab") as file:
        done = subprocess.run(  # noqa: S603  # our own command
            [str(Path(sys.executable).parent / "flwr"), "run", str(ROOT), FEDERATION, "-c", pairs],
            cwd=ROOT,
            env={**os.environ, **environment(flower)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=START_RUN_SECONDS,
        )
    if done.returncode != 0:
        raise SuperLinkSilent(0, f"`flwr run` ended with {done.returncode}; its log is {log}")
