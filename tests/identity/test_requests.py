"""A request to join is what the site made with keys it has, or it is refused."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.requests import (
    BYTES_MAX,
    FingerprintDiffers,
    RequestRefused,
    check_fingerprint,
    fingerprint,
    make_request,
    read_bounded,
    read_request,
)
from identity.site_folder import Keys, openssh
from protocol.canonical import canonical

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


def fixed(size):
    return bytes(size)


THE_KEYS, OTHER_KEYS = Keys.generate(), Keys.generate()
SENT = make_request("north", THE_KEYS, now=NOW, entropy=fixed)
OTHER = make_request(
    "south", OTHER_KEYS, now=NOW + timedelta(seconds=1), entropy=lambda n: b"1" * n
)
BODY = json.loads(canonical(SENT))


def changed(**fields):
    return json.dumps(BODY | fields).encode()


def resigned(keys=THE_KEYS, previous=None, **fields):
    """Return a request with other content that all keys at hand signed again."""
    bare = SENT.model_copy(update=fields)
    told = bare.signed_by_node()
    signed = bare.model_copy(
        update={"node_signature": keys.node.sign(told, ec.ECDSA(hashes.SHA384()))}
    )
    whole = signed.model_copy(update={"signature": keys.site.sign(signed.signed_bytes())})
    return canonical(whole)


def csr(key, name="north"):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA384()
    return asked.sign(key, algorithm).public_bytes(Encoding.PEM).decode()


def test_what_was_sent_is_read():
    assert read_request(canonical(SENT), now=NOW) == SENT
    assert read_request(canonical(SENT) + b"\n", now=NOW).digest() == SENT.digest()


@pytest.mark.parametrize("number", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18])
def test_a_key_with_which_nobody_can_agree_is_refused(number):
    with pytest.raises(RequestRefused, match="agreement"):
        read_request(resigned(agreement_key=number.to_bytes(32, "little")), now=NOW)


@pytest.mark.parametrize("field", sorted(BODY))
def test_a_request_without_one_of_its_fields_is_refused(field):
    rest = {name: value for name, value in BODY.items() if name != field}
    if BODY[field] == "":  # an empty field is the same as none
        assert read_request(json.dumps(rest).encode(), now=NOW) == SENT
        return
    with pytest.raises(RequestRefused):
        read_request(json.dumps(rest).encode(), now=NOW)


@pytest.mark.parametrize("field", sorted(BODY))
def test_a_request_with_one_field_of_another_site_is_refused(field):
    other = json.loads(canonical(OTHER))
    if other[field] == BODY[field]:
        other[field] = "x"
    with pytest.raises(RequestRefused):
        read_request(changed(**{field: other[field]}), now=NOW)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(canonical(SENT)) - 1), st.integers(0, 7))
def test_a_request_with_one_bit_flipped_is_refused_or_the_same(at, bit):
    content = bytearray(canonical(SENT))
    content[at] ^= 1 << bit
    try:
        read = read_request(bytes(content), now=NOW)
    except RequestRefused:
        return
    assert read == SENT  # a digit of hexadecimal in the other case


@settings(max_examples=30, deadline=None)
@given(st.integers(0, len(canonical(SENT)) - 1))
def test_a_request_that_was_cut_is_refused(at):
    with pytest.raises(RequestRefused):
        read_request(canonical(SENT)[:at], now=NOW)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 20_000,
        b'{"a":' * 10_000,
        b"1e999999",
        b" " * (BYTES_MAX + 1),
        canonical(SENT) + canonical(SENT),
        canonical(SENT) + b" " * BYTES_MAX,
    ],
    ids=range(11),
)
def test_what_is_no_request_is_refused(content):
    with pytest.raises(RequestRefused):
        read_request(content, now=NOW)


@pytest.mark.parametrize(
    "name",
    ["../south", "..", ".", "/etc", "a/b", "north\0", "north\n", "", "North", "n" * 41, "-n", "ñ"],
)
def test_a_site_cannot_ask_for_a_name_that_leads_elsewhere(name):
    with pytest.raises(RequestRefused):
        read_request(changed(site=name), now=NOW)


def test_every_refusal_leaves_the_content_out_of_its_words():
    with pytest.raises(RequestRefused) as refused:
        read_request(changed(tls_request=["secret words"]), now=NOW)
    assert "secret words" not in str(refused.value)


@pytest.mark.parametrize("days", [15, 400])
def test_an_old_request_is_refused(days):
    with pytest.raises(RequestRefused, match="14 days"):
        read_request(canonical(SENT), now=NOW + timedelta(days=days))


def test_a_request_from_the_future_is_refused_and_a_clock_a_little_ahead_is_not():
    read_request(canonical(SENT), now=NOW - timedelta(minutes=9))
    with pytest.raises(RequestRefused, match="clocks"):
        read_request(canonical(SENT), now=NOW - timedelta(minutes=11))


def test_a_tls_key_that_is_not_there_is_refused():
    # The certificate request of another site, which its holder has no key for.
    with pytest.raises(RequestRefused, match="another name"):
        read_request(resigned(tls_request=OTHER.tls_request), now=NOW)
    # The name is right, and the key inside was exchanged after it was signed.
    mine = x509.load_pem_x509_csr(csr(THE_KEYS.tls).encode())
    victim = ec.generate_private_key(ec.SECP384R1()).public_key()
    point = PublicFormat.UncompressedPoint
    swapped = mine.public_bytes(Encoding.DER).replace(
        THE_KEYS.tls.public_key().public_bytes(Encoding.X962, point),
        victim.public_bytes(Encoding.X962, point),
    )
    pem = x509.load_der_x509_csr(swapped).public_bytes(Encoding.PEM).decode()
    with pytest.raises(RequestRefused, match="own key"):
        read_request(resigned(tls_request=pem), now=NOW)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-256", "RSA", "Ed25519"],
)
def test_a_tls_key_of_another_kind_is_refused(key):
    with pytest.raises(RequestRefused, match="P-384"):
        read_request(resigned(tls_request=csr(key)), now=NOW)


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "x" * 4000])
def test_a_certificate_request_that_cannot_be_read_is_refused(text):
    with pytest.raises(RequestRefused):
        read_request(resigned(tls_request=text), now=NOW)


def test_a_certificate_request_under_two_names_is_refused():
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("north", "south")]
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    text = asked.sign(THE_KEYS.tls, hashes.SHA384()).public_bytes(Encoding.PEM).decode()
    with pytest.raises(RequestRefused, match="another name"):
        read_request(resigned(tls_request=text), now=NOW)


def test_a_node_key_that_is_not_there_is_refused():
    stolen = openssh(ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(RequestRefused, match="node key"):
        read_request(resigned(node_key=stolen), now=NOW)


@pytest.mark.parametrize(
    "text",
    [
        "ecdsa-sha2-nistp384 AAAA",
        "ssh-rsa AAAA",
        openssh(THE_KEYS.node.public_key()) + "\nssh-rsa x",
    ],
)
def test_a_node_key_that_cannot_be_read_is_refused(text):
    with pytest.raises(RequestRefused):
        read_request(resigned(node_key=text), now=NOW)


def test_a_node_key_whose_point_is_written_short_is_refused():
    kind, encoded = THE_KEYS.node_public().split()
    blob = base64.b64decode(encoded)
    point = THE_KEYS.node.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    short = blob[:-101] + len(point).to_bytes(4, "big") + point
    with pytest.raises(RequestRefused, match="cannot be read"):
        read_request(resigned(node_key=f"{kind} {base64.b64encode(short).decode()}"), now=NOW)


def test_a_certificate_request_of_another_version_is_refused():
    der = x509.load_pem_x509_csr(SENT.tls_request.encode()).public_bytes(Encoding.DER)
    at = der.index(b"\x02\x01\x00") + 2
    later = base64.encodebytes(der[:at] + b"\x08" + der[at + 1 :]).decode()
    text = f"-----BEGIN CERTIFICATE REQUEST-----\n{later}-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(RequestRefused, match="cannot be read"):
        read_request(resigned(tls_request=text), now=NOW)


def test_one_key_in_two_roles_is_refused():
    keys = Keys(THE_KEYS.site, THE_KEYS.tls, THE_KEYS.tls)
    made = make_request("north", keys, now=NOW, entropy=fixed)
    with pytest.raises(RequestRefused, match="same"):
        read_request(canonical(made), now=NOW)


def test_a_signing_key_that_is_not_there_is_refused():
    with pytest.raises(RequestRefused, match="signing key"):
        read_request(resigned(signing_key=OTHER.signing_key), now=NOW)


def test_rotated_keys_must_be_vouched_for_by_the_key_they_replace():
    new = Keys.generate()
    made = make_request("north", new, now=NOW, entropy=fixed, previous=THE_KEYS.site)
    assert read_request(canonical(made), now=NOW).previous_key == THE_KEYS.site.signing_public
    forged = make_request("north", new, now=NOW, entropy=fixed, previous=new.site)
    body = json.loads(canonical(forged)) | {"previous_key": THE_KEYS.site.signing_public.hex()}
    with pytest.raises(RequestRefused):
        read_request(json.dumps(body).encode(), now=NOW)
    for field in ("previous_key", "previous_signature"):
        body = json.loads(canonical(made)) | {field: ""}
        with pytest.raises(RequestRefused):
            read_request(json.dumps(body).encode(), now=NOW)


def test_a_fingerprint_is_taken_however_it_is_spaced_and_only_whole():
    shown = fingerprint(SENT.digest())
    for given_text in (shown, shown.upper(), shown.replace(" ", ""), shown.replace(" ", "-\n")):
        check_fingerprint(given_text, SENT.digest(), what="request")
    for wrong in ("", shown[:-1], shown + "0", fingerprint(OTHER.digest()), "é" * 32):
        with pytest.raises(FingerprintDiffers):
            check_fingerprint(wrong, SENT.digest(), what="request")


def test_a_huge_file_is_read_no_further_than_its_limit(tmp_path):
    file = tmp_path / "huge"
    with file.open("wb") as made:
        made.truncate(1 << 40)
    assert len(read_bounded(file)) == BYTES_MAX + 1
