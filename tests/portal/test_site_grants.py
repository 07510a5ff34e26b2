"""A hospital asks for grants by a file, keeps what receipts prove, and ends grants at once."""

import json
import math
import secrets
import stat
from datetime import UTC, datetime

import pytest

from consent.openings import OpeningStore
from consent.receipts import NotSignedByRegistry
from consent.registry import Registry
from fl_client.jobs import JobBook
from fl_client.offers import JobFalse
from fl_client.store import SiteStore
from identity.roles import Actor, Role
from portal import resident, site_grants
from portal.admitting import admit_grants, admit_withdrawals
from portal.consent_files import ConsentFileRefused, GrantsFile, ReceiptsFile, read_file
from portal.grant_book import GrantBook
from portal.jobs import Asking, job_of
from portal.papers import Papers
from portal.patient_list import Wish
from portal.site_grants import (
    GrantDesk,
    GrantTermsDiffer,
    NoGrantsToEnd,
    NoGrantsToSend,
    ReceiptNotOurs,
)
from portal.site_settings import Packaged, SiteNotSetUp, StudyNotHeld
from protocol.canonical import canonical
from protocol.ids import PatientId
from tests.portal.apart_world import NOW, Apart

PATIENTS = [PatientId(f"ward7-{number}") for number in range(5)]
WISHES = [Wish(one) for one in PATIENTS]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    world = Apart(tmp_path_factory.mktemp("study"))
    return world, world.found()


@pytest.fixture
def apart(study, tmp_path):
    """The founded study again, with nothing granted in it."""
    import shutil

    shutil.copytree(study[0].path, tmp_path / "apart")
    world = object.__new__(Apart)
    world.__dict__ |= study[0].__dict__ | {"path": tmp_path / "apart"}
    world.server = type(study[0].server)(world.path / "server-home")
    return world, study[1]


@pytest.fixture
def north(apart):
    world, study = apart
    return world.set_up("north", study)


def ask(desk, study, wishes=WISHES):
    return desk.ask(study.terms, wishes, entropy=secrets.token_bytes)


def openings(desk):
    return OpeningStore(desk.folder / "openings.db").all()


def answered(world, desk, study, wishes=WISHES):
    return admit_grants(world.server, ask(desk, study, wishes).content, now=NOW).receipts


def test_asked_again_the_file_is_the_same_and_a_longer_list_adds_to_it(apart, north):
    _, study = apart
    first = ask(north, study, WISHES[:3])
    again = ask(north, study, WISHES[:3][::-1])
    assert first.content == again.content
    assert (first.new, again.new, again.waiting) == (3, 0, 3)
    longer = ask(north, study)
    assert (longer.new, longer.waiting) == (2, 5)
    known = {one.leaf for one in read_file(GrantsFile, first.content).grants}
    assert known < {one.leaf for one in read_file(GrantsFile, longer.content).grants}


def test_neither_file_nor_count_names_a_patient_and_the_book_is_private(apart, north):
    world, study = apart
    asking = ask(north, study)
    receipts = admit_grants(world.server, asking.content, now=NOW).receipts
    waiting = GrantBook(north.folder).waiting()
    for shown in (asking.content, receipts, repr(asking).encode(), repr(waiting).encode()):
        assert b"ward7" not in shown
    taken = north.take(receipts)
    assert b"ward7" not in repr(taken).encode()
    for file in (north.folder / "grants.db", taken.papers):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_opening_is_usable_once_its_receipt_has_come_and_not_before(apart, north):
    world, study = apart
    receipts = answered(world, north, study)
    assert openings(north) == {}
    taken = north.take(receipts)
    assert (taken.added, taken.known, taken.waiting) == (5, 0, 0)
    assert {patient for patient, _ in openings(north).values()} == set(PATIENTS)
    again = north.take(receipts)
    assert (again.added, again.known) == (0, 5)
    with pytest.raises(NoGrantsToSend) as nothing:
        ask(north, study)
    assert nothing.value.already == 5


def test_the_grants_allow_the_study_on_all_its_days(apart, north):
    world, study = apart
    north.take(answered(world, north, study))
    consent = study.terms.consent
    for _, opening in openings(north).values():
        assert opening.terms.allows(consent.required, consent.from_day, consent.through_day)


def test_a_patient_who_allows_other_purposes_is_granted_for_those(apart, north):
    world, study = apart
    north.take(answered(world, north, study, [Wish(PATIENTS[0], ("POA",))]))
    consent = study.terms.consent
    ((_, opening),) = openings(north).values()
    assert not opening.terms.allows(consent.required, consent.from_day, consent.through_day)


def test_each_patients_paper_ends_her_grant(apart, north):
    world, study = apart
    taken = north.take(answered(world, north, study))
    papers = json.loads(taken.papers.read_text())
    registry = study_registry(world, study)
    for grant, paper in papers.items():
        registry.withdraw(grant, bytes.fromhex(paper["code"]), now=NOW)
    assert {one["patient"] for one in papers.values()} == set(PATIENTS)
    assert sum(registry.live_count(lane) for lane in registry.lanes()) == 0


def study_registry(world, study):
    from portal.consents import open_registry

    return open_registry(world.server.server, study.terms)


def test_a_receipt_that_another_registry_signed_keeps_nothing(apart, north):
    world, study = apart
    file = read_file(ReceiptsFile, answered(world, north, study))
    signature = bytes(64).hex()
    forged = (*file.receipts[:2], {**file.receipts[2], "signature": signature})
    with pytest.raises(NotSignedByRegistry):
        north.take(canonical(file.model_copy(update={"receipts": forged})))
    assert openings(north) == {}


def test_another_hospitals_receipts_keep_nothing(apart, north):
    world, study = apart
    south = world.set_up("south", study)
    ask(north, study)
    with pytest.raises(ReceiptNotOurs):
        north.take(answered(world, south, study))
    assert openings(north) == {}


def test_receipts_that_were_withheld_are_counted(apart, north):
    world, study = apart
    file = read_file(ReceiptsFile, answered(world, north, study))
    cut = canonical(file.model_copy(update={"receipts": file.receipts[:2]}))
    taken = north.take(cut)
    assert (taken.added, taken.waiting) == (2, 3)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"format":"bithive-receipts-2"}']
)
def test_what_is_no_file_of_receipts_is_refused(north, content):
    with pytest.raises(ConsentFileRefused):
        north.take(content)


STEPS = ((OpeningStore, "add_many"), (Papers, "add"), (GrantBook, "moved"))


@pytest.mark.parametrize("step", STEPS, ids=lambda one: one[1])
def test_killed_while_receipts_are_kept_every_opening_is_kept_once(apart, north, monkeypatch, step):
    class Killed(BaseException):
        pass

    def die(*_args, **_known):
        raise Killed

    world, study = apart
    receipts = answered(world, north, study)
    with monkeypatch.context() as patched:
        patched.setattr(*step, die)
        with pytest.raises(Killed):
            north.take(receipts)
    taken = north.take(receipts)
    assert len(openings(north)) == 5
    assert taken.waiting == 0
    assert len(json.loads((north.folder / "papers/study-wisconsin.json").read_text())) == 5


def test_killed_before_the_file_is_written_the_same_openings_are_asked_for(
    apart, north, monkeypatch
):
    _, study = apart
    with monkeypatch.context() as patched:
        patched.setattr(site_grants, "canonical", lambda _one: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask(north, study)
    kept = {one.opening.leaf() for one in GrantBook(north.folder).waiting()}
    asking = ask(north, study)
    assert asking.new == 0
    assert {one.leaf for one in read_file(GrantsFile, asking.content).grants} == kept


def test_a_study_of_other_records_or_with_another_hospitals_keys_is_refused(apart, north):
    _, study = apart
    consent = study.terms.consent.model_copy(update={"dataset": "scans"})
    with pytest.raises(StudyNotHeld):
        ask(north, type(study)(study.terms.model_copy(update={"consent": consent}), None, ""))
    others = tuple(one for one in study.terms.sites if one.site != "north")
    with pytest.raises(JobFalse):
        ask(north, type(study)(study.terms.model_copy(update={"sites": others}), None, ""))


def test_other_terms_than_an_officer_approved_are_granted_nothing(apart, north):
    _, study = apart
    wider = study.terms.consent.model_copy(update={"required": study.terms.consent.required | 1})
    other = study.terms.model_copy(update={"consent": wider})
    asking = Asking("Institute of Cells", bytes(32), 1)
    manifest = job_of(study.terms, asking, lambda _: bytes(64), now=datetime.now(UTC))
    book = JobBook(north.folder / "site.db", north.own.site)
    book.keep(manifest, study.terms)
    officer = Actor("officer-1", frozenset({Role.OFFICER}), site=north.own.site)
    book.approve(manifest.hash, officer, left=lambda _job: math.inf)
    with pytest.raises(GrantTermsDiffer):
        north.ask(other, WISHES, entropy=secrets.token_bytes)
    assert ask(north, study).new == 5


def test_a_hospital_that_was_not_set_up_is_told_so(apart):
    world, _ = apart
    with pytest.raises(SiteNotSetUp):
        GrantDesk.open(world.folder("south"), "south")


# Withdrawal


def test_who_withdraws_is_left_out_at_once_and_her_grant_ends_at_the_server(apart, north):
    world, study = apart
    north.take(answered(world, north, study))
    ((place, opening),) = [
        (place, one) for place, (patient, one) in openings(north).items() if patient == PATIENTS[2]
    ]
    ending = north.end(PATIENTS[2], now=NOW)
    assert SiteStore(north.folder / "site.db").consents.ended() == {opening.leaf()}
    assert b"ward7" not in ending.content
    assert north.end(PATIENTS[2], now=NOW.replace(hour=11)).content == ending.content
    admitted = admit_withdrawals(world.server, ending.content, now=NOW)
    assert (admitted.done, admitted.unknown) == (1, 0)
    registry = Registry.reader(world.server.server / "registry.db")
    slots = registry.chunk_leaves(place // 8)
    assert slots[place % 8] == 0
    assert sum(map(bool, slots)) == 4
    assert north.take(admitted.receipts).ended == 1
    with pytest.raises(NoGrantsToEnd):
        north.end(PATIENTS[2], now=NOW)
    with pytest.raises(NoGrantsToEnd):
        north.end(None, now=NOW)


def test_who_withdraws_before_her_receipt_came_is_never_used(apart, north):
    world, study = apart
    asking = ask(north, study)
    ending = north.end(PATIENTS[0], now=NOW)
    assert ask(north, study, WISHES[1:]).waiting == 4
    early = admit_withdrawals(world.server, ending.content, now=NOW)
    assert (early.done, early.unknown) == (0, 1)
    taken = north.take(admit_grants(world.server, asking.content, now=NOW).receipts)
    assert (taken.added, taken.known) == (4, 1)
    assert PATIENTS[0] not in {patient for patient, _ in openings(north).values()}
    again = admit_withdrawals(world.server, north.end(None, now=NOW).content, now=NOW)
    assert (again.done, again.unknown) == (1, 0)


@pytest.mark.parametrize("confirmed", [True, False])
def test_who_withdrew_is_not_asked_for_by_the_list_that_still_has_her(apart, north, confirmed):
    world, study = apart
    north.take(answered(world, north, study))
    ending = north.end(PATIENTS[1], now=NOW)
    if confirmed:
        north.take(admit_withdrawals(world.server, ending.content, now=NOW).receipts)
    with pytest.raises(NoGrantsToSend) as nothing:
        ask(north, study)
    assert (nothing.value.already, nothing.value.withdrew) == (4, 1)
    asking = ask(north, study, [*WISHES, Wish(PatientId("ward7-9"))])
    assert (asking.new, asking.already, asking.withdrew) == (1, 4, 1)


def test_who_withdrew_before_her_receipt_came_is_not_asked_for_either(apart, north):
    _, study = apart
    ask(north, study)
    north.end(PATIENTS[1], now=NOW)
    asking = ask(north, study)
    assert (asking.new, asking.waiting, asking.withdrew) == (0, 4, 1)


def test_who_withdrew_may_grant_again_where_she_is_said_to_have_agreed_anew(apart, north):
    world, study = apart
    north.take(answered(world, north, study))
    north.end(PATIENTS[1], now=NOW)
    north.end(PATIENTS[2], now=NOW)
    asking = north.ask(study.terms, WISHES, anew=[WISHES[1]], entropy=secrets.token_bytes)
    assert (asking.new, asking.already, asking.withdrew) == (1, 3, 1)
    north.take(admit_grants(world.server, asking.content, now=NOW).receipts)
    ended = SiteStore(north.folder / "site.db").consents.ended()
    live = [one for one in openings(north).values() if one[1].leaf() not in ended]
    assert {patient for patient, _ in live} == set(PATIENTS) - {PATIENTS[2]}
    north.end(PATIENTS[1], now=NOW)
    with pytest.raises(NoGrantsToSend):
        ask(north, study)


def test_receipts_that_come_while_she_withdraws_hide_none_of_her_grants(apart, north, monkeypatch):
    world, study = apart
    receipts = answered(world, north, study)
    read = OpeningStore.receipts_of

    def receipts_come(book, patient):
        monkeypatch.setattr(OpeningStore, "receipts_of", read)
        found = read(book, patient)
        north.take(receipts)
        return found

    monkeypatch.setattr(OpeningStore, "receipts_of", receipts_come)
    assert north.end(PATIENTS[0], now=NOW).grants == 1
    ended = SiteStore(north.folder / "site.db").consents.ended()
    ((_, opening),) = [one for one in openings(north).values() if one[0] == PATIENTS[0]]
    assert ended == {opening.leaf()}


def test_an_agent_that_lost_its_memory_leaves_out_who_withdrew_all_the_same(apart, north):
    world, study = apart
    north.take(answered(world, north, study))
    north.end(PATIENTS[1], now=NOW)
    site = north.folder / "site.db"
    ended = SiteStore(site).consents.ended()
    for file in north.folder.glob("site.db*"):
        file.unlink()
    own = north.own.model_copy(update={"packaged": Packaged(seed=7, sites=3)})
    resident.open_resident(north.folder, own, None).close()
    assert len(ended) == 1
    assert SiteStore(site).consents.ended() == ended


def test_a_number_that_is_nobodys_is_said_without_repeating_it(north):
    with pytest.raises(NoGrantsToEnd) as nobody:
        north.end(PatientId("ward7-99"), now=NOW)
    assert "ward7-99" not in str(nobody.value)
