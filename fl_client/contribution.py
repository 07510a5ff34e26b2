"""What leaves the hospital in a round: the masked update, its certificates, and a signed receipt.

The receipt says what the server pays for and the public may check: the proven patients, never more;
the epsilon spent; the digests of ciphertext, model and certificates. Beside it goes how many
patients were left out because they withdrew after the plan: a count, and nobody's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from typing import TYPE_CHECKING, Final

from privacy.bfv import EncryptedUpdate
from privacy.keys import SiteKeys
from protocol.canonical import body
from protocol.errors import ConsentError
from protocol.frames import encode
from protocol.ids import SiteId
from protocol.messages import Contribution, CoverageCertificate, Receipt, RoundPlan
from protocol.terms import StudyTerms
from zk.cover import CoverStatement

if TYPE_CHECKING:  # it brings the training along, which whoever only signs does without
    from fl_client.egress import Outgoing

COUNT_BYTES: Final = 4


class PatientsUnproven(ConsentError):
    """An update was made of another number of patients than its certificates count."""

    code = "patients-unproven"

    def __init__(self, trained: int, proven: int) -> None:
        self.trained = trained
        self.proven = proven
        super().__init__(
            f"the update is of {trained} patients and its certificates count {proven}; nothing was "
            "sent, tell whoever maintains the hospital's agent"
        )


@dataclass(frozen=True)
class Accounts:
    """What a site says of its round beside what it proves."""

    plan: RoundPlan
    terms: StudyTerms
    site: SiteId
    epsilon_spent: float
    patients: int
    left_out: int


def contribution(
    accounts: Accounts,
    outgoing: Outgoing,
    certificates: tuple[CoverageCertificate, ...],
    keys: SiteKeys,
) -> bytes:
    """Return the frame that answers the call to train.

    Args:
        accounts: Of this round.
        outgoing: The masked, encrypted update.
        certificates: Of the patients trained on.
        keys: Sign the receipt.

    Raises:
        PatientsUnproven: The certificates count more patients, or fewer.
    """
    plan, privacy = accounts.plan, accounts.terms.privacy
    statements = [
        CoverStatement.from_public_inputs(list(one.public_inputs)) for one in certificates
    ]
    proven = sum(statement.count for statement in statements)
    if proven != accounts.patients:
        raise PatientsUnproven(accounts.patients, proven)
    receipt = Receipt(
        study=plan.study,
        round=plan.round,
        site=accounts.site,
        ciphertext_sha256=outgoing.sha256,
        consent_root=plan.epoch.root,
        certificates=tuple(statement.digest() for statement in statements),
        proven_patients=proven,
        gradients=privacy.gradients(proven),
        epsilon_spent=decimal_text(accounts.epsilon_spent),
        delta=decimal_text(privacy.delta),
        clipping_norm=decimal_text(privacy.clipping_norm),
        model_sha256=plan.model,
        site_key=keys.signing_public,
    )
    return signed_frame(
        receipt, outgoing.encrypted, keys, certificates=certificates, left_out=accounts.left_out
    )


def signed_frame(
    receipt: Receipt,
    encrypted: EncryptedUpdate,
    keys: SiteKeys,
    *,
    certificates: tuple[CoverageCertificate, ...] = (),
    left_out: int = 0,
) -> bytes:
    """Sign a receipt, and return the frame that carries it and the update it is of.

    Args:
        receipt: Without signatures.
        encrypted: The update whose hash the receipt has.
        keys: Sign it.
        certificates: Those that the receipt names.
        left_out: How many patients withdrew after the plan.
    """
    signature = keys.sign(receipt.site_bytes())
    sent = Contribution(
        receipt=receipt.model_copy(update={"site_signature": signature}),
        encryption=encrypted.parameters,
        key_id=encrypted.key_id,
        length=encrypted.length,
        certificates=certificates,
    )
    blobs = {"update": encrypted.blob}
    if left_out:
        blobs["left-out"] = left_out.to_bytes(COUNT_BYTES, "big")
    return encode("contribution", body(sent), blobs)


def decimal_text(value: float) -> str:
    """Write a positive number as signed decimal text, rounded up at the sixth digit.

    Examples:
        >>> decimal_text(2.71828182)
        '2.718282'
        >>> decimal_text(1e-05)
        '0.00001'
    """
    quantum = Decimal("0.000001")
    text = format(Decimal(repr(value)).quantize(quantum, rounding=ROUND_UP), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
