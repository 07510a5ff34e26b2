"""Whoever adds for the reference may alter, drop or double unseen; here tags and blame find it."""

import numpy as np
import tenseal

from tests.privacy.attacks.reference import crafted, opened

LENGTH = 8192


def test_the_reference_takes_a_sum_in_which_a_parameter_was_chosen_by_the_server(
    reference, updates, uploads
):
    total = tenseal.ckks_vector_from(reference.server, reference.aggregate(uploads))
    wish = np.zeros(LENGTH)
    wish[77] = 0.5
    total += tenseal.plain_tensor(wish.tolist())
    result = opened(reference.client, total.serialize())
    assert np.allclose(result - updates.sum(axis=0), wish, atol=1e-6)


def test_the_reference_takes_a_sum_with_one_flipped_word(reference, updates, uploads):
    def flip(residues):
        residues[0, 0, 0, 5] ^= np.uint64(1 << 30)

    result = opened(reference.client, crafted(reference.server, uploads[0], flip))
    assert np.isfinite(result).all()
    assert not np.allclose(result, updates[0], atol=0.01)


def test_the_reference_takes_a_sum_with_an_upload_dropped_or_doubled(reference, updates, uploads):
    dropped = opened(reference.client, reference.aggregate(uploads[:2]))
    doubled = opened(reference.client, reference.aggregate([*uploads, uploads[0]]))
    assert np.allclose(dropped, updates[:2].sum(axis=0), atol=1e-6)
    assert np.allclose(doubled, updates.sum(axis=0) + updates[0], atol=1e-6)
