"""Where the agents of one machine's home listen: in a short folder of their own, closed to others.

A socket's path may hold about 100 bytes (unix(7), ``sun_path``), and a home's may have more. So the
folder lies under the temporary one, is named for the home, and goes when the agents have ended.

    >>> where(Path("/srv/a")) == where(Path("/srv/b"))
    False
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from protocol.errors import ConfigurationError
from protocol.ids import SiteId
from storage.files import private_folder


class SocketFolderForeign(ConfigurationError):
    """The folder for a home's sockets is another user's."""

    code = "socket-folder-foreign"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"{folder} is not this user's alone, and agents would listen in it; remove it, or set "
            "TMPDIR to a folder of your own"
        )


def where(home: Path) -> Path:
    """Return the folder for a home's sockets, whether it is there or not."""
    name = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"bithive-{os.getuid()}-{name}"


def socket_of(home: Path, site: SiteId) -> Path:
    """Return where a site's agent listens; the folder is made.

    Raises:
        SocketFolderForeign: Somebody else made it before.
        StorageError: It cannot be made.
    """
    folder = private_folder(where(home))
    if not _is_ours(folder):
        raise SocketFolderForeign(folder)
    return folder / f"{site}.sock"


def remove_sockets(home: Path) -> None:
    """Remove the sockets of a home whose agents have ended, and their folder if nothing is left.

    What somebody else put in the folder's place, such as a link to another folder, is left alone.
    """
    folder = where(home)
    with contextlib.suppress(OSError):
        if not _is_ours(folder):
            return
        for one in folder.glob("*.sock"):
            one.unlink(missing_ok=True)
        folder.rmdir()


def _is_ours(folder: Path) -> bool:
    found = folder.lstat()
    mine = found.st_uid == os.getuid() and not found.st_mode & 0o077
    return mine and stat.S_ISDIR(found.st_mode)
