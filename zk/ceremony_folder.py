"""The folder in which a ceremony happens: its files, their names, and what they must agree on.

``transcript.jsonl`` says what happened (``zk.transcript``). Line n left the file ``NNNN.ptau`` in
phase 1 and ``NNNN.zkey`` in phase 2, where n = 0 is the opening; the beacon that ends a phase 1
made here left both, and ``phase-1.ptau``, which phase 2 is made from and verified with. Only the
transcript and the newest file need to travel to the next site.

What holds (tests/zk/test_ceremony.py):

1. A file has its name only when it is whole and on the disk.
2. A file is used only if it lists the contributions of the transcript and has the hash that its
   maker signed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.errors import ProofError, storage_error
from storage.files import write_whole
from zk.circuit import Circuit
from zk.keys import locked
from zk.setup_files import Kind, contributions, file_hash
from zk.snarkjs import Snarkjs
from zk.transcript import Transcript
from zk.transcript_lines import (
    BEACON_ITERATIONS_EXPONENT,
    TRANSCRIPT_BYTES_MAX,
    Beacon,
    Entry,
    Phase,
)

TRANSCRIPT: Final = "transcript.jsonl"
OWN_PHASE_1: Final = "phase-1.ptau"
Progress = Callable[[str], None]


class CeremonyNotSound(ProofError):
    """What a ceremony left behind is not what its transcript says, or not of this circuit."""

    code = "ceremony-not-sound"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the ceremony cannot be relied on: {reason}; go back to the last file that its "
            "maker confirms, and do not prove or verify with this key"
        )


@dataclass(frozen=True)
class Workplace:
    """Where a ceremony happens, and with what."""

    folder: Path
    circuit: Circuit
    tools: Snarkjs
    progress: Progress
    """Is told in words what takes long."""


def load_transcript(folder: Path) -> Transcript:
    """Read the transcript in a ceremony's folder.

    Raises:
        TranscriptRefused: It breaks a rule.
        StorageError: It is not there or cannot be read.
    """
    try:
        with (folder / TRANSCRIPT).open("rb") as file:
            return Transcript.read(file.read(TRANSCRIPT_BYTES_MAX + 1))
    except OSError as error:
        raise storage_error(error, TRANSCRIPT) from error


def read_transcript(at: Workplace) -> Transcript:
    """Read the transcript in a ceremony's folder and see that it is for this circuit.

    Raises:
        CeremonyNotSound: It is for another circuit.
        TranscriptRefused: It breaks a rule.
        StorageError: It is not there or cannot be read.
    """
    transcript = load_transcript(at.folder)
    opening = transcript.opening
    if (opening.circuit, opening.r1cs_sha256) != (at.circuit.name, at.circuit.r1cs_sha256):
        raise CeremonyNotSound(
            f"it is for constraints {opening.r1cs_sha256[:16]} of {opening.circuit}, not for "
            f"{at.circuit.r1cs_sha256[:16]} of {at.circuit.name}"
        )
    return transcript


def newest(at: Workplace, transcript: Transcript, phase: Phase) -> Path:
    """Return the file that is next in ``phase``, after comparing it with the transcript.

    Raises:
        CeremonyNotSound: It is not the one its maker signed, or lists other contributions.
        SetupFileMalformed: It is no such file.
        StorageError: It is not there or cannot be read.
    """
    file = file_of(at, len(transcript.entries), phase)
    done = transcript.of_phase(phase)
    check_listing(file, kind_of(phase), done)
    if done and file_hash(file, "sha256") != done[-1].file_sha256:
        raise CeremonyNotSound(f"{file.name} is not the file that its last contributor made")
    return file


def check_listing(file: Path, kind: Kind, entries: Sequence[Entry]) -> None:
    """Return if a file lists the contributions of the transcript and no others.

    Raises:
        CeremonyNotSound: It does not.
        SetupFileMalformed: It is no such file.
        StorageError: It is not there or cannot be read.
    """
    found = contributions(file, kind)
    if len(found) != len(entries):
        raise CeremonyNotSound(f"{file.name} has {len(found)} contributions, not {len(entries)}")
    for one, entry in zip(found, entries, strict=True):
        if isinstance(entry, Beacon):
            agrees = one.beacon == entry.value
            agrees = agrees and one.iterations_exponent == BEACON_ITERATIONS_EXPONENT
        else:
            agrees = one.beacon is None and one.name == entry.site
        if not agrees or one.hash != entry.contribution:
            raise CeremonyNotSound(f"{file.name} holds another contribution at line {entry.number}")


def kind_of(phase: Phase) -> Kind:
    """Return what kind of file a phase makes."""
    return "ptau" if phase == 1 else "zkey"


def file_of(at: Workplace, line: int, phase: Phase) -> Path:
    """Return the file that a line of the transcript left in ``phase``."""
    return at.folder.resolve() / f"{line:04d}.{kind_of(phase)}"


def keep_transcript(at: Workplace, transcript: Transcript) -> None:
    """Replace the transcript; the last act of every step.

    Raises:
        StorageError: The disk refused; the step counts as not done.
    """
    write_whole(at.folder / TRANSCRIPT, transcript.to_bytes())


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Let one process at a time take a step in this folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            yield
    except OSError as error:
        raise storage_error(error, folder.name) from error


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Give a name to write to; the file takes its own name when it is whole and on the disk."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise storage_error(error, path.name) from error
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def constraints(circuit: Circuit) -> Iterator[Path]:
    """Give the unpacked constraints as a file, as snarkjs reads them."""
    with tempfile.TemporaryDirectory() as folder:
        r1cs = Path(folder) / f"{circuit.name}.r1cs"
        r1cs.write_bytes(circuit.r1cs_bytes())
        yield r1cs
