"""No decision of an officer can be changed, dropped or moved without being found."""

import pytest
import sqlalchemy as sa

from fl_client.decisions import FIRST_LINK, Decisions, DecisionsDamaged, check_chain
from fl_client.jobs import JobBook
from fl_client.tables import DECISIONS, METADATA
from storage.database import open_database, writing
from tests.fl_client.job_world import NOW, OFFICER, SITE, World


@pytest.fixture
def engine(tmp_path):
    return open_database(tmp_path / "site.db", METADATA, private=True)


@pytest.fixture
def record(engine):
    record = Decisions(engine)
    for number in range(4):
        kind = "refused" if number % 2 else "approved"
        record.add(kind, f"{number:064}", who="officer-1", reason="because", now=NOW)
    return record


def test_rows_are_numbered_and_each_is_linked_to_the_one_before(record):
    rows = record.all()
    assert [row.number for row in rows] == [1, 2, 3, 4]
    assert rows[0].link == rows[0].linked(FIRST_LINK)
    assert rows[3].link == rows[3].linked(rows[2].link)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "refused"},
        {"subject": "f" * 64},
        {"who": "officer-2"},
        {"reason": "otherwise"},
        {"at": "2026-11-22T12:00:00Z"},
        {"link": "0" * 64},
        {"number": 9},
    ],
)
def test_any_changed_field_is_found(record, engine, change):
    with writing(engine) as connection:
        connection.execute(DECISIONS.update().where(DECISIONS.c.number == 3).values(**change))
    with pytest.raises(DecisionsDamaged):
        record.all()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_dropped_row_is_found(record, engine, number):
    with writing(engine) as connection:
        connection.execute(sa.delete(DECISIONS).where(DECISIONS.c.number == number))
    with pytest.raises(DecisionsDamaged) as caught:
        record.all()
    assert caught.value.number == number


def test_rows_in_another_order_are_found(record):
    first, second, *rest = record.all()
    with pytest.raises(DecisionsDamaged):
        check_chain([second, first, *rest])


def test_a_damaged_record_approves_nothing(tmp_path, engine):
    book = JobBook(tmp_path / "site.db", SITE, clock=lambda: NOW)
    world = World()
    terms, manifest = world.job()
    book.keep(manifest, terms)
    book.refuse(manifest.hash, OFFICER, reason="no")
    with writing(engine) as connection:
        connection.execute(DECISIONS.update().values(kind="approved"))
    with pytest.raises(DecisionsDamaged):
        book.approved("lesions")
