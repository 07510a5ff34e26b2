"""Both verifiers accept a proof for its own statement, in canonical form, and for nothing else."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from py_ecc import optimized_bn128 as bn

from zk import fast, groth16
from zk.cover import CoverStatement, FieldOutOfRange, StatementMalformed
from zk.groth16 import ProofInvalid
from zk.keys import ProverMissing

pytestmark = pytest.mark.slow

R, Q = bn.curve_order, bn.field_modulus


@pytest.fixture(params=[groth16, fast], ids=["reference", "fast"])
def verifier(request):
    return request.param


def words(proof):
    return [int.from_bytes(proof[i : i + 32], "big") for i in range(0, 256, 32)]


def packed(numbers):
    return b"".join(number.to_bytes(32, "big") for number in numbers)


def malleated(proof, factor=12345):
    """Another proof of the same statement that anybody can make: (k A, B / k, C)."""
    n = words(proof)
    A = (bn.FQ(n[0]), bn.FQ(n[1]), bn.FQ.one())
    B = (bn.FQ2([n[3], n[2]]), bn.FQ2([n[5], n[4]]), bn.FQ2.one())
    ax, ay = bn.normalize(bn.multiply(A, factor))
    bx, by = bn.normalize(bn.multiply(B, pow(factor, -1, R)))
    (bx0, bx1), (by0, by1) = bx.coeffs, by.coeffs
    return packed([int(k) for k in (ax, ay, bx1, bx0, by1, by0, *n[6:])])


def test_a_proof_verifies(verifier, vk, proven):
    verifier.verify(vk, *proven)


def with_input_changed(statement, position):
    numbers = statement.public_inputs()
    numbers[position] ^= 1
    return CoverStatement.from_public_inputs(numbers)


@pytest.mark.parametrize("position", range(10))
def test_every_public_input_is_bound(vk, proven, position):
    with pytest.raises(ProofInvalid, match="pairing"):
        fast.verify(vk, with_input_changed(proven[0], position), proven[1])


@pytest.mark.parametrize("position", range(10))
def test_every_public_input_is_bound_for_the_reference_too(vk, proven, position):
    with pytest.raises(ProofInvalid, match="pairing"):
        groth16.verify(vk, with_input_changed(proven[0], position), proven[1])


def test_a_proof_of_another_statement_is_refused(verifier, vk, proven, proven_again):
    with pytest.raises(ProofInvalid, match="pairing"):
        verifier.verify(vk, proven[0], proven_again[1])


def test_a_proof_under_another_key_is_refused(verifier, vk, proven):
    shuffled = replace(vk, ic=(*vk.ic[:-2], vk.ic[-1], vk.ic[-2]))
    with pytest.raises(ProofInvalid, match="pairing"):
        verifier.verify(shuffled, *proven)


def test_a_key_for_another_number_of_inputs_is_refused(verifier, vk, proven):
    with pytest.raises(ProofInvalid, match="takes 9"):
        verifier.verify(replace(vk, ic=vk.ic[:-1]), *proven)


def test_a_malleated_proof_verifies_for_a_statement_of_the_same_name(verifier, vk, proven):
    statement, proof = proven
    other = malleated(proof)
    assert other != proof
    verifier.verify(vk, statement, other)
    again = CoverStatement.from_public_inputs(statement.public_inputs())
    assert again.digest() == statement.digest()


def test_a_public_input_that_is_not_reduced_is_refused(verifier, vk, proven):
    statement, proof = proven
    same_to_the_pairing = replace(statement, records_commitment=statement.records_commitment + R)
    with pytest.raises(ProofInvalid, match="public input"):
        verifier.verify(vk, same_to_the_pairing, proof)


@pytest.mark.parametrize("word", range(8))
def test_a_coordinate_that_is_not_reduced_is_refused(verifier, vk, proven, word):
    numbers = words(proven[1])
    numbers[word] += Q
    with pytest.raises(ProofInvalid, match="point"):
        verifier.verify(vk, proven[0], packed(numbers))


@pytest.mark.parametrize("word", range(8))
def test_a_point_off_the_curve_is_refused(verifier, vk, proven, word):
    numbers = words(proven[1])
    numbers[word] ^= 1
    with pytest.raises(ProofInvalid, match="point"):
        verifier.verify(vk, proven[0], packed(numbers))


def test_infinity_is_refused(verifier, vk, proven):
    numbers = words(proven[1])
    for zeros in ([0, 1], [2, 3, 4, 5], [6, 7]):
        zeroed = [0 if i in zeros else number for i, number in enumerate(numbers)]
        with pytest.raises(ProofInvalid):
            verifier.verify(vk, proven[0], packed(zeroed))


def test_a_point_outside_the_subgroup_is_refused(verifier, vk, proven):
    # x = 1 (real) has a square root on the twist; the point's order is not r (asserted).
    x = bn.FQ2([1, 0])
    a, b = (int(c) for c in (x * x * x + bn.b2).coeffs)
    y = square_root(a, b)
    point = (x, bn.FQ2(list(y)), bn.FQ2.one())
    assert bn.is_on_curve(point, bn.b2)
    assert not bn.is_inf(bn.multiply(point, R))
    n = words(proven[1])
    with pytest.raises(ProofInvalid):
        verifier.verify(vk, proven[0], packed([*n[:2], 0, 1, y[1], y[0], *n[6:]]))


def square_root(a, b):
    """A square root of a + b i in the quadratic extension, by the complex method."""
    norm = pow(a * a + b * b, (Q + 1) // 4, Q)
    for root in (norm, -norm):
        half = (a + root) * pow(2, -1, Q) % Q
        real = pow(half, (Q + 1) // 4, Q)
        if real and real * real % Q == half:
            return real, b * pow(2 * real, -1, Q) % Q
    raise AssertionError("not a square")


@pytest.mark.parametrize("length", [0, 1, 128, 255, 257, 512])
def test_a_proof_of_another_length_is_refused(verifier, vk, proven, length):
    with pytest.raises(ProofInvalid, match="bytes"):
        verifier.verify(vk, proven[0], (proven[1] * 2)[:length])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 255), st.integers(1, 255))
def test_a_proof_with_one_changed_byte_is_refused_by_both(vk, proven, position, difference):
    changed = bytearray(proven[1])
    changed[position] ^= difference
    for verifier in (groth16, fast):
        with pytest.raises(ProofInvalid):
            verifier.verify(vk, proven[0], bytes(changed))


def test_a_batch_of_good_proofs_verifies(verifier, vk, proven, proven_again):
    verifier.verify_many(vk, [proven, proven_again, (proven[0], malleated(proven[1]))])
    verifier.verify_many(vk, [])


def test_the_bad_proof_of_a_batch_is_named(verifier, vk, proven, proven_again):
    bad, batch = 1, [proven, proven_again]
    batch[bad] = (replace(batch[bad][0], count=1), batch[bad][1])
    with pytest.raises(ProofInvalid, match="pairing") as refused:
        verifier.verify_many(vk, batch)
    assert refused.value.index == bad


def test_a_malformed_proof_of_a_batch_is_named(verifier, vk, proven):
    with pytest.raises(ProofInvalid, match="bytes") as refused:
        verifier.verify_many(vk, [proven, (proven[0], b"")])
    assert refused.value.index == 1


def test_two_bad_proofs_that_cancel_without_random_weights_are_refused(vk, proven):
    """C + D and C - D: the plain product of the two equations holds, the random one does not."""
    statement, proof = proven
    n = words(proof)
    C = (bn.FQ(n[6]), bn.FQ(n[7]), bn.FQ.one())
    pair = []
    for shift in (bn.G1, bn.neg(bn.G1)):
        x, y = bn.normalize(bn.add(C, shift))
        pair.append((statement, packed([*n[:6], int(x), int(y)])))
    groth16.verify_many(vk, pair, random_bits=lambda _bits: 1)
    with pytest.raises(ProofInvalid):
        groth16.verify_many(vk, pair)


def test_without_the_library_the_fast_verifier_says_so(vk, proven, monkeypatch):
    fast._verifier.cache_clear()
    monkeypatch.setitem(sys.modules, "groth16py", None)
    with pytest.raises(ProverMissing):
        fast.verify(vk, *proven)


def test_a_statement_cannot_be_made_of_what_a_verifier_would_reduce(proven):
    numbers = proven[0].public_inputs()
    for position in range(10):
        beyond = [n + R if i == position else n for i, n in enumerate(numbers)]
        with pytest.raises((StatementMalformed, FieldOutOfRange)):
            CoverStatement.from_public_inputs(beyond)
