"""The registry publishes and withdraws, refuses everything else, and is the same when reopened."""

import hashlib
import os
import secrets
import sqlite3
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.grant import new_opening
from consent.lanes import LaneUnknown
from consent.log import rebuild
from consent.publication import LaneFull, LeafUnusable
from consent.reader import AnotherRegistry, RegistryMissing
from consent.registry import Registry, RegistryReadOnly, verify_epoch
from consent.terms import Terms
from consent.withdrawal import GrantUnknown, WithdrawalCodeWrong
from protocol.errors import DiskFull
from protocol.ids import GrantId, PatientId, SiteId, StudyId
from storage.database import open_database
from zk.merkle import MerkleTree, climb, root_of, verify_path
from zk.poseidon import FIELD

STUDY, NORTH, SOUTH = StudyId("study"), SiteId("north"), SiteId("south")


def code_of(leaf):
    return b"code %d" % leaf


def hash_of(leaf):
    return hashlib.sha256(code_of(leaf)).digest()


def test_an_empty_registry_signs_the_empty_tree(registry):
    epoch = registry.epoch()
    verify_epoch(epoch, registry.public_key)
    assert (epoch.number, epoch.root) == (0, MerkleTree(20).root)


def test_grants_of_one_call_take_the_next_places_in_one_epoch(registry, lane, publish):
    receipts = [*publish(11), *publish(12, 13)]
    assert [receipt.index for receipt in receipts] == list(lane.indices)[:3]
    assert [receipt.epoch for receipt in receipts] == [1, 2, 2]
    assert registry.leaves(lane) == [11, 12, 13, 0, 0, 0, 0, 0]
    assert registry.live_count(lane) == 3
    for receipt in receipts:
        receipt.check(registry.public_key)
        verify_path(
            registry.epoch().root, receipt.index, receipt.leaf, registry.leaf_path(receipt.index)
        )


def test_nothing_to_publish_makes_no_epoch(registry, lane, publish):
    assert publish() == []
    assert registry.epoch().number == 0


def test_a_chunk_is_a_node_of_the_tree(registry, lane, publish):
    publish(11, 12, 13, 14, 15)
    for chunk in lane.chunks:
        assert root_of(registry.chunk_leaves(chunk)) == registry.chunk_root(chunk)
        top = climb(registry.chunk_root(chunk), chunk, registry.chunk_path(chunk))
        assert top == registry.epoch().root
    first, second = (registry.chunk_leaves(chunk) for chunk in lane.chunks)
    assert first + second == registry.leaves(lane)


def test_a_withdrawn_leaf_is_gone_in_the_next_epoch_and_its_place_is_not_used_again(
    registry, lane, publish, now
):
    _, second = publish(11, 12)
    withdrawal = registry.withdraw(second.grant, code_of(12), now=now)
    withdrawal.check(registry.public_key)
    assert withdrawal.epoch == registry.epoch().number == 2
    publish(13)
    assert registry.leaves(lane)[:3] == [11, 0, 13]
    assert registry.live_count(lane) == 2


def test_withdrawing_again_returns_the_first_receipt_and_changes_nothing(registry, publish, now):
    (receipt,) = publish(11)
    first = registry.withdraw(receipt.grant, code_of(11), now=now)
    later = registry.withdraw(receipt.grant, code_of(11), now=now + timedelta(days=1))
    assert first == later
    assert registry.epoch().number == 2


@pytest.mark.parametrize("code", [code_of(12), b"", code_of(11) + b"x"])
@pytest.mark.parametrize("withdrawn", [False, True])
def test_a_code_of_another_grant_or_none_is_refused(registry, publish, now, code, withdrawn):
    receipt, _ = publish(11, 12)
    if withdrawn:
        registry.withdraw(receipt.grant, code_of(11), now=now)
    before = registry.epoch()
    with pytest.raises(WithdrawalCodeWrong):
        registry.withdraw(receipt.grant, code, now=now)
    assert registry.epoch() == before


def test_a_grant_nobody_published_is_refused(registry, now):
    with pytest.raises(GrantUnknown, match="receipt"):
        registry.withdraw(GrantId("00"), b"", now=now)


def test_a_full_lane_is_refused_and_takes_none_of_the_call(registry, lane, publish):
    publish(*range(1, 8))
    with pytest.raises(LaneFull) as refusal:
        publish(8, 9)
    assert refusal.value.free == 1
    assert registry.live_count(lane) == 7
    publish(8)
    with pytest.raises(LaneFull):
        publish(9)


def test_withdrawals_make_no_room_in_a_full_lane(registry, lane, publish, now):
    receipts = publish(*range(1, 9))
    registry.withdraw(receipts[0].grant, code_of(1), now=now)
    with pytest.raises(LaneFull):
        publish(9)


@pytest.mark.parametrize("leaf", [0, -1, FIELD])
def test_what_is_no_commitment_is_not_published(registry, lane, now, leaf):
    with pytest.raises(LeafUnusable):
        registry.publish(lane, leaf, bytes(32), now=now)


def test_a_leaf_is_published_once_ever(registry, publish, now):
    (receipt,) = publish(11)
    registry.withdraw(receipt.grant, code_of(11), now=now)
    for leaves in ([11], [12, 12]):
        with pytest.raises(LeafUnusable, match="before"):
            publish(*leaves)
    assert registry.epoch().number == 2


def test_a_lane_of_another_registry_is_refused(registry, lane, now):
    for foreign in (replace(lane, site=SOUTH), replace(lane, chunk_count=3)):
        with pytest.raises(LaneUnknown):
            registry.publish(foreign, 11, bytes(32), now=now)


def test_the_log_leads_anybody_to_the_root(registry, publish, now):
    receipt, _ = publish(11, 12)
    registry.withdraw(receipt.grant, code_of(11), now=now)
    log = registry.log()
    assert [(entry.index, entry.leaf, entry.epoch) for entry in log] == [
        (0, 11, 1), (1, 12, 1), (0, 0, 2),
    ]  # fmt: skip
    assert {entry.at for entry in log} == {now.isoformat()}
    assert rebuild(log) == registry.epoch().root


def test_reopened_it_is_the_same(registry, lane, publish, open_registry, path):
    receipt, _ = publish(11, 12)
    registry.withdraw(receipt.grant, code_of(11), now=datetime.now(UTC))
    for again in (open_registry(), Registry.reader(path, public_key=registry.public_key)):
        assert again.id == "registry"
        assert again.epoch() == registry.epoch()
        assert again.log() == registry.log()
        assert again.lanes() == [lane]
        assert again.leaves(lane) == registry.leaves(lane)
        again.close()


def test_one_instance_sees_what_another_changes(registry, lane, publish, open_registry, now):
    other = open_registry()
    receipt, _ = publish(11, 12)
    assert other.live_count(lane) == 2
    other.withdraw(receipt.grant, code_of(11), now=now)
    assert registry.live_count(lane) == 1
    assert registry.epoch() == other.epoch()


def test_a_snapshot_stays_at_its_epoch_while_others_go_on(
    registry, lane, publish, open_registry, now
):
    (receipt,) = publish(11)
    other = open_registry()
    with registry.snapshot() as epoch:
        other.withdraw(receipt.grant, code_of(11), now=now)
        assert registry.epoch() == epoch
        root = registry.chunk_root(0)
        assert climb(root, 0, registry.chunk_path(0)) == epoch.root
        assert registry.live_count(lane) == 1
    assert registry.live_count(lane) == 0


def test_writers_at_once_lose_nothing(registry, open_registry, lane, now):
    south = registry.open_lane(STUDY, SOUTH, "scans", capacity=40, chunk_size=4)

    def work(writer, first):
        for leaf in range(first, first + 10):
            receipt = writer.publish(south, leaf, hash_of(leaf), now=now)
            if leaf % 2:
                writer.withdraw(receipt.grant, code_of(leaf), now=now)

    threads = [
        threading.Thread(target=work, args=(writer, first))
        for writer, first in ((registry, 100), (open_registry(), 200), (open_registry(), 300))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.live_count(south) == 15
    assert registry.epoch().number == 45
    assert rebuild(registry.log()) == registry.epoch().root == open_registry().epoch().root


def test_a_reader_changes_nothing(registry, lane, publish, path, now):
    (receipt,) = publish(11)
    reader = Registry.reader(path)
    for change in (
        lambda: reader.publish(lane, 12, bytes(32), now=now),
        lambda: reader.withdraw(receipt.grant, code_of(11), now=now),
        lambda: reader.open_lane(STUDY, SOUTH, "scans", 1, 4),
    ):
        with pytest.raises(RegistryReadOnly):
            change()
    reader.close()


def test_a_reader_founds_nothing(tmp_path):
    with pytest.raises(RegistryMissing):
        Registry.reader(tmp_path / "nowhere.db")
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty.db").touch()
    with pytest.raises(RegistryMissing):
        Registry.reader(tmp_path / "empty.db")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"registry_id": "another"}, "name"),
        ({"signing_key": Ed25519PrivateKey.from_private_bytes(bytes(32))}, "key"),
    ],
)
def test_another_name_or_key_is_refused(registry, open_registry, changes, what):
    with pytest.raises(AnotherRegistry, match=f"another {what}"):
        open_registry(**changes)


def test_a_database_of_another_format_is_refused(registry, open_registry, path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE registry SET format = 1")
    connection.close()
    with pytest.raises(AnotherRegistry, match="format"):
        open_registry()


def test_it_lives_beside_other_tables(tmp_path, key, now):
    engine = open_database(tmp_path / "shared.db", sa.MetaData())
    registry = Registry(engine, registry_id="registry", signing_key=key)
    lane = registry.open_lane(STUDY, NORTH, "scans", capacity=1)
    registry.publish(lane, 11, bytes(32), now=now)
    assert Registry(engine, registry_id="registry", signing_key=key).live_count(lane) == 1
    registry.close()


def test_a_full_disk_is_named_and_nothing_is_half_done(registry, lane, publish, now):
    (receipt,) = publish(11)
    before = registry.epoch()

    def limit(connection, _record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    registry._engine.dispose()
    sa.event.listen(registry._engine, "connect", limit)
    south = registry.open_lane(STUDY, SOUTH, "scans", 4000, 4)
    for _ in range(2):
        with pytest.raises(DiskFull):
            registry.publish_many(south, [(leaf, bytes(32)) for leaf in range(100, 3000)], now)
        assert registry.epoch() == before
        assert registry.live_count(south) == 0
    sa.event.remove(registry._engine, "connect", limit)
    registry._engine.dispose()
    registry.withdraw(receipt.grant, code_of(11), now=now)
    assert registry.live_count(lane) == 0


def test_the_files_hold_no_patient_and_no_secret(registry, lane, path, now):
    owner = PatientId("owner-of-record-4711")
    salt = secrets.randbelow(FIELD)
    terms = Terms(grants=5, site=1, dataset=2, study=3, not_before=20000, expiry=20365)
    opening, code = new_opening(owner, salt, terms, entropy=secrets.token_bytes)
    receipt = registry.publish(lane, opening.leaf(), code.revoke_hash, now=now)
    registry.withdraw(receipt.grant, code.secret, now=now)
    stored = b"".join(one.read_bytes() for one in path.parent.iterdir())
    assert opening.leaf().to_bytes(32, "big") in stored
    numbers = [salt, opening.subject, opening.salt, opening.randomness, terms.packed()]
    for secret in [owner.encode(), code.secret, *(one.to_bytes(32, "big") for one in numbers)]:
        assert secret not in stored
        assert secret.hex().encode() not in stored
    assert not any(str(number).encode() in stored for number in numbers)


def test_eight_hundred_grants_take_less_than_a_second_of_work(registry, now):
    lane = registry.open_lane(STUDY, NORTH, "scans", capacity=800)
    grants = [(secrets.randbelow(FIELD - 1) + 1, os.urandom(32)) for _ in range(800)]
    started = time.process_time()
    registry.publish_many(lane, grants, now=now)
    assert time.process_time() - started < 1
