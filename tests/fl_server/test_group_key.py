"""A group key is made when its hospitals change or it is old, and the server cannot read it."""

import pytest

from fl_client.key_store import StoredKeys
from fl_client.tables import KEY_PARTS
from fl_server.group_key import GroupKeeper
from fl_server.sites import TooFewSites
from fl_server.store import ServerStore
from fl_server.tables import GROUP_KEY
from privacy.key_generation import commitment
from privacy.opening import QuorumCipher
from protocol.canonical import body, read
from protocol.frames import decode, encode, join_parts, split_parts
from protocol.summation import DealtKey, KeyCommitment, KeyPart
from storage.database import reading
from tests.fl_server.cohort import STUDY, Cohort

pytestmark = pytest.mark.slow

OPENINGS = ("members", "threshold")


def holders_of(cohort, key_id):
    return {
        site
        for site, hospital in cohort.hospitals.items()
        if hospital.store.keys.held(STUDY, key_id) is not None
    }


# When


@pytest.mark.parametrize("opening", OPENINGS)
def test_a_key_is_made_once_and_asked_for_again_changes_nothing(opening):
    cohort = Cohort.meet(4, opening=opening)
    key_id, holding = cohort.keeper.ensure(1, cohort.sites)
    assert holding == set(cohort.sites) == holders_of(cohort, key_id)
    asked = len(cohort.transport.asked)
    for number in (1, 2, 10):
        assert cohort.keeper.ensure(number, cohort.sites) == (key_id, set(cohort.sites))
    assert len(cohort.transport.asked) == asked


def test_a_key_is_replaced_after_its_rounds():
    cohort = Cohort.meet(3, key_rounds=3)
    keys = [cohort.keeper.ensure(number, cohort.sites)[0] for number in range(4, 12)]
    assert keys == [*[keys[0]] * 3, *[keys[3]] * 3, *[keys[6]] * 2]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("opening", OPENINGS)
def test_a_roster_that_grew_shrank_or_changed_gets_another_key(opening):
    cohort = Cohort.meet(5, opening=opening)
    rosters = [cohort.sites, cohort.sites[1:], cohort.sites[:4], cohort.sites]
    keys = []
    for number, roster in enumerate(rosters, start=1):
        key_id, holding = cohort.keeper.ensure(number, roster)
        assert holding == set(roster) == holders_of(cohort, key_id)
        keys.append(key_id)
    assert len(set(keys)) == 4
    assert cohort.store.group_key().epoch == 4


def test_another_hospital_deals_every_time():
    cohort = Cohort.meet(3, key_rounds=1)
    for number in range(1, 4):
        cohort.keeper.ensure(number, cohort.sites)
    dealers = [site for kind, site, _ in cohort.transport.asked if kind == "deal-key"]
    assert sorted(dealers) == list(cohort.sites)


@pytest.mark.parametrize("opening", OPENINGS)
def test_a_server_that_starts_anew_goes_on_with_the_key(opening):
    cohort = Cohort.meet(4, opening=opening)
    key_id, _ = cohort.keeper.ensure(1, cohort.sites)
    cohort.start()
    asked = len(cohort.transport.asked)
    assert cohort.keeper.ensure(2, cohort.sites) == (key_id, set(cohort.sites))
    assert len(cohort.transport.asked) == asked


@pytest.mark.parametrize("opening", OPENINGS)
def test_a_hospital_that_was_away_gets_the_key_later(opening):
    cohort = Cohort.meet(4, opening=opening)
    away = cohort.sites[3]
    kind = "take-key" if opening == "members" else "join-key"
    cohort.transport.lost = lambda its_kind, site: (its_kind, site) == (kind, away)
    key_id, holding = cohort.keeper.ensure(1, cohort.sites)
    present = set(cohort.sites[:3])
    assert holding == present
    cohort.transport.lost = lambda _kind, _site: False
    if opening == "members":
        assert cohort.keeper.ensure(2, cohort.sites) == (key_id, set(cohort.sites))
    else:  # a key of those that joined; whoever comes back makes another one necessary
        assert cohort.keeper.ensure(2, cohort.sites)[1] == set(cohort.sites)


# What the server keeps


def kept_by(store: ServerStore):
    """Return every byte of the server's memory of the group's key."""
    with reading(store._engine) as connection:
        rows = connection.execute(GROUP_KEY.select()).all()
    return b"\n".join(repr(tuple(row)).encode() + (row.frame or b"") for row in rows)


def on_the_wire(cohort):
    sent = [frame for _, _, frame in cohort.transport.asked]
    return b"\n".join([*sent, *(reply for _, _, reply in cohort.transport.answered)])


def test_a_dealt_key_passes_the_server_sealed():
    cohort = Cohort.meet(4)
    key_id, _ = cohort.keeper.ensure(1, cohort.sites)
    cipher = cohort.hospitals["site-00"].group.cipher(key_id)
    secrets = [cipher.key.to_bytes()]
    for hospital in cohort.hospitals.values():
        record = decode(hospital.store.keys.held(STUDY, key_id).record)
        secrets.append(record.blobs["kek_share"])
    assert all(len(secret) > 30 for secret in secrets)
    for seen in (kept_by(cohort.store), on_the_wire(cohort)):
        assert not any(secret in seen for secret in secrets)


def test_parts_of_a_collective_key_pass_the_server_with_their_shares_sealed(monkeypatch):
    monkeypatch.setattr(StoredKeys, "forget_parts", lambda *_: None)  # to compare with
    cohort = Cohort.meet(4, opening="threshold")
    key_id, _ = cohort.keeper.ensure(1, cohort.sites)
    secrets = []
    for hospital in cohort.hospitals.values():
        cipher = hospital.group.cipher(key_id)
        assert isinstance(cipher, QuorumCipher)
        secrets.append(cipher.key_share.to_bytes()[-1000:])
        (part,) = (
            decode(row.part)
            for row in key_parts(hospital.store)
            if not row.cohort.endswith("shown")
        )
        secrets += [share[-1000:] for share in split_parts(part.blobs["shares"], 4)]
    assert len(set(secrets)) == 4 + 16
    for seen in (kept_by(cohort.store), on_the_wire(cohort)):
        assert not any(secret in seen for secret in secrets)


def key_parts(store):
    with reading(store._engine) as connection:
        return connection.execute(KEY_PARTS.select()).all()


# Where something is wrong


def altering(cohort, kind, change, *, site=None):
    def alter(its_kind, its_site, reply):
        hit = its_kind == kind and site in {None, its_site}
        return change(reply) if hit else reply

    cohort.transport.alter = alter


def garbled(*names, noise=b"noise"):
    """Return a change of a reply in which some blobs are noise."""

    def change(reply):
        frame = decode(reply)
        blobs = {name: noise if name in names else blob for name, blob in frame.blobs.items()}
        return encode(frame.kind, frame.body, blobs)

    return change


def refusing(_reply):
    return encode("refused", {"code": "site-away", "reason": "away"})


def test_a_hospital_whose_copy_is_garbage_recovers_the_key_from_the_others():
    cohort = Cohort.meet(5)
    victim = cohort.sites[3]
    altering(cohort, "deal-key", garbled(victim))
    key_id, holding = cohort.keeper.ensure(1, cohort.sites)
    assert holding == set(cohort.sites)
    ciphers = [cohort.hospitals[site].group.cipher(key_id) for site in cohort.sites]
    assert len({cipher.key.to_bytes() for cipher in ciphers}) == 1
    assert "recover-key" in cohort.transport.kinds()
    assert cohort.store.group_key().epoch == 1


def test_a_recovery_gets_past_givers_that_give_noise_or_nothing():
    cohort = Cohort.meet(9)  # a quorum is seven, and eight others can give

    def alter(kind, site, reply):
        if kind == "deal-key":
            return garbled(cohort.sites[8])(reply)
        if (kind, site) == ("give-share", cohort.sites[0]):
            return garbled("share")(reply)
        return reply

    cohort.transport.alter = alter
    assert cohort.keeper.ensure(1, cohort.sites)[1] == set(cohort.sites)


def test_a_dealer_whose_copies_open_for_nobody_is_followed_by_another():
    cohort = Cohort.meet(4)

    def change(reply, dealt=[]):  # noqa: B006 - the first dealer only
        dealt.append(reply)
        return garbled(*cohort.sites)(reply) if len(dealt) == 1 else reply

    altering(cohort, "deal-key", change)
    key_id, holding = cohort.keeper.ensure(1, cohort.sites)
    assert holding == set(cohort.sites) == holders_of(cohort, key_id)
    dealers = [site for kind, site, _ in cohort.transport.asked if kind == "deal-key"]
    assert len(set(dealers)) == 2
    assert cohort.store.group_key().epoch == 2


def test_a_site_of_three_that_cannot_recover_gets_a_new_key():
    cohort = Cohort.meet(3)

    def change(reply, dealt=[]):  # noqa: B006 - the first dealer only
        dealt.append(reply)
        return garbled("site-02")(reply) if len(dealt) == 1 else reply

    altering(cohort, "deal-key", change)
    assert cohort.keeper.ensure(1, cohort.sites)[1] == set(cohort.sites)


def test_where_nobody_can_deal_the_attempts_end():
    cohort = Cohort.meet(4)
    altering(cohort, "deal-key", garbled(*cohort.sites))
    _, holding = cohort.keeper.ensure(1, cohort.sites)
    assert len(holding) == 1  # the last dealer; the engine needs a quorum
    altering(cohort, "deal-key", refusing)
    with pytest.raises(TooFewSites, match="2 sites"):
        cohort.keeper.ensure(11, cohort.sites)


def signed_otherwise(cohort, shape, liar, /, **changes):
    """Return a change of a site's reply: other fields over its own signature."""

    def change(reply):
        frame = decode(reply)
        message = read(shape, frame.body).model_copy(update=changes)
        message = message.signed_by(cohort.hospitals[liar].keys.sign)
        return encode(frame.kind, body(message), frame.blobs)

    return change


@pytest.mark.parametrize(
    "changes",
    [
        {"sites": ("site-00", "site-01", "site-02")},
        {"epoch": 2},
        {"dealer": "site-03"},
        {"study": "study-other"},
        {"key_id": "nonsense"},
    ],
)
def test_a_dealer_that_deals_something_else_is_passed_over(changes):
    cohort = Cohort.meet(4)
    dealer = cohort.sites[1]  # of epoch 1 among four
    altering(cohort, "deal-key", signed_otherwise(cohort, DealtKey, dealer, **changes), site=dealer)
    key_id, holding = cohort.keeper.ensure(1, cohort.sites)
    assert holding == set(cohort.sites) - {dealer}
    assert key_id == cohort.store.group_key().key_id


def test_a_dealer_that_leaves_a_copy_out_is_passed_over():
    cohort = Cohort.meet(4)
    dealer = cohort.sites[1]

    def change(reply):
        frame = decode(reply)
        blobs = {name: blob for name, blob in frame.blobs.items() if name != "site-03"}
        return encode(frame.kind, frame.body, blobs)

    altering(cohort, "deal-key", change, site=dealer)
    assert cohort.keeper.ensure(1, cohort.sites)[1] == set(cohort.sites) - {dealer}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("commit-key", refusing),
        ("commit-key", lambda _reply: b"noise"),
        ("commit-key", lambda _reply: encode("key-commitment", {})),
        ("part-key", refusing),
        ("part-key", lambda _reply: None),
        ("part-key", garbled("shares")),
        ("part-key", garbled("shares", noise=b"")),
        ("part-key", garbled("shares", noise=join_parts([b""]))),
        ("part-key", garbled("public")),
        ("join-key", refusing),
    ],
)
def test_a_site_that_fails_while_the_key_is_made_is_left_out_of_it(kind, change):
    cohort = Cohort.meet(4, opening="threshold")
    failing = cohort.sites[2]
    altering(cohort, kind, change, site=failing)
    _, holding = cohort.keeper.ensure(1, cohort.sites)
    assert holding == set(cohort.sites) - {failing}


@pytest.mark.parametrize(
    ("kind", "shape", "changes"),
    [
        ("commit-key", KeyCommitment, {"epoch": 2}),
        ("commit-key", KeyCommitment, {"sites": ("site-00", "site-01", "site-02")}),
        ("commit-key", KeyCommitment, {"site": "site-00"}),
        ("commit-key", KeyCommitment, {"public_sha256": "0" * 64}),
        ("part-key", KeyPart, {"epoch": 2}),
        ("part-key", KeyPart, {"site": "site-00"}),
        ("part-key", KeyPart, {"commitments": "0" * 64}),
    ],
)
def test_a_site_that_says_something_else_while_the_key_is_made_is_left_out(kind, shape, changes):
    cohort = Cohort.meet(4, opening="threshold")
    liar = cohort.sites[2]
    altering(cohort, kind, signed_otherwise(cohort, shape, liar, **changes), site=liar)
    _, holding = cohort.keeper.ensure(1, cohort.sites)
    assert holding == set(cohort.sites) - {liar}


@pytest.mark.parametrize("kind", ["commit-key", "part-key"])
def test_a_site_that_does_not_sign_while_the_key_is_made_is_left_out(kind):
    cohort = Cohort.meet(4, opening="threshold")

    def change(reply):
        frame = decode(reply)
        return encode(frame.kind, {**frame.body, "signature": "00" * 64}, frame.blobs)

    altering(cohort, kind, change, site=cohort.sites[0])
    assert cohort.keeper.ensure(1, cohort.sites)[1] == set(cohort.sites[1:])


def test_a_part_that_is_not_the_one_committed_to_leaves_its_site_out():
    cohort = Cohort.meet(4, opening="threshold")
    other = Cohort.meet(4, opening="threshold")
    other.keeper.ensure(1, other.sites)
    part = next(reply for kind, _, reply in other.transport.answered if kind == "part-key")
    foreign = decode(part).blobs["public"]
    assert commitment(foreign)
    altering(cohort, "part-key", garbled("public", noise=foreign), site=cohort.sites[3])
    assert cohort.keeper.ensure(1, cohort.sites)[1] == set(cohort.sites[:3])


@pytest.mark.parametrize(("opening", "kind"), [("members", "deal-key"), ("threshold", "part-key")])
def test_with_too_few_sites_left_no_key_is_made(opening, kind):
    cohort = Cohort.meet(3, opening=opening)
    altering(cohort, kind, refusing)
    with pytest.raises(TooFewSites):
        cohort.keeper.ensure(1, cohort.sites)
    assert cohort.store.group_key() is None


def test_the_keeper_is_told_what_the_roll_call_found():
    cohort = Cohort.meet(3)
    key_id, _ = cohort.keeper.ensure(1, cohort.sites)
    keeper = GroupKeeper(
        cohort.terms, cohort.asking, cohort.store, cohort.steps.append, 1.0, holding={}
    )
    _, holding = keeper.ensure(2, cohort.sites)
    dealer = cohort.sites[1]
    assert holding == set(cohort.sites) - {dealer}  # whose own copy the server never had
    assert keeper.store.group_key().key_id == key_id
