"""Make coverage proofs in warm worker processes, each checked before it is handed out.

A worker loads the proving key once (5 s for ``cover64``, as every point is checked), compiles the
calculator of witnesses, and then proves in seconds, so one ``Prover`` is meant to live as long as
the process of its site. Each worker takes the next proof as soon as it is done with one: who has
several to make submits the longest first, so that no worker ends long after the others.
groth16py, under the GPL-3.0, is loaded in the workers alone: this module is the adapter to it.

What holds (tests/zk/test_prover.py):

1. A proof that is returned verifies for the statement returned with it.
2. Slots that do not satisfy the statement are refused; no proof leaves the worker.
3. Workers end with the process that started them, however that ends.
4. Once closed it begins nothing any more; a worker that died is replaced with the next proof.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from protocol.errors import ProofError
from zk import fast
from zk.circuit import Circuit
from zk.cover import CoverStatement, Scope, Slot, state, witness_inputs
from zk.groth16 import ProofInvalid
from zk.keys import ProverMissing, VerificationKey
from zk.witness import prepare, witness_file


class ProverFailed(ProofError):
    """The prover produced no proof, or one that does not verify."""

    code = "prover-failed"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"no proof was made: {reason}; check that proving and verification key belong together"
        )


@dataclass(frozen=True, repr=False)
class _Job:
    """Everything a worker needs, sent anew with each proof; secret, so it has no repr."""

    circuit: Circuit
    proving_key: Path
    verification_key: VerificationKey
    slots: tuple[Slot, ...]
    scope: Scope
    blind: int


class Prover:
    """A pool of processes that prove statements of one circuit under one key.

    Use it as a context manager: leaving the block ends the workers, which start with the first
    proof or with ``warm``. Threads may share it.

    Args:
        circuit: The circuit.
        proving_key: As ``zk.keys.development_key`` or a ceremony (a zkey) gives it.
        verification_key: The one that belongs to it.
        workers: Processes; each holds the key (230 MB for ``cover64``) and uses one core.
    """

    def __init__(
        self,
        circuit: Circuit,
        proving_key: Path,
        verification_key: VerificationKey,
        workers: int = 1,
    ) -> None:
        assert workers >= 1
        self.circuit = circuit
        self.verification_key = verification_key
        self._proving_key = proving_key
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False

    def warm(self) -> None:
        """Start the workers and return at once; they get ready while the caller goes on."""
        with self._lock:
            pool = self._started()
            for _ in range(self._workers):
                pool.submit(_ready)

    def prove(
        self, slots: Sequence[Slot], scope: Scope, blind: int
    ) -> tuple[CoverStatement, bytes]:
        """Return the statement these slots make, and a proof of it in 256 bytes.

        Args:
            slots: All ``circuit.slots`` slots of a chunk.
            scope: What used slots must allow.
            blind: A fresh random field element; see ``zk.cover.state``.

        Raises:
            WitnessRefused: The slots do not satisfy the statement.
            ProverFailed: The proof does not verify, or the worker died.
            ProverMissing: groth16py or wasmtime is not installed.
        """
        try:
            return self.submit(slots, scope, blind).result()
        except BrokenProcessPool as error:
            raise ProverFailed("a worker process ended, perhaps for lack of memory") from error
        except CancelledError as error:
            raise ProverFailed("the prover was closed") from error

    def submit(
        self, slots: Sequence[Slot], scope: Scope, blind: int
    ) -> Future[tuple[CoverStatement, bytes]]:
        """Begin a proof; its future gives or raises what ``prove`` does.

        Where a worker died the future raises ``BrokenProcessPool``, and where the prover was closed
        before the proof was begun, ``CancelledError``.

        Raises:
            ProverFailed: The prover is closed.
        """
        assert len(slots) == self.circuit.slots
        job = _Job(
            self.circuit, self._proving_key, self.verification_key, tuple(slots), scope, blind
        )
        with self._lock:
            try:
                return self._started().submit(_prove, job)
            except BrokenProcessPool:  # a worker died since; its pool takes no more
                self._pool = None
                return self._started().submit(_prove, job)

    def close(self) -> None:
        """End the workers, and proofs not begun with them, for good."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:  # outside the lock: who is told of its proof's end may submit another
            pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _started(self) -> ProcessPoolExecutor:
        if self._closed:
            raise ProverFailed("the prover was closed")
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                # A forked child would share locks and threads of torch and gRPC.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start,
                initargs=(self.circuit, self._proving_key, self.verification_key),
            )
        return self._pool


def _start(circuit: Circuit, proving_key: Path, verification_key: VerificationKey) -> None:
    """Begin a worker: watch the parent, make all ready that a first proof would wait for.

    An error here is raised by each proof.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(Exception):
        _key(proving_key)
        prepare(circuit)
        fast.prepare(verification_key)


def _end_with_parent() -> None:
    """End this process when its parent is gone; a killed parent cannot tell its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _ready() -> None:
    """Do nothing; having run says that a worker has started."""


def _prove(job: _Job) -> tuple[CoverStatement, bytes]:
    """Prove one statement (in a worker)."""
    library, key = _key(job.proving_key)
    statement = state(job.slots, job.scope, job.blind)
    inputs = witness_inputs(job.slots, job.scope, statement, job.blind)
    with witness_file(job.circuit, inputs) as path:
        try:
            proof = bytes(library.prove_wtns(key, str(path)))
        except (library.WitnessError, library.EncodingError, library.SetupError) as error:
            raise ProverFailed(type(error).__name__) from None
    # The library gives a proof for any witness, right or wrong.
    try:
        fast.verify(job.verification_key, statement, proof)
    except ProofInvalid as error:
        raise ProverFailed(f"its own check found that {error.reason}") from None
    return statement, proof


@lru_cache(maxsize=1)
def _key(proving_key: Path) -> tuple[Any, Any]:
    """Return the library and the loaded key."""
    try:
        import groth16py  # noqa: PLC0415 - optional and GPL-3.0: loaded in workers alone
    except ImportError:
        raise ProverMissing("groth16py") from None
    try:
        if _is_zkey(proving_key):
            return groth16py, groth16py.import_zkey(str(proving_key))[0]
        return groth16py, groth16py.ProvingKey.load(str(proving_key))
    except (groth16py.SetupError, groth16py.EncodingError, OSError):
        raise ProverFailed("the proving key cannot be read") from None


def _is_zkey(proving_key: Path) -> bool:
    """Say whether the file is snarkjs's, as a ceremony leaves it, by its first four bytes."""
    with proving_key.open("rb") as file:
        return file.read(4) == b"zkey"
