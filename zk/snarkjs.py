"""Run snarkjs in node processes: the steps of a ceremony, and a second prover and verifier.

snarkjs, under the GPL-3.0, is a program that this module starts and never part of BitHive. It is
installed from ``zk/circuits/package-lock.json``; who neither takes part in a ceremony nor wants a
second opinion needs neither node nor snarkjs.

What holds (tests/zk/test_snarkjs.py):

1. A step is done only if snarkjs ended with 0, wrote no error and, where it judges, its verdict is
   its last line. (``zkey new`` reports some errors and still ends with 0.)
2. Secret randomness goes to snarkjs through a pipe: command lines can be read by other users.
3. A proof of snarkjs's is accepted by ``zk.groth16`` and ``zk.fast``, and one of theirs by snarkjs.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from protocol.errors import ConfigurationError, ProofError, storage_error
from zk.circuit import Circuit
from zk.cover import CoverStatement, Scope, Slot, state, witness_inputs
from zk.groth16 import PROOF_BYTES, ProofInvalid, public_inputs
from zk.groth16 import verify as verify_by_reference
from zk.keys import VerificationKey
from zk.witness import witness_file

VERSION: Final = "0.7.6"
MODULES: Final = Path(__file__).parent / "circuits" / "node_modules"
STEP_SECONDS_MAX: Final = 6 * 3600
"""The longest step, preparing 2^16 powers for phase 2, took half an hour on two busy cores."""
OUTPUT_MAX: Final = 200
"""Characters of a program's complaint that are passed on."""
COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
ERRORS: Final = re.compile(r".*\[ERROR\]|INVALID|Error:")
CURVE: Final = "bn128"


class SnarkjsMissing(ConfigurationError):
    """Node, or snarkjs in the version we rely on, is not installed."""

    code = "snarkjs-missing"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what} is missing; install Node 20 or newer and run `npm ci --ignore-scripts` "
            "in zk/circuits"
        )


class SnarkjsFailed(ProofError):
    """A step of snarkjs's did not end well, or it judged that a file is not sound."""

    code = "snarkjs-failed"

    def __init__(self, step: str, reason: str) -> None:
        self.step = step
        self.reason = reason
        super().__init__(f"snarkjs could not {step}: {reason}; see that its input files are whole")


@dataclass(frozen=True)
class Snarkjs:
    """An installed snarkjs; every method runs one process of it.

    Methods that write a file write it whole or not as the name given: name a draft.
    All raise ``SnarkjsFailed`` if the step fails.
    """

    node: Path
    program: Path

    @classmethod
    def find(cls, modules: Path = MODULES) -> Self:
        """Return the installed snarkjs.

        Raises:
            SnarkjsMissing: Node, or snarkjs 0.7.6 under ``modules``, is not there.
        """
        node = shutil.which("node")
        if node is None:
            raise SnarkjsMissing("node")
        package = modules / "snarkjs"
        try:
            version = json.loads((package / "package.json").read_text())["version"]
        except (OSError, ValueError, KeyError, TypeError):
            version = None
        program = package / "build" / "cli.cjs"
        if version != VERSION or not program.is_file():
            raise SnarkjsMissing(f"npm package snarkjs {VERSION}")
        return cls(Path(node), program)

    def begin_phase_1(self, power: int, new: Path) -> None:
        """Write the powers of tau = 1, up to 2^power, to which nobody has contributed."""
        self._run("begin phase 1", ["powersoftau", "new", CURVE, str(power), str(new)])

    def contribute_phase_1(self, old: Path, new: Path, name: str) -> None:
        """Multiply a secret into the powers of tau and forget it."""
        command = ["powersoftau", "contribute", str(old), str(new), f"--name={name}"]
        self._run("contribute to phase 1", command, typed=_fresh_secret())

    def apply_beacon_phase_1(self, old: Path, new: Path, value: bytes, exponent: int) -> None:
        """Multiply what a public value gives after 2^exponent hashes into the powers of tau."""
        beacon = [value.hex(), str(exponent), "--name=beacon"]
        command = ["powersoftau", "beacon", str(old), str(new), *beacon]
        self._run("apply the beacon to phase 1", command)

    def prepare_phase_2(self, old: Path, new: Path) -> None:
        """Compute from the powers of tau what phase 2 begins with; long, and deterministic."""
        self._run("prepare phase 2", ["powersoftau", "prepare", "phase2", str(old), str(new)])

    def check_phase_1(self, file: Path) -> None:
        """Return if every contribution follows from the one before, and all points from them."""
        self._run(
            "verify phase 1", ["powersoftau", "verify", str(file)], verdict="Powers of Tau Ok!"
        )

    def begin_phase_2(self, r1cs: Path, phase_1: Path, new: Path) -> None:
        """Write the zkey of a circuit to which nobody has contributed; deterministic."""
        self._run("begin phase 2", ["zkey", "new", str(r1cs), str(phase_1), str(new)])

    def contribute_phase_2(self, old: Path, new: Path, name: str) -> None:
        """Multiply a secret into the zkey and forget it."""
        command = ["zkey", "contribute", str(old), str(new), f"--name={name}"]
        self._run("contribute to phase 2", command, typed=_fresh_secret())

    def apply_beacon_phase_2(self, old: Path, new: Path, value: bytes, exponent: int) -> None:
        """Multiply what a public value gives after 2^exponent hashes into the zkey."""
        beacon = [value.hex(), str(exponent), "--name=beacon"]
        self._run("apply the beacon to phase 2", ["zkey", "beacon", str(old), str(new), *beacon])

    def check_phase_2(self, r1cs: Path, phase_1: Path, zkey: Path) -> None:
        """Return if the zkey is of this circuit and phase 1 and every contribution follows."""
        command = ["zkey", "verify", str(r1cs), str(phase_1), str(zkey)]
        self._run("verify phase 2", command, verdict="ZKey Ok!")

    def prove(  # noqa: PLR0917 - what zk.prover takes, in the same order
        self,
        circuit: Circuit,
        zkey: Path,
        vk: VerificationKey,
        slots: Sequence[Slot],
        scope: Scope,
        blind: int,
    ) -> tuple[CoverStatement, bytes]:
        """Return the statement these slots make, and a proof of it, as ``zk.prover`` does.

        Slower than that one by a factor of three; for where groth16py is not to be had, and for
        comparing the two.

        Raises:
            WitnessRefused: The slots do not satisfy the statement.
            ProofInvalid: The proof does not verify under ``vk``; the keys do not belong together.
            ProverMissing: wasmtime is not installed.
        """
        statement = state(slots, scope, blind)
        inputs = witness_inputs(slots, scope, statement, blind)
        with (
            witness_file(circuit, inputs) as witness,
            tempfile.TemporaryDirectory() as folder,
        ):
            proof, public = Path(folder, "proof.json"), Path(folder, "public.json")
            command = ["groth16", "prove", str(zkey), str(witness), str(proof), str(public)]
            self._run("prove", command)
            made = proof_bytes(json.loads(proof.read_text()))
        verify_by_reference(vk, statement, made)
        return statement, made

    def verify(self, vk: VerificationKey, statement: CoverStatement, proof: bytes) -> None:
        """Return if snarkjs holds that ``proof`` shows ``statement`` under ``vk``.

        Raises:
            ProofInvalid: It does not, or the proof is not 256 bytes.
        """
        if len(proof) != PROOF_BYTES:
            raise ProofInvalid(f"it has {len(proof)} bytes, not {PROOF_BYTES}")
        public = [str(number) for number in public_inputs(vk, statement)]
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, name) for name in ("vk.json", "public.json", "proof.json")]
            texts = (vk.snarkjs(), json.dumps(public), json.dumps(proof_json(proof)))
            for file, text in zip(files, texts, strict=True):
                file.write_text(text)
            command = ["groth16", "verify", *map(str, files)]
            try:
                self._run("verify", command, verdict="OK!")
            except SnarkjsFailed as error:
                raise ProofInvalid("snarkjs refuses it") from error

    def _run(
        self, step: str, arguments: list[str], *, typed: str = "", verdict: str | None = None
    ) -> None:
        command = [str(self.node), str(self.program), *arguments]
        try:
            ended = subprocess.run(  # noqa: S603 - the program is pinned by hash in package-lock.json
                command,
                input=typed,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=STEP_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SnarkjsFailed(step, f"it took more than {STEP_SECONDS_MAX} seconds") from error
        except OSError as error:
            raise storage_error(error, self.node.name) from error
        said = COLOURS.sub("", ended.stdout).strip().splitlines()
        complained = COLOURS.sub("", ended.stderr).splitlines()
        complaints = [one for one in (*said, *complained) if ERRORS.match(one)]
        if complaints:
            raise SnarkjsFailed(step, _shortened(complaints[0]))
        if ended.returncode != 0:
            raise SnarkjsFailed(step, f"it ended with status {ended.returncode}")
        if verdict is not None and said[-1:] != [f"[INFO]  snarkJS: {verdict}"]:
            raise SnarkjsFailed(step, "it gave no verdict")


def available() -> bool:
    """Say whether snarkjs can be run here."""
    try:
        Snarkjs.find()
    except SnarkjsMissing:
        return False
    return True


def proof_bytes(fields: dict[str, Any]) -> bytes:
    """Return the 256 bytes of a proof that snarkjs wrote as JSON."""
    a, b, c = fields["pi_a"], fields["pi_b"], fields["pi_c"]
    numbers = [*a[:2], b[0][1], b[0][0], b[1][1], b[1][0], *c[:2]]
    return b"".join(int(number).to_bytes(32, "big") for number in numbers)


def proof_json(proof: bytes) -> dict[str, Any]:
    """Return a proof as snarkjs reads it; undoes ``proof_bytes``."""
    n = [str(int.from_bytes(proof[i : i + 32], "big")) for i in range(0, PROOF_BYTES, 32)]
    return {
        "protocol": "groth16",
        "curve": CURVE,
        "pi_a": [n[0], n[1], "1"],
        "pi_b": [[n[3], n[2]], [n[5], n[4]], ["1", "0"]],
        "pi_c": [n[6], n[7], "1"],
    }


def _fresh_secret() -> str:
    """Return 256 bits of the system's randomness, which snarkjs mixes with 512 of its own."""
    return secrets.token_hex(32) + "\n"


def _shortened(complaint: str) -> str:
    return complaint.removeprefix("[ERROR] snarkJS: ")[:OUTPUT_MAX].rstrip(".")
