"""What is revealed after a round takes the pads off the sum of those present, and off no other."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.masks import PadAgreementRefused, remove
from privacy.parameters import parameter_set
from privacy.randomness import RandomStream
from privacy.recovery import Dispute, SecretUnrecoverable
from privacy.round_secrets import (
    BothSecretsAsked,
    OwnKeyAltered,
    PublicSecrets,
    Reveal,
    RosterNotCovered,
    RoundSecrets,
    RoundSecretsMalformed,
    SharePair,
    deal,
    leftover,
    reveal,
    total_pad,
)
from privacy.sharing import PRIME, QuorumMissing, ShareMalformed, join, quorum
from protocol.errors import PrivacyError
from tests.privacy import mask_twin

PRESET = parameter_set("packed-bfv-8")
T = PRESET.plain_modulus
SIZE = 7
CONTEXT = b"digest of the plan"


@dataclass
class Round:
    """Everybody's side of one round among ``called`` sites of which ``roster`` answered."""

    called: list[str]
    roster: list[str]
    context: bytes = CONTEXT

    def __post_init__(self):
        self.threshold = quorum(len(self.called))
        self.secrets = {site: RoundSecrets.generate() for site in self.called}
        self.dealt = {
            site: deal(secrets, threshold=self.threshold, holders=len(self.called))
            for site, secrets in self.secrets.items()
        }
        self.publics = {site: self.secrets[site].public for site in self.roster}

    def pad(self, site, size=SIZE):
        return total_pad(
            self.secrets[site],
            site,
            self.publics,
            context=self.context,
            size=size,
            parameters=PRESET,
        )

    def held(self, holder):
        place = self.called.index(holder)
        return {dealer: self.dealt[dealer][place] for dealer in self.roster}

    def reveal(self, site, present):
        return reveal(
            self.secrets[site],
            site,
            self.held(site),
            present=frozenset(present),
            absent=frozenset(self.roster) - frozenset(present),
        )

    def reveals(self, present, alive=None):
        return {site: self.reveal(site, present) for site in alive or self.roster}

    def leftover(self, present, reveals, **changes):
        asked = {
            "holders": self.called,
            "threshold": self.threshold,
            "present": frozenset(present),
            "absent": frozenset(self.roster) - frozenset(present),
            "context": self.context,
            "size": SIZE,
            "parameters": PRESET,
        }
        return leftover(self.publics, reveals, **(asked | changes))

    def twin(self):
        return {site: self.secrets[site] for site in self.roster}


def sites(n):
    return [f"site-{i:02}" for i in range(n)]


def small_round(n=4):
    return Round(sites(n), sites(n))


def some_of(data, names, least):
    size = data.draw(st.integers(least, len(names)))
    return sorted(data.draw(st.permutations(names))[:size])


def check_a_pattern_of_dropouts(data, n):
    called = sites(n)
    called = data.draw(st.permutations(called)) if n < 10 else called
    roster = some_of(data, called, quorum(n))
    present = some_of(data, roster, 1)
    alive = some_of(data, roster, quorum(n))
    the_round = Round(called, roster)
    stream = RandomStream.from_seed(data.draw(st.integers(0, 2**32)))
    words = {site: stream.below(T, SIZE) for site in present}
    masked = [(words[site] + the_round.pad(site)) % np.uint64(T) for site in present]
    total = sum(column.astype(object) for column in masked) % T

    found = the_round.leftover(present, the_round.reveals(present, alive))
    opened = remove(total.astype(np.uint64), [found.pad], PRESET)
    assert opened.tolist() == [
        sum(column) % T for column in zip(*(w.tolist() for w in words.values()), strict=True)
    ]
    assert found.disputes == ()

    too_few = some_of(data, alive, 0)[: quorum(n) - 1]
    with pytest.raises(QuorumMissing) as refused:
        the_round.leftover(present, {site: the_round.reveal(site, present) for site in too_few})
    assert (refused.value.found, refused.value.needed) == (len(too_few), quorum(n))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.data())
def test_with_a_quorum_alive_the_sum_of_those_present_opens_and_without_one_nothing(n, data):
    check_a_pattern_of_dropouts(data, n)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.integers(2, 50), st.data())
def test_the_same_holds_among_up_to_fifty_sites(n, data):
    check_a_pattern_of_dropouts(data, n)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.data())
def test_pads_and_leftovers_are_those_of_the_twin(n, data):
    the_round = small_round(n)
    present = some_of(data, the_round.roster, 1)
    everyone = the_round.twin()
    for site in the_round.roster:
        expected = mask_twin.total_pad(everyone, site, CONTEXT, SIZE, T)
        assert the_round.pad(site).tolist() == expected
    found = the_round.leftover(present, the_round.reveals(present))
    assert found.pad.tolist() == mask_twin.leftover(everyone, present, CONTEXT, SIZE, T)


# Pads


def test_a_pad_is_uniform_whatever_the_round():
    pad = small_round().pad("site-01", size=20_000)
    assert int(pad.max()) < T
    assert stats.kstest(pad / T, "uniform").pvalue > 1e-4


def test_no_two_sites_rounds_plans_or_rosters_share_a_pad():
    first, second = small_round(), small_round()
    pads = [first.pad(site) for site in first.roster] + [second.pad(site) for site in first.roster]
    first.context = b"another plan"
    pads.append(first.pad("site-00"))
    first.publics.pop("site-03")
    pads.append(first.pad("site-00"))
    assert len({pad.tobytes() for pad in pads}) == len(pads)


def test_secrets_are_never_drawn_twice():
    drawn = [RoundSecrets.generate() for _ in range(100)]
    seeds = {seed for one in drawn for seed in (one.self_seed, one.round_seed)}
    assert len(seeds) == 200
    assert all(len(seed) == 32 for seed in seeds)


def test_the_announcement_binds_both_secrets():
    secrets = RoundSecrets.generate()
    other = RoundSecrets.generate()
    assert secrets.public == RoundSecrets(secrets.self_seed, secrets.round_seed).public
    assert replace(secrets, self_seed=other.self_seed).public != secrets.public
    assert replace(secrets, round_seed=other.round_seed).public != secrets.public


def test_a_roster_with_another_key_for_this_site_is_refused():
    the_round = small_round()
    announced = the_round.publics["site-00"]
    for altered in (
        PublicSecrets(the_round.publics["site-01"].public_key, announced.seed_sha256),
        PublicSecrets(announced.public_key, the_round.publics["site-01"].seed_sha256),
        None,
    ):
        the_round.publics["site-00"] = altered
        with pytest.raises(OwnKeyAltered):
            the_round.pad("site-00")


def test_a_site_whose_key_agrees_on_zero_is_refused_and_named():
    the_round = small_round()
    the_round.publics["site-02"] = PublicSecrets(bytes(32), "00" * 32)
    with pytest.raises(PadAgreementRefused) as refused:
        the_round.pad("site-00")
    assert refused.value.site == "site-02"


# Reveals


def test_a_reveal_holds_one_secret_of_each_site():
    the_round = small_round()
    present = {"site-00", "site-02"}
    inside = the_round.reveal("site-00", present)
    assert inside.self_seed == the_round.secrets["site-00"].self_seed
    assert set(inside.self_shares) == present
    assert set(inside.round_shares) == {"site-01", "site-03"}
    assert the_round.reveal("site-01", present).self_seed is None


def test_a_site_named_present_and_absent_is_refused():
    the_round = small_round()
    everybody = frozenset(the_round.roster)
    with pytest.raises(BothSecretsAsked) as refused:
        reveal(
            the_round.secrets["site-00"],
            "site-00",
            the_round.held("site-00"),
            present=everybody,
            absent=frozenset({"site-01"}),
        )
    assert refused.value.sites == ("site-01",)
    with pytest.raises(BothSecretsAsked):
        the_round.leftover(everybody, {}, absent=frozenset({"site-01"}))


@pytest.mark.parametrize(
    ("present", "absent", "odd"),
    [
        ({"site-00", "site-01"}, {"site-02"}, "site-03"),
        ({"site-01", "site-02"}, {"site-03"}, "site-00"),
        ({"site-00", "site-01", "stranger"}, {"site-02", "site-03"}, "stranger"),
        ({"site-00", "site-01"}, {"site-02", "site-03", "stranger"}, "stranger"),
    ],
)
def test_a_set_that_does_not_cover_exactly_the_roster_is_refused(present, absent, odd):
    the_round = small_round()
    with pytest.raises(RosterNotCovered) as refused:
        reveal(
            the_round.secrets["site-00"],
            "site-00",
            the_round.held("site-00"),
            present=frozenset(present),
            absent=frozenset(absent),
            roster=the_round.roster,
        )
    assert refused.value.sites == (odd,)
    with pytest.raises(RosterNotCovered):
        the_round.leftover(present, {}, absent=frozenset(absent))


def test_a_dealer_neither_present_nor_absent_is_refused_without_a_roster_too():
    the_round = small_round()
    with pytest.raises(RosterNotCovered):
        reveal(
            the_round.secrets["site-00"],
            "site-00",
            the_round.held("site-00"),
            present=frozenset({"site-00"}),
            absent=frozenset({"site-01", "site-02"}),
        )


def test_shares_that_a_site_never_received_are_left_to_the_others():
    the_round = small_round()
    present = the_round.roster[:3]
    reveals = the_round.reveals(present)
    held = the_round.held("site-01")
    del held["site-03"], held["site-00"]
    split = {"present": frozenset(present), "absent": frozenset({"site-03"})}
    reveals["site-01"] = reveal(the_round.secrets["site-01"], "site-01", held, **split)
    assert the_round.leftover(present, reveals).disputes == ()
    for site in ("site-02", "site-03"):  # with two more silent about site-03, a quorum is not left
        reveals[site] = replace(reveals[site], round_shares={})
    with pytest.raises(QuorumMissing):
        the_round.leftover(present, reveals)


def test_what_outsiders_reveal_does_not_count():
    the_round = small_round(3)
    reveals = the_round.reveals(the_round.roster)
    reveals["stranger"] = reveals.pop("site-02")
    with pytest.raises(QuorumMissing) as refused:
        the_round.leftover(the_round.roster, reveals)
    assert (refused.value.found, refused.value.needed) == (2, 3)


# Lies


def right(the_round, present):
    return mask_twin.leftover(the_round.twin(), present, CONTEXT, SIZE, T)


def test_a_seed_that_was_not_announced_is_joined_from_shares_instead_and_noted():
    the_round = small_round(5)
    reveals = the_round.reveals(the_round.roster)
    reveals["site-01"] = replace(reveals["site-01"], self_seed=bytes(32))
    found = the_round.leftover(the_round.roster, reveals)
    assert found.pad.tolist() == right(the_round, the_round.roster)
    assert found.liars == ("site-01",)
    assert found.disputes == (Dispute("site-01", "site-01"),)


def test_a_seed_held_back_is_joined_from_shares_without_reproach():
    the_round = small_round()
    reveals = the_round.reveals(the_round.roster)
    reveals["site-01"] = replace(reveals["site-01"], self_seed=None)
    found = the_round.leftover(the_round.roster, reveals)
    assert found.pad.tolist() == right(the_round, the_round.roster)
    assert found.liars == ()


def with_false_shares(one):
    return replace(
        one,
        self_shares=dict.fromkeys(one.self_shares, bytes(33)),
        round_shares=dict.fromkeys(one.round_shares, bytes(33)),
    )


def test_the_holder_of_false_shares_is_named_and_the_sum_opened_without_them():
    the_round = small_round(6)
    present = the_round.roster[:4]
    reveals = the_round.reveals(present)
    reveals["site-02"] = with_false_shares(reveals["site-02"])
    found = the_round.leftover(present, reveals)
    assert found.pad.tolist() == right(the_round, present)
    assert found.liars == ("site-02",)
    # It is caught once and asked last from then on.
    assert found.disputes == (Dispute("site-02", "site-04"),)


def test_shares_dealt_false_stop_the_round_and_their_dealer_is_named():
    the_round = small_round(4)
    present = the_round.roster[:3]
    other = RoundSecrets.generate()
    the_round.dealt["site-03"] = deal(other, threshold=3, holders=4)
    with pytest.raises(SecretUnrecoverable) as refused:
        the_round.leftover(present, the_round.reveals(present))
    assert refused.value.dealer == "site-03"


# Bytes


def any_reveal(present=2, n=4):
    the_round = small_round(n)
    return the_round.reveal("site-00", the_round.roster[:present])


def test_secrets_pairs_and_reveals_are_read_as_they_were_written():
    secrets = RoundSecrets.generate()
    assert RoundSecrets.from_bytes(secrets.to_bytes()) == secrets
    for pair in deal(secrets, threshold=2, holders=3):
        assert SharePair.from_bytes(pair.to_bytes()) == pair
    for one in (any_reveal(), any_reveal(present=0), any_reveal(present=4), Reveal(None, {}, {})):
        assert Reveal.from_bytes(one.to_bytes()) == one


def test_a_holder_s_pairs_join_to_both_secrets():
    secrets = RoundSecrets.generate()
    pairs = deal(secrets, threshold=3, holders=5)
    for name, secret in (("self_share", secrets.self_seed), ("round_share", secrets.round_seed)):
        shares = {i: getattr(pairs[i], name) for i in (4, 0, 2)}
        assert join(shares, threshold=3) == secret


def test_the_length_of_a_reveal_tells_nothing_but_how_many_sites_there_are():
    lengths = {len(any_reveal(present, n=4).to_bytes()) for present in range(5)}
    assert lengths == {36 + 4 * 73}


def test_a_self_seed_of_zeros_is_not_taken_for_none():
    shown = Reveal(bytes(32), {}, {})
    assert Reveal.from_bytes(shown.to_bytes()).self_seed == bytes(32)


def test_bytes_that_are_no_secrets_or_pair_are_refused():
    secrets = RoundSecrets.generate().to_bytes()
    pair = deal(RoundSecrets.generate(), threshold=2, holders=2)[0].to_bytes()
    for read, blob in ((RoundSecrets.from_bytes, secrets), (SharePair.from_bytes, pair)):
        for wrong in (b"", blob[:-1], blob + b"\0", b"\2" + blob[1:]):
            with pytest.raises(RoundSecretsMalformed):
                read(wrong)
    with pytest.raises(ShareMalformed):
        SharePair.from_bytes(pair[:34] + PRIME.to_bytes(33, "big"))


def entry(site, share=bytes(33)):
    return site.encode().ljust(40, b"\0") + share


def written(*entries, header=b"\1\0" + bytes(32), counts=None):
    return header + bytes(counts or [len(entries), 0]) + b"".join(entries)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        written()[:-1],
        written() + b"\0",
        written(header=b"\2\0" + bytes(32)),
        written(header=b"\1\2" + bytes(32)),
        written(header=b"\1\0" + b"\1" * 32),
        written(entry("north"), entry("north")),
        written(entry("south"), entry("north")),
        written(entry("North")),
        written(entry("")),
        written(entry("north\xe9")),
        written(entry("no\0rth")),
        written(entry("north"), counts=[2, 0]),
        written(entry("north"))[:-1],
    ],
)
def test_a_reveal_has_one_way_to_be_written(blob):
    with pytest.raises(RoundSecretsMalformed):
        Reveal.from_bytes(blob)


def test_a_reveal_with_a_share_outside_the_field_is_refused():
    with pytest.raises(ShareMalformed):
        Reveal.from_bytes(written(entry("north", PRIME.to_bytes(33, "big"))))


def test_both_secrets_of_a_site_can_be_neither_written_nor_read():
    blob = written(entry("north"), entry("north"), counts=[1, 1])
    with pytest.raises(BothSecretsAsked):
        Reveal.from_bytes(blob)
    with pytest.raises(BothSecretsAsked):
        Reveal(None, {"north": bytes(33)}, {"north": bytes(33)})


VALID = any_reveal().to_bytes()


@settings(max_examples=200)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.tuples(st.integers(0, len(VALID) - 1), st.integers(1, 255)).map(
            lambda at: VALID[: at[0]] + bytes([VALID[at[0]] ^ at[1]]) + VALID[at[0] + 1 :]
        ),
        st.integers(0, len(VALID)).map(lambda n: VALID[:n]),
    )
)
def test_hostile_bytes_are_refused_or_read_as_what_they_write(blob):
    for kind in (Reveal, RoundSecrets, SharePair):
        try:
            read = kind.from_bytes(blob)
        except PrivacyError:
            continue
        assert read.to_bytes() == blob


def test_nothing_secret_is_printed():
    the_round = small_round()
    secrets, present = the_round.secrets["site-00"], the_round.roster[:3]
    printed = [secrets, the_round.dealt["site-00"][0], the_round.reveal("site-00", present)]
    printed.append(the_round.leftover(present, the_round.reveals(present)))
    for one in printed:
        assert "b'" not in repr(one)
        assert "array" not in repr(one)
