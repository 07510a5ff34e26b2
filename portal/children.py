"""Let worker processes end with the process that started them, however that ends.

A killed process cannot tell its workers, and each of them holds both ends of the pipes that it
reads from: without a watch they wait for ever, with all that they hold in memory.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Begin to watch the parent; a pool's ``initializer``."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
