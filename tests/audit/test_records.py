"""A batch is taken if every line is a record as the log writes it, and names no patient."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit import records
from audit.records import (
    BATCH_BYTES_MAX,
    BATCH_EVENTS_MAX,
    RECORD_BYTES_MAX,
    BatchTooLarge,
    FactRefused,
    RecordMalformed,
    event_of,
    read_records,
    record_of,
)
from storage.canonical import ENCODER

names = st.text(max_size=8).filter(lambda name: "patient" not in name.lower())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
facts = st.dictionaries(names, values, max_size=4)
kinds = st.from_regex(r"[a-z][a-z0-9-]{0,59}", fullmatch=True)


@given(st.lists(st.tuples(kinds, facts), min_size=1, max_size=6))
def test_what_the_log_writes_it_also_takes(events):
    records = [record_of(kind, one) for kind, one in events]
    assert read_records(b"".join(record + b"\n" for record in records)) == records
    for position, (record, (kind, one)) in enumerate(zip(records, events, strict=True)):
        event = event_of(position, record)
        assert (event.kind, event.facts, event.record.encode()) == (kind, one, record)


@given(st.lists(st.tuples(kinds, facts), min_size=1, max_size=4), st.data())
def test_a_batch_with_any_other_bytes_is_refused_or_is_other_records(events, draw):
    body = b"".join(record_of(kind, one) + b"\n" for kind, one in events)
    place = draw.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[place] = draw.draw(st.integers(0, 255))
    try:
        records = read_records(bytes(changed))
    except (RecordMalformed, FactRefused):
        return
    assert b"".join(record + b"\n" for record in records) == changed
    for record in records:
        event = json.loads(record)
        assert record_of(event["kind"], event["facts"]) == record


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'"text"',
        b'{"facts":{},"kind":"beat"',
        b'{"facts":{},"kind":"beat"} ',
        b' {"facts":{},"kind":"beat"}',
        b'{"facts": {},"kind":"beat"}',
        b'{"kind":"beat","facts":{}}',
        b'{"facts":{},"kind":"beat","more":1}',
        b'{"facts":{},"facts":{},"kind":"beat"}',
        b'{"facts":[],"kind":"beat"}',
        b'{"facts":{},"kind":"Beat"}',
        b'{"facts":{},"kind":"beat\\n"}',
        b'{"facts":{},"kind":1}',
        b'{"facts":{"auc":0.9},"kind":"beat"}',
        b'{"facts":{"n":1e3},"kind":"beat"}',
        b'{"facts":{"n":NaN},"kind":"beat"}',
        b'{"facts":{"n":-0},"kind":"beat"}',
        b'{"facts":{"a":"\\u0041"},"kind":"beat"}',
        b'{"facts":{"a":"\\ud800"},"kind":"beat"}',
        b'{"facts":{"a":"\xff"},"kind":"beat"}',
        b'{"facts":{"a":1,"a":2},"kind":"beat"}',
        b'{"facts":{"b":1,"a":2},"kind":"beat"}',
        b'{"facts":{},"kind":"beat"},{"facts":{},"kind":"beat"}',
        b'{"facts":{"x":' + b"[" * 30_000 + b'},"kind":"beat"}',
        b'{"facts":{"n":' + b"9" * 5_000 + b'},"kind":"beat"}',
    ],
)
def test_a_line_that_is_no_record_is_refused_with_its_number(line):
    good = b'{"facts":{},"kind":"beat"}\n'
    with pytest.raises(RecordMalformed) as refused:
        read_records(good + line + b"\n" + good)
    assert refused.value.number == 2


@pytest.mark.parametrize("body", [b"", b"\n", b'{"facts":{},"kind":"beat"}'])
def test_a_batch_of_nothing_or_without_its_end_is_refused(body):
    with pytest.raises(RecordMalformed):
        read_records(body)


def test_records_cannot_be_cut_otherwise_than_at_line_feeds():
    # Together they are three records on three lines, each of which is something else alone.
    body = b'{"facts":{"x":[{"facts":{},"kind":"a"}\n{"facts":{},"kind":"b"}],"y":1},"kind":"c"}\n'
    with pytest.raises(RecordMalformed):
        read_records(body + b'{"facts":{},"kind":"d"},{"facts":{},"kind":"e"}\n')


@pytest.mark.parametrize(
    "named",
    [
        {"patient": 1},
        {"Patient": 17},
        {"patients": ["P-17"]},
        {"patients": "12"},
        {"patients": True},
        {"patients": None},
        {"patients": {"a": 1}},
        {"patient_id": 17},
        {"rows": [{"a": {"proven_patients": "P-17"}}]},
        {"proven_patients": 12, "patient": "P-17"},
        {"a": ',"patients":1', "patient": 2},
        {"PATIENTS": "x"},
        {"patients-patients": "x"},
    ],
)
def test_what_could_name_a_patient_is_refused_wherever_it_comes_from(named):
    with pytest.raises(FactRefused):
        record_of("beat", named)
    line = json.dumps({"facts": named, "kind": "beat"}, sort_keys=True, separators=(",", ":"))
    with pytest.raises(FactRefused):
        read_records(f"{line}\n".encode())


@pytest.mark.parametrize(
    "counted",
    [
        {"proven_patients": 12},
        {"proven_patients": -1, "patients": 0},
        {"a": [{"patients": 3}], "why": "a patient withdrew"},
        {"Proven-Patients": 3},
        {"text": '{"patient":"P-17"}'},
        {"patients_per_patient": 2},
    ],
)
def test_counts_of_patients_and_words_about_them_are_taken(counted):
    record = record_of("beat", counted)
    assert read_records(record + b"\n") == [record]


def test_records_and_batches_have_a_largest_size():
    long = record_of("beat", {"text": "x" * (RECORD_BYTES_MAX - 35)})
    assert len(long) == RECORD_BYTES_MAX
    assert read_records(long + b"\n") == [long]
    with pytest.raises(FactRefused):
        record_of("beat", {"text": "x" * (RECORD_BYTES_MAX - 34)})
    with pytest.raises(FactRefused):
        read_records(long.replace(b'"x', b'"xx') + b"\n")
    with pytest.raises(BatchTooLarge):
        read_records(b"\n" * (BATCH_EVENTS_MAX + 1))
    with pytest.raises(BatchTooLarge):
        read_records(bytes(BATCH_BYTES_MAX + 1))


any_text = st.text(st.characters(codec="utf-8"), max_size=6)
whole = st.recursive(
    st.none() | st.booleans() | st.integers() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(any_text, whole, max_size=3), max_size=4))
@example([{"".join(map(chr, range(0xD7FF))): "".join(map(chr, range(0xE000, 0x10FFFF, 7)))}])
@example([{"\uffff": 1, "\U00010000": 2}])
@example([{"a": 2**64}])
def test_the_quick_text_is_the_canonical_one_or_there_is_none(events):
    assert records._written(events) in {None, ENCODER.encode(events).encode()}


mentions = st.sampled_from(
    ["patients", "Patients", "a_patients_b", "patient", 'x","patients":1', ""]
)
loose = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | mentions,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(mentions, inner, max_size=3),
    max_leaves=6,
)
lines = st.dictionaries(st.sampled_from(["facts", "kind", "more"]), loose | kinds, max_size=3)


@given(
    st.lists(
        st.tuples(st.dictionaries(mentions, loose, max_size=3), kinds) | lines,
        min_size=1,
        max_size=4,
    )
)
@example([({"a": 1.5}, "beat")])
@example([({"a": [1.5]}, "beat")])
@example([({"a": 1e22}, "beat")])
@example([({"a": -0.0}, "beat")])
@example([({"a": 2**64}, "beat")])
def test_a_quick_reading_finds_what_a_close_one_does(given):
    events = [{"facts": one[0], "kind": one[1]} if isinstance(one, tuple) else one for one in given]
    texts = [json.dumps(one, sort_keys=True, separators=(",", ":")) for one in events]
    body = "".join(text + "\n" for text in texts).encode()
    quick = records._read_quickly(body.split(b"\n")[:-1])
    if quick is not None:
        assert quick == records._read_closely(body, body.split(b"\n")[:-1])
