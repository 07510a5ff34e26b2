"""A ceremony small enough to rehearse: one constraint, three sites, a clock that can be set."""

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
from zk import ceremony
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


VECTORS = Path(__file__).parents[1] / "vectors" / "zk" / "rehearsal"
"""The folder that this rehearsal left when it was run once by snarkjs."""


class Replay:
    """Stands in for snarkjs: every step gives the file that snarkjs made in the recorded run.

    ``skipped`` lines of the recorded run have no counterpart where phase 1 is a public one.
    """

    def __init__(self, skipped: int = 0) -> None:
        self.steps: list[str] = []
        self.skipped = skipped

    def _give(self, step: str, new: Path) -> None:
        self.steps.append(step)
        name = new.name.removeprefix(".").removesuffix(".draft")
        if name[0].isdigit():
            name = f"{int(name[:4]) + self.skipped:04d}{name[4:]}"
        new.write_bytes((VECTORS / name).read_bytes())

    def begin_phase_1(self, _power: int, new: Path) -> None:
        self._give("begin 1", new)

    def contribute_phase_1(self, _old: Path, new: Path, name: str) -> None:
        self._give(f"contribute 1 {name}", new)

    def apply_beacon_phase_1(self, _old: Path, new: Path, _value: bytes, _exponent: int) -> None:
        self._give("beacon 1", new)

    def prepare_phase_2(self, _old: Path, new: Path) -> None:
        self._give("prepare", new)

    def begin_phase_2(self, _r1cs: Path, _phase_1: Path, new: Path) -> None:
        self._give("begin 2", new)

    def contribute_phase_2(self, _old: Path, new: Path, name: str) -> None:
        self._give(f"contribute 2 {name}", new)

    def apply_beacon_phase_2(self, _old: Path, new: Path, _value: bytes, _exponent: int) -> None:
        self._give("beacon 2", new)

    def check_phase_1(self, _file: Path) -> None:
        self.steps.append("check 1")

    def check_phase_2(self, _r1cs: Path, _phase_1: Path, _zkey: Path) -> None:
        self.steps.append("check 2")


def perform(at: Workplace, clock: Clock) -> None:
    """The whole ceremony, up to its verification."""
    ceremony.begin(at, KEYS, BEACONS, phase_1=None, now=clock())
    for beacon, value in zip(BEACONS, VALUES, strict=True):
        for one in SITES:
            ceremony.contribute(at, one, clock=clock)
        clock.reach(beacon)
        ceremony.apply_beacon(at, SOURCE, beacon.round, value, clock=clock)
