"""The one file that comes back: the operator's answer to one request, and installing it.

An admission is canonical JSON under the operator's Ed25519 signature. It holds the site's
certificate, the federation's authorities, where the servers are, the federation's terms, and the
digest of the very request that it answers. There is no secret in it.

The first admission brings the operator's key along, so a site accepts it only with that key's
fingerprint, read out by telephone. From then on the key is pinned: renewals need no call.

What holds, each line a test in tests/identity/test_admission.py:

1. A site installs only what answers its own request, with its own keys, from the operator it
   confirmed.
2. An admission of which a byte was changed, cut or added is refused, or is the same admission.
3. An older admission never takes the place of a newer one.
4. Killed at any instant, installing again completes it.
"""

from __future__ import annotations

import hashlib
import shutil
from datetime import datetime
from typing import Annotated, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AwareDatetime, Field, ValidationError

from identity.authority import CertificateRefused, check_site_certificate
from identity.requests import (
    SiteRequest,
    check_fingerprint,
    fingerprint,
    read_bounded,
)
from identity.site_folder import Keys, SiteFolder, SiteKeysMissing
from privacy.signatures import BadSignature, check_signature
from protocol.canonical import Digest, Key32, Message, Signature, Site, Slug, canonical
from protocol.errors import IdentityError, storage_error
from storage.files import PRIVATE, PUBLIC, private_folder, write_whole

FORMAT: Final = "bithive-admission-1"
BYTES_MAX: Final = 512 * 1024
TERMS_CHARACTERS_MAX: Final = 30_000
"""Each takes up to twelve bytes of the file."""
ADDRESSES_MAX: Final = 16
ADDRESS_CHARACTERS_MAX: Final = 300
_LABEL: Final = b"bithive admission v1\n"
_PIN: Final = "operator.pub"


class AdmissionRefused(IdentityError):
    """A file is no admission that this site may install."""

    code = "admission-refused"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the admission is refused: {why}; ask the operator to send it again")


class OperatorUnconfirmed(IdentityError):
    """The first admission was to be installed without looking whose it is."""

    code = "operator-unconfirmed"

    def __init__(self, found: str) -> None:
        self.found = found
        super().__init__(
            f"the admission is signed by an operator with the fingerprint {found}; have the "
            "operator read theirs out by telephone, and give it with --operator"
        )


class Admission(Message):
    """The operator's answer to one request."""

    format: Literal["bithive-admission-1"]
    federation: Slug
    site: Site
    number: Annotated[int, Field(ge=1, le=2**40)]
    """Greater with every admission that the operator signs."""
    request: Digest
    admitted_at: AwareDatetime
    certificate: Annotated[str, Field(max_length=8000)]
    authorities: Annotated[str, Field(max_length=40_000)]
    """Certificates of those who sign for the federation, PEM, the present one first."""
    addresses: Annotated[
        tuple[Annotated[str, Field(max_length=ADDRESS_CHARACTERS_MAX)], ...],
        Field(max_length=ADDRESSES_MAX),
    ]
    """Where servers are reached, ``HOST:PORT``."""
    terms: Annotated[str, Field(max_length=TERMS_CHARACTERS_MAX)]
    operator_key: Key32
    signing_key: Key32
    agreement_key: Key32
    node_key: Annotated[str, Field(max_length=400)]
    signature: Signature = b""

    def signed_bytes(self) -> bytes:
        """Return what the operator signs."""
        return _LABEL + canonical(self, without=frozenset({"signature"}))

    def sign(self, key: Ed25519PrivateKey) -> Admission:
        """Return the admission with the operator's signature."""
        return self.model_copy(update={"signature": key.sign(self.signed_bytes())})


def operator_digest(operator_key: bytes) -> str:
    """Return what the operator's fingerprint is cut from."""
    return hashlib.sha256(b"bithive operator key v1\n" + operator_key).hexdigest()


def read_admission(content: bytes) -> Admission:
    """Return an admission that its operator signed; whose it is, the caller checks.

    Args:
        content: Hostile bytes.

    Raises:
        AdmissionRefused: It is none, or was changed.
    """
    if len(content) > BYTES_MAX:
        raise AdmissionRefused(f"it is larger than {BYTES_MAX} bytes")
    try:
        admission = Admission.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:40]
        raise AdmissionRefused(f"it is not of the form {FORMAT} ({where or 'JSON'})") from None
    try:
        check_signature(
            admission.operator_key,
            admission.signature,
            admission.signed_bytes(),
            what="admission",
            who="its operator",
        )
    except BadSignature as error:
        raise AdmissionRefused("it is not signed by the operator it names") from error
    return admission


def install(
    folder: SiteFolder, admission: Admission, *, operator: str | None, now: datetime
) -> SiteFolder:
    """Put an admission in force and return the folder of the keys it is for.

    Args:
        folder: The site's identity; if new keys wait in its ``next``, they may be meant.
        admission: As ``read_admission`` returned it.
        operator: The fingerprint of the operator's key, as read out; None if it is pinned.
        now: With its time zone.

    Raises:
        AdmissionRefused: It is for another request, other keys, or is not newer.
        OperatorUnconfirmed: Nobody said whose key is to be trusted.
        FingerprintDiffers: It is another operator's.
        CertificateRefused: The certificate does not hold for this site now.
        SiteKeysMissing, StorageError: The folder is not a site's, or the disk refused.
    """
    _check_operator(folder, admission, operator)
    _check_newer(folder, admission)
    meant, keys = _answered(folder, admission)
    if stored_request(meant).site != admission.site:
        raise AdmissionRefused("it is for another site")
    _check_keys(admission, keys, now)
    # The pin first: from here on a repetition needs no call. The admission last: it says that all
    # the rest is there.
    write_whole(folder.path / _PIN, admission.operator_key.hex().encode() + b"\n")
    if meant.path != folder.path:
        _take_over(folder)
    write_whole(folder.authority, admission.authorities.encode())
    write_whole(folder.tls_certificate, admission.certificate.encode())
    write_whole(folder.terms, admission.terms.encode())
    write_whole(folder.admission, canonical(admission) + b"\n")
    return folder


def installed(folder: SiteFolder) -> Admission:
    """Return the admission in force.

    Raises:
        SiteKeysMissing: None is.
        AdmissionRefused: The file was changed.
    """
    if not folder.admission.exists():
        raise SiteKeysMissing(folder.path, folder.admission.name)
    return read_admission(read_bounded(folder.admission, limit=BYTES_MAX))


def stored_request(folder: SiteFolder) -> SiteRequest:
    """Return the request that was made for the keys in ``folder``.

    Raises:
        SiteKeysMissing: There is none that can be read.
    """
    if not folder.request.exists():
        raise SiteKeysMissing(folder.path, folder.request.name)
    try:
        return SiteRequest.model_validate_json(read_bounded(folder.request))
    except ValidationError:
        raise SiteKeysMissing(folder.path, folder.request.name) from None


def _check_operator(folder: SiteFolder, admission: Admission, given: str | None) -> None:
    pin = folder.path / _PIN
    digest = operator_digest(admission.operator_key)
    if given is not None:
        check_fingerprint(given, digest, what="operator's key")
    if pin.exists():
        if read_bounded(pin).strip() != admission.operator_key.hex().encode():
            raise AdmissionRefused("it is signed by another operator than the one confirmed here")
    elif given is None:
        raise OperatorUnconfirmed(fingerprint(digest))


def _check_newer(folder: SiteFolder, admission: Admission) -> None:
    if folder.admission.exists() and installed(folder).number > admission.number:
        raise AdmissionRefused("a newer one is installed already")


def _answered(folder: SiteFolder, admission: Admission) -> tuple[SiteFolder, Keys]:
    """Return the keys whose request this answers: those in force, or those that wait."""
    for one in (folder.next, folder):
        if one.request.exists() and stored_request(one).digest() == admission.request:
            return one, one.load()
    if not folder.request.exists():
        raise SiteKeysMissing(folder.path, folder.request.name)
    raise AdmissionRefused("it answers another request than this site's")


def _check_keys(admission: Admission, keys: Keys, now: datetime) -> None:
    echoed = (admission.signing_key, admission.agreement_key, admission.node_key)
    own = (keys.site.signing_public, keys.site.agreement_public, keys.node_public())
    if echoed != own:
        raise AdmissionRefused("it registers other keys than this site's")
    try:
        certificate = x509.load_pem_x509_certificate(admission.certificate.encode())
        authorities = x509.load_pem_x509_certificates(admission.authorities.encode())
        is_for_us = certificate.public_key() == keys.tls.public_key()
    # On hostile bytes the library raises a dozen kinds of its own, some of them plain Exceptions.
    except Exception as error:
        raise AdmissionRefused("its certificates cannot be read") from error
    if not is_for_us:
        raise CertificateRefused("it is not for this site's TLS key")
    check_site_certificate(certificate, authorities, admission.site, now=now)


def _take_over(folder: SiteFolder) -> None:
    """Copy new keys over those in use, which are put aside first; repeated after any crash."""
    waiting, aside = folder.next, SiteFolder(private_folder(folder.path / "previous"))
    # The request is the last of each copy, so that its presence says that the rest is there.
    if stored_request(folder) != stored_request(waiting):
        if not (aside.request.exists() and stored_request(aside) == stored_request(folder)):
            _copy(folder, aside)
        _copy(waiting, folder)
    try:
        waiting.request.unlink()
        shutil.rmtree(waiting.path)
    except OSError as error:
        raise storage_error(error, str(waiting.path)) from error


def _copy(source: SiteFolder, target: SiteFolder) -> None:
    for name in ("site.key", "tls.key", "node.key", "node.pub", "request.json"):
        content = read_bounded(source.path / name)
        mode = PRIVATE if name.endswith(".key") else PUBLIC
        write_whole(target.path / name, content, mode=mode)
