"""Through any interleaving of grants and withdrawals, the registry is what a plain list says."""

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consent.log import TREE_DEPTH, rebuild
from consent.publication import LaneFull, LeafUnusable
from consent.registry import Registry, verify_epoch
from consent.store import METADATA
from consent.withdrawal import WithdrawalCodeWrong
from protocol.ids import SiteId, StudyId
from storage.database import open_database
from zk.merkle import MerkleTree

pytestmark = pytest.mark.slow

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NOW = datetime(2026, 11, 21, tzinfo=UTC)
SITES = ("north", "south")


def code_of(leaf):
    return b"code %d" % leaf


class RegistryMachine(RuleBasedStateMachine):
    """Two lanes of two chunks of four; two instances over one database take turns."""

    @initialize()
    def found(self):
        self.engine = open_database(":memory:", METADATA)
        self.registries = [self.opened(), self.opened()]
        self.lanes = [
            self.registries[0].open_lane(StudyId("study"), SiteId(site), "scans", 8, 4)
            for site in SITES
        ]
        self.places = [[], []]  # per lane the leaf that was published at each place
        self.withdrawn = set()
        self.grants = {}
        self.epoch = 0

    def opened(self):
        return Registry(self.engine, registry_id="registry", signing_key=KEY)

    @rule(
        at=st.integers(0, 1),
        lane=st.integers(0, 1),
        leaves=st.lists(st.integers(1, 30), max_size=4),
    )
    def publish(self, at, lane, leaves):
        grants = [(leaf, hashlib.sha256(code_of(leaf)).digest()) for leaf in leaves]
        used, published = self.places[lane], {*self.places[0], *self.places[1]}
        if len(used) + len(leaves) > 8:
            with pytest.raises(LaneFull):
                self.registries[at].publish_many(self.lanes[lane], grants, NOW)
        elif len({*leaves} - published) != len(leaves):
            with pytest.raises(LeafUnusable):
                self.registries[at].publish_many(self.lanes[lane], grants, NOW)
        else:
            receipts = self.registries[at].publish_many(self.lanes[lane], grants, NOW)
            self.grants |= {receipt.leaf: receipt.grant for receipt in receipts}
            used += leaves
            self.epoch += bool(leaves)

    @precondition(lambda self: self.grants)
    @rule(at=st.integers(0, 1), choice=st.randoms(use_true_random=False))
    def withdraw(self, at, choice):
        leaf = choice.choice(sorted(self.grants))
        self.registries[at].withdraw(self.grants[leaf], code_of(leaf), now=NOW)
        self.epoch += leaf not in self.withdrawn
        self.withdrawn.add(leaf)

    @precondition(lambda self: len(self.grants) > 1)
    @rule(at=st.integers(0, 1), choice=st.randoms(use_true_random=False))
    def withdraw_with_a_foreign_code(self, at, choice):
        leaf, other = choice.sample(sorted(self.grants), 2)
        with pytest.raises(WithdrawalCodeWrong):
            self.registries[at].withdraw(self.grants[leaf], code_of(other), now=NOW)

    @rule(at=st.integers(0, 1))
    def reopen(self, at):
        self.registries[at] = self.opened()

    @invariant()
    def the_leaves_are_those_published_and_not_withdrawn(self):
        for registry in self.registries:
            for lane, places in zip(self.lanes, self.places, strict=True):
                live = [0 if leaf in self.withdrawn else leaf for leaf in places]
                assert registry.leaves(lane) == live + [0] * (8 - len(live))
                assert registry.live_count(lane) == sum(leaf != 0 for leaf in live)

    @invariant()
    def the_root_is_that_of_a_new_tree_and_of_the_log(self):
        naive = MerkleTree(TREE_DEPTH)
        for lane, places in zip(self.lanes, self.places, strict=True):
            for index, leaf in zip(lane.indices, places, strict=False):
                naive.set(index, 0 if leaf in self.withdrawn else leaf)
        for registry in self.registries:
            assert registry.epoch().root == naive.root == rebuild(registry.log())

    @invariant()
    def every_change_is_one_signed_epoch(self):
        for registry in self.registries:
            assert registry.epoch().number == self.epoch
            verify_epoch(registry.epoch(), registry.public_key)

    def teardown(self):
        if hasattr(self, "engine"):
            self.engine.dispose()


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
