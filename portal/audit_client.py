"""A witness's way to a log: fetch its head and the proof, cosign, hand the cosignature back.

All connections go out from the witness, so a hospital opens no port for it. What comes back is
believed only as far as ``audit.witness`` can check it.
"""

from __future__ import annotations

import base64
import binascii
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final

from audit.checkpoints import Head, read_head
from audit.notes import NOTE_BYTES_MAX, Note, NoteKey, read_note
from audit.witness import Witness
from identity.roles import About, Actor, Denied, Permission, check
from protocol.errors import FederationError

ANSWER_BYTES_MAX: Final = NOTE_BYTES_MAX
WAIT_SECONDS: Final = 60
REASON_CHARACTERS_MAX: Final = 300


class LogUnreachable(FederationError):
    """A log does not answer, or refuses."""

    code = "log-unreachable"

    def __init__(self, url: str, why: str) -> None:
        self.url = url
        super().__init__(f"the audit log at {url} does not answer as it should: {why}; try later")


class LogAtUrl:
    """A log that is served somewhere.

    Args:
        url: ``https://...``, or ``http://...`` on one machine.
        authority: A file with the certificates to trust; the system's by default.

    Raises:
        LogUnreachable: It is no such address, or the file holds no certificates.
    """

    def __init__(self, url: str, authority: Path | None = None) -> None:
        self.url = url.rstrip("/")
        if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
            raise LogUnreachable(url, "its address begins with neither https nor http")
        try:
            self._tls = ssl.create_default_context(cafile=authority)
        except OSError as error:
            raise LogUnreachable(url, "the file of its authority holds no certificates") from error

    def checkpoint(self) -> str:
        """Return the newest head."""
        return self._ask("/checkpoint").decode(errors="replace")

    def consistency(self, old_size: int, size: int) -> list[bytes]:
        """Return the proof that connects two heads."""
        try:
            found: Any = json.loads(self._ask(f"/proofs/consistency?old={old_size}&size={size}"))
            return [base64.b64decode(one, validate=True) for one in found["hashes"]]
        except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
            raise LogUnreachable(self.url, "its proof cannot be read") from error

    def hand_in(self, note: Note) -> str:
        """Hand a cosigned head to the log, and return it with all signatures the log has."""
        return self._ask("/cosignatures", note.text().encode()).decode(errors="replace")

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        headers = {} if body is None else {"Content-Type": "text/plain; charset=utf-8"}
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310 - its scheme was looked at
        try:
            with urllib.request.urlopen(request, timeout=WAIT_SECONDS, context=self._tls) as answer:  # noqa: S310 - likewise
                content: bytes = answer.read(ANSWER_BYTES_MAX + 1)
        except urllib.error.HTTPError as error:
            raise LogUnreachable(self.url, _problem(error)) from error
        except (OSError, ValueError) as error:
            raise LogUnreachable(self.url, "there is no connection") from error
        if len(content) > ANSWER_BYTES_MAX:
            raise LogUnreachable(self.url, "its answer is too long")
        return content


def witness_head(
    witness: Witness, key: NoteKey, log: LogAtUrl, *, actor: Actor, audit: Denied
) -> Note:
    """Cosign a log's newest head and hand the cosignature in.

    Args:
        witness: Ours.
        key: The log's.
        log: Where it is served.
        actor: Who asks for it.
        audit: Told if she may not.

    Returns:
        The head, with our line.

    Raises:
        PermissionMissing: She may not.
        LogUnreachable: The log gave no head or proof, or did not take the cosignature.
        LedgerError: The head may not be cosigned, as ``Witness.cosign``.
    """
    check(actor, Permission.WITNESS, about=About(site=actor.site), audit=audit)
    text = log.checkpoint()
    head = _head(text)
    seen = witness.seen(key.name)
    hashes = log.consistency(seen.size, head.size) if 0 < seen.size < head.size else []
    cosigned = witness.cosign(key, text, seen.size, hashes)
    log.hand_in(cosigned)
    return cosigned


def _head(text: str) -> Head:
    return read_head(read_note(text).body)


def _problem(error: urllib.error.HTTPError) -> str:
    try:
        detail = str(json.loads(error.read(ANSWER_BYTES_MAX))["detail"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        detail = "no reason given"
    # It goes to a terminal.
    shown = "".join(one for one in detail[:REASON_CHARACTERS_MAX] if one.isprintable())
    return f"it answered {error.code}, {shown}"
