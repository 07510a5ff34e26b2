"""Anybody rebuilds a registry from its log, and a log that no registry may write is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.epochs import FIRST_HEAD, EpochLine, LogLineMalformed, SignedEpoch
from consent.lanes import Lane, LanePolicy
from consent.log import LogEntry, LogInconsistent, rebuild
from consent.rebuilding import LogBroken, all_pages, read_published, rebuild_registry
from consent.receipts import NotSignedByRegistry
from protocol.ids import SiteId, StudyId

STUDY, NORTH = StudyId("study"), SiteId("north")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
AT = "2026-11-21T09:30:00+00:00"
LANE = Lane(STUDY, NORTH, "scans", 0, 2, 4)
PROVEN = replace(LANE, first_chunk=2, policy=LanePolicy.PROVEN, dataset="table")


def leaf(sequence, index, value, epoch, **proven):
    return LogEntry(sequence, index, value, epoch, AT, b"h" * 32 if value else b"", **proven)


def person(nullifier):
    return {"nullifier": nullifier, "payout_id": 5, "proof": "{}"}


def sealed(*epochs, key=KEY):
    """A log that the registry signed, whatever is in it: lanes and changes of each epoch."""
    lines, before = [], FIRST_HEAD
    changes = [change for _, of_epoch in epochs for change in of_epoch]
    for number, (lanes, of_epoch) in enumerate(epochs):
        so_far = [one for one in changes if one.epoch <= number]
        try:
            root = rebuild(so_far)
        except LogInconsistent:
            root = 0
        epoch = SignedEpoch("registry", b"", number=number, root=root, at=AT)
        line = EpochLine.sealed(epoch, lanes, of_epoch, before=before, signing_key=key)
        before = bytes.fromhex(line.head.head)
        lines.append(line)
    return lines


GOOD = sealed(
    ([], []),
    ([LANE, PROVEN], [leaf(1, 0, 7, 1), leaf(2, 8, 8, 1, **person(3))]),
    ([], [leaf(3, 8, 0, 2), leaf(4, 9, 9, 2, **person(3))]),
    ([], [leaf(5, 0, 0, 3)]),
)


@pytest.mark.parametrize("every_root", [False, True])
def test_a_log_rebuilds_to_root_lanes_and_live_nullifiers(every_root):
    rebuilt = rebuild_registry(GOOD, PUBLIC, every_root=every_root)
    assert rebuilt.root == GOOD[-1].epoch.root
    assert rebuilt.head == GOOD[-1].head.head
    assert rebuilt.lanes == (LANE, PROVEN)
    assert rebuilt.leaves == {9: 9}
    assert rebuilt.nullifiers == {3: 9}
    assert (rebuilt.epochs, rebuilt.grants) == (4, 3)


def test_the_log_of_a_registry_rebuilds_to_the_registry(registry, lane, publish, now):
    receipts = [*publish(11, 12), *publish(13)]
    registry.withdraw(receipts[1].grant, b"code 12", now=now)
    pages = all_pages(lambda after: registry.log_page(after=after, epochs_max=2))
    rebuilt = rebuild_registry(pages, registry.public_key)
    assert rebuilt.root == registry.epoch().root
    assert rebuilt.lanes == tuple(registry.lanes())
    assert list(rebuilt.leaves.values()) == [11, 13]


def test_a_saved_log_reads_back():
    texts = [line.to_json() + "\n" for line in GOOD]
    assert list(read_published(texts)) == GOOD


def fields_of(value, path=()):
    """Yield the path of every number and text in a line."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from fields_of(value[key], (*path, key))
    else:
        yield path


def changed(text, path):
    line = json.loads(text)
    owner = line
    for key in path[:-1]:
        owner = owner[key]
    value = owner[path[-1]]
    if isinstance(value, int):
        owner[path[-1]] = value + 1
    elif value in {"proven", "hospital"}:
        owner[path[-1]] = {"proven": "hospital", "hospital": "proven"}[value]
    elif value.startswith(("2", "{")):
        owner[path[-1]] = "1" + value[1:]
    else:
        owner[path[-1]] = value[:-1] + ("1" if value[-1] != "1" else "2")
    return json.dumps(line, sort_keys=True, separators=(",", ":"))


CHANGES = [(n, path) for n in range(len(GOOD)) for path in fields_of(json.loads(GOOD[n].to_json()))]


@pytest.mark.parametrize(
    ("number", "path"), CHANGES, ids=[f"{n}-{'.'.join(map(str, p))}" for n, p in CHANGES]
)
def test_a_change_of_any_field_of_any_line_is_refused(number, path):
    texts = [line.to_json() for line in GOOD]
    texts[number] = changed(texts[number], path)
    with pytest.raises((LogBroken, LogInconsistent, NotSignedByRegistry, LogLineMalformed)):
        rebuild_registry(read_published(texts), PUBLIC, every_root=True)


@pytest.mark.parametrize("cut", [[], GOOD[1:], GOOD[:1] + GOOD[2:], GOOD[::-1], GOOD[:2] * 2])
def test_a_log_with_lines_missing_or_in_another_order_is_refused(cut):
    with pytest.raises(LogBroken):
        rebuild_registry(cut, PUBLIC)


def test_a_log_cut_short_is_an_older_state_with_another_head():
    older = rebuild_registry(GOOD[:-1], PUBLIC)
    assert older.head != GOOD[-1].head.head
    assert older.epochs == 3


def test_another_registrys_key_is_refused():
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(NotSignedByRegistry):
        rebuild_registry(GOOD, stranger)


DISHONEST = {
    "a leaf in no lane": ([], [leaf(1, 0, 7, 1)]),
    "a leaf behind the lanes": ([LANE], [leaf(1, 8, 7, 1)]),
    "no proof in a lane for proven grants": ([LANE, PROVEN], [leaf(1, 8, 7, 1)]),
    "lanes that overlap": ([LANE, replace(LANE, dataset="b")], []),
    "lanes with a gap": ([LANE, replace(PROVEN, first_chunk=3)], []),
    "chunks of another size": ([LANE, replace(PROVEN, chunk_size=8)], []),
    "chunks of an odd size": ([replace(LANE, chunk_size=3)], []),
    "a lane beyond the tree": ([replace(LANE, chunk_count=2**19)], []),
    "a person twice": (
        [LANE, PROVEN],
        [leaf(1, 8, 7, 1, **person(3)), leaf(2, 9, 8, 1, **person(3))],
    ),
    "a leaf that lives again": ([LANE], [leaf(1, 0, 7, 1), leaf(2, 0, 0, 1), leaf(3, 0, 7, 1)]),
    "a gap in the changes": ([LANE], [leaf(2, 0, 7, 1)]),
}


@pytest.mark.parametrize("epoch", DISHONEST.values(), ids=DISHONEST)
def test_what_no_registry_may_do_is_refused_though_it_signed_it(epoch):
    with pytest.raises((LogBroken, LogInconsistent)):
        rebuild_registry(sealed(([], []), epoch), PUBLIC)


def test_a_root_that_the_leaves_do_not_lead_to_is_refused_though_it_is_signed():
    epoch = SignedEpoch("registry", b"", number=0, root=5, at=AT)
    line = EpochLine.sealed(epoch, [], [], before=FIRST_HEAD, signing_key=KEY)
    with pytest.raises(LogBroken, match="root"):
        rebuild_registry([line], PUBLIC)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "[" * 9_000, '{"registry":1}', GOOD[1].to_json() + " "],
    ids=["nothing", "no fields", "a list", "null", "deep", "a number", "not canonical"],
)
def test_what_is_no_line_is_refused(text):
    with pytest.raises(LogLineMalformed):
        EpochLine.from_json(text)


def test_numbers_where_texts_belong_are_refused():
    for name in ("registry", "at", "head"):
        fields = json.loads(GOOD[1].to_json()) | {name: 5}
        with pytest.raises(LogLineMalformed):
            EpochLine.from_json(json.dumps(fields, sort_keys=True, separators=(",", ":")))


def test_pages_that_do_not_go_on_are_refused():
    with pytest.raises(LogLineMalformed, match="go on"):
        list(all_pages(lambda _after: GOOD[:1]))


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60) | st.dictionaries(st.text(max_size=5), st.integers()).map(json.dumps))
def test_hostile_text_is_refused_by_name(text):
    with pytest.raises(LogLineMalformed):
        EpochLine.from_json(text)
