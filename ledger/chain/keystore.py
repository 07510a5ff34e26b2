"""A key on the disk: encrypted under a password, in the format that wallets share.

Version 3 of the Web3 secret storage: the key is encrypted with AES-128-CTR under a key that scrypt
derives from the password, so that each guess costs a second and 256 MB. The file is readable by its
owner alone, and one that others can read is refused, as is a password that stands in one.

A password comes from a file, an environment variable or standard input; never from the command
line, where every user of the machine reads it.

What holds (tests/ledger/chain/test_keystore.py):

1. What was kept is read back under its password, and under no other.
2. A file that others may read is refused, whatever is in it; an existing one is never replaced.

References:
    Ethereum Foundation, Web3 Secret Storage Definition, version 3.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TextIO

from ledger.chain.signer import LocalSigner
from protocol.errors import ConfigurationError, LedgerError, StorageError, storage_error
from storage.files import PRIVATE, write_new

KEY_BYTES: Final = 32
SCRYPT_N: Final = 1 << 18
PASSWORD_CHARACTERS_MIN: Final = 12


class KeystoreUnreadable(LedgerError):
    """The password is another, or the file is damaged."""

    code = "keystore-unreadable"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path.name} does not open with this password; give the right one, or restore the file"
        )


class KeystoreExists(LedgerError):
    """A key is there already and would be lost."""

    code = "keystore-exists"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path.name} holds a key already; name another file, or move it away")


class SecretExposed(StorageError):
    """A file with a secret can be read by others than its owner."""

    code = "secret-exposed"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"others can read {path}; `chmod 600` it, and think of the secret in it as known"
        )


class PasswordUnusable(ConfigurationError):
    """No password can be read from where it was said to be, or it is too short."""

    code = "password-unusable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"there is no usable password: {why}; see --password in the help")


def create_keystore(
    path: Path, password: str, *, key: bytes | None = None, scrypt_n: int = SCRYPT_N
) -> LocalSigner:
    """Keep a key in a new file, and return who signs with it.

    Args:
        path: The file; its folder is made.
        password: At least 12 characters.
        key: 32 bytes; drawn from the operating system if none is given.
        scrypt_n: What a guess costs; lower than the default in tests only.

    Raises:
        KeystoreExists: There is a file.
        PasswordUnusable: The password is short.
        StorageError: The disk refused.
    """
    from eth_account import Account  # noqa: PLC0415 - web3 is loaded when a chain is used

    if path.exists():
        raise KeystoreExists(path)
    if len(password) < PASSWORD_CHARACTERS_MIN:
        raise PasswordUnusable(f"it has fewer than {PASSWORD_CHARACTERS_MIN} characters")
    key = secrets.token_bytes(KEY_BYTES) if key is None else key
    kept = Account.encrypt(key, password, kdf="scrypt", iterations=scrypt_n)
    # Asked again by the file system: another process may have made one meanwhile.
    if not write_new(path, json.dumps(kept, indent=1).encode(), mode=PRIVATE):
        raise KeystoreExists(path)
    return LocalSigner(key)


def open_keystore(path: Path, password: str) -> LocalSigner:
    """Return who signs with the key in a file.

    Raises:
        SecretExposed: Others can read the file.
        KeystoreUnreadable: The password is another, or the file is no keystore.
        StorageError: It cannot be read.
    """
    from eth_account import Account  # noqa: PLC0415 - as above

    try:
        document = json.loads(read_private(path))
        return LocalSigner(bytes(Account.decrypt(document, password)))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise KeystoreUnreadable(path) from None


def address_in(path: Path) -> bytes:
    """Return the address that a keystore says it is of, without its password.

    Raises:
        SecretExposed, StorageError: As ``open_keystore``.
        KeystoreUnreadable: It says none.
    """
    try:
        address = bytes.fromhex(json.loads(read_private(path))["address"].removeprefix("0x"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise KeystoreUnreadable(path) from None
    return address


def read_password(source: str, *, stdin: TextIO, environment: Mapping[str, str]) -> str:
    """Return the password that ``source`` names.

    Args:
        source: ``file:PATH`` (the first line), ``env:NAME`` or ``stdin``.
        stdin: Where a person or a pipe types.
        environment: The variables.

    Raises:
        PasswordUnusable: There is none.
        SecretExposed: Others can read the file.
    """
    kind, _, name = source.partition(":")
    if kind == "file" and name:
        text = read_private(Path(name)).decode(errors="replace")
        password = (text.splitlines() or [""])[0]
    elif kind == "env" and name:
        password = environment.get(name, "")
    elif source == "stdin":
        password = stdin.readline().rstrip("\n")
    else:
        raise PasswordUnusable("its source is not file:PATH, env:NAME or stdin")
    if not password:
        raise PasswordUnusable(f"{source} holds none")
    return password


def read_private(path: Path) -> bytes:
    """Return the content of a file that only its owner can read.

    Raises:
        SecretExposed: Others can.
        StorageError: It cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise SecretExposed(path)
            return file.read()
    except OSError as error:
        raise storage_error(error, path.name) from error
