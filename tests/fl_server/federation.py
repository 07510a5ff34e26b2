"""A federation that a test may hurt: the real engine and store, hospitals that only sum.

What is left out is what no fault here is about: training, consent proofs, the registry. ::

    federation = Federation(tmp_path)
    federation.run(writes=Fault(at=7))        # the server dies at its seventh write
    federation.run()                          # and goes on
    federation.check()                        # every round closed, nothing lost
"""

from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from consent.registry import SignedEpoch
from fl_server.aggregation import first_state
from fl_server.engine import Engine
from fl_server.gate import Admitted
from fl_server.phases import Deadlines
from fl_server.store import ServerStore
from fl_server.transport import Late
from privacy.bfv import EncryptedUpdate
from privacy.parameters import parameter_set
from protocol.canonical import digest
from protocol.progress import silent
from tests.fl_server.cohort import LENGTH, Cohort, Direct

SOON = Deadlines(join=0.2, call=0.2, train=0.2, open=0.2, roster=0.0, grace=0.0, train_grace=0.0)


class Killed(BaseException):
    """The server ends here; nothing may catch it."""


@dataclass
class Fault:
    """What happens at the store's write of a number, counted from 1, before or after it."""

    at: int
    after: bool = False
    strike: object = None
    writes: int = 0

    def __call__(self):
        if self.strike is None:
            raise Killed(self.at)
        self.strike()


@dataclass
class Unreliable(Direct):
    """A transport that also loses replies for good, or for later, repeats and exchanges them.

    ``delayed(kind, site)`` replies come with ``late``; ``twice(kind, site, reply)`` gives what
    comes a second time, or None.
    """

    delayed: object = lambda _kind, _site: False
    twice: object = lambda _kind, _site, _reply: None
    waiting: list = field(default_factory=list)

    def exchange(self, kind, requests, *, group="", **how):
        sites = sorted(self.hospitals)
        for node, reply in super().exchange(kind, requests, **how):
            if self.delayed(kind, sites[node]):
                self.waiting.append(Late(kind, group, node, reply))
                continue
            yield node, reply
            again = self.twice(kind, sites[node], reply)
            if again is not None:
                yield node, again

    def late(self):
        came, self.waiting = self.waiting, []
        return came


class Open:
    """A gate that looks at nothing."""

    def admit(self, contribution, ciphertext, *_):
        update = EncryptedUpdate(
            ciphertext, contribution.key_id, contribution.encryption, contribution.length
        )
        return Admitted(contribution.receipt, update, (), 0.0)


class Nobody:
    """A registry without patients."""

    @contextmanager
    def snapshot(self):
        yield SignedEpoch(registry="registry", number=0, root=0, at="never", signature=b"")

    def lanes(self):
        return []


class OpenEngine(Engine):
    def _start(self, number=1):
        super()._start(number)
        self._intake.gate = Open()


class Federation:
    def __init__(self, folder, *, sites=4, rounds=2, opening="members", source=None):
        self.source = folder / "server.db" if source is None else source
        self.cohort = Cohort.meet(sites, folder=folder, rounds=rounds, opening=opening)
        self.terms = self.cohort.terms
        self.sites = self.cohort.sites
        parameters = parameter_set(self.terms.encryption)
        zeros = np.zeros(LENGTH, np.float32)
        self.store().found(self.terms, first_state(self.terms, parameters, zeros))
        self.settled = {}
        self.steps = []

    def store(self):
        return ServerStore(self.source)

    def transport(self, **how):
        return Unreliable(self.cohort.hospitals, **how)

    def engine(self, transport=None, *, store=None, deadlines=SOON, lease_seconds=0.2):
        return OpenEngine(
            terms=self.terms,
            store=store or self.store(),
            registry=Nobody(),
            transport=transport or self.transport(),
            verification_key=None,
            signing_key=self.cohort.server_key,
            parameters=self.cohort.parameters,
            after_close=self.settle,
            progress=silent,
            deadlines=deadlines,
            lease_seconds=lease_seconds,
            sleep=lambda _seconds: None,
        )

    def settle(self, closed):
        assert self.settled.setdefault(closed.round, closed) == closed

    def run(self, transport=None, *, fault=None, deadlines=SOON):
        """Run until the end or the fault; return the store's writes."""
        store = self.store()
        count = struck(store, fault or Fault(at=0))
        self.engine(transport, store=store, deadlines=deadlines).run()
        return count.writes

    def restart(self):
        """Begin the hospitals anew on their disks, as after a power cut."""
        for hospital in self.cohort.hospitals.values():
            hospital.restart()

    def committed(self):
        """Return the closed rounds and the accepted uploads as they are stored now."""
        store = self.store()
        closed = {n: store.round(n).closed for n in range(1, store.rounds_closed() + 1)}
        open_round = store.rounds_closed() + 1
        uploads = {
            site: store.uploads.contribution(open_round, site)
            for site in store.uploads.of(open_round)
        }
        return closed, open_round, uploads

    def check(self, before=None):
        """See that the run has ended with everything that was committed ``before`` kept."""
        store = self.store()
        assert store.rounds_closed() == self.terms.rounds
        previous = "0" * 64
        for number in range(1, self.terms.rounds + 1):
            stored = store.round(number)
            assert stored.settled
            assert self.settled[number] == stored.closed
            assert stored.plan.previous == stored.manifest.previous == previous
            previous = digest(stored.manifest)
            in_sum = [receipt.site for receipt in stored.closed.receipts]
            if stored.integers is None:
                assert in_sum == []
            else:
                total, _ = self.cohort.total(number, in_sum)
                assert np.array_equal(stored.integers, total)
        if before is not None:
            closed, open_round, uploads = before
            for number, kept in closed.items():
                assert store.round(number).closed == kept
            after = (
                {one.site: one for one in store.round(open_round).closed.receipts}
                if (open_round <= self.terms.rounds)
                else {}
            )
            for site, kept in uploads.items():
                if after:  # where the round has a sum, what was accepted is in it and paid
                    assert after[site].site_bytes() == kept.receipt.site_bytes()
        return store


def struck(store, fault):
    """Let a fault strike at one of a store's writes."""
    real = store.database.writing

    @contextmanager
    def writing():
        fault.writes += 1
        mine = fault.writes
        if mine == fault.at and not fault.after:
            fault()
        with real() as connection:
            yield connection
        if mine == fault.at and fault.after:
            fault()

    store.database.writing = writing
    return fault
