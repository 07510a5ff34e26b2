"""Identifiers, each its own type so that mypy refuses one in place of another.

Sites and studies are named by short slugs (``st-anna``, ``busi-2026``), because a
person reads them in a log. Whatever goes into a proof or a ledger key uses the
numbers derived from them, never a name.
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType

SiteId = NewType("SiteId", str)
StudyId = NewType("StudyId", str)
PatientId = NewType("PatientId", str)
"""A hospital's own number for a patient. It never leaves the hospital's process."""
GrantId = NewType("GrantId", str)
KeyId = NewType("KeyId", str)
"""First 16 hexadecimal digits of the SHA-256 of the key it names."""
AccountId = NewType("AccountId", str)

SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
"""What a site or study id looks like: at most 40 lower-case letters, digits and dashes."""


def number_of(name: str, *, bits: int) -> int:
    """Return the number that stands for ``name`` in consent terms, below ``2**bits``.

    It is a truncated SHA-256. At 32 bits two of 1,000 sites collide with probability 1e-4; the
    consent registry refuses a second name with the same number.

    Args:
        name: A site, data set or study id.
        bits: A multiple of 8, at most 256.

    Examples:
        >>> number_of("north", bits=32)
        3694550649
    """
    assert bits % 8 == 0
    assert 0 < bits <= 256
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[: bits // 8], "big")
