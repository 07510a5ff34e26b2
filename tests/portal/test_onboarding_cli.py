"""A hospital joins, is renewed and leaves by the commands, with one file each way."""

import json
import stat

import pytest
from typer.testing import CliRunner

from identity.accounts import Accounts
from identity.admission import OperatorUnconfirmed
from identity.consortium import RequestReplayed
from identity.requests import FingerprintDiffers
from identity.site_folder import SiteFolder, SiteKeysThere
from portal.cli import app
from portal.own_log import own_log

pytestmark = pytest.mark.slow


class Machines:
    """An operator's and a site's machine, and the way between them."""

    def __init__(self, path):
        self.path = path
        self.printed = []

    def run(self, *words, given=None):
        found = CliRunner().invoke(app, [str(word) for word in words], input=given)
        self.printed.append(found.output)
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found

    def operator(self, *words, given=None):
        home = ["--home", self.path / "operator", "--json"]
        found = self.run("operator", *words, *home, given=given)
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)

    def site(self, *words, home="north"):
        found = self.run("site", *words, "--home", self.path / home, "--json")
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)

    def found(self):
        return self.operator(
            "init", "lungs", "--address", "127.0.0.1:8443", "--server-name", "localhost"
        )

    def admit(self, asked, *options):
        to = self.path / "post/north.json"
        words = ["admit", asked["request"], "--fingerprint", asked["fingerprint"], "--to", to]
        return self.operator(*words, *options)


@pytest.fixture
def machines(tmp_path):
    return Machines(tmp_path)


def test_a_hospital_joins_is_renewed_rotates_and_leaves(machines):
    founded = machines.found()
    asked = machines.site("init", "north")
    admitted = machines.admit(asked)
    assert admitted["fingerprint"] == founded["fingerprint"]
    joined = machines.site("install", admitted["admission"], "--operator", founded["fingerprint"])
    assert (joined["federation"], joined["addresses"]) == ("lungs", ["127.0.0.1:8443"])

    to = machines.path / "post/again.json"
    machines.operator("renew", "north", "--to", to)
    machines.site("install", to)
    rotated = machines.site("init", "north", "--rotate")
    renewal = ["--request", rotated["request"], "--fingerprint", rotated["fingerprint"]]
    machines.operator("renew", "north", *renewal, "--to", to)
    machines.site("install", to)

    [listed] = machines.operator("list")["sites"]
    assert (listed["site"], listed["state"]) == ("north", "active")
    machines.operator("expel", "north", "--reason", "left")
    assert machines.operator("list")["sites"][0]["state"] == "expelled"
    assert not list((machines.path / "operator/authority/nodes").iterdir())

    log = own_log(machines.path / "operator/authority")
    assert [event.kind for event in log.events()] == [
        "federation-founded",
        "server-certified",
        "site-admitted",
        "site-renewed",
        "site-renewed",
        "site-expelled",
    ]
    log.verify()
    log.close()
    _no_key_left(machines)


def _no_key_left(machines):
    """Look for the private keys in what was sent, printed and logged."""
    folder = SiteFolder.of(machines.path / "north")
    keys = json.loads(folder.site_key.read_text())
    secrets = [*keys.values()]
    for file in (folder.tls_key, folder.node_key, machines.path / "operator/authority/ca.key"):
        lines = file.read_text().splitlines()[1:-1]
        secrets += [line for line in lines if len(line) > 40]
    sent = list((machines.path / "post").iterdir())
    sent += [folder.request, *(machines.path / "operator/authority").glob("audit.db*")]
    sent += [machines.path / "operator/authority/sites.json"]
    content = b"".join(file.read_bytes() for file in sent) + "".join(machines.printed).encode()
    assert b"PRIVATE KEY" not in content
    for secret in secrets:
        assert secret.encode() not in content


def test_a_fingerprint_that_was_not_read_out_admits_nobody(machines):
    machines.found()
    asked = machines.site("init", "north")
    with pytest.raises(FingerprintDiffers):
        machines.admit(asked | {"fingerprint": "0" * 32})
    assert machines.operator("list")["sites"] == []


def test_a_fingerprint_can_be_typed(machines):
    machines.found()
    asked = machines.site("init", "north")
    home = machines.path / "operator"
    found = machines.run(
        "operator", "admit", asked["request"], "--home", home, "--to", machines.path / "a.json",
        given=asked["fingerprint"] + "\n",
    )  # fmt: skip
    assert found.exit_code == 0
    # What is compared was not shown to who compares it.
    assert asked["fingerprint"] not in found.output.replace(asked["fingerprint"] + "\n", "", 1)


def test_an_admission_is_not_installed_before_somebody_looked_whose_it_is(machines):
    machines.found()
    admitted = machines.admit(machines.site("init", "north"))
    with pytest.raises(OperatorUnconfirmed):
        machines.site("install", admitted["admission"])
    assert not (machines.path / "north/identity/tls.crt").exists()


def test_the_same_request_is_not_granted_twice(machines):
    machines.found()
    asked = machines.site("init", "north")
    machines.admit(asked)
    with pytest.raises(RequestReplayed):
        machines.admit(asked)


def test_keys_are_made_once(machines):
    machines.site("init", "north")
    with pytest.raises(SiteKeysThere):
        machines.site("init", "north")


@pytest.mark.parametrize("name", ["../south", "North", "", "a" * 41])
def test_a_name_that_is_none_is_misused(machines, name):
    found = machines.run("site", "init", name, "--home", machines.path / "x")
    assert found.exit_code == 2
    assert not (machines.path / "x").exists()


def test_an_authority_is_rotated_and_its_sites_named(machines):
    machines.found()
    machines.admit(machines.site("init", "north"))
    assert machines.operator("rotate") == {"renew": ["north"]}
    assert machines.operator("server", "localhost")["certificate"].endswith("server.crt")


def test_a_person_gets_an_account_and_loses_it(machines):
    machines.found()
    password = "four long plain words"
    words = ["account", "s.north", "--role", "steward", "--site", "north"]
    assert machines.operator(*words, given=password + "\n")["done"] == "made"
    file = machines.path / "operator/authority/accounts.db"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    accounts = Accounts(file, audit=lambda *_: None)
    session = accounts.sign_in("s.north", password, address="192.0.2.7", now=0.0)
    assert accounts.actor(session.token, now=0.0).site == "north"
    accounts.close()
    machines.operator("account", "s.north", "--disable")
    assert password not in "".join(machines.printed)


def test_a_role_that_is_none_is_misused(machines):
    machines.found()
    home = ["--home", machines.path / "operator"]
    found = machines.run("operator", "account", "x", "--role", "king", *home, given="p\n")
    assert found.exit_code == 2
