"""The operator admits, renews and expels; what is decided holds at once and is on record once."""

import contextlib
import json
import shutil
import stat
import subprocess
import threading
from datetime import timedelta

import pytest
from cryptography import x509

from identity import published
from identity.consortium import (
    Consortium,
    ConsortiumThere,
    KeyTaken,
    RequestReplayed,
    SiteNameTaken,
)
from identity.register import Register, RegisterUnreadable, SiteNotAdmitted
from identity.requests import FingerprintDiffers, RequestRefused, fingerprint, make_request
from identity.roles import Actor, PermissionMissing, Role
from identity.site_folder import Keys
from protocol.canonical import canonical
from protocol.errors import StorageFailed

pytestmark = pytest.mark.slow


def revoked(world):
    lists = world.authority / "crl.pem"
    return {one.serial_number for one in x509.load_pem_x509_crl(lists.read_bytes())}


def serial(admission):
    return x509.load_pem_x509_certificate(admission.certificate.encode()).serial_number


def openssl(world, admission):
    """Say whether OpenSSL takes a site's certificate by the files that nginx reads."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    (world.path / "site.crt").write_text(admission.certificate)
    files = ["-CAfile", world.authority / "ca.crt", "-CRLfile", world.authority / "crl.pem"]
    at = ["-crl_check", "-attime", str(int(world.now.timestamp())), "-purpose", "sslclient"]
    command = ["openssl", "verify", *at, *files, world.path / "site.crt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def admit(world, asked, **changes):
    given = {
        "given_fingerprint": fingerprint(asked.digest()),
        "actor": world.operator,
        "now": world.now,
    }
    return world.consortium.admit(canonical(asked), **(given | changes))


def test_a_founded_federation_keeps_its_keys_to_itself(world):
    for name in ("ca.key", "operator.key"):
        assert stat.S_IMODE((world.authority / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(world.authority.stat().st_mode) == 0o700
    assert world.log.kinds() == ["federation-founded"]


def test_a_federation_is_founded_once(world):
    with pytest.raises(ConsortiumThere):
        Consortium.found(
            world.authority,
            "lungs",
            addresses=[],
            terms="",
            actor=world.operator,
            record=world.log,
            now=world.now,
        )


def test_where_there_is_no_register_there_is_no_federation(tmp_path, world):
    with pytest.raises(RegisterUnreadable):
        Consortium(tmp_path, world.log)
    (world.authority / "sites.json").write_text('{"federation": "lungs"}')
    with pytest.raises(RegisterUnreadable):
        world.consortium.register()


def test_an_admitted_site_is_in_the_register_and_its_node_key_in_the_list(world):
    world.join("north")
    assert [one.site for one in world.consortium.register().active()] == ["north"]
    kept = (world.authority / "nodes/north.pub").read_bytes()
    assert kept == world.folder("north").node_public.read_bytes()
    kind, facts, _ = world.log[-1]
    assert (kind, facts["site"], facts["actor"]) == ("site-admitted", "north", "operator")


def test_without_its_fingerprint_a_request_is_not_granted(world):
    asked = world.request("north")
    for wrong in ("", "0" * 32, fingerprint(asked.digest())[:-2]):
        with pytest.raises(FingerprintDiffers):
            admit(world, asked, given_fingerprint=wrong)
    assert world.consortium.register().sites == ()


def test_a_request_is_granted_once(world):
    asked = world.request("north")
    admit(world, asked)
    with pytest.raises(RequestReplayed):
        admit(world, asked)
    world.consortium.expel("north", reason="", actor=world.operator, now=world.now)
    with pytest.raises(RequestReplayed):
        admit(world, asked)


def test_a_name_is_given_once_and_not_again_after_an_expulsion(world):
    world.join("north")
    impostor = make_request("north", Keys.generate(), now=world.now, entropy=bytes)
    with pytest.raises(SiteNameTaken):
        admit(world, impostor)
    world.consortium.expel("north", reason="", actor=world.operator, now=world.now)
    with pytest.raises(SiteNameTaken):
        admit(world, impostor)


@pytest.mark.parametrize("role", ["site", "tls", "node", "crossed"])
def test_a_key_that_is_or_was_registered_is_not_registered_again(world, role):
    world.join("north")
    world.consortium.expel("north", reason="", actor=world.operator, now=world.now)
    old, new = world.folder("north").load(), Keys.generate()
    mixed = {
        "site": lambda: type(new)(old.site, new.tls, new.node),
        "tls": lambda: type(new)(new.site, old.tls, new.node),
        "node": lambda: type(new)(new.site, new.tls, old.node),
        "crossed": lambda: type(new)(new.site, old.node, new.node),  # in another role
    }[role]()
    with pytest.raises(KeyTaken):
        admit(world, make_request("south", mixed, now=world.now, entropy=bytes))


def test_an_old_request_is_not_granted(world):
    asked = world.request("north")
    with pytest.raises(RequestRefused):
        admit(world, asked, now=world.now + timedelta(days=15))


def test_keys_that_take_the_place_of_nobodys_are_not_admitted(world):
    asked = make_request(
        "north", Keys.generate(), now=world.now, entropy=bytes, previous=Keys.generate().site
    )
    with pytest.raises(RequestRefused):
        admit(world, asked)


def test_an_expelled_site_is_shut_out_when_the_call_returns(world):
    admission = world.join("north")
    world.join("south")
    world.consortium.expel("north", reason="left", actor=world.operator, now=world.now)
    assert revoked(world) == {serial(admission)}
    assert [one.name for one in (world.authority / "nodes").iterdir()] == ["south.pub"]
    assert world.log.kinds()[-1] == "site-expelled"
    assert "left" not in repr(world.log)
    for again in (world.consortium.expel, world.consortium.renew):
        with pytest.raises(SiteNotAdmitted):
            options = {"reason": ""} if again == world.consortium.expel else {}
            again("north", actor=world.operator, now=world.now, **options)


def test_all_certificates_of_an_expelled_site_are_revoked(world):
    issued = [world.join("north")]
    for day in (1, 2):
        now = world.now + timedelta(days=day)
        issued.append(world.consortium.renew("north", actor=world.operator, now=now))
    world.consortium.expel("north", reason="", actor=world.operator, now=world.now)
    assert revoked(world) == {serial(one) for one in issued}
    assert len(revoked(world)) == 3


def test_a_renewal_lasts_longer_for_the_same_key(world):
    first = world.join("north")
    later = world.now + timedelta(days=60)
    second = world.consortium.renew("north", actor=world.operator, now=later)
    one, two = (x509.load_pem_x509_certificate(a.certificate.encode()) for a in (first, second))
    assert two.not_valid_after_utc - one.not_valid_after_utc == timedelta(days=60)
    assert one.public_key() == two.public_key()
    assert second.number > first.number
    assert revoked(world) == set()
    world.install("north", second, now=later)


def test_rotated_keys_shut_out_the_old_ones(world):
    first = world.join("north")
    asked = world.request("north", rotate=True)
    second = world.consortium.renew(
        "north",
        actor=world.operator,
        now=world.now,
        content=canonical(asked),
        given_fingerprint=fingerprint(asked.digest()),
    )
    assert revoked(world) == {serial(first)}
    assert serial(second) not in revoked(world)
    assert (world.authority / "nodes/north.pub").read_text().strip() == asked.node_key


def test_another_sites_keys_cannot_be_rotated_in(world):
    world.join("north")
    world.join("south")
    keys = world.folder("south").load().site
    for site, previous in (("north", keys), ("south", keys)):
        asked = make_request(site, Keys.generate(), now=world.now, entropy=bytes, previous=previous)
        with pytest.raises(RequestRefused):
            world.consortium.renew(
                "north",
                actor=world.operator,
                now=world.now,
                content=canonical(asked),
                given_fingerprint=fingerprint(asked.digest()),
            )


def test_the_server_is_certified_with_a_key_of_its_own(world):
    path = world.consortium.certify_server(
        ["localhost", "127.0.0.1"], actor=world.operator, now=world.now
    )
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    authority = x509.load_pem_x509_certificate((world.authority / "ca.crt").read_bytes())
    certificate.verify_directly_issued_by(authority)
    assert stat.S_IMODE((world.authority / "server.key").stat().st_mode) == 0o600
    assert world.log.kinds()[-1] == "server-certified"


class TestRotatedAuthority:
    def test_sites_of_the_old_one_and_the_new_one_are_known_meanwhile(self, world):
        old = world.join("north")
        world.consortium.rotate_authority(actor=world.operator, now=world.now)
        new = world.join("south")
        bundle = x509.load_pem_x509_certificates((world.authority / "ca.crt").read_bytes())
        assert len(bundle) == 2
        for admission, signer in ((new, bundle[0]), (old, bundle[1])):
            one = x509.load_pem_x509_certificate(admission.certificate.encode())
            one.verify_directly_issued_by(signer)
        text = (world.authority / "crl.pem").read_text()
        assert text.count("BEGIN X509 CRL") == 2
        world.install("north", world.consortium.renew("north", actor=world.operator, now=world.now))

    def test_the_old_one_is_forgotten_when_its_last_certificate_has_ended(self, world):
        world.join("north")
        world.consortium.rotate_authority(actor=world.operator, now=world.now)
        world.consortium.refresh(now=world.now + timedelta(days=89))
        assert len(world.consortium.register().signers) == 2
        world.consortium.refresh(now=world.now + timedelta(days=91))
        assert len(world.consortium.register().signers) == 1
        assert world.log.kinds()[-1] == "authority-retired"

    def test_a_stolen_one_is_forgotten_at_once(self, world):
        world.join("north")
        world.consortium.rotate_authority(actor=world.operator, now=world.now, at_once=True)
        assert (world.authority / "ca.crt").read_text().count("BEGIN") == 1
        renewed = world.consortium.renew("north", actor=world.operator, now=world.now)
        world.install("north", renewed, operator=None)

    def test_a_site_of_the_old_one_can_still_be_expelled(self, world):
        old, kept = world.join("north"), world.join("west")
        world.consortium.rotate_authority(actor=world.operator, now=world.now)
        new = world.join("south")
        assert all(openssl(world, one) for one in (old, kept, new))
        for site in ("north", "south"):
            world.consortium.expel(site, reason="", actor=world.operator, now=world.now)
        assert [openssl(world, one) for one in (old, kept, new)] == [False, True, False]


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.OPERATOR])
def test_nobody_but_the_operator_does_any_of_it(world, role):
    world.join("north")
    before = world.consortium.register()
    somebody = Actor("somebody", frozenset({role}), site="north", account="wallet:north")
    asked, now = world.request("south"), world.now
    attempts = [
        lambda: admit(world, asked, actor=somebody),
        lambda: world.consortium.renew("north", actor=somebody, now=now),
        lambda: world.consortium.expel("north", reason="", actor=somebody, now=now),
        lambda: world.consortium.certify_server(["localhost"], actor=somebody, now=now),
        lambda: world.consortium.rotate_authority(actor=somebody, now=now),
    ]
    told = len(world.log)
    for attempt in attempts:
        with pytest.raises(PermissionMissing):
            attempt()
    assert world.consortium.register() == before
    assert world.log.kinds()[told:] == ["permission-denied"] * len(attempts)


@pytest.mark.parametrize("writes", range(1, 6))
def test_killed_at_any_write_the_expulsion_is_completed_and_logged_once(world, monkeypatch, writes):
    admission = world.join("north")
    left = [writes]

    def dying(write):
        def wrapped(path, content, **options):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            write(path, content, **options)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(published, "write_whole", dying(published.write_whole))
        patched.setattr("identity.register.write_whole", dying(published.write_whole))
        with contextlib.suppress(KeyboardInterrupt):
            world.consortium.expel("north", reason="", actor=world.operator, now=world.now)
    decided = not world.consortium.register().active()
    again = Consortium(world.authority, world.log)
    again.refresh(now=world.now)
    if not decided:
        again.expel("north", reason="", actor=world.operator, now=world.now)
    assert revoked(world) == {serial(admission)}
    assert not list((world.authority / "nodes").iterdir())
    assert world.log.kinds().count("site-expelled") == 1


def test_a_log_that_takes_nothing_loses_no_event(world):
    world.join("north")

    def full(*_, **__):
        raise StorageFailed("the audit log", "it is full")

    broken = Consortium(world.authority, full)
    with pytest.raises(StorageFailed):
        broken.expel("north", reason="", actor=world.operator, now=world.now)
    assert not world.consortium.register().active()
    assert len(revoked(world)) == 1
    world.consortium.refresh(now=world.now)
    assert world.log.kinds().count("site-expelled") == 1


@pytest.mark.parametrize("name", ["ca.crt", "crl.pem", "nodes/north.pub"])
def test_a_file_that_was_changed_or_lost_is_made_again(world, name):
    world.join("north")
    file = world.authority / name
    good = file.read_bytes()
    for damage in (file.unlink, lambda: file.write_bytes(b"junk")):
        damage()
        world.consortium.refresh(now=world.now)
        assert file.exists()
        if name != "crl.pem":  # a new list has a new signature
            assert file.read_bytes() == good
    assert revoked(world) == set()


def test_a_node_key_that_nobody_admitted_is_removed(world):
    world.join("north")
    (world.authority / "nodes/stranger.pub").write_text("ecdsa-sha2-nistp384 AAAA")
    world.consortium.refresh(now=world.now)
    assert [one.name for one in (world.authority / "nodes").iterdir()] == ["north.pub"]


def test_the_list_is_made_anew_long_before_it_ends(world):
    before = (world.authority / "crl.pem").read_bytes()
    world.consortium.refresh(now=world.now + timedelta(days=100))
    assert (world.authority / "crl.pem").read_bytes() == before
    world.consortium.refresh(now=world.now + timedelta(days=200))
    assert (world.authority / "crl.pem").read_bytes() != before


def test_two_operators_at_once_lose_neither_decision(world):
    asked = [world.request(f"site-{number}") for number in range(6)]
    workers = [threading.Thread(target=admit, args=(world, one)) for one in asked]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(world.consortium.register().active()) == 6
    assert len(world.log) == 7


def test_the_register_is_json_that_others_read(world):
    world.join("north")
    body = json.loads((world.authority / "sites.json").read_text())
    [site] = body["sites"]
    assert (site["site"], site["state"]) == ("north", "active")
    assert body["unlogged"] == []
    assert Register.load(world.authority / "sites.json") == world.consortium.register()
