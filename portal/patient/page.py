"""The page itself: one document, its script and look, and Semaphore's files, all under their hash.

A file's address holds the SHA-256 of its bytes, so that it can be kept for ever and never be
another than the page asked for; the browser checks the same hash again before it uses the script or
a key. The page asks nothing of any other host, and the browser is told to allow no such thing.

What holds (tests/portal/test_patient_page.py):

1. Nothing is loaded from elsewhere, and the content security policy forbids it.
2. Only the files of the list are served, whatever path is asked for.
3. Both languages have every text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from zk.artefacts import read_file

STATIC: Final = Path(__file__).parent / "static"
OWN: Final = {
    "page.js": "text/javascript",
    "consent.js": "text/javascript",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
}
SEMAPHORE: Final = {
    "semaphore.js": "text/javascript",
    "semaphore-16.wasm": "application/wasm",
    "semaphore-16.zkey": "application/octet-stream",
}
HASH_DIGITS: Final = 32
POLICY: Final = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; "
    "worker-src blob:; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer. Semaphore's prover compiles WebAssembly and runs it in workers from blobs."""


@dataclass(frozen=True)
class Asset:
    """A file as it is served."""

    name: str
    content: bytes
    media_type: str

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the content."""
        return hashlib.sha256(self.content).digest()

    @property
    def address(self) -> str:
        """Where it is: another content has another address."""
        return f"/files/{self.digest.hex()[:HASH_DIGITS]}/{self.name}"

    @property
    def integrity(self) -> str:
        """What a browser compares: W3C Subresource Integrity."""
        return f"sha256-{base64.b64encode(self.digest).decode()}"

    @cached_property
    def packed(self) -> bytes | None:
        """The content for the wire if packing saves a tenth, None if not."""
        packed = gzip.compress(self.content, 6, mtime=0)
        return packed if len(packed) < 0.9 * len(self.content) else None


@lru_cache(maxsize=1)
def assets() -> dict[str, Asset]:
    """Return everything that is served beside the document, by name.

    Raises:
        ArtefactAltered: A file of Semaphore is not the published one.
    """
    own = [Asset(name, (STATIC / name).read_bytes(), kind) for name, kind in OWN.items()]
    theirs = [Asset(name, read_file(name), kind) for name, kind in SEMAPHORE.items()]
    return {asset.name: asset for asset in (*own, *theirs)}


def texts() -> dict[str, dict[str, str]]:
    """Return every text of the page by key, then by language."""
    found: dict[str, dict[str, str]] = json.loads((STATIC.parent / "texts.json").read_bytes())
    return found


def document(study: dict[str, Any], files: dict[str, Asset], language: str) -> str:
    """Return the page as HTML.

    Args:
        study: What ``study_view`` returns.
        files: What ``assets`` returns.
        language: ``en`` or ``zh``: in which the page is before its script runs.
    """
    words = texts()
    setup = {
        "study": study,
        "texts": words,
        "files": {
            name: {"address": asset.address, "integrity": asset.integrity}
            for name, asset in files.items()
        },
    }
    return (
        _environment()
        .get_template("patient.html")
        .render(
            language=language,
            say={key: one[language] for key, one in words.items()},
            study=study,
            files=files,
            setup=json.dumps(setup, ensure_ascii=True).replace("<", "\\u003c"),
        )
    )


def language_of(accepted: str) -> str:
    """Return the language to begin in, from the header ``Accept-Language``.

    Examples:
        >>> language_of("zh-CN,zh;q=0.9,en;q=0.8"), language_of("de"), language_of("")
        ('zh', 'en', 'en')
    """
    for part in accepted.split(","):
        name = part.strip().lower()[:2]
        if name in {"zh", "en"}:
            return name
    return "en"


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("portal.patient"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
