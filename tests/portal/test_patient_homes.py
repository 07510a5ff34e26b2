"""A stolen server's home names no patient, and a stolen steward's home signs no epoch."""

import json
import sqlite3
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

pytest.importorskip("groth16py", reason="real proofs need the extra `prover`")

from consent.claims import ClaimBook
from consent.registry import Registry
from portal import patient_cli
from portal.books import NoRunHere
from portal.home import Home
from portal.patient.homes import (
    StewardHomeMissing,
    StewardHomeTaken,
    StudyTermsDiffer,
    open_steward,
    others_in,
    part,
)
from portal.patient.server import create_app, open_desk, read_sheet
from privacy.keys import SiteKeys
from privacy.signatures import signing_key
from protocol.errors import BitHiveError
from tests.portal.patient_world import NORTH, SITES, SOUTH, STUDY, Patient, World

pytestmark = pytest.mark.slow
NUMBER = "MRN-0815-Q"


@pytest.fixture
def world(tmp_path):
    return World.found(tmp_path / "server-home")


@pytest.fixture
def steward_home(world, tmp_path):
    """North's own home; the other hospitals have theirs too."""
    for site in SITES:
        part(world.home, site, tmp_path / f"{site}-home")
    return tmp_path / f"{NORTH}-home"


def content(folder):
    """Every byte that whoever steals a folder has, and every database as text."""
    found = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    for path in folder.rglob("*.db"):
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            found.append("\n".join(connection.iterdump()).encode())
    return b"\n".join(found)


def forms_of(number):
    """How a field element may stand in a file."""
    raw = number.to_bytes(32, "big")
    return [str(number).encode(), raw, raw.hex().encode(), raw.hex().upper().encode()]


def run(*arguments, home, server):
    done = CliRunner().invoke(
        patient_cli.app,
        [*arguments, "--site", "north", "--home", str(home), "--server", str(server), "--json"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_each_home_alone_is_not_enough(world, steward_home):
    """A patient is invited, enrols, grants and claims; then both homes are searched."""
    homes = {"home": steward_home, "server": world.home.path}
    desk = open_desk(world.home, clock=lambda: datetime.now(UTC))
    client = TestClient(create_app(desk, read_sheet(world.home.server / "study-sheet.json")))
    owner = Patient(client)
    code = run("invite", NUMBER, **homes)["code"]
    assert owner.ask(code).status_code == 202
    assert len(run("waiting", **homes)["waiting"]) == 1
    assert run("enrol", "--all", **homes) == {"enrolled": [str(owner.commitment)]}
    body, secret = owner.wish()
    assert client.post("/api/grants", json=body).status_code == 201
    # Before the hospital fetched, its sealed opening lies at the server.
    searched = content(world.home.path)
    assert run("fetch", **homes) == {"kept": 1, "refused": []}
    epoch = desk.registry.epoch().number
    desk.claims.open_payout(STUDY, epoch, NORTH, [owner.payout_id], pool=10**18)

    steward = open_steward(steward_home, NORTH, server=world.home.path)
    ((patient, opening),) = steward._openings.all().values()
    assert patient == NUMBER
    keys = SiteKeys.load(steward_home / "sites" / NORTH / "keys.json")
    of_patient = [NUMBER.encode(), secret, secret.hex().encode(), code.encode()]
    of_patient += [code.replace("-", "").encode(), keys.agreement.private_bytes_raw()]
    for number in (opening.subject, opening.salt, opening.randomness, opening.terms.packed()):
        of_patient += forms_of(number)
    searched += content(world.home.path)
    assert forms_of(opening.leaf())[1] in searched  # the search finds what is there
    for what in of_patient:
        assert what not in searched
        assert what.lower() not in searched

    stolen = content(steward_home)
    assert NUMBER.encode() in stolen  # the hospital knows its patients
    registry_key = signing_key(world.home.server / "registry.key").private_bytes_raw()
    for what in (registry_key, registry_key.hex().encode()):
        assert what not in stolen
    for number in (owner.secret, owner.payout_secret):
        for what in forms_of(number):
            assert what not in stolen
            assert what not in searched
    assert not list(steward_home.rglob("registry*"))


def test_what_is_in_a_stewards_home_cannot_publish(world, steward_home):
    keys = SiteKeys.load(steward_home / "sites" / NORTH / "keys.json")
    with pytest.raises(BitHiveError) as refused:
        Registry(
            world.home.server / "registry.db", registry_id="registry", signing_key=keys.signing
        )
    assert refused.value.code == "another-registry"
    with pytest.raises(NoRunHere):
        open_desk(Home(steward_home), clock=lambda: datetime.now(UTC))
    assert not list(steward_home.rglob("claims.db"))


def test_a_home_that_was_parted_holds_nobody_else(world, steward_home):
    assert others_in(world.home) == []
    kept = {path.name for path in (steward_home / "sites" / NORTH).iterdir()}
    assert "keys.json" in kept
    assert (steward_home / "sites" / NORTH).stat().st_mode & 0o077 == 0
    assert (steward_home / "sites" / NORTH / "keys.json").stat().st_mode & 0o077 == 0
    ClaimBook(world.home.server / "claims.db", registry="registry").close()
    assert open_desk(world.home, clock=lambda: datetime.now(UTC)).lane(NORTH).site == NORTH


def test_a_shared_home_says_who_else_is_in_it(world):
    assert others_in(world.home) == ["sites/east", "sites/north", "sites/south"]


def test_a_hospital_is_not_parted_twice_nor_over_another(world, steward_home, tmp_path):
    with pytest.raises(StewardHomeMissing):
        part(world.home, NORTH, tmp_path / "elsewhere")
    other = World.found(tmp_path / "other")
    with pytest.raises(StewardHomeTaken):
        part(other.home, NORTH, steward_home)
    assert (other.home.path / "sites" / NORTH / "keys.json").is_file()


def test_a_steward_needs_her_own_hospitals_home(world, steward_home):
    with pytest.raises(StewardHomeMissing):
        open_steward(steward_home, SOUTH, server=world.home.path)
    with pytest.raises(NoRunHere):
        open_steward(steward_home, NORTH)


def test_a_server_that_changes_the_terms_is_refused(world, steward_home):
    file = world.home.server / "terms.json"
    file.write_bytes(file.read_bytes().replace(b'"rounds":40', b'"rounds":41'))
    with pytest.raises(StudyTermsDiffer):
        open_steward(steward_home, NORTH, server=world.home.path)
