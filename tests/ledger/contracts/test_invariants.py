"""Whatever parties do in whatever order, the contracts conserve every base unit."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger.contracts.tree import Tree, batch_leaf, claim_leaf
from tests.ledger.contracts.machine import (
    DAY,
    SUPPLY,
    Machine,
    Reverted,
    address,
    deploy_btt,
)

pytestmark = pytest.mark.slow

PARTIES = [address(f"party {i}") for i in range(4)]
WHO = st.sampled_from(PARTIES)
AMOUNT = st.integers(0, 2_000)
ROLE = address("role")
EACH = 10**6
FEW = settings(
    deadline=None,
    max_examples=5,
    stateful_step_count=20,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FEW, max_examples=25, stateful_step_count=50)
# The steps of an order and who takes them; and which lead on from a state.
STEPS = {
    "approve": "role",
    "deny": "role",
    "startDelivery": "provider",
    "deliver": "provider",
    "fail": "provider",
    "expire": "role",
    "capture": "buyer",
    "dispute": "buyer",
    "resolve": "role",
    "lapse": "role",
    "hold": "buyer",
}
LIKELY = {
    3: ["approve", "approve", "approve", "deny", "expire"],
    4: ["startDelivery", "startDelivery", "fail"],
    5: ["deliver", "deliver", "expire"],
    6: ["capture", "dispute"],
    7: ["resolve", "resolve", "lapse"],
}


class Conserving(RuleBasedStateMachine):
    """A chain with BTT, parties who hold it, and one contract that takes it."""

    def start(self, name, *arguments):
        self.machine = Machine()
        holders = dict.fromkeys(PARTIES, EACH) | {address("treasury"): SUPPLY - 4 * EACH}
        self.btt = deploy_btt(self.machine, holders)
        self.contract = self.machine.deploy(name, self.btt.address, *arguments, ROLE)
        for party in PARTIES:
            self.btt.approve(self.contract.address, SUPPLY, sender=party)
        self.burned = 0

    def attempt(self, act, *arguments, sender):
        """Act, or be refused without a trace; return whether it was done."""
        try:
            return act(*arguments, sender=sender)
        except Reverted as refusal:
            assert refusal.error != "Panic", refusal
            return None

    @rule(days=st.sampled_from([0, 0, 1, 3, 6, 22, 31]))
    def time_passes(self, days):
        self.machine.now += days * DAY

    @invariant()
    def the_supply_is_constant_but_for_burns(self):
        everybody = [*PARTIES, address("treasury"), address("victims"), self.contract.address]
        total = self.btt.totalSupply()
        assert sum(self.btt.balanceOf(one) for one in everybody) == total
        assert total + self.btt.burned() == SUPPLY
        assert self.btt.burned() >= self.burned
        self.burned = self.btt.burned()


class Stakes(Conserving):
    """The model: what each has bonded, unbonding until when."""

    @initialize()
    def deploy(self):
        self.start("StakeManager", address("victims"))
        self.contract.grantRole(self.contract.SLASHER_ROLE(), ROLE, sender=ROLE)
        self.model = {party: [0, 0, 0] for party in PARTIES}

    @rule(who=WHO, amount=AMOUNT)
    def bond(self, who, amount):
        done = self.attempt(self.contract.bond, amount, sender=who)
        assert bool(done) == (amount > 0)
        self.model[who][0] += amount

    @rule(who=WHO, amount=AMOUNT)
    def unbond(self, who, amount):
        done = self.attempt(self.contract.unbond, amount, sender=who)
        bonded, unbonding, _ = self.model[who]
        assert bool(done) == (0 < amount <= bonded)
        if done:
            until = self.machine.now + 21 * DAY
            self.model[who] = [bonded - amount, unbonding + amount, until]

    @rule(who=WHO)
    def withdraw(self, who):
        done = self.attempt(self.contract.withdraw, sender=who)
        _, unbonding, until = self.model[who]
        assert bool(done) == (unbonding > 0 and self.machine.now >= until)
        if done:
            self.model[who][1] = 0

    @rule(who=WHO, amount=AMOUNT)
    def slash(self, who, amount):
        bonded, unbonding, until = self.model[who]
        most = bonded + (unbonding if self.machine.now < until else 0)
        done = self.attempt(self.contract.slash, who, amount, b"e" * 32, sender=ROLE)
        assert bool(done) == (0 < amount <= most)
        if done:
            self.model[who][0] = max(bonded - amount, 0)
            self.model[who][1] = unbonding - max(amount - bonded, 0)

    @invariant()
    def stake_is_conserved(self):
        for party, (bonded, unbonding, _) in self.model.items():
            assert self.contract.stakeOf(party)[:2] == (bonded, unbonding)
        staked = sum(bonded + unbonding for bonded, unbonding, _ in self.model.values())
        assert self.contract.staked() == staked == self.btt.balanceOf(self.contract.address)
        # What was slashed is halved, the odd units with the victims.
        victims = self.btt.balanceOf(address("victims"))
        assert 0 <= victims - self.btt.burned() <= 2_000


class Distributions(Conserving):
    """The model: what each nullifier is owed by the present tree, and what it got."""

    @initialize()
    def deploy(self):
        self.start("Distributor", address("accepts all"))
        self.machine.place(b"\x00", "accepts all")
        self.contract.grantRole(self.contract.SETTLER_ROLE(), ROLE, sender=ROLE)
        self.btt.approve(self.contract.address, SUPPLY, sender=ROLE)
        self.owed, self.got, self.paths = {}, {}, {}
        self.total = self.epoch = 0
        self.batches = {}

    @rule(
        more=st.dictionaries(st.integers(1, 6), st.integers(0, 500), min_size=1),
        short=st.booleans(),
    )
    def settle(self, more, short):
        owed = {one: self.owed.get(one, 0) + more.get(one, 0) for one in {*self.owed, *more}}
        tree = Tree([claim_leaf(one, owed[one]) for one in owed])
        # A cheating settler may fund less than the tree owes.
        total = max(self.total, sum(owed.values()) - (50 if short else 0))
        self.btt.transfer(ROLE, total - self.total, sender=PARTIES[0])
        self.contract.settle(self.epoch + 1, tree.root, total, sender=ROLE)
        self.owed, self.total, self.epoch = owed, total, self.epoch + 1
        self.paths = {one: tree.path(i) for i, one in enumerate(owed)}

    @precondition(lambda self: self.owed)
    @rule(data=st.data(), recipient=WHO, lie=st.sampled_from([0, 0, 1]))
    def claim(self, data, recipient, lie):
        one = data.draw(st.sampled_from(sorted(self.owed)))
        claim = (one, self.owed[one] + lie, recipient, 1, 1, [0] * 8)
        done = self.attempt(self.contract.claim, claim, self.paths[one], sender=recipient)
        due = self.owed[one] - self.got.get(one, 0)
        assert bool(done) == (not lie and 0 < due <= self.total - sum(self.got.values()))
        if done:
            self.got[one] = self.owed[one]
            assert done.events[0][-1] == due

    @rule(batch=st.integers(0, 3), amounts=st.lists(st.integers(1, 50), min_size=1, max_size=4))
    def pay_a_batch(self, batch, amounts):
        payouts = list(zip(PARTIES, amounts, strict=False))
        self.btt.transfer(ROLE, sum(amounts), sender=PARTIES[1])
        done = self.attempt(self.contract.payBatch, bytes([batch]) * 32, payouts, sender=ROLE)
        assert bool(done) == (batch not in self.batches)
        if done:
            self.batches[batch] = sum(amounts)
        else:
            self.btt.transfer(PARTIES[1], sum(amounts), sender=ROLE)

    @invariant()
    def nothing_is_paid_above_the_root_or_twice(self):
        claimed = sum(self.got.values())
        assert self.contract.claimed() == claimed <= self.contract.total() == self.total
        for one, amount in self.got.items():
            assert self.contract.claimedBy(one) == amount <= self.owed[one]
        assert self.btt.balanceOf(self.contract.address) == self.total - claimed


class Escrows(Conserving):
    """Orders and rounds by hostile parties; the model sums what each still holds."""

    ORDER_OPEN = range(3, 8)
    ROUND_OPEN = range(1, 7)

    @initialize()
    def deploy(self):
        self.start("StudyEscrow")
        for role in (self.contract.COMMITTEE_ROLE(), self.contract.ARBITER_ROLE()):
            self.contract.grantRole(role, ROLE, sender=ROLE)
        self.orders, self.rounds, self.epochs, self.ended = {}, [], {}, {}

    @rule(
        buyer=WHO,
        provider=WHO,
        amounts=st.lists(st.integers(1, 500), min_size=1, max_size=3),
        far=st.sampled_from([4, 3, 2, 1, 0]),
    )
    def order(self, buyer, provider, amounts, far):
        label = len(self.orders).to_bytes(32, "big")
        payouts = list(zip(PARTIES, amounts, strict=False))
        order = self.contract.draft(label, provider, sender=buyer).value
        expiry = self.machine.now + 5 * DAY
        self.contract.quote(order, payouts, b"t" * 32, expiry, sender=provider)
        self.contract.hold(order, sender=buyer)
        self.orders[order] = (buyer, provider, payouts)
        way = [
            lambda: self.contract.approve(order, sender=ROLE),
            lambda: self.contract.startDelivery(order, sender=provider),
            lambda: self.contract.deliver(order, b"p" * 32, sender=provider),
            lambda: self.contract.dispute(order, b"r" * 32, sender=buyer),
        ]
        for act in way[:far]:
            act()

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), likely=st.sampled_from([True, True, True, False]))
    def step_an_order(self, data, likely):
        order = data.draw(st.sampled_from(sorted(self.orders)))
        buyer, provider, payouts = self.orders[order]
        state = self.contract.orderAt(order)[2]
        steps = LIKELY.get(state, list(STEPS)) if likely else list(STEPS)
        step = data.draw(st.sampled_from(steps))
        refund = data.draw(st.integers(0, 600))
        arguments = {
            "deny": [b"r" * 32],
            "fail": [b"r" * 32],
            "dispute": [b"r" * 32],
            "deliver": [b"p" * 32],
            "capture": [payouts],
            "resolve": [refund, payouts],
        }.get(step, [])
        parties = {"buyer": buyer, "provider": provider, "role": ROLE}
        sender = parties[STEPS[step] if likely else data.draw(st.sampled_from(sorted(parties)))]
        self.attempt(getattr(self.contract, step), order, *arguments, sender=sender)

    @rule(funder=WHO, coordinator=WHO, budget=st.integers(1, 500))
    def open_a_round(self, funder, coordinator, budget):
        label = len(self.rounds).to_bytes(32, "big")
        deadline = self.machine.now + 20 * DAY
        done = self.contract.openRound(
            label, coordinator, budget, deadline, b"t" * 32, sender=funder
        )
        self.rounds.append((done.value, coordinator))

    @precondition(lambda self: self.rounds)
    @rule(data=st.data(), steps=st.sampled_from([5, 1, 6]))
    def advance_a_round(self, data, steps):
        round_, coordinator = data.draw(st.sampled_from(self.rounds))
        state = self.contract.roundAt(round_)[2]
        for target in range(state + 1, state + steps + 1):
            done = self.attempt(
                self.contract.advance, round_, target % 256, b"e" * 32, sender=coordinator
            )
            assert not done or target <= 6

    @precondition(lambda self: self.rounds)
    @rule(data=st.data(), who=WHO)
    def abort_a_round(self, data, who):
        round_, _ = data.draw(st.sampled_from(self.rounds))
        self.attempt(self.contract.abort, round_, b"r" * 32, sender=who)

    @precondition(lambda self: self.rounds)
    @rule(data=st.data(), total=st.integers(0, 500), count=st.integers(1, 3))
    def settle_an_epoch(self, data, total, count):
        closed = [one for one in self.rounds if self.contract.roundAt(one[0])[2] == 6]
        some = st.sampled_from(closed or self.rounds)
        rounds = data.draw(st.lists(some, min_size=1, max_size=count))
        coordinator = rounds[0][1]
        label = len(self.epochs).to_bytes(32, "big")
        name = self.contract.epochOf(coordinator, label)
        # The last batch is one too many if the first two pay everything.
        batches = [[(PARTIES[i], max(total // 2, 1))] for i in range(3)]
        tree = Tree([batch_leaf(name, i, batch) for i, batch in enumerate(batches)])
        ids = [one for one, _ in rounds]
        if self.attempt(self.contract.settle, label, ids, tree.root, total, sender=coordinator):
            assert len(set(ids)) == len(ids)
            self.epochs[name] = (batches, tree)

    @precondition(lambda self: self.epochs)
    @rule(data=st.data(), batch=st.integers(0, 2))
    def pay_or_reclaim(self, data, batch):
        name = data.draw(st.sampled_from(sorted(self.epochs)))
        batches, tree = self.epochs[name]
        paid = self.contract.batchPaid(name, batch)
        done = self.attempt(
            self.contract.pay, name, batch, batches[batch], tree.path(batch), sender=ROLE
        )
        assert not (paid and done)
        if data.draw(st.booleans()):
            self.attempt(self.contract.reclaim, name, sender=ROLE)

    @invariant()
    def what_is_held_is_what_unfinished_things_hold_and_each_ends_once(self):
        held = 0
        ends = {}
        for order in self.orders:
            one = self.contract.orderAt(order)
            held += one[5] if one[2] in self.ORDER_OPEN else 0
            ends[order] = one[2] if one[2] > 7 else None
        for round_, _ in self.rounds:
            one = self.contract.roundAt(round_)
            held += one[4] if one[2] in self.ROUND_OPEN else 0
            ends[round_, "round"] = one[2] if one[2] > 6 else None
        for name in self.epochs:
            one = self.contract.epochAt(name)
            assert one[5] <= one[4]
            held += one[5]
            assert (one[5] > 0) == (one[2] == 1)
            ends[name, "epoch"] = one[2] if one[2] > 1 else None  # named like a party's order
        assert self.contract.held() == held == self.btt.balanceOf(self.contract.address)
        for thing, end in self.ended.items():
            assert end is None or ends[thing] == end
        self.ended = ends


for _of in (Stakes, Distributions, Escrows):
    _of.TestCase.settings = FEW
TestStakes, TestDistributions, TestEscrows = (
    Stakes.TestCase,
    Distributions.TestCase,
    Escrows.TestCase,
)


@pytest.mark.exhaustive
@pytest.mark.parametrize("of", [Stakes, Distributions, Escrows])
def test_many_more_runs_conserve_as_well(of):
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(of, settings=MANY)
