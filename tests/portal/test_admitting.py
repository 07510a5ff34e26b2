"""A server publishes what a hospital signed, in its own lane, once; and nothing else."""

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.publication import LaneFull, LaneProvenOnly, LeafUnusable
from consent.registry import Registry
from portal.admitting import admit_grants, admit_withdrawals
from portal.consent_files import (
    ConsentFileRefused,
    GrantsFile,
    NewGrant,
    WithdrawalsFile,
    read_file,
)
from portal.patient_list import Wish
from portal.site_settings import site_keys
from portal.study_founding import found_study
from privacy.signatures import BadSignature, SiteUnknown, check_site_message
from protocol.canonical import canonical
from protocol.ids import PatientId
from tests.portal.apart_world import NOW, Apart, design

WISHES = [Wish(PatientId(str(number))) for number in range(4)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = Apart(tmp_path_factory.mktemp("world"))
    study = world.found()
    world.study = study
    world.desks = {site: world.set_up(site, study) for site in world.sites}
    return world


@pytest.fixture(scope="module")
def content(world):
    return signed(world, "north", asking(world, "north"))


def asking(world, site, wishes=WISHES):
    made = world.desks[site].ask(world.study.terms, wishes, entropy=secrets.token_bytes)
    return read_file(GrantsFile, made.content)


def signed(world, site, file):
    return canonical(file.signed_by(site_keys(world.folder(site)).sign))


def admit(world, site, file):
    return admit_grants(world.server, signed(world, site, file), now=NOW)


def registry_of(world):
    return Registry.reader(world.server.server / "registry.db")


def live(world, site):
    lane = next(one for one in registry_of(world).lanes() if one.site == site)
    return registry_of(world).live_count(lane)


def unpublished(count):
    return tuple(NewGrant(leaf=secrets.randbits(250), revoke_hash=bytes(32)) for _ in range(count))


def test_a_file_is_published_in_one_epoch_and_again_gives_the_same_receipts(world):
    before = registry_of(world).epoch().number
    file = asking(world, "east")
    first = admit(world, "east", file)
    again = admit(world, "east", file)
    assert registry_of(world).epoch().number == before + 1
    assert (first.done, first.known, again.done, again.known) == (4, 0, 0, 4)
    assert first.receipts == again.receipts
    lane = next(one for one in registry_of(world).lanes() if one.site == "east")
    assert registry_of(world).live_count(lane) == 4


def test_a_file_that_grew_publishes_what_is_new(world):
    file = asking(world, "south", WISHES[:1])
    admit(world, "south", file)
    grown = file.model_copy(update={"grants": (*file.grants, *unpublished(2))})
    after = admit(world, "south", grown)
    assert (after.done, after.known) == (2, 1)


def test_a_foreign_signature_is_refused(world):
    with pytest.raises(BadSignature):
        admit_grants(world.server, signed(world, "south", asking(world, "north")), now=NOW)


def test_a_site_that_the_study_does_not_know_is_refused(world):
    file = asking(world, "north").model_copy(update={"site": "west"})
    with pytest.raises(SiteUnknown):
        admit(world, "north", file)


def test_a_leaf_changed_on_the_way_is_refused(world):
    file = asking(world, "north")
    changed = (file.grants[0].model_copy(update={"leaf": 7}), *file.grants[1:])
    with pytest.raises(BadSignature):
        admit_grants(world.server, canonical(file.model_copy(update={"grants": changed})), now=NOW)


@pytest.mark.parametrize("field", [{"study": "another"}, {"terms": "0" * 64}])
def test_another_study_is_refused(world, field):
    with pytest.raises(ConsentFileRefused):
        admit(world, "north", asking(world, "north").model_copy(update=field))


def test_a_cut_file_is_refused_wherever_it_was_cut(world, content):
    for end in range(0, len(content), 101):
        with pytest.raises(ConsentFileRefused):
            admit_grants(world.server, content[:end], now=NOW)


def test_a_leaf_twice_in_one_file_is_refused(world):
    file = asking(world, "north")
    with pytest.raises(ConsentFileRefused):
        admit(world, "north", file.model_copy(update={"grants": file.grants * 2}))


def test_a_file_beyond_its_bound_is_not_parsed(world):
    with pytest.raises(ConsentFileRefused):
        admit_grants(world.server, b" " * (GrantsFile.bytes_max + 1), now=NOW)


def test_more_grants_than_the_lane_has_room_for_publish_none(world):
    before = registry_of(world).epoch().number
    file = asking(world, "north").model_copy(update={"grants": unpublished(17)})
    with pytest.raises(LaneFull):
        admit(world, "north", file)
    assert registry_of(world).epoch().number == before


def test_another_hospitals_leaf_is_refused(world):
    theirs = asking(world, "east", [Wish(PatientId("9"))])
    admit(world, "east", theirs)
    file = asking(world, "north").model_copy(update={"grants": theirs.grants})
    with pytest.raises(LeafUnusable):
        admit(world, "north", file)


def test_a_lane_for_proven_grants_takes_none_on_the_hospitals_word(tmp_path):
    from dataclasses import replace

    world = Apart(tmp_path)
    proven = design()
    proven = replace(proven, settings=replace(proven.settings, grants="proven"))
    world.study = found_study(world.server, proven, world.asked(), now=NOW)
    world.desks = {"north": world.set_up("north", world.study)}
    with pytest.raises(LaneProvenOnly):
        admit(world, "north", asking(world, "north"))


def test_a_hospital_ends_its_own_grants_only(world):
    east, south = world.desks["east"], world.desks["south"]
    east.take(admit(world, "east", asking(world, "east", [Wish(PatientId("20"))])).receipts)
    before = live(world, "east")
    ending = read_file(WithdrawalsFile, east.end(PatientId("20"), now=NOW).content)
    theirs = ending.model_copy(update={"site": "south"})
    statements = [one.signed_by(site_keys(south.folder).signing) for one in theirs.statements()]
    taken = tuple(
        one.model_copy(update={"signature": word.signature})
        for one, word in zip(theirs.withdrawals, statements, strict=True)
    )
    file = theirs.model_copy(update={"withdrawals": taken})
    refused = admit_withdrawals(world.server, signed(world, "south", file), now=NOW)
    assert (refused.done, refused.unknown, refused.foreign) == (0, 0, 1)
    assert live(world, "east") == before
    with pytest.raises(BadSignature):
        admit_withdrawals(world.server, signed(world, "south", ending), now=NOW)
    other = ending.model_copy(update={"registry": "another"})
    with pytest.raises(ConsentFileRefused):
        admit_withdrawals(world.server, signed(world, "east", other), now=NOW)


def test_a_leaf_that_another_hospital_published_first_keeps_no_other_from_ending(tmp_path):
    """Whoever sees a file of grants on its way can have its leaves published in a lane of his."""
    world = Apart(tmp_path)
    world.study = world.found()
    world.desks = {site: world.set_up(site, world.study) for site in ("east", "south")}
    first = asking(world, "south")
    stolen = asking(world, "east").model_copy(update={"grants": first.grants[:2]})
    admit(world, "east", stolen)
    with pytest.raises(LeafUnusable):
        admit(world, "south", first)
    south = world.desks["south"]
    south.take(
        admit(world, "south", first.model_copy(update={"grants": first.grants[2:]})).receipts
    )
    for wish in WISHES:
        ending = south.end(wish.patient, now=NOW)
    done = admit_withdrawals(world.server, ending.content, now=NOW)
    assert (done.done, done.foreign, live(world, "south")) == (2, 2, 0)


def test_a_grant_twice_in_one_file_is_refused(world):
    east = world.desks["east"]
    asking(world, "east", [Wish(PatientId("30"))])
    ending = read_file(WithdrawalsFile, east.end(PatientId("30"), now=NOW).content)
    twice = ending.model_copy(update={"withdrawals": ending.withdrawals * 2})
    with pytest.raises(ConsentFileRefused):
        admit_withdrawals(world.server, signed(world, "east", twice), now=NOW)


@settings(max_examples=60)
@given(st.data())
def test_a_file_of_which_a_byte_was_changed_is_refused_or_says_the_same(world, content, data):
    changed = bytearray(content)
    place = data.draw(st.integers(0, len(content) - 1))
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = read_file(GrantsFile, bytes(changed))
        check_site_message(world.study.terms, read, "file")
    except (ConsentFileRefused, BadSignature, SiteUnknown):
        return
    assert canonical(read) == content
