"""A record with all that proves it was logged: to be checked by whoever has the log's key.

The proof is one JSON object; the checkpoint in it may carry cosignatures, so that it can be checked
against witnesses too, without the log and without a network.

References:
    RFC 6962, section 2.1.1 (the hashes). docs/audit.md, "A proof".
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass

from audit.checkpoints import read_head
from audit.log import AuditLog
from audit.notes import Note, NoteKey, NoteMalformed, NoteUnsigned, check_signed, read_note
from audit.verification import WitnessesTooFew
from storage.merkle import check_inclusion, leaf_hash


@dataclass(frozen=True)
class RecordProof:
    """A record, where it stands, and the way from its hash to a signed head."""

    position: int
    record: str
    hashes: tuple[bytes, ...]
    checkpoint: Note

    def text(self) -> str:
        """Return the proof as JSON."""
        return json.dumps(
            {
                "position": self.position,
                "record": self.record,
                "hashes": [base64.b64encode(one).decode() for one in self.hashes],
                "checkpoint": self.checkpoint.text(),
            }
        )

    def check(self, key: NoteKey, *, witnesses: Sequence[NoteKey] = (), quorum: int = 0) -> None:
        """Check that the record is in the log.

        Args:
            key: The log's verifier key.
            witnesses: Keys of witnesses.
            quorum: How many of them must have cosigned the head.

        Raises:
            NoteUnsigned: The log did not sign the head, or a line of a witness does not verify.
            WitnessesTooFew: Fewer cosigned it.
            HistoryDisagrees: The record is not under the head.
        """
        head = read_head(self.checkpoint.body)
        if head.origin != key.name:
            raise NoteUnsigned(key.name, "the proof is of another log and not signed")
        check_signed(self.checkpoint, key)
        cosigned = 0
        for witness in witnesses:
            if any(_of(witness, line.name, line.key_id) for line in self.checkpoint.signatures):
                check_signed(self.checkpoint, witness)
                cosigned += 1
        if cosigned < quorum:
            raise WitnessesTooFew(cosigned, quorum)
        leaf = leaf_hash(self.record.encode())
        check_inclusion(head.root, head.size, self.position, leaf, self.hashes)


def prove(log: AuditLog, position: int, checkpoint: Note) -> RecordProof:
    """Return the proof that a record is under a head of the log.

    Raises:
        EntryUnknown: There is no such record under it.
    """
    size = read_head(checkpoint.body).size
    hashes = log.inclusion_proof(position, size)
    (event,) = log.events(position, 1)
    return RecordProof(position, event.record, tuple(hashes), checkpoint)


def read_proof(text: str) -> RecordProof:
    """Read what ``RecordProof.text`` wrote; hostile.

    Raises:
        NoteMalformed: It is no proof.
    """
    try:
        body = json.loads(text)
        position, record, encoded = body["position"], body["record"], body["hashes"]
        hashes = tuple(base64.b64decode(one, validate=True) for one in encoded)
        note = read_note(body["checkpoint"])
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        binascii.Error,
    ) as error:
        raise NoteMalformed("it holds no proof of a record") from error
    if type(position) is not int or type(record) is not str:
        raise NoteMalformed("it holds no proof of a record")
    return RecordProof(position, record, hashes, note)


def _of(key: NoteKey, name: str, key_id: bytes) -> bool:
    return (key.name, key.key_id) == (name, key_id)
