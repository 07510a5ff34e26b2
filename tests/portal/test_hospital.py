"""A hospital asks the registry that it pinned, where this machine has it, and makes agents so."""

import pytest

from consent.reader import AnotherRegistry, RegistryMissing
from fl_client.lane import check_lane
from portal.hospital import agent_of, newest_at
from portal.site_settings import StudyNotHeld
from portal.site_setup import Holding, set_up
from protocol.ids import SiteId
from records.own import Divided
from tests.portal.apart_world import Apart

NORTH = SiteId("north")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = Apart(tmp_path_factory.mktemp("hospital"), ("harbour", "lakeside", "north"))
    made.study = made.found()
    return made


@pytest.fixture(scope="module")
def hospital(world):
    return set_up(
        world.folder(NORTH),
        NORTH,
        Holding("wisconsin", divided=Divided(seed=7, sites=3)),
        world.study.for_sites,
        fingerprint=world.study.fingerprint,
    )


def with_registry(hospital, path, **changes):
    return hospital.own.model_copy(update={"registry_reader": str(path)} | changes)


@pytest.mark.slow
def test_a_hospital_without_the_registrys_file_asks_nobody(hospital):
    assert newest_at(hospital.own, hospital.terms) is None


def test_the_registry_of_the_same_machine_says_how_the_lane_stands(world, hospital):
    database = world.server.server / "registry.db"
    newest = newest_at(with_registry(hospital, database), hospital.terms)
    for _ in range(2):
        state = newest()
        check_lane(hospital.terms, state)
        assert [one.chunk for one in state.chunks] == sorted({one.chunk for one in state.chunks})
        assert state.chunks


def test_a_registry_that_comes_later_keeps_nothing_from_starting(world, hospital, tmp_path):
    late = tmp_path / "registry.db"
    newest = newest_at(with_registry(hospital, late), hospital.terms)
    with pytest.raises(RegistryMissing):
        newest()
    late.symlink_to(world.server.server / "registry.db")
    assert newest().chunks


def test_a_registry_under_another_key_is_not_believed(world, hospital):
    database = world.server.server / "registry.db"
    other = with_registry(hospital, database, registry_key=b"\1" * 32)
    with pytest.raises(AnotherRegistry):
        newest_at(other, hospital.terms)()


def test_an_agent_is_made_for_what_is_held_and_for_nothing_else(world, hospital):
    folder, own = world.folder(NORTH), hospital.own
    other = own.model_copy(update={"registry_key": b"\1" * 32})
    with pytest.raises(StudyNotHeld, match="registry key"):
        agent_of(folder, other, hospital.terms, hospital.records, prover=None)
