"""The secure sum of one round without network, messages or training, each stage timed.

What a stage costs is what the functions of ``privacy`` take that agents and server call in it, for
either way of opening a sum (``privacy.opening``)::

    keys ─▶ client ───────▶ check, add ─▶ tag ─▶ compare ─▶ reveal ─▶ share ─────▶ open
    seeds   quantise, pack, server        each   server:    each      quorum only  tags, decrypt,
    shares  pads, encrypt                        the tags                          pads, unpack

Signatures, envelopes and JSON, which cost the same for every size of model, are left out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from experiments._stopwatch import Stopwatch
from privacy import bfv, key_generation
from privacy.bfv import EncryptedSum, EncryptedUpdate, ServerContext
from privacy.masks import apply, remove
from privacy.opening import GroupCipher, MemberCipher, QuorumCipher
from privacy.packing import pack, unpack
from privacy.parameters import ParameterSet
from privacy.quantisation import QuantisedUpdate, quantise
from privacy.round_secrets import RoundSecrets, SharePair, deal, leftover, reveal, total_pad
from privacy.sharing import quorum
from privacy.tags import check_tags, tag
from privacy.update import NoisedUpdate
from protocol.ids import SiteId

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CONTEXT: Final = hashlib.sha256(b"aggregation cost").digest()
"""Stands for the digest of a plan and for the challenge of the tags."""
_WEIGHT: Final = 100
"""Patients of every site."""


def site_names(sites: int) -> list[SiteId]:
    """Return the sites of a round, in order."""
    return [SiteId(f"site-{number:02}") for number in range(sites)]


def members(parameters: ParameterSet, sites: int) -> dict[SiteId, GroupCipher]:
    """Return every site's hold on one group key."""
    return dict.fromkeys(site_names(sites), MemberCipher(bfv.generate_key(parameters)))


def holders(
    parameters: ParameterSet, sites: int, stopwatch: Stopwatch
) -> dict[SiteId, GroupCipher]:
    """Return every site's share of a key that nobody holds; times ``group key``, a site's part."""
    names, least = site_names(sites), quorum(sites)
    parts = []
    for _ in names:
        with stopwatch.timed("group key"):
            parts.append(
                key_generation.contribute(
                    parameters, threshold=least, holders=sites, context=_CONTEXT
                )
            )
    publics = [part.public for part in parts]
    key = key_generation.collective_key(publics, parameters, context=_CONTEXT)
    shares = [
        key_generation.join_shares([part.shares[i] for part in parts], parameters, index=i)
        for i in range(sites)
    ]
    return {
        name: QuorumCipher(key, share, tuple(names), least)
        for name, share in zip(names, shares, strict=True)
    }


@dataclass
class SecureSum:
    """One round in which every site uploads and none is lost.

    Attributes:
        parameters: Those of the ciphers.
        ciphers: Each site's hold on the group key.
        scale: Standard deviation of the updates' values, in the units of the weights.
        stopwatch: Gets the stages.
    """

    parameters: ParameterSet
    ciphers: Mapping[SiteId, GroupCipher]
    scale: float
    stopwatch: Stopwatch
    updates: list[EncryptedUpdate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = sorted(self.ciphers)
        self.server = ServerContext(self.parameters)
        self.threshold = quorum(len(self.names))
        self.integers: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self.secrets: dict[SiteId, RoundSecrets] = {}
        self.dealt: dict[SiteId, tuple[SharePair, ...]] = {}
        for name in self.names:
            with self.stopwatch.timed("keys"):
                made = RoundSecrets.generate()
                dealt = deal(made, threshold=self.threshold, holders=len(self.names))
            self.secrets[name], self.dealt[name] = made, dealt
        self.roster = {name: made.public for name, made in self.secrets.items()}

    def contribute(self, vector: NDArray[np.float32]) -> None:
        """Send the next site's update, and check it at the server."""
        name = self.names[len(self.updates)]
        with self.stopwatch.timed("client"):
            quantised = _quantised(vector, self.scale, self.parameters)
            packed = pack(quantised, _WEIGHT, self.parameters)
            pad = total_pad(
                self.secrets[name],
                name,
                self.roster,
                context=_CONTEXT,
                size=packed.words.size,
                parameters=self.parameters,
            )
            update = self.ciphers[name].encrypt(apply(packed, [pad]))
        with self.stopwatch.timed("check"):
            self.server.check(update)
        self.updates.append(update)
        self.integers = self.integers + quantised.values

    def add(self) -> EncryptedSum:
        """Return the encrypted sum."""
        with self.stopwatch.timed("add"):
            return self.server.add(self.updates)

    def tags(self) -> list[tuple[int, ...]]:
        """Return every site's tag under one challenge."""
        found = []
        for update in self.updates:
            with self.stopwatch.timed("tag"):
                found.append(tag(update, _CONTEXT, self.parameters))
        return found

    def compare(self, total: EncryptedSum, tags: Sequence[tuple[int, ...]]) -> None:
        """Compare the tags with the sum, as the server does before it asks for openings."""
        made = replace(total)
        with self.stopwatch.timed("compare"):
            check_tags(made, tags, _CONTEXT, self.parameters)

    def shares(self, total: EncryptedSum) -> dict[SiteId, bytes]:
        """Return a quorum's shares of the decryption; members need none, and give empty ones."""
        chosen, found = self.names[: self.threshold], {}
        for name in chosen:
            received = replace(total)
            with self.stopwatch.timed("share"):
                found[name] = self.ciphers[name].share(received, chosen)
        return found

    def open(
        self, total: EncryptedSum, tags: Sequence[tuple[int, ...]], shares: Mapping[SiteId, bytes]
    ) -> bool:
        """Open the sum as one site does; return whether it is the sum of the integers."""
        present = frozenset(self.names)
        reveals = {}
        for place, name in enumerate(self.names):
            held = {dealer: pairs[place] for dealer, pairs in self.dealt.items()}
            with self.stopwatch.timed("reveal"):
                reveals[name] = reveal(
                    self.secrets[name], name, held, present=present, absent=frozenset()
                )
        received = replace(total)  # what an earlier opening worked out is not taken over
        with self.stopwatch.timed("open"):
            check_tags(received, tags, _CONTEXT, self.parameters)
            words = self.ciphers[self.names[0]].open(received, shares)
            left = leftover(
                self.roster,
                reveals,
                holders=self.names,
                threshold=self.threshold,
                present=present,
                absent=frozenset(),
                context=_CONTEXT,
                size=words.size,
                parameters=self.parameters,
            )
            clear = remove(words, [left.pad], self.parameters)
            sums, weight = unpack(clear, total.length, total.sites, self.parameters)
        return weight == _WEIGHT * len(self.names) and np.array_equal(sums, self.integers)


class Processes:
    """One upload and the opening of a sum of three, by as many processes as asked for."""

    def __init__(self, size: int, scale: float, parameters: ParameterSet) -> None:
        vector = (scale * np.random.default_rng(0).standard_normal(size)).astype(np.float32)
        packed = pack(_quantised(vector, scale, parameters), _WEIGHT, parameters)
        self.key, self.masked = bfv.generate_key(parameters), apply(packed, [])
        updates = [bfv.encrypt(self.masked, self.key, workers=2) for _ in range(3)]
        self.total = ServerContext(parameters).add(updates)

    def wall_seconds(self, workers: int) -> tuple[float, float]:
        """Return the wall seconds of encrypting and of opening, by ``workers`` processes."""
        received, started = replace(self.total), time.perf_counter()
        bfv.encrypt(self.masked, self.key, workers=workers)
        encrypted = time.perf_counter()
        bfv.open_sum(received, self.key, workers=workers)
        return encrypted - started, time.perf_counter() - encrypted


def _quantised(
    vector: NDArray[np.float32], scale: float, parameters: ParameterSet
) -> QuantisedUpdate:
    """Round as a study does: the largest value stands for 4.5 standard deviations."""
    step = 4.5 * scale / parameters.value_max
    return quantise(NoisedUpdate(vector), step, parameters.value_bits)
