"""Hostile bytes and exchanged ciphertexts end in a typed error; the server holds nothing to steal.

Crafted ciphertexts are in tests/privacy/attacks, beside the setting in which they succeed.
"""

import gc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from privacy import residues
from privacy.bfv import ServerContext, generate_key, open_sum
from privacy.packing import SumCorrupt, unpack
from privacy.residues import SEED_BYTES, Kind
from privacy.wire import MalformedCiphertext
from protocol.errors import PrivacyError

HEADER = 17


def rewritten(total, parameters, change):
    """Return the sum with ``change`` applied to its residues and seeds, one row a ciphertext."""
    kind = Kind.of(parameters, summed=True)
    sent = residues.read(total.blob, kind, total.length, parameters, contributors=total.sites)
    seeds = [
        [row[i : i + SEED_BYTES] for i in range(0, len(row), SEED_BYTES)] for row in sent.seeds
    ]
    values, seeds = change(sent.values, seeds)
    packed = residues.pack(values, parameters)
    joined = [b"".join(row) for row in seeds]
    blob = residues.write(kind, joined, packed, parameters, contributors=total.sites)
    return replace(total, blob=blob)


def test_uniform_garbage_is_refused_before_decryption(
    preset, group_key, server, upload, monkeypatch
):
    """A first polynomial of the server's choice beside whatever the seeds expand to."""
    total = server.add([upload(group_key, [1])] * 2)
    garbage = rewritten(total, preset, lambda values, seeds: (values[..., ::-1].copy(), seeds))

    def plaintext():
        raise AssertionError("decryption was reached")

    monkeypatch.setattr(sealapi, "Plaintext", plaintext)
    with pytest.raises(MalformedCiphertext, match="noise"):
        open_sum(garbage, group_key)


def test_a_first_polynomial_that_is_not_random_is_refused(preset, group_key, server, upload):
    blob = bytearray(server.add([upload(group_key, [1])]).blob)
    blob[-30_720:] = bytes(30_720)
    with pytest.raises(MalformedCiphertext, match="not random"):
        open_sum(replace(server.add([upload(group_key, [1])]), blob=bytes(blob)), group_key)


def test_a_replaced_ciphertext_of_many_is_found(preset, group_key, server, upload):
    """Each ciphertext has its own check word, so exchanging two of one sum shows as well."""
    total = server.add([upload(group_key, np.ones(40_000))] * 3)

    def exchanged(values, seeds):
        order = [1, 0, 2]
        return values[order], [[row[i] for i in order] for row in seeds]

    with pytest.raises(SumCorrupt):
        open_and_unpack(rewritten(total, preset, exchanged), group_key)
    other = server.add([upload(group_key, np.ones(40_000))] * 3)
    foreign = residues.read(other.blob, Kind.SUM_SEEDED, 40_000, preset, contributors=3)

    def mixed(values, seeds):
        values = np.concatenate([values[:2], foreign.values[2:]])
        last = foreign.seeds[0][2 * SEED_BYTES :]
        return values, [[*row[:2], last] for row in seeds]

    sums, _ = open_and_unpack(rewritten(total, preset, mixed), group_key)
    assert sums.tolist() == [3] * 40_000  # three sites' last part from elsewhere: tags find it
    two = server.add([upload(group_key, np.ones(40_000))] * 2)
    with pytest.raises((SumCorrupt, MalformedCiphertext)):
        open_and_unpack(replace(total, blob=two.blob), group_key)


def test_a_left_out_or_repeated_upload_is_found(preset, group_key, server, upload):
    """The sum must say how many it is of, so one that says two has the seeds of two."""
    uploads = [upload(group_key, [1]), upload(group_key, [2])]
    for added in (uploads[:1], [*uploads, uploads[0]]):
        total = replace(server.add(added), sites=2)
        with pytest.raises(MalformedCiphertext):
            open_and_unpack(total, group_key)
    one, two = server.add(uploads[:1]), server.add(uploads)
    short = one.blob[HEADER + SEED_BYTES :]
    for seeds in (two.blob[HEADER:][: 2 * SEED_BYTES], one.blob[HEADER:][:SEED_BYTES] * 2):
        with pytest.raises((SumCorrupt, MalformedCiphertext)):
            open_and_unpack(replace(two, blob=two.blob[:HEADER] + seeds + short), group_key)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_hostile_bytes_end_in_a_typed_error(preset, group_key, server, upload, data):
    """Cut, overwrite, splice: at the server and at the hospital, whatever is not refused opens."""
    kept = test_hostile_bytes_end_in_a_typed_error.__dict__
    if "upload" not in kept:
        kept["upload"] = upload(group_key, [1, 2, 3])
        kept["sum"] = server.add([kept["upload"]])
    good, total = kept["upload"], kept["sum"]
    for sent, use in ((good, server.check), (total, lambda t: open_and_unpack(t, group_key))):
        blob = bytearray(sent.blob)
        start = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(blob) - 1)))
        change = data.draw(st.binary(max_size=12))
        kind = data.draw(st.sampled_from(["cut", "overwrite", "insert", "alone"]))
        if kind == "cut":
            blob = blob[:start]
        elif kind == "overwrite":
            blob[start : start + len(change)] = change
        elif kind == "insert":
            blob[start:start] = change
        else:
            blob = bytearray(change)
        try:
            use(replace(sent, blob=bytes(blob)))
        except PrivacyError:
            continue


def open_and_unpack(total, key):
    return unpack(open_sum(total, key), total.length, total.sites, key.parameters)


@settings(max_examples=40, deadline=None)
@given(flip=st.tuples(st.integers(HEADER, 30_800), st.integers(0, 7)))
def test_one_flipped_bit_never_changes_a_sum_unnoticed(preset, group_key, server, upload, flip):
    """A low bit is noise, and decryption removes it; a high one, or a seed's, is in every slot."""
    kept = test_one_flipped_bit_never_changes_a_sum_unnoticed.__dict__
    if "sum" not in kept:
        kept["sum"] = server.add([upload(group_key, [1, 2, 3], weight=8)])
    blob = bytearray(kept["sum"].blob)
    blob[flip[0]] ^= 1 << flip[1]
    try:
        sums, weight = open_and_unpack(replace(kept["sum"], blob=bytes(blob)), group_key)
    except PrivacyError:
        return
    assert (sums.tolist(), weight) == ([1, 2, 3], 8)


def test_a_server_context_holds_no_secret_key(preset, upload):
    key = generate_key(preset)
    server = ServerContext(preset)
    server.add([upload(key, [1])])
    assert "SecretKey" in reachable_types({"a": [key]})  # the search finds a key where there is one
    assert "SecretKey" not in reachable_types(server)


def reachable_types(start):
    """Names of the types of all that Python can reach from an object through attributes."""
    seen, waiting = {}, [start]
    while waiting:
        found = waiting.pop()
        if id(found) not in seen and not isinstance(found, type) and not callable(found):
            seen[id(found)] = found
            waiting += [x for x in gc.get_referents(found) if type(x).__name__ != "module"]
    return {type(found).__name__ for found in seen.values()}
