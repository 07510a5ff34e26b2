"""Between patients' claims and the chain: promise by a root what was claimed to an address.

A claim names a wallet of the books or an address of a chain. Wallets are paid in the books
(``portal/patient/payouts.py``); addresses here: the claim's nullifier gets a leaf under the
distributor's next root, and its money leaves the hospital's pool for ``chain:claims``. Whoever has
the claim's proof then sends it to the distributor with the leaf's path, which pays the address that
the proof names, once. The leaves keep neither address nor hospital.

What holds (tests/portal/test_chain_claims.py):

1. A claim to an address is published once, over any crash between the books and the claims.
2. A claim that cannot be paid on a chain, an address with capitals that do not check, stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from consent.claims import Claim, ClaimBook
from ledger.chain.adapter import Adapter
from ledger.chain.bindings import AddressUnusable, address_of
from ledger.chain.bookings import CLAIMS
from ledger.chain.claims import tree_over
from ledger.chain.deployment import Deployment
from ledger.chart import pool
from ledger.journal import Leg
from portal.home import Home
from portal.patient.server import read_terms
from protocol.errors import LedgerError
from storage.files import PRIVATE, write_whole


class ClaimDiffers(LedgerError):
    """A claim was published with another amount than the claims hold now."""

    code = "chain-claim-differs"

    def __init__(self, published: int, found: int) -> None:
        self.published = published
        self.found = found
        super().__init__(
            f"a claim of {found} base units was published as {published}; the claims were restored "
            "from an older backup than the books: restore the newest"
        )


@dataclass(frozen=True)
class Published:
    """What a run of ``publish_claims`` did."""

    root: int
    """The number of the newest root; 0 if there is none."""
    leaves: int
    """Under it."""
    added: int
    """Base units that this run added."""
    claims: int
    """How many claims they were for."""
    unpayable: int
    """Claims that name neither a wallet nor an address whose capitals check: they wait."""


def publish_claims(
    home: Home,
    adapter: Adapter,
    *,
    clock: Callable[[], datetime],
    sleep: Callable[[float], None],
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Published:
    """Publish every claim to an address that waits, and follow its root until it is final.

    Args:
        home: Of the study, with its claims.
        adapter: Of the home's books.
        clock: The time to record.
        sleep: Waits so many seconds.
        progress: As ``Adapter.settle`` has it.

    Raises:
        NoRunHere: The home has no study.
        ClaimDiffers: The claims are older than the books.
        InsufficientFunds: Somebody else spent what a pool owed.
        As ``Adapter.publish``; what was booked is noted the next time.
    """
    terms = read_terms(home)
    with home.lock():
        book = ClaimBook(home.server / "claims.db", registry=terms.consent.registry)
        waiting = book.unpaid()
        ours = [claim for claim in waiting if is_address(claim.recipient)]
        before = adapter.leaves()
        fresh = [claim for claim in ours if not _published(claim, before)]
        owed = {one.nullifier: Leg(pool(one.study, one.site), CLAIMS, one.amount) for one in fresh}
        root = adapter.publish(owed, clock=clock, sleep=sleep, progress=progress)
        for claim in ours:
            book.mark_paid(claim.id, now=clock())
        wallets = sum(claim.recipient.startswith("wallet:") for claim in waiting)
    return Published(
        root,
        len(adapter.leaves()),
        sum(claim.amount for claim in fresh),
        len(fresh),
        len(waiting) - len(ours) - wallets,
    )


def write_leaves(path: Path, adapter: Adapter, deployment: Deployment, root: int) -> None:
    """Write what claimers need beside their proofs: each nullifier's amount, and its path.

    Args:
        path: The file, readable by its owner alone: whoever reads it knows every amount.
        adapter: Whose books have the leaves, of which there must be one.
        deployment: Where the distributor stands.
        root: Its number.

    Raises:
        StorageError: The disk refused.
    """
    leaves = adapter.leaves()
    tree = tree_over(leaves)
    listed = [
        {
            "nullifier": str(nullifier),
            "cumulative_base_units": str(leaves[nullifier]),
            "path": ["0x" + one.hex() for one in tree.path(place)],
        }
        for place, nullifier in enumerate(sorted(leaves))
    ]
    document = {
        "chain_id": deployment.chain_id,
        "distributor": "0x" + deployment.address("Distributor").hex(),
        "epoch": root,
        "root": "0x" + tree.root.hex(),
        "leaves": listed,
    }
    write_whole(path, json.dumps(document, indent=1).encode() + b"\n", mode=PRIVATE)


def is_address(recipient: str) -> bool:
    """Say whether the contract can pay this recipient: it hashes the address as EIP-55 has it."""
    from eth_utils import is_checksum_address  # noqa: PLC0415 - comes with web3

    try:
        address_of(recipient)
    except AddressUnusable:
        return False
    return bool(is_checksum_address(recipient))


def _published(claim: Claim, before: dict[int, int]) -> bool:
    """Say whether a claim that is not noted as paid is under a root: a crash came between."""
    found = before.get(claim.nullifier)
    if found is None:
        return False
    if found != claim.amount:
        raise ClaimDiffers(found, claim.amount)
    return True
