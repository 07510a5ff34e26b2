"""Poseidon here is the paper's, with its own constants, and takes field elements only."""

from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zk.poseidon import FIELD, INPUTS_MAX, NotInField, poseidon

FULL_ROUNDS = 8
# Numbers of partial rounds for a state of 2, 3, ... 13, as circomlib publishes them.
PARTIAL_ROUNDS = (56, 57, 56, 60, 60, 63, 64, 63, 60, 66, 60, 65)
FIELD_BITS = 254

elements = st.integers(0, FIELD - 1)


def test_known_hashes_of_circomlib_are_met():
    assert poseidon(1, 2) == 0x115CC0F5E7D690413DF64C6B9662E9CF2A3617F2743245519E19607A4417189A


@pytest.mark.parametrize("inputs", range(1, INPUTS_MAX + 1))
def test_it_equals_the_slow_twin_at_every_width(inputs):
    numbers = [FIELD - 1 - number for number in range(inputs)]
    assert poseidon(*numbers) == slow_poseidon(numbers)


@settings(max_examples=20, deadline=None)
@given(st.lists(elements, min_size=2, max_size=3))
def test_it_equals_the_slow_twin_on_any_numbers(numbers):
    assert poseidon(*numbers) == slow_poseidon(numbers)


@pytest.mark.parametrize("number", [-1, FIELD, FIELD + 1, 2**256, True, 1.0, "1", None])
def test_what_is_not_a_field_element_is_refused(number):
    with pytest.raises(NotInField) as refusal:
        poseidon(0, number)
    assert refusal.value.position == 1
    assert refusal.value.code == "not-in-field"


def slow_poseidon(inputs: list[int]) -> int:
    """Hash by the definition: add constants, x^5 on all or one, multiply by the matrix."""
    width = len(inputs) + 1
    partial = PARTIAL_ROUNDS[width - 2]
    constants, matrix = parameters(width, partial)
    state = [0, *inputs]
    for number in range(FULL_ROUNDS + partial):
        state = [x + constants[number * width + place] for place, x in enumerate(state)]
        is_full = not FULL_ROUNDS // 2 <= number < FULL_ROUNDS // 2 + partial
        state = [pow(x, 5, FIELD) if is_full or place == 0 else x for place, x in enumerate(state)]
        state = [sum(m * x for m, x in zip(row, state, strict=True)) % FIELD for row in matrix]
    return state[0]


@cache
def parameters(width: int, partial: int) -> tuple[list[int], list[list[int]]]:
    """Draw round constants (with rejection) and the Cauchy matrix, as the paper's appendix says."""
    bits = grain(width, partial)

    def draw() -> int:
        return int("".join(str(next(bits)) for _ in range(FIELD_BITS)), 2)

    constants: list[int] = []
    while len(constants) < (FULL_ROUNDS + partial) * width:
        number = draw()
        if number < FIELD:
            constants.append(number)
    xs = [draw() for _ in range(width)]
    ys = [draw() for _ in range(width)]
    return constants, [[pow(x + y, -1, FIELD) for y in ys] for x in xs]


def grain(width: int, partial: int) -> Iterator[int]:
    """Run the self-shrinking Grain register, seeded by the instance's description."""
    described = (
        f"{1:02b}{0:04b}{FIELD_BITS:012b}{width:012b}{FULL_ROUNDS:010b}{partial:010b}" + "1" * 30
    )
    register = [int(bit) for bit in described]

    def step() -> int:
        bit = 0
        for tap in (62, 51, 38, 23, 13, 0):
            bit ^= register[tap]
        register.pop(0)
        register.append(bit)
        return bit

    for _ in range(160):
        step()
    while True:
        keep, bit = step(), step()
        if keep:
            yield bit
