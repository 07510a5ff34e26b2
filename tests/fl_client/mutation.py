"""Frames that were valid until somebody changed them, drawn from a seeded generator.

A frame is changed in its bytes (flipped, cut, lengthened), in its JSON (a field dropped, or of
another type or value) or in its blobs (cut, flipped, exchanged, missing, noise). The generator is
Python's and not Hypothesis's, because frames differ from run to run, in signatures and nonces.
"""

import copy
import json

from protocol.frames import decode, encode

ODD = (None, True, -1, 0, 10**30, 0.5, "", "x", "0" * 64, "\n", [], [[]], [{}], {}, {"a": 1})
HEADER = 4096
"""Most of a frame is residues; half of the changes in bytes fall before them."""


def changed(frame, random):
    """Return a changed copy of a frame's bytes."""
    return random.choice([flipped, cut, restated, restated, reblobbed])(frame, random)


def flipped(frame, random):
    """Flip bits of up to three bytes."""
    flip = bytearray(frame)
    for _ in range(random.randint(1, 3)):
        most = min(len(frame), HEADER) if random.random() < 0.5 else len(frame)
        flip[random.randrange(most)] ^= random.randint(1, 255)
    return bytes(flip)


def cut(frame, random):
    """Cut a frame short, or lengthen it."""
    if random.random() < 0.5:
        return frame[: random.randrange(len(frame))]
    return frame + random.randbytes(random.randint(1, 8))


def restated(frame, random):
    """Drop a field somewhere in the JSON, or put something odd in its place."""
    read = decode(frame)
    body = copy.deepcopy(read.body)
    found = list(places(body))
    if not found:
        return encode(read.kind, {"odd": random.choice(ODD)}, read.blobs)
    *way, last = random.choice(found)
    inner = body
    for step in way:
        inner = inner[step]
    if isinstance(inner, dict) and random.random() < 0.5:
        del inner[last]
    else:
        inner[last] = random.choice(ODD)
    return encode(read.kind, body, read.blobs)


def reblobbed(frame, random):
    """Change, drop or exchange the blobs."""
    read = decode(frame)
    blobs = dict(read.blobs)
    if not blobs:
        return encode(read.kind, read.body, {"extra": b"noise"})
    name, other = random.choice(list(blobs)), random.choice(list(blobs))
    how = random.choice(["drop", "cut", "flip", "exchange", "noise"])
    if how == "drop":
        del blobs[name]
    elif how == "exchange":
        blobs[name], blobs[other] = blobs[other], blobs[name]
    elif how == "noise" or not blobs[name]:
        blobs[name] = random.randbytes(random.randint(0, 64))
    elif how == "cut":
        blobs[name] = cut(blobs[name], random)
    else:
        blobs[name] = flipped(blobs[name], random)
    return encode(read.kind, read.body, blobs)


def places(value, way=()):
    """Yield the way to every field and element of a JSON value."""
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    else:
        return
    for key, one in inner:
        yield (*way, key)
        yield from places(one, (*way, key))


def says(reply):
    """Return the kind of a reply, which is a frame whatever was asked."""
    frame = decode(reply)
    if frame.kind == "refused":
        assert set(frame.body) == {"code", "reason"}
        json.dumps(frame.body)
    return frame.kind
