"""A home's chain: where its files are, a development node (anvil), who signs, what settles.

::

    HOME/chain/key.json          the custody account's key, encrypted (mode 0600)
    HOME/chain/password          its password, where `bithive chain up` made the key (mode 0600)
    HOME/chain/deployment.json   what stands where
    HOME/chain/anvil.json        the development node that runs: process, address
    HOME/chain/state.json        its chain, kept while it is down
    HOME/chain/claims.json       the newest root's leaves, with the paths for claimers (mode 0600)
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import ledger.chain
from ledger.books import Ledger
from ledger.chain.adapter import BATCH_MAX, Adapter
from ledger.chain.deployment import open_deployment, read_deployment
from ledger.chain.keystore import address_in, create_keystore, open_keystore, read_password
from ledger.chain.node import Node, NodeUnreachable, connect, http_transport
from ledger.chain.outbox import Outbox
from ledger.chain.sender import Limits, Sender
from ledger.chain.signer import RemoteSigner, Signer
from protocol.errors import ConfigurationError, FederationError, storage_error
from storage.files import PRIVATE, private_folder, write_whole

DEFAULT_NODE: Final = "http://127.0.0.1:8545"
DEVELOPMENT_CHAIN: Final = 31_337
DEVELOPMENT_CONFIRMATIONS: Final = 2
BLOCK_SECONDS: Final = 3
STATE_SECONDS: Final = 10
"""How often anvil writes its chain down, so that a killed one loses little."""
GAS_MONEY: Final = 1_000 * 10**18
START_SECONDS_MAX: Final = 120
PACKAGE: Final = "@foundry-rs/anvil-linux-amd64"


class AnvilMissing(ConfigurationError):
    """There is no anvil to start."""

    code = "anvil-missing"

    def __init__(self) -> None:
        super().__init__(
            "anvil is not installed; run `npm ci --ignore-scripts` in ledger/chain, or put anvil "
            "on the PATH"
        )


class AnvilNotStarted(FederationError):
    """Anvil ended, or did not answer, when it was started."""

    code = "anvil-not-started"

    def __init__(self, log: Path) -> None:
        self.log = log
        super().__init__(f"anvil did not start; see {log}, and try another --port")


@dataclass(frozen=True)
class ChainHome:
    """The paths of a home's chain."""

    home: Path

    @property
    def folder(self) -> Path:
        """Where all of it is, closed to other users."""
        return private_folder(self.home / "chain")

    @property
    def key(self) -> Path:
        """The encrypted key of the custody account."""
        return self.folder / "key.json"

    @property
    def password(self) -> Path:
        """The password of a key that was made for development."""
        return self.folder / "password"

    @property
    def deployment(self) -> Path:
        """What stands where."""
        return self.folder / "deployment.json"

    @property
    def claims(self) -> Path:
        """The newest root's leaves and paths."""
        return self.folder / "claims.json"

    @property
    def running(self) -> Path:
        """Which development node runs."""
        return self.folder / "anvil.json"

    @property
    def state(self) -> Path:
        """The development node's chain."""
        return self.folder / "state.json"

    def node_url(self, given: str | None) -> str:
        """Return the node that was named, else the one that runs here, else the usual place."""
        if given is not None:
            return given
        found = running(self)
        return DEFAULT_NODE if found is None else str(found["node"])


def find_anvil() -> str:
    """Return the path of anvil: on the PATH, or of the npm package in ``ledger/chain``.

    Raises:
        AnvilMissing: It is in neither place.
    """
    here = Path(next(iter(ledger.chain.__path__)))
    packaged = here / "node_modules" / PACKAGE / "bin" / "anvil"
    found = shutil.which("anvil") or (str(packaged) if os.access(packaged, os.X_OK) else None)
    if found is None:
        raise AnvilMissing
    return found


def start_anvil(
    chain: ChainHome, *, port: int, block_seconds: int = BLOCK_SECONDS
) -> dict[str, Any]:
    """Start the development node, or return the one that runs; its chain is kept in the home.

    The custody account gets a key, if it has none, and test money to pay gas with.

    Raises:
        AnvilMissing, AnvilNotStarted: It cannot be started.
        StorageError: The disk refused.
    """
    found = running(chain)
    if found is not None:
        return found
    program = find_anvil()
    if not chain.key.exists():
        make_development_key(chain)
    words = [program, "--port", str(port), "--block-time", str(block_seconds)]
    words += ["--chain-id", str(DEVELOPMENT_CHAIN), "--accounts", "1", "--balance", "0"]
    words += ["--state", str(chain.state), "--state-interval", str(STATE_SECONDS)]
    # Older states answer too, which a settlement asks about (whether a payment stays).
    words += ["--preserve-historical-states", "--silent"]
    log = chain.folder / "anvil.log"
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - the program was found above
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise storage_error(error, log.name) from error
    started: dict[str, Any] = {
        "pid": process.pid,
        "node": f"http://127.0.0.1:{port}",
        "state": str(chain.state),
    }
    write_whole(chain.running, json.dumps(started).encode(), mode=PRIVATE)
    node = _wait_for(started["node"], process, log)
    custody = address_in(chain.key)
    if node.balance(custody) < GAS_MONEY:
        node.transport("anvil_setBalance", ["0x" + custody.hex(), hex(GAS_MONEY)])
    return started


def stop_anvil(chain: ChainHome) -> bool:
    """Stop the development node; say whether one ran. Its chain stays in the home."""
    found = running(chain)
    if found is None:
        return False
    os.kill(found["pid"], signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS_MAX
    while running(chain) is not None and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(found["pid"], os.WNOHANG)
        time.sleep(0.1)
    chain.running.unlink(missing_ok=True)
    return True


def running(chain: ChainHome) -> dict[str, Any] | None:
    """Return the development node that runs for this home, if one does."""
    try:
        found: dict[str, Any] = json.loads(chain.running.read_bytes())
        words = Path(f"/proc/{found['pid']}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, KeyError):
        return None
    # The number may be another process's by now.
    return found if str(found["state"]).encode() in words else None


def make_development_key(chain: ChainHome) -> None:
    """Make a key for the custody account, and a password for it beside it."""
    password = secrets.token_urlsafe(32)
    write_whole(chain.password, f"{password}\n".encode(), mode=PRIVATE)
    create_keystore(chain.key, password)


def open_signer(chain: ChainHome, *, password: str | None, signer: str | None) -> Signer:
    """Return who signs: the key of the home, or a signer elsewhere for the same address.

    Args:
        chain: The home's chain.
        password: Where the password is (``file:PATH``, ``env:NAME``, ``stdin``); the home's own
            file if nothing is said.
        signer: ``unix:PATH`` or an HTTP address of a signer that holds the key instead.

    Raises:
        PasswordUnusable, KeystoreUnreadable, SecretExposed: The key cannot be opened.
        DeploymentMissing: A signer is elsewhere and nobody knows for which address.
    """
    if signer is not None:
        known = chain.deployment.exists() or not chain.key.exists()
        custody = read_deployment(chain.deployment).custody if known else address_in(chain.key)
        return RemoteSigner(custody, signer)
    source = password or f"file:{chain.password}"
    word = read_password(source, stdin=sys.stdin, environment=os.environ)
    return open_keystore(chain.key, word)


def open_sender(books: Ledger, node: Node, signer: Signer, limits: Limits) -> Sender:
    """Return what sends the books' transactions."""
    return Sender(node, signer, Outbox(books.engine), limits)


def open_adapter(
    books: Ledger, chain: ChainHome, sender: Sender, *, batch: int = BATCH_MAX
) -> Adapter:
    """Return what settles the books to the home's deployment.

    Raises:
        DeploymentMissing, DeploymentDiffers, ChainDiffers: It is not what stands on the chain.
    """
    deployment = open_deployment(chain.deployment, sender.node)
    return Adapter(books, deployment, sender, batch=batch)


def open_node(url: str) -> Node:
    """Return the node at ``url``.

    Raises:
        NodeUnreachable: It does not answer.
    """
    parts = urlsplit(url)
    # Neither the path nor what stands before an @: either may be a key.
    name = f"the node at {parts.hostname}" + (f":{parts.port}" if parts.port else "")
    return connect(http_transport(url), name=name)


def depth_on(node: Node, asked: int | None) -> int:
    """Return after how many blocks a transaction is final, where nobody says: by the chain."""
    if asked is not None:
        return asked
    here = node.chain_id == DEVELOPMENT_CHAIN
    return DEVELOPMENT_CONFIRMATIONS if here else Limits.confirmations


def clock() -> datetime:
    """Return the time to record."""
    return datetime.now(UTC)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> Node:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(NodeUnreachable):
            return open_node(url)
        time.sleep(0.1)
    process.kill()
    raise AnvilNotStarted(log)
