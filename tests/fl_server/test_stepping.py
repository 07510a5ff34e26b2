"""A model that comes in slices takes the very step it takes whole, under every algorithm."""

import numpy as np
import pytest

from fl_server import aggregation, model_state
from fl_server.aggregation import Stepping, apply_sum, first_state
from fl_server.model_state import unchanged
from fl_server.store import ServerStore
from privacy.parameters import parameter_set
from tests.fl_server.records import closing, planned, terms

SIZES = (70, 1, 129)
ALGORITHMS = {
    "fedavg": {},
    "fedavgm": {"server_momentum": 0.9},
    "fedadam": {},
    "scaffold": {},
    "fedbn": {},
}


@pytest.fixture(params=ALGORITHMS)
def study(request):
    change = {"algorithm": request.param, "tensor_sizes": SIZES, **ALGORITHMS[request.param]}
    return terms().model_copy(update={"training": terms().training.model_copy(update=change)})


def test_a_step_in_slices_is_the_step_of_the_whole(study, tmp_path, monkeypatch):
    monkeypatch.setattr(aggregation, "SLICE", 16)
    parameters = parameter_set(study.encryption)
    generator = np.random.default_rng(3)
    vector = generator.normal(size=sum(SIZES)).astype(np.float32)
    before = first_state(study, parameters, vector)
    store = ServerStore(tmp_path / "server.db")
    store.found(study, before)
    for number in (1, 2):  # the second from what the first left of momentum and the like
        integers = generator.integers(-1000, 1000, sum(SIZES)).astype(np.int16)
        many = {"weight": 30, "sites": 3, "largest": 12}
        whole = apply_sum(study, parameters, before, integers, **many)
        stepping = Stepping(study, parameters, before.steps, integers, **many)
        store.plan(planned(number))
        named = []

        def finish(sha256, number=number, named=named):
            named.append(sha256)
            return closing(number)

        store.close_with(number, stepping.slices, stepping.next_steps(), finish)
        found = store.models.at(number)
        assert np.array_equal(found.vector, whole.vector)
        assert np.array_equal(found.momentum, whole.momentum)
        assert np.array_equal(found.steps, whole.steps)
        assert set(found.carried) == set(whole.carried)
        for name, wide in whole.carried.items():
            assert np.array_equal(found.carried[name], wide)
        assert named == [whole.sha256] == [found.sha256]
        assert b"".join(store.models.sent(number)) == whole.blob
        assert store.models.sent_bytes(number, whole.vector.size) == len(whole.blob)
        before = whole


def test_a_round_without_a_sum_leaves_the_model_as_it_is(study, tmp_path, monkeypatch):
    monkeypatch.setattr(model_state, "SLICE", 16)
    parameters = parameter_set(study.encryption)
    before = first_state(study, parameters, np.ones(sum(SIZES), np.float32))
    store = ServerStore(tmp_path / "server.db")
    store.found(study, before)
    store.plan(planned())
    store.close_with(1, unchanged, before.steps, lambda _sha256: closing(1))
    assert store.models.at(1).sha256 == before.sha256
    assert np.array_equal(store.models.at(1).momentum, before.momentum)
