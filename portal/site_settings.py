"""What one hospital holds and whom it trusts: ``SITE/site.json``, all that its agent starts from.

The agent opens its hospital's own folder and the records that this file names. Which consent
registry may say who has withdrawn, and which circuit its proofs are of, is pinned here when the
hospital is set up; no server changes it later.

::

    SITE/site.json                      this file, written last: where it is, the site is set up
    SITE/proof/proving.key              what the agent proves with
    SITE/proof/verification_key.json    what it checks its own proofs with
    SITE/identity/site.key              its keys (keys.json in a demonstration that admits nobody)

    SERVER/server/for-sites/            what a server hands to hospitals:
        terms.json, verification_key.json, proving.key

What holds, each line a test in tests/portal/test_site_settings.py:

1. What is kept is read back as it was, and a folder without the file says how to set it up.
2. A file of another version, another site, or with anything in it that is not meant is refused.
3. The hospital's own keys are the one pair that it was admitted with.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from identity.requests import fingerprint, read_bounded
from identity.site_folder import SiteFolder, SiteKeysMissing
from privacy.cohorts import EVERYONE
from privacy.keys import SiteKeys
from protocol.canonical import Digest, Key32, Message, Site, Slug
from protocol.errors import ConfigurationError
from protocol.ids import SLUG, SiteId
from protocol.terms import ConsentTerms, StudyTerms
from records.split import SITES_MAX
from storage.files import PRIVATE, write_whole

FOR_SITES: Final = "for-sites"
"""Below the server's folder: what it hands to hospitals."""
TERMS: Final = "terms.json"
VERIFICATION_KEY: Final = "verification_key.json"
PROVING_KEY: Final = "proving.key"
PROOF: Final = "proof"
SETTINGS: Final = "site.json"
BYTES_MAX: Final = 2**16


class SiteNotSetUp(ConfigurationError):
    """A hospital's folder does not say yet what it holds."""

    code = "site-not-set-up"

    def __init__(self, site: str, known: list[str]) -> None:
        self.site = site
        here = f"; this home has {', '.join(known)}" if known else ""
        super().__init__(
            f"site {site} is not set up in this home{here}; set it up with `bithive site setup`, "
            "or give the right --home"
        )


class SiteSettingsDamaged(ConfigurationError):
    """A hospital's settings cannot be meant."""

    code = "site-settings-damaged"

    def __init__(self, site: str, why: str) -> None:
        self.site = site
        super().__init__(
            f"{SETTINGS} of site {site} cannot be used: {why}; write it anew with "
            "`bithive site setup`"
        )


class StudyNotHeld(ConfigurationError):
    """A study was approved that this hospital does not hold what it takes for."""

    code = "study-not-held"

    def __init__(self, study: str, what: str) -> None:
        self.study = study
        super().__init__(
            f"study {study} takes another {what} than this hospital's agent was started with; "
            "start one that has it, or refuse the job"
        )


class Packaged(Message):
    """How a demonstration divides records that are no hospital's own."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    sites: Annotated[int, Field(ge=1, le=SITES_MAX)]


class SiteOwn(Message):
    """One hospital's settings.

    Attributes:
        records: A path, from the hospital's folder where it is relative, or ``wisconsin``.
        dataset: The name its studies know the records by.
        modality: What kind of records they are.
        positive: Which label counts as positive, where the records are images.
        packaged: How they are divided, in a demonstration on records of no hospital's own.
        registry: The consent registry this hospital trusts, and its key.
        circuit: What consent is proven by, and ``key_hash``, the verification key's hash.
        registry_reader: The registry's database, where this machine has it.
        researcher: For whom epsilon is spent; empty for who holds the server's key.
        budget_cohort: On whom it is spent.
    """

    format: Literal["bithive-site-1"] = "bithive-site-1"
    site: Site
    records: Annotated[str, Field(min_length=1, max_length=4096)]
    dataset: Slug
    modality: Literal["image", "table", "volume"]
    positive: Annotated[str, Field(min_length=1, max_length=200)] = "malignant"
    packaged: Packaged | None = None
    registry: Slug
    registry_key: Key32
    circuit: Literal["cover8", "cover64"]
    key_hash: Digest
    registry_reader: Annotated[str, Field(max_length=4096)] | None = None
    researcher: Annotated[str, Field(max_length=200)] = ""
    budget_cohort: Annotated[str, Field(max_length=200)] = EVERYONE

    def save(self, folder: Path) -> None:
        """Keep the settings in the hospital's folder.

        Raises:
            StorageError: The disk refused.
        """
        content = self.model_dump_json(indent=2).encode() + b"\n"
        write_whole(folder / SETTINGS, content, mode=PRIVATE)

    @classmethod
    def load(cls, folder: Path, site: SiteId) -> SiteOwn:
        """Return the settings of ``site``, whose folder this is.

        Raises:
            SiteNotSetUp: There are none.
            SiteSettingsDamaged: They are of another version or site, or hold what is not meant.
            StorageError: They cannot be read.
        """
        if not (folder / SETTINGS).is_file():
            around = folder.parent.glob(f"*/{SETTINGS}")
            raise SiteNotSetUp(site, sorted(one.parent.name for one in around))
        content = read_bounded(folder / SETTINGS, limit=BYTES_MAX)
        if len(content) > BYTES_MAX:
            raise SiteSettingsDamaged(site, f"it is larger than {BYTES_MAX} bytes")
        try:
            own = cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])[:60] or "JSON"
            raise SiteSettingsDamaged(site, f"{where}: {first['msg'][:120]}") from None
        if own.site != site:
            raise SiteSettingsDamaged(site, f"it is of site {own.site}")
        return own


def site_folder(home: Path, name: str) -> Path:
    """Return where a home has a hospital's folder.

    Raises:
        SiteNotSetUp: The name is no site's.
    """
    if not SLUG.fullmatch(name):
        raise SiteNotSetUp(name, [])
    return home / "sites" / name


def proof_files(folder: Path) -> tuple[Path, Path]:
    """Return where a hospital keeps its proving key and its verification key."""
    return folder / PROOF / PROVING_KEY, folder / PROOF / VERIFICATION_KEY


def check_held(terms: StudyTerms, held: SiteOwn | ConsentTerms) -> None:
    """Return if a study takes what is held here and trusts whom this hospital trusts.

    The registry's key is part of it: under another one a server could call those back who withdrew.

    Raises:
        StudyNotHeld: It does not; names the first difference.
    """
    for what in ("dataset", "registry", "registry_key", "circuit", "key_hash"):
        if getattr(terms.consent, what) != getattr(held, what):
            named = "proof key" if what == "key_hash" else what.replace("_", " ")
            raise StudyNotHeld(terms.study, named)


def registry_digest(key: bytes) -> str:
    """Return the SHA-256 of a registry's public key, in hexadecimal."""
    return hashlib.sha256(key).hexdigest()


def registry_fingerprint(key: bytes) -> str:
    """Return what a server reads out to hospitals: the fingerprint of its registry's public key.

    Examples:
        >>> registry_fingerprint(bytes(32))
        '6668 7aad f862 bd77 6c8f c18b 8e9f 8e20'
    """
    return fingerprint(registry_digest(key))


def keys_file(folder: Path) -> Path:
    """Return the file with a hospital's signing and agreement keys, whether or not it is there.

    It is what the hospital joined its federation with; ``keys.json`` is for a demonstration that
    nobody joins.
    """
    admitted = SiteFolder.of(folder).site_key
    return admitted if admitted.is_file() else folder / "keys.json"


def site_keys(folder: Path) -> SiteKeys:
    """Return a hospital's signing and agreement keys.

    Raises:
        SiteKeysMissing: It has none yet.
        SiteKeysUnreadable, StorageError: They cannot be used.
    """
    file = keys_file(folder)
    if not file.is_file():
        raise SiteKeysMissing(folder, SiteFolder.of(folder).site_key.name)
    return SiteKeys.load(file)
