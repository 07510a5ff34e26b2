"""What a patient and her hospital send each other opens for them alone, and not after a change."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from portal.patient.codes import new_invitation
from portal.patient.sealing import (
    Person,
    RequestNotOfCode,
    SealedBroken,
    check_request,
    invitation_keys,
    open_person,
    read_object,
    request_mac,
    seal,
    seal_person,
    unseal,
)
from protocol.ids import PatientId, SiteId

HOSPITAL = X25519PrivateKey.generate()
PUBLIC = HOSPITAL.public_key().public_bytes_raw()
NORTH, SOUTH = SiteId("north"), SiteId("south")
CODE = new_invitation(lambda n: bytes(range(n)))
OTHER = new_invitation(lambda n: bytes(range(1, n + 1)))
PERSON = Person(PatientId("4711 Ä"), 12345)


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_a_sealed_message_opens_for_its_key_and_context(message, context):
    assert unseal(seal(message, PUBLIC, context=context), HOSPITAL, context=context) == message


@given(st.integers(0, 87), st.integers(1, 255))
def test_no_byte_of_a_sealed_message_can_be_changed(at, change):
    box = bytearray(seal(b"an opening of forty-odd bytes, for example", PUBLIC, context=b"leaf"))
    box[at % len(box)] ^= change
    # X25519 ignores the top bit of a public key; the key is bound into the derivation.
    with pytest.raises(SealedBroken):
        unseal(bytes(box), HOSPITAL, context=b"leaf")


def test_a_sealed_message_is_refused_elsewhere():
    box = seal(b"opening", PUBLIC, context=b"leaf 7")
    with pytest.raises(SealedBroken):
        unseal(box, HOSPITAL, context=b"leaf 8")
    with pytest.raises(SealedBroken):
        unseal(box, X25519PrivateKey.generate(), context=b"leaf 7")
    for short in (b"", b"\x01", box[:33], box[:40], b"\x01" + bytes(60)):
        with pytest.raises(SealedBroken):
            unseal(short, HOSPITAL, context=b"leaf 7")


@pytest.mark.parametrize("body", [b"", b"[]", b"[" * 3000, b"\xff"])
def test_what_is_sealed_and_no_object_is_refused(body):
    with pytest.raises(SealedBroken):
        read_object(body, "opening")


def test_an_envelope_opens_for_its_code_and_site_alone():
    keys = invitation_keys(CODE)
    envelope = seal_person(PERSON, keys, NORTH)
    assert open_person(envelope, keys, NORTH) == PERSON
    for other_keys, site in ((invitation_keys(OTHER), NORTH), (keys, SOUTH)):
        with pytest.raises(SealedBroken):
            open_person(envelope, other_keys, site)


def test_a_request_is_believed_only_from_the_holder_of_the_code():
    keys = invitation_keys(CODE)
    mac = request_mac(keys, NORTH, 7)
    check_request(keys, NORTH, 7, mac)
    for other in ((invitation_keys(OTHER), NORTH, 7), (keys, SOUTH, 7), (keys, NORTH, 8)):
        with pytest.raises(RequestNotOfCode):
            check_request(*other, mac)


def test_nothing_secret_is_printed():
    assert "4711" not in repr(PERSON)
    keys = invitation_keys(CODE)
    assert keys.envelope.hex() not in repr(keys)
    assert repr(keys.envelope) not in repr(keys)
