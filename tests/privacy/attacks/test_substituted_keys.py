"""A server that hands out round keys of its own would know all masks; signed rosters stop it."""

from importlib import import_module

import numpy as np
import pytest
from flwr.common.secure_aggregation.crypto.shamir import combine_shares

from privacy.bfv import encrypt, open_sum
from privacy.masks import apply, pad_sum, pair_pad_key, remove, self_pad_key
from privacy.packing import unpack
from privacy.round_secrets import RoundSecrets, total_pad
from protocol.frames import decode
from tests.fl_server import cohort as sums
from tests.privacy.attacks.cohort import CONTEXT, Cohort, round_key

flower = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
"""The module; its package has a function of the same name in its place."""
LENGTH = 3000


def key_pair():
    private, public = flower.generate_key_pairs()
    return flower.private_key_to_bytes(private), flower.public_key_to_bytes(public)


def test_a_client_of_flower_deals_both_its_secrets_to_a_server_in_the_middle():
    """The keys it seals its shares to come from the server, and nobody's signature is on them."""
    (sk1, pk1), (sk2, pk2) = key_pair(), key_pair()
    victim = flower.SecAggPlusState(
        nid=1, threshold=3, share_num=4, sk1=sk1, pk1=pk1, sk2=sk2, pk2=pk2, **EMPTY
    )
    forged = {site: (key_pair(), key_pair()) for site in (2, 3, 4)}
    shown = {"1": (pk1, pk2)} | {
        str(site): (first[1], second[1]) for site, (first, second) in forged.items()
    }
    sent = flower._share_keys(victim, shown)
    seeds, keys = [], []
    for site, sealed in zip(sent["dsts"], sent["ctxts"], strict=True):
        private = flower.bytes_to_private_key(forged[site][1][0])
        shared = flower.generate_shared_key(private, flower.bytes_to_public_key(pk2))
        _, _, seed, key = flower.share_keys_plaintext_separate(flower.decrypt(shared, sealed))
        seeds.append(seed)
        keys.append(key)
    assert combine_shares(seeds) == victim.rd_seed
    assert combine_shares(keys) == sk1


EMPTY = {"rd_seed_share_dict": {}, "sk1_share_dict": {}, "ss2_dict": {}}


def test_with_unsigned_keys_the_server_in_the_middle_reads_an_update(preset):
    """It shows the victim keys of its own, learns its self seed in the opening as usual, and
    with one hospital's group key has the update."""
    cohort = Cohort.meet(4, preset, length=LENGTH)
    victim, *others = cohort.sites
    forged = {site: RoundSecrets.generate() for site in others}
    shown = {victim: cohort.roster[victim]} | {site: one.public for site, one in forged.items()}
    shape = {"size": cohort.size, "parameters": preset}
    pad = total_pad(cohort.secrets[victim], victim, shown, context=CONTEXT, **shape)
    upload = encrypt(apply(cohort.packed(victim), [pad]), cohort.key)

    public = cohort.roster[victim].public_key
    grown = [
        pair_pad_key(round_key(one), site, public, victim, context=CONTEXT)
        for site, one in forged.items()
    ]
    own = self_pad_key(cohort.secrets[victim].self_seed, victim, context=CONTEXT)
    words = open_sum(cohort.added([upload]), cohort.key)
    words = remove(words, [pad_sum([own, *grown], [], **shape)], preset)
    assert np.array_equal(unpack(words, LENGTH, 1, preset)[0], cohort.values[victim])


@pytest.fixture
def study():
    return sums.Cohort.meet(4)


def answer_to_roster(study, change):
    """Return what a hospital says to a plan whose roster was changed on the way."""
    begun = study.begin()
    victim, other, *_ = study.sites
    forged = [change(key) if key.site == other else key for key in begun.plan.roster]
    begun.plan = study.signed(begun.plan.model_copy(update={"roster": tuple(forged)}))
    return decode(study.hospitals[victim].answer(study.train_frame(begun, victim)))


def test_a_round_key_that_its_site_did_not_sign_is_refused_before_training(study):
    own = RoundSecrets.generate().public.public_key
    reply = answer_to_roster(study, lambda key: key.model_copy(update={"public_key": own}))
    assert (reply.kind, reply.body["code"]) == ("refused", "bad-signature")


def test_a_self_seed_that_its_site_did_not_announce_is_refused_before_training(study):
    """Else the server could name one of its own, and leave the true one in the sum."""
    own = RoundSecrets.generate().public.seed_sha256
    reply = answer_to_roster(study, lambda key: key.model_copy(update={"seed_sha256": own}))
    assert (reply.kind, reply.body["code"]) == ("refused", "bad-signature")


def test_a_round_key_from_another_call_is_refused_before_training(study):
    """Signed by its site, but for a round whose secrets may be known by now."""
    earlier = study.sum.call(9, sums.NOTHING, study.sites).keys[study.sites[1]]
    reply = answer_to_roster(study, lambda _key: earlier)
    assert (reply.kind, reply.body["code"]) == ("refused", "summation-refused")


def test_a_hospital_takes_part_in_no_roster_that_misstates_its_own_key(study):
    begun = study.begin()
    victim = study.sites[0]
    again = study.sum.call(2, sums.NOTHING, study.sites).keys[victim]
    forged = [again if key.site == victim else key for key in begun.plan.roster]
    begun.plan = study.signed(begun.plan.model_copy(update={"roster": tuple(forged)}))
    reply = decode(study.hospitals[victim].answer(study.train_frame(begun, victim)))
    assert (reply.kind, reply.body["code"]) == ("refused", "summation-refused")
