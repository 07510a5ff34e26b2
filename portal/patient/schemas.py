"""What the API takes and gives: the public format, apart from domain objects.

Field elements are decimal text, byte strings hexadecimal, a proof the JSON text that Semaphore's
``generateProof`` gave. Unknown fields are refused.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from portal.patient.sealing import KEY_BYTES, LOOKUP_BYTES, SEALED_MAX
from protocol.canonical import Element, Hex, Site
from zk.semaphore import PROOF_TEXT_MAX

Lookup = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * LOOKUP_BYTES}}}$")]
Hash = Annotated[Hex, Field(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Proof = Annotated[str, Field(max_length=PROOF_TEXT_MAX)]
Grant = Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]
EpochNumber = Annotated[int, Field(ge=0, lt=2**53)]


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EnrolmentAsked(_Asked):
    """A browser asks its hospital to enrol a commitment."""

    lookup: Lookup
    commitment: Element
    mac: Hash
    ward: Element | None = None
    """From a carer: the commitment that takes over on the ward's day."""


class GrantAsked(_Asked):
    """A grant, or new terms in place of the same person's earlier one."""

    site: Site
    leaf: Element
    payout_id: Element
    revoke_hash: Hash
    sealed: Annotated[Hex, Field(min_length=1, max_length=SEALED_MAX)]
    proof: Proof


class WithdrawalAsked(_Asked):
    """The end of a grant, by its code."""

    grant: Grant
    code: Annotated[Hex, Field(min_length=1, max_length=64)]


class ProvenWithdrawalAsked(_Asked):
    """The end of a grant, by the identity that gave it."""

    grant: Grant
    proof: Proof


class ClaimAsked(_Asked):
    """A share of a payout, to an account or address."""

    site: Site
    epoch: EpochNumber
    recipient: Annotated[str, Field(max_length=128)]
    proof: Proof
