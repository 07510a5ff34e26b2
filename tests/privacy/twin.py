"""The slow, obvious twin of packing and of BFV: plain integers, loops and no library.

Nothing here is fast, constant in time or safe to use; it is what the fast code must agree with.
Sampling takes a ``random.Random``, so that a failing example comes back.

References:
    [1] Fan and Vercauteren, ePrint 2012/144, section 3 (BFV); Smart and Vercauteren, Designs,
    Codes and Cryptography 71, 2014 (slots).
    [2] Kim, Polyakov and Zucca, ePrint 2021/204 (the rounded message).
"""

from dataclasses import dataclass

from privacy.randomness import RandomStream

FRESH_NOISE = 3.2
"""Standard deviation of a coefficient's noise, as in SEAL."""


class NoSum(Exception):
    """The slots are not what adding packed updates makes."""


# Packing, from the picture in privacy/packing.py.


def factors(name, length):
    """Return the public factors r_k of the check sum."""
    stream = RandomStream.from_seed(0, "packing", "check sum", name)
    return [int.from_bytes(stream.bytes(4), "little") for _ in range(length)]


def check_sum(values, parameters):
    products = [r * v for r, v in zip(factors(parameters.name, len(values)), values, strict=True)]
    return sum(products) % parameters.plain_modulus


def pack(values, weight, parameters):
    """Return all slots of all ciphertexts."""
    words = [0] * words_of(len(values), parameters)
    for k, value in enumerate(values):
        field, word = divmod(k, len(words))
        words[word] += value * 2 ** (parameters.field_bits * field)
    body = [weight, check_sum(values, parameters), *words]
    slots = []
    while body:
        here, body = body[: parameters.ring_degree - 1], body[parameters.ring_degree - 1 :]
        number = len(slots) // parameters.ring_degree + 1
        slots += [number, *here] + [0] * (parameters.ring_degree - 1 - len(here))
    return [slot % parameters.plain_modulus for slot in slots]


def add(several, modulus):
    return [sum(column) % modulus for column in zip(*several, strict=True)]


def unpack(slots, length, sites, parameters):
    """Return the summed values and weight, or raise NoSum."""
    values, weight, found = split(slots, length, sites, parameters)
    if found != check_sum(values, parameters):
        raise NoSum
    return values, weight


def split(slots, length, sites, parameters):
    """Return the values that come apart, the weight and the sum of the check sums, unchecked."""
    body, degree = [], parameters.ring_degree
    for start in range(0, len(slots), degree):
        number, *here = slots[start : start + degree]
        if number != sites * (start // degree + 1) % parameters.plain_modulus:
            raise NoSum
        body += here
    (weight, found), rest = body[:2], body[2:]
    count = words_of(length, parameters)
    columns = [split_word(word, parameters) for word in rest[:count]]
    values = [column[field] for field in range(parameters.fields) for column in columns]
    if any(rest[count:]) or any(values[length:]):
        raise NoSum
    if not sites <= weight <= sites * 2**40:
        raise NoSum
    if any(abs(value) > sites * parameters.value_max for value in values):
        raise NoSum
    return values[:length], weight, found


def split_word(word, parameters):
    """Return a word's fields, lowest first; each is the digit nearest zero."""
    whole, base = centred(word, parameters.plain_modulus), 2**parameters.field_bits
    fields = []
    for _ in range(parameters.fields):
        digit = whole % base
        if digit >= base // 2:
            digit -= base
        fields.append(digit)
        whole = (whole - digit) // base
    if whole != 0:
        raise NoSum
    return fields


def words_of(length, parameters):
    return -(-length // parameters.fields)


# BFV with one prime and without multiplication, over Z_q[x] / (x^N + 1).


@dataclass(frozen=True)
class TinyRing:
    """Degree N, a prime q, and a prime t = 1 mod 2N."""

    degree: int
    q: int
    t: int

    def times(self, a, b):
        """Return the product: what passes x^(N-1) comes back negative."""
        product = [0] * self.degree
        for i, left in enumerate(a):
            for j, right in enumerate(b):
                sign = 1 if i + j < self.degree else -1
                product[(i + j) % self.degree] += sign * left * right
        return [c % self.q for c in product]

    def plus(self, a, b):
        return [(x + y) % self.q for x, y in zip(a, b, strict=True)]

    def roots(self):
        """Return the N numbers mod t at which x^N + 1 is zero, one for each slot."""
        powers = (pow(x, (self.t - 1) // (2 * self.degree), self.t) for x in range(2, self.t))
        root = next(x for x in powers if pow(x, self.degree, self.t) == self.t - 1)
        return [pow(root, odd, self.t) for odd in range(1, 2 * self.degree, 2)]

    def decode(self, message):
        """Return the polynomial's values at the roots: sums and products go slot by slot."""
        return [
            sum(c * pow(x, i, self.t) for i, c in enumerate(message)) % self.t for x in self.roots()
        ]

    def encode(self, slots):
        """Return the one polynomial with these values at the roots.

        Over all roots x, x^(i-j) sums to N for i = j and to 0 otherwise, so coefficient i is the
        mean of slot * x^-i.
        """
        inverse, roots = pow(self.degree, -1, self.t), self.roots()
        return [
            inverse
            * sum(s * pow(x, -i, self.t) for s, x in zip(slots, roots, strict=True))
            % self.t
            for i in range(self.degree)
        ]

    def scaled(self, message):
        """Return q m / t to the nearest integers [2].

        Floor(q/t) times m would not do: it is off by up to t * t / q, and t here is near q.
        """
        return [(2 * self.q * m + self.t) // (2 * self.t) for m in message]

    def unscaled(self, phase):
        """Return t c / q to the nearest integers, mod t."""
        return [(2 * self.t * c + self.q) // (2 * self.q) % self.t for c in phase]

    def key(self, random):
        return [random.choice([-1, 0, 1]) for _ in range(self.degree)]

    def noise(self, random):
        return [round(random.gauss(0, FRESH_NOISE)) for _ in range(self.degree)]

    def encrypt(self, slots, key, random):
        """Return (c0, c1) with c0 + c1 s = q m / t + e."""
        c1 = [random.randrange(self.q) for _ in range(self.degree)]
        hidden = self.plus(self.scaled(self.encode(slots)), self.noise(random))
        return self.plus(hidden, [-c for c in self.times(c1, key)]), c1

    def add(self, left, right):
        return self.plus(left[0], right[0]), self.plus(left[1], right[1])

    def phase(self, ciphertext, key):
        """Return c0 + c1 s, which is q m / t + e."""
        c0, c1 = ciphertext
        return self.plus(c0, self.times(c1, key))

    def decrypt(self, ciphertext, key):
        return self.decode(self.unscaled(self.phase(ciphertext, key)))


def centred(number, modulus):
    """Return the number mod ``modulus`` that is nearest zero."""
    number %= modulus
    return number - modulus if number > modulus // 2 else number
