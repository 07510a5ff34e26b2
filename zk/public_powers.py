"""Recognise a public phase 1: powers of tau that many strangers made, by the hash of the file.

The file is large and not ours to pass on; whoever runs a ceremony fetches it and gives its path.
Only files whose hash is known here are taken: a file of unknown origin could be anybody's, and the
packages of snarkjs have carried a ``powersOfTau15_final.ptau`` for tests to which one person
contributed, who may know what forges proofs.

References:
    iden3, snarkjs 0.7.6, README, section 7: BLAKE2b-512 of the files of the Perpetual Powers of
    Tau, 54 contributions and a beacon, as Hermez prepared them for circuits up to 2^28.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.errors import ProofError
from zk.circuit import Circuit
from zk.cover import PUBLIC_INPUTS
from zk.setup_files import contributions, file_hash, power

POWERS: Final = {
    13: (
        "58efc8bf2834d04768a3d7ffcd8e1e23d461561729beaac4e3e7a47829a1c906"
        "6d5320241e124a1a8e8aa6c75be0ba66f65bc8239a0542ed38e11276f6fdb4d9"
    ),
    14: (
        "eeefbcf7c3803b523c94112023c7ff89558f9b8e0cf5d6cdcba3ade60f168af4"
        "a181c9c21774b94fbae6c90411995f7d854d02ebd93fb66043dbb06f17a831c1"
    ),
    15: (
        "982372c867d229c236091f767e703253249a9b432c1710b4f326306bfa2428a1"
        "7b06240359606cfe4d580b10a5a1f63fbed499527069c18ae17060472969ae6e"
    ),
    16: (
        "6a6277a2f74e1073601b4f9fed6e1e55226917efb0f0db8a07d98ab01df1ccf4"
        "3eb0e8c3159432acd4960e2f29fe84a4198501fa54c8dad9e43297453efec125"
    ),
    17: (
        "6247a3433948b35fbfae414fa5a9355bfb45f56efa7ab4929e669264a0258976"
        "741dfbe3288bfb49828e5df02c2e633df38d2245e30162ae7e3bcca5b8b49345"
    ),
    18: (
        "7e6a9c2e5f05179ddfc923f38f917c9e6831d16922a902b0b4758b8e79c2ab8a"
        "81bb5f29952e16ee6c5067ed044d7857b5de120a90704c1d3b637fd94b95b13e"
    ),
}
"""BLAKE2b-512 of ``powersOfTau28_hez_final_N.ptau`` for the sizes our circuits can need."""


class Phase1Refused(ProofError):
    """A file of powers of tau is not one that is known to be made by many."""

    code = "phase-1-refused"

    def __init__(self, file: str, reason: str) -> None:
        self.file = file
        self.reason = reason
        super().__init__(
            f"{file} cannot begin a ceremony: {reason}; fetch powersOfTau28_hez_final_N.ptau "
            "from its publisher, N at least the circuit's power, or make your own phase 1"
        )


@dataclass(frozen=True)
class PublicPowers:
    """A file whose hash is known."""

    path: Path
    power: int
    blake2b: str


def power_of(circuit: Circuit) -> int:
    """Return the p for which 2^p powers of tau are enough for ``circuit``.

    A circuit's constraints and public inputs, each of which costs one, are fewer than 2^p.
    """
    return (circuit.constraints + PUBLIC_INPUTS).bit_length()


def public_powers(path: Path, power_min: int) -> PublicPowers:
    """Return what a file is known as.

    Args:
        path: A prepared ptau.
        power_min: The circuit's constraints are below 2^power_min.

    Raises:
        Phase1Refused: Its hash is unknown, or it is too small.
        SetupFileMalformed: It is no ptau.
        StorageError: It cannot be read.
    """
    found = file_hash(path, "blake2b")
    size = next((size for size, known in POWERS.items() if known == found), None)
    if size is None:
        raise Phase1Refused(path.name, _why_unknown(path, found))
    if size < power_min:
        raise Phase1Refused(path.name, f"it has 2^{size} powers, the circuit needs 2^{power_min}")
    return PublicPowers(path, size, found)


def _why_unknown(path: Path, found: str) -> str:
    """Say what a file of unknown hash seems to be."""
    size, made_by = power(path), len(contributions(path, "ptau"))
    if made_by <= 1:
        return f"it is test material, 2^{size} powers of {made_by} contributor, who could forge"
    return f"BLAKE2b {found[:16]} of its 2^{size} powers is not among the known ones"
