"""The certificates of a hospital's choices: made ahead of rounds, each chunk by itself, and kept.

A certificate serves as long as its chunk, scope and choice stay the same, so that after a
withdrawal one chunk is proved again and the others are found in the store. ``prepare`` has the
prover work before a round asks; ``begin`` and ``finish`` are the round's own way, which finds what
was prepared, takes over what is in work, and has the rest proved.

What holds (tests/fl_client/test_certifier.py):

1. Of a chunk at most one proof made ahead is in work.
2. Of each chunk the certificate of the newest choice is kept; a proof of an older one, which comes
   late, is dropped.
3. A proof that a round waits for is never stopped by news; closing stops what nobody waits for.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from fl_client.coverage import Selection
from fl_client.store import SiteStore
from protocol.errors import BitHiveError
from protocol.messages import CoverageCertificate
from protocol.terms import StudyTerms
from zk.cover import CoverStatement
from zk.poseidon import FIELD
from zk.prover import Prover, ProverFailed

log = logging.getLogger("bithive.agent")
Proof = tuple[CoverStatement, bytes]


@dataclass(eq=False)
class _Job:
    """One proof in work. ``awaited`` says that a round waits for it."""

    selection: Selection
    future: Future[Proof]
    awaited: bool

    @property
    def digest(self) -> str:
        return self.selection.digest


@dataclass
class Certification:
    """Certificates on their way: those in the store at once, the others from the prover."""

    ready: dict[int, CoverageCertificate]
    proving: dict[int, _Job] = field(default_factory=dict)

    def without(self, chunks: Collection[int]) -> Certification:
        """Return what is left when some chunks take no part any more."""
        return Certification(
            {chunk: one for chunk, one in self.ready.items() if chunk not in chunks},
            {chunk: one for chunk, one in self.proving.items() if chunk not in chunks},
        )


class Certifier:
    """Proves selections, and remembers what it proved; threads may share it."""

    def __init__(self, terms: StudyTerms, store: SiteStore, prover: Prover) -> None:
        self._terms = terms
        self._store = store
        self._prover = prover
        self._lock = threading.RLock()  # a proof may be there, and be kept, while it is asked for
        self._jobs: dict[int, _Job] = {}
        self._next: dict[int, Selection] = {}
        self._newest: dict[int, tuple[int, str]] = {}  # epoch and choice
        self._closed = False

    # Ahead of rounds

    def prepare(self, selections: Sequence[Selection], *, epoch: int = 0) -> None:
        """Have the prover make what is not in the store, and return at once.

        Args:
            selections: At most one of each chunk.
            epoch: Number of the registry's state they were chosen from.
        """
        with self._lock:
            for selection in _longest_first(selections):
                if self._is_newest(selection, epoch) and self._kept(selection) is None:
                    self._prepare(selection)

    def close(self) -> None:
        """Prepare nothing any more, and stop what no round waits for."""
        with self._lock:
            self._closed = True
            self._next.clear()
            for job in list(self._jobs.values()):
                if not job.awaited:
                    job.future.cancel()

    def _prepare(self, selection: Selection) -> None:
        job = self._jobs.get(selection.chunk)
        self._next.pop(selection.chunk, None)
        if self._closed or (job is not None and job.digest == selection.digest):
            return
        if job is None or (not job.awaited and job.future.cancel()):
            self._submit(selection, awaited=False)
        else:  # a worker is at it and cannot be called off: this one follows
            self._next[selection.chunk] = selection

    # In a round

    def begin(self, selections: Sequence[Selection], *, epoch: int = 0) -> Certification:
        """Start proving what is neither in the store nor in work; training may go on meanwhile.

        A round begins anew when news came, and what it began before is then of no use to it.
        """
        certification = Certification({})
        with self._lock:
            for selection in _longest_first(selections):
                chunk = selection.chunk
                if self._is_newest(selection, epoch):
                    self._next.pop(chunk, None)
                kept, job = self._kept(selection), self._jobs.get(chunk)
                if kept is not None:
                    certification.ready[chunk] = kept
                    continue
                if job is None or job.digest != selection.digest:
                    if job is not None:
                        job.future.cancel()
                    job = self._submit(selection, awaited=True)
                job.awaited = True
                certification.proving[chunk] = job
        return certification

    def late(
        self, certification: Certification, chunks: Collection[int], *, seconds: float
    ) -> set[int]:
        """Wait so long at most; return those of the chunks whose proofs are not there then."""
        jobs = {chunk: job for chunk, job in certification.proving.items() if chunk in chunks}
        wait([job.future for job in jobs.values()], timeout=seconds)
        return {chunk for chunk, job in jobs.items() if not job.future.done()}

    def finish(self, certification: Certification) -> tuple[CoverageCertificate, ...]:
        """Wait for the proofs; return all certificates by chunk.

        Raises:
            ProofError: The prover refused or failed.
        """
        certificates = dict(certification.ready)
        for chunk, job in certification.proving.items():
            try:
                proof = job.future.result()
            except (BrokenProcessPool, CancelledError) as error:
                raise ProverFailed("a worker process ended, or the prover was closed") from error
            certificates[chunk] = self._keep(job, proof)
        return tuple(certificates[chunk] for chunk in sorted(certificates))

    # Both

    def _submit(self, selection: Selection, *, awaited: bool) -> _Job:
        future = self._prover.submit(selection.slots, selection.scope, secrets.randbelow(FIELD))
        job = _Job(selection, future, awaited)
        self._jobs[selection.chunk] = job
        future.add_done_callback(self._when_done(job, time.monotonic()))
        return job

    def _when_done(self, job: _Job, started: float) -> Callable[[Future[Proof]], None]:
        def done(future: Future[Proof]) -> None:
            chunk = job.selection.chunk
            with self._lock:
                if not future.cancelled():
                    self._take(job, future, time.monotonic() - started)
                if self._jobs.get(chunk) is not job:
                    return
                del self._jobs[chunk]
                follows = self._next.pop(chunk, None)
                if follows is not None and not future.cancelled():
                    self._follow(follows)

        return done

    def _follow(self, selection: Selection) -> None:
        try:
            self._prepare(selection)
        except ProverFailed as error:  # closed meanwhile
            log.warning("no certificate for chunk %d: %s", selection.chunk, error.code)

    def _take(self, job: _Job, future: Future[Proof], seconds: float) -> None:
        """Keep what a worker made; a failure is the round's to report, if one waits."""
        try:
            self._keep(job, future.result())
        except (BitHiveError, BrokenProcessPool) as error:
            code = error.code if isinstance(error, BitHiveError) else "prover-failed"
            log.warning("no certificate for chunk %d: %s", job.selection.chunk, code)
        else:
            log.info("certificate for chunk %d after %.1f s", job.selection.chunk, seconds)

    def _keep(self, job: _Job, proof: Proof) -> CoverageCertificate:
        """Return the certificate; keep it, if its choice is still the chunk's newest."""
        chunk, (statement, evidence) = job.selection.chunk, proof
        certificate = CoverageCertificate(
            circuit=self._terms.consent.circuit,
            chunk=chunk,
            key_hash=self._terms.consent.key_hash,
            public_inputs=tuple(statement.public_inputs()),
            proof=evidence,
        )
        with self._lock:
            if self._newest.get(chunk, (0, ""))[1] == job.digest:
                self._store.consents.keep_certificate(self._terms.study, job.digest, certificate)
        return certificate

    def _is_newest(self, selection: Selection, epoch: int) -> bool:
        """Note the choice as its chunk's newest, unless one of a newer epoch was made before."""
        if epoch < self._newest.get(selection.chunk, (epoch, ""))[0]:
            return False
        self._newest[selection.chunk] = epoch, selection.digest
        return True

    def _kept(self, selection: Selection) -> CoverageCertificate | None:
        return self._store.consents.certificate(
            self._terms.study, selection.chunk, selection.digest
        )


def _longest_first(selections: Sequence[Selection]) -> list[Selection]:
    """Return them so that no worker is left alone with a long one at the end.

    An unused slot's private signals are zeros, which cost the prover nothing.
    """
    return sorted(selections, key=lambda one: (-len(one.patients), one.chunk))
