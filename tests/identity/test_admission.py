"""A site installs the operator's answer to its own request, and nothing else."""

import contextlib
import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity import admission as admissions
from identity.admission import (
    BYTES_MAX,
    Admission,
    AdmissionRefused,
    OperatorUnconfirmed,
    installed,
    operator_digest,
    read_admission,
)
from identity.authority import CertificateRefused
from identity.requests import FingerprintDiffers, fingerprint
from identity.site_folder import SiteKeysMissing
from protocol.canonical import canonical

CUT_AFTER = ["operator.pub", "authority.crt", "tls.crt", "terms.txt"]


def test_what_was_admitted_is_installed(world):
    admission = world.join("north")
    folder = world.folder("north")
    assert installed(folder) == admission
    assert folder.tls_certificate.read_text() == admission.certificate
    assert folder.authority.read_bytes() == (world.authority / "ca.crt").read_bytes()
    assert folder.terms.read_text() == "Be good."
    assert admission.addresses == ("fed.example.org:8443",)


def test_without_the_operators_fingerprint_nothing_is_installed(world):
    admission = world.admit("north")
    with pytest.raises(OperatorUnconfirmed) as refused:
        world.install("north", admission, operator=None)
    assert refused.value.found == world.operator_fingerprint
    with pytest.raises(FingerprintDiffers):
        world.install("north", admission, operator="0" * 32)
    assert not world.folder("north").tls_certificate.exists()


def test_once_confirmed_the_operator_is_known(world):
    world.join("north")
    renewed = world.consortium.renew("north", actor=world.operator, now=world.now)
    world.install("north", renewed, operator=None)
    assert installed(world.folder("north")) == renewed


def test_an_operator_of_ones_own_making_is_refused_once_the_real_one_is_known(world):
    admission = world.join("north")
    forger = Ed25519PrivateKey.generate()
    public = forger.public_key().public_bytes_raw()
    forged = admission.model_copy(update={"operator_key": public, "number": 99}).sign(forger)
    for given_fingerprint in (None, fingerprint(operator_digest(public))):
        with pytest.raises(AdmissionRefused, match="another operator"):
            world.install("north", forged, operator=given_fingerprint)


def test_an_admission_of_another_site_is_refused(world):
    of_south = world.admit("south")
    world.request("north")
    with pytest.raises(AdmissionRefused, match="another request"):
        world.install("north", of_south)


def test_where_no_request_was_made_nothing_is_installed(world):
    admission = world.admit("north")
    with pytest.raises(SiteKeysMissing):
        world.install("nowhere", admission)


def resigned(world, admission, **fields):
    key = Ed25519PrivateKey.from_private_bytes((world.authority / "operator.key").read_bytes())
    return admission.model_copy(update=fields).sign(key)


@pytest.mark.parametrize("field", ["signing_key", "agreement_key", "node_key"])
def test_an_admission_that_registers_another_key_is_refused(world, field):
    admission, other = world.admit("north"), world.admit("south")
    mixed = resigned(world, admission, **{field: getattr(other, field)})
    with pytest.raises(AdmissionRefused, match="other keys"):
        world.install("north", mixed)


@pytest.mark.parametrize("field", ["site", "certificate", "authorities", "request"])
def test_an_admission_in_which_something_is_anothers_is_refused(world, field):
    admission, other = world.admit("north"), world.admit("south")
    value = "" if field == "authorities" else getattr(other, field)
    with pytest.raises((AdmissionRefused, CertificateRefused)):
        world.install("north", resigned(world, admission, **{field: value}))
    assert not world.folder("north").tls_certificate.exists()


def test_a_certificate_that_has_ended_is_not_installed(world):
    admission = world.admit("north")
    with pytest.raises(CertificateRefused, match="clock"):
        world.install("north", admission, now=world.now + timedelta(days=91))


def test_an_older_admission_never_takes_the_place_of_a_newer_one(world):
    first = world.join("north")
    newer = world.consortium.renew("north", actor=world.operator, now=world.now)
    world.install("north", newer)
    with pytest.raises(AdmissionRefused, match="newer"):
        world.install("north", first)
    world.install("north", newer)  # the same one again is fine


@pytest.mark.parametrize("field", sorted(Admission.model_fields))
def test_an_admission_with_one_field_changed_is_refused(world, field):
    body = json.loads(canonical(world.admit("north")))
    value = body[field]
    other = value + 1 if isinstance(value, int) else ["x"] if isinstance(value, list) else "ab" * 32
    with pytest.raises(AdmissionRefused):
        read_admission(json.dumps(body | {field: other}).encode())
    with pytest.raises(AdmissionRefused):
        rest = {name: inner for name, inner in body.items() if name != field}
        read_admission(json.dumps(rest).encode())


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_an_admission_with_one_bit_flipped_is_refused_or_the_same(world, data):
    if not hasattr(world, "sent"):
        world.sent = world.admit("north")
    content = bytearray(canonical(world.sent))
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    content[at] ^= 1 << bit
    try:
        read = read_admission(bytes(content))
    except AdmissionRefused:
        return
    assert read == world.sent


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 9999, b"\xff", b" " * (BYTES_MAX + 1)])
def test_what_is_no_admission_is_refused(content):
    with pytest.raises(AdmissionRefused):
        read_admission(content)


@pytest.mark.parametrize("killed_at", CUT_AFTER)
def test_killed_while_installing_it_is_installed_again(world, monkeypatch, killed_at):
    admission = world.admit("north")
    written = admissions.write_whole

    def dying(path, content, **options):
        written(path, content, **options)
        if path.name == killed_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(admissions, "write_whole", dying)
        world.install("north", admission)
    world.install("north", admission)
    assert installed(world.folder("north")) == admission


class TestRotation:
    def rotated(self, world):
        asked = world.request("north", rotate=True)
        return world.consortium.renew(
            "north",
            actor=world.operator,
            now=world.now,
            content=canonical(asked),
            given_fingerprint=fingerprint(asked.digest()),
        )

    def test_the_old_keys_serve_until_the_new_ones_are_admitted(self, world):
        world.join("north")
        before = world.folder("north").load()
        admission = self.rotated(world)
        assert world.folder("north").load().site.signing_public == before.site.signing_public
        new = world.folder("north").next.load()
        world.install("north", admission, operator=None)
        after = world.folder("north").load()
        assert after.site.signing_public == new.site.signing_public == admission.signing_key
        assert not world.folder("north").next.path.exists()
        old = type(world.folder("north"))(world.folder("north").path / "previous").load()
        assert old.site.agreement_public == before.site.agreement_public

    @pytest.mark.parametrize("writes", range(1, 14))
    def test_killed_at_any_write_it_is_completed(self, world, monkeypatch, writes):
        world.join("north")
        before, admission = world.folder("north").load(), self.rotated(world)
        written, left = admissions.write_whole, [writes]

        def dying(path, content, **options):
            written(path, content, **options)
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(admissions, "write_whole", dying)
            with contextlib.suppress(KeyboardInterrupt):
                world.install("north", admission, operator=None)
        world.install("north", admission, operator=None)
        after = world.folder("north")
        assert after.load().site.signing_public == admission.signing_key
        old = type(after)(after.path / "previous").load()
        assert old.site.signing_public == before.site.signing_public
        assert installed(after) == admission
