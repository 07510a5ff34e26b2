"""A party's own stake on the chain: bonded, unbonding for 21 days, withdrawn; by her own key.

The books know stakes of their own (``ledger/staking.py``), which are settled nowhere. These are of
parties that were paid out and answer on the chain for their conduct, by ``StakeManager``. What is
sent goes through an outbox of the party's, as a settlement does: a command that was killed is
finished by the next one, which then sends nothing new, so that nothing is bonded twice.

What holds (tests/ledger/chain/test_stakes.py):

1. What a party bonds leaves her balance once, and comes back once, after the 21 days.
2. What was begun is finished before anything is begun, and in its place.
3. The custody account cannot stake: what it holds is everybody's in the books.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ledger.chain.calls import decoded, encoded
from ledger.chain.deployment import Deployment
from ledger.chain.node import Node, NodeAnswerUnusable
from ledger.chain.outbox import Intent
from ledger.chain.sender import CallWouldRevert, Sender, TransactionReverted
from protocol.errors import LedgerError

STAKE: Final = "chain:stake:"
STATES: Final = ("none", "bonded", "unbonding", "free")


class StakeOfCustody(LedgerError):
    """The custody account was to stake what it holds for others."""

    code = "chain-stake-of-custody"

    def __init__(self) -> None:
        super().__init__(
            "the custody account holds what the books owe, and cannot stake it; stake with the key "
            "of a party that was paid out (--key)"
        )


@dataclass(frozen=True)
class ChainStake:
    """How a party's stake stands, in base units."""

    state: str
    """One of ``STATES``; of its last part on the way out."""
    bonded: int
    unbonding: int
    free_at: int
    """Seconds since 1970 from which what is unbonding can be withdrawn; 0 where nothing ever was.
    """
    slashable: int


def stake_of(node: Node, deployment: Deployment, party: bytes) -> ChainStake:
    """Return a party's stake.

    Raises:
        NodeUnreachable, NodeRefused: The node does not say, or nothing that can be read.
    """
    manager = deployment.address("StakeManager")

    def asked(function: str) -> Any:
        output = node.call(manager, encoded("StakeManager", function, party))
        return decoded("StakeManager", function, output)

    bonded, unbonding, free_at = asked("stakeOf")
    state = asked("stateOf")
    if state >= len(STATES):
        raise NodeAnswerUnusable(node.name, "stateOf")
    return ChainStake(STATES[state], bonded, unbonding, free_at, asked("slashable"))


class Staker:
    """A party who stakes.

    Args:
        sender: Signs with the party's key, from an outbox of hers.
        deployment: Of ``open_deployment``.
        clock: The time to record.
        sleep: Waits so many seconds.

    Raises:
        StakeOfCustody: The key is the custody account's.
    """

    def __init__(
        self,
        sender: Sender,
        deployment: Deployment,
        *,
        clock: Callable[[], datetime],
        sleep: Callable[[float], None],
    ) -> None:
        if sender.signer.address == deployment.custody:
            raise StakeOfCustody
        self._sender = sender
        self._deployment = deployment
        self._clock = clock
        self._sleep = sleep

    def bond(self, amount: int) -> bool:
        """Bond base units; return whether they were, or something begun before was finished.

        Raises:
            CallWouldRevert: The party holds less.
            As ``Sender.drive``.
        """
        assert amount > 0
        if self._finish():
            return False
        manager = self._deployment.address("StakeManager")
        self._send("approve", "BTT", encoded("BTT", "approve", manager, amount))
        self._send("bond", "StakeManager", encoded("StakeManager", "bond", amount))
        return True

    def unbond(self, amount: int) -> bool:
        """Give notice for base units; return as ``bond``, and raise as it does."""
        assert amount > 0
        if self._finish():
            return False
        self._send("unbond", "StakeManager", encoded("StakeManager", "unbond", amount))
        return True

    def withdraw(self) -> bool:
        """Take out what is free; return as ``bond``, and raise as it does."""
        if self._finish():
            return False
        self._send("withdraw", "StakeManager", encoded("StakeManager", "withdraw"))
        return True

    def _finish(self) -> bool:
        """Finish what was begun; say whether that was more than an approval."""
        begun = [one.intent for one in self._sender.outbox.undone()]
        if begun:
            self._sender.drive(clock=self._clock, sleep=self._sleep)
        return any(not one.endswith(":approve") for one in begun)

    def _send(self, what: str, contract: str, data: bytes) -> None:
        outbox = self._sender.outbox
        name = f"{STAKE}{len(outbox.intents()) + 1:06d}:{what}"
        outbox.plan([Intent(name, 0, self._deployment.address(contract), data)], now=self._clock())
        try:
            self._sender.drive(clock=self._clock, sleep=self._sleep)
        except CallWouldRevert as refusal:
            # Nothing was sent, and nothing is to be: it was this command's, not an epoch's.
            outbox.done(name, f"refused before it was sent: {refusal.reason}")
            raise
        if outbox.intent(name).state == "failed":
            raise TransactionReverted(name)
