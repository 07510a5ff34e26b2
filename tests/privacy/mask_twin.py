"""The slow, obvious twin of shares and pads: plain integers, one block and one word at a time.

Only the primitives are shared with what it checks: AES on one block, X25519, and HMAC for HKDF.
"""

import hashlib
import hmac
from fractions import Fraction

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

P = 2**256 + 297


def share_at(coefficients, x):
    """Return the polynomial at ``x``, lowest coefficient first."""
    return sum(c * x**k for k, c in enumerate(coefficients)) % P


def joined(points):
    """Return f(0) mod P of the polynomial through ``points``, with weights as true fractions."""
    total = 0
    for x, y in points:
        weight = Fraction(1)
        for other, _ in points:
            if other != x:
                weight *= Fraction(-other, x - other)
        total += y * weight.numerator * pow(weight.denominator, -1, P)
    return total % P


def hkdf(material, info):
    """RFC 5869 with SHA-256, no salt, one block of 32 bytes."""
    extracted = hmac.digest(bytes(32), material, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def round_key(round_seed):
    return X25519PrivateKey.from_private_bytes(hkdf(round_seed, b"bithive round key\n"))


def pad(key, size, modulus):
    """Return the first ``size`` words of the keystream that are below ``modulus``."""
    codebook = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    bits = (modulus - 1).bit_length()
    words, counter = [], 0
    while len(words) < size:
        block = codebook.update(counter.to_bytes(16, "big"))
        for half in (block[:8], block[8:]):
            word = int.from_bytes(half, "little") >> (64 - bits)
            if word < modulus:
                words.append(word)
        counter += 1
    return words[:size]


def self_pad(secrets, site, context, size, modulus):
    info = b"bithive self pad\n" + bytes([len(site)]) + site.encode() + context
    return pad(hkdf(secrets.self_seed, info), size, modulus)


def pair_pad(everyone, first, second, *, context, size, modulus):
    """Return the pad of a pair; ``first`` is the smaller id and adds it."""
    assert first < second
    mine, theirs = (round_key(everyone[site].round_seed) for site in (first, second))
    keys = [key.public_key().public_bytes_raw() for key in (mine, theirs)]
    shared = mine.exchange(X25519PublicKey.from_public_bytes(keys[1]))
    names = b"".join(bytes([len(site)]) + site.encode() for site in (first, second))
    info = b"bithive pair pad\n" + names + keys[0] + keys[1] + context
    return pad(hkdf(shared, info), size, modulus)


def total_pad(everyone, own, context, size, modulus):
    """Return what ``own`` adds, from everybody's secrets."""
    total = self_pad(everyone[own], own, context, size, modulus)
    for other in everyone:
        if other == own:
            continue
        low, high = sorted([own, other])
        shared = pair_pad(everyone, low, high, context=context, size=size, modulus=modulus)
        sign = 1 if own == low else -1
        total = [(a + sign * b) % modulus for a, b in zip(total, shared, strict=True)]
    return total


def leftover(everyone, present, context, size, modulus):
    """Return what does not cancel in the sum of the present: simply the sum of their pads."""
    pads = [total_pad(everyone, site, context, size, modulus) for site in present]
    return [sum(column) % modulus for column in zip(*pads, strict=True)]
