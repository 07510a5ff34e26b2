"""Two sums that differ by one hospital show its update; here a round opens once, or not at all."""

import shutil

import numpy as np
import pytest

from fl_client.store import SiteStore
from privacy.sharing import QuorumMissing
from protocol.canonical import body, digest
from protocol.frames import decode, encode
from protocol.summation import Endorsement
from tests.fl_server.cohort import NOTHING, Begun, Cohort, Hospital, values_of
from tests.privacy.attacks.reference import opened

pytestmark = pytest.mark.slow

SITES = 5  # a quorum is 4


def test_in_the_reference_two_aggregates_of_a_round_differ_by_one_update(
    reference, updates, uploads
):
    everybody = opened(reference.client, reference.aggregate(uploads))
    without = opened(reference.client, reference.aggregate(uploads[1:]))
    assert np.allclose(everybody - without, updates[0], atol=1e-6)


@pytest.fixture
def cohort(tmp_path):
    return Cohort.meet(SITES, folder=tmp_path)


@pytest.fixture
def begun(cohort):
    """A round in which every site has uploaded."""
    return cohort.upload(cohort.begin())


def without(begun, site):
    """Tell the round again as if this site's upload had never come."""
    begun.uploads.pop(site)
    return begun


def restarted(cohort, folder):
    """Start every hospital anew on its file, with nothing in memory."""
    for site, hospital in cohort.hospitals.items():
        store = SiteStore(folder / f"{site}.db")
        cohort.hospitals[site] = Hospital(site, cohort.terms, hospital.keys, store, hospital.path)


def answers(cohort, kind):
    """Return what the hospitals answered to one kind of request, frame by frame."""
    return [reply for asked, _, reply in cohort.transport.answered if asked == kind]


def test_hospitals_that_forget_what_they_endorsed_would_show_an_update(cohort, begun, tmp_path):
    """Restored from a copy made before the opening, they open the other sum as well."""
    victim = cohort.sites[2]
    copies = tmp_path / "copies"
    copies.mkdir()
    forget(cohort, tmp_path, copies)
    everybody = cohort.open(begun).integers
    forget(cohort, copies, tmp_path)
    restarted(cohort, tmp_path)
    rest = cohort.open(without(begun, victim)).integers
    assert np.array_equal(everybody - rest, values_of(victim, 1))


def forget(cohort, source, target):
    """Copy every hospital's file, and what its database has not yet moved into it."""
    for site in cohort.sites:
        for suffix in ("", "-wal", "-shm"):
            (target / f"{site}.db{suffix}").unlink(missing_ok=True)
            if (source / f"{site}.db{suffix}").exists():
                shutil.copy(source / f"{site}.db{suffix}", target / f"{site}.db{suffix}")


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_a_second_set_of_uploads_of_a_round_is_not_endorsed(cohort, begun, restart, tmp_path):
    cohort.open(begun)
    if restart:
        restarted(cohort, tmp_path)
    unmasked = len(answers(cohort, "unmask"))
    cohort.transport.answered.clear()
    with pytest.raises(QuorumMissing):
        cohort.open(without(begun, cohort.sites[2]))
    assert {read_code(reply) for reply in answers(cohort, "endorse")} == {"sum-already-endorsed"}
    assert unmasked == SITES
    assert not answers(cohort, "unmask")


def read_code(reply):
    return decode(reply).body["code"]


def test_the_same_set_opens_to_the_same_sum_as_often_as_it_is_asked_for(cohort, begun, tmp_path):
    """A crash of the server costs nothing, and a repetition shows nothing new."""
    first = cohort.open(begun).integers
    restarted(cohort, tmp_path)
    assert np.array_equal(cohort.open(begun).integers, first)


def test_two_sets_shown_to_two_groups_get_a_quorum_in_neither(cohort, begun):
    """Each site stands by what it saw first, and 4 of 5 cannot be had twice."""
    victim = cohort.sites[2]
    told_one = set(cohort.sites[:3])
    cohort.transport.lost = lambda _kind, site: site not in told_one
    with pytest.raises(QuorumMissing):
        cohort.open(begun)
    cohort.transport.lost = lambda _kind, _site: False
    with pytest.raises(QuorumMissing) as missing:
        cohort.open(without(begun, victim))
    assert missing.value.found == SITES - len(told_one)
    assert not answers(cohort, "unmask")


def test_a_hospital_unmasks_nothing_for_a_set_it_did_not_endorse(cohort, begun):
    """Though all the others collude and sign the other set: its word for one set is its own."""
    honest, *colluders = cohort.sites
    cohort.open(begun)
    uploads = without(begun, colluders[0]).uploads
    total = cohort.sum._add(begun.plan, uploads)
    other = cohort.sum._commit(begun.plan, uploads, total)
    endorsements = [
        Endorsement(commitment=digest(other), site=site, nonce=NOTHING).signed_by(
            cohort.hospitals[site].keys.sign
        )
        for site in colluders
    ]
    shown = {"commitment": body(other), "endorsements": [body(one) for one in endorsements]}
    reply = decode(cohort.hospitals[honest].answer(encode("unmask", shown)))
    assert (reply.kind, reply.body["code"]) == ("refused", "summation-refused")


def test_a_hospital_unmasks_nothing_before_a_quorum_stands_by_the_set(cohort, begun):
    """Its own endorsement is one of four; a server cannot stand in for the rest."""
    cohort.open(begun)
    asked = cohort.transport.frame("unmask", cohort.sites[0])
    shown = {**asked.body, "endorsements": asked.body["endorsements"][:3]}
    reply = decode(cohort.hospitals[cohort.sites[0]].answer(encode("unmask", shown)))
    assert (reply.kind, reply.body["code"]) == ("refused", "quorum-missing")


def test_a_second_plan_of_a_round_for_fewer_sites_is_refused(cohort, begun):
    """It would give the same updates under masks that cancel for another set."""
    called, roster = begun.called, cohort.sites[:4]
    plan = cohort.plan(called, begun.plan.key_id, roster)
    again = Begun(called, plan)
    for site in roster:
        reply = cohort.hospitals[site].answer(cohort.train_frame(again, site))
        assert read_code(reply) == "round-already-answered"


def test_a_second_call_of_a_round_makes_no_new_secrets_once_it_is_planned(cohort, begun):
    cohort.transport.answered.clear()
    assert not cohort.sum.call(1, begun.plan.previous, cohort.sites[:4]).keys
    assert {read_code(reply) for reply in answers(cohort, "call")} == {"round-already-answered"}


def test_a_set_that_names_a_site_outside_the_roster_is_not_endorsed(cohort):
    """Shares of its secrets were dealt to all who were called, and could be asked for twice."""
    called = cohort.sum.call(1, NOTHING, cohort.sites)
    key_id, _ = cohort.keeper.ensure(1, list(cohort.sites))
    outsider, *roster = cohort.sites
    begun = cohort.upload(Begun(called, cohort.plan(called, key_id, roster)))
    assert set(begun.uploads) == set(roster)
    forged, blob = begun.uploads[roster[0]]
    receipt = forged.receipt.model_copy(update={"site": outsider})
    receipt = receipt.model_copy(
        update={"site_signature": cohort.hospitals[outsider].keys.sign(receipt.site_bytes())}
    )
    begun.uploads[outsider] = forged.model_copy(update={"receipt": receipt}), blob
    begun.uploads = dict(sorted(begun.uploads.items()))
    with pytest.raises(QuorumMissing):
        cohort.open(begun)
    codes = {read_code(reply) for reply in answers(cohort, "endorse")}
    assert "commitment-refused" in codes
    assert not answers(cohort, "unmask")
