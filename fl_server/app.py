"""The Flower ServerApp: it finds the server's folder and hands the grid to the engine.

The run's configuration names the folder (``home``), which an operator prepared: terms, keys,
registry, the model the study starts from. Rounds that are closed there stay closed; started again
on the same folder the engine goes on. After each round the app waits until the market has settled
it, because whoever settles lives in another process.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from consent.registry import Registry
from fl_server.engine import Engine
from fl_server.offering import read_offering
from fl_server.phases import Deadlines
from fl_server.store import ServerStore
from fl_server.transport import AGAIN_SECONDS, GridTransport, Transport
from privacy.parameters import parameter_set
from privacy.signatures import signing_key
from protocol.errors import ConfigurationError
from protocol.messages import RoundClosed
from protocol.progress import Progress, silent
from protocol.terms import StudyTerms
from zk.keys import VerificationKey, check_allowed

SETTLE_POLL_SECONDS: Final = 0.2
SETTLE_WAIT_SECONDS: Final = 600.0
OWN_BLOCK_BYTES: Final = 16 * 2**20
"""Blocks of this size and more are the system's, and go back to it when they are freed."""
KEPT_BYTES: Final = 256 * 2**20
"""Of freed memory this much is kept at most."""
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3

app = ServerApp()


class ServerFolderIncomplete(ConfigurationError):
    """The folder given to the server lacks something it needs."""

    code = "server-folder-incomplete"

    def __init__(self, folder: Path, missing: str) -> None:
        self.folder = folder
        super().__init__(
            f"the server folder {folder} lacks {missing}; found a study in it with `bithive study "
            "found`, or give the one that `bithive up` or `bithive demo` prepared"
        )


class NotSettled(ConfigurationError):
    """A closed round was not settled in time, so the next one was not begun."""

    code = "not-settled"

    def __init__(self, round_number: int) -> None:
        super().__init__(
            f"round {round_number} is closed and was not settled within "
            f"{SETTLE_WAIT_SECONDS:.0f} s; start the process that settles and run again"
        )


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study's remaining rounds over Flower's grid."""
    folder = Path(str(context.run_config["home"]))
    store = open_store(folder)

    def wait(closed: RoundClosed) -> None:
        wait_until_settled(store, closed)

    transport = GridTransport(grid, again=AGAIN_SECONDS)
    engine = assemble(folder, store, transport, after_close=wait)
    engine.resume = str(context.run_config.get("run", ""))
    keep_freed_memory()
    engine.run()


def keep_freed_memory() -> None:
    """Let this process use the blocks of one round again in the next, where the C library can.

    Models and uploads are blocks of megabytes. By default glibc gives them back to the system when
    they are freed, and the system clears every page of them when they are asked for again: a fifth
    of a round that trains nothing. Blocks above ``OWN_BLOCK_BYTES`` still go back at once.

    References:
        mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has its own ways
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, OWN_BLOCK_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def open_store(folder: Path) -> ServerStore:
    """Open the server's database.

    Raises:
        ServerFolderIncomplete: There is none.
    """
    path = folder / "server.db"
    if not path.is_file():
        raise ServerFolderIncomplete(folder, "server.db")
    return ServerStore(path)


def assemble(
    folder: Path,
    store: ServerStore,
    transport: Transport,
    *,
    after_close: Callable[[RoundClosed], None],
    progress: Progress = silent,
    deadlines: Deadlines | None = None,
) -> Engine:
    """Build the engine from what lies in the server's folder.

    Raises:
        ServerFolderIncomplete: A file is missing.
        DeadlinesUnusable: Its ``deadlines.json`` cannot be meant.
        DevelopmentKeyRefused: The proof key is a development key and the folder does not allow it.
    """
    terms = store.terms()
    if terms is None:
        raise ServerFolderIncomplete(folder, "the study's terms")
    key = signing_key(folder / "server.key")
    return Engine(
        terms=terms,
        store=store,
        registry=Registry.reader(folder / "registry.db"),
        transport=transport,
        verification_key=verification_key(folder, terms),
        signing_key=key,
        offering=read_offering(folder, terms, key.sign),
        parameters=parameter_set(terms.encryption),
        after_close=after_close,
        progress=progress,
        deadlines=deadlines or Deadlines.of(folder),
    )


def verification_key(folder: Path, terms: StudyTerms) -> VerificationKey:
    """Read the proof's verification key and see that it is the one the terms name.

    A development key serves only where the folder says so by a file ``allow-development-key``, and
    a ceremony's only where its transcript's hash is a line of the file ``allowed-ceremonies``.
    """
    path = folder / "verification_key.json"
    if not path.is_file():
        raise ServerFolderIncomplete(folder, path.name)
    key = VerificationKey.load(path)
    allowed = folder / "allowed-ceremonies"
    check_allowed(
        key,
        {terms.consent.key_hash},
        allow_development=(folder / "allow-development-key").is_file(),
        allowed_transcripts=allowed.read_text().split() if allowed.is_file() else (),
    )
    return key


def wait_until_settled(store: ServerStore, closed: RoundClosed) -> None:
    """Return once the market has settled ``closed``.

    Raises:
        NotSettled: It did not in ten minutes.
    """
    deadline = time.monotonic() + SETTLE_WAIT_SECONDS
    while True:
        stored = store.round(closed.round)
        if stored is not None and stored.settled:
            return
        if time.monotonic() > deadline:
            raise NotSettled(closed.round)
        time.sleep(SETTLE_POLL_SECONDS)
