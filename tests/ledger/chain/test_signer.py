"""A signer elsewhere can refuse; it cannot make us send anything but what we asked for."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from ledger.chain.signer import (
    LocalSigner,
    RemoteSigner,
    SignatureForeign,
    SignerUnusable,
    Transaction,
    check_signed,
)
from ledger.contracts.tree import keccak256
from tests.ledger.chain.world import SIGNER

PAYMENT = Transaction(31337, 7, keccak256(b"to")[:20], b"data", 50_000, 3 * 10**9, 10**9)
CREATION = Transaction(31337, 8, None, b"code", 50_000, 3 * 10**9, 10**9)


@pytest.fixture
def elsewhere(tmp_path):
    processes = []

    def start(manner, *, unix=True):
        where = str(tmp_path / "signer.sock") if unix else "0"
        words = [sys.executable, "-m", "tests.ledger.chain.signer_process", where, manner]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        told = process.stdout.readline()
        if unix:
            return RemoteSigner(SIGNER.address, f"unix:{where}")
        port = re.search(r"(\d+)\)", told).group(1)
        return RemoteSigner(SIGNER.address, f"http://127.0.0.1:{port}")

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("transaction", [PAYMENT, CREATION])
def test_the_same_key_signs_with_the_same_bytes(transaction):
    signed = SIGNER.sign(transaction)
    assert signed == SIGNER.sign(transaction)
    assert signed.hash == keccak256(signed.raw)
    check_signed(signed.raw, transaction, SIGNER.address)
    assert SIGNER.address.hex() in repr(SIGNER)


def test_bytes_that_are_no_transaction_are_refused():
    for raw in (b"", b"\x02", b"no transaction", SIGNER.sign(PAYMENT).raw[:-1]):
        with pytest.raises(SignatureForeign):
            check_signed(raw, PAYMENT, SIGNER.address)


@pytest.mark.parametrize(
    ("field", "value"),
    [("nonce", 8), ("gas", 1), ("fee", 10**12), ("tip", 0), ("data", b"other"), ("chain_id", 1)],
)
def test_another_transaction_is_refused(field, value):
    other = Transaction(**{**PAYMENT.__dict__, field: value})
    with pytest.raises(SignatureForeign):
        check_signed(SIGNER.sign(other).raw, PAYMENT, SIGNER.address)


def test_another_key_is_refused():
    raw = LocalSigner(keccak256(b"another")).sign(PAYMENT).raw
    with pytest.raises(SignatureForeign, match="another signer"):
        check_signed(raw, PAYMENT, SIGNER.address)


@pytest.mark.slow
@pytest.mark.parametrize("unix", [True, False])
def test_a_signer_elsewhere_signs_as_the_key_itself(elsewhere, unix):
    remote = elsewhere("honest", unix=unix)
    assert remote.sign(PAYMENT) == SIGNER.sign(PAYMENT)
    assert remote.sign(CREATION) == SIGNER.sign(CREATION)


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["other-key", "other-payee"])
def test_a_signer_that_was_taken_over_pays_nobody_else(elsewhere, manner):
    with pytest.raises(SignatureForeign):
        elsewhere(manner).sign(PAYMENT)


@pytest.mark.slow
def test_a_signer_may_refuse(elsewhere):
    with pytest.raises(SignerUnusable, match="said no"):
        elsewhere("refusing").sign(PAYMENT)


def test_a_signer_that_is_not_there_gives_no_signature(tmp_path):
    for where in (f"unix:{tmp_path / 'none'}", "http://127.0.0.1:1"):
        with pytest.raises(SignerUnusable):
            RemoteSigner(SIGNER.address, where).sign(PAYMENT)
