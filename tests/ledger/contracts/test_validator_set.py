"""The validators' set keeps its size, never reverts when read, and changes slowly."""

from __future__ import annotations

from math import isqrt

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger.chain.besu import genesis
from tests.ledger.chain.test_besu import network, started
from tests.ledger.contracts.machine import NOBODY, address, hexed, reverts

GOVERNOR, ORACLE = address("governor"), address("oracle")
EVIDENCE = b"e" * 32
ENTITY = b"n" * 32
NODES = [address(f"node {i}") for i in range(12)]


@pytest.fixture
def validators():
    return set_of(4)


def set_of(count):
    contract = started(genesis(network(count)))
    go_to(contract, 1)
    return contract


def go_to(contract, epoch):
    contract.machine.vm.state.execution_context._block_number = epoch * contract.EPOCH_BLOCKS()


def rate(contract, node, records, share=1_000_000):
    return contract.rate(node, share, share, share, records, EVIDENCE, sender=ORACLE)


def seat(contract, node, entity=ENTITY, records=8):
    """Add a candidate who gets a seat in the next epoch."""
    contract.add(node, entity, sender=GOVERNOR)
    rate(contract, node, records)
    go_to(contract, contract.epoch() + 1)
    contract.beat(sender=node)
    return contract.rotate()


def test_a_stronger_candidate_takes_the_weakest_seat(validators):
    newcomer, weakest = address("newcomer"), hexed(NODES[0])
    done = validators.add(newcomer, ENTITY, sender=GOVERNOR)
    assert done.events == [("CandidateAdded", hexed(newcomer), ENTITY)]
    for node in NODES[1:4]:
        rate(validators, node, 3)
    score = validators.scoreOf(10**6, 10**6, 10**6, 3)
    assert score == 10**18 * 2 * 10**6
    assert rate(validators, newcomer, 3).events == [("Rated", hexed(newcomer), score, 2, EVIDENCE)]
    assert validators.ratingOf(newcomer) == 0
    go_to(validators, 2)
    for node in [*NODES[:4], newcomer]:
        validators.beat(sender=node)
    assert validators.ratingOf(newcomer) == score
    assert validators.rotate().events == [
        ("SeatChanged", 2, weakest, hexed(newcomer)),
        ("Rotated", 2, 1),
    ]
    assert set(validators.getValidators()) == {hexed(one) for one in [newcomer, *NODES[1:4]]}
    assert validators.lastEpoch() == 2


def test_a_set_is_rotated_once_an_epoch(validators):
    validators.rotate()
    with reverts("EpochRunning", 1):
        validators.rotate()


def test_a_candidate_hardly_stronger_waits(validators):
    newcomer = address("newcomer")
    validators.add(newcomer, ENTITY, sender=GOVERNOR)
    for node in NODES[:4]:
        rate(validators, node, 99)
    rate(validators, newcomer, 120)  # the root is a tenth larger, no more
    go_to(validators, 2)
    for node in [*NODES[:4], newcomer]:
        validators.beat(sender=node)
    assert validators.rotate().events == [("Rotated", 2, 0)]
    rate(validators, newcomer, 121)
    go_to(validators, 3)
    for node in [*NODES[:4], newcomer]:
        validators.beat(sender=node)
    assert validators.rotate().events[-1] == ("Rotated", 3, 1)


def test_who_is_not_seen_counts_as_nothing(validators):
    rate(validators, NODES[0], 3)
    go_to(validators, 2)
    assert validators.ratingOf(NODES[0]) == 0
    validators.beat(sender=NODES[0])
    assert validators.ratingOf(NODES[0]) > 0
    go_to(validators, 4)
    assert validators.ratingOf(NODES[0]) == 0


def test_a_rating_can_be_struck_before_it_counts(validators):
    rate(validators, NODES[0], 3)
    done = validators.strike(NODES[0], b"r" * 32, sender=GOVERNOR)
    assert done.events == [("Struck", hexed(NODES[0]), b"r" * 32)]
    go_to(validators, 2)
    validators.beat(sender=NODES[0])
    assert validators.ratingOf(NODES[0]) == 0
    rate(validators, NODES[0], 3)
    go_to(validators, 3)
    validators.beat(sender=NODES[0])
    rating = validators.ratingOf(NODES[0])
    rate(validators, NODES[0], 8)
    assert validators.ratingOf(NODES[0]) == rating > 0


def test_who_is_removed_keeps_the_seat_until_another_has_it(validators):
    done = validators.remove(NODES[0], sender=GOVERNOR)
    assert done.events == [("CandidateRemoved", hexed(NODES[0]))]
    validators.rotate()
    assert hexed(NODES[0]) in validators.getValidators()
    with reverts("CandidateKnown", hexed(NODES[0])):
        validators.add(NODES[0], ENTITY, sender=GOVERNOR)
    seat(validators, address("newcomer"))
    assert hexed(NODES[0]) not in validators.getValidators()
    assert hexed(NODES[0]) not in validators.candidates()
    validators.add(NODES[0], b"0" * 32, sender=GOVERNOR)
    validators.remove(NODES[0], sender=GOVERNOR)
    assert validators.nodeOf(b"0" * 32) == hexed(NOBODY)


def test_an_entity_has_one_node(validators):
    validators.add(address("newcomer"), ENTITY, sender=GOVERNOR)
    with reverts("EntityTaken", ENTITY):
        validators.add(address("another"), ENTITY, sender=GOVERNOR)


def test_nobody_is_no_candidate(validators):
    for node, entity in ((NOBODY, ENTITY), (address("newcomer"), bytes(32))):
        with reverts("CandidateMalformed"):
            validators.add(node, entity, sender=GOVERNOR)


def test_there_are_so_many_candidates_at_most(validators):
    most = validators.CANDIDATES_MAX()
    for number in range(most - 4):
        entity = address(f"their {number}").rjust(32, b"t")
        validators.add(address(f"candidate {number}"), entity, sender=GOVERNOR)
    with reverts("CandidatesTooMany", most):
        validators.add(address("one more"), b"m" * 32, sender=GOVERNOR)


def test_a_stranger_has_no_say(validators):
    stranger = address("stranger")
    for call, arguments in (
        (validators.add, (stranger, ENTITY)),
        (validators.remove, (NODES[0],)),
        (validators.strike, (NODES[0], EVIDENCE)),
        (validators.setGovernor, (stranger,)),
        (validators.setOracle, (stranger,)),
    ):
        with reverts("NotTheGovernor", hexed(stranger)):
            call(*arguments, sender=stranger)
    with reverts("NotTheOracle", hexed(GOVERNOR)):
        validators.rate(NODES[0], 1, 1, 1, 1, EVIDENCE, sender=GOVERNOR)
    with reverts("CandidateUnknown", hexed(stranger)):
        validators.beat(sender=stranger)


def test_a_rating_needs_evidence_and_a_range(validators):
    with reverts("EvidenceMissing"):
        validators.rate(NODES[0], 1, 1, 1, 1, bytes(32), sender=ORACLE)
    most = validators.MILLION()
    for shares in ((most + 1, 1, 1, 1), (1, 1, 1, validators.RECORDS_MAX() + 1)):
        with reverts("RatingOutOfRange"):
            validators.rate(NODES[0], *shares, EVIDENCE, sender=ORACLE)


def test_governor_and_oracle_can_be_handed_on(validators):
    heir = address("heir")
    assert validators.setOracle(heir, sender=GOVERNOR).events == [("OracleChanged", hexed(heir))]
    with reverts("CandidateMalformed"):
        validators.setGovernor(NOBODY, sender=GOVERNOR)
    done = validators.setGovernor(heir, sender=GOVERNOR)
    assert done.events == [("GovernorChanged", hexed(heir))]
    assert validators.governor() == hexed(heir)


class Seats(RuleBasedStateMachine):
    """Whatever governor, oracle and nodes do, the set stays a set."""

    @initialize(count=st.sampled_from([4, 7]))
    def start(self, count):
        self.contract = set_of(count)
        self.count, self.epoch = count, 1
        self.last = self.contract.getValidators()

    def attempt(self, call, *arguments, sender):
        from tests.ledger.contracts.machine import Reverted

        try:
            return call(*arguments, sender=sender)
        except Reverted:
            return None

    @rule(node=st.sampled_from(NODES), entity=st.integers(1, 12))
    def add(self, node, entity):
        commitment = address(f"entity {entity}").rjust(32, b"e")
        self.attempt(self.contract.add, node, commitment, sender=GOVERNOR)

    @rule(node=st.sampled_from(NODES))
    def remove(self, node):
        self.attempt(self.contract.remove, node, sender=GOVERNOR)

    @rule(node=st.sampled_from(NODES), records=st.sampled_from([0, 1, 3, 10**12]))
    def rate(self, node, records):
        shares = (10**6, 10**6, 10**6)
        self.attempt(self.contract.rate, node, *shares, records, EVIDENCE, sender=ORACLE)

    @rule(nodes=st.sets(st.sampled_from(NODES), min_size=4))
    def next_epoch(self, nodes):
        self.epoch += 1
        go_to(self.contract, self.epoch)
        for node in nodes:
            self.attempt(self.contract.beat, sender=node)

    @rule()
    def rotate(self):
        before = self.contract.getValidators()
        ratings = {one: self.contract.ratingOf(one) for one in self.contract.candidates()}
        if self.attempt(self.contract.rotate, sender=address("anybody")) is None:
            return
        after = self.contract.getValidators()
        faults = (self.count - 1) // 3
        assert len(set(before) - set(after)) <= faults
        for left in set(before) - set(after):
            entered = max(ratings[one] for one in set(after) - set(before))
            assert entered * 100 > ratings[left] * 110

    @invariant()
    def the_set_is_a_set(self):
        found = self.contract.getValidators()
        assert len(found) == len(set(found)) == self.count >= 4
        entities = [self.contract.candidateAt(one)[0] for one in found]
        assert len(set(entities)) == self.count
        assert bytes(32) not in entities
        assert set(found) <= set(self.contract.candidates())


Seats.TestCase.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSeats = Seats.TestCase


@pytest.mark.exhaustive
def test_many_more_runs_keep_the_set():
    from hypothesis.stateful import run_state_machine_as_test

    many = settings(Seats.TestCase.settings, max_examples=40, stateful_step_count=40)
    run_state_machine_as_test(Seats, settings=many)


@pytest.mark.parametrize("records", [0, 1, 2, 10**6, 10**12])
def test_the_score_is_the_product_with_the_root(validators, records):
    root = isqrt((1 + records) * 10**12)
    assert validators.scoreOf(5, 7, 11, records) == 5 * 7 * 11 * root


def test_a_rotation_of_the_largest_network_fits_into_a_block():
    contract = set_of(31)
    for number in range(contract.CANDIDATES_MAX() - 31):
        contract.add(address(f"c{number}"), address(f"t{number}").rjust(32, b"t"), sender=GOVERNOR)
        rate(contract, address(f"c{number}"), number + 1)
    go_to(contract, 2)
    for number in range(contract.CANDIDATES_MAX() - 31):
        contract.beat(sender=address(f"c{number}"))
    done = contract.rotate()
    assert done.events[-1] == ("Rotated", 2, 10)
    assert done.gas <= 3_500_000
