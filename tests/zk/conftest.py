"""A chunk of eight slots, one development key and one proof, made once for all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from zk.circuit import Circuit, circuit
from zk.cover import (
    CoverStatement,
    Scope,
    Slot,
    closed_slot,
    context_of,
    leaf_of,
    pack_terms,
    state,
    witness_inputs,
)
from zk.keys import VerificationKey, development_key
from zk.poseidon import poseidon
from zk.prover import Prover

BLIND = 987654321
SCOPE = Scope(
    study=0xABCDEF0123456789,
    site=5,
    dataset=9,
    required=0b101,
    from_day=20777,
    through_day=20807,
    context=context_of(1, "registry", "00", 0),
)
Inputs = dict[str, int | list[int]]


def opened_slot(number: int) -> Slot:
    """A used slot that allows SCOPE, different for every number."""
    subject, salt, record = (poseidon(kind, number) for kind in (1, 2, 3))
    terms = pack_terms(0b111, SCOPE.site, SCOPE.dataset, SCOPE.study, 20000, 21142)
    leaf = leaf_of(subject, terms, salt)
    return Slot(
        leaf=leaf,
        used=True,
        subject=subject,
        salt=salt,
        grants=0b111,
        not_before=20000,
        expiry=21142,
        record=record,
    )


@dataclass(frozen=True)
class Chunk:
    """Eight slots with what they state."""

    slots: tuple[Slot, ...]
    scope: Scope
    blind: int

    @property
    def statement(self) -> CoverStatement:
        return state(self.slots, self.scope, self.blind)

    def inputs(self) -> Inputs:
        return witness_inputs(self.slots, self.scope, self.statement, self.blind)


@pytest.fixture(scope="session")
def chunk() -> Chunk:
    """Six used slots, one of a grant that is not used, one withdrawn."""
    slots = [opened_slot(number) for number in range(8)]
    slots[2] = closed_slot(slots[2].leaf)
    slots[5] = closed_slot(0)
    return Chunk(tuple(slots), SCOPE, BLIND)


@pytest.fixture(scope="session")
def make_slot() -> Callable[[int], Slot]:
    return opened_slot


@pytest.fixture(scope="session")
def cover8() -> Circuit:
    return circuit("cover8")


@pytest.fixture(scope="session")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="session")
def keys(cover8: Circuit, key_folder: Path) -> tuple[Path, VerificationKey]:
    return development_key(cover8, key_folder)


@pytest.fixture(scope="session")
def vk(keys: tuple[Path, VerificationKey]) -> VerificationKey:
    return keys[1]


@pytest.fixture(scope="session")
def prover(cover8: Circuit, keys: tuple[Path, VerificationKey]) -> Iterator[Prover]:
    with Prover(cover8, *keys) as warm:
        yield warm


@pytest.fixture(scope="session")
def proven(prover: Prover, chunk: Chunk) -> tuple[CoverStatement, bytes]:
    return prover.prove(chunk.slots, chunk.scope, chunk.blind)


@pytest.fixture(scope="session")
def proven_again(prover: Prover, chunk: Chunk) -> tuple[CoverStatement, bytes]:
    """A proof of another statement: the same slots under another blinding."""
    return prover.prove(chunk.slots, chunk.scope, chunk.blind + 1)
