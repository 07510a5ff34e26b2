# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive chain stake``: a party bonds BTT on the chain, with her own key, and takes it back."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from protocol.units import btt_text

if TYPE_CHECKING:
    from ledger.chain.stakes import Staker

app = typer.Typer(no_args_is_help=True, help="A party's own stake on the chain, by her own key.")

DEFAULT_HOME: Final = Path("bithive-home")
GWEI: Final = 10**9
HomePath = Annotated[Path, typer.Option("--home", help="The party's folder.", file_okay=False)]
NodeUrl = Annotated[
    str | None, typer.Option("--node", help="The chain's node, over HTTP. [the one `up` started]")
]
Password = Annotated[
    str, typer.Option(help="Where the key's password is: file:PATH, env:NAME or stdin.")
]
Confirmations = Annotated[
    int | None,
    typer.Option(min=1, max=1000, help="Blocks until it is final. [6; 2 on a development chain]"),
]
FeeMax = Annotated[
    int, typer.Option("--fee-max-gwei", min=1, help="The most to pay for a unit of gas.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Amount = Annotated[str, typer.Argument(help="In BTT, such as 5000 or 0.5.")]


@app.command("key", epilog="Example:  bithive chain stake key --password stdin")
def key(*, home: HomePath = DEFAULT_HOME, password: Password, as_json: AsJson = False) -> None:
    """Make the party's key, encrypted under a password of hers."""
    from ledger.chain.keystore import create_keystore, read_password
    from portal.chain import ChainHome
    from portal.chain_stakes import key_of

    word = read_password(password, stdin=sys.stdin, environment=os.environ)
    address = "0x" + create_keystore(key_of(ChainHome(home)), word).address.hex()
    _show({"address": address}, f"the party is {address}", as_json=as_json)


@app.command("bond", epilog="Example:  bithive chain stake bond 5000 --password env:WORD")
def bond(
    amount: Amount,
    *,
    home: HomePath = DEFAULT_HOME,
    node: NodeUrl = None,
    password: Password,
    confirmations: Confirmations = None,
    fee_max: FeeMax = 500,
    as_json: AsJson = False,
) -> None:
    """Bond BTT of the party's account; conduct can cost it."""
    from portal.chain_stakes import base_units

    wanted = base_units(amount)
    done = _staker(home, node, password, confirmations, fee_max).bond(wanted)
    _told(f"bonded {btt_text(wanted)}", done=done, as_json=as_json)


@app.command("unbond", epilog="Example:  bithive chain stake unbond 2000 --password env:WORD")
def unbond(
    amount: Amount,
    *,
    home: HomePath = DEFAULT_HOME,
    node: NodeUrl = None,
    password: Password,
    confirmations: Confirmations = None,
    fee_max: FeeMax = 500,
    as_json: AsJson = False,
) -> None:
    """Give notice for bonded BTT: free after 21 days, and all that was unbonding with it."""
    from portal.chain_stakes import base_units

    wanted = base_units(amount)
    done = _staker(home, node, password, confirmations, fee_max).unbond(wanted)
    _told(f"{btt_text(wanted)} are free in 21 days", done=done, as_json=as_json)


@app.command("withdraw", epilog="Example:  bithive chain stake withdraw --password env:WORD")
def withdraw(
    *,
    home: HomePath = DEFAULT_HOME,
    node: NodeUrl = None,
    password: Password,
    confirmations: Confirmations = None,
    fee_max: FeeMax = 500,
    as_json: AsJson = False,
) -> None:
    """Take out what is free."""
    done = _staker(home, node, password, confirmations, fee_max).withdraw()
    _told("withdrawn", done=done, as_json=as_json)


@app.command("show", epilog="Example:  bithive chain stake show --json")
def show(*, home: HomePath = DEFAULT_HOME, node: NodeUrl = None, as_json: AsJson = False) -> None:
    """Show how the party's stake stands on the chain; needs no password."""
    from ledger.chain.deployment import open_deployment
    from ledger.chain.keystore import address_in
    from ledger.chain.stakes import stake_of
    from portal.chain import ChainHome, open_node
    from portal.chain_stakes import key_of

    chain = ChainHome(home)
    reached = open_node(chain.node_url(node))
    party = address_in(key_of(chain))
    found = stake_of(reached, open_deployment(chain.deployment, reached), party)
    body = {
        "party": "0x" + party.hex(),
        "state": found.state,
        "bonded_base_units": str(found.bonded),
        "unbonding_base_units": str(found.unbonding),
        "slashable_base_units": str(found.slashable),
        "free_at": found.free_at,
    }
    sentence = f"{found.state}: {btt_text(found.bonded)} bonded, {btt_text(found.unbonding)} leave"
    _show(body, sentence, as_json=as_json)


def _staker(
    home: Path, node: str | None, password: str, confirmations: int | None, fee_max: int
) -> Staker:
    from ledger.chain.keystore import read_password
    from ledger.chain.sender import Limits
    from portal.chain import ChainHome, depth_on, open_node
    from portal.chain_stakes import open_staker

    chain = ChainHome(home)
    reached = open_node(chain.node_url(node))
    limits = Limits(confirmations=depth_on(reached, confirmations), fee_max=fee_max * GWEI)
    word = read_password(password, stdin=sys.stdin, environment=os.environ)
    return open_staker(chain, reached, word, limits)


def _told(sentence: str, *, done: bool, as_json: bool) -> None:
    words = sentence if done else "finished what was begun before; nothing new was sent"
    _show({"done": done}, words, as_json=as_json)


def _show(found: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        Console().print(sentence, highlight=False, soft_wrap=True)
