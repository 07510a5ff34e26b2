"""Put the contracts of BTT on a chain, record what stands where, and see that it still does.

One account, the custody account, deploys, holds what the books hold for others, and settles. BTT is
minted once, in the constructor: what vests goes to one vesting wallet for each bucket, whose
beneficiary is the custody account, the rest to the custody account itself. So not even its key
brings an allocation out before its time.

The file names chain, addresses, the hash of the code that stood at each when it was deployed, and
the constructor's arguments. Opening it asks the chain: another chain, or other code, is refused.

What holds (tests/ledger/chain/test_reconcile.py):

1. Deploying again, also after a crash in the middle, gives the same addresses, and mints once.
2. A deployment whose code is not on the node's chain cannot be opened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from ledger.chain.calls import creation, encoded
from ledger.chain.node import ChainDiffers, Node, hexed
from ledger.chain.outbox import Intent
from ledger.chain.sender import Sender
from ledger.contracts.artifacts import load
from ledger.contracts.tree import keccak256
from ledger.economy import Economy
from ledger.vesting import Terms
from protocol.errors import LedgerError, storage_error
from protocol.units import TOTAL_SUPPLY
from storage.files import write_whole

FORMAT: Final = "bithive-deployment-1"
ALLOWANCE: Final = (1 << 256) - 1
DEPLOY: Final = "deploy:"


class DeploymentMissing(LedgerError):
    """Nothing was deployed from here, or its record is damaged."""

    code = "chain-deployment-missing"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path.name} records no deployment; run `bithive chain deploy`, or restore the file"
        )


class DeploymentDiffers(LedgerError):
    """What stands on the chain, or was begun, is not what was to be deployed."""

    code = "chain-deployment-differs"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what} on the chain is not what the record says; settle to a chain where it is"
        )


@dataclass(frozen=True)
class Deployed:
    """A contract that stands on the chain; hashes in hexadecimal, arguments as JSON has them."""

    contract: str
    address: bytes
    code_hash: str
    source_sha256: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Deployment:
    """What was deployed, by name; vesting wallets as ``Vesting:BUCKET``."""

    chain_id: int
    genesis: str
    first_block: int
    custody: bytes
    contracts: Mapping[str, Deployed]

    def address(self, name: str) -> bytes:
        """Return where a contract stands."""
        return self.contracts[name].address

    def vesting(self) -> dict[str, bytes]:
        """Return the vesting wallets by bucket."""
        return {
            name.partition(":")[2]: one.address
            for name, one in self.contracts.items()
            if ":" in name
        }


def deploy(
    sender: Sender,
    economy: Economy,
    path: Path,
    *,
    admin: bytes | None = None,
    clock: Callable[[], datetime],
    sleep: Callable[[float], None],
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Deployment:
    """Deploy every contract, give the custody account its roles, and write the record.

    Repeated, it goes on where it stopped; when it was done, it returns what was deployed.

    Args:
        sender: Whose signer is the custody account.
        economy: Which buckets vest, and how.
        path: Where the record is written.
        admin: Who appoints further roles: a timelock; the custody account if none is given.
        clock: As ``Sender.drive``.
        sleep: As ``Sender.drive``.
        progress: As ``Sender.drive``.

    Raises:
        DeploymentDiffers: It was begun with other arguments.
        As ``Sender.drive``.
    """
    node, custody = sender.node, sender.signer.address
    if path.exists():
        return open_deployment(path, node)
    first = node.height()
    made = dict[str, Deployed]()
    for stage in (_vesting_wallets, _token, _others):
        wanted = stage(economy, custody, admin or custody, made)
        intents = [
            Intent(f"{DEPLOY}{name}", 0, None, creation(kind, *arguments))
            for name, (kind, arguments) in wanted.items()
        ]
        _drive(sender, intents, clock, sleep, progress)
        for name, (kind, arguments) in wanted.items():
            made[name] = _deployed(sender, name, kind, arguments)
    _drive(sender, _roles(custody, admin or custody, made), clock, sleep, progress)
    block = node.block(0)
    assert block is not None
    began = min([first, *_blocks(sender)])
    deployment = Deployment(node.chain_id, hexed(block.hash), began, custody, made)
    write_deployment(path, deployment)
    return deployment


def write_deployment(path: Path, deployment: Deployment) -> None:
    """Write the record. Raises StorageError."""
    write_whole(path, _written(deployment))


def open_deployment(path: Path, node: Node) -> Deployment:
    """Return a recorded deployment that stands on the node's chain.

    Raises:
        DeploymentMissing: There is no record.
        ChainDiffers: The node is on another chain.
        DeploymentDiffers: There is other code at an address, or the artifacts have changed.
    """
    deployment = read_deployment(path)
    if node.chain_id != deployment.chain_id:
        raise ChainDiffers("chain id", node.chain_id, deployment.chain_id)
    block = node.block(0)
    if block is None or hexed(block.hash) != deployment.genesis:
        raise ChainDiffers("first block", hexed(block.hash if block else b""), deployment.genesis)
    for name, one in deployment.contracts.items():
        if keccak256(node.code(one.address)).hex() != one.code_hash:
            raise DeploymentDiffers(name)
        if load(one.contract).source_sha256 != one.source_sha256:
            raise DeploymentDiffers(f"{name}, of other sources than ours,")
    return deployment


def read_deployment(path: Path) -> Deployment:
    """Return the record alone, without asking a chain. Raises DeploymentMissing."""
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise DeploymentMissing(path)
        contracts = {
            name: Deployed(
                one["contract"],
                bytes.fromhex(one["address"][2:]),
                one["code_hash"],
                one["source_sha256"],
                tuple(one["arguments"]),
            )
            for name, one in document["contracts"].items()
        }
        custody = bytes.fromhex(document["custody"][2:])
        return Deployment(
            document["chain_id"], document["genesis"], document["first_block"], custody, contracts
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise DeploymentMissing(path) from None
    except OSError as error:
        raise storage_error(error, path.name) from error


_Wanted = dict[str, tuple[str, tuple[Any, ...]]]
"""Kind and arguments of a contract, by its name."""


def _vesting_wallets(
    economy: Economy, custody: bytes, admin: bytes, _made: Mapping[str, Deployed]
) -> _Wanted:
    wanted: _Wanted = {"SemaphoreVerifier": ("SemaphoreVerifier", ())}
    for bucket, terms in sorted(economy.vesting.items()):
        kind = "MilestoneVesting" if terms.tranches else "Vesting"
        wanted[f"{kind}:{bucket}"] = (kind, _terms(terms, custody, admin))
    return wanted


def _terms(terms: Terms, custody: bytes, judge: bytes) -> tuple[Any, ...]:
    if terms.tranches:
        weights = [one.amount for one in terms.tranches]
        return (custody, judge, weights, [one.due for one in terms.tranches])
    inside, seconds = 0, terms.ends - terms.begins
    return (custody, terms.begins, terms.cliff - terms.begins, seconds, inside)


def _token(
    economy: Economy, custody: bytes, _admin: bytes, made: Mapping[str, Deployed]
) -> _Wanted:
    holders = {
        one.address: economy.vesting[name.partition(":")[2]].amount
        for name, one in made.items()
        if ":" in name
    }
    holders[custody] = TOTAL_SUPPLY - sum(holders.values())
    token = economy.token
    return {"BTT": ("BTT", (token.name, token.symbol, list(holders), list(holders.values())))}


def _others(
    _economy: Economy, custody: bytes, admin: bytes, made: Mapping[str, Deployed]
) -> _Wanted:
    token, verifier = made["BTT"].address, made["SemaphoreVerifier"].address
    # The custody account appoints itself below; then the admin takes over.
    return {
        "StudyEscrow": ("StudyEscrow", (token, admin)),
        "Distributor": ("Distributor", (token, verifier, custody)),
        "StakeManager": ("StakeManager", (token, custody, admin)),
        "AuditAnchor": ("AuditAnchor", (admin,)),
        "DataOwnership": ("DataOwnership", ("BitHive Data", "BHD", admin)),
    }


def _roles(custody: bytes, admin: bytes, made: Mapping[str, Deployed]) -> list[Intent]:
    distributor, token = made["Distributor"].address, made["BTT"].address
    calls = {
        "settler": (distributor, _granted("SETTLER", custody)),
        "pauser": (distributor, _granted("PAUSER", custody)),
        "allowance": (token, encoded("BTT", "approve", distributor, ALLOWANCE)),
    }
    if admin != custody:
        give = encoded("Distributor", "grantRole", bytes(32), admin)
        leave = encoded("Distributor", "renounceRole", bytes(32), custody)
        calls |= {"admin": (distributor, give), "leave": (distributor, leave)}
    return [Intent(f"{DEPLOY}{name}", 0, to, data) for name, (to, data) in calls.items()]


def _granted(role: str, to: bytes) -> bytes:
    return encoded("Distributor", "grantRole", keccak256(role.encode()), to)


def _drive(
    sender: Sender,
    intents: list[Intent],
    clock: Callable[[], datetime],
    sleep: Callable[[float], None],
    progress: Callable[[int, int], None],
) -> None:
    sender.outbox.plan(intents, now=clock())
    for one in intents:
        kept = sender.outbox.intent(one.intent)
        if (kept.to, kept.data) != (one.to, one.data):
            raise DeploymentDiffers(one.intent.removeprefix(DEPLOY))
    sender.drive(clock=clock, sleep=sleep, progress=progress)


def _deployed(sender: Sender, name: str, kind: str, arguments: tuple[Any, ...]) -> Deployed:
    (attempt,) = [one for one in sender.outbox.attempts(f"{DEPLOY}{name}") if one.state == "final"]
    receipt = sender.node.receipt(attempt.hash)
    if receipt is None or receipt.contract is None:
        raise DeploymentDiffers(name)
    code = sender.node.code(receipt.contract)
    if not code:
        raise DeploymentDiffers(name)
    source = load(kind).source_sha256
    plain = tuple(_plain(one) for one in arguments)
    return Deployed(kind, receipt.contract, keccak256(code).hex(), source, plain)


def _blocks(sender: Sender) -> list[int]:
    return [
        one.block_number
        for one in sender.outbox.attempts()
        if one.intent.startswith(DEPLOY) and one.block_number is not None
    ]


def _plain(argument: Any) -> Any:
    """Return an argument as the record has it; amounts as text, for JSON's numbers are rounded."""
    if isinstance(argument, bytes):
        return hexed(argument)
    if isinstance(argument, list):
        return [_plain(one) for one in argument]
    return str(argument) if isinstance(argument, int) else argument


def _written(deployment: Deployment) -> bytes:
    document = {
        "format": FORMAT,
        "chain_id": deployment.chain_id,
        "genesis": deployment.genesis,
        "first_block": deployment.first_block,
        "custody": hexed(deployment.custody),
        "contracts": {
            name: {
                "contract": one.contract,
                "address": hexed(one.address),
                "code_hash": one.code_hash,
                "source_sha256": one.source_sha256,
                "arguments": list(one.arguments),
            }
            for name, one in deployment.contracts.items()
        },
    }
    return (json.dumps(document, indent=1) + "\n").encode()
