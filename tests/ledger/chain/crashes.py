"""A process that dies between any two of its writes and questions.

``Deaths`` is told of every point that a settlement passes: before and after each question to the
node, and before and after each step of the outbox. It raises ``Killed`` at those it was given, or
at every one the first time it is passed. ``Killed`` is no ``Exception``, so nothing handles it.
"""

from __future__ import annotations

from ledger.chain.outbox import Outbox

STEPS = ("plan", "sign", "sent", "mined", "unmined", "final", "failed", "done", "again")


class Killed(BaseException):
    """The process is gone."""


class Deaths:
    """Where to die: at the ``at``-th point passed, or at each point once."""

    def __init__(self, at=None, *, each=False):
        self.at, self.each = at, each
        self.passed, self.died = [], set()

    def point(self, name):
        self.passed.append(name)
        if self.each and name not in self.died:
            self.died.add(name)
            raise Killed(name)
        if self.at == len(self.passed) - 1:
            raise Killed(name)

    def node(self, transport):
        def ask(method, parameters):
            about = (method, *(str(one.get("data", ""))[:10] for one in parameters[:1] if _is(one)))
            self.point(("before", *about))
            answer = transport(method, parameters)
            self.point(("after", *about))
            return answer

        return ask

    def outbox(self, engine):
        deaths = self

        class Dying(Outbox):
            pass

        for step in STEPS:

            def dying(outbox, *arguments, _step=step, **more):
                deaths.point(("before", _step, _named(arguments)))
                getattr(Outbox, _step)(outbox, *arguments, **more)
                deaths.point(("after", _step, _named(arguments)))

            setattr(Dying, step, dying)
        return Dying(engine)


def _is(one):
    return isinstance(one, dict)


def _named(arguments):
    one = arguments[0]
    return getattr(one, "intent", one if isinstance(one, str) else "")
