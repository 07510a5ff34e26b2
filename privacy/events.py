"""What was done to patients' records that costs privacy; what it costs, privacy/accounting.py says.

An event describes one mechanism by the numbers its cost depends on, and by its unit of privacy:
what enters or leaves between two neighbouring data sets.

    >>> DpSgdEvent(sampling_rate=0.5, noise_multiplier=2.0, steps=20).unit
    'patient'
    >>> SiteLevelEvent(noise_multiplier=1.0, rounds=5).unit
    'site'

Neighbours differ by adding or removing one unit with all its records. Sampling is Poisson: each
unit is drawn into a step by itself, with probability ``sampling_rate``, and nobody learns who was.

What holds, each line a test in tests/privacy/test_events.py:

1. An event that no mechanism could have is refused when it is made.
2. ``merged`` keeps every step and forgets only the order.
3. Writing an event down and reading it gives the event.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Unit = Literal["patient", "site"]

STEPS_MAX: Final = 1_000_000
"""More steps than this in one event is a mistake, and would keep the accountant busy for hours."""
NOISE_MULTIPLIER_MAX: Final = 10_000.0
NOISE_MULTIPLIER_MIN: Final = 0.1
"""Below it, float arithmetic in the accountants overflows."""
DIMENSION_MAX: Final = 1 << 32
SHARES_MAX: Final = 100_000
SHARE_DEVIATION_MIN: Final = 0.5
"""Below it the sum of discrete Gaussians is no longer close to one, and the bound is worthless."""


class ImpossibleEvent(PrivacyError):
    """A mechanism was described with numbers that no mechanism can have."""

    code = "privacy-event-impossible"

    def __init__(self, name: str, value: float, allowed: str) -> None:
        self.name = name
        self.value = value
        super().__init__(
            f"a training step cannot have {name} = {value!r}; it must be {allowed}, so correct the "
            "study's settings or restore the privacy ledger they were read from"
        )


@dataclass(frozen=True)
class DpSgdEvent:
    """``steps`` releases of the Poisson-subsampled Gaussian mechanism over patients.

    Attributes:
        sampling_rate: Probability with which each patient is drawn into a step, in (0, 1].
        noise_multiplier: Noise standard deviation / clipping norm, at least 0.1.
        steps: How many releases, at least 1.

    Raises:
        ImpossibleEvent: A value is outside its range or not a number.
    """

    unit: ClassVar[Unit] = "patient"

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        _check_rate(self.sampling_rate)
        _check_noise(self.noise_multiplier)
        _check_count("steps", self.steps, STEPS_MAX)


@dataclass(frozen=True)
class SiteLevelEvent:
    """``rounds`` releases of one site's whole update, clipped and noised as one contribution.

    Whether and with what a site took part is hidden; a patient inside it, only if she alone could
    not have been the difference. Sites are not sampled: each takes part in every round.

    Attributes:
        noise_multiplier: Noise standard deviation / clipping norm of the update, at least 0.1.
        rounds: How many updates, at least 1.

    Raises:
        ImpossibleEvent: A value is outside its range or not a number.
    """

    unit: ClassVar[Unit] = "site"

    noise_multiplier: float
    rounds: int

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier)
        _check_count("rounds", self.rounds, STEPS_MAX)

    def for_patients(self) -> DpSgdEvent:
        """Return what the event costs one patient of the site.

        With and without her, the update has norm at most the clipping norm, so the two are at most
        twice that apart: the noise is half as large against her as it is against the whole site.
        """
        return DpSgdEvent(1.0, self.noise_multiplier / 2.0, self.rounds)

    @property
    def sampling_rate(self) -> float:
        """Every site takes part in every round."""
        return 1.0

    @property
    def steps(self) -> int:
        """The releases, by the name they have in other events."""
        return self.rounds


@dataclass(frozen=True)
class SummedNoiseEvent:
    """``steps`` releases of an integer sum to which ``honest`` sites each added a share of noise.

    Every coordinate of the sum got ``honest`` independent draws of the discrete Gaussian with
    parameter ``share_deviation`` (its standard deviation, to within a part in a million from 1
    on). Shares of sites that may have lied or dropped out are not counted.

    Attributes:
        sampling_rate: Probability with which each patient is drawn into a step, in (0, 1].
        sensitivity: Largest l2 norm of the integers of one patient, in grid units.
        share_deviation: Parameter of each share, in grid units, at least 0.5.
        honest: Shares that are certain to be in the sum and unknown to whoever looks, at least 1.
        dimension: Coordinates of the sum.
        steps: How many releases, at least 1.

    Raises:
        ImpossibleEvent: A value is outside its range or not a number.
    """

    unit: ClassVar[Unit] = "patient"

    sampling_rate: float
    sensitivity: float
    share_deviation: float
    honest: int
    dimension: int
    steps: int

    def __post_init__(self) -> None:
        _check_rate(self.sampling_rate)
        if not (self.sensitivity > 0.0 and math.isfinite(self.sensitivity)):
            raise ImpossibleEvent("sensitivity", self.sensitivity, "positive and finite")
        if not (
            self.share_deviation >= SHARE_DEVIATION_MIN and math.isfinite(self.share_deviation)
        ):
            allowed = f"finite and at least {SHARE_DEVIATION_MIN:g}"
            raise ImpossibleEvent("share_deviation", self.share_deviation, allowed)
        _check_count("honest", self.honest, SHARES_MAX)
        _check_count("dimension", self.dimension, DIMENSION_MAX)
        _check_count("steps", self.steps, STEPS_MAX)
        _check_noise(self.noise_multiplier)

    @property
    def noise_multiplier(self) -> float:
        """What a central Gaussian would be called: total deviation over sensitivity."""
        return math.sqrt(self.honest) * self.share_deviation / self.sensitivity


Event = DpSgdEvent | SiteLevelEvent | SummedNoiseEvent
_KINDS: Final[dict[str, type[Event]]] = {
    "dp-sgd": DpSgdEvent,
    "site-level": SiteLevelEvent,
    "summed-noise": SummedNoiseEvent,
}


def for_patients(event: Event) -> Event:
    """Return ``event`` as one patient has to count it, whatever its own unit.

    Examples:
        >>> for_patients(SiteLevelEvent(8.0, 1))
        DpSgdEvent(sampling_rate=1.0, noise_multiplier=4.0, steps=1)
    """
    return event.for_patients() if isinstance(event, SiteLevelEvent) else event


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return one event per mechanism, in one fixed order, with the steps added up.

    Composition does not ask for the order, and a long sum costs time.

    Examples:
        >>> merged([SiteLevelEvent(1.0, 2), SiteLevelEvent(1.0, 3)])
        (SiteLevelEvent(noise_multiplier=1.0, rounds=5),)
    """
    steps: dict[Event, int] = {}
    for event in events:
        alone = _with_steps(event, 1)
        steps[alone] = steps.get(alone, 0) + event.steps
    found = [_with_steps(alone, count) for alone, count in steps.items()]
    return tuple(sorted(found, key=repr))


def event_fields(event: Event) -> dict[str, Any]:
    """Return the event as plain values, for a ledger; ``read_event`` gives it back.

    Examples:
        >>> read_event(event_fields(SiteLevelEvent(1.0, 2)))
        SiteLevelEvent(noise_multiplier=1.0, rounds=2)
    """
    name = next(name for name, kind in _KINDS.items() if type(event) is kind)
    return {"kind": name, **asdict(event)}


def read_event(fields: Mapping[str, Any]) -> Event:
    """Return the event that ``event_fields`` described.

    Raises:
        ImpossibleEvent: A value is outside its range.
        KeyError: There is no such kind.
        TypeError: A field is missing, unknown, or no number.
    """
    others = {name: value for name, value in fields.items() if name != "kind"}
    return _KINDS[fields["kind"]](**others)


def _with_steps(event: Event, steps: int) -> Event:
    if isinstance(event, SiteLevelEvent):
        return replace(event, rounds=steps)
    return replace(event, steps=steps)


def _check_rate(rate: float) -> None:
    if not 0.0 < rate <= 1.0:
        raise ImpossibleEvent("sampling_rate", rate, "above 0 and at most 1")


def _check_noise(noise_multiplier: float) -> None:
    if not NOISE_MULTIPLIER_MIN <= noise_multiplier <= NOISE_MULTIPLIER_MAX:
        limits = f"between {NOISE_MULTIPLIER_MIN:g} and {NOISE_MULTIPLIER_MAX:g}"
        raise ImpossibleEvent("noise_multiplier", noise_multiplier, limits)


def _check_count(name: str, count: int, most: int) -> None:
    # Written so that a count that is not a number is refused too; True is no count.
    if type(count) is not int or not 1 <= count <= most:
        raise ImpossibleEvent(name, count, f"between 1 and {most}")
