"""The reference setting and a cohort's updates for it, made once for all attacks."""

import numpy as np
import pytest

from privacy.parameters import parameter_set
from tests.privacy.attacks.quorum_group import Group
from tests.privacy.attacks.reference import Reference

SITES = 3
LENGTH = 8192


@pytest.fixture(scope="session")
def reference():
    return Reference.provision()


@pytest.fixture(scope="session")
def updates():
    """What three hospitals learned: ``(sites, length)`` numbers, as small as weights change."""
    return np.random.default_rng(1).normal(0, 0.02, (SITES, LENGTH))


@pytest.fixture(scope="session")
def uploads(reference, updates):
    """The three updates as the reference's clients encrypt them."""
    return [reference.encrypt(update) for update in updates]


@pytest.fixture(scope="session")
def group():
    """Five hospitals that hold a collective key, four of which open."""
    return Group.meet(parameter_set("threshold-bfv-8"))
