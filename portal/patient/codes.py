"""Codes that people read from paper: the invitation to enrol, and the code that withdraws a grant.

Both are written in Crockford's base 32, in groups of four: no letter that is taken for another,
either case, spaces and dashes as one likes. An invitation is 100 random bits. A withdrawal code is
the grant's id (80 bits) and its secret (128), with ten bits that find a slip of the pen.

    >>> new_invitation(bytes)
    '0000-0000-0000-0000-0000'
    >>> paper = paper_code(GrantId("00" * 10), bytes(16))
    >>> read_paper_code(paper.lower().replace("-", " ")) == (GrantId("00" * 10), bytes(16))
    True

(``bytes`` gives zeros: for examples only.)

What holds (tests/portal/test_patient_codes.py):

1. What was written is read again, in either case, with o for 0 and i or l for 1.
2. A withdrawal code with one wrong symbol, or two neighbours exchanged, is refused (but for one in
   1,024), before anything is sent.

The page computes the same (``static/consent.js``); the browser tests hold the two together.

References:
    Crockford, Base 32, crockford.com/base32.html.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from protocol.errors import ConsentError
from protocol.ids import GrantId

SYMBOLS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
MISREAD: Final = str.maketrans("OIL", "011", " -\t\r\n")
INVITATION_SYMBOLS: Final = 20
"""100 bits: somebody who sees all that the server has cannot try them all."""
GRANT_BYTES: Final = 10
SECRET_BYTES: Final = 16
PAPER_SYMBOLS: Final = 44
"""208 bits and two of padding, then two symbols of check."""


class CodeMistyped(ConsentError):
    """What was typed is no code, or not the whole of one."""

    code = "code-mistyped"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"this is not a whole {what} code; copy all groups of four again from the paper"
        )


def new_invitation(entropy: Callable[[int], bytes]) -> str:
    """Return a new one-time code for a person who was identified."""
    number = int.from_bytes(entropy(13), "big") >> 4
    return _grouped(_symbols(number, INVITATION_SYMBOLS))


def read_invitation(text: str) -> str:
    """Return the 20 symbols of an invitation, canonical, from what somebody typed.

    Raises:
        CodeMistyped: It is not one.
    """
    symbols = _canonical(text)
    if len(symbols) != INVITATION_SYMBOLS or not set(symbols) <= set(SYMBOLS):
        raise CodeMistyped("invitation")
    return symbols


def paper_code(grant: GrantId, secret: bytes) -> str:
    """Return what the patient prints: enough to withdraw the grant from any device."""
    content = bytes.fromhex(grant) + secret
    assert len(content) == GRANT_BYTES + SECRET_BYTES
    body = _symbols(int.from_bytes(content, "big") << 2, PAPER_SYMBOLS - 2)
    return _grouped(body + _check(content))


def read_paper_code(text: str) -> tuple[GrantId, bytes]:
    """Return grant and secret from what somebody typed.

    Raises:
        CodeMistyped: It is not a withdrawal code.
    """
    symbols = _canonical(text)
    if len(symbols) != PAPER_SYMBOLS or not set(symbols) <= set(SYMBOLS):
        raise CodeMistyped("withdrawal")
    number = 0
    for symbol in symbols[:-2]:
        number = number << 5 | SYMBOLS.index(symbol)
    content = (number >> 2).to_bytes(GRANT_BYTES + SECRET_BYTES, "big")
    if number & 3 or symbols[-2:] != _check(content):
        raise CodeMistyped("withdrawal")
    return GrantId(content[:GRANT_BYTES].hex()), content[GRANT_BYTES:]


def _check(content: bytes) -> str:
    digest = hashlib.sha256(b"bithive paper code\n" + content).digest()
    return _symbols(int.from_bytes(digest[:2], "big") >> 6, 2)


def _symbols(number: int, count: int) -> str:
    return "".join(SYMBOLS[number >> 5 * place & 31] for place in reversed(range(count)))


def _canonical(text: str) -> str:
    return text.upper().translate(MISREAD)


def _grouped(symbols: str) -> str:
    return "-".join(symbols[at : at + 4] for at in range(0, len(symbols), 4))
