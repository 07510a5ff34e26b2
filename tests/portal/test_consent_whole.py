"""From enrolment to payment nobody is named: six sites, their patients, all an operator has.

Every patient has an identity of her own, is enrolled by her hospital's steward and grants by a
proof. Rounds run on the real engine with the real agents; patients withdraw between them, by code
and by proof; ten claim their shares. Then everything that registry, server and market hold is
searched for secrets, and joined in every way that shared values allow.
"""

import secrets
import shutil
import sqlite3
from contextlib import closing
from functools import cache
from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("groth16py", reason="real proofs need the extra `prover`")

from consent.claims import ClaimedAlready, claim_message
from consent.lanes import LanePolicy
from fl_server.store import ServerStore
from ledger.chart import pool, wallet
from portal.home import Home
from portal.market import BUDGET, RESEARCHER
from tests.portal.operator_view import Links, Row, dump, read_rows, secrets_in
from tests.portal.whole_run import (
    OTHER_SITE,
    PATIENTS,
    ROUNDS,
    SITES,
    WITHDRAWALS,
    prove,
    run_whole,
)
from zk import semaphore_prover
from zk.poseidon import poseidon
from zk.semaphore import keccak_of
from zk.semaphore_prover import NotAMember

pytestmark = pytest.mark.slow

CHANCE = 0.75 if PATIENTS >= 64 else 0.9
"""The rank correlation of two random orders is larger less than once in 10^7 draws."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Run everything once; the tests look at what is left."""
    return run_whole(Home(tmp_path_factory.mktemp("whole")))


# Consent, round by round


def test_every_grant_is_proven_by_a_person_of_her_own(whole):
    granted = [one for one in whole.desk.registry.log() if one.leaf]
    assert len(granted) == SITES * PATIENTS + PATIENTS
    assert all(one.proof for one in granted)
    assert len({one.nullifier for one in granted}) == len(granted)
    assert {lane.policy for lane in whole.desk.registry.lanes()} == {LanePolicy.PROVEN}
    assert len(set(whole.desk.members()[1])) == SITES * PATIENTS
    assert len(whole.everybody) == SITES * PATIENTS
    assert all(owner.opening for owner in whole.everybody)


def test_each_withdrawal_is_effective_at_the_next_round(whole):
    expected = dict.fromkeys(whole.sites, PATIENTS)
    assert [closed.round for closed in whole.closed] == list(range(1, ROUNDS + 1))
    for closed in whole.closed:
        for place, _ in WITHDRAWALS.get(closed.round, ()):
            expected[whole.sites[place]] -= 1
        assert closed.refused == ()
        assert {one.site: one.proven_patients for one in closed.receipts} == expected
    assert sum(expected.values()) == SITES * PATIENTS - 5
    assert len(whole.withdrawn) == 5


def test_each_round_verified_the_certificates_of_the_chunks_that_changed(whole):
    seen, fresh = set(), []
    for closed in whole.closed:
        named = {one for receipt in closed.receipts for one in receipt.certificates}
        fresh.append(len(named - seen))
        seen |= named
    chunks = sum(len(whole.desk.lane(site).chunks) for site in whole.sites)
    assert fresh == [chunks, *(len(WITHDRAWALS[number]) for number in range(2, ROUNDS + 1))]
    store = ServerStore(whole.home.server / "server.db")
    assert store.uploads.verified(sorted(seen)) == seen


# Money


def test_the_escrow_is_paid_out_and_the_books_agree(whole):
    books = whole.market.books()  # derives every balance again
    assert books.in_escrow == 0
    claimed = sum(claim.amount for claim in whole.paid.claims)
    returned = whole.market.ledger.balance(RESEARCHER)
    assert books.paid + claimed + returned == books.budget == BUDGET
    assert claimed > 0


def test_ten_patients_are_paid_their_shares_once(whole):
    ledger = whole.market.ledger
    assert len({claim.nullifier for *_, claim in whole.claims}) == len(whole.claims) == 10
    assert (len(whole.paid.claims), whole.paid.unpayable) == (9, 1)
    for _, _, recipient, claim in whole.claims[:-1]:
        assert ledger.balance(recipient) == claim.amount > 0
    for payout, gone in zip(whole.payouts, (2, 0), strict=True):
        assert (payout.shares, payout.small) == (PATIENTS - gone, False)
        amounts = [claim.amount for *_, claim in whole.claims if claim.site == payout.site]
        whole_share = payout.pool // payout.shares
        assert all(amount - whole_share in {0, 1} for amount in amounts)
        paid = sum(claim.amount for claim in whole.paid.claims if claim.site == payout.site)
        assert ledger.balance(pool(whole.terms.study, payout.site)) == payout.pool - paid


def test_a_second_claim_is_refused_whatever_it_says(whole):
    owner, proof, recipient, claim = whole.claims[0]
    with pytest.raises(ClaimedAlready):
        whole.desk.claim(claim.site, claim.epoch, recipient, proof)
    payout, members = whole.desk.payout(claim.site, claim.epoch)
    other = wallet(secrets.token_hex(8))
    again = prove(members, owner.payout_secret, payout.scope, claim_message(other))
    with pytest.raises(ClaimedAlready):
        whole.desk.claim(claim.site, claim.epoch, other, again)


def test_who_has_withdrawn_or_is_of_another_hospital_claims_nothing(whole):
    payout, members = whole.desk.payout(whole.claims[0][0].site, whole.payouts[0].epoch)
    gone = next(owner for owner in whole.withdrawn if owner.site == payout.site)
    stranger = whole.owners[whole.sites[0]][-1]
    for owner in (gone, stranger):
        with pytest.raises(NotAMember):
            prove(members, owner.payout_secret, payout.scope, claim_message("wallet:owner"))


# What the operator has


@pytest.fixture(scope="module")
def secret(whole):
    """Everything that patients and hospitals keep to themselves, with names for messages."""
    known = [
        (f"{name} of {owner.patient}", value)
        for owner in whole.everybody
        for name, value in owner.known()
    ]
    return [*known, *((f"salt {number}", salt) for number, salt in enumerate(whole.hospital_salts))]


def test_nothing_that_names_a_patient_is_in_any_table_or_file(whole, secret):
    names = {file.name for folder in whole.folders for file in folder.iterdir()}
    assert names >= {"registry.db", "enrolment.db", "claims.db", "server.db", "mailbox.db"}
    assert len(secret) > SITES * PATIENTS * 9
    assert secrets_in(dump(whole.folders), secret) == set()


def test_the_search_finds_what_is_there(whole, secret, tmp_path):
    leaves = [(str(owner.index), owner.opening.leaf()) for owner in whole.everybody]
    assert len(secrets_in(dump(whole.folders), leaves)) == SITES * PATIENTS
    planted = secret[:: len(secret) // 40]
    folder = shutil.copytree(whole.home.server, tmp_path / "server")
    with closing(sqlite3.connect(folder / "mailbox.db")) as connection, connection:
        connection.execute("CREATE TABLE planted (value)")
        for number, (_, value) in enumerate(planted):
            connection.execute("INSERT INTO planted VALUES (?)", (written(value, number),))
    assert secrets_in(dump([folder]), planted) == {name for name, _ in planted}


def written(value, number):
    """Return a value in one of the forms in which it could have got into a table."""
    if not isinstance(value, int):
        return value
    big = value.to_bytes(32, "big")
    return (big, str(value), f"{value:x}", big[::-1])[number % 4]


@cache
def commitment_of(secret):
    return semaphore_prover.commitment_of(secret)


def commitments(whole):
    return [commitment_of(owner.secret) for owner in whole.everybody]


def grants(whole):
    return [owner.opening.leaf() for owner in whole.everybody]


def other_grants(whole):
    owners = whole.owners[whole.sites[OTHER_SITE]]
    return [owner.other_opening.leaf() for owner in owners]


def claimed(whole):
    return [claim.nullifier for *_, claim in whole.claims]


def test_no_values_join_a_claim_a_grant_and_an_enrolment(whole):
    links = Links(read_rows(whole.folders))
    kinds = {
        "claims": claimed(whole),
        "grants": grants(whole),
        "grants in another study": other_grants(whole),
        "enrolments": commitments(whole),
    }
    for one, other in combinations(kinds, 2):
        assert links.joined(kinds[one], kinds[other]) == [], f"{one} and {other}"
    assert all(links.group_of(value) is not None for values in kinds.values() for value in values)
    for kind in ("grants", "grants in another study", "enrolments"):  # nor two of a kind
        assert len({links.group_of(value) for value in kinds[kind]}) == len(kinds[kind])


def test_the_join_finds_what_is_joined(whole):
    rows = read_rows(whole.folders)
    by_leaf = {one.leaf: one for one in whole.desk.registry.log()}
    leaf, other = grants(whole)[-1], other_grants(whole)[-1]
    nullifier, commitment = claimed(whole)[-1], commitments(whole)[-1]
    used_again = Row("registry.db", "grants", (str(other), by_leaf[leaf].payout_id.to_bytes(32)))
    links = Links([*rows, used_again])
    assert links.joined(grants(whole), other_grants(whole)) == [(leaf, other)]
    noted = Row("mailbox.db", "requests", (f'{{"grant": "{leaf}"}}', f"{commitment:064x}"))
    links = Links([*rows, noted])
    assert links.joined(grants(whole), commitments(whole)) == [(leaf, commitment)]
    visit = "2026-11-21T09:30:00.123456+00:00"
    steps = ((visit, f"claim:{nullifier:x}"), (visit, f"{by_leaf[leaf].nullifier}"))
    links = Links([*rows, *(Row("server.db", "notes", step) for step in steps)])
    assert (nullifier, leaf) in links.joined(claimed(whole), grants(whole))


def test_no_claim_can_be_computed_from_who_shares_its_payout(whole):
    # A nullifier is Poseidon of scope and secret; with commitment for secret it must not come out.
    for payout in whole.payouts:
        _, members = whole.desk.payout(payout.site, payout.epoch)
        scope = keccak_of(payout.scope)
        computed = {poseidon(*pair) for one in members for pair in ((scope, one), (one, scope))}
        assert not computed & set(claimed(whole))


def correlation(orders):
    """Return the rank correlation of places, two for each person."""
    ranks = np.argsort(np.argsort(np.array(orders), axis=0), axis=0)  # (persons, 2)
    return float(np.corrcoef(ranks.T)[0, 1])


def test_the_order_of_enrolments_and_grants_joins_nothing(whole):
    _, members = whole.desk.members()
    for site in whole.sites:
        owners = whole.owners[site]
        enrolled = [members.index(commitment_of(one.secret)) for one in owners]
        granted = [one.index for one in owners]
        assert abs(correlation(list(zip(enrolled, granted, strict=True)))) < CHANCE
    owners = whole.owners[whole.sites[OTHER_SITE]]
    assert abs(correlation([(one.index, one.other_index) for one in owners])) < CHANCE
    # They enrolled as they came: the same measure finds that.
    assert correlation(list(enumerate(enrolled))) == pytest.approx(1)
