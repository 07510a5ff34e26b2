"""The lines of a ceremony's transcript: one opening, then contributions and beacons.

What each field means is in docs/spec/ceremony.md; that the lines keep the rules of a ceremony is
``zk.transcript``'s to check. A line here is well-formed, and no more.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field

from protocol.canonical import Digest, Hex, Key32, Message, Site, SiteMessage

SITES_MIN: Final = 2
"""Contributions a phase needs: of one, its maker could have kept what forges proofs."""
SITES_MAX: Final = 64
LINES_MAX: Final = 2 * SITES_MAX + 3
TRANSCRIPT_BYTES_MAX: Final = 131_072
"""131 lines of at most 850 bytes; the opening, with 64 sites, has 9,000."""
BEACON_ITERATIONS_EXPONENT: Final = 10
"""The value of a beacon is hashed 2^10 times, the fewest that snarkjs allows: the sites' secrets
carry the security, a delay adds nothing to it."""
BEACON_BYTES_MIN: Final = 16
BEACON_BYTES_MAX: Final = 64
TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


def time_text(at: datetime) -> str:
    """Write a time as transcripts do, in UTC and whole seconds.

    Examples:
        >>> time_text(datetime(2026, 11, 21, 8, tzinfo=UTC))
        '2026-11-21T08:00:00Z'
    """
    return at.astimezone(UTC).strftime(TIME)


def _time(text: str) -> str:
    if time_text(datetime.strptime(text, TIME).replace(tzinfo=UTC)) != text:
        raise ValueError("a time is written as 2026-11-21T08:00:00Z")
    return text


def _plain(text: str) -> str:
    if not (text.isascii() and text.isprintable() and text == text.strip()) or "/" in text:
        raise ValueError("a beacon's source is a short name of plain letters")
    return text


Time = Annotated[str, AfterValidator(_time)]
Hash512 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
BeaconValue = Annotated[Hex, Field(min_length=BEACON_BYTES_MIN, max_length=BEACON_BYTES_MAX)]
Phase: TypeAlias = Literal[1, 2]


class Phase1(Message):
    """Where the powers of tau come from."""

    source: Literal["own", "public"]
    power: Annotated[int, Field(ge=1, le=28)]
    blake2b: Hash512 | None = None
    """Of the file, where it is a public one; the powers made here have contributions instead."""


class Invited(Message):
    """A site that may contribute, and the key it signs with."""

    site: Site
    key: Key32


class Announcement(Message):
    """A public random value that nobody knows yet, named before anybody contributes."""

    source: Annotated[str, Field(min_length=1, max_length=80), AfterValidator(_plain)]
    """Who publishes it, such as a drand network by its name."""
    round: Annotated[int, Field(ge=0, lt=2**53)]
    published_at: Time


class Opening(Message):
    """The first line: everything that is agreed before anybody contributes."""

    kind: Literal["opening"] = "opening"
    version: Literal[1] = 1
    circuit: Annotated[str, Field(pattern=r"^[a-z0-9]{1,40}$")]
    r1cs_sha256: Digest
    phase_1: Phase1
    sites: Annotated[tuple[Invited, ...], Field(min_length=SITES_MIN, max_length=SITES_MAX)]
    beacons: Annotated[tuple[Announcement, ...], Field(min_length=1, max_length=2)]
    at: Time

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that this ceremony runs itself; a public phase 1 is over."""
        return (1, 2) if self.phase_1.source == "own" else (2,)


class Contribution(SiteMessage):
    """A site has multiplied a secret of its own into the key and forgotten it."""

    label: ClassVar[bytes] = b"ceremony contribution"
    kind: Literal["contribution"] = "contribution"
    number: Annotated[int, Field(ge=1, le=LINES_MAX)]
    phase: Phase
    contribution: Hash512
    """The hash that names it in the file (``zk.setup_files``)."""
    file_sha256: Digest
    previous: Digest
    at: Time


class Beacon(Message):
    """The announced public value ends a phase. Unsigned: everybody can recompute it."""

    kind: Literal["beacon"] = "beacon"
    number: Annotated[int, Field(ge=1, le=LINES_MAX)]
    phase: Phase
    source: str
    round: int
    value: BeaconValue
    contribution: Hash512
    file_sha256: Digest
    previous: Digest
    at: Time


Entry: TypeAlias = Contribution | Beacon
KINDS: Final[dict[object, type[Entry]]] = {"contribution": Contribution, "beacon": Beacon}
