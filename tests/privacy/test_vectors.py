"""The published vectors of the secure sum are what the twins make and what we compute."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl_client import group_keys, masking, summation
from privacy import bfv, commitment, key_generation, keys, polynomial_sharing, residues, threshold
from privacy.bfv import EncryptedSum, EncryptedUpdate, ServerContext
from privacy.masks import apply, pad_sum, pair_pad_key, self_pad_key
from privacy.packing import pack
from privacy.parameters import parameter_set
from privacy.quantisation import QuantisedUpdate
from privacy.ring import ring
from privacy.round_secrets import (
    Reveal,
    RoundSecrets,
    SharePair,
    _private_key,
    leftover,
    reveal,
    total_pad,
)
from privacy.sharing import join, quorum
from privacy.signatures import check_signature
from privacy.tags import Coefficients, check_tags, tag
from privacy.wire import MalformedCiphertext
from protocol.canonical import canonical, digest, read
from protocol.errors import PrivacyError
from protocol.messages import Manifest, Receipt, RoundCall, RoundKey
from protocol.summation import (
    Commitment,
    DealtKey,
    Endorsement,
    KeyCommitment,
    KeyPart,
    KeyRequest,
    Opening,
    Partial,
    Unmasking,
)
from tests.privacy import mask_twin, vector_twin
from tests.privacy.vectors_made import (
    MADE,
    MEMBERS,
    QUORUM,
    REFUSED,
    SITES,
    THRESHOLD,
    WORDS,
    hexes,
    load,
    made_containers,
)

pytestmark = pytest.mark.slow

SHAPES = {
    "call": RoundCall,
    "round_key": RoundKey,
    "receipt": Receipt,
    "commitment": Commitment,
    "endorsement": Endorsement,
    "unmasking": Unmasking,
    "partial": Partial,
    "opening": Opening,
    "manifest": Manifest,
    "dealt_key": DealtKey,
    "key_commitment": KeyCommitment,
    "key_part": KeyPart,
}


@pytest.mark.parametrize("name", MADE)
def test_the_vectors_are_what_the_twins_make(name):
    assert json.loads(json.dumps(MADE[name]())) == load(name)


@pytest.fixture(scope="module")
def round_():
    return load("round")


@pytest.fixture(scope="module")
def group():
    return load("group-key")


@pytest.fixture(scope="module")
def secrets_of(round_):
    return {
        site: RoundSecrets(bytes.fromhex(one["self_seed"]), bytes.fromhex(one["round_seed"]))
        for site, one in round_["secrets"].items()
    }


def test_quorums(round_):
    assert {str(n): quorum(n) for n in map(int, round_["quorum"])} == round_["quorum"]


@pytest.mark.parametrize("holders", [(0, 1, 2), (4, 2, 0), (1, 3, 4)])
def test_shares_join_to_the_secret(round_, holders):
    sharing = round_["sharing"]
    shares = {i: bytes.fromhex(sharing["shares"][i]) for i in holders}
    assert join(shares, threshold=sharing["threshold"]).hex() == sharing["coefficients"][0]


def test_what_is_announced_of_round_secrets(round_, secrets_of):
    for site, secrets in secrets_of.items():
        expected = round_["secrets"][site]
        assert _private_key(secrets.round_seed).private_bytes_raw().hex() == expected["round_key"]
        assert secrets.public.public_key.hex() == expected["public_key"]
        assert secrets.public.seed_sha256 == expected["seed_sha256"]


def test_pads(round_, secrets_of):
    pads, context = round_["pads"], bytes.fromhex(round_["pads"]["context"])
    grown = {"size": WORDS, "parameters": parameter_set(pads["parameters"])}
    publics = {site: one.public for site, one in secrets_of.items()}
    for site, words in pads["self"].items():
        key = self_pad_key(secrets_of[site].self_seed, site, context=context)
        assert pad_sum([key], [], **grown).tolist() == words
    for both, words in pads["pair"].items():
        one, other = both.split()
        private = _private_key(secrets_of[one].round_seed)
        key = pair_pad_key(private, one, publics[other].public_key, other, context=context)
        assert pad_sum([key], [], **grown).tolist() == words
    for site, words in pads["total"].items():
        found = total_pad(secrets_of[site], site, publics, context=context, **grown)
        assert found.tolist() == words


def test_what_is_left_in_a_sum(round_, secrets_of):
    expected = round_["pads"]["leftover"]
    present = frozenset(expected["present"])
    absent = frozenset(SITES) - present
    dealt = {
        site: [
            SharePair(
                *(
                    mask_twin.share_at([int.from_bytes(seed), 3, 5], x).to_bytes(33)
                    for seed in (one.self_seed, one.round_seed)
                )
            )
            for x in range(1, 5)
        ]
        for site, one in secrets_of.items()
    }
    reveals = {
        holder: reveal(
            secrets_of[holder],
            holder,
            {dealer: dealt[dealer][place] for dealer in SITES},
            present=present,
            absent=absent,
        )
        for place, holder in enumerate(SITES)
    }
    found = leftover(
        {site: one.public for site, one in secrets_of.items()},
        reveals,
        holders=SITES,
        threshold=THRESHOLD,
        present=present,
        absent=absent,
        context=bytes.fromhex(round_["pads"]["context"]),
        size=WORDS,
        parameters=MEMBERS,
    )
    assert found.pad.tolist() == expected["words"]
    assert found.liars == ()


def test_bytes_of_shares_and_reveals(round_):
    pair = SharePair.from_bytes(bytes.fromhex(round_["share_pair"]))
    assert pair.to_bytes().hex() == round_["share_pair"]
    expected = round_["reveal"]
    shown = Reveal.from_bytes(bytes.fromhex(expected["bytes"]))
    assert shown.self_seed.hex() == expected["self_seed"]
    for kind in ("self_shares", "round_shares"):
        found = {site: share.hex() for site, share in getattr(shown, kind).items()}
        assert found == expected[kind]


def test_an_envelope_opens_for_its_recipient_alone(round_):
    given = round_["envelope"]
    context = masking._shares_context(hexes("call"), "north", "south")
    assert context.decode() == given["context"]
    shown = summation._reveal_context(hexes("commitment"), "north", "south")
    assert shown.decode() == given["reveal_context"]
    sender, recipient = (
        X25519PrivateKey.from_private_bytes(bytes.fromhex(given[f"{who}_private"]))
        for who in ("sender", "recipient")
    )
    public, sealed = sender.public_key().public_bytes_raw(), bytes.fromhex(given["bytes"])
    assert keys.unwrap(sealed, public, recipient, context=context).hex() == given["secret"]
    with pytest.raises(keys.KeyUnwrapFailed):
        keys.unwrap(sealed, public, recipient, context=context + b"x")


@pytest.mark.parametrize("name", [one for one in SHAPES if "key" not in one] + ["round_key"])
def test_messages_of_a_round(round_, name):
    check_message(name, round_["messages"]["bodies"], round_["messages"])


@pytest.mark.parametrize("name", ["dealt_key", "key_commitment", "key_part"])
def test_messages_of_a_group_key(group, name):
    check_message(name, group["messages"], group)


def check_message(name, bodies, vectors):
    message = read(SHAPES[name], bodies[name])
    assert digest(message) == vectors["digests"][name]
    assert json.loads(canonical(message)) == bodies[name]
    who = getattr(message, "site", getattr(message, "dealer", "server"))
    signed = (message.site_signature, message.site_bytes()) if name == "receipt" else None
    signature, told = signed or (message.signature, message.signed_bytes())
    check_signature(bytes.fromhex(vectors["keys"][who]), signature, told, what=name, who=who)


def test_the_root_of_uploads_and_the_challenge(round_):
    committed = read(Commitment, round_["messages"]["bodies"]["commitment"])
    assert commitment.uploads_root(committed.receipts) == committed.uploads_root
    endorsements = [read(Endorsement, one) for one in round_["messages"]["endorsements"]]
    found = commitment.challenge(committed, endorsements)
    assert found.hex() == round_["messages"]["challenge"]


def test_slots_of_packed_values():
    expected = load("ciphertext")["packing"]
    values = QuantisedUpdate(np.array(expected["values"], dtype=np.int16), 8, 0)
    packed = pack(values, expected["weight"], parameter_set(expected["parameters"]))
    assert packed.words[: len(expected["slots"])].tolist() == expected["slots"]
    assert not packed.words[len(expected["slots"]) :].any()
    assert apply(packed, []).words.tolist() == packed.words.tolist()


def test_the_expansion_of_a_seed():
    expected = load("ciphertext")["expansion"]
    blank = np.zeros((1, 1, 1, MEMBERS.ring_degree), dtype=np.uint64)
    sent = residues.Residues(blank, (bytes.fromhex(expected["seed"]),))
    found = ring(MEMBERS).expanded(sent)[0, 1, 0]
    assert [str(one) for one in found[:4]] == expected["first"]
    assert vector_twin.sha256(found.astype("<u8").tobytes()) == expected["sha256"]


@dataclass(frozen=True)
class Containers:
    """One parameter set's uploads and sum, as bytes, beside what is published of them."""

    expected: dict
    uploads: list
    total: bytes


@pytest.fixture(scope="module", params=[0, 1], ids=["members", "threshold"])
def containers(request):
    expected = load("ciphertext")["containers"][request.param]
    _, uploads, total = made_containers(parameter_set(expected["parameters"]))
    return Containers(expected, uploads, total)


def test_uploads_add_up_to_the_sum_and_so_do_their_tags(containers):
    expected = containers.expected
    parameters = parameter_set(expected["parameters"])
    challenge = bytes.fromhex(expected["challenge"])
    names = {"key_id": "0" * 16, "parameters": parameters.name, "length": expected["length"]}
    updates = [EncryptedUpdate(blob, **names) for blob in containers.uploads]
    for update, published in zip(updates, expected["uploads"], strict=True):
        assert vector_twin.sha256(update.blob) == published["sha256"]
        found = tag(update, challenge, parameters)
        assert [str(part) for part in found] == published["tag"]
    total = ServerContext(parameters).add(updates)
    assert total == EncryptedSum(containers.total, sites=2, **names)
    assert vector_twin.sha256(total.blob) == expected["sum"]["sha256"]
    told = [tuple(map(int, one["tag"])) for one in expected["uploads"]]
    check_tags(total, told, challenge, parameters)


def test_coefficients_of_tags(containers):
    challenge = bytes.fromhex(containers.expected["challenge"])
    for published in containers.expected["coefficients"]:
        vector = Coefficients(challenge, int(published["prime"]), published["vector"])
        found = vector.next(len(published["first"]))
        assert [str(one) for one in found] == published["first"]


@pytest.mark.parametrize("case", REFUSED, ids=lambda one: one["desc"])
def test_what_a_reader_refuses(case):
    blob = bytearray(made_containers(MEMBERS)[1][0])
    if "xor" in case:
        blob[case["offset"]] ^= int(case["xor"], 16)
    if "set" in case:
        new = bytes.fromhex(case["set"]) * case.get("times", 1)
        blob[case["offset"] : case["offset"] + len(new)] = new
    blob = bytes(blob)[: len(blob) - case.get("cut", 0)] + bytes.fromhex(case.get("append", ""))
    with pytest.raises(MalformedCiphertext) as refused:
        residues.read(blob, residues.Kind.UPLOAD_SEEDED, 40, MEMBERS)
    assert refused.value.code == "ciphertext-malformed"


def test_the_name_and_the_seal_of_a_members_key(group):
    expected = group["member"]
    secret, kek = (bytes.fromhex(expected[name]) for name in ("secret", "wrapping_key"))
    assert bfv._key_id(secret, parameter_set(expected["parameters"])) == expected["key_id"]
    dealt = read(DealtKey, group["messages"]["dealt_key"])
    context = group_keys._key_context(dealt)
    assert context.decode() == expected["context"]
    assert keys.seal(secret, kek, context=context).hex() == expected["sealed"]
    assert keys.unseal(bytes.fromhex(expected["sealed"]), kek, context=context) == secret
    assert group_keys._copy_context(dealt, "north").decode() == expected["copy_context"]
    found = group_keys._share_context(dealt.key_id, "north", "south")
    assert found.decode() == expected["share_context"]


def test_what_commitments_and_parts_are_bound_to(group):
    of = [read(KeyCommitment, one) for one in group["commitments"]["of"]]
    together = group_keys._together({one.site: one for one in of})
    assert together == group["commitments"]["together"]
    part = read(KeyPart, group["messages"]["key_part"])
    found = group_keys._part_context(part, "south")
    assert found.decode() == group["collective"]["part_context"]


def test_a_collective_key_is_named_by_its_parts_and_its_polynomial_hashed(group):
    expected = group["collective"]
    asked = KeyRequest(terms=hexes("terms"), study="vectors", epoch=2, sites=tuple(SITES))
    context = group_keys._context(asked)
    assert context.decode() == expected["context"]
    bound = key_generation._context_digest(QUORUM, context)
    assert bound.hex() == expected["context_digest"]
    common = key_generation.common_polynomial(QUORUM, bound)
    assert [[str(one) for one in row[:2]] for row in common] == expected["common_first"]
    hashes = [vector_twin.sha256(row.astype("<u8").tobytes()) for row in common]
    assert hashes == expected["common_sha256"]
    parts = [bytes.fromhex(one) for one in expected["parts"]]
    assert key_generation._key_id(parts) == expected["key_id"]


def test_a_decryption_share_names_its_sum_and_quorum(group):
    given = group["collective"]["share_heading"]
    total = SimpleNamespace(
        key_id=given["key_id"],
        parameters=QUORUM.name,
        length=given["length"],
        sites=given["sites"],
        blob=bytes.fromhex(given["sum"]),
    )
    members = threshold._members(given["quorum"], 4)
    heading = threshold._Heading(
        given["index"], members, given["ciphertexts"], threshold._digest(total)
    )
    assert heading.to_bytes().hex() == given["bytes"]
    weights = group["collective"]["weights"]
    for holder, expected in zip(weights["quorum"], weights["of"], strict=True):
        found = polynomial_sharing.weights(holder, weights["quorum"], QUORUM.data_modulus)
        assert [str(one) for one in found[:, 0]] == expected


def test_a_reveal_of_both_secrets_of_one_site_is_refused(round_):
    blob = bytes.fromhex(round_["reveal"]["bytes"])
    entry = 40 + 33
    doubled = blob[:-entry] + b"east".ljust(40, b"\0") + blob[-33:]
    with pytest.raises(PrivacyError) as refused:
        Reveal.from_bytes(doubled)
    assert refused.value.code == "both-secrets-asked"
