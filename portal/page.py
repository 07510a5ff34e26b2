"""Draw the report of a run as one HTML page that needs nothing but itself.

The page has no script and asks no network for anything: a hospital may open it from a USB stick.
All text from outside (names, reasons, notes) is escaped. What holds, each a test in
tests/portal/test_report_page.py:

1. The page refers to nothing outside itself.
2. Every headline number of the report stands on it.
3. Markup in a name or a reason is shown, not obeyed.
"""

from __future__ import annotations

from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from portal.plots import curve_plot, epsilon_plot, payment_plot
from privacy.parameters import parameter_set
from privacy.statement import read_statement, rounded_up
from protocol.units import TOTAL_SUPPLY, btt_text

KILO: Final = 1000
REFUSALS_SHOWN: Final = 12
"""Boxes for refused updates at most; the table by round and report.json have all of them."""


def page(report: dict[str, Any]) -> str:
    """Return the report as one self-contained HTML page.

    Args:
        report: What ``portal.report.make_report`` returns.
    """
    alone = report["auc_single_site"]
    unit = report["source"]["unit"]
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            one=unit,
            many=f"{unit}s",
            privacy=read_statement(report),
            mean_alone=sum(alone) / len(alone),
            surpassed=sum(auc < report["auc_federated"] for auc in alone),
            refusals=[
                {"round": one["round"], **refusal}
                for one in report["per_round"]
                for refusal in one["refused"]
            ],
            refusals_shown=REFUSALS_SHOWN,
            last=report["per_round"][-1],
            upload=_upload(report),
            paid=_paid(report),
            totals=_totals(report),
            total_supply=TOTAL_SUPPLY,
            curve=curve_plot(report),
            narrow_curve=curve_plot(report, narrow=True),
            spending=epsilon_plot(report),
            payments=payment_plot(report),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("portal"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["btt"] = lambda amount: rounded_btt(int(amount))
    environment.filters["exact_btt"] = lambda amount: btt_text(int(amount))
    environment.filters["auc"] = lambda value: f"{value:.3f}"
    environment.filters["epsilon"] = rounded_up
    environment.filters["whole"] = lambda value: f"{value:,}"
    environment.filters["size"] = size_text
    return environment


def _upload(report: dict[str, Any]) -> dict[str, Any]:
    """Return what the largest upload consists of.

    An upload is a whole number of ciphertexts. Full ones cost ``full`` bytes per parameter; the
    room that this model's size leaves empty is the fixed part, ``spare`` bytes.
    """
    parameters = parameter_set(report["study"]["encryption"])
    ciphertexts = parameters.ciphertexts(report["model_parameters"])
    room = ciphertexts * parameters.ring_degree * parameters.fields
    full = report["upload_bytes"] / room
    return {
        "ciphertexts": ciphertexts,
        "room": parameters.ring_degree * parameters.fields,
        "full": full,
        "spare": round(report["upload_bytes"] - full * report["model_parameters"]),
    }


def _paid(report: dict[str, Any]) -> dict[str, int]:
    """Return who got what of the study's budget, in base units."""
    study = report["study"]
    return {
        "hospitals": sum(site["hospital_base_units"] for site in report["per_site"]),
        "patients": sum(site["patients_base_units"] for site in report["per_site"]),
        "returned": study["budget_base_units"]
        - study["in_escrow_base_units"]
        - report["paid_base_units"],
    }


def _totals(report: dict[str, Any]) -> dict[str, int]:
    """Return the sums of the table by site."""
    columns = ("patients", "positive", "patients_proven", "gradients", "rounds_counted")
    return {name: sum(site[name] for site in report["per_site"]) for name in columns}


def rounded_btt(amount: int) -> str:
    """Write base units as BTT with two decimals, to the nearest.

    Examples:
        >>> rounded_btt(1_234_567_800_000_000_000_000)
        '1,234.57'
    """
    hundredths = (amount + 5 * 10**15) // 10**16
    return f"{hundredths // 100:,}.{hundredths % 100:02d}"


def size_text(octets: int) -> str:
    """Write a number of bytes for a person.

    Examples:
        >>> size_text(812), size_text(67_193), size_text(4_200_000)
        ('812 B', '67.2 kB', '4.2 MB')
    """
    if octets < KILO:
        return f"{octets} B"
    if octets < KILO**2:
        return f"{octets / KILO:.1f} kB"
    return f"{octets / KILO**2:.1f} MB"
