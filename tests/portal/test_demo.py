"""One command ends with a checked model, exact money, a refused update, and no patient told on."""

from __future__ import annotations

import csv
import stat

import pytest

from fl_client.store import SiteStore
from fl_server.store import ServerStore
from portal.market import BUDGET, RESEARCHER
from protocol.frames import decode
from protocol.units import TOTAL_SUPPLY

pytestmark = pytest.mark.slow

PROMISED = {
    *("sites", "rounds", "model_parameters", "auc_federated", "auc_single_site", "auc_pooled"),
    *("epsilon", "delta", "upload_bytes_per_parameter", "sum_exact", "proofs_verified"),
    *("updates_refused", "patients_proven", "paid_base_units", "supply_base_units", "receipts"),
    *("seconds", "data", "seed"),
}
SITES = ("harbour", "lakeside", "north")


def everything_but_hospitals_and_patients(home):
    """Return every file that the server, the market or a reader of the report can see."""
    folders = [home / "server", home / "market"]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return [*files, *(file for file in home.iterdir() if file.is_file())]


def test_the_printed_object_has_every_promised_key(finished):
    assert set(finished.printed) >= PROMISED
    assert finished.printed == {key: finished.report[key] for key in finished.printed}
    assert finished.printed["sites"] == len(finished.printed["auc_single_site"]) == 3
    assert finished.printed["rounds"] == len(finished.report["per_round"]) == 3
    assert finished.printed["data"] == "phantom"
    assert finished.printed["seed"] == 1
    assert finished.printed["noise"] == "seeded"
    assert (finished.home / "report.html").stat().st_size > 10_000


def test_every_score_is_a_score(finished):
    scores = [finished.printed["auc_federated"], finished.printed["auc_pooled"]]
    assert all(0 <= score <= 1 for score in [*scores, *finished.printed["auc_single_site"]])


def test_the_privacy_spent_stays_within_the_limit(finished):
    assert 0 < finished.printed["epsilon"] <= finished.report["study"]["epsilon_limit"]
    assert finished.printed["epsilon"] == max(
        site["epsilon"] for site in finished.report["per_site"]
    )


def test_an_upload_is_about_two_bytes_a_parameter(finished):
    assert finished.printed["upload_bytes_per_parameter"] <= 2.1


def test_every_opened_sum_is_the_sum_of_what_sites_sent(finished):
    assert finished.printed["sum_exact"] is True
    assert all(one["sum_exact"] for one in finished.report["per_round"])


def test_the_site_that_ignores_a_withdrawal_is_refused_by_name(finished):
    refused = [
        (one["round"], refusal["site"], refusal["code"])
        for one in finished.report["per_round"]
        for refusal in one["refused"]
    ]
    # Two sound updates are left, and three sites are a quorum: these are named too.
    lost = [(3, site, "quorum-missing") for site in ("harbour", "lakeside")]
    assert sorted(refused) == sorted([*lost, (3, "north", "certificate-stale")])
    assert finished.printed["updates_refused"] == 3


def test_every_counted_update_has_a_receipt(finished):
    counted = sum(len(one["receipts"]) for one in finished.report["per_round"])
    assert finished.printed["receipts"] == counted
    assert finished.printed["proofs_verified"] >= 3
    assert finished.printed["patients_proven"] == sum(
        site["patients_proven"] for site in finished.report["per_site"]
    )
    for one in finished.report["per_round"][:2]:
        assert sorted(receipt["site"] for receipt in one["receipts"]) == sorted(SITES)


def test_a_round_left_with_too_few_updates_is_neither_opened_nor_paid(finished):
    # The refusal leaves two of three sites: from their sum each could take the other's update.
    assert finished.report["per_round"][2]["receipts"] == []
    assert finished.report["curve"]["federated"][2] == finished.report["curve"]["federated"][1]
    assert finished.printed["paid_base_units"] < BUDGET
    assert int(finished.report["balances"][RESEARCHER]) > 0


def test_the_supply_is_exactly_what_was_minted(finished):
    assert finished.printed["supply_base_units"] == 210_000_000 * 10**18 == TOTAL_SUPPLY


def test_the_budget_is_paid_or_given_back_to_the_last_base_unit(finished):
    given_back = int(finished.report["balances"].get(RESEARCHER, "0"))
    in_escrow = finished.report["study"]["in_escrow_base_units"]
    assert finished.report["study"]["budget_base_units"] == BUDGET
    assert finished.printed["paid_base_units"] + given_back + in_escrow == BUDGET
    assert finished.printed["paid_base_units"] == sum(
        site["hospital_base_units"] + site["patients_base_units"]
        for site in finished.report["per_site"]
    )


def test_no_patient_is_named_outside_her_hospital(finished):
    with (finished.home / "data" / "phantom" / "manifest.csv").open(newline="") as file:
        patients = {row["patient"].encode() for row in csv.DictReader(file)}
    assert len(patients) > 36
    papers = (finished.home / "patients" / "north.json").read_bytes()
    assert any(patient in papers for patient in patients), "the search would find an id"
    for file in everything_but_hospitals_and_patients(finished.home):
        content = file.read_bytes()
        assert not [patient for patient in patients if patient in content], file.name


def test_keys_and_hospitals_are_closed_to_other_users(finished):
    private = [
        *finished.home.rglob("*.key"),
        *(file for file in (finished.home / "sites").rglob("*") if file.is_file()),
        *(finished.home / "patients").iterdir(),
    ]
    assert len(private) >= 3 + 3 * 4 + 3
    for file in private:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for folder in [*(finished.home / "sites").iterdir(), finished.home / "patients"]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_the_server_never_holds_the_group_key(finished):
    terms = ServerStore(finished.home / "server" / "server.db").terms()
    held = [
        SiteStore(finished.home / "sites" / site / "site.db").keys.held(terms.study)
        for site in SITES
    ]
    assert None not in held
    (secret,) = {decode(key.record).blobs["secret"] for key in held}
    assert len(secret) >= 16
    pieces = {secret[start : start + 16] for start in range(0, len(secret) - 15, 16)}
    pieces |= {piece.hex().encode() for piece in pieces}
    for file in everything_but_hospitals_and_patients(finished.home):
        content = file.read_bytes()
        assert not any(piece in content for piece in pieces), file.name


def test_a_finished_home_answers_with_the_same_report_at_once(finished, again):
    assert again(finished.home).report == finished.report


@pytest.mark.exhaustive
def test_the_same_seed_gives_the_same_result(finished, again):
    second = again().report
    same = (
        *("auc_federated", "auc_single_site", "auc_pooled", "epsilon", "patients_proven"),
        *("paid_base_units", "updates_refused", "receipts", "proofs_verified", "per_site", "curve"),
    )
    assert {key: second[key] for key in same} == {key: finished.report[key] for key in same}
    assert [one["refused"] for one in second["per_round"]] == [
        one["refused"] for one in finished.report["per_round"]
    ]
    assert second["registry"]["root"] != finished.report["registry"]["root"], "grants are secret"
