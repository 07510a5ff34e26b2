"""Semaphore version 4: a proof that one of a group says a message, without saying who.

::

    Claim    A member of the group with this root says the message; the nullifier is hers here.
    Public   root, nullifier, keccak(message), keccak(scope), where keccak(x) is the Keccak-256 of
             32 big-endian bytes, shifted right by 8 bits into the field.
    Private  secret, path.
    Holds    Poseidon(secret * Base8), the member's identity commitment, leads along the path to
             root; secret is below the order of Baby Jubjub's subgroup; nullifier =
             Poseidon(keccak(scope), secret).
    Hides    which member. A group of one hides nobody, and time and address of the sender are
             outside of the proof.
    Refuse   a root that is not the group's, root 0 above all; a nullifier seen before in its scope.
    Source   the Semaphore circuit; keys in zk/semaphore, see zk.artefacts.

Root 0 deserves its line: the circuit takes the length of the path as a private input and gives
root 0 for any length above 16, so everybody can prove membership of a group whose root is 0. An
emptied tree (``zk.lean_imt``) has that root. ``check`` refuses it before anything else.

    >>> hex(keccak_of(0))
    '0x290decd9548b62a8d60345a988386fc84ba6bc95484008f6362f93160ef3e5'
    >>> number_for("bithive-claim-1", "wallet:north") < 2**256
    True

What holds (tests/zk/test_semaphore.py):

1. A proof is accepted for the root, scope and message it was made for, and for no others.
2. Only canonical numbers are read: decimal without leading zeros, root and nullifier in the field,
   coordinates on the curve and in the subgroup; exactly the six fields, depth 16.
3. What npm ``@semaphore-protocol/proof`` makes is accepted, in committed vectors, by the reference
   verifier and by the fast one.

Proofs are malleable: two byte strings can show one statement. What is used once is the nullifier.

References:
    Semaphore protocol, version 4, circuits and proof packages.
    Gurkan, Koh Wei Jie, Whitehat, Community Proposal: Semaphore, 2020 (nullifiers, scopes).
    EIP-2494 (Baby Jubjub); Bertoni et al., The Keccak reference, 2011, with Ethereum's padding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from Crypto.Hash import keccak

from protocol.errors import ProofError
from zk import groth16
from zk.artefacts import verification_key
from zk.groth16 import PROOF_BYTES, Statement
from zk.keys import DECIMAL, VerificationKey
from zk.poseidon import FIELD

TREE_DEPTH: Final = 16
MEMBERS_MAX: Final = 1 << TREE_DEPTH
PROOF_TEXT_MAX: Final = 4096
"""Characters of a proof as JSON; the longest canonical one has 1,219."""
NUMBER_MAX: Final = 1 << 256
"""Messages and scopes are below it."""
FIELDS: Final = frozenset(
    {"merkleTreeDepth", "merkleTreeRoot", "nullifier", "message", "scope", "points"}
)

Verifier = Callable[[VerificationKey, Statement, bytes], None]
"""``zk.groth16.verify``, the reference, or ``zk.fast.verify``."""


class SemaphoreProofMalformed(ProofError):
    """What should be a Semaphore proof is not one in its canonical form."""

    code = "semaphore-proof-malformed"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the proof is malformed: {reason}; send what Semaphore's generateProof returned"
        )


class GroupRootWrong(ProofError):
    """A proof is about another group, or about another state of the group."""

    code = "semaphore-root-wrong"

    def __init__(self, root: int) -> None:
        self.root = root
        super().__init__(
            f"the proof is about a group with root {root}, not about this one; "
            "fetch the members again and prove anew"
        )


class ScopeWrong(ProofError):
    """A proof was made for another scope."""

    code = "semaphore-scope-wrong"

    def __init__(self, scope: int) -> None:
        self.scope = scope
        super().__init__(
            "the proof was made for another scope, that is another study, payout or registry; "
            "prove anew for this one"
        )


class MessageWrong(ProofError):
    """A proof says another message than it is shown with."""

    code = "semaphore-message-wrong"

    def __init__(self, message: int) -> None:
        self.message = message
        super().__init__(
            "the proof says something else than what it was sent with; whoever made it can "
            "prove anew, nobody else can change what it says"
        )


class GroupFull(ProofError):
    """A group would get more members than the circuit's tree has leaves."""

    code = "semaphore-group-full"

    def __init__(self, members: int) -> None:
        self.members = members
        super().__init__(
            f"a group of {members} members is larger than the {MEMBERS_MAX} that the circuit "
            "takes; start another group"
        )


@dataclass(frozen=True)
class SemaphoreProof:
    """A proof with its statement, canonical in every number; whether it holds is for ``check``.

    Raises:
        SemaphoreProofMalformed: A number is out of its range.
    """

    root: int
    nullifier: int
    message: int
    scope: int
    points: bytes
    """256 bytes, as ``zk.groth16`` has them."""

    def __post_init__(self) -> None:
        for name, number, bound in (
            ("root", self.root, FIELD),
            ("nullifier", self.nullifier, FIELD),
            ("message", self.message, NUMBER_MAX),
            ("scope", self.scope, NUMBER_MAX),
        ):
            if type(number) is not int or not 0 <= number < bound:
                raise SemaphoreProofMalformed(f"its {name} is out of range")
        if len(self.points) != PROOF_BYTES:
            raise SemaphoreProofMalformed(f"its points have {len(self.points)} bytes")

    def public_inputs(self) -> list[int]:
        """Return root, nullifier, and the hashes of message and scope."""
        return [self.root, self.nullifier, keccak_of(self.message), keccak_of(self.scope)]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a proof as Semaphore's ``generateProof`` writes it.

        Args:
            text: From anybody.

        Raises:
            SemaphoreProofMalformed: It is not canonical, or for another depth than 16.
        """
        fields = _object(text)
        if type(fields["merkleTreeDepth"]) is not int or fields["merkleTreeDepth"] != TREE_DEPTH:
            raise SemaphoreProofMalformed(f"it is not for trees of depth {TREE_DEPTH}")
        points = fields["points"]
        if not isinstance(points, list) or len(points) != PROOF_BYTES // 32:
            raise SemaphoreProofMalformed("it does not have 8 coordinates")
        coordinates = [_number("coordinate", point) for point in points]
        if any(number >= NUMBER_MAX for number in coordinates):
            raise SemaphoreProofMalformed("a coordinate is out of range")
        return cls(
            root=_number("root", fields["merkleTreeRoot"]),
            nullifier=_number("nullifier", fields["nullifier"]),
            message=_number("message", fields["message"]),
            scope=_number("scope", fields["scope"]),
            points=b"".join(number.to_bytes(32, "big") for number in coordinates),
        )

    def to_json(self) -> str:
        """Write the proof as Semaphore does, canonically: sorted names, no spaces."""
        words = [self.points[i : i + 32] for i in range(0, PROOF_BYTES, 32)]
        fields = {
            "merkleTreeDepth": TREE_DEPTH,
            "merkleTreeRoot": str(self.root),
            "nullifier": str(self.nullifier),
            "message": str(self.message),
            "scope": str(self.scope),
            "points": [str(int.from_bytes(word, "big")) for word in words],
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def check(
    proof: SemaphoreProof,
    *,
    root: int,
    scope: int,
    message: int,
    verifier: Verifier = groth16.verify,
) -> int:
    """Return the nullifier if a member of the group says ``message`` in ``scope``.

    Args:
        proof: From anybody.
        root: Of a group that the caller knows, from a source that is trusted.
        scope: Below 2^256; what the nullifier is one-use for.
        message: Below 2^256; what the member says.
        verifier: The reference (1.1 s) or ``zk.fast.verify`` (2 ms).

    Raises:
        GroupRootWrong: The proof is about another group, or root is 0, which is no group's.
        ScopeWrong: It was made for another scope.
        MessageWrong: It says something else.
        ProofInvalid: It does not hold.
    """
    if root == 0 or proof.root != root:
        raise GroupRootWrong(proof.root)
    if proof.scope != scope:
        raise ScopeWrong(proof.scope)
    if proof.message != message:
        raise MessageWrong(proof.message)
    verifier(verification_key(), proof, proof.points)
    return proof.nullifier


def check_members(members: int) -> None:
    """Return if a group of so many places can be proved about.

    Raises:
        GroupFull: It is too large.
    """
    if members > MEMBERS_MAX:
        raise GroupFull(members)


def keccak_of(number: int) -> int:
    """Return the public input that stands for a message or scope: Keccak-256, shifted by 8 bits."""
    assert 0 <= number < NUMBER_MAX
    digest = keccak.new(digest_bits=256, data=number.to_bytes(32, "big")).digest()
    return int.from_bytes(digest, "big") >> 8


def number_for(label: str, *parts: str | int) -> int:
    """Return the message or scope that stands for a label and its parts.

    It is the SHA-256 of ``[label, part, ...]`` as compact JSON, read as a big-endian number below
    2^256. JSON says where a part ends and whether it is text, so different parts never give the
    same bytes, and the label keeps apart what is hashed for different ends.

    Args:
        label: What it is for, with a version: ``bithive-grant-1``.
        parts: Printable ASCII text, and integers from 0 to 2^53 - 1, which JavaScript writes alike.
            Larger numbers go as decimal text.
    """
    for part in (label, *parts):
        if isinstance(part, str):
            assert part.isascii()
            assert part.isprintable()
        else:
            assert 0 <= part < 1 << 53
    text = json.dumps([label, *parts], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def _object(text: str) -> dict[str, Any]:
    if len(text) > PROOF_TEXT_MAX:
        raise SemaphoreProofMalformed(f"it is longer than {PROOF_TEXT_MAX} characters")
    try:
        fields = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise SemaphoreProofMalformed("it is not JSON") from error
    if not isinstance(fields, dict) or fields.keys() != FIELDS:
        raise SemaphoreProofMalformed("it does not have exactly the six fields of a proof")
    return fields


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise SemaphoreProofMalformed("it has a field twice")
    return fields


def _number(name: str, text: object) -> int:
    if not isinstance(text, str) or not DECIMAL.fullmatch(text):
        raise SemaphoreProofMalformed(f"its {name} is not a decimal text without leading zeros")
    return int(text)
