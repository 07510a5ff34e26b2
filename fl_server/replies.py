"""Replies of a SuperLink, each taken when all of it is there; nothing here waits for one.

A SuperLink tells of a reply as soon as its node has announced it, and the parts come after.
Flower's own ``HttpGrid.pull_messages`` waits for them on the spot, for as long as they keep coming
and for three minutes after the last: a node that died between the two, or that sends a part now and
then, would hold up a round beyond its every deadline, and nobody else would be heard meanwhile.
Here a reply whose parts are not all there is put by and looked at again.

What holds, each a test in tests/fl_server/test_replies.py:

1. No look waits for a part, and none hides another node's reply.
2. The parts of one reply are in memory at a time.
3. A reply is told once; one that the SuperLink has given up is an error.

References:
    Flower 1.41, ``flwr.superlink.grid.http_grid``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from flwr.app import Error, Message, Metadata
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
        self._announced([one for one in asked if one not in self._coming])
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
            self._coming[to] = _Coming(message.metadata.message_id, parts, list(reversed(parts)))
            self.announced_at = self._clock()

    def _taken(self, asked: str, coming: _Coming) -> Message | None:
        """Return the reply if it is whole; else keep only which parts are there."""
        pull = make_pull_object_fn_protobuf(self._client.PullObject, self._grid.node, self._run)
        contents: dict[str, bytes] = {}
        try:
            while coming.unseen:
                contents[coming.unseen[-1]] = pull(coming.unseen[-1])
                coming.unseen.pop()
            for part in coming.parts:
                if part not in contents:  # it was seen at an earlier look
                    contents[part] = pull(part)
        except ObjectUnavailableError:
            return None
        except ObjectPullError as error:
            return self._given_up(asked, str(error))
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._grid.node, run_id=self._run, message_object_id=coming.message
            )
        )
        reply = cast("Message", inflate_object_from_contents(coming.message, contents))
        reply.metadata.__dict__["_message_id"] = coming.message
        return reply

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
