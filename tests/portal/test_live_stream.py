"""A stream that is cut anywhere and taken up again gives every event once, in order."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.live.events import LiveEvent, LiveEventUnreadable
from portal.live.stream import (
    BATCH,
    LINE_MAX,
    EventStream,
    Pace,
    events_of,
    follow,
    frame,
    is_over,
    position_of,
)
from tests.portal.live_run import NOON

AT_ONCE = Pace(poll=0, heartbeat=15, stalled=0.05)


def event(position, *, last=False):
    at = NOON + timedelta(seconds=position)
    if last:
        return LiveEvent(position, at, "run", 3, code="finished")
    return LiveEvent(position, at, "phase", 3, phase="uploads", numbers={"asked": 6.0})


class Written:
    """Events that grow by one with each look, up to the last."""

    def __init__(self, count, *, grows=False):
        self.events = [event(place, last=place == count) for place in range(1, count + 1)]
        self.visible = 0 if grows else count
        self.looks = 0
        self.largest = 0

    def since(self, position, *, limit):
        self.looks += 1
        self.visible = min(self.visible + 1, len(self.events))
        found = [one for one in self.events[: self.visible] if one.position > position][:limit]
        self.largest = max(self.largest, len(found))
        return found

    def newest(self):
        return self.visible


def sent(source, after, **how):
    async def collect():
        return [one async for one in follow(source, after, pace=AT_ONCE, **how)]

    return b"".join(asyncio.run(collect()))


def read(stream):
    return [one for one in events_of(stream.splitlines(keepends=True)) if one is not None]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.lists(st.floats(0, 1), max_size=8), st.booleans())
def test_pieces_of_a_stream_put_together_are_every_event_once(count, cuts, grows):
    source, seen = Written(count, grows=grows), []
    for cut in cuts:
        stream = sent(source, seen[-1].position if seen else 0)
        seen += read(stream[: int(cut * len(stream))])
        if is_over(source, len(seen)):  # a reader is told so and asks no more
            break
    else:
        seen += read(sent(source, len(seen)))
    assert seen == source.events


@given(st.integers(1, 6), st.data())
def test_a_frame_that_was_cut_is_no_event(count, data):
    stream = b"".join(map(frame, Written(count).events))
    cut = data.draw(st.integers(0, len(stream)))
    whole = stream[:cut].count(b"\n\n")
    assert [one.position for one in read(stream[:cut])] == list(range(1, whole + 1))


def test_where_there_is_nothing_more_a_comment_says_so_once_and_then_at_each_heartbeat():
    seconds = iter(range(1000))
    looks = []

    def stop():
        looks.append(1)
        return len(looks) > 40

    quiet = Written(1)
    quiet.events = [event(1)]
    stream = sent(quiet, 0, stop=stop, clock=lambda: next(seconds))
    assert stream.count(b": nothing more yet\n\n") == 1 + 38 // 16
    assert [one.position for one in read(stream)] == [1]
    assert None in list(events_of(stream.splitlines(keepends=True)))


def test_a_reader_that_takes_nothing_holds_one_batch_and_is_let_go():
    source = Written(20 * BATCH)
    taken = []

    async def send(message):
        taken.append(message)
        if len(taken) > 3:
            await asyncio.Event().wait()  # its buffers are full for good

    async def receive():
        await asyncio.Event().wait()

    answer = EventStream(follow(source, 0, pace=AT_ONCE), stalled_seconds=0.05)
    asyncio.run(asyncio.wait_for(answer({}, receive, send), 60))
    assert source.looks == 2
    assert source.largest == BATCH
    assert not any(one.get("more_body") is False for one in taken)


def test_nothing_is_read_for_a_reader_that_left():
    source = Written(1)
    source.events = [event(1)]

    async def send(_message):
        await asyncio.sleep(0)

    async def receive():
        return {"type": "http.disconnect"}

    answer = EventStream(follow(source, 0, pace=Pace(poll=5)), stalled_seconds=60)
    asyncio.run(asyncio.wait_for(answer({}, receive, send), 60))
    assert source.looks <= 1


def test_a_finished_run_is_over_for_who_has_seen_its_last_event_alone():
    source = Written(5)
    assert [is_over(source, after) for after in range(7)] == [False] * 5 + [True, False]


def test_a_stream_goes_on_after_a_failure_and_ends_after_the_finish():
    source = Written(3)
    failed = LiveEvent(2, NOON, "run", 1, code="too-few-sites")
    source.events = [source.events[0], failed, source.events[2]]
    assert [one.code for one in read(sent(source, 0))] == [None, "too-few-sites", "finished"]


@pytest.mark.parametrize("text", ["", "-3", "1e3", "٣", "9" * 16, " 4"])
def test_an_id_that_is_none_begins_at_the_beginning(text):
    assert position_of(text) == 0


@pytest.mark.parametrize(
    "stream", [b"data: gossip\n\n", b"data: \xff\n\n", b"data: " + b"a" * LINE_MAX + b"\n\n"]
)
def test_a_stream_of_something_else_is_refused(stream):
    with pytest.raises(LiveEventUnreadable):
        read(stream)
