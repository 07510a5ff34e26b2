"""A Flower grid inside one process: the same ServerApp and ClientApp objects, no network.

``bithive demo`` runs here by default. Messages, contexts and node ids are Flower's own; only the
wire is missing, so a round costs milliseconds where a SuperLink's polling costs seconds. The
class leans on three private fields of Flower 1.41 that its own runtime sets on a message
(message, run and source node id); ``tests/fl_server/test_inprocess.py`` fails when they move.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Final

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

RUN_ID: Final = 1
SERVER_NODE_ID: Final = 1
FIRST_NODE_ID: Final = 1000
CLIENT_APP_FAILED: Final = 2
"""Flower's error code for a ClientApp that raised."""


class InProcessGrid(Grid):
    """Run one ``ClientApp`` for every node config given, in a small pool of threads."""

    def __init__(
        self, app: ClientApp, node_configs: Iterable[Mapping[str, Any]], *, threads: int = 2
    ) -> None:
        TaskIdentity.run_id = RUN_ID
        TaskIdentity.node_id = SERVER_NODE_ID
        TaskIdentity.task_id = 1
        self._app = app
        self._contexts = {
            FIRST_NODE_ID + index: Context(
                run_id=RUN_ID,
                node_id=FIRST_NODE_ID + index,
                node_config=dict(config),
                state=RecordDict(),
                run_config={},
            )
            for index, config in enumerate(node_configs)
        }
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="site")
        self._pending: dict[str, Future[Message]] = {}
        self._numbers = itertools.count(1)
        self._run: Any = None

    def close(self) -> None:
        """Stop the threads once their messages are answered."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def set_run(self, run: Any) -> None:
        """Keep the run; nothing here depends on it."""
        self._run = run

    @property
    def run(self) -> Any:
        """The run that was set."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message; kept because Flower's abstract class still names it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the node ids."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand each message to the ClientApp of its node."""
        numbers = []
        for message in messages:
            number = str(next(self._numbers))
            fields = message.metadata.__dict__
            fields["_message_id"] = number
            fields["_run_id"] = RUN_ID
            fields["_src_node_id"] = SERVER_NODE_ID
            self._pending[number] = self._pool.submit(self._answer, message)
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are ready, each once."""
        asked = [number for number in message_ids if number in self._pending]
        ready = [number for number in asked if self._pending[number].done()]
        return [self._pending.pop(number).result() for number in ready]

    def wait_for_reply(self, message_ids: Iterable[str], seconds: float) -> None:
        """Return when one of the messages is answered, or after ``seconds``."""
        asked = [self._pending[number] for number in message_ids if number in self._pending]
        wait(asked, timeout=seconds, return_when=FIRST_COMPLETED)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send all and wait for all."""
        numbers = self.push_messages(messages)
        return [self._pending.pop(number).result(timeout) for number in numbers]

    def _answer(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return self._app(message=message, context=context)
        except Exception as error:  # noqa: BLE001  # as Flower's runtime: the app's failure is a reply
            return Message(Error(code=CLIENT_APP_FAILED, reason=repr(error)), reply_to=message)
