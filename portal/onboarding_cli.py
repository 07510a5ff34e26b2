# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive operator`` and the site's ``init`` and ``install``: how a hospital joins and leaves.

One file goes each way: the site's request to the operator, the operator's admission to the site.
Neither is secret; each side reads the other's fingerprint out by telephone.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from portal.site_cli import app as site_app
from protocol.ids import SLUG, SiteId

if TYPE_CHECKING:
    from identity.admission import Admission
    from identity.consortium import Consortium
    from identity.roles import Actor, Role

app = typer.Typer(no_args_is_help=True, help="The operator: which hospitals take part.")

ADDRESS: Final = re.compile(r"[A-Za-z0-9.:\[\]-]{1,260}:[0-9]{1,5}")
OPERATOR_HOME: Final = Path("bithive-operator")
SITE_HOME: Final = Path("bithive-site")
OperatorHome = Annotated[
    Path,
    typer.Option("--home", help="The operator's folder.", file_okay=False, show_default=True),
]
SiteHome = Annotated[
    Path, typer.Option("--home", help="The site's own folder.", file_okay=False, show_default=True)
]
SiteName = Annotated[str, typer.Argument(help="The site's name.")]
Fingerprint = Annotated[
    str | None,
    typer.Option(help="As the site reads it out; asked for if it is not given."),
]
Admissions = Annotated[
    Path | None, typer.Option("--to", help="The admission's file. [SITE.admission.json]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
words = Console(stderr=True)


@site_app.command("init", epilog="Example:  bithive site init north --home /srv/bithive/north")
def init(
    name: SiteName,
    *,
    home: SiteHome = SITE_HOME,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make new keys that will take the place of these.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a hospital's keys in its own folder, and the one file it sends to the operator."""
    from identity.joining import prepare
    from identity.requests import fingerprint

    if not SLUG.fullmatch(name):
        raise typer.BadParameter(
            "1 to 40 lower-case letters, digits and inner dashes", param_hint="NAME"
        )
    made, file = prepare(home, SiteId(name), now=_now(), entropy=os.urandom, rotate=rotate)
    shown = fingerprint(made.digest())
    _print(
        {"site": name, "request": str(file), "fingerprint": shown},
        f"request: {file}\nfingerprint: {shown}\n"
        "Send the file to the operator, and read the fingerprint out by telephone. The keys stay "
        "here.",
        as_json=as_json,
    )


@site_app.command(
    "install",
    epilog='Example:  bithive site install north.admission.json --operator "6323 a53c ..."',
)
def install(
    admission: Annotated[Path, typer.Argument(help="As the operator sent it.", dir_okay=False)],
    *,
    home: SiteHome = SITE_HOME,
    operator: Annotated[
        str | None,
        typer.Option(help="The operator's fingerprint, as read out; once, the first time."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the operator's answer and install it: certificate, authorities, addresses, terms."""
    from identity import admission as admissions
    from identity.requests import read_bounded
    from identity.site_folder import SiteFolder

    content = read_bounded(admission, limit=admissions.BYTES_MAX)
    read = admissions.read_admission(content)
    folder = SiteFolder.of(home)
    admissions.install(folder, read, operator=operator, now=_now())
    ends = _end_of(read)
    _print(
        {
            "site": read.site,
            "federation": read.federation,
            "addresses": list(read.addresses),
            "certificate_until": ends.isoformat(),
        },
        f"{read.site} takes part in {read.federation} until {ends:%Y-%m-%d}; servers: "
        f"{', '.join(read.addresses) or 'none named'}; terms: {folder.terms}",
        as_json=as_json,
    )


@app.command(
    "init",
    epilog="Example:  bithive operator init lungs --address fed.example.org:8443 "
    "--server-name fed.example.org --terms terms.txt",
)
def operator_init(
    federation: Annotated[str, typer.Argument(help="The federation's name, a slug.")],
    *,
    home: OperatorHome = OPERATOR_HOME,
    address: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT that sites connect to; repeatable.")
    ] = None,
    server_name: Annotated[
        list[str] | None,
        typer.Option(help="A name or IP address of the server's certificate; repeatable."),
    ] = None,
    terms: Annotated[
        Path | None, typer.Option(help="What sites agree to, a text.", dir_okay=False, exists=True)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Found a federation: its certificate authority, the operator's key, an empty list of sites."""
    from identity.admission import ADDRESSES_MAX, TERMS_CHARACTERS_MAX
    from identity.consortium import Consortium
    from identity.requests import fingerprint
    from portal.own_log import own_record

    if not SLUG.fullmatch(federation):
        raise typer.BadParameter(
            "1 to 40 lower-case letters, digits and inner dashes", param_hint="FEDERATION"
        )
    text = "" if terms is None else terms.read_text(errors="replace")
    addresses = address or []
    if len(addresses) > ADDRESSES_MAX or any(not ADDRESS.fullmatch(one) for one in addresses):
        raise typer.BadParameter(f"HOST:PORT, at most {ADDRESSES_MAX}", param_hint="--address")
    if len(text) > TERMS_CHARACTERS_MAX:
        raise typer.BadParameter(
            f"more than {TERMS_CHARACTERS_MAX} characters", param_hint="--terms"
        )
    made = Consortium.found(
        home / "authority",
        federation,
        addresses=addresses,
        terms=text,
        actor=_operator(),
        record=own_record(home / "authority"),
        now=_now(),
    )
    if server_name:
        made.certify_server(server_name, actor=_operator(), now=_now())
    shown = fingerprint(made.operator_digest)
    _print(
        {"federation": federation, "folder": str(home / "authority"), "fingerprint": shown},
        f"founded: {home / 'authority'}\noperator's fingerprint: {shown}\n"
        "Read it out to every site that installs its admission.",
        as_json=as_json,
    )


@app.command(
    "admit", epilog='Example:  bithive operator admit request.json --fingerprint "0123 4567 ..."'
)
def admit(
    request: Annotated[Path, typer.Argument(help="As the site sent it.", dir_okay=False)],
    *,
    fingerprint: Fingerprint = None,
    to: Admissions = None,
    home: OperatorHome = OPERATOR_HOME,
    as_json: AsJson = False,
) -> None:
    """Let a hospital take part: check its request, and write the one file it is sent."""
    from identity.requests import read_bounded

    content = read_bounded(request)
    made = _consortium(home).admit(
        content, given_fingerprint=_asked(fingerprint), actor=_operator(), now=_now()
    )
    _write_admission(made, to, home, as_json=as_json)


@app.command(
    "renew",
    epilog="Examples:  bithive operator renew north  |  bithive operator renew north "
    '--request request.json --fingerprint "0123 4567 ..."',
)
def renew(
    name: SiteName,
    *,
    request: Annotated[
        Path | None,
        typer.Option(help="New keys, from `bithive site init --rotate`.", dir_okay=False),
    ] = None,
    fingerprint: Fingerprint = None,
    to: Admissions = None,
    home: OperatorHome = OPERATOR_HOME,
    as_json: AsJson = False,
) -> None:
    """Give a hospital a new certificate, for the keys it has or for new ones."""
    from identity.requests import read_bounded

    made = _consortium(home).renew(
        SiteId(name),
        actor=_operator(),
        now=_now(),
        content=None if request is None else read_bounded(request),
        given_fingerprint="" if request is None else _asked(fingerprint),
    )
    _write_admission(made, to, home, as_json=as_json)


@app.command("expel", epilog='Example:  bithive operator expel north --reason "left the study"')
def expel(
    name: SiteName,
    *,
    reason: Annotated[str, typer.Option(help="Kept in the list of sites, not in the log.")],
    home: OperatorHome = OPERATOR_HOME,
    as_json: AsJson = False,
) -> None:
    """Let a hospital take part no more: its certificate and node key end now."""
    _consortium(home).expel(SiteId(name), reason=reason, actor=_operator(), now=_now())
    revoked = home / "authority" / "crl.pem"
    _print(
        {"site": name, "revoked": str(revoked)},
        f"{name} is expelled; reload the server in front, which reads {revoked}",
        as_json=as_json,
    )


@app.command("list", epilog="Example:  bithive operator list --json")
def list_sites(*, home: OperatorHome = OPERATOR_HOME, as_json: AsJson = False) -> None:
    """Show which hospitals take part, and until when their certificates hold."""
    from identity.requests import fingerprint
    from identity.roles import Permission, check

    consortium = _consortium(home)
    check(_operator(), Permission.READ_SITES, audit=consortium.record)
    register = consortium.register()
    shown = fingerprint(consortium.operator_digest)
    rows = [
        {
            "site": one.site,
            "state": one.state,
            "admitted_at": one.admitted_at.isoformat(),
            "expelled_at": None if one.expelled_at is None else one.expelled_at.isoformat(),
            "reason": one.reason,
            "certificate_until": one.loaded().not_valid_after_utc.isoformat(),
            "signing_key": one.signing_key.hex(),
        }
        for one in register.sites
    ]
    if as_json:
        found = {"federation": register.federation, "fingerprint": shown, "sites": rows}
        sys.stdout.write(json.dumps(found) + "\n")
        return
    table = Table("site", "state", "since", "certificate until")
    for row in rows:
        since = row["expelled_at"] or row["admitted_at"]
        table.add_row(
            row["site"], row["state"], str(since)[:10], str(row["certificate_until"])[:10]
        )
    Console().print(table)
    words.print(f"operator's fingerprint: {shown}", highlight=False)


@app.command("server", epilog="Example:  bithive operator server fed.example.org 192.0.2.7")
def server(
    names: Annotated[list[str], typer.Argument(help="Host names or IP addresses.")],
    *,
    home: OperatorHome = OPERATOR_HOME,
    as_json: AsJson = False,
) -> None:
    """Make the server a new key and a certificate for 90 days."""
    made = _consortium(home).certify_server(names, actor=_operator(), now=_now())
    _print({"certificate": str(made)}, f"certificate: {made}; its key lies beside", as_json=as_json)


@app.command("rotate", epilog="Example:  bithive operator rotate")
def rotate(
    *,
    home: OperatorHome = OPERATOR_HOME,
    at_once: Annotated[
        bool,
        typer.Option("--at-once", help="Forget the earlier key now: somebody else may have it."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sign with a new authority from now on; then renew the sites, and last the server."""
    consortium = _consortium(home)
    consortium.rotate_authority(actor=_operator(), now=_now(), at_once=at_once)
    sites = [one.site for one in consortium.register().active()]
    _print(
        {"renew": sites},
        f"signed anew from now on; renew {', '.join(sites) or 'no site'}, then the server",
        as_json=as_json,
    )


@app.command(
    "account",
    epilog="Examples:  bithive operator account r.west --role researcher  |  "
    "bithive operator account s.north --role steward --site north  |  "
    "bithive operator account r.west --disable",
)
def account(
    name: Annotated[str, typer.Argument(help="The account's name; for a patient a pseudonym.")],
    *,
    role: Annotated[list[str] | None, typer.Option(help="What she is; repeatable.")] = None,
    site: Annotated[str | None, typer.Option(help="Her hospital.")] = None,
    books: Annotated[str | None, typer.Option(help="Her account in the books.")] = None,
    disable: Annotated[bool, typer.Option("--disable", help="She signs in no more.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Give her another password.")] = False,
    home: OperatorHome = OPERATOR_HOME,
    as_json: AsJson = False,
) -> None:
    """Make, reset or disable an account; the password is typed unseen, or comes by a pipe."""
    from identity.accounts import Accounts
    from portal.own_log import own_record
    from protocol.ids import AccountId

    _consortium(home)
    record = own_record(home / "authority")
    accounts = Accounts(home / "authority" / "accounts.db", audit=record)
    try:
        if disable:
            accounts.disable(name, actor=_operator())
        elif reset:
            accounts.reset_password(name, _typed_password(), actor=_operator())
        else:
            accounts.add(
                name,
                _typed_password(),
                roles=_roles(role or []),
                actor=_operator(),
                site=None if site is None else SiteId(site),
                account=None if books is None else AccountId(books),
            )
    finally:
        accounts.close()
    done = "disabled" if disable else "reset" if reset else "made"
    _print({"account": name, "done": done}, f"account {name}: {done}", as_json=as_json)


def _roles(given: list[str]) -> frozenset[Role]:
    from identity.roles import Role

    known = {str(one): one for one in Role}
    for one in given:
        if one not in known:
            raise typer.BadParameter(f"one of {', '.join(known)}", param_hint="--role")
    return frozenset(known[one] for one in given)


def _typed_password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return getpass.getpass("Password: ")


def _consortium(home: Path) -> Consortium:
    """Return the federation, its files mended."""
    from identity.consortium import Consortium
    from portal.own_log import own_record

    consortium = Consortium(home / "authority", own_record(home / "authority"))
    consortium.refresh(now=_now())
    return consortium


def _write_admission(made: Admission, to: Path | None, home: Path, *, as_json: bool) -> None:
    from identity.admission import operator_digest
    from identity.requests import fingerprint
    from protocol.canonical import canonical
    from storage.files import write_whole

    file = to or Path(f"{made.site}.admission.json")
    write_whole(file, canonical(made) + b"\n")
    shown = fingerprint(operator_digest(made.operator_key))
    _print(
        {
            "site": made.site,
            "admission": str(file),
            "certificate_until": _end_of(made).isoformat(),
            "node_key": str(home / "authority" / "nodes" / f"{made.site}.pub"),
            "fingerprint": shown,
        },
        f"admission: {file}\noperator's fingerprint: {shown}\n"
        f"Send the file to {made.site}, and read the fingerprint out by telephone.",
        as_json=as_json,
    )


def _end_of(admission: Admission) -> datetime:
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(admission.certificate.encode())
    return certificate.not_valid_after_utc


def _asked(fingerprint: str | None) -> str:
    if fingerprint is not None:
        return fingerprint
    asked: str = typer.prompt("Fingerprint, as the site reads it out", err=True)
    return asked


def _operator() -> Actor:
    from portal.local_actor import operator, this_user

    return operator(this_user())


def _now() -> datetime:
    return datetime.now(UTC)


def _print(found: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        Console().print(sentence, highlight=False, soft_wrap=True, markup=False)
