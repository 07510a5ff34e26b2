"""Read snarkjs's ceremony files (ptau of phase 1, zkey of phase 2) without running snarkjs.

A file holds the points of the setup and a list of the contributions that made them. Only the list,
the sizes and the verification key are read here: what the points have to do with each other is
``zk.snarkjs``'s to check. A contribution is named by the hash its maker published: in a zkey the
BLAKE2b-512 of its public key, in a ptau the next challenge, which is that of the whole file.

What holds (tests/zk/test_setup_files.py):

1. The names are those snarkjs prints.
2. Whatever the bytes, they are read or refused as ``SetupFileMalformed``.

References:
    Bowe, Gabizon, Miers, Scalable Multi-party Computation for zk-SNARK Parameters in the Random
    Beacon Model, IACR ePrint 2017/1050: the two phases and the contribution's public key.
    iden3, snarkjs 0.7.6: the binary format, which has no other description. Points are stored as
    little-endian Montgomery residues and hashed as big-endian numbers, imaginary part first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from protocol.errors import ProofError, storage_error
from zk.curve import MODULUS, Affine1, Affine2
from zk.keys import PUBLIC_INPUTS_MAX, VerificationKey

Kind: TypeAlias = Literal["ptau", "zkey"]
CONTRIBUTIONS_MAX: Final = 1000
SECTIONS_MAX: Final = 32
HEADER_BYTES_MAX: Final = 4_194_304
"""Bytes of a section that is read whole; a thousand contributions of phase 1 have 2 MB."""
COORDINATE: Final = 32
G1_BYTES: Final = 64
G2_BYTES: Final = 128
HASH_BYTES: Final = 64
# tau, alpha and beta after the contribution, its public key, a half-finished hash.
PTAU_BEFORE_HASH: Final = 3 * G1_BYTES + 2 * G2_BYTES + (6 * G1_BYTES + 3 * G2_BYTES) + 216
ZKEY_HEADER: Final = 2
ZKEY_IC: Final = 3
ZKEY_CONTRIBUTIONS: Final = 10
PTAU_HEADER: Final = 1
PTAU_CONTRIBUTIONS: Final = 7
FROM_MONTGOMERY: Final = pow(1 << 256, -1, MODULUS)


class SetupFileMalformed(ProofError):
    """A ceremony's file is not what it should be."""

    code = "setup-file-malformed"

    def __init__(self, file: str, reason: str) -> None:
        self.file = file
        self.reason = reason
        super().__init__(f"the file {file} {reason}; fetch it again from whoever sent it")


@dataclass(frozen=True)
class FileContribution:
    """One contribution as a file lists it."""

    hash: str
    """128 hexadecimal digits; see the module."""
    name: str
    beacon: bytes | None
    """The public value it was derived from, if it was not somebody's secret."""
    iterations_exponent: int | None


class _Bytes:
    """A section read from its beginning; running over its end is refused."""

    def __init__(self, content: bytes, file: str) -> None:
        self._content = content
        self._file = file
        self._at = 0

    def take(self, count: int) -> bytes:
        if count > len(self._content) - self._at:
            raise SetupFileMalformed(self._file, "ends inside a section")
        self._at += count
        return self._content[self._at - count : self._at]

    def number(self, size: int = 4) -> int:
        return int.from_bytes(self.take(size), "little")

    def coordinate(self) -> int:
        return self.number(COORDINATE) * FROM_MONTGOMERY % MODULUS

    def g1(self) -> Affine1:
        return self.coordinate(), self.coordinate()

    def g2(self) -> Affine2:
        return (self.coordinate(), self.coordinate()), (self.coordinate(), self.coordinate())

    @property
    def finished(self) -> bool:
        return self._at == len(self._content)

    def end(self) -> None:
        if not self.finished:
            raise SetupFileMalformed(self._file, "has bytes after the end of a section")


def contributions(path: Path, kind: Kind) -> list[FileContribution]:
    """Return the contributions that a file lists, oldest first.

    Raises:
        SetupFileMalformed: It is not such a file.
        StorageError: It cannot be read.
    """
    number = PTAU_CONTRIBUTIONS if kind == "ptau" else ZKEY_CONTRIBUTIONS
    section = _section(path, kind, number)
    if kind == "zkey":
        section.take(HASH_BYTES)
    count = section.number()
    if count > CONTRIBUTIONS_MAX:
        raise SetupFileMalformed(path.name, f"lists {count} contributions")
    one: Callable[[_Bytes], str] = _phase_1_hash if kind == "ptau" else _phase_2_hash
    found = []
    for _ in range(count):
        name_hash = one(section)
        from_beacon = section.number()
        described = _described(section, name_hash, path.name)
        # snarkjs derives a beacon's contribution again only where the type says 1, so fields that
        # speak of a beacon under another type would be taken on trust.
        if from_beacon not in {0, 1} or (from_beacon == 1) != (described.beacon is not None):
            raise SetupFileMalformed(path.name, "contradicts itself about a beacon")
        found.append(described)
    section.end()
    return found


def circuit_hash(zkey: Path) -> str:
    """Return the BLAKE2b-512 of circuit and phase 1 that a zkey was begun with.

    Raises:
        SetupFileMalformed: It is not a zkey.
        StorageError: It cannot be read.
    """
    return _section(zkey, "zkey", ZKEY_CONTRIBUTIONS).take(HASH_BYTES).hex()


def power(ptau: Path) -> int:
    """Return p of a phase 1 for circuits of up to 2^p constraints.

    Raises:
        SetupFileMalformed: It is not a ptau on BN254.
        StorageError: It cannot be read.
    """
    section = _section(ptau, "ptau", PTAU_HEADER)
    _field(section, ptau.name)
    return section.number()


def verification_key(zkey: Path, transcript: str) -> VerificationKey:
    """Return the key that verifies what the zkey proves, with its ceremony's transcript.

    Args:
        zkey: The last file of a ceremony.
        transcript: SHA-256 of the transcript that shows how it was made.

    Raises:
        SetupFileMalformed: It is not a zkey on BN254.
        KeyMalformed: A point is not in its group, or delta equals gamma.
        StorageError: It cannot be read.
    """
    header = _section(zkey, "zkey", ZKEY_HEADER)
    _field(header, zkey.name)
    header.take(header.number())  # the scalar field's modulus, which follows from the other
    header.number()  # wires
    public = header.number()
    if not 1 <= public <= PUBLIC_INPUTS_MAX:
        raise SetupFileMalformed(zkey.name, f"is for {public} public inputs")
    header.number()  # size of the domain
    alpha_1, _beta_1, beta_2, gamma_2 = header.g1(), header.g1(), header.g2(), header.g2()
    _delta_1, delta_2 = header.g1(), header.g2()
    header.end()
    points = _section(zkey, "zkey", ZKEY_IC)
    ic = tuple(points.g1() for _ in range(public + 1))
    points.end()
    return VerificationKey(
        alpha_1=alpha_1,
        beta_2=beta_2,
        gamma_2=gamma_2,
        delta_2=delta_2,
        ic=ic,
        status="ceremony",
        transcript=transcript,
    )


def file_hash(path: Path, algorithm: Literal["sha256", "blake2b"]) -> str:
    """Return the hash of a file of any length, in hexadecimal.

    Raises:
        StorageError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise storage_error(error, path.name) from error


def _section(path: Path, kind: Kind, wanted: int) -> _Bytes:
    """Return one section of a file: magic, version and count, then type, length and content."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            beginning = file.read(12)
            if beginning[:4] != kind.encode():
                raise SetupFileMalformed(path.name, f"is no {kind} file")
            found = None
            for _ in range(min(int.from_bytes(beginning[8:12], "little"), SECTIONS_MAX)):
                head = file.read(12)
                number = int.from_bytes(head[:4], "little")
                length = int.from_bytes(head[4:], "little")
                if len(head) < 12 or length > size - file.tell():
                    raise SetupFileMalformed(path.name, "ends inside a section")
                if number != wanted:
                    file.seek(length, 1)
                elif found is not None or length > HEADER_BYTES_MAX:
                    raise SetupFileMalformed(path.name, f"has a section {number} that cannot be")
                else:
                    found = file.read(length)
    except OSError as error:
        raise storage_error(error, path.name) from error
    if found is None:
        raise SetupFileMalformed(path.name, f"has no section {wanted}")
    return _Bytes(found, path.name)


def _field(section: _Bytes, file: str) -> None:
    """Read the field that points are over, which must be that of BN254."""
    if section.number() != COORDINATE or section.number(COORDINATE) != MODULUS:
        raise SetupFileMalformed(file, "is not for the curve BN254")


def _phase_1_hash(section: _Bytes) -> str:
    section.take(PTAU_BEFORE_HASH)
    return section.take(HASH_BYTES).hex()


def _phase_2_hash(section: _Bytes) -> str:
    hasher = hashlib.blake2b(digest_size=HASH_BYTES)
    for _ in range(3):  # delta after it; s and s x, of which x is the secret
        x, y = section.g1()
        hasher.update(_big_endian(x, y))
    (x0, x1), (y0, y1) = section.g2()
    hasher.update(_big_endian(x1, x0, y1, y0))
    hasher.update(section.take(HASH_BYTES))
    return hasher.hexdigest()


def _big_endian(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(COORDINATE, "big") for number in numbers)


def _described(section: _Bytes, name_hash: str, file: str) -> FileContribution:
    """Read what follows a contribution's points: fields in ascending order, each at most once."""
    fields = _Bytes(section.take(section.number()), file)
    name, exponent, beacon, last = "", None, None, 0
    while not fields.finished:
        kind = fields.number(1)
        if not last < kind <= 3:
            raise SetupFileMalformed(file, "describes a contribution in fields unknown or unsorted")
        last = kind
        length_or_value = fields.number(1)
        if kind == 1:
            name = fields.take(length_or_value).decode("ascii", "replace")
        elif kind == 2:
            exponent = length_or_value
        else:
            beacon = fields.take(length_or_value)
    return FileContribution(name_hash, name, beacon, exponent)
