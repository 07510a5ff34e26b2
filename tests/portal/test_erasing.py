"""An erased patient leaves no byte in her hospital's folder; the server's half goes by a file."""

import json
import secrets
import shutil
import threading
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from consent.erasure import ErasureUnfinished, NothingToErase
from consent.interrupted import Interrupted
from consent.openings import OpeningStore
from consent.registry import Registry
from fl_client.consent_store import StoredConsents
from fl_client.feature_store import FILE, FeatureStore, Made
from fl_client.store import SiteStore
from identity.roles import PermissionMissing
from portal import erasing, site_cli
from portal.admitting import admit_grants, admit_withdrawals
from portal.erasing import erase_at_site, erase_in_home
from portal.grant_book import GrantBook
from portal.home import Home
from portal.own_log import own_log
from portal.papers import Papers
from portal.patient.leaving import Invitations, StillEnrolled
from portal.patient_list import Wish
from protocol.errors import StorageFailed
from protocol.ids import PatientId
from tests.portal.apart_world import NOW, Apart
from tests.portal.patient_world import NORTH, World, set_up

PATIENTS = [PatientId(f"ward7-{number}") for number in range(5)]
GONE, STAYS = PATIENTS[2], PATIENTS[3]
STUDY = "study-wisconsin"


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    """A study, and its north, where four have grants and papers and two more are on their way."""
    world = Apart(tmp_path_factory.mktemp("study"))
    study = world.found()
    desk = world.set_up("north", study)
    asking = desk.ask(study.terms, [Wish(one) for one in PATIENTS[:4]], entropy=secrets.token_bytes)
    desk.take(admit_grants(world.server, asking.content, now=NOW).receipts)
    desk.ask(study.terms, [Wish(one) for one in PATIENTS], entropy=secrets.token_bytes)
    return world, study


@pytest.fixture
def apart(founded, tmp_path):
    shutil.copytree(founded[0].path, tmp_path / "apart")
    world = object.__new__(Apart)
    world.__dict__ |= founded[0].__dict__ | {"path": tmp_path / "apart"}
    world.server = Home(world.path / "server-home")
    return world, founded[1]


@pytest.fixture
def north(apart):
    """The hospital, whose agent has trained, on a study with a feature step too."""
    world, study = apart
    desk = world.set_up("north", study)
    store = SiteStore(desk.folder / "site.db")
    store.keep_answer(STUDY, 1, "plan", b"", None, personal=b"with her", members=PATIENTS)
    store.keep_answer(STUDY, 2, "plan", b"", None, personal=b"without", members=[STAYS])
    features = FeatureStore(desk.folder / FILE)
    for one in PATIENTS:
        made = Made(np.full((1, 4), 0.375 + float(one == GONE), np.float32), failed=False)
        features.keep("step", features.person(one), "00ff", made)
    return desk


def erase(desk, patient=GONE, *, user="steward", now=NOW, **known):
    return erase_at_site(desk, patient, home=desk.folder.parents[1], user=user, now=now, **known)


def dump(folder):
    """All bytes of all files below a folder, write-ahead logs and whatever else lies there too."""
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def secrets_of(desk, patient):
    """What somebody who searches would look for: in every form in which we write it."""
    openings = OpeningStore(desk.folder / "openings.db").all().values()
    waiting = GrantBook(desk.folder).waiting()
    hers = [opening for whose, opening in openings if whose == patient]
    hers += [one.opening for one in waiting if one.patient == patient]
    codes = [one.code.secret for one in waiting if one.patient == patient]
    for file in (desk.folder / "papers").glob("*.json"):
        papers = json.loads(file.read_bytes()).values()
        codes += [bytes.fromhex(one["code"]) for one in papers if one["patient"] == patient]
    numbers = [n for one in hers for n in (one.subject, one.salt, one.randomness)]
    assert numbers
    assert codes
    yield patient.encode()
    for number in numbers:
        yield from (number.to_bytes(32, "big"), str(number).encode(), f"{number:x}".encode())
    for code in codes:
        yield from (code, code.hex().encode())


def test_no_file_of_the_hospital_has_her_number_or_a_secret_of_hers(north):
    found = dump(north.folder)
    searched, others = list(secrets_of(north, GONE)), list(secrets_of(north, STAYS))
    assert GONE.encode() in found
    assert searched[-1] in found  # the code on her paper
    done = erase(north)
    found = dump(north.folder)
    for trace in searched:
        assert trace not in found
    assert {others[0], others[-1]} <= {trace for trace in others if trace in found}
    for said in (done.text(), repr(done), done.ending.content.decode()):
        assert GONE not in said


def test_what_opens_a_grant_that_is_on_its_way_goes_too(north):
    late = PATIENTS[4]
    (waiting,) = GrantBook(north.folder).waiting()
    assert waiting.code.secret in dump(north.folder)
    assert erase(north, late).erased.destroyed["grants on their way"] == 1
    found = dump(north.folder)
    salt = waiting.opening.salt
    for trace in (late.encode(), waiting.code.secret, salt.to_bytes(32, "big"), str(salt).encode()):
        assert trace not in found


def test_what_was_made_of_her_records_goes_and_others_features_stay(north):
    hers = np.full((1, 4), 1.375, np.float32).tobytes()
    assert hers in dump(north.folder)
    done = erase(north)
    found = dump(north.folder)
    assert hers not in found
    assert b"with her" not in found
    assert b"without" in found
    assert FeatureStore(north.folder / FILE).counts() == (4, 0)
    assert done.as_json()["destroyed"] == {
        "models of the site and certificates": 1,
        "features": 1,
        "invitations and enrolments": 0,
        "papers": 1,
        "grants on their way": 0,
        "openings": 1,
    }


def test_she_is_left_out_at_once_and_the_servers_half_goes_by_the_file(apart, north):
    world, _ = apart
    ((place, opening),) = [
        (place, opening)
        for place, (whose, opening) in OpeningStore(north.folder / "openings.db").all().items()
        if whose == GONE
    ]
    done = erase(north)
    assert done.ended == 1
    assert SiteStore(north.folder / "site.db").consents.ended() == {opening.leaf()}
    assert north.end(None, now=NOW).content == done.ending.content
    admitted = admit_withdrawals(world.server, done.ending.content, now=NOW)
    assert admitted.done == 1
    slots = Registry.reader(world.server.server / "registry.db").chunk_leaves(place // 8)
    assert slots[place % 8] == 0
    assert north.take(admitted.receipts).ended == 1
    assert GONE.encode() not in dump(world.server.path)


def test_receipts_that_come_after_it_do_not_bring_her_back(apart, north):
    world, study = apart
    late = PATIENTS[4]
    asking = north.ask(study.terms, [Wish(late)], entropy=secrets.token_bytes)
    erase(north, late)
    taken = north.take(admit_grants(world.server, asking.content, now=NOW).receipts)
    assert (taken.added, taken.known) == (0, 1)
    assert late.encode() not in dump(north.folder)


def test_erased_again_it_is_said_plainly_and_a_stranger_is_told_the_same(north):
    erase(north)
    said = set()
    for patient in (GONE, PatientId("ward7-99")):
        with pytest.raises(NothingToErase) as refusal:
            erase(north, patient)
        said.add(str(refusal.value))
    assert len(said) == 1
    assert "ward7" not in said.pop()
    assert b"ward7-99" not in dump(north.folder)


def test_she_may_come_back_with_a_new_grant(apart, north):
    world, study = apart
    before = {one.leaf() for _, one in OpeningStore(north.folder / "openings.db").all().values()}
    north.take(admit_withdrawals(world.server, erase(north).ending.content, now=NOW).receipts)
    asking = north.ask(study.terms, [Wish(GONE)], entropy=secrets.token_bytes)
    assert asking.new == 1
    north.take(admit_grants(world.server, asking.content, now=NOW).receipts)
    ((_, opening),) = [
        one for one in OpeningStore(north.folder / "openings.db").all().values() if one[0] == GONE
    ]
    assert opening.leaf() not in before | SiteStore(north.folder / "site.db").consents.ended()


class Killed(BaseException):
    pass


STEPS = (
    (StoredConsents, "end"),
    (GrantBook, "end"),
    (erasing.AgentMemory, "destroy"),
    (FeatureStore, "destroy"),
    (Invitations, "destroy"),
    (Papers, "destroy"),
    (GrantBook, "destroy"),
    (OpeningStore, "destroy"),
    (Interrupted, "end"),
)
"""In the order in which an erasure takes them."""


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=lambda one: f"{one[0].__name__}.{one[1]}")
def test_killed_at_any_step_it_is_finished_by_the_same_command(north, monkeypatch, step, after):
    searched = list(secrets_of(north, GONE))
    kind, name = step
    whole = getattr(kind, name)

    def die(*given, **known):
        if after:
            whole(*given, **known)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(kind, name, die)
        with pytest.raises(Killed):
            erase(north)
    if after and step == STEPS[-1]:  # there was nothing left to do
        with pytest.raises(NothingToErase):
            erase(north)
    else:
        assert erase(north, now=NOW + timedelta(hours=1)).erased.resumed
    found = dump(north.folder)
    assert not any(trace in found for trace in searched)
    assert north.end(None, now=NOW).content  # the server still has to hear of it
    assert len([one for one in events(north) if one.kind == erasing.KIND]) == 1


def events(desk):
    log = own_log(desk.folder)
    try:
        return list(log.events())
    finally:
        log.close()


def test_rows_that_went_without_their_bytes_are_finished_too(north, monkeypatch):
    """Killed between a deletion and the rewriting of its file, no table shows her any more."""

    def die(*_given, **_known):
        raise Killed

    searched = list(secrets_of(north, GONE))
    for module in ("fl_client.feature_store", "portal.grant_book", "consent.openings"):
        with monkeypatch.context() as patched:
            patched.setattr(f"{module}.write_anew", die)
            with pytest.raises(Killed):
                erase(north)
    erase(north)
    found = dump(north.folder)
    assert not any(trace in found for trace in searched)


def test_a_file_that_cannot_be_cleared_is_named_with_what_is_left(north, monkeypatch):
    def refuse(*_given, **_known):
        raise StorageFailed("features.db", "another process is reading it; try again")

    with monkeypatch.context() as patched:
        patched.setattr("fl_client.feature_store.write_anew", refuse)
        with pytest.raises(ErasureUnfinished, match="run the command again") as stopped:
            erase(north)
    assert stopped.value.left[0] == "features"
    assert stopped.value.left[-1] == "openings"
    assert north.end(None, now=NOW).content
    assert erase(north).erased.resumed


def test_the_record_says_who_and_when_and_not_whom(north):
    erase(north)
    (event,) = [one for one in events(north) if one.kind == erasing.KIND]
    assert event.facts == {"site": "north", "by": "steward", "began": NOW.isoformat()}


def test_an_officer_erases_nobody(north):
    people = north.folder / "identity/people.json"
    people.write_text(json.dumps({"steward": ["steward"], "officer": ["officer"]}))
    before = dump(north.folder / "papers")
    with pytest.raises(PermissionMissing):
        erase(north, user="officer")
    assert dump(north.folder / "papers") == before
    assert events(north)[-1].kind == "permission-denied"
    assert erase(north).ended == 1


def test_a_round_that_may_be_training_is_named(north, monkeypatch):
    from fl_client.under_way import UnderWay

    rounds = UnderWay(north.folder / "site.db", answered=list, clock=lambda: NOW)
    with rounds.training(STUDY, 3, 60):
        done = erase(north)
    assert done.training == ((STUDY, 3),)
    assert f"round 3 of {STUDY}" in done.text()


def test_a_paper_added_again_is_there_once_and_those_of_others_stay(north):
    (waiting,) = GrantBook(north.folder).waiting()
    papers = Papers(north.folder)
    assert papers.add([waiting]) == papers.add([waiting])
    assert [papers.holds(one) for one in PATIENTS] == [1] * 5
    papers.destroy(GONE)
    assert [papers.holds(one) for one in PATIENTS] == [1, 1, 0, 1, 1]


def test_receipts_are_not_taken_in_while_somebody_is_erased(apart, north):
    world, study = apart
    asking = north.ask(study.terms, [Wish(PATIENTS[4])], entropy=secrets.token_bytes)
    receipts = admit_grants(world.server, asking.content, now=NOW).receipts
    taking = threading.Thread(target=north.take, args=[receipts])
    with GrantBook(north.folder).turn():
        taking.start()
        taking.join(timeout=0.3)
        assert taking.is_alive()
        assert GrantBook(north.folder).holds(PATIENTS[4]) == 1
    taking.join(timeout=60)
    assert OpeningStore(north.folder / "openings.db").holds(PATIENTS[4]) == 1


def test_a_paper_that_a_crash_left_half_written_goes_too(north):
    half = north.folder / "papers" / f".{STUDY}.json.0011"
    half.write_text(f'{{"x": {{"patient": "{GONE}"')
    erase(north)
    assert not half.exists()


# The command


def invoke(desk, *arguments, stdin=""):
    home = str(desk.folder.parents[1])
    given = ["erase", "north", "--home", home, *arguments]
    return CliRunner().invoke(site_cli.app, given, input=stdin)


def test_the_command_asks_writes_the_file_and_names_nobody(north, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke(north, stdin=f"{GONE}\nn\n").exit_code == 1
    assert GONE.encode() in dump(north.folder)
    result = invoke(north, "--json", stdin=f"{GONE}\ny\n")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["grants"] == found["destroyed"]["openings"] == 1
    assert GONE not in result.stdout
    assert GONE.encode() not in Path(found["file"]).read_bytes()
    again = invoke(north, "--patient", GONE, "--yes")
    assert isinstance(again.exception, NothingToErase)


def test_who_withdraws_by_the_command_leaves_no_features(north, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = str(north.folder.parents[1])
    given = ["withdraw", "north", "--home", home, "--patient", GONE]
    assert CliRunner().invoke(site_cli.app, given).exit_code == 0
    assert FeatureStore(north.folder / FILE).holds(GONE) == 0
    assert erase(north).erased.destroyed["openings"] == 1


# Where a steward enrolled her


@pytest.fixture
def together(tmp_path):
    """A home with the server, and hospitals that enrol and are set up."""
    world = World.found(tmp_path / "home")
    set_up(world.home, NORTH, world.terms)
    return world


def enrolled(world, commitment=77):
    from portal.patient.mailbox import Mailbox, Request
    from portal.patient.sealing import invitation_keys, request_mac

    code = world.invite(GONE)
    keys = invitation_keys(code)
    mac = request_mac(keys, NORTH, commitment)
    Mailbox(world.home.server / "mailbox.db").request(
        Request(keys.lookup, commitment, mac), now=NOW
    )
    world.steward().enrol(code, now=NOW)
    world.invite(GONE)


def test_her_enrolment_ends_with_her_invitations(together):
    from portal.patient.mailbox import Mailbox
    from portal.patient.server import open_group

    enrolled(together)
    folder = together.home.site(NORTH)
    erase_in_home(together.home, NORTH, GONE, user="steward", now=NOW)
    assert 77 not in open_group(together.home, together.terms).members(now=NOW)
    assert Mailbox(together.home.server / "mailbox.db").requests(NORTH) == []
    assert GONE.encode() not in dump(folder)


def test_an_enrolled_patient_is_not_forgotten_while_her_key_can_act(together):
    from portal.site_grants import GrantDesk

    enrolled(together)
    desk = GrantDesk.open(together.home.site(NORTH), NORTH)
    with pytest.raises(StillEnrolled) as refusal:
        erase(desk)
    assert GONE not in str(refusal.value)
    assert Invitations(desk.folder).enrolled(GONE) == 1
    erase(desk, server=together.home.path)
    assert Invitations(desk.folder).holds(GONE) == 0


def test_where_one_machine_has_both_the_server_hears_of_it_even_after_a_crash(
    apart, north, monkeypatch
):
    world, _ = apart
    folder = world.server.site("north")
    shutil.copytree(north.folder, folder, dirs_exist_ok=True)

    def die(*_given, **_known):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(erasing, "admit_withdrawals", die)
        with pytest.raises(Killed):
            erase_in_home(world.server, "north", GONE, user="steward", now=NOW)
    with pytest.raises(NothingToErase):
        erase_in_home(world.server, "north", GONE, user="steward", now=NOW)
    registry = Registry.reader(world.server.server / "registry.db")
    assert sum(registry.live_count(lane) for lane in registry.lanes()) == 3
    assert GrantBook(folder).unconfirmed() == []
