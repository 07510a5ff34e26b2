"""Signed notes: a text, a blank line, and signature lines that name who signed.

    >>> key = read_key("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    >>> key.name, key.key_id.hex(), key.kind
    ('PeterNeumann', 'c74f20a3', 1)

A line of an unknown key is ignored, as the format asks; a line of a known key that does not verify
condemns the whole note. Two kinds of signature are known, both Ed25519: over the note's text (the
log's), and over a time and the text (a witness's).

What holds, each line a test in tests/audit/test_notes.py:

1. The published note of the format's own implementation verifies, and is signed byte for byte.
2. A note, line or key with any other form than the one it is written in is refused.

References:
    C2SP, signed-note (key names, ids, lines) and tlog-cosignature (kind 4, what it signs).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, replace
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.errors import LedgerError

NOTE_BYTES_MAX: Final = 64 * 1024
SIGNATURES_MAX: Final = 100
NAME_CHARACTERS_MAX: Final = 200
KEY_ID_BYTES: Final = 4
SIGNED: Final = 1
"""Kind of an Ed25519 key that signs a note's text."""
COSIGNED: Final = 4
"""Kind of an Ed25519 key that signs when a checkpoint was seen, and the checkpoint's text."""
TIME_MAX: Final = (1 << 63) - 1
_DASH: Final = "\N{EM DASH} "


class NoteMalformed(LedgerError):
    """A text is no signed note or checkpoint."""

    code = "note-malformed"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"this is no signed note of a log's head: {why}; fetch it again")


class NoteKeyMalformed(LedgerError):
    """A text is no key of a signed note."""

    code = "note-key-malformed"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"this is no verifier key: {why}; it has the form NAME+HASH+KEY, as "
            "`bithive audit head` prints it"
        )


class NoteUnsigned(LedgerError):
    """A note does not carry the signature that it must carry, or one that does not verify."""

    code = "note-unsigned"

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        super().__init__(f"{why} by {name}; do not rely on it, and keep it to show it to others")


@dataclass(frozen=True)
class NoteKey:
    """Who signs, with which key, and what the signature covers."""

    name: str
    kind: int
    public_key: bytes
    """32 bytes of Ed25519."""

    @property
    def key_id(self) -> bytes:
        """Return the 4 bytes that stand before a signature of this key."""
        named = self.name.encode() + b"\n" + bytes([self.kind]) + self.public_key
        return hashlib.sha256(named).digest()[:KEY_ID_BYTES]

    def text(self) -> str:
        """Return ``NAME+HASH+KEY``, as it is handed to those who verify."""
        encoded = base64.b64encode(bytes([self.kind]) + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"


@dataclass(frozen=True)
class SignatureLine:
    """One signature: who says that he made it, the key's id, and the rest."""

    name: str
    key_id: bytes
    signature: bytes

    def text(self) -> str:
        """Return the line, with its end."""
        encoded = base64.b64encode(self.key_id + self.signature).decode()
        return f"{_DASH}{self.name} {encoded}\n"


@dataclass(frozen=True)
class Note:
    """A text and its signatures, none of them verified."""

    body: str
    """Lines, the last one ended too."""
    signatures: tuple[SignatureLine, ...]

    def text(self) -> str:
        """Return the note as it is stored and sent."""
        return self.body + "\n" + "".join(line.text() for line in self.signatures)

    def with_lines(self, *lines: SignatureLine) -> Note:
        """Return the note with more signatures; the same line is there once."""
        more = tuple(line for line in lines if line not in self.signatures)
        return replace(self, signatures=self.signatures + more)


def note_key(name: str, kind: int, key: Ed25519PrivateKey | Ed25519PublicKey) -> NoteKey:
    """Return the verifier key of ``key`` under ``name``.

    Raises:
        NoteKeyMalformed: Nobody can be called so in a note.
    """
    _check_name(name)
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return NoteKey(name, kind, public.public_bytes_raw())


def read_key(text: str) -> NoteKey:
    """Read ``NAME+HASH+KEY``.

    Raises:
        NoteKeyMalformed: It is none, its hash is another key's, or its kind is not known.
    """
    parts = text.strip("\n").split("+", 2)
    if len(parts) != 3:
        raise NoteKeyMalformed("it has no three parts")
    name, key_id, encoded = parts
    _check_name(name)
    content = _bytes_of(encoded)
    if content is None or len(content) != 33 or content[0] not in {SIGNED, COSIGNED}:
        raise NoteKeyMalformed("its last part is no Ed25519 key")
    key = NoteKey(name, content[0], content[1:])
    if key.key_id.hex() != key_id:
        raise NoteKeyMalformed("its parts do not belong together")
    return key


def read_note(text: str) -> Note:
    """Read a note; nothing is verified yet.

    Raises:
        NoteMalformed: It is none.
    """
    if len(text.encode(errors="replace")) > NOTE_BYTES_MAX:
        raise NoteMalformed(f"it has more than {NOTE_BYTES_MAX} bytes")
    if any(character < " " and character != "\n" for character in text):
        raise NoteMalformed("it holds control characters")
    body, blank, signed = text.rpartition("\n\n")
    if not blank or not body or not signed.endswith("\n"):
        raise NoteMalformed("its text and its signatures are not apart, or it does not end")
    lines = signed[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise NoteMalformed(f"it has more than {SIGNATURES_MAX} signatures")
    return Note(body + "\n", tuple(_read_line(line) for line in lines))


def read_lines(text: str) -> tuple[SignatureLine, ...]:
    """Read signature lines that come without their note, as a witness sends them.

    Raises:
        NoteMalformed: They are none.
    """
    return read_note(f"-\n\n{text}").signatures


def sign(body: str, name: str, key: Ed25519PrivateKey) -> SignatureLine:
    """Sign a note's text."""
    return SignatureLine(name, note_key(name, SIGNED, key).key_id, key.sign(body.encode()))


def cosign(body: str, name: str, key: Ed25519PrivateKey, *, at: int) -> SignatureLine:
    """Sign that a checkpoint was seen and found consistent.

    Args:
        body: The checkpoint's text.
        name: The witness.
        key: The witness's, used for nothing else.
        at: Seconds since 1970.
    """
    signature = at.to_bytes(8, "big") + key.sign(_cosigned(body, at))
    return SignatureLine(name, note_key(name, COSIGNED, key).key_id, signature)


def check_signed(note: Note, key: NoteKey) -> int:
    """Check that ``key`` signed the note.

    Returns:
        When a witness signed it, in seconds since 1970, the latest if there are several; 0 for a
        key that signs texts alone.

    Raises:
        NoteUnsigned: It did not, or one line in its name does not verify.
    """
    found = [line for line in note.signatures if (line.name, line.key_id) == (key.name, key.key_id)]
    if not found:
        raise NoteUnsigned(key.name, "the note is not signed")
    return max(_check_line(note.body, line, key) for line in found)


def _check_line(body: str, line: SignatureLine, key: NoteKey) -> int:
    at, message = 0, body.encode()
    if key.kind == COSIGNED:
        at = int.from_bytes(line.signature[:8], "big")
        message = _cosigned(body, at)
    signature = line.signature[8:] if key.kind == COSIGNED else line.signature
    if at > TIME_MAX:
        raise NoteUnsigned(key.name, "the note carries a signature of no possible time")
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise NoteUnsigned(key.name, "the note carries a signature that was not made") from error
    return at


def _cosigned(body: str, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n{body}".encode()


def _read_line(line: str) -> SignatureLine:
    parts = line.removeprefix(_DASH).split(" ")
    if not line.startswith(_DASH) or len(parts) != 2 or not _is_name(parts[0]):
        raise NoteMalformed("a signature line has another form")
    content = _bytes_of(parts[1])
    if content is None or len(content) <= KEY_ID_BYTES:
        raise NoteMalformed("a signature is not base64")
    return SignatureLine(parts[0], content[:KEY_ID_BYTES], content[KEY_ID_BYTES:])


def _bytes_of(encoded: str) -> bytes | None:
    """Return what is encoded, or None: also where it could be written otherwise."""
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if base64.b64encode(content).decode() == encoded else None


def _is_name(name: str) -> bool:
    short = 0 < len(name) <= NAME_CHARACTERS_MAX
    return short and "+" not in name and not any(one.isspace() or one < " " for one in name)


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise NoteKeyMalformed("its name is empty, too long, or holds a plus or white space")
