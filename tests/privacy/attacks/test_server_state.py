"""Whoever takes over the server finds no key, seed or share in its files, memory or messages."""

import base64
import gc
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import numpy as np
import pytest

from fl_server.store import ServerStore
from privacy.round_secrets import RoundSecrets
from privacy.wire import body
from protocol.frames import decode
from tests.fl_server.cohort import Cohort
from tests.fl_server.study import Direct, small_study
from tests.privacy.attacks.reference import opened

ROUNDS = 2
PIECE = 16
"""Bytes of a secret that are looked for: a part of it found is found."""


def spellings(secret):
    """Return how bytes may be written in a file or message."""
    return {secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"=")}


def found_in(secrets, haystack):
    """Return the names of the secrets of which a piece is in the haystack, as bytes or text."""
    return {
        name
        for name, secret in secrets.items()
        for spelling in spellings(secret[:PIECE]) | spellings(secret[-PIECE:])
        if spelling[:-1] in haystack  # the last character of base64 depends on what follows
    }


def secrets_of(site, keys, store, study):
    """Return by name everything a hospital must keep to itself, read from its own store."""
    known = {
        "signing key": keys.signing.private_bytes_raw(),
        "agreement key": keys.agreement.private_bytes_raw(),
    }
    record = decode(store.keys.held(study).record)
    if record.kind == "member":
        known["share of the wrapping key"] = record.blobs["kek_share"]
        known["group key"] = record.blobs["secret"]
        known["group key's words"] = body(record.blobs["secret"], limit=2**20)[72:]
    else:
        known["share of the key"] = record.blobs["share"][-4096:]
    plan, shares = store.plan(study, ROUNDS)
    own = store.round_secrets(study, ROUNDS, plan.call).secrets
    known |= {"self seed": own[1:33], "round seed": own[33:65]}
    for dealer, pair in decode(shares).blobs.items():
        known |= {f"self share of {dealer}": pair[1:34], f"round share of {dealer}": pair[34:]}
    return {f"{site}: {name}": secret for name, secret in known.items()}


def secrets_of_all(hospitals, study):
    together = {}
    for site, hospital in hospitals.items():
        together |= secrets_of(site, hospital.keys, hospital.store, study)
    return together


@pytest.fixture(scope="module", params=["members", "threshold"])
def robbed(request, tmp_path_factory):
    """A study of two rounds with the server's files in a folder, and what is to be kept secret."""
    folder = tmp_path_factory.mktemp("server")
    cohort = Cohort.meet(4, opening=request.param)
    cohort.store = ServerStore(folder / "server.db")
    cohort.start()
    for number in range(1, ROUNDS + 1):
        cohort.open(cohort.upload(cohort.begin(number), cohort.sites[:3]))
    return cohort, folder, secrets_of_all(cohort.hospitals, cohort.terms.study)


def test_the_search_finds_what_hospitals_keep(robbed):
    """The same search over one hospital's memory, so that finding nothing means something."""
    cohort, _, secrets = robbed
    hospital = cohort.hospitals[cohort.sites[0]]
    own = {name for name in secrets if name.startswith(hospital.site)}
    held = [decode(hospital.store.keys.held(cohort.terms.study).record).blobs]
    plan, shares = hospital.store.plan(cohort.terms.study, ROUNDS)
    held += [hospital.store.round_secrets(cohort.terms.study, ROUNDS, plan.call), decode(shares)]
    missed = own - found_in(secrets, memory_of(held))
    assert missed <= {f"{hospital.site}: {name}" for name in NOT_PLAIN}


NOT_PLAIN = {"signing key", "agreement key", "group key's words"}
"""Inside OpenSSL's objects and SEAL's compressed file: not bytes that Python can reach."""


def reachable(roots, leave_out=()):
    """Return the objects that Python can reach through attributes, containers and closures."""
    left_out = {id(one) for one in leave_out}
    found, waiting = {}, list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in found or id(one) in left_out or isinstance(one, type | ModuleType):
            continue
        found[id(one)] = one
        if isinstance(one, FunctionType):  # what it names globally is code, not state
            waiting += [one.__closure__, one.__defaults__]
        elif isinstance(one, MethodType | BuiltinFunctionType):
            waiting.append(one.__self__)
        else:
            waiting += gc.get_referents(one)
    return list(found.values())


def memory_of(roots, leave_out=()):
    """Return the bytes, texts, numbers and arrays among what can be reached."""
    pieces = []
    for one in reachable(roots, leave_out):
        if isinstance(one, bytes | bytearray | memoryview):
            pieces.append(bytes(one))
        elif isinstance(one, str):
            pieces.append(one.encode())
        elif isinstance(one, np.ndarray):
            pieces.append(one.tobytes())
        elif isinstance(one, int) and one.bit_length() > 64:
            size = one.bit_length() // 8 + 1
            pieces += [one.to_bytes(size, order) for order in ("big", "little")]
    return b"\n".join(pieces)


def test_in_the_reference_one_clients_kit_is_all_that_is_needed(reference, updates, uploads):
    """The server's context is keyless there too; the key lies at every client and never changes."""
    assert not reference.server.has_secret_key()
    assert reference.another_client().has_secret_key()
    assert np.allclose(opened(reference.another_client(), uploads[0]), updates[0], atol=1e-6)


def test_the_servers_files_hold_no_secret(robbed):
    _, folder, secrets = robbed
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) > 10_000
    for path in files:
        assert not found_in(secrets, path.read_bytes())


def test_the_servers_objects_reach_no_secret(robbed):
    """All of Python's memory behind the server's parts, but not the hospitals it talks to."""
    cohort, _, secrets = robbed
    parts = [cohort.sum, cohort.keeper, cohort.asking, cohort.store, cohort.server_key]
    others = [cohort.transport, *cohort.hospitals.values()]
    memory = memory_of(parts, leave_out=others)
    assert cohort.terms.study.encode() in memory
    assert not found_in(secrets, memory)
    assert not SECRET_TYPES & {type(one).__name__ for one in reachable(parts, leave_out=others)}
    assert SECRET_TYPES & {type(one).__name__ for one in reachable([RoundSecrets.generate()])}


SECRET_TYPES = {"SecretKey", "KeyShare", "RoundSecrets", "SharePair", "Reveal", "X25519PrivateKey"}


def test_no_message_that_passed_through_the_server_shows_a_secret(robbed):
    """Every frame of the study, asked and answered, with all that rides beside it."""
    cohort, _, secrets = robbed
    carried = [frame for _, _, frame in cohort.transport.asked + cohort.transport.answered]
    assert {kind for kind, _, _ in cohort.transport.answered} >= {"call", "unmask", "open"}
    assert not found_in(secrets, b"\n".join(carried))


@pytest.mark.slow
def test_a_whole_run_with_training_and_proofs_leaves_no_secret_with_the_server(tmp_path):
    with small_study(tmp_path / "home") as study:
        transport = Direct(study.agents)
        engine = study.engine(transport)
        engine.run()
        assert study.store.rounds_closed() == ROUNDS
        secrets = secrets_of_all(study.agents, study.terms.study)
        for path in study.home.server.rglob("*"):
            if path.is_file():
                assert not found_in(secrets, path.read_bytes()), path.name
        memory = memory_of([engine], leave_out=[transport, *study.agents.values()])
        assert study.terms.study.encode() in memory
        assert not found_in(secrets, memory)
        assert not found_in(secrets, b"\n".join(frame for _, _, frame in transport.asked))
