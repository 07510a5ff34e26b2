"""Two homes: the server's, which knows no patient, and a steward's, which can sign no epoch.

::

    SERVER/server/             registry.db and its key, enrolment.db, claims.db, mailbox.db, terms
    SERVER/market/             the books

    STEWARD/terms.json         the study's terms as the hospital accepted them
    STEWARD/sites/SITE/        keys, openings.db, invitations.db: who her patients are

A demonstration keeps all parties in one home; ``part`` gives a hospital's folder a home of its own.
The steward's commands take both: their own home, and the folder in which the server takes what they
send, on the same machine or mounted from it.

What holds (tests/portal/test_patient_homes.py):

1. Nothing in the server's home is a patient's number, pseudonym, name, code or opening.
2. Nothing in a steward's home signs an epoch or a receipt.
3. A steward works only for the terms that the hospital accepted: a server that changes them is
   refused.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Final

from portal.home import Home
from portal.local_actor import at_site
from portal.own_log import own_record
from portal.patient.mailbox import Mailbox
from portal.patient.server import open_group, read_terms
from portal.patient.steward import Steward
from portal.site_settings import keys_file
from privacy.signatures import registered
from protocol.canonical import canonical
from protocol.errors import ConfigurationError, storage_error
from protocol.ids import SiteId
from protocol.terms import StudyTerms
from storage.files import write_whole

TERMS: Final = "terms.json"


class StewardHomeTaken(ConfigurationError):
    """A folder that was to become a steward's home holds that hospital's files already."""

    code = "steward-home-taken"

    def __init__(self, path: Path, site: SiteId) -> None:
        self.path = path
        self.site = site
        super().__init__(f"{path} holds files of {site} already; give an empty or new folder")


class StewardHomeMissing(ConfigurationError):
    """A folder does not hold a hospital's files."""

    code = "steward-home-missing"

    def __init__(self, path: Path, site: SiteId) -> None:
        self.path = path
        self.site = site
        super().__init__(
            f"{path} holds no keys of {site}; give its steward's --home, or make one with "
            "`bithive patient part`"
        )


class StudyTermsDiffer(ConfigurationError):
    """The server's terms are not those that the hospital accepted."""

    code = "study-terms-differ"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(
            f"the server's study has other terms than {site} accepted; compare the two terms.json, "
            "and put the new ones into the steward's home only if the hospital agrees"
        )


def part(home: Home, site: SiteId, to: Path) -> Path:
    """Move a hospital's folder out of a shared home into a home of its own.

    Args:
        home: Where all parties are.
        site: The hospital.
        to: A new folder.

    Returns:
        Where the hospital's files are now.

    Raises:
        NoRunHere, SiteUnknown: The home has no such study or hospital.
        StewardHomeMissing: The hospital's files are not in it.
        StewardHomeTaken: There are some at ``to``.
        HomeBusy, StorageError: The move was not made.
    """
    terms = read_terms(home)
    registered(terms, site)
    source, target = home.path / "sites" / site, to / "sites" / site
    if not keys_file(source).is_file():
        raise StewardHomeMissing(home.path, site)
    if target.exists():
        raise StewardHomeTaken(to, site)
    with home.lock():
        write_whole(to / TERMS, canonical(terms))
        folder = Home(to).site(site)  # made closed to others
        half = folder.with_name(f".{site}.{secrets.token_hex(4)}")
        try:
            shutil.copytree(source, half)
            half.chmod(0o700)
            half.replace(folder)
            shutil.rmtree(source)
        except OSError as error:
            shutil.rmtree(half, ignore_errors=True)
            raise storage_error(error, str(to)) from error
    return folder


def open_steward(
    home: Path, site: SiteId, *, server: Path | None = None, user: str | None = None
) -> Steward:
    """Return a hospital's desk.

    Args:
        home: The steward's.
        site: The hospital.
        server: The server's home; None where both share one.
        user: Who stands at it, as the operating system calls her; by default the site's steward.

    Raises:
        NoRunHere, SiteUnknown: The server has no such study or hospital.
        StewardHomeMissing: The hospital's files are not in ``home``.
        StudyTermsDiffer: The hospital accepted other terms.
        StorageError: Something cannot be read.
    """
    door = Home(home if server is None else server)
    terms = read_terms(door)
    registered(terms, site)
    if not keys_file(home / "sites" / site).is_file():
        raise StewardHomeMissing(home, site)
    _check_accepted(home / TERMS, terms, site)
    folder = Home(home).site(site)
    return Steward(
        folder,
        site,
        terms=terms,
        mailbox=Mailbox(door.server / "mailbox.db"),
        group=open_group(door, terms),
        entropy=secrets.token_bytes,
        actor=None if user is None else at_site(folder, site, user),
        audit=own_record(folder),
    )


def others_in(home: Home) -> list[str]:
    """Return what a server's home should not hold: hospitals' folders, patients' papers."""
    sites = home.path.glob("sites/*")
    found = sorted(f"sites/{one.name}" for one in sites if keys_file(one).is_file())
    papers = any((home.path / "patients").glob("*"))
    return found + ["patients"] * papers


def _check_accepted(accepted: Path, terms: StudyTerms, site: SiteId) -> None:
    if accepted.is_file():
        try:
            held = accepted.read_bytes()
        except OSError as error:
            raise storage_error(error, accepted.name) from error
        if held != canonical(terms):
            raise StudyTermsDiffer(site)
