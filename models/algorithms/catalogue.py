"""Every algorithm by its name, and what a study of it starts with where nobody chose.

>>> algorithm_of(Constants("fedprox", steps=2, sites=6, learning_rate=0.5,
...     reference_patients=64, proximal=0.1)).contraction
0.95
>>> defaults_for("fedavgm").server_momentum
0.5
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from models.algorithms.ditto import Ditto
from models.algorithms.fedadam import FedAdam
from models.algorithms.fedprox import FedProx
from models.algorithms.interface import ALGORITHMS, Algorithm, Constants
from models.algorithms.scaffold import Scaffold
from protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import nn

_SIMPLE: Final[dict[str, type[Algorithm]]] = {
    "fedavg": Algorithm,
    "fedavgm": Algorithm,
    "fedadam": FedAdam,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "ditto": Ditto,
}


class UnknownAlgorithm(ConfigurationError):
    """An algorithm was named that is not here."""

    code = "algorithm-unknown"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is no algorithm {name!r}; choose one of {', '.join(ALGORITHMS)}")


@dataclass(frozen=True)
class Defaults:
    """Constants that are a good start; None leaves the recipe's own."""

    server_lr: float | None = None
    server_momentum: float | None = None
    proximal: float = 0.0


_DEFAULTS: Final = {
    # A momentum of 1/2 doubles the steps taken in the end, so that each is taken by half.
    "fedavgm": Defaults(server_lr=0.5, server_momentum=0.5),
    # A step moves a coordinate by about this much, whatever its gradient.
    "fedadam": Defaults(server_lr=0.05, server_momentum=0.0),
    "fedprox": Defaults(proximal=0.1),
    "ditto": Defaults(proximal=0.1),
}


def algorithm_of(constants: Constants, module: nn.Module | None = None) -> Algorithm:
    """Return the algorithm of a study.

    Args:
        constants: The study's; they name it.
        module: The site's network. A server leaves it out.

    Raises:
        NothingStaysHome: FedBN, and the network has no normalisation.
    """
    if constants.name != "fedbn":
        return _SIMPLE[constants.name](constants)
    from models.algorithms.fedbn import FedBn, home_mask  # noqa: PLC0415  # a server loads no torch

    return FedBn(constants, None if module is None else home_mask(module))


def defaults_for(name: str) -> Defaults:
    """Return the constants to start with.

    Raises:
        UnknownAlgorithm: There is no such algorithm.
    """
    if name not in ALGORITHMS:
        raise UnknownAlgorithm(name)
    return _DEFAULTS.get(name, Defaults())
