"""What a grant may be for and which kinds of data it covers, each one bit of its terms.

The lower 16 bits are purposes of the Data Use Ontology (DUO), under its own codes; the upper 16
are categories of data, under DICOM's modality codes where there is one. A study requires bits, a
grant has bits, and the study may use the grant when every required bit is granted.

    >>> purpose_mask(["HMB"]) == purpose_mask(["DUO:0000006"])
    True
    >>> names_of(purpose_mask(["HMB"]) | category_mask(["US"]))
    ['health, medical or biomedical research', 'ultrasound']

DUO orders permissions: general research use includes biomedical research. A circuit compares bits
and knows no order, so a grant is widened when it is made (``granted_mask``), and a requirement
never is (``purpose_mask``). DUO's modifiers, which limit who may use data and not what for, are
conditions of a study and no bits here.

What holds (tests/consent/test_purposes.py):

1. Every code has a bit of its own, and a bit never changes: terms in the registry mean it.
2. A widened grant allows what it names and everything the ontology puts below it, nothing else.

References:
    GA4GH Data Use Ontology, release 2021-02-23; Lawson et al., The Data Use Ontology to
    streamline responsible access to human biomedical datasets, Cell Genomics 1 (2021) 100028.
    DICOM PS3.3 C.7.3.1.1.1 (modality).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.errors import ConsentError

BITS: Final = 16
"""Purposes take bits 0 to 15 of the grants, categories bits 16 to 31."""


class UnknownPurpose(ConsentError):
    """A purpose has no bit."""

    code = "unknown-purpose"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name!r} is not a purpose of the Data Use Ontology that a grant can name; "
            f"use one of {', '.join(one.shorthand or one.code for one in PURPOSES)}"
        )


class UnknownCategory(ConsentError):
    """A category of data has no bit."""

    code = "unknown-category"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name!r} is not a category of data that a grant can name; "
            f"use one of {', '.join(one.code for one in CATEGORIES)}"
        )


@dataclass(frozen=True)
class Purpose:
    """A use that can be granted."""

    code: str
    """In the ontology."""
    shorthand: str
    """In the ontology; empty where it gives none."""
    name: str
    """For a person."""
    includes: tuple[str, ...] = ()
    """Codes directly below it: who grants this grants them."""


@dataclass(frozen=True)
class Category:
    """A kind of data that can be granted."""

    code: str
    name: str
    is_modality: bool = True
    """The code is DICOM's."""


PURPOSES: Final = (
    Purpose("DUO:0000004", "NRES", "any use", ("DUO:0000042", "DUO:0000043")),
    Purpose(
        "DUO:0000042",
        "GRU",
        "research of any kind",
        (
            "DUO:0000006",
            "DUO:0000011",
            "DUO:0000031",
            "DUO:0000032",
            "DUO:0000033",
            "DUO:0000034",
            "DUO:0000035",
            "DUO:0000036",
            "DUO:0000037",
        ),
    ),
    Purpose(
        "DUO:0000006",
        "HMB",
        "health, medical or biomedical research",
        ("DUO:0000007", "DUO:0000037"),
    ),
    Purpose("DUO:0000007", "DS", "research on the disease the study names"),
    Purpose("DUO:0000011", "POA", "research on ancestry and origins only", ("DUO:0000033",)),
    Purpose("DUO:0000043", "CC", "clinical care"),
    Purpose("DUO:0000031", "", "development of methods and software"),
    Purpose("DUO:0000032", "", "research on a population group"),
    Purpose("DUO:0000033", "", "research on ancestry"),
    Purpose("DUO:0000034", "", "research on an age group"),
    Purpose("DUO:0000035", "", "research on a gender group"),
    Purpose("DUO:0000036", "", "use as reference or control"),
    Purpose(
        "DUO:0000037",
        "",
        "biomedical research",
        ("DUO:0000038", "DUO:0000039", "DUO:0000040"),
    ),
    Purpose("DUO:0000038", "", "genetic research"),
    Purpose("DUO:0000039", "", "drug development"),
    Purpose("DUO:0000040", "", "research on a category of diseases"),
)
"""By bit. The order is part of the format: it may not change."""

CATEGORIES: Final = (
    Category("image", "medical images", is_modality=False),
    Category("table", "clinical values in a table", is_modality=False),
    Category("DX", "X-ray images"),
    Category("MG", "mammography"),
    Category("US", "ultrasound"),
    Category("CT", "computed tomography"),
    Category("MR", "magnetic resonance"),
    Category("NM", "nuclear medicine"),
    Category("PT", "positron emission tomography"),
    Category("XA", "angiography"),
    Category("SM", "slide microscopy"),
    Category("OP", "photographs of the eye"),
    Category("ES", "endoscopy"),
    Category("ECG", "electrocardiograms"),
    Category("report", "written reports", is_modality=False),
    Category("genomic", "genetic sequences", is_modality=False),
)
"""By bit, from bit 16 on. The order is part of the format: it may not change."""


def purpose_mask(codes: Iterable[str]) -> int:
    """Return the bits of exactly these purposes, as a study requires them.

    Args:
        codes: Ontology codes (``DUO:0000006``) or shorthands (``HMB``).

    Raises:
        UnknownPurpose: A code has no bit.
    """
    mask = 0
    for code in codes:
        mask |= 1 << _purpose_bit(code)
    return mask


def granted_mask(codes: Iterable[str]) -> int:
    """Return the bits that a patient grants who agrees to these purposes: them and all below.

    Raises:
        UnknownPurpose: A code has no bit.

    Examples:
        >>> required = purpose_mask(["DS"])
        >>> granted_mask(["HMB"]) & required == required
        True
    """
    mask = 0
    for code in codes:
        bit = _purpose_bit(code)
        mask |= 1 << bit | granted_mask(PURPOSES[bit].includes)
    return mask


def category_mask(codes: Iterable[str]) -> int:
    """Return the bits of these categories of data.

    Raises:
        UnknownCategory: A code has no bit.
    """
    mask = 0
    for code in codes:
        bit = next((bit for bit, one in enumerate(CATEGORIES) if one.code == code), None)
        if bit is None:
            raise UnknownCategory(code)
        mask |= 1 << (BITS + bit)
    return mask


def purposes_in(grants: int) -> list[Purpose]:
    """Return the purposes whose bits are set, by bit."""
    return [one for bit, one in enumerate(PURPOSES) if grants >> bit & 1]


def categories_in(grants: int) -> list[Category]:
    """Return the categories whose bits are set, by bit."""
    return [one for bit, one in enumerate(CATEGORIES) if grants >> (BITS + bit) & 1]


def names_of(grants: int) -> list[str]:
    """Return what a person reads for these bits: purposes, then categories."""
    return [one.name for one in purposes_in(grants)] + [one.name for one in categories_in(grants)]


def _purpose_bit(code: str) -> int:
    for bit, one in enumerate(PURPOSES):
        if code and code in {one.code, one.shorthand}:
            return bit
    raise UnknownPurpose(code)
