"""One machine for a test module: starting it takes a second, deploying a tenth."""

import pytest

from tests.ledger.contracts.machine import SUPPLY, START, Machine, address, deploy_btt


@pytest.fixture(scope="module")
def chain():
    return Machine()


@pytest.fixture
def machine(chain):
    chain.now = START
    return chain


@pytest.fixture
def btt(machine):
    """BTT, all of it with ``treasury``."""
    return deploy_btt(machine)


@pytest.fixture
def fund(btt):
    """Give someone BTT, and let a contract take it."""

    def give(role, amount, spender=None):
        btt.transfer(address(role), amount, sender=address("treasury"))
        if spender is not None:
            btt.approve(spender.address, SUPPLY, sender=address(role))
        return address(role)

    return give
