"""Every constraint of cover(K) belongs to one family, which its place and its wires both say."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.zk.soundness.attacks import Attack
from tests.zk.soundness.system import (
    FAMILIES,
    HASH2,
    HASH3,
    ONCE,
    PER_SLOT_ALLOWED,
    PER_SLOT_GATES,
    PRIVATE,
    PUBLIC,
    fill,
    read,
    wire_of,
)
from zk.circuit import circuit

# The main signals that the constraints of a family name. (The last slot's `used` is not a wire but
# count less the others, so count is bound where that slot's use is.)
NAMED = {
    "used is a bit": {"used", "count"},
    "a used slot is allowed": {"used", "count"},
    "a used slot opens its leaf": {"used", "count", "leaf"},
    "only a used slot gives its subject": {"used", "count", "subject"},
    "only a used slot gives its record": {"used", "count", "record"},
    "required purposes are compared": {"required", "grants"},
    "from is compared": {"from", "notBefore"},
    "through is compared": {"through", "expiry"},
    "grants has 32 bits": {"grants"},
    "notBefore has 16 bits": {"notBefore"},
    "expiry has 16 bits": {"expiry"},
    "required has 32 bits": {"required"},
    "study has 64 bits": {"study"},
    "site has 32 bits": {"site"},
    "dataset has 32 bits": {"dataset"},
    "from has 16 bits": {"from"},
    "through has 16 bits": {"through"},
    "the leaf is the hash of its opening": {
        "subject", "salt", "grants", "notBefore", "expiry", "study", "site", "dataset",
    },
    "the commitment folds every slot": {"ds"},
    "the leaves hash to one root": {"leaf"},
    "the root is chunkRoot": {"chunkRoot"},
    "the commitment begins with blind and context": {"blind", "context"},
}  # fmt: skip


def names(slots):
    """The main signal of each wire that carries one."""
    found = {wire_of(name, slots): name for name in (*PUBLIC, "blind")}
    found |= {wire_of(name, slots, slot): name for name in PRIVATE for slot in range(slots)}
    found.pop(None)
    return found


def wires_of(triples):
    return {wire for triple in triples for form in triple for wire in form if wire}


@pytest.mark.parametrize("name", ["cover8", pytest.param("cover64", marks=pytest.mark.slow)])
def test_the_families_have_the_sizes_that_their_gadgets_have(name):
    compiled = circuit(name)
    slots = compiled.slots
    system = read(compiled.r1cs_bytes())
    assert (system.slots, len(system.triples)) == (slots, compiled.constraints)
    expected = dict.fromkeys(PER_SLOT_GATES, slots)
    expected |= {family: size * slots for family, size in PER_SLOT_ALLOWED} | dict(ONCE)
    expected |= {
        "the leaf is the hash of its opening": HASH3 * slots,
        "the commitment folds every slot": HASH3 * slots,
        "the leaves hash to one root": HASH2 * (slots - 1) - 1,
        "the root is chunkRoot": 1,
        "the commitment begins with blind and context": HASH2,
    }
    assert Counter(system.family) == expected
    assert set(expected) == set(FAMILIES) == set(NAMED)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_names_the_signals_of_its_sentence_and_no_others(whole, family):
    known = names(whole.slots)
    assert {known[wire] for wire in wires_of(whole.of(family)) if wire in known} == NAMED[family]


def test_a_slot_names_no_signal_of_another_slot(whole):
    """But the last one, whose ``used`` is count less those of the others."""
    private = {
        wire_of(name, 8, slot): slot for name in PRIVATE for slot in range(8) if name != "used"
    }
    per_slot = [*PER_SLOT_GATES, *dict(PER_SLOT_ALLOWED), "the leaf is the hash of its opening"]
    for family in per_slot:
        for slot in range(8):
            named = {private[wire] for wire in wires_of(whole.of(family, slot)) if wire in private}
            assert named <= {slot}


def test_every_public_signal_is_in_a_constraint(whole):
    assert wires_of(whole.triples) == set(range(1, whole.wires))


def test_the_constraints_are_written_as_they_were_read(whole):
    assert read(whole.r1cs()) == whole


def test_the_attacker_who_tells_no_lie_computes_the_honest_witness(whole, chunk):
    wires = Attack("nothing is false", chunk.inputs()).wires(whole, whole)
    assert wires[1:11] == chunk.statement.public_inputs()
    assert whole.broken(wires) == set()


def test_what_is_chosen_stays_chosen(whole):
    chosen = {wire_of("count", 8): 3, wire_of("ds", 8): 4}
    wires = fill(whole, chosen)
    assert {wire: wires[wire] for wire in chosen} == chosen
