"""A hospital takes its cohort's key and no other, and recovers it from a quorum of the others."""

import pytest

from fl_client.group_keys import KeyMissing, _context, _copy_context, _key_context, _share_context
from fl_client.tables import KEY_PARTS
from privacy import key_generation
from privacy.bfv import generate_key
from privacy.key_generation import KeyPartMalformed
from privacy.keys import SiteKeys, seal, wrap
from privacy.opening import MemberCipher, QuorumCipher
from protocol.canonical import body, digest, read
from protocol.frames import Frame, join_parts, split_parts
from protocol.summation import DealtKey, KeyCommitment, KeyPart, KeyRequest, ShareRequest
from storage.database import reading
from tests.fl_server.cohort import STUDY, Cohort


def request_of(cohort, sites=None, **changes):
    """Return the server's request for a key of these sites, as a frame."""
    asked = KeyRequest(
        terms=digest(cohort.terms), study=STUDY, epoch=1, sites=tuple(sites or cohort.sites)
    )
    return body(asked.model_copy(update=changes))


def refused(cohort, site, frame, code, why=""):
    reply = cohort.ask(site, frame)
    assert (reply.kind, reply.body.get("code")) == ("refused", code), reply.body
    assert why in reply.body["reason"]


def changed(frame, blobs=None, **fields):
    return Frame(frame.kind, {**frame.body, **fields}, {**frame.blobs, **(blobs or {})})


@pytest.fixture
def cohort():
    return Cohort.meet(4)


@pytest.fixture
def collective():
    return Cohort.meet(4, opening="threshold")


# One hospital deals


def dealt_by(cohort, dealer="site-00", **request):
    """Have a site deal a key; return its answer."""
    reply = cohort.ask(dealer, Frame("deal-key", request_of(cohort, **request)))
    assert reply.kind == "dealt", reply.body
    return reply


def copy_of(dealt, site):
    """Return the frame in which the server passes a dealt key on to a site."""
    blobs = {"sealed": dealt.blobs["sealed"], "wrapped": dealt.blobs[site]}
    return Frame("take-key", {"dealt": dealt.body}, blobs)


def redealt(cohort, dealt, *, signer="site-00", sealed=None, **changes):
    """Return a dealt key that says something else, signed by its dealer or by another."""
    message = read(DealtKey, dealt.body).model_copy(update=changes)
    message = message.signed_by(cohort.hospitals[signer].keys.sign)
    blobs = {**dealt.blobs, **({} if sealed is None else {"sealed": sealed})}
    return Frame(dealt.kind, body(message), blobs)


def held(cohort, site):
    kept = cohort.hospitals[site].store.keys.held(STUDY)
    return None if kept is None else kept.key_id


def test_every_site_of_the_cohort_ends_with_the_same_key(cohort):
    dealt = dealt_by(cohort)
    for site in cohort.sites[1:]:
        assert cohort.ask(site, copy_of(dealt, site)).body == {"key_id": dealt.body["key_id"]}
    assert {held(cohort, site) for site in cohort.sites} == {dealt.body["key_id"]}
    ciphers = [cohort.hospitals[site].group.cipher(dealt.body["key_id"]) for site in cohort.sites]
    assert all(isinstance(cipher, MemberCipher) for cipher in ciphers)
    assert len({cipher.key.to_bytes() for cipher in ciphers}) == 1


def test_asked_again_a_dealer_gives_the_same_copies_also_after_a_restart(tmp_path):
    cohort = Cohort.meet(4, folder=tmp_path)
    dealt = dealt_by(cohort)
    assert dealt_by(cohort) == dealt
    cohort.hospitals["site-00"].restart()
    assert dealt_by(cohort) == dealt
    assert cohort.ask("site-01", copy_of(dealt, "site-01")) == cohort.ask(
        "site-01", copy_of(dealt, "site-01")
    )


def test_another_cohort_or_epoch_gets_another_key(cohort):
    answers = [
        dealt_by(cohort),
        dealt_by(cohort, epoch=2),
        dealt_by(cohort, epoch=2, sites=cohort.sites[:3]),
    ]
    assert len({answer.body["key_id"] for answer in answers}) == 3


def test_a_copy_opens_for_its_hospital_only(cohort):
    dealt = dealt_by(cohort)
    theirs = changed(copy_of(dealt, "site-01"), {"wrapped": dealt.blobs["site-02"]})
    refused(cohort, "site-01", theirs, "key-unwrap-failed")
    assert held(cohort, "site-01") is None


def test_a_key_that_its_dealer_did_not_sign_is_refused(cohort):
    dealt = dealt_by(cohort)
    forged = redealt(cohort, dealt, signer="site-02")
    refused(cohort, "site-01", copy_of(forged, "site-01"), "bad-signature")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dealer": "stranger"}, "dealer"),
        ({"study": "study-other"}, "another study"),
        ({"sites": ("site-00", "site-01", "stranger")}, "not registered"),
        ({"sites": ("site-00", "site-02", "site-03")}, "without this hospital"),
        ({"sites": ("site-01", "site-00", "site-02", "site-03")}, "names one twice"),
        ({"sites": ("site-00", "site-01", "site-01")}, "names one twice"),
        ({"threshold": 2}, "threshold"),
    ],
)
def test_a_key_from_outside_the_cohort_is_refused(cohort, changes, why):
    dealt = redealt(cohort, dealt_by(cohort), **changes)
    refused(cohort, "site-01", copy_of(dealt, "site-01"), "group-key-refused", why)


def test_a_key_of_another_epoch_than_it_was_sealed_for_is_refused(cohort):
    dealt = redealt(cohort, dealt_by(cohort), epoch=2)
    refused(cohort, "site-01", copy_of(dealt, "site-01"), "key-unwrap-failed")


def test_an_older_key_than_the_one_held_is_refused(cohort):
    old, new = dealt_by(cohort), dealt_by(cohort, epoch=3)
    assert cohort.ask("site-01", copy_of(new, "site-01")).kind == "taken"
    refused(cohort, "site-01", copy_of(old, "site-01"), "group-key-refused", "older")
    asked = Frame("deal-key", request_of(cohort, epoch=2))
    refused(cohort, "site-01", asked, "group-key-refused", "older")
    assert held(cohort, "site-01") == new.body["key_id"]


def test_a_key_that_is_not_the_one_announced_is_refused(cohort):
    first, other = dealt_by(cohort), generate_key(cohort.parameters)
    dealer, victim = cohort.hospitals["site-00"], cohort.hospitals["site-01"]
    announced, kek = read(DealtKey, first.body), bytes(32)
    sealed = seal(other.to_bytes(), kek, context=_key_context(announced))
    mine = redealt(cohort, first, sealed=sealed, sealed_sha256=key_generation.commitment(sealed))
    context = _copy_context(read(DealtKey, mine.body), "site-01")
    public, private = victim.keys.agreement_public, dealer.keys.agreement
    mine.blobs["site-01"] = wrap(kek + bytes(33), public, private, context=context)
    frame = copy_of(mine, "site-01")
    refused(cohort, "site-01", frame, "group-key-refused", "not the one that was announced")
    mine.blobs["site-01"] = wrap(kek, public, private, context=context)
    refused(cohort, "site-01", copy_of(mine, "site-01"), "key-unwrap-failed")


def test_a_sealed_key_that_is_not_the_one_announced_is_refused(cohort):
    frame = copy_of(dealt_by(cohort), "site-01")
    other = changed(frame, {"sealed": frame.blobs["sealed"] + b"\0"})
    refused(cohort, "site-01", other, "group-key-refused", "sealed key")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"terms": "0" * 64}, "other terms"),
        ({"study": "study-other"}, "another study"),
        ({"sites": ("site-00", "site-01", "stranger")}, "not registered"),
        ({"sites": ("site-01", "site-02", "site-03")}, "without this hospital"),
        ({"sites": ("site-00", "site-02", "site-01")}, "names one twice"),
    ],
)
@pytest.mark.parametrize("kind", ["deal-key", "commit-key"])
def test_a_request_for_a_key_of_another_cohort_or_study_is_refused(kind, changes, why):
    cohort = Cohort.meet(4, opening="members" if kind == "deal-key" else "threshold")
    frame = Frame(kind, request_of(cohort, **changes))
    refused(cohort, "site-00", frame, "group-key-refused", why)


@pytest.mark.parametrize("kind", ["deal-key", "commit-key"])
def test_a_cohort_smaller_than_the_study_allows_gets_no_key(kind):
    opening = "members" if kind == "deal-key" else "threshold"
    cohort = Cohort.meet(4, opening=opening, sites_min=4)
    frame = Frame(kind, request_of(cohort, cohort.sites[:3]))
    refused(cohort, "site-00", frame, "group-key-refused", "too small")


# Recovery


def share_of(cohort, giver, key_id, recipient):
    asked = ShareRequest(key_id=key_id, recipient=recipient)
    return cohort.ask(giver, Frame("give-share", body(asked)))


def recovery(cohort, dealt, recipient, givers, **shares):
    """Return the frame that brings a site the shares of others, some of them replaced."""
    found = {
        giver: shares.get(giver.replace("-", "_"))
        or share_of(cohort, giver, dealt.body["key_id"], recipient).blobs["share"]
        for giver in givers
    }
    return Frame(
        "recover-key",
        {"dealt": dealt.body, "givers": list(found)},
        {"sealed": dealt.blobs["sealed"], "shares": join_parts(list(found.values()))},
    )


@pytest.fixture
def lacking():
    """A cohort of six in which the last site has no key yet, and the key."""
    cohort = Cohort.meet(6)
    dealt = dealt_by(cohort)
    for site in cohort.sites[1:5]:
        cohort.ask(site, copy_of(dealt, site))
    return cohort, dealt, cohort.sites[5]


def test_a_quorum_of_shares_recovers_the_key(lacking):
    cohort, dealt, last = lacking
    frame = recovery(cohort, dealt, last, cohort.sites[:5])
    assert cohort.ask(last, frame).body == {"key_id": dealt.body["key_id"]}
    same = [cohort.hospitals[one].group.cipher(dealt.body["key_id"]) for one in ("site-01", last)]
    assert same[0].key.to_bytes() == same[1].key.to_bytes()


def test_fewer_shares_than_a_quorum_do_not_recover_the_key(lacking):
    cohort, dealt, last = lacking
    for count in range(5):
        frame = recovery(cohort, dealt, last, cohort.sites[:count])
        refused(cohort, last, frame, "quorum-missing")
    assert held(cohort, last) is None


def test_a_share_that_is_noise_or_false_is_passed_over_where_a_quorum_is_left():
    cohort = Cohort.meet(8)  # a quorum is six
    dealt = dealt_by(cohort)
    for site in cohort.sites[1:7]:
        cohort.ask(site, copy_of(dealt, site))
    last, liar = cohort.sites[7], cohort.hospitals["site-02"].keys
    false = wrap(
        bytes(33),
        cohort.hospitals[last].keys.agreement_public,
        liar.agreement,
        context=_share_context(dealt.body["key_id"], "site-02", last),
    )
    for share in (b"noise", false):
        frame = recovery(cohort, dealt, last, cohort.sites[:7], site_02=share)
        assert cohort.ask(last, frame).kind == "taken"


def test_shares_that_join_to_nothing_recover_nothing(lacking):
    cohort, dealt, last = lacking
    false = wrap(
        bytes(33),
        cohort.hospitals[last].keys.agreement_public,
        cohort.hospitals["site-02"].keys.agreement,
        context=_share_context(dealt.body["key_id"], "site-02", last),
    )
    frame = recovery(cohort, dealt, last, cohort.sites[:5], site_02=false)
    refused(cohort, last, frame, "secret-unrecoverable")


def test_a_share_goes_to_sites_of_the_cohort_only(lacking):
    cohort, dealt, _ = lacking
    smaller = dealt_by(cohort, epoch=2, sites=cohort.sites[:5])
    reply = share_of(cohort, "site-00", smaller.body["key_id"], "site-05")
    assert reply.body["code"] == "group-key-refused"
    assert "not of the cohort" in reply.body["reason"]
    reply = share_of(cohort, "site-05", dealt.body["key_id"], "site-00")
    assert reply.body["code"] == "key-missing"


def test_a_site_that_recovered_its_key_says_that_it_has_no_share(lacking):
    cohort, dealt, last = lacking
    cohort.ask(last, recovery(cohort, dealt, last, cohort.sites[:5]))
    reply = share_of(cohort, last, dealt.body["key_id"], "site-00")
    assert "holds no share" in reply.body["reason"]


@pytest.mark.parametrize("givers", [None, "site-00", [["site-00"]], [{}], ["stranger"], [1]])
def test_givers_that_are_not_of_the_cohort_recover_nothing(lacking, givers):
    cohort, dealt, last = lacking
    frame = recovery(cohort, dealt, last, ["site-00"])
    refused(cohort, last, changed(frame, givers=givers), "group-key-refused")


# Nobody deals


def commitments_of(cohort, sites=None, **request):
    frame = Frame("commit-key", request_of(cohort, sites, **request))
    replies = [cohort.ask(site, frame) for site in sites or cohort.sites]
    assert {reply.kind for reply in replies} == {"key-commitment"}
    return [reply.body for reply in replies]


def parts_of(cohort, commitments):
    frame = Frame("part-key", {"commitments": commitments})
    replies = [cohort.ask(one["site"], frame) for one in commitments]
    assert {reply.kind for reply in replies} == {"key-part"}, replies
    return replies


def join_frame(cohort, commitments, parts, site):
    """Return the frame that brings a site all parts, and the shares sealed for it."""
    sites = [one["site"] for one in commitments]
    place = {
        dealer: [one for one in sites if one != dealer].index(site)
        for dealer in sites
        if dealer != site
    }
    sealed = [
        split_parts(part.blobs["shares"], len(sites) - 1)[place[dealer]]
        for dealer, part in zip(sites, parts, strict=True)
        if dealer != site
    ]
    return Frame(
        "join-key",
        {"commitments": commitments, "parts": [part.body for part in parts]},
        {
            "publics": join_parts([part.blobs["public"] for part in parts]),
            "shares": join_parts(sealed),
        },
    )


def test_all_sites_make_one_key_of_which_each_has_its_own_share(collective):
    commitments = commitments_of(collective)
    parts = parts_of(collective, commitments)
    replies = [
        collective.ask(site, join_frame(collective, commitments, parts, site))
        for site in collective.sites
    ]
    assert {reply.kind for reply in replies} == {"taken"}
    (key_id,) = {reply.body["key_id"] for reply in replies}
    ciphers = [collective.hospitals[site].group.cipher(key_id) for site in collective.sites]
    assert all(isinstance(cipher, QuorumCipher) for cipher in ciphers)
    assert [cipher.key_share.index for cipher in ciphers] == [0, 1, 2, 3]
    assert {cipher.holders for cipher in ciphers} == {collective.sites}
    assert {cipher.threshold for cipher in ciphers} == {3}
    assert len({cipher.key_share.to_bytes() for cipher in ciphers}) == 4


def test_asked_again_a_site_commits_to_and_shows_the_same_part_also_after_a_restart(tmp_path):
    cohort = Cohort.meet(3, opening="threshold", folder=tmp_path)
    commitments = commitments_of(cohort)
    parts = parts_of(cohort, commitments)
    for restart in (False, True):
        if restart:
            cohort.hospitals["site-00"].restart()
        assert commitments_of(cohort) == commitments
        assert parts_of(cohort, commitments) == parts


def test_a_site_that_joined_forgets_the_shares_it_dealt_and_answers_again(tmp_path):
    """A quorum of them is its part of the key."""
    cohort = Cohort.meet(3, opening="threshold", folder=tmp_path)
    commitments = commitments_of(cohort)
    frame = join_frame(cohort, commitments, parts_of(cohort, commitments), "site-00")
    taken = cohort.ask("site-00", frame)
    assert taken.kind == "taken"
    with reading(cohort.hospitals["site-00"].store._engine) as connection:
        assert connection.execute(KEY_PARTS.select()).all() == []
    cohort.hospitals["site-00"].restart()
    assert cohort.ask("site-00", frame) == taken


def test_another_epoch_or_cohort_gets_another_part(collective):
    found = {
        commitments_of(collective, sites, epoch=epoch)[0]["public_sha256"]
        for sites in (collective.sites, collective.sites[:3])
        for epoch in (1, 2)
    }
    assert len(found) == 4


def test_a_part_is_shown_for_one_set_of_commitments_only(collective):
    """Whoever saw the others' parts and could commit anew would make the key its own."""
    commitments = commitments_of(collective)
    shown = parts_of(collective, commitments)
    rogue = read(KeyCommitment, commitments[3]).model_copy(update={"public_sha256": "1" * 64})
    rogue = rogue.signed_by(collective.hospitals["site-03"].keys.sign)
    anew = Frame("part-key", {"commitments": [*commitments[:3], body(rogue)]})
    for site in collective.sites[:3]:
        refused(collective, site, anew, "group-key-refused", "for other commitments")
    assert parts_of(collective, commitments) == shown


def test_a_part_that_is_not_the_one_committed_to_is_refused_and_named(collective):
    commitments = commitments_of(collective)
    parts = parts_of(collective, commitments)
    another = key_generation.contribute(
        collective.parameters,
        threshold=3,
        holders=4,
        context=_context(read(KeyRequest, request_of(collective))),
    ).public
    parts[2] = changed(parts[2], {"public": another})
    frame = join_frame(collective, commitments, parts, "site-00")
    refused(
        collective, "site-00", frame, "group-key-refused", "site-02 is not the one it committed"
    )
    assert held(collective, "site-00") is None


def test_a_part_shown_for_other_commitments_is_refused_and_named(collective):
    commitments = commitments_of(collective)
    parts = parts_of(collective, commitments)
    other = read(KeyPart, parts[1].body).model_copy(update={"commitments": "0" * 64})
    other = other.signed_by(collective.hospitals["site-01"].keys.sign)
    parts[1] = Frame("key-part", body(other), parts[1].blobs)
    frame = join_frame(collective, commitments, parts, "site-00")
    refused(collective, "site-00", frame, "group-key-refused", "site-01 was shown for other")


def test_a_part_that_its_site_did_not_sign_is_refused(collective):
    commitments = commitments_of(collective)
    parts = parts_of(collective, commitments)
    stranger = SiteKeys.generate()
    forged = read(KeyPart, parts[1].body).signed_by(stranger.sign)
    parts[1] = Frame("key-part", body(forged), parts[1].blobs)
    frame = join_frame(collective, commitments, parts, "site-00")
    refused(collective, "site-00", frame, "bad-signature")


def test_a_part_that_is_missing_or_out_of_order_is_refused(collective):
    commitments = commitments_of(collective)
    parts = parts_of(collective, commitments)
    frame = join_frame(collective, commitments, parts, "site-00")
    shown = frame.body["parts"]
    for other in (shown[:3], shown[::-1], [*shown, shown[0]]):
        wrong = changed(frame, parts=other)
        refused(collective, "site-00", wrong, "group-key-refused", "missing")
    refused(collective, "site-00", changed(frame, parts=None), "group-key-refused", "a list")


def test_a_share_of_the_key_sealed_for_another_is_refused(collective):
    commitments = commitments_of(collective)
    parts = parts_of(collective, commitments)
    frame = join_frame(collective, commitments, parts, "site-00")
    theirs = join_frame(collective, commitments, parts, "site-01").blobs["shares"]
    refused(collective, "site-00", changed(frame, {"shares": theirs}), "key-unwrap-failed")


def test_nothing_is_shown_before_every_site_has_committed(collective):
    commitments = commitments_of(collective)
    for few in (commitments[1:], commitments[:3], []):
        frame = Frame("part-key", {"commitments": few})
        refused(collective, "site-00", frame, "group-key-refused", "not every site")
    refused(collective, "site-00", Frame("part-key", {}), "group-key-refused", "a list")


def test_a_commitment_for_another_cohort_or_unsigned_shows_nothing(collective):
    commitments = commitments_of(collective)
    keys = collective.hospitals["site-01"].keys
    other = read(KeyCommitment, commitments[1]).model_copy(update={"epoch": 2})
    mixed = [commitments[0], body(other.signed_by(keys.sign)), *commitments[2:]]
    frame = Frame("part-key", {"commitments": mixed})
    refused(collective, "site-00", frame, "group-key-refused", "site-01 committed for another")
    forged = [commitments[0], {**commitments[1], "signature": "00" * 64}, *commitments[2:]]
    refused(collective, "site-00", Frame("part-key", {"commitments": forged}), "bad-signature")


def test_a_hospital_that_lost_the_part_it_committed_to_shows_no_other():
    cohort = Cohort.meet(3, opening="threshold")
    commitments = commitments_of(cohort)
    bereft = Cohort.meet(3, opening="threshold").hospitals["site-00"].store
    cohort.hospitals["site-00"].store = bereft
    cohort.hospitals["site-00"].restart()
    frame = Frame("part-key", {"commitments": commitments})
    refused(cohort, "site-00", frame, "group-key-refused", "no longer has the part")


def test_a_part_that_is_none_is_refused_by_its_place(collective):
    """A site that committed to noise cannot be told before it shows it."""
    hospital = collective.hospitals["site-03"]
    request = Frame("commit-key", request_of(collective))
    commitments = [collective.ask(site, request).body for site in collective.sites]
    noise = read(KeyCommitment, commitments[3]).model_copy(
        update={"public_sha256": key_generation.commitment(b"noise")}
    )
    commitments[3] = body(noise.signed_by(hospital.keys.sign))
    parts = parts_of(collective, commitments[:4])
    parts[3] = changed(parts[3], {"public": b"noise"})
    frame = join_frame(collective, commitments, parts, "site-00")
    refused(collective, "site-00", frame, KeyPartMalformed.code, "part 3")


# Which way


@pytest.mark.parametrize("kind", ["deal-key", "take-key", "recover-key"])
def test_where_a_quorum_opens_no_key_is_dealt_or_taken(collective, kind):
    """A dealt key could be used by one hospital alone."""
    asked = Frame(kind, request_of(collective))
    refused(collective, "site-00", asked, "group-key-refused", "opened by threshold")


@pytest.mark.parametrize("kind", ["commit-key", "part-key", "join-key"])
def test_where_members_open_no_part_is_made(cohort, kind):
    asked = Frame(kind, request_of(cohort))
    refused(cohort, "site-00", asked, "group-key-refused", "opened by members")


def test_a_key_that_never_came_is_missing(cohort):
    group = cohort.hospitals["site-00"].group
    for ask in (group.cipher, group.holders):
        with pytest.raises(KeyMissing, match="0123456789abcdef"):
            ask("0123456789abcdef")


def test_the_newest_key_and_the_one_before_are_kept(cohort):
    ids = [dealt_by(cohort, epoch=epoch).body["key_id"] for epoch in (1, 2, 3)]
    group = cohort.hospitals["site-00"].group
    assert group.cipher(ids[2]).key_id == ids[2]
    assert group.cipher(ids[1]).key_id == ids[1]
    with pytest.raises(KeyMissing):
        group.cipher(ids[0])
