"""A round's budget leaves it once, to its epoch or back; an epoch pays each batch once."""

import pytest

from ledger.contracts.tree import Tree, batch_leaf
from tests.ledger.contracts.machine import DAY, NOBODY, START, address, hexed, reverts

FUNDER, COORDINATOR, STRANGER = address("funder"), address("coordinator"), address("stranger")
SITES = [address(f"site {i}") for i in range(5)]
BUDGET = 10_000 * 10**18
DEADLINE = START + 30 * DAY
TERMS, EVIDENCE, REASON = b"t" * 32, b"e" * 32, b"r" * 32
GOING = ["open", "committed", "revealed", "aggregated", "scored", "closed"]
STATES = ["none", *GOING, "settled", "aborted"]
EPOCHS = ["none", "settled", "paid", "refunded"]


@pytest.fixture
def escrow(machine, btt, fund):
    escrow = machine.deploy("StudyEscrow", btt.address, address("admin"))
    fund("funder", 3 * BUDGET, escrow)
    return escrow


@pytest.fixture
def at(escrow):
    """Lead a round into a state, and return its id."""

    def lead(state, number=1, coordinator=COORDINATOR, funder=FUNDER):
        label = number.to_bytes(32, "big")
        round_ = escrow.roundOf(funder, label)
        if state == "none":
            return round_
        opened = escrow.openRound(label, coordinator, BUDGET, DEADLINE, TERMS, sender=funder)
        assert opened.value == round_
        assert opened.events[0] == (
            "RoundOpened",
            round_,
            hexed(funder),
            hexed(coordinator),
            label,
            BUDGET,
            DEADLINE,
            TERMS,
        )
        if state == "aborted":
            escrow.abort(round_, REASON, sender=coordinator)
            return round_
        until = min(STATES.index(state), STATES.index("closed"))
        for step in range(2, until + 1):
            done = escrow.advance(round_, step, EVIDENCE, sender=coordinator)
            assert done.events == [("RoundAdvanced", round_, step, EVIDENCE)]
        if state == "settled":
            escrow.settle(b"s" * 32, [round_], b"x" * 32, 1, sender=coordinator)
        assert escrow.roundAt(round_)[2] == STATES.index(state)
        return round_

    return lead


@pytest.mark.parametrize("state", STATES)
def test_each_state_leads_to_the_next_alone(escrow, at, state):
    round_ = at(state)
    here = STATES.index(state)
    party = COORDINATOR if state != "none" else NOBODY
    for target in range(len(STATES)):
        if target == here + 1 and state not in {"none", "closed", "settled"}:
            continue
        with reverts("RoundMisplaced", round_, here):
            escrow.advance(round_, target, EVIDENCE, sender=party)
    if state in {"none", "settled", "aborted"}:
        with reverts("RoundMisplaced", round_, here):
            escrow.abort(round_, REASON, sender=COORDINATOR)
    if state != "closed":
        with reverts("RoundMisplaced", round_, here):
            escrow.settle(b"o" * 32, [round_], b"x" * 32, 1, sender=COORDINATOR)
    if state != "none":
        with reverts("RoundOpenedAlready", round_):
            at("open")


@pytest.mark.parametrize("state", GOING)
def test_a_round_aborted_is_refunded(machine, btt, escrow, at, state):
    round_ = at(state)
    assert escrow.held() == btt.balanceOf(escrow.address) == BUDGET
    with reverts("NotTheParty", hexed(STRANGER)):
        escrow.abort(round_, REASON, sender=STRANGER)
    machine.now = DEADLINE
    done = escrow.abort(round_, REASON, sender=STRANGER)
    assert done.events == [("RoundAborted", round_, BUDGET, REASON)]
    assert (btt.balanceOf(FUNDER), escrow.held()) == (3 * BUDGET, 0)


def test_a_round_goes_on_only_in_time_by_its_coordinator_and_with_evidence(machine, escrow, at):
    round_ = at("open")
    with reverts("NotTheParty", hexed(FUNDER)):
        escrow.advance(round_, 2, EVIDENCE, sender=FUNDER)
    with reverts("EvidenceMissing"):
        escrow.advance(round_, 2, bytes(32), sender=COORDINATOR)
    machine.now = DEADLINE
    with reverts("RoundOverdue", round_):
        escrow.advance(round_, 2, EVIDENCE, sender=COORDINATOR)


def test_a_round_needs_a_budget_that_is_there_and_a_deadline_ahead(escrow, btt):
    with reverts("AmountOutOfRange"):
        escrow.openRound(TERMS, COORDINATOR, 0, DEADLINE, TERMS, sender=FUNDER)
    with reverts("TimeOutOfRange", START):
        escrow.openRound(TERMS, COORDINATOR, 1, START, TERMS, sender=FUNDER)
    with reverts("ERC20InsufficientAllowance"):
        escrow.openRound(TERMS, COORDINATOR, 1, DEADLINE, TERMS, sender=STRANGER)


@pytest.fixture
def epoch(escrow, at):
    """Two rounds settled as an epoch of three batches: 600, 300, 100 of 1,000."""
    rounds = [at("closed", 1), at("closed", 2)]
    name = escrow.epochOf(COORDINATOR, b"e" * 32)
    batches = [
        [(SITES[0], 400), (SITES[1], 200)],
        [(SITES[2], 300)],
        [(SITES[3], 60), (SITES[4], 40)],
    ]
    tree = Tree([batch_leaf(name, i, batch) for i, batch in enumerate(batches)])
    done = escrow.settle(b"e" * 32, rounds, tree.root, 1_000, sender=COORDINATOR)
    assert done.value == name
    assert done.events == [
        ("RoundSettled", rounds[0], name),
        ("RoundSettled", rounds[1], name),
        ("EpochSettled", name, b"e" * 32, tree.root, 1_000, 2 * BUDGET - 1_000),
    ]
    return name, batches, tree


def test_the_leaf_of_a_batch_is_that_of_the_contract(escrow):
    for batch in ([(SITES[0], 1)], [(site, 2**96 - i) for i, site in enumerate(SITES)]):
        assert escrow.batchLeaf(b"x" * 32, 7, batch) == batch_leaf(b"x" * 32, 7, batch)


def test_an_epoch_pays_its_batches_and_refunds_the_rest(btt, escrow, epoch):
    name, batches, tree = epoch
    assert btt.balanceOf(FUNDER) == 3 * BUDGET - 1_000
    for i in (2, 0, 1):
        assert not escrow.batchPaid(name, i)
        done = escrow.pay(name, i, batches[i], tree.path(i), sender=STRANGER)
        assert done.events[0] == ("EpochBatchPaid", name, i, sum(a for _, a in batches[i]))
        assert escrow.batchPaid(name, i)
    assert done.events[1] == ("EpochPaid", name)
    assert [btt.balanceOf(site) for site in SITES] == [400, 200, 300, 60, 40]
    assert escrow.held() == btt.balanceOf(escrow.address) == 0
    with reverts("EpochMisplaced", name, EPOCHS.index("paid")):
        escrow.pay(name, 0, batches[0], tree.path(0))
    with reverts("EpochMisplaced", name, EPOCHS.index("paid")):
        escrow.reclaim(name)


def test_a_batch_is_paid_once(escrow, epoch):
    name, batches, tree = epoch
    escrow.pay(name, 0, batches[0], tree.path(0))
    with reverts("BatchPaidAlready", name, 0):
        escrow.pay(name, 0, batches[0], tree.path(0))


def test_a_batch_that_is_not_under_the_root_is_refused(escrow, epoch):
    name, batches, tree = epoch
    for number, batch in [(1, batches[0]), (0, [(STRANGER, 600)]), (0, batches[1])]:
        with reverts("BatchUnproven", name, number):
            escrow.pay(name, number, batch, tree.path(0))


def test_what_an_epoch_does_not_pay_in_time_returns_to_the_funder(machine, btt, escrow, epoch):
    name, batches, tree = epoch
    escrow.pay(name, 1, batches[1], tree.path(1))
    machine.now += escrow.PAYMENT_MAX()
    with reverts("PaymentOpen", name):
        escrow.reclaim(name)
    machine.now += 1
    assert escrow.reclaim(name, sender=STRANGER).events == [("EpochRefunded", name, 700)]
    assert btt.balanceOf(FUNDER) == 3 * BUDGET - 300
    assert escrow.epochAt(name)[2] == EPOCHS.index("refunded")
    with reverts("EpochMisplaced"):
        escrow.pay(name, 0, batches[0], tree.path(0))
    with reverts("EpochMisplaced"):
        escrow.reclaim(name)


def test_batches_above_the_total_are_not_paid(btt, escrow, at):
    name = escrow.epochOf(COORDINATOR, b"e" * 32)
    batches = [[(SITES[0], 600)], [(SITES[1], 600)]]
    tree = Tree([batch_leaf(name, i, batch) for i, batch in enumerate(batches)])
    escrow.settle(b"e" * 32, [at("closed")], tree.root, 1_000, sender=COORDINATOR)
    escrow.pay(name, 0, batches[0], tree.path(0))
    with reverts("EpochOverspent", 600, 400):
        escrow.pay(name, 1, batches[1], tree.path(1))


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        ([], "CountOutOfRange"),
        ([(SITES[0], 1)] * 251, "CountOutOfRange"),
        ([(NOBODY, 1)], "PayoutMalformed"),
        ([(SITES[0], 0)], "PayoutMalformed"),
    ],
)
def test_a_malformed_batch_is_refused_even_under_the_root(escrow, at, batch, error):
    assert escrow.BATCH_MAX() == 250
    name = escrow.epochOf(COORDINATOR, b"e" * 32)
    root = Tree([batch_leaf(name, 0, batch)]).root
    escrow.settle(b"e" * 32, [at("closed")], root, 1_000, sender=COORDINATOR)
    with reverts(error):
        escrow.pay(name, 0, batch, [])


@pytest.mark.parametrize("total", [0, BUDGET + 1])
def test_a_total_of_nothing_or_above_the_budgets_is_not_settled(escrow, at, total):
    with reverts("AmountOutOfRange", total, BUDGET):
        escrow.settle(b"e" * 32, [at("closed")], b"x" * 32, total, sender=COORDINATOR)


def test_what_cannot_be_settled_is_refused(machine, btt, escrow, at, fund):
    mine, theirs = at("closed", 1), at("closed", 2, coordinator=STRANGER)
    with reverts("RoundOfAnother", theirs):
        escrow.settle(b"e" * 32, [mine, theirs], b"x" * 32, 1, sender=COORDINATOR)
    fund("other funder", BUDGET, escrow)
    others = at("closed", 3, funder=address("other funder"))
    with reverts("RoundOfAnother", others):
        escrow.settle(b"e" * 32, [mine, others], b"x" * 32, 1, sender=COORDINATOR)
    with reverts("RoundMisplaced", mine, STATES.index("settled")):
        escrow.settle(b"e" * 32, [mine, mine], b"x" * 32, 1, sender=COORDINATOR)
    with reverts("EvidenceMissing"):
        escrow.settle(b"e" * 32, [mine], bytes(32), 1, sender=COORDINATOR)
    for rounds in ([], [mine] * 51):
        with reverts("CountOutOfRange", len(rounds), escrow.ROUNDS_MAX()):
            escrow.settle(b"e" * 32, rounds, b"x" * 32, 1, sender=COORDINATOR)
    escrow.settle(b"e" * 32, [mine], b"x" * 32, 1, sender=COORDINATOR)
    with reverts("EpochSettledAlready", escrow.epochOf(COORDINATOR, b"e" * 32)):
        escrow.settle(b"e" * 32, [mine], b"x" * 32, 1, sender=COORDINATOR)


def test_an_overdue_round_is_not_settled(machine, escrow, at):
    round_ = at("closed")
    machine.now = DEADLINE
    with reverts("RoundOverdue", round_):
        escrow.settle(b"e" * 32, [round_], b"x" * 32, 1, sender=COORDINATOR)


def test_an_unknown_epoch_pays_nothing(escrow):
    with reverts("EpochMisplaced", b"u" * 32, EPOCHS.index("none")):
        escrow.pay(b"u" * 32, 0, [(SITES[0], 1)], [])
