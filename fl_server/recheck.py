"""Check a server's closed rounds again, as an auditor would: signatures, chain, and sums re-added.

Everything looked at is what the server keeps anyway, and nothing needs a key: each manifest names
the one before it, its round's commitment and what was opened; each commitment binds receipts that
the hospitals signed to one encrypted sum; and adding ciphertexts again gives the same bytes. The
uploads themselves are kept of the last closed round only.

What holds, each a test in tests/fl_server/test_recheck.py:

1. Every manifest, commitment, receipt, upload or opened integer that was changed is found.
2. A round left out, repeated or put in another place is found.
3. A site named for a false tag is named on its own signed word; while its upload is kept, the true
   tag is worked out again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fl_server.store import ServerStore, StoredRound
from privacy.bfv import EncryptedUpdate, ServerContext
from privacy.commitment import check_commitment
from privacy.parameters import parameter_set
from privacy.sharing import quorum
from privacy.signatures import check_signature, check_site_message
from privacy.tags import tag
from protocol.canonical import digest
from protocol.errors import FederationError
from protocol.messages import Manifest
from protocol.summation import Commitment, Fault
from protocol.terms import StudyTerms

NOTHING = "0" * 64


class RoundAltered(FederationError):
    """What is kept of a closed round does not fit together."""

    code = "round-altered"

    def __init__(self, round_number: int, why: str) -> None:
        self.round = round_number
        super().__init__(
            f"what the server keeps of round {round_number} was altered: {why}; ask the hospitals "
            "of that round for their copies"
        )


@dataclass(frozen=True)
class Recheck:
    """What was found in order.

    ``added_again`` are the rounds whose uploads are kept, ``manifest`` the digest of the last one,
    ``faults`` the false tags that the hospitals signed, with the round of each.
    """

    rounds: int
    opened: int
    added_again: tuple[int, ...]
    manifest: str
    faults: tuple[tuple[int, Fault], ...] = ()


def recheck(store: ServerStore) -> Recheck:
    """Check every closed round of the study in ``store``.

    Raises:
        RoundAltered: Something does not fit; the message names the first thing that does not.
        CommitmentRefused, BadSignature: Likewise, of a commitment or a signature.
    """
    terms = store.terms()
    if terms is None:  # nothing was founded here, so nothing was closed
        return Recheck(0, 0, (), NOTHING)
    previous, opened, again = NOTHING, 0, []
    faults: list[tuple[int, Fault]] = []
    for number in range(1, store.rounds_closed() + 1):
        stored = store.round(number)
        if stored is None or stored.manifest is None or stored.closed is None:
            raise RoundAltered(number, "it is missing")
        _check_manifest(terms, store, stored, stored.manifest, previous)
        previous = digest(stored.manifest)
        if stored.commitment is not None:
            opened += 1
            _check_sum(terms, stored, stored.commitment)
            if _add_again(terms, store, stored.commitment):
                again.append(number)
            for fault in stored.faults:
                _check_fault(terms, store, stored.commitment, fault)
                faults.append((number, fault))
    return Recheck(store.rounds_closed(), opened, tuple(again), previous, tuple(faults))


def _check_manifest(
    terms: StudyTerms,
    store: ServerStore,
    stored: StoredRound,
    manifest: Manifest,
    previous: str,
) -> None:
    number = stored.plan.round
    check_signature(
        terms.server_key,
        manifest.signature,
        manifest.signed_bytes(),
        what=f"manifest of round {number}",
        who="the server",
    )
    commitment = NOTHING if stored.commitment is None else digest(stored.commitment)
    integers = NOTHING
    if stored.integers is not None:
        integers = hashlib.sha256(stored.integers.astype("<i8").tobytes()).hexdigest()
    found = {
        "it is of another study or round": (manifest.study, manifest.round)
        == (terms.study, number),
        "it does not follow the round before": manifest.previous == previous,
        "its plan is another": manifest.plan == digest(stored.plan),
        "its commitment is another": manifest.commitment == commitment,
        "its opened integers are others": manifest.integers_sha256 == integers,
        "its model is another": manifest.model_sha256 == store.models.at(number).sha256,
        "its announcement names another manifest": stored.closed is not None
        and stored.closed.manifest == digest(manifest),
    }
    for why, sound in found.items():
        if not sound:
            raise RoundAltered(number, why)


def _check_sum(terms: StudyTerms, stored: StoredRound, commitment: Commitment) -> None:
    check_commitment(commitment, stored.plan, terms, threshold=quorum(stored.called))
    assert stored.closed is not None
    paid = {receipt.site: receipt.site_bytes() for receipt in stored.closed.receipts}
    committed = {receipt.site: receipt.site_bytes() for receipt in commitment.receipts}
    if paid != committed:
        raise RoundAltered(commitment.round, "its receipts are not those of its sum")


def _add_again(terms: StudyTerms, store: ServerStore, commitment: Commitment) -> bool:
    """Add the round's uploads again, where they are kept; say whether they were."""
    uploads = store.uploads.of(commitment.round)
    if not any(blob for _, blob in uploads.values()):
        return False
    updates = []
    for receipt in commitment.receipts:
        _, blob = uploads.get(receipt.site, (None, b""))
        if hashlib.sha256(blob).hexdigest() != receipt.ciphertext_sha256:
            raise RoundAltered(
                commitment.round, f"the upload of {receipt.site} is not the one it signed"
            )
        updates.append(
            EncryptedUpdate(blob, commitment.key_id, terms.encryption, commitment.length)
        )
    total = ServerContext(parameter_set(terms.encryption)).add(updates)
    if hashlib.sha256(total.blob).hexdigest() != commitment.sum_sha256:
        raise RoundAltered(commitment.round, "its uploads add up to another sum")
    return True


def _check_fault(
    terms: StudyTerms, store: ServerStore, commitment: Commitment, fault: Fault
) -> None:
    """See that a site named for a false tag signed it, and that it is false."""
    word = fault.word
    check_site_message(terms, word, f"unmasking of round {commitment.round}")
    if word.commitment != digest(commitment) or fault.site not in commitment.sites:
        raise RoundAltered(commitment.round, f"the word of {fault.site} is about another sum")
    _, blob = store.uploads.of(commitment.round).get(fault.site, (None, b""))
    if not blob:
        return
    update = EncryptedUpdate(blob, commitment.key_id, terms.encryption, commitment.length)
    true = tag(update, bytes.fromhex(word.challenge), parameter_set(terms.encryption))
    if tuple(map(int, word.tag)) == true:
        raise RoundAltered(commitment.round, f"{fault.site} is named for a tag that is true")
