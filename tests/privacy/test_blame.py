"""An honest round blames nobody; whoever cheats in one way is blamed for it, and nobody else."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from privacy import residues
from privacy.bfv import ServerContext, generate_key
from privacy.blame import SERVER, Dispute, judge
from privacy.parameters import parameter_set
from privacy.residues import Kind
from privacy.tags import SumAltered, check_tags, tag
from protocol.ids import SiteId

SEED = bytes(range(32))
SITES = [SiteId(name) for name in ("north", "south", "west")]


def sha256(blob):
    return hashlib.sha256(blob).hexdigest()


@pytest.fixture(scope="module", params=["packed-bfv-8", "threshold-bfv-8"])
def parameters(request):
    return parameter_set(request.param)


@pytest.fixture(scope="module")
def key(parameters):
    return generate_key(parameters)


@pytest.fixture(scope="module")
def honest(parameters, key, upload):
    uploads = {site: upload(key, [i]) for i, site in enumerate(SITES)}
    total = ServerContext(parameters).add(list(uploads.values()))
    return Dispute(
        receipts={site: sha256(one.blob) for site, one in uploads.items()},
        uploads=uploads,
        tags={site: tag(one, SEED, parameters) for site, one in uploads.items()},
        total=total,
        sum_sha256=sha256(total.blob),
        seed=SEED,
    )


def announced(dispute, total):
    """The same dispute, about another sum that the server announced."""
    return replace(dispute, total=total, sum_sha256=sha256(total.blob))


def faults(dispute, parameters):
    return [(verdict.party, verdict.what) for verdict in judge(dispute, parameters)]


def test_an_honest_round_blames_nobody(honest, parameters):
    assert judge(honest, parameters) == ()


def test_missing_tags_are_no_lies(honest, parameters):
    for some in ({}, {SITES[0]: honest.tags[SITES[0]]}):
        assert judge(replace(honest, tags=some), parameters) == ()


def test_the_order_of_adding_is_the_servers(honest, parameters):
    total = ServerContext(parameters).add(list(honest.uploads.values())[::-1])
    assert judge(announced(honest, total), parameters) == ()


def test_a_false_tag_is_its_sites(honest, parameters):
    false = tuple(part ^ 1 for part in honest.tags[SITES[1]])
    lying = replace(honest, tags={**honest.tags, SITES[1]: false})
    with pytest.raises(SumAltered):
        check_tags(lying.total, list(lying.tags.values()), SEED, parameters)
    (verdict,) = judge(lying, parameters)
    assert (verdict.party, verdict.what) == (SITES[1], "tag-false")
    assert verdict.evidence["receipt"] == honest.receipts[SITES[1]]
    assert verdict.evidence["claimed"].split() == [str(part) for part in false]
    assert verdict.evidence["true"].split() == [str(part) for part in honest.tags[SITES[1]]]


def test_an_altered_word_of_the_sum_is_the_servers(honest, parameters):
    blob = bytearray(honest.total.blob)
    blob[-1] ^= 1
    altered = announced(honest, replace(honest.total, blob=bytes(blob)))
    (verdict,) = judge(altered, parameters)
    assert (verdict.party, verdict.what) == (SERVER, "sum-altered")
    assert verdict.evidence["announced"] == sha256(bytes(blob))
    assert verdict.evidence["added again"] == honest.sum_sha256


@pytest.mark.parametrize("dropped", range(3))
def test_a_dropped_upload_is_the_servers(dropped, honest, parameters):
    """Whether it owns up to adding fewer, or fills the seeds' places with the others'."""
    kept = [one for site, one in honest.uploads.items() if site != SITES[dropped]]
    total = ServerContext(parameters).add(kept)
    (verdict,) = judge(announced(honest, total), parameters)
    assert (verdict.party, verdict.what) == (SERVER, "upload-dropped")
    assert verdict.evidence["site"] == SITES[dropped]
    padded = replace(total, sites=3, blob=refilled(total, parameters))
    assert faults(announced(honest, padded), parameters) == [(SERVER, "upload-dropped")]


def refilled(total, parameters):
    """A sum of two that says it is of three, the first site's seeds given twice."""
    kind = Kind.of(parameters, summed=True)
    sent = residues.read(total.blob, kind, total.length, parameters, contributors=2)
    packed = residues.pack(sent.values, parameters)
    seeds = (*sent.seeds, *sent.seeds[:1])
    return residues.write(kind, seeds, packed, parameters, contributors=3)


def test_a_doubled_upload_is_the_servers(honest, parameters):
    updates = list(honest.uploads.values())
    total = ServerContext(parameters).add([*updates, updates[2]])
    (verdict,) = judge(announced(honest, total), parameters)
    assert (verdict.party, verdict.what) == (SERVER, "upload-doubled")
    assert verdict.evidence["site"] == SITES[2]


def test_one_upload_in_place_of_another_is_the_servers(honest, parameters):
    updates = list(honest.uploads.values())
    total = ServerContext(parameters).add([*updates[:2], updates[0]])
    assert faults(announced(honest, total), parameters) == [(SERVER, "sum-altered")]


def test_a_replaced_upload_is_the_servers_and_leaves_the_rest_undecided(
    honest, parameters, key, upload
):
    other = upload(key, [9])
    swapped = replace(honest, uploads={**honest.uploads, SITES[0]: other})
    (verdict,) = judge(swapped, parameters)
    assert (verdict.party, verdict.what) == (SERVER, "upload-replaced")
    assert verdict.evidence == {
        "site": SITES[0],
        "receipt": honest.receipts[SITES[0]],
        "stored": sha256(other.blob),
    }


def test_a_withheld_upload_is_the_servers(honest, parameters):
    rest = {site: one for site, one in honest.uploads.items() if site != SITES[1]}
    assert faults(replace(honest, uploads=rest), parameters) == [(SERVER, "upload-withheld")]


def test_counting_what_cannot_be_read_is_the_servers(honest, parameters):
    broken = replace(honest.uploads[SITES[0]], blob=b"BHC1")
    counted = replace(
        honest,
        uploads={**honest.uploads, SITES[0]: broken},
        receipts={**honest.receipts, SITES[0]: sha256(b"BHC1")},
    )
    assert faults(counted, parameters) == [(SERVER, "upload-unreadable")]


def test_counting_uploads_that_cannot_be_added_is_the_servers(honest, parameters, upload):
    foreign = upload(generate_key(parameters), np.zeros(1))
    counted = replace(
        honest,
        uploads={**honest.uploads, SITES[0]: foreign},
        receipts={**honest.receipts, SITES[0]: sha256(foreign.blob)},
        tags={},
    )
    assert faults(counted, parameters) == [(SERVER, "sum-altered")]


def test_another_sum_than_announced_is_the_servers(honest, parameters):
    blob = bytearray(honest.total.blob)
    blob[-1] ^= 1
    exchanged = replace(honest, total=replace(honest.total, blob=bytes(blob)))
    assert faults(exchanged, parameters) == [(SERVER, "sum-replaced")]


@pytest.mark.parametrize("change", [{"blob": b""}, {"parameters": "packed-bfv-12"}, {"sites": 0}])
def test_a_sum_that_cannot_be_read_is_the_servers(change, honest, parameters):
    broken = announced(honest, replace(honest.total, **change))
    assert faults(broken, parameters) == [(SERVER, "sum-altered")]


def test_two_cheats_are_both_named(honest, parameters):
    lying = replace(honest, tags={**honest.tags, SITES[2]: (0,) * len(honest.tags[SITES[2]])})
    total = ServerContext(parameters).add(list(honest.uploads.values())[1:])
    assert faults(announced(lying, total), parameters) == [
        (SITES[2], "tag-false"),
        (SERVER, "upload-dropped"),
    ]
