"""A key on the disk opens under its password alone, for its owner alone."""

from __future__ import annotations

import io
import json
import stat

import pytest

from ledger.chain.keystore import (
    KeystoreExists,
    KeystoreUnreadable,
    PasswordUnusable,
    SecretExposed,
    address_in,
    create_keystore,
    open_keystore,
    read_password,
)
from protocol.errors import StorageError

WORD = "correct horse battery"


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "keys" / "key.json"
    return path, create_keystore(path, WORD, key=b"k" * 32, scrypt_n=2)


def test_a_key_is_read_back_under_its_password(kept):
    path, signer = kept
    assert open_keystore(path, WORD).address == signer.address == address_in(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"k" * 32).hex() not in path.read_text()
    assert json.loads(path.read_text())["version"] == 3


def test_keys_are_drawn_where_none_is_given(tmp_path):
    made = {create_keystore(tmp_path / name, WORD, scrypt_n=2).address for name in "ab"}
    assert len(made) == 2


def test_of_two_that_make_a_key_at_once_one_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "key.json"
    first = create_keystore(path, WORD, key=b"1" * 32, scrypt_n=2)
    monkeypatch.setattr(type(path), "exists", lambda _path: False)  # asked before the first wrote
    with pytest.raises(KeystoreExists):
        create_keystore(path, WORD, key=b"2" * 32, scrypt_n=2)
    assert open_keystore(path, WORD).address == first.address
    assert [one.name for one in tmp_path.iterdir()] == ["key.json"]


def test_another_password_opens_nothing(kept):
    with pytest.raises(KeystoreUnreadable):
        open_keystore(kept[0], WORD + "!")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 3, "crypto": {}}'])
def test_a_damaged_file_is_refused(kept, content):
    path, _ = kept
    path.write_text(content)
    for read in (lambda: open_keystore(path, WORD), lambda: address_in(path)):
        with pytest.raises(KeystoreUnreadable):
            read()


def test_a_file_that_others_can_read_is_refused(kept):
    path, _ = kept
    path.chmod(0o640)
    with pytest.raises(SecretExposed):
        open_keystore(path, WORD)


def test_a_key_is_never_replaced(kept):
    path, signer = kept
    with pytest.raises(KeystoreExists):
        create_keystore(path, WORD)
    assert open_keystore(path, WORD).address == signer.address


def test_a_short_password_is_refused(tmp_path):
    with pytest.raises(PasswordUnusable):
        create_keystore(tmp_path / "key", "short")


def test_a_password_comes_from_a_file_a_variable_or_standard_input(tmp_path):
    path = tmp_path / "word"
    path.write_text(f"{WORD}\nmore\n")
    path.chmod(0o600)
    places = {"stdin": io.StringIO(f"{WORD}\n"), "environment": {"WORD": WORD}}
    for source in (f"file:{path}", "env:WORD", "stdin"):
        assert read_password(source, **places) == WORD


def test_no_password_is_named(tmp_path):
    places = {"stdin": io.StringIO(""), "environment": {}}
    for source in (WORD, "", "file:", "env:WORD", "stdin"):
        with pytest.raises(PasswordUnusable):
            read_password(source, **places)
    with pytest.raises(StorageError):
        read_password(f"file:{tmp_path / 'none'}", **places)
    (tmp_path / "word").write_text(WORD)
    (tmp_path / "word").chmod(0o644)
    with pytest.raises(SecretExposed):
        read_password(f"file:{tmp_path / 'word'}", **places)
