"""Write the contract that verifies certificates under one verification key, and compile it.

A key is part of its contract's code, so a key replaced is a contract deployed anew. Keys of status
development are refused unless asked for: their contracts would accept forgeries by the key's maker.

::

    python -m zk.solidity.generate KEY.json FOLDER     (2 s; solc as WebAssembly, by node)
    python -m zk.solidity.generate --check             compare the committed one with its key

FOLDER gets ``CoverVerifier.sol`` and ``CoverVerifier.json``: bytecode, hashes, compiler, settings.
The folder ``development`` holds the one of tests/vectors/zk/cover8.json, so that tests need no
compiler. The compiler (npm ``solc``, GPL-3.0) is only run, with ``npm ci --ignore-scripts`` here.

What holds (tests/zk/test_onchain.py):

1. The same key gives the same source, and source and compiler the same bytecode, byte for byte.
2. The contract accepts what ``zk.groth16`` accepts, and costs at most 290,000 gas as a transaction.

References:
    EIP-196 and EIP-197 (Ethereum, 2017): the precompiled contracts for points and pairings.
    EIP-1108 (2019): their price.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Collection
from pathlib import Path
from string import Template
from typing import Any, Final

from protocol.errors import BitHiveError, ProofError
from storage.files import write_whole
from zk.cover import PUBLIC_INPUTS
from zk.curve import MODULUS, ORDER, Affine1, Affine2
from zk.groth16 import PROOF_BYTES
from zk.keys import KeyMalformed, VerificationKey, check_allowed
from zk.solidity.solc import run_solc

HERE: Final = Path(__file__).parent
COMMITTED: Final = HERE / "development"
NAME: Final = "CoverVerifier"
SELECTOR: Final = bytes.fromhex("86013246")
"""First four bytes of the Keccak-256 of ``verify(uint256[10],uint256[8])``."""
SETTINGS: Final[dict[str, Any]] = {
    "optimizer": {"enabled": True, "runs": 1_000_000},
    # PUSH0 is in every network that matters; nothing later is used.
    "evmVersion": "shanghai",
    # Without the hash of comments and file names, equal code has equal bytes.
    "metadata": {"appendCBOR": False, "bytecodeHash": "none"},
    "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]}},
}

_TERM: Final = """\
            done := and(done, add_scaled(
                sum,
                {x},
                {y},
                calldataload(add(publicInputs, {at:#x}))
            ))
"""


class ContractNotCompiled(ProofError):
    """The compiler refused the generated contract, or warned about it."""

    code = "contract-not-compiled"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the verifier does not compile: {reason}; see zk/solidity/template.sol")


class ContractNotReproduced(ProofError):
    """Generating or compiling gave another contract than the committed one."""

    code = "contract-not-reproduced"

    def __init__(self, file: str) -> None:
        self.file = file
        super().__init__(
            f"generating gives another {file} than the committed one; run "
            "`python -m zk.solidity.generate` for its key and review the difference"
        )


def source(
    vk: VerificationKey,
    *,
    allow_development: bool = False,
    allowed_transcripts: Collection[str] = (),
) -> str:
    """Return the contract for a key, in Solidity.

    Args:
        vk: A key for coverage statements, that is of ten public inputs.
        allow_development: Whether a key that its maker can forge under may have one.
        allowed_transcripts: Hashes of the ceremonies whose keys may have one.

    Raises:
        DevelopmentKeyRefused: It is a development key and those are not allowed.
        CeremonyNotAllowed: It is from another ceremony than the allowed ones.
        KeyMalformed: It is for other statements.
    """
    check_allowed(
        vk,
        [vk.hash],
        allow_development=allow_development,
        allowed_transcripts=allowed_transcripts,
    )
    if len(vk.ic) != PUBLIC_INPUTS + 1:
        raise KeyMalformed(f"it takes {len(vk.ic) - 1} public inputs, not {PUBLIC_INPUTS}")
    terms = [_TERM.format(x=x, y=y, at=32 * i) for i, (x, y) in enumerate(vk.ic[1:])]
    return Template((HERE / "template.sol").read_text()).substitute(
        key_hash=vk.hash,
        status=vk.status,
        development=str(vk.status == "development").lower(),
        field=ORDER,
        inputs=PUBLIC_INPUTS,
        ic_0_x=vk.ic[0][0],
        ic_0_y=vk.ic[0][1],
        terms="".join(terms).rstrip("\n"),
        alpha_beta=_stored(0xC0, [*_negated1(vk.alpha_1), *_words2(vk.beta_2)]),
        gamma=_stored(0x1C0, _words2(_negated2(vk.gamma_2))),
        delta=_stored(0x280, _words2(_negated2(vk.delta_2))),
    )


def compile_source(text: str) -> dict[str, Any]:
    """Return what ``CoverVerifier.json`` holds for a contract.

    Raises:
        SolidityCompilerMissing: Node or solc is not there.
        ContractNotCompiled: The compiler complains.
    """
    asked = {
        "language": "Solidity",
        "sources": {f"{NAME}.sol": {"content": text}},
        "settings": SETTINGS,
    }
    output = run_solc(asked, HERE)
    if output is None:
        raise ContractNotCompiled("the compiler broke off")
    for complaint in output.get("errors", []):
        raise ContractNotCompiled(complaint["message"])
    contract = output["contracts"][f"{NAME}.sol"][NAME]
    code = contract["evm"]["bytecode"]["object"]
    deployed = contract["evm"]["deployedBytecode"]["object"]
    return {
        "format": "bithive-contract-1",
        "compiler": output["version"],
        "settings": SETTINGS,
        "source_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "abi": contract["abi"],
        "bytecode": code,
        "bytecode_sha256": hashlib.sha256(bytes.fromhex(code)).hexdigest(),
        "deployed_sha256": hashlib.sha256(bytes.fromhex(deployed)).hexdigest(),
        "deployed_bytes": len(deployed) // 2,
    }


def calldata(numbers: list[int], proof: bytes) -> bytes:
    """Return the call that asks the contract about a statement and its proof.

    Args:
        numbers: ``CoverStatement.public_inputs()``.
        proof: 256 bytes, as ``zk.groth16`` takes them.
    """
    assert len(numbers) == PUBLIC_INPUTS
    assert len(proof) == PROOF_BYTES
    return SELECTOR + b"".join(number.to_bytes(32, "big") for number in numbers) + proof


def check(vk: VerificationKey, folder: Path = COMMITTED) -> None:
    """Return if ``folder`` holds what generating and compiling give for ``vk``.

    Raises:
        ContractNotReproduced: It does not.
        SolidityCompilerMissing: As in ``compile_source``.
    """
    text = source(vk, allow_development=True)
    if text != (folder / f"{NAME}.sol").read_text():
        raise ContractNotReproduced(f"{NAME}.sol")
    if compile_source(text) != json.loads((folder / f"{NAME}.json").read_text()):
        raise ContractNotReproduced(f"{NAME}.json")


def _stored(at: int, words: list[int]) -> str:
    lines = [
        f"            mstore(add(pairs, {at + 32 * i:#x}), {word})" for i, word in enumerate(words)
    ]
    return "\n".join(lines)


def _words2(point: Affine2) -> list[int]:
    (x0, x1), (y0, y1) = point
    return [x1, x0, y1, y0]


def _negated1(point: Affine1) -> list[int]:
    return [point[0], -point[1] % MODULUS]


def _negated2(point: Affine2) -> Affine2:
    x, (y0, y1) = point
    return x, (-y0 % MODULUS, -y1 % MODULUS)


def main(arguments: list[str] | None = None) -> int:
    """Generate and compile, or compare; exit 0 done, 1 refused."""
    parser = argparse.ArgumentParser(description="Generate the on-chain verifier for a key.")
    parser.add_argument("key", type=Path, help="Verification key, as JSON.")
    parser.add_argument("folder", type=Path, nargs="?", default=COMMITTED, help="Where to write.")
    parser.add_argument(
        "--allow-development",
        action="store_true",
        help="Accept a key that its maker can forge under.",
    )
    parser.add_argument(
        "--transcript",
        action="append",
        default=[],
        metavar="SHA256",
        help="Accept a key of this ceremony, whose transcript you have verified.",
    )
    parser.add_argument("--check", action="store_true", help="Compare with what is there.")
    options = parser.parse_args(arguments)
    try:
        vk = VerificationKey.load(options.key)
        if options.check:
            check(vk, options.folder)
        else:
            text = source(
                vk,
                allow_development=options.allow_development,
                allowed_transcripts=options.transcript,
            )
            compiled = compile_source(text)
            write_whole(options.folder / f"{NAME}.sol", text.encode())
            pretty = json.dumps(compiled, indent=1, sort_keys=True) + "\n"
            write_whole(options.folder / f"{NAME}.json", pretty.encode())
    except BitHiveError as refusal:
        sys.stderr.write(f"{refusal.code}: {refusal}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
