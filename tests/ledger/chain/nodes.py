# ruff: noqa: N802 - the methods have the names that JSON-RPC gives them
"""Nodes to test with: py-evm in this process behind JSON-RPC's names, and anvil as a process.

Both are driven by hand: a block is made when a test says so (``mine``).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from ledger.chain.node import NodeRefused, NodeUnreachable, http_transport

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "ledger/chain/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"
ETHER = 10**18
GAS_LIMIT = 60_000_000


class TesterNode:
    """py-evm by eth-tester, as a ``Transport``."""

    def __init__(self, rich=()):
        from eth_tester import EthereumTester, PyEVMBackend
        from eth_tester.backends.pyevm.main import get_default_genesis_params

        accounts = {
            address: {"balance": 10**6 * ETHER, "nonce": 0, "code": b"", "storage": {}}
            for address in rich
        }
        genesis = get_default_genesis_params({"gas_limit": GAS_LIMIT})
        backend = PyEVMBackend(genesis_parameters=genesis, genesis_state=accounts)
        self.tester = EthereumTester(backend, auto_mine_transactions=False)
        self.pool = {}

    def __call__(self, method, parameters):
        return getattr(self, method)(*parameters)

    def mine(self, blocks=1):
        for _ in range(blocks):
            self._fill_block()
            self.tester.mine_block()

    def _fill_block(self):
        """Put what waits into the block, by nonces."""
        for nonce in sorted(self.pool):
            with contextlib.suppress(Exception):
                self.tester.backend.send_raw_transaction(self.pool[nonce])
        self.pool.clear()

    def many(self, method, asked):
        return [self(method, parameters) for parameters in asked]

    def drop(self):
        """Forget what waits, as a node that is restarted does."""
        self.pool.clear()

    def snapshot(self):
        return self.tester.take_snapshot()

    def revert(self, snapshot):
        self.tester.revert_to_snapshot(snapshot)

    @property
    def vm(self):
        return self.tester.backend.chain

    def eth_chainId(self):
        return hex(self.vm.chain_id)

    def eth_blockNumber(self):
        return hex(self.vm.get_canonical_head().block_number)

    def eth_getBlockByNumber(self, number, _full):
        head = self.vm.get_canonical_head().block_number
        number = head if number == "latest" else int(number, 16)
        if number > head:
            return None
        header = self.vm.get_canonical_block_header_by_number(number)
        return {
            "number": hex(number),
            "hash": header.hash,
            "timestamp": hex(header.timestamp),
            "baseFeePerGas": hex(header.base_fee_per_gas),
        }

    def eth_getTransactionCount(self, account, at):
        nonce = self._state(at).get_nonce(_bytes(account))
        if at == "pending":
            while nonce in self.pool:
                nonce += 1
        return hex(nonce)

    def eth_getBalance(self, account, at):
        return hex(self._state(at).get_balance(_bytes(account)))

    def eth_getCode(self, account, at):
        return self._state(at).get_code(_bytes(account))

    def eth_call(self, asked, at):
        return self._computed(asked, at)

    def eth_estimateGas(self, asked):
        # What it costs: a call's own gas, in a state where a storage slot was never touched.
        self._computed(asked, "latest")
        return hex(self._gas)

    def eth_sendRawTransaction(self, raw):
        from eth.vm.forks.cancun.transactions import CancunTransactionBuilder

        transaction = CancunTransactionBuilder.decode(_bytes(raw))
        state = self._state("latest")
        if transaction.nonce < state.get_nonce(transaction.sender):
            raise NodeRefused("eth_sendRawTransaction", "nonce too low")
        if transaction.max_fee_per_gas < int(
            self.eth_getBlockByNumber("latest", False)["baseFeePerGas"], 16
        ):
            raise NodeRefused("eth_sendRawTransaction", "max fee less than block base fee")
        waiting = self.pool.get(transaction.nonce)
        if waiting == _bytes(raw):
            raise NodeRefused("eth_sendRawTransaction", "already known")
        if waiting is not None:
            other = CancunTransactionBuilder.decode(waiting)
            if transaction.max_fee_per_gas * 10 < other.max_fee_per_gas * 11:
                raise NodeRefused("eth_sendRawTransaction", "replacement transaction underpriced")
        self.pool[transaction.nonce] = _bytes(raw)
        return transaction.hash

    def eth_getTransactionReceipt(self, transaction):
        from eth.exceptions import HeaderNotFound, TransactionNotFound

        try:
            number, index = self.vm.chaindb.get_transaction_index(_bytes(transaction))
            header = self.vm.get_canonical_block_header_by_number(number)
            block = self.vm.get_block_by_header(header)
        except (TransactionNotFound, HeaderNotFound, IndexError, KeyError):
            return None
        if index >= len(block.transactions):
            return None
        found = block.transactions[index]
        if found.hash != _bytes(transaction) or number > self.vm.get_canonical_head().block_number:
            return None
        receipts = block.get_receipts(self.vm.chaindb)
        before = receipts[index - 1].gas_used if index else 0
        from eth_utils import keccak
        from rlp import encode

        created = keccak(encode([found.sender, found.nonce]))[12:] if not found.to else None
        return {
            "blockNumber": hex(number),
            "blockHash": header.hash,
            "status": receipts[index].state_root.hex() or "0x0",
            "gasUsed": hex(receipts[index].gas_used - before),
            "contractAddress": created,
        }

    def eth_getLogs(self, asked):
        found = []
        address, topics = _bytes(asked["address"]), asked["topics"]
        last = min(int(asked["toBlock"], 16), self.vm.get_canonical_head().block_number)
        for number in range(int(asked["fromBlock"], 16), last + 1):
            header = self.vm.get_canonical_block_header_by_number(number)
            block = self.vm.get_block_by_header(header)
            receipts = block.get_receipts(self.vm.chaindb)
            for transaction, receipt in zip(block.transactions, receipts, strict=True):
                for log in receipt.logs:
                    words = [one.to_bytes(32, "big") for one in log.topics]
                    if log.address == address and _matches(words, topics):
                        found.append(
                            {
                                "address": log.address,
                                "topics": words,
                                "data": log.data,
                                "blockNumber": hex(number),
                                "transactionHash": transaction.hash,
                            }
                        )
        return found

    def _state(self, at):
        number = self._number(at)
        return self.vm.get_vm(self.vm.get_canonical_block_header_by_number(number)).state

    def _number(self, at):
        head = self.vm.get_canonical_head().block_number
        return head if at in {"latest", "pending"} else min(int(at, 16), head)

    def _computed(self, asked, at):
        from eth.vm.spoof import SpoofTransaction

        header = self.vm.get_canonical_block_header_by_number(self._number(at))
        vm = self.vm.get_vm(header)
        sender = _bytes(asked.get("from", "0x" + "11" * 20))
        state = vm.state
        state.set_balance(sender, 10**30)
        transaction = vm.create_unsigned_transaction(
            nonce=state.get_nonce(sender),
            gas_price=header.base_fee_per_gas,
            gas=16_000_000,
            to=_bytes(asked.get("to", "0x")),
            value=0,
            data=_bytes(asked["data"]),
        )
        computation = state.apply_transaction(SpoofTransaction(transaction, from_=sender))
        if computation.is_error:
            raise NodeRefused("eth_call", "execution reverted", bytes(computation.output))
        spent = 10**30 - state.get_balance(sender)
        # Refunds come at the end, so the gas limit must be higher than what is paid.
        self._gas = spent // header.base_fee_per_gas + computation.get_gas_refund()
        return bytes(computation.output)


class Anvil:
    """A process of anvil without a clock of its own blocks."""

    def __init__(self, *options):
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        words = ["--port", str(port), "--no-mining", "--silent", "--accounts", "1", *options]
        self.process = subprocess.Popen(
            [anvil_path(), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.transport = http_transport(self.url)
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(NodeUnreachable):
                self.transport("eth_chainId", [])
                return
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def __call__(self, method, parameters):
        return self.transport(method, parameters)

    def many(self, method, asked):
        """Ask the same of many in one request."""
        import requests

        body = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
            for number, parameters in enumerate(asked)
        ]
        answers = requests.post(self.url, json=body, timeout=120).json()
        return [one["result"] for one in sorted(answers, key=lambda one: one["id"])]

    def enrich(self, address):
        self("anvil_setBalance", ["0x" + address.hex(), hex(10**6 * ETHER)])

    def mine(self, blocks=1):
        self("anvil_mine", [hex(blocks)])

    def drop(self):
        self("anvil_dropAllTransactions", [])

    def snapshot(self):
        return self("evm_snapshot", [])

    def revert(self, snapshot):
        self("evm_revert", [snapshot])

    def stop(self):
        self.process.kill()
        self.process.wait()


def anvil_path():
    found = shutil.which("anvil")
    return found or (str(PACKAGE) if PACKAGE.is_file() and os.access(PACKAGE, os.X_OK) else None)


def _free_port():
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return link.getsockname()[1]


def _bytes(text):
    return bytes.fromhex(re.sub("^0x", "", text)) if isinstance(text, str) else bytes(text)


def _matches(words, topics):
    return all(
        one is None or (place < len(words) and words[place] == _bytes(one))
        for place, one in enumerate(topics)
    )
