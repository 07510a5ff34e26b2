"""Make many patients' Semaphore proofs in worker processes, each as one browser would.

A proof takes 0.3 s of a core, and the library keeps the interpreter to itself meanwhile, so threads
would not help. Secrets go to the workers and nowhere else; results come in the order of the calls.

What holds (tests/portal/test_semaphore_workers.py):

1. A proof says what was asked, of the group that was given.
2. Workers end with the process that started them, however that ends.
"""

from __future__ import annotations

import multiprocessing
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Final, Self

from portal.children import end_with_parent
from zk import semaphore_prover
from zk.lean_imt import LeanIMT
from zk.semaphore import SemaphoreProof
from zk.semaphore_prover import SUBGROUP_ORDER

TOGETHER: Final = 4
"""Proofs that a worker takes at once: some, to spare messages, and few, so that bars move."""

Tell = Callable[[str, int, int], None]
"""Called with what is being made, how many are done, and of how many."""


@dataclass(frozen=True)
class Saying:
    """What a member of a group is to prove that she says."""

    secret: int = field(repr=False)
    scope: int
    message: int


class SemaphoreWorkers:
    """A pool of processes, which start with the first work; leaving the block ends them."""

    def __init__(self, workers: int) -> None:
        self._pool = ProcessPoolExecutor(
            workers,
            # A forked child would share locks and threads of torch and gRPC.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=end_with_parent,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def commitments(self, of: Sequence[int]) -> list[int]:
        """Return the identity commitments of secrets.

        Raises:
            ProverMissing: wasmtime is not installed.
        """
        return list(self._pool.map(semaphore_prover.commitment_of, of, chunksize=TOGETHER))

    def prove(
        self, members: Iterable[int], sayings: Sequence[Saying], *, tell: Tell
    ) -> list[SemaphoreProof]:
        """Return a proof of each saying.

        Args:
            members: The whole group, in order.
            sayings: Each by a member.
            tell: Told of progress.

        Raises:
            NotAMember: A saying is by somebody else.
            SemaphoreProverFailed: A proof does not verify.
            ProverMissing: groth16py or wasmtime is not installed.
        """
        group, proofs = tuple(members), []
        jobs = [(group, one.secret, one.scope, one.message) for one in sayings]
        for proof in self._pool.map(_prove, jobs, chunksize=TOGETHER):
            proofs.append(proof)
            tell("proving", len(proofs), len(jobs))
        return proofs


def new_secret() -> int:
    """Return the secret scalar of a new identity."""
    return 1 + secrets.randbelow(SUBGROUP_ORDER - 1)


def _prove(job: tuple[tuple[int, ...], int, int, int]) -> SemaphoreProof:
    """Prove one saying (in a worker)."""
    members, secret, scope, message = job
    return semaphore_prover.prove(secret, _group(members), scope, message)


@lru_cache(maxsize=1)
def _group(members: tuple[int, ...]) -> LeanIMT:
    return LeanIMT(members)
