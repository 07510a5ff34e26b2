"""The measurement of the audit log runs, and every proof that it times is a true one."""

from __future__ import annotations

import pytest

from experiments.audit_throughput import Config, run


@pytest.mark.slow
def test_a_small_measurement_has_every_number():
    found = run(Config(batch=50, batches=4, runs=1, before=2))
    assert found["events_per_second"] > 0
    assert found["proof_p99_ms"] > 0
    assert found["cpu_us_per_event"] >= 0
    assert found["events_per_second_spread"][0] <= found["events_per_second"]
    assert found["runs"][0]["proofs"] >= 2
    assert len(found["load_average"]) == 2
