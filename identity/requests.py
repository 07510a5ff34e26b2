"""The one file that a hospital sends to join: its name, its public keys, and proof of having them.

``SITE/identity/request.json`` is canonical JSON. Each private key shows that it is there: the TLS
key signs the certificate request inside, the SuperNode's key signs all of it, and the site's
signing key signs the whole, the SuperNode's signature too. An agreement key cannot sign; the
signing key vouches for it, and who registers somebody else's could open nothing with it.

The file is public and needs no secrecy, only certainty about where it comes from: both sides
compare its fingerprint over a telephone number that they had before.

    >>> keys = Keys.generate()
    >>> now = datetime(2026, 11, 21, 9, tzinfo=UTC)
    >>> sent = make_request(SiteId("north"), keys, now=now, entropy=lambda size: bytes(size))
    >>> read_request(canonical(sent), now=now).site
    'north'

What holds, each line a test in tests/identity/test_requests.py:

1. A request of which a byte was changed, cut or added is refused, or is the same request.
2. A request for which a private key is missing is refused: for TLS, node or signing key.
3. One that is not of its time, fourteen days, is refused, and one beyond 64 KiB is not parsed.
4. An agreement key with which nobody can agree on a secret is refused: with one such hospital in a
   study the others could seal nothing to it, and no round would begin.
5. Rotated keys are vouched for by the signing key that they take the place of.

References:
    RFC 2986 (PKCS #10), for the certificate request. RFC 7748, section 6.1, for agreeing on zero.
    NIST SP 800-107, section 5.1, for cutting the fingerprint to 128 bits: it must withstand a
    second file, not a pair of one's own.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import UTC as UTC  # noqa: PLC0414 - the example's
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_public_key
from cryptography.x509.oid import NameOID
from pydantic import AwareDatetime, Field, ValidationError

from identity.site_folder import Keys, openssh
from privacy.keys import SiteKeys
from privacy.signatures import BadSignature, check_signature
from protocol.canonical import Hex, Key32, Message, Signature, Site, canonical
from protocol.errors import IdentityError, storage_error
from protocol.ids import SiteId

FORMAT: Final = "bithive-site-request-1"
BYTES_MAX: Final = 64 * 1024
LIVES: Final = timedelta(days=14)
AHEAD: Final = timedelta(minutes=10)
"""How far a site's clock may be ahead of the operator's."""
FINGERPRINT_DIGITS: Final = 32
_LABEL: Final = b"bithive site request v1\n"
_SIGNATURES: Final = frozenset({"node_signature", "previous_signature", "signature"})
_CURVE_NAME: Final = "secp384r1"
Read = TypeVar("Read")


class RequestRefused(IdentityError):
    """A file is no request to join that could be granted."""

    code = "site-request-refused"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the request is refused: {why}; have the site make and send a new one")


class FingerprintDiffers(IdentityError):
    """The fingerprint that was read out is not that of the file."""

    code = "fingerprint-differs"

    def __init__(self, what: str, found: str) -> None:
        self.found = found
        super().__init__(
            f"the {what} at hand has the fingerprint {found}, which is not the one that was given; "
            "compare again by telephone, and if it differs somebody has exchanged the file"
        )


class SiteRequest(Message):
    """What a hospital asks to be known by."""

    format: Literal["bithive-site-request-1"]
    site: Site
    made_at: AwareDatetime
    nonce: Annotated[Hex, Field(min_length=16, max_length=16)]
    signing_key: Key32
    agreement_key: Key32
    node_key: Annotated[
        str, Field(max_length=400, pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]+$")
    ]
    tls_request: Annotated[str, Field(max_length=4000)]
    """PEM of a PKCS #10 request."""
    previous_key: Annotated[Hex, Field(max_length=32)] = b""
    """The signing key that these take the place of; empty for a site that joins."""
    node_signature: Annotated[Hex, Field(max_length=120)] = b""
    previous_signature: Signature = b""
    signature: Signature = b""

    def signed_by_node(self) -> bytes:
        """Return what the SuperNode's key and the earlier signing key sign."""
        return _LABEL + canonical(self, without=_SIGNATURES)

    def signed_bytes(self) -> bytes:
        """Return what the signing key signs: the whole but for this signature."""
        return _LABEL + canonical(self, without=frozenset({"signature"}))

    def digest(self) -> str:
        """Return the SHA-256 of the whole request."""
        return hashlib.sha256(canonical(self)).hexdigest()

    def node_point(self) -> ec.EllipticCurvePublicKey:
        """Return the SuperNode's public key; that it can be read, ``read_request`` has seen."""
        key = load_ssh_public_key(self.node_key.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("a node key is of P-384")
        return key

    def tls_point(self) -> ec.EllipticCurvePublicKey:
        """Return the public key that is to be certified."""
        key = x509.load_pem_x509_csr(self.tls_request.encode()).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key


def make_request(
    site: SiteId,
    keys: Keys,
    *,
    now: datetime,
    entropy: Callable[[int], bytes],
    previous: SiteKeys | None = None,
) -> SiteRequest:
    """Return the request of ``site`` for ``keys``, signed by all of them.

    Args:
        site: The name it asks for, a slug.
        keys: Of the site; only their public halves and signatures are in the request.
        now: With its time zone.
        entropy: Gives so many random bytes.
        previous: The keys that these take the place of, when a site rotates them.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    asked = x509.CertificateSigningRequestBuilder().subject_name(name)
    tls_request = asked.sign(keys.tls, hashes.SHA384()).public_bytes(Encoding.PEM).decode()
    bare = SiteRequest(
        format=FORMAT,
        site=site,
        made_at=now.replace(microsecond=0),
        nonce=entropy(16),
        signing_key=keys.site.signing_public,
        agreement_key=keys.site.agreement_public,
        node_key=keys.node_public(),
        tls_request=tls_request,
        previous_key=b"" if previous is None else previous.signing_public,
    )
    told = bare.signed_by_node()
    signed = bare.model_copy(
        update={
            "node_signature": keys.node.sign(told, ec.ECDSA(hashes.SHA384())),
            "previous_signature": b"" if previous is None else previous.sign(told),
        }
    )
    return signed.model_copy(update={"signature": keys.site.sign(signed.signed_bytes())})


def read_request(content: bytes, *, now: datetime) -> SiteRequest:
    """Return a request in which everything holds.

    Args:
        content: Hostile bytes.
        now: With its time zone.

    Raises:
        RequestRefused: Something does not; says what.
    """
    if len(content) > BYTES_MAX:
        raise RequestRefused(f"it is larger than {BYTES_MAX} bytes")
    try:
        request = SiteRequest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:40]
        raise RequestRefused(f"it is not of the form {FORMAT} ({where or 'JSON'})") from None
    _check_time(request, now)
    _check_tls(request)
    _check_node(request)
    _check_agreement(request)
    _check_signatures(request)
    return request


def read_bounded(path: Path, *, limit: int = BYTES_MAX) -> bytes:
    """Return a file's bytes, and one more than ``limit`` at most.

    Raises:
        StorageError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise storage_error(error, path.name) from error


def fingerprint(digest: str) -> str:
    """Return what people read to one another: 128 bits of a SHA-256, in groups of four digits.

    Examples:
        >>> fingerprint("0123456789abcdef" * 4)
        '0123 4567 89ab cdef 0123 4567 89ab cdef'
    """
    digits = digest[:FINGERPRINT_DIGITS]
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def check_fingerprint(given: str, digest: str, *, what: str) -> None:
    """Return if ``given`` is the fingerprint of ``digest``, however it is spaced.

    Raises:
        FingerprintDiffers: It is not, or is not all of it.
    """
    compact = re.sub(r"[\s:-]", "", given).lower()
    if not hmac.compare_digest(compact.encode(), digest[:FINGERPRINT_DIGITS].encode()):
        raise FingerprintDiffers(what, fingerprint(digest))


def _check_time(request: SiteRequest, now: datetime) -> None:
    if request.made_at > now + AHEAD:
        raise RequestRefused(
            f"it was made at {request.made_at.isoformat()}, which is yet to come; "
            "one of the two clocks is wrong"
        )
    if now - request.made_at > LIVES:
        raise RequestRefused(f"it was made more than {LIVES.days} days ago")


def _check_tls(request: SiteRequest) -> None:
    asked, key, holds = _read("certificate request", lambda: _csr(request))
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE_NAME:
        raise RequestRefused("its TLS key is not of P-384")
    if not holds:
        raise RequestRefused("its certificate request is not signed by its own key")
    names = [str(one.value) for one in asked.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [request.site]:
        raise RequestRefused("its certificate request is for another name")


def _csr(request: SiteRequest) -> tuple[x509.Name, object, bool]:
    asked = x509.load_pem_x509_csr(request.tls_request.encode())
    return asked.subject, asked.public_key(), asked.is_signature_valid


def _check_node(request: SiteRequest) -> None:
    key = _read("node key", request.node_point)
    try:
        key.verify(request.node_signature, request.signed_by_node(), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise RequestRefused("it is not signed by its node key") from error
    if openssh(key) != request.node_key:
        raise RequestRefused("its node key is not written as keys are")
    if key == request.tls_point():
        raise RequestRefused("its TLS key and its node key are the same")


def _check_agreement(request: SiteRequest) -> None:
    try:
        X25519PrivateKey.generate().exchange(
            X25519PublicKey.from_public_bytes(request.agreement_key)
        )
    except ValueError as error:  # a key of small order: whoever agrees with it agrees on zero
        raise RequestRefused("nobody can agree on a secret with its agreement key") from error


def _read(what: str, read: Callable[[], Read]) -> Read:
    try:
        return read()
    # On hostile bytes the library raises a dozen kinds of its own, some of them plain Exceptions.
    except Exception as error:
        raise RequestRefused(f"its {what} cannot be read") from error


def _check_signatures(request: SiteRequest) -> None:
    try:
        check_signature(
            request.signing_key,
            request.signature,
            request.signed_bytes(),
            what="request",
            who="its own signing key",
        )
    except BadSignature as error:
        raise RequestRefused("it is not signed by its signing key") from error
    if not request.previous_key and not request.previous_signature:
        return
    try:
        check_signature(
            request.previous_key,
            request.previous_signature,
            request.signed_by_node(),
            what="request",
            who="the key it takes the place of",
        )
    except BadSignature as error:
        raise RequestRefused("it is not signed by the key it takes the place of") from error
