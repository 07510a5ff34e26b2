"""A ceremony small enough to rehearse: a circuit of one constraint, three sites, a settable clock."""

from __future__ import annotations

import hashlib
import lzma
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.ids import SiteId
from zk.ceremony import announcement
from zk.ceremony_folder import Workplace
from zk.circuit import Circuit
from zk.poseidon import FIELD
from zk.transcript_lines import Announcement

START = datetime(2026, 11, 21, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
SOURCE = "drand quicknet"
FIRST = announcement(SOURCE, 1000, "2026-11-21T10:00:00Z")
SECOND = announcement(SOURCE, 2000, "2026-11-21T12:00:00Z")
BEACONS = (FIRST, SECOND)
VALUES = (hashlib.sha256(b"round 1000").digest(), hashlib.sha256(b"round 2000").digest())


@dataclass
class Site:
    """A site's signing key, from a seed: nothing here is secret."""

    name: SiteId
    key: Ed25519PrivateKey = field(repr=False)

    @property
    def signing_public(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message)


def site(name: str) -> Site:
    seed = hashlib.sha256(f"rehearsal {name}".encode()).digest()
    return Site(SiteId(name), Ed25519PrivateKey.from_private_bytes(seed))


SITES = tuple(map(site, ("east", "north", "south")))
KEYS = {one.name: one.signing_public for one in SITES}
STRANGER = site("stranger")


class Clock:
    """A clock that the test sets."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def reach(self, beacon: Announcement) -> None:
        self.now = datetime.fromisoformat(beacon.published_at)


def combination(wires: dict[int, int]) -> bytes:
    terms = [struct.pack("<I", w) + (k % FIELD).to_bytes(32, "little") for w, k in wires.items()]
    return struct.pack("<I", len(terms)) + b"".join(terms)


def r1cs(factor: int = 1) -> bytes:
    """The constraint factor a * b = c in the r1cs format, c the public output, a a public input."""
    header = struct.pack("<I", 32) + FIELD.to_bytes(32, "little")
    header += struct.pack("<IIIIQI", 4, 1, 1, 1, 4, 1)
    body = combination({2: factor}) + combination({3: 1}) + combination({1: 1})
    names = b"".join(struct.pack("<Q", wire) for wire in range(4))
    sections = [(1, header), (2, body), (3, names)]
    packed = [struct.pack("<IQ", kind, len(content)) + content for kind, content in sections]
    return b"r1cs" + struct.pack("<II", 1, 3) + b"".join(packed)


def witness(a: int, b: int) -> bytes:
    """The wires 1, c, a, b in the wtns format."""
    wires = b"".join((n % FIELD).to_bytes(32, "little") for n in (1, a * b, a, b))
    header = struct.pack("<I", 32) + FIELD.to_bytes(32, "little") + struct.pack("<I", 4)
    sections = [(1, header), (2, wires)]
    packed = [struct.pack("<IQ", kind, len(content)) + content for kind, content in sections]
    return b"wtns" + struct.pack("<II", 2, 2) + b"".join(packed)


def product(a: int, b: int) -> SimpleNamespace:
    """The statement that the public c = a * b."""
    return SimpleNamespace(public_inputs=lambda: [a * b % FIELD, a])


def circuit(folder: Path, name: str = "product", factor: int = 1) -> Circuit:
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = r1cs(factor)
    path = folder / f"{name}.r1cs.xz"
    path.write_bytes(lzma.compress(unpacked))
    return Circuit(
        name=name,
        depth=0,
        r1cs=path,
        wasm=path,
        r1cs_sha256=hashlib.sha256(unpacked).hexdigest(),
        wasm_sha256="",
        constraints=1,
    )


def workplace(folder: Path, of: Circuit, tools: object) -> Workplace:
    return Workplace(folder, of, tools, lambda _words: None)  # type: ignore[arg-type]  # or a fake
