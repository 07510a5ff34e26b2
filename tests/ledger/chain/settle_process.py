"""A process that settles, to be killed: URL of anvil, the books' file, the deployment's record.

It writes a line when it begins, and makes a block whenever it waits.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ledger.books import Ledger
from ledger.chain.adapter import Adapter
from ledger.chain.deployment import open_deployment
from ledger.chain.node import connect, http_transport
from ledger.chain.outbox import Outbox
from ledger.chain.sender import Sender
from tests.ledger.chain.world import LIMITS, NOW, SIGNER


def main(url, books, record):
    node = connect(http_transport(url))
    ledger = Ledger(Path(books))
    sender = Sender(node, SIGNER, Outbox(ledger.engine), LIMITS)
    adapter = Adapter(ledger, open_deployment(Path(record), node), sender)
    sys.stdout.write("begins\n")
    sys.stdout.flush()
    adapter.settle(clock=lambda: NOW, sleep=lambda _: node.transport("anvil_mine", ["0x1"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
