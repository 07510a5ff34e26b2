"""The constraints of cover8, and every forged witness, filled once for all tests here."""

from __future__ import annotations

import pytest

from tests.zk.soundness.attacks import Forged, attacks, others
from tests.zk.soundness.system import FAMILIES, System, read


@pytest.fixture(scope="session")
def whole(cover8) -> System:
    return read(cover8.r1cs_bytes())


class Forger:
    """Forges by name, each once. Names of families are forged as if the family were missing."""

    def __init__(self, chunk, whole: System) -> None:
        signals = chunk.inputs()
        self._attacks = attacks(signals, whole) | others(signals)
        self._whole = whole
        self._known: dict[str, Forged] = {}

    def __call__(self, name: str) -> Forged:
        if name not in self._known:
            attack = self._attacks[name]
            system = self._whole.without(name) if name in FAMILIES else self._whole
            self._known[name] = Forged(attack, attack.wires(system, self._whole))
        return self._known[name]


@pytest.fixture(scope="session")
def forge(chunk, whole) -> Forger:
    return Forger(chunk, whole)
