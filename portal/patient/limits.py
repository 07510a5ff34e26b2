"""How often one address or one person may ask: token buckets, in memory, under keyed hashes.

A bucket holds up to ``burst`` tokens and gains one every ``seconds``. Who asks takes one; from an
empty bucket nothing is taken, and the refusal says when there is one again. Over any time ``t`` a
bucket gives at most ``burst + t / seconds`` (this is the GCRA of ATM networks [1], counted up).

    >>> buckets = Buckets(Rate(burst=2, seconds=30), key=bytes(32))
    >>> for at in (0, 0, 6):
    ...     try:
    ...         buckets.take("192.0.2.7", at=at)
    ...     except TooManyRequests as refused:
    ...         print(refused.retry_after_seconds)
    24

Three kinds are limited, each with buckets of its own, so that no traffic keeps a withdrawal out:

==============  ======================  ==========================================================
reading         by address              anything that is only looked up
writing         by address              what costs the server a proof to verify, or a place to keep
withdrawing     by address              the end of a grant, by code or by proof
granting        by nullifier            places of a hospital's lane that one person may use up;
                                        taken only after her proof held, so that nobody can empty
                                        another's bucket
==============  ======================  ==========================================================

What holds (tests/portal/test_patient_limits.py):

1. No more than ``burst + t / seconds`` are let through in any time ``t``.
2. Who waits as long as the refusal says is let through.
3. An address is kept as a keyed hash, in memory, until its bucket is full again; nothing is written
   and nothing is logged.
4. An address that a request claims for itself counts only if a configured proxy passed it on.

A hospital's patients may share one address, so limits by address are wide: they stop a program, not
a waiting room. A whole IPv6 /64, which one household has, counts as one address [2].

References:
    [1] ITU-T I.371, annex A (generic cell rate algorithm). [2] RFC 6177, section 2.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from protocol.errors import BitHiveError, ConfigurationError, ConsentError

BUCKETS_MAX: Final = 65_536
"""Buckets of a kind; beyond, the one that was used longest ago is forgotten."""
HOPS_MAX: Final = 16
"""Addresses that are read of a forwarded chain."""
IPV6_PREFIX: Final = 64
KEY_BYTES: Final = 32
SWEEP_SECONDS: Final = 60
"""How often buckets that are full again are thrown away."""
ROUNDING: Final = 1e-9
"""Of a token: who waits as long as told is not refused for the last bit of a sum of fractions."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TooManyRequests(ConsentError):
    """An address or a person asks more often than the server lets one."""

    code = "too-many-requests"

    def __init__(self, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(
            f"too many requests came from one place; nothing was changed, and the next one is "
            f"answered in {retry_after_seconds} s"
        )


class GrantedTooOften(ConsentError):
    """One person changes her grant again and again, and each change uses up a place for good."""

    code = "granted-too-often"

    def __init__(self, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(
            "this consent was changed too often in a short time; nothing was changed, it can be "
            f"changed again in {retry_after_seconds} s and withdrawn at any time"
        )


class ProxyMisnamed(ConfigurationError):
    """What should be a proxy's address is none."""

    code = "proxy-misnamed"

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(f"{text!r} is no address or network of a proxy; write 10.0.0.5 or ::1/128")


@dataclass(frozen=True)
class Rate:
    """So many at once, and one more after every so many seconds."""

    burst: int
    seconds: float

    def __post_init__(self) -> None:
        assert self.burst >= 1
        assert self.seconds > 0


@dataclass(frozen=True)
class Rates:
    """What a server lets through."""

    reading: Rate = Rate(600, 0.1)
    """A page that looks everything up asks some twenty times."""
    writing: Rate = Rate(60, 2)
    withdrawing: Rate = Rate(60, 2)
    granting: Rate = Rate(8, 3 * 3600)
    """Changes of one person's grant: eight in an afternoon, then eight a day."""


@dataclass(frozen=True)
class Limits:
    """Everything that decides who is let through."""

    rates: Rates = Rates()
    proxies: tuple[Network, ...] = ()
    """Whose ``X-Forwarded-For`` is believed; ``read_proxies`` makes them."""
    clock: Callable[[], float] = time.monotonic
    """Seconds that never go back."""
    key: bytes = field(default_factory=lambda: secrets.token_bytes(KEY_BYTES), repr=False)
    """Hides addresses and nullifiers in memory; a new one for every process."""


@dataclass
class Buckets:
    """The buckets of one kind, by whoever asks; ``key`` hides who that is."""

    rate: Rate
    key: bytes = field(repr=False)
    size_max: int = BUCKETS_MAX
    refusal: Callable[[int], BitHiveError] = TooManyRequests
    _held: OrderedDict[bytes, tuple[float, float]] = field(default_factory=OrderedDict, repr=False)
    """Tokens, and the time they were counted; least lately used first. None held means full."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check(self, who: str, *, at: float) -> None:
        """Return if there is a token, and leave it.

        Args:
            who: An address, a nullifier.
            at: Seconds of a clock that never goes back.

        Raises:
            TooManyRequests: Or what ``refusal`` makes: there is none.
        """
        with self._lock:
            self._check(self._tokens(self._name(who), at))

    def take(self, who: str, *, at: float) -> None:
        """Take a token.

        Raises:
            TooManyRequests: As ``check``; nothing was taken.
        """
        with self._lock:
            self._check(self._tokens(self._name(who), at))
            self._spend(who, at)

    def spend(self, who: str, *, at: float) -> None:
        """Take a token where there is none, too: what was done already is counted, not refused."""
        with self._lock:
            self._spend(who, at)

    def forget_full(self, *, at: float) -> None:
        """Throw away every bucket that is full again."""
        with self._lock:
            full = [one for one in self._held if self._tokens(one, at) >= self.rate.burst]
            for name in full:
                del self._held[name]

    def __len__(self) -> int:
        return len(self._held)

    def _name(self, who: str) -> bytes:
        return hashlib.blake2b(who.encode(), key=self.key, digest_size=16).digest()

    def _tokens(self, name: bytes, at: float) -> float:
        tokens, then = self._held.get(name, (float(self.rate.burst), at))
        return min(self.rate.burst, tokens + max(0.0, at - then) / self.rate.seconds)

    def _spend(self, who: str, at: float) -> None:
        name = self._name(who)
        self._held[name] = (self._tokens(name, at) - 1, at)
        self._held.move_to_end(name)
        while len(self._held) > self.size_max:
            self._held.popitem(last=False)

    def _check(self, tokens: float) -> None:
        if tokens < 1 - ROUNDING:
            raise self.refusal(max(1, math.ceil((1 - tokens) * self.rate.seconds)))


def granting_buckets(limits: Limits) -> Buckets:
    """Return the buckets by which one person's grants are counted."""
    return Buckets(limits.rates.granting, limits.key, refusal=GrantedTooOften)


def read_proxies(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks of proxies whose word on an address is believed.

    Raises:
        ProxyMisnamed: One is no address and no network.
    """
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ProxyMisnamed(text) from error
    return tuple(found)


def client_of(peer: str, forwarded: str, proxies: Iterable[Network]) -> str:
    """Return who asks: the peer, or the last in a forwarded chain that is no proxy of ours.

    Args:
        peer: The address at the other end of the connection.
        forwarded: The header ``X-Forwarded-For``, hostile unless a proxy of ours wrote its end.
        proxies: Networks of proxies that are believed.

    Examples:
        >>> ours = read_proxies(["10.0.0.0/8"])
        >>> client_of("10.0.0.5", "198.51.100.9, 203.0.113.4, 10.0.0.6", ours)
        '203.0.113.4'
        >>> client_of("192.0.2.1", "203.0.113.4", ours)
        '192.0.2.1'
        >>> client_of("2001:db8::7:1", "", ours)
        '2001:db8::/64'
    """
    believed = tuple(proxies)
    chain = [peer, *reversed(forwarded.split(",")[-HOPS_MAX:])] if forwarded else [peer]
    who = peer
    for hop in chain:
        text = hop.strip()
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            break  # no address: the last one that was believed counts
        who = text
        if not any(address in network for network in believed):
            break
    return _whole(who)


def _whole(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text  # a test's client has a name
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address.packed, IPV6_PREFIX), strict=False))
    return str(address)


class LimitedRates:
    """Refuse an address that asks too often, before anything of its request is read."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        refuse: Callable[[BitHiveError], ASGIApp],
    ) -> None:
        """Limit ``app``; ``refuse`` makes the answer to a refusal."""
        self._app = app
        self._limits = limits
        self._refuse = refuse
        rates = limits.rates
        self._buckets = {
            "reading": Buckets(rates.reading, limits.key),
            "writing": Buckets(rates.writing, limits.key),
            "withdrawing": Buckets(rates.withdrawing, limits.key),
        }
        self._swept = limits.clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse with the seconds to wait."""
        if scope["type"] == "http" and not scope["path"].startswith("/files/"):
            now = self._limits.clock()
            self._sweep(now)
            try:
                self._buckets[_kind(scope)].take(self._who(scope), at=now)
            except TooManyRequests as error:
                await self._refuse(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _who(self, scope: Scope) -> str:
        peer = scope["client"][0] if scope.get("client") else ""
        forwarded = b",".join(
            value for name, value in scope["headers"] if name == b"x-forwarded-for"
        )
        return client_of(peer, forwarded.decode("latin-1"), self._limits.proxies)

    def _sweep(self, now: float) -> None:
        """Forget who has not asked for long."""
        if now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            for buckets in self._buckets.values():
                buckets.forget_full(at=now)


def _kind(scope: Scope) -> str:
    if scope["path"].startswith("/api/withdrawals"):
        return "withdrawing"
    looked_up = scope["method"] in {"GET", "HEAD"}
    # An invitation's lookup is a guess at a code, which costs as much as writing does.
    guesses = scope["path"].startswith("/api/invitations/")
    return "reading" if looked_up and not guesses else "writing"
