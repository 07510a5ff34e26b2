"""Certificates and node keys for Flower servers on this machine, made anew for each start.

A certificate authority that is thrown away at once signs one server certificate for ``localhost``
and 127.0.0.1; every SuperNode gets an ECDSA P-384 key, the kind Flower registers. They serve a
demonstration on loopback; how real sites and servers are certified is ``identity``'s matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from identity.authority import Authority, private_pem
from identity.site_folder import openssh
from storage.files import PRIVATE, write_whole

NAMES: Final = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class ServerCertificates:
    """Paths of the authority's certificate, the server's, and the server's key (mode 0600)."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class NodeKey:
    """Paths of one SuperNode's key pair."""

    private: Path
    public: Path


def make_certificates(folder: Path) -> ServerCertificates:
    """Make an authority and a server certificate; the authority's key is thrown away."""
    now = datetime.now(UTC)
    authority = Authority.found("demonstration", now=now)
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = authority.issue_server(NAMES, key.public_key(), now=now)
    made = ServerCertificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    write_whole(made.authority, authority.pem())
    write_whole(made.certificate, certificate.public_bytes(Encoding.PEM))
    write_whole(made.key, private_pem(key), mode=PRIVATE)
    return made


def make_node_key(folder: Path, name: str) -> NodeKey:
    """Make the key pair of one SuperNode, in OpenSSH's formats as Flower reads them."""
    key = ec.generate_private_key(ec.SECP384R1())
    made = NodeKey(folder / name, folder / f"{name}.pub")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_whole(made.private, private, mode=PRIVATE)
    write_whole(made.public, openssh(key.public_key()).encode() + b"\n")
    return made
