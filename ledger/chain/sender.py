"""Send what the outbox holds, one account's nonces in order, until every intent is final.

One pass (``step``) takes every intent as far as it goes now; ``drive`` repeats it. What was signed
is kept before it is sent, and sent again, byte for byte, until it is in a block that is deep enough
(``Limits.confirmations``). If a reorganisation takes the block away, the same bytes are sent
again. If the fee was too low, the same nonce is signed with a higher one, so that only one of the
two can be in the chain. A nonce that nothing uses any more would hold up all above it: the next
intent takes it, or an empty transaction does (``fill:N``).

What holds (tests/ledger/chain/test_crash.py, test_sender.py):

1. Killed between any two writes and questions, and started again, it does each intent once.
2. No transaction may use more gas than ``gas_per_transaction``, nor an epoch's together more than
   ``gas_per_epoch``, nor pay more than ``fee_max``: what would is refused before it is signed.
3. Whatever is ambiguous (no answer, an answer twice) is asked again, never assumed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ledger.chain.calls import error_named
from ledger.chain.node import (
    FeeTooLow,
    Node,
    NodeRefused,
    NodeUnreachable,
    NonceTaken,
    Receipt,
)
from ledger.chain.outbox import LIVE, UNDONE, Attempt, Intent, Outbox
from ledger.chain.signer import Signer, Transaction
from protocol.errors import LedgerError

_LOG: Final = logging.getLogger(__name__)
GWEI: Final = 10**9
FILL_GAS: Final = 21_000
FILL: Final = "fill:"


class GasAboveBound(LedgerError):
    """A transaction, or an epoch's together, would use more gas than is allowed."""

    code = "chain-gas-above-bound"

    def __init__(self, intent: str, gas: int, most: int) -> None:
        self.intent = intent
        self.gas = gas
        self.most = most
        super().__init__(
            f"{intent} would take the gas to {gas}, {most} are allowed; settle in smaller batches, "
            "or raise the bound"
        )


class FeeAboveBound(LedgerError):
    """The chain asks for a higher fee than is allowed."""

    code = "chain-fee-above-bound"

    def __init__(self, fee: int, most: int) -> None:
        self.fee = fee
        self.most = most
        super().__init__(
            f"the chain asks for {fee} wei of gas, {most} are allowed; wait, or raise the bound"
        )


class CallWouldRevert(LedgerError):
    """A transaction was not sent, because the contract would refuse it."""

    code = "chain-call-would-revert"

    def __init__(self, intent: str, reason: str) -> None:
        self.intent = intent
        self.reason = reason
        super().__init__(
            f"the contract would refuse {intent} ({reason}); nothing was sent: see that the "
            "settlement account has its role, its allowance, BTT and gas"
        )


class TransactionReverted(LedgerError):
    """A transaction is in the chain and did nothing."""

    code = "chain-transaction-reverted"

    def __init__(self, intent: str) -> None:
        self.intent = intent
        super().__init__(
            f"{intent} was refused by its contract after it was sent; find out why, then settle "
            "with --retry-failed"
        )


class SettlementUnfinished(LedgerError):
    """Not everything was final in the time that was given."""

    code = "chain-settlement-unfinished"

    def __init__(self, waiting: list[str]) -> None:
        self.waiting = waiting
        super().__init__(
            f"{len(waiting)} transactions are not final yet ({waiting[0]} is the first); settle "
            "again later, nothing is paid twice"
        )


@dataclass(frozen=True)
class Limits:
    """Bounds of gas, fees (wei for each gas) and patience (blocks, seconds)."""

    gas_per_transaction: int = 12_000_000
    """Below the 16,777,216 that EIP-7825 allows."""
    gas_per_epoch: int = 400_000_000
    gas_margin_percent: int = 15
    """On the estimate: the state may differ when it runs."""
    fee_max: int = 500 * GWEI
    tip: int = GWEI
    confirmations: int = 6
    """A block with its successors; 1 suffices where blocks are final (QBFT)."""
    patience: int = 8
    """Blocks to wait before the fee is raised."""
    resend: int = 2
    """Blocks after which the same bytes are sent again."""
    raise_percent: int = 25
    """Nodes ask for 10 to replace a transaction."""
    tries: int = 8
    """Of a question without answer, each after twice the time."""
    retry_seconds: float = 0.5
    poll_seconds: float = 1.0
    polls: int = 600


Shown = Callable[[Intent, int | str], bool]
"""Whether the chain, as of a block, shows an intent as done, by whichever transaction."""


def nothing_shown(_intent: Intent, _at: int | str) -> bool:
    """Say that nothing can be told from the chain's state, only from receipts."""
    return False


@dataclass(frozen=True)
class _Paying:
    """A nonce, and what its transaction pays."""

    nonce: int
    gas: int
    fee: int
    tip: int


class Sender:
    """What takes an outbox's intents to their end.

    Args:
        node: The node; its chain id is signed into every transaction.
        signer: Whose account pays the gas.
        outbox: What is to be done.
        limits: Bounds.
        shown: How the chain itself says that an intent is done.
    """

    def __init__(
        self,
        node: Node,
        signer: Signer,
        outbox: Outbox,
        limits: Limits | None = None,
        shown: Shown = nothing_shown,
    ) -> None:
        self.node = node
        self.signer = signer
        self.outbox = outbox
        self.limits = limits or Limits()
        self.shown = shown

    def drive(
        self,
        *,
        clock: Callable[[], datetime],
        sleep: Callable[[float], None],
        progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        """Step until nothing is undone.

        Args:
            clock: The time to record.
            sleep: Waits so many seconds.
            progress: Told how many of how many intents are final.

        Raises:
            SettlementUnfinished: It took longer than the limits allow.
            NodeUnreachable: The node did not answer for longer than that.
            GasAboveBound, FeeAboveBound, CallWouldRevert, TransactionReverted: Nothing more can
                be done without a person.
            SignerUnusable, SignatureForeign, NodeRefused, OutboxConflict: As they say.
        """
        silent, count = 0, len(self.outbox.undone())
        for _ in range(self.limits.polls):
            try:
                left = self.step(now=clock())
            except NodeUnreachable:
                silent += 1
                if silent >= self.limits.tries:
                    raise
                sleep(self.limits.retry_seconds * 2 ** (silent - 1))
                continue
            silent = 0
            progress(count - left, count)
            if not left:
                return
            sleep(self.limits.poll_seconds)
        raise SettlementUnfinished([one.intent for one in self.outbox.undone()])

    def step(self, *, now: datetime) -> int:
        """Take every intent as far as it goes now; return how many are not at their end.

        Raises:
            As ``drive``.
        """
        height = self.node.height()
        reverted = ""
        for intent in self.outbox.undone():
            if intent.state == "planned":
                self._sign(intent, height, now)
            for attempt in self._live(intent.intent):
                if attempt.state == "signed":
                    self._send(attempt, height, now)
            reverted = reverted or self._look(intent.intent, height, now)
        if reverted:
            raise TransactionReverted(reverted)
        self._fill(now)
        return len(self.outbox.undone())

    def _sign(self, intent: Intent, height: int, now: datetime) -> None:
        if self.shown(intent, "latest"):
            # Perhaps by our own transaction of a lost outbox; wait until it stays.
            if self.shown(intent, self._deep(height)):
                self.outbox.done(intent.intent, "the chain shows it as done")
            return
        gas = self._gas(intent)
        paying = _Paying(self._free_nonce(), gas, self._fee(), self.limits.tip)
        self._keep(intent, paying, now)

    def _keep(self, intent: Intent, by: _Paying, now: datetime) -> None:
        place = (self.node.chain_id, by.nonce, intent.to, intent.data)
        asked = Transaction(*place, by.gas, by.fee, by.tip)
        signed = self.signer.sign(asked)
        paying = (by.gas, by.fee, by.tip)
        attempt = Attempt(signed.hash, intent.intent, by.nonce, signed.raw, *paying)
        self.outbox.sign(attempt, now=now)

    def _gas(self, intent: Intent) -> int:
        if intent.intent.startswith(FILL):
            return FILL_GAS
        try:
            estimate = self.node.estimate(self.signer.address, intent.to, intent.data)
        except NodeRefused as refusal:
            reason = error_named(refusal.data) or refusal.message
            raise CallWouldRevert(intent.intent, reason) from refusal
        gas = estimate + estimate * self.limits.gas_margin_percent // 100
        if gas > self.limits.gas_per_transaction:
            raise GasAboveBound(intent.intent, gas, self.limits.gas_per_transaction)
        # Epoch 0 never ends (roots, releases): there only what is under way counts.
        of_epoch = {
            one.intent
            for one in self.outbox.intents()
            if one.epoch == intent.epoch and (one.epoch or one.state in UNDONE)
        }
        used = {one.intent: one.gas for one in self.outbox.attempts() if one.intent in of_epoch}
        together = sum(used.values()) + gas
        if together > self.limits.gas_per_epoch:
            raise GasAboveBound(intent.intent, together, self.limits.gas_per_epoch)
        return gas

    def _fee(self) -> int:
        block = self.node.block("latest")
        assert block is not None
        # Room for the base fee to double, six full blocks in a row.
        needed = block.base_fee + self.limits.tip
        if needed > self.limits.fee_max:
            raise FeeAboveBound(needed, self.limits.fee_max)
        return min(2 * block.base_fee + self.limits.tip, self.limits.fee_max)

    def _free_nonce(self) -> int:
        """Return the lowest nonce from the chain's next on that no live attempt has."""
        nonce = self.node.nonce(self.signer.address)
        taken = {one.nonce for one in self.outbox.attempts() if one.state in LIVE}
        while nonce in taken:
            nonce += 1
        return nonce

    def _send(self, attempt: Attempt, height: int, now: datetime) -> None:
        try:
            self.node.send(attempt.raw)
        except FeeTooLow:
            self._raise_fee(attempt, now)
            return
        except NonceTaken:
            # This one or another of its nonce is in a block already: ``_look`` finds out which.
            _LOG.info("the nonce of %s is taken", attempt.intent)
        self.outbox.sent(attempt, height)

    def _raise_fee(self, attempt: Attempt, now: datetime) -> None:
        """Sign the same nonce with a higher fee, up to the bound; at the bound, go on waiting."""
        newest = max((one for one in self._live(attempt.intent)), key=lambda one: one.fee)
        fee = min(newest.fee * (100 + self.limits.raise_percent) // 100, self.limits.fee_max)
        tip = min(newest.tip * (100 + self.limits.raise_percent) // 100, fee)
        if fee <= newest.fee:
            return
        intent = self.outbox.intent(attempt.intent)
        self._keep(intent, _Paying(attempt.nonce, attempt.gas, fee, tip), now)

    def _look(self, name: str, height: int, now: datetime) -> str:
        """Note what became of an intent's attempts; return its name if it reverted for good."""
        live = self._live(name)
        for attempt in live:
            receipt = self.node.receipt(attempt.hash)
            if receipt is not None:
                return self._in_block(attempt, receipt, height)
            if attempt.state == "mined":
                self.outbox.unmined(attempt)
                self._resend(attempt, now)
        waiting = [one for one in live if one.state in {"broadcast", "mined"}]
        if waiting:
            self._wait(waiting, height, now)
        return ""

    def _in_block(self, attempt: Attempt, receipt: Receipt, height: int) -> str:
        where = (receipt.block_number, receipt.block_hash)
        if attempt.state != "mined" or where != (attempt.block_number, attempt.block_hash):
            self.outbox.mined(attempt, *where)
            attempt = next(one for one in self._live(attempt.intent) if one.hash == attempt.hash)
        if height - receipt.block_number + 1 < self.limits.confirmations:
            return ""
        block = self.node.block(receipt.block_number)
        if block is None or block.hash != receipt.block_hash:
            return ""  # the node answers from two chains: ask again
        if receipt.succeeded:
            self.outbox.final(attempt)
            return ""
        intent = self.outbox.intent(attempt.intent)
        if self.shown(intent, self._deep(height)):
            self.outbox.done(intent.intent, "the chain shows it as done")
            return ""
        self.outbox.failed(attempt, "reverted")
        return attempt.intent

    def _wait(self, waiting: list[Attempt], height: int, now: datetime) -> None:
        newest = max(waiting, key=lambda one: one.fee)
        if self.node.nonce(self.signer.address, self._deep(height)) > newest.nonce:
            # Deep in the chain another transaction has the nonce: none of these can come any more.
            self.outbox.again(newest.intent)
            return
        since = height - (newest.height or 0)
        if since >= self.limits.patience:
            self._raise_fee(newest, now)
        elif since >= self.limits.resend:
            self._resend(newest, now)

    def _resend(self, attempt: Attempt, now: datetime) -> None:
        """Send the same bytes again: what the node has is nothing new, what it dropped is back."""
        try:
            self.node.send(attempt.raw)
        except NonceTaken:
            return  # the next look finds by what
        except FeeTooLow:
            self._raise_fee(attempt, now)

    def _fill(self, now: datetime) -> None:
        """Plan an empty transaction for a nonce that is free below one that waits."""
        live = [one for one in self.outbox.attempts() if one.state in {"signed", "broadcast"}]
        if not live or any(one.state == "planned" for one in self.outbox.undone()):
            return
        nonce = self._free_nonce()
        if nonce < max(one.nonce for one in live):
            number = len(self.outbox.intents(FILL)) + 1
            empty = Intent(f"{FILL}{number}", 0, self.signer.address, b"")
            self.outbox.plan([empty], now=now)

    def _live(self, intent: str) -> list[Attempt]:
        live = {"signed", "broadcast", "mined"}
        return [one for one in self.outbox.attempts(intent) if one.state in live]

    def _deep(self, height: int) -> int:
        return max(0, height - self.limits.confirmations + 1)
