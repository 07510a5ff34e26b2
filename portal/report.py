"""The report of a run: ``report.json`` for machines, ``report.html`` for people, one file each.

The page needs no network: styles and plots are inside it. Every number on it is in the JSON, and
every number in the JSON was read from the parties' own stores after the run.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from ledger import chart
from portal.baselines import Baselines
from portal.features import features_note
from portal.home import Home
from portal.page import page
from privacy.budget import PrivacyBudget
from privacy.sharing import colluders, quorum
from protocol.ids import SiteId
from protocol.messages import RoundClosed
from storage.files import write_whole

if TYPE_CHECKING:
    from portal.demo import Run

SUMMARY: Final = (
    "sites",
    "rounds",
    "model_parameters",
    "auc_federated",
    "auc_single_site",
    "auc_pooled",
    "epsilon",
    "delta",
    "unit",
    "sampling",
    "accountant",
    "upload_bytes_per_parameter",
    "upload_bytes",
    "sum_exact",
    "proofs_verified",
    "updates_refused",
    "patients_proven",
    "paid_base_units",
    "supply_base_units",
    "receipts",
    "seconds",
    "data",
    "algorithm",
    "mechanism",
    "grants",
    "seed",
    "noise",
    "engine",
    "report",
)
"""What ``bithive demo --json`` prints; the rest is in ``report.json``."""


def make_report(
    run: Run,
    baselines: Baselines,
    *,
    seconds: float,
    personal: Mapping[SiteId, float | None] = MappingProxyType({}),
) -> dict[str, Any]:
    """Read the finished run from its stores; ``personal`` is the AUC of the sites' own models."""
    rounds = [_round(run, number) for number in range(1, run.terms.rounds + 1)]
    sites = [
        _site(run, baselines, one.site, rounds) | {"auc_personal": personal.get(one.site)}
        for one in run.terms.sites
    ]
    books = run.market.books()
    head = run.market.head()
    source = run.data.source
    last = rounds[-1]
    uploads = [size for one in rounds for size in one["upload_bytes"].values()]
    return {
        "sites": len(sites),
        "rounds": run.terms.rounds,
        "model_parameters": run.terms.training.parameters,
        "auc_federated": last["auc"],
        "auc_single_site": [site["auc_alone"] for site in sites],
        "auc_pooled": round(baselines.pooled, 6),
        **max((site["privacy"] for site in sites), key=lambda one: one["epsilon"]),
        "upload_bytes": max(uploads, default=0),
        "upload_bytes_per_parameter": round(
            max(uploads, default=0) / run.terms.training.parameters, 4
        ),
        "sum_exact": all(run.sums_exact[one["round"]] for one in rounds),
        "proofs_verified": run.store.uploads.certificates(),
        "updates_refused": sum(len(one["refused"]) for one in rounds),
        "patients_proven": sum(site["patients_proven"] for site in sites),
        "paid_base_units": books.paid,
        "supply_base_units": books.supply,
        "receipts": sum(len(one["receipts"]) for one in rounds),
        "seconds": round(seconds, 1),
        "data": source.name,
        "algorithm": run.terms.training.algorithm,
        "mechanism": run.terms.privacy.mechanism,
        "grants": run.settings.grants,
        "seed": run.settings.seed,
        "noise": "seeded" if run.settings.seed_noise else "system",
        "engine": run.settings.engine,
        "report": str(run.home.page),
        "source": {
            "title": source.title,
            "synthetic": source.synthetic,
            "unit": source.unit,
            "task": source.task,
            "positive": source.positive,
            "negative": source.negative,
            "licence": source.licence,
            "note": source.note,
            "test_patients": len(run.data.test),
        },
        "study": {
            "id": run.terms.study,
            "title": run.terms.title,
            "network": run.terms.training.network,
            "features": features_note(run.terms.training.features),
            "algorithm": run.terms.training.algorithm,
            "circuit": run.terms.consent.circuit,
            "proof_key": run.verification_key.status,
            "proof_key_hash": run.verification_key.hash,
            "encryption": run.terms.encryption,
            "opening": run.terms.opening,
            "sampling_rate": run.terms.privacy.sampling_rate,
            "noise_multiplier": run.terms.privacy.noise_multiplier,
            "clipping_norm": run.terms.privacy.clipping_norm,
            "steps_per_round": run.terms.privacy.steps,
            "mechanism": run.terms.privacy.mechanism,
            "honest": run.terms.privacy.honest,
            "accountant": run.terms.privacy.accountant,
            "epsilon_limit": run.terms.privacy.epsilon,
            "budget_base_units": books.budget,
            "in_escrow_base_units": books.in_escrow,
        },
        "consent": {
            "granted": run.wishes.count("grants"),
            "refused": run.wishes.count("refuses"),
            "granted_for_other_research": run.wishes.count("grants-other"),
            "withdrawn": len(run.wishes.withdrawals),
            "proven": sum(one.proof is not None for one in run.registry.log()),
        },
        "per_site": sites,
        "per_round": rounds,
        "curve": {
            "federated": [one["auc"] for one in rounds],
            "alone": {site: [round(x, 6) for x in c] for site, c in baselines.alone.items()},
            "pooled": round(baselines.pooled, 6),
        },
        "audit": {
            "size": head.size,
            "root": head.root.hex(),
            "signature": head.signature.hex(),
            "key": run.market.audit.key.text(),
        },
        "registry": {
            "epoch": run.registry.epoch().number,
            "root": str(run.registry.epoch().root),
        },
        "balances": {name: str(amount) for name, amount in books.balances.items()},
        "stage_seconds": {name: round(spent, 3) for name, spent in run.stages.items()},
        "versions": {
            name: version(name)
            for name in ("flwr", "torch", "monai", "opacus", "tenseal", "py_ecc")
        }
        | {"python": platform.python_version()},
    }


def _round(run: Run, number: int) -> dict[str, Any]:
    stored = run.store.round(number)
    assert stored is not None
    closed = stored.closed
    assert closed is not None
    return {
        "round": number,
        "auc": round(run.curve[number], 6),
        "sum_exact": run.sums_exact[number],
        "epoch": stored.plan.epoch.number,
        "roster": list(stored.plan.sites),
        "quorum": quorum(stored.called),
        "colluders": colluders(run.terms.sites_min),
        "group_key": stored.plan.key_id,
        "manifest": closed.manifest,
        "consent_root": str(stored.plan.epoch.root),
        "receipts": [_receipt(closed, index) for index in range(len(closed.receipts))],
        "refused": [
            {"site": one.site, "code": one.code, "reason": one.reason} for one in closed.refused
        ],
        "left_out": run.store.uploads.left_out(number),
        "upload_bytes": run.store.uploads.sizes(number),
    }


def _receipt(closed: RoundClosed, index: int) -> dict[str, Any]:
    receipt = closed.receipts[index]
    return {
        "site": receipt.site,
        "proven_patients": receipt.proven_patients,
        "gradients": receipt.gradients,
        "epsilon_spent": float(receipt.epsilon_spent),
        "certificates": len(receipt.certificates),
        "ciphertext_sha256": receipt.ciphertext_sha256,
    }


def _site(
    run: Run, baselines: Baselines, site: SiteId, rounds: list[dict[str, Any]]
) -> dict[str, Any]:
    receipts = [receipt for one in rounds for receipt in one["receipts"] if receipt["site"] == site]
    books = run.market.ledger
    wallet, pool = chart.wallet(site), chart.pool(run.terms.study, site)
    hospital = books.balances(wallet).get(wallet, 0)
    of_patients = books.balances(pool).get(pool, 0)
    privacy = run.terms.privacy
    # The hospital's own account: it also holds rounds whose update was refused or never opened.
    budget = PrivacyBudget(
        run.home.site(site) / "budget.db",
        dataset=run.terms.consent.dataset,
        epsilon_limit=privacy.epsilon,
        delta=privacy.delta,
        accountant=privacy.accountant,
    )
    spent = budget.statement()
    spent = replace(spent, epsilon=round(spent.epsilon, 6), unit=run.data.source.unit)
    patients = run.data.sites[site]
    return {
        "site": site,
        "patients": len(patients),
        "positive": sum(patient.label for patient in patients),
        "patients_proven": max((one["proven_patients"] for one in receipts), default=0),
        "gradients": sum(one["gradients"] for one in receipts),
        "rounds_counted": len(receipts),
        "epsilon": spent.epsilon,
        "privacy": spent.as_json(),
        "auc_alone": round(baselines.alone[site][-1], 6),
        "hospital_base_units": hospital,
        "patients_base_units": of_patients,
    }


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a report that ``--json`` prints."""
    return {key: report[key] for key in SUMMARY}


def write_report(home: Home, report: dict[str, Any]) -> None:
    """Write ``report.html``, then ``report.json``, whose presence says the run is finished."""
    write_whole(home.page, page(report).encode())
    write_whole(home.report, json.dumps(report, indent=2).encode())
