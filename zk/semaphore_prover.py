"""Make Semaphore proofs in Python: for a program that is a member itself, and for tests.

Patients prove in their browser (``zk/semaphore/node/page.js``), where their secret stays. Here a
secret is a bare scalar, and the commitment is read off the circuit itself: along a path of no
siblings the root is the commitment, so Baby Jubjub is computed by the published calculator alone.

What holds (tests/zk/test_semaphore_prover.py):

1. A proof that is returned verifies; who is no member gets none.
2. Commitments and nullifiers are those of the npm packages for the same scalar.

groth16py, under the GPL-3.0, and wasmtime are loaded when first used: the extra ``prover``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from protocol.errors import ProofError
from zk import fast
from zk.artefacts import FOLDER, read_file, verification_key
from zk.groth16 import ProofInvalid
from zk.keys import ProverMissing
from zk.lean_imt import LeanIMT, LeanPath
from zk.semaphore import TREE_DEPTH, SemaphoreProof, keccak_of
from zk.witness import NUMBER_BYTES, witness, witness_file

SUBGROUP_ORDER: Final = 2736030358979909402780800718157159386076813972158567259200215660948447373041
"""Of Baby Jubjub (EIP-2494): secrets are below it."""

WIRES_START: Final = 76
"""Where the wires of a wtns file begin: 12 bytes, a section of 12 + 40, a header of 12."""


class NotAMember(ProofError):
    """A secret's commitment is not in the group it should be proven of."""

    code = "semaphore-not-a-member"

    def __init__(self) -> None:
        super().__init__("this identity is not a member of the group; enrol it first")


class SemaphoreProverFailed(ProofError):
    """The prover produced no proof, or one that does not verify."""

    code = "semaphore-prover-failed"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"no Semaphore proof was made: {reason}; check the files in zk/semaphore")


@dataclass(frozen=True)
class _Circuit:
    """Semaphore's calculator, as ``zk.witness`` takes one."""

    def wasm_bytes(self) -> bytes:
        return read_file("semaphore-16.wasm")


def commitment_of(secret: int) -> int:
    """Return the identity commitment of a secret scalar.

    Raises:
        ProverMissing: wasmtime is not installed.
    """
    return _output(witness(_Circuit(), _inputs(secret, LeanPath(0, ()), 0, 0)), 0)


def prove(secret: int, group: LeanIMT, scope: int, message: int) -> SemaphoreProof:
    """Return a proof that the holder of ``secret`` is in ``group`` and says ``message``.

    Args:
        secret: From 1 to ``SUBGROUP_ORDER`` less one.
        group: All members.
        scope: Below 2^256.
        message: Below 2^256.

    Raises:
        NotAMember: She is not in the group.
        SemaphoreProverFailed: The proof does not verify.
        ProverMissing: groth16py or wasmtime is not installed.
    """
    members = group.leaves()
    commitment = commitment_of(secret)
    if commitment not in members:
        raise NotAMember
    inputs = _inputs(secret, group.path(members.index(commitment)), scope, message)
    library, key = _key()
    with witness_file(_Circuit(), inputs) as path:
        wires = path.read_bytes()
        try:
            points = bytes(library.prove_wtns(key, str(path)))
        except (library.WitnessError, library.EncodingError, library.SetupError) as error:
            raise SemaphoreProverFailed(type(error).__name__) from None
    proof = SemaphoreProof(
        root=group.root,
        nullifier=_output(wires, 1),
        message=message,
        scope=scope,
        points=points,
    )
    # The library gives a proof for any witness, right or wrong.
    try:
        fast.verify(verification_key(), proof, proof.points)
    except ProofInvalid as error:
        raise SemaphoreProverFailed(f"its own check found that {error.reason}") from None
    return proof


def _inputs(secret: int, path: LeanPath, scope: int, message: int) -> dict[str, int | list[int]]:
    assert 0 < secret < SUBGROUP_ORDER
    unused = [0] * (TREE_DEPTH - len(path.siblings))
    return {
        "secret": secret,
        "merkleProofLength": len(path.siblings),
        "merkleProofIndex": path.index,
        "merkleProofSiblings": [*path.siblings, *unused],
        "scope": keccak_of(scope),
        "message": keccak_of(message),
    }


def _output(wtns: bytes, number: int) -> int:
    """Return an output of the circuit: wire 0 is the constant 1, the outputs come next."""
    start = WIRES_START + (1 + number) * NUMBER_BYTES
    return int.from_bytes(wtns[start : start + NUMBER_BYTES], "little")


@lru_cache(maxsize=1)
def _key() -> tuple[Any, Any]:
    """Return the library and the proving key; 3.4 MB, in memory from the first proof on."""
    try:
        import groth16py  # noqa: PLC0415 - optional and GPL-3.0: loaded where it is used
    except ImportError as error:
        raise ProverMissing("groth16py") from error
    name = "semaphore-16.zkey"
    read_file(name)
    proving_key, _ = groth16py.import_zkey(str(FOLDER / name))
    return groth16py, proving_key
