"""What a patient reads about a study before she decides, in Chinese and English.

The operator may put a sheet beside the study's terms (``HOME/server/study-sheet.json``). What it
leaves out is written from the terms themselves: a sheet can add words, never change what a grant
means, which are the bits of the terms.

    {"title": {"en": "...", "zh": "..."}, "who": {...}, "why": {...}, "gets": {...},
     "contact": {...}, "site_names": {"north": {"en": "North Hospital", "zh": "北方医院"}},
     "also_ask": ["GRU"], "also_categories": ["report"]}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consent.purposes import BITS, CATEGORIES, PURPOSES, category_mask, granted_mask
from protocol.errors import ConfigurationError, storage_error
from protocol.ids import SiteId

if TYPE_CHECKING:
    from portal.patient.desk import Desk

MONTHS_OFFERED: Final = (3, 12, 24)
"""How long a patient may grant for at once; she may grant again."""
SHEET_MAX: Final = 65_536
LANGUAGES: Final = ("en", "zh")


class StudySheetInvalid(ConfigurationError):
    """A study's sheet cannot be read."""

    code = "study-sheet-invalid"

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        super().__init__(f"the study sheet {name} cannot be used: {why}; correct it and restart")


class Words(BaseModel):
    """One text in both languages."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    en: Annotated[str, Field(min_length=1, max_length=2000)]
    zh: Annotated[str, Field(min_length=1, max_length=2000)]


class StudySheet(BaseModel):
    """What the operator says of a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: Words | None = None
    who: Words | None = None
    why: Words | None = None
    gets: Words | None = None
    contact: Words | None = None
    site_names: dict[str, Words] = {}
    also_ask: tuple[str, ...] = ("GRU",)
    """Purposes that are not needed and may be granted too."""
    also_categories: tuple[str, ...] = ()


def read_sheet(path: Path) -> StudySheet:
    """Return the sheet at ``path``, or an empty one where there is none.

    Raises:
        StudySheetInvalid: It is not a sheet.
        StorageError: It cannot be read.
    """
    if not path.is_file():
        return StudySheet()
    try:
        text = path.read_bytes()
        if len(text) > SHEET_MAX:
            raise StudySheetInvalid(path.name, f"it has more than {SHEET_MAX} bytes")
        sheet = StudySheet.model_validate(json.loads(text))
    except OSError as error:
        raise storage_error(error, path.name) from error
    except (ValidationError, ValueError) as error:
        raise StudySheetInvalid(path.name, str(error).splitlines()[0]) from error
    granted_mask(sheet.also_ask)
    category_mask(sheet.also_categories)
    return sheet


def study_view(desk: Desk, sheet: StudySheet) -> dict[str, Any]:
    """Return what the page shows and computes with; all of it public."""
    terms = desk.terms
    asked = terms.consent.required
    also = granted_mask(sheet.also_ask) | category_mask(sheet.also_categories)
    lanes = {lane.site: lane for lane in desk.lanes()}
    return {
        "study": terms.study,
        "title": _words(sheet.title) or {"en": terms.title, "zh": terms.title},
        "who": _words(sheet.who),
        "why": _words(sheet.why),
        "gets": _words(sheet.gets),
        "contact": _words(sheet.contact),
        "rounds": terms.rounds,
        "epsilon": terms.privacy.epsilon,
        "privacy": {
            "delta": f"{terms.privacy.delta:g}",
            "rate": f"{terms.privacy.sampling_rate:g}",
            # Sums of shared noise are beyond PRV (privacy/accounting.py).
            "accountant": "RDP"
            if terms.privacy.mechanism == "summed"
            else terms.privacy.accountant.upper(),
        },
        "batch_seconds": int(desk.queue.interval.total_seconds()),
        "months": list(MONTHS_OFFERED),
        "registry": terms.consent.registry,
        "registry_key": terms.consent.registry_key.hex(),
        "dataset": terms.consent.dataset,
        "required": asked,
        "from_day": terms.consent.from_day,
        "through_day": terms.consent.through_day,
        "sites": {
            one.site: {
                "name": _name(sheet, one.site),
                "agreement_key": one.agreement_key.hex(),
                "lane": lanes[one.site].first_chunk,
                "chunk_size": lanes[one.site].chunk_size,
            }
            for one in terms.sites
            if one.site in lanes
        },
        "purposes": [
            {
                "bit": bit,
                "code": one.code,
                "name": one.name,
                "mask": granted_mask([one.code]),
                "asked": bool(asked >> bit & 1),
            }
            for bit, one in enumerate(PURPOSES)
            if asked >> bit & 1 or {one.code, one.shorthand} & set(sheet.also_ask)
        ],
        "categories": [
            {
                "bit": BITS + bit,
                "code": one.code,
                "name": one.name,
                "mask": 1 << (BITS + bit),
                "asked": bool(asked >> (BITS + bit) & 1),
            }
            for bit, one in enumerate(CATEGORIES)
            if (asked | also) >> (BITS + bit) & 1
        ],
        "vocabulary": {
            "purposes": [{"code": one.code, "name": one.name} for one in PURPOSES],
            "categories": [
                {"code": one.code, "name": one.name, "modality": one.is_modality}
                for one in CATEGORIES
            ],
        },
    }


def _words(words: Words | None) -> dict[str, str] | None:
    return None if words is None else words.model_dump()


def _name(sheet: StudySheet, site: SiteId) -> dict[str, str]:
    words = sheet.site_names.get(site)
    return dict.fromkeys(LANGUAGES, site) if words is None else words.model_dump()
