"""The consent commands do what each party may, print results on stdout and refuse by code."""

from __future__ import annotations

import json
import sqlite3
import stat

import pytest
from typer.testing import CliRunner

from consent.erasure import NothingToErase
from consent.history import RegistryDamaged
from consent.lanes import LanePolicy
from consent.log import LogInconsistent
from consent.publication import LaneProvenOnly
from consent.purposes import UnknownPurpose
from consent.rebuilding import LogBroken
from consent.receipts import NotSignedByRegistry, ReceiptMalformed
from consent.registry import Registry
from consent.terms import TermsNeverValid
from consent.withdrawal import GrantUnknown, WithdrawalCodeWrong
from portal import consent_cli
from portal.books import NoRunHere
from portal.consents import GrantNotHeld, GrantsAlready
from portal.home import Home
from privacy.keys import SiteKeys
from privacy.signatures import SiteUnknown, signing_key
from protocol.canonical import canonical
from protocol.ids import SiteId
from protocol.units import day_number
from storage.files import write_whole
from tests.portal.patient_world import CHUNK, DATASET, STUDY, set_up, terms_of

NORTH, SOUTH, EAST = SITES = (SiteId("north"), SiteId("south"), SiteId("east"))
TERMS = ("--purpose", "HMB", "--category", "US")


@pytest.fixture
def home(tmp_path):
    """A home with a registry and three hospitals; the east's lane takes proven grants only."""
    folder = Home(tmp_path / "home")
    keys = {site: SiteKeys.load_or_make(folder.site(site) / "keys.json") for site in SITES}
    registry_key = signing_key(folder.server / "registry.key")
    public_key = registry_key.public_key().public_bytes_raw()
    terms = terms_of(keys, public_key, day_number(consent_cli._now().date()))
    registry = Registry(
        folder.server / "registry.db", registry_id="registry", signing_key=registry_key
    )
    for site in SITES:
        policy = LanePolicy.PROVEN if site == EAST else LanePolicy.HOSPITAL
        registry.open_lane(STUDY, site, DATASET, 24, CHUNK, policy=policy)
    registry.close()
    write_whole(folder.server / "terms.json", canonical(terms))
    set_up(folder, NORTH, terms)
    return folder.path


@pytest.fixture
def run(home):
    """Run a command on the home; return what it printed, or raise what it refused with."""

    def command(*arguments, stdin="", as_json=True):
        options = [] if arguments[0] == "log" or not as_json else ["--json"]
        result = CliRunner().invoke(
            consent_cli.app, [*map(str, arguments), "--home", str(home), *options], input=stdin
        )
        if result.exit_code == 1:
            assert result.stdout == ""
            raise result.exception
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if options else result.stdout

    return command


@pytest.fixture
def registry_key(home):
    return signing_key(home / "server" / "registry.key").public_key().public_bytes_raw().hex()


@pytest.fixture
def granted(run):
    return run("grant", NORTH, 4711, *TERMS)


def test_a_grant_prints_the_paper_and_counts_from_an_epoch(run, granted):
    assert granted["epoch"] == 1
    assert granted["receipt"]["policy"] == "hospital"
    assert granted["receipt"]["proven"] is False
    assert len(bytes.fromhex(granted["withdrawal_code"])) == 16
    assert run("verify")["live"] == 1


def test_the_paper_is_kept_for_its_owner_alone(home, granted):
    paper = home / "patients" / "papers" / f"{granted['grant']}.json"
    assert stat.S_IMODE(paper.stat().st_mode) == 0o600
    assert json.loads(paper.read_text())["code"] == granted["withdrawal_code"]


def test_for_a_person_the_paper_is_words(run):
    printed = run("grant", NORTH, 4711, *TERMS, as_json=False)
    assert "withdrawal code" in printed
    assert "Keep this paper" in printed


def test_the_history_is_shown_with_times_and_words(run, granted):
    run("withdraw", granted["grant"], stdin=granted["withdrawal_code"])
    run("grant", NORTH, 4711, *TERMS, "--until", "2035-01-31")
    versions = run("show", NORTH, 4711)["versions"]
    assert [one["event"] for one in versions] == ["granted", "withdrawn", "granted"]
    assert versions[2]["last_day"] == "2035-01-31"
    assert "ultrasound" in versions[0]["for"]
    printed = run("show", NORTH, 4711, as_json=False)
    assert granted["grant"] in printed
    assert run("show", SOUTH, 4711)["versions"] == []
    assert run("show", SOUTH, 4711, as_json=False) == ""


def test_a_second_live_grant_is_refused(run, granted):
    with pytest.raises(GrantsAlready, match=granted["grant"]):
        run("grant", NORTH, 4711, *TERMS)
    assert run("verify")["grants"] == 1


def test_the_code_ends_the_grant_and_no_other_code_does(run, granted):
    with pytest.raises(WithdrawalCodeWrong):
        run("withdraw", granted["grant"], stdin="00" * 16)
    receipt = run("withdraw", granted["grant"], stdin=granted["withdrawal_code"] + "\n")
    assert (receipt["kind"], receipt["epoch"]) == ("withdrawal receipt", 2)
    again = run("withdraw", granted["grant"], stdin=granted["withdrawal_code"])
    assert again == receipt
    assert run("verify")["live"] == 0
    assert "ended with epoch 2" in run(
        "withdraw", granted["grant"], stdin=granted["withdrawal_code"], as_json=False
    )


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("grant", "nowhere", 4711, *TERMS), SiteUnknown),
        (("grant", EAST, 4711, *TERMS), LaneProvenOnly),
        (("grant", NORTH, 4711, "--purpose", "fun", "--category", "US"), UnknownPurpose),
        (("grant", NORTH, 4711, *TERMS, "--until", "2020-01-01"), TermsNeverValid),
        (("show", "nowhere", 4711), SiteUnknown),
        (("receipt", "--site", NORTH, "00"), GrantNotHeld),
        (("erase", "nowhere", 4711), SiteUnknown),
        (("withdraw", "00"), GrantUnknown),
    ],
    ids=lambda one: " ".join(map(str, one[:2])) if isinstance(one, tuple) else one.code,
)
def test_what_may_not_be_is_refused_by_name_and_publishes_nothing(run, arguments, refusal):
    with pytest.raises(refusal):
        run(*arguments, stdin="00")
    assert run("verify")["grants"] == 0


def test_a_receipt_is_printed_and_verified_offline(run, registry_key, granted, tmp_path):
    text = run("receipt", "--site", NORTH, granted["grant"], as_json=False)
    assert json.loads(text) == granted["receipt"]
    file = tmp_path / "receipt.json"
    file.write_text(text)
    checked = CliRunner().invoke(
        consent_cli.app,
        ["receipt", "--check", str(file), "--key", registry_key, "--home", "/nowhere"],
    )
    assert checked.exit_code == 0
    assert "signed by registry" in checked.stdout
    file.write_text(text.replace('"epoch": 1', '"epoch": 0'))
    with pytest.raises(NotSignedByRegistry):
        run("receipt", "--check", file)
    file.write_text("{}")
    with pytest.raises(ReceiptMalformed):
        run("receipt", "--check", file)


def test_a_withdrawals_receipt_is_verified_too(run, granted, tmp_path):
    file = tmp_path / "receipt.json"
    receipt = run("withdraw", granted["grant"], stdin=granted["withdrawal_code"])
    file.write_text(json.dumps(receipt))
    assert run("receipt", "--check", file)["signed"] is True


def test_the_log_is_printed_and_verified_without_the_home(run, registry_key, granted, tmp_path):
    file = tmp_path / "registry.log"
    file.write_text(run("log"))
    arguments = ["verify", "--log", str(file), "--key", registry_key, "--json", "--every-root"]
    result = CliRunner().invoke(consent_cli.app, [*arguments, "--home", "/nowhere"])
    assert json.loads(result.stdout) == run("verify")
    file.write_text("".join(run("log").splitlines(keepends=True)[1:]))
    with pytest.raises((LogBroken, LogInconsistent)):
        run("verify", "--log", file)


def test_a_registry_that_was_altered_does_not_verify(home, run, granted):
    connection = sqlite3.connect(home / "server" / "registry.db")
    with connection:
        connection.execute("UPDATE grants SET revoke_hash = zeroblob(32)")
    connection.close()
    with pytest.raises((RegistryDamaged, LogBroken)):
        run("verify")


def test_an_erased_patient_has_no_history_and_no_live_grant(run, granted):
    assert run("erase", NORTH, 4711)["grants"] == [granted["grant"]]
    assert run("show", NORTH, 4711)["versions"] == []
    assert run("verify")["live"] == 0
    with pytest.raises(NothingToErase):
        run("erase", NORTH, 4711)


def test_a_folder_without_a_run_is_refused(tmp_path):
    for command in (["log"], ["verify"], ["show", "north", "1"]):
        result = CliRunner().invoke(consent_cli.app, [*command, "--home", str(tmp_path)])
        assert isinstance(result.exception, NoRunHere)


@pytest.mark.parametrize(
    "arguments",
    [
        ["receipt"],
        ["receipt", "00"],
        ["receipt", "00", "--check", __file__],
        ["receipt", "--check", __file__, "--key", "north"],
        ["grant", "north", "4711"],
        ["withdraw"],
    ],
    ids=" ".join,
)
def test_misuse_exits_with_two(arguments):
    assert CliRunner().invoke(consent_cli.app, arguments).exit_code == 2


def test_what_is_no_code_is_misuse(home, granted):
    arguments = ["withdraw", granted["grant"], "--home", str(home)]
    assert CliRunner().invoke(consent_cli.app, arguments, input="no code").exit_code == 2


@pytest.mark.parametrize(
    "command", ["grant", "show", "withdraw", "receipt", "log", "verify", "erase"]
)
def test_every_command_shows_an_example(command):
    result = CliRunner().invoke(consent_cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"bithive consent {command}" in " ".join(result.stdout.split())
