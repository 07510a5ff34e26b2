"""What a hospital's agent counts about itself, in Prometheus' text format.

Nothing here can name a patient: a label is the slug of an approved study, of its data set or of a
stage, a code of docs/errors.md, or a kind of frame of the protocol; what is none of these counts as
``other``. How many patients a round had is not counted.

    >>> telemetry = Telemetry(clock=lambda: 0.0)
    >>> telemetry.refused("plan-refused")
    >>> 'bithive_refused_total{code="plan-refused"} 1.0' in telemetry.text()
    True

References:
    Prometheus documentation, "Text-based format"; node_exporter, "Textfile Collector".
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from protocol.progress import Step
from storage.files import write_whole

LABEL: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
LABEL_MAX: Final = 60
VALUES_MAX: Final = 100
"""Values of one label at most; what comes after them is counted together."""
OTHER: Final = "other"


@dataclass(frozen=True)
class Spent:
    """What a data set's patients have spent of the steward's cap, at the cap's delta."""

    dataset: str
    spent: float
    left: float


class Telemetry:
    """The counters of one agent. Several threads may count at once."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._seen: dict[str, set[str]] = {}
        self.last_error = ""
        """The code of the newest refusal."""
        self.rounds: dict[str, int] = {}
        """The last round answered, by study."""
        self._rounds = self._counter(
            "rounds_answered", "Rounds this site sent an update for", "study"
        )
        self._refused = self._counter(
            "refused", "Frames refused, by the code of docs/errors.md", "code"
        )
        self._stages = self._counter(
            "stage_seconds", "Processor seconds, by stage of a round", "stage"
        )
        self._bytes = self._counter("sent_bytes", "Bytes of replies, by kind of request", "kind")
        self._spent = self._gauge(
            "epsilon_spent", "Epsilon of the patient who paid most (unit: patient)", "dataset"
        )
        self._left = self._gauge("epsilon_left", "What the cap leaves (unit: patient)", "dataset")
        self._state = self._gauge("state", "1 for the state the agent is in", "state")
        Gauge("bithive_started_seconds", "When the agent started", registry=self._registry).set(
            clock()
        )

    def answered(self, kind: str, size: int) -> None:
        """Count a reply of ``size`` bytes to a frame of this kind."""
        self._bytes.labels(self._value("kind", kind)).inc(size)

    def trained(self, study: str, number: int) -> None:
        """Count a round that this site sent an update for, once."""
        with self._lock:
            if self.rounds.get(study) == number:
                return
            self.rounds[study] = number
        self._rounds.labels(self._value("study", study)).inc()

    def refused(self, code: str) -> None:
        """Count a refusal."""
        shown = self._value("code", code)
        self.last_error = shown
        self._refused.labels(shown).inc()

    def step(self, step: Step) -> None:
        """Count what a stage took; a ``Progress``."""
        if step.seconds > 0:
            self._stages.labels(self._value("stage", step.stage)).inc(step.seconds)

    def budget(self, spent: Iterable[Spent]) -> None:
        """Show what the privacy ledger says."""
        for one in spent:
            self._spent.labels(self._value("dataset", one.dataset)).set(one.spent)
            self._left.labels(self._value("dataset", one.dataset)).set(one.left)

    def state(self, states: Mapping[str, bool]) -> None:
        """Show which state the agent is in, of all that there are."""
        for name, there in states.items():
            self._state.labels(self._value("state", name)).set(float(there))

    def text(self) -> str:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry).decode()

    def write(self, path: Path) -> None:
        """Replace the file that a textfile collector reads.

        Raises:
            StorageError: The disk refused.
        """
        write_whole(path, self.text().encode())

    def _counter(self, name: str, words: str, label: str) -> Counter:
        return Counter(f"bithive_{name}", words, [label], registry=self._registry)

    def _gauge(self, name: str, words: str, label: str) -> Gauge:
        return Gauge(f"bithive_{name}", words, [label], registry=self._registry)

    def _value(self, label: str, value: str) -> str:
        if not LABEL.fullmatch(value) or len(value) > LABEL_MAX:
            return OTHER
        with self._lock:
            seen = self._seen.setdefault(label, set())
            if value not in seen and len(seen) >= VALUES_MAX:
                return OTHER
            seen.add(value)
        return value
