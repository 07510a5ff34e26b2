"""A list of patients is read as it was meant, or refused by its line without saying whose it is."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.patient_list import PatientListUnusable, Wish, read_list

NUMBERS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20)


def test_numbers_purposes_and_days_are_read():
    heading = "patient,purposes,until\n"
    lines = "4711\n\n 4712 ,HMB GRU,2027-06-30\n4713,,2027-01-01\n"
    expected = [
        Wish("4711"),
        Wish("4712", ("HMB", "GRU"), date(2027, 6, 30)),
        Wish("4713", None, date(2027, 1, 1)),
    ]
    assert read_list((heading + lines).encode()) == read_list(lines.encode("utf-8-sig")) == expected


@given(st.sets(NUMBERS.filter(lambda one: one.lower() != "patient"), min_size=1, max_size=20))
def test_every_number_is_found_once(numbers):
    assert {one.patient for one in read_list("\n".join(numbers).encode())} == numbers


REFUSED = {
    "twice": (b"4711\n4712\n4711,HMB", 3),
    "purpose": (b"4711\n4712,secret-77", 2),
    "day": (b"4711,,30.6.2027", 1),
    "columns": (b"4711,HMB,2027-06-30,x", 1),
    "no number": (b"4711\n,HMB", 2),
    "unprintable": (b"47\x0011", 1),
    "too long": (b"4711\n" + b"9" * 201, 2),
    "not text": (b"4711\n\xff", 2),
    "quoted": (b'4711\n"47', 2),
    "nobody": (b"\n\n", 1),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_line_that_cannot_be_meant_is_refused_by_its_number_alone(case):
    content, line = REFUSED[case]
    with pytest.raises(PatientListUnusable) as refused:
        read_list(content)
    assert refused.value.line == line
    assert not any(one in str(refused.value) for one in ("4711", "4712", "secret", "30.6.2027"))
