"""The register of a federation: its sites, under which keys, and every certificate's serial.

``authority/sites.json`` is the source of truth. It is written whole, in one step; the list of
revoked certificates, the node keys and the authorities' file beside it are made from it, and made
again whenever they differ. What was decided but is not yet in the audit log waits in it too.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pydantic import AwareDatetime, Field, ValidationError

from identity.authority import Revocation
from protocol.canonical import Digest, Key32, Message, Site, Slug
from protocol.errors import IdentityError, storage_error
from protocol.ids import SiteId
from storage.files import write_whole

FORMAT: Final = "bithive-sites-1"
Serial = Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")]


class RegisterUnreadable(IdentityError):
    """The register of sites is missing or was changed."""

    code = "register-unreadable"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path} is no register of sites; give the operator's folder, found one with "
            "`bithive operator init`, or restore it from its backup"
        )


class SiteNotAdmitted(IdentityError):
    """No site of this name takes part."""

    code = "site-not-admitted"

    def __init__(self, site: str) -> None:
        self.site = site
        super().__init__(f"no site {site!r} takes part; see `bithive operator list`")


class Signer(Message):
    """One of the federation's authorities; the first of the register signs what is issued."""

    certificate: str
    key: Annotated[str, Field(pattern=r"^ca(-[0-9]+)?\.key$")]
    """The file of its key, in the operator's folder."""

    def loaded(self) -> x509.Certificate:
        """Return its certificate."""
        return x509.load_pem_x509_certificate(self.certificate.encode())

    @property
    def name(self) -> str:
        """The SHA-256 of its certificate."""
        return self.loaded().fingerprint(hashes.SHA256()).hex()


class Issued(Message):
    """A certificate that was issued."""

    serial: Serial
    signer: Digest
    subject: str
    use: Literal["site", "server"]
    issued_at: AwareDatetime
    not_after: AwareDatetime
    revoked_at: AwareDatetime | None = None


class Member(Message):
    """A site that takes part, or did."""

    site: Site
    state: Literal["active", "expelled"]
    admitted_at: AwareDatetime
    expelled_at: AwareDatetime | None = None
    reason: str = ""
    request: Digest
    signing_key: Key32
    agreement_key: Key32
    node_key: str
    certificate: str
    """Its present certificate, PEM."""

    def loaded(self) -> x509.Certificate:
        """Return its present certificate."""
        return x509.load_pem_x509_certificate(self.certificate.encode())


class Act(Message):
    """Something decided that the audit log must still hear of."""

    number: int
    kind: str
    facts: dict[str, Any]


class Register(Message):
    """The whole register; every change makes a new one, with a greater number."""

    format: Literal["bithive-sites-1"] = "bithive-sites-1"
    federation: Slug
    number: int = 0
    addresses: tuple[str, ...] = ()
    terms: str = ""
    signers: tuple[Signer, ...]
    sites: tuple[Member, ...] = ()
    certificates: tuple[Issued, ...] = ()
    requests: tuple[Digest, ...] = ()
    """Digests of all requests that were ever granted."""
    keys: tuple[Digest, ...] = ()
    """Digests of all public keys that were ever registered."""
    unlogged: tuple[Act, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Register:
        """Return the register kept at ``path``.

        Raises:
            RegisterUnreadable: There is none, or it holds something else.
            StorageError: It cannot be read.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            raise RegisterUnreadable(path) from None
        except OSError as error:
            raise storage_error(error, path.name) from error

    def save(self, path: Path) -> None:
        """Keep the register at ``path``, whole or not at all."""
        write_whole(path, self.model_dump_json(indent=1).encode() + b"\n")

    def member(self, site: str) -> Member:
        """Return a site that takes part.

        Raises:
            SiteNotAdmitted: It does not, or does not any more.
        """
        for one in self.sites:
            if one.site == site and one.state == "active":
                return one
        raise SiteNotAdmitted(site)

    def active(self) -> tuple[Member, ...]:
        """Return the sites that take part."""
        return tuple(one for one in self.sites if one.state == "active")

    def revoked_by(self, signer: Signer) -> list[Revocation]:
        """Return what of a signer's certificates must not be accepted."""
        return [
            Revocation(int(one.serial, 16), one.revoked_at)
            for one in self.certificates
            if one.revoked_at is not None and one.signer == signer.name
        ]

    def with_member(self, member: Member) -> Register:
        """Return the register with a site put in, or in the place of the one of its name."""
        others = tuple(one for one in self.sites if one.site != member.site)
        ordered = tuple(sorted((*others, member), key=lambda one: one.site))
        return self.model_copy(update={"sites": ordered})

    def with_issued(
        self, certificate: x509.Certificate, use: Literal["site", "server"], subject: str
    ) -> Register:
        """Return the register with a certificate of the first signer put in."""
        issued = Issued(
            serial=f"{certificate.serial_number:x}",
            signer=self.signers[0].name,
            subject=subject,
            use=use,
            issued_at=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )
        return self.model_copy(update={"certificates": (*self.certificates, issued)})

    def without_certificates_of(self, site: SiteId, *, at: datetime) -> Register:
        """Return the register with all certificates of a site revoked."""
        certificates = tuple(
            one.model_copy(update={"revoked_at": at})
            if (one.use, one.subject, one.revoked_at) == ("site", site, None)
            else one
            for one in self.certificates
        )
        return self.model_copy(update={"certificates": certificates})

    def decided(self, kind: str, **facts: Any) -> Register:
        """Return the register with the next number, and an act that the audit log must hear of."""
        number = self.number + 1
        act = Act(number=number, kind=kind, facts={**facts, "number": number})
        return self.model_copy(update={"number": number, "unlogged": (*self.unlogged, act)})
