"""A process killed while it logs loses no batch that it was told is logged."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.log import AuditLog

pytestmark = pytest.mark.slow

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
# Logs batches of 100 one after another, and says the size of the log after each.
STREAM = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from audit.log import AuditLog

log = AuditLog(Path(sys.argv[1]), Ed25519PrivateKey.from_private_bytes(bytes(32)))
while True:
    start = log.head().size
    made = log.append_batch([("beat", {"n": start + number}) for number in range(100)])
    print(made.head.size, flush=True)
"""


def test_a_killed_writer_loses_nothing_and_leaves_whole_batches(tmp_path):
    path = tmp_path / "audit.db"
    for killed_after in (1, 7, 20, 3):
        stream = subprocess.Popen(
            [sys.executable, "-c", STREAM, str(path)], stdout=subprocess.PIPE, text=True
        )
        sizes = [int(stream.stdout.readline()) for _ in range(killed_after)]
        stream.send_signal(signal.SIGKILL)
        sizes += map(int, stream.stdout.read().split())
        assert stream.wait() == -signal.SIGKILL

        log = AuditLog(path, KEY)
        size = log.verify().size
        # What was said is there; one more batch may be, of which nobody heard.
        assert size in {sizes[-1], sizes[-1] + 100}
        assert [event.facts["n"] for event in log.events()] == list(range(size))
        log.close()


def test_a_write_ahead_log_cut_anywhere_leaves_whole_signed_batches(tmp_path):
    path = tmp_path / "audit.db"
    log = AuditLog(path, KEY)
    for _ in range(12):
        log.append_batch([("beat", {"n": number}) for number in range(50)])
    wal = (tmp_path / "audit.db-wal").read_bytes()
    whole = path.read_bytes()
    assert len(wal) > 10_000
    sizes = set()
    for cut in range(0, len(wal), 7919):
        copy = tmp_path / f"copy{cut}.db"
        copy.write_bytes(whole)
        (tmp_path / f"copy{cut}.db-wal").write_bytes(wal[:cut])
        torn = AuditLog(copy, KEY)
        size = torn.verify().size
        assert size % 50 == 0
        torn.append("beat", {})
        assert torn.verify().size == size + 1
        sizes.add(size)
        torn.close()
    assert len(sizes) > 3
    log.close()
