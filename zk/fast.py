"""The fast verifier: ``zk.groth16`` through groth16py (arkworks), a few milliseconds a proof.

It is optional, under the GPL-3.0, and loaded only when called. It must accept and refuse exactly
what the reference does (tests/zk/test_groth16.py runs both); where they differ, the reference is
right.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from zk.groth16 import PROOF_BYTES, ProofInvalid, Statement, public_inputs
from zk.keys import ProverMissing, VerificationKey


def available() -> bool:
    """Say whether groth16py is installed, without loading it."""
    return importlib.util.find_spec("groth16py") is not None


def prepare(vk: VerificationKey) -> None:
    """Read the key, once per process, so that no proof waits for it.

    Raises:
        ProverMissing: groth16py is not installed.
    """
    _verifier(vk)


def verify(vk: VerificationKey, statement: Statement, proof: bytes) -> None:
    """Return if ``proof`` shows ``statement`` under ``vk``.

    Raises:
        ProofInvalid: It does not.
        ProverMissing: groth16py is not installed.
    """
    _verify(vk, statement, proof, 0)


def verify_many(vk: VerificationKey, proofs: Sequence[tuple[Statement, bytes]]) -> None:
    """Return if every proof shows its statement.

    Raises:
        ProofInvalid: One does not; ``index`` names the first bad one.
        ProverMissing: groth16py is not installed.
    """
    for index, (statement, proof) in enumerate(proofs):
        _verify(vk, statement, proof, index)


def _verify(vk: VerificationKey, statement: Statement, proof: bytes, index: int) -> None:
    verifier, refusals = _verifier(vk)
    numbers = public_inputs(vk, statement, index)
    if len(proof) != PROOF_BYTES:
        raise ProofInvalid(f"it has {len(proof)} bytes, not {PROOF_BYTES}", index)
    try:
        holds = verifier.verify(proof, numbers)
    except refusals as error:
        raise ProofInvalid("a point is not a canonical point of its group", index) from error
    if holds is not True:
        raise ProofInvalid("the pairing equation fails", index)


@lru_cache(maxsize=8)
def _verifier(vk: VerificationKey) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return the library's prepared verifier and the errors it refuses with."""
    try:
        import groth16py  # noqa: PLC0415 - optional and GPL-3.0: loaded only where it is used
    except ImportError as error:
        raise ProverMissing("groth16py") from error
    key = groth16py.VerifyingKey.from_snarkjs(vk.snarkjs())
    return groth16py.Verifier(key), (groth16py.EncodingError, groth16py.VerificationError)
