"""The statement that every used slot of a chunk is covered by a live grant, without saying which.

::

    Claim    count slots of the chunk with this root are used, every one of them holds a grant that
             allows the scope, and records_commitment fixes which subject gives which records.
    Public   records_commitment, count, chunk_root; the scope: study, site, dataset, required,
             from_day, through_day, context.
    Private  per slot: leaf, used, subject, salt, grants, not_before, expiry, record; once: blind.
    Holds    Of every used slot: leaf = Poseidon(subject, terms, salt), where terms pack grants,
             not_before and expiry with the public site, dataset and study; grants has every bit of
             required; not_before <= from_day and through_day < expiry. used is 0 or 1 and count is
             the sum. The leaves, used or not, hash to chunk_root. records_commitment folds
             (used subject, used record) over the slots, beginning with Poseidon(blind, context).
    Hides    Which slots are used, subjects, grants, dates, records. Does not hide how many are
             used: count equal to the live leaves of the chunk says that all are.
    Refuse   A chunk_root that is not current; a scope other than the study's; a context made for
             another registry, key or chunk; a key that is not on the list. The gate does this:
             the proof cannot. Nothing here says that training used these records and no others.
    Source   Groth16 on BN254 over circuits/cover.circom; Poseidon as in zk/poseidon.py; a Merkle
             tree of depth K. Hiding and binding of the commitment are those of Poseidon [1].

Days count from 1970-01-01. The circuit numbers its public signals in the order of
``CoverStatement.public_inputs``; changing it changes every key.

What holds (tests/zk/test_cover.py):

1. ``pack_terms`` is injective and stays below 2^192, so below the field.
2. ``from_public_inputs`` undoes ``public_inputs`` and refuses everything else.
3. Two statements have the same digest only if they are equal.

References:
    [1] Grassi, Khovratovich, Rechberger, Roy, Schofnegger, Poseidon: A New Hash Function for
    Zero-Knowledge Proof Systems, USENIX Security 2021.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from protocol.errors import ProofError
from zk.merkle import MerkleTree
from zk.poseidon import FIELD, poseidon

GRANTS_BITS: Final = 32
SITE_BITS: Final = 32
DATASET_BITS: Final = 32
STUDY_BITS: Final = 64
DAY_BITS: Final = 16
PUBLIC_INPUTS: Final = 10
SLOTS_MAX: Final = 64


class FieldOutOfRange(ProofError):
    """A number does not fit the place it has in terms or statements."""

    code = "proof-field-out-of-range"

    def __init__(self, field: str, bits: int) -> None:
        self.field = field
        self.bits = bits
        super().__init__(f"{field} is not an integer of at most {bits} bits; nothing was packed")


class StatementMalformed(ProofError):
    """A list of public inputs is not that of a coverage statement."""

    code = "statement-malformed"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the public inputs are not a coverage statement: {reason}")


@dataclass(frozen=True)
class Slot:
    """One leaf of a chunk with, if it is used, its opening.

    ``repr`` shows only the leaf: the rest identifies a subject to whoever knows the salt.
    """

    leaf: int
    used: bool
    subject: int
    salt: int
    grants: int
    not_before: int
    expiry: int
    record: int
    """Digest of the subject's records that contribute, a field element."""

    def __repr__(self) -> str:
        return f"Slot(leaf={self.leaf})"


@dataclass(frozen=True)
class Scope:
    """What every used slot must allow, and where the proof may be shown.

    Raises:
        FieldOutOfRange: A number is negative or too long for its place in the terms.
    """

    study: int
    site: int
    dataset: int
    required: int
    """Bits of ``grants`` that must all be set."""
    from_day: int
    through_day: int
    """Last day of use; a grant that expires on this day does not reach."""
    context: int
    """From ``context_of``."""

    def __post_init__(self) -> None:
        _fits("study", self.study, STUDY_BITS)
        _fits("site", self.site, SITE_BITS)
        _fits("dataset", self.dataset, DATASET_BITS)
        _fits("required", self.required, GRANTS_BITS)
        _fits("from_day", self.from_day, DAY_BITS)
        _fits("through_day", self.through_day, DAY_BITS)
        _is_element("context", self.context)


@dataclass(frozen=True)
class CoverStatement:
    """What a coverage proof proves; equal statements have equal ``digest``."""

    records_commitment: int
    count: int
    chunk_root: int
    scope: Scope

    def public_inputs(self) -> list[int]:
        """Return the ten public signals in the circuit's order."""
        scope = self.scope
        return [
            self.records_commitment,
            self.count,
            self.chunk_root,
            scope.study,
            scope.site,
            scope.dataset,
            scope.required,
            scope.from_day,
            scope.through_day,
            scope.context,
        ]

    def digest(self) -> str:
        """Return the SHA-256 that names this statement, in hexadecimal.

        Cache and refer by this, never by proof bytes: anybody can turn a Groth16 proof into another
        valid proof of the same statement.
        """
        numbers = [str(number) for number in self.public_inputs()]
        canonical = json.dumps(["bithive-cover-1", *numbers], separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def from_public_inputs(cls, numbers: Sequence[int]) -> Self:
        """Read a statement from ten numbers that came from outside.

        Raises:
            StatementMalformed: Not ten integers, one is not below the field modulus, or count
                is larger than any chunk.
            FieldOutOfRange: A number of the scope does not fit its place.
        """
        if len(numbers) != PUBLIC_INPUTS:
            raise StatementMalformed(f"there are {len(numbers)} of them, not {PUBLIC_INPUTS}")
        for number in numbers:
            if not _element(number):
                raise StatementMalformed("one is not an integer below the field modulus")
        if numbers[1] > SLOTS_MAX:
            raise StatementMalformed(f"count {numbers[1]} is more than {SLOTS_MAX}")
        return cls(numbers[0], numbers[1], numbers[2], Scope(*numbers[3:]))


def closed_slot(leaf: int) -> Slot:
    """Return a slot that is not used; its leaf is hashed into the root and nothing else."""
    return Slot(
        leaf=leaf, used=False, subject=0, salt=0, grants=0, not_before=0, expiry=0, record=0
    )


def pack_terms(  # noqa: PLR0917 - the six fields of the terms, in the order of the format
    grants: int, site: int, dataset: int, study: int, not_before: int, expiry: int
) -> int:
    """Pack the terms of a grant into one field element below 2^192.

    Returns:
        ``grants + site 2^32 + dataset 2^64 + study 2^96 + not_before 2^160 + expiry 2^176``.

    Raises:
        FieldOutOfRange: A number does not fit its place; packing it would change another field.

    Examples:
        >>> f"{pack_terms(1, 2, 3, 4, 5, 6):048x}"
        '000600050000000000000004000000030000000200000001'
    """
    _fits("grants", grants, GRANTS_BITS)
    _fits("site", site, SITE_BITS)
    _fits("dataset", dataset, DATASET_BITS)
    _fits("study", study, STUDY_BITS)
    _fits("not_before", not_before, DAY_BITS)
    _fits("expiry", expiry, DAY_BITS)
    return grants | site << 32 | dataset << 64 | study << 96 | not_before << 160 | expiry << 176


def leaf_of(subject: int, terms: int, salt: int) -> int:
    """Return the leaf that commits to a grant: hiding through ``salt``, binding to all three."""
    return poseidon(subject, terms, salt)


def state(slots: Sequence[Slot], scope: Scope, blind: int) -> CoverStatement:
    """Write the statement that these slots make; whether it holds is for the proof to show.

    Args:
        slots: All slots of the chunk in order, a power of two of them.
        scope: What used slots must allow.
        blind: A fresh random field element. Who knows it can test guesses of subjects and
            records against the commitment; keep it for the auditor.
    """
    tree = _tree(slots)
    commitment = poseidon(blind, scope.context)
    for slot in slots:
        subject, record = (slot.subject, slot.record) if slot.used else (0, 0)
        commitment = poseidon(commitment, subject, record)
    count = sum(slot.used for slot in slots)
    return CoverStatement(commitment, count, tree.root, scope)


def witness_inputs(
    slots: Sequence[Slot], scope: Scope, statement: CoverStatement, blind: int
) -> dict[str, int | list[int]]:
    """Return the circuit's input signals by name.

    The outputs (commitment and count) are computed by the circuit itself; the prover compares
    them with ``statement`` when it verifies its own proof.
    """
    return {
        "chunkRoot": statement.chunk_root,
        "study": scope.study,
        "site": scope.site,
        "dataset": scope.dataset,
        "required": scope.required,
        "from": scope.from_day,
        "through": scope.through_day,
        "context": scope.context,
        "leaf": [slot.leaf for slot in slots],
        "used": [int(slot.used) for slot in slots],
        "subject": [slot.subject for slot in slots],
        "salt": [slot.salt for slot in slots],
        "grants": [slot.grants for slot in slots],
        "notBefore": [slot.not_before for slot in slots],
        "expiry": [slot.expiry for slot in slots],
        "record": [slot.record for slot in slots],
        "blind": blind,
    }


def context_of(protocol_version: int, registry_id: str, key_hash: str, chunk: int) -> int:
    """Return the field element that ties a proof to one registry, verification key and chunk.

    SHA-512 of the four as canonical JSON, reduced modulo the field: 512 bits over 254 leave a
    bias below 2^-256.

    Examples:
        >>> context_of(1, "registry", "00", 0) == context_of(1, "registry", "00", 1)
        False
    """
    parts = ["bithive-context-1", protocol_version, registry_id, key_hash, chunk]
    canonical = json.dumps(parts, separators=(",", ":")).encode()
    return int.from_bytes(hashlib.sha512(canonical).digest(), "big") % FIELD


def _tree(slots: Sequence[Slot]) -> MerkleTree:
    """Return the Merkle tree over the leaves of a chunk."""
    depth = len(slots).bit_length() - 1
    assert len(slots) == 1 << depth <= SLOTS_MAX
    tree = MerkleTree(depth)
    for index, slot in enumerate(slots):
        tree.set(index, slot.leaf)
    return tree


def _element(number: object) -> bool:
    """Say whether ``number`` is a canonical field element; True and False are not numbers."""
    return type(number) is int and 0 <= number < FIELD


def _is_element(field: str, number: int) -> None:
    if not _element(number):
        raise FieldOutOfRange(field, FIELD.bit_length())


def _fits(field: str, number: int, bits: int) -> None:
    if type(number) is not int or not 0 <= number < 1 << bits:
        raise FieldOutOfRange(field, bits)
