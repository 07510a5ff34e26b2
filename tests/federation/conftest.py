"""A front door with a real SuperLink behind it, on this machine, once for all tests that knock."""

import ipaddress
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from portal.deployment.front import Front, front_config
from portal.deployment.plan import free_port
from portal.deployment.workers import remove_scratch, workers_for

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 240


def name(common):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


@dataclass
class Consortium:
    """A certificate authority for tests: it issues, revokes and publishes a list."""

    folder: Path
    title: str = "consortium"
    key: object = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    revoked: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        built = self._builder(name(self.title), self.key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.certificate = built.sign(self.key, hashes.SHA256())
        self.authority.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        self.publish()

    @property
    def authority(self):
        return self.folder / "ca.crt"

    @property
    def crl(self):
        return self.folder / "crl.pem"

    def issue(self, common):
        """Return paths of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            self._builder(name(common), key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        paths = self.folder / f"{common}.crt", self.folder / f"{common}.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        paths[1].write_bytes(pem)
        return paths

    def revoke(self, certificate):
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
        self.revoked.append(read.serial_number)
        self.publish()

    def publish(self):
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name(self.title))
            .last_update(now - timedelta(minutes=1))
            .next_update(now + timedelta(days=1))
        )
        for serial in self.revoked:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(one.build())
        signed = builder.sign(self.key, hashes.SHA256())
        self.crl.write_bytes(signed.public_bytes(Encoding.PEM))

    def _builder(self, subject, public):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name(self.title))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
        )


@dataclass
class Door:
    """The running door: where it is, who certifies, and what stands behind it."""

    port: int
    superlink_port: int
    consortium: Consortium
    folder: Path
    nginx: subprocess.Popen
    loopback_authority: Path

    def context(self, certificate=None, authority=None, tls_max=None):
        made = ssl.create_default_context(cafile=str(authority or self.consortium.authority))
        if certificate is not None:
            made.load_cert_chain(*map(str, certificate))
        if tls_max is not None:
            made.maximum_version = tls_max
        return made

    def connect(self, **known):
        raw = socket.create_connection(("127.0.0.1", self.port), 10)
        return self.context(**known).wrap_socket(raw, server_hostname="localhost")

    def reload(self):
        """Let nginx read its files again, and wait until new workers serve."""
        before = set(children(self.nginx.pid))
        self.nginx.send_signal(signal.SIGHUP)
        wait_until(lambda: set(children(self.nginx.pid)) - before)

    def seen_by_superlink(self):
        """Return the paths of the requests the SuperLink has answered."""
        words = (self.folder / "superlink.log").read_text().split('"')
        requests = [word.split() for word in words if " /" in word and " HTTP/" in word]
        return [parts[1] for parts in requests]


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(one) for one in found.read_text().split()]


def wait_until(holds, seconds=START_SECONDS):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def listens(port, address="127.0.0.1"):
    try:
        socket.create_connection((address, port), 0.5).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def nginx_program():
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("needs nginx (Debian package nginx-light)")
    return found


@dataclass(frozen=True)
class Behind:
    """A running SuperLink as a deployment has it, on loopback: its folder, its port."""

    folder: Path
    port: int
    pid: int

    @property
    def authority(self):
        return self.folder / "certificates" / "ca.pem"


@pytest.fixture(scope="session")
def superlink(tmp_path_factory):
    from portal.deployment.loopback import environment, make_trust, superlink_command

    folder, port = tmp_path_factory.mktemp("superlink"), free_port()
    make_trust(folder)
    with (folder / "superlink.log").open("w") as words:
        process = subprocess.Popen(
            superlink_command(folder, port),
            cwd=ROOT,
            env=os.environ | environment(folder) | {"PYTHONUNBUFFERED": "1"},
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until(lambda: listens(port) or process.poll() is not None)
            assert process.poll() is None, (folder / "superlink.log").read_text()
            yield Behind(folder, port, process.pid)
        finally:
            stop(process)


@pytest.fixture(scope="session")
def door(superlink, nginx_program):
    folder = superlink.folder
    consortium = Consortium(folder / "consortium")
    server = consortium.issue("door")
    port = free_port()
    front = Front(
        listen=f"127.0.0.1:{port}",
        server_name="localhost",
        certificate=server[0],
        key=server[1],
        authority=consortium.authority,
        revoked=consortium.crl,
        superlink_port=superlink.port,
        superlink_authority=superlink.authority,
        run=folder / "run",
        access_log=folder / "access.log",
        workers=workers_for(folder),
    )
    (folder / "run").mkdir()
    (folder / "nginx.conf").write_text(front_config(front))
    with (folder / "nginx.log").open("w") as complaints:
        nginx = subprocess.Popen(
            [nginx_program, "-c", str(folder / "nginx.conf"), "-p", str(folder)],
            stdout=complaints,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until(lambda: listens(port) or nginx.poll() is not None)
            assert nginx.poll() is None, (folder / "nginx.log").read_text()
            yield Door(port, superlink.port, consortium, folder, nginx, superlink.authority)
        finally:
            stop(nginx)
            remove_scratch(folder)


def stop(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
