"""What stays of an erased patient cannot be linked to her, in no file of hospital or registry."""

from __future__ import annotations

import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.erasure import ErasureUnfinished, NothingToErase
from consent.erasure import erase as erase_everywhere
from consent.grant import new_opening
from consent.interrupted import Interrupted
from consent.openings import OpeningStore
from consent.terms import Terms
from consent.withdrawal import SiteWithdrawal
from protocol.errors import StorageFailed
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
def recorded():
    return []


@pytest.fixture
def erase(openings, end, tmp_path, recorded, now):
    """Erase from the openings, and from other places before them."""

    def erase(patient, *places, end=end):
        def withdraw():
            for receipt in openings.receipts_of(patient):
                end(receipt.grant)

        return erase_everywhere(
            patient,
            [*places, openings],
            withdraw=withdraw,
            interrupted=Interrupted(tmp_path / "marks", entropy=secrets.token_bytes),
            record=lambda facts, key: recorded.append((facts, key)),
            by="steward",
            now=now,
        )

    return erase


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


def test_before_the_erasure_the_search_finds_her(granted, tmp_path):
    """Without this the next test would pass on an empty disk."""
    found = dump(tmp_path)
    for opening in granted[GONE]:
        assert opening.salt.to_bytes(32, "big") in found
    assert GONE.encode() in found


def test_after_it_no_file_has_anything_from_which_her_leaves_could_be_computed(
    granted, tmp_path, erase
):
    erase(GONE)
    found = dump(tmp_path)
    for opening in granted[GONE]:
        for trace in traces_of(GONE, opening):
            assert trace not in found
    for opening in granted[STAYS]:
        assert opening.salt.to_bytes(32, "big") in found


def test_the_hospitals_book_does_not_even_have_her_leaves(granted, tmp_path, erase):
    erase(GONE)
    book = dump(tmp_path / "site")
    for opening in granted[GONE]:
        assert opening.leaf().to_bytes(32, "big") not in book


def test_her_leaf_in_the_public_log_is_not_found_by_who_knows_all_but_the_salt(
    registry, granted, openings, erase
):
    """The hospital still has its salt, her number and the study's terms; that is not enough."""
    erase(GONE)
    public = {entry.leaf for entry in registry.log()}
    for opening in granted[GONE]:
        assert opening.leaf() in public
    subject = granted[GONE][0].subject
    again, _ = new_opening(GONE, openings.hospital_salt, TERMS, entropy=secrets.token_bytes)
    assert again.subject == subject
    assert again.leaf() not in public
    for guess in (0, 1, openings.hospital_salt, *(one.salt for one in granted[STAYS])):
        assert leaf_of(subject, TERMS.packed(), guess) not in public


def test_her_grants_are_withdrawn_and_others_are_not(registry, lane, granted, openings, erase):
    erased = erase(GONE)
    assert erased.destroyed == {"openings": 2}
    live = [leaf for leaf in registry.leaves(lane) if leaf]
    assert live == [opening.leaf() for opening in granted[STAYS]]
    assert openings.receipts_of(GONE) == []
    assert len(openings.receipts_of(STAYS)) == 2
    assert {patient for patient, _ in openings.all().values()} == {STAYS}


def test_nothing_is_destroyed_if_a_withdrawal_is_refused(granted, openings, erase):
    def refuse(_grant):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        erase(GONE, end=refuse)
    assert len(openings.receipts_of(GONE)) == 2


def test_a_patient_who_was_erased_cannot_be_told_from_one_who_never_was(registry, granted, erase):
    erase(GONE)
    epoch = registry.epoch()
    said = set()
    for patient in (GONE, PatientId("stranger")):
        with pytest.raises(NothingToErase, match="erased before, or never") as refusal:
            erase(patient)
        said.add(str(refusal.value))
    assert len(said) == 1
    assert registry.epoch() == epoch


class Shelf:
    """A place that breaks, or is killed, as often as it is told to."""

    def __init__(self, name, *troubles):
        self.name, self.troubles, self.kept = name, list(troubles), {GONE}

    def holds(self, patient):
        return int(patient in self.kept)

    def destroy(self, patient):
        self.kept.discard(patient)  # the row goes, and its bytes not before the end
        if self.troubles:
            raise self.troubles.pop()


class Killed(BaseException):
    pass


def test_a_place_that_refuses_is_named_with_what_is_left(granted, openings, erase, recorded):
    shelves = [Shelf("papers"), Shelf("features", StorageFailed("features.db", "locked"))]
    with pytest.raises(ErasureUnfinished) as stopped:
        erase(GONE, *shelves)
    assert (stopped.value.done, stopped.value.left) == (("papers",), ("features", "openings"))
    assert GONE not in str(stopped.value)
    assert len(openings.receipts_of(GONE)) == 2
    assert not recorded
    erased = erase(GONE, *shelves)
    assert erased.resumed
    assert openings.receipts_of(GONE) == []


def test_killed_after_the_last_row_went_it_is_finished_and_recorded_once(
    granted, openings, erase, recorded, tmp_path
):
    shelf = Shelf("features", Killed())
    with pytest.raises(Killed):
        erase(GONE, shelf)
    openings.destroy(GONE)
    marks = dump(tmp_path / "marks")
    assert b"steward" in marks
    assert GONE.encode() not in marks
    with pytest.raises(NothingToErase):
        erase(PatientId("stranger"), shelf)
    assert erase(STAYS, shelf).interrupted == 1
    erased = erase(GONE, shelf)
    assert (erased.resumed, erased.interrupted) == (True, 0)
    assert set(erased.destroyed.values()) == {0}
    assert dump(tmp_path / "marks") == b""
    assert len(recorded) == len({key for _, key in recorded}) == 2
    assert GONE not in repr(recorded)


def test_an_open_reader_that_keeps_the_old_pages_is_named(granted, openings, monkeypatch, erase):
    monkeypatch.setattr("consent.openings.REWRITE_WAIT_SECONDS", 0.1)
    with openings._engine.connect() as reader:
        reader.exec_driver_sql("SELECT * FROM openings").fetchone()
        with pytest.raises(ErasureUnfinished, match=r"again|locked"):
            erase(GONE)
    erase(GONE)
    assert openings.receipts_of(GONE) == []
