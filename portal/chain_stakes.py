"""A party's stake from a home of hers: her key, her outbox, the deployment she stakes in.

::

    HOME/chain/party.json        her key, encrypted (mode 0600)
    HOME/chain/party.db          what she has sent, and what is under way
    HOME/chain/deployment.json   what stands where: the server's, copied
"""

from __future__ import annotations

import time
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation, localcontext
from pathlib import Path
from typing import Final

from ledger.chain.deployment import open_deployment
from ledger.chain.keystore import open_keystore
from ledger.chain.node import Node
from ledger.chain.outbox import Outbox
from ledger.chain.sender import Limits, Sender
from ledger.chain.stakes import Staker
from ledger.store import open_tables
from portal.chain import ChainHome, clock
from protocol.errors import ConfigurationError
from protocol.units import TOTAL_SUPPLY

DECIMALS: Final = 18
DIGITS: Final = 40


class AmountUnusable(ConfigurationError):
    """A text is no amount of BTT."""

    code = "chain-amount-unusable"

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(
            f"{text[:40]!r} is no amount of BTT; write it as 5000 or 0.5, with 18 decimals at most"
        )


def base_units(text: str) -> int:
    """Return base units of an amount in BTT, to the last of them.

    Raises:
        AmountUnusable: It is none, not positive, finer than a base unit, or more than there is.

    Examples:
        >>> base_units("5000"), base_units("0.000000000000000001")
        (5000000000000000000000, 1)
    """
    try:
        with localcontext(Context(prec=DIGITS, traps=[Inexact, InvalidOperation])):
            found = Decimal(text).scaleb(DECIMALS)
    except DecimalException:
        raise AmountUnusable(text) from None
    if not (found.is_finite() and 0 < found <= TOTAL_SUPPLY) or found != int(found):
        raise AmountUnusable(text)
    return int(found)


def key_of(chain: ChainHome) -> Path:
    """Return where a party's key is."""
    return chain.folder / "party.json"


def open_staker(chain: ChainHome, node: Node, password: str, limits: Limits) -> Staker:
    """Return the party of a home.

    Raises:
        KeystoreUnreadable, SecretExposed: Her key does not open.
        DeploymentMissing, DeploymentDiffers, ChainDiffers: It is not what stands on the chain.
        StakeOfCustody: The key is the custody account's.
        StorageError: Her outbox cannot be opened.
    """
    deployment = open_deployment(chain.deployment, node)
    outbox = Outbox(open_tables(chain.folder / "party.db"))
    sender = Sender(node, open_keystore(key_of(chain), password), outbox, limits)
    return Staker(sender, deployment, clock=clock, sleep=time.sleep)
