"""One thread for PyTorch: these networks are small, and tests run beside each other."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def card_of():
    """Return a function that makes the card of a network, with a name of its own."""
    from models.card import TrainingData, model_card

    def make(network, name, shape, outputs=1, study="lesions"):
        data = TrainingData("Phantom", True, "patient", 6, "lesion", "no lesion", "CC0-1.0")
        return model_card(
            network, name=study, network=name, input_shape=shape, training_data=data,
            privacy=None, rounds=3, outputs=outputs,
        )  # fmt: skip

    return make
