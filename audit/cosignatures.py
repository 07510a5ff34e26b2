"""What witnesses said of a log's heads, kept by the log beside them.

A witness sends the checkpoint back with its own line. The log keeps the line of a witness that it
knows, for a head that it signed; whoever reads a checkpoint gets the lines with it. A log cannot
make such a line, so it need not be trusted with them: ``audit.verification`` checks each again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, insert, select

from audit.checkpoints import SignedHead, read_head
from audit.log import AuditLog, HeadUnknown
from audit.notes import COSIGNED, Note, NoteKey, check_signed, read_lines, read_note
from audit.store import COSIGNATURES, writing
from protocol.errors import LedgerError
from storage.database import reading


class CosignatureRefused(LedgerError):
    """A cosignature is of another head than the log signed, or of nobody the log knows."""

    code = "cosignature-refused"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the cosignature is not kept: {why}")


class Cosignatures:
    """The cosignatures of a log.

    Args:
        log: Whose heads.
        witnesses: Whose lines are kept, and counted.
    """

    def __init__(self, log: AuditLog, witnesses: Sequence[NoteKey]) -> None:
        assert all(key.kind == COSIGNED for key in witnesses)
        self._log = log
        self._witnesses = {key.text(): key for key in witnesses}

    def accept(self, text: str) -> SignedHead:
        """Keep the lines of known witnesses, and return the head that they cosign.

        Args:
            text: A checkpoint of the log with them; hostile. Sent again it changes nothing.

        Raises:
            NoteMalformed: It is no checkpoint.
            HeadUnknown: The log signed no head of this size.
            CosignatureRefused: It is another head of this size, or no known witness signed it.
            NoteUnsigned: A line in a witness's name does not verify.
        """
        note = read_note(text)
        seen = read_head(note.body)
        head = self._log.head_at(seen.size)
        if seen.body() != head.body():
            raise CosignatureRefused(f"this log signed another head of {seen.size} records")
        found = [(key, line) for key in self._witnesses.values() for line in _lines(note, key)]
        if not found:
            raise CosignatureRefused("no witness that this log knows has signed it")
        with writing(self._log.engine) as connection:
            for key, line in found:
                row = {"size": head.size, "key": key.text(), "line": line}
                same = [COSIGNATURES.c[name] == row[name] for name in ("size", "key")]
                if connection.execute(select(COSIGNATURES).where(*same)).one_or_none() is None:
                    connection.execute(insert(COSIGNATURES), row)
        return head

    def checkpoint(self, size: int | None = None, *, cosigned_by: int = 0) -> Note:
        """Return a head as a checkpoint, with the log's line and those of witnesses.

        Args:
            size: Of the head; the newest by default.
            cosigned_by: The newest is then that with so many witnesses at least.

        Raises:
            HeadUnknown: There is none.
        """
        if size is None and cosigned_by:
            size = self._newest(cosigned_by)
        head = self._log.head() if size is None else self._log.head_at(size)
        with reading(self._log.engine) as connection:
            rows = connection.execute(self._known().where(COSIGNATURES.c.size == head.size)).all()
        lines = [line for row in rows for line in read_lines(row.line)]
        return head.note(self._log.public_key).with_lines(*lines)

    def _newest(self, cosigned_by: int) -> int:
        enough = func.count() >= cosigned_by
        wanted = self._known(COSIGNATURES.c.size).group_by(COSIGNATURES.c.size).having(enough)
        with reading(self._log.engine) as connection:
            found = connection.execute(wanted.order_by(COSIGNATURES.c.size.desc()).limit(1))
            size: int | None = found.scalar()
        if size is None:
            raise HeadUnknown(0)
        return size

    def _known(self, *columns: Any) -> Any:
        return select(*(columns or (COSIGNATURES,))).where(
            COSIGNATURES.c.key.in_(list(self._witnesses))
        )


def _lines(note: Note, key: NoteKey) -> list[str]:
    """Return the last line of a witness, verified, or none where it signed nothing."""
    lines = [one for one in note.signatures if (one.name, one.key_id) == (key.name, key.key_id)]
    if not lines:
        return []
    check_signed(note, key)
    return [lines[-1].text()]
