"""Certificates and node keys for Flower servers on this machine, made anew for each start.

A small certificate authority signs one server certificate for ``localhost`` and 127.0.0.1; every
SuperNode gets an ECDSA P-384 key, the kind Flower registers. They serve a demonstration on
loopback; a site's own certificate comes by request from its operator.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from storage.files import PRIVATE, write_whole

VALID: Final = timedelta(days=30)


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
    authority_key = ec.generate_private_key(ec.SECP384R1())
    server_key = ec.generate_private_key(ec.SECP384R1())
    name = _name("BitHive demonstration authority")
    authority = (
        _certificate(name, name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA384())
    )
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    certificate = (
        _certificate(_name("localhost"), name, server_key.public_key())
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(authority_key, hashes.SHA384())
    )
    made = ServerCertificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    write_whole(made.authority, authority.public_bytes(Encoding.PEM))
    write_whole(made.certificate, certificate.public_bytes(Encoding.PEM))
    write_whole(made.key, _private_pem(server_key, PrivateFormat.PKCS8), mode=PRIVATE)
    return made


def make_node_key(folder: Path, name: str) -> NodeKey:
    """Make the key pair of one SuperNode, in OpenSSH's formats as Flower reads them."""
    key = ec.generate_private_key(ec.SECP384R1())
    made = NodeKey(folder / name, folder / f"{name}.pub")
    write_whole(made.private, _private_pem(key, PrivateFormat.OpenSSH), mode=PRIVATE)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_whole(made.public, public + b"\n")
    return made


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _private_pem(key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())
