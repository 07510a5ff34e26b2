"""The messages of a secure sum are read back as written, and refused with the field named."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import messages, summation
from protocol.canonical import MalformedMessage, SignedMessage, body, canonical, digest, read
from protocol.messages import Receipt, RoundCall, RoundKey
from protocol.summation import (
    Commitment,
    DealtKey,
    Endorsement,
    KeyCommitment,
    KeyPart,
    KeyRequest,
    Opening,
    Partial,
    ShareRequest,
    Unmasking,
)
from protocol.terms import SITES_MAX

HASH = "ab" * 32
SIGNATURE = "cd" * 64
SITES = ["east", "north", "south"]


def receipt(site):
    return {
        "study": "busi",
        "round": 3,
        "site": site,
        "ciphertext_sha256": HASH,
        "consent_root": "7",
        "certificates": [],
        "proven_patients": 41,
        "gradients": 32,
        "epsilon_spent": "1",
        "delta": "0.00001",
        "clipping_norm": "1",
        "model_sha256": HASH,
        "site_key": "01" * 32,
        "site_signature": SIGNATURE,
        "server_signature": "",
    }


WRITTEN = {
    RoundCall: {
        "study": "busi",
        "terms": HASH,
        "round": 3,
        "sites": SITES,
        "previous": HASH,
        "signature": SIGNATURE,
    },
    Commitment: {
        "study": "busi",
        "round": 3,
        "plan": HASH,
        "key_id": "0123456789abcdef",
        "length": 40,
        "uploads_root": HASH,
        "sum_sha256": HASH,
        "receipts": [receipt(site) for site in SITES],
        "signature": SIGNATURE,
    },
    Endorsement: {"site": "north", "commitment": HASH, "nonce": HASH, "signature": SIGNATURE},
    Unmasking: {
        "site": "north",
        "commitment": HASH,
        "challenge": HASH,
        "tag": ["0", "1152921504606830592"],
        "signature": SIGNATURE,
    },
    Partial: {
        "site": "north",
        "commitment": HASH,
        "quorum": SITES,
        "share_sha256": HASH,
        "signature": SIGNATURE,
    },
    Opening: {
        "site": "north",
        "commitment": HASH,
        "integers_sha256": HASH,
        "weight": 123,
        "signature": SIGNATURE,
    },
    DealtKey: {
        "study": "busi",
        "epoch": 1,
        "dealer": "north",
        "sites": SITES,
        "threshold": 3,
        "key_id": "0123456789abcdef",
        "sealed_sha256": HASH,
        "signature": SIGNATURE,
    },
    KeyCommitment: {
        "site": "north",
        "study": "busi",
        "epoch": 1,
        "sites": SITES,
        "public_sha256": HASH,
        "signature": SIGNATURE,
    },
    KeyPart: {
        "site": "north",
        "study": "busi",
        "epoch": 1,
        "commitments": HASH,
        "signature": SIGNATURE,
    },
    KeyRequest: {"terms": HASH, "study": "busi", "epoch": 1, "sites": SITES},
    ShareRequest: {"key_id": "0123456789abcdef", "recipient": "north"},
}
every_kind = pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.__name__)
signed_kinds = [kind for kind in WRITTEN if issubclass(kind, SignedMessage)]


@every_kind
def test_a_message_is_read_back_as_it_was_written(kind):
    message = read(kind, WRITTEN[kind])
    assert body(message) == WRITTEN[kind]
    assert read(kind, json.loads(canonical(message))) == message


@every_kind
def test_a_message_without_a_field_or_with_one_more_is_refused_by_its_name(kind):
    for field in set(WRITTEN[kind]) - {"signature"}:
        less = {name: value for name, value in WRITTEN[kind].items() if name != field}
        with pytest.raises(MalformedMessage, match=field):
            read(kind, less)
    with pytest.raises(MalformedMessage, match="more"):
        read(kind, WRITTEN[kind] | {"more": 1})


@pytest.mark.parametrize("kind", signed_kinds, ids=lambda kind: kind.__name__)
def test_everything_but_the_signature_is_signed(kind):
    message = read(kind, WRITTEN[kind])
    label, signed = message.signed_bytes().split(b"\n", 1)
    assert label == b"bithive " + kind.label
    unsigned = {name: value for name, value in WRITTEN[kind].items() if name != "signature"}
    assert json.loads(signed) == unsigned
    assert message.signed_by(lambda _bytes: b"").signed_bytes() == message.signed_bytes()


def test_no_two_kinds_of_message_are_signed_alike():
    labels = [
        kind.label + b"\n"
        for module in (messages, summation)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, SignedMessage) and hasattr(kind, "label")
        if kind.__module__ == module.__name__
    ]
    assert len(labels) > len(signed_kinds)
    starts = [(one, other) for one in labels for other in labels if other.startswith(one)]
    assert len(starts) == len(labels)  # each is the beginning of itself alone


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (RoundCall, "sites", ["north", "east", "south"]),
        (RoundCall, "sites", ["east", "east", "north"]),
        (RoundCall, "sites", SITES[:2]),
        (RoundCall, "sites", [f"site-{k:02}" for k in range(SITES_MAX + 1)]),
        (RoundCall, "round", 0),
        (Commitment, "receipts", []),
        (Commitment, "receipts", [receipt("south"), receipt("north")]),
        (Commitment, "receipts", [receipt("north"), receipt("north")]),
        (Commitment, "length", 0),
        (Commitment, "key_id", "0123456789abcde"),
        (Commitment, "key_id", "0123456789ABCDEF"),
        (Endorsement, "nonce", ""),
        (Endorsement, "nonce", HASH + "\n"),
        (Endorsement, "site", "No Slug"),
        (Unmasking, "tag", ["-1"]),
        (Unmasking, "tag", ["01"]),
        (Unmasking, "tag", [1]),
        (Unmasking, "tag", ["1e3"]),
        (Unmasking, "tag", ["1" * 20]),
        (Unmasking, "tag", ["1"] * 9),
        (Partial, "quorum", SITES[:2]),
        (Opening, "weight", -1),
        (Opening, "weight", 2**40 + 1),
        (DealtKey, "threshold", 1),
        (DealtKey, "epoch", 0),
        (KeyRequest, "epoch", 10**6 + 1),
        (KeyRequest, "epoch", "one"),
        (KeyRequest, "sites", []),
        (ShareRequest, "recipient", ""),
    ],
)
def test_a_field_out_of_range_is_refused(kind, field, value):
    with pytest.raises(MalformedMessage):
        read(kind, WRITTEN[kind] | {field: value})


def test_a_commitment_names_its_sites_and_their_weight():
    commitment = read(Commitment, WRITTEN[Commitment])
    assert commitment.sites == tuple(SITES)
    assert commitment.weight == 3 * 41
    assert commitment.receipts[0] == read(Receipt, receipt("east"))


def test_a_tag_is_empty_where_the_site_is_not_in_the_sum():
    assert read(Unmasking, WRITTEN[Unmasking] | {"tag": []}).tag == ()


@every_kind
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_json_is_a_message_or_a_typed_error(kind, data):
    json_value = st.recursive(
        st.none() | st.integers() | st.text() | st.floats(allow_nan=False),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(sorted(WRITTEN[kind])), inner)
        ),
        max_leaves=8,
    )
    odd = data.draw(json_value)
    field = data.draw(st.sampled_from(sorted(WRITTEN[kind])))
    for received in (odd, WRITTEN[kind] | {field: odd}):
        try:
            message = read(kind, received)
        except MalformedMessage:
            continue
        assert read(kind, body(message)) == message


def test_equal_messages_have_equal_digests_and_others_have_not():
    key = {
        "study": "busi",
        "round": 3,
        "call": HASH,
        "site": "north",
        "public_key": "01" * 32,
        "seed_sha256": HASH,
        "sealing_key": "02" * 32,
        "envelopes": [HASH, HASH],
        "signature": SIGNATURE,
    }
    message = read(RoundKey, key)
    assert digest(read(RoundKey, dict(reversed(key.items())))) == digest(message)
    for field, other in (("round", 4), ("site", "south"), ("signature", "")):
        assert digest(read(RoundKey, key | {field: other})) != digest(message)
