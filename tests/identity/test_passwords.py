"""A password is long and not the first that is tried; what is kept of it verifies it alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.passwords import (
    Cost,
    PasswordUnfit,
    PasswordWrong,
    check_password,
    hash_password,
    verify_password,
)

CHEAP = Cost(iterations=1, lanes=1, memory_kib=8)
texts = st.text(min_size=1, max_size=40)


def kept(password):
    return hash_password(password, cost=CHEAP, entropy=bytes)


@settings(max_examples=40, deadline=None)
@given(texts, texts)
def test_a_hash_verifies_its_password_and_no_other(one, other):
    verify_password(one, kept(one))
    if kept(one) != kept(other):
        with pytest.raises(PasswordWrong):
            verify_password(other, kept(one))


def test_a_password_is_the_same_however_its_letters_are_composed():
    verify_password("cafe\u0301 im Nebel", kept("caf\u00e9 im Nebel"))


@pytest.mark.parametrize(
    "password",
    [
        "",
        "fourteen chars",
        "x" * 300,
        "aaaaaaaaaaaaaaaaaaaa",
        "abababababababababab",
        "passwordpassword",
        "Password12345678901",
        "qwertyuiopasdfgh",
        "1234567890123456",
        "bithive-bithive-2026",
        "s.north s.north s.north",
        "!!!!letmein!!!!!!!",
    ],
)
def test_a_password_that_would_be_guessed_is_refused(password):
    with pytest.raises(PasswordUnfit) as refused:
        check_password(password, name="s.north")
    assert not password or password not in str(refused.value)


@pytest.mark.parametrize(
    "password",
    [
        "four long plain words",
        "纸上得来终觉浅绝知此事要躬行古人",
        "my hospital has green stairs",
        "k3!v" * 4 + "9aZ",
    ],
)
def test_a_long_one_is_taken_whatever_it_is_made_of(password):
    check_password(password, name="s.north")


def test_what_is_kept_says_what_it_cost_and_is_salted():
    from os import urandom

    one, two = (hash_password("x", cost=CHEAP, entropy=urandom) for _ in range(2))
    assert one != two
    assert CHEAP.is_of(one)
    assert not Cost().is_of(one)
    assert Cost() == Cost(iterations=3, lanes=4, memory_kib=65_536)
