"""Two hundred changes by several processes at once, of each kind: none is lost or doubled."""

import subprocess
import sys
from pathlib import Path

import pytest

from consent.enrolment_log import rebuild as rebuild_group
from consent.log import rebuild
from consent.rebuilding import all_pages, rebuild_registry
from tests.consent.crowd import (
    CLAIMS,
    ENROLMENTS,
    GRANTS,
    NORTH,
    NOW,
    POOL,
    PROCESSES,
    STUDY,
    book_in,
    group_in,
    lane_in,
    opened,
)

ROOT = Path(__file__).resolve().parents[2]


def let_loose(kind, target):
    """Let the processes work on tables that none of them finds, to their ends."""
    command = [sys.executable, "-m", "tests.consent.crowd", kind, target]
    running = [subprocess.Popen([*command, str(n)], cwd=ROOT) for n in range(PROCESSES)]
    assert [process.wait(timeout=300) for process in running] == [0] * PROCESSES


def crowd(target):
    """Grant and withdraw, and hold what the processes did."""
    let_loose("grant", target)
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


def enrolling_crowd(target):
    """Enrol two hundred people, and hold the group against them and its log."""
    let_loose("enrol", target)
    group = group_in(target)
    everybody = list(range(1, PROCESSES * ENROLMENTS + 1))
    assert sorted(group.members(now=NOW)) == everybody
    assert [change.sequence for change in group.log()] == everybody
    assert rebuild_group(group.log()).root == group.root(now=NOW)
    group.close()


def claiming_crowd(target):
    """Claim two hundred shares, each by two processes, and hold the book against the pool."""
    book = book_in(target)
    shares = PROCESSES * CLAIMS
    book.open_payout(STUDY, 5, NORTH, range(1, shares + 1), pool=POOL)
    let_loose("claim", target)
    kept = book.unpaid()
    assert sorted(one.nullifier for one in kept) == list(range(1, shares + 1))
    assert sum(one.amount for one in kept) == POOL == book.owed(STUDY, NORTH)
    for one in kept[:10]:
        book.mark_paid(one.id, now=NOW)
    assert book.owed(STUDY, NORTH) == POOL - sum(one.amount for one in kept[:10])
    book.close()


@pytest.mark.slow
def test_grants_on_sqlite(tmp_path):
    crowd(str(tmp_path / "registry.db"))


@pytest.mark.slow
def test_enrolments_on_sqlite(tmp_path):
    enrolling_crowd(str(tmp_path / "enrolment.db"))


@pytest.mark.slow
def test_claims_on_sqlite(tmp_path):
    claiming_crowd(str(tmp_path / "claims.db"))
