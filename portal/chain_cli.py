# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive chain``: settle the books of BTT on an Ethereum chain, and compare the two."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from portal.chain_stake_cli import app as stake
from protocol.units import btt_text

if TYPE_CHECKING:
    from ledger.books import Ledger
    from ledger.chain.sender import Sender
    from portal.chain import ChainHome

app = typer.Typer(no_args_is_help=True, help="Settle the books of BTT on an Ethereum chain.")
app.add_typer(stake, name="stake")

DEFAULT_HOME: Final = Path("bithive-home")
HomePath = Annotated[
    Path, typer.Option("--home", help="The run's folder.", file_okay=False, show_default=True)
]
Database = Annotated[
    str | None,
    typer.Option(help="Books on a server instead: postgresql+psycopg://USER@HOST/DATABASE."),
]
NodeUrl = Annotated[
    str | None, typer.Option("--node", help="The chain's node, over HTTP. [the one `up` started]")
]
Password = Annotated[
    str | None,
    typer.Option(help="Where the key's password is: file:PATH, env:NAME or stdin. [the home's]"),
]
SignerAt = Annotated[
    str | None,
    typer.Option(
        "--signer", help="A signer that holds the key instead: unix:PATH or http://HOST:PORT."
    ),
]
Confirmations = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        help="Blocks until a transaction is final; 1 where blocks are (QBFT). "
        "[6; 2 on the development chain]",
    ),
]
FeeMax = Annotated[
    int, typer.Option("--fee-max-gwei", min=1, help="The most to pay for a unit of gas.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
words = Console(stderr=True)


@app.command("up", epilog="Example:  bithive chain up --port 8545")
def up(
    *,
    home: HomePath = DEFAULT_HOME,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Where it listens.")] = 8545,
    block_seconds: Annotated[
        int, typer.Option(min=1, max=60, help="Seconds from block to block.")
    ] = 3,
    as_json: AsJson = False,
) -> None:
    """Start a development chain (anvil) whose state stays in the home, with a key to settle by."""
    from portal.chain import ChainHome, start_anvil

    found = start_anvil(ChainHome(home), port=port, block_seconds=block_seconds)
    _show(found, f"a development chain answers at {found['node']}", as_json=as_json)


@app.command("down", epilog="Example:  bithive chain down")
def down(*, home: HomePath = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Stop the development chain; its state stays in the home."""
    from portal.chain import ChainHome, stop_anvil

    stopped = stop_anvil(ChainHome(home))
    _show({"stopped": stopped}, "stopped" if stopped else "none was running", as_json=as_json)


@app.command("key", epilog="Example:  bithive chain key --password stdin")
def key(
    *,
    home: HomePath = DEFAULT_HOME,
    password: Annotated[
        str, typer.Option(help="Where its password is: file:PATH, env:NAME or stdin.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make the key of the custody account, encrypted under a password of yours."""
    import os

    from ledger.chain.keystore import create_keystore, read_password
    from portal.chain import ChainHome

    word = read_password(password, stdin=sys.stdin, environment=os.environ)
    address = "0x" + create_keystore(ChainHome(home).key, word).address.hex()
    _show({"address": address}, f"the custody account is {address}", as_json=as_json)


@app.command("deploy", epilog="Example:  bithive chain deploy --confirmations 1")
def deploy(
    *,
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
    node: NodeUrl = None,
    password: Password = None,
    signer: SignerAt = None,
    admin: Annotated[
        str | None, typer.Option(help="Who appoints roles: a timelock. [the custody account]")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A preset of tokenomics.yaml.")] = None,
    confirmations: Confirmations = None,
    fee_max: FeeMax = 500,
    as_json: AsJson = False,
) -> None:
    """Deploy the contracts of BTT, once, and record what stands where."""
    from identity.roles import Permission
    from ledger.chain.bindings import address_of
    from ledger.chain.deployment import deploy as deployed
    from ledger.economy import load_economy
    from portal.chain import ChainHome, clock
    from portal.study_rights import who_may

    who_may(home, Permission.SETTLE)
    chain = ChainHome(home)
    _, sender = _opened(
        chain, database, node, password, signer, confirmations=confirmations, fee_max=fee_max
    )
    made = deployed(
        sender,
        load_economy(preset=preset),
        chain.deployment,
        admin=None if admin is None else address_of(admin),
        clock=clock,
        sleep=time.sleep,
        progress=_progress,
    )
    found = {
        "chain_id": made.chain_id,
        "custody": "0x" + made.custody.hex(),
        "contracts": {name: "0x" + one.address.hex() for name, one in made.contracts.items()},
    }
    if as_json:
        _print(found)
        return
    table = _table("contract", "address")
    for name, one in made.contracts.items():
        table.add_row(name, "0x" + one.address.hex())
    Console().print(table)


@app.command(
    "bind", epilog="Example:  bithive chain bind st-anna 0x52908400098527886E0F7030069857D2E4169EE7"
)
def bind(
    party: Annotated[str, typer.Argument(help="As in wallet:PARTY.")],
    address: Annotated[
        str, typer.Argument(help="Where the wallet is paid out to; `none` to end it.")
    ],
    *,
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Pay a party's wallet out to its own address, from the next epoch on."""
    from identity.roles import Permission
    from ledger import chart
    from ledger.chain.bindings import address_of
    from ledger.chain.bindings import bind as bound
    from portal.chain import clock
    from portal.study_rights import note, who_may

    actor = who_may(home, Permission.TRANSFER)
    where = None if address == "none" else address_of(address)
    bound(_books(home, database), chart.wallet(party), where, now=clock())
    found = {"party": party, "address": None if where is None else "0x" + where.hex()}
    note(
        home, "wallet-bound", actor, wallet=chart.wallet(party), address=found["address"] or "none"
    )
    _show(found, f"wallet:{party} is paid out to {found['address']}", as_json=as_json)


@app.command("settle", epilog="Example:  bithive chain settle --batch 100")
def settle(
    *,
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
    node: NodeUrl = None,
    password: Password = None,
    signer: SignerAt = None,
    batch: Annotated[int, typer.Option(min=1, max=250, help="Payouts of a transaction.")] = 250,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what its contract refused.")
    ] = False,
    confirmations: Confirmations = None,
    fee_max: FeeMax = 500,
    as_json: AsJson = False,
) -> None:
    """Finish what was begun, then pay out what the bound wallets hold, once, until it is final."""
    from identity.roles import Permission
    from portal.chain import ChainHome, clock, open_adapter
    from portal.study_rights import who_may

    who_may(home, Permission.SETTLE)
    chain = ChainHome(home)
    books, sender = _opened(
        chain, database, node, password, signer, confirmations=confirmations, fee_max=fee_max
    )
    adapter = open_adapter(books, chain, sender, batch=batch)
    if retry_failed:
        adapter.retry_failed()
    done = adapter.settle(clock=clock, sleep=time.sleep, progress=_progress)
    found = {
        "epoch": done.epoch,
        "recipients": done.recipients,
        "paid_base_units": str(done.paid),
        "transactions": list(done.intents),
    }
    sentence = f"epoch {done.epoch}: {btt_text(done.paid)} to {done.recipients} addresses"
    _show(found, sentence, as_json=as_json)


@app.command("claims", epilog="Example:  bithive chain claims --leaves leaves.json")
def claims(
    *,
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
    node: NodeUrl = None,
    password: Password = None,
    signer: SignerAt = None,
    leaves: Annotated[
        Path | None,
        typer.Option(
            help="Where to write amounts and paths for claimers. [HOME/chain/claims.json]",
            dir_okay=False,
        ),
    ] = None,
    confirmations: Confirmations = None,
    fee_max: FeeMax = 500,
    as_json: AsJson = False,
) -> None:
    """Publish what patients claimed to addresses as a root, from which the chain pays them."""
    from identity.roles import Permission
    from ledger.chain.deployment import open_deployment
    from portal.chain import ChainHome, clock, open_adapter
    from portal.chain_claims import publish_claims, write_leaves
    from portal.home import Home
    from portal.study_rights import who_may

    who_may(home, Permission.SETTLE)
    chain = ChainHome(home)
    books, sender = _opened(
        chain, database, node, password, signer, confirmations=confirmations, fee_max=fee_max
    )
    adapter = open_adapter(books, chain, sender)
    done = publish_claims(Home(home), adapter, clock=clock, sleep=time.sleep, progress=_progress)
    where = leaves or chain.claims
    if done.leaves:
        deployment = open_deployment(chain.deployment, sender.node)
        write_leaves(where, adapter, deployment, done.root)
    found = {
        "epoch": done.root,
        "leaves": done.leaves,
        "claims": done.claims,
        "added_base_units": str(done.added),
        "unpayable": done.unpayable,
        "file": str(where) if done.leaves else None,
    }
    sentence = (
        f"root {done.root} of {done.leaves} leaves: {done.claims} claims new, "
        f"{btt_text(done.added)}; {done.unpayable} name no place to pay"
    )
    _show(found, sentence, as_json=as_json)


@app.command(
    "reconcile",
    epilog="Example:  bithive chain reconcile --json     Exit code: 0 all agree, 1 not.",
)
def reconcile(
    *,
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Compare the books with the chain, account by account, to the base unit."""
    from ledger.chain.deployment import open_deployment
    from ledger.chain.reconcile import reconcile as reconciled
    from portal.chain import ChainHome, open_node

    chain = ChainHome(home)
    reached = open_node(chain.node_url(node))
    deployment = open_deployment(chain.deployment, reached)
    report = reconciled(_books(home, database), deployment, reached)
    if as_json:
        rows = [
            {
                "account": row.account,
                "ledger_base_units": str(row.ledger),
                "in_flight_base_units": str(row.in_flight),
                "chain_base_units": str(row.chain),
                "difference_base_units": str(row.difference),
            }
            for row in report.rows
        ]
        _print({"height": report.height, "agree": not report.differences, "rows": rows})
    else:
        table = _table("account", "books", "in flight", "chain", "difference")
        for row in report.rows:
            numbers = (row.ledger, row.in_flight, row.chain, row.difference)
            table.add_row(row.account, *(btt_text(one) for one in numbers))
        Console().print(table)
    if report.differences:
        words.print(f"{len(report.differences)} accounts differ", highlight=False)
        raise typer.Exit(1)


@app.command("status", epilog="Example:  bithive chain status --json")
def status(
    *,
    home: HomePath = DEFAULT_HOME,
    database: Database = None,
    node: NodeUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show the chain, the custody account, what is bound and what is under way."""
    from collections import Counter

    from ledger.chain.bindings import bindings
    from ledger.chain.deployment import open_deployment
    from ledger.chain.outbox import Outbox
    from portal.chain import ChainHome, open_node

    chain = ChainHome(home)
    reached = open_node(chain.node_url(node))
    deployment = open_deployment(chain.deployment, reached)
    books = _books(home, database)
    states = Counter(one.state for one in Outbox(books.engine).intents())
    found = {
        "node": chain.node_url(node),
        "chain_id": reached.chain_id,
        "height": reached.height(),
        "custody": "0x" + deployment.custody.hex(),
        "gas_wei": str(reached.balance(deployment.custody)),
        "bound": {name: "0x" + one.hex() for name, one in bindings(books).items()},
        "transactions": dict(sorted(states.items())),
    }
    if as_json:
        _print(found)
        return
    for name, value in found.items():
        shown = json.dumps(value) if isinstance(value, dict) else value
        Console().print(f"{name.replace('_', ' ')}: {shown}", highlight=False, soft_wrap=True)


@app.command("genesis", epilog="Example:  bithive chain genesis network.json genesis.json")
def genesis(
    network: Annotated[
        Path, typer.Argument(help="As deploy/besu/network.example.json.", dir_okay=False)
    ],
    to: Annotated[Path, typer.Argument(help="The file to write.", dir_okay=False)],
    *,
    as_json: AsJson = False,
) -> None:
    """Write the genesis file of a consortium's own chain: Besu, QBFT, validators by contract."""
    import hashlib

    from ledger.chain.besu import genesis as made
    from ledger.chain.besu import read_network, written
    from storage.files import write_whole

    content = written(made(read_network(network)))
    write_whole(to, content)
    found = {"file": str(to), "sha256": hashlib.sha256(content).hexdigest()}
    _show(found, f"{to}: SHA-256 {found['sha256']}", as_json=as_json)


def _opened(
    chain: ChainHome,
    database: str | None,
    node: str | None,
    password: str | None,
    signer: str | None,
    *,
    confirmations: int | None,
    fee_max: int,
) -> tuple[Ledger, Sender]:
    from ledger.chain.sender import GWEI, Limits
    from portal.chain import depth_on, open_node, open_sender, open_signer

    books = _books(chain.home, database)
    reached = open_node(chain.node_url(node))
    limits = Limits(confirmations=depth_on(reached, confirmations), fee_max=fee_max * GWEI)
    who = open_signer(chain, password=password, signer=signer)
    return books, open_sender(books, reached, who, limits)


def _books(home: Path, database: str | None) -> Ledger:
    from portal.books import open_books, open_shared_books

    return open_books(home) if database is None else open_shared_books(database)


def _progress(done: int, every: int) -> None:
    if words.is_terminal and every:
        words.print(f"{done} of {every} transactions are final", end="\r", highlight=False)


def _show(found: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        _print(found)
    else:
        Console().print(sentence, highlight=False, soft_wrap=True)


def _print(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")


def _table(*headings: str) -> Table:
    table = Table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
    return table
