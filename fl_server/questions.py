"""One step of a secure sum: a question to the sites, and whose answers to it count.

A question has a name: what it is about is a digest of what went before it. Every answer to it that
is accepted is stored (``fl_server.answers``); a server that was killed goes on with those, asks the
others, and would get the same answers to the same questions anyway. A step ends by ``Wait``: a
quorum and a grace, or its deadline.

What holds, each a test in tests/fl_server/test_summation.py or test_answers.py:

1. An answer that was stored is not asked for again; a step that has ended stays as it ended.
2. What another site signed, or nobody, answers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fl_server.answers import Answers, Forgetful
from fl_server.phases import Wait
from fl_server.sites import Sites, refusal_of
from privacy.signatures import check_site_message
from protocol.canonical import SiteMessage, read
from protocol.errors import FederationError
from protocol.frames import Frame
from protocol.ids import SiteId
from protocol.progress import Progress, Step
from protocol.terms import StudyTerms

AnySiteMessage = TypeVar("AnySiteMessage", bound=SiteMessage)


@dataclass
class Questions:
    """What asks the sites of a study, step by step; ``seconds`` is a step's deadline."""

    terms: StudyTerms
    sites: Sites
    progress: Progress
    seconds: float
    answers: Answers = field(default_factory=Forgetful)
    grace: float = 10.0
    patience: float = 1.0
    entered: Callable[[int, str, int, int], None] = lambda _number, _kind, _quorum, _asked: None
    """Told of each step that begins: round, kind, quorum, how many sites it is for."""

    def wait(self, enough: int, *, seconds: float | None = None) -> Wait:
        """Return a wait from now for so many answers, ``seconds`` where the step has its own."""
        return Wait(
            self.seconds if seconds is None else seconds,
            quorum=enough,
            grace=self.grace,
            patience=self.patience,
            idle=self.answers.gather,
        )

    def gather(
        self,
        kind: str,
        number: int,
        question: str,
        requests: Mapping[SiteId, bytes],
        *,
        take: Callable[[SiteId, Frame], bool],
        wait: Wait,
    ) -> None:
        """Take the stored answers to a question, and ask who has not given one.

        A step that ended with its quorum is over for good. One that ended without is asked again
        of those who did not answer: its deadline passed, and perhaps they are back.
        """
        self.entered(number, kind, wait.quorum or 0, len(requests))
        answered = {
            site
            for site, reply in self.answers.kept(number, kind, question)
            if site in requests and take(site, reply)
        }
        wait.count(len(answered))
        missing = [site for site in requests if site not in answered]
        if not missing or self.answers.ended(number, kind, question):
            return
        asked = Requests(missing, requests.__getitem__)
        for site, reply in self.sites.ask(kind, asked, f"{kind}-{number}", wait):
            if site not in answered and take(site, reply):
                answered.add(site)
                self.answers.keep(number, kind, question, site, reply)
                wait.count()
                self.progress(Step(kind, number, site))
        if wait.quorum is not None and wait.answered >= wait.quorum:
            self.answers.end(number, kind, question, wait, len(requests))
        else:
            self.answers.store()  # tried again, the step begins with what came

    def signed(
        self, shape: type[AnySiteMessage], reply: Frame, kind: str, site: SiteId
    ) -> AnySiteMessage | None:
        """Return a site's signed message, or None where it is another's, unsigned or no such."""
        if reply.kind != kind:
            code, _ = refusal_of(reply)
            self.progress(Step("decline", 0, site, note=f"{kind}: {code}"))
            return None
        try:
            message = read(shape, reply.body)
            check_site_message(self.terms, message, kind)
        except FederationError as error:
            self.progress(Step("decline", 0, site, note=f"{kind}: {error.code}"))
            return None
        return message if message.site == site else None


class Requests(Mapping[SiteId, bytes]):
    """One frame for each site, made when it is sent."""

    def __init__(self, sites: Sequence[SiteId], make: Callable[[SiteId], bytes]) -> None:
        self._sites, self._make = tuple(sites), make

    def __getitem__(self, site: SiteId) -> bytes:
        return self._make(site)

    def __iter__(self) -> Iterator[SiteId]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)
