"""The report is one page that needs nothing but itself, shows every number, and obeys no markup."""

from __future__ import annotations

import copy
import hashlib
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.page import page, rounded_btt, size_text
from portal.plots import curve_plot, epsilon_plot, payment_plot
from protocol.units import BASE_UNITS_PER_BTT, TOTAL_SUPPLY

pytestmark = pytest.mark.slow

BUDGET = 1_000 * BASE_UNITS_PER_BTT
LOADING = ("src", "srcset", "data", "action", "poster", "background", "formaction", "ping")
VOID = {"meta", "br", "hr", "img", "link", "input", "col"}


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def report_of(*, rounds=4, sites=6, refused=True):
    """Return a report of the shape that ``make_report`` gives, all numbers distinct."""
    names = [f"site-{number:02d}" for number in range(1, sites + 1)]
    curve = [round(0.9 - 0.4 / (number + 1), 6) for number in range(1, rounds + 1)]
    alone = {name: [0.61 + index / 1000] * rounds for index, name in enumerate(names)}
    per_round = [
        one_round(number, names, curve, refused=refused) for number in range(1, rounds + 1)
    ]
    per_site = [
        {
            "site": name,
            "patients": 40 + index,
            "positive": 11 + index,
            "patients_proven": 31 + index,
            "gradients": 1700 + index,
            "rounds_counted": sum(name in one["upload_bytes"] for one in per_round),
            "epsilon": 7.25 + index / 100,
            "auc_alone": alone[name][-1],
            "auc_personal": None,
            "hospital_base_units": BUDGET // sites * 7 // 10,
            "patients_base_units": BUDGET // sites * 2 // 10,
        }
        for index, name in enumerate(names)
    ]
    return {
        "sites": sites,
        "rounds": rounds,
        "model_parameters": 20_011,
        "auc_federated": curve[-1],
        "auc_single_site": [site["auc_alone"] for site in per_site],
        "auc_pooled": 0.953456,
        "epsilon": max(site["epsilon"] for site in per_site),
        "delta": 1e-5,
        "unit": "patient",
        "sampling": "Poisson at rate 0.25",
        "accountant": "rdp",
        "upload_bytes": 67_193,
        "upload_bytes_per_parameter": round(67_193 / 20_011, 4),
        "sum_exact": True,
        "proofs_verified": 1_234,
        "updates_refused": sum(len(one["refused"]) for one in per_round),
        "patients_proven": sum(site["patients_proven"] for site in per_site),
        "paid_base_units": BUDGET // sites * sites * 9 // 10,
        "supply_base_units": TOTAL_SUPPLY,
        "receipts": sum(len(one["receipts"]) for one in per_round),
        "seconds": 181.4,
        "data": "phantom",
        "grants": "hospital",
        "seed": 7,
        "noise": "system",
        "engine": "in-process",
        "report": "report.html",
        "source": {
            "title": "Phantom images",
            "synthetic": True,
            "unit": "patient",
            "task": "Lesion or not",
            "positive": "lesion",
            "negative": "no lesion",
            "licence": "Apache-2.0",
            "note": "Made from a seed.",
            "test_patients": 117,
        },
        "study": {
            "id": "study-phantom",
            "title": "Lesion or not (Phantom images)",
            "network": "small-cnn",
            "circuit": "cover8",
            "proof_key": "development",
            "proof_key_hash": digest("key"),
            "encryption": "packed-bfv-8",
            "opening": "members",
            "sampling_rate": 0.25,
            "noise_multiplier": 1.07,
            "clipping_norm": 1.0,
            "steps_per_round": 10,
            "accountant": "rdp",
            "algorithm": "fedavg",
            "epsilon_limit": 8.0,
            "budget_base_units": BUDGET,
            "in_escrow_base_units": 0,
        },
        "consent": {
            "granted": 271,
            "refused": 26,
            "granted_for_other_research": 18,
            "withdrawn": 5,
            "proven": 0,
        },
        "per_site": per_site,
        "per_round": per_round,
        "curve": {"federated": curve, "alone": alone, "pooled": 0.953456},
        "audit": {
            "size": 9,
            "root": digest("root"),
            "signature": digest("signature") * 2,
            "key": digest("audit"),
        },
        "registry": {"epoch": 41, "root": str(2**250 + 12345)},
        "balances": {},
        "stage_seconds": {},
        "versions": {"flwr": "1.41.0", "python": "3.11"},
    }


def one_round(number, names, curve, *, refused):
    stale = number == 3 and refused
    counted = names[:2] + names[3:] if stale else names
    reason = "a patient withdrew; leave her out and prove the chunk again"
    return {
        "round": number,
        "auc": curve[number - 1],
        "sum_exact": True,
        "epoch": 30 + number,
        "roster": names,
        "quorum": 2 * len(names) // 3 + 1,
        "colluders": 3,
        "group_key": digest("group key")[:16],
        "manifest": digest(f"manifest {number}"),
        "consent_root": "1",
        "receipts": [
            {
                "site": name,
                "proven_patients": 31,
                "gradients": 425,
                "epsilon_spent": 8.0 * number / len(curve),
                "certificates": 4,
                "ciphertext_sha256": digest(name),
            }
            for name in counted
        ],
        "refused": [{"site": names[2], "code": "certificate-stale", "reason": reason}]
        if stale
        else [],
        "upload_bytes": dict.fromkeys(counted, 67_193),
    }


class Reader(HTMLParser):
    """Collects a page's tags, attributes and text, and whether every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


def read(report):
    reader = Reader()
    reader.feed(page(report))
    reader.close()
    assert reader.open == [], "every tag is closed"
    return reader


@pytest.fixture(scope="module")
def usual():
    return read(report_of())


def test_the_page_refers_to_nothing_outside_itself(usual):
    text = page(report_of())
    assert not re.search(r"https?:|//[a-z]|url\((?![\"']?#)|@import|javascript:", text)
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(usual.tags)
    assert [name for _, name, _ in usual.attributes if name in LOADING] == []
    links = [value for _, name, value in usual.attributes if name.endswith("href")]
    assert all(link.startswith("#") for link in links)
    policies = [
        value for tag, name, value in usual.attributes if (tag, name) == ("meta", "content")
    ]
    assert any("default-src 'none'" in policy for policy in policies)


def test_every_id_is_given_once_and_every_reference_finds_one(usual):
    ids = [value for _, name, value in usual.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    named = {value for _, name, value in usual.attributes if name == "aria-labelledby"}
    linked = {value[1:] for _, name, value in usual.attributes if name.endswith("href")}
    clipped = set(re.findall(r"url\([\"']?#([^)\"']+)", page(report_of())))
    assert named | linked | clipped <= set(ids)


@pytest.mark.parametrize(
    "number",
    [
        "0.820",  # federated
        "0.613",  # mean single site
        "0.953",  # pooled
        "7.30",  # largest epsilon
        "limit 8; delta 1e-05, unit: patient, sampling: Poisson at rate 0.25, accountant: RDP",
        "900.00 BTT",
        "1,234",  # proofs
        "for 201 patients with live consent",
        "3.36 bytes",
        "2.05 in a full ciphertext",
        "210,000,000 BTT",
        "271",
        "117 patients",
        "23 receipts",
    ],
)
def test_a_headline_number_stands_on_the_page(usual, number):
    assert number in usual.text


def test_every_site_and_round_has_its_row(usual):
    report = report_of()
    for site in report["per_site"]:
        for value in (site["site"], f"{site['auc_alone']:.3f}", f"{site['gradients']:,}"):
            assert value in usual.text
    for one in report["per_round"]:
        assert f"{one['round']} {one['auc']:.3f} {len(one['receipts'])} " in usual.text


def test_a_refused_update_is_shown_with_round_site_and_reason(usual):
    assert "Round 3: the update of site-03 was refused" in usual.text
    assert "a patient withdrew; leave her out" in usual.text
    assert "certificate-stale" in usual.text


def test_a_run_without_refusals_says_so():
    assert "No update was refused." in read(report_of(refused=False)).text


def test_more_refusals_than_boxes_are_counted():
    report = report_of(rounds=4)
    refusal = {"site": "site-01", "code": "no-answer", "reason": "no answer in time"}
    report["per_round"][0]["refused"] = [dict(refusal) for _ in range(20)]
    assert "9 more were refused" in read(report).text


def test_the_page_says_how_patients_granted(usual):
    assert "agreed on paper" in usual.text
    assert "by a proof" in usual.text
    proven = report_of()
    proven["grants"], proven["consent"]["proven"] = "proven", 289
    shown = read(proven).text
    assert "Each of the 289 patients" in shown
    assert "agreed on paper" not in shown


def test_heads_and_roots_to_check_stand_on_the_page(usual):
    report = report_of()
    for value in (*list(report["audit"].values())[1:], report["registry"]["root"]):
        assert str(value) in usual.text
    assert report["study"]["proof_key_hash"] in usual.text
    for command in ("bithive audit verify", "bithive ledger verify"):
        assert command in usual.text


def test_a_development_key_says_what_it_means(usual):
    assert "whoever made it could forge a proof" in usual.text
    report = report_of()
    report["study"]["proof_key"] = "ceremony"
    assert "forge" not in read(report).text


def test_synthetic_images_are_called_synthetic(usual):
    claim = "Synthetic images made by BitHive; no patient is shown."
    assert claim in usual.text
    report = report_of()
    report["source"]["synthetic"] = False
    assert claim not in read(report).text


def test_where_an_image_stands_for_a_patient_the_page_says_so():
    report = report_of()
    report["source"] |= {"synthetic": False, "unit": "image"}
    report["unit"] = "image"
    text = read(report).text
    assert "Every image stands for one patient here." in text
    assert "unit: image, sampling: Poisson" in text


def test_seeded_noise_is_said_to_give_no_privacy(usual):
    assert "gives no privacy" not in usual.text
    assert "gives no privacy" in read(report_of() | {"noise": "seeded"}).text


def test_a_sum_that_is_not_exact_is_not_called_exact():
    text = read(report_of() | {"sum_exact": False}).text
    assert "Sum exact No" in text
    assert "bit for bit" not in text


def test_a_changed_supply_is_not_called_unchanged():
    text = read(report_of() | {"supply_base_units": TOTAL_SUPPLY - 1}).text
    assert "not the 210,000,000 BTT minted" in text


def test_a_federation_that_loses_is_not_called_better_than_every_site():
    report = report_of()
    report["auc_single_site"][0] = report["per_site"][0]["auc_alone"] = 0.99
    assert "better than 5 of the 6 sites alone" in read(report).text


@pytest.mark.parametrize("sites", [4, 20])
@pytest.mark.parametrize("rounds", [1, 50])
def test_short_and_long_runs_of_few_and_many_sites_are_drawn(rounds, sites):
    reader = read(report_of(rounds=rounds, sites=sites))
    assert reader.tags.count("svg") == 4
    assert reader.tags.count("tr") >= rounds + sites + 3


def test_a_round_that_nobody_entered_is_drawn():
    report = report_of(rounds=2)
    report["per_round"][1] |= {"receipts": [], "upload_bytes": {}}
    assert "– 32 – –" in read(report).text
    assert "4.00 of at most 8" in epsilon_plot(report)


EVIL = "<script>x</script>&\"'$a$<b onload=1>"


def test_markup_in_names_and_reasons_is_shown_and_not_obeyed():
    report = report_of()
    report["study"]["title"] = report["source"]["note"] = report["source"]["licence"] = EVIL
    report["per_site"][0]["site"] = EVIL
    report["per_round"][2]["refused"][0] |= {"site": EVIL, "reason": EVIL}
    reader = read(report)
    assert not {"script", "b"} & set(reader.tags)
    assert [name for _, name, _ in reader.attributes if name.startswith("on")] == []
    assert reader.text.count(EVIL) >= 5


@settings(deadline=None, max_examples=20)  # each draws four plots
@given(st.text(st.characters(codec="latin-1", exclude_categories=["C"]), min_size=1, max_size=30))
def test_no_name_or_reason_changes_what_the_page_is_made_of(usual, words):
    report = copy.deepcopy(report_of())
    report["per_site"][0]["site"] = words
    report["per_round"][2]["refused"][0]["reason"] = words
    assert outside_drawings(read(report)) == outside_drawings(usual)


def outside_drawings(reader):
    """Return the page's tags but those of plots, whose ticks move with the length of names."""
    drawn = {"g", "path", "use", "text", "defs", "clippath", "rect"}
    return [tag for tag in reader.tags if tag not in drawn]


@pytest.mark.parametrize("plot", [curve_plot, epsilon_plot, payment_plot])
def test_a_plot_describes_itself_and_is_drawn_alike_twice(plot):
    drawing = plot(report_of())
    assert 'role="img" aria-label="' in drawing
    assert drawing == plot(report_of())


@given(st.integers(0, TOTAL_SUPPLY))
def test_rounded_amounts_are_within_half_a_hundredth(amount):
    hundredths = int(rounded_btt(amount).replace(",", "").replace(".", ""))
    assert abs(hundredths * 10**16 - amount) <= 5 * 10**15


@given(st.integers(0, 10**12))
def test_sizes_are_within_a_twentieth_of_their_unit(octets):
    number, unit = size_text(octets).split()
    scale = {"B": 1, "kB": 10**3, "MB": 10**6}[unit]
    assert abs(float(number) * scale - octets) <= scale * 0.0501
