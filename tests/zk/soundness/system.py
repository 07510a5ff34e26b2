"""The constraints of cover(K) as a list that tests may shorten, and an attacker who fills wires.

The compiled circuit is an r1cs: triples (a, b, c) of linear forms in the wires that demand
a * b = c. ``--O2`` leaves no linear constraint, and circom writes the others gadget by gadget, so
which part of ``circuits/cover.circom`` a constraint comes from follows from its place
(``FAMILIES``; test_families.py checks every one of them by its wires).

``fill`` is the attacker. He chooses the wires he wants to lie about; the rest he computes from
whatever constraints are left, one unknown at a time. On the whole circuit something then fails. On
a circuit without a family of constraints nothing may: that is what its killing test shows.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from zk.poseidon import FIELD

Form = dict[int, int]
"""A linear form: coefficient by wire; wire 0 is the constant 1."""
Triple = tuple[Form, Form, Form]

# Poseidon as circomlib writes it: constraints for two and three inputs.
HASH2, HASH3 = 240, 261

PER_SLOT_GATES = (
    "used is a bit",
    "a used slot is allowed",
    "a used slot opens its leaf",
    "only a used slot gives its subject",
    "only a used slot gives its record",
)
PER_SLOT_ALLOWED = (
    ("required purposes are compared", 32),
    ("from is compared", 17),
    ("through is compared", 17),
    ("grants has 32 bits", 32),
    ("notBefore has 16 bits", 16),
    ("expiry has 16 bits", 16),
)
ONCE = (
    ("required has 32 bits", 32),
    ("study has 64 bits", 64),
    ("site has 32 bits", 32),
    ("dataset has 32 bits", 32),
    ("from has 16 bits", 16),
    ("through has 16 bits", 16),
)
HASHES = (
    "the leaf is the hash of its opening",
    "the commitment folds every slot",
    "the leaves hash to one root",
    "the root is chunkRoot",
    "the commitment begins with blind and context",
)
FAMILIES = (
    *PER_SLOT_GATES,
    *(name for name, _ in PER_SLOT_ALLOWED),
    *(name for name, _ in ONCE),
    *HASHES,
)

# Wires: 1, outputs, public inputs, then the private inputs in the order of declaration.
PUBLIC = (
    "ds", "count", "chunkRoot", "study", "site", "dataset", "required", "from", "through",
    "context",
)  # fmt: skip
PRIVATE = ("leaf", "used", "subject", "salt", "grants", "notBefore", "expiry", "record")


@dataclass(frozen=True, repr=False)
class System:
    """Constraints over numbered wires; ``family[i]`` names what ``triples[i]`` is part of."""

    triples: tuple[Triple, ...]
    family: tuple[str, ...]
    wires: int
    slots: int

    def without(self, *families: str) -> System:
        """The circuit as it would be if somebody had forgotten these families."""
        assert set(families) <= set(FAMILIES)
        kept = [i for i, name in enumerate(self.family) if name not in families]
        return System(
            tuple(self.triples[i] for i in kept),
            tuple(self.family[i] for i in kept),
            self.wires,
            self.slots,
        )

    def of(self, family: str, slot: int | None = None) -> list[Triple]:
        """The constraints of one family, of all slots or of one."""
        found = [t for t, name in zip(self.triples, self.family, strict=True) if name == family]
        size = len(found) // self.slots
        return found if slot is None else found[size * slot : size * (slot + 1)]

    def broken(self, wires: Sequence[int]) -> set[str]:
        """The families of which a constraint does not hold."""
        assert len(wires) == self.wires
        assert wires[0] == 1
        return {
            name
            for triple, name in zip(self.triples, self.family, strict=True)
            if residue(triple, wires)
        }

    @cached_property
    def uses(self) -> dict[int, list[int]]:
        """For a wire, the constraints it is in."""
        found = defaultdict(list)
        for index, triple in enumerate(self.triples):
            for wire in {wire for form in triple for wire in form}:
                found[wire].append(index)
        return found

    def r1cs(self) -> bytes:
        """The constraints in iden3's format, for a prover's setup."""
        public, private = len(PUBLIC) - 2, len(PRIVATE) * self.slots + 1
        header = b"".join(
            [
                (32).to_bytes(4, "little"),
                FIELD.to_bytes(32, "little"),
                *(n.to_bytes(4, "little") for n in (self.wires, 2, public, private)),
                self.wires.to_bytes(8, "little"),
                len(self.triples).to_bytes(4, "little"),
            ]
        )
        body = b"".join(_form_bytes(form) for triple in self.triples for form in triple)
        labels = b"".join(wire.to_bytes(8, "little") for wire in range(self.wires))
        sections = ((1, header), (2, body), (3, labels))
        return (
            b"r1cs"
            + (1).to_bytes(4, "little")
            + len(sections).to_bytes(4, "little")
            + b"".join(
                number.to_bytes(4, "little") + len(section).to_bytes(8, "little") + section
                for number, section in sections
            )
        )


def wire_of(name: str, slots: int, slot: int = 0) -> int | None:
    """The wire of a main signal; None for the last ``used``, which is count less the others."""
    if name in PUBLIC:
        return 1 + PUBLIC.index(name)
    if name == "used" and slot == slots - 1:
        return None
    place = 1 + len(PUBLIC)
    if name == "blind":
        return place + len(PRIVATE) * slots - 1
    index = place + PRIVATE.index(name) * slots + slot
    return index - (PRIVATE.index(name) > PRIVATE.index("used"))


def read(r1cs: bytes) -> System:
    """Read an r1cs file of ``cover(K)``.

    References:
        iden3, R1CS binary format, version 1.
    """
    sections = dict(_sections(r1cs))
    header, body = sections[1], sections[2]
    wires = int.from_bytes(header[36:40], "little")
    count = int.from_bytes(header[60:64], "little")
    private = int.from_bytes(header[48:52], "little")
    slots = (private - 1) // len(PRIVATE)
    at = 0
    triples = []
    for _ in range(count):
        forms = []
        for _ in range(3):
            terms = int.from_bytes(body[at : at + 4], "little")
            at += 4
            form = {}
            for start in range(at, at + 36 * terms, 36):
                wire = int.from_bytes(body[start : start + 4], "little")
                form[wire] = int.from_bytes(body[start + 4 : start + 36], "little")
            at += 36 * terms
            forms.append(form)
        triples.append((forms[0], forms[1], forms[2]))
    return System(tuple(triples), tuple(_families(slots)), wires, slots)


def _families(slots: int) -> Iterable[str]:
    """The family of each constraint, in circom's order."""
    for _ in range(slots):
        yield from PER_SLOT_GATES
    for _ in range(slots):
        for name, size in PER_SLOT_ALLOWED:
            yield from [name] * size
    for name, size in ONCE:
        yield from [name] * size
    leaf, fold, tree, root, start = HASHES
    yield from [leaf] * (HASH3 * slots)
    yield from [fold] * (HASH3 * slots)
    # The root has no constraint of its own: it is where chunkRoot stands in the last hash, whose
    # last full round ends with three S-boxes in the middle of the block.
    last = [tree] * HASH2
    last[ROOT_AT] = root
    yield from [tree] * (HASH2 * (slots - 2))
    yield from last
    yield from [start] * HASH2


ROOT_AT = 68
"""Where in a block of HASH2 constraints the output stands."""


def residue(triple: Triple, wires: Sequence[int]) -> int:
    """What a * b - c leaves; 0 if the constraint holds."""
    a, b, c = (sum(k * wires[wire] for wire, k in form.items()) for form in triple)
    return (a * b - c) % FIELD


def fill(system: System, chosen: Mapping[int, int], *, guess: int = 0) -> list[int]:
    """Compute all wires from those ``chosen``, by the constraints that are there.

    A constraint with one unknown wire, in one of its forms only, gives that wire. What follows from
    nothing is the attacker's to choose; he takes ``guess``, one wire at a time. Nothing here
    checks: what does not hold is for ``System.broken`` to say.
    """
    wires: list[int | None] = [None] * system.wires
    unknown = [len({wire for form in triple for wire in form if wire}) for triple in system.triples]
    ready: deque[int] = deque()

    def know(wire: int, value: int) -> None:
        wires[wire] = value % FIELD
        for index in system.uses.get(wire, ()):
            unknown[index] -= 1
            if unknown[index] == 1:
                ready.append(index)

    wires[0] = 1
    for wire, value in chosen.items():
        know(wire, value)
    for wire in range(1, system.wires):
        while ready:
            found = _solve(system.triples[ready.popleft()], wires)
            if found is not None:
                know(*found)
        if wires[wire] is None:
            know(wire, guess)
    return [0 if value is None else value for value in wires]


def _solve(triple: Triple, wires: Sequence[int | None]) -> tuple[int, int] | None:
    """The one unknown wire of a constraint and what it must be; None if it does not follow."""
    left = {wire for form in triple for wire in form if wires[wire] is None}
    if not left:
        return None
    (wire,) = left
    k_a, k_b, k_c = (form.get(wire, 0) for form in triple)
    if k_a and k_b:  # a square: a bit, say, which the attacker chooses
        return None
    a, b, c = (sum(k * (wires[w] or 0) for w, k in form.items()) for form in triple)
    # (a + k_a x)(b + k_b x) = c + k_c x with one of k_a, k_b zero.
    slope = (k_a * b + k_b * a - k_c) % FIELD
    return (wire, (c - a * b) * pow(slope, -1, FIELD)) if slope else None


def wtns(wires: Sequence[int]) -> bytes:
    """The wires as a witness file, for a prover that does not ask.

    References:
        iden3, Witness binary format (wtns), version 2.
    """
    header = b"".join(
        [(32).to_bytes(4, "little"), FIELD.to_bytes(32, "little"), len(wires).to_bytes(4, "little")]
    )
    numbers = b"".join(wire.to_bytes(32, "little") for wire in wires)
    sections = b"".join(
        number.to_bytes(4, "little") + len(section).to_bytes(8, "little") + section
        for number, section in ((1, header), (2, numbers))
    )
    return b"wtns" + (2).to_bytes(4, "little") * 2 + sections


def _sections(content: bytes) -> Iterable[tuple[int, bytes]]:
    position = 12
    while position < len(content):
        size = int.from_bytes(content[position + 4 : position + 12], "little")
        start = position + 12
        yield (
            int.from_bytes(content[position : position + 4], "little"),
            content[start : start + size],
        )
        position = start + size


def _form_bytes(form: Form) -> bytes:
    terms = b"".join(
        wire.to_bytes(4, "little") + k.to_bytes(32, "little") for wire, k in sorted(form.items())
    )
    return len(form).to_bytes(4, "little") + terms
