"""Settle the books on a chain, an epoch at a time, each base unit once.

An epoch begins in the books. One transaction moves every bound wallet's balance to its
``chain:ADDRESS`` and puts the batches that will pay it into the outbox; from there ``sender.py``
carries them to the chain. What the journal says is what is paid: a batch is a transfer of the
journal, its id on the chain is a hash of that transfer's key, and the distributor pays an id once.
So even with the outbox lost, ``recover`` derives it from the journal, finds what the chain paid
already, and pays the rest.

Patients who claim on the chain are not paid by address but by one root for all of them: their
money moves to ``chain:claims``, and the distributor is funded with it in the root's transaction.
What the books burned is burned on the chain too, out of the custody account.

What holds (tests/ledger/chain/test_adapter.py, test_crash.py):

1. What the books moved to ``chain:ADDRESS`` is what the distributor paid to that address.
2. No payout is made twice, whatever is killed, lost or repeated.
3. A batch that the chain paid to others than the journal says is an error, never taken for ours.
4. No root promises a nullifier less than the root before it did (``claims.py``).
5. The custody account never burns more than the books did, whatever fails, or is planned twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, select

from ledger import chart, journal
from ledger.books import Ledger
from ledger.chain import claims
from ledger.chain import outbox as outboxes
from ledger.chain.bindings import AddressUnusable, bound
from ledger.chain.calls import arguments_of, decoded, encoded, topic
from ledger.chain.deployment import Deployment
from ledger.chain.node import Log
from ledger.chain.outbox import INTENTS, Intent
from ledger.chain.sender import Sender, SettlementUnfinished, TransactionReverted
from ledger.chart import BURNED
from ledger.contracts.tree import Tree, keccak256
from ledger.flags import Flag, flags_of
from ledger.journal import Leg, Transfer
from ledger.store import TRANSFERS
from protocol.errors import LedgerError
from protocol.ids import AccountId

BATCH_MAX: Final = 250
"""Of ``Distributor.BATCH_MAX``."""
PAY, ROOT = journal.CHAIN_KEYS
BURN: Final = "chain:burn:"
RELEASE: Final = "chain:release:"
CLAIMS: Final = chart.chain("claims")
BLOCKED: Final = {Flag.NO_DEBIT, Flag.CLOSED}
NOBODY: Final = bytes(20)


class BatchDiffers(LedgerError):
    """The chain paid a batch of this id to others, or other amounts, than the journal says."""

    code = "chain-batch-differs"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(
            f"the chain paid {key} otherwise than the journal says; the books are not those that "
            "were settled: restore their newest backup, and reconcile"
        )


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
        sender.shown = self.shown

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
        return self._root_number()

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
        burn, held = self._burn_due(), self._held()
        with self._ledger.begin() as connection:
            epoch = _last_epoch(connection) + 1
            payouts = self._payouts(connection)
            # Once booked, a batch that the chain cannot pay would hold up all behind it.
            needed = burn + sum(leg.amount for leg in payouts)
            if needed > held:
                raise CustodyShort(held, needed)
            transfers = list(self._booked(connection, epoch, payouts, now))
            intents = [self._pay_intent(one) for one in transfers]
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
        if self._held() >= needed + self._burn_due():
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
        number, custody = self._root_number() + 1, self._held()
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
            outboxes.plan(connection, [self._root_intent(transfer)], now=now)
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
                *(self._pay_intent(one) for one in _booked_under(connection, PAY, known)),
                *(self._root_intent(one) for one in _booked_under(connection, ROOT, known)),
            ]
            outboxes.plan(connection, lost, now=now)
        return [one.intent for one in lost]

    def retry_failed(self) -> list[str]:
        """Plan what reverted anew; return the names."""
        failed = [one.intent for one in self._sender.outbox.intents() if one.state == "failed"]
        for one in failed:
            self._sender.outbox.again(one)
        return failed

    def batch_id(self, key: str) -> bytes:
        """Return the id under which the distributor pays the transfer of this key, once."""
        where = self._deployment.chain_id.to_bytes(32, "big") + self._deployment.address(
            "Distributor"
        )
        return keccak256(b"bithive-batch-1\n" + where + key.encode())

    def shown(self, intent: Intent, at: int | str) -> bool:
        """Say whether the chain, as of a block, shows an intent as done.

        A burn is, where it would burn more than the books did: others of ours burned it.

        Raises:
            BatchDiffers: It shows it done otherwise.
        """
        distributor = self._deployment.address("Distributor")
        if intent.intent.startswith(PAY):
            asked = encoded("Distributor", "batchPaid", self.batch_id(intent.intent))
            output = self._sender.node.call(distributor, asked, at)
            if not output or not decoded("Distributor", "batchPaid", output):
                return False  # without output: the block is before the distributor
            self._check_batch(intent)
            return True
        if intent.intent.startswith(ROOT):
            output = self._sender.node.call(distributor, encoded("Distributor", "epoch"), at)
            number, root, total = arguments_of("Distributor", "settle", intent.data)
            if not output or decoded("Distributor", "epoch", output) < number:
                return False
            self._check_root(number, root, total)
            return True
        if intent.intent.startswith(BURN):
            (amount,) = arguments_of("BTT", "burn", intent.data)
            return self._burned(at) + int(amount) > self._ledger.balances(BURNED).get(BURNED, 0)
        return False

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

    def _pay_intent(self, transfer: Transfer) -> Intent:
        payouts = [(_address(leg.credit), leg.amount) for leg in transfer.legs]
        data = encoded("Distributor", "payBatch", self.batch_id(transfer.key), payouts)
        epoch = int(transfer.key.removeprefix(PAY).partition(":")[0])
        return Intent(transfer.key, epoch, self._deployment.address("Distributor"), data)

    def _root_intent(self, transfer: Transfer) -> Intent:
        number = int(transfer.key.removeprefix(ROOT))
        _, root, _, total = transfer.memo.split()
        data = encoded("Distributor", "settle", number, bytes.fromhex(root), int(total))
        return Intent(transfer.key, 0, self._deployment.address("Distributor"), data)

    def _root_number(self) -> int:
        output = self._sender.node.call(
            self._deployment.address("Distributor"), encoded("Distributor", "epoch")
        )
        return int(decoded("Distributor", "epoch", output))

    def _check_failed(self) -> None:
        failed = [one.intent for one in self._sender.outbox.intents() if one.state == "failed"]
        if failed:
            raise TransactionReverted(failed[0])

    def _held(self) -> int:
        custody = encoded("BTT", "balanceOf", self._deployment.custody)
        output = self._sender.node.call(self._deployment.address("BTT"), custody)
        return int(decoded("BTT", "balanceOf", output))

    def _burn_due(self) -> int:
        """Return what the books burned and the custody account has not, nor is about to."""
        node, custody = self._sender.node, self._deployment.custody
        with self._ledger.begin() as connection:
            if _burning(connection):
                return 0  # the next epoch sees what is left
        burned = self._ledger.balances(BURNED).get(BURNED, 0)
        done = self._burned("latest")
        if burned <= done:
            return 0
        ours = {one.nonce for one in self._sender.outbox.attempts() if one.state != "replaced"}
        latest, pending = node.nonce(custody), node.nonce(custody, "pending")
        if not set(range(latest, pending)) <= ours:
            # Of a lost outbox, perhaps, and among them a burn.
            raise NonceForeign
        return burned - done

    def burns(self, at: int | str = "latest") -> list[Log]:
        """Return the events by which the custody account burned, up to a block."""
        node, token = self._sender.node, self._deployment.address("BTT")
        topics = [topic("BTT", "Transfer"), _word(self._deployment.custody), _word(NOBODY)]
        last = at if isinstance(at, int) else node.height()
        return node.logs(token, topics, self._deployment.first_block, last)

    def _burned(self, at: int | str) -> int:
        return sum(int.from_bytes(one.data, "big") for one in self.burns(at))

    def _check_batch(self, intent: Intent) -> None:
        """Compare what the chain paid under a batch's id with what the journal says."""
        batch, payouts = arguments_of("Distributor", "payBatch", intent.data)
        node, distributor = self._sender.node, self._deployment.address("Distributor")
        first, last = self._deployment.first_block, node.height()
        paid = node.logs(distributor, [topic("Distributor", "BatchPaid"), batch], first, last)
        if len(paid) != 1:
            raise BatchDiffers(intent.intent)
        topics = [topic("BTT", "Transfer"), _word(distributor)]
        number = paid[0].block_number
        made = node.logs(self._deployment.address("BTT"), topics, number, number)
        found = [
            ("0x" + one.topics[2][12:].hex(), int.from_bytes(one.data, "big"))
            for one in made
            if one.transaction == paid[0].transaction
        ]
        if found != [tuple(one) for one in payouts]:
            raise BatchDiffers(intent.intent)

    def _check_root(self, number: int, root: bytes, total: int) -> None:
        node, distributor = self._sender.node, self._deployment.address("Distributor")
        topics = [topic("Distributor", "EpochSettled"), number.to_bytes(32, "big")]
        found = node.logs(distributor, topics, self._deployment.first_block, node.height())
        expected = root + total.to_bytes(32, "big")
        if len(found) != 1 or found[0].data[:64] != expected:
            raise BatchDiffers(f"{ROOT}{number:08d}")


def _burning(connection: Connection) -> bool:
    """Say whether a burn is under way, or failed and waits for a person to try it again."""
    unended = select(INTENTS.c.intent).where(INTENTS.c.state != "final")
    return any(one.startswith(BURN) for one in connection.execute(unended).scalars())


def _check_kept(connection: Connection, before: Mapping[int, int]) -> None:
    """Compare the kept leaves with the newest root of the journal."""
    last = max((one.key for one in _keys_under(connection, ROOT)), default=None)
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


def _last_epoch(connection: Connection) -> int:
    keys = [one.key for one in _keys_under(connection, PAY)]
    return max((int(key.removeprefix(PAY).partition(":")[0]) for key in keys), default=0)


def _booked_under(connection: Connection, prefix: str, known: set[str]) -> list[Transfer]:
    keys = [one.key for one in _keys_under(connection, prefix) if one.key not in known]
    found = dict[str, Transfer]()
    for begin in range(0, len(keys), 500):
        found |= journal.find_many(connection, keys[begin : begin + 500])
    return [found[key] for key in sorted(found)]


def _keys_under(connection: Connection, prefix: str) -> Sequence[Any]:
    key = TRANSFERS.c.key
    return connection.execute(select(key).where(key.startswith(prefix, autoescape=True))).all()


def _address(account: AccountId) -> bytes:
    return bytes.fromhex(account.removeprefix("chain:0x"))


def _word(address: bytes) -> bytes:
    return bytes(12) + address
