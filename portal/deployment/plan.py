"""What a deployment is made of: its sites, its ports, and where each of its files lies.

::

    HOME/deployment/deployment.json   this plan; lock, state.json, logs/ of the supervisor
    HOME/deployment/flower/           Flower's folder: state.db, certificates of the loopback
    HOME/deployment/front/            nginx: nginx.conf, run/, access.log, server.crt, server.key
    HOME/operator/authority/          the consortium's authority, its list of revoked certificates
    HOME/sites/SITE/identity/         what a site made and was admitted with

Everything is on one machine here and each party still only in its own part. On separate machines
the same files lie where ``deploy/`` says.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from identity.site_folder import SiteFolder
from portal.agent_sockets import socket_of
from portal.home import Home
from protocol.errors import ConfigurationError
from protocol.ids import SiteId
from storage.files import PRIVATE, private_folder, write_whole

LOOPBACK: Final = "127.0.0.1"
EVERYWHERE: Final = frozenset({"0.0.0.0"})  # noqa: S104  # compared with, not bound


class PortTaken(ConfigurationError):
    """The port that hospitals are to reach is in use by another program."""

    code = "port-taken"

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(
            f"port {port} is in use by another program; give another one with --port, or see who "
            "has it with `bithive doctor`"
        )


class NothingDeployed(ConfigurationError):
    """The home holds no deployment."""

    code = "nothing-deployed"

    def __init__(self, home: Path) -> None:
        self.home = home
        super().__init__(f"{home} holds no deployment; make one with `bithive up`, or give --home")


class DeploymentDiffers(ConfigurationError):
    """The home holds a deployment with other settings than those asked for."""

    code = "deployment-differs"

    def __init__(self, home: Path, differing: list[str]) -> None:
        self.differing = differing
        super().__init__(
            f"{home} holds a deployment with another {', '.join(differing)}; run `bithive down` "
            "first and then `bithive up` with the new one"
        )


@dataclass(frozen=True)
class Plan:
    """Everything that decides which processes run and where they listen.

    ``port`` is the front door's; the other ports are on loopback. ``listen`` is the address the
    front door listens on, ``server_name`` what its certificate says. ``home`` is made absolute: the
    processes of a deployment work in a folder other than that of whoever ran ``bithive up``.
    """

    home: Path
    sites: tuple[SiteId, ...]
    port: int
    superlink_port: int
    page_port: int
    live_port: int
    listen: str = LOOPBACK
    server_name: str = "localhost"
    officer_ports: tuple[int, ...] = ()
    """Of the officers' pages, in the order of the sites."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "home", self.home.resolve())
        object.__setattr__(self, "officer_ports", tuple(self.officer_ports))

    @property
    def officers(self) -> dict[SiteId, int]:
        """The port of each site's page for its officer."""
        return dict(zip(self.sites, self.officer_ports, strict=False))

    @property
    def reached(self) -> str:
        """The address at which this machine itself reaches the front door."""
        return LOOPBACK if self.listen in EVERYWHERE else self.listen

    @property
    def folder(self) -> Path:
        """The supervisor's folder."""
        return folder_of(self.home)

    @property
    def flower(self) -> Path:
        """The SuperLink's folder."""
        return private_folder(self.folder / "flower")

    @property
    def front(self) -> Path:
        """Nginx's folder."""
        return private_folder(self.folder / "front")

    @property
    def operator(self) -> Path:
        """The operator's folder."""
        return private_folder(self.home / "operator")

    @property
    def authority(self) -> Path:
        """The consortium's certificate authority."""
        return private_folder(self.operator / "authority")

    @property
    def server(self) -> Path:
        """The folder of the study's server."""
        return Home(self.home).server

    def site(self, site: SiteId) -> Path:
        """One hospital's folder."""
        return Home(self.home).site(site)

    def identity(self, site: SiteId) -> SiteFolder:
        """One hospital's keys and certificates."""
        return SiteFolder.of(self.site(site))

    def agent(self, site: SiteId) -> Path:
        """Where a site's agent listens: not in the home, as a socket's path must be short."""
        return socket_of(self.home, site)

    def save(self) -> None:
        """Write the plan."""
        kept = {**asdict(self), "home": str(self.home), "sites": list(self.sites)}
        content = json.dumps(kept, indent=1).encode() + b"\n"
        write_whole(self.folder / "deployment.json", content, mode=PRIVATE)

    @classmethod
    def load(cls, home: Path) -> Plan:
        """Read the plan of ``home``, wherever that folder lay when the plan was written.

        Raises:
            NothingDeployed: There is none.
        """
        file = folder_of(home) / "deployment.json"
        if not file.is_file():
            raise NothingDeployed(home)
        kept = json.loads(file.read_text())
        sites = tuple(SiteId(site) for site in kept.pop("sites"))
        return cls(**{**kept, "home": home, "sites": sites})


def folder_of(home: Path) -> Path:
    """Return the supervisor's folder of a home, whether it is there or not."""
    return home / "deployment"


def is_free(port: int, address: str = LOOPBACK) -> bool:
    """Say whether ``port`` could be listened on now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
