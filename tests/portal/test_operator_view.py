"""The search of an operator's files finds what is there, however it is written, and no more."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.portal.operator_view import FEW, Links, Row, dump, forms_of, read_rows, secrets_in

elements = st.integers(1 << 64, (1 << 254) - 1)


def row(*values, table="table"):
    return Row("file.db", table, values)


@settings(deadline=None, max_examples=30)
@given(elements, st.binary(max_size=40), st.binary(max_size=40))
def test_a_number_is_found_in_every_form_and_place(number, before, after):
    for form in forms_of(number):
        assert secrets_in(before + form + after, [("number", number)]) == {"number"}


@settings(deadline=None, max_examples=30)
@given(elements, st.binary(max_size=400))
def test_what_is_not_there_is_not_found(number, noise):
    if not any(form in noise for form in forms_of(number)):
        assert secrets_in(noise, [("number", number), ("text", "owner-of-a-record")]) == set()


def test_a_value_too_short_to_seek_is_a_mistake():
    with pytest.raises(AssertionError):
        secrets_in(b"", [("age", "54")])


def test_a_dump_holds_rows_and_what_lies_in_the_file_besides(tmp_path):
    with closing(sqlite3.connect(tmp_path / "some.db")) as connection, connection:
        connection.execute('CREATE TABLE kept (value, "owner-in-a-column")')
        connection.execute("INSERT INTO kept VALUES (?, 1)", ((7**80).to_bytes(32),))
    (tmp_path / "notes.txt").write_text("owner-in-a-note")
    assert [one.values for one in read_rows([tmp_path])] == [((7**80).to_bytes(32), 1)]
    sought = [("number", 7**80), *((one, f"owner-{one}") for one in ("in-a-column", "in-a-note"))]
    assert secrets_in(dump([tmp_path]), sought) == {"number", "in-a-column", "in-a-note"}


def test_rows_are_joined_over_several_steps_and_forms():
    visit = "2026-11-21T09:30:00.123456+00:00"
    rows = [
        row(str(7**80)),
        row(f'{{"of": ["{7**80:x}", 1]}}', visit),
        row(visit, f"claim:{5**90:064x}"),
        row((3**150).to_bytes(32)),
    ]
    links = Links(rows)
    assert links.joined([7**80], [5**90, 3**150]) == [(7**80, 5**90)]
    assert links.group_of(3**150) is not None
    assert links.group_of(2**200) is None


def test_what_everybody_shares_joins_nobody():
    common = [row(7**80 + number, "study-of-everybody") for number in range(FEW)]
    crowd = row(str([str(7**80 + number) for number in range(200)]).replace("'", '"'))
    links = Links([*common, crowd])
    numbers = [7**80 + number for number in range(FEW)]
    assert len({links.group_of(number) for number in numbers}) == FEW
    few = Links(common[: FEW - 1])
    assert len({few.group_of(number) for number in numbers[:-1]}) == 1
