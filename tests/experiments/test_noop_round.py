"""A round of clients that do nothing runs through the real engine, store and grid."""

from experiments._noop_round import in_process_seconds_per_round, seconds_of_rounds
from experiments.round_overhead import Config, in_process


def test_a_round_of_nothing_takes_some_time_and_ends():
    assert 0 < in_process_seconds_per_round(1000, 1) < 60


def test_every_round_but_the_first_is_measured():
    assert len(seconds_of_rounds(10, 2, sites=4)) == 2


def test_the_clients_of_the_deployments_run_in_process_too():
    assert len(in_process(Config(floats=10, rounds=2))) == 2
