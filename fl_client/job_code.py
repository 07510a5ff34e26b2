r"""The code that comes with a job: one zip of Python sources that every reader reads alike.

An officer approves a hash after she has read what it stands for. So there must be one reading only.
A zip can be made to show one file to her program and another to Python; here a bundle is accepted
only if packing its files again gives the very same bytes, and nothing in them is invisible.

    >>> bundle = pack({"steps.py": b"def same(given):\n    return given\n"})
    >>> list(files_of(bundle))
    ['steps.py']

What holds, each line a test in tests/fl_client/test_job_code.py:

1. Equal files give equal bytes, in whatever order they come.
2. A bundle that is not what ``pack`` makes of its own files is refused.
3. Code of another hash than the manifest's, code that is too large, and code that no manifest
   names, is refused before it is kept.
4. What no job here names any more is deleted.

References:
    Boucher and Anderson, Trojan Source: Invisible Vulnerabilities, USENIX Security 2023, on
    sources that read otherwise than they run. APPNOTE.TXT (zip), 4.3.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from protocol.errors import FederationError
from protocol.jobs import JobManifest
from storage.database import open_database, reading, writing

BUNDLE_BYTES_MAX: Final = 2**20
FILES_MAX: Final = 64
NAME: Final = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]{0,40}/){0,4}[A-Za-z_][A-Za-z0-9_]{0,40}\.py")
FIRST_DAY: Final = (1980, 1, 1, 0, 0, 0)
"""Of the zip format: a bundle does not say when it was packed."""
READABLE: Final = 0o100644 << 16
ENCODING: Final = re.compile(r"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
"""How a source says, in its first two lines, as what its bytes are to be read (PEP 263)."""

METADATA = sa.MetaData()
CODE = sa.Table(
    "job_code",
    METADATA,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("bundle", sa.LargeBinary, nullable=False),
)


class CodeUnreadable(FederationError):
    """A job's code cannot be shown to an officer exactly as it would run."""

    code = "code-unreadable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the code of the job cannot be read ({why}); pack its sources with `bithive features "
            "pack`"
        )


class CodeMissing(FederationError):
    """The code of a job is not here."""

    code = "code-missing"

    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256
        super().__init__(
            f"the code {sha256[:16]} of the job is not here; it comes with the job's next offer"
        )


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the bundle of Python sources: uncompressed, sorted, without dates.

    Args:
        files: Each file's text by its path, ``steps.py`` or ``package/steps.py``.

    Raises:
        CodeUnreadable: A name or text is not what a bundle may hold, or it is too large.
    """
    if not 1 <= len(files) <= FILES_MAX:
        raise CodeUnreadable(f"a bundle holds 1 to {FILES_MAX} files")
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            _check(name, files[name])
            entry = zipfile.ZipInfo(name, FIRST_DAY)
            entry.create_system = 3
            entry.external_attr = READABLE
            archive.writestr(entry, files[name])
    bundle = written.getvalue()
    if len(bundle) > BUNDLE_BYTES_MAX:
        raise CodeUnreadable(f"it is larger than {BUNDLE_BYTES_MAX} bytes")
    return bundle


def files_of(bundle: bytes) -> dict[str, bytes]:
    """Return the sources in a bundle, by path.

    Args:
        bundle: Hostile bytes.

    Raises:
        CodeUnreadable: It is not exactly what ``pack`` makes of these sources.
    """
    if len(bundle) > BUNDLE_BYTES_MAX:
        raise CodeUnreadable(f"it is larger than {BUNDLE_BYTES_MAX} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            entries = archive.infolist()
            # Uncompressed, what is read of an entry is never more than the bundle holds.
            if len(entries) > FILES_MAX or any(one.compress_type for one in entries):
                raise CodeUnreadable("it was not packed as a bundle is")
            files = {one.filename: archive.read(one) for one in entries}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
        raise CodeUnreadable("it is no zip") from error
    if pack(files) != bundle:
        raise CodeUnreadable("it was not packed as a bundle is")
    return files


def check_code(manifest: JobManifest, bundle: bytes | None) -> None:
    """Return if ``bundle`` is the code that a manifest names, or neither is there.

    Raises:
        CodeUnreadable: It is missing, another one, too large, or not to be shown as it is.
    """
    if not manifest.carries_code:
        if bundle is not None:
            raise CodeUnreadable("code came that its manifest does not name")
        return
    if bundle is None:
        raise CodeUnreadable("it did not come with the offer")
    if hashlib.sha256(bundle).hexdigest() != manifest.code:
        raise CodeUnreadable("it is not the code that its manifest names")
    files_of(bundle)


class JobCode:
    """The code of the jobs of one hospital, in its database beside them."""

    def __init__(self, path: Path) -> None:
        self._engine = open_database(path, METADATA, private=True)

    def keep(self, bundle: bytes, *, named: Collection[str]) -> None:
        """Keep checked code, and drop what none of the ``named`` hashes is of."""
        sha256 = hashlib.sha256(bundle).hexdigest()
        with writing(self._engine) as connection:
            connection.execute(CODE.delete().where(CODE.c.sha256.not_in({*named, sha256})))
            connection.execute(
                sa.insert(CODE).prefix_with("OR IGNORE").values(sha256=sha256, bundle=bundle)
            )

    def read(self, sha256: str) -> bytes:
        """Return the bundle of this hash.

        Raises:
            CodeMissing: It is not here, or was changed on the disk.
        """
        with reading(self._engine) as connection:
            query = sa.select(CODE.c.bundle).where(CODE.c.sha256 == sha256)
            found = connection.execute(query).scalar()
        if found is None or hashlib.sha256(found).hexdigest() != sha256:
            raise CodeMissing(sha256)
        return bytes(found)


def _check(name: str, text: bytes) -> None:
    if not NAME.fullmatch(name):
        raise CodeUnreadable("a file's name is not that of a Python module")
    try:
        shown = text.decode()
    except UnicodeDecodeError as error:
        raise CodeUnreadable("a file is not UTF-8") from error
    if not shown.replace("\n", "").replace("\t", "").isprintable():
        raise CodeUnreadable("a file holds characters that cannot be seen")
    said = filter(None, map(ENCODING.match, shown.split("\n", 2)[:2]))
    if any(one.group(1).lower() not in {"utf-8", "utf8"} for one in said):
        raise CodeUnreadable("a file says that it is to be read as something else than UTF-8")
