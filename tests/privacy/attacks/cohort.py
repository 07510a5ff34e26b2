"""Hospitals in one round of ours, without network or files: what each of them would hold.

The server's view of the round is ``uploads`` and ``roster``. Everything else here is at one
hospital each, and an attack says which hospitals it has brought over.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import stats

from privacy import residues
from privacy.bfv import ServerContext, encrypt, generate_key
from privacy.masks import MaskedUpdate, apply
from privacy.packing import pack
from privacy.parameters import ParameterSet
from privacy.quantisation import QuantisedUpdate
from privacy.residues import Kind
from privacy.ring import ring
from privacy.round_secrets import (
    RoundSecrets,
    _private_key,
    deal,
    leftover,
    reveal,
    total_pad,
)
from privacy.sharing import quorum
from privacy.wire import body
from protocol.ids import SiteId
from tests.privacy.attacks.reference import plaintext_words
from tests.privacy.attacks.transform import inverse

CONTEXT = b"digest of the round's plan"
CHANCE = 1e-9
"""How unlikely an honest sample may be before a statistical test speaks."""


def round_key(secrets):
    """Return the private X25519 key that follows from a site's round seed."""
    return _private_key(secrets.round_seed)


def looks_uniform(words, modulus):
    """Return whether words pass for uniform below the modulus, by their top and lowest bits."""
    top = np.floor(words.astype(float) / modulus * 64).astype(int)
    lowest = (words & np.uint64(63)).astype(int)
    counts = (np.bincount(bits, minlength=64) for bits in (top, lowest))
    return all(stats.chisquare(found).pvalue > CHANCE for found in counts)


@dataclass(frozen=True)
class Cohort:
    """The sites of one round, by id.

    Attributes:
        secrets: Each site's own seeds.
        held: Per holder the pairs of shares it was dealt, by dealer.
        values: Each site's quantised update, which nobody else may learn.
        weight: Of every site.
    """

    parameters: ParameterSet
    key: object
    secrets: dict
    held: dict
    values: dict
    weight: int = 7

    @classmethod
    def meet(cls, n, parameters, *, length, key=None):
        """Return ``n`` sites with fresh seeds, dealt shares and random updates."""
        sites = [SiteId(f"site-{k:02}") for k in range(n)]
        secrets = {site: RoundSecrets.generate() for site in sites}
        dealt = {site: deal(secrets[site], threshold=quorum(n), holders=n) for site in sites}
        held = {
            holder: {dealer: dealt[dealer][place] for dealer in sites}
            for place, holder in enumerate(sites)
        }
        top = parameters.value_max
        draw = np.random.default_rng(n).integers
        values = {site: draw(-top, top + 1, length).astype(np.int16) for site in sites}
        return cls(parameters, key or generate_key(parameters), secrets, held, values)

    @property
    def sites(self):
        return list(self.secrets)

    @property
    def threshold(self):
        return quorum(len(self.secrets))

    @property
    def length(self):
        return next(iter(self.values.values())).size

    @property
    def size(self):
        """Words of an upload."""
        return self.parameters.ciphertexts(self.length) * self.parameters.ring_degree

    @cached_property
    def roster(self):
        return {site: secrets.public for site, secrets in self.secrets.items()}

    def packed(self, site):
        values = QuantisedUpdate(self.values[site], self.parameters.value_bits, 0)
        return pack(values, self.weight, self.parameters)

    def pad(self, site):
        return total_pad(
            self.secrets[site],
            site,
            self.roster,
            context=CONTEXT,
            size=self.size,
            parameters=self.parameters,
        )

    @cached_property
    def masked(self) -> dict[SiteId, MaskedUpdate]:
        return {site: apply(self.packed(site), [self.pad(site)]) for site in self.sites}

    @cached_property
    def uploads(self):
        return {site: encrypt(self.masked[site], self.key) for site in self.sites}

    def added(self, uploads):
        """Return the sum of uploads as the server makes it."""
        return ServerContext(self.parameters).add(uploads)

    def total(self, sites=None):
        """Return the sum of these sites' uploads."""
        chosen = self.sites if sites is None else sites
        return self.added([self.uploads[site] for site in chosen])

    def leftover(self, present=None):
        """Return the pad that stays in the sum of the present, all sites being alive."""
        chosen = frozenset(self.sites if present is None else present)
        split = {"present": chosen, "absent": frozenset(self.sites) - chosen}
        answers = {
            site: reveal(secrets, site, self.held[site], **split)
            for site, secrets in self.secrets.items()
        }
        found = leftover(
            self.roster,
            answers,
            holders=self.sites,
            threshold=self.threshold,
            context=CONTEXT,
            size=self.size,
            parameters=self.parameters,
            **split,
        )
        return found.pad


def rewritten(total, change, parameters):
    """Return a sum with ``change`` applied to its residues, as whoever stores it can write it."""
    kind, n = Kind.of(parameters, summed=True), total.sites
    sent = residues.read(total.blob, kind, total.length, parameters, contributors=n)
    values = sent.values.copy()
    change(values)
    packed = residues.pack(values, parameters)
    return replace(total, blob=residues.write(kind, sent.seeds, packed, parameters, contributors=n))


def scaled(slots, parameters):
    """Return round(q m / t) of one ciphertext's slots: what encryption puts above its noise."""
    q, t = math.prod(parameters.data_modulus), parameters.plain_modulus
    plaintext = plaintext_words(ring(parameters).encode(slots), parameters.ring_degree)
    return (plaintext[0].astype(object) * q + t // 2) // t


def secret_of(key):
    """Return the ``(N,)`` ternary coefficients of a group key."""
    words = np.frombuffer(body(key.to_bytes(), limit=2**20)[72:], "<u8")
    return inverse(words, key.parameters.coeff_modulus[0])
