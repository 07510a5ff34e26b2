"""What a site does before it sends its request: make keys, and keep the request beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from identity.admission import stored_request
from identity.requests import SiteRequest, make_request
from identity.site_folder import SiteFolder
from protocol.canonical import canonical
from protocol.errors import IdentityError
from protocol.ids import SiteId
from storage.files import private_folder, write_whole


class SiteNameDiffers(IdentityError):
    """Keys of one site would take the place of another's."""

    code = "site-name-differs"

    def __init__(self, known: SiteId, asked: SiteId) -> None:
        self.known = known
        self.asked = asked
        super().__init__(
            f"this folder is that of {known}, not of {asked}; give the site's own folder"
        )


def prepare(
    home: Path,
    site: SiteId,
    *,
    now: datetime,
    entropy: Callable[[int], bytes],
    rotate: bool = False,
) -> tuple[SiteRequest, Path]:
    """Make a site's keys and its request; return the request and its file.

    What a killed call left is completed. A rotation that waits is answered with the request it has.

    Args:
        home: The site's own folder.
        site: The name it asks for.
        now: With its time zone.
        entropy: Gives so many random bytes.
        rotate: Make keys that will take the place of those in use, once they are admitted.

    Raises:
        SiteKeysThere: Keys and request are there, and ``rotate`` was not asked for.
        SiteKeysMissing: There is nothing to rotate.
        SiteNameDiffers: The keys to be rotated are another site's.
        StorageError: The disk refused.
    """
    folder = SiteFolder.of(home)
    if not rotate:
        return _keep(folder, make_request(site, folder.make(), now=now, entropy=entropy))
    known = stored_request(folder).site
    if known != site:
        raise SiteNameDiffers(known, site)
    previous = folder.load().site
    waiting = folder.next
    if waiting.request.exists():
        return stored_request(waiting), waiting.request
    # Whatever a killed call left here was never asked for.
    shutil.rmtree(waiting.path, ignore_errors=True)
    made = make_request(site, waiting.make(), now=now, entropy=entropy, previous=previous)
    return _keep(waiting, made)


def _keep(folder: SiteFolder, request: SiteRequest) -> tuple[SiteRequest, Path]:
    private_folder(folder.path)
    write_whole(folder.request, canonical(request) + b"\n")
    return request, folder.request
