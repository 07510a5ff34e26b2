"""Whoever adds for the reference may alter, drop or double unseen; here tags and blame find it."""

import hashlib
import secrets

import numpy as np
import pytest
import tenseal

from privacy.bfv import open_sum, update_residues
from privacy.blame import SERVER, Dispute, judge
from privacy.masks import remove
from privacy.packing import pack, unpack
from privacy.quantisation import QuantisedUpdate
from privacy.tags import SumAltered, check_tags, readd, tag
from protocol.errors import BitHiveError
from protocol.frames import decode
from tests.fl_server import cohort as sums
from tests.privacy.attacks.cohort import Cohort, rewritten, scaled
from tests.privacy.attacks.reference import crafted, opened

LENGTH = 8192


def test_the_reference_takes_a_sum_in_which_the_server_chose_a_parameter(
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


@pytest.fixture(scope="module")
def cohort(preset):
    return Cohort.meet(4, preset, length=LENGTH)


@pytest.fixture(scope="module")
def challenge():
    return secrets.token_bytes(32)


@pytest.fixture(scope="module")
def tags(cohort, challenge):
    return {site: tag(cohort.uploads[site], challenge, cohort.parameters) for site in cohort.sites}


def wish_added(cohort, total, wish):
    """Return the sum as the server shifts it by ``wish``, its check sum included: no key needed."""

    def slots(values):
        bits = cohort.parameters.value_bits
        return pack(QuantisedUpdate(values.astype(np.int16), bits, 0), 1, cohort.parameters).words

    t, q = np.uint64(cohort.parameters.plain_modulus), cohort.parameters.data_modulus[0]
    shift = scaled((slots(wish) + t - slots(np.zeros_like(wish))) % t, cohort.parameters)

    def change(values):
        values[0, 0, 0] = ((values[0, 0, 0].astype(object) + shift) % q).astype(np.uint64)

    return rewritten(total, change, cohort.parameters)


def flipped(cohort, total):
    def change(values):
        values[0, 0, 0, 5] ^= np.uint64(1)

    return rewritten(total, change, cohort.parameters)


def changed_by_upload(cohort, total, site, times):
    """Return the sum with one upload's residues added ``times`` again, its seeds as they were."""
    (q,) = cohort.parameters.data_modulus
    upload = update_residues(cohort.uploads[site], cohort.parameters)[:, :1].astype(object)

    def change(values):
        values[:] = ((values.astype(object) + times * upload) % q).astype(np.uint64)

    return rewritten(total, change, cohort.parameters)


def alterations(cohort):
    """Return what a server might hand out in place of the sum it committed to, by its name."""
    a, b, c, _ = cohort.sites
    honest = cohort.total()
    wish = np.zeros(LENGTH)
    wish[77] = 100
    return {
        "sum-altered": flipped(cohort, honest),
        "sum shifted": wish_added(cohort, honest, wish),
        "upload-dropped": changed_by_upload(cohort, honest, c, -1),
        "upload-doubled": changed_by_upload(cohort, honest, c, 1),
        "one for another": cohort.total([a, b, c, c]),
    }


ALTERED = ["sum-altered", "sum shifted", "upload-dropped", "upload-doubled", "one for another"]


def test_without_tags_a_wish_of_the_server_would_pass_all_other_checks_of_ours(cohort):
    """Encryption is malleable, and the check words can be kept; so these are no signature."""
    wish = np.zeros(LENGTH)
    wish[77] = 100
    words = open_sum(wish_added(cohort, cohort.total(), wish), cohort.key)
    words = remove(words, [cohort.leftover()], cohort.parameters)
    sums, _ = unpack(words, LENGTH, 4, cohort.parameters)
    assert np.array_equal(sums - sum(v.astype(int) for v in cohort.values.values()), wish)


def test_the_tags_of_an_honest_round_agree(cohort, challenge, tags):
    check_tags(cohort.total(), list(tags.values()), challenge, cohort.parameters)


@pytest.mark.parametrize("name", ALTERED)
def test_the_tags_refuse_what_the_server_altered(name, cohort, challenge, tags):
    with pytest.raises(SumAltered):
        check_tags(alterations(cohort)[name], list(tags.values()), challenge, cohort.parameters)


def dispute(cohort, challenge, tags, **changes):
    total = changes.get("total", cohort.total())
    shown = {
        "receipts": {
            site: hashlib.sha256(upload.blob).hexdigest() for site, upload in cohort.uploads.items()
        },
        "uploads": cohort.uploads,
        "tags": tags,
        "total": total,
        "sum_sha256": hashlib.sha256(total.blob).hexdigest(),
        "seed": challenge,
    }
    return Dispute(**{**shown, **changes})


def test_an_honest_round_blames_nobody(cohort, challenge, tags):
    assert judge(dispute(cohort, challenge, tags), cohort.parameters) == ()


@pytest.mark.parametrize("name", ["sum-altered", "upload-dropped", "upload-doubled"])
def test_who_adds_the_uploads_again_proves_what_the_server_did(name, cohort, challenge, tags):
    altered = alterations(cohort)[name]
    (verdict,) = judge(dispute(cohort, challenge, tags, total=altered), cohort.parameters)
    assert (verdict.party, verdict.what) == (SERVER, name)
    assert verdict.evidence.get("site", cohort.sites[2]) == cohort.sites[2]
    with pytest.raises(SumAltered):
        readd(list(cohort.uploads.values()), altered, cohort.parameters)


def test_an_upload_that_the_server_replaced_is_not_the_one_its_site_signed(cohort, challenge, tags):
    victim, other = cohort.sites[:2]
    replaced = {**cohort.uploads, victim: cohort.uploads[other]}
    found = judge(dispute(cohort, challenge, tags, uploads=replaced), cohort.parameters)
    assert [(verdict.party, verdict.what) for verdict in found] == [(SERVER, "upload-replaced")]
    assert found[0].evidence["site"] == victim


def test_a_hospital_that_lies_about_its_tag_is_named_and_nobody_else(cohort, challenge, tags):
    liar = cohort.sites[2]
    lie = {**tags, liar: tuple((part + 1) % 2**59 for part in tags[liar])}
    with pytest.raises(SumAltered):
        check_tags(cohort.total(), list(lie.values()), challenge, cohort.parameters)
    (verdict,) = judge(dispute(cohort, challenge, lie), cohort.parameters)
    assert (verdict.party, verdict.what) == (liar, "tag-false")


def test_tags_made_for_another_challenge_fit_no_sum(cohort, challenge, tags):
    with pytest.raises(SumAltered):
        check_tags(cohort.total(), list(tags.values()), secrets.token_bytes(32), cohort.parameters)


@pytest.mark.parametrize("opening", ["members", "threshold"])
def test_hospitals_decrypt_no_sum_that_was_altered_before_the_server_committed_to_it(opening):
    """Hashes and endorsements are in order then, and only the tags are left to tell."""
    study = sums.Cohort.meet(4, opening=opening)
    begun = study.upload(study.begin())
    add = study.sum._context.add

    def alter(values):
        values[0, 0, 0, 5] ^= np.uint64(1)

    study.sum._context.add = lambda updates: rewritten(add(updates), alter, study.parameters)
    with pytest.raises(BitHiveError):
        study.open(begun)
    replies = [(kind, decode(reply)) for kind, _, reply in study.transport.answered]
    last = [reply for kind, reply in replies if kind in {"share", "open"}]
    assert {reply.kind for reply in last} == {"refused"}
    assert {reply.body["code"] for reply in last} == {"sum-altered"}
    assert "unmask" in {kind for kind, _ in replies}
