"""Real ultrasound and the four natural heart hospitals run by the same command."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow


def run_real(bithive, data, home):
    done = bithive("demo", "--data", data, "--home", home, "--rounds", 2, "--seed", 7, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_sane(printed, *, sites):
    assert printed["sites"] == len(printed["auc_single_site"]) == sites
    assert printed["rounds"] == 2
    scores = [printed["auc_federated"], printed["auc_pooled"], *printed["auc_single_site"]]
    assert all(0 <= score <= 1 for score in scores)
    assert 0 < printed["epsilon"] <= 8
    assert printed["sum_exact"] is True
    assert printed["proofs_verified"] >= sites
    assert printed["updates_refused"] >= 1
    assert 0 < printed["receipts"] <= 2 * sites
    assert 0 < printed["paid_base_units"] <= 1_000 * 10**18
    assert printed["supply_base_units"] == 210_000_000 * 10**18


def test_real_ultrasound_runs_with_two_bytes_a_parameter(bithive, real, tmp_path):
    printed = run_real(bithive, real("busi_breast_us"), tmp_path / "home")
    check_sane(printed, sites=6)
    assert printed["upload_bytes_per_parameter"] <= 2.1


@pytest.mark.exhaustive
def test_the_four_heart_hospitals_run_as_they_are(bithive, real, tmp_path):
    printed = run_real(bithive, real("heart_disease_4sites"), tmp_path / "home")
    check_sane(printed, sites=4)
