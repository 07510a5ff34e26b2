"""A hospital masks for one call, endorses one sum, reveals to that sum only, and opens no other."""

import hashlib
import logging

import numpy as np
import pytest

from fl_client.group_keys import GroupKeys
from fl_client.summation import _reveal_context
from privacy.bfv import EncryptedSum
from privacy.keys import KeyUnwrapFailed, SiteKeys, unwrap
from privacy.round_secrets import Reveal, RoundSecrets
from protocol.canonical import body, digest, read
from protocol.frames import Frame, decode, encode, join_parts, split_parts
from protocol.messages import Contribution, RoundPlan
from protocol.summation import Commitment, Endorsement, Partial, Unmasking
from tests.fl_server.cohort import NOTHING, Begun, Cohort, values_of
from tests.fl_server.test_summation import sealed_noise

pytestmark = pytest.mark.slow


def met(n=4, **options):
    cohort = Cohort.meet(n, **options)
    return cohort, cohort.begin()


def uploaded(n=4, uploading=None, **options):
    cohort, begun = met(n, **options)
    return cohort, cohort.upload(begun, uploading)


def stopped(kind, n=4, uploading=None, **options):
    """Return a cohort whose server is about to send requests of a kind, and the round."""
    cohort, begun = uploaded(n, uploading, **options)
    cohort.stop_at(kind, begun)
    return cohort, begun


def refused(cohort, site, frame, code, why=""):
    """See that a site refuses a frame with this code, for this reason."""
    reply = cohort.ask(site, frame)
    assert (reply.kind, reply.body.get("code")) == ("refused", code), reply.body
    assert why in reply.body["reason"]


def changed(frame, blobs=None, **fields):
    """Return a frame with other fields or blobs."""
    return Frame(frame.kind, {**frame.body, **fields}, {**frame.blobs, **(blobs or {})})


@pytest.fixture
def first():
    return "site-00"


# The call


def call_of(cohort, sites=None, **changes):
    """Return a call that the server signed, as a frame."""
    call = cohort.sum.call(1, NOTHING, cohort.sites).call
    changes |= {} if sites is None else {"sites": tuple(sites)}
    return Frame("call", body(cohort.signed(call.model_copy(update=changes))))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"terms": NOTHING}, "other terms"),
        ({"study": "study-other"}, "other terms"),
        ({"round": 1001}, "1000 rounds"),
        ({"sites": ("site-01", "site-02", "site-03")}, "without this hospital"),
        ({"sites": ("site-00", "site-01", "stranger")}, "not registered"),
    ],
)
def test_a_call_that_is_not_of_the_approved_study_is_refused(first, changes, why):
    cohort = Cohort.meet(4)
    refused(cohort, first, call_of(cohort, **changes), "summation-refused", why)


def test_a_call_of_fewer_sites_than_the_study_needs_is_refused(first):
    cohort = Cohort.meet(4, sites_min=4)
    few = call_of(cohort, cohort.sites[:3])
    refused(cohort, first, few, "summation-refused", "too few")


def test_a_call_that_the_server_did_not_sign_is_refused(first):
    cohort = Cohort.meet(4)
    forged = changed(call_of(cohort), round=2)
    refused(cohort, first, forged, "bad-signature")
    refused(cohort, first, changed(forged, signature=""), "bad-signature")


def test_the_same_call_gets_the_same_bytes_also_after_a_restart(first, tmp_path):
    cohort = Cohort.meet(4, folder=tmp_path)
    call = call_of(cohort)
    reply = cohort.ask(first, call)
    assert reply.kind == "round-key"
    assert cohort.ask(first, call) == reply
    cohort.hospitals[first].restart()
    assert cohort.ask(first, call) == reply


def test_every_call_gets_secrets_of_its_own(first):
    cohort = Cohort.meet(4)
    answers = [
        cohort.ask(first, call_of(cohort, **changes))
        for changes in ({}, {"round": 2}, {"previous": "1" * 64}, {"sites": cohort.sites[:3]})
    ]
    for secret in ("public_key", "seed_sha256"):
        assert len({reply.body[secret] for reply in answers}) == len(answers)


def test_another_call_for_a_round_that_is_planned_is_refused(first):
    cohort, _ = uploaded()
    again = call_of(cohort, previous="1" * 64)
    refused(cohort, first, again, "round-already-answered")


# The plan's roster


def with_plan(cohort, begun, plan):
    """Return the request to train for another plan than the round's."""
    shown = Begun(begun.called, plan)
    return Frame(
        "train",
        {"plan": body(plan)},
        {"shares": begun.called.plan_envelopes(shown.plan.sites)["site-00"]},
    )


def test_a_roster_without_this_hospitals_key_is_refused(first):
    cohort, begun = met()
    roster = begun.plan.roster[1:]
    plan = cohort.signed(begun.plan.model_copy(update={"roster": roster}))
    envelopes = join_parts([b""] * 3)
    frame = Frame("train", {"plan": body(plan)}, {"shares": envelopes})
    refused(cohort, first, frame, "summation-refused", "without this hospital's round key")


def test_a_roster_with_a_key_that_its_site_did_not_sign_is_refused(first):
    cohort, begun = met()
    theirs = RoundSecrets.generate().public
    update = {"public_key": theirs.public_key, "seed_sha256": theirs.seed_sha256}
    foreign = begun.plan.roster[1].model_copy(update=update)
    roster = (begun.plan.roster[0], foreign, *begun.plan.roster[2:])
    plan = cohort.signed(begun.plan.model_copy(update={"roster": roster}))
    refused(cohort, first, with_plan(cohort, begun, plan), "bad-signature")
    stranger = foreign.signed_by(SiteKeys.generate().sign)
    roster = (begun.plan.roster[0], stranger, *begun.plan.roster[2:])
    plan = cohort.signed(begun.plan.model_copy(update={"roster": roster}))
    refused(cohort, first, with_plan(cohort, begun, plan), "bad-signature")


def test_a_roster_with_other_secrets_in_this_hospitals_name_is_refused(first):
    cohort, begun = met()
    theirs = RoundSecrets.generate().public
    own = begun.plan.roster[0].model_copy(update={"public_key": theirs.public_key})
    own = own.signed_by(cohort.hospitals[first].keys.sign)
    plan = cohort.signed(begun.plan.model_copy(update={"roster": (own, *begun.plan.roster[1:])}))
    frame = with_plan(cohort, begun, plan)
    refused(cohort, first, frame, "summation-refused", "without this hospital's round key")


def test_a_roster_that_is_too_small_is_refused(first):
    cohort, begun = met(6)
    plan = cohort.signed(begun.plan.model_copy(update={"roster": begun.plan.roster[:4]}))
    refused(cohort, first, with_plan(cohort, begun, plan), "summation-refused", "4 sites")


def test_a_roster_with_a_key_of_another_call_is_refused(first):
    cohort, begun = met()
    other = cohort.sum.call(1, "1" * 64, cohort.sites).keys["site-01"]
    roster = (begun.plan.roster[0], other, *begun.plan.roster[2:])
    plan = cohort.signed(begun.plan.model_copy(update={"roster": roster}))
    frame = with_plan(cohort, begun, plan)
    refused(cohort, first, frame, "summation-refused", "site-01 is for another call")


@pytest.mark.parametrize(("call_sites", "previous"), [(4, "1" * 64), (3, NOTHING)])
def test_a_roster_or_history_that_is_not_of_the_call_is_refused(first, call_sites, previous):
    cohort = Cohort.meet(4)
    called = cohort.sum.call(1, NOTHING, cohort.sites[:call_sites])
    fourth = cohort.sum.call(1, NOTHING, cohort.sites).keys["site-03"]
    called.keys.setdefault("site-03", fourth)
    plan = cohort.plan(called, "0" * 16, cohort.sites, previous=previous)
    frame = Frame("train", {"plan": body(plan)}, {"shares": join_parts([b""] * 3)})
    refused(cohort, first, frame, "summation-refused", "not that of the call")


def test_a_plan_for_a_call_that_was_not_answered_is_refused(first):
    cohort, begun = met()
    plan = cohort.signed(begun.plan.model_copy(update={"call": "1" * 64}))
    refused(cohort, first, with_plan(cohort, begun, plan), "summation-refused", "did not answer")
    with pytest.raises(Exception, match="did not answer"):
        cohort.hospitals[first].masking.pad(plan)


def test_a_second_plan_of_a_round_is_refused(first):
    cohort, begun = uploaded()
    plan = cohort.signed(begun.plan.model_copy(update={"steps": (2.0,)}))
    refused(cohort, first, with_plan(cohort, begun, plan), "round-already-answered")


@pytest.mark.parametrize("shares", [b"", join_parts([b""] * 2), join_parts([b""] * 4)])
def test_a_plan_without_an_envelope_from_each_other_site_is_refused(first, shares):
    cohort, begun = met()
    frame = with_plan(cohort, begun, begun.plan)
    refused(cohort, first, changed(frame, {"shares": shares}), "malformed-frame")
    assert cohort.hospitals[first].store.plan(cohort.terms.study, 1) is None


def test_shares_that_are_not_those_their_dealer_signed_are_refused(first):
    cohort, begun = met(4)
    frame = with_plan(cohort, begun, begun.plan)
    shares = split_parts(frame.blobs["shares"], 3)
    other = changed(frame, {"shares": join_parts([bytes(len(shares[0])), *shares[1:]])})
    refused(cohort, first, other, "summation-refused")


def test_shares_that_do_not_open_are_noted_and_done_without(first, caplog):
    cohort = Cohort.meet(4)
    sealed_noise(cohort, "site-01")
    begun = cohort.begin()
    with caplog.at_level(logging.WARNING):
        frame = with_plan(cohort, begun, begun.plan)
        assert cohort.ask(first, frame).kind == "contribution"
    assert "the shares of site-01 cannot be used: key-unwrap-failed" in caplog.text
    cohort.upload(begun)
    assert np.array_equal(cohort.open(begun).integers, cohort.total(1, cohort.sites)[0])


# One commitment a round


def commitment_of(cohort, site):
    return read(Commitment, cohort.transport.frame("endorse", site).body)


def endorse(cohort, commitment):
    return Frame("endorse", body(cohort.signed(commitment)))


def fewer(cohort, begun):
    """Return another sound commitment of the round: one upload less."""
    uploads = {site: begun.uploads[site] for site in list(begun.uploads)[:-1]}
    return cohort.sum._commit(begun.plan, uploads, cohort.sum._add(begun.plan, uploads))


def test_a_second_commitment_is_refused_also_after_a_restart(first, tmp_path):
    cohort, begun = stopped("unmask", folder=tmp_path)
    commitment = commitment_of(cohort, first)
    other = endorse(cohort, fewer(cohort, begun))
    refused(cohort, first, other, "sum-already-endorsed")
    cohort.hospitals[first].restart()
    refused(cohort, first, other, "sum-already-endorsed")
    assert cohort.ask(first, endorse(cohort, commitment)).kind == "endorsement"


def test_the_same_commitment_gets_the_same_endorsement_also_after_a_restart(first, tmp_path):
    cohort, _ = stopped("endorse", folder=tmp_path)
    frame = cohort.transport.frame("endorse", first)
    reply = cohort.ask(first, frame)
    cohort.hospitals[first].restart()
    assert cohort.ask(first, frame) == reply
    others = [cohort.ask(site, frame).body["nonce"] for site in cohort.sites[1:]]
    assert len({reply.body["nonce"], *others}) == 4


@pytest.mark.parametrize("first_half", [1, 3, 5])
def test_of_two_commitments_shown_to_two_halves_at_most_one_unmasks_anything(first_half):
    cohort, begun = stopped("endorse", 6)
    one = commitment_of(cohort, "site-00")
    other = fewer(cohort, begun)
    shown = dict.fromkeys(cohort.sites[:first_half], one)
    shown |= dict.fromkeys(cohort.sites[first_half:], other)
    endorsements = {one.sum_sha256: [], other.sum_sha256: []}
    for site, commitment in shown.items():
        reply = cohort.ask(site, endorse(cohort, commitment))
        endorsements[commitment.sum_sha256].append(reply.body)
        swapped = one if commitment is other else other
        refused(cohort, site, endorse(cohort, swapped), "sum-already-endorsed")
    unmasked = set()
    for site, commitment in shown.items():
        facts = {
            "commitment": body(commitment),
            "endorsements": endorsements[commitment.sum_sha256],
        }
        if cohort.ask(site, Frame("unmask", facts)).kind == "unmasking":
            unmasked.add(commitment.sum_sha256)
    quorate = {name for name, found in endorsements.items() if len(found) >= 5}
    assert unmasked == quorate
    assert len(unmasked) <= 1


def test_a_commitment_that_the_server_did_not_sign_is_refused(first):
    cohort, _ = stopped("endorse")
    frame = cohort.transport.frame("endorse", first)
    refused(cohort, first, changed(frame, signature="00" * 64), "bad-signature")


def test_a_commitment_for_a_round_without_a_plan_here_is_refused(first):
    cohort, _ = stopped("endorse")
    later = commitment_of(cohort, first).model_copy(update={"round": 2})
    refused(cohort, first, endorse(cohort, later), "summation-refused", "does not hold")


def own_receipt(cohort, begun, site, **changes):
    """Return a commitment with another receipt of a site, which it did sign."""
    contribution, _ = begun.uploads[site]
    receipt = contribution.receipt.model_copy(update=changes)
    signature = cohort.hospitals[site].keys.sign(receipt.site_bytes())
    receipt = receipt.model_copy(update={"site_signature": signature})
    uploads = dict(begun.uploads)
    uploads[site] = (contribution.model_copy(update={"receipt": receipt}), begun.uploads[site][1])
    total = cohort.sum._add(begun.plan, begun.uploads)
    return cohort.sum._commit(begun.plan, uploads, total)


@pytest.mark.parametrize(
    "changes",
    [{"ciphertext_sha256": NOTHING}, {"proven_patients": 7}, {"server_signature": b"\0"}],
)
def test_a_receipt_in_this_hospitals_name_that_is_not_its_own_is_refused(first, changes):
    cohort, begun = stopped("endorse")
    commitment = own_receipt(cohort, begun, first, **changes)
    refused(cohort, first, endorse(cohort, commitment), "summation-refused", "did not send")


def test_an_upload_of_a_hospital_that_sent_none_is_refused(first):
    cohort, begun = met()
    idle = cohort.hospitals[first]
    plan = begun.plan
    sent = idle.contribution(plan, values_of(first, 1), 9)
    cohort.upload(begun, cohort.sites[1:])
    silent = cohort.hospitals[first].store
    assert silent.plan(cohort.terms.study, 1) is not None
    contribution = read(Contribution, decode(sent).body)
    begun.uploads = {first: (contribution, decode(sent).blobs["update"]), **begun.uploads}
    commitment = cohort.sum._commit(plan, begun.uploads, cohort.sum._add(plan, begun.uploads))
    refused(cohort, first, endorse(cohort, commitment), "summation-refused", "did not send")


# Nothing is revealed without a quorum, nor to others


def test_nothing_is_revealed_below_a_quorum_of_endorsements(first):
    cohort, _ = stopped("unmask", 6)
    frame = cohort.transport.frame("unmask", first)
    for kept in range(5):
        few = changed(frame, endorsements=frame.body["endorsements"][:kept])
        refused(cohort, first, few, "quorum-missing")
    assert cohort.ask(first, changed(frame, endorsements=frame.body["endorsements"][:5])).kind == (
        "unmasking"
    )


def test_endorsements_are_counted_once_and_for_this_commitment_only(first):
    cohort, _ = stopped("unmask", 6)
    frame = cohort.transport.frame("unmask", first)
    shown = frame.body["endorsements"]
    doubled = changed(frame, endorsements=sorted(shown[:4] * 2, key=lambda one: one["site"]))
    refused(cohort, first, doubled, "commitment-refused", "once each")
    other = read(Endorsement, shown[5]).model_copy(update={"commitment": NOTHING})
    other = other.signed_by(cohort.hospitals["site-05"].keys.sign)
    mixed = changed(frame, endorsements=[*shown[:5], body(other)])
    refused(cohort, first, mixed, "commitment-refused", "another commitment")
    forged = changed(frame, endorsements=[*shown[:5], {**shown[5], "signature": "00" * 64}])
    refused(cohort, first, forged, "bad-signature")


def test_a_commitment_that_this_hospital_did_not_endorse_unmasks_nothing(first):
    cohort, begun = stopped("unmask")
    frame = cohort.transport.frame("unmask", first)
    other = fewer(cohort, begun)
    endorsed_elsewhere = [
        Endorsement(commitment=digest(other), site=site, nonce=NOTHING).signed_by(
            cohort.hospitals[site].keys.sign
        )
        for site in cohort.sites
    ]
    shown = changed(
        frame, commitment=body(other), endorsements=[body(one) for one in endorsed_elsewhere]
    )
    refused(cohort, first, shown, "summation-refused", "did not endorse")


def test_a_hospital_that_has_endorsed_nothing_unmasks_nothing():
    cohort, begun = uploaded(6)
    late = "site-05"
    cohort.transport.lost = lambda kind, site: (kind, site) == ("endorse", late)
    cohort.stop_at("unmask", begun)
    frame = cohort.transport.frame("unmask", late)
    refused(cohort, late, frame, "summation-refused", "did not endorse")


def revealed(cohort, revealer, opener):
    """Return what a site revealed to an opener, as that opener reads it."""
    frame = cohort.transport.frame("unmask", revealer)
    commitment = read(Commitment, frame.body["commitment"])
    openers = [site for site in commitment.sites if site != revealer]
    sealed = split_parts(cohort.ask(revealer, frame).blobs["reveals"], len(openers))
    return sealed[openers.index(opener)], _reveal_context(digest(commitment), revealer, opener)


def test_a_reveal_opens_for_its_opener_alone_and_never_shows_both_secrets_of_a_site(first):
    cohort, begun = stopped("unmask", 5, ("site-00", "site-01", "site-02", "site-03"))
    sealed, context = revealed(cohort, first, "site-02")
    sender = cohort.hospitals[first].keys.agreement_public
    shown = Reveal.from_bytes(
        unwrap(sealed, sender, cohort.hospitals["site-02"].keys.agreement, context=context)
    )
    assert set(shown.self_shares) == set(begun.uploads)
    assert set(shown.round_shares) == {"site-04"}
    assert shown.self_seed is not None
    for other in ("site-01", "site-04"):
        with pytest.raises(KeyUnwrapFailed):
            unwrap(sealed, sender, cohort.hospitals[other].keys.agreement, context=context)


def test_a_site_outside_the_sum_reveals_no_seed_of_its_own_and_gives_no_tag():
    cohort, _ = stopped("unmask", 5, ("site-00", "site-01", "site-02", "site-03"))
    outside = "site-04"
    reply = cohort.ask(outside, cohort.transport.frame("unmask", outside))
    assert reply.body["tag"] == []
    sealed, context = revealed(cohort, outside, "site-00")
    shown = Reveal.from_bytes(
        unwrap(
            sealed,
            cohort.hospitals[outside].keys.agreement_public,
            cohort.hospitals["site-00"].keys.agreement,
            context=context,
        )
    )
    assert shown.self_seed is None


def test_nothing_is_sealed_to_a_site_outside_the_sum():
    cohort, begun = stopped("unmask", 5, ("site-00", "site-01", "site-02", "site-03"))
    reply = cohort.ask("site-04", cohort.transport.frame("unmask", "site-04"))
    assert len(split_parts(reply.blobs["reveals"], 4)) == len(begun.uploads)
    reply = cohort.ask("site-00", cohort.transport.frame("unmask", "site-00"))
    assert len(split_parts(reply.blobs["reveals"], 3)) == len(begun.uploads) - 1


# What is opened


def test_a_sum_that_is_not_the_committed_one_is_not_opened(first):
    cohort, _ = stopped("open")
    frame = cohort.transport.frame("open", first)
    other = bytearray(frame.blobs["sum"])
    other[-1] ^= 1
    altered = changed(frame, {"sum": bytes(other)})
    refused(cohort, first, altered, "summation-refused", "not the one that was committed to")
    refused(cohort, first, changed(frame, {"sum": b""}), "summation-refused", "committed to")


def untouched(monkeypatch):
    """Fail the test if anything is decrypted."""

    def never(_self, key_id):
        raise AssertionError(key_id)

    monkeypatch.setattr(GroupKeys, "cipher", never)


def altered_sum(cohort, change):
    """Have the server commit to another sum than that of the uploads."""
    honest = cohort.sum._add

    def add(plan, uploads):
        total = honest(plan, uploads)
        return EncryptedSum(
            change(honest, plan, uploads, total),
            total.key_id,
            total.parameters,
            total.length,
            total.sites,
        )

    cohort.sum._add = add


def word_changed(_honest, _plan, _uploads, total):
    blob = bytearray(total.blob)
    blob[-8] ^= 1
    return bytes(blob)


def one_doubled(honest, plan, uploads, _total):
    """The first upload in the place of the last."""
    first, *rest = uploads
    return honest(plan, {**uploads, rest[-1]: uploads[first]}).blob


@pytest.mark.parametrize("change", [word_changed, one_doubled])
@pytest.mark.parametrize("opening", ["members", "threshold"])
def test_a_sum_that_is_not_that_of_the_uploads_is_not_decrypted(opening, change, monkeypatch):
    cohort, begun = uploaded(opening=opening)
    altered_sum(cohort, change)
    last = "open" if opening == "members" else "share"
    cohort.stop_at(last, begun)
    untouched(monkeypatch)
    for site in cohort.sites[:3]:  # a quorum
        frame = cohort.transport.frame(last, site)
        refused(cohort, site, frame, "sum-altered", "do not add up")


def test_a_sum_that_is_no_sum_is_not_opened():
    cohort, begun = uploaded()
    altered_sum(cohort, lambda _honest, _plan, _uploads, total: total.blob[:-1])
    cohort.sum._find_faults = lambda *_all: ()  # the server itself would stumble over it
    cohort.stop_at("open", begun)
    for site in cohort.sites:
        refused(cohort, site, cohort.transport.frame("open", site), "ciphertext-malformed")


def retagged(cohort, frame, liar, *, sign=True, **changes):
    """Return a request to open in which one site's tag says something else."""
    shown = []
    for one in frame.body["unmaskings"]:
        unmasking = read(Unmasking, one)
        if unmasking.site == liar:
            unmasking = unmasking.model_copy(update=changes)
            if sign:
                unmasking = unmasking.signed_by(cohort.hospitals[liar].keys.sign)
        shown.append(body(unmasking))
    return changed(frame, unmaskings=shown)


def test_a_tag_that_its_site_did_not_sign_is_refused(first):
    cohort, _ = stopped("open")
    frame = cohort.transport.frame("open", first)
    forged = retagged(cohort, frame, "site-01", sign=False, tag=("1",))
    refused(cohort, first, forged, "bad-signature")


@pytest.mark.parametrize("tag", [("1",), ("1", "2"), ("9" * 19,)])
def test_a_false_tag_opens_nothing(first, tag, monkeypatch):
    cohort, _ = stopped("open")
    untouched(monkeypatch)
    frame = retagged(cohort, cohort.transport.frame("open", first), "site-01", tag=tag)
    refused(cohort, first, frame, "sum-altered")


@pytest.mark.parametrize("changes", [{"challenge": NOTHING}, {"commitment": NOTHING}])
def test_a_tag_of_another_challenge_opens_nothing(first, changes):
    cohort, _ = stopped("open")
    frame = retagged(cohort, cohort.transport.frame("open", first), "site-01", **changes)
    refused(cohort, first, frame, "summation-refused", "another challenge")


def test_endorsements_other_than_those_the_tags_were_given_for_open_nothing(first):
    cohort, _ = stopped("open", 6)
    frame = cohort.transport.frame("open", first)
    fewer_endorse = changed(frame, endorsements=frame.body["endorsements"][1:])
    refused(cohort, first, fewer_endorse, "summation-refused", "another challenge")


def test_a_tag_given_twice_opens_nothing(first):
    cohort, _ = stopped("open")
    frame = cohort.transport.frame("open", first)
    shown = frame.body["unmaskings"]
    refused(cohort, first, changed(frame, unmaskings=[*shown, shown[0]]), "summation-refused")


def test_an_upload_that_its_site_did_not_sign_does_not_stand_for_its_tag(first):
    cohort, begun = stopped("open")
    frame = cohort.transport.frame("open", first)
    kept = [one for one in frame.body["unmaskings"] if one["site"] != "site-01"]
    reveals = split_parts(frame.blobs["reveals"], 3)[1:]
    for upload in (begun.uploads["site-02"][1], b""):
        blobs = {"uploads": join_parts([upload]), "reveals": join_parts(reveals)}
        shown = changed(frame, blobs, unmaskings=kept)
        refused(cohort, first, shown, "summation-refused", "upload of site-01 is not the one")
    blobs = {"uploads": b"", "reveals": join_parts(reveals)}
    refused(cohort, first, changed(frame, blobs, unmaskings=kept), "malformed-frame")
    blobs |= {"uploads": join_parts([begun.uploads["site-01"][1]])}
    assert cohort.ask(first, changed(frame, blobs, unmaskings=kept)).kind == "opening"


def test_a_site_outside_the_sum_does_not_open_it():
    cohort, _ = stopped("open", 5, ("site-00", "site-01", "site-02", "site-03"))
    frame = cohort.transport.frame("open", "site-00")
    refused(cohort, "site-04", frame, "summation-refused", "only sites whose updates")


def test_reveals_of_fewer_than_a_quorum_open_nothing(first):
    cohort, _ = stopped("open")
    frame = cohort.transport.frame("open", first)
    noise = changed(frame, {"reveals": join_parts([bytes(100)] * 3)})
    refused(cohort, first, noise, "quorum-missing")
    refused(cohort, first, changed(frame, {"reveals": b""}), "malformed-frame")


def test_reveals_sealed_for_another_opener_or_swapped_are_not_used(first):
    cohort, _ = stopped("open")
    frame = cohort.transport.frame("open", first)
    swapped = split_parts(frame.blobs["reveals"], 3)[::-1]
    refused(cohort, first, changed(frame, {"reveals": join_parts(swapped)}), "quorum-missing")
    theirs = cohort.transport.frame("open", "site-01").blobs["reveals"]
    refused(cohort, first, changed(frame, {"reveals": theirs}), "quorum-missing")


def test_one_false_reveal_beside_a_quorum_of_true_ones_is_done_without(first, caplog):
    cohort, _ = stopped("open")
    frame = cohort.transport.frame("open", first)
    parts = split_parts(frame.blobs["reveals"], 3)
    one = changed(frame, {"reveals": join_parts([bytes(100), *parts[1:]])})
    with caplog.at_level(logging.WARNING):
        assert cohort.ask(first, one).kind == "opening"
    assert "what site-01 revealed cannot be used" in caplog.text


def test_a_sum_that_weighs_otherwise_than_its_receipts_is_not_signed(first):
    cohort, begun = met()
    liar = cohort.hospitals["site-01"]

    def contribution(plan, values, weight, honest=liar.contribution):
        frame = decode(honest(plan, values, weight))
        receipt = read(Contribution, frame.body).receipt
        receipt = receipt.model_copy(update={"proven_patients": weight + 1})
        signature = liar.keys.sign(receipt.site_bytes())
        receipt = receipt.model_copy(update={"site_signature": signature})
        return encode(frame.kind, {**frame.body, "receipt": body(receipt)}, frame.blobs)

    liar.contribution = contribution
    cohort.upload(begun)
    cohort.stop_at("open", begun)
    frame = cohort.transport.frame("open", first)
    refused(cohort, first, frame, "summation-refused", "another weight")
    assert cohort.hospitals[first].store.endorsed(cohort.terms.study, 1)[1] is None


def test_what_was_opened_is_remembered_and_opened_again_alike(first):
    cohort, begun = uploaded()
    opened = cohort.open(begun)
    frame = cohort.transport.frame("open", first)
    reply = cohort.ask(first, frame)
    assert reply.body["integers_sha256"] == opened.integers_sha256
    kept = cohort.hospitals[first].store.endorsed(cohort.terms.study, 1)
    assert kept == (digest(opened.commitment), opened.integers_sha256)


def test_integers_are_sent_only_where_they_are_asked_for(first):
    cohort, _ = stopped("open")
    frame = cohort.transport.frame("open", first)
    total = cohort.total(1, cohort.sites)[0]
    for narrow, width in ((True, "<i2"), (False, "<i8"), (None, "<i8")):
        integers = cohort.ask(first, changed(frame, narrow=narrow)).blobs["integers"]
        assert np.array_equal(np.frombuffer(integers, width), total)
    for ask in (False, None, 1, "yes"):
        assert cohort.ask(first, changed(frame, send_integers=ask)).blobs == {}


@pytest.mark.parametrize("name", ["endorsements", "unmaskings"])
@pytest.mark.parametrize("value", [None, {}, "all"])
def test_a_list_that_is_none_is_refused(first, name, value):
    cohort, _ = stopped("open")
    frame = changed(cohort.transport.frame("open", first), **{name: value})
    refused(cohort, first, frame, "summation-refused", "not a list")


# Opening by quorum


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (None, "not a list"),
        ([], "not of the round"),
        ([["site-00"]], "not of the round"),
        (["site-00", 1, "site-02"], "not of the round"),
        (["site-01", "site-02", "site-03"], "not of the round"),
        (["site-00", "site-01", "stranger"], "not of the round"),
        (["site-02", "site-01", "site-00"], "sorted"),
        (["site-00", "site-00", "site-01"], "once each"),
        (["site-00", "site-01"], "too small"),
    ],
)
def test_a_quorum_that_is_none_of_the_round_gets_no_share(first, asked, why):
    cohort, _ = stopped("share", opening="threshold")
    frame = changed(cohort.transport.frame("share", first), quorum=asked)
    refused(cohort, first, frame, "summation-refused", why)
    del frame.body["quorum"]
    refused(cohort, first, frame, "summation-refused", "not of the round")


def test_a_quorum_with_a_site_that_does_not_hold_the_key_gets_no_share():
    cohort = Cohort.meet(4, opening="threshold")
    cohort.transport.lost = lambda kind, site: (kind, site) == ("commit-key", "site-00")
    called = cohort.sum.call(1, NOTHING, cohort.sites)
    key_id, holding = cohort.keeper.ensure(1, cohort.sites)
    assert holding == set(cohort.sites[1:])
    begun = Begun(called, cohort.plan(called, key_id, cohort.sites))
    cohort.upload(begun)
    assert set(begun.uploads) == holding
    cohort.stop_at("share", begun)
    frame = cohort.transport.frame("share", "site-01")
    refused(cohort, "site-01", frame, "summation-refused", "does not hold the key")


ANOTHER_PART = {"share_sha256": hashlib.sha256(b"x").hexdigest(), "part": b"x"}


def shares_of(cohort, frame):
    partials = [read(Partial, one) for one in frame.body["partials"]]
    return partials, split_parts(frame.blobs["partials"], len(partials))


def repartialled(cohort, frame, place, part=None, *, sign=True, **changes):
    """Return a request to open in which one share of the decryption is another."""
    partials, parts = shares_of(cohort, frame)
    one = partials[place].model_copy(update=changes)
    if sign:
        one = one.signed_by(cohort.hospitals[one.site].keys.sign)
    partials[place] = one
    parts[place] = parts[place] if part is None else part
    return changed(frame, {"partials": join_parts(parts)}, partials=[body(one) for one in partials])


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        ({"commitment": NOTHING}, "summation-refused", "another sum or quorum"),
        ({"quorum": ("site-01", "site-02", "site-03")}, "summation-refused", "another sum"),
        ({"part": b"another"}, "summation-refused", "not the one it signed"),
        ({**ANOTHER_PART, "sign": False}, "bad-signature", ""),
        (ANOTHER_PART, "decryption-share-malformed", ""),
        ({"site": "site-03"}, "summation-refused", "another sum or quorum"),
    ],
)
def test_a_share_of_the_decryption_that_is_not_its_sites_opens_nothing(first, options, code, why):
    cohort, _ = stopped("open", opening="threshold")
    frame = repartialled(cohort, cohort.transport.frame("open", first), 1, **options)
    refused(cohort, first, frame, code, why)


def test_shares_of_fewer_than_a_quorum_open_nothing(first):
    cohort, _ = stopped("open", opening="threshold")
    frame = cohort.transport.frame("open", first)
    partials, parts = shares_of(cohort, frame)
    few = changed(frame, {"partials": join_parts(parts[:2])}, partials=frame.body["partials"][:2])
    refused(cohort, first, few, "summation-refused", "another sum or quorum")
    none = changed(frame, {"partials": b""}, partials=[])
    refused(cohort, first, none, "quorum-missing")
    assert [one.site for one in partials] == ["site-00", "site-01", "site-02"]


def test_a_site_outside_the_sum_gives_its_share_too():
    cohort, _ = stopped("share", 4, ("site-01", "site-02", "site-03"), opening="threshold")
    frame = cohort.transport.frame("share", "site-00")
    assert cohort.ask("site-00", frame).kind == "partial"


# What is forgotten


def test_the_secrets_of_a_round_are_forgotten_once_the_next_plan_is_kept(first):
    cohort, begun = uploaded()
    cohort.open(begun)
    study, store = cohort.terms.study, cohort.hospitals[first].store
    unmask = cohort.transport.frame("unmask", first)
    begun_next = cohort.begin(2)
    assert store.round_secrets(study, 1, begun.plan.call) is not None  # until the plan
    cohort.upload(begun_next)
    assert store.round_secrets(study, 1, begun.plan.call) is None
    assert store.plan(study, 1) is None
    refused(cohort, first, unmask, "summation-refused", "does not hold")


def test_secrets_of_a_call_that_came_to_no_plan_are_forgotten_too(first):
    cohort = Cohort.meet(4)
    wasted = cohort.sum.call(1, "1" * 64, cohort.sites)
    begun = cohort.upload(cohort.begin())
    store = cohort.hospitals[first].store
    assert store.round_secrets(cohort.terms.study, 1, digest(wasted.call)) is None
    assert store.round_secrets(cohort.terms.study, 1, begun.plan.call) is not None


def test_a_plan_is_read_back_as_it_was_kept(first):
    cohort, begun = uploaded()
    kept, _ = cohort.hospitals[first].store.plan(cohort.terms.study, 1)
    assert isinstance(kept, RoundPlan)
    assert digest(kept) == digest(begun.plan)
