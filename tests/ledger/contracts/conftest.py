"""BTT and those who hold it, anew for each test."""

import pytest

from tests.ledger.contracts.machine import SUPPLY, Machine, address, deploy_btt


@pytest.fixture
def machine():
    """A new one each time: it takes milliseconds, and an old one grows slow."""
    return Machine()


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
