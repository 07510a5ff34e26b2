"""What an officer is shown is what would run: an offer that says otherwise is refused."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_client.offers import JobFalse, check_addressed, read_offer
from privacy.keys import SiteKeys
from privacy.signatures import BadSignature
from protocol.canonical import MalformedMessage
from protocol.frames import Frame, decode
from tests.fl_client.job_world import SITE, World

FALSE = {
    "study": "others",
    "terms": "1" * 64,
    "model": "cnn",
    "algorithm": "fedprox",
    "datasets": ("others",),
    "purposes": ("DUO:0000007",),
    "rounds": 4,
    "epsilon": 1.0,
    "delta": 1e-6,
    "unit": "site",
}


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def job(world):
    return world.job()


def test_an_honest_offer_is_read(world, job):
    terms, manifest = job
    found = read_offer(decode(world.offer(manifest, terms)))
    assert (found.terms, found.manifest) == (terms, manifest)
    check_addressed(found.terms, SITE, world.keys[SITE])


@pytest.mark.parametrize("field", FALSE)
def test_a_manifest_that_says_other_than_the_terms_is_refused(world, job, field):
    terms, manifest = job
    false = manifest.model_copy(update={field: FALSE[field]}).signed_by(world.server.sign)
    with pytest.raises(JobFalse):
        read_offer(decode(world.offer(false, terms)))


def test_a_manifest_or_offer_that_the_server_did_not_sign_is_refused(world, job):
    terms, manifest = job
    stranger = Ed25519PrivateKey.generate()
    forged = world.manifest(terms, signer=stranger)
    for frame in (world.offer(forged, terms), world.offer(manifest, terms, signer=stranger)):
        with pytest.raises(BadSignature):
            read_offer(decode(frame))


def test_a_cheaper_price_under_the_old_signature_is_refused(world, job):
    terms, manifest = job
    cheaper = manifest.model_copy(update={"price": 1})
    with pytest.raises(BadSignature):
        read_offer(decode(world.offer(cheaper, terms)))


@pytest.mark.parametrize(
    "text", ["x\x1b[1A\x1b[2K", "x\u202ex", "x\nasks nothing", "\x9b2J", "\u2028"]
)
def test_what_an_officer_would_not_see_as_it_is_is_refused(world, text):
    terms = world.terms(title=text)
    with pytest.raises(MalformedMessage, match="title"):
        read_offer(decode(world.offer(world.manifest(terms), terms)))
    terms = world.terms()
    with pytest.raises(MalformedMessage, match="researcher"):
        read_offer(decode(world.offer(world.manifest(terms, researcher=text), terms)))


def test_an_offer_of_another_hash_is_refused(world, job):
    terms, manifest = job
    with pytest.raises(JobFalse, match="hash"):
        read_offer(decode(world.offer(manifest, terms, job="f" * 64)))


def test_terms_that_know_this_hospital_by_other_keys_are_refused(world, job):
    with pytest.raises(JobFalse, match="hospitals"):
        check_addressed(job[0], SITE, SiteKeys.generate())
    with pytest.raises(JobFalse):
        check_addressed(job[0], "east", world.keys[SITE])


@pytest.mark.parametrize("lacking", ["offer", "manifest", "terms"])
def test_half_an_offer_is_none(world, job, lacking):
    terms, manifest = job
    whole = decode(world.offer(manifest, terms))
    half = Frame("offer", {name: it for name, it in whole.body.items() if name != lacking})
    with pytest.raises(MalformedMessage):
        read_offer(half)
