"""Replies of a SuperLink, each taken when all of it is there; nothing here waits for one.

A SuperLink tells of a reply as soon as its node has announced it, and the parts come after.
Flower's own ``HttpGrid.pull_messages`` waits for them on the spot, for as long as they keep coming
and for three minutes after the last: a node that died between the two, or that sends a part now and
then, would hold up a round beyond its every deadline, and nobody else would be heard meanwhile.
Here a reply whose parts are not all there is put by and looked at again.

What a node sends is hostile, and Flower puts it together as it comes: whatever that raises is one
node's failure and not the round's.

What holds, each a test in tests/fl_server/test_replies.py:

1. No look waits for a part, and none hides another node's reply.
2. The parts of one reply are in memory at a time, and no more of them than a message of ours has.
3. A reply is told once; one that the SuperLink has given up is an error.
4. Bytes that are no reply, or one to another message, are an error of who sent them.

References:
    Flower 1.41, ``flwr.superlink.grid.http_grid``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.superlink.grid.http_grid import HttpGrid

from protocol.parts import MESSAGE_BYTES_MAX, PARTS_MAX, PartsRefused, check_parts


@dataclass
class _Coming:
    """A reply that was announced: its id, its parts, and those not seen yet, the next one last."""

    message: str
    parts: tuple[str, ...]
    unseen: list[str]


class Replies:
    """What has come to a SuperLink for one ServerApp.

    Args:
        grid: The ServerApp's.
        clock: Seconds that only grow.
    """

    def __init__(self, grid: HttpGrid, clock: Callable[[], float] = time.monotonic) -> None:
        self._grid = grid
        self._clock = clock
        self._coming: dict[str, _Coming] = {}
        self.announced_at = float("-inf")
        """When a reply was last announced: its parts are to be expected soon."""

    def pull(self, asked: Sequence[str]) -> Iterator[Message]:
        """Look once for replies to the messages of these ids; yield those that are whole."""
        new = [one for one in asked if one not in self._coming]
        try:
            self._announced(new)
        except ValueError as error:  # one node's answer, in which others' are lost: ask them again
            yield from [self._given_up(one, str(error)) for one in new if one not in self._coming]
        for number in asked:
            if number not in self._coming:
                continue
            reply = self._taken(number, self._coming[number])
            if reply is not None:
                del self._coming[number]
                yield reply

    def forget(self, asked: str) -> None:
        """Let go of what was announced in answer to a message."""
        self._coming.pop(asked, None)

    def _announced(self, asked: list[str]) -> None:
        if not asked:
            return
        found = self._client.PullMessages(PullAppMessagesRequest(message_ids=asked))
        for message, tree in zip(found.messages_list, found.message_object_trees, strict=True):
            parts = tuple(dict.fromkeys(one.object_id for one in iterate_object_tree(tree)))
            to = message.metadata.reply_to_message_id
            if to in asked:
                unseen = list(reversed(parts))
                self._coming[to] = _Coming(message.metadata.message_id, parts, unseen)
                self.announced_at = self._clock()

    def _taken(self, asked: str, coming: _Coming) -> Message | None:
        """Return the reply if it is whole; else keep only which parts are there."""
        try:
            contents = self._contents(coming)
        except ObjectUnavailableError:
            return None
        except (ObjectPullError, PartsRefused) as error:
            return self._given_up(asked, str(error))
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._grid.node, run_id=self._run, message_object_id=coming.message
            )
        )
        reply = _put_together(coming.message, contents)
        if reply is None or reply.metadata.reply_to_message_id != asked:
            return self._given_up(asked, "its bytes are no reply to it")
        reply.metadata.__dict__["_message_id"] = coming.message
        return reply

    def _contents(self, coming: _Coming) -> dict[str, bytes]:
        """Return all parts of a reply.

        Raises:
            ObjectUnavailableError: One is not there yet.
            ObjectPullError: The SuperLink has given one up.
            PartsRefused: They are more, or larger, than those of a message of ours.
        """
        if len(coming.parts) > PARTS_MAX:
            raise PartsRefused(f"it has more than {PARTS_MAX} parts")
        pull = make_pull_object_fn_protobuf(self._client.PullObject, self._grid.node, self._run)
        contents: dict[str, bytes] = {}
        left = MESSAGE_BYTES_MAX

        def take(part: str) -> None:
            nonlocal left
            contents[part] = pull(part)
            left -= len(contents[part])
            if left < 0:
                raise PartsRefused(f"it has more than {MESSAGE_BYTES_MAX} bytes")

        while coming.unseen:
            take(coming.unseen[-1])
            coming.unseen.pop()
        for part in coming.parts:
            if part not in contents:  # it was seen at an earlier look
                take(part)
        check_parts(contents)
        return contents

    def _given_up(self, asked: str, why: str) -> Message:
        metadata = Metadata(
            run_id=self._run,
            message_id="",
            src_node_id=self._grid.node.node_id,
            dst_node_id=self._grid.node.node_id,
            reply_to_message_id=asked,
            group_id="",
            created_at=0.0,
            ttl=0.0,
            message_type=SYSTEM_MESSAGE_TYPE,
        )
        return make_message(metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, why))

    @property
    def _client(self) -> Any:
        return self._grid._runtime_client  # noqa: SLF001  # Flower offers no other way to look once

    @property
    def _run(self) -> int:
        return self._grid.run.run_id


def _put_together(number: str, contents: dict[str, bytes]) -> Message | None:
    """Return the message of these parts, or None where they are none."""
    try:
        reply: Any = inflate_object_from_contents(number, contents)
    except Exception:  # noqa: BLE001  # whatever Flower says of bytes that are no message
        return None
    if not isinstance(reply, Message):
        return None
    sound = reply.has_error() or (reply.has_content() and isinstance(reply.content, RecordDict))
    return reply if sound else None
