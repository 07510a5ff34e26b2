"""A receipt is the registry's word: change a field, or the key, and it is nobody's."""

import json
from dataclasses import fields, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.receipts import (
    GrantReceipt,
    NotSignedByRegistry,
    ReceiptMalformed,
    WithdrawalReceipt,
    read_receipt,
    receipt_json,
)
from consent.registry import SignedEpoch, verify_epoch
from protocol.canonical import canonical
from protocol.messages import Epoch

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key().public_bytes_raw()
AT = "2026-11-21T09:30:00+00:00"
SIGNED = [
    GrantReceipt(
        "registry",
        b"",
        grant="ab",
        index=1,
        leaf=2**200,
        epoch=3,
        at=AT,
        policy="proven",
        proven=True,
        replaces="cd",
    ),
    WithdrawalReceipt("registry", b"", grant="ab", index=1, epoch=3, at=AT),
    SignedEpoch("registry", b"", number=3, root=2**200, at=AT),
]


@pytest.mark.parametrize("unsigned", SIGNED, ids=lambda one: one.label)
def test_what_was_signed_is_accepted_and_any_other_field_is_not(unsigned):
    signed = unsigned.signed_by(KEY)
    signed.check(PUBLIC)
    for field in fields(signed):
        value = getattr(signed, field.name)
        changed = value + (b"x" if field.name == "signature" else "x" if value == str(value) else 1)
        with pytest.raises(NotSignedByRegistry):
            replace(signed, **{field.name: changed}).check(PUBLIC)


@pytest.mark.parametrize("key", [bytes(31), bytes(32), b"\xff" * 32])
def test_another_key_or_none_is_refused(key):
    with pytest.raises(NotSignedByRegistry, match="registry"):
        verify_epoch(SIGNED[2].signed_by(KEY), key)


def test_a_withdrawal_is_no_grant():
    grant, withdrawal = SIGNED[0].signed_by(KEY), SIGNED[1]
    with pytest.raises(NotSignedByRegistry):
        replace(withdrawal, signature=grant.signature).check(PUBLIC)


def test_the_signed_bytes_are_the_label_and_compact_json_with_large_numbers_as_text():
    label, body = SIGNED[0].signed_bytes().decode().split("\n")
    assert label == "bithive grant receipt"
    assert json.loads(body) == {
        "registry": "registry",
        "grant": "ab",
        "index": 1,
        "leaf": str(2**200),
        "epoch": 3,
        "at": AT,
        "policy": "proven",
        "proven": True,
        "replaces": "cd",
    }


def test_an_epoch_is_signed_as_the_message_that_carries_it():
    epoch = SIGNED[2].signed_by(KEY)
    message = Epoch(
        registry=epoch.registry,
        number=epoch.number,
        root=epoch.root,
        at=epoch.at,
        signature=epoch.signature,
    )
    sent = canonical(message, without=frozenset({"signature"}))
    assert epoch.signed_bytes() == b"bithive epoch\n" + sent


@pytest.mark.parametrize(
    "changed",
    [
        {"index": "1"},
        {"index": None},
        {"index": True},
        {"index": -1},
        {"index": 2**20},
        {"epoch": 2**70},
        {"leaf": "-5"},
        {"proven": "yes"},
        {"at": 3},
        {"grant": 7},
        {"registry": None},
    ],
    ids=str,
)
def test_a_value_that_no_field_has_is_refused_whoever_signed_it(changed):
    text = json.loads(receipt_json(SIGNED[0].signed_by(KEY)))
    assert read_receipt(json.dumps(text)).check(PUBLIC) is None
    with pytest.raises(ReceiptMalformed):
        read_receipt(json.dumps(text | changed))
