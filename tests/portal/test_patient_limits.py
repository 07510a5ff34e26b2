"""Nobody is let through more often than the rate says, nor kept out longer, nor written down."""

import logging
import math
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from fastapi.testclient import TestClient
from hypothesis import example, given
from hypothesis import strategies as st

from portal.patient.api import router
from portal.patient.limits import (
    Buckets,
    GrantedTooOften,
    Limits,
    ProxyMisnamed,
    Rate,
    Rates,
    TooManyRequests,
    client_of,
    granting_buckets,
    read_proxies,
)
from portal.patient.problems import BODY_MAX
from portal.patient.server import create_app, open_desk, read_sheet
from tests.portal.patient_world import World

KEY = bytes(32)
rates = st.builds(Rate, st.integers(1, 5), st.integers(1, 50))
waits = st.lists(st.integers(0, 60), max_size=60)


@given(rates, waits)
def test_no_more_than_the_rate_are_let_through_in_any_time(rate, waits):
    buckets, now, let_through = Buckets(rate, KEY), 0, []
    for wait in waits:
        now += wait
        try:
            buckets.take("somebody", at=float(now))
            let_through.append(now)
        except TooManyRequests:
            pass
    for first in range(len(let_through)):
        for last in range(first, len(let_through)):
            elapsed = let_through[last] - let_through[first]
            assert last - first + 1 <= rate.burst + Fraction(elapsed) / Fraction(rate.seconds)


@given(rates, waits)
@example(Rate(3, 44), [0, 0, 21, 35, 35, 0])
def test_who_waits_as_long_as_told_is_let_through(rate, waits):
    buckets, now = Buckets(rate, KEY), 0.0
    for wait in waits:
        now += wait
        try:
            buckets.take("somebody", at=now)
        except TooManyRequests as refused:
            assert 1 <= refused.retry_after_seconds <= math.ceil(rate.seconds)
            now += refused.retry_after_seconds
            buckets.take("somebody", at=now)


def test_one_empty_bucket_is_nobody_elses():
    buckets = Buckets(Rate(1, 60), KEY)
    buckets.take("one", at=0)
    buckets.take("other", at=0)
    with pytest.raises(TooManyRequests):
        buckets.take("one", at=1)


def test_what_was_done_already_is_counted_and_not_refused():
    buckets = Buckets(Rate(1, 60), KEY)
    for _ in range(3):
        buckets.spend("one", at=0)
    with pytest.raises(TooManyRequests) as refused:
        buckets.check("one", at=0)
    assert refused.value.retry_after_seconds == 180


def test_buckets_end_at_a_limit_and_full_ones_are_forgotten():
    buckets = Buckets(Rate(2, 10), KEY, size_max=3)
    for who in range(9):
        buckets.take(str(who), at=0)
    assert len(buckets) == 3
    buckets.take("8", at=5)
    buckets.forget_full(at=10)
    assert len(buckets) == 1  # that of 8 has one and a half


def test_no_address_stands_in_memory():
    buckets = Buckets(Rate(2, 10), KEY)
    buckets.take("198.51.100.9", at=0)
    assert "198.51.100.9" not in repr(vars(buckets))
    assert b"198.51.100.9" not in b"".join(buckets._held)


@pytest.mark.parametrize(
    ("peer", "forwarded", "who"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "203.0.113.4", "192.0.2.1"),  # no proxy of ours: its word counts for nothing
        ("10.0.0.5", "203.0.113.4", "203.0.113.4"),
        ("10.0.0.5", "6.6.6.6, 203.0.113.4", "203.0.113.4"),  # what she claimed herself
        ("10.0.0.5", "6.6.6.6, 203.0.113.4, 10.0.0.6", "203.0.113.4"),
        ("10.0.0.5", "somebody", "10.0.0.5"),
        ("10.0.0.5", "6.6.6.6, <script>, 10.0.0.6", "10.0.0.6"),
        ("10.0.0.5", ", ".join(["6.6.6.6"] * 500 + ["203.0.113.4"]), "203.0.113.4"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "", "192.0.2.1"),
        ("testclient", "", "testclient"),
        ("", "", ""),
    ],
)
def test_an_address_counts_only_from_a_configured_proxy(peer, forwarded, who):
    assert client_of(peer, forwarded, read_proxies(["10.0.0.0/24"])) == who


@pytest.mark.parametrize("text", ["", "proxy.example", "10.0.0.5/8", "10.0.0.0/99"])
def test_what_is_no_proxy_is_refused(text):
    with pytest.raises(ProxyMisnamed):
        read_proxies([text])


# Over HTTP


class Clock:
    """Seconds that a test lets pass."""

    seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(tmp_path, clock):
    home = World.found(tmp_path / "home").home
    desk = open_desk(home, clock=lambda: datetime.now(UTC))
    few = Rates(reading=Rate(3, 10), writing=Rate(2, 20), withdrawing=Rate(2, 30))
    limits = Limits(few, proxies=read_proxies(["10.0.0.5"]), clock=clock)
    app = create_app(desk, read_sheet(home.server / "study-sheet.json"), limits=limits)
    return TestClient(app, client=("10.0.0.5", 4711))


def ask(client, who="198.51.100.9", path="/api/epoch", **options):
    return client.request(options.pop("method", "GET"), path, headers={"x-forwarded-for": who})


def refused(answer, seconds):
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == str(seconds)
    assert answer.headers["content-security-policy"]
    problem = answer.json()
    assert (problem["code"], problem["retry_after_seconds"]) == ("too-many-requests", seconds)


def test_an_address_that_asks_too_often_is_told_when_to_come_back(client, clock):
    for _ in range(3):
        assert ask(client).status_code == 200
    refused(ask(client), 10)
    assert ask(client, "198.51.100.10").status_code == 200
    clock.seconds += 10
    assert ask(client).status_code == 200
    refused(ask(client), 10)


def test_a_flood_of_other_requests_does_not_keep_a_withdrawal_out(client):
    for _ in range(5):
        ask(client)
        ask(client, path="/api/grants", method="POST")
    refused(ask(client, path="/api/grants", method="POST"), 20)
    assert ask(client, path="/api/withdrawals", method="POST").status_code == 400
    assert ask(client, path="/api/withdrawals/proven", method="POST").status_code == 400
    refused(ask(client, path="/api/withdrawals", method="POST"), 30)


def test_invitations_are_counted_with_what_is_written(client):
    for _ in range(2):
        assert ask(client, path="/api/invitations/" + "0" * 32).status_code == 404
    refused(ask(client, path="/api/invitations/" + "0" * 32), 20)


def test_the_pages_files_are_not_counted(client):
    for _ in range(9):
        assert ask(client, path="/files/0/page.js").status_code == 404


def test_a_body_that_says_it_is_too_long_is_not_read(client):
    def unread():
        pytest.fail("it was read")
        yield b""

    headers = {"content-length": str(BODY_MAX + 1), "content-type": "application/json"}
    answer = client.post("/api/withdrawals", content=unread(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "request-too-large")


def test_no_address_is_logged_whatever_is_asked(client, caplog):
    with caplog.at_level(logging.DEBUG):
        for path in ("/api/epoch", "/api/nowhere", "/api/withdrawals"):
            for method in ("GET", "POST"):
                ask(client, path=path, method=method)
    ours = [one.getMessage() for one in caplog.records if not one.name.startswith("httpx")]
    assert not any("198.51.100.9" in text or "10.0.0.5" in text for text in ours)


def test_every_route_belongs_to_a_kind():
    assert set().union(*(route.methods for route in router.routes)) <= {"GET", "POST"}


def test_one_person_who_changes_her_grant_again_and_again_is_slowed_down():
    granting = granting_buckets(Limits(Rates(granting=Rate(2, 3600)), key=KEY))
    for at in (0, 1):
        granting.check("nullifier", at=at)
        granting.spend("nullifier", at=at)
    with pytest.raises(GrantedTooOften) as refused_:
        granting.check("nullifier", at=2)
    assert refused_.value.retry_after_seconds == 3598
    assert "withdrawn at any time" in str(refused_.value)
