"""Make a proving key together, so that one honest site suffices that nobody can forge proofs.

A Groth16 key is made from secret numbers; who knows them proves what is false. Here every site
multiplies a number of its own into the key and forgets it. To know the product one must know all
factors [1, 2]. Phase 1 (powers of tau) serves every circuit and is public or made here in the same
way; phase 2 is for one circuit. A phase ends with a public random value announced beforehand.

A ceremony is a folder that goes from site to site: ``transcript.jsonl`` (``zk.transcript``), the
file of each step, named by its line in the transcript (``zk.ceremony_folder``). snarkjs computes;
this module decides what may follow what, and ``zk.ceremony_check`` finds out afterwards whether
that is what happened. What a broken ceremony costs is soundness, never a patient's privacy: the
proofs hide their witness under any key.

What holds (tests/zk/test_ceremony.py):

1. A step is taken only in its turn, from the file that its maker signed.
2. A contribution's secret is never written and is nobody's argument.
3. A step that was interrupted can be repeated: the transcript grows last, and only then.

References:
    [1] Bowe, Gabizon, Miers, Scalable Multi-party Computation for zk-SNARK Parameters in the
    Random Beacon Model, IACR ePrint 2017/1050.
    [2] Kohlweiss, Maller, Siim, Volkhov, Snarky Ceremonies, ASIACRYPT 2021: the same without
    trusting the beacon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from protocol.errors import ConfigurationError
from protocol.ids import SiteId
from zk.ceremony_folder import (
    OWN_PHASE_1,
    TRANSCRIPT,
    Workplace,
    constraints,
    draft_of,
    file_of,
    held,
    keep_transcript,
    kind_of,
    newest,
    read_transcript,
)
from zk.public_powers import power_of, public_powers
from zk.setup_files import contributions, file_hash
from zk.transcript import CeremonyOutOfTurn, Signer, Transcript, TranscriptRefused
from zk.transcript_lines import (
    BEACON_BYTES_MAX,
    BEACON_BYTES_MIN,
    BEACON_ITERATIONS_EXPONENT,
    Announcement,
    Beacon,
    Contribution,
    Invited,
    Opening,
    Phase1,
    time_text,
)

Clock = Callable[[], datetime]


class CeremonyInputInvalid(ConfigurationError):
    """A ceremony was described by a value that cannot be meant."""

    code = "ceremony-input-invalid"

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what} is not usable: {reason}; nothing was done")


def begin(
    at: Workplace,
    sites: Mapping[SiteId, bytes],
    beacons: Sequence[Announcement],
    *,
    phase_1: Path | None,
    now: datetime,
) -> Transcript:
    """Open a ceremony and make the file that the first site contributes to.

    Args:
        at: A folder without a ceremony.
        sites: Who may contribute, with their public signing keys.
        beacons: The public value that will end each phase that is run here.
        phase_1: A public file, or None to make the powers of tau here, by the same sites.
        now: The beacons must be published later.

    Raises:
        CeremonyOutOfTurn: The folder holds a ceremony already.
        Phase1Refused: The file is not a known public one, or is too small.
        CeremonyInputInvalid: A name or key is malformed or given twice, there are too few or many
            sites, or a beacon is not announced for each phase, or is public already.
        SnarkjsFailed: A step failed.
        StorageError: The disk refused.
    """
    power = power_of(at.circuit)
    public = None if phase_1 is None else public_powers(phase_1, power)
    powers = Phase1(source="own", power=power)
    if public is not None:
        powers = Phase1(source="public", power=public.power, blake2b=public.blake2b)
    try:
        opening = Opening(
            circuit=at.circuit.name,
            r1cs_sha256=at.circuit.r1cs_sha256,
            phase_1=powers,
            sites=tuple(Invited(site=site, key=sites[site]) for site in sorted(sites)),
            beacons=tuple(beacons),
            at=time_text(now),
        )
        transcript = Transcript(opening)
    except ValidationError as error:
        raise _input_invalid("the plan of the ceremony", error) from error
    except TranscriptRefused as error:
        raise CeremonyInputInvalid("the plan of the ceremony", f"it {error.reason}") from error
    with held(at.folder):
        if (at.folder / TRANSCRIPT).exists():
            raise CeremonyOutOfTurn(f"a ceremony has begun in {at.folder.name}")
        if public:
            _begin_phase_2(at, public.path, file_of(at, 0, 2))
        else:
            at.progress(f"beginning phase 1 with 2^{power} powers")
            with draft_of(file_of(at, 0, 1)) as draft:
                at.tools.begin_phase_1(power, draft)
        keep_transcript(at, transcript)
    return transcript


def contribute(at: Workplace, signer: Signer, *, clock: Clock) -> Contribution:
    """Add the secret of the site whose key ``signer`` holds, and forget it.

    Args:
        at: The ceremony's folder, as the site before left it.
        signer: The site's own key; the transcript says whose it is.
        clock: Gives the time, asked before and after.

    Returns:
        The new line of the transcript. Its ``contribution`` is the hash to publish.

    Raises:
        CeremonyOutOfTurn: The key is nobody's here, the site has contributed, it is too late, or
            the ceremony has ended.
        CeremonyNotSound: The folder's file is not the one its transcript names.
        TranscriptRefused, SetupFileMalformed, SnarkjsFailed, StorageError: See there.
    """
    with held(at.folder):
        transcript = read_transcript(at)
        turn = transcript.turn
        site = turn.site_of(signer.signing_public)
        phase = turn.admit_contribution(site, time_text(clock()))
        old = newest(at, transcript, phase)
        number = len(transcript.entries) + 1
        new = file_of(at, number, phase)
        at.progress(f"contributing to phase {phase} for {site}")
        step = at.tools.contribute_phase_1 if phase == 1 else at.tools.contribute_phase_2
        with draft_of(new) as draft:
            step(old, draft, site)
            entry = Contribution(
                number=number,
                phase=phase,
                site=site,
                contribution=contributions(draft, kind_of(phase))[-1].hash,
                file_sha256=file_hash(draft, "sha256"),
                previous=transcript.head,
                at=time_text(clock()),
            ).signed_by(signer.sign)
            transcript = transcript.appended(entry)
        keep_transcript(at, transcript)
    return entry


def apply_beacon(at: Workplace, source: str, number: int, value: bytes, *, clock: Clock) -> Beacon:
    """End a phase with the public value that was announced for it.

    After phase 1 the powers are prepared and phase 2 begins; for 2^16 powers that takes half an
    hour. Everything here can be recomputed by everybody, so it does not matter who does it.

    Args:
        at: The ceremony's folder.
        source: Who published the value, as announced.
        number: The round that was announced.
        value: 16 to 64 bytes.
        clock: Gives the time.

    Raises:
        CeremonyInputInvalid: The value is too short or long.
        BeaconNotAnnounced: Another source or round was.
        CeremonyOutOfTurn: Fewer than two sites contributed, it is too early, or all is over.
        CeremonyNotSound: The folder's file is not the one its transcript names.
        TranscriptRefused, SetupFileMalformed, SnarkjsFailed, StorageError: See there.
    """
    if not BEACON_BYTES_MIN <= len(value) <= BEACON_BYTES_MAX:
        limits = f"{BEACON_BYTES_MIN} to {BEACON_BYTES_MAX} bytes"
        raise CeremonyInputInvalid("the beacon's value", f"it has {len(value)} bytes, not {limits}")
    with held(at.folder):
        transcript = read_transcript(at)
        phase = transcript.turn.admit_beacon(source, number, time_text(clock()))
        old = newest(at, transcript, phase)
        line = len(transcript.entries) + 1
        new = file_of(at, line, phase)
        at.progress(f"applying the beacon to phase {phase}")
        step = at.tools.apply_beacon_phase_1 if phase == 1 else at.tools.apply_beacon_phase_2
        with draft_of(new) as draft:
            step(old, draft, value, BEACON_ITERATIONS_EXPONENT)
        entry = Beacon(
            number=line,
            phase=phase,
            source=source,
            round=number,
            value=value,
            contribution=contributions(new, kind_of(phase))[-1].hash,
            file_sha256=file_hash(new, "sha256"),
            previous=transcript.head,
            at=time_text(clock()),
        )
        transcript = transcript.appended(entry)
        if phase == 1:
            _begin_phase_2(at, _prepared(at, new), file_of(at, line, 2))
        keep_transcript(at, transcript)
    return entry


def announcement(source: str, number: int, published_at: str) -> Announcement:
    """Return the announcement of a public value.

    Args:
        source: Who publishes it.
        number: Its round there.
        published_at: When, in UTC, as ``2026-12-01T12:00:00Z``.

    Raises:
        CeremonyInputInvalid: One of the three is malformed.
    """
    try:
        return Announcement(source=source, round=number, published_at=published_at)
    except ValidationError as error:
        raise _input_invalid("the beacon announced", error) from error


def _input_invalid(what: str, error: ValidationError) -> CeremonyInputInvalid:
    """Return our error for the first thing pydantic found."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return CeremonyInputInvalid(what, f"{where}: {first['msg']}")


def _prepared(at: Workplace, powers: Path) -> Path:
    """Return the powers prepared for phase 2, prepared now if they are not yet."""
    prepared = at.folder / OWN_PHASE_1
    if prepared.exists() and contributions(prepared, "ptau") == contributions(powers, "ptau"):
        return prepared
    at.progress("preparing phase 2, which takes the longest")
    with draft_of(prepared) as draft:
        at.tools.prepare_phase_2(powers, draft)
    return prepared


def _begin_phase_2(at: Workplace, powers: Path, new: Path) -> None:
    at.progress(f"beginning phase 2 for {at.circuit.name}")
    with constraints(at.circuit) as r1cs, draft_of(new) as draft:
        at.tools.begin_phase_2(r1cs, powers.resolve(), draft)
