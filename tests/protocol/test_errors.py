"""Errors keep code, sentence and facts, also between processes."""

import errno
import pickle

from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import MalformedMessage
from protocol.errors import BitHiveError, DiskFull, StorageFailed, storage_error


@given(st.text(), st.text())
def test_an_error_survives_the_way_between_processes(what, why):
    error = MalformedMessage(what, why)
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.what, back.code) == (
        MalformedMessage,
        str(error),
        what,
        "malformed-message",
    )


def test_a_full_disk_is_told_from_other_trouble():
    assert isinstance(storage_error(OSError(errno.ENOSPC, "no space"), "a key"), DiskFull)
    assert isinstance(storage_error(Exception("database or disk is full"), "a key"), DiskFull)
    assert isinstance(storage_error(OSError(errno.EACCES, "no"), "a key"), StorageFailed)


def codes(kind):
    return [kind.code, *(code for child in kind.__subclasses__() for code in codes(child))]


def test_every_code_is_one_errors_own():
    found = codes(BitHiveError)
    assert len(found) == len(set(found))
