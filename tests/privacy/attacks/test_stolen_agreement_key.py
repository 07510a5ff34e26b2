"""Whoever steals a hospital's long-term key later opens none of the shares it dealt before."""

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy import keys
from privacy.keys import wrap
from privacy.round_secrets import RoundSecrets, SharePair, deal
from privacy.sharing import join, quorum
from protocol.canonical import digest
from tests.fl_server.cohort import Cohort

SITES = 6


@pytest.fixture
def cohort():
    return Cohort.meet(SITES)


def reopened(sealed, sender, recipient_public, context):
    """Open what ``sender`` sealed to another, with the sender's private key."""
    salt, body = sealed[1:33], sealed[33:]
    bound = keys._LABEL + sender.public_key().public_bytes_raw() + recipient_public + context
    key = keys._agree(sender, recipient_public, salt, bound)
    return ChaCha20Poly1305(key).decrypt(bytes(12), body, bound)


def context_of(call, dealer, holder):
    return f"bithive round shares v1\n{digest(call)}\n{dealer}\n{holder}".encode()


def agreement_key(cohort, site):
    return cohort.terms.identity(site).agreement_key


def test_shares_sealed_from_a_long_term_key_open_to_who_steals_it(cohort):
    """The weak setting: a quorum of its own shares, so all of the victim's masks."""
    victim, *others = cohort.sites
    stolen = cohort.hospitals[victim].keys.agreement
    call = cohort.begin().called.call
    secrets = RoundSecrets.generate()
    threshold = quorum(SITES)
    dealt = dict(zip(call.sites, deal(secrets, threshold=threshold, holders=SITES), strict=True))
    found = {}
    for holder in others:
        public, context = agreement_key(cohort, holder), context_of(call, victim, holder)
        sealed = wrap(dealt[holder].to_bytes(), public, stolen, context=context)
        pair = SharePair.from_bytes(reopened(sealed, stolen, public, context))
        found[call.sites.index(holder)] = pair.round_share
    assert join(found, threshold=threshold) == secrets.round_seed


def test_the_shares_a_hospital_dealt_do_not_open_by_its_long_term_key(cohort):
    victim = cohort.sites[0]
    stolen = cohort.hospitals[victim].keys.agreement
    called = cohort.begin().called
    envelopes = called.envelopes[victim]
    assert set(envelopes) == set(cohort.sites) - {victim}
    for holder, sealed in envelopes.items():
        context = context_of(called.call, victim, holder)
        with pytest.raises(InvalidTag):
            reopened(sealed, stolen, agreement_key(cohort, holder), context)


def test_the_key_that_sealed_them_is_kept_nowhere(cohort):
    """Neither with the secrets of the call nor in the reply that is given again."""
    site = cohort.sites[0]
    called = cohort.begin().called
    named = digest(called.call)
    held = cohort.hospitals[site].store.round_secrets(called.call.study, 1, named)
    kept = RoundSecrets.from_bytes(held.secrets[:65])
    assert len(held.secrets) == len(kept.to_bytes()) + 67  # the seeds, and its own shares
    assert called.keys[site].sealing_key not in {
        kept.public.public_key,
        agreement_key(cohort, site),
    }
