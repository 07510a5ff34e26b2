"""Where a run's events come from: a home's database, opened to read, or another's live server.

A home is opened anew for every look and read in one short transaction, so a watcher holds up
neither the engine's writes nor the database's housekeeping. Nothing can be written through what is
opened here: SQLite is told so (``mode=ro``).

What holds (tests/portal/test_live_source.py):

1. A home is watched from before its run is founded until after it ended, and no byte of it changes.
2. What is read while the engine writes is a beginning of all events, never one with a gap.
3. A reader of a server whose connection breaks gets every event once, in order, also where the
   server is away for minutes: it asks again, each time later, from the last event that it saw.
"""

from __future__ import annotations

import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from fl_server.database import VERSION, ServerDatabase, ServerDatabaseVersion
from fl_server.live import RunEvents
from fl_server.tables import EVENTS, SCHEMA, STUDY
from portal.books import NoRunHere
from portal.home import Home
from portal.live.events import LiveEvent, public
from portal.live.stream import BATCH, HEARTBEAT_SECONDS, MEDIA_TYPE, events_of, is_last
from protocol.canonical import digest
from protocol.errors import ConfigurationError, FederationError
from protocol.terms import StudyTerms
from storage.database import name_of

WAIT_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 3 * HEARTBEAT_SECONDS
"""A connection without even a heartbeat for so long is dead."""
TRIES_AGAIN: Final = 120
"""In a row, once a server has answered: some ten minutes."""
RUN_DIGITS: Final = 16


class LiveServerSilent(FederationError):
    """A live server does not answer, or breaks off again and again."""

    code = "live-server-silent"

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        super().__init__(
            f"no events come from {url} ({reason}); see that `bithive live serve` runs there, or "
            "watch a home with --home"
        )


class LiveAddressInvalid(ConfigurationError):
    """The address given is none of a live server."""

    code = "live-address-invalid"

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} is no address to watch; give one as http://127.0.0.1:8480")


class ReadOnlyDatabase(ServerDatabase):
    """A server's database that is only looked at: no table is made in it and no lock is taken."""

    def _prepare(self) -> None:
        with self.reading() as connection:
            tables = set(sa.inspect(connection).get_table_names())
            if SCHEMA.name not in tables:
                if "rounds" in tables:
                    raise ServerDatabaseVersion(name_of(self.engine), 1)
                self.is_ready = False  # just being made
                return
            found = connection.execute(sa.select(SCHEMA.c.version)).scalar_one_or_none()
        if found not in (None, VERSION):
            raise ServerDatabaseVersion(name_of(self.engine), found)
        self.is_ready = found is not None and EVENTS.name in tables

    is_ready: bool


class HomeSource:
    """The run in a home; a home whose run is not founded yet has no events so far."""

    def __init__(self, home: Home) -> None:
        """Watch a home.

        Raises:
            NoRunHere: The folder is not there, or is no run's.
        """
        if home.settings() is None and not (home.server / "terms.json").is_file():
            raise NoRunHere(home.path)
        self._path = home.server / "server.db"
        self._file = 0
        self._database: ReadOnlyDatabase | None = None
        self._terms: StudyTerms | None = None

    def since(self, position: int, *, limit: int) -> Sequence[LiveEvent]:
        """Return at most ``limit`` events after ``position``, in order.

        Raises:
            ServerDatabaseVersion: Another version wrote the run.
            StorageError: The database cannot be read.
        """
        terms = self.terms()
        if terms is None or self._database is None:
            return []
        events = RunEvents(self._database).since(position, limit=limit)
        sites = {one.site for one in terms.sites}
        return [public(event, rounds=terms.rounds, sites=sites) for event in events]

    def newest(self) -> int:
        """Return the last event's position, 0 where there is none."""
        if self.terms() is None or self._database is None:
            return 0
        return RunEvents(self._database).last()

    def terms(self) -> StudyTerms | None:
        """Return the study's terms, None while the run is not founded."""
        self._look()
        if self._terms is None and self._database is not None:
            with self._database.reading() as connection:
                text = connection.execute(sa.select(STUDY.c.terms)).scalar_one_or_none()
            self._terms = None if text is None else StudyTerms.model_validate_json(text)
        return self._terms

    def run(self) -> str | None:
        """Return the run's id, None while it is not founded."""
        terms = self.terms()
        return None if terms is None else digest(terms)[:RUN_DIGITS]

    def _look(self) -> None:
        """Open the database once it is ready; another file in its place is another run."""
        file = self._path.stat().st_ino if self._path.is_file() else 0
        if file != self._file:
            self._database, self._terms, self._file = None, None, 0
        if file and self._database is None:
            database = ReadOnlyDatabase(_read_only(self._path))
            if database.is_ready:
                self._database, self._file = database, file


class ServerSource:
    """The events of a live server, taken up where they broke off."""

    def __init__(
        self,
        url: str,
        *,
        tries: int = 10,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Watch a server's run.

        Args:
            url: Of the server (its first run is watched), or of a run's page.
            tries: How often in a row to connect in vain, before anything was heard; a server that
                was there is given ``TRIES_AGAIN``, as a machine takes to start anew.
            sleep: Waits so many seconds.

        Raises:
            LiveAddressInvalid: It is no address.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise LiveAddressInvalid(url)
        path = parts.path.rstrip("/") or "/runs/now"
        self.url = f"{parts.scheme}://{parts.netloc}{path.removesuffix('/events')}/events"
        self._tries = tries
        self._sleep = sleep

    def follow(self) -> Iterator[LiveEvent | None]:
        """Yield events until the run is finished; None where a heartbeat came.

        Raises:
            LiveServerSilent: It does not answer.
            LiveEventUnreadable: What came is no event.
        """
        position, failed, tries = 0, 0, self._tries
        while True:
            reason = "the connection broke"
            try:
                for event in self._read(position):
                    failed, tries = 0, max(self._tries, TRIES_AGAIN)
                    yield event
                    if event is None:
                        continue
                    position = event.position
                    if is_last(event):
                        return
            except OSError as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            failed += 1
            if failed >= tries:
                raise LiveServerSilent(self.url, reason)
            self._sleep(min(0.25 * 2**failed, WAIT_SECONDS))

    def _read(self, position: int) -> Iterator[LiveEvent | None]:
        request = urllib.request.Request(self.url)  # noqa: S310  # its scheme was looked at
        request.add_header("Accept", MEDIA_TYPE)
        if position:
            request.add_header("Last-Event-ID", str(position))
        with closing(urllib.request.urlopen(request, timeout=SILENT_SECONDS)) as answer:  # noqa: S310
            if answer.headers.get_content_type() == MEDIA_TYPE:
                for event in events_of(answer):
                    # A server that begins again before what was seen has nothing new to say.
                    if event is None or event.position > position:
                        yield event


def follow_home(
    source: HomeSource, *, poll_seconds: float, sleep: Callable[[float], None] = time.sleep
) -> Iterator[LiveEvent | None]:
    """Yield a home's events until the run is finished; None after each look that found nothing."""
    position = 0
    while True:
        events = source.since(position, limit=BATCH)
        for event in events:
            position = event.position
            yield event
            if is_last(event):
                return
        if not events:
            yield None
            sleep(poll_seconds)


def _read_only(path: Path) -> sa.Engine:
    """Return an engine that cannot write, and keeps no connection between looks."""
    address = f"{path.resolve().as_uri()}?mode=ro"

    def connect() -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(address, uri=True, timeout=WAIT_SECONDS)
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        except sqlite3.OperationalError:
            if Path(f"{path}-wal").exists():
                raise
            # Nobody has it open and its folder is not ours: nothing changes while we look.
            connection = sqlite3.connect(f"{address}&immutable=1", uri=True, timeout=WAIT_SECONDS)
        return connection

    return sa.create_engine(f"sqlite:///{path}", creator=connect, poolclass=NullPool)
