"""What the registry signed counts, the newest of it stands, and who is gone stays gone."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.receipts import NotSignedByRegistry
from fl_client.lane import LaneForged, LaneMemory, LaneState, check_lane
from fl_client.store import SiteStore
from protocol.errors import StorageFailed
from tests.fl_client.lane_world import CHUNKS, SLOTS, TERMS, LaneWorld
from zk.merkle import root_of


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """The lane at six epochs; with each another patient withdrew."""
    world = LaneWorld(tmp_path_factory.mktemp("lane"))
    states = [world.state()]
    for number in (0, 9, 1, 23, 22):
        world.withdraw(number)
        states.append(world.state())
    yield states
    world.close()


def changed(state, number, **fields):
    chunks = list(state.chunks)
    chunks[number] = chunks[number].model_copy(update=fields)
    return LaneState(state.epoch, tuple(chunks))


def test_what_the_registry_signed_passes(states):
    for state in states:
        check_lane(TERMS, state)


@pytest.mark.parametrize("field", ["number", "root", "at", "registry"])
def test_an_epoch_that_was_not_signed_is_refused(states, field):
    value = getattr(states[0].epoch, field)
    other = value + 1 if isinstance(value, int) else value + "x"
    forged = states[0].epoch.model_copy(update={field: other})
    with pytest.raises(NotSignedByRegistry):
        check_lane(TERMS, replace(states[0], epoch=forged))


def test_leaves_of_another_epoch_are_refused(states):
    with pytest.raises(LaneForged) as caught:
        check_lane(TERMS, LaneState(states[0].epoch, states[1].chunks))
    assert caught.value.chunk == states[0].chunks[0].chunk


def test_a_chunk_at_another_place_is_refused(states):
    first, second = states[0].chunks[:2]
    with pytest.raises(LaneForged):
        check_lane(TERMS, changed(states[0], 0, chunk=second.chunk))
    with pytest.raises(LaneForged):
        check_lane(TERMS, changed(states[0], 0, chunk=1 << 19))
    assert first.chunk != second.chunk


def test_a_chunk_that_is_named_twice_is_refused(states):
    """Its patients would be trained on twice in each step, with noise for once."""
    first, *_ = states[0].chunks
    with pytest.raises(LaneForged, match="named twice") as caught:
        check_lane(TERMS, LaneState(states[0].epoch, (*states[0].chunks, first)))
    assert caught.value.chunk == first.chunk


def test_inner_nodes_do_not_pass_for_leaves(states):
    """Two chunks' halves as the leaves of one place above: they lead to the root, and are none."""
    chunk = states[0].chunks[0]
    halves = tuple(root_of(chunk.leaves[at : at + SLOTS // 2]) for at in (0, SLOTS // 2))
    with pytest.raises(LaneForged):
        check_lane(TERMS, changed(states[0], 0, leaves=halves))
    with pytest.raises(LaneForged):
        check_lane(TERMS, changed(states[0], 0, siblings=chunk.siblings[1:]))


@settings(max_examples=25, deadline=None)
@given(
    heard=st.lists(
        st.tuples(st.integers(0, 5), st.sets(st.integers(0, CHUNKS - 1), min_size=1)), max_size=8
    ),
    again=st.booleans(),
)
def test_of_each_chunk_the_newest_state_stands_also_after_a_restart(states, heard, again):
    store = SiteStore(":memory:")
    memory = LaneMemory(TERMS, store)
    newest = {}
    for number, wanted in heard:
        state = states[number]
        memory.learn(LaneState(state.epoch, tuple(state.chunks[one] for one in sorted(wanted))))
        newest |= {one: max(number, newest.get(one, 0)) for one in wanted}
    if again:
        memory = LaneMemory(TERMS, store)
    for state in states:
        expected = {
            one.chunk * SLOTS + offset
            for position, one in enumerate(state.chunks)
            if position in newest
            for offset, leaf in enumerate(one.leaves)
            if leaf and states[newest[position]].chunks[position].leaves[offset] != leaf
        }
        assert memory.gone(state.chunks) == expected


def test_whoever_is_gone_is_gone_from_every_older_state(states):
    memory = LaneMemory(TERMS, SiteStore(":memory:"))
    memory.learn(states[5])
    first = states[0].chunks[0].chunk * SLOTS
    assert memory.gone(states[0].chunks) == {first + place for place in (0, 1, 9, 22, 23)}
    assert memory.gone(states[4].chunks) == {first + 22}
    assert memory.gone(states[5].chunks) == frozenset()


def test_whoever_the_hospital_ended_is_gone_at_once_and_after_a_restart(states, tmp_path):
    store = SiteStore(tmp_path / "site.db")
    memory = LaneMemory(TERMS, store)
    memory.learn(states[0])
    first = states[0].chunks[0]
    store.consents.end([first.leaves[3]])
    place = first.chunk * SLOTS + 3
    again = LaneMemory(TERMS, SiteStore(tmp_path / "site.db"))
    assert memory.gone(states[0].chunks) == again.gone(states[0].chunks) == {place}
    store.consents.end([first.leaves[3]])
    assert store.consents.ended() == {first.leaves[3]}


def test_forged_news_changes_nothing(states):
    memory = LaneMemory(TERMS, SiteStore(":memory:"))
    memory.learn(states[0])
    with pytest.raises(LaneForged):
        memory.learn(LaneState(states[0].epoch, states[1].chunks))
    assert memory.gone(states[0].chunks) == frozenset()


def test_the_registry_is_asked_where_it_can_be(states):
    memory = LaneMemory(TERMS, SiteStore(":memory:"), lambda: states[1])
    memory.learn(states[0])
    assert memory.gone(states[0].chunks) == frozenset()
    memory.ask()
    assert len(memory.gone(states[0].chunks)) == 1


def test_a_registry_that_does_not_answer_or_lies_leaves_what_is_known(states, caplog):
    def broken():
        raise StorageFailed("the registry", "gone")

    lie = LaneState(states[2].epoch, states[1].chunks)
    for newest in (broken, lambda: None, lambda: lie):
        memory = LaneMemory(TERMS, SiteStore(":memory:"), newest)
        memory.learn(states[0])
        memory.ask()
        assert memory.gone(states[0].chunks) == frozenset()
    assert [record.args[0] for record in caplog.records] == ["storage-failed", "lane-forged"]
