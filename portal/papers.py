"""The papers that a hospital hands to its patients: each one's grant, and the code that ends it.

They lie in the hospital's folder from the receipt until somebody has printed them::

    SITE/papers/STUDY.json    {GRANT: {"patient": NUMBER, "code": HEX}}

What holds, each line a test in tests/portal/test_erasing.py:

1. A paper added again is there once, and those of others stay.
2. Of a patient's destroyed papers no file has a byte, not those that a crash left half written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from portal.grant_book import Waiting
from protocol.errors import storage_error
from protocol.ids import PatientId
from storage.files import PRIVATE, private_folder, write_whole

PAPERS: Final = "papers"
Sheet = dict[str, dict[str, str]]


class Papers:
    """The papers of one hospital that were not handed out yet."""

    name = PAPERS

    def __init__(self, folder: Path) -> None:
        """Say where they are: below the hospital's folder."""
        self._folder = folder / PAPERS

    def add(self, grants: Sequence[Waiting]) -> Path:
        """Add each patient's paper to those of the study; return the file.

        Args:
            grants: Of one study; at least one.

        Raises:
            StorageError: The disk refused; run it again.
        """
        file = private_folder(self._folder) / f"{grants[0].study}.json"
        papers = _read(file) if file.is_file() else {}
        for one in grants:
            papers[one.grant] = {"patient": one.patient, "code": one.code.secret.hex()}
        _write(file, papers)
        return file

    def holds(self, patient: PatientId) -> int:
        """Return how many papers wait for a patient."""
        return sum(
            _is_of(paper, patient) for file in self._files() for paper in _read(file).values()
        )

    def destroy(self, patient: PatientId) -> None:
        """Destroy a patient's papers, and what a crash left of a file.

        The caller holds the hospital's turn (``GrantBook.turn``), so nobody is writing one.

        Raises:
            StorageError: The disk refused; run it again.
        """
        try:
            for half in self._folder.glob(".*"):
                half.unlink()
            for file in self._files():
                papers = _read(file)
                others = {one: paper for one, paper in papers.items() if not _is_of(paper, patient)}
                if not others:
                    file.unlink()
                elif len(others) < len(papers):
                    _write(file, others)
        except OSError as error:
            raise storage_error(error, PAPERS) from error

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.json"))


def _is_of(paper: dict[str, str], patient: PatientId) -> bool:
    return paper.get("patient") == patient


def _read(file: Path) -> Sheet:
    try:
        papers: Sheet = json.loads(file.read_bytes())
    except OSError as error:
        raise storage_error(error, file.name) from error
    return papers


def _write(file: Path, papers: Sheet) -> None:
    write_whole(file, json.dumps(papers, indent=1).encode() + b"\n", mode=PRIVATE)
