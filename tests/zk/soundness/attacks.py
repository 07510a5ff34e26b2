"""Forged witnesses: for each family of constraints a false statement that only it prevents.

An attack is what a cheating site would put on the wires: the main signals, and lies about wires
inside. What it does not name, ``System.fill`` computes. ``attack.why`` says what is false about the
statement it makes.

The honest chunk (tests/zk/conftest.py) has patients in slots 0, 1, 3, 4, 6 and 7; slot 2 holds a
grant that is not used, slot 5 one that was withdrawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.zk.conftest import SCOPE, Inputs
from tests.zk.soundness.system import ONCE, PRIVATE, PUBLIC, System, fill, wire_of
from tests.zk.test_cover import CHEATS, holds, registered
from zk.cover import leaf_of, pack_terms
from zk.poseidon import FIELD, poseidon

WRAP = 1 << 16
"""What circomlib's LessThan(16) adds so that a difference is not negative."""


@dataclass(frozen=True)
class Attack:
    """Wires of a false statement.

    ``signals`` are the main inputs by name, as for the witness calculator; ``outputs`` are ``ds``
    or ``count``, if others are claimed than those that follow. ``bits`` says, by family and slot,
    what to put on the wires of a number's bits, lowest first (in "from is compared", tooEarly is
    the last). In slots that are ``excused``, ``failures`` is 0. ``inner`` are further wires.
    """

    why: str
    signals: Inputs
    outputs: Mapping[str, int] = field(default_factory=dict)
    bits: Mapping[tuple[str, int], Sequence[int]] = field(default_factory=dict)
    excused: Sequence[int] = ()
    inner: Mapping[int, int] = field(default_factory=dict)
    guess: int = 0

    def wires(self, system: System, whole: System) -> list[int]:
        """Fill the wires of ``system``, which is the ``whole`` circuit or a part of it."""
        slots, s = whole.slots, self.signals
        chosen = {wire_of(name, slots): s[name] for name in (*PUBLIC[2:], "blind")}
        for name in PRIVATE:
            for slot, value in enumerate(s[name]):
                chosen[wire_of(name, slots, slot)] = value
        chosen[wire_of("count", slots)] = sum(s["used"])
        chosen |= {wire_of(name, slots): value for name, value in self.outputs.items()}
        for (family, slot), number in numbers_of(s).items():
            lie = self.bits.get((family, slot))
            for place, wire in enumerate(bit_wires(whole, family, slot)):
                chosen[wire] = lie[place] if lie else number >> place & 1
        for slot in range(slots):
            chosen |= self._verdict(whole, slot)
        chosen |= self.inner
        chosen.pop(None, None)
        return fill(system, chosen, guess=self.guess)

    def _verdict(self, whole: System, slot: int) -> dict[int, int]:
        """The wires ``failures`` and ``tooEarly`` of a slot."""
        s = self.signals
        ((failures,),) = (b for _a, b, _c in whole.of("a used slot is allowed", slot))
        (too_early,) = whole.of("from is compared", slot)[-1][0]
        lie = self.bits.get(("from is compared", slot))
        early = lie[-1] if lie else 1 - bit_16(s["from"] - s["notBefore"][slot])
        late = bit_16(s["through"] - s["expiry"][slot])
        missing = (s["required"] & ~s["grants"][slot] & 0xFFFFFFFF).bit_count()
        return {too_early: early, failures: 0 if slot in self.excused else missing + early + late}


@dataclass(frozen=True)
class Forged:
    """A false statement with the wires a cheating site would prove it with."""

    attack: Attack
    wires: list[int]

    @property
    def public(self) -> list[int]:
        return self.wires[1:11]


def is_false(signals: Inputs, wires: Sequence[int]) -> bool:
    """Whether the statement on ``wires`` does not follow from ``signals``: the slow obvious way."""
    return not holds(signals) or wires[1:3] != [commitment_of(signals), sum(signals["used"])]


def commitment_of(signals: Inputs) -> int:
    """What ``ds`` is of these signals."""
    ds = poseidon(signals["blind"], signals["context"])
    columns = (signals[name] for name in ("used", "subject", "record"))
    for used, subject, record in zip(*columns, strict=True):
        ds = poseidon(ds, used * subject % FIELD, used * record % FIELD)
    return ds


def numbers_of(s: Inputs) -> dict[tuple[str, int], int]:
    """What each group of bits decomposes, by family and slot."""
    numbers = {
        (f"{name} has {bits} bits", 0): s[name]
        for name, bits in (
            ("required", 32), ("study", 64), ("site", 32), ("dataset", 32), ("from", 16),
            ("through", 16),
        )
    }  # fmt: skip
    for slot in range(len(s["used"])):
        numbers["grants has 32 bits", slot] = s["grants"][slot]
        numbers["notBefore has 16 bits", slot] = s["notBefore"][slot]
        numbers["expiry has 16 bits", slot] = s["expiry"][slot]
        numbers["from is compared", slot] = s["from"] - s["notBefore"][slot] + WRAP
        numbers["through is compared", slot] = s["through"] - s["expiry"][slot] + WRAP
    return {key: number % FIELD for key, number in numbers.items()}


def bit_16(difference: int) -> int:
    return (difference + WRAP) % FIELD >> 16 & 1


def bit_wires(whole: System, family: str, slot: int) -> list[int]:
    """The wires of a number's bits, lowest first; the highest is not a wire but what is left."""
    once = family in dict(ONCE)
    wires = []
    for a, _b, _c in whole.of(family) if once else whole.of(family, slot):
        (wire, *others) = [w for w in a if w]
        if others:
            break
        wires.append(wire)
    return wires


# What follows are the attacks, in the order of FAMILIES.


def attacks(chunk: Inputs, whole: System) -> dict[str, Attack]:
    """For each family, by its name, a false statement that this family alone refuses.

    Args:
        chunk: The honest signals.
        whole: The whole circuit, in which wires are found.
    """
    honest = _talkative(chunk)
    return _gates(honest, whole) | _terms(honest) | _ranges(honest) | _hashes(honest, whole)


def others(chunk: Inputs) -> dict[str, Attack]:
    """More false statements: every cheat of tests/zk/test_cover.py, and about the outputs."""
    honest = _talkative(chunk)
    half = pow(2, -1, FIELD)
    cheats = {
        name: Attack(
            name, _but(honest, register=register, **{signal: _first(honest, signal, value)})
        )
        for name, (signal, value, register) in CHEATS.items()
    }
    return cheats | {
        "one more is counted": Attack("count", honest, outputs={"count": 7}),
        "one less is counted": Attack(
            "count", honest, outputs={"count": 5, "ds": commitment_of(honest)}
        ),
        "two halves of a patient": Attack("count", _but(honest, used={0: half, 1: half})),
        "a commitment to other records": Attack("ds", honest, outputs={"ds": poseidon(1, 2)}),
        "one leaf in two slots": Attack(
            "a patient counts twice",
            _but(honest, **{name: {5: honest[name][0]} for name in PRIVATE}),
        ),
        "two leaves change places": Attack(
            "not the registry's order",
            _but(honest, **{n: {0: honest[n][1], 1: honest[n][0]} for n in PRIVATE}),
        ),
    }


def _but(honest: Inputs, *, register: bool = False, **changes: int | Mapping[int, int]) -> Inputs:
    """Signals with some changed: a number, or numbers by slot.

    ``register`` puts the leaves to which the slots now open into the chunk.
    """
    s = {name: list(v) if isinstance(v, list) else v for name, v in honest.items()}
    for name, change in changes.items():
        if isinstance(change, Mapping):
            for slot, value in change.items():
                s[name][slot] = value
        else:
            s[name] = change
    return registered(s) if register else s


def _first(honest: Inputs, signal: str, value: int) -> int | dict[int, int]:
    """A change of the signal, in slot 0 if it has slots."""
    return {0: value} if isinstance(honest[signal], list) else value


def _talkative(chunk: Inputs) -> Inputs:
    """Slots that are not used may say what they like: here, what would be allowed."""
    return _but(
        chunk,
        grants=dict.fromkeys((2, 5), 0b111),
        notBefore=dict.fromkeys((2, 5), 20000),
        expiry=dict.fromkeys((2, 5), 21142),
    )


def _gates(honest: Inputs, whole: System) -> dict[str, Attack]:
    """Against what is said about a slot as a whole."""

    def product(name: str, slot: int, lie: int) -> dict[int, int]:
        """The wires of used * subject or used * record, with a lie about one slot."""
        found = {}
        for other in range(whole.slots):
            ((_a, _b, (wire,)),) = whole.of(f"only a used slot gives its {name}", other)
            found[wire] = lie if other == slot else honest["used"][other] * honest[name][other]
        return found

    return {
        "used is a bit": Attack("one patient counts twice", _but(honest, used={0: 2})),
        "a used slot is allowed": Attack(
            "a grant that has expired",
            _but(honest, expiry={0: honest["through"] - 7}, register=True),
        ),
        "a used slot opens its leaf": Attack(
            "a leaf opened to a subject of the site's choice", _but(honest, subject={0: 1})
        ),
        "only a used slot gives its subject": Attack(
            "the commitment names the subject of a withdrawn grant",
            honest,
            inner=product("subject", 5, 77),
        ),
        "only a used slot gives its record": Attack(
            "the commitment takes a record in under a grant that is not used",
            honest,
            inner=product("record", 2, 77),
        ),
    }


def _terms(honest: Inputs) -> dict[str, Attack]:
    """Against the comparison of a grant with the scope."""
    first, last = honest["from"], honest["through"]
    return {
        "required purposes are compared": Attack(
            "a purpose that was not granted",
            _but(honest, grants={0: 0b011}, register=True),
            excused=[0],
        ),
        "from is compared": Attack(
            "a grant that begins a day too late",
            _but(honest, notBefore={0: first + 1}, register=True),
            bits={("from is compared", 0): [0] * 16},
            excused=[0],
        ),
        "through is compared": Attack(
            "a grant that ends a day too early",
            _but(honest, expiry={0: last}, register=True),
            bits={("through is compared", 0): [0] * 16},
            excused=[0],
        ),
        "grants has 32 bits": Attack(
            "a grant to the site with the next number",
            _but(honest, grants={0: 0b111 + (1 << 32)}, register=True),
        ),
        "notBefore has 16 bits": Attack(
            "a grant that begins too late and ends too early, told as one day more and 65,536 less",
            _but(honest, notBefore={0: first + 1 - WRAP}, expiry={0: last + 1}, register=True),
        ),
        "expiry has 16 bits": Attack(
            "a grant whose expiry is beyond what terms can hold",
            _but(honest, expiry={0: WRAP + 5}, register=True),
        ),
    }


def _ranges(honest: Inputs) -> dict[str, Attack]:
    """Against public numbers that do not fit their places."""
    study, site, dataset = honest["study"], honest["site"], honest["dataset"]
    return {
        "required has 32 bits": Attack(
            "a required purpose hidden inside another one's bit",
            _but(honest, grants={0: 0b001}, register=True),
            bits={("required has 32 bits", 0): [0b101] + [0] * 30},
            excused=[0],
        ),
        "study has 64 bits": Attack(
            "grants used for another study, which makes them begin a day earlier",
            _but(honest, study=study + (1 << 64), notBefore=dict.fromkeys(range(8), 19999)),
        ),
        "site has 32 bits": Attack(
            "grants for one data set used for another",
            _but(honest, site=site + (1 << 32), dataset=dataset - 1),
        ),
        "dataset has 32 bits": Attack(
            "grants for one study used for another",
            _but(honest, dataset=dataset + (1 << 32), study=study - 1),
        ),
        "from has 16 bits": Attack("a day that is none", _but(honest, **{"from": WRAP + 1})),
        "through has 16 bits": Attack("a day before all days", _but(honest, through=FIELD - 5)),
    }


def _hashes(honest: Inputs, whole: System) -> dict[str, Attack]:
    """Against what binds openings, root and commitment."""
    (folded_0,) = (w for w in whole.of("the commitment folds every slot", 0)[0][0] if w)
    terms = pack_terms(0b111, SCOPE.site, SCOPE.dataset, SCOPE.study, 20000, 21142)
    stranger = dict(
        zip(PRIVATE, (leaf_of(5, terms, 6), 1, 5, 6, 0b111, 20000, 21142, 7), strict=True)
    )
    longer = _but(honest, expiry={0: 30000}, register=True)
    return {
        "the leaf is the hash of its opening": Attack(
            "a leaf opened with better terms than were granted", _but(honest, expiry={0: 30000})
        ),
        "the commitment folds every slot": Attack(
            "a commitment to nothing that was used", honest, outputs={"ds": 1}
        ),
        "the leaves hash to one root": Attack(
            "a patient who never granted, under the registry's root",
            _but(honest, **{name: {5: value} for name, value in stranger.items()}),
            guess=1,
        ),
        "the root is chunkRoot": Attack(
            "forged leaves under the registry's root", longer | {"chunkRoot": honest["chunkRoot"]}
        ),
        "the commitment begins with blind and context": Attack(
            "a proof shown again in another context",
            _but(honest, context=1),
            inner={folded_0: poseidon(honest["blind"], honest["context"])},
        ),
    }
