"""What a password must be, and keeping it so that nobody reads it back.

A password is judged by its length and by not being one that everybody tries; there are no rules
about kinds of characters, and none ever ends by the calendar [1]. It is kept as an Argon2id hash in
its own text form, with a salt of its own [2]. The cost is the RFC's second choice: 64 MiB, three
passes, four lanes. No message, error or log holds a password.

    >>> cheap = Cost(iterations=1, lanes=1, memory_kib=64)
    >>> kept = hash_password("correct horse battery", cost=cheap, entropy=lambda n: bytes(n))
    >>> kept.split("$")[1:4]
    ['argon2id', 'v=19', 'm=64,t=1,p=1']
    >>> verify_password("correct horse battery", kept)

What holds, each line a test in tests/identity/test_passwords.py:

1. The hash of a password verifies it, however it was typed in Unicode, and nothing else.
2. A password that is short, long, the account's own name, or on the list is refused.

References:
    [1] NIST SP 800-63B-4, section 3.1.1.2. [2] RFC 9106, sections 3.1 and 4; PHC string format.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from protocol.errors import IdentityError

CHARACTERS_MIN: Final = 15
"""Where a password is all there is [1]."""
CHARACTERS_MAX: Final = 256
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32
_TRIED_FIRST: Final = (
    "password",
    "passwort",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890123456789",
    "12345678901234567890",
    "98765432109876543210",
    "iloveyou",
    "letmein",
    "welcome",
    "bithive",
    "hospital",
    "changeme",
    "administrator",
)
"""What lists of stolen passwords begin with. A long password made of one of these, repeated or cut,
with digits and signs around it, is refused."""


class PasswordUnfit(IdentityError):
    """A new password is one that would be guessed."""

    code = "password-unfit"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"this password is not taken: {why}; several words in a row do well")


class PasswordWrong(IdentityError):
    """A password is not the one that was kept."""

    code = "password-wrong"

    def __init__(self) -> None:
        super().__init__("this is not the password that was kept; type it again, or have it reset")


@dataclass(frozen=True)
class Cost:
    """What a guess costs: passes, lanes, and KiB of memory."""

    iterations: int = 3
    lanes: int = 4
    memory_kib: int = 64 * 1024

    def is_of(self, kept: str) -> bool:
        """Say whether ``kept`` was made at this cost."""
        mark = f"$argon2id$v=19$m={self.memory_kib},t={self.iterations},p={self.lanes}$"
        return kept.startswith(mark)


def check_password(password: str, *, name: str) -> None:
    """Return if ``password`` may be an account's.

    Args:
        password: As typed.
        name: The account's.

    Raises:
        PasswordUnfit: It would be guessed.
    """
    plain = _normal(password)
    if len(plain) < CHARACTERS_MIN:
        raise PasswordUnfit(f"it has fewer than {CHARACTERS_MIN} characters")
    if len(plain) > CHARACTERS_MAX:
        raise PasswordUnfit(f"it has more than {CHARACTERS_MAX} characters")
    letters = "".join(one for one in plain.lower() if one.isalnum())
    if len(set(plain)) < 5:
        raise PasswordUnfit("it repeats a few characters")
    if any(_is_made_of(letters, known) for known in (*_TRIED_FIRST, name.lower())):
        raise PasswordUnfit("it is among those that are tried first")


def hash_password(password: str, *, cost: Cost, entropy: Callable[[int], bytes]) -> str:
    """Return what is kept of a password.

    Args:
        password: As typed; ``check_password`` took it.
        cost: Of each guess.
        entropy: Gives so many random bytes, for the salt.
    """
    return _kdf(cost, entropy(_SALT_BYTES)).derive_phc_encoded(_bytes(password))


def verify_password(password: str, kept: str) -> None:
    """Return if ``kept`` was made of ``password``.

    Raises:
        PasswordWrong: It was not.
    """
    try:
        Argon2id.verify_phc_encoded(_bytes(password), kept)
    except InvalidKey:
        raise PasswordWrong from None


def _kdf(cost: Cost, salt: bytes) -> Argon2id:
    return Argon2id(
        salt=salt,
        length=_HASH_BYTES,
        iterations=cost.iterations,
        lanes=cost.lanes,
        memory_cost=cost.memory_kib,
    )


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def _bytes(password: str) -> bytes:
    # Whoever types more than is allowed gets an answer at the same cost as everybody.
    return _normal(password[: 4 * CHARACTERS_MAX]).encode("utf-8", "surrogatepass")


def _is_made_of(letters: str, known: str) -> bool:
    """Say whether nothing of ``letters`` is left that is worth guessing without ``known``."""
    known = "".join(one for one in known if one.isalnum())
    if not known:
        return False
    rest = letters.replace(known, "")
    is_run = len(letters) >= CHARACTERS_MIN // 2 and letters in known * 8
    return is_run or (rest != letters and len(rest.strip("0123456789")) < 4)
