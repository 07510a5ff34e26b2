# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive study found | admit-grants | admit-withdrawals``: a server's side of a study.

What hospitals send and are sent are files; nothing of theirs is opened here.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

if TYPE_CHECKING:  # a command loads only what it needs
    from portal.admitting import Admitted

DEFAULT_HOME: Final = Path("bithive-home")
CODES: Final = "     Exit code: 0 done, 1 refused with a code, 2 misused."
HomePath = Annotated[Path, typer.Option("--home", help="The server's folder.", file_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Sent = Annotated[Path, typer.Argument(help="As the hospital sent it.", dir_okay=False, exists=True)]
Answer = Annotated[Path | None, typer.Option("--to", help="The file for the hospital.")]
words = Console(stderr=True)


class Kind(StrEnum):
    """Of records."""

    IMAGE = "image"
    TABLE = "table"
    VOLUME = "volume"


def register(app: typer.Typer) -> None:
    """Add the commands to ``bithive study``."""
    app.command(
        "found",
        epilog="Example:  bithive study found scans --modality image --home /var/lib/bithive"
        " --price 5000" + CODES,
    )(found)
    app.command(
        "admit-grants",
        epilog="Example:  bithive study admit-grants north.grants.json --home /var/lib/bithive"
        + CODES,
    )(grants)
    app.command(
        "admit-withdrawals",
        epilog="Example:  bithive study admit-withdrawals north.withdrawals.json"
        " --home /var/lib/bithive" + CODES,
    )(withdrawals)


def found(
    dataset: Annotated[str, typer.Argument(help="The name hospitals know the records by, a slug.")],
    *,
    modality: Annotated[Kind, typer.Option(help="What kind of records they are.")],
    home: HomePath = DEFAULT_HOME,
    title: Annotated[str, typer.Option(help="For officers and patients. [DATASET]")] = "",
    rounds: Annotated[int | None, typer.Option(min=1, max=500, help="Rounds to train.")] = None,
    epsilon: Annotated[
        float | None, typer.Option(min=0.1, max=100, help="Privacy limit of the study, per site.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(min=1e-12, max=1e-2, help="Belongs to epsilon.")
    ] = None,
    algorithm: Annotated[str, typer.Option(help="As in `bithive demo`.")] = "fedavg",
    noise: Annotated[str, typer.Option(help="per-site or summed.")] = "per-site",
    circuit: Annotated[str, typer.Option(help="cover64, or cover8 for tests.")] = "cover64",
    opening: Annotated[str, typer.Option(help="members or threshold.")] = "members",
    input_shape: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Features of a table's row.")
    ] = None,
    patients_most: Annotated[
        int, typer.Option(min=1, max=65_536, help="Grants that each site's lane has room for.")
    ] = 512,
    site: Annotated[
        list[str] | None, typer.Option(help="Who takes part; repeatable. [all that are admitted]")
    ] = None,
    price: Annotated[
        int, typer.Option(min=1, max=10**9, help="BTT for all rounds together.")
    ] = 1000,
    researcher: Annotated[str, typer.Option(help="Who asks, for the officers.")] = "the operator",
    proving_key: Annotated[
        Path | None,
        typer.Option(help="From a ceremony; without it, a development key.", exists=True),
    ] = None,
    verification_key: Annotated[
        Path | None, typer.Option(help="That goes with it.", exists=True)
    ] = None,
    features: Annotated[
        str, typer.Option(help="The study's own code, BUNDLE.zip:module:function.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Found a study for the admitted sites, and make the folder that they are given."""
    from dataclasses import replace

    from identity.roles import Permission
    from portal.features import step_for
    from portal.home import Home
    from portal.study_design import Wanted, Ways, design_of
    from portal.study_founding import Asked, found_study, kept_terms
    from portal.study_rights import check_may, here
    from protocol.ids import SiteId
    from protocol.units import BASE_UNITS_PER_BTT
    from zk.keys import VerificationKey, development_key

    check_may(home, here(home), Permission.SUBMIT_STUDY)
    if (proving_key is None) != (verification_key is None):
        raise typer.BadParameter("give both or none", param_hint="--proving-key")
    kind: Any = modality.value  # of the same names
    wanted = Wanted(dataset, kind, title or dataset, input_shape, rounds, epsilon, delta)
    ways = Ways(algorithm, noise, circuit, opening)
    if proving_key is None or verification_key is None:
        from portal.demo import cache_folder
        from zk.circuit import circuit as circuit_named

        ways.check()
        _say("proof keys of this machine, for development: whoever made them could forge proofs")
        proving_key, key = development_key(circuit_named(circuit), cache_folder())
    else:
        key = VerificationKey.load(verification_key)
    asked = Asked(
        sites=tuple(SiteId(one) for one in site or []),
        patients_most=patients_most,
        price=price * BASE_UNITS_PER_BTT,
        researcher=researcher,
        proving_key=proving_key,
    )
    now = datetime.now(UTC)
    design = design_of(wanted, ways, key, now.date())
    if features:
        earlier = kept_terms(Home(home).server)
        known = None if earlier is None else earlier.training.features
        design = replace(design, features=step_for(features, design.input_shape, earlier=known))
    done = found_study(Home(home), design, asked, now=now)
    sites = [one.site for one in done.terms.sites]
    _print(
        {
            "study": done.terms.study,
            "sites": sites,
            "rounds": done.terms.rounds,
            "epsilon": done.terms.privacy.epsilon,
            "for_sites": str(done.for_sites),
            "fingerprint": done.fingerprint,
        },
        f"founded: {done.terms.study}, {done.terms.rounds} rounds, with {', '.join(sites)}\n"
        f"for the hospitals: {done.for_sites}\nregistry's fingerprint: {done.fingerprint}\n"
        "Give each hospital a copy of the folder, and read the fingerprint out by telephone.",
        as_json=as_json,
    )


def grants(
    file: Sent, *, to: Answer = None, home: HomePath = DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """Publish what a hospital's file asks for, once, and write the file with its receipts."""
    from identity.requests import read_bounded
    from identity.roles import Permission
    from portal.admitting import admit_grants
    from portal.consent_files import GrantsFile
    from portal.home import Home
    from portal.study_rights import who_may

    who_may(home, Permission.TAKE_CONSENT)
    content = read_bounded(file, limit=GrantsFile.bytes_max)
    done = admit_grants(Home(home), content, now=datetime.now(UTC))
    _answer(done, to or Path(f"{done.site}.receipts.json"), "published", as_json=as_json)


def withdrawals(
    file: Sent, *, to: Answer = None, home: HomePath = DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """End the grants that a hospital's file ends, and write the file that confirms it."""
    from identity.requests import read_bounded
    from identity.roles import Permission
    from portal.admitting import admit_withdrawals
    from portal.consent_files import WithdrawalsFile
    from portal.home import Home
    from portal.study_rights import who_may

    who_may(home, Permission.TAKE_CONSENT)
    content = read_bounded(file, limit=WithdrawalsFile.bytes_max)
    done = admit_withdrawals(Home(home), content, now=datetime.now(UTC))
    _answer(done, to or Path(f"{done.site}.withdrawn.json"), "ended", as_json=as_json)


def _answer(done: Admitted, file: Path, what: str, *, as_json: bool) -> None:
    from storage.files import write_whole

    write_whole(file, done.receipts)
    sentence = f"{done.site}: {done.done} grants {what}"
    if done.known:
        sentence += f", {done.known} were published before"
    if done.unknown:
        sentence += (
            f"; {done.unknown} are not published yet: take this file in again after their grants"
        )
    if done.foreign:
        sentence += f"; {done.foreign} are another hospital's and did not end"
    found = {
        "site": done.site,
        "file": str(file),
        what: done.done,
        "known": done.known,
        "unknown": done.unknown,
        "foreign": done.foreign,
    }
    _print(found, f"{sentence}\nfile for {done.site}: {file}", as_json=as_json)


def _say(sentence: str) -> None:
    words.print(sentence, highlight=False, soft_wrap=True)


def _print(found: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        Console().print(sentence, highlight=False, soft_wrap=True, markup=False)
