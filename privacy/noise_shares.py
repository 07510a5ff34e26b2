"""Each site's share of the noise of a sum: what stays in it, and what a large sum gives back.

A sum is private if the noise in it that nobody can subtract is the central amount. How many sites
will be in the sum is known after they have sent, so a share is cut for the fewest there may be,
and in parts [1]: with c colluders, whose noise counts for nothing, and p sites in the sum, each
site has to leave the variance kept(p) = central^2 / (p - c)::

    share  =  part 0, of variance kept(most)                   nobody ever learns it
            + part k, of kept(fewest + k - 1) - kept(fewest + k),   k = 1 ... most - fewest

Part k is needed in sums of fewer than fewest + k sites only. Once a quorum has endorsed the
received set of a round, which fixes p, a site of it shows the seeds of parts 1 ... p - fewest,
and whoever has the opened sum subtracts what they grow to. A site that falls silent before leaves
its whole share: more noise than planned, never less.

    >>> plan = NoisePlan(central=1000.0, most=6, fewest=5, colluders=2)
    >>> [round(plan.kept(arrived) * (arrived - 2)) for arrived in (5, 6)]
    [1000000, 1000000]

Every part is a discrete Gaussian. Their sum is one too, but for a factor in its probabilities: two
of parameters s and t add up to one of s^2 + t^2 within exp(+-5 exp(-2 pi^2 / (1/s^2 + 1/t^2)))
[2]. With parts of at least 4 grid units that is less than 1 + 2**-220 a coordinate for
each of the at most 64 * 64 parts, and counts for nothing.

What holds, each line a test in tests/privacy/test_noise_shares.py:

1. Whatever set of sites arrives, and whichever of them show the seeds it spares, the noise of all
   but ``colluders`` of it has at least the variance central^2 in each coordinate.
2. With all seeds shown it has exactly that, and the whole sum p / (p - c) times as much.
3. A set of the fewest sites spares nothing, and what is no set of the plan is refused.

References:
    [1] Jiang, Wang, Chen, Efficient Federated Learning with Distributed Differential Privacy under
    Client Dropout ("XNoise", later Dordis), EuroSys 2024. arXiv:2209.12528
    [2] Kairouz, Liu, Steinke, The Distributed Discrete Gaussian Mechanism for Federated Learning
    with Secure Aggregation, ICML 2021. arXiv:2102.06387
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.discrete_gaussian import DiscreteGaussian
from privacy.randomness import KEY_BYTES, RandomStream
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PART_DEVIATION_MIN: Final = 4.0
"""Grid units; see the third paragraph."""
_CUT_DEVIATIONS: Final = 13
"""Noise beyond this many deviations occurs once in 10**37 draws, and never here."""
_PART_LABEL: Final = b"bithive surplus noise\n"
_ROOT_LABEL: Final = b"bithive noise root\n"


class NoisePlanUnsound(PrivacyError):
    """Shares of noise were to be cut that would not be private, or not exactly so."""

    code = "noise-plan-unsound"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the noise of the sum cannot be shared so: {why}; correct the study's settings"
        )


class SurplusRefused(PrivacyError):
    """A site showed other seeds of surplus noise than the received set allows it to."""

    code = "surplus-refused"

    def __init__(self, found: int, allowed: int) -> None:
        self.found = found
        self.allowed = allowed
        super().__init__(
            f"a site showed {found} seeds of surplus noise where the received set takes {allowed}; "
            "its noise stays in the sum"
        )


@dataclass(frozen=True)
class NoisePlan:
    """How the noise of one round's sum is shared.

    Attributes:
        central: Deviation of the noise that ``arrived - colluders`` sites add together, in grid
            units; what the sum's privacy is worked out from.
        most: Sites that may be in the sum, hence in the round's plan.
        fewest: Sites without which no sum is opened.
        colluders: Sites whose noise is not counted, since they may tell it.

    Raises:
        NoisePlanUnsound: Nobody's noise would be left, or a part is too small to be exact.
    """

    central: float
    most: int
    fewest: int
    colluders: int

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most:
            raise NoisePlanUnsound(f"sums of {self.fewest} to {self.most} sites there are none")
        if not 1 <= self.colluders < self.fewest:
            why = (
                f"{self.colluders} of {self.fewest} sites may tell their noise; each hospital "
                "knows its own, so it must be one at least, and fewer than all"
            )
            raise NoisePlanUnsound(why)
        if not math.isfinite(self.central) or min(self.deviations) < PART_DEVIATION_MIN:
            why = f"a part of it has a deviation below {PART_DEVIATION_MIN:g} grid units"
            raise NoisePlanUnsound(why)

    @property
    def honest(self) -> int:
        """The fewest sites whose noise counts."""
        return self.fewest - self.colluders

    @property
    def share_deviation(self) -> float:
        """The deviation of one site's share in a sum of the fewest sites."""
        return self.central / math.sqrt(self.honest)

    def kept(self, arrived: int) -> float:
        """Return the variance that each site leaves in a sum of ``arrived`` sites."""
        assert self.fewest <= arrived <= self.most
        return self.central**2 / (arrived - self.colluders)

    @property
    def deviations(self) -> tuple[float, ...]:
        """The parts of a share: first the one that stays, then those that may be taken back.

        Part k, from 1, stays only in sums of fewer than ``fewest + k`` sites.
        """
        variances = [self.kept(arrived) for arrived in range(self.fewest, self.most + 1)]
        surplus = [math.sqrt(a - b) for a, b in pairwise(variances)]
        return (math.sqrt(variances[-1]), *surplus)

    def spare(self, arrived: int) -> int:
        """Return how many parts, the first ones, a sum of ``arrived`` sites can spare."""
        return max(0, min(arrived, self.most) - self.fewest)


@dataclass(frozen=True)
class NoiseShare:
    """One site's share of a round's noise.

    Attributes:
        plan: Of the round.
        root: 32 secret bytes for this round, that the seeds of the parts to take back grow from.
    """

    plan: NoisePlan
    root: bytes = field(repr=False)

    def draw(self, dimension: int, stream: RandomStream) -> NDArray[np.int64]:
        """Return the ``(dimension,)`` share, every part of it.

        Args:
            dimension: Coordinates of the sum.
            stream: Secret; where the part comes from that stays.
        """
        stays, *others = self.plan.deviations
        total = sampler(stays).sample(dimension, stream)
        for number, deviation in enumerate(others, start=1):
            total += _grown(self._seed(number), deviation, dimension)
        return total

    def surplus(self, arrived: int) -> tuple[bytes, ...]:
        """Return the seeds to show once a quorum stands behind a sum of ``arrived`` sites."""
        return tuple(self._seed(number) for number in range(1, self.plan.spare(arrived) + 1))

    def _seed(self, number: int) -> bytes:
        assert len(self.root) == KEY_BYTES
        info = _PART_LABEL + str(number).encode()
        return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(self.root)


def noise_root(round_seed: bytes) -> bytes:
    """Return the root of a site's seeds in a round, from its round seed.

    A round seed (``privacy.round_secrets``) is shown only of a site whose update is not in the
    sum. Its noise is then of no use to anybody, for its update stays under the pad of its self
    seed. Otherwise fewer than a quorum of sites know nothing of it, nor of what grows from it.
    """
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=_ROOT_LABEL).derive(round_seed)


def surplus_noise(
    plan: NoisePlan, arrived: int, seeds: Sequence[bytes], dimension: int
) -> NDArray[np.int64]:
    """Return what one site's seeds grow to, to be subtracted from the opened sum.

    Args:
        plan: Of the round.
        arrived: Sites in the sum.
        seeds: As the site showed them.
        dimension: Coordinates of the sum.

    Raises:
        SurplusRefused: There are more or fewer than the set allows.
    """
    if len(seeds) != plan.spare(arrived) or any(len(seed) != KEY_BYTES for seed in seeds):
        raise SurplusRefused(len(seeds), plan.spare(arrived))
    total = np.zeros(dimension, dtype=np.int64)
    for seed, deviation in zip(seeds, plan.deviations[1:], strict=False):
        total += _grown(seed, deviation, dimension)
    return total


def _grown(seed: bytes, deviation: float, dimension: int) -> NDArray[np.int64]:
    return sampler(deviation).sample(dimension, RandomStream(seed, secret=True))


def sampler(deviation: float) -> DiscreteGaussian:
    """Return the discrete Gaussian of one part, cut where a draw would come once in 10**37."""
    width = 1 << max(0, math.floor(math.log2(deviation)) - 4)
    intervals = math.ceil(_CUT_DEVIATIONS * deviation / width)
    return DiscreteGaussian(Fraction(deviation), width, intervals)
