"""Read the two public tables: breast cell nuclei (Wisconsin) and heart disease of four hospitals.

A row is one patient. Values are brought to a common scale by public constants alone: ranges
printed in a table's documentation, or round numbers of clinical practice. No mean or deviation is
taken from the rows, so nothing about a patient leaks through the preparation, and every site
prepares alike without talking to the others. What was not measured becomes 0, the middle of the
scale, and where a whole hospital may lack a measurement one more feature says so.

What holds, each line a property test in tests/records/test_tables.py:

1. A row's features depend on that row alone.
2. Features are finite and within plus and minus ``FEATURE_MAX``.
3. Every hospital gives a share of both its classes to the test.

References:
    Street, Wolberg, Mangasarian, Nuclear feature extraction for breast tumor diagnosis, SPIE 1905,
    1993; ranges from the summary statistics that scikit-learn prints with its copy.
    Janosi, Steinbrunn, Pfisterer, Detrano, Heart Disease, UCI Machine Learning Repository, 1988,
    doi:10.24432/C52P4X; codes from its ``heart-disease.names``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from protocol.errors import RecordError
from protocol.ids import PatientId, SiteId
from records.dataset import (
    Arrays,
    Patient,
    SiteWithoutRecords,
    Source,
    StudyData,
    TableRow,
    arrays_of,
)
from records.files import read_bytes
from records.split import dirichlet_split, hold_out, site_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TABLE_BYTES_MAX: Final = 16 * 2**20
"""Bytes in one table; the largest read here has 18 kB."""
FEATURE_MAX: Final = 3.0
"""Bound on a prepared feature: a misprinted value must not drown the others."""
WISCONSIN_TEST_FRACTION: Final = 0.2
HEART_TEST_FRACTION: Final = 1 / 3
"""Two thirds train and a third tests at each hospital, as FLamby does (du Terrail et al., 2022)."""
WISCONSIN_MINIMUM: Final = 24
"""Patients each site has at least: about a third of an even share of 455 over six."""


class TableMalformed(RecordError):
    """A line of a table does not have the columns or numbers it must have."""

    code = "table-malformed"

    def __init__(self, table: str, line: int, reason: str) -> None:
        self.table = table
        self.line = line
        self.reason = reason
        super().__init__(f"line {line} of {table} {reason}; restore the file from its source")


@dataclass(frozen=True)
class Measured:
    """A number: prepared as ``(value - middle) / spread``, so about -2 to 2 is usual."""

    middle: float
    spread: float
    zero_is_missing: bool = False
    flag_missing: bool = False
    """Whether one more feature is 1 where the value is missing."""


@dataclass(frozen=True)
class Skewed:
    """A positive, right-skewed number: the root of its place in ``low`` to ``high``, as -2 to 2."""

    low: float
    high: float


@dataclass(frozen=True)
class Coded:
    """A category: one feature per code, 1 where it is this one; all 0 where missing."""

    codes: tuple[int, ...]


@dataclass(frozen=True)
class YesNo:
    """1 for yes, -1 for no, 0 where missing."""


Column = Measured | Skewed | Coded | YesNo

WISCONSIN: Final[tuple[Column, ...]] = tuple(
    Skewed(low, high)
    for low, high in (
        # means: radius, texture, perimeter, area, smoothness,
        (6.981, 28.11),
        (9.71, 39.28),
        (43.79, 188.5),
        (143.5, 2501.0),
        (0.053, 0.163),
        # compactness, concavity, concave points, symmetry, fractal dimension;
        (0.019, 0.345),
        (0.0, 0.427),
        (0.0, 0.201),
        (0.106, 0.304),
        (0.05, 0.097),
        # then the standard errors of the same ten,
        (0.112, 2.873),
        (0.36, 4.885),
        (0.757, 21.98),
        (6.802, 542.2),
        (0.002, 0.031),
        (0.002, 0.135),
        (0.0, 0.396),
        (0.0, 0.053),
        (0.008, 0.079),
        (0.001, 0.03),
        # then the worst of the same ten.
        (7.93, 36.04),
        (12.02, 49.54),
        (50.41, 251.2),
        (185.2, 4254.0),
        (0.071, 0.223),
        (0.027, 1.058),
        (0.0, 1.252),
        (0.0, 0.291),
        (0.156, 0.664),
        (0.055, 0.208),
    )
)

HEART: Final[tuple[Column, ...]] = (
    Measured(55, 10),  # age, years
    YesNo(),  # sex, male
    Coded((1, 2, 3, 4)),  # cp: typical, atypical, non-anginal, asymptomatic
    Measured(130, 20, zero_is_missing=True),  # trestbps, mmHg; 120 to 140 is borderline
    # chol, mg/dl; 200 to 240 is borderline. Switzerland wrote 0 for every patient.
    Measured(220, 50, zero_is_missing=True, flag_missing=True),
    YesNo(),  # fbs, fasting blood sugar above 120 mg/dl
    Coded((0, 1, 2)),  # restecg: normal, ST-T abnormality, hypertrophy
    Measured(140, 25, zero_is_missing=True),  # thalach, beats per minute
    YesNo(),  # exang, angina under exercise
    Measured(1, 1),  # oldpeak, mm of ST depression; 1 mm is the usual threshold
    Coded((1, 2, 3)),  # slope: up, flat, down
    Measured(1, 1, flag_missing=True),  # ca, vessels of 3 coloured; rare outside Cleveland
    Coded((3, 6, 7)),  # thal: normal, fixed defect, reversible defect
)
HEART_SITES: Final = ("cleveland", "hungarian", "switzerland", "va")
HEART_NUM_MAX: Final = 4
"""The last column, ``num``: 0 is no artery narrowed by half, 1 to 4 are degrees of disease."""


@dataclass(frozen=True)
class TableLoader:
    """The loader of records that are rows; it opens nothing."""

    columns: tuple[Column, ...]

    def load(self, patients: Sequence[Patient]) -> Arrays:
        """Return ``x`` of shape ``(records, features)``."""

        def read(row: TableRow) -> NDArray[np.float32]:
            return prepare(row.values, self.columns)

        return arrays_of(patients, read, (width(self.columns),))


def width(columns: Sequence[Column]) -> int:
    """Return how many features a row of these columns has.

    Examples:
        >>> width((Measured(0, 1, flag_missing=True), Coded((1, 2, 3)), YesNo()))
        6
    """
    return sum(len(_features(None, column)) for column in columns)


def prepare(values: Sequence[float | None], columns: Sequence[Column]) -> NDArray[np.float32]:
    """Return the features of one row, each within plus and minus ``FEATURE_MAX``.

    Examples:
        >>> prepare((75.0, None), (Measured(55, 10), YesNo())).tolist()
        [2.0, 0.0]
    """
    assert len(values) == len(columns)
    features = [
        feature
        for value, column in zip(values, columns, strict=True)
        for feature in _features(value, column)
    ]
    bounded = np.clip(np.array(features), -FEATURE_MAX, FEATURE_MAX)
    return np.asarray(bounded, dtype=np.float32)


def read_wisconsin(*, sites: int = 6, seed: int, alpha: float = 1.0) -> StudyData:
    """Return scikit-learn's packaged breast cancer table, split unevenly over ``sites``.

    Args:
        sites: How many.
        seed: Decides the split and who is held out.
        alpha: Concentration of the Dirichlet split, see ``records.split``.

    Raises:
        TooFewPatients: The table's 569 patients are too few for so many sites.
    """
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 - slow, and for this table only

    table = load_breast_cancer()
    patients = [
        Patient(
            PatientId(f"wisconsin-{number:04d}"),
            int(target == 0),  # 0 is malignant there
            (TableRow(f"wisconsin/{number}", tuple(float(value) for value in row)),),
        )
        for number, (row, target) in enumerate(zip(table.data, table.target, strict=True), 1)
    ]
    labels = [patient.label for patient in patients]
    kept, held = hold_out(labels, fraction=WISCONSIN_TEST_FRACTION, seed=seed)
    dealt = dirichlet_split(
        [labels[index] for index in kept],
        sites=sites,
        alpha=alpha,
        minimum=min(WISCONSIN_MINIMUM, max(1, len(kept) // (2 * sites))),
        seed=seed,
    )
    return StudyData(
        source=Source(
            name="wisconsin",
            title="Wisconsin diagnostic breast cancer, 569 patients",
            synthetic=False,
            unit="patient",
            modality="table",
            task="malignant against benign",
            positive="malignant",
            negative="benign",
            licence="CC BY 4.0 (UCI Machine Learning Repository)",
            note="The table names no sites: they are made unevenly by a Dirichlet draw per class.",
        ),
        sites={
            site: tuple(patients[kept[position]] for position in positions)
            for site, positions in zip(site_names(sites), dealt, strict=True)
        },
        test=tuple(patients[index] for index in held),
        input_shape=(width(WISCONSIN),),
    )


def read_heart(folder: Path, *, seed: int) -> StudyData:
    """Return the four hospitals of ``folder/processed.HOSPITAL.data``, a third of each held out.

    Raises:
        FileMissing, FileUnreadable, TooLarge: One of the four files cannot be had.
        TableMalformed: A line is not 14 numbers, with ``?`` for what is missing.
    """
    sites: dict[SiteId, tuple[Patient, ...]] = {}
    test: list[Patient] = []
    homes: dict[PatientId, SiteId] = {}
    for index, name in enumerate(HEART_SITES):
        patients = _hospital(folder / f"processed.{name}.data", name)
        labels = [patient.label for patient in patients]
        kept, held = hold_out(labels, fraction=HEART_TEST_FRACTION, seed=seed + index)
        sites[SiteId(name)] = tuple(patients[position] for position in kept)
        test.extend(patients[position] for position in held)
        homes |= {patients[position].id: SiteId(name) for position in held}
    total = len(test) + sum(len(patients) for patients in sites.values())
    return StudyData(
        source=Source(
            name="heart",
            title=f"heart disease at four hospitals, {total} patients",
            synthetic=False,
            unit="patient",
            modality="table",
            task="coronary narrowing by half or more against less",
            positive="heart disease",
            negative="no heart disease",
            licence="CC BY 4.0 (UCI Machine Learning Repository)",
            note="The sites are the four hospitals that collected the rows, and differ as they do.",
        ),
        sites=sites,
        test=tuple(test),
        input_shape=(width(HEART),),
        test_homes=homes,
    )


def read_own_heart(folder: Path, site: SiteId) -> tuple[Patient, ...]:
    """Return the patients of ``folder/processed.SITE.data``, all of them; no other file is opened.

    Raises:
        SiteWithoutRecords: There is no such file.
        FileUnreadable, TooLarge, TableMalformed: As ``read_heart``.
    """
    path = folder / f"processed.{site}.data"
    if not path.is_file():
        raise SiteWithoutRecords(site, folder.name)
    return tuple(_hospital(path, site))


def _hospital(path: Path, name: str) -> list[Patient]:
    """Read one hospital's rows."""
    content = read_bytes(path, limit=TABLE_BYTES_MAX)
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise TableMalformed(path.name, number, "is not plain text") from error
    patients = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = line.split(",")
        if len(cells) != len(HEART) + 1:
            raise TableMalformed(
                path.name, number, f"has {len(cells)} columns and not {len(HEART) + 1}"
            )
        *values, num = (_number(cell, path.name, number) for cell in cells)
        if num is None or not 0 <= num <= HEART_NUM_MAX:
            raise TableMalformed(path.name, number, "has no diagnosis from 0 to 4")
        row = TableRow(f"heart/{name}/{number}", tuple(values))
        patients.append(Patient(PatientId(f"{name}-{number:04d}"), int(num > 0), (row,)))
    if not patients:
        raise TableMalformed(path.name, 1, "is empty")
    return patients


def _number(cell: str, table: str, line: int) -> float | None:
    text = cell.strip()
    if text == "?":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TableMalformed(table, line, "holds something that is neither a number nor ?")
    return value


def _features(value: float | None, column: Column) -> list[float]:
    """Prepare one value."""
    if isinstance(column, Measured):
        missing = value is None or (column.zero_is_missing and value == 0)
        feature = 0.0 if value is None or missing else (value - column.middle) / column.spread
        return [feature, float(missing)] if column.flag_missing else [feature]
    if isinstance(column, Skewed):
        if value is None:
            return [0.0]
        place = min(max((value - column.low) / (column.high - column.low), 0.0), 1.0)
        return [4 * math.sqrt(place) - 2]
    if isinstance(column, Coded):
        return [float(value == code) for code in column.codes]
    return [0.0 if value is None else (1.0 if value > 0 else -1.0)]
