"""The transcript of a ceremony: who added what to a proving key, when, in which order.

It is a text of JSON lines. The first opens the ceremony: circuit, phase 1, the sites invited with
their keys, the public beacons that will end it. Every other line is a site's contribution, signed,
or a beacon, and names the hash of the line before, so a signature covers all that came earlier.
docs/spec/ceremony.md is the format. The state is recomputed from the lines; nothing else is kept.

What holds (tests/zk/test_transcript.py):

1. ``Transcript.read`` undoes ``to_bytes`` and refuses every other text.
2. A line that is changed, dropped, repeated or moved is noticed, unless it is among the last and
   all after it are dropped too: a transcript has ended only with its last beacon.
3. A site contributes once in a phase; a phase ends with the beacon that was announced for it, after
   at least two sites and not before its time; no contribution is dated after that time.

Times are what the clocks of those who signed said; nobody else vouches for them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.canonical import AnyMessage, MalformedMessage, Message, canonical, read
from protocol.errors import ProofError
from protocol.ids import SiteId
from zk.transcript_lines import (
    KINDS,
    LINES_MAX,
    SITES_MIN,
    TRANSCRIPT_BYTES_MAX,
    Announcement,
    Contribution,
    Entry,
    Opening,
    Phase,
)


class TranscriptRefused(ProofError):
    """A transcript is not that of a ceremony in which everybody kept the rules."""

    code = "ceremony-transcript-refused"

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        self.reason = reason
        super().__init__(
            f"line {line} of the ceremony's transcript {reason}; compare it with the copy of "
            "another site"
        )


class CeremonyOutOfTurn(ProofError):
    """A step of the ceremony was asked for that is not next."""

    code = "ceremony-out-of-turn"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"this step is not next in the ceremony: {reason}")


class BeaconNotAnnounced(ProofError):
    """A beacon was offered that the ceremony's opening does not name, so it could be chosen."""

    code = "beacon-not-announced"

    def __init__(self, source: str, number: int) -> None:
        self.source = source
        self.number = number
        super().__init__(
            f"the opening does not announce round {number} of {source!r} for this phase, so "
            "whoever offers it could have chosen it; give the value of the announced round"
        )


class Signer(Protocol):
    """A site's signing key, such as ``privacy.keys.SiteKeys``."""

    @property
    def signing_public(self) -> bytes:
        """The 32 bytes of the Ed25519 public key."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message``."""
        ...


@dataclass(frozen=True)
class Turn:
    """Whose turn it is: the phase that is open, and who has contributed to it."""

    opening: Opening
    ended: tuple[Phase, ...] = ()
    contributed: frozenset[SiteId] = frozenset()

    @property
    def phase(self) -> Phase | None:
        """The open phase; None once the last has ended."""
        return next((one for one in self.opening.phases if one not in self.ended), None)

    def site_of(self, key: bytes) -> SiteId:
        """Return the site whose key this is and whose contribution would be next.

        Raises:
            CeremonyOutOfTurn: The key is nobody's here, or the site has contributed.
        """
        for invited in self.opening.sites:
            if invited.key == key:
                return invited.site
        raise CeremonyOutOfTurn(
            f"the signing key {key.hex()} belongs to none of the invited sites; "
            "contribute with the key you were invited with"
        )

    def admit_contribution(self, site: SiteId, at: str) -> Phase:
        """Return the phase that ``site`` may contribute to now.

        Raises:
            CeremonyOutOfTurn: It has, the time is over, or the ceremony has ended.
        """
        phase, announced = self._open()
        if site not in {invited.site for invited in self.opening.sites}:
            raise CeremonyOutOfTurn(f"{site} is not among the invited sites")
        if site in self.contributed:
            raise CeremonyOutOfTurn(f"{site} has contributed to phase {phase} already")
        if at >= announced.published_at:
            raise CeremonyOutOfTurn(
                f"the beacon of phase {phase} is public since {announced.published_at}; "
                "apply it, or begin a ceremony with a later one"
            )
        return phase

    def admit_beacon(self, source: str, number: int, at: str) -> Phase:
        """Return the phase that this beacon ends.

        Raises:
            BeaconNotAnnounced: The opening names another one for this phase.
            CeremonyOutOfTurn: Too few sites have contributed, it is too early, or too late.
        """
        phase, announced = self._open()
        if (source, number) != (announced.source, announced.round):
            raise BeaconNotAnnounced(source, number)
        if len(self.contributed) < SITES_MIN:
            raise CeremonyOutOfTurn(
                f"{len(self.contributed)} of at least {SITES_MIN} sites have contributed "
                f"to phase {phase}"
            )
        if at < announced.published_at:
            raise CeremonyOutOfTurn(f"the beacon is published at {announced.published_at}")
        return phase

    def after(self, entry: Entry) -> Turn:
        """Return whose turn it is after ``entry``.

        Raises:
            CeremonyOutOfTurn: It was not its turn.
            BeaconNotAnnounced: It is another beacon.
        """
        if isinstance(entry, Contribution):
            phase = self.admit_contribution(entry.site, entry.at)
            after = Turn(self.opening, self.ended, self.contributed | {entry.site})
        else:
            phase = self.admit_beacon(entry.source, entry.round, entry.at)
            after = Turn(self.opening, (*self.ended, phase))
        if entry.phase != phase:
            raise CeremonyOutOfTurn(f"phase {phase} is open, not phase {entry.phase}")
        return after

    def _open(self) -> tuple[Phase, Announcement]:
        phase = self.phase
        if phase is None:
            raise CeremonyOutOfTurn("the last beacon has ended it; run `bithive ceremony verify`")
        return phase, self.opening.beacons[len(self.ended)]


@dataclass(frozen=True)
class Transcript:
    """A transcript whose lines were found to keep the rules.

    Raises:
        TranscriptRefused: They do not.
    """

    opening: Opening
    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        _check_opening(self.opening)
        for _ in self._turns():
            pass

    @property
    def turn(self) -> Turn:
        """Whose turn it is after the last line."""
        *_, last = self._turns()
        return last

    @property
    def head(self) -> str:
        """The hash of the last line, which the next one names."""
        return _line_hash(self.entries[-1] if self.entries else self.opening)

    @property
    def sha256(self) -> str:
        """The hash of the whole text, by which a key refers to its ceremony."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def of_phase(self, phase: Phase) -> list[Entry]:
        """Return the contributions to a phase and the beacon that ended it."""
        return [entry for entry in self.entries if entry.phase == phase]

    def sites_of(self, phase: Phase) -> list[SiteId]:
        """Return the sites that contributed to a phase, in their order."""
        return [one.site for one in self.of_phase(phase) if isinstance(one, Contribution)]

    def appended(self, entry: Entry) -> Transcript:
        """Return the transcript with one more line.

        Raises:
            TranscriptRefused: The line does not keep the rules.
        """
        return Transcript(self.opening, (*self.entries, entry))

    def to_bytes(self) -> bytes:
        """Write the transcript: canonical JSON, each line ended by a line feed."""
        return b"".join(canonical(one) + b"\n" for one in (self.opening, *self.entries))

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Read a transcript that anybody may have written.

        Raises:
            TranscriptRefused: It is no transcript, not in canonical form, or breaks a rule.
        """
        if len(content) > TRANSCRIPT_BYTES_MAX:
            raise TranscriptRefused(1, f"begins more than {TRANSCRIPT_BYTES_MAX} bytes")
        *lines, rest = content.split(b"\n")
        if rest or not 1 <= len(lines) <= LINES_MAX:
            raise TranscriptRefused(len(lines) + 1, "is cut off or one too many")
        opening = _parsed(Opening, lines[0], 1)
        return cls(opening, tuple(_entry(line, n) for n, line in enumerate(lines[1:], 2)))

    def _turns(self) -> Iterator[Turn]:
        """Give whose turn it was after every line, checking each."""
        turn = Turn(self.opening)
        yield turn
        before: Opening | Entry = self.opening
        keys = {invited.site: invited.key for invited in self.opening.sites}
        for number, entry in enumerate(self.entries, 1):
            _check_place(before, entry, number)
            try:
                turn = turn.after(entry)
            except (CeremonyOutOfTurn, BeaconNotAnnounced) as error:
                raise TranscriptRefused(number + 1, f"is refused: {error}") from error
            if isinstance(entry, Contribution):
                _check_signature(entry, keys[entry.site], number + 1)
            yield turn
            before = entry


def _check_opening(opening: Opening) -> None:
    names = [invited.site for invited in opening.sites]
    times = [opening.at, *(beacon.published_at for beacon in opening.beacons)]
    if names != sorted(set(names)):
        raise TranscriptRefused(1, "does not name each site once, in order")
    if len({invited.key for invited in opening.sites}) != len(names):
        raise TranscriptRefused(1, "gives two sites one key")
    if (opening.phase_1.source == "public") != (opening.phase_1.blake2b is not None):
        raise TranscriptRefused(1, "does not give the hash of a public phase 1, and of no other")
    if len(opening.beacons) != len(opening.phases):
        raise TranscriptRefused(1, "does not announce one beacon for each phase")
    if any(earlier >= later for earlier, later in pairwise(times)):
        raise TranscriptRefused(1, "announces a beacon that was public already")


def _check_place(before: Opening | Entry, entry: Entry, number: int) -> None:
    if entry.number != number:
        raise TranscriptRefused(number + 1, f"is numbered {entry.number}")
    if entry.previous != _line_hash(before):
        raise TranscriptRefused(number + 1, "does not follow the line before it")
    if entry.at < before.at:
        raise TranscriptRefused(number + 1, "is dated before the line before it")


def _check_signature(entry: Contribution, key: bytes, line: int) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(entry.signature, entry.signed_bytes())
    except (InvalidSignature, ValueError) as error:
        raise TranscriptRefused(line, f"is not signed by {entry.site}") from error


def _line_hash(line: Message) -> str:
    return hashlib.sha256(canonical(line)).hexdigest()


def _entry(text: bytes, number: int) -> Entry:
    kind = KINDS.get(str(_fields(text, number).get("kind")))
    if kind is None:
        raise TranscriptRefused(number, "is neither a contribution nor a beacon")
    return _parsed(kind, text, number)


def _parsed(kind: type[AnyMessage], text: bytes, number: int) -> AnyMessage:
    try:
        parsed = read(kind, _fields(text, number))
    except MalformedMessage as error:
        raise TranscriptRefused(number, f"is malformed: {error}") from error
    if canonical(parsed) != text:
        raise TranscriptRefused(number, "is not in canonical form")
    return parsed


def _fields(text: bytes, number: int) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TranscriptRefused(number, "is not JSON") from error
    if not isinstance(fields, dict):
        raise TranscriptRefused(number, "is not a JSON object")
    return fields
