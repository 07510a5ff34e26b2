"""What follows from the register of sites: the files that nginx, Flower and the sites read.

``publish`` makes each of them again where it is missing or says something else: the authorities
(``ca.crt``), the certificates that must not be accepted (``crl.pem``), and the SuperNode keys of
the sites that take part (``nodes/SITE.pub``). So a crash between the register and its files leaves
nothing that the next call does not mend.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from identity.authority import LIST_DAYS, Authority
from identity.register import Register, Signer
from protocol.errors import storage_error
from storage.files import write_whole

_LIST_END: Final = b"-----END X509 CRL-----\n"


def publish(folder: Path, register: Register, *, now: datetime) -> None:
    """Make the files that follow from ``register``, where they are not there already.

    Args:
        folder: The operator's; the authorities' keys are in it.
        register: As it was just kept.
        now: With its time zone.

    Raises:
        AuthorityUnreadable: An authority's key is not there.
        StorageError: The disk refused.
    """
    # What takes rights away comes first.
    if not _list_stands(folder / "crl.pem", register, now):
        lists = (
            authority_of(folder, signer).revocation_list(
                register.revoked_by(signer), number=register.number, now=now
            )
            for signer in register.signers
        )
        content = b"".join(one.public_bytes(Encoding.PEM) for one in lists)
        write_whole(folder / "crl.pem", content)
    _publish_nodes(folder / "nodes", register)
    _write_changed(folder / "ca.crt", bundle(register).encode())


def bundle(register: Register) -> str:
    """Return the certificates of the federation's authorities, the present one first."""
    return "".join(signer.certificate for signer in register.signers)


def authority_of(folder: Path, signer: Signer) -> Authority:
    """Return a signer with its key.

    Raises:
        AuthorityUnreadable: The key is not there.
    """
    return Authority.load(folder / signer.key, signer.certificate.encode())


def signers_needed(register: Register, *, now: datetime) -> tuple[Signer, ...]:
    """Return the present signer, and the earlier ones whose certificates somebody still uses."""
    used = {
        one.signer
        for one in register.certificates
        if one.revoked_at is None and one.not_after > now
    }
    first, *earlier = register.signers
    return (first, *(one for one in earlier if one.name in used))


def _publish_nodes(nodes: Path, register: Register) -> None:
    wanted = {f"{one.site}.pub": one.node_key for one in register.active()}
    try:
        nodes.mkdir(exist_ok=True)
        for file in nodes.glob("*.pub"):
            if file.name not in wanted:
                file.unlink()
    except OSError as error:
        raise storage_error(error, "the node keys") from error
    for name, key in wanted.items():
        _write_changed(nodes / name, key.encode() + b"\n")


def _list_stands(path: Path, register: Register, now: datetime) -> bool:
    """Say whether the file lists what is revoked, for all signers, for half a year yet."""
    try:
        parts = path.read_bytes().split(_LIST_END)[:-1]
        lists = [x509.load_pem_x509_crl(part + _LIST_END) for part in parts]
    except (OSError, ValueError):
        return False
    if len(lists) != len(register.signers):
        return False
    soon = now + timedelta(days=LIST_DAYS // 2)
    for one, signer in zip(lists, register.signers, strict=True):
        listed = {entry.serial_number for entry in one}
        ends, key = one.next_update_utc, signer.loaded().public_key()
        is_own = isinstance(key, ec.EllipticCurvePublicKey) and one.is_signature_valid(key)
        if not is_own or ends is None or ends < soon:
            return False
        if listed != {entry.serial for entry in register.revoked_by(signer)}:
            return False
    return True


def _write_changed(path: Path, content: bytes) -> None:
    try:
        stands = path.is_file() and path.read_bytes() == content
    except OSError as error:
        raise storage_error(error, path.name) from error
    if not stands:
        write_whole(path, content)
