"""The tokenomics file is taken only if it adds up and says nothing that nobody reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.economy import load_economy, release_rows, released_by
from ledger.tables import SettingUnknown, TableUnbalanced, TokenomicsUnreadable
from ledger.tokenomics import DEFAULT_PATH, AllocationUnbalanced, load
from protocol.errors import ConfigurationError
from protocol.units import TOTAL_SUPPLY

SHIPPED = DEFAULT_PATH.read_text()
ECONOMY = load_economy()


@pytest.fixture
def changed(tmp_path):
    def write(old, new, count=1):
        assert old in SHIPPED
        path = tmp_path / "tokenomics.yaml"
        path.write_text(SHIPPED.replace(old, new, count))
        return path

    return write


def test_the_shipped_presets_load():
    assert load_economy().token == load()
    assert load_economy(preset="s2").vesting == load_economy(preset="s4").vesting
    with pytest.raises(TokenomicsUnreadable, match="lacks s9"):
        load_economy(preset="s9")


def test_the_release_rows_stand_beside_the_forecast():
    rows = release_rows(load_economy())
    found = [(row.year, row.released_bp, row.forecast_bp, row.difference_bp) for row in rows]
    assert found == [
        (2025, 2595, 2200, 395),
        (2026, 4991, 4000, 991),
        (2027, 6973, 5500, 1473),
        (2028, 8366, 6700, 1666),
        (2029, 8983, 7700, 1283),
        (2030, 9600, 10000, -400),
    ]


def test_a_cliff_before_the_line_releases_less(changed):
    rows = release_rows(load_economy(changed("cliff_mode: inside", "cliff_mode: before")))
    assert [row.released_bp // 10 for row in rows] == [210, 449, 660, 816, 898, 960]


@given(st.integers(0, 2**33), st.integers(0, 2**33))
def test_the_whole_release_never_falls_and_ends_short_of_what_is_decided(one, other):
    early, late = sorted((one, other))
    assert released_by(ECONOMY, early) <= released_by(ECONOMY, late)
    assert released_by(ECONOMY, 2**40) == TOTAL_SUPPLY * 99 // 100


@pytest.mark.parametrize(
    ("old", "new", "refusal"),
    [
        ("percent: 10,", "percent: 11,", AllocationUnbalanced),
        ("percent: 10,", "percent: 10.0,", TokenomicsUnreadable),
        ("percent: 10,", "percent: true,", TokenomicsUnreadable),
        ("percent: 10,", "percent: 0,", TokenomicsUnreadable),
        ("cliff: 6,", "clif: 6,", TokenomicsUnreadable),
        ("cliff: 6,", "cliff: 6, clif: 6,", SettingUnknown),
        ("cliff: 6,", "cliff: 6, cliff: 7,", TokenomicsUnreadable),
        ("cliff: 6,", "cliff: 37,", TokenomicsUnreadable),
        ("tranches: 8", "tranches: 7", TokenomicsUnreadable),
        ("release: at-launch", "release: sometime", TokenomicsUnreadable),
        ("btt: 6300000", "btt: 6300001", TableUnbalanced),
        ("platform: 2000}", "platform: 2001}", TableUnbalanced),
        ("platform: 2000}", "Platform: 2000}", TokenomicsUnreadable),
        ("remainder: platform", "remainder: nobody", TokenomicsUnreadable),
        ("rate: 300", "rate: 3.0", TokenomicsUnreadable),
        ("rate: 300", "rate: 10001", TokenomicsUnreadable),
        ("days: 90,", "days: 30,", TokenomicsUnreadable),
        ("cliff_mode: inside", "cliff_mode: outside", TokenomicsUnreadable),
        ('begins: "2025-01-01"', 'begins: "2025-13-01"', TokenomicsUnreadable),
        ("forecast: {2025: 22", "forecast: {soon: 22", TokenomicsUnreadable),
        ("forecast: {2025: 22", "forecast: {2025: 101", TokenomicsUnreadable),
        ("version: 1", "version: 2", TokenomicsUnreadable),
        ("default: s4", "default: s4\nextra: 1", SettingUnknown),
        ("    cliff_mode", "    clif_mode: inside\n    cliff_mode", SettingUnknown),
        ("unbonding_days: 21", "unbonding_days: 21\n      unbond: 1", SettingUnknown),
        ("based_on: s4", "based_on: s2", None),
        ("presets:", "presets: !!python/name:os.system", TokenomicsUnreadable),
        ("presets:", "presets: [", TokenomicsUnreadable),
    ],
)
def test_a_file_that_does_not_add_up_or_is_misspelt_is_refused(changed, old, new, refusal):
    path = changed(old, new)
    if refusal is None:
        with pytest.raises(TokenomicsUnreadable):
            load_economy(path, "s2")
        return
    with pytest.raises(refusal) as refused:
        load_economy(path)
    assert isinstance(refused.value, ConfigurationError)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TokenomicsUnreadable):
        load_economy(tmp_path / "tokenomics.yaml")
