"""Chains to settle to: py-evm in this process, anvil where it is installed; and books to settle."""

from __future__ import annotations

import pytest

from tests.ledger.chain import nodes, world


@pytest.fixture(scope="session")
def tester():
    """py-evm with everything deployed; tests go back to this by snapshots."""
    chain = nodes.TesterNode(rich=[world.SIGNER.address])
    return chain, world.deployed(chain)


@pytest.fixture(scope="session")
def anvil_deployed():
    if nodes.anvil_path() is None:
        pytest.skip("anvil is not installed: `npm ci --ignore-scripts` in ledger/chain")
    chain = nodes.Anvil()
    chain.enrich(world.SIGNER.address)
    yield chain, world.deployed(chain)
    chain.stop()


@pytest.fixture
def evm(tester):
    """A world on py-evm."""
    yield from _world(*tester)


@pytest.fixture
def anvil(anvil_deployed):
    """A world on anvil."""
    yield from _world(*anvil_deployed)


def _world(chain, deployment):
    start = chain.snapshot()
    made = world.World(chain, deployment)
    yield made
    made.close()
    chain.revert(start)
    chain.drop()
