"""What the authority signs serves one use, for its days, until it is on the list."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from identity.authority import (
    AUTHORITY_DAYS,
    Authority,
    AuthorityUnreadable,
    CertificateRefused,
    Revocation,
    ServerNameRefused,
    check_site_certificate,
    site_of,
)

NOW = datetime.now(UTC)
AUTHORITY = Authority.found("lungs", now=NOW)
KEY = ec.generate_private_key(ec.SECP384R1())
SITE = AUTHORITY.issue_site("north", KEY.public_key(), now=NOW)
SERVER = AUTHORITY.issue_server(["fed.example.org", "192.0.2.7"], KEY.public_key(), now=NOW)


def openssl(folder, certificate, *options, revoked=()):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    listed = AUTHORITY.revocation_list(revoked, number=1, now=NOW)
    (folder / "ca.crt").write_bytes(AUTHORITY.pem())
    (folder / "crl.pem").write_bytes(listed.public_bytes(Encoding.PEM))
    (folder / "one.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", "-crl_check"]
    done = subprocess.run(
        [*command, "-CRLfile", "crl.pem", *options, "one.crt"],
        cwd=folder,
        capture_output=True,
        check=False,
        text=True,
    )
    return done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("certificate", "options"),
    [
        (SITE, ["-purpose", "sslclient"]),
        (SERVER, ["-purpose", "sslserver", "-verify_hostname", "fed.example.org"]),
        (SERVER, ["-purpose", "sslserver", "-verify_ip", "192.0.2.7"]),
    ],
)
def test_openssl_accepts_each_for_its_use(tmp_path, certificate, options):
    accepted, why = openssl(tmp_path, certificate, *options)
    assert accepted, why


@pytest.mark.parametrize(
    ("certificate", "options"),
    [
        (SITE, ["-purpose", "sslserver"]),
        (SERVER, ["-purpose", "sslclient"]),
        (SERVER, ["-verify_hostname", "example.org"]),
        (SITE, ["-attime", str(int((NOW + timedelta(days=91)).timestamp()))]),
        (SITE, ["-attime", str(int((NOW - timedelta(hours=3)).timestamp()))]),
    ],
)
def test_openssl_refuses_it_for_another_use_name_or_time(tmp_path, certificate, options):
    assert not openssl(tmp_path, certificate, *options)[0]


def test_openssl_refuses_what_is_on_the_list(tmp_path):
    revoked = [Revocation(SITE.serial_number, NOW)]
    accepted, why = openssl(tmp_path, SITE, revoked=revoked)
    assert not accepted
    assert "revoked" in why
    assert openssl(tmp_path, SERVER, revoked=revoked)[0]


def test_a_certificate_names_its_site_only_if_it_is_a_sites():
    assert site_of(SITE) == "north"
    assert site_of(SERVER) is None
    assert site_of(AUTHORITY.certificate) is None


def test_a_sites_certificate_is_accepted_for_that_site_now_and_from_this_authority():
    own = [AUTHORITY.certificate]
    check_site_certificate(SITE, own, "north", now=NOW)
    foreign = [Authority.found("lungs", now=NOW).certificate]
    for certificate, authorities, site, now in [
        (SITE, foreign, "north", NOW),
        (SITE, [], "north", NOW),
        (SITE, own, "south", NOW),
        (SITE, own, "north", NOW + timedelta(days=90)),
        (SITE, own, "north", NOW - timedelta(hours=2, minutes=1)),
        (SERVER, own, "north", NOW),
        (AUTHORITY.certificate, own, "north", NOW),
    ]:
        with pytest.raises(CertificateRefused):
            check_site_certificate(certificate, authorities, site, now=now)


def test_certificates_hold_for_a_clock_that_is_an_hour_behind():
    hour_ago = NOW - timedelta(hours=1)
    check_site_certificate(SITE, [AUTHORITY.certificate], "north", now=hour_ago)
    assert all(one.not_valid_before_utc < hour_ago for one in (SERVER, AUTHORITY.certificate))


def test_no_certificate_outlives_its_authority():
    late = NOW + timedelta(days=AUTHORITY_DAYS - 10)
    issued = AUTHORITY.issue_site("north", KEY.public_key(), now=late)
    assert issued.not_valid_after_utc == AUTHORITY.certificate.not_valid_after_utc


def test_serials_do_not_repeat():
    issued = [AUTHORITY.issue_site("north", KEY.public_key(), now=NOW) for _ in range(20)]
    assert len({one.serial_number for one in issued}) == 20


@pytest.mark.parametrize(
    "name",
    ["", "Fed.example.org", "*.example.org", "a b", "-a", "a..b", "a\n", "ä", "x" * 64, "a/b"],
)
def test_a_server_is_certified_under_no_name_that_is_none(name):
    with pytest.raises(ServerNameRefused):
        AUTHORITY.issue_server([name], KEY.public_key(), now=NOW)


def test_a_long_host_name_is_certified():
    name = ".".join(["a" * 60] * 3)
    issued = AUTHORITY.issue_server([name], KEY.public_key(), now=NOW)
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]


def test_an_authority_is_loaded_with_its_own_key_and_no_other(tmp_path):
    AUTHORITY.save_key(tmp_path / "ca.key")
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    loaded = Authority.load(tmp_path / "ca.key", AUTHORITY.pem())
    assert loaded.certificate == AUTHORITY.certificate
    Authority.found("lungs", now=NOW).save_key(tmp_path / "other.key")
    (tmp_path / "garbage.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\nsecret\n")
    for name in ("other.key", "garbage.key"):
        with pytest.raises(AuthorityUnreadable) as refused:
            Authority.load(tmp_path / name, AUTHORITY.pem())
        assert refused.value.__cause__ is None
