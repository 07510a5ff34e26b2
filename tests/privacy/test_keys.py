"""A wrapped key opens for its recipient, sender and purpose only, and key files are private."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.keys import (
    AgreementKeyInvalid,
    KeyUnwrapFailed,
    SiteKeys,
    SiteKeysUnreadable,
    unwrap,
    wrap,
)
from privacy.signatures import BadSignature, check_signature
from protocol.errors import StorageError

MAKER, TAKER, STRANGER = SiteKeys.generate(), SiteKeys.generate(), SiteKeys.generate()


# RFC 7748, section 6.1: private and public key of either side, and what they agree on.
RFC_MAKER = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
RFC_MAKER_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
RFC_TAKER = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
RFC_TAKER_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
RFC_SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

contexts = st.binary(max_size=20)


@pytest.mark.parametrize(
    ("private", "public", "other"),
    [
        (RFC_MAKER, RFC_MAKER_PUBLIC, RFC_TAKER_PUBLIC),
        (RFC_TAKER, RFC_TAKER_PUBLIC, RFC_MAKER_PUBLIC),
    ],
)
def test_the_exchange_agrees_with_rfc_7748(private, public, other):
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(private))
    assert key.public_key().public_bytes_raw().hex() == public
    shared = key.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other)))
    assert shared.hex() == RFC_SHARED


def take(wrapped, context=b"c", sender=MAKER, recipient=TAKER):
    return unwrap(wrapped, sender.agreement_public, recipient.agreement, context=context)


@given(st.binary(max_size=200), contexts)
def test_what_was_wrapped_is_unwrapped(secret, context):
    wrapped = wrap(secret, TAKER.agreement_public, MAKER.agreement, context=context)
    assert take(wrapped, context) == secret
    assert len(wrapped) == 1 + 32 + len(secret) + 16
    assert wrapped != wrap(secret, TAKER.agreement_public, MAKER.agreement, context=context)


@given(contexts, contexts)
def test_it_opens_for_its_purpose_only(context, other):
    wrapped = wrap(b"secret", TAKER.agreement_public, MAKER.agreement, context=context)
    if other != context:
        with pytest.raises(KeyUnwrapFailed):
            take(wrapped, other)


@pytest.mark.parametrize(
    ("sender", "recipient"),
    [(STRANGER, TAKER), (MAKER, STRANGER), (TAKER, MAKER), (STRANGER, STRANGER)],
)
def test_it_opens_for_its_sender_and_recipient_only(sender, recipient):
    """Either end's pair agrees on the same secret, so (taker, maker) shows that order counts."""
    wrapped = wrap(b"secret", TAKER.agreement_public, MAKER.agreement, context=b"c")
    with pytest.raises(KeyUnwrapFailed):
        take(wrapped, sender=sender, recipient=recipient)


@settings(max_examples=60)
@given(st.data())
def test_a_changed_wrapped_key_is_refused(data):
    wrapped = wrap(b"secret", TAKER.agreement_public, MAKER.agreement, context=b"c")
    position = data.draw(st.integers(0, len(wrapped) - 1))
    flipped = bytearray(wrapped)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    for bad in (bytes(flipped), wrapped[:position], wrapped + b"x"):
        with pytest.raises(KeyUnwrapFailed):
            take(bad)


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32)], ids=["none", "short", "zero"])
def test_a_public_key_that_agrees_on_nothing_is_refused(public):
    with pytest.raises(AgreementKeyInvalid):
        wrap(b"secret", public, MAKER.agreement, context=b"c")
    with pytest.raises(KeyUnwrapFailed):
        unwrap(bytes([1] * 60), public, TAKER.agreement, context=b"c")


def test_kept_keys_are_the_same_and_private(tmp_path):
    path = tmp_path / "site" / "keys.json"
    made = SiteKeys.load_or_make(path)
    again = SiteKeys.load_or_make(path)
    assert again.signing_public == made.signing_public
    assert again.agreement_public == made.agreement_public
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]


def test_a_site_signs_with_its_own_key():
    signature = MAKER.sign(b"message")
    check_signature(MAKER.signing_public, signature, b"message", what="plan", who="maker")
    with pytest.raises(BadSignature):
        check_signature(STRANGER.signing_public, signature, b"message", what="plan", who="maker")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "1",
        '{"ed25519": "00", "x25519": "00"}',
        '{"ed25519": 1, "x25519": 2}',
        "\xff",
    ],
)
def test_a_file_that_holds_no_keys_is_refused(content, tmp_path):
    path = tmp_path / "keys.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(SiteKeysUnreadable, match=r"keys\.json"):
        SiteKeys.load(path)


def test_a_broken_file_is_not_quoted(tmp_path):
    path = tmp_path / "keys.json"
    secret = MAKER.signing.private_bytes_raw().hex()
    path.write_text(json.dumps({"ed25519": secret, "x25519": "not hexadecimal"}))
    with pytest.raises(SiteKeysUnreadable) as refused:
        SiteKeys.load(path)
    assert refused.value.__cause__ is None
    assert secret not in str(refused.value)


def test_a_missing_file_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError):
        SiteKeys.load(tmp_path / "keys.json")


def test_keys_do_not_print_themselves():
    assert repr(MAKER) == "SiteKeys()"
