"""The hospital's book keeps every opening, for its owner's eyes only."""

import os
import secrets
import stat
import traceback

import pytest
from sqlalchemy import event

from consent.grant import new_opening
from consent.openings import OpeningStore, PlaceTaken, ReceiptMismatch
from consent.receipts import GrantReceipt
from consent.terms import Terms
from protocol.errors import DiskFull
from protocol.ids import GrantId, PatientId
from storage.database import DatabaseDamaged
from zk.poseidon import FIELD

OWNER, STRANGER = PatientId("owner-4711"), PatientId("stranger-4712")
LARGE = Terms(
    grants=2**32 - 1,
    site=2**32 - 1,
    dataset=2**32 - 1,
    study=2**64 - 1,
    not_before=0,
    expiry=2**16 - 1,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "openings.db"


@pytest.fixture
def store(path):
    store = OpeningStore(path)
    yield store
    store.close()


def entry(store, patient, index):
    opening, code = new_opening(patient, store.hospital_salt, LARGE, entropy=secrets.token_bytes)
    receipt = GrantReceipt(
        "registry",
        code.revoke_hash * 2,
        grant=GrantId(f"{index:020x}"),
        index=index,
        leaf=opening.leaf(),
        epoch=1,
        at="2026-11-21T09:30:00+00:00",
        policy="hospital",
        proven=False,
    )
    return patient, opening, receipt


def test_what_was_added_is_found_at_its_index(store, path):
    first, second = entry(store, OWNER, 3), entry(store, STRANGER, 2**20 - 1)
    store.add(*first)
    store.add_many([second])
    again = OpeningStore(path)
    for book in (store, again):
        assert book.opening_at(3) == first[:2]
        assert book.opening_at(4) is None
        assert book.all() == {3: first[:2], 2**20 - 1: second[:2]}
        assert book.receipts_of(OWNER) == [first[2]]
        assert book.opening_at(3)[1].leaf() == first[2].leaf
    again.close()


def test_the_salt_is_made_once_and_is_another_ones_elsewhere(store, path, tmp_path):
    again, elsewhere = OpeningStore(path), OpeningStore(tmp_path / "other.db")
    assert again.hospital_salt == store.hospital_salt < FIELD
    assert elsewhere.hospital_salt != store.hospital_salt
    again.close()
    elsewhere.close()


def test_adding_again_changes_nothing(store):
    first = entry(store, OWNER, 3)
    store.add(*first)
    store.add_many([first, entry(store, OWNER, 4)])
    assert len(store.all()) == len(store.receipts_of(OWNER)) == 2


def test_a_receipt_of_another_leaf_is_refused_with_all_that_came_with_it(store):
    first, second = entry(store, OWNER, 3), entry(store, STRANGER, 4)
    with pytest.raises(ReceiptMismatch):
        store.add_many([first, (STRANGER, second[1], first[2])])
    assert store.all() == {}


def test_another_grant_at_the_same_place_is_refused(store):
    store.add(*entry(store, OWNER, 3))
    kept = store.all()
    with pytest.raises(PlaceTaken):
        store.add_many([entry(store, OWNER, 4), entry(store, STRANGER, 3)])
    assert store.all() == kept


def test_no_other_user_can_read_any_of_its_files(store, path):
    former = os.umask(0)
    try:
        store.add(*entry(store, OWNER, 3))
    finally:
        os.umask(former)
    files = list(path.parent.iterdir())
    assert path in files
    assert len(files) > 1  # the write-ahead log too
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_neither_its_text_nor_an_error_of_the_disk_names_a_patient(store):
    store.add(*entry(store, OWNER, 3))

    def limit(connection, _record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    store._engine.dispose()
    event.listen(store._engine, "connect", limit)
    many = [entry(store, STRANGER, index) for index in range(10, 200)]
    with pytest.raises(DiskFull) as full:
        store.add_many(many)
    shown = "".join(traceback.format_exception(full.value)) + repr(store)
    for secret in (STRANGER, OWNER, store.hospital_salt, many[0][1].subject):
        assert str(secret) not in shown
    assert list(store.all()) == [3]


def test_a_file_that_is_no_database_is_refused(path):
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(DatabaseDamaged):
        OpeningStore(path)
