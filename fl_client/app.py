"""The Flower ClientApp: it carries frames between Flower and the hospital's agent.

It imports Flower and the standard library only. Nothing that decides what leaves the hospital is
here: a study could ship another ClientApp, it still meets the same agent.

The node's configuration names the agent and the file with its token: ``--node-config
'agent="unix:/run/bithive/agent.sock" token="/etc/bithive/agent.token"'``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_client.link import ask
from protocol.frames import MalformedFrame

STYPE: Final = "bithive.frame.v1"
WHOLE_BYTES_MAX: Final = 5 * 2**20
"""A frame no larger than one of Flower's chunks travels as one object."""

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Carry a call to train."""
    return _carry(message, context)


@app.query("job")
def job(message: Message, context: Context) -> Message:
    """Carry the offer of a job."""
    return _carry(message, context)


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Carry the roll call."""
    return _carry(message, context)


@app.query("prepare")
def prepare(message: Message, context: Context) -> Message:
    """Carry news of the site's lane."""
    return _carry(message, context)


@app.query("call")
def call(message: Message, context: Context) -> Message:
    """Carry the call for round keys."""
    return _carry(message, context)


@app.query("key")
def key(message: Message, context: Context) -> Message:
    """Carry whatever a group key is made, taken or recovered by."""
    return _carry(message, context)


@app.query("sum")
def secure_sum(message: Message, context: Context) -> Message:
    """Carry the steps from a set of uploads to an opened sum."""
    return _carry(message, context)


def _carry(message: Message, context: Context) -> Message:
    token = context.node_config.get("token")
    place = None if token is None else Path(str(token))
    reply = ask(str(context.node_config["agent"]), _frame_of(message), place)
    if len(reply) <= WHOLE_BYTES_MAX:
        return Message(RecordDict({"frame": ConfigRecord({STYPE: reply})}), reply_to=message)
    carried = Array(dtype="uint8", shape=(len(reply),), stype=STYPE, data=reply)
    return Message(RecordDict({"frame": ArrayRecord({"frame": carried})}), reply_to=message)


def _frame_of(message: Message) -> bytes:
    whole = next(iter(message.content.config_records.values()), ConfigRecord()).get(STYPE)
    if isinstance(whole, bytes):
        return whole
    array = next(iter(message.content.array_records.values()), ArrayRecord()).get("frame")
    if array is None:
        raise MalformedFrame("the Flower message holds none")
    return bytes(array.data)
