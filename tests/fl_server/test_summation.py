"""A sum opens, exactly, iff a quorum lives through every step; otherwise nothing is shown."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from fl_client.masking import Masking
from fl_server.opening import OpeningDisputed, OpeningMissing, SumUnsound
from fl_server.sites import TooFewSites
from privacy.sharing import QuorumMissing, quorum
from protocol.canonical import body, digest, read
from protocol.errors import FederationError
from protocol.frames import decode, encode, join_parts, split_parts
from protocol.messages import RoundKey
from protocol.summation import Endorsement, Opening, Partial, Unmasking
from tests.fl_server.cohort import Cohort, Stopped, names

pytestmark = pytest.mark.slow

STEPS = {
    "members": ("endorse", "unmask", "open"),
    "threshold": ("endorse", "unmask", "share", "open"),
}
SITES_MIN = 3


@dataclass(frozen=True)
class Pattern:
    """Who of ``n`` called sites is silent at which step; for ``train``, whose upload is lost."""

    n: int
    silent: dict

    @property
    def threshold(self):
        return quorum(self.n)

    @property
    def roster(self):
        return set(names(self.n)) - self.silent["call"]

    @property
    def uploaded(self):
        return self.roster - self.silent["train"]

    @property
    def standing(self):
        """Who endorses; nobody else goes on."""
        return self.roster - self.silent["endorse"]

    def alive(self, step):
        return self.standing - self.silent[step]

    def ends(self, opening):
        """Return the step at which the round must end, and how; None where it must open."""
        if len(self.roster) < SITES_MIN:
            return "call", TooFewSites
        if len(self.roster) < self.threshold or len(self.uploaded) < self.threshold:
            return "commit", QuorumMissing
        for step in STEPS[opening][:-1]:
            if len(self.alive(step)) < self.threshold:
                return step, QuorumMissing
        if len(self.alive("open") & self.uploaded) < 2:
            return "open", OpeningMissing
        return None


@st.composite
def patterns(draw, fewest, most):
    """Draw who is silent when: about as many sites as a quorum can do without, once or for good."""
    n = draw(st.integers(fewest, most))
    sites = st.sampled_from(names(n))
    order = ("call", "train", "endorse", "unmask", "share", "open")
    silent = {step: set() for step in order}
    for site in draw(st.sets(sites, max_size=n - quorum(n) + 2)):
        fell = draw(st.integers(0, len(order) - 1))
        for_good = draw(st.booleans())
        for step in order[fell:] if for_good else [order[fell]]:
            silent[step].add(site)
    # Far fewer than a quorum need to open.
    silent["open"] |= draw(st.sets(sites, max_size=n - 2))
    return Pattern(n, silent)


def lived_through(pattern, opening):
    """Return a cohort after the uploads of a pattern, and the round.

    Raises:
        TooFewSites: It does not come to a round.
    """
    cohort = Cohort.meet(pattern.n, opening=opening)
    cohort.transport.lost = lambda kind, site: site in pattern.silent.get(kind, ())
    begun = cohort.begin()
    assert set(begun.plan.sites) == pattern.roster
    # A site whose upload is lost has trained all the same: its masks are in no sum.
    cohort.transport.lost = lambda kind, site: (
        kind != "train" and site in pattern.silent.get(kind, ())
    )
    cohort.upload(begun, pattern.uploaded)
    return cohort, begun


def check_wire(cohort, pattern, ended):
    """See that what a step needs was on the wire before the step was asked for."""
    answered = {
        kind: {site for its_kind, site, reply in cohort.transport.answered if its_kind == kind}
        for kind in ("endorse", "unmask", "open")
    }
    refused = [
        decode(reply).body["code"]
        for kind, site, reply in cohort.transport.answered
        if kind in {"endorse", "open"} and site in pattern.standing
        if decode(reply).kind == "refused"
    ]
    assert refused == []
    asked = set(cohort.transport.kinds())
    if ended == "commit":
        assert "endorse" not in asked
    if "unmask" in asked:
        assert len(answered["endorse"]) >= pattern.threshold
    revealing = {
        site
        for kind, site, reply in cohort.transport.answered
        if kind == "unmask" and decode(reply).kind == "unmasking"
    }
    assert revealing <= pattern.standing
    if "open" in asked:
        assert len(revealing) >= pattern.threshold
        assert {site for kind, site, _ in cohort.transport.asked if kind == "open"} == (
            pattern.uploaded
        )
    if ended == "endorse":
        assert revealing == set()


def opens_or_ends(pattern, opening):
    ends = pattern.ends(opening)
    event(f"{opening}: {'opens' if ends is None else 'ends at ' + ends[0]}")
    if ends and ends[0] == "call":
        with pytest.raises(TooFewSites):
            lived_through(pattern, opening)
        return
    cohort, begun = lived_through(pattern, opening)
    if ends is None:
        opened = cohort.open(begun)
        integers, weight = cohort.total(1, pattern.uploaded)
        assert np.array_equal(opened.integers, integers)
        assert opened.weight == weight
        assert opened.liars == ()
    else:
        with pytest.raises(ends[1]):
            cohort.open(begun)
    check_wire(cohort, pattern, ends and ends[0])


@settings(max_examples=25, deadline=None)
@given(patterns(3, 9))
def test_every_pattern_opens_to_the_exact_sum_or_shows_nothing(pattern):
    opens_or_ends(pattern, "members")


@settings(max_examples=30, deadline=None)
@given(patterns(3, 16))
def test_every_pattern_of_larger_cohorts_opens_or_shows_nothing(pattern):
    opens_or_ends(pattern, "members")


@settings(max_examples=8, deadline=None)
@given(patterns(3, 5))
def test_every_pattern_opens_by_quorum_or_shows_nothing(pattern):
    opens_or_ends(pattern, "threshold")


@settings(max_examples=15, deadline=None)
@given(patterns(3, 9))
def test_every_pattern_of_larger_cohorts_opens_by_quorum_or_shows_nothing(pattern):
    opens_or_ends(pattern, "threshold")


@settings(max_examples=6, deadline=None)
@given(patterns(3, 7))
def test_a_sum_that_did_not_open_opens_once_its_sites_are_back(pattern):
    ends = pattern.ends("members")
    assume(ends is None or ends[0] not in {"call", "commit"})
    cohort, begun = lived_through(pattern, "members")
    if ends is not None:
        with pytest.raises((QuorumMissing, OpeningMissing)):
            cohort.open(begun)
    cohort.transport.lost = lambda _kind, _site: False
    assert np.array_equal(cohort.open(begun).integers, cohort.total(1, pattern.uploaded)[0])


@pytest.mark.parametrize("opening", STEPS)
def test_with_a_roster_below_the_quorum_nobody_uploads(opening):
    cohort = Cohort.meet(6, opening=opening)
    cohort.transport.lost = lambda kind, site: kind == "call" and site in cohort.sites[:2]
    begun = cohort.begin()
    assert len(begun.plan.sites) == 4
    assert cohort.upload(begun).uploads == {}
    with pytest.raises(QuorumMissing, match="0 sites"):
        cohort.open(begun)


# Crashes


def ready(n=5, opening="members", uploading=None):
    cohort = Cohort.meet(n, opening=opening)
    begun = cohort.upload(cohort.begin(), uploading)
    return cohort, begun


@pytest.mark.parametrize(
    ("opening", "step"), [(opening, step) for opening, steps in STEPS.items() for step in steps]
)
def test_a_server_killed_before_any_step_and_asked_again_opens_the_same_sum(opening, step):
    cohort, begun = ready(4, opening)
    cohort.stop_at(step, begun)
    cohort.start()
    for hospital in cohort.hospitals.values():
        hospital.restart()
    first, second = cohort.open(begun), cohort.open(begun)
    assert np.array_equal(first.integers, cohort.total(1, cohort.sites)[0])
    assert first.integers_sha256 == second.integers_sha256
    assert first.commitment == second.commitment


def test_a_round_planned_again_after_a_crash_is_called_anew_and_opens():
    cohort = Cohort.meet(4)
    cohort.transport.stop_at = "take-key"
    with pytest.raises(Stopped):
        cohort.begin()
    cohort.transport.stop_at = None
    cohort.start()
    begun = cohort.upload(cohort.begin())
    assert np.array_equal(cohort.open(begun).integers, cohort.total(1, cohort.sites)[0])


def test_rounds_follow_one_another_with_other_sites_missing_from_each():
    cohort = Cohort.meet(5)
    for number, absent in enumerate(cohort.sites, start=1):
        present = [site for site in cohort.sites if site != absent]
        begun = cohort.upload(cohort.begin(number), present)
        assert np.array_equal(cohort.open(begun).integers, cohort.total(number, present)[0])


# Sites that answer falsely


def false(cohort, kind, liar, **changes):
    """Have one site's signed answers of a kind say something else, over its own signature."""
    shape = {
        "call": RoundKey,
        "endorse": Endorsement,
        "unmask": Unmasking,
        "share": Partial,
        "open": Opening,
    }[kind]
    keys = cohort.hospitals[liar].keys

    def alter(its_kind, site, reply):
        if (its_kind, site) != (kind, liar):
            return reply
        frame = decode(reply)
        message = read(shape, frame.body).model_copy(update=changes).signed_by(keys.sign)
        return encode(frame.kind, body(message), frame.blobs)

    cohort.transport.alter = alter


def another_blob(cohort, kind, liar, **blobs):
    """Have one site's answers of a kind carry other blobs."""

    def alter(its_kind, site, reply):
        if (its_kind, site) != (kind, liar):
            return reply
        frame = decode(reply)
        return encode(frame.kind, frame.body, {**frame.blobs, **blobs})

    cohort.transport.alter = alter


def sealed_noise(cohort, liar):
    """Have one site sign, and send, envelopes that open for nobody."""
    noise = [bytes([place]) * 100 for place in range(len(cohort.sites) - 1)]

    def alter(kind, site, reply):
        if (kind, site) != ("call", liar):
            return reply
        hashes = tuple(hashlib.sha256(part).hexdigest() for part in noise)
        key = read(RoundKey, decode(reply).body).model_copy(update={"envelopes": hashes})
        signed = key.signed_by(cohort.hospitals[liar].keys.sign)
        return encode("round-key", body(signed), {"shares": join_parts(noise)})

    cohort.transport.alter = alter


@pytest.mark.parametrize("tag", [("1",), ("1", "2"), ("9" * 19,)])
def test_a_false_tag_does_not_stop_the_round_and_its_site_is_named(tag):
    cohort, begun = ready(5)
    liar = cohort.sites[3]
    false(cohort, "unmask", liar, tag=tag)
    opened = cohort.open(begun)
    assert np.array_equal(opened.integers, cohort.total(1, cohort.sites)[0])
    assert opened.liars == (liar,)
    (fault,) = opened.faults
    assert fault.word.tag == tag
    assert fault.evidence["claimed"] == " ".join(tag) != fault.evidence["true"]


def test_a_false_tag_by_quorum_is_named_too():
    cohort, begun = ready(4, "threshold")
    false(cohort, "unmask", cohort.sites[0], tag=("1", "1"))
    opened = cohort.open(begun)
    assert np.array_equal(opened.integers, cohort.total(1, cohort.sites)[0])
    assert opened.liars == cohort.sites[:1]


def test_the_word_of_a_liar_does_not_make_up_a_quorum():
    cohort, begun = ready(5)
    cohort.transport.lost = lambda kind, site: (kind, site) == ("unmask", cohort.sites[0])
    false(cohort, "unmask", cohort.sites[3], tag=("1",))
    with pytest.raises(QuorumMissing, match="3 sites"):
        cohort.open(begun)


def test_the_upload_of_a_site_that_gives_no_tag_stands_for_it():
    cohort, begun = ready(5)
    gone, shy = cohort.sites[0], cohort.sites[4]
    cohort.transport.lost = lambda kind, site: (kind, site) == ("unmask", gone)
    false(cohort, "unmask", shy, tag=())
    opened = cohort.open(begun)
    assert np.array_equal(opened.integers, cohort.total(1, cohort.sites)[0])
    assert opened.liars == ()
    sent = cohort.transport.frame("open", cohort.sites[1]).blobs["uploads"]
    assert split_parts(sent, 2) == [begun.uploads[site][1] for site in (gone, shy)]


def test_uploads_are_not_shown_to_the_others_where_their_tags_are_there():
    cohort, begun = ready(4)
    cohort.open(begun)
    assert cohort.transport.frame("open", cohort.sites[0]).blobs["uploads"] == b""


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("endorse", {"commitment": "0" * 64}),
        ("endorse", {"site": "site-01"}),
        ("unmask", {"commitment": "0" * 64}),
        ("unmask", {"challenge": "0" * 64}),
        ("unmask", {"site": "site-01"}),
        ("open", {"commitment": "0" * 64}),
        ("open", {"site": "site-01"}),
    ],
)
def test_an_answer_to_something_else_or_for_another_does_not_count(kind, changes):
    cohort, begun = ready(5)
    false(cohort, kind, cohort.sites[0], **changes)
    opened = cohort.open(begun)
    assert np.array_equal(opened.integers, cohort.total(1, cohort.sites)[0])


@pytest.mark.parametrize("kind", ["endorse", "unmask", "open"])
def test_an_answer_that_its_site_did_not_sign_does_not_count(kind):
    cohort, begun = ready(5)
    stranger = cohort.hospitals[cohort.sites[1]].keys.sign

    def alter(its_kind, site, reply):
        if (its_kind, site) != (kind, cohort.sites[0]):
            return reply
        frame = decode(reply)
        return encode(frame.kind, {**frame.body, "signature": stranger(b"").hex()}, frame.blobs)

    cohort.transport.alter = alter
    opened = cohort.open(begun)
    assert np.array_equal(opened.integers, cohort.total(1, cohort.sites)[0])
    assert any(step.stage == "decline" and "bad-signature" in step.note for step in cohort.steps)


@pytest.mark.parametrize("reveals", [b"", b"\0\0\0\1", b"\0" * 16])
def test_reveals_that_are_not_one_for_each_opener_do_not_count(reveals):
    cohort, begun = ready(5)
    another_blob(cohort, "unmask", cohort.sites[2], reveals=reveals)
    opened = cohort.open(begun)
    assert np.array_equal(opened.integers, cohort.total(1, cohort.sites)[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"call": "0" * 64},
        {"round": 2},
        {"study": "another"},
        {"public_key": bytes(32)},
        {"site": "site-01"},
    ],
)
def test_a_round_key_the_others_could_not_use_leaves_its_site_out(changes):
    cohort = Cohort.meet(4)
    false(cohort, "call", cohort.sites[0], **changes)
    begun = cohort.begin()
    assert begun.plan.sites == cohort.sites[1:]
    cohort.upload(begun)
    assert np.array_equal(cohort.open(begun).integers, cohort.total(1, cohort.sites[1:])[0])


@pytest.mark.parametrize("shares", [b"", b"\0\0\0\0"])
def test_a_round_key_without_shares_for_each_other_leaves_its_site_out(shares):
    cohort = Cohort.meet(4)
    another_blob(cohort, "call", cohort.sites[0], shares=shares)
    assert cohort.begin().plan.sites == cohort.sites[1:]


def test_a_site_whose_envelopes_are_not_those_it_signed_is_not_in_the_roster():
    cohort = Cohort.meet(4)
    liar = cohort.sites[0]
    noise = join_parts([bytes(100)] * 3)
    another_blob(cohort, "call", liar, shares=noise)
    begun = cohort.upload(cohort.begin())
    assert begun.plan.sites == tuple(cohort.sites[1:])
    assert np.array_equal(cohort.open(begun).integers, cohort.total(1, cohort.sites[1:])[0])


def test_a_site_whose_shares_open_for_nobody_is_missed_only_if_it_goes_away():
    for goes_away in (False, True):
        cohort = Cohort.meet(4)
        liar = cohort.sites[0]
        sealed_noise(cohort, liar)
        begun = cohort.upload(cohort.begin())
        cohort.transport.lost = lambda kind, site, gone=goes_away, liar=liar: (
            gone and (kind, site) == ("unmask", liar)
        )
        if goes_away:
            with pytest.raises(OpeningMissing):
                cohort.open(begun)
        else:
            assert np.array_equal(cohort.open(begun).integers, cohort.total(1, cohort.sites)[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"commitment": "0" * 64},
        {"quorum": names(4)[1:]},
        {"share_sha256": "0" * 64},
        {"site": "site-01"},
    ],
)
def test_where_a_share_of_the_decryption_fails_another_quorum_is_asked(changes):
    cohort, begun = ready(4, "threshold")
    false(cohort, "share", cohort.sites[0], **changes)
    opened = cohort.open(begun)
    assert np.array_equal(opened.integers, cohort.total(1, cohort.sites)[0])
    asked = cohort.transport.frame("share", cohort.sites[1]).body["quorum"]
    assert asked == list(cohort.sites[1:])


# Who opens


def test_the_integers_come_from_whoever_opened_when_the_first_two_are_gone():
    cohort, begun = ready(7)
    cohort.transport.lost = lambda kind, site: kind == "open" and site in cohort.sites[:2]
    assert np.array_equal(cohort.open(begun).integers, cohort.total(1, cohort.sites)[0])
    assert len(cohort.transport.frame("open", cohort.sites[2]).blobs) > 0


@pytest.mark.parametrize("integers", [b"", bytes(8), bytes(40 * 8)])
def test_integers_that_are_not_those_of_the_opening_are_asked_for_elsewhere(integers):
    cohort, begun = ready(4)

    def alter(kind, site, reply):
        if kind != "open" or site not in cohort.sites[:2]:
            return reply
        frame = decode(reply)
        return encode(frame.kind, frame.body, {"integers": integers})

    cohort.transport.alter = alter
    assert np.array_equal(cohort.open(begun).integers, cohort.total(1, cohort.sites)[0])


def test_one_opening_alone_is_not_believed():
    cohort, begun = ready(4)
    cohort.transport.lost = lambda kind, site: kind == "open" and site != cohort.sites[0]
    with pytest.raises(OpeningMissing, match="only 1 sites opened the sum of round 1"):
        cohort.open(begun)


@pytest.mark.parametrize("changes", [{"integers_sha256": "0" * 64}, {"weight": 1}])
def test_sites_that_open_to_different_integers_are_in_dispute(changes):
    cohort, begun = ready(4)
    false(cohort, "open", cohort.sites[2], **changes)
    with pytest.raises(OpeningDisputed, match="round 1"):
        cohort.open(begun)


def test_openers_that_agree_on_another_weight_are_not_believed():
    cohort, begun = ready(3)

    def alter(kind, site, reply):
        if kind != "open":
            return reply
        frame = decode(reply)
        opening = read(Opening, frame.body).model_copy(update={"weight": 1})
        signed = opening.signed_by(cohort.hospitals[site].keys.sign)
        return encode(frame.kind, body(signed), frame.blobs)

    cohort.transport.alter = alter
    with pytest.raises(OpeningDisputed):
        cohort.open(begun)


def test_a_call_is_signed_and_names_the_sites_in_order():
    cohort = Cohort.meet(4)
    called = cohort.sum.call(1, "0" * 64, reversed(cohort.sites))
    assert called.call.sites == cohort.sites
    assert set(called.keys) == set(cohort.sites)
    assert all(key.call == digest(called.call) for key in called.keys.values())


def test_each_site_of_the_roster_gets_what_the_others_of_it_sealed_for_it():
    cohort = Cohort.meet(4)
    called = cohort.sum.call(1, "0" * 64, cohort.sites)
    roster = cohort.sites[1:]
    for holder, joined in called.plan_envelopes(roster).items():
        dealers = [site for site in roster if site != holder]
        assert split_parts(joined, 2) == [called.envelopes[one][holder] for one in dealers]


def test_every_error_of_a_sum_that_a_run_may_end_with_is_of_the_federation():
    assert issubclass(OpeningMissing, FederationError)
    assert issubclass(OpeningDisputed, FederationError)


def test_a_round_with_an_upload_that_was_not_masked_ends_and_is_not_asked_for_ever(monkeypatch):
    """It opens to nothing that can be unpacked, today or tomorrow."""
    honest = Masking.pad
    monkeypatch.setattr(
        Masking,
        "pad",
        lambda self, plan: 0 * honest(self, plan) if self.site == "site-02" else honest(self, plan),
    )
    cohort, begun = ready(4)
    with pytest.raises(SumUnsound, match="4 sites could not open the sum of round 1") as caught:
        cohort.open(begun)
    assert set(caught.value.declined.values()) == {"sum-corrupt"}
