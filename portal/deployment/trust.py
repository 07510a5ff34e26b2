"""The doctor's look at keys, certificates and clocks.

A certificate is looked at with the consortium's authorities beside it; a clock is compared with the
front door's, over the very connection that the site's node makes.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import stat
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from portal.deployment.findings import Finding, fails, ok, warning

DAYS_WARN: Final = 30
DAYS_MIN: Final = 0
CLOCK_SECONDS_WARN: Final = 5.0
"""Flower takes a signed time up to 5 s ahead; our node signs the server's time, others do not."""
CLOCK_SECONDS_MAX: Final = 3600.0
"""Beyond an hour, certificates' and approvals' days begin to be wrong."""
LIST_DAYS_WARN: Final = 30
CONNECT_SECONDS: Final = 10.0
RENEW: Final = "renew it: `bithive operator renew SITE`, or `bithive operator server` for a server"
REFRESH: Final = "make it anew on the operator's machine: `bithive operator list`"


def certificate(
    check: str,
    path: Path,
    authorities: Sequence[x509.Certificate],
    *,
    now: datetime,
    days_warn: int = DAYS_WARN,
    renewal: str = RENEW,
) -> Finding:
    """Look at one certificate: readable, signed by one of the authorities, not about to end."""
    try:
        read = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return fails(check, "missing or unreadable", "install the admission again, or renew it")
    if authorities and not any(_signed(read, one) for one in authorities):
        return fails(check, "not signed by the consortium", "ask the operator for a new admission")
    days = (read.not_valid_after_utc - now).days
    if now < read.not_valid_before_utc:
        return fails(check, f"valid from {read.not_valid_before_utc:%Y-%m-%d}", "set this clock")
    if days < DAYS_MIN:
        return fails(check, f"ended {read.not_valid_after_utc:%Y-%m-%d}", renewal)
    if days < days_warn:
        return warning(check, f"{days} days left", renewal)
    return ok(check, f"{days} days left")


def keys(check: str, paths: Iterable[Path]) -> Finding:
    """Look whether files that hold keys are there, and closed to others."""
    for path in paths:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            return fails(check, f"{path.name} is missing", "restore it from its backup")
        if mode & 0o077:
            return fails(check, f"{path.name} has mode {mode:04o}", f"chmod 0600 {path}")
    return ok(check, "there, and their owner's only")


def revocations(path: Path, *, now: datetime) -> Finding:
    """Look at the age of the list of revoked certificates; past its day nginx refuses everybody."""
    check = "revocation list"
    end = b"-----END X509 CRL-----"
    try:
        parts = path.read_bytes().split(end)[:-1]
        lists = [x509.load_pem_x509_crl(part + end + b"\n") for part in parts]
    except (OSError, ValueError):
        lists = []
    if not lists:
        return fails(check, "missing or unreadable", REFRESH)
    days = min(((one.next_update_utc or now) - now).days for one in lists)
    age = max((now - one.last_update_utc).days for one in lists)
    revoked = sum(len(one) for one in lists)
    found = f"{revoked} revoked, made {age} days ago, {days} days left"
    if days < 0:
        return fails(check, found, REFRESH)
    if days < LIST_DAYS_WARN:
        return warning(check, found, REFRESH)
    return ok(check, found)


def clock(address: tuple[str, int], authority: Path, chain: tuple[Path, Path]) -> Finding:
    """Compare this clock with the front door's, over mutual TLS.

    Args:
        address: Host and port of the door.
        authority: What signs its certificate.
        chain: The site's certificate and key.
    """
    try:
        began = datetime.now(UTC)
        date = _date_of(address, authority, chain)
        ended = datetime.now(UTC)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return warning(
            "clock", f"the front door does not answer ({_why(error)})", "see `bithive status`"
        )
    middle = began + (ended - began) / 2
    ahead = (middle - date).total_seconds() - 0.5  # the header counts whole seconds, cut off
    found = f"{ahead:+.0f} s against the front door"
    return _clock_found("clock", ahead, found, "set the clock; have it kept by NTP")


def site_clock(site: str, ahead: float | None) -> Finding:
    """Look at a site's clock as it stood when the site was last offered a job.

    Args:
        site: Whose.
        ahead: Seconds against the server's clock, as its agent says; None before an offer.
    """
    check = f"clock of {site}"
    if ahead is None:
        return ok(check, "not compared yet: no server has offered it a job")
    found = f"{ahead:+.0f} s against the server, when it last offered a job"
    return _clock_found(check, ahead, found, f"set the clock at {site}; have it kept by NTP")


def _clock_found(check: str, ahead: float, found: str, advice: str) -> Finding:
    if abs(ahead) > CLOCK_SECONDS_MAX:
        return fails(check, found, advice)
    if abs(ahead) > CLOCK_SECONDS_WARN:
        return warning(check, found, advice.replace("set", "see to", 1))
    return ok(check, found)


def read_authorities(path: Path) -> list[x509.Certificate]:
    """Return the certificates of a file, none where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return x509.load_pem_x509_certificates(path.read_bytes())
    return []


def _date_of(address: tuple[str, int], authority: Path, chain: tuple[Path, Path]) -> datetime:
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(str(chain[0]), str(chain[1]))
    connection = http.client.HTTPSConnection(*address, timeout=CONNECT_SECONDS, context=context)
    try:
        connection.request("POST", "/v1/fleet/pull-messages")
        date = connection.getresponse().getheader("Date")
    finally:
        connection.close()
    return parsedate_to_datetime(date or "")


def _signed(read: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        read.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _why(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:80]
