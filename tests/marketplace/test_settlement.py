"""A closed round is paid once, in full and in order, or not at all."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import chart, tokenomics
from ledger.books import Ledger
from ledger.escrow import EscrowEnded, UnknownEscrow, escrow_of
from ledger.journal import IdempotencyConflict
from marketplace.settlement import (
    GradientsUnproven,
    ReceiptRepeated,
    RoundMisplaced,
    ServerUnknown,
    SiteUnregistered,
    finish,
    receipts_hash,
    settle,
)
from marketplace.study import Study, fund
from privacy.signatures import BadSignature
from protocol.ids import StudyId
from protocol.units import TOTAL_SUPPLY

STRANGER_KEY = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


@pytest.fixture
def settled(ledger, study, signers, now):
    """Settle a round into the ledger of the test."""

    def settled(closed, *, into=ledger, terms=study):
        keys = {"site_keys": signers.site_keys, "server_key": signers.server_key}
        return settle(into, terms, closed, **keys, now=now)

    return settled


def test_sites_and_their_patients_are_paid_by_gradients(ledger, settled, signers):
    closed = signers.close({"north": 50, "south": 100, "west": 17})
    settlement = settled(closed)
    assert [(p.site, p.hospital, p.patients) for p in settlement.payouts] == [
        ("north", 70, 30),
        ("south", 140, 60),
        ("west", 24, 10),
    ]
    assert settlement.paid == 334
    assert receipts_hash(closed) in settlement.transfer.memo
    assert ledger.balances("pool:") == {
        "pool:study:north": 30,
        "pool:study:south": 60,
        "pool:study:west": 10,
    }
    assert ledger.balance(chart.wallet("south")) == 140
    assert escrow_of(ledger, "study").remaining == 666
    ledger.verify()


gradients = st.dictionaries(
    st.sampled_from(["north", "south", "west"]), st.integers(0, 5) | st.integers(0, 2**40)
)


@settings(max_examples=15, deadline=None)
@given(
    rounds=st.lists(gradients, min_size=1, max_size=4),
    terms=st.tuples(st.integers(4, 60) | st.integers(4, 10**24), st.integers(0, 100)),
)
def test_what_leaves_the_escrow_arrives_and_the_rest_returns(
    tmp_path_factory, signers, now, rounds, terms
):
    budget, percent = terms
    ledger = Ledger(tmp_path_factory.mktemp("books") / "ledger.db")
    ledger.genesis(tokenomics.load().allocation, now=now)
    buyer = chart.treasury("ecosystem")
    before = ledger.balance(buyer)
    study = Study(StudyId("study"), buyer, budget, len(rounds), percent)
    fund(ledger, study, now=now)
    keys = {"site_keys": signers.site_keys, "server_key": signers.server_key}
    paid = 0
    for number, weights in enumerate(rounds, start=1):
        closed = signers.close(weights, number)
        settlement = settle(ledger, study, closed, **keys, now=now)
        assert settle(ledger, study, closed, **keys, now=now) == settlement
        assert settlement.paid == (study.round_budget(number) if any(weights.values()) else 0)
        for payout in settlement.payouts:
            share = payout.hospital + payout.patients
            assert payout.patients == share * percent // 100
        paid += settlement.paid
    finish(ledger, study, now=now)
    arrived = sum(ledger.balances("wallet:").values()) + sum(ledger.balances("pool:").values())
    assert arrived == paid
    assert ledger.balance(buyer) == before - paid
    assert escrow_of(ledger, "study").remaining == 0
    assert ledger.verify().supply == TOTAL_SUPPLY
    ledger.close()


def test_settling_again_pays_nothing_more(ledger, settled, signers):
    closed = signers.close({"north": 1, "south": 2})
    first = settled(closed)
    before = ledger.balances()
    turned = closed.model_copy(update={"receipts": closed.receipts[::-1]})
    assert settled(closed) == settled(turned) == first
    assert ledger.balances() == before


def test_other_receipts_for_a_paid_round_are_refused(ledger, settled, signers):
    settled(signers.close({"north": 1, "south": 2}))
    before = ledger.balances()
    with pytest.raises(IdempotencyConflict):
        settled(signers.close({"north": 2, "south": 1}))
    with pytest.raises(IdempotencyConflict):
        settled(signers.close({"north": 2, "south": 4}))
    assert ledger.balances() == before


@pytest.mark.parametrize("gradients", [{}, {"north": 0, "south": 0}])
def test_a_round_without_contribution_is_not_paid(ledger, settled, signers, gradients):
    settlement = settled(signers.close(gradients))
    assert (settlement.paid, settlement.payouts, settlement.transfer) == (0, (), None)
    assert escrow_of(ledger, "study").remaining == 1000


def refusals(signers):
    """What is wrong with a round, the round, and how it is refused."""
    good = signers.receipt("north", 5)
    tampered = good.model_copy(update={"gradients": 500})
    resigned = signers.receipt("north", 5, signer=STRANGER_KEY)
    uncountersigned = signers.receipt("north", 5, server=STRANGER_KEY)
    unsigned = good.model_copy(update={"site_signature": b"", "server_signature": b""})
    other_key = signers.receipt("north", 5, signer=STRANGER_KEY, site_key=raw(STRANGER_KEY))
    south = signers.receipt("south", 5)
    closed = signers.closed
    return {
        "gradients changed after signing": (closed([south, tampered]), BadSignature),
        "signed by a stranger": (closed([south, resigned]), BadSignature),
        "countersigned by a stranger": (closed([south, uncountersigned]), BadSignature),
        "not signed": (closed([south, unsigned]), BadSignature),
        "under a key of its own": (closed([south, other_key]), SiteUnregistered),
        "from an unknown site": (
            closed([south, signers.receipt("east", 5, signer=STRANGER_KEY)]),
            SiteUnregistered,
        ),
        "the same site twice": (closed([south, good, south]), ReceiptRepeated),
        "of another round": (closed([signers.receipt("north", 5, round=2)]), RoundMisplaced),
        "of another study": (closed([signers.receipt("north", 5, study="other")]), RoundMisplaced),
        "a round of another study": (closed([south], study="other"), RoundMisplaced),
        "a round past the last": (signers.close({"north": 1}, 4), RoundMisplaced),
        "closed by another server": (
            closed([south], server_key=raw(STRANGER_KEY)),
            ServerUnknown,
        ),
        "gradients of nobody": (
            closed([south, signers.receipt("north", 5, proven_patients=0)]),
            GradientsUnproven,
        ),
    }


def raw(key):
    return key.public_key().public_bytes_raw()


REFUSALS = [
    "gradients changed after signing",
    "signed by a stranger",
    "countersigned by a stranger",
    "not signed",
    "under a key of its own",
    "from an unknown site",
    "the same site twice",
    "of another round",
    "of another study",
    "a round of another study",
    "a round past the last",
    "closed by another server",
    "gradients of nobody",
]


@pytest.mark.parametrize("wrong", REFUSALS)
def test_one_receipt_out_of_order_and_nobody_is_paid(ledger, settled, signers, wrong):
    cases = refusals(signers)
    assert list(cases) == REFUSALS
    closed, refusal = cases[wrong]
    before = ledger.balances()
    with pytest.raises(refusal):
        settled(closed)
    assert ledger.balances() == before


def test_a_study_nobody_funded_is_not_settled(unfunded, study, signers, now):
    keys = {"site_keys": signers.site_keys, "server_key": signers.server_key}
    with pytest.raises(UnknownEscrow):
        settle(unfunded, study, signers.close({"north": 1}), **keys, now=now)
    with pytest.raises(UnknownEscrow):
        finish(unfunded, study, now=now)


def test_finishing_returns_what_no_round_earned_once(ledger, settled, study, signers, now):
    settled(signers.close({"north": 1}))
    settled(signers.close({}, 2))
    refund = finish(ledger, study, now=now)
    assert finish(ledger, study, now=now) == refund
    assert ledger.balance(study.funder) == 500 + 666
    with pytest.raises(EscrowEnded):
        settled(signers.close({"north": 1}, 3))
    assert settled(signers.close({"north": 1})).paid == 334


def test_finishing_a_study_that_used_its_budget_returns_nothing(
    ledger, settled, study, signers, now
):
    for number in (1, 2, 3):
        settled(signers.close({"north": 1, "west": 3}, number))
    assert finish(ledger, study, now=now) is None
    assert escrow_of(ledger, "study").state == "captured"
    ledger.verify()
