"""What the node remembers across a crash: its id, and the messages it has not answered yet.

The server hands a message out once. A node that died with it would leave the round waiting for its
deadline; so notice of it is kept in a file from when it came until the answer was brought or nobody
waits for it any more. What the message carries stays at the server meanwhile and is fetched again;
answers are not kept, because the agent gives the same bytes for the same request.

One process at a time works with a folder; that also is what makes it safe to go on under the id of
a node that the server still counts as running.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import IO, Final

from fl_client.node.errand import Errand
from protocol.errors import StorageError, storage_error
from storage.files import PRIVATE, private_folder, write_whole

SUFFIX: Final = ".errand"


class NodeBusy(StorageError):
    """Another process runs this site's node."""

    code = "node-busy"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"another process runs the node of {path}; stop it first, a site has one node"
        )


class Spool:
    """The folder of one node. ``close`` lets the next process in.

    Raises:
        NodeBusy: Another process has it.
        StorageFailed: It cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = private_folder(folder)
        self._lock = _locked(folder)

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()

    def node(self, address: str) -> int | None:
        """Return the id this site had at ``address``, where it is known."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads((self._folder / "node.json").read_bytes())
            return int(kept["node"]) if kept["address"] == address else None
        return None

    def set_node(self, address: str, node: int) -> None:
        """Remember the id this site has at ``address``."""
        if self.node(address) != node:
            content = json.dumps({"address": address, "node": node}).encode() + b"\n"
            write_whole(self._folder / "node.json", content, mode=PRIVATE)

    def keep(self, errand: Errand) -> None:
        """Keep notice of a message until ``forget``."""
        content = json.dumps(asdict(errand)).encode() + b"\n"
        write_whole(self._path(errand.message), content, mode=PRIVATE)

    def forget(self, errand: Errand) -> None:
        """Drop a message."""
        self._path(errand.message).unlink(missing_ok=True)

    def pending(self) -> list[Errand]:
        """Return the messages kept, oldest first; a file that cannot be read is dropped."""
        found = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            try:
                found.append(_read(path.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError):
                path.unlink(missing_ok=True)
        return sorted(found, key=lambda errand: errand.created_at)

    def _path(self, message: str) -> Path:
        # The id came from the network and must not name another place.
        return self._folder / f"{hashlib.sha256(message.encode()).hexdigest()}{SUFFIX}"


def _read(content: bytes) -> Errand:
    facts = json.loads(content)
    return Errand(objects=tuple(facts.pop("objects")), **facts)


def _locked(folder: Path) -> IO[bytes]:
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, PRIVATE)
    except OSError as error:
        raise storage_error(error, "the node's lock") from error
    file = os.fdopen(descriptor, "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise NodeBusy(folder) from None
    return file
