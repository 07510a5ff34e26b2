"""A server founds a study from the register of sites alone, once, and says what it handed out."""

from dataclasses import replace
from datetime import timedelta

import pytest

from consent.lanes import LanePolicy
from consent.registry import Registry
from fl_server.store import ServerStore
from identity.register import RegisterUnreadable, SiteNotAdmitted
from ledger.escrow import escrow_of
from marketplace.study import StudyRefused
from portal import study_founding
from portal.home import Home, HomeForeign
from portal.jobs import price_of
from portal.market import Market
from portal.site_settings import PROVING_KEY, VERIFICATION_KEY, registry_fingerprint, site_keys
from portal.study_founding import (
    DatasetMisnamed,
    InputShapeUnknown,
    StudyFounded,
    StudyTooSmall,
    found_study,
    input_shape_of,
)
from protocol.terms import StudyTerms
from protocol.units import BASE_UNITS_PER_BTT
from tests.portal.apart_world import NOW, SITES, Apart, design
from zk.keys import VerificationKey


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    world = Apart(tmp_path_factory.mktemp("founded"))
    return world, world.found()


def test_the_terms_name_the_admitted_sites_under_the_keys_they_made(founded):
    world, study = founded
    assert [one.site for one in study.terms.sites] == list(SITES)
    for one in study.terms.sites:
        keys = site_keys(world.folder(one.site))
        assert (one.signing_key, one.agreement_key) == (keys.signing_public, keys.agreement_public)


def test_no_hospitals_folder_is_made_or_opened_at_the_server(founded):
    world, _ = founded
    names = {one.name for one in world.server.path.iterdir()}
    assert names == {"founded", "lock", "market", "operator", "server"}


def test_every_site_has_a_lane_for_its_most_patients_on_the_hospitals_word(founded):
    world, study = founded
    registry = Registry.reader(world.server.server / "registry.db")
    assert {lane.site for lane in registry.lanes()} == set(SITES)
    for lane in registry.lanes():
        assert (lane.capacity, lane.chunk_size) == (16, 8)
        assert (lane.study, lane.policy) == (study.terms.study, LanePolicy.HOSPITAL)


def test_what_hospitals_are_given_is_the_terms_and_both_keys(founded):
    world, study = founded
    given = StudyTerms.model_validate_json((study.for_sites / "terms.json").read_bytes())
    assert given == study.terms == ServerStore(world.server.server / "server.db").terms()
    key = VerificationKey.load(study.for_sites / VERIFICATION_KEY)
    assert key.hash == study.terms.consent.key_hash
    assert (study.for_sites / PROVING_KEY).read_bytes() == world.proving_key.read_bytes()
    assert study.fingerprint == registry_fingerprint(study.terms.consent.registry_key)


def test_the_price_is_in_escrow_and_in_the_job(founded):
    world, study = founded
    market = Market(world.server.market, study.terms, lambda: NOW)
    assert escrow_of(market.ledger, study.terms.study).amount == 30 * BASE_UNITS_PER_BTT
    assert price_of(world.server) == 30 * BASE_UNITS_PER_BTT


def test_a_price_that_leaves_a_round_with_nothing_is_refused_before_anything_is_made(tmp_path):
    world = Apart(tmp_path)
    with pytest.raises(StudyRefused):
        world.found(price=1)
    assert not world.server.server.exists()


def test_founded_again_another_day_it_is_the_same_study(founded):
    world, study = founded
    later = replace(design(), today=NOW.date() + timedelta(days=3))
    assert found_study(world.server, later, world.asked(), now=NOW) == study


def test_other_wishes_are_refused_by_name(founded):
    world, _ = founded
    with pytest.raises(StudyFounded) as refused:
        found_study(world.server, design(title="Another"), world.asked(price=2), now=NOW)
    assert refused.value.differing == ("title", "price")


def test_a_demonstrations_home_is_refused(tmp_path):
    home = Home(tmp_path)
    (tmp_path / "operator/authority").mkdir(parents=True)
    world = Apart(tmp_path / "apart")
    world.server.path.joinpath("settings.json").write_text("{}")
    with pytest.raises(StudyFounded):
        world.found()
    with pytest.raises(RegisterUnreadable):
        found_study(home, design(), world.asked(), now=NOW)


def test_a_servers_home_is_never_cleared_for_a_demonstration(founded):
    world, _ = founded
    with pytest.raises(HomeForeign):
        world.server.clear()
    assert (world.server.path / "operator/authority/sites.json").is_file()


def test_only_admitted_sites_take_part_and_three_at_least(tmp_path):
    world = Apart(tmp_path, sites=("north", "south"))
    with pytest.raises(StudyTooSmall) as refused:
        world.found()
    assert refused.value.sites == ("north", "south")
    with pytest.raises(SiteNotAdmitted):
        world.found(sites=("north", "south", "west"))


STEPS = ("open_registry", "first_state", "Market", "keep_job", "hand_out")


@pytest.mark.parametrize("step", STEPS)
def test_killed_anywhere_it_is_founded_when_it_is_run_again(tmp_path, monkeypatch, step):
    class Killed(BaseException):
        pass

    def die(*_args, **_known):
        raise Killed

    world = Apart(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(study_founding, step, die)
        with pytest.raises(Killed):
            world.found()
    study = world.found()
    assert world.found() == study
    assert price_of(world.server) == 30 * BASE_UNITS_PER_BTT


def test_tables_that_are_not_known_here_need_their_number_of_features():
    assert input_shape_of("lab-values", "table", 12) == (12,)
    assert input_shape_of("scans", "volume") == (1, 40, 56, 40)
    with pytest.raises(InputShapeUnknown):
        input_shape_of("lab-values", "table")


@pytest.mark.parametrize("name", ["", "Scans", "a" * 35, "-x"])
def test_a_data_set_is_named_by_a_slug_that_a_study_can_carry(name):
    with pytest.raises(DatasetMisnamed):
        input_shape_of(name, "image")
