"""A frame goes to the study that it names, and what a site is in the middle of is what it kept."""

import pytest

from fl_client.key_store import HeldKey
from fl_client.routing import KINDS, Route, route
from fl_client.store import SiteStore
from fl_client.tables import ANSWERS, ENDORSED, PLANS
from fl_server.transport import MESSAGE_TYPES
from protocol.frames import Frame, MalformedFrame
from storage.database import writing

INNER = {"study": "lesions", "round": 4}


def going(kind, body):
    return route(
        Frame(kind, body),
        of_terms={"t" * 64: "lesions"}.get,
        of_key={"0123456789abcdef": "lesions"}.get,
    )


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("call", INNER),
        ("endorse", INNER),
        ("train", {"plan": INNER}),
        ("unmask", {"commitment": INNER}),
        ("open", {"commitment": INNER, "send_integers": True}),
    ],
)
def test_the_frames_of_a_round_name_study_and_round(kind, body):
    assert going(kind, body) == Route("lesions", 4)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("join", {"terms": "t" * 64}),
        ("prepare", {"terms": "t" * 64, "chunks": []}),
        ("commit-key", {"study": "lesions"}),
        ("take-key", {"dealt": {"study": "lesions"}}),
        ("part-key", {"commitments": [{"study": "lesions"}]}),
        ("give-share", {"key_id": "0123456789abcdef"}),
    ],
)
def test_the_other_frames_name_a_study_in_their_way(kind, body):
    assert going(kind, body) == Route("lesions", None)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"study": 4},
        {"study": "../lesions"},
        {"plan": "lesions"},
        {"commitments": ["lesions"]},
        {"terms": "f" * 64},
        {"key_id": ["0123456789abcdef"]},
    ],
)
def test_a_frame_that_names_none_goes_nowhere(body):
    with pytest.raises(MalformedFrame):
        going("train", body)


def test_every_frame_that_the_server_sends_but_the_offer_has_its_way():
    assert frozenset(MESSAGE_TYPES) - {"offer"} == KINDS


@pytest.fixture
def store(tmp_path):
    return SiteStore(tmp_path / "site.db")


def kept(store, table, **values):
    with writing(store._engine) as connection:
        connection.execute(table.insert().values(study="lesions", round=2, **values))


def test_a_round_is_under_way_from_the_update_to_the_opening(store):
    kept(store, PLANS, plan="{}", shares=b"")
    assert store.under_way() == []
    kept(store, ANSWERS, plan="p", reply=b"")
    assert store.under_way() == [("lesions", 2)]
    kept(store, ENDORSED, commitment="c", nonce="n")
    assert store.under_way() == [("lesions", 2)]
    store.opened("lesions", 2, "0" * 64)
    assert store.under_way() == []


def test_a_key_belongs_to_the_study_it_was_made_for(store):
    store.keys.keep("lesions", HeldKey("0123456789abcdef", 1, b""))
    assert store.keys.study_of("0123456789abcdef") == "lesions"
    assert store.keys.study_of("f" * 16) is None
