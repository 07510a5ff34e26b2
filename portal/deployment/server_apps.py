"""Claim the ServerApps that wait in a SuperLink, and start a process for each.

Flower's own way is a helper process, ``flower-superexec``, that claims tasks over the runtime API.
On the SuperLink's port that call asks for nothing, and the token with which a task may call the
federation's nodes stands on the command line of the process it is given to, for every account of
the machine to read. Here the SuperLink claims tasks itself, without its port, and hands each token
to its ``flwr-serverapp`` in a file without a name.

What holds, each line a test in tests/portal/deployment/test_server_apps.py:

1. Only ServerApps are claimed; other kinds of task wait for ever, and run nothing here.
2. A task's token is on no command line and in no environment.
3. A claim that fails is tried again; it ends neither the SuperLink nor the claiming.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.constant import TaskType

log = logging.getLogger("bithive.superlink")
LOOK_SECONDS: Final = 1.0
"""Between looks for a ServerApp to start; one study starts one."""

Claim = Callable[[AcquireTaskRequest], AcquireTaskResponse]


class ServerApps:
    """The ServerApps' processes of one SuperLink, started from a thread of its own.

    Args:
        claim: Takes the oldest task of the kinds asked for; Flower's handler of the runtime API.
        address: Where the SuperLink listens, ``127.0.0.1:PORT``.
        authority: Certificate of what signed the SuperLink's.
        program: Flower's ``flwr-serverapp``; another one in tests.
    """

    def __init__(
        self, claim: Claim, address: str, authority: Path, program: tuple[str, ...] = ()
    ) -> None:
        self._claim = claim
        self._address = address
        self._authority = authority
        self._program = program or (str(Path(sys.executable).parent / "flwr-serverapp"),)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="server-apps", daemon=True)
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Begin to look, a while from now: the SuperLink's port opens meanwhile."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more, and ask what runs to end."""
        self._stopped.set()
        self._thread.join()
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    def _keep(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception:
                # Whatever Flower's store has: without this thread no study would start any more.
                log.exception("no ServerApp could be claimed or started; looking again")

    def look(self) -> None:
        """Claim a ServerApp if one waits, and start it; forget those that ended."""
        self._running = [one for one in self._running if one.poll() is None]
        claimed = self._claim(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        if claimed.token:
            self._running.append(self._launch(claimed.token))

    def _launch(self, token: str) -> subprocess.Popen[bytes]:
        # The file has no name; who is given it as standard input can open it, and nobody else.
        with tempfile.TemporaryFile() as file:
            file.write(token.encode())
            file.flush()
            return subprocess.Popen(  # noqa: S603  # Flower's own command
                (
                    *self._program,
                    *("--runtime-api-address", self._address),
                    *("--token-file", "/dev/stdin"),
                    *("--root-certificates", str(self._authority)),
                    *("--parent-pid", str(os.getpid())),
                ),
                stdin=file,
                stdout=subprocess.DEVNULL,  # its words go to the SuperLink's store
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a signal to the SuperLink's group is not for it
            )
