"""A patient's history tells every grant, change and end, with the receipt of each."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import timedelta

import pytest

from consent.grant import new_opening
from consent.lanes import LanePolicy
from consent.openings import OpeningStore
from consent.publication import Checked, publish
from consent.terms import Terms
from consent.versions import is_within, versions_of
from protocol.ids import PatientId, SiteId, StudyId

OWNER = PatientId("owner")
TERMS = Terms(grants=7, site=1, dataset=2, study=3, not_before=20000, expiry=20365)


@pytest.fixture
def openings(tmp_path):
    store = OpeningStore(tmp_path / "openings.db")
    yield store
    store.close()


@pytest.fixture
def grant(registry, openings, now):
    """Publish a grant as the holder of nullifier 9 would; a proof is not needed here."""
    lane = registry.open_lane(
        StudyId("study"), SiteId("north"), "scans", 8, 4, policy=LanePolicy.PROVEN
    )
    passed = 0

    def publish_terms(terms):
        nonlocal passed
        passed += 1
        opening, code = new_opening(
            OWNER, openings.hospital_salt, terms, entropy=secrets.token_bytes
        )
        checked = Checked(
            lane, opening.leaf(), code.revoke_hash, nullifier=9, payout_id=8, proof="{}"
        )
        at = (now + timedelta(hours=passed)).isoformat()
        with registry._changing() as (connection, history, key):
            (receipt,) = publish(connection, history, key, [checked], at)
        openings.add(OWNER, opening, receipt)
        return receipt, code

    return publish_terms


def test_granted_narrowed_changed_withdrawn_granted(registry, openings, grant, now):
    first, _ = grant(TERMS)
    narrow, _ = grant(replace(TERMS, grants=4, expiry=20100))
    wider, code = grant(replace(TERMS, grants=5))
    registry.withdraw(wider.grant, code.secret, now=now + timedelta(hours=5))
    last, _ = grant(TERMS)
    versions = versions_of(openings, registry, OWNER)
    assert [(version.event, version.grant) for version in versions] == [
        ("granted", first.grant),
        ("narrowed", narrow.grant),
        ("changed", wider.grant),
        ("withdrawn", wider.grant),
        ("granted", last.grant),
    ]
    assert [version.epoch for version in versions] == [1, 2, 3, 4, 5]
    assert versions[1].receipt == narrow
    assert versions[1].terms.grants == 4
    assert versions[3].at == (now + timedelta(hours=5)).isoformat()


def test_a_stranger_has_no_history(registry, openings, grant):
    grant(TERMS)
    assert versions_of(openings, registry, PatientId("stranger")) == []


def test_the_status_of_a_grant_says_what_took_its_place(registry, grant):
    first, _ = grant(TERMS)
    second, _ = grant(TERMS)
    status = registry.status(first.grant)
    assert not status.is_live
    assert status.replaced_by == second.grant
    assert (status.granted_epoch, status.ended_epoch) == (1, 2)
    assert registry.status(second.grant).is_live


@pytest.mark.parametrize(
    ("change", "within"),
    [
        ({}, True),
        ({"grants": 3}, True),
        ({"grants": 8}, False),
        ({"expiry": 20364}, True),
        ({"expiry": 20366}, False),
        ({"not_before": 20001}, True),
        ({"not_before": 19999}, False),
        ({"study": 4}, False),
        ({"dataset": 4}, False),
    ],
)
def test_terms_are_within_others_if_they_allow_nothing_more(change, within):
    assert is_within(replace(TERMS, **change), TERMS) is within
