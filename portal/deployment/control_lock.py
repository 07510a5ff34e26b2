"""The lock on the SuperLink's control API, and the secret that opens it.

Flower's control API lets whoever reaches its port submit code, register nodes and stop runs,
unless an authentication plugin is given to it. This is the plugin: it opens to the holder of one
secret, 32 random bytes in a file that only the server's account can read. Roles and permissions are
asked before, in our own programs; this is the lock on the door behind them, for who comes past.

What holds, each line a test in tests/portal/deployment/test_control_lock.py:

1. The lock opens to its secret and to nothing else: no token, an empty one, a longer or a shorter.
2. A secret is made where there is none, and never in place of another unless it was asked for.
3. A file that is not a secret, or that others may read, starts no SuperLink.
4. The lock keeps the secret's hash alone, and nobody signs in or gets tokens from it.

References:
    RFC 6750, section 2.1 (bearer tokens). Flower 1.41, ``flwr.superlink.auth_plugin``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx
from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.auth.typing import AccountAuthCredentials, AccountAuthLoginDetails, AccountInfo
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.superlink.auth_plugin import ControlAuthnPlugin

from protocol.errors import ConfigurationError, storage_error
from storage.files import PRIVATE, write_new, write_whole

SECRET_BYTES: Final = 32
_SECRET: Final = re.compile(rf"[0-9a-f]{{{2 * SECRET_BYTES}}}")

Metadata = Sequence[tuple[str, str | bytes]]


class ControlSecretUnfit(ConfigurationError):
    """The file with the control API's secret holds none, or others may read it."""

    code = "control-secret-unfit"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(
            f"{path} {reason}; remove it and start the SuperLink again, which makes another"
        )


def secret_path(flower: Path) -> Path:
    """Return where the secret of the SuperLink whose folder is ``flower`` lies."""
    return flower / "control.secret"


def make_secret(flower: Path) -> None:
    """Make a new secret in place of the one there was; a SuperLink that runs knows the old one."""
    write_whole(secret_path(flower), _new_secret(), mode=PRIVATE)


def read_secret(flower: Path) -> str:
    """Return the secret.

    Raises:
        FileNotFoundError: There is none; no SuperLink was started yet.
        ControlSecretUnfit: The file holds none, or is open to others.
        StorageError: It cannot be read.
    """
    path = secret_path(flower)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_bytes().decode("ascii", errors="replace").strip()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error(error, path.name) from error
    if mode & 0o077:
        raise ControlSecretUnfit(path, f"has mode {mode:04o}, so that others may read it")
    if _SECRET.fullmatch(text) is None:
        raise ControlSecretUnfit(path, f"does not hold {SECRET_BYTES} bytes in hexadecimal digits")
    return text


def lock_of(flower: Path) -> ControlLock:
    """Return the lock of a SuperLink, with the secret that lies in its folder, or with a new one.

    Raises:
        ControlSecretUnfit: What lies there is no secret.
        StorageError: The secret can be neither read nor written.
    """
    write_new(secret_path(flower), _new_secret(), mode=PRIVATE)
    return ControlLock(hashlib.sha256(read_secret(flower).encode()).digest())


class ControlLock(ControlAuthnPlugin):  # type: ignore[misc]  # Flower ships no types
    """Flower's authentication plugin that opens to whoever shows the secret.

    Whoever opens it is the one account that Flower has without a plugin, so that nodes and runs of
    a deployment from before stay its own.
    """

    def __init__(self, secret_sha256: bytes) -> None:
        assert len(secret_sha256) == hashlib.sha256().digest_size
        self._secret_sha256 = secret_sha256

    def validate_tokens_in_metadata(self, metadata: Metadata) -> tuple[bool, AccountInfo | None]:
        """Say whether the one token shown is the secret, in a time that tells nothing of it."""
        shown = [value for key, value in metadata if key == ACCESS_TOKEN_KEY]
        if len(shown) != 1:
            return False, None
        token = shown[0] if isinstance(shown[0], bytes) else shown[0].encode()
        # Of equal length whatever was shown; and a hash that begins alike helps nobody.
        if not hmac.compare_digest(hashlib.sha256(token).digest(), self._secret_sha256):
            return False, None
        return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)

    def get_login_details(self) -> AccountAuthLoginDetails | None:
        """Say that nobody signs in here."""
        return None

    def get_auth_tokens(self, device_code: str) -> AccountAuthCredentials | None:
        """Give no tokens, whatever code is shown."""
        del device_code
        return None

    def refresh_tokens(self, metadata: Metadata) -> tuple[Metadata | None, AccountInfo | None]:
        """Give no tokens for others."""
        del metadata
        return None, None


class ShowSecret:
    """Shows the secret with each of our calls of the control API."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the secret to the request, as a bearer token."""
        add_headers(context.request, {"authorization": f"Bearer {self._secret}"})
        answer: httpx.Response = call_next(context)
        return answer


def _new_secret() -> bytes:
    return secrets.token_hex(SECRET_BYTES).encode()
