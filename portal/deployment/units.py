"""What a process of the deployment is: its command, what it waits for, and when it is ready.

A unit says nothing of how it is supervised. ``Ready`` is asked from outside and never blocks for
more than a fraction of a second, so that one supervisor can watch many.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

CONNECT_SECONDS: Final = 0.2
LOOPBACK: Final = "127.0.0.1"


class Ready(Protocol):
    """Says from outside whether a process serves."""

    def __call__(self) -> bool:
        """Look once."""
        ...


@dataclass(frozen=True)
class PortOpen:
    """Ready when something listens on this port, of loopback where no address is named."""

    port: int
    address: str = LOOPBACK

    def __call__(self) -> bool:
        """Connect once."""
        with contextlib.suppress(OSError):
            socket.create_connection((self.address, self.port), CONNECT_SECONDS).close()
            return True
        return False


@dataclass(frozen=True)
class SocketOpen:
    """Ready when something listens on this Unix socket."""

    path: Path

    def __call__(self) -> bool:
        """Connect once."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_SECONDS)
            with contextlib.suppress(OSError):
                probe.connect(str(self.path))
                return True
        return False


@dataclass(frozen=True)
class FileThere:
    """Ready when the process has written this file; it is removed before each start."""

    path: Path

    def __call__(self) -> bool:
        """Look once."""
        return self.path.is_file()


@dataclass(frozen=True)
class AtOnce:
    """Ready as soon as it is started."""

    def __call__(self) -> bool:
        """Say so."""
        return True


@dataclass(frozen=True)
class Unit:
    """One process.

    ``after`` names units that must be ready before this one is first started; ``reload_on`` names
    files at whose change it gets SIGHUP; ``ends`` says that exit code 0 means done, not crashed.
    """

    name: str
    command: tuple[str, ...]
    ready: Ready = AtOnce()
    after: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    reload_on: tuple[Path, ...] = ()
    address: str = ""
    ends: bool = False
    start_seconds: float = 300.0


def in_order(units: Iterable[Unit]) -> tuple[Unit, ...]:
    """Return the units so that each comes after those it waits for.

    >>> [unit.name for unit in in_order([Unit("b", (), after=("a",)), Unit("a", ())])]
    ['a', 'b']
    """
    left = {unit.name: unit for unit in units}
    known = set(left)
    placed: dict[str, Unit] = {}
    while left:
        free = [
            unit
            for unit in left.values()
            if all(one in placed for one in unit.after if one in known)
        ]
        assert free, f"units wait for each other: {', '.join(sorted(left))}"
        for unit in free:
            placed[unit.name] = left.pop(unit.name)
    return tuple(placed.values())
