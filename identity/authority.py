"""The consortium's certificate authority: issue, take back, and renew itself.

It signs with ECDSA P-384, which nginx, OpenSSL and Flower 1.41 all read; Ed25519 certificates are
refused by many TLS clients. A site's certificate serves its client side of TLS only and names the
site; a server's serves the server side only and holds the names it is reached by. What a request
asks for beyond its key is not copied. The authority remembers nothing: who was given which serial
is in the consortium's register (``identity.register``), from which its list of revoked
certificates is made.

    >>> from datetime import UTC
    >>> authority = Authority.found("federation", now=datetime(2026, 11, 21, tzinfo=UTC))
    >>> key = ec.generate_private_key(ec.SECP384R1()).public_key()
    >>> issued = authority.issue_site(SiteId("north"), key, now=datetime(2026, 11, 22, tzinfo=UTC))
    >>> site_of(issued), issued.not_valid_after_utc.date().isoformat()
    ('north', '2027-02-20')

What holds, each line a test in tests/identity/test_authority.py:

1. OpenSSL accepts what was issued for its one use, until it ends or its serial is on the list.
2. A site's certificate is no server's and no authority's, and the other way round.
3. No certificate outlives its authority.

References:
    RFC 5280, sections 4.1, 4.2.1 and 5; RFC 5480 for the curve's name.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.errors import IdentityError, storage_error
from protocol.ids import SLUG, SiteId
from storage.files import PRIVATE, write_whole

AUTHORITY_DAYS: Final = 3650
SITE_DAYS: Final = 90
SERVER_DAYS: Final = 90
LIST_DAYS: Final = 365
"""nginx refuses everybody once a list of revoked certificates is past its day; the list lies beside
it on the operator's own machine and is made anew at every change, so a short life adds nothing."""
BACKDATED: Final = timedelta(hours=2)
"""For clocks that are behind, by an hour of daylight saving too: a hospital whose clock is would
otherwise refuse the front door's certificate until its own clock has come to the hour of issue."""
URI_PREFIX: Final = "urn:bithive:site:"
HOST: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)


class AuthorityUnreadable(IdentityError):
    """The files of a certificate authority are missing or hold something else."""

    code = "authority-unreadable"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name} does not hold the certificate authority's own; restore it from its backup"
        )


class CertificateRefused(IdentityError):
    """A certificate is not what its holder says it is."""

    code = "certificate-not-accepted"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the certificate is not accepted: {why}; ask the operator for a new one")


class ServerNameRefused(IdentityError):
    """A server was to be certified under a name that is none."""

    code = "server-name-refused"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name[:80]!r} is neither a host's name in lower case nor an IP address; give the "
            "names by which hospitals reach the server"
        )


@dataclass(frozen=True)
class Revocation:
    """A certificate that must not be accepted any more."""

    serial: int
    at: datetime


@dataclass(frozen=True)
class Authority:
    """A key that certificates are signed with, and its own certificate."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @classmethod
    def found(cls, federation: str, *, now: datetime) -> Authority:
        """Return a new authority for ten years.

        Args:
            federation: A slug, shown in its name.
            now: With its time zone.
        """
        assert SLUG.fullmatch(federation)
        key = ec.generate_private_key(ec.SECP384R1())
        # Of its own, so that OpenSSL keeps an earlier authority and its list apart from this one.
        name = _name(f"BitHive {federation} {secrets.token_hex(4)}")
        until = now + timedelta(days=AUTHORITY_DAYS)
        public = key.public_key()
        builder = _builder(name, name, public, now, until)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, hashes.SHA384())
        )
        return cls(key, certificate)

    @classmethod
    def load(cls, key: Path, certificate: bytes) -> Authority:
        """Return the authority whose key is kept at ``key``.

        Raises:
            AuthorityUnreadable: The file holds no key, or another one than the certificate's.
            StorageError: It cannot be read.
        """
        try:
            loaded = load_pem_private_key(key.read_bytes(), None)
            own = x509.load_pem_x509_certificate(certificate)
        except OSError as error:
            raise storage_error(error, key.name) from error
        except (ValueError, TypeError):
            # The cause may quote the content, which is secret.
            raise AuthorityUnreadable(key.name) from None
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise AuthorityUnreadable(key.name)
        if loaded.public_key() != own.public_key():
            raise AuthorityUnreadable(key.name)
        return cls(loaded, own)

    def save_key(self, path: Path) -> None:
        """Keep the key at ``path``, mode 0600."""
        write_whole(path, private_pem(self.key), mode=PRIVATE)

    def pem(self) -> bytes:
        """Return its certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def issue_site(
        self, site: SiteId, key: ec.EllipticCurvePublicKey, *, now: datetime
    ) -> x509.Certificate:
        """Return a certificate with which ``site`` connects to servers, for 90 days.

        Args:
            site: A slug; its common name, and ``urn:bithive:site:SITE`` as alternative name.
            key: A P-384 key whose possession was proven.
            now: With its time zone.
        """
        assert SLUG.fullmatch(site)
        names = [x509.UniformResourceIdentifier(URI_PREFIX + site)]
        use = ExtendedKeyUsageOID.CLIENT_AUTH
        return self._issue(site, key, names=names, use=use, days=SITE_DAYS, now=now)

    def issue_server(
        self, names: Sequence[str], key: ec.EllipticCurvePublicKey, *, now: datetime
    ) -> x509.Certificate:
        """Return a certificate under which a server is reached, for 90 days.

        Args:
            names: Host names in lower case or IP addresses, at least one.
            key: The server's P-384 key.
            now: With its time zone.

        Raises:
            ServerNameRefused: A name is neither.
        """
        assert names
        shown = [_server_name(name) for name in names]
        first = names[0] if len(names[0]) <= 64 else "server"  # a common name's limit
        use = ExtendedKeyUsageOID.SERVER_AUTH
        return self._issue(first, key, names=shown, use=use, days=SERVER_DAYS, now=now)

    def revocation_list(
        self, revoked: Iterable[Revocation], *, number: int, now: datetime
    ) -> x509.CertificateRevocationList:
        """Return the signed list of certificates that must not be accepted.

        Args:
            revoked: All of them that this authority signed.
            number: Greater with every list.
            now: With its time zone.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - BACKDATED)
            .next_update(now + timedelta(days=LIST_DAYS))
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(self._signer(), critical=False)
        )
        for one in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(one.serial)
            builder = builder.add_revoked_certificate(entry.revocation_date(one.at).build())
        return builder.sign(self.key, hashes.SHA384())

    def _issue(
        self,
        common: str,
        key: ec.EllipticCurvePublicKey,
        *,
        names: Sequence[x509.GeneralName],
        use: x509.ObjectIdentifier,
        days: int,
        now: datetime,
    ) -> x509.Certificate:
        until = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        return (
            _builder(_name(common), self.certificate.subject, key, now, until)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(self._signer(), critical=False)
            .sign(self.key, hashes.SHA384())
        )

    def _signer(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())


def check_site_certificate(
    certificate: x509.Certificate,
    authorities: Sequence[x509.Certificate],
    site: SiteId,
    *,
    now: datetime,
) -> None:
    """Return if one of ``authorities`` certified ``site``, for now.

    Whether it was revoked is the list's matter.

    Raises:
        CertificateRefused: None did, it is for another use or site, or not for now.
    """
    if not any(_signed_by(certificate, one) for one in authorities):
        raise CertificateRefused("none of the federation's authorities signed it")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise CertificateRefused(
            f"it holds from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, and this clock says {now:%Y-%m-%d}"
        )
    if site_of(certificate) != site:
        raise CertificateRefused(f"it is not for the site {site}")


def site_of(certificate: x509.Certificate) -> SiteId | None:
    """Return the site that a certificate names, or None for a server's or an authority's."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    given = names.get_values_for_type(x509.UniformResourceIdentifier)
    if list(uses) != [ExtendedKeyUsageOID.CLIENT_AUTH] or len(given) != 1:
        return None
    site = given[0].removeprefix(URI_PREFIX)
    is_site = given[0].startswith(URI_PREFIX) and SLUG.fullmatch(site) is not None
    return SiteId(site) if is_site else None


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as nginx and OpenSSL read it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _server_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not HOST.fullmatch(name):
        raise ServerNameRefused(name)
    return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(until)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
