"""Notes are those of the format's own implementation, and any other form is refused."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoints import Head, read_head, sign_head
from audit.notes import (
    COSIGNED,
    SIGNED,
    NoteKeyMalformed,
    NoteMalformed,
    NoteUnsigned,
    check_signed,
    cosign,
    note_key,
    read_key,
    read_lines,
    read_note,
    sign,
)
from storage.merkle import EMPTY_ROOT

# From the tests of golang.org/x/mod/sumdb/note, the implementation that the format was taken from.
PUBLISHED_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PUBLISHED_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
PUBLISHED_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
PUBLISHED_LINE = (
    "— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# The example of C2SP tlog-cosignature; its keys are not published, its form is.
EXAMPLE = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""  # noqa: E501 - as it is published
LOG = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
BODY = "example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"


def test_the_published_note_verifies_and_is_signed_again_byte_for_byte():
    key = read_key(PUBLISHED_KEY)
    note = read_note(f"{PUBLISHED_TEXT}\n{PUBLISHED_LINE}")
    assert note.body == PUBLISHED_TEXT
    assert check_signed(note, key) == 0
    signer = Ed25519PrivateKey.from_private_bytes(PUBLISHED_SEED)
    assert sign(PUBLISHED_TEXT, "PeterNeumann", signer).text() == PUBLISHED_LINE
    assert note_key("PeterNeumann", SIGNED, signer).text() == PUBLISHED_KEY
    with pytest.raises(NoteUnsigned):
        check_signed(read_note(f"{PUBLISHED_TEXT.upper()}\n{PUBLISHED_LINE}"), key)


def test_every_part_of_a_key_and_every_key_with_a_changed_character_is_refused():
    length = len(PUBLISHED_KEY)
    parts = {PUBLISHED_KEY[a:b] for a in range(length) for b in range(a + 1, length + 1)}
    changed = {
        PUBLISHED_KEY[:at] + chr(ord(PUBLISHED_KEY[at]) + 1) + PUBLISHED_KEY[at + 1 :]
        for at in range(length)
    }
    wrong_length = "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY=="
    unknown_kind = "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    for text in (parts | changed | {wrong_length, unknown_kind}) - {PUBLISHED_KEY}:
        with pytest.raises(NoteKeyMalformed):
            read_key(text)


def test_the_published_example_of_a_cosigned_checkpoint_is_read():
    note = read_note(EXAMPLE)
    head = read_head(note.body)
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert [len(line.signature) for line in note.signatures] == [64, 72]
    assert int.from_bytes(note.signatures[1].signature[:8], "big") == 1679315147
    assert note.text() == EXAMPLE


def test_a_witness_signs_the_time_and_the_text():
    key = note_key("north.example/witness", COSIGNED, WITNESS)
    line = cosign(BODY, key.name, WITNESS, at=1_795_251_600)
    note = read_note(f"{BODY}\n{line.text()}")
    assert check_signed(note, key) == 1_795_251_600
    # As whoever follows the format would check it, without our code.
    message = f"cosignature/v1\ntime 1795251600\n{BODY}".encode()
    WITNESS.public_key().verify(line.signature[8:], message)
    with pytest.raises(NoteUnsigned):
        check_signed(note, note_key(key.name, SIGNED, WITNESS))


@given(st.integers(0, 63 + 8), st.integers(1, 255))
def test_a_changed_signature_of_a_known_key_condemns_the_note(place, change):
    key = note_key("w", COSIGNED, WITNESS)
    good = cosign(BODY, "w", WITNESS, at=1)
    forged = bytearray(good.signature)
    forged[place] ^= change
    note = read_note(f"{BODY}\n{good.text()}").with_lines(
        type(good)("w", good.key_id, bytes(forged))
    )
    with pytest.raises(NoteUnsigned):
        check_signed(note, key)


def test_lines_of_unknown_keys_are_ignored():
    key = note_key("example.com/log", SIGNED, LOG)
    lines = [
        sign(BODY, "example.com/log", LOG),
        sign(BODY, "example.com/other", LOG),
        sign("another text\n", "example.com/log", WITNESS),
    ]
    check_signed(read_note(BODY + "\n" + "".join(line.text() for line in lines)), key)
    with pytest.raises(NoteUnsigned):
        check_signed(read_note(f"{BODY}\n{lines[1].text()}"), key)


LINE = sign(BODY, "n", LOG).text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        BODY,
        f"{BODY}{LINE}",
        f"{BODY}\n",
        f"{BODY}\n{LINE[:-1]}",
        f"{BODY}\n{LINE}\n",
        f"\n\n{LINE}",
        f"{BODY}\n{LINE.replace('—', '-')}",
        f"{BODY}\n{LINE.replace('— n', '—  n')}",
        f"{BODY}\n{LINE.replace('— n', '— n n')}",
        f"{BODY}\n{LINE.replace('— n', '— n+m')}",
        f"{BODY}\n{LINE.replace('— n ', '— ')}",
        f"{BODY}\n— n AAAA\n",
        f"{BODY}\n— n AAAAAB==\n",
        f"{BODY}\n— n AAAA!AAA\n",
        f"{BODY}\r\n{LINE}",
        f"{BODY}\t\n\n{LINE}",
        f"{BODY}\n{LINE * 101}",
        f"{'x' * 70_000}\n\n{LINE}",
    ],
)
def test_what_is_no_note_is_refused(text):
    with pytest.raises(NoteMalformed):
        read_note(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b", "x" * 300])
def test_nobody_signs_under_a_name_that_breaks_the_form(name):
    with pytest.raises(NoteKeyMalformed):
        note_key(name, SIGNED, LOG)


def test_signature_lines_come_alone_too():
    assert read_lines(LINE + LINE) == (sign(BODY, "n", LOG),) * 2


@given(
    st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=40),
    st.binary(min_size=32, max_size=32),
    st.integers(1, 10**15),
)
def test_a_head_is_read_as_it_is_written(origin, root, size):
    head = Head(origin, size, root)
    assert read_head(head.body()) == head


@pytest.mark.parametrize(
    "body",
    [
        "o\n1\n",
        "o\n1\nAAAA\n",
        f"\n1\n{base64.b64encode(bytes(32)).decode()}\n",
        f"o\n01\n{base64.b64encode(bytes(32)).decode()}\n",
        f"o\n-1\n{base64.b64encode(bytes(32)).decode()}\n",
        f"o\n1 \n{base64.b64encode(bytes(32)).decode()}\n",
        f"o\n\u0661\n{base64.b64encode(bytes(32)).decode()}\n",
        f"o\n1\n{base64.b64encode(bytes(32)).decode()}\nmore\n",
        f"o\n1\n{base64.b64encode(bytes(32)).decode()[:-1]}\n",
        f"o\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        f"o\n0\n{base64.b64encode(bytes(32)).decode()}\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(body):
    with pytest.raises(NoteMalformed):
        read_head(body)


def test_a_head_as_a_note_verifies_under_the_logs_key():
    head = sign_head("example.com/log", 0, EMPTY_ROOT, LOG)
    assert head.body() == BODY
    check_signed(head.note(LOG.public_key()), note_key("example.com/log", SIGNED, LOG))
