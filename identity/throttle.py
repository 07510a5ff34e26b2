"""How often somebody may try to sign in: a few times freely, then ever more slowly.

An attempt is counted before the password is looked at, under the name and under the address it
comes from, so a thousand at once do not get further than a thousand in a row. After the free ones
each failure doubles the wait, up to a quarter of an hour; a day without one forgets them. Names
that do not exist are counted as those that do. Who knows a name can make its owner wait a quarter
of an hour at a time, which is the price of not letting him guess.

References:
    NIST SP 800-63B-4, section 3.2.2 (at most 100 failures in a row, and waiting instead).
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Final

from sqlalchemy import Connection, Engine, delete, insert, select, update

from identity.account_tables import FAILURES, deciding
from protocol.errors import IdentityError

FREE_OF_NAME: Final = 5
FREE_OF_ADDRESS: Final = 20
"""More people than one sit behind a hospital's address."""
WAIT_SECONDS_MAX: Final = 900
FORGET_SECONDS: Final = 86_400
_IPV6_PREFIX: Final = 64
"""Who has one address of IPv6 has all of its /64."""


class SignInThrottled(IdentityError):
    """There were too many failed attempts."""

    code = "sign-in-throttled"

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(
            f"there were too many failed attempts to sign in; try again in {seconds} seconds"
        )


def count_attempt(engine: Engine, name: str, address: str, *, now: float) -> None:
    """Count an attempt, or refuse it without counting.

    Args:
        engine: Of ``account_tables``.
        name: As typed; it need not exist.
        address: Where from: an IP address, or how the door calls the caller.
        now: Seconds since 1970.

    Raises:
        SignInThrottled: It comes too early after failures.
    """
    keys = ((_name_key(name), FREE_OF_NAME), (_address_key(address), FREE_OF_ADDRESS))
    with deciding(engine, FAILURES) as connection:
        connection.execute(delete(FAILURES).where(FAILURES.c.last_at < now - FORGET_SECONDS))
        left = max(_wait_left(connection, key, free, now) for key, free in keys)
        if left <= 0:
            for key, _ in keys:
                _add(connection, key, now)
    if left > 0:
        raise SignInThrottled(int(left) + 1)


def forgive(engine: Engine, name: str, address: str) -> None:
    """Take an attempt back that succeeded, and all failures of its name."""
    with deciding(engine, FAILURES) as connection:
        connection.execute(delete(FAILURES).where(FAILURES.c.key == _name_key(name)))
        own = FAILURES.c.key == _address_key(address)
        connection.execute(update(FAILURES).where(own).values(count=FAILURES.c.count - 1))


def wait_after(failures: int, *, free: int) -> float:
    """Return how many seconds must pass after so many failures.

    Examples:
        >>> [wait_after(count, free=5) for count in (4, 5, 6, 10, 1000)]
        [0.0, 1.0, 2.0, 32.0, 900.0]
    """
    if failures < free:
        return 0.0
    return float(min(2 ** min(failures - free, 20), WAIT_SECONDS_MAX))


def _wait_left(connection: Connection, key: str, free: int, now: float) -> float:
    asked = select(FAILURES.c.count, FAILURES.c.last_at).where(FAILURES.c.key == key)
    row = connection.execute(asked).one_or_none()
    if row is None:
        return 0.0
    count, last_at = row
    return float(last_at) + wait_after(count, free=free) - now


def _add(connection: Connection, key: str, now: float) -> None:
    changed = connection.execute(
        update(FAILURES)
        .where(FAILURES.c.key == key)
        .values(count=FAILURES.c.count + 1, last_at=now)
    )
    if changed.rowcount == 0:
        connection.execute(insert(FAILURES), {"key": key, "count": 1, "last_at": now})


def _name_key(name: str) -> str:
    return hashlib.sha256(b"name\n" + name.encode("utf-8", "surrogatepass")).hexdigest()


def _address_key(address: str) -> str:
    network = address
    try:
        parsed = ipaddress.ip_address(address)
        if parsed.version == 6:
            network = str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    except ValueError:
        pass  # a door may call its callers otherwise
    return hashlib.sha256(b"address\n" + network.encode("utf-8", "surrogatepass")).hexdigest()
