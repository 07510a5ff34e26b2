"""What most tests of encryption need: a parameter set, one group key, a server without it."""

import numpy as np
import pytest

from privacy.bfv import ServerContext, encrypt, generate_key
from privacy.masks import apply
from privacy.packing import pack
from privacy.parameters import parameter_set
from privacy.quantisation import QuantisedUpdate


@pytest.fixture(scope="session")
def preset():
    return parameter_set("packed-bfv-8")


@pytest.fixture(scope="session")
def group_key(preset):
    return generate_key(preset)


@pytest.fixture(scope="session")
def foreign_key(preset):
    return generate_key(preset)


@pytest.fixture(scope="session")
def server(preset):
    return ServerContext(preset)


@pytest.fixture(scope="session")
def upload():
    """Return a function from a key, values and a weight to an encrypted update."""

    def encrypted(key, values, weight=1):
        bits = key.parameters.value_bits
        quantised = QuantisedUpdate(np.asarray(values, dtype=np.int32), bits, 0)
        return encrypt(apply(pack(quantised, weight, key.parameters), []), key)

    return encrypted
