"""What stays of an erased patient cannot be linked to her, in no file of hospital or registry."""

from __future__ import annotations

import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.erasure import erase
from consent.grant import new_opening
from consent.openings import OpeningStore
from consent.terms import Terms
from consent.withdrawal import SiteWithdrawal
from protocol.errors import StorageError
from protocol.ids import PatientId, SiteId
from zk.cover import leaf_of

NORTH = SiteId("north")
TERMS = Terms(grants=4, site=1, dataset=2, study=3, not_before=20000, expiry=20365)
SITE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
GONE, STAYS = PatientId("patient-4711-gone"), PatientId("patient-4712-stays")


@pytest.fixture
def openings(tmp_path):
    store = OpeningStore(tmp_path / "site" / "openings.db")
    yield store
    store.close()


@pytest.fixture
def granted(registry, lane, openings, now):
    """Openings of two grants of each of two patients, mixed, as they were before any erasure."""
    made = {GONE: [], STAYS: []}
    for patient in (GONE, STAYS, STAYS, GONE):
        opening, code = new_opening(
            patient, openings.hospital_salt, TERMS, entropy=secrets.token_bytes
        )
        receipt = registry.publish(lane, opening.leaf(), code.revoke_hash, now=now)
        openings.add(patient, opening, receipt)
        made[patient].append(opening)
    return made


@pytest.fixture
def end(registry, now):
    def withdraw(grant):
        statement = SiteWithdrawal(NORTH, grant, now.isoformat()).signed_by(SITE_KEY)
        registry.withdraw_for_site(statement, SITE_KEY.public_key().public_bytes_raw(), now=now)

    return withdraw


def dump(folder):
    """All bytes of all files below a folder, write-ahead logs and whatever else lies there too."""
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def traces_of(patient, opening):
    """What somebody who searches would look for, in every form in which we write numbers."""
    yield patient.encode()
    for number in (opening.subject, opening.salt, opening.randomness):
        yield number.to_bytes(32, "big")
        yield number.to_bytes(32, "little")
        yield str(number).encode()
        yield f"{number:x}".encode()


def test_before_the_erasure_the_search_finds_her(granted, openings, tmp_path):
    """Without this the next test would pass on an empty disk."""
    found = dump(tmp_path)
    for opening in granted[GONE]:
        assert opening.salt.to_bytes(32, "big") in found
    assert GONE.encode() in found


def test_after_it_no_file_has_anything_from_which_her_leaves_could_be_computed(
    granted, openings, end, tmp_path
):
    erase(openings, GONE, end)
    found = dump(tmp_path)
    for opening in granted[GONE]:
        for trace in traces_of(GONE, opening):
            assert trace not in found
    for opening in granted[STAYS]:
        assert opening.salt.to_bytes(32, "big") in found


def test_the_hospitals_book_does_not_even_have_her_leaves(granted, openings, end, tmp_path):
    erase(openings, GONE, end)
    book = dump(tmp_path / "site")
    for opening in granted[GONE]:
        assert opening.leaf().to_bytes(32, "big") not in book


def test_her_leaf_in_the_public_log_is_not_found_by_who_knows_all_but_the_salt(
    registry, granted, openings, end
):
    """The hospital still has its salt, her number and the study's terms; that is not enough."""
    erase(openings, GONE, end)
    public = {entry.leaf for entry in registry.log()}
    for opening in granted[GONE]:
        assert opening.leaf() in public
    subject = granted[GONE][0].subject
    again, _ = new_opening(GONE, openings.hospital_salt, TERMS, entropy=secrets.token_bytes)
    assert again.subject == subject
    assert again.leaf() not in public
    for guess in (0, 1, openings.hospital_salt, *(one.salt for one in granted[STAYS])):
        assert leaf_of(subject, TERMS.packed(), guess) not in public


def test_her_grants_are_withdrawn_and_others_are_not(registry, lane, granted, openings, end):
    erased = erase(openings, GONE, end)
    assert len(erased.grants) == 2
    live = [leaf for leaf in registry.leaves(lane) if leaf]
    assert live == [opening.leaf() for opening in granted[STAYS]]
    assert openings.receipts_of(GONE) == []
    assert len(openings.receipts_of(STAYS)) == 2
    assert {patient for patient, _ in openings.all().values()} == {STAYS}


def test_nothing_is_destroyed_if_a_withdrawal_is_refused(granted, openings):
    def refuse(_grant):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        erase(openings, GONE, refuse)
    assert len(openings.receipts_of(GONE)) == 2


def test_erasing_again_or_a_stranger_does_nothing(registry, granted, openings, end):
    erase(openings, GONE, end)
    epoch = registry.epoch()
    assert erase(openings, GONE, end).grants == ()
    assert erase(openings, PatientId("stranger"), end).grants == ()
    assert registry.epoch() == epoch


def test_an_open_reader_that_keeps_the_old_pages_is_named(granted, openings, end, monkeypatch):
    monkeypatch.setattr("consent.openings.REWRITE_WAIT_SECONDS", 0.1)
    with openings._engine.connect() as reader:
        reader.exec_driver_sql("SELECT * FROM openings").fetchone()
        with pytest.raises(StorageError, match=r"again|locked"):
            erase(openings, GONE, end)
    erase(openings, GONE, end)
    assert openings.receipts_of(GONE) == []
