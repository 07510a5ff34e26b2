"""Recompute a finished ceremony: only then is its key one that nobody alone could have made.

snarkjs checks that every file follows from the one before it; this module checks that the files are
those of the transcript, of our circuit and of the announced beacons, whose values whoever verifies
has fetched from their publishers. The verification key is read from the last file by our own code
and names the transcript's hash: a server accepts it if that hash is on its list
(``zk.keys.check_allowed``).

What holds (tests/zk/test_ceremony.py):

1. ``verify`` accepts what ``zk.ceremony`` made, and nothing else: neither another circuit, phase 1
   or beacon, nor a contribution changed, dropped or moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zk.ceremony_folder import (
    OWN_PHASE_1,
    CeremonyNotSound,
    Workplace,
    check_listing,
    constraints,
    newest,
    read_transcript,
)
from zk.keys import VerificationKey
from zk.public_powers import power_of, public_powers
from zk.setup_files import verification_key
from zk.transcript import CeremonyOutOfTurn, Transcript
from zk.transcript_lines import Beacon


@dataclass(frozen=True)
class VerifiedCeremony:
    """A ceremony that ended well, and its keys."""

    transcript: Transcript
    verification_key: VerificationKey
    proving_key: Path
    """A zkey, for ``zk.prover.Prover``."""


def verify(at: Workplace, values: Sequence[bytes], *, phase_1: Path | None) -> VerifiedCeremony:
    """Recompute a finished ceremony and return its keys.

    Args:
        at: Its folder: the transcript, the last file and, if phase 1 was made here, that one.
        values: The beacons' values, in the order of the opening, fetched from their publishers by
            whoever verifies. Without them the last to contribute could have chosen.
        phase_1: The public file, if it was one.

    Raises:
        CeremonyOutOfTurn: It has not ended.
        CeremonyNotSound: It is of another circuit, phase 1 or beacon, or its files are not those
            of its transcript.
        TranscriptRefused: The transcript breaks a rule.
        SnarkjsFailed: A file does not follow from the one before it.
        KeyMalformed: The key is none that an honest setup can make.
        Phase1Refused, SetupFileMalformed, StorageError: See there.
    """
    transcript = read_transcript(at)
    if transcript.turn.phase is not None:
        raise CeremonyOutOfTurn(f"phase {transcript.turn.phase} has not ended with its beacon")
    _check_beacons(transcript, values)
    powers = _checked_powers(at, transcript, phase_1)
    zkey = newest(at, transcript, 2)
    at.progress("verifying phase 2")
    with constraints(at.circuit) as r1cs:
        at.tools.check_phase_2(r1cs, powers, zkey)
    key = verification_key(zkey, transcript.sha256)
    return VerifiedCeremony(transcript, key, zkey)


def _check_beacons(transcript: Transcript, values: Sequence[bytes]) -> None:
    applied = [entry.value for entry in transcript.entries if isinstance(entry, Beacon)]
    if len(values) != len(applied):
        raise CeremonyNotSound(f"{len(values)} beacon values were given for {len(applied)} beacons")
    for given, found, announced in zip(values, applied, transcript.opening.beacons, strict=True):
        if given != found:
            raise CeremonyNotSound(
                f"its beacon of round {announced.round} of {announced.source} has another value"
            )


def _checked_powers(at: Workplace, transcript: Transcript, phase_1: Path | None) -> Path:
    """Return the file of phase 1 after checking it."""
    opening = transcript.opening
    if opening.phase_1.source == "public":
        if phase_1 is None:
            raise CeremonyNotSound("its phase 1 is a public file that was not given")
        public = public_powers(phase_1, power_of(at.circuit))
        if (public.power, public.blake2b) != (opening.phase_1.power, opening.phase_1.blake2b):
            raise CeremonyNotSound("its phase 1 is another public file than the one given")
        return phase_1
    powers = at.folder / OWN_PHASE_1
    check_listing(powers, "ptau", transcript.of_phase(1))
    at.progress("verifying phase 1")
    at.tools.check_phase_1(powers)
    return powers
