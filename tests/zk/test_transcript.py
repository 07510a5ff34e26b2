"""A transcript is read only if everybody kept the rules, and says who did what in which order."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import canonical
from tests.zk import rehearsal
from tests.zk.rehearsal import FIRST, KEYS, SECOND, SITES, SOURCE, STRANGER, VALUES, VECTORS
from zk.transcript import BeaconNotAnnounced, CeremonyOutOfTurn, Transcript, TranscriptRefused
from zk.transcript_lines import (
    LINES_MAX,
    SITES_MAX,
    TRANSCRIPT_BYTES_MAX,
    Announcement,
    Beacon,
    Contribution,
    Invited,
    Opening,
    Phase1,
    time_text,
)

CONTENT = (VECTORS / "transcript.jsonl").read_bytes()
GOOD = Transcript.read(CONTENT)
EAST, NORTH, SOUTH = SITES
HASH = "ab" * 64
PUBLIC = {"source": "public", "power": 16, "blake2b": HASH}
DAWN = "2026-11-21T08:00:00Z"


def opening(**fields):
    plan = {
        "circuit": "cover8",
        "r1cs_sha256": "ab" * 32,
        "phase_1": Phase1.model_validate(PUBLIC),
        "sites": tuple(Invited(site=name, key=KEYS[name]) for name in sorted(KEYS)),
        "beacons": (FIRST,),
        "at": DAWN,
    }
    return Opening(**(plan | fields))


def contributed(before, signer, at=DAWN, phase=2, **fields):
    line = {
        "number": len(before.entries) + 1,
        "phase": phase,
        "site": signer.name,
        "contribution": HASH,
        "file_sha256": "cd" * 32,
        "previous": before.head,
        "at": at,
    }
    return Contribution(**(line | fields)).signed_by(signer.sign)


def ended(before, beacon=FIRST, phase=2, **fields):
    line = {
        "number": len(before.entries) + 1,
        "phase": phase,
        "source": beacon.source,
        "round": beacon.round,
        "value": VALUES[0],
        "contribution": HASH,
        "file_sha256": "cd" * 32,
        "previous": before.head,
        "at": beacon.published_at,
    }
    return Beacon(**(line | fields))


def after(*sites):
    transcript = Transcript(opening())
    for site in sites:
        transcript = transcript.appended(contributed(transcript, site))
    return transcript


def test_a_recorded_transcript_is_read_and_written_back_the_same():
    assert GOOD.to_bytes() == CONTENT
    assert GOOD.turn.phase is None
    assert [GOOD.sites_of(phase) for phase in (1, 2)] == [["east", "north", "south"]] * 2
    assert [entry.phase for entry in GOOD.entries] == [1] * 4 + [2] * 4


def test_lines_are_linked_by_their_hashes():
    for earlier, later in pairwise(range(len(GOOD.entries) + 1)):
        assert (
            replace(GOOD, entries=GOOD.entries[:earlier]).head == GOOD.entries[later - 1].previous
        )


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(place, change):
    altered = bytearray(CONTENT)
    altered[place] ^= change
    # What the last beacon says of its file is for the file to confirm: nothing follows it.
    last = json.loads(CONTENT.splitlines()[-1])
    try:
        read = Transcript.read(bytes(altered))
    except TranscriptRefused:
        return
    found = json.loads(read.to_bytes().splitlines()[-1])
    differing = {name for name in last if last[name] != found[name]}
    assert differing <= {"contribution", "file_sha256", "value", "at"}
    assert read.to_bytes().splitlines()[:-1] == CONTENT.splitlines()[:-1]


def lines_without(index):
    lines = CONTENT.splitlines(keepends=True)
    return b"".join(lines[:index] + lines[index + 1 :])


@pytest.mark.parametrize("index", range(8))
def test_a_dropped_line_is_noticed(index):
    with pytest.raises(TranscriptRefused):
        Transcript.read(lines_without(index))


def test_without_its_last_beacon_a_transcript_has_not_ended():
    assert Transcript.read(lines_without(8)).turn.phase == 2


@given(st.permutations(range(9)))
def test_moved_lines_are_noticed(order):
    lines = CONTENT.splitlines(keepends=True)
    moved = b"".join(lines[i] for i in order)
    if moved == CONTENT:
        return
    with pytest.raises(TranscriptRefused):
        Transcript.read(moved)


@pytest.mark.parametrize("index", range(9))
def test_a_repeated_line_is_noticed(index):
    lines = CONTENT.splitlines(keepends=True)
    with pytest.raises(TranscriptRefused):
        Transcript.read(b"".join([*lines[: index + 1], lines[index], *lines[index + 1 :]]))


@given(st.binary(max_size=300))
def test_other_bytes_are_no_transcript(content):
    with pytest.raises(TranscriptRefused):
        Transcript.read(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b"[" * 50_000 + b"\n",
        b"9" * 5000 + b"\n",
        b"\xff\n",
        CONTENT[:-1],
        CONTENT + b"\n",
        b" " * (TRANSCRIPT_BYTES_MAX + 1),
        CONTENT.splitlines(keepends=True)[0] * (LINES_MAX + 1),
        CONTENT.replace(b'"version":1', b'"version":2'),
        CONTENT.replace(b'"version":1', b'"version":true'),
        CONTENT.replace(b'"round":1000', b'"round":1000.0'),
        CONTENT.replace(b'"number":1', b'"number": 1'),
        CONTENT.replace(b'"kind":"contribution"', b'"kind":"opening"'),
        CONTENT.replace(b'"kind":"contribution"', b'"kind":["contribution"]'),
        CONTENT.replace(b'"kind":"contribution",', b'"kind":"contribution","note":"x",'),
    ],
)
def test_hostile_text_is_no_transcript(content):
    with pytest.raises(TranscriptRefused):
        Transcript.read(content)


BAD_OPENINGS = {
    "a site named twice": {"sites": tuple(Invited(site="a", key=KEYS[n]) for n in sorted(KEYS))},
    "sites out of order": {
        "sites": tuple(Invited(site=n, key=KEYS[n]) for n in sorted(KEYS, reverse=True))
    },
    "two sites with one key": {
        "sites": tuple(Invited(site=name, key=bytes(32)) for name in sorted(KEYS))
    },
    "a public phase 1 without a hash": {"phase_1": Phase1(source="public", power=16)},
    "an own phase 1 with a hash": {"phase_1": Phase1(source="own", power=16, blake2b=HASH)},
    "a beacon too many": {"beacons": (FIRST, SECOND)},
    "a beacon too few": {"phase_1": Phase1(source="own", power=16)},
    "beacons in the wrong order": {
        "phase_1": Phase1(source="own", power=16),
        "beacons": (SECOND, FIRST),
    },
    "a beacon that was public already": {"at": FIRST.published_at},
}


@pytest.mark.parametrize("bad", BAD_OPENINGS)
def test_an_opening_that_cannot_be_meant_is_refused(bad):
    with pytest.raises(TranscriptRefused, match="line 1"):
        Transcript(opening(**BAD_OPENINGS[bad]))


@pytest.mark.parametrize("at", ["2026-11-21", "2026-11-21T08:00:00", "2026-13-01T00:00:00Z", "x"])
def test_a_time_has_one_form(at):
    with pytest.raises(ValueError, match="at"):
        opening(at=at)


@pytest.mark.parametrize("source", ["", " drand", "a/b", "drand\n", "naïve", "x" * 81])
def test_a_source_is_a_short_plain_name(source):
    with pytest.raises(ValueError, match="source"):
        Announcement(source=source, round=1, published_at=DAWN)


def test_a_ceremony_needs_two_sites():
    with pytest.raises(ValueError, match="sites"):
        opening(sites=opening().sites[:1])


def test_sixty_four_sites_and_two_phases_fit():
    sites = sorted(
        map(rehearsal.site, (f"site-{n}" for n in range(SITES_MAX))), key=lambda s: s.name
    )
    transcript = Transcript(
        opening(
            phase_1=Phase1(source="own", power=28),
            sites=tuple(Invited(site=one.name, key=one.signing_public) for one in sites),
            beacons=(FIRST, SECOND),
        )
    )
    entries, previous = [], transcript
    for phase, beacon in ((1, FIRST), (2, SECOND)):
        at = DAWN if phase == 1 else FIRST.published_at
        for one in sites:
            entries.append(contributed(previous, one, at=at, phase=phase))
            # Checked once below, not after every line.
            previous = rehearsal.SimpleNamespace(entries=entries, head=line_hash(entries[-1]))
        entries.append(ended(previous, beacon, phase=phase))
        previous = rehearsal.SimpleNamespace(entries=entries, head=line_hash(entries[-1]))
    full = Transcript(transcript.opening, tuple(entries))
    assert Transcript.read(full.to_bytes()) == full
    assert len(full.entries) + 1 == LINES_MAX


def line_hash(line):
    return hashlib.sha256(canonical(line)).hexdigest()


def refused_with(transcript, entry, reason):
    with pytest.raises(TranscriptRefused, match=reason) as caught:
        transcript.appended(entry)
    assert caught.value.line == entry.number + 1


def test_a_contribution_signed_with_another_key_is_refused():
    start = after()
    forged = contributed(start, STRANGER, site=EAST.name)
    refused_with(start, forged, "not signed by east")
    unsigned = forged.model_copy(update={"signature": b""})
    refused_with(start, unsigned, "not signed by east")


def test_a_signature_does_not_serve_another_place():
    start = after()
    moved = contributed(start, EAST)
    later = after(NORTH)
    copied = moved.model_copy(update={"number": 2, "previous": later.head})
    refused_with(later, copied, "not signed by east")


def test_a_site_that_was_not_invited_is_refused():
    refused_with(after(), contributed(after(), STRANGER), "not among the invited")


def test_a_site_contributes_once_in_a_phase():
    refused_with(after(EAST), contributed(after(EAST), EAST), "already")


def test_a_contribution_after_the_beacon_is_public_is_refused():
    late = contributed(after(), EAST, at=FIRST.published_at)
    refused_with(after(), late, "public since")


def test_a_contribution_to_another_phase_is_refused():
    refused_with(after(), contributed(after(), EAST, phase=1), "phase 2 is open")


def test_time_does_not_go_back():
    refused_with(after(), contributed(after(), EAST, at="2026-11-21T07:59:59Z"), "dated before")


def test_a_contribution_has_its_number():
    with pytest.raises(TranscriptRefused, match="numbered 2"):
        after().appended(contributed(after(), EAST, number=2))


def test_a_contribution_follows_the_line_before_it():
    refused_with(
        after(EAST), contributed(after(EAST), NORTH, previous="00" * 32), "does not follow"
    )


@pytest.mark.parametrize("fields", [{"round": FIRST.round + 1}, {"source": "a coin of mine"}])
def test_a_beacon_that_was_not_announced_is_refused(fields):
    ready = after(EAST, NORTH)
    refused_with(ready, ended(ready, **fields), "does not announce")


def test_a_beacon_before_its_time_is_refused():
    ready = after(EAST, NORTH)
    refused_with(ready, ended(ready, at="2026-11-21T09:59:59Z"), "is published at")


@pytest.mark.parametrize("sites", [(), (EAST,)])
def test_a_beacon_after_fewer_than_two_sites_is_refused(sites):
    refused_with(after(*sites), ended(after(*sites)), "of at least 2 sites")


def test_nothing_follows_the_last_beacon():
    done = after(EAST, NORTH).appended(ended(after(EAST, NORTH)))
    late = contributed(done, SOUTH, at=FIRST.published_at)
    refused_with(done, late, "ended it")


def test_a_strangers_key_has_no_turn():
    with pytest.raises(CeremonyOutOfTurn, match=STRANGER.signing_public.hex()):
        after().turn.site_of(STRANGER.signing_public)
    assert after().turn.site_of(NORTH.signing_public) == "north"


def test_whose_turn_it_is_is_said_before_any_work_is_done():
    turn = after(EAST).turn
    assert turn.admit_contribution(NORTH.name, DAWN) == 2
    with pytest.raises(BeaconNotAnnounced):
        turn.admit_beacon(SOURCE, 7, FIRST.published_at)
    with pytest.raises(CeremonyOutOfTurn):
        turn.admit_beacon(SOURCE, FIRST.round, time_text(rehearsal.START))


# Vectors for other implementations. Keys and signatures come from seeds, so that the file can be
# written again: python -c "import tests.zk.test_transcript as t; t.write_vectors()"

VECTOR_FILE = VECTORS.parent / "transcripts.json"


def text_of(start, *entries):
    return [canonical(line).decode() for line in (start, *entries)]


def vectors():
    ready = after(EAST, NORTH, SOUTH)
    done = ready.appended(ended(ready))
    start, (one, two, three, last) = done.opening, done.entries
    stranger = contributed(after(EAST), STRANGER, site="north")
    again = contributed(after(EAST), EAST)
    late = contributed(after(EAST), NORTH, at=FIRST.published_at)
    alone = ended(after(EAST))
    early = last.model_copy(update={"at": "2026-11-21T09:59:59Z"})
    chosen = last.model_copy(update={"round": FIRST.round + 1})
    spaced = [line.replace(":", ": ", 1) for line in text_of(start)]
    other = [line.replace('"version":1', '"version":2') for line in text_of(start)]
    unsorted = start.model_copy(update={"sites": start.sites[::-1]})
    changed = two.model_copy(update={"file_sha256": "ce" * 32})
    return [
        {"desc": desc, "valid": line is None, "line": line, "transcript": lines}
        for desc, line, lines in (
            ("three contributions and their beacon", None, text_of(start, one, two, three, last)),
            ("not ended yet", None, text_of(start, one)),
            ("a contribution was changed", 3, text_of(start, one, changed, three, last)),
            ("a contribution was dropped", 3, text_of(start, one, three, last)),
            ("contributions were reordered", 2, text_of(start, two, one, three, last)),
            ("signed with a stranger's key", 3, text_of(start, one, stranger)),
            ("a site contributed twice", 3, text_of(start, one, again)),
            ("a contribution after the beacon was public", 3, text_of(start, one, late)),
            ("a beacon after one site", 3, text_of(start, one, alone)),
            ("a beacon before its time", 5, text_of(start, one, two, three, early)),
            ("a beacon that was not announced", 5, text_of(start, one, two, three, chosen)),
            ("a line after the last beacon", 6, text_of(start, one, two, three, last, last)),
            ("not in canonical form", 1, spaced),
            ("an unknown version", 1, other),
            ("sites out of order", 1, text_of(unsorted)),
        )
    ]


def write_vectors():
    VECTOR_FILE.write_text(json.dumps(vectors(), indent=1) + "\n")


def test_the_vectors_are_those_of_this_code():
    assert json.loads(VECTOR_FILE.read_text()) == vectors()


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["desc"])
def test_a_vector_is_read_or_refused_at_its_line(vector):
    content = "".join(line + "\n" for line in vector["transcript"]).encode()
    if vector["valid"]:
        assert Transcript.read(content).to_bytes() == content
        return
    with pytest.raises(TranscriptRefused) as caught:
        Transcript.read(content)
    assert caught.value.line == vector["line"]
