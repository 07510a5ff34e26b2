"""What the options of a run mean: values that exist, and the recipe's where they are left open.

``bithive demo``, ``bithive up`` and ``bithive study found`` name the same ways of learning, hiding,
proving and opening, and refuse the same words.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from consent.lanes import LanePolicy
from models.algorithms.interface import ALGORITHMS
from models.recipes import recipe_for
from portal.features import named_step
from portal.home import Settings
from portal.noise import ENCRYPTION, NOISES
from protocol.errors import ConfigurationError
from records.sources import PACKAGED, modality_of
from zk.circuit import CIRCUITS

ENGINES: Final = ("in-process", "superlink", "supernode")


class OptionUnknown(ConfigurationError):
    """An option was given a value that does not exist."""

    code = "option-unknown"

    def __init__(self, option: str, value: str, known: Collection[str]) -> None:
        super().__init__(f"{option} {value!r} does not exist; choose one of {', '.join(known)}")


def check_known(*options: tuple[str, str, Collection[str]]) -> None:
    """Return if every option's value is one of those there are: option, value, values.

    Raises:
        OptionUnknown: The first that is none.
    """
    for option, value, known in options:
        if value not in known:
            raise OptionUnknown(option, value, known)


def check_ways(*, algorithm: str, noise: str, circuit: str, opening: str) -> None:
    """Return if updates can be made, hidden, proven and opened in the ways of these names.

    Raises:
        OptionUnknown: They cannot.
    """
    check_known(
        ("--algorithm", algorithm, ALGORITHMS),
        ("--noise", noise, NOISES),
        ("--circuit", circuit, CIRCUITS),
        ("--opening", opening, ENCRYPTION),
    )


def settings_for(
    *,
    data: str,
    seed: int | None,
    default_seed: int,
    engine: str,
    opening: str,
    sites: int,
    patients: int,
    rounds: int | None,
    circuit: str,
    epsilon: float | None,
    grants: str = LanePolicy.HOSPITAL,
    algorithm: str = "fedavg",
    noise: str = "per-site",
    features: str = "",
) -> Settings:
    """Return the settings of a run; what the user left open comes from the recipe of its data.

    Raises:
        OptionUnknown: An option has a value that does not exist.
        FeaturesMisnamed: ``features`` is no feature step.
    """
    if features:
        bundle, function = named_step(features)
        features = f"{bundle.resolve()}:{function}"
    check_known(("--engine", engine, ENGINES), ("--grants", grants, list(LanePolicy)))
    check_ways(algorithm=algorithm, noise=noise, circuit=circuit, opening=opening)
    recipe = recipe_for(modality_of(data))
    return Settings(
        data=data if data in PACKAGED else str(Path(data).resolve()),
        seed=default_seed if seed is None else seed,
        seed_noise=seed is not None,
        engine=engine,
        opening=opening,
        sites=sites,
        patients=patients,
        rounds=recipe.rounds if rounds is None else rounds,
        circuit=circuit,
        epsilon=recipe.epsilon if epsilon is None else epsilon,
        delta=recipe.delta,
        grants=str(grants),
        algorithm=algorithm,
        mechanism=noise,
        features=features,
    )
