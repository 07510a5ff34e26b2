"""Commands that carry consents between hospital and server act for who may, and for no other."""

import json

import pytest
from typer.testing import CliRunner

from identity.roles import Permission, PermissionMissing
from portal.cli import app
from portal.local_actor import this_user
from portal.own_log import own_log
from tests.portal.apart_world import Apart


class Consents:
    """Files on their way between the hospital north and the server."""

    def __init__(self, world):
        self.world, self.study = world, world.found()
        world.set_up("north", self.study)
        self.site, self.server = world.home("north").path, world.server.path
        self.list, self.post = world.path / "list.txt", world.path / "post"
        self.list.write_text("ward7-1\nward7-2\n")
        self.post.mkdir()

    def grants(self):
        study = ["--study", self.study.for_sites, "--patients", self.list]
        return self.run("site", "grants", "north", *study, home=self.site)

    def admit_grants(self, sent):
        return self.run("study", "admit-grants", sent, home=self.server)

    def receipts(self, sent):
        return self.run("site", "receipts", "north", sent, home=self.site)

    def withdraw(self):
        return self.run("site", "withdraw", "north", "--patient", "ward7-1", home=self.site)

    def admit_withdrawals(self, sent):
        return self.run("study", "admit-withdrawals", sent, home=self.server)

    def run(self, *words, home):
        to = self.post / f"{words[1]}.json"
        options = [] if words[1] == "receipts" else ["--to", to]
        given = [str(one) for one in (*words, *options, "--home", home, "--json")]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return to

    def people(self, site, server):
        """Say what this system's user is at the hospital, and at the server."""
        folder = self.world.folder("north") / "identity/people.json"
        folder.write_text(json.dumps({this_user(): site}))
        (self.server / "people.json").write_text(json.dumps({this_user(): server}))


def only_with(permission, consents, call, *given):
    """Call it as somebody without the right, who changes nothing and is recorded; then with it."""
    at_site = permission is not Permission.TAKE_CONSENT
    consents.people(["officer"] if at_site else ["steward"], ["researcher"])
    post = {path.name: path.read_bytes() for path in consents.post.iterdir()}
    with pytest.raises(PermissionMissing) as missing:
        call(*given)
    assert missing.value.permission is permission
    assert {path.name: path.read_bytes() for path in consents.post.iterdir()} == post
    folder = consents.world.folder("north") if at_site else consents.server / "operator/authority"
    (*_, last) = own_log(folder).events()
    assert (last.kind, last.facts["permission"]) == ("permission-denied", str(permission))
    consents.people(["steward"], ["operator"])
    return call(*given)


def test_a_steward_asks_and_an_operator_publishes_and_nobody_else_does_either(tmp_path):
    consents = Consents(Apart(tmp_path))
    asked = only_with(Permission.PUBLISH_GRANT, consents, consents.grants)
    answered = only_with(Permission.TAKE_CONSENT, consents, consents.admit_grants, asked)
    only_with(Permission.PUBLISH_GRANT, consents, consents.receipts, answered)
    ended = only_with(Permission.END_GRANT, consents, consents.withdraw)
    confirmed = only_with(Permission.TAKE_CONSENT, consents, consents.admit_withdrawals, ended)
    only_with(Permission.PUBLISH_GRANT, consents, consents.receipts, confirmed)
