"""A coverage statement holds for exactly the slots that a slow obvious reading of it accepts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zk.cover import (
    CoverStatement,
    FieldOutOfRange,
    Scope,
    StatementMalformed,
    closed_slot,
    context_of,
    leaf_of,
    pack_terms,
    state,
)
from zk.poseidon import FIELD, poseidon
from zk.witness import WitnessRefused, witness

WIDTHS = {
    "grants": 32, "site": 32, "dataset": 32, "study": 64, "not_before": 16, "expiry": 16,
}  # fmt: skip
terms = st.fixed_dictionaries({name: st.integers(0, 2**bits - 1) for name, bits in WIDTHS.items()})
elements = st.integers(0, FIELD - 1)


@given(terms, terms)
def test_different_terms_pack_to_different_numbers_below_2_to_192(one, other):
    assert pack_terms(**one) < 2**192 < FIELD
    assert (pack_terms(**one) == pack_terms(**other)) == (one == other)


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("beyond", ["negative", "too long", "not a number", "a truth value"])
def test_a_number_that_does_not_fit_its_place_is_not_packed(name, beyond):
    bad = {
        "negative": -1,
        "too long": 2 ** WIDTHS[name],
        "not a number": 1.0,
        "a truth value": True,
    }
    with pytest.raises(FieldOutOfRange) as refused:
        pack_terms(**dict.fromkeys(WIDTHS, 0) | {name: bad[beyond]})
    assert refused.value.field == name


scopes = st.builds(
    Scope,
    study=st.integers(0, 2**64 - 1),
    site=st.integers(0, 2**32 - 1),
    dataset=st.integers(0, 2**32 - 1),
    required=st.integers(0, 2**32 - 1),
    from_day=st.integers(0, 2**16 - 1),
    through_day=st.integers(0, 2**16 - 1),
    context=elements,
)
statements = st.builds(CoverStatement, elements, st.integers(0, 64), elements, scopes)


@given(statements)
def test_public_inputs_are_read_back_as_the_same_statement(statement):
    assert CoverStatement.from_public_inputs(statement.public_inputs()) == statement


@given(statements, st.integers(0, 9), st.integers(1, 63))
def test_another_public_input_is_another_digest(statement, position, difference):
    numbers = statement.public_inputs()
    numbers[position] ^= difference
    try:
        other = CoverStatement.from_public_inputs(numbers)
    except (StatementMalformed, FieldOutOfRange):
        return
    assert other.digest() != statement.digest()


def test_the_public_inputs_have_the_order_of_the_circuit(chunk):
    scope = chunk.scope
    assert chunk.statement.public_inputs()[1:] == [
        6, chunk.statement.chunk_root, scope.study, scope.site, scope.dataset,
        scope.required, scope.from_day, scope.through_day, scope.context,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda numbers: numbers[:-1],
        lambda numbers: [*numbers, 0],
        lambda numbers: [FIELD, *numbers[1:]],
        lambda numbers: [-1, *numbers[1:]],
        lambda numbers: [str(numbers[0]), *numbers[1:]],
        lambda numbers: [numbers[0], True, *numbers[2:]],
        lambda numbers: [numbers[0], 65, *numbers[2:]],
    ],
    ids=["nine", "eleven", "not reduced", "negative", "text", "truth value", "65 slots"],
)
def test_other_lists_are_not_statements(chunk, change):
    with pytest.raises(StatementMalformed):
        CoverStatement.from_public_inputs(change(chunk.statement.public_inputs()))


@pytest.mark.parametrize(
    "name", ["study", "site", "dataset", "required", "from_day", "through_day", "context"]
)
def test_a_scope_whose_number_is_too_long_is_refused(chunk, name):
    with pytest.raises(FieldOutOfRange):
        replace(chunk.scope, **{name: FIELD})


def test_contexts_differ_in_each_of_their_parts():
    base = (1, "registry", "00", 0)
    others = [(2, "registry", "00", 0), (1, "register", "00", 0), (1, "registry", "01", 0)]
    contexts = {context_of(*parts) for parts in [base, *others, (1, "registry", "00", 1)]}
    assert len(contexts) == 5
    assert all(0 <= context < FIELD for context in contexts)


def test_the_commitment_changes_with_blind_record_subject_and_use(chunk):
    slot = chunk.slots[0]
    variants = [
        replace(slot, record=slot.record + 1),
        replace(slot, subject=slot.subject + 1),
        replace(slot, used=False),
    ]
    commitments = {
        state((variant, *chunk.slots[1:]), chunk.scope, chunk.blind).records_commitment
        for variant in [slot, *variants]
    }
    commitments.add(state(chunk.slots, chunk.scope, chunk.blind + 1).records_commitment)
    assert len(commitments) == 5


def test_a_closed_slot_counts_for_nothing_but_the_root(chunk):
    closed = [closed_slot(slot.leaf) for slot in chunk.slots]
    statement = state(closed, chunk.scope, chunk.blind)
    assert statement.count == 0
    assert statement.chunk_root == chunk.statement.chunk_root


def test_a_slot_shows_nothing_but_its_leaf(chunk):
    assert repr(chunk.slots[0]) == f"Slot(leaf={chunk.slots[0].leaf})"


# The twin: the statement of zk/cover.py read aloud, over the circuit's raw signals.

RANGES = {
    "study": 64, "site": 32, "dataset": 32, "required": 32, "from": 16, "through": 16,
}  # fmt: skip


def holds(signals):
    """Say whether raw input signals satisfy the statement, the obvious way."""
    s = {
        name: [v % FIELD for v in value] if isinstance(value, list) else value % FIELD
        for name, value in signals.items()
    }
    ranges = [s[name] < 2**bits for name, bits in RANGES.items()]
    root = list(s["leaf"])
    while len(root) > 1:
        root = [poseidon(*root[i : i + 2]) for i in range(0, len(root), 2)]
    return all(ranges) and root[0] == s["chunkRoot"] and all(slot_holds(s, i) for i in range(8))


def slot_holds(s, i):
    in_range = s["grants"][i] < 2**32 and s["notBefore"][i] < 2**16 and s["expiry"][i] < 2**16
    if not in_range or s["used"][i] not in {0, 1}:
        return False
    if s["used"][i] == 0:
        return True
    return (
        s["leaf"][i] == leaf_of(s["subject"][i], field_terms(s, i), s["salt"][i])
        and s["grants"][i] & s["required"] == s["required"]
        and s["notBefore"][i] <= s["from"]
        and s["through"] < s["expiry"][i]
    )


def field_terms(s, i):
    """Terms packed by field arithmetic, as the circuit does it, in range or not."""
    packed = s["grants"][i] + (s["site"] << 32) + (s["dataset"] << 64) + (s["study"] << 96)
    return (packed + (s["notBefore"][i] << 160) + (s["expiry"][i] << 176)) % FIELD


def registered(signals):
    """The same signals after somebody managed to register the leaves they open to."""
    s = {name: list(v) if isinstance(v, list) else v for name, v in signals.items()}
    s["leaf"] = [
        leaf_of(s["subject"][i] % FIELD, field_terms(s, i), s["salt"][i] % FIELD)
        if s["used"][i]
        else s["leaf"][i]
        for i in range(8)
    ]
    root = [leaf % FIELD for leaf in s["leaf"]]  # as the circuit reads them
    while len(root) > 1:
        root = [poseidon(*root[i : i + 2]) for i in range(0, len(root), 2)]
    return s | {"chunkRoot": root[0]}


def accepted(circuit, signals):
    try:
        witness(circuit, signals)
    except WitnessRefused:
        return False
    return True


EDGES = [
    0, 1, 2, -1, 0b101, 0b011, 20776, 20777, 20778, 20806, 20807, 20808,
    2**16 - 1, 2**16, 2**16 + 5, 20000 - 2**16, 2**32 - 1, 2**32, 2**32 + 7, FIELD - 1,
]  # fmt: skip
names = st.sampled_from(
    ["used", "grants", "notBefore", "expiry", "leaf", "subject", "salt", "record", *RANGES]
)
changes = st.lists(
    st.tuples(names, st.integers(0, 7), st.sampled_from(EDGES)), min_size=1, max_size=2
)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes, st.booleans())
def test_the_circuit_and_its_twin_agree(cover8, chunk, changes, register):
    signals = chunk.inputs()
    for name, index, value in changes:
        if isinstance(signals[name], list):
            signals[name][index] = value
        else:
            signals[name] = value
    if register:
        signals = registered(signals)
    assert accepted(cover8, signals) == holds(signals)


def test_the_honest_chunk_satisfies_both(cover8, chunk):
    assert holds(chunk.inputs())
    assert accepted(cover8, chunk.inputs())


def test_an_expired_grant_does_not_matter_in_a_slot_that_is_not_used(cover8, chunk):
    signals = chunk.inputs()
    signals["expiry"][2] = 5
    assert accepted(cover8, signals)


# Each way to cheat, in the order of the statement. `register` says that the cheat goes with
# leaves that really stand in the registry, so that it is not the leaf that gives it away.

CHEATS = {
    "expired": ("expiry", 20800, True),
    "expires on the last day of use": ("expiry", 20807, True),
    "not yet valid": ("notBefore", 20778, True),
    "a required purpose is missing": ("grants", 0b011, True),
    "grants of 33 bits spill into the site": ("grants", 0b111 + (1 << 32), True),
    "expiry of 17 bits": ("expiry", (1 << 16) + 5, True),
    "negative first day": ("notBefore", -1, True),
    "first day borrows from expiry": ("notBefore", 20000 - (1 << 16), True),
    "a slot used twice": ("used", 2, True),
    "a slot used minus once": ("used", -1, True),
    "a leaf that is not in the chunk": ("leaf", 12345, False),
    "a withdrawn grant": ("leaf", 0, False),
    "another subject": ("subject", 1, False),
    "another salt": ("salt", 1, False),
    "terms better than those granted": ("expiry", 30000, False),
    "a purpose nobody granted": ("grants", 0b1101, False),
    "another study": ("study", 1, False),
    "another site": ("site", 6, False),
    "another dataset": ("dataset", 1, False),
    "a purpose that was not granted is required": ("required", 0b1000, False),
    "used before the first day": ("from", 19999, False),
    "used after expiry": ("through", 21142, False),
    "required of 33 bits": ("required", 1 << 32, True),
    "a root of other leaves": ("chunkRoot", 777, False),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_site_that_cheats_has_no_witness(cover8, chunk, cheat):
    name, value, register = CHEATS[cheat]
    signals = chunk.inputs()
    if isinstance(signals[name], list):
        signals[name][0] = value
    else:
        signals[name] = value
    if register:
        signals = registered(signals)
    assert not holds(signals)
    with pytest.raises(WitnessRefused):
        witness(cover8, signals)
