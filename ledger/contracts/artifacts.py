"""Read a compiled contract: what a program needs to deploy it and to call it.

The artifacts are committed in ``build``, one JSON file for each contract, so that nobody who
deploys or calls needs a compiler. ``build.py`` makes them and compares.

    >>> btt = load("BTT")
    >>> btt.abi[0]["type"], len(btt.bytecode) < 49_152, len(btt.source_sha256)
    ('constructor', True, 64)

What holds (tests/ledger/contracts/test_artifacts.py): a file whose bytecode has another hash than
it states, or that is missing, is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.errors import ConfigurationError, storage_error

FOLDER: Final = Path(__file__).with_name("build")
FORMAT: Final = "bithive-contract-2"
CONTRACTS: Final = (
    "AuditAnchor",
    "BTT",
    "DataOwnership",
    "Distributor",
    "MilestoneVesting",
    "SemaphoreVerifier",
    "StakeManager",
    "StudyEscrow",
    "ValidatorSet",
    "Vesting",
)
"""Those that are deployed, or placed."""
PLACED: Final = ("ValidatorSet",)
"""Those that a genesis block holds, code and storage: nobody could deploy them before it."""


class ContractUnknown(ConfigurationError):
    """There is no compiled contract of this name."""

    code = "contract-unknown"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is no contract {name}; there are {', '.join(CONTRACTS)}")


class ContractAltered(ConfigurationError):
    """A compiled contract is missing, or is not what its file says it is."""

    code = "contract-altered"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"the compiled contract {name} is missing or altered; restore ledger/contracts/build "
            "from the repository, or compile it with `python -m ledger.contracts.build`"
        )


@dataclass(frozen=True)
class Artifact:
    """A contract, compiled."""

    abi: list[dict[str, Any]]
    """As the compiler wrote it."""
    bytecode: bytes
    """What creates the contract; the constructor's arguments, ABI-encoded, follow it."""
    source_sha256: str
    """Over the names and hashes of all sources that it was compiled from."""
    deployed: bytes = b""
    """The code as it stands at an address; of a contract of ``PLACED`` alone."""


def load(name: str, folder: Path = FOLDER) -> Artifact:
    """Return the compiled contract of this name.

    Raises:
        ContractUnknown: There is no such contract.
        ContractAltered: Its file is missing or contradicts itself.
        StorageError: The file cannot be read.
    """
    if name not in CONTRACTS:
        raise ContractUnknown(name)
    try:
        document = json.loads((folder / f"{name}.json").read_bytes())
        bytecode = bytes.fromhex(document["bytecode"])
        intact = (
            document["format"] == FORMAT
            and document["contract"] == name
            and document["bytecode_sha256"] == hashlib.sha256(bytecode).hexdigest()
            and document["source_sha256"] == hash_of(document["sources"])
        )
        deployed = bytes.fromhex(document.get("deployed", ""))
        if name in PLACED:
            intact &= document["deployed_sha256"] == hashlib.sha256(deployed).hexdigest()
        artifact = Artifact(document["abi"], bytecode, document["source_sha256"], deployed)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        raise ContractAltered(name) from None
    except OSError as error:
        raise storage_error(error, f"{name}.json") from error
    if not intact:
        raise ContractAltered(name)
    return artifact


def hash_of(sources: dict[str, str]) -> str:
    """Return the hash that stands for sources, each a path and the SHA-256 of its content."""
    lines = "".join(f"{sources[path]}  {path}\n" for path in sorted(sources))
    return hashlib.sha256(lines.encode()).hexdigest()
