"""A registry whose file was altered or cut short is refused, whatever was touched."""

import sqlite3

import pytest

from consent.history import RegistryDamaged
from protocol.errors import StorageError
from storage.database import DatabaseDamaged

ELEMENT = "x'" + "00" * 31 + "63'"  # 99
ALTERATIONS = {
    "a leaf in the log": f"UPDATE changes SET leaf = {ELEMENT} WHERE sequence = 1",
    "the place of a leaf": "UPDATE changes SET place = 2 WHERE sequence = 2",
    "a leaf brought back": "DELETE FROM changes WHERE sequence = 3",
    "a change in the middle": "DELETE FROM changes WHERE sequence = 1",
    "a change more": f"INSERT INTO changes VALUES (4, 0, {ELEMENT}, 2)",
    "the root": f"UPDATE epochs SET root = {ELEMENT} WHERE number = 2",
    "the time": "UPDATE epochs SET at = '2026-01-01T00:00:00+00:00' WHERE number = 2",
    "the signature": "UPDATE epochs SET signature = x'00' WHERE number = 2",
    "the last epoch": "DELETE FROM epochs WHERE number = 2",
    "all epochs": "DELETE FROM epochs",
    "a grant's leaf": f"UPDATE grants SET leaf = {ELEMENT} WHERE place = 1",
    "a withdrawal in the grants": "UPDATE grants SET withdrawn_epoch = NULL",
    "a withdrawal nobody made": "UPDATE grants SET withdrawn_epoch = 2",
    "a grant's withdrawal hash": "UPDATE grants SET revoke_hash = x'00' WHERE place = 0",
    "a replacement nobody made": "UPDATE grants SET replaced_by = 0 WHERE place = 1",
    "a lane's policy": "UPDATE lanes SET policy = 'proven'",
    "the owner of a lane": "UPDATE lanes SET site = 'south'",
    "the head of the log": f"UPDATE epochs SET head = {ELEMENT} WHERE number = 2",
    "the head's signature": "UPDATE epochs SET head_signature = x'00' WHERE number = 2",
    "a grant": "DELETE FROM grants WHERE place = 1",
}


@pytest.fixture
def altered(registry, publish, path, now):
    """A way to alter the file behind the back of a registry with two grants, one withdrawn."""
    receipt, _ = publish(11, 12)
    registry.withdraw(receipt.grant, b"code 11", now=now)
    registry.close()

    def alter(statement):
        connection = sqlite3.connect(path)
        with connection:
            for table in ("epochs", "changes"):
                for change in ("update", "delete"):
                    connection.execute(f"DROP TRIGGER {table}_refuse_{change}")
            connection.execute(statement)
        connection.close()

    return alter


@pytest.mark.parametrize("statement", ALTERATIONS.values(), ids=ALTERATIONS)
def test_it_is_refused_when_it_is_opened(altered, statement, open_registry):
    altered(statement)
    with pytest.raises(RegistryDamaged, match="restore"):
        open_registry()


@pytest.mark.parametrize("what", ["the root", "the last epoch", "all epochs"])
def test_an_open_registry_notices_at_its_next_answer(altered, what, registry):
    altered(ALTERATIONS[what])
    with pytest.raises(RegistryDamaged):
        registry.epoch()


@pytest.mark.parametrize("table", ["epochs", "changes"])
def test_the_database_itself_refuses_to_rewrite_history(registry, publish, path, table):
    publish(11)
    connection = sqlite3.connect(path)
    for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET rowid = rowid + 100"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def test_a_file_that_is_no_database_is_refused(path, open_registry):
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(DatabaseDamaged):
        open_registry()


def test_a_file_cut_short_is_refused(registry, publish, path, open_registry):
    publish(11, 12)
    registry.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(StorageError):
        open_registry()
