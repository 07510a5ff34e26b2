"""Flower's SuperLink on loopback: its command, its environment, and calls of its control API.

It takes the control API's own client, ``ControlHttpClient`` of Flower 1.41; what of it is used is
pinned by tests/federation/test_front_door.py. Certificates of the loopback are signed by an
authority of their own, made anew for each deployment, whose key is thrown away, so that our own
programs speak to no other server. With them a secret is made, which each call shows
(``control_lock``): the port is on loopback, where every account and container of this machine could
otherwise submit code.

A run is started by a call of our own, with the bundle that Flower's builder makes. ``flwr run``
would make the same call, but reads its token from a store of credentials whose format and place are
Flower's to change, renews it by a login that we have not, and costs the start of another process.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from portal.certificates import ServerCertificates, make_certificates
from portal.deployment.control_lock import ControlSecretUnfit, ShowSecret, make_secret, read_secret
from protocol.errors import FederationError

ROOT: Final = Path(__file__).resolve().parent.parent.parent


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


def make_trust(flower: Path) -> None:
    """Make the SuperLink's certificates and the secret of its control API, anew where they were."""
    make_certificates(flower / "certificates")
    make_secret(flower)


def paths_of(flower: Path) -> ServerCertificates:
    """Return where ``make_trust`` puts the certificates."""
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
    """Return the command that starts the SuperLink on loopback, locked (``superlink_process``)."""
    module = "portal.deployment.superlink_process"
    return (sys.executable, "-m", module, str(flower.resolve()), str(port))


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

    def start(self, bundle: bytes, configuration: Mapping[str, str | int]) -> int:
        """Submit an app as a new run; return the run's number."""
        request = StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})),
            override_config=user_config_to_proto({**configuration}),
        )
        with self._named():
            answer = self._client.StartRun(request)
        if not answer.HasField("run_id"):
            raise SuperLinkSilent(self._port, "it took no run; its log says why")
        return int(answer.run_id)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as error:
            reason = f"it answers {error.response.status_code}"
            if error.response.status_code == httpx.codes.UNAUTHORIZED:
                reason = "it knows another secret than the one in its folder; start it again"
            raise SuperLinkSilent(self._port, reason) from error
        except httpx.HTTPError as error:
            raise SuperLinkSilent(self._port, type(error).__name__) from error


@contextmanager
def control(flower: Path, port: int) -> Iterator[Control]:
    """Open the control API of the SuperLink whose folder is ``flower``.

    Raises:
        SuperLinkSilent: It was not started yet, or does not answer.
    """
    client = ControlHttpClient.from_server_address(
        f"127.0.0.1:{port}",
        insecure=False,
        root_certificates=str(paths_of(flower).authority),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
            ShowSecret(_secret(flower, port)),
        ],
    )
    try:
        yield Control(client, port)
    finally:
        client.close()


def node_bytes(openssh: bytes) -> bytes:
    """Return a node's public key as Flower keeps it, from OpenSSH's form."""
    return bytes(public_key_to_bytes(load_ssh_public_key(openssh)))


def start_run(
    flower: Path, port: int, configuration: Mapping[str, str | int], *, app: Path = ROOT
) -> int:
    """Submit an app as a new Flower run; return the run's number.

    Args:
        flower: The SuperLink's folder.
        port: Its port on loopback.
        configuration: Overrides what the app's ``pyproject.toml`` has as its configuration.
        app: The folder with ``pyproject.toml``; this repository.

    Raises:
        SuperLinkSilent: It was not taken.
    """
    from flwr.cli.build import (  # noqa: PLC0415  # it brings Flower's whole command line
        build_fab_from_disk,
    )

    with control(flower, port) as superlink:
        return superlink.start(build_fab_from_disk(app), configuration)


def _secret(flower: Path, port: int) -> str:
    try:
        return read_secret(flower)
    except (FileNotFoundError, ControlSecretUnfit) as error:
        reason = str(error) if isinstance(error, ControlSecretUnfit) else "it has no secret yet"
        raise SuperLinkSilent(port, reason) from error
