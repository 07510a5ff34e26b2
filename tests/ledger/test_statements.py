"""A statement leads from opening to closing, and another program agrees with every balance."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from ledger import chart, escrow, pending
from ledger.beancount import beancount_lines
from ledger.chart import AccountMisnamed
from ledger.journal import UnknownAccount
from ledger.statements import statement
from protocol.units import TOTAL_SUPPLY

FUNDER = chart.wallet("funder")
STRANGER = chart.wallet("stranger")


@pytest.fixture
def busy(ledger, now):
    """Three days of transfers: held, burned, of one base unit and of a tenth of the supply."""
    days = [now + timedelta(days=number) for number in range(3)]
    ledger.transfer("k", FUNDER, STRANGER, 300, memo='for "imaging"\n\\', now=days[0])
    pending.hold(ledger, "h", FUNDER, STRANGER, 100, expires=days[2], memo="", now=days[1])
    pending.post(ledger, "p", "h", amount=99, now=days[1])
    escrow.open_escrow(ledger, "e", FUNDER, "busi-2026", 50, now=days[1])
    ledger.burn("b", FUNDER, 1, memo="", now=days[2])
    lab = chart.treasury("founding_lab")
    ledger.transfer("all", lab, STRANGER, ledger.balance(lab), memo="", now=days[2])
    return ledger


def test_a_statement_adds_up(busy, now):
    whole = statement(busy, "funder")
    assert (whole.opening, whole.closing) == (0, busy.balance(FUNDER))
    assert whole.received - whole.paid == whole.closing - whole.opening
    assert [line.amount for line in whole.lines] == [1000, -300, -100, 1, -50, -1]
    balance = 0
    for line in whole.lines:
        balance += line.amount
        assert line.balance == balance


def test_statements_of_days_follow_one_another(busy, now):
    cuts = [None, *(now + timedelta(days=number, hours=-1) for number in (1, 2)), None]
    parts = [statement(busy, "funder", since=since, until=until) for since, until in pairwise(cuts)]
    assert [one.closing for one in parts[:-1]] == [one.opening for one in parts[1:]]
    lines = [line for one in parts for line in one.lines]
    assert tuple(lines) == statement(busy, "funder").lines


def test_one_account_can_be_asked_for_and_none_that_is_not(busy):
    assert statement(busy, "escrow:busi-2026").closing == 50
    assert statement(busy, "burned").closing == 1
    with pytest.raises(UnknownAccount):
        statement(busy, "nobody")
    with pytest.raises(AccountMisnamed):
        statement(busy, "wallet:No Body")


def bean_check(path):
    program = Path(sys.executable).with_name("bean-check")
    found = str(program) if program.is_file() else shutil.which("bean-check")
    if found is None:
        pytest.skip("the export is checked by bean-check: install beancount")
    return subprocess.run([found, str(path)], capture_output=True, text=True, check=False)


def test_beancount_derives_every_balance_to_the_base_unit(busy, tmp_path):
    path = tmp_path / "books.beancount"
    text = "\n".join(beancount_lines(busy)) + "\n"
    path.write_text(text)
    done = bean_check(path)
    assert (done.returncode, done.stderr) == (0, "")
    whole = busy.balance(STRANGER)
    assert whole == TOTAL_SUPPLY // 10 + 399
    path.write_text(text.replace(f"Stranger  {whole} BTT", f"Stranger  {whole + 1} BTT"))
    assert bean_check(path).returncode != 0


def test_books_before_genesis_are_exported_too(path, tmp_path):
    from ledger.books import Ledger

    ledger = Ledger(path)
    file = tmp_path / "books.beancount"
    file.write_text("\n".join(beancount_lines(ledger)) + "\n")
    ledger.close()
    assert bean_check(file).returncode == 0
