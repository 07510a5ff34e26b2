"""What the options of ``bithive study found`` mean: a study's design, checked before it is founded.

Whatever is left open comes from the recipe for the kind of records (``models.recipes``). Nothing of
a hospital is looked at: the shape of a record follows from its kind, or is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

from consent.lanes import LanePolicy
from portal.home import Settings
from portal.noise import with_noise
from portal.options import check_ways
from portal.study_founding import Design, Modality, input_shape_of, recipe_of
from zk.keys import VerificationKey

SEED: Final = 7
"""Of the first model's weights, which are public."""


@dataclass(frozen=True)
class Wanted:
    """What is to be learned, from what, at which price in privacy; None for the recipe's."""

    dataset: str
    modality: Modality
    title: str
    features: int | None = None
    """Of a table's row."""
    rounds: int | None = None
    epsilon: float | None = None
    delta: float | None = None


@dataclass(frozen=True)
class Ways:
    """How updates are made, hidden, proven and opened, by name."""

    algorithm: str = "fedavg"
    noise: str = "per-site"
    circuit: str = "cover64"
    opening: str = "members"

    def check(self) -> None:
        """Return if there is a way of each of these names.

        Raises:
            OptionUnknown: There is not.
        """
        check_ways(
            algorithm=self.algorithm, noise=self.noise, circuit=self.circuit, opening=self.opening
        )


def design_of(wanted: Wanted, ways: Ways, verification_key: VerificationKey, today: date) -> Design:
    """Return the design of a study whose grants rest on the hospitals' word.

    Raises:
        OptionUnknown: A way has no such name.
        UnknownModality: There is no recipe for this kind of records.
        DatasetMisnamed, InputShapeUnknown: See ``input_shape_of``.
    """
    ways.check()
    shape = input_shape_of(wanted.dataset, wanted.modality, wanted.features)
    recipe = with_noise(recipe_of(wanted.modality, ways.algorithm), ways.noise, wanted.modality)
    settings = Settings(
        data=wanted.dataset,
        seed=SEED,
        seed_noise=False,
        engine="superlink",
        opening=ways.opening,
        sites=0,
        patients=0,
        rounds=recipe.rounds if wanted.rounds is None else wanted.rounds,
        circuit=ways.circuit,
        epsilon=recipe.epsilon if wanted.epsilon is None else wanted.epsilon,
        delta=recipe.delta if wanted.delta is None else wanted.delta,
        grants=str(LanePolicy.HOSPITAL),
        algorithm=ways.algorithm,
        mechanism=ways.noise,
    )
    return Design(
        settings=settings,
        dataset=wanted.dataset,
        modality=wanted.modality,
        input_shape=shape,
        title=wanted.title,
        recipe=recipe,
        verification_key=verification_key,
        today=today,
    )
