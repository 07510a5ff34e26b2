"""Three verifiers by three authors say the same of 1,000 mutated proofs.

``zk.groth16`` (py_ecc), ``zk.fast`` (groth16py, arkworks) and snarkjs judge every one of the 1,000
mutations below, each by a full verification; py_ecc's is spared only what it has computed before,
namely Miller loops of the same two points. 130 further mutations are of the 256 bytes rather than
of the numbers in them: snarkjs reads numbers and takes them modulo q, so it cannot see those and is
not asked. What the verdict must be is known from how a mutation was made.

The mutations come from a seed. The slow tests take about two minutes; the fast one judges every
40th mutation, without snarkjs.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from py_ecc import optimized_bn128 as bn

from tests.zk.test_groth16 import Q, R, packed, square_root, words
from zk import fast, groth16, snarkjs
from zk.groth16 import ProofInvalid
from zk.keys import VerificationKey

pytestmark = pytest.mark.slow

SEED = 20777
VECTOR = Path(__file__).parents[1] / "vectors" / "zk" / "snarkjs_cover8.json"
COFACTOR_PRIME = 10069
"""The least prime factor of the twist's cofactor 2q - r."""
VALID = "randomised: still valid"

# How many mutations of each kind. The first group is shown to all three verifiers.
NUMBERS = {
    "one byte of the proof changed": 260,
    "a public input changed": 60,
    "a public input written r, 2r, .. larger": 150,
    "two words of the proof exchanged": 120,
    "words of the proof set to zero": 110,
    "B elsewhere on the twist": 70,
    "B moved by a point of small order": 50,
    "a point moved within its group": 40,
    "a point of another proof": 30,
    "another statement's inputs": 10,
    VALID: 100,
}
BYTES = {"a coordinate written q, 2q, .. larger": 90, "another length": 40}


@dataclass(frozen=True)
class Mutation:
    kind: str
    numbers: tuple[int, ...]
    proof: bytes

    @property
    def valid(self):
        return self.kind == VALID

    def public_inputs(self):
        """As a statement gives them: verifiers must not rely on its having checked them."""
        return list(self.numbers)


def g1(x, y):
    return bn.FQ(x), bn.FQ(y), bn.FQ.one()


def g2(x, y):
    return bn.FQ2(list(x)), bn.FQ2(list(y)), bn.FQ2.one()


def points(proof):
    n = words(proof)
    return g1(n[0], n[1]), g2((n[3], n[2]), (n[5], n[4])), g1(n[6], n[7])


def encoded(A, B, C):
    (ax, ay), (bx, by), (cx, cy) = (bn.normalize(point) for point in (A, B, C))
    (bx0, bx1), (by0, by1) = bx.coeffs, by.coeffs
    return packed([int(k) for k in (ax, ay, bx1, bx0, by1, by0, cx, cy)])


def on_the_twist(draw):
    """A random point that satisfies the twist's equation; its order is that of the whole group."""
    while True:
        x = bn.FQ2([draw.randrange(Q), draw.randrange(Q)])
        try:
            y = square_root(*(int(c) for c in (x * x * x + bn.b2).coeffs))
        except AssertionError:
            continue
        return x, bn.FQ2(list(y)), bn.FQ2.one()


class Mutator:
    """Draws mutations of a proof, given a second proof under the same key."""

    def __init__(self, vk, proven, proven_again):
        self.vk = vk
        self.draw = random.Random(SEED)
        self.numbers = proven[0].public_inputs()
        self.proof = proven[1]
        self.other_numbers = proven_again[0].public_inputs()
        self.other_proof = proven_again[1]
        self.A, self.B, self.C = points(self.proof)
        small = bn.multiply(on_the_twist(self.draw), (2 * Q - R) // COFACTOR_PRIME * R)
        assert bn.is_inf(bn.multiply(small, COFACTOR_PRIME))
        assert not bn.is_inf(small)
        self.small = small

    def make(self, kind):
        numbers, proof = METHODS[kind](self)
        return Mutation(kind, tuple(numbers), proof)

    def _byte(self):
        proof = bytearray(self.proof)
        proof[self.draw.randrange(256)] ^= self.draw.randrange(1, 256)
        return self.numbers, bytes(proof)

    def _public(self):
        numbers, position = list(self.numbers), self.draw.randrange(10)
        numbers[position] = self.draw.choice(
            [numbers[position] ^ 1, (numbers[position] + 1) % R, self.draw.randrange(R)]
        )
        return numbers, self.proof

    def _public_plus_r(self):
        numbers = list(self.numbers)
        numbers[self.draw.randrange(10)] += self.draw.randrange(1, 6) * R
        return numbers, self.proof

    def _exchange(self):
        n = words(self.proof)
        i, j = self.draw.sample(range(8), 2)
        n[i], n[j] = n[j], n[i]
        return self.numbers, packed(n)

    def _zero(self):
        n = words(self.proof)
        for place in self.draw.choice(
            [[0, 1], [2, 3, 4, 5], [6, 7], range(8), [self.draw.randrange(8)]]
        ):
            n[place] = 0
        return self.numbers, packed(n)

    def _twist(self):
        return self.numbers, encoded(self.A, on_the_twist(self.draw), self.C)

    def _small_order(self):
        moved = bn.multiply(self.small, self.draw.randrange(1, COFACTOR_PRIME))
        return self.numbers, encoded(self.A, bn.add(self.B, moved), self.C)

    def _moved(self):
        A, B, C = self.A, self.B, self.C
        by = self.draw.randrange(1, 1 << 16)
        A, B, C = self.draw.choice(
            [
                (bn.add(A, bn.multiply(bn.G1, by)), B, C),
                (A, bn.add(B, bn.multiply(bn.G2, by)), C),
                (A, B, bn.add(C, bn.multiply(bn.G1, by))),
                (bn.neg(A), B, C),
                (A, bn.neg(B), C),
                (A, B, bn.neg(C)),
                (C, B, A),
            ]
        )
        return self.numbers, encoded(A, B, C)

    def _foreign_point(self):
        n, other = words(self.proof), words(self.other_proof)
        for place in self.draw.choice([[0, 1], [2, 3, 4, 5], [6, 7], range(6), range(2, 8)]):
            n[place] = other[place]
        return self.numbers, packed(n)

    def _other_statement(self):
        if self.draw.random() < 0.5:
            return self.other_numbers, self.proof
        return self.numbers, self.other_proof

    def _randomised(self):
        """(A / k, k B + k m delta, C + m A): what anybody can do to a proof [1].

        [1] Bowe, Gabizon, Making Groth's zk-SNARK Simulation Extractable in the Random Oracle
        Model, ePrint 2018/187, section 1.
        """
        k, m = self.draw.randrange(1, R), self.draw.randrange(1 << 64)
        delta = g2(*self.vk.delta_2)
        A = bn.multiply(self.A, pow(k, -1, R))
        B = bn.multiply(bn.add(self.B, bn.multiply(delta, m)), k)
        return self.numbers, encoded(A, B, bn.add(self.C, bn.multiply(self.A, m)))

    def _coordinate_plus_q(self):
        n = words(self.proof)
        n[self.draw.randrange(8)] += self.draw.randrange(1, 5) * Q
        return self.numbers, packed(n)

    def _length(self):
        return self.numbers, (self.proof * 2)[: self.draw.choice([0, *range(1, 256), 257, 512])]


METHODS = {
    "one byte of the proof changed": Mutator._byte,
    "a public input changed": Mutator._public,
    "a public input written r, 2r, .. larger": Mutator._public_plus_r,
    "two words of the proof exchanged": Mutator._exchange,
    "words of the proof set to zero": Mutator._zero,
    "B elsewhere on the twist": Mutator._twist,
    "B moved by a point of small order": Mutator._small_order,
    "a point moved within its group": Mutator._moved,
    "a point of another proof": Mutator._foreign_point,
    "another statement's inputs": Mutator._other_statement,
    VALID: Mutator._randomised,
    "a coordinate written q, 2q, .. larger": Mutator._coordinate_plus_q,
    "another length": Mutator._length,
}


@pytest.fixture(scope="module")
def mutate(vk, proven, proven_again):
    """``mutate(kinds, every)`` draws the mutations of these kinds, or every so manieth."""

    def draw(kinds, every=1):
        mutator = Mutator(vk, proven, proven_again)
        return [
            mutator.make(kind) for kind, count in kinds.items() for _ in range(-(-count // every))
        ]

    return draw


def accepts(verify, mutation):
    try:
        verify(mutation)
    except ProofInvalid:
        return False
    return True


def fast_verdicts(vk, mutations):
    return [accepts(lambda one: fast.verify(vk, one, one.proof), one) for one in mutations]


@pytest.fixture
def remembering(monkeypatch):
    """py_ecc with a memory: the Miller loop of two points is computed once."""

    @lru_cache(maxsize=4096)
    def miller(x2, y2, x1, y1):
        return bn.pairing(g2(x2, y2), g1(x1, y1), final_exponentiate=False)

    def pairing(Q2, P1, *, final_exponentiate):
        assert not final_exponentiate
        if bn.is_inf(P1):
            return bn.pairing(Q2, P1, final_exponentiate=False)
        (x2, y2), (x1, y1) = bn.normalize(Q2), bn.normalize(P1)
        return miller(tuple(map(int, x2.coeffs)), tuple(map(int, y2.coeffs)), int(x1), int(y1))

    remembered = SimpleNamespace(
        **{name: getattr(bn, name) for name in dir(bn)} | {"pairing": pairing}
    )
    monkeypatch.setattr(groth16, "bn", remembered)


def reference_verdicts(vk, mutations):
    return [accepts(lambda one: groth16.verify(vk, one, one.proof), one) for one in mutations]


SCRIPT = """
const snarkjs = require("snarkjs");
const lines = require("readline").createInterface({ input: process.stdin });
(async () => {
  let vk = null;
  for await (const line of lines) {
    const asked = JSON.parse(line);
    if (vk === null) { vk = asked; continue; }
    console.log(await snarkjs.groth16.verify(vk, asked.public, asked.proof));
  }
  process.exit(0);
})();
"""


def snarkjs_verdicts(vk, mutations):
    """What snarkjs says to each, in one process of node."""
    try:
        found = snarkjs.Snarkjs.find()
    except snarkjs.SnarkjsMissing as missing:
        pytest.skip(str(missing))
    asked = [
        json.dumps(
            {"public": [str(n) for n in one.numbers], "proof": snarkjs.proof_json(one.proof)}
        )
        for one in mutations
    ]
    ended = subprocess.run(
        [found.node, "-e", SCRIPT],
        input="\n".join([vk.snarkjs(), *asked]) + "\n",
        env={"NODE_PATH": str(snarkjs.MODULES), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [{"true": True, "false": False}[word] for word in ended.stdout.split()]


def differing(mutations, verdicts):
    """The kinds of mutations judged otherwise than they must be."""
    assert len(mutations) == len(verdicts)
    pairs = zip(mutations, verdicts, strict=True)
    return Counter(one.kind for one, verdict in pairs if verdict != one.valid)


def test_1000_mutations_are_planned_for_all_three():
    assert sum(NUMBERS.values()) == 1000
    assert sum(BYTES.values()) == 130


def test_every_40th_mutation_is_judged_alike_by_two(vk, mutate, remembering):
    mutations = mutate(NUMBERS | BYTES, every=40)
    assert not differing(mutations, fast_verdicts(vk, mutations))
    assert not differing(mutations, reference_verdicts(vk, mutations))


def test_the_fast_verifier_is_right_about_all_of_them(vk, mutate):
    mutations = mutate(NUMBERS | BYTES)
    assert not differing(mutations, fast_verdicts(vk, mutations))


@pytest.mark.exhaustive
def test_the_reference_is_right_about_all_of_them(vk, mutate, remembering):
    mutations = mutate(NUMBERS | BYTES)
    assert not differing(mutations, reference_verdicts(vk, mutations))


def test_snarkjs_is_right_about_the_1000(vk, mutate):
    mutations = mutate(NUMBERS)
    assert len(mutations) == 1000
    assert not differing(mutations, snarkjs_verdicts(vk, mutations))


def test_snarkjs_does_not_see_how_a_coordinate_was_written(vk, mutate):
    """Why the other two must look at bytes: to snarkjs these are all the honest proof."""
    mutations = mutate({"a coordinate written q, 2q, .. larger": 10})
    assert snarkjs_verdicts(vk, mutations) == [True] * 10
    assert fast_verdicts(vk, mutations) == [False] * 10


@pytest.mark.parametrize("verifier", [groth16, fast], ids=["reference", "fast"])
def test_a_proof_that_snarkjs_made_verifies(verifier):
    """Key and proof are snarkjs's, of cover8; only the key's status is ours."""
    vector = json.loads(VECTOR.read_text())
    vk = VerificationKey.from_json(json.dumps(vector["verification_key"]), status="development")
    made = Mutation(
        "by snarkjs",
        tuple(int(number) for number in vector["public"]),
        snarkjs.proof_bytes(vector["proof"]),
    )
    verifier.verify(vk, made, made.proof)
    other = Mutation("", (*made.numbers[:-1], made.numbers[-1] ^ 1), made.proof)
    with pytest.raises(ProofInvalid, match="pairing"):
        verifier.verify(vk, other, made.proof)
