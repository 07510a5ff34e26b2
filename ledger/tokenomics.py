"""The first allocation of BTT: which treasury bucket receives how much of the fixed supply.

The supply is minted once, into buckets, and never again. The shares are whole percents in
``tokenomics.yaml`` beside this file; a table that gives away more or less than everything is
refused, because the difference would have to be invented or lost. What else the file says, how the
buckets are released, fees and staking, is read by ``ledger.economy``.

    >>> allocation = load().allocation
    >>> allocation.percent["mining"], len(allocation.percent)
    (30, 12)
    >>> sum(allocation.amounts().values()) == TOTAL_SUPPLY
    True

What holds, each line a test in tests/ledger/test_tokenomics.py:

1. Completeness: the buckets' amounts sum to the supply, to the base unit.
2. Refusal: a table whose percents do not sum to 100 cannot become an ``Allocation``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ledger.tables import Section, TokenomicsUnreadable, read_preset
from protocol.errors import ConfigurationError
from protocol.units import TOTAL_SUPPLY

DEFAULT_PATH: Final = Path(__file__).with_name("tokenomics.yaml")
KNOWN_VERSION: Final = 1


class AllocationUnbalanced(ConfigurationError):
    """The buckets' percents do not sum to 100."""

    code = "allocation-unbalanced"

    def __init__(self, total: int) -> None:
        self.total = total
        super().__init__(
            f"the allocation gives away {total} % of the supply; correct it to exactly 100 %"
        )


@dataclass(frozen=True)
class Allocation:
    """Whole percents of the supply by bucket; cannot exist unless they sum to 100.

    Raises:
        AllocationUnbalanced: The percents do not sum to 100, or one is not positive.
    """

    percent: Mapping[str, int]

    def __post_init__(self) -> None:
        total = sum(self.percent.values())
        if total != 100 or any(share <= 0 for share in self.percent.values()):
            raise AllocationUnbalanced(total)
        object.__setattr__(self, "percent", MappingProxyType(dict(self.percent)))

    def amounts(self) -> dict[str, int]:
        """Return base units per bucket. Exact: the supply is divisible by 100."""
        return {bucket: TOTAL_SUPPLY * share // 100 for bucket, share in self.percent.items()}


@dataclass(frozen=True)
class Tokenomics:
    """What the token is called, and who receives it at genesis."""

    name: str
    symbol: str
    allocation: Allocation


def load(path: Path = DEFAULT_PATH, preset: str | None = None) -> Tokenomics:
    """Read names and allocation.

    Args:
        path: The file; by default the one shipped with the package. A ``.toml`` file holds one
            table of whole percents, ``allocation_percent``, and nothing about releases.
        preset: Which preset of a YAML file; by default the one it names.

    Returns:
        Names and the checked allocation.

    Raises:
        TokenomicsUnreadable: The file cannot be read, or a field is missing or of another kind.
        AllocationUnbalanced: The percents do not sum to 100.
    """
    if path.suffix == ".toml":
        return _from_toml(path)
    return tokenomics_of(read_preset(path, preset))


def tokenomics_of(preset: Section) -> Tokenomics:
    """Read names and allocation from a preset. Raises as ``load``."""
    token, buckets = preset.section("token"), preset.section("allocation")
    percents = {
        bucket: buckets.section(bucket).whole("percent", 1, 100)
        for bucket in buckets.keys()  # noqa: SIM118 - a method, not a dict's
    }
    found = Tokenomics(token.text("name"), token.text("symbol"), Allocation(percents))
    token.done()
    return found


def _from_toml(path: Path) -> Tokenomics:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOMLDecodeError and bad UTF-8 are ValueErrors
        raise TokenomicsUnreadable(path, str(error)) from error
    version = table.get("version")
    if version != KNOWN_VERSION:
        raise TokenomicsUnreadable(path, f"version {version!r} is not {KNOWN_VERSION}")
    return Tokenomics(
        name=_text(path, table, "name"),
        symbol=_text(path, table, "symbol"),
        allocation=Allocation(_percents(path, table)),
    )


def _text(path: Path, table: Mapping[str, Any], field: str) -> str:
    value = table.get(field)
    if not isinstance(value, str) or not value:
        raise TokenomicsUnreadable(path, f"{field} is missing or not text")
    return value


def _percents(path: Path, table: Mapping[str, Any]) -> dict[str, int]:
    percents = table.get("allocation_percent")
    if not isinstance(percents, dict):
        raise TokenomicsUnreadable(path, "the table allocation_percent is missing")
    for bucket, share in percents.items():
        # type() and not isinstance(): true is an int to Python, and half a percent is a float.
        if type(share) is not int:
            raise TokenomicsUnreadable(path, f"{bucket} is not a whole percent")
    return percents
