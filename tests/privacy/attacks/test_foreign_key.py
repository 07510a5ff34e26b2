"""Adding ciphertexts of two keys goes unnoticed in the reference and is refused here."""

from dataclasses import replace

import numpy as np
import pytest

from privacy.bfv import ForeignKeyCiphertext, open_sum
from privacy.packing import SumCorrupt, unpack
from privacy.wire import MalformedCiphertext
from tests.privacy.attacks.reference import Reference, opened


def test_the_reference_adds_vectors_of_two_keys_and_returns_garbage(reference, updates, uploads):
    stranger = Reference.provision()
    mixed = reference.aggregate([uploads[0], stranger.encrypt(updates[1])])
    result = opened(reference.client, mixed)  # nothing was raised
    assert np.isfinite(result).all()
    assert not np.allclose(result, updates[0] + updates[1], atol=1)


def test_an_upload_that_names_another_key_is_not_added(server, upload, group_key, foreign_key):
    with pytest.raises(ForeignKeyCiphertext):
        server.add([upload(group_key, [1]), upload(foreign_key, [2])])


def test_a_sum_that_names_another_key_is_not_opened(server, upload, group_key, foreign_key):
    total = server.add([upload(foreign_key, [1]), upload(foreign_key, [2])])
    with pytest.raises(ForeignKeyCiphertext):
        open_sum(total, group_key)


def test_an_upload_that_lies_about_its_key_is_found_out_on_opening(
    server, upload, group_key, foreign_key
):
    """Its blob is as random as any, so only the check words of the opened sum can tell."""
    liar = replace(upload(foreign_key, [2, 3]), key_id=group_key.key_id)
    total = server.add([upload(group_key, [1, 2]), liar])
    with pytest.raises((MalformedCiphertext, SumCorrupt)):
        unpack(open_sum(total, group_key), 2, 2, group_key.parameters)
