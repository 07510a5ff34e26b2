"""A site's identity on its own disk: which file holds what, and making new keys.

::

    SITE/identity/site.key        Ed25519 signing and X25519 agreement keys (privacy.keys.SiteKeys)
    SITE/identity/tls.key         P-384, the client side of TLS
    SITE/identity/node.key        P-384, of the Flower SuperNode; node.pub beside it
    SITE/identity/request.json    what was sent to the operator
    SITE/identity/admission.json  what came back and was installed
    SITE/identity/tls.crt, authority.crt, terms.txt   unpacked from it
    SITE/identity/next/           new keys that wait for their admission, when keys are rotated

Keys are made here, have mode 0600 from their first byte, and go nowhere else.

What holds, each line a test in tests/identity/test_site_folder.py:

1. Every key file is readable by its owner only; the folder too.
2. Keys that are there are never overwritten, and keys that a crash left are completed.
3. Flower's own reader takes the node key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from identity.authority import private_pem
from privacy.keys import SiteKeys
from protocol.errors import IdentityError, storage_error
from storage.files import PRIVATE, private_folder, write_whole


class SiteKeysThere(IdentityError):
    """New keys would take the place of keys that are in use."""

    code = "site-keys-there"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"{folder} holds a site's keys already; send its request.json to the operator, or "
            "make keys that take their place with --rotate"
        )


class SiteKeysMissing(IdentityError):
    """A folder holds no site's keys, or not all of them, or something else in their place."""

    code = "site-keys-missing"

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        super().__init__(
            f"{folder} has no usable {name}; give the site's own folder, make keys with "
            "`bithive site init`, or restore them from their backup"
        )


@dataclass(frozen=True)
class Keys:
    """All private keys of a site."""

    site: SiteKeys = field(repr=False)
    tls: ec.EllipticCurvePrivateKey = field(repr=False)
    node: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> Keys:
        """Return new keys, drawn from the operating system's randomness."""
        curve = ec.SECP384R1()
        return cls(
            SiteKeys.generate(), ec.generate_private_key(curve), ec.generate_private_key(curve)
        )

    def node_public(self) -> str:
        """Return the SuperNode's public key in OpenSSH's form, as Flower registers it."""
        return openssh(self.node.public_key())


@dataclass(frozen=True)
class SiteFolder:
    """The paths of one set of keys and what belongs to them."""

    path: Path

    @classmethod
    def of(cls, home: Path) -> SiteFolder:
        """Return the identity of the site whose folder is ``home``."""
        return cls(home / "identity")

    @property
    def next(self) -> SiteFolder:
        """Where keys wait that will take the place of these."""
        return SiteFolder(self.path / "next")

    @property
    def site_key(self) -> Path:
        """Signing and agreement keys."""
        return self.path / "site.key"

    @property
    def tls_key(self) -> Path:
        """The key of the client side of TLS."""
        return self.path / "tls.key"

    @property
    def tls_certificate(self) -> Path:
        """The certificate that the operator sent."""
        return self.path / "tls.crt"

    @property
    def node_key(self) -> Path:
        """The SuperNode's key."""
        return self.path / "node.key"

    @property
    def node_public(self) -> Path:
        """The SuperNode's public key."""
        return self.path / "node.pub"

    @property
    def authority(self) -> Path:
        """The federation's authorities, one PEM after another."""
        return self.path / "authority.crt"

    @property
    def request(self) -> Path:
        """The request for these keys."""
        return self.path / "request.json"

    @property
    def admission(self) -> Path:
        """The admission that is installed."""
        return self.path / "admission.json"

    @property
    def terms(self) -> Path:
        """The federation's terms, as the admission has them."""
        return self.path / "terms.txt"

    def key_files(self) -> tuple[Path, ...]:
        """Return the files that must stay at the site."""
        return (self.site_key, self.tls_key, self.node_key)

    def make(self) -> Keys:
        """Make keys and keep them here; where a crash left some of them, make the rest.

        Raises:
            SiteKeysThere: They were made, and a request for them too.
            StorageError: The disk refused.
        """
        if self.request.exists():
            raise SiteKeysThere(self.path)
        private_folder(self.path)
        keys = Keys.generate()
        node = keys.node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        if not self.site_key.exists():
            keys.site.save(self.site_key)
        if not self.tls_key.exists():
            write_whole(self.tls_key, private_pem(keys.tls), mode=PRIVATE)
        if not self.node_key.exists():
            write_whole(self.node_key, node, mode=PRIVATE)
        kept = self.load()
        write_whole(self.node_public, kept.node_public().encode() + b"\n")
        return kept

    def load(self) -> Keys:
        """Return the keys kept here.

        Raises:
            SiteKeysMissing: One is not there or is something else.
            StorageError: One cannot be read.
        """
        if not self.site_key.exists():
            raise SiteKeysMissing(self.path, self.site_key.name)
        return Keys(
            SiteKeys.load(self.site_key),
            self._p384(self.tls_key),
            self._p384(self.node_key),
        )

    def _p384(self, file: Path) -> ec.EllipticCurvePrivateKey:
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            raise SiteKeysMissing(self.path, file.name) from None
        except OSError as error:
            raise storage_error(error, file.name) from error
        read = load_ssh_private_key if b"OPENSSH" in content[:64] else load_pem_private_key
        try:
            key = read(content, None)
        except (ValueError, TypeError):
            # The cause may quote the content, which is secret.
            raise SiteKeysMissing(self.path, file.name) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SiteKeysMissing(self.path, file.name)
        return key


def openssh(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key as one line of OpenSSH's form, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
