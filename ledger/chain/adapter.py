"""Settle the books on a chain, an epoch at a time, each base unit once.

An epoch begins in the books. One transaction moves every bound wallet's balance to its
``chain:ADDRESS`` and puts the batches that will pay it into the outbox; from there ``sender.py``
carries them to the chain. What the journal says is what is paid: a batch is a transfer of the
journal, its id on the chain is a hash of that transfer's key, and the distributor pays an id once.
So even with the outbox lost, ``recover`` derives it from the journal (``bookings.py``), finds what
the chain paid already (``evidence.py``), and pays the rest.

Patients who claim on the chain are not paid by address but by one root for all of them: their
money moves to ``chain:claims``, and the distributor is funded with it in the root's transaction.
What the books burned is burned on the chain too, out of the custody account.

What holds (tests/ledger/chain/test_adapter.py, test_crash.py):

1. What the books moved to ``chain:ADDRESS`` is what the distributor paid to that address.
2. No payout is made twice, whatever is killed, lost or repeated.
3. No root promises a nullifier less than the root before it did (``claims.py``).
4. The custody account never burns more than the books did, whatever fails, or is planned twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, select

from ledger import chart, journal
from ledger.books import Ledger
from ledger.chain import bookings, claims
from ledger.chain import outbox as outboxes
from ledger.chain.bindings import AddressUnusable, bound
from ledger.chain.bookings import BURN, CLAIMS, PAY, RELEASE, ROOT
from ledger.chain.calls import decoded, encoded
from ledger.chain.deployment import Deployment
from ledger.chain.evidence import Evidence
from ledger.chain.outbox import INTENTS, Intent
from ledger.chain.sender import Sender, SettlementUnfinished, TransactionReverted
from ledger.chart import BURNED
from ledger.contracts.tree import Tree
from ledger.flags import Flag, flags_of
from ledger.journal import Leg, Transfer
from protocol.errors import LedgerError
from protocol.ids import AccountId

BATCH_MAX: Final = 250
"""Of ``Distributor.BATCH_MAX``."""
BLOCKED: Final = {Flag.NO_DEBIT, Flag.CLOSED}


class CustodyShort(LedgerError):
    """The custody account holds less than an epoch would pay and burn; nothing was booked."""

    code = "chain-custody-short"

    def __init__(self, held: int, needed: int) -> None:
        self.held = held
        self.needed = needed
        super().__init__(
            f"the custody account holds {held} base units, the epoch takes {needed}; release what "
            "has vested on the chain, or end some bindings until it has"
        )


class NonceForeign(LedgerError):
    """Another program sends from the settlement account."""

    code = "chain-nonce-foreign"

    def __init__(self) -> None:
        super().__init__(
            "the settlement account has transactions waiting that are not ours; wait until they "
            "are in blocks, and see that no other program has its key"
        )


@dataclass(frozen=True)
class Settled:
    """What an epoch paid: base units, recipients, and the names of its transactions."""

    epoch: int
    recipients: int
    paid: int
    intents: tuple[str, ...]


class Adapter:
    """The books, a deployment, and what sends.

    Args:
        ledger: The books.
        deployment: Of ``open_deployment``.
        sender: Its signer must be the deployment's custody account.
        batch: Payouts of a transaction, at most 250.
    """

    def __init__(
        self, ledger: Ledger, deployment: Deployment, sender: Sender, *, batch: int = BATCH_MAX
    ) -> None:
        assert 0 < batch <= BATCH_MAX
        assert sender.signer.address == deployment.custody
        self._ledger = ledger
        self._deployment = deployment
        self._sender = sender
        self._batch = batch
        self._evidence = Evidence(ledger, deployment, sender.node)
        sender.shown = self._evidence.shown

    def settle(
        self,
        *,
        clock: Callable[[], datetime],
        sleep: Callable[[float], None],
        progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> Settled:
        """Finish what was begun, then settle what the bound wallets hold, until all is final.

        Raises:
            As ``Sender.drive``; as ``plan``; BatchDiffers.
        """
        self.recover(now=clock())
        self._sender.drive(clock=clock, sleep=sleep, progress=progress)
        if self.plan_releases(now=clock()):
            self._sender.drive(clock=clock, sleep=sleep, progress=progress)
        settled = self.plan(now=clock())
        self._sender.drive(clock=clock, sleep=sleep, progress=progress)
        self._check_failed()
        return settled

    def publish(
        self,
        owed: Mapping[int, Leg],
        *,
        clock: Callable[[], datetime],
        sleep: Callable[[float], None],
        progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> int:
        """Finish what was begun, then promise nullifiers what they are owed, until it is final.

        Args:
            owed: By nullifier, a leg of what it is owed beyond the newest root, out of the
                account that owes it into ``chain:claims``. With none, only what was begun is done.
            clock: The time to record.
            sleep: Waits so many seconds.
            progress: As ``settle`` has it.

        Returns:
            The number of the newest root; 0 if there is none.

        Raises:
            As ``Sender.drive``; as ``plan_claims``; BatchDiffers.
        """
        self.recover(now=clock())
        self._sender.drive(clock=clock, sleep=sleep, progress=progress)
        if owed:
            added = sum(leg.amount for leg in owed.values())
            if self.plan_releases(now=clock(), beside=added):
                self._sender.drive(clock=clock, sleep=sleep, progress=progress)
            leaves = self.leaves()
            for nullifier, leg in owed.items():
                leaves[nullifier] = leaves.get(nullifier, 0) + leg.amount
            self.plan_claims(leaves, _by_debit(owed.values()), now=clock())
            self._sender.drive(clock=clock, sleep=sleep, progress=progress)
        self._check_failed()
        return self._evidence.root_number()

    def leaves(self) -> dict[int, int]:
        """Return the newest root's leaves: base units by nullifier."""
        with self._ledger.begin() as connection:
            return claims.kept(connection)

    def plan(self, *, now: datetime) -> Settled:
        """Book the next epoch and put its transactions into the outbox, in one transaction.

        Wallets under a flag that forbids paying are left out, as are those that hold nothing.

        Raises:
            AddressUnusable: A wallet would be paid out to what settles it; nothing is booked.
            CustodyShort: The chain could not pay it; nothing is booked.
            NonceForeign: Transactions that are not ours wait.
        """
        burn, held = self._burn_due(), self._evidence.held()
        with self._ledger.begin() as connection:
            epoch = bookings.last_epoch(connection) + 1
            payouts = self._payouts(connection)
            # Once booked, a batch that the chain cannot pay would hold up all behind it.
            needed = burn + sum(leg.amount for leg in payouts)
            if needed > held:
                raise CustodyShort(held, needed)
            transfers = list(self._booked(connection, epoch, payouts, now))
            intents = [bookings.payment(self._deployment, one) for one in transfers]
            # Asked again under the lock: another process may have planned it since.
            if burn and not _burning(connection):
                data = encoded("BTT", "burn", burn)
                token = self._deployment.address("BTT")
                # By the journal's length: the same books plan the same burn.
                intents.append(Intent(f"{BURN}{journal.tip(connection)[0]}", epoch, token, data))
            outboxes.plan(connection, intents, now=now)
        paid = sum(leg.amount for leg in payouts)
        return Settled(epoch, len(payouts), paid, tuple(one.intent for one in intents))

    def plan_releases(self, *, now: datetime, beside: int = 0) -> list[str]:
        """Plan to take what is due out of the vesting wallets, if custody runs short.

        Args:
            now: The time to record.
            beside: Base units that a root is about to take beside the next epoch.
        """
        node, token = self._sender.node, self._deployment.address("BTT")
        with self._ledger.begin() as connection:
            needed = beside + sum(leg.amount for leg in self._payouts(connection))
            row = journal.tip(connection)[0]
        if self._evidence.held() >= needed + self._burn_due():
            return []
        due = []
        for bucket, wallet in self._deployment.vesting().items():
            output = node.call(wallet, encoded("Vesting", "releasable(address)", token))
            if decoded("Vesting", "releasable(address)", output):
                data = encoded("Vesting", "release(address)", token)
                due.append(Intent(f"{RELEASE}{bucket}:{row}", 0, wallet, data))
        self._sender.outbox.plan(due, now=now)
        return [one.intent for one in due]

    def plan_claims(
        self, leaves: Mapping[int, int], sources: Sequence[Leg], *, now: datetime
    ) -> Tree:
        """Book what claims are paid from, and put the next root into the outbox.

        Args:
            leaves: Base units by nullifier, of all epochs together: everything ever owed.
            sources: Legs from pools into ``chain:claims``, together what the leaves add.
            now: The time to record.

        Returns:
            The tree over the leaves in the order of the nullifiers, for the claimers' paths.

        Raises:
            ClaimsUnbalanced: The leaves' sum is not what is set aside.
            LeafFell: A leaf promises less than it did under the last root.
            LeavesDiffer: The last root was over other leaves than those kept.
            CustodyShort: The chain could not fund it; nothing is booked.
            SettlementUnfinished: The root before this one is not final yet.
            As ``ledger.journal.post``.
        """
        waiting = [one.intent for one in self._sender.outbox.undone() if ROOT in one.intent]
        if waiting:
            raise SettlementUnfinished(waiting)
        assert all(leg.credit == CLAIMS for leg in sources)
        number, custody = self._evidence.root_number() + 1, self._evidence.held()
        total, added = sum(leaves.values()), sum(leg.amount for leg in sources)
        if added > custody:
            raise CustodyShort(custody, added)
        with self._ledger.begin() as connection:
            journal.open_accounts(connection, [CLAIMS])
            held = journal.flows_of(connection, [CLAIMS])[CLAIMS].balance
            before = claims.kept(connection)
            _check_kept(connection, before)
            claims.check(before, leaves)
            if added <= 0 or held + added != total:
                raise claims.ClaimsUnbalanced(total, held + added)
            tree = claims.tree_over(leaves)
            memo = f"root {tree.root.hex()} of {total}"
            transfer = journal.post(
                connection, f"{ROOT}{number:08d}", list(sources), memo=memo, now=now
            )
            claims.keep(connection, leaves, number)
            outboxes.plan(connection, [bookings.root(self._deployment, transfer)], now=now)
        return tree

    def recover(self, *, now: datetime) -> list[str]:
        """Derive from the journal what the outbox should hold, and add what it does not.

        With an outbox that was not lost this adds nothing.

        Returns:
            The names of what was added.
        """
        with self._ledger.begin() as connection:
            known = set(connection.execute(select(INTENTS.c.intent)).scalars())
            lost = [
                *(
                    bookings.payment(self._deployment, one)
                    for one in bookings.under(connection, PAY, known)
                ),
                *(
                    bookings.root(self._deployment, one)
                    for one in bookings.under(connection, ROOT, known)
                ),
            ]
            outboxes.plan(connection, lost, now=now)
        return [one.intent for one in lost]

    def retry_failed(self) -> list[str]:
        """Plan what reverted anew; return the names."""
        failed = [one.intent for one in self._sender.outbox.intents() if one.state == "failed"]
        for one in failed:
            self._sender.outbox.again(one)
        return failed

    def _payouts(self, connection: Connection) -> list[Leg]:
        addresses = bound(connection)
        flows = journal.flows_of(connection, addresses)
        flags = flags_of(connection, list(addresses))
        found = [
            (account, address)
            for account, address in addresses.items()
            if flows[account].balance > 0 and not flags.get(account, set()) & BLOCKED
        ]
        # The distributor refuses to pay itself, and with it the batch, for ever; what the others
        # are paid nobody gets out again.
        ours = {one.address for one in self._deployment.contracts.values()}
        for account, address in found:
            if address in ours | {self._deployment.custody}:
                raise AddressUnusable(
                    f"{account} would be paid out to a contract of the deployment or to the "
                    "custody account, and be lost there; bind it to an address of its party"
                )
        return [
            Leg(account, chart.chain("0x" + address.hex()), flows[account].balance)
            for account, address in found
        ]

    def _booked(
        self, connection: Connection, epoch: int, payouts: list[Leg], now: datetime
    ) -> Iterator[Transfer]:
        journal.open_accounts(connection, {leg.credit for leg in payouts})
        for number, begin in enumerate(range(0, len(payouts), self._batch)):
            legs = payouts[begin : begin + self._batch]
            key = f"{PAY}{epoch:08d}:{number:05d}"
            memo = f"paid out on chain {self._deployment.chain_id}"
            yield journal.post(connection, key, legs, memo=memo, now=now)

    def _check_failed(self) -> None:
        failed = [one.intent for one in self._sender.outbox.intents() if one.state == "failed"]
        if failed:
            raise TransactionReverted(failed[0])

    def _burn_due(self) -> int:
        """Return what the books burned and the custody account has not, nor is about to."""
        node, custody = self._sender.node, self._deployment.custody
        with self._ledger.begin() as connection:
            if _burning(connection):
                return 0  # the next epoch sees what is left
        burned = self._ledger.balances(BURNED).get(BURNED, 0)
        done = self._evidence.burned("latest")
        if burned <= done:
            return 0
        ours = {one.nonce for one in self._sender.outbox.attempts() if one.state != "replaced"}
        latest, pending = node.nonce(custody), node.nonce(custody, "pending")
        if not set(range(latest, pending)) <= ours:
            # Of a lost outbox, perhaps, and among them a burn.
            raise NonceForeign
        return burned - done


def _burning(connection: Connection) -> bool:
    """Say whether a burn is under way, or failed and waits for a person to try it again."""
    unended = select(INTENTS.c.intent).where(INTENTS.c.state != "final")
    return any(one.startswith(BURN) for one in connection.execute(unended).scalars())


def _check_kept(connection: Connection, before: Mapping[int, int]) -> None:
    """Compare the kept leaves with the newest root of the journal."""
    last = max(bookings.keys_under(connection, ROOT), default=None)
    if last is None and not before:
        return
    booked = None if last is None else journal.find(connection, last)
    root = "" if booked is None else booked.memo.split()[1]
    if not before or claims.tree_over(before).root.hex() != root:
        raise claims.LeavesDiffer(0 if last is None else int(last.removeprefix(ROOT)))


def _by_debit(legs: Iterable[Leg]) -> list[Leg]:
    """Return one leg for each account that owes: who is owed shows in no journal."""
    owing = Counter[AccountId]()
    for leg in legs:
        owing[leg.debit] += leg.amount
    return [Leg(account, CLAIMS, owing[account]) for account in sorted(owing)]
