"""A site's two secrets of one round: shared out before it, revealed after it, never both of one.

The self seed grows the pad that a site adds alone, the round seed the key it agrees on pads with
(``privacy.masks``). Before the round both are shared among all sites called. Once a quorum has
endorsed which updates were received, every live site reveals to those in the sum its own self
seed, its shares of the self seeds of the present and its shares of the round seeds of the absent.
What remains in the sum can then be grown again and removed, whoever has gone silent::

    leftover = sum over present i of PRG(self_i)
             + sum over present i and absent j of PRG(pair_ij), as i added or subtracted it

A site whose update was received late stays hidden, since its self seed is never joined; one whose
update is in the sum stays hidden in it, since its round seed is not.

    >>> secrets = RoundSecrets.generate()
    >>> secrets
    RoundSecrets()
    >>> pairs = deal(secrets, threshold=3, holders=4)
    >>> [len(pair.to_bytes()) for pair in pairs]
    [67, 67, 67, 67]

What holds, each line a test in tests/privacy/test_round_secrets.py:

1. The sum of the masked words of the present, less the leftover, is the sum of their words, for
   every pattern of updates sent and sites alive with a quorum alive; with fewer nothing is shown.
2. No reveal holds a share of both secrets of one site, nor can one be written or read.
3. Whatever is revealed or joined is compared with what its owner announced before it is used.
4. One false share that is used is found and its holder noted, if a quorum of true ones is left.
5. Every binary form has one way to be written and refuses all else.

Against whom. The server may be malicious and collude with c sites. While it shows every honest
site one received set, c < t learn the sum over the honest ones and no more. To show different
sets to different sites it needs a quorum for each, which it has not while c <= 2 t - n - 1 [1,
section 6] and each honest site endorses one set per round; that is the caller's to keep, across
restarts. Secrets serve one plan only. A site that deals false shares can stop a round, and so can
holders that give false ones, if too few true ones are left.

References:
    [1] Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning,
    CCS 2017, sections 4 and 6. [2] Shamir, CACM 22(11), 1979. [3] X25519: RFC 7748; HKDF: RFC
    5869; the envelopes in which shares and reveals travel (``privacy.keys``): RFC 8439.
"""

from __future__ import annotations

import hashlib
import secrets as system
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.masks import pad_sum, pair_pad_key, self_pad_key
from privacy.parameters import ParameterSet
from privacy.recovery import Dispute, recover
from privacy.sharing import SECRET_BYTES, SHARE_BYTES, QuorumMissing, split, value_of
from protocol.errors import PrivacyError
from protocol.ids import SLUG, SiteId

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VERSION: Final = b"\x01"
ROUND_SECRETS_BYTES: Final = 1 + 2 * SECRET_BYTES
"""What ``RoundSecrets.to_bytes`` gives."""
_SEED_LABEL: Final = b"bithive self seed\n"
_KEY_LABEL: Final = b"bithive round key\n"
_ID_BYTES: Final = 40  # the longest site id
_HEADER_BYTES: Final = 1 + 1 + SECRET_BYTES + 1 + 1
_ENTRY_BYTES: Final = _ID_BYTES + SHARE_BYTES


class RoundSecretsMalformed(PrivacyError):
    """Bytes that should be a site's round secrets, shares of them or a reveal are not."""

    code = "round-secrets-malformed"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"these bytes do not hold {what}; ask their sender for them again")


class BothSecretsAsked(PrivacyError):
    """Both secrets of one site were asked for or revealed, which together show its update."""

    code = "both-secrets-asked"

    def __init__(self, sites: Collection[SiteId]) -> None:
        self.sites = tuple(sorted(sites))
        super().__init__(
            f"the self seed and the round seed of {', '.join(self.sites)} are asked for together, "
            "which would show its update; a site is either in the sum or not: discard the round"
        )


class RosterNotCovered(PrivacyError):
    """The sites in the sum and those absent from it are not together those of the roster."""

    code = "roster-not-covered"

    def __init__(self, sites: Collection[SiteId]) -> None:
        self.sites = tuple(sorted(sites))
        super().__init__(
            f"the received set does not say of each site of the roster whether it is in the sum: "
            f"{', '.join(self.sites)} is left out or was never in it; discard the round"
        )


class OwnKeyAltered(PrivacyError):
    """The roster announces other secrets for a site than that site made."""

    code = "own-key-altered"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(
            f"the roster names another round key or seed for {site} than it made, or none; its "
            "pads would not cancel: do not send an update, and tell whoever runs the server"
        )


@dataclass(frozen=True)
class PublicSecrets:
    """What a site announces of its secrets, signed, before the round.

    Attributes:
        public_key: 32 bytes, the X25519 key that follows from the round seed.
        seed_sha256: Hash of a label and the self seed. 32 random bytes are hidden by it.
    """

    public_key: bytes
    seed_sha256: str


@dataclass(frozen=True)
class RoundSecrets:
    """A site's two secrets of one round, 32 bytes each; they serve one plan."""

    self_seed: bytes = field(repr=False)
    round_seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> RoundSecrets:
        """Return new secrets, drawn from the operating system's randomness."""
        return cls(system.token_bytes(SECRET_BYTES), system.token_bytes(SECRET_BYTES))

    @property
    def public(self) -> PublicSecrets:
        """What may be known of them."""
        return PublicSecrets(_public_key(self.round_seed), _seed_sha256(self.self_seed))

    def to_bytes(self) -> bytes:
        """Return a version byte and both secrets, 65 bytes to be kept as a key is."""
        return _VERSION + self.self_seed + self.round_seed

    @classmethod
    def from_bytes(cls, blob: bytes) -> RoundSecrets:
        """Return the secrets that ``to_bytes`` wrote.

        Raises:
            RoundSecretsMalformed: It did not write this.
        """
        return cls(*_halves(blob, SECRET_BYTES, "a site's round secrets"))


@dataclass(frozen=True)
class SharePair:
    """One holder's shares of one site's two secrets, 33 bytes each."""

    self_share: bytes = field(repr=False)
    round_share: bytes = field(repr=False)

    def __post_init__(self) -> None:
        value_of(self.self_share)
        value_of(self.round_share)

    def to_bytes(self) -> bytes:
        """Return a version byte and both shares, 67 bytes to be sealed for their holder."""
        return _VERSION + self.self_share + self.round_share

    @classmethod
    def from_bytes(cls, blob: bytes) -> SharePair:
        """Return the shares that ``to_bytes`` wrote.

        Raises:
            RoundSecretsMalformed: It did not write this.
            ShareMalformed: A share is no number of the field.
        """
        return cls(*_halves(blob, SHARE_BYTES, "a pair of shares"))


@dataclass(frozen=True)
class Reveal:
    """What one live site shows the openers of one received set.

    In bytes, of a length that only the ids decide: version (1), whether the self seed is shown
    (1), the self seed or zeros (32), how many self shares (1) and round shares (1) follow; then
    for each, sorted by id, the id filled up with zeros (40) and the share (33).

    Attributes:
        self_seed: The site's own, if its update is in the sum.
        self_shares: By dealer, shares of the self seeds of those in the sum.
        round_shares: By dealer, shares of the round seeds of those absent from it.
    """

    self_seed: bytes | None = field(repr=False)
    self_shares: Mapping[SiteId, bytes] = field(repr=False)
    round_shares: Mapping[SiteId, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        both = self.self_shares.keys() & self.round_shares.keys()
        if both:
            raise BothSecretsAsked(both)
        for share in [*self.self_shares.values(), *self.round_shares.values()]:
            value_of(share)

    def to_bytes(self) -> bytes:
        """Return the one way to write this reveal, to be sealed for an opener."""
        header = _VERSION + bytes([self.self_seed is not None])
        counts = bytes([len(self.self_shares), len(self.round_shares)])
        entries = [
            site.encode().ljust(_ID_BYTES, b"\0") + share
            for shares in (self.self_shares, self.round_shares)
            for site, share in sorted(shares.items())
        ]
        return header + (self.self_seed or bytes(SECRET_BYTES)) + counts + b"".join(entries)

    @classmethod
    def from_bytes(cls, blob: bytes) -> Reveal:
        """Return the reveal that ``to_bytes`` wrote.

        Args:
            blob: Hostile bytes.

        Raises:
            RoundSecretsMalformed: It did not write this.
            BothSecretsAsked: It holds shares of both secrets of one site.
            ShareMalformed: A share is no number of the field.
        """
        malformed = RoundSecretsMalformed("a reveal")
        header, entries = blob[:_HEADER_BYTES], blob[_HEADER_BYTES:]
        if len(header) != _HEADER_BYTES or len(entries) != sum(header[-2:]) * _ENTRY_BYTES:
            raise malformed
        pairs = [
            (_id_of(entries[start : start + _ID_BYTES], malformed), entries[start + _ID_BYTES :])
            for start in range(0, len(entries), _ENTRY_BYTES)
        ]
        shares = [(site, rest[:SHARE_BYTES]) for site, rest in pairs]
        read = cls(
            self_seed=header[2:-2] if header[1] else None,
            self_shares=dict(shares[: header[-2]]),
            round_shares=dict(shares[header[-2] :]),
        )
        # What is out of order, doubled or filled up otherwise would be written differently.
        if read.to_bytes() != blob:
            raise malformed
        return read


@dataclass(frozen=True, eq=False)
class Leftover:
    """What did not cancel in a sum.

    Attributes:
        pad: ``(size,)`` integers below t, to be removed from the opened sum.
        disputes: Who gave something that contradicts an announcement, and whose.
    """

    pad: NDArray[np.uint64] = field(repr=False)
    disputes: tuple[Dispute, ...]

    @property
    def liars(self) -> tuple[SiteId, ...]:
        """The sites that gave something false; see ``Dispute`` for whose fault it may be."""
        return tuple(sorted({dispute.holder for dispute in self.disputes}))


def deal(secrets: RoundSecrets, *, threshold: int, holders: int) -> tuple[SharePair, ...]:
    """Return the shares of both secrets, those of holder i at place i.

    Args:
        secrets: Of the site that deals; it is a holder itself.
        threshold: ``sharing.quorum`` of the sites called.
        holders: The sites called.
    """
    self_shares = split(secrets.self_seed, threshold=threshold, holders=holders)
    round_shares = split(secrets.round_seed, threshold=threshold, holders=holders)
    return tuple(SharePair(*pair) for pair in zip(self_shares, round_shares, strict=True))


def total_pad(
    secrets: RoundSecrets,
    own: SiteId,
    roster: Mapping[SiteId, PublicSecrets],
    *,
    context: bytes,
    size: int,
    parameters: ParameterSet,
) -> NDArray[np.uint64]:
    """Return everything that ``own`` adds to its packed update in this round, as one pad.

    Args:
        secrets: Of ``own``, made for this round.
        own: This site.
        roster: What every site of the round announced, this one too; signatures checked.
        context: The digest of the round's plan, which names the roster.
        size: Words of the packed update.
        parameters: Of the packed update.

    Returns:
        ``(size,)`` integers below t, uniform for whoever lacks a seed or a key of this site.

    Raises:
        OwnKeyAltered: The roster announces something else for ``own``.
        PadAgreementRefused: No key can be agreed with a site of the roster.
    """
    if roster.get(own) != secrets.public:
        raise OwnKeyAltered(own)
    key = _private_key(secrets.round_seed)
    pairs = {
        other: pair_pad_key(key, own, announced.public_key, other, context=context)
        for other, announced in roster.items()
        if other != own
    }
    added = [pad_key for other, pad_key in pairs.items() if own < other]
    subtracted = [pad_key for other, pad_key in pairs.items() if own > other]
    added.append(self_pad_key(secrets.self_seed, own, context=context))
    return pad_sum(added, subtracted, size=size, parameters=parameters)


def reveal(
    secrets: RoundSecrets,
    own: SiteId,
    held: Mapping[SiteId, SharePair],
    *,
    present: frozenset[SiteId],
    absent: frozenset[SiteId],
    roster: Collection[SiteId] | None = None,
) -> Reveal:
    """Return what ``own`` shows so that the sum of the present can be read, and nothing else.

    Whether a quorum endorsed this received set, it is large enough, and no other was answered in
    this round is the caller's to check first.

    Args:
        secrets: Of ``own``.
        own: This site.
        held: By dealer, the shares this site holds, its own too. A dealer whose envelope did not
            open may be missing; the other holders' shares must do.
        present: The sites whose updates are in the sum.
        absent: The other sites of the roster.
        roster: All sites of the round; those of ``held`` and ``own`` at least if not given.

    Raises:
        BothSecretsAsked: A site is named present and absent.
        RosterNotCovered: A site of the roster is named neither, or a site outside it.
    """
    known = frozenset(held) | {own}
    _check_split(present, absent, present | absent | known if roster is None else roster)
    return Reveal(
        self_seed=secrets.self_seed if own in present else None,
        self_shares={site: held[site].self_share for site in sorted(present & held.keys())},
        round_shares={site: held[site].round_share for site in sorted(absent & held.keys())},
    )


def leftover(
    roster: Mapping[SiteId, PublicSecrets],
    reveals: Mapping[SiteId, Reveal],
    *,
    holders: Sequence[SiteId],
    threshold: int,
    present: frozenset[SiteId],
    absent: frozenset[SiteId],
    context: bytes,
    size: int,
    parameters: ParameterSet,
) -> Leftover:
    """Return the pads that did not cancel in the sum of the present's masked updates.

    Seeds that their sites show themselves are taken as they are once they fit their hash; shares
    are joined for the others only, as joining 34 costs 0.1 s.

    Args:
        roster: What every site of the round announced; signatures checked.
        reveals: By site; what is shown by others than ``holders`` is not looked at.
        holders: The sites called, in the order in which shares were dealt.
        threshold: As the shares were dealt.
        present: The sites whose updates are in the sum.
        absent: The other sites of the roster.
        context: The digest of the round's plan.
        size: Words of the sum.
        parameters: Of the sum.

    Raises:
        BothSecretsAsked: A site is named present and absent.
        RosterNotCovered: A site of the roster is named neither, or a site outside it.
        QuorumMissing: Fewer than ``threshold`` sites revealed anything, or shares of one secret.
        SecretUnrecoverable: A secret's shares do not join to what its site announced.
        PadAgreementRefused: No key can be agreed with a site of the roster.
    """
    _check_split(present, absent, roster)
    shown = {site: reveals[site] for site in holders if site in reveals}
    if len(shown) < threshold:
        raise QuorumMissing(len(shown), threshold)
    recovery = _Recovery(roster, shown, holders, threshold)
    added = [self_pad_key(recovery.self_seed(i), i, context=context) for i in sorted(present)]
    subtracted: list[bytes] = []
    for gone in sorted(absent):
        key = _private_key(recovery.round_seed(gone))
        for site in sorted(present):
            announced = roster[site].public_key
            pad_key = pair_pad_key(key, gone, announced, site, context=context)
            (added if site < gone else subtracted).append(pad_key)  # as ``site`` applied it
    pad = pad_sum(added, subtracted, size=size, parameters=parameters)
    return Leftover(pad, tuple(recovery.disputes))


@dataclass
class _Recovery:
    """Finds the secrets that a received set needs and notes who gave something else."""

    roster: Mapping[SiteId, PublicSecrets]
    shown: Mapping[SiteId, Reveal]
    holders: Sequence[SiteId]
    threshold: int
    disputes: list[Dispute] = field(default_factory=list)

    def self_seed(self, site: SiteId) -> bytes:
        """Return the self seed of a site in the sum, from itself or else from shares."""
        announced = self.roster[site].seed_sha256
        own = self.shown[site].self_seed if site in self.shown else None
        if own is not None:
            if _seed_sha256(own) == announced:
                return own
            self.disputes.append(Dispute(holder=site, dealer=site))
        shares = {
            holder: one.self_shares[site]
            for holder, one in self.shown.items()
            if site in one.self_shares
        }
        return self._joined(site, shares, lambda seed: _seed_sha256(seed) == announced)

    def round_seed(self, site: SiteId) -> bytes:
        """Return the round seed of an absent site, from shares."""
        announced = self.roster[site].public_key
        shares = {
            holder: one.round_shares[site]
            for holder, one in self.shown.items()
            if site in one.round_shares
        }
        return self._joined(site, shares, lambda seed: _public_key(seed) == announced)

    def _joined(
        self, dealer: SiteId, shares: Mapping[SiteId, bytes], fits: Callable[[bytes], bool]
    ) -> bytes:
        recovered = recover(
            dealer,
            shares,
            fits,
            holders=self.holders,
            threshold=self.threshold,
            suspects={dispute.holder for dispute in self.disputes},
        )
        self.disputes += [Dispute(holder, dealer) for holder in recovered.false]
        return recovered.secret


def _check_split(
    present: frozenset[SiteId], absent: frozenset[SiteId], roster: Collection[SiteId]
) -> None:
    """Return if every site of the roster is named once, as present or as absent."""
    if present & absent:
        raise BothSecretsAsked(present & absent)
    odd = (present | absent) ^ frozenset(roster)
    if odd:
        raise RosterNotCovered(odd)


def _private_key(round_seed: bytes) -> X25519PrivateKey:
    hkdf = HKDF(hashes.SHA256(), SECRET_BYTES, salt=None, info=_KEY_LABEL)
    return X25519PrivateKey.from_private_bytes(hkdf.derive(round_seed))


def _public_key(round_seed: bytes) -> bytes:
    return _private_key(round_seed).public_key().public_bytes_raw()


def _seed_sha256(self_seed: bytes) -> str:
    return hashlib.sha256(_SEED_LABEL + self_seed).hexdigest()


def _halves(blob: bytes, size: int, what: str) -> tuple[bytes, bytes]:
    """Return the two values of ``size`` bytes after the version byte."""
    if blob[:1] != _VERSION or len(blob) != 1 + 2 * size:
        raise RoundSecretsMalformed(what)
    return blob[1 : 1 + size], blob[1 + size :]


def _id_of(padded: bytes, malformed: RoundSecretsMalformed) -> SiteId:
    name = padded.rstrip(b"\0").decode("latin-1")
    if not SLUG.fullmatch(name):
        raise malformed
    return SiteId(name)
