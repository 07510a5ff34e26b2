"""Verification keys, read as hostile input, and development keys that say what they are.

A verification key is the JSON that snarkjs writes, with one more field, ``status``: ``ceremony``
if several parties made it and one honest one suffices, ``development`` if one machine did, which
could have kept what it takes to forge proofs. A key from a ceremony of ours also names the SHA-256
of its ``transcript`` (docs/spec/ceremony.md). The hash covers both, so a relabelled key is another
key and not on anybody's list.

What holds (tests/zk/test_keys.py):

1. A key is accepted only in canonical form, with points in their groups and delta unlike gamma
   (equal ones are a skipped second phase: everybody could forge).
2. ``check_allowed`` refuses keys off the list, development keys unless they are allowed, and
   ceremony keys whose transcript is not on the list of accepted ones.
3. Processes that race for a development key get the same one.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from protocol.errors import ConfigurationError, ProofError, storage_error
from zk.circuit import Circuit
from zk.curve import Affine1, Affine2, PointMalformed, g1, g2

Status = Literal["development", "ceremony"]
KEY_TEXT_MAX: Final = 65_536
"""Characters in a key file; ours has 3,200."""
PUBLIC_INPUTS_MAX: Final = 64
DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,77}")
SHA256_TEXT: Final = re.compile(r"[0-9a-f]{64}")
SETUP_SECONDS_MAX: Final = 600


class KeyMalformed(ProofError):
    """A verification key is not one that an honest setup can make."""

    code = "verification-key-malformed"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the verification key is malformed: {reason}; get it from its publisher")


class KeyNotAllowed(ProofError):
    """A verification key is not on the list of accepted ones."""

    code = "verification-key-not-allowed"

    def __init__(self, key_hash: str) -> None:
        self.key_hash = key_hash
        super().__init__(
            f"verification key {key_hash[:16]} is not on the list of accepted keys; "
            "prove with the published proving key"
        )


class DevelopmentKeyRefused(ProofError):
    """A development key was offered where forged proofs would matter."""

    code = "development-key-refused"

    def __init__(self, key_hash: str) -> None:
        self.key_hash = key_hash
        super().__init__(
            f"verification key {key_hash[:16]} was made by one machine for development and its "
            "maker could forge proofs; use a ceremony key, or allow development keys explicitly"
        )


class CeremonyNotAllowed(ProofError):
    """A ceremony key whose transcript nobody here has accepted."""

    code = "ceremony-not-allowed"

    def __init__(self, key_hash: str, transcript: str | None) -> None:
        self.key_hash = key_hash
        self.transcript = transcript
        named = f"transcript {transcript[:16]}" if transcript else "no transcript"
        super().__init__(
            f"verification key {key_hash[:16]} names {named}, which is not on the list of accepted "
            "ceremonies; run `bithive ceremony verify` and put the transcript's hash on the list"
        )


class SetupFailed(ProofError):
    """The development setup did not produce a key."""

    code = "development-setup-failed"

    def __init__(self, circuit: str, exit_status: int) -> None:
        self.circuit = circuit
        self.exit_status = exit_status
        super().__init__(
            f"making a development key for {circuit} ended with status {exit_status}; "
            "it needs 300 MB of memory and the extra `prover`"
        )


class ProverMissing(ConfigurationError):
    """The optional packages that make proofs are not installed."""

    code = "prover-missing"

    def __init__(self, package: str) -> None:
        self.package = package
        super().__init__(
            f"the package {package} is not installed; whoever makes proofs needs "
            "`pip install 'bithive[prover]'`"
        )


@dataclass(frozen=True)
class VerificationKey:
    """A Groth16 verification key, all of whose points were checked.

    Raises:
        KeyMalformed: A point is not in its group, or delta equals gamma.
    """

    alpha_1: Affine1
    beta_2: Affine2
    gamma_2: Affine2
    delta_2: Affine2
    ic: tuple[Affine1, ...]
    status: Status
    transcript: str | None = None
    """SHA-256 of the transcript of the ceremony that made it, in hexadecimal, if there is one."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.ic) <= PUBLIC_INPUTS_MAX + 1:
            raise KeyMalformed(f"it has {len(self.ic)} points in IC")
        if self.delta_2 == self.gamma_2:
            raise KeyMalformed("delta equals gamma, so its second phase was skipped")
        if self.transcript is not None:
            if self.status != "ceremony":
                raise KeyMalformed("it names a transcript and is not from a ceremony")
            if not SHA256_TEXT.fullmatch(self.transcript):
                raise KeyMalformed("its transcript is not a SHA-256 in hexadecimal")
        try:
            g1("alpha", self.alpha_1)
            for name, point in (
                ("beta", self.beta_2),
                ("gamma", self.gamma_2),
                ("delta", self.delta_2),
            ):
                g2(name, point)
            for i, one in enumerate(self.ic):
                g1(f"IC {i}", one)
        except PointMalformed as error:
            raise KeyMalformed(f"point {error.name} {error.reason}") from error

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, status and transcript included, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def snarkjs(self) -> str:
        """Write the key as other programs read it, without status and transcript."""
        return json.dumps(self._fields(), sort_keys=True, separators=(",", ":"))

    def to_json(self) -> str:
        """Write the key canonically: sorted names, no spaces, decimal strings."""
        fields = self._fields() | {"status": self.status}
        if self.transcript is not None:
            fields["transcript"] = self.transcript
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    def save(self, path: Path) -> None:
        """Write the key to a file, all of it or nothing."""
        _write(path, self.to_json().encode() + b"\n")

    @staticmethod
    def from_json(text: str, *, status: Status | None = None) -> VerificationKey:
        """Read a key from JSON that anybody may have written; the same text is checked once.

        Args:
            text: As snarkjs writes it. Fields it does not need, such as ``vk_alphabeta_12``, which
                follows from others, are ignored.
            status: For a key whose file does not say; otherwise the file's own counts.

        Raises:
            KeyMalformed: It is not a canonical Groth16 key on BN254, or its status is unknown.
        """
        return _key_in(text, status)

    @classmethod
    def load(cls, path: Path) -> VerificationKey:
        """Read a key from a file; see ``from_json``."""
        try:
            with path.open(encoding="utf-8") as file:
                return cls.from_json(file.read(KEY_TEXT_MAX + 1))
        except UnicodeDecodeError as error:
            raise KeyMalformed("it is not text") from error
        except OSError as error:
            raise storage_error(error, path.name) from error

    def _fields(self) -> dict[str, Any]:
        return {
            "protocol": "groth16",
            "curve": "bn128",
            "nPublic": len(self.ic) - 1,
            "vk_alpha_1": _text1(self.alpha_1),
            "vk_beta_2": _text2(self.beta_2),
            "vk_gamma_2": _text2(self.gamma_2),
            "vk_delta_2": _text2(self.delta_2),
            "IC": [_text1(point) for point in self.ic],
        }


@lru_cache(maxsize=16)
def _key_in(text: str, status: Status | None) -> VerificationKey:
    fields = _json_object(text)
    if fields.get("protocol") != "groth16" or fields.get("curve") not in {"bn128", "bn254"}:
        raise KeyMalformed("it is not for groth16 on bn128")
    found = _status(fields.get("status", status))
    transcript = fields.get("transcript")
    if not (transcript is None or isinstance(transcript, str)):
        raise KeyMalformed("its transcript is not text")
    ic = fields.get("IC")
    if not isinstance(ic, list) or fields.get("nPublic") != len(ic) - 1:
        raise KeyMalformed("nPublic is not one less than the number of points in IC")
    if len(ic) > PUBLIC_INPUTS_MAX + 1:
        raise KeyMalformed(f"it has {len(ic)} points in IC")
    return VerificationKey(
        alpha_1=_point1(fields.get("vk_alpha_1")),
        beta_2=_point2(fields.get("vk_beta_2")),
        gamma_2=_point2(fields.get("vk_gamma_2")),
        delta_2=_point2(fields.get("vk_delta_2")),
        ic=tuple(_point1(point) for point in ic),
        status=found,
        transcript=transcript,
    )


def check_allowed(
    vk: VerificationKey,
    allowed_hashes: Collection[str],
    *,
    allow_development: bool,
    allowed_transcripts: Collection[str] = (),
) -> None:
    """Return if proofs under ``vk`` may count.

    Args:
        vk: The key offered.
        allowed_hashes: Of the keys that a study names.
        allow_development: Whether a key made by one machine will do.
        allowed_transcripts: Hashes of the ceremonies that whoever runs the server has verified.
            A study may name any key; which ceremonies are trusted is not the study's to say.

    Raises:
        KeyNotAllowed: Its hash is not among ``allowed_hashes``.
        DevelopmentKeyRefused: It is a development key, and those are not allowed here.
        CeremonyNotAllowed: It says that a ceremony made it, and that one is not accepted here.
    """
    if vk.hash not in allowed_hashes:
        raise KeyNotAllowed(vk.hash)
    if vk.status == "development" and not allow_development:
        raise DevelopmentKeyRefused(vk.hash)
    if vk.status == "ceremony" and vk.transcript not in allowed_transcripts:
        raise CeremonyNotAllowed(vk.hash, vk.transcript)


def development_key(circuit: Circuit, folder: Path) -> tuple[Path, VerificationKey]:
    """Return a proving key's path and its verification key, making both on first use.

    The setup runs in a process of its own, so that its secret numbers, which can forge proofs, end
    with it. They are not proven to be gone: hence the status.

    Args:
        circuit: The circuit the keys are for.
        folder: Where keys are kept, as ``NAME-HASH.pk`` (mode 0600) and ``.vk.json``, HASH being
            the start of the SHA-256 of the constraints.

    Raises:
        ProverMissing: groth16py is not installed.
        SetupFailed: The setup process failed.
        CircuitAltered: The constraints are not the committed ones.
        StorageError: The folder does not take the keys.
    """
    name = f"{circuit.name}-{circuit.r1cs_sha256[:16]}"
    pk, vk = folder / f"{name}.pk", folder / f"{name}.vk.json"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(folder / f"{name}.lock"):
            # The verification key is written last and removed first: if it is there, so is the
            # proving key that belongs to it.
            if not (vk.exists() and pk.exists()):
                vk.unlink(missing_ok=True)
                _set_up(circuit, pk, vk)
            return pk, VerificationKey.load(vk)
    except OSError as error:
        raise storage_error(error, f"the development key of {circuit.name}") from error


# Runs in the setup process. It is not a module of ours, so it starts without importing any.
_SETUP: Final = """
import sys, groth16py
proving, verification = groth16py.setup(sys.argv[1])
proving.save(sys.argv[2])
with open(sys.argv[3], "w") as file:
    file.write(verification.to_json())
"""


def _set_up(circuit: Circuit, pk: Path, vk: Path) -> None:
    if importlib.util.find_spec("groth16py") is None:
        raise ProverMissing("groth16py")
    work = pk.with_suffix(".setup")
    shutil.rmtree(work, ignore_errors=True)  # what a killed process left; the lock is ours
    work.mkdir(mode=0o700)
    try:
        r1cs, new_pk, new_vk = work / "r1cs", work / "pk", work / "vk.json"
        r1cs.write_bytes(circuit.r1cs_bytes())
        command = [sys.executable, "-c", _SETUP, str(r1cs), str(new_pk), str(new_vk)]
        # umask: the proving key is private from its first byte.
        ended = subprocess.run(  # noqa: S603 - the command is ours
            command, umask=0o077, timeout=SETUP_SECONDS_MAX, check=False, capture_output=True
        )
        if ended.returncode != 0:
            raise SetupFailed(circuit.name, ended.returncode)
        key = VerificationKey.from_json(new_vk.read_text(), status="development")
        with new_pk.open("rb") as file:
            os.fsync(file.fileno())
        new_pk.replace(pk)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    key.save(vk)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system releases it if the process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    """Replace a file by ``content`` in one step."""
    try:
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(draft).replace(path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise storage_error(error, path.name) from error


def _json_object(text: str) -> dict[str, Any]:
    if len(text) > KEY_TEXT_MAX:
        raise KeyMalformed(f"it is longer than {KEY_TEXT_MAX} characters")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KeyMalformed("it is not JSON") from error
    if not isinstance(fields, dict):
        raise KeyMalformed("it is not a JSON object")
    return fields


def _status(text: object) -> Status:
    if text == "development":
        return "development"
    if text == "ceremony":
        return "ceremony"
    raise KeyMalformed("its status is neither development nor ceremony")


def _number(text: object) -> int:
    if not isinstance(text, str) or not DECIMAL.fullmatch(text):
        raise KeyMalformed("a coordinate is not a decimal string without leading zeros")
    return int(text)


def _point1(field: object) -> Affine1:
    """Read ``[x, y, "1"]``."""
    if not isinstance(field, list) or len(field) != 3 or field[2] != "1":
        raise KeyMalformed("a point of G1 is not [x, y, 1]")
    return _number(field[0]), _number(field[1])


def _point2(field: object) -> Affine2:
    """Read ``[[x0, x1], [y0, y1], ["1", "0"]]``."""
    if not isinstance(field, list) or len(field) != 3 or field[2] != ["1", "0"]:
        raise KeyMalformed("a point of G2 is not [x, y, 1]")
    for pair in field[:2]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise KeyMalformed("a coordinate of G2 is not a pair")
    (x0, x1), (y0, y1) = field[0], field[1]
    return (_number(x0), _number(x1)), (_number(y0), _number(y1))


def _text1(point: Affine1) -> list[str]:
    return [str(point[0]), str(point[1]), "1"]


def _text2(point: Affine2) -> list[list[str]]:
    return [[str(n) for n in point[0]], [str(n) for n in point[1]], ["1", "0"]]
