"""What the measurements of cost measure is a secure sum, whole and exact, at the sizes they say."""

import numpy as np
import pytest

from experiments import aggregation_cost
from experiments._secure_sum import SecureSum, holders, members
from experiments._stopwatch import Stopwatch
from experiments.aggregation_cost import GOALS, RATIOS, Goal, shapes_of
from experiments.encryption_overhead import ClearCipher, ClearContext
from privacy.masks import apply
from privacy.packing import pack, unpack
from privacy.parameters import parameter_set
from privacy.quantisation import QuantisedUpdate
from privacy.workers import VARIABLE
from protocol.ids import KeyId

pytestmark = pytest.mark.slow


def opened(parameters, ciphers, watch):
    ours = SecureSum(parameters, ciphers, 0.02, watch)
    for seed in range(len(ciphers)):
        vector = 0.02 * np.random.default_rng(seed).standard_normal(500)
        ours.contribute(vector.astype(np.float32))
    total = ours.add()
    tags = ours.tags()
    ours.compare(total, tags)
    return ours.open(total, tags, ours.shares(total))


def test_the_sum_that_is_timed_opens_exactly_by_each_member():
    parameters, watch = parameter_set("packed-bfv-8"), Stopwatch()
    assert opened(parameters, members(parameters, 4), watch)
    for stage in ("keys", "client", "check", "add", "tag", "compare", "reveal", "open"):
        assert watch.least(stage) > 0.0


def test_the_sum_that_is_timed_opens_exactly_by_a_quorum():
    parameters, watch = parameter_set("threshold-bfv-8"), Stopwatch()
    assert opened(parameters, holders(parameters, 3, watch), watch)
    assert watch.least("share") > 0.0


def test_opening_twice_does_not_take_over_what_the_first_opening_worked_out():
    parameters, watch = parameter_set("packed-bfv-8"), Stopwatch()
    ours = SecureSum(parameters, members(parameters, 3), 0.02, watch)
    for _ in range(3):
        ours.contribute(np.zeros(500, dtype=np.float32))
    total = ours.add()
    assert ours.open(total, ours.tags(), {})
    assert not total.expanded


@pytest.mark.parametrize(
    ("case", "tensors", "parameters"),
    [("one-tensor", 1, 1_000_000), ("cnn37", 37, 987_104), ("resnet18", 105, 11_187_521)],
)
def test_the_models_have_the_size_that_is_told(case, tensors, parameters):
    shapes = shapes_of(case)
    assert len(shapes) == tensors
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters


def test_a_goal_that_was_not_measured_is_neither_met_nor_missed():
    goal = Goal("one-tensor", "ratio_up", ">=", 28)
    assert goal.met({}) is None
    assert goal.met({"one-tensor": {"ratio_up": 28.0}}) is True
    assert goal.met({"one-tensor": {"ratio_up": 27.9}}) is False


def test_without_the_reference_nothing_is_recorded_and_the_exit_code_says_so(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setattr("sys.argv", ["aggregation_cost", "--json"])
    monkeypatch.setattr(aggregation_cost, "installed", lambda: False)
    monkeypatch.setattr(aggregation_cost, "measure", lambda *_, **__: {"host": {}})
    monkeypatch.setattr(aggregation_cost, "record", None)
    assert aggregation_cost.main() == 1
    said = capsys.readouterr()
    assert said.out == '{"host": {}}\n'
    assert "pip install nvflare" in said.err


def test_every_ratio_that_has_a_goal_is_one_that_is_formed():
    formed = {f"ratio_{name}" for name in RATIOS}
    assert {goal.key for goal in GOALS if goal.key.startswith("ratio_")} <= formed


def test_the_run_in_clear_adds_the_same_integers():
    parameters = parameter_set("packed-bfv-8")
    cipher, server = ClearCipher(KeyId("0" * 16)), ClearContext(parameters)
    values = np.array([3, -7, 127], dtype=np.int16)
    packed = pack(QuantisedUpdate(values, 8, 0), 5, parameters)
    updates = [cipher.encrypt(apply(packed, [])) for _ in range(3)]
    words = cipher.open(server.add(updates), {})
    sums, weight = unpack(words, 3, 3, parameters)
    assert sums.tolist() == [9, -21, 381]
    assert weight == 15
