# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive audit``: verify the log, prove a record, witness a log, serve one.

A log is a run's (``--home``), or lies in a folder of its own (``--folder``). Whoever has neither
the folder nor its key verifies a copy of the file (``--log``) with the log's verifier key.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from protocol.errors import storage_error

if TYPE_CHECKING:
    from audit.log import AuditLog
    from audit.notes import NoteKey
    from audit.verification import Verified

app = typer.Typer(no_args_is_help=True, help="The audit log.")
words = Console(stderr=True)

DEFAULT_HOME: Final = Path("bithive-home")
DEFAULT_WITNESS: Final = Path("bithive-witness")
PORT: Final = 8451

HomePath = Annotated[
    Path, typer.Option("--home", help="The run's folder.", file_okay=False, show_default=True)
]
Folder = Annotated[
    Path | None,
    typer.Option("--folder", help="A log's own folder, in place of a run's.", file_okay=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
LogKey = Annotated[str | None, typer.Option("--key", help="The log's verifier key, NAME+HASH+KEY.")]
WitnessKeys = Annotated[
    list[str] | None,
    typer.Option("--witness-key", help="A witness's verifier key; give it once for each."),
]
Quorum = Annotated[
    int | None,
    typer.Option("--witnesses", min=1, help="How many of them must have cosigned one head. [all]"),
]


@app.command(
    "verify",
    epilog="Examples:  bithive audit verify --home bithive-home  |  "
    "bithive audit verify --log copy.db --key KEY --witness-key NORTH --witness-key SOUTH",
)
def verify(
    *,
    home: HomePath = DEFAULT_HOME,
    folder: Folder = None,
    log: Annotated[
        Path | None, typer.Option(help="A copy of the log's file, with --key.", dir_okay=False)
    ] = None,
    key: LogKey = None,
    since: Annotated[
        Path | None,
        typer.Option(help="A checkpoint kept elsewhere: the log must begin with it."),
    ] = None,
    witness_key: WitnessKeys = None,
    witnesses: Quorum = None,
    as_json: AsJson = False,
) -> None:
    """Find any changed, dropped or reordered entry of the audit log."""
    from audit.checkpoints import read_head
    from audit.notes import check_signed, read_key, read_note
    from audit.store import open_tables
    from audit.verification import verify_log
    from portal.audit_folder import NoLogHere

    if (log is None) != (key is None):
        raise typer.BadParameter("give --log and --key together")
    keys = _witnesses(witness_key, witnesses)
    if log is not None and key is not None:
        if not log.is_file():
            raise NoLogHere(log)
        engine, log_key = open_tables(log), read_key(key)
    else:
        opened = _open(home, folder)
        engine, log_key = opened.engine, opened.key
    kept = None
    if since is not None:
        note = read_note(_text(since))
        check_signed(note, log_key)
        kept = read_head(note.body)
    found = verify_log(engine, log_key, since=kept, witnesses=keys, quorum=witnesses or len(keys))
    engine.dispose()
    _show_verified(found, demanded=witnesses or len(keys), as_json=as_json)


@app.command("head", epilog="Example:  bithive audit head --home bithive-home > head.txt")
def head(*, home: HomePath = DEFAULT_HOME, folder: Folder = None, as_json: AsJson = False) -> None:
    """Print the newest head as a checkpoint to keep elsewhere, and the log's verifier key."""
    opened = _open(home, folder)
    signed = opened.head()
    text = signed.note(opened.public_key).text()
    if as_json:
        _print(
            {
                "key": opened.key.text(),
                "size": signed.size,
                "root": signed.root.hex(),
                "checkpoint": text,
            }
        )
        return
    words.print(f"verifier key: {opened.key.text()}", highlight=False, soft_wrap=True)
    sys.stdout.write(text)


@app.command("prove", epilog="Example:  bithive audit prove 17 --home bithive-home > proof.json")
def prove(
    position: Annotated[int, typer.Argument(min=0, help="Of the record, counted from 0.")],
    *,
    home: HomePath = DEFAULT_HOME,
    folder: Folder = None,
    cosigned_by: Annotated[
        int, typer.Option(min=0, help="Under the newest head with so many cosignatures.")
    ] = 0,
) -> None:
    """Print a record with the proof that it was logged, as one JSON object."""
    from audit.cosignatures import Cosignatures
    from audit.proofs import prove as proven
    from portal.audit_folder import known_witnesses

    opened = _open(home, folder)
    known = known_witnesses(folder) if folder is not None else []
    note = Cosignatures(opened, known).checkpoint(cosigned_by=cosigned_by)
    sys.stdout.write(proven(opened, position, note).text() + "\n")


@app.command("check", epilog="Example:  bithive audit check proof.json --key KEY")
def check(
    proof: Annotated[Path, typer.Argument(help="What `bithive audit prove` printed.")],
    *,
    key: Annotated[str, typer.Option("--key", help="The log's verifier key.")],
    witness_key: WitnessKeys = None,
    witnesses: Quorum = None,
    as_json: AsJson = False,
) -> None:
    """Check the proof of a record, without the log."""
    from audit.checkpoints import read_head
    from audit.notes import read_key
    from audit.proofs import read_proof

    found = read_proof(_text(proof))
    keys = _witnesses(witness_key, witnesses)
    found.check(read_key(key), witnesses=keys, quorum=witnesses or len(keys))
    size = read_head(found.checkpoint.body).size
    if as_json:
        _print({"position": found.position, "size": size, "record": found.record})
        return
    _say(f"[green]sound[/]: record {found.position} is in the log of {size} records")
    sys.stdout.write(found.record + "\n")


@app.command(
    "witness",
    epilog="Example:  bithive audit witness https://log.example --name st-anna.example/witness "
    "--key KEY --begin",
)
def witness(
    url: Annotated[str, typer.Argument(help="Where the log is served.")],
    *,
    name: Annotated[str, typer.Option(help="What this witness is called, always the same.")],
    key: Annotated[str, typer.Option("--key", help="The log's verifier key.")],
    folder: Annotated[
        Path, typer.Option(help="The witness's own folder.", file_okay=False)
    ] = DEFAULT_WITNESS,
    authority: Annotated[
        Path | None, typer.Option(help="Certificates to trust, in place of the system's.")
    ] = None,
    begin: Annotated[
        bool, typer.Option("--begin", help="Begin to watch this log, the first time.")
    ] = False,
    every_seconds: Annotated[
        int, typer.Option(min=0, help="Look again and again, with this pause. [once]")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Cosign a log's newest head, if it goes on from the last one that was cosigned."""
    from audit.checkpoints import read_head
    from audit.notes import read_key
    from audit.witness import Witness
    from portal.audit_client import LogAtUrl, LogUnreachable, witness_head
    from portal.local_actor import at_witness, this_user
    from portal.own_log import own_record
    from privacy.signatures import signing_key
    from storage.files import private_folder

    private_folder(folder)
    log, log_key = LogAtUrl(url, authority), read_key(key)
    actor = at_witness(folder, this_user())
    own = Witness(folder / "witness.db", name, signing_key(folder / "witness.key"), time.time)
    if begin:
        own.watch(log_key)
    words.print(f"verifier key: {own.key.text()}", highlight=False, soft_wrap=True)
    while True:
        try:
            cosigned = witness_head(own, log_key, log, actor=actor, audit=own_record(folder))
            seen = read_head(cosigned.body)
        except LogUnreachable as error:
            if not every_seconds:
                raise
            words.print(f"{error.code}: {error}", highlight=False, soft_wrap=True)
        else:
            if as_json:
                _print({"origin": seen.origin, "size": seen.size, "root": seen.root.hex()})
            else:
                _say(f"[green]cosigned[/]: {seen.size} records of {seen.origin}")
        if not every_seconds:
            return
        time.sleep(every_seconds)


@app.command("serve", epilog="Example:  bithive audit serve --folder bithive-audit --port 8451")
def serve(
    *,
    folder: Annotated[
        Path, typer.Option(help="The log's folder; made where there is none.", file_okay=False)
    ] = Path("bithive-audit"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port.")] = PORT,
    accounts: Annotated[
        Path | None,
        typer.Option(
            help="The operator's accounts.db, whose auditors and operators may read records.",
            dir_okay=False,
            exists=True,
        ),
    ] = None,
) -> None:
    """Serve a log: batches for who has its token, heads and proofs for everybody."""
    from audit.cosignatures import Cosignatures
    from identity.accounts import Accounts
    from portal.audit_api import audit_app, audit_server
    from portal.audit_folder import known_witnesses, make_folder, writers_token

    opened = make_folder(folder)
    cosignatures = Cosignatures(opened, known_witnesses(folder))
    people = None if accounts is None else Accounts(accounts, audit=opened.append)
    app = audit_app(opened, cosignatures, token=writers_token(folder), accounts=people)
    words.print(f"verifier key: {opened.key.text()}", highlight=False, soft_wrap=True)
    words.print(f"writers show the token in {folder / 'audit.token'}", highlight=False)
    words.print(f"http://{host}:{port}", highlight=False)
    audit_server(app, host=host, port=port).run()
    opened.close()


@app.command("sums", epilog="Example:  bithive audit sums --home bithive-home")
def sums(*, home: HomePath = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Check every closed round's signatures, chain and receipts, and add its uploads again."""
    from fl_server.app import open_store
    from fl_server.recheck import recheck

    report = recheck(open_store(home / "server"))
    if as_json:
        _print(
            {
                "rounds": report.rounds,
                "opened": report.opened,
                "added_again": list(report.added_again),
                "manifest": report.manifest,
                "faults": [
                    {"round": number, "site": fault.site, "what": fault.what, **fault.evidence}
                    for number, fault in report.faults
                ],
            }
        )
        return
    again = ", ".join(map(str, report.added_again)) or "none"
    _say(
        f"[green]sound[/]: {report.rounds} rounds in order, {report.opened} sums opened; added "
        f"again: round {again}; last manifest {report.manifest}"
    )
    for number, fault in report.faults:
        _say(f"round {number}: {fault.site} signed a tag that is not its upload's")


def _open(home: Path, folder: Path | None) -> AuditLog:
    from portal.audit_folder import open_folder
    from portal.books import open_audit

    return open_audit(home) if folder is None else open_folder(folder)


def _witnesses(keys: list[str] | None, quorum: int | None) -> list[NoteKey]:
    from audit.notes import COSIGNED, read_key

    read = [read_key(one) for one in dict.fromkeys(keys or [])]
    if any(one.kind != COSIGNED for one in read):
        raise typer.BadParameter("a --witness-key is the key of a log and not of a witness")
    if quorum is not None and quorum > len(read):
        raise typer.BadParameter(f"{quorum} witnesses are demanded, of {len(read)} given")
    return read


def _show_verified(found: Verified, *, demanded: int, as_json: bool) -> None:
    size, root = found.size, "" if found.head is None else found.head.root.hex()
    signature = "" if found.head is None else found.head.signature.hex()
    if as_json:
        shown = {"size": size, "root": root, "signature": signature, "batches": found.batches}
        _print(shown | ({"cosigned": found.cosigned} if demanded else {}))
        return
    _say(f"[green]sound[/]: {size} events, root {root}")
    if demanded:
        _say(
            f"the first {found.cosigned} were seen by {demanded} witnesses; for the "
            f"{size - found.cosigned} since then there is the log's word alone"
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise storage_error(error, path.name) from error


def _print(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")


def _say(sentence: str) -> None:
    Console().print(sentence, highlight=False, soft_wrap=True)
