"""The tree is RFC 6962's: equal to the recursive definition, and every proof shows what it says."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from storage.merkle import (
    EMPTY_ROOT,
    Frontier,
    HistoryDisagrees,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
)

logs = st.lists(st.binary(max_size=4), min_size=1, max_size=40)

# The eight entries of Certificate Transparency's own test suite and the roots of its prefixes.
CT_ENTRIES = [
    bytes.fromhex(entry)
    for entry in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


# Leaf, size and path of its inclusion proofs; sizes and path of its consistency proofs.
CT_INCLUSION = [
    (0, 1, []),
    (0, 8, ["96a296d2", "5f083f0a", "6b47aaf2"]),
    (5, 8, ["bc1a0643", "ca854ea1", "d37ee418"]),
    (2, 3, ["fac54203"]),
    (1, 5, ["6e340b9c", "5f083f0a", "bc1a0643"]),
]
CT_CONSISTENCY = [
    (1, 1, []),
    (1, 8, ["96a296d2", "5f083f0a", "6b47aaf2"]),
    (6, 8, ["0ebc5d34", "ca854ea1", "d37ee418"]),
    (2, 5, ["5f083f0a", "bc1a0643"]),
]
CT_HASHES = {
    one[:8]: bytes.fromhex(one)
    for one in (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        *CT_ROOTS,
    )
}


def slow_root(entries):
    """The definition of RFC 6962, section 2.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    split = max(2**power for power in range(12) if 2**power < len(entries))
    left, right = slow_root(entries[:split]), slow_root(entries[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_the_known_roots_come_out():
    for size, expected in enumerate(CT_ROOTS):
        assert root([leaf_hash(entry) for entry in CT_ENTRIES[:size]]).hex() == expected
    assert CT_ROOTS[0] == EMPTY_ROOT.hex()


def test_the_known_proofs_come_out():
    leaves = [leaf_hash(entry) for entry in CT_ENTRIES]
    roots = [bytes.fromhex(one) for one in CT_ROOTS]
    for index, size, path in CT_INCLUSION:
        proof = [CT_HASHES[name] for name in path]
        assert inclusion_proof(leaves[:size], index) == proof
        check_inclusion(roots[size], size, index, leaves[index], proof)
    for old, size, path in CT_CONSISTENCY:
        proof = [CT_HASHES[name] for name in path]
        assert consistency_proof(leaves[:size], old) == proof
        check_consistency(old, roots[old], size, roots[size], proof)


@given(logs, st.integers(0, 40))
def test_a_frontier_grows_by_many_as_it_grows_by_one(entries, split):
    leaves = [leaf_hash(entry) for entry in entries]
    before, _ = Frontier().extend(leaves[:split])
    after, layers = before.extend(leaves[split:])
    one_by_one = Frontier()
    for leaf in leaves:
        one_by_one = one_by_one.append(leaf)
    assert after == one_by_one
    for height, nodes in enumerate(layers):
        for number, node in enumerate(nodes, start=before.size >> height):
            start = number << height
            assert start + (1 << height) <= len(leaves)
            assert node == slow_root(entries[start : start + (1 << height)])


@given(logs)
def test_the_grown_root_equals_the_recursive_definition(entries):
    frontier = Frontier()
    for size, entry in enumerate(entries):
        frontier = frontier.append(leaf_hash(entry))
        kept = Frontier.from_bytes(size + 1, frontier.to_bytes())
        assert kept == frontier
        assert kept.root() == slow_root(entries[: size + 1])


@given(logs, st.data())
def test_an_inclusion_proof_shows_its_entry_and_no_other(entries, draw):
    leaves = [leaf_hash(entry) for entry in entries]
    index = draw.draw(st.integers(0, len(leaves) - 1))
    proof = inclusion_proof(leaves, index)
    check_inclusion(root(leaves), len(leaves), index, leaves[index], proof)
    with pytest.raises(HistoryDisagrees):
        check_inclusion(root(leaves), len(leaves), index, leaf_hash(b"forged entry"), proof)
    other = draw.draw(st.integers(0, len(leaves)))
    assume(other == len(leaves) or leaves[other] != leaves[index])
    with pytest.raises(HistoryDisagrees):
        check_inclusion(root(leaves), len(leaves), other, leaves[index], proof)


@given(logs, st.data())
def test_a_damaged_inclusion_proof_is_refused(entries, draw):
    leaves = [leaf_hash(entry) for entry in entries]
    index = draw.draw(st.integers(0, len(leaves) - 1))
    proof = inclusion_proof(leaves, index)
    longer = [*proof, leaf_hash(b"")]
    with pytest.raises(HistoryDisagrees):
        check_inclusion(root(leaves), len(leaves), index, leaves[index], longer)
    if proof:
        with pytest.raises(HistoryDisagrees):
            check_inclusion(root(leaves), len(leaves), index, leaves[index], proof[:-1])


@given(logs, st.data())
def test_a_consistency_proof_shows_that_history_only_grew(entries, draw):
    leaves = [leaf_hash(entry) for entry in entries]
    old_size = draw.draw(st.integers(0, len(leaves)))
    old, new = root(leaves[:old_size]), root(leaves)
    proof = consistency_proof(leaves, old_size)
    check_consistency(old_size, old, len(leaves), new, proof)
    forged = leaf_hash(b"another history")
    with pytest.raises(HistoryDisagrees):
        check_consistency(old_size, forged, len(leaves), new, proof)
    with pytest.raises(HistoryDisagrees):
        check_consistency(old_size, old, len(leaves), new, [*proof, forged])
    if 0 < old_size < len(leaves):
        with pytest.raises(HistoryDisagrees):
            check_consistency(old_size, old, len(leaves), forged, proof)
        with pytest.raises(HistoryDisagrees):
            check_consistency(old_size, old, len(leaves), new, proof[:-1])


def test_a_longer_history_cannot_be_shown_to_begin_a_shorter_one():
    leaves = [leaf_hash(entry) for entry in CT_ENTRIES]
    with pytest.raises(HistoryDisagrees):
        check_consistency(8, root(leaves), 7, root(leaves[:7]), consistency_proof(leaves, 7))


def test_every_small_tree_proves_every_claim():
    leaves = [leaf_hash(bytes([number])) for number in range(17)]
    for size in range(1, 18):
        tree, tree_root = leaves[:size], root(leaves[:size])
        for index in range(size):
            check_inclusion(tree_root, size, index, leaves[index], inclusion_proof(tree, index))
        for old in range(size + 1):
            proof = consistency_proof(tree, old)
            check_consistency(old, root(leaves[:old]), size, tree_root, proof)
