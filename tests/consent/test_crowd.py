"""Two hundred grants and withdrawals by several processes at once: none is lost or doubled."""

import subprocess
import sys
from pathlib import Path

import pytest

from consent.log import rebuild
from consent.rebuilding import all_pages, rebuild_registry
from tests.consent.crowd import GRANTS, PROCESSES, lane_in, opened

ROOT = Path(__file__).resolve().parents[2]


def crowd(target):
    """Let the processes loose on a registry that none of them finds, and hold what they did."""
    running = [
        subprocess.Popen([sys.executable, "-m", "tests.consent.crowd", target, str(n)], cwd=ROOT)
        for n in range(PROCESSES)
    ]
    assert [process.wait(timeout=300) for process in running] == [0] * PROCESSES
    registry = opened(target)
    changes = PROCESSES * (2 * GRANTS - 1)
    stayed = {GRANTS * (n + 1) for n in range(PROCESSES)}
    assert registry.epoch().number == len(registry.log()) == changes
    assert {leaf for leaf in registry.leaves(lane_in(registry)) if leaf} == stayed
    granted = sorted(entry.leaf for entry in registry.log() if entry.leaf)
    assert granted == list(range(1, PROCESSES * GRANTS + 1))
    assert rebuild(registry.log()) == registry.epoch().root
    pages = all_pages(lambda after: registry.log_page(after=after))
    assert rebuild_registry(pages, registry.public_key, every_root=True).epochs == changes + 1
    registry.close()


@pytest.mark.slow
def test_on_sqlite(tmp_path):
    crowd(str(tmp_path / "registry.db"))
