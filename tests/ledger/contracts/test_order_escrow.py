"""An order ends once: paid after a delivery proof, refunded, or split by the arbiter."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ledger.contracts.machine import (
    DAY,
    NOBODY,
    START,
    address,
    hexed,
    reverts,
)

BUYER, PROVIDER, PLATFORM = address("buyer"), address("provider"), address("platform")
COMMITTEE, ARBITER, ADMIN = address("committee"), address("arbiter"), address("admin")
STRANGER = address("stranger")
PRICE = 1_000 * 10**18
PAYOUTS = [(PROVIDER, PRICE * 985 // 1000), (PLATFORM, PRICE * 15 // 1000)]
LABEL, TERMS, PROOF, REASON = b"l" * 32, b"t" * 32, b"p" * 32, b"r" * 32
EXPIRY = START + 10 * DAY
STATES = [
    "none",
    "draft",
    "quoted",
    "held",
    "approved",
    "delivering",
    "delivered",
    "disputed",
    "captured",
    "refunded",
    "split",
]


@pytest.fixture
def escrow(machine, btt, fund):
    escrow = machine.deploy("StudyEscrow", btt.address, ADMIN)
    escrow.grantRole(escrow.COMMITTEE_ROLE(), COMMITTEE, sender=ADMIN)
    escrow.grantRole(escrow.ARBITER_ROLE(), ARBITER, sender=ADMIN)
    fund("buyer", PRICE, escrow)
    return escrow


@pytest.fixture
def at(machine, escrow):
    """Lead an order into a state, and return its id."""

    def lead(state, payouts=PAYOUTS, label=LABEL):
        order = escrow.orderOf(BUYER, label)
        way = {
            "draft": lambda: escrow.draft(label, PROVIDER, sender=BUYER),
            "quoted": lambda: escrow.quote(order, payouts, TERMS, EXPIRY, sender=PROVIDER),
            "held": lambda: escrow.hold(order, sender=BUYER),
            "approved": lambda: escrow.approve(order, sender=COMMITTEE),
            "delivering": lambda: escrow.startDelivery(order, sender=PROVIDER),
            "delivered": lambda: escrow.deliver(order, PROOF, sender=PROVIDER),
            "disputed": lambda: escrow.dispute(order, REASON, sender=BUYER),
        }
        price = sum(amount for _, amount in payouts)
        last = {
            "captured": ("delivered", lambda: escrow.capture(order, payouts, sender=BUYER)),
            "refunded": ("held", lambda: escrow.deny(order, REASON, sender=COMMITTEE)),
            "split": (
                "disputed",
                lambda: escrow.resolve(order, price // 2, payouts, sender=ARBITER),
            ),
        }
        until = last[state][0] if state in last else state
        if until != "none":
            for step, act in way.items():
                act()
                if step == until:
                    break
        if state in last:
            last[state][1]()
        assert STATES[escrow.orderAt(order)[2]] == state
        return order

    return lead


def state_of(escrow, order):
    return STATES[escrow.orderAt(order)[2]]


STEPS = {
    "quote": (PROVIDER, lambda o: (o, PAYOUTS, TERMS, EXPIRY), {"draft"}),
    "hold": (BUYER, lambda o: (o,), {"quoted"}),
    "approve": (COMMITTEE, lambda o: (o,), {"held"}),
    "deny": (COMMITTEE, lambda o: (o, REASON), {"held"}),
    "startDelivery": (PROVIDER, lambda o: (o,), {"approved"}),
    "deliver": (PROVIDER, lambda o: (o, PROOF), {"delivering"}),
    "fail": (PROVIDER, lambda o: (o, REASON), {"held", "approved", "delivering"}),
    "capture": (BUYER, lambda o: (o, PAYOUTS), {"delivered"}),
    "dispute": (BUYER, lambda o: (o, REASON), {"delivered"}),
    "resolve": (ARBITER, lambda o: (o, 1, PAYOUTS), {"disputed"}),
}


@pytest.mark.parametrize("state", STATES)
def test_each_state_allows_its_steps_and_no_others(machine, btt, escrow, at, state):
    order = at(state)
    held, kept = escrow.held(), btt.balanceOf(escrow.address)
    for step, (who, arguments, allowed) in STEPS.items():
        if state not in allowed:
            with reverts("OrderMisplaced", order, STATES.index(state)):
                getattr(escrow, step)(*arguments(order), sender=who)
    if state not in {"held", "approved", "delivering"}:
        with reverts("OrderMisplaced"):
            escrow.expire(order)
    if state != "disputed":
        with reverts("OrderMisplaced"):
            escrow.lapse(order)
    if state != "none":
        with reverts("OrderDraftedAlready", order):
            escrow.draft(LABEL, PROVIDER, sender=BUYER)
    assert (escrow.held(), btt.balanceOf(escrow.address)) == (held, kept)


def test_a_delivered_order_is_paid_as_quoted_with_an_event_for_each_step(machine, btt, escrow, at):
    order = escrow.orderOf(BUYER, LABEL)
    hexes = [(hexed(who), amount) for who, amount in PAYOUTS]
    steps = [
        (
            escrow.draft(LABEL, PROVIDER, sender=BUYER),
            ("OrderDrafted", order, hexed(BUYER), hexed(PROVIDER), LABEL),
        ),
        (
            escrow.quote(order, PAYOUTS, TERMS, EXPIRY, sender=PROVIDER),
            ("OrderQuoted", order, PRICE, TERMS, EXPIRY, tuple(hexes)),
        ),
        (escrow.hold(order, sender=BUYER), ("OrderHeld", order, PRICE)),
    ]
    assert escrow.held() == btt.balanceOf(escrow.address) == PRICE
    steps += [
        (escrow.approve(order, sender=COMMITTEE), ("OrderApproved", order, hexed(COMMITTEE))),
        (escrow.startDelivery(order, sender=PROVIDER), ("OrderDelivering", order)),
        (escrow.deliver(order, PROOF, sender=PROVIDER), ("OrderDelivered", order, PROOF)),
        (escrow.capture(order, PAYOUTS, sender=BUYER), ("OrderCaptured", order, PRICE)),
    ]
    for done, event in steps:
        assert done.events == [event]
    assert steps[0][0].value == order
    assert [btt.balanceOf(who) for who, _ in PAYOUTS] == [amount for _, amount in PAYOUTS]
    assert escrow.held() == btt.balanceOf(escrow.address) == 0
    assert escrow.orderAt(order)[7] == PROOF


@pytest.mark.parametrize(
    ("state", "step"),
    [("held", "deny"), ("held", "fail"), ("approved", "fail"), ("delivering", "fail")],
)
def test_what_is_denied_or_fails_is_refunded(btt, escrow, at, state, step):
    order = at(state)
    who, arguments, _ = STEPS[step]
    done = getattr(escrow, step)(*arguments(order), sender=who)
    assert done.events == [("OrderRefunded", order, PRICE, REASON)]
    assert (btt.balanceOf(BUYER), escrow.held()) == (PRICE, 0)


@pytest.mark.parametrize("state", ["held", "approved", "delivering"])
def test_what_is_not_delivered_in_time_is_refunded_by_anybody(machine, btt, escrow, at, state):
    order = at(state)
    with reverts("OrderNotExpired", order):
        escrow.expire(order, sender=STRANGER)
    machine.now = EXPIRY
    done = escrow.expire(order, sender=STRANGER)
    assert done.events == [("OrderRefunded", order, PRICE, b"expired".ljust(32, b"\0"))]
    assert btt.balanceOf(BUYER) == PRICE


@pytest.mark.parametrize(
    ("state", "step"),
    [
        ("quoted", "hold"),
        ("held", "approve"),
        ("approved", "startDelivery"),
        ("delivering", "deliver"),
    ],
)
def test_an_expired_order_goes_no_further(machine, escrow, at, state, step):
    order = at(state)
    machine.now = EXPIRY
    who, arguments, _ = STEPS[step]
    with reverts("OrderExpired", order):
        getattr(escrow, step)(*arguments(order), sender=who)


@pytest.mark.parametrize(
    ("state", "step"),
    [
        ("draft", "quote"),
        ("quoted", "hold"),
        ("approved", "startDelivery"),
        ("delivering", "deliver"),
        ("held", "fail"),
        ("delivered", "dispute"),
    ],
)
def test_only_the_party_takes_its_step(escrow, at, state, step):
    order = at(state)
    with reverts("NotTheParty", hexed(STRANGER)):
        getattr(escrow, step)(*STEPS[step][1](order), sender=STRANGER)


@pytest.mark.parametrize(
    ("state", "step"), [("held", "approve"), ("held", "deny"), ("disputed", "resolve")]
)
def test_only_committee_and_arbiter_decide(escrow, at, state, step):
    order = at(state)
    with reverts("AccessControlUnauthorizedAccount"):
        getattr(escrow, step)(*STEPS[step][1](order), sender=BUYER)


def test_nothing_is_delivered_without_a_proof(escrow, at):
    order = at("delivering")
    with reverts("EvidenceMissing"):
        escrow.deliver(order, bytes(32), sender=PROVIDER)


def test_within_72_hours_only_the_buyer_captures_and_later_anybody(machine, btt, escrow, at):
    order = at("delivered")
    machine.now += escrow.DISPUTE_WINDOW()
    with reverts("DisputeWindowOpen", order):
        escrow.capture(order, PAYOUTS, sender=PROVIDER)
    machine.now += 1
    with reverts("DisputeWindowOver", order):
        escrow.dispute(order, REASON, sender=BUYER)
    escrow.capture(order, PAYOUTS, sender=STRANGER)
    assert btt.balanceOf(PROVIDER) == PAYOUTS[0][1]


def test_other_payouts_than_those_quoted_are_refused(escrow, at):
    order = at("delivered")
    with reverts("PayoutsDiffer", order):
        escrow.capture(order, [(STRANGER, PRICE)], sender=BUYER)
    escrow.dispute(order, REASON, sender=BUYER)
    with reverts("PayoutsDiffer", order):
        escrow.resolve(order, 0, PAYOUTS[::-1], sender=ARBITER)


def test_the_last_second_of_72_hours_still_disputes(machine, escrow, at):
    order = at("delivered")
    machine.now += 72 * 3600
    assert escrow.dispute(order, REASON, sender=BUYER).events == [("OrderDisputed", order, REASON)]
    with reverts("OrderMisplaced"):
        escrow.capture(order, PAYOUTS, sender=BUYER)


@pytest.mark.parametrize(
    ("refund", "state"), [(0, "captured"), (PRICE, "refunded"), (1, "split"), (PRICE - 1, "split")]
)
def test_the_arbiter_captures_refunds_or_splits(btt, escrow, at, refund, state):
    order = at("disputed")
    done = escrow.resolve(order, refund, PAYOUTS, sender=ARBITER)
    assert state_of(escrow, order) == state
    paid = sum(btt.balanceOf(who) for who, _ in PAYOUTS)
    assert paid + btt.balanceOf(BUYER) == PRICE
    assert escrow.held() == btt.balanceOf(escrow.address) == 0
    assert (
        done.events
        == {
            "captured": [("OrderCaptured", order, PRICE)],
            "refunded": [("OrderRefunded", order, PRICE, b"resolved".ljust(32, b"\0"))],
            "split": [("OrderSplit", order, paid, PRICE - paid)],
        }[state]
    )


def test_more_than_the_price_is_not_refunded(escrow, at):
    order = at("disputed")
    with reverts("RefundTooLarge", PRICE + 1, PRICE):
        escrow.resolve(order, PRICE + 1, PAYOUTS, sender=ARBITER)


def test_a_dispute_nobody_decides_is_refunded(machine, btt, escrow, at):
    order = at("disputed")
    machine.now += escrow.ARBITRATION_MAX()
    with reverts("ArbitrationOpen", order):
        escrow.lapse(order, sender=BUYER)
    machine.now += 1
    done = escrow.lapse(order, sender=STRANGER)
    assert done.events == [("OrderRefunded", order, PRICE, b"lapsed".ljust(32, b"\0"))]
    assert btt.balanceOf(BUYER) == PRICE


@settings(
    deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    amounts=st.lists(st.integers(1, PRICE // 16), min_size=1, max_size=5),
    part=st.integers(1, 999),
)
def test_a_split_gives_away_the_price_to_the_base_unit(btt, escrow, at, amounts, part):
    escrow.machine.now = START
    price = sum(amounts)
    payouts = [(address(f"payee {i}"), amount) for i, amount in enumerate(amounts)]
    label = escrow.machine.vm.state.get_nonce(BUYER).to_bytes(32, "big")  # not used before
    btt.transfer(BUYER, price, sender=address("treasury"))
    order = at("disputed", payouts, label)
    before = [btt.balanceOf(who) for who, _ in payouts]
    buyer = btt.balanceOf(BUYER)
    refund = price * part // 1000
    escrow.resolve(order, refund, payouts, sender=ARBITER)
    got = [btt.balanceOf(who) - had for (who, _), had in zip(payouts, before, strict=True)]
    assert got == [amount * (price - refund) // price for amount in amounts]
    assert btt.balanceOf(BUYER) - buyer == price - sum(got) >= refund
    assert btt.balanceOf(escrow.address) == 0


@pytest.mark.parametrize(
    ("payout", "error"),
    [((NOBODY, 1), "PayoutMalformed"), ((PROVIDER, 0), "PayoutMalformed")],
)
def test_malformed_payouts_are_not_quoted(escrow, at, payout, error):
    order = at("draft")
    with reverts(error, 1):
        escrow.quote(order, [(PROVIDER, 1), payout], TERMS, EXPIRY, sender=PROVIDER)


def test_the_escrow_itself_is_no_payee(escrow, at):
    order = at("draft")
    with reverts("PayoutMalformed", 0):
        escrow.quote(order, [(escrow.address, 1)], TERMS, EXPIRY, sender=PROVIDER)


@pytest.mark.parametrize("count", [0, 17])
def test_a_quote_has_one_to_sixteen_payees(escrow, at, count):
    order = at("draft")
    with reverts("CountOutOfRange", count, escrow.PAYEES_MAX()):
        escrow.quote(order, [(PROVIDER, 1)] * count, TERMS, EXPIRY, sender=PROVIDER)


def test_a_sum_past_256_bits_is_no_price(escrow, at):
    order = at("draft")
    with reverts("Panic", 0x11):
        escrow.quote(order, [(PROVIDER, 2**256 - 1)] * 2, TERMS, EXPIRY, sender=PROVIDER)


def test_an_expiry_lies_ahead_and_not_too_far(escrow, at):
    order = at("draft")
    for expiry in (START, START + escrow.DURATION_MAX() + 1):
        with reverts("TimeOutOfRange", expiry):
            escrow.quote(order, PAYOUTS, TERMS, expiry, sender=PROVIDER)


def test_what_the_buyer_does_not_have_is_not_held(btt, escrow, at):
    order = at("quoted")
    btt.transfer(STRANGER, 1, sender=BUYER)
    with reverts("ERC20InsufficientBalance"):
        escrow.hold(order, sender=BUYER)
    assert (state_of(escrow, order), escrow.held()) == ("quoted", 0)


def test_nobody_can_take_anothers_label(escrow):
    escrow.draft(LABEL, PROVIDER, sender=STRANGER)
    escrow.draft(LABEL, PROVIDER, sender=BUYER)


def test_the_admin_appoints_and_dismisses(escrow):
    role = escrow.COMMITTEE_ROLE()
    done = escrow.grantRole(role, STRANGER, sender=ADMIN)
    assert done.events == [("RoleGranted", role, hexed(STRANGER), hexed(ADMIN))]
    assert escrow.hasRole(role, STRANGER)
    assert escrow.getRoleAdmin(role) == escrow.DEFAULT_ADMIN_ROLE()
    done = escrow.revokeRole(role, STRANGER, sender=ADMIN)
    assert done.events == [("RoleRevoked", role, hexed(STRANGER), hexed(ADMIN))]
    with reverts("AccessControlBadConfirmation"):
        escrow.renounceRole(role, COMMITTEE, sender=STRANGER)
    escrow.renounceRole(role, COMMITTEE, sender=COMMITTEE)
    with reverts("AccessControlUnauthorizedAccount"):
        escrow.grantRole(role, STRANGER, sender=STRANGER)
    assert escrow.supportsInterface(bytes.fromhex("7965db0b"))  # IAccessControl


def test_a_token_that_calls_back_finds_the_door_shut(machine):
    """Asked to move, it calls ``hold`` again."""
    escrow = machine.deploy("StudyEscrow", address("placed"), ADMIN)
    order = escrow.orderOf(BUYER, LABEL)
    (entry,) = [one for one in escrow.abi if one.get("name") == "hold"]
    machine.place(calling_back(escrow.encoded(entry, (order,))))
    escrow.draft(LABEL, PROVIDER, sender=BUYER)
    escrow.quote(order, PAYOUTS, TERMS, EXPIRY, sender=PROVIDER)
    with reverts("ReentrancyGuardReentrantCall"):
        escrow.hold(order, sender=BUYER)


def calling_back(data):
    """Code that calls its caller with ``data``, and reverts with what that reverts with."""
    copy = "60{size:02x}60{start:02x}5f39"  # data, which follows the code, to memory 0
    call = "5f5f60{size:02x}5f5f335af1"
    give_up = "3d5f5f3e3d5ffd"
    code = copy + call + give_up
    size = len(bytes.fromhex(code.format(size=0, start=0)))
    return bytes.fromhex(code.format(size=len(data), start=size)) + data
