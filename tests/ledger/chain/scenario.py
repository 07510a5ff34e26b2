"""One scenario of the economy, played on the books and on the contracts, wherever these run.

``Books`` and ``Contracts`` have the same steps; each returns whether the step was accepted, and
``balances`` is in the same words: what each party has at hand, what is staked, held in escrows,
set aside for claims, burned.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ledger import chart, escrow, fees, journal, staking
from ledger.books import Ledger
from ledger.chain.bookings import CLAIMS
from ledger.contracts.tree import Tree, batch_leaf, claim_leaf
from ledger.economy import load_economy
from ledger.journal import InsufficientFunds, Leg
from protocol.units import TOTAL_SUPPLY
from tests.ledger.contracts.machine import DAY, START, Reverted, address

PARTIES = ("hospital", "researcher", "provider", "staker")
ECONOMY = load_economy()
FEES = ("platform", "buyback", "network")
TIER = 30
RULE = ECONOMY.fees["compute"]


class Books:
    """The ledger."""

    def __init__(self, path):
        self.ledger = Ledger(path)
        self.now = datetime.fromtimestamp(START, UTC)
        self.ledger.genesis(ECONOMY.token.allocation, now=self.now)
        self.count = 0
        self.cash = chart.wallet("treasury")
        accounts = [chart.wallet(one) for one in (*PARTIES, "treasury", "victims")]
        self.ledger.open_accounts([*accounts, chart.pool("study", "site"), CLAIMS])
        buckets = self.ledger.balances("treasury:")
        legs = [Leg(bucket, self.cash, amount) for bucket, amount in buckets.items() if amount]
        self.ledger.transfer_many("cash", legs, memo="", now=self.now)
        self.stakes, self.unclaimed = [], {}

    def key(self):
        self.count += 1
        return f"k{self.count}"

    def fund(self, party, amount):
        return self.move({self.cash: [(chart.wallet(party), amount)]})

    def pay(self, payouts):
        legs = [(chart.wallet(one), amount) for one, amount in payouts]
        return self.move({self.cash: legs})

    def burn(self, party, amount):
        return self.move({chart.wallet(party): [(chart.BURNED, amount)]})

    def move(self, legs):
        every = [Leg(debit, *one) for debit, those in legs.items() for one in those]
        return self.attempt(
            lambda: self.ledger.transfer_many(self.key(), every, memo="", now=self.now)
        )

    def order(self, buyer, payouts, *, captured):
        return self.escrowed("o", buyer, sum(dict(payouts).values()), payouts if captured else [])

    def round(self, funder, budget, payouts):
        return self.escrowed("r", funder, budget, payouts)

    def escrowed(self, kind, funder, amount, payouts):
        name = f"{kind}{self.count}"
        wallet = chart.wallet(funder)
        opened = self.attempt(
            lambda: escrow.open_escrow(self.ledger, self.key(), wallet, name, amount, now=self.now)
        )
        if opened and payouts:
            paid = {chart.wallet(one): part for one, part in payouts}
            escrow.release(self.ledger, self.key(), name, paid, now=self.now)
        if opened and sum(dict(payouts).values()) < amount:
            escrow.refund(self.ledger, self.key(), name, now=self.now)
        return opened

    def claims(self, owed, claimed):
        total = sum(owed.values())
        if self.ledger.balance(self.cash) < total:
            return False
        for one, amount in owed.items():
            self.unclaimed[one] = self.unclaimed.get(one, 0) + amount
        paid = [Leg(CLAIMS, chart.wallet(one), self.unclaimed.pop(one)) for one in claimed]
        # ``chain:claims`` moves by the adapter alone, whose part this plays.
        with self.ledger.begin() as connection:
            legs = [Leg(self.cash, CLAIMS, total), *paid]
            journal.post(connection, self.key(), legs, memo="", now=self.now)
        return True

    def fee(self, payer, price):
        where = {"payer": chart.wallet(payer), "provider": chart.wallet("provider")}
        return self.attempt(
            lambda: fees.charge(
                self.ledger, self.key(), RULE, price, memo="", now=self.now, **where
            )
        )

    def bond(self, party, amount):
        key = self.key()
        done = self.attempt(
            lambda: staking.bond(
                self.ledger, key, ECONOMY.staking, party, amount, days=TIER, now=self.now
            )
        )
        if done:
            self.stakes.append((key, party))
        return done

    def slash(self, number, share):
        stake, _ = self.stakes[number]
        where = {"victims": [chart.wallet("victims")], "evidence": "log", "now": self.now}
        staking.slash(self.ledger, self.key(), stake, ECONOMY.staking, share=share, **where)
        return True

    def unstake(self, party):
        self.now += timedelta(days=TIER)
        mine = [one for one in staking.stakes_of(self.ledger, party) if one.state == "bonded"]
        for one in mine:
            staking.unbond(self.ledger, one.stake, now=self.now)
        self.now += timedelta(days=21)
        for one in mine:
            staking.withdraw(self.ledger, one.stake, ECONOMY.staking, now=self.now)
        return bool(mine)

    def at_stake(self, number):
        stake, party = self.stakes[number]
        (found,) = [one for one in staking.stakes_of(self.ledger, party) if one.stake == stake]
        return party, found.amount, found.state == "bonded"

    def attempt(self, call):
        try:
            call()
        except InsufficientFunds:
            return False
        return True

    def balances(self):
        held = self.ledger.balances()
        found = {one: held[chart.wallet(one)] for one in (*PARTIES, "treasury", "victims")}
        found |= {f"fee {one}": held.get(chart.fees(one), 0) for one in FEES}
        found["staked"] = sum(self.ledger.balances("stake:").values())
        found["escrow"] = sum(self.ledger.balances("escrow:").values())
        return found | {"claims": held[CLAIMS], "burned": held.get(chart.BURNED, 0)}


class Contracts:
    """The contracts, on ``tests.ledger.contracts.machine.Machine`` or what answers like it."""

    def __init__(self, machine):
        self.machine, self.count = machine, 0
        machine.now = START
        self.role, self.cash = address("role"), address("treasury")
        names = ["BitHive Token", "BTT", [self.cash], [TOTAL_SUPPLY]]
        self.btt = machine.deploy("BTT", *names)
        verifier = machine.place(b"\x00", "accepts all")
        victims = address("victims")
        token = self.btt.address
        self.escrow = machine.deploy("StudyEscrow", token, self.role)
        self.distributor = machine.deploy("Distributor", token, verifier, self.role)
        self.stakes = machine.deploy("StakeManager", token, victims, self.role)
        self.escrow.grantRole(self.escrow.COMMITTEE_ROLE(), self.role, sender=self.role)
        for contract, role in (
            (self.distributor, self.distributor.SETTLER_ROLE()),
            (self.stakes, self.stakes.SLASHER_ROLE()),
        ):
            contract.grantRole(role, self.cash, sender=self.role)
        for one in (*PARTIES, "treasury"):
            for spender in (self.escrow, self.distributor, self.stakes):
                self.btt.approve(spender.address, TOTAL_SUPPLY, sender=address(one))
        self.owed, self.claimed = {}, {}

    def label(self):
        self.count += 1
        return self.count.to_bytes(32, "big")

    def fund(self, party, amount):
        return self.attempt(self.btt.transfer, address(party), amount, sender=self.cash)

    def pay(self, payouts):
        listed = [(address(one), amount) for one, amount in payouts]
        return self.attempt(self.distributor.payBatch, self.label(), listed, sender=self.cash)

    def burn(self, party, amount):
        return self.attempt(self.btt.burn, amount, sender=address(party))

    def order(self, buyer, payouts, *, captured):
        provider, who = address("provider"), address(buyer)
        listed = [(address(one), amount) for one, amount in payouts]
        label = self.label()
        self.escrow.draft(label, provider, sender=who)
        order = self.escrow.orderOf(who, label)
        expiry = self.machine.now + 5 * DAY
        self.escrow.quote(order, listed, b"t" * 32, expiry, sender=provider)
        if not self.attempt(self.escrow.hold, order, sender=who):
            return False
        if not captured:
            self.escrow.deny(order, b"r" * 32, sender=self.role)
            return True
        self.escrow.approve(order, sender=self.role)
        self.escrow.startDelivery(order, sender=provider)
        self.escrow.deliver(order, b"p" * 32, sender=provider)
        self.escrow.capture(order, listed, sender=who)
        return True

    def round(self, funder, budget, payouts):
        label, who = self.label(), address(funder)
        deadline = self.machine.now + 20 * DAY
        opened = (label, self.role, budget, deadline, b"t" * 32)
        if not self.attempt(self.escrow.openRound, *opened, sender=who):
            return False
        number = self.escrow.roundOf(who, label)
        for state in range(2, 7):
            self.escrow.advance(number, state, b"e" * 32, sender=self.role)
        epoch = self.escrow.epochOf(self.role, label)
        listed = [(address(one), amount) for one, amount in payouts]
        tree = Tree([batch_leaf(epoch, 0, listed)])
        total = sum(amount for _, amount in listed)
        self.escrow.settle(label, [number], tree.root, total, sender=self.role)
        self.escrow.pay(epoch, 0, listed, tree.path(0), sender=self.role)
        return True

    def claims(self, owed, claimed):
        names = {one: number for number, one in enumerate(PARTIES, 1)}
        for one, amount in owed.items():
            self.owed[names[one]] = self.owed.get(names[one], 0) + amount
        leaves = sorted(self.owed)
        tree = Tree([claim_leaf(one, self.owed[one]) for one in leaves])
        epoch, total = self.distributor.epoch() + 1, sum(self.owed.values())
        settled = (epoch, tree.root, total)
        if not self.attempt(self.distributor.settle, *settled, sender=self.cash):
            for one, amount in owed.items():
                self.owed[names[one]] -= amount
            self.owed = {one: amount for one, amount in self.owed.items() if amount}
            return False
        for one in claimed:
            nullifier = names[one]
            claim = (nullifier, self.owed[nullifier], address(one), 1, 1, [0] * 8)
            self.distributor.claim(claim, tree.path(leaves.index(nullifier)), sender=self.role)
        return True

    def fee(self, payer, price):
        division, who = fees.divide(RULE, price), address(payer)
        if self.btt.balanceOf(who) < price:
            return False
        for name, amount in division.parts.items():
            to = address("provider" if name == "provider" else f"fee {name}")
            if amount:
                self.btt.transfer(to, amount, sender=who)
        if division.burned:
            self.btt.burn(division.burned, sender=who)
        return True

    def bond(self, party, amount):
        return self.attempt(self.stakes.bond, amount, sender=address(party))

    def slash(self, party, amount):
        return self.attempt(self.stakes.slash, address(party), amount, b"e" * 32, sender=self.cash)

    def unstake(self, party):
        who = address(party)
        self.machine.now += TIER * DAY
        bonded = self.stakes.stakeOf(who)[0]
        if bonded:
            self.stakes.unbond(bonded, sender=who)
        self.machine.now += 21 * DAY
        if bonded:
            self.stakes.withdraw(sender=who)
        return bool(bonded)

    def attempt(self, call, *arguments, sender):
        try:
            call(*arguments, sender=sender)
        except Reverted:
            return False
        return True

    def balances(self):
        names = (*PARTIES, "treasury", "victims", *(f"fee {one}" for one in FEES))
        found = {one: self.btt.balanceOf(address(one)) for one in names}
        found |= {"staked": self.stakes.staked(), "escrow": self.escrow.held()}
        found["claims"] = self.distributor.total() - self.distributor.claimed()
        return found | {"burned": self.btt.burned()}


def play(books, contracts, steps):
    """Play the steps on both; they must be accepted by both, or by neither."""
    for name, *arguments in steps:
        if name == "slash":
            number, share = arguments
            if number >= len(books.stakes):
                continue
            party, amount, bonded = books.at_stake(number)
            if not bonded or not amount:
                continue
            taken = max(1, amount * share // 10_000)
            assert books.slash(number, share)
            assert contracts.slash(party, taken)
            continue
        options = arguments.pop() if isinstance(arguments[-1], dict) and name == "order" else {}
        done = getattr(books, name)(*arguments, **options)
        assert getattr(contracts, name)(*arguments, **options) == done, name
