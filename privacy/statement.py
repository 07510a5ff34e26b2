"""An epsilon together with what it means nothing without: delta, unit, sampling and accountant.

Nothing in this project prints an epsilon by itself.

    >>> found = PrivacyStatement(7.9914, 1e-5, "patient", "Poisson at rate 0.5", "prv")
    >>> found.text()
    'epsilon 8.00 (delta 1e-05, unit: patient, sampling: Poisson at rate 0.5, accountant: PRV)'

What holds, each line a test in tests/privacy/test_statement.py:

1. The text rounds up, so that it never promises more than the number.
2. The JSON object has the five parts, and reading it gives the statement back.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from decimal import ROUND_UP, Decimal
from typing import TYPE_CHECKING, Any, Literal

from privacy.events import SummedNoiseEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from privacy.events import Event

Accountant = Literal["prv", "rdp"]


@dataclass(frozen=True)
class PrivacyStatement:
    """What was spent on, or is allowed for, one unit of privacy.

    Attributes:
        epsilon: Not negative.
        delta: In (0, 1).
        unit: What is added or removed between neighbours: ``"patient"``, ``"site"``, or what the
            data call a patient where they name none (``"image"``).
        sampling: How units are drawn into a release, in words.
        accountant: What added it up.
    """

    epsilon: float
    delta: float
    unit: str
    sampling: str
    accountant: Accountant

    def text(self, digits: int = 2) -> str:
        """Return the statement as one line, epsilon rounded up at ``digits`` decimals."""
        return f"epsilon {rounded_up(self.epsilon, digits)} ({self.terms()})"

    def terms(self) -> str:
        """Return everything but epsilon, for a table whose column it heads."""
        return (
            f"delta {self.delta:g}, unit: {self.unit}, sampling: {self.sampling}, "
            f"accountant: {self.accountant.upper()}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the five parts as plain values."""
        return asdict(self)


def read_statement(fields: Mapping[str, Any]) -> PrivacyStatement:
    """Return the statement whose five parts stand among ``fields``."""
    return PrivacyStatement(
        epsilon=fields["epsilon"],
        delta=fields["delta"],
        unit=fields["unit"],
        sampling=fields["sampling"],
        accountant=fields["accountant"],
    )


def rounded_up(epsilon: float, digits: int = 2) -> str:
    """Write an epsilon so that no reader takes it for smaller than it is.

    Examples:
        >>> rounded_up(3.4201), rounded_up(3.4), rounded_up(0.0)
        ('3.43', '3.40', '0.00')
    """
    if not math.isfinite(epsilon):
        return "infinite"
    # Float noise in the twelfth digit rounds nothing up.
    exact = Decimal(repr(round(epsilon, 12)))
    return format(exact.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_UP), "f")


def sampling_of(events: Iterable[Event]) -> str:
    """Return in words how the events draw units into their releases.

    Examples:
        >>> from privacy.events import DpSgdEvent, SiteLevelEvent
        >>> sampling_of([DpSgdEvent(0.5, 1.0, 1), DpSgdEvent(0.25, 1.0, 1)])
        'Poisson at rates 0.25 to 0.5'
        >>> sampling_of([SiteLevelEvent(1.0, 1)]), sampling_of([])
        ('none', 'none')
    """
    found = list(events)
    rates = sorted({event.sampling_rate for event in found})
    if not rates or rates == [1.0]:
        words = "none"
    elif len(rates) == 1:
        words = f"Poisson at rate {rates[0]:g}"
    else:
        words = f"Poisson at rates {rates[0]:g} to {rates[-1]:g}"
    if any(isinstance(event, SummedNoiseEvent) for event in found):
        words += ", noise summed over sites"
    return words
