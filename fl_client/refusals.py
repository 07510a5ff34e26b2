"""How a hospital says no: a code, and a sentence that tells the outside no more than it may."""

from __future__ import annotations

from typing import Any

from protocol.errors import BitHiveError, ConsentError, FederationError
from protocol.frames import encode


def refusal(error: BitHiveError, **more: Any) -> bytes:
    """Return the frame that refuses with ``error``."""
    return encode("refused", {"code": error.code, "reason": outward(error)} | more)


def outward(error: BitHiveError) -> str:
    """Return what may be said outside of why this hospital refused.

    Only errors about messages and consent say their facts: those of records, storage and keys may
    name a file, or tell a forger which check failed, so they say what kind of trouble it was.
    """
    if isinstance(error, FederationError | ConsentError):
        return str(error)
    return (type(error).__doc__ or error.code).splitlines()[0]
