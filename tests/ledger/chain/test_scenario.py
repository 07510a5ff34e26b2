"""The same scenario on books, py-evm and anvil ends in the same balances, to the base unit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from protocol.units import TOTAL_SUPPLY
from tests.ledger.chain import nodes
from tests.ledger.chain.anvil_machine import AnvilMachine
from tests.ledger.chain.scenario import PARTIES, Books, Contracts, play
from tests.ledger.contracts.machine import Machine

BTT = 10**18
who = st.sampled_from(PARTIES)
amounts = st.one_of(st.integers(1, 5), st.integers(1, 10**23))
payouts = st.dictionaries(who, st.integers(1, 10**21), min_size=1, max_size=3).map(
    lambda found: sorted(found.items())
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("fund"), who, amounts),
        st.tuples(st.just("pay"), payouts),
        st.tuples(st.just("burn"), who, amounts),
        st.tuples(
            st.just("order"), who, payouts, st.fixed_dictionaries({"captured": st.booleans()})
        ),
        st.tuples(st.just("round"), who, st.integers(0, 10**21), payouts).map(
            lambda one: (*one[:2], one[2] + sum(dict(one[3]).values()), one[3])
        ),
        st.tuples(st.just("claims"), payouts, st.sets(who)).map(
            lambda one: (one[0], dict(one[1]), [name for name, _ in one[1] if name in one[2]])
        ),
        st.tuples(st.just("fee"), who, amounts.map(lambda one: one + 100)),
        st.tuples(st.just("bond"), who, st.integers(1_000 * BTT, 10**23)),
        st.tuples(st.just("slash"), st.integers(0, 3), st.integers(1, 10_000)),
        st.tuples(st.just("unstake"), who),
    ),
    max_size=14,
)
FUNDED = [("fund", one, 10_000 * BTT + 1) for one in PARTIES]
FIXED = [
    *FUNDED,
    ("pay", [("hospital", 1), ("researcher", 3 * BTT)]),
    ("order", "researcher", [("hospital", 7), ("provider", 5 * BTT)], {"captured": True}),
    ("order", "researcher", [("provider", 11)], {"captured": False}),
    ("order", "researcher", [("provider", 10**25)], {"captured": True}),
    ("round", "researcher", 1_000 * BTT + 1, [("hospital", 600 * BTT), ("provider", 1)]),
    ("claims", {"hospital": 5, "staker": 7}, ["hospital"]),
    ("claims", {"hospital": 2}, ["hospital", "staker"]),
    ("fee", "researcher", 1_003),
    ("burn", "hospital", 13),
    ("bond", "staker", 2_000 * BTT),
    ("bond", "provider", 1_000 * BTT + 3),
    ("slash", 0, 501),
    ("slash", 1, 10_000),
    ("unstake", "staker"),
]


def balances_of(steps, contracts):
    with tempfile.TemporaryDirectory() as folder:
        books = Books(Path(folder) / "ledger.db")
        play(books, contracts, steps)
        found = books.balances()
        books.ledger.verify()
        books.ledger.close()
    assert sum(found.values()) == TOTAL_SUPPLY
    return found


def on_py_evm(steps):
    contracts = Contracts(Machine())
    found = balances_of(steps, contracts)
    assert contracts.balances() == found
    return found


def test_the_fixed_scenario_on_py_evm():
    found = on_py_evm(FIXED)
    assert found["burned"] > 13
    assert found["claims"] == 0
    assert found["victims"] > 0


@pytest.mark.slow
def test_the_fixed_scenario_on_anvil():
    if nodes.anvil_path() is None:
        pytest.skip("anvil is not installed: `npm ci --ignore-scripts` in ledger/chain")
    machine = AnvilMachine()
    try:
        contracts = Contracts(machine)
        found = balances_of(FIXED, contracts)
        assert contracts.balances() == found == on_py_evm(FIXED)
    finally:
        machine.stop()


@pytest.mark.slow
@given(steps)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Shrinking would take minutes, and a failure is as clear without.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
def test_any_scenario_on_py_evm(steps):
    on_py_evm([*FUNDED, *steps])
