"""A job's hash names all that is asked, and a signature stands for one kind of message only."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.signatures import BadSignature, check_signature
from protocol.canonical import MalformedMessage, body, read
from protocol.jobs import JobAnswer, JobManifest, JobOffer, instant, moment_of
from protocol.units import TOTAL_SUPPLY
from tests.fl_client.job_world import NONCE, NOW, World

WORLD = World()
TERMS, MANIFEST = WORLD.job()
OTHER = {
    "study": "others",
    "terms": "1" * 64,
    "code": "2" * 64,
    "model": "cnn",
    "algorithm": "fedprox",
    "datasets": ("others",),
    "purposes": ("DUO:0000007",),
    "rounds": 6,
    "epsilon": 2.5,
    "delta": 1e-6,
    "unit": "site",
    "price": 1,
    "researcher": "another",
    "researcher_key": bytes([1] * 32),
    "expires": "2026-12-22T12:00:00Z",
}


def test_every_field_but_the_signature_makes_another_job():
    assert set(OTHER) == set(JobManifest.model_fields) - {"signature", "version"}
    hashes = {MANIFEST.model_copy(update={name: it}).hash for name, it in OTHER.items()}
    assert len(hashes | {MANIFEST.hash}) == len(OTHER) + 1
    assert MANIFEST.model_copy(update={"signature": b""}).hash == MANIFEST.hash


def test_a_job_travels_unchanged():
    assert read(JobManifest, body(MANIFEST)) == MANIFEST
    assert body(MANIFEST)["price"] == "1000000000000000000000"


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"version": 2},
        {"purposes": ["HMB"]},
        {"purposes": []},
        {"purposes": ["DUO:0000007", "DUO:0000006"]},
        {"datasets": ["scans", "scans"]},
        {"price": "-1"},
        {"price": str(TOTAL_SUPPLY + 1)},
        {"price": "1e3"},
        {"epsilon": 0},
        {"epsilon": float("nan")},
        {"code": "python"},
        {"expires": "2026-12-22 12:00"},
        {"expires": "2026-13-22T12:00:00Z"},
        {"expires": "2026-02-30T12:00:00Z"},
        {"researcher": ""},
        {"unit": "image"},
    ],
)
def test_what_is_no_job_is_refused(changes):
    with pytest.raises(MalformedMessage):
        read(JobManifest, body(MANIFEST) | changes)


def test_a_signature_over_one_message_is_none_over_another():
    offer = JobOffer(job=MANIFEST.hash, nonce=NONCE, at=instant(NOW)).signed_by(WORLD.server.sign)
    for message, signature in ((offer, MANIFEST.signature), (MANIFEST, offer.signature)):
        with pytest.raises(BadSignature):
            check_signature(
                TERMS.server_key, signature, message.signed_bytes(), what="it", who="the server"
            )


@given(st.integers(0, 2**37))
def test_a_time_is_read_as_it_was_written_to_the_second(seconds):
    moment = datetime.fromtimestamp(seconds, UTC)
    assert moment_of(instant(moment)) == moment


def test_a_job_ends_at_its_time():
    end = moment_of(MANIFEST.expires)
    assert MANIFEST.expired(end)
    assert not MANIFEST.expired(NOW)


@pytest.mark.parametrize("reason", ["\x1b[2Japproved", "no\nyes", "\u202edesufer"])
def test_a_reason_that_would_act_on_the_servers_terminal_is_no_answer(reason):
    said = {
        "site": "north",
        "job": MANIFEST.hash,
        "nonce": NONCE,
        "state": "refused",
        "reason": "no",
        "signature": "00" * 64,
    }
    assert read(JobAnswer, said).reason == "no"
    with pytest.raises(MalformedMessage):
        read(JobAnswer, said | {"reason": reason})
