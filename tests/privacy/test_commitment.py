"""A commitment binds one set of signed uploads, and a quorum's word decides the challenge."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.commitment import (
    CommitmentRefused,
    challenge,
    check_commitment,
    check_endorsements,
    upload_entry,
    uploads_root,
)
from privacy.keys import SiteKeys
from privacy.sharing import QuorumMissing, quorum
from privacy.signatures import BadSignature
from protocol.canonical import digest
from protocol.ids import SiteId
from protocol.summation import Commitment, Endorsement
from tests.fl_server.cohort import NOTHING, Cohort

N = 6
THRESHOLD = quorum(N)


@pytest.fixture(scope="module")
def committed():
    """A cohort, its round, and the server's commitment to five of six uploads."""
    cohort = Cohort.meet(N)
    begun = cohort.upload(cohort.begin(), cohort.sites[:5])
    total = cohort.sum._add(begun.plan, begun.uploads)
    return cohort, begun, cohort.sum._commit(begun.plan, begun.uploads, total)


def check(committed, commitment, *, threshold=THRESHOLD):
    cohort, begun, _ = committed
    check_commitment(commitment, begun.plan, cohort.terms, threshold=threshold)


def signed(committed, *, root=True, **changes):
    """Return the commitment with other fields, signed by the server, its root made to fit."""
    cohort, _, commitment = committed
    if root and "receipts" in changes:
        changes["uploads_root"] = uploads_root(changes["receipts"])
    return cohort.signed(commitment.model_copy(update=changes))


def another_receipt(committed, site, **changes):
    """Return the receipts, one of them saying something else over its site's signature."""
    cohort, _, commitment = committed
    receipts = []
    for one in commitment.receipts:
        receipt = one
        if one.site == site:
            receipt = one.model_copy(update=changes)
            signature = cohort.hospitals[site].keys.sign(receipt.site_bytes())
            receipt = receipt.model_copy(update={"site_signature": signature})
        receipts.append(receipt)
    return tuple(receipts)


# The commitment


def test_an_honest_commitment_is_one(committed):
    check(committed, committed[2])


def test_a_commitment_that_the_server_did_not_sign_is_refused(committed):
    commitment = committed[2]
    stranger = commitment.signed_by(SiteKeys.generate().sign)
    for forged in (stranger, commitment.model_copy(update={"signature": b""})):
        with pytest.raises(BadSignature, match="the server"):
            check(committed, forged)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"study": "study-other"}, "another study or round"),
        ({"round": 2}, "another study or round"),
        ({"plan": NOTHING}, "another plan"),
        ({"key_id": "0" * 16}, "another key or length"),
        ({"length": 41}, "another key or length"),
        ({"uploads_root": NOTHING}, "root is not that of its receipts"),
    ],
)
def test_a_commitment_for_something_else_is_refused(committed, changes, why):
    with pytest.raises(CommitmentRefused, match=why):
        check(committed, signed(committed, **changes))


def test_a_commitment_to_fewer_sites_than_a_quorum_is_refused(committed):
    few = signed(committed, receipts=committed[2].receipts[: THRESHOLD - 1])
    with pytest.raises(CommitmentRefused, match="sum of 4 sites"):
        check(committed, few)


def test_a_commitment_to_fewer_sites_than_the_study_allows_is_refused(committed):
    few = signed(committed, receipts=committed[2].receipts[:2])
    with pytest.raises(CommitmentRefused, match="sum of 2 sites"):
        check(committed, few, threshold=2)


def test_a_site_outside_the_roster_is_in_no_sum(committed):
    cohort, begun, _ = committed
    smaller = cohort.signed(begun.plan.model_copy(update={"roster": begun.plan.roster[1:]}))
    with pytest.raises(CommitmentRefused, match="not in the round's roster"):
        check_commitment(
            signed(committed, plan=digest(smaller)), smaller, cohort.terms, threshold=THRESHOLD
        )


@pytest.mark.parametrize(
    "changes", [{"study": "study-other"}, {"round": 2}, {"model_sha256": "1" * 64}]
)
def test_a_receipt_of_another_round_or_model_is_in_no_sum(committed, changes):
    receipts = another_receipt(committed, "site-02", **changes)
    with pytest.raises(CommitmentRefused, match="not of this round"):
        check(committed, signed(committed, receipts=receipts))


def test_a_receipt_that_its_site_did_not_sign_is_in_no_sum(committed):
    receipts = list(committed[2].receipts)
    receipts[2] = receipts[2].model_copy(update={"proven_patients": 1})
    with pytest.raises(BadSignature, match="site-02"):
        check(committed, signed(committed, receipts=tuple(receipts)))


@pytest.mark.parametrize("order", [(1, 0, 2, 3, 4), (0, 1, 2, 3, 3), (4, 3, 2, 1, 0)])
def test_receipts_out_of_order_or_of_one_site_twice_are_no_commitment(committed, order):
    commitment = committed[2]
    receipts = [commitment.receipts[place] for place in order]
    facts = commitment.model_dump() | {"receipts": receipts}
    with pytest.raises(ValueError, match="sorted and name a site once"):
        Commitment.model_validate(facts)


# The root


def test_the_root_of_two_uploads_is_what_rfc_6962_says():
    """Section 2.1: a leaf is hashed after a zero byte, a node after a one byte."""

    class Sent:
        def __init__(self, site, ciphertext_sha256):
            self.site = SiteId(site)
            self.ciphertext_sha256 = ciphertext_sha256

    sent = [Sent("north", "a" * 64), Sent("south", "b" * 64)]
    entries = [f'["{one.site}","{one.ciphertext_sha256}"]'.encode() for one in sent]
    assert [upload_entry(one.site, one.ciphertext_sha256) for one in sent] == entries
    leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in entries]
    assert uploads_root(sent) == hashlib.sha256(b"\1" + b"".join(leaves)).hexdigest()


@given(st.data())
def test_the_root_names_which_ciphertext_each_site_sent(committed, data):
    receipts = list(committed[2].receipts)
    honest = uploads_root(receipts)
    place = data.draw(st.integers(0, len(receipts) - 1))
    other = data.draw(st.binary(min_size=32, max_size=32)).hex()
    receipts[place] = receipts[place].model_copy(update={"ciphertext_sha256": other})
    assert uploads_root(receipts) != honest
    swapped = list(committed[2].receipts)
    swapped[0], swapped[1] = (
        swapped[0].model_copy(update={"ciphertext_sha256": swapped[1].ciphertext_sha256}),
        swapped[1].model_copy(update={"ciphertext_sha256": swapped[0].ciphertext_sha256}),
    )
    assert uploads_root(swapped) != honest


# Endorsements


def endorsed(committed, sites=None, *, commitment=None, nonce=NOTHING):
    """Return the endorsements of sites, each signed by its own."""
    cohort = committed[0]
    named = digest(committed[2]) if commitment is None else commitment
    return [
        Endorsement(commitment=named, site=site, nonce=nonce).signed_by(
            cohort.hospitals[site].keys.sign
        )
        for site in (cohort.sites if sites is None else sites)
    ]


def check_quorum(committed, endorsements):
    cohort, begun, commitment = committed
    check_endorsements(commitment, endorsements, begun.plan, cohort.terms, threshold=THRESHOLD)


@given(st.data())
def test_any_quorum_of_the_roster_stands_behind_a_commitment_and_fewer_do_not(committed, data):
    sites = sorted(data.draw(st.sets(st.sampled_from(committed[0].sites))))
    shown = endorsed(committed, sites)
    if len(sites) >= THRESHOLD:
        check_quorum(committed, shown)
    else:
        with pytest.raises(QuorumMissing, match=f"{len(sites)} sites"):
            check_quorum(committed, shown)


def test_an_endorsement_counts_once(committed):
    shown = endorsed(committed, committed[0].sites[:4])
    for order in ([*shown, shown[3]], [*shown, *shown]):
        with pytest.raises(CommitmentRefused, match="once each"):
            check_quorum(committed, order)


def test_endorsements_out_of_order_are_refused(committed):
    """One set in two orders would be two challenges."""
    with pytest.raises(CommitmentRefused, match="once each"):
        check_quorum(committed, endorsed(committed)[::-1])


def test_an_endorsement_from_outside_the_roster_does_not_count(committed):
    cohort, begun, commitment = committed
    smaller = begun.plan.model_copy(update={"roster": begun.plan.roster[:5]})
    with pytest.raises(CommitmentRefused, match="sites of the roster"):
        check_endorsements(
            commitment, endorsed(committed), smaller, cohort.terms, threshold=THRESHOLD
        )


def test_an_endorsement_of_another_commitment_does_not_count(committed):
    mixed = [*endorsed(committed)[:5], *endorsed(committed, ["site-05"], commitment=NOTHING)]
    with pytest.raises(CommitmentRefused, match="another commitment"):
        check_quorum(committed, mixed)


@pytest.mark.parametrize("place", range(N))
def test_an_endorsement_that_its_site_did_not_sign_does_not_count(committed, place):
    shown = endorsed(committed)
    site = shown[place].site
    shown[place] = shown[place].signed_by(SiteKeys.generate().sign)
    with pytest.raises(BadSignature, match=site):
        check_quorum(committed, shown)


# The challenge


@given(st.data())
def test_any_endorsement_more_less_or_changed_gives_another_challenge(committed, data):
    commitment, shown = committed[2], endorsed(committed)
    seen = {challenge(commitment, shown)}
    place = data.draw(st.integers(0, N - 1))
    less = [*shown[:place], *shown[place + 1 :]]
    seen.add(challenge(commitment, less))
    nonce = data.draw(st.binary(min_size=32, max_size=32).map(bytes.hex).filter(NOTHING.__ne__))
    (other,) = endorsed(committed, [shown[place].site], nonce=nonce)
    seen.add(challenge(commitment, [*shown[:place], other, *shown[place + 1 :]]))
    unsigned = shown[place].model_copy(update={"signature": b""})
    seen.add(challenge(commitment, [*shown[:place], unsigned, *shown[place + 1 :]]))
    assert len(seen) == 4


def test_another_commitment_gives_another_challenge(committed):
    shown = endorsed(committed)
    other = signed(committed, sum_sha256="1" * 64)
    assert challenge(other, shown) != challenge(committed[2], shown)


def test_the_challenge_is_the_hash_that_the_docstring_says(committed):
    commitment, shown = committed[2], endorsed(committed)
    parts = [digest(commitment), *map(digest, shown)]
    written = b"bithive challenge\n" + b"".join(map(bytes.fromhex, parts))
    assert challenge(commitment, shown) == hashlib.sha256(written).digest()
