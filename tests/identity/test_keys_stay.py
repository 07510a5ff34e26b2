"""No private key is in anything that is exchanged, published, printed or logged."""

import base64
import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from identity.requests import fingerprint
from protocol.canonical import canonical


def forms(raw):
    """Return the ways in which secret bytes could be written."""
    texts = [raw.hex(), raw.hex().upper(), str(int.from_bytes(raw, "big")), repr(raw)[2:-1]]
    encoded = [text.encode() for text in texts]
    # Base64 of the bytes at any offset in something longer.
    for shift in range(3):
        inner = base64.b64encode(bytes(shift) + raw)[4:-4]
        encoded += [inner, inner.replace(b"+", b"-").replace(b"/", b"_")]
    return [raw, *encoded]


def secrets_of(world, *sites):
    keys = [world.folder(site).load() for site in sites]
    raws = [
        raw
        for one in keys
        for raw in (
            one.site.signing.private_bytes_raw(),
            one.site.agreement.private_bytes_raw(),
            *(_scalar(key) for key in (one.tls, one.node)),
        )
    ]
    raws.append((world.authority / "operator.key").read_bytes())
    files = [(world.authority / name).read_bytes() for name in ("ca.key", "server.key")]
    return raws + [_scalar(load_pem_private_key(content, None)) for content in files]


def _scalar(key):
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_numbers().private_value.to_bytes(48, "big")


@pytest.fixture
def exchanged(world):
    """Return all that left anybody's folder in a whole life of two sites."""
    world.consortium.certify_server(["localhost"], actor=world.operator, now=world.now)
    left = [canonical(world.join(site)) for site in ("north", "south")]
    rotated = world.request("north", rotate=True)
    secrets = secrets_of(world, "north", "south")
    left += [canonical(rotated)]
    admission = world.consortium.renew(
        "north",
        actor=world.operator,
        now=world.now,
        content=canonical(rotated),
        given_fingerprint=fingerprint(rotated.digest()),
    )
    new = world.folder("north").next.load()
    secrets += [new.site.signing.private_bytes_raw(), _scalar(new.tls), _scalar(new.node)]
    world.install("north", admission)
    world.consortium.expel("south", reason="", actor=world.operator, now=world.now)
    public = [
        file
        for file in itertools.chain(
            world.path.rglob("*.json"),
            world.path.rglob("*.crt"),
            world.path.rglob("*.pub"),
            world.path.rglob("*.pem"),
            world.path.rglob("*.txt"),
        )
        if file.is_file()
    ]
    left += [file.read_bytes() for file in public]
    left += [repr(world.log).encode(), repr(world.folder("north").load()).encode()]
    return secrets, left


def test_no_key_is_in_anything_that_left(exchanged):
    secrets, left = exchanged
    assert len(secrets) >= 14
    for content in left:
        assert b"PRIVATE KEY" not in content
        for raw in secrets:
            assert not any(form in content for form in forms(raw))


def test_the_search_would_find_one(world):
    world.request("north")
    keys = world.folder("north").load()
    pem = keys.tls.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    joined = b"".join(pem.split(b"\n")[1:-2])
    assert any(form in joined for form in forms(_scalar(keys.tls)))
    kept = world.folder("north").site_key.read_bytes()
    assert any(form in kept for form in forms(keys.site.signing.private_bytes_raw()))
