"""The server's database keeps each contribution once, and nothing half, on either database."""

import numpy as np
import pytest
import sqlalchemy as sa

from fl_server.database import VERSION, ServerDatabaseVersion
from fl_server.model_state import SLICE, ModelReader, unchanged
from fl_server.parts import INLINE_BYTES
from fl_server.store import ServerStore, run_of
from fl_server.tables import SCHEMA
from fl_server.uploads import RoundFrozen, UploadConflict
from models.algorithms.interface import GlobalState
from protocol.messages import Refusal
from tests.fl_server.records import SITES, closing, contribution, model, planned, terms

LARGE = bytes(range(256)) * 300
assert len(LARGE) > INLINE_BYTES


@pytest.fixture
def source(tmp_path):
    return tmp_path / "server.db"


@pytest.fixture
def store(source):
    made = ServerStore(source)
    made.found(terms(), model())
    made.plan(planned())
    return made


def test_a_run_is_named_by_its_terms_whoever_opens_it(store, source):
    assert store.run() == run_of(terms()) == ServerStore(source).run()
    assert len(store.run()) == 16


def test_what_is_kept_is_there_for_another_process(store, source):
    store.uploads.accept(contribution(SITES[0], LARGE), LARGE, ["1" * 64], left_out=2)
    store.uploads.refuse(Refusal(site=SITES[1], round=1, code="no-answer", reason="silent"))
    again = ServerStore(source)
    assert again.uploads.of(1)[SITES[0]] == (contribution(SITES[0], LARGE), LARGE)
    assert again.uploads.sizes(1) == {SITES[0]: len(LARGE)}
    assert again.uploads.left_out(1) == {SITES[0]: 2}
    assert again.uploads.verified(["1" * 64, "2" * 64]) == {"1" * 64}
    assert [one.code for one in again.uploads.refusals(1)] == ["no-answer"]
    assert again.round(1).plan == planned().plan


def test_the_same_bytes_count_once(store):
    assert store.uploads.accept(contribution(SITES[0], LARGE), LARGE, []) is True
    assert store.uploads.accept(contribution(SITES[0], LARGE), LARGE, []) is False
    assert list(store.uploads.of(1)) == [SITES[0]]


def test_other_bytes_of_the_same_site_and_round_are_refused_and_named(store):
    store.uploads.accept(contribution(SITES[0], LARGE), LARGE, [])
    with pytest.raises(UploadConflict, match=SITES[0]) as refused:
        store.uploads.accept(contribution(SITES[0], b"other"), b"other", ["3" * 64])
    first, second = contribution(SITES[0], LARGE), contribution(SITES[0], b"other")
    assert refused.value.kept == first.receipt.ciphertext_sha256
    assert refused.value.other == second.receipt.ciphertext_sha256
    assert store.uploads.of(1)[SITES[0]] == (first, LARGE)
    assert store.uploads.certificates() == 0


def test_nothing_enters_a_frozen_round(store):
    store.freeze(1)
    with pytest.raises(RoundFrozen, match="round 1"):
        store.uploads.accept(contribution(SITES[0], LARGE), LARGE, [])
    assert len(store.uploads.of(1)) == 0


def test_closing_is_all_or_nothing(store, monkeypatch):
    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(ServerStore, "_forget_answers", fail)
    with pytest.raises(RuntimeError):
        store.close(closing(1, np.arange(40)), model(1))
    assert store.rounds_closed() == 0
    assert store.manifest(1) is None
    with pytest.raises(sa.exc.NoResultFound):
        store.models.at(1)


@pytest.mark.parametrize("largest", [1, 2**15 - 1, -(2**15), 2**20, 2**40])
def test_the_opened_integers_come_back_whatever_their_width(store, largest):
    integers = np.array([0, 1, largest] * 20_000)
    store.close(closing(1, integers), model(1))
    assert (store.round(1).integers == integers).all()
    assert store.round(1).integers.dtype == np.int64


def test_ciphertexts_stay_until_the_next_round_is_closed(store):
    store.uploads.accept(contribution(SITES[0], LARGE), LARGE, [])
    store.close(closing(1), model(1))
    assert store.uploads.of(1)[SITES[0]][1] == LARGE
    store.plan(planned(2))
    store.close(closing(2), model(2))
    assert store.uploads.of(1)[SITES[0]][1] == b""
    assert store.rounds_closed() == 2


def test_a_model_is_read_as_it_was_kept(store):
    carried = {"squares": np.linspace(0, 1, 40)}
    after = model(3.5)
    store.close(closing(1), type(after)(after.vector, after.momentum, after.steps, carried))
    found = store.models.at(1)
    assert (found.vector == after.vector).all()
    assert (found.carried["squares"] == carried["squares"]).all()
    assert store.models.head(1)[0] == found.sha256 == after.sha256
    assert b"".join(store.models.sent(1)) == after.blob


@pytest.mark.parametrize("first", [None, 0, 7, SLICE, SLICE + 5], ids=lambda at: f"moving-{at}")
def test_a_momentum_that_stands_still_is_not_kept_and_read_as_zeros(tmp_path, first):
    store = ServerStore(tmp_path / "long.db")
    store.found(terms(), model(0.0, size=2 * SLICE + 9))
    moving = np.zeros(2 * SLICE + 9, np.float32)
    if first is not None:
        moving[first:] = 2.5

    def slices(read):
        at = 0
        for part in unchanged(read):
            yield GlobalState(part.vector + 1, moving[at : at + part.vector.size], part.carried)
            at += part.vector.size

    store.plan(planned(1))
    store.close_with(1, slices, np.ones(1), lambda _sha256: closing(1))
    found = store.models.at(1)
    assert (found.vector == 1).all()
    assert (found.momentum == moving).all()
    assert store.models.head(1)[0] == found.sha256
    with store.database.reading() as connection:
        kept = store.database.parts.whole(connection, 1, "model", "momentum")
        read = ModelReader(store.database.parts, connection, 1, ())
        parts = [part.momentum for part in unchanged(read)]
    assert len(kept) == (0 if first is None else moving.nbytes)
    assert (np.concatenate(parts) == moving).all()


def test_a_database_of_another_version_is_refused_and_left_as_it_is(store, source):
    with store.database.writing() as connection:
        connection.execute(SCHEMA.update().values(version=VERSION + 1))
    with pytest.raises(ServerDatabaseVersion, match=f"version {VERSION + 1}"):
        ServerStore(source)


def test_a_database_from_before_there_were_versions_is_refused(store, source):
    with store.database.writing() as connection:
        connection.execute(sa.schema.DropTable(SCHEMA))
    with pytest.raises(ServerDatabaseVersion, match="version 1"):
        ServerStore(source)
    names = sa.inspect(store.database.engine).get_table_names()
    assert SCHEMA.name not in names
