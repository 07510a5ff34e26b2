"""What one hospital holds and whom it trusts: ``SITE/site.json``, all that its agent starts from.

The agent opens its hospital's own folder and the records that this file names. Which consent
registry may say who has withdrawn, and which circuit its proofs are of, is pinned here when the
hospital is set up; no server changes it later.

::

    SITE/site.json                      this file, written last: where it is, the site is set up
    SITE/proof/proving.key              what the agent proves with
    SITE/proof/verification_key.json    what it checks its own proofs with
    SITE/identity/site.key              its keys (in a demonstration, which admits nobody, keys.json)

    SERVER/server/for-sites/            what a server hands to hospitals:
        terms.json, verification_key.json, proving.key

What holds, each line a test in tests/portal/test_site_settings.py:

1. What is kept is read back as it was, and a folder without the file says how to set it up.
2. A file of another version, another site, or with anything in it that is not meant is refused.
3. The hospital's own keys are the one pair that it was admitted with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from identity.requests import read_bounded
from identity.site_folder import SiteFolder
from privacy.cohorts import EVERYONE
from privacy.keys import SiteKeys
from protocol.errors import ConfigurationError
from protocol.ids import SiteId
from protocol.messages import Digest, Key32, Message, Site, Slug
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


class Division(Message):
    """How a demonstration divides records that belong to no hospital of its own."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    sites: Annotated[int, Field(ge=1, le=100)]
    patients: Annotated[int, Field(ge=1, le=10**6)]
    """At each site; counts for the synthetic records alone."""


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
        demonstration: Lets the one who runs all of a demonstration's sites check its sums.
    """

    format: Literal["bithive-site-1"] = "bithive-site-1"
    site: Site
    records: Annotated[str, Field(min_length=1, max_length=4096)]
    dataset: Slug
    modality: Literal["image", "table", "volume"]
    positive: Annotated[str, Field(min_length=1, max_length=200)] = "malignant"
    packaged: Division | None = None
    registry: Slug
    registry_key: Key32
    circuit: Literal["cover8", "cover64"]
    key_hash: Digest
    registry_reader: Annotated[str, Field(max_length=4096)] | None = None
    researcher: Annotated[str, Field(max_length=200)] = ""
    budget_cohort: Annotated[str, Field(max_length=200)] = EVERYONE
    demonstration: bool = False

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


def proof_files(folder: Path) -> tuple[Path, Path]:
    """Return where a hospital keeps its proving key and its verification key."""
    return folder / PROOF / PROVING_KEY, folder / PROOF / VERIFICATION_KEY


def keys_file(folder: Path) -> Path:
    """Return the file with a hospital's signing and agreement keys.

    It is what the hospital joined its federation with; ``keys.json`` is for a demonstration that
    nobody joins.
    """
    admitted = SiteFolder.of(folder).site_key
    return admitted if admitted.is_file() else folder / "keys.json"


def site_keys(folder: Path) -> SiteKeys:
    """Return a hospital's signing and agreement keys.

    Raises:
        SiteKeysUnreadable: It has none that can be used.
    """
    return SiteKeys.load(keys_file(folder))
