"""A message is read back as it was written; anything else is refused with the field named."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import BN254_SCALARS, MalformedMessage, body, canonical, digest, read
from protocol.messages import Receipt

RECEIPT = {
    "study": "busi",
    "round": 3,
    "site": "north",
    "ciphertext_sha256": "ab" * 32,
    "consent_root": "12345678901234567890123456789",
    "certificates": ["cd" * 32],
    "proven_patients": 41,
    "gradients": 32,
    "epsilon_spent": "2.718282",
    "delta": "0.00001",
    "clipping_norm": "1",
    "model_sha256": "ef" * 32,
    "site_key": "01" * 32,
    "site_signature": "02" * 64,
    "server_signature": "",
}


def test_a_receipt_is_read_back_as_it_was_written():
    receipt = read(Receipt, RECEIPT)
    assert body(receipt) == RECEIPT
    assert read(Receipt, json.loads(canonical(receipt))) == receipt


@given(st.integers(0, BN254_SCALARS - 1))
def test_field_elements_survive_json_at_any_size(element):
    receipt = read(Receipt, RECEIPT | {"consent_root": str(element)})
    assert json.loads(canonical(receipt))["consent_root"] == str(element)
    assert receipt.consent_root == element


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("study", "No Slug"),
        ("round", 0),
        ("round", 10_001),
        ("site", "../etc"),
        ("ciphertext_sha256", "AB" * 32),
        ("consent_root", str(BN254_SCALARS)),
        ("consent_root", "-1"),
        ("consent_root", "0x10"),
        ("proven_patients", -1),
        ("epsilon_spent", "nan"),
        ("epsilon_spent", "1e3"),
        ("site_key", "01" * 31),
        ("site_signature", "zz"),
        ("site_signature", "02" * 65),
        ("unknown", 1),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(MalformedMessage, match=field):
        read(Receipt, RECEIPT | {field: value})


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_a_receipt_or_a_typed_error(received):
    with pytest.raises(MalformedMessage):
        read(Receipt, received)


def test_the_site_signs_everything_but_the_signatures():
    receipt = read(Receipt, RECEIPT)
    other = receipt.model_copy(update={"site_signature": b"", "server_signature": b"x"})
    assert receipt.site_bytes() == other.site_bytes()
    other_values = {
        int: 7,
        str: "1" * 64,
        bytes: b"\3" * 32,
        tuple: ("0" * 64,),
    }
    for field in set(RECEIPT) - {"site_signature", "server_signature"}:
        other = other_values[type(getattr(receipt, field))]
        assert receipt.model_copy(update={field: other}).site_bytes() != receipt.site_bytes(), field


def test_the_server_countersigns_the_sites_signature_too():
    receipt = read(Receipt, RECEIPT)
    assert (
        receipt.server_bytes() != receipt.model_copy(update={"site_signature": b""}).server_bytes()
    )


def test_equal_messages_have_equal_digests_whatever_the_order_of_fields():
    shuffled = dict(reversed(RECEIPT.items()))
    assert digest(read(Receipt, shuffled)) == digest(read(Receipt, RECEIPT))


def test_the_field_is_the_one_of_the_proofs():
    from zk.poseidon import FIELD

    assert FIELD == BN254_SCALARS


def test_the_published_receipt_vector_holds():
    path = Path(__file__).parent.parent / "vectors" / "protocol" / "receipt.json"
    vector = json.loads(path.read_text())
    receipt = read(Receipt, vector["receipt"])
    assert receipt.site_bytes().decode() == vector["site_bytes"]
    assert digest(receipt) == vector["sha256"]
