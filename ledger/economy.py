"""The whole of ``tokenomics.yaml``, checked: allocation, vesting, emission, fees, staking, burns.

    >>> economy = load_economy()
    >>> economy.token.symbol, len(economy.vesting), economy.emission.amount // 10**18
    ('BTT', 9, 63000000)
    >>> load_economy(preset="s2").fees["compute"].split[1]
    ('development', 1500)

What holds, each line a test in tests/ledger/test_economy.py:

1. What sums to a whole is checked to the base unit: percents to 100, the emission's steps to its
   bucket, every split to 10,000.
2. An unknown setting, a setting twice, a fraction, or a missing one is refused, wherever it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from types import MappingProxyType
from typing import cast

from ledger import chart
from ledger.books import Ledger
from ledger.emission import Emission, emission_of, emitted
from ledger.fees import FeeRule, read_fee_rule
from ledger.journal import Transfer
from ledger.schedule import second
from ledger.staking import StakingTerms, Tier
from ledger.tables import Section, TableUnbalanced, TokenomicsUnreadable, read_preset
from ledger.tokenomics import DEFAULT_PATH, Tokenomics, tokenomics_of
from ledger.vesting import CliffMode, Terms, allocate, linear_terms, tranche_terms, vested
from protocol.ids import AccountId
from protocol.units import TOTAL_SUPPLY

MONTHS_MAX = 600


@dataclass(frozen=True)
class Economy:
    """What a preset says. ``vesting`` is by bucket; ``at_launch`` are buckets released at once."""

    token: Tokenomics
    begins: int
    vesting: Mapping[str, Terms]
    at_launch: tuple[str, ...]
    by_decision: tuple[str, ...]
    emission: Emission
    forecast: Mapping[int, int]
    fees: Mapping[str, FeeRule]
    staking: StakingTerms
    milestone_burns: Mapping[int, int]


@dataclass(frozen=True)
class ReleaseRow:
    """What the rows release by a year's end, beside the forecast; shares in basis points."""

    year: int
    released: int
    released_bp: int
    forecast_bp: int

    @property
    def difference_bp(self) -> int:
        """Return released less forecast."""
        return self.released_bp - self.forecast_bp


def load_economy(path: Path = DEFAULT_PATH, preset: str | None = None) -> Economy:
    """Read a preset of the tokenomics file; by default the one it names.

    Raises:
        TokenomicsUnreadable, SettingUnknown: The file does not say what it must, or more.
        AllocationUnbalanced, TableUnbalanced: Parts do not sum to their whole.
    """
    section = read_preset(path, preset)
    token = tokenomics_of(section)
    section.value("token")
    begins = _day(section, "begins")
    mode = cast("CliffMode", section.text("cliff_mode", "inside", "before"))
    releases = section.section("allocation")
    vesting, others = _vesting(releases, token.allocation.amounts(), begins, mode)
    steps = []
    for one in section.sections("emission"):
        steps.append((one.whole("years", 1, 100), one.btt("btt")))
        one.done()
    emission = emission_of(begins, steps)
    emitting = sum(token.allocation.amounts()[bucket] for bucket in others["emission"])
    if emission.amount != emitting:
        raise TableUnbalanced("the emission", emission.amount, emitting)
    fees = section.section("fees")
    rules = {name: read_fee_rule(name, fees.section(name)) for name in fees.keys()}  # noqa: SIM118 - a method
    staking = _staking(section.section("staking"))
    economy = Economy(
        token,
        begins,
        MappingProxyType(vesting),
        tuple(others["at-launch"]),
        tuple(others["by-decision"]),
        emission,
        MappingProxyType(_years(section, "forecast", 100)),
        MappingProxyType(rules),
        staking,
        MappingProxyType(_burns(section)),
    )
    section.done()
    return economy


def released_by(economy: Economy, at: int) -> int:
    """Return the most that is released at the second ``at``, every milestone met, by time alone."""
    amounts = economy.token.allocation.amounts()
    launched = sum(amounts[bucket] for bucket in economy.at_launch) if at >= economy.begins else 0
    by_terms = sum(vested(terms, at) for terms in economy.vesting.values())
    return launched + by_terms + emitted(economy.emission, at)


def release_rows(economy: Economy) -> list[ReleaseRow]:
    """Return, for every year of the forecast, what is released by its last second."""
    rows = []
    for year, percent in sorted(economy.forecast.items()):
        released = released_by(economy, second(datetime(year + 1, 1, 1, tzinfo=UTC)))
        rows.append(ReleaseRow(year, released, released * 10_000 // TOTAL_SUPPLY, percent * 100))
    return rows


def allocate_all(ledger: Ledger, economy: Economy, *, now: datetime) -> list[Transfer]:
    """Move every bucket that vests from its treasury account into its vesting account, once."""
    return [
        allocate(ledger, terms, chart.treasury(bucket), now=now)
        for bucket, terms in sorted(economy.vesting.items())
    ]


def _vesting(
    releases: Section, amounts: Mapping[str, int], begins: int, mode: CliffMode
) -> tuple[dict[str, Terms], dict[str, list[str]]]:
    vesting = {}
    others: dict[str, list[str]] = {"at-launch": [], "emission": [], "by-decision": []}
    for bucket in releases.keys():  # noqa: SIM118 - a method, not a dict's
        one = releases.section(bucket)
        one.value("percent")
        kind = one.text("release", "linear", "milestones", *others)
        if kind in others:
            others[kind].append(bucket)
        else:
            vesting[bucket] = _terms(one, bucket, amounts[bucket], begins, mode=mode, kind=kind)
        one.done()
    return vesting, others


def _terms(
    one: Section, bucket: str, amount: int, begins: int, *, mode: CliffMode, kind: str
) -> Terms:
    payee: AccountId = (
        chart.wallet(bucket)
        if one.text("pays", "wallet", "treasury") == "wallet"
        else chart.treasury(bucket)
    )
    months = one.whole("months", 1, MONTHS_MAX)
    if kind == "milestones":
        tranches = one.whole("tranches", 1, months)
        if months % tranches:
            raise TokenomicsUnreadable(
                one.path, f"{bucket}: {tranches} tranches in {months} months"
            )
        return tranche_terms(bucket, payee, amount, begins=begins, months=months, tranches=tranches)
    cliff = one.whole("cliff", 0, months)
    return linear_terms(
        bucket, payee, amount, begins=begins, months=months, cliff_months=cliff, cliff_mode=mode
    )


def _staking(section: Section) -> StakingTerms:
    tiers = []
    for one in section.sections("tiers"):
        days, rate = one.whole("days", 1, 36_500), one.basis_points("rate")
        tiers.append(Tier(days, rate, one.btt("minimum_btt"), one.basis_points("burn")))
        one.done()
    if len({tier.days for tier in tiers}) != len(tiers):
        raise TokenomicsUnreadable(section.path, "two tiers of staking have the same days")
    terms = StakingTerms(
        tuple(tiers),
        section.whole("unbonding_days", 0, 3650),
        section.basis_points("slashed_burned"),
        section.basis_points("fee_share"),
        section.btt("community_btt_per_year"),
    )
    section.done()
    return terms


def _day(section: Section, key: str) -> int:
    try:
        day = date.fromisoformat(section.text(key))
    except ValueError as error:
        raise TokenomicsUnreadable(section.path, f'{key} is not a day, "YYYY-MM-DD"') from error
    return second(datetime.combine(day, time(), UTC))


def _years(section: Section, key: str, most: int) -> dict[int, int]:
    years = section.section(key)
    found = {}
    for year in years.keys():  # noqa: SIM118 - a method, not a dict's
        if not year.isdecimal():
            raise TokenomicsUnreadable(section.path, f"{year!r} of {key} is not a year")
        found[int(year)] = years.whole(year, 0, most)
    return found


def _burns(section: Section) -> dict[int, int]:
    return {
        year: section.section("milestone_burns").btt(str(year))
        for year in _years(section, "milestone_burns", 10**12)
    }
