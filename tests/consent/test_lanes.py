"""Lanes never overlap, never move, and two names never mean the same number."""

import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from consent import lanes
from consent.lanes import LaneDiffers, LaneUnknown, NumberTaken, RegistryFull
from consent.registry import Registry
from protocol.ids import SiteId, StudyId

STUDY, NORTH, SOUTH = StudyId("study"), SiteId("north"), SiteId("south")
names = st.sampled_from(["one", "two", "three"])


def test_the_same_triple_gives_the_same_lane(registry, lane, open_registry):
    assert registry.open_lane(STUDY, NORTH, "scans", 8, 4) == lane
    assert registry.open_lane(STUDY, NORTH, "scans", 3, 4) == lane
    assert open_registry().lanes() == [lane]


def test_a_lane_is_rounded_up_to_whole_chunks_and_has_at_least_one(registry):
    assert registry.open_lane(STUDY, NORTH, "scans", capacity=65).capacity == 128
    assert registry.open_lane(STUDY, SOUTH, "scans", capacity=0).capacity == 64


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(names, names, names, st.integers(0, 30)), max_size=12))
def test_no_two_lanes_share_a_chunk(asked):
    registry = Registry(
        ":memory:", registry_id="registry", signing_key=Ed25519PrivateKey.generate()
    )
    opened = {}
    for study, site, dataset, capacity in asked:
        triple = (StudyId(study), SiteId(site), dataset)
        if triple not in opened:
            opened[triple] = registry.open_lane(*triple, capacity=capacity, chunk_size=8)
    assert registry.lanes() == list(opened.values())
    for one, other in itertools.combinations(opened.values(), 2):
        assert not set(one.chunks) & set(other.chunks)
        assert not set(one.indices) & set(other.indices)
    for lane in opened.values():
        assert lane.indices.start % lane.chunk_size == 0
        assert all(registry.lane_of_chunk(chunk) == lane for chunk in lane.chunks)
    registry.close()


def test_a_lane_does_not_grow(registry, lane):
    with pytest.raises(LaneDiffers, match="takes 8 grants"):
        registry.open_lane(STUDY, NORTH, "scans", lane.capacity + 1, 4)


def test_a_registry_has_one_size_of_chunks(registry, lane):
    with pytest.raises(LaneDiffers, match="4 leaves"):
        registry.open_lane(STUDY, SOUTH, "scans", 8, 8)


def test_a_lane_the_tree_has_no_room_for_is_refused(registry, lane):
    with pytest.raises(RegistryFull) as refusal:
        registry.open_lane(STUDY, SOUTH, "scans", 2**20, 4)
    assert refusal.value.free == 2**20 - lane.capacity
    assert registry.open_lane(STUDY, SOUTH, "scans", 2**20 - 8, 4).capacity == 2**20 - 8


def test_two_names_of_one_number_are_refused(registry, lane, monkeypatch):
    monkeypatch.setattr(lanes, "number_of", lambda _, **__: 7)
    with pytest.raises(NumberTaken, match="rename"):
        for name in ("south", "west"):
            registry.open_lane(STUDY, SiteId(name), "scans", 1, 4)


def test_a_chunk_of_no_lane_is_refused(registry, lane):
    for ask in (
        registry.lane_of_chunk,
        registry.chunk_root,
        registry.chunk_path,
        registry.chunk_leaves,
    ):
        with pytest.raises(LaneUnknown):
            ask(lane.chunks.stop)
