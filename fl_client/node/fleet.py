"""The connection to a SuperLink, in Flower's words: the one module of the node that knows Flower.

It uses the client that Flower's own SuperNode uses, ``FleetHttpClient``, call by call: activate,
heartbeat, pull a message and its objects, push a reply and its objects. Left aside is what
SuperNode puts around it: no process is started, no bundle is fetched, no code of a study is run,
and nothing ends this process because a server said so.

Every request is signed with the node's key over the time. Flower's server takes a time up to five
seconds ahead of its own, so a hospital whose clock is off would be locked out; requests are signed
with the server's time, known from the ``Date`` of its answers over TLS.

What of Flower is used is pinned to 1.41 by ``tests/fl_client/test_node_flower.py``.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, RecordDict
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.common.constant import TIMESTAMP_HEADER, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supernode.fleet_http_client import FleetHttpClient

from fl_client.node.bounds import Budget, MessageTooLarge, bounded_client
from fl_client.node.errand import Errand, ErrandOver, LinkDown, NodeNotActivated, NodeRefused, Reply
from protocol.errors import ConfigurationError
from protocol.parts import PARTS_MAX, check_parts

FRAME: Final = "frame"
STYPE: Final = "bithive.frame.v1"
WHOLE_BYTES_MAX: Final = 5 * 2**20
"""A frame no larger than one of Flower's chunks travels as one object."""
REQUEST_SECONDS: Final = 30.0
OBJECT_PAUSE_SECONDS: Final = 0.05
"""A message may be seen before its objects are there; Flower's own pause is a second."""
OBJECT_WAIT_SECONDS: Final = 300.0
OBJECT_TRIES_MAX: Final = 1000
CLOCK_SECONDS: Final = 2.0
"""``Date`` counts whole seconds: a smaller difference is none."""
T = TypeVar("T")


class NodeKeyUnreadable(ConfigurationError):
    """The node's key file is not an ECDSA key as Flower reads it."""

    code = "node-key-unreadable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(
            f"the node key {path} cannot be used ({reason}); give the OpenSSH file of an "
            "unencrypted ECDSA key, as `bithive site init` makes it"
        )


class CertificateUnreadable(ConfigurationError):
    """A certificate or key for TLS cannot be read."""

    code = "certificate-unreadable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(f"{path} cannot be used for TLS ({reason}); give a PEM file")


@dataclass(frozen=True)
class Credentials:
    """What the node shows and what it trusts.

    ``authority`` signs the server's certificate. ``certificate`` and ``key`` are the site's own,
    for a front door that asks for one. With ``revoked``, the operator's list, a server whose
    certificate is on it is not spoken to, and neither is any once the list is past its day.
    """

    authority: Path
    node_key: Path
    certificate: Path | None = None
    key: Path | None = None
    revoked: Path | None = None


class ServerClock:
    """What is known of the server's time: this machine's, corrected where the two differ."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._ahead = 0.0

    def now(self) -> float:
        """Return the server's time, seconds since 1970."""
        return self._now() + self._ahead

    def see(self, date: str | None) -> None:
        """Learn from the ``Date`` of an answer."""
        if date is None:
            return
        try:
            ahead = parsedate_to_datetime(date).timestamp() - self._now()
        except (ValueError, OverflowError):
            return
        self._ahead = ahead if abs(ahead) > CLOCK_SECONDS else 0.0


class _SignedRequests:
    """Sign the server's time with the node's key, as Flower's server checks it."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, clock: ServerClock) -> None:
        self._key = key
        self._public = b64encode(public_key_to_bytes(key.public_key())).decode()
        self._clock = clock

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Add the headers; remember the time of the answer."""
        at = datetime.fromtimestamp(self._clock.now(), UTC).isoformat()
        context.request.headers.update(
            {
                FLEET_HTTP_PUBLIC_KEY_HEADER: self._public,
                TIMESTAMP_HEADER: at,
                FLEET_HTTP_SIGNATURE_HEADER: b64encode(
                    sign_message(self._key, at.encode("ascii"))
                ).decode(),
            }
        )
        response = call_next(context)
        self._clock.see(response.headers.get("date"))
        return response


class _BoundedFleet(FleetHttpClient):
    """Flower's client, which by itself reads any answer whole and follows it wherever it leads."""

    def __init__(self, url: str, *, interceptors: list[Any], verify: ssl.SSLContext) -> None:
        super().__init__(url, interceptors=interceptors, verify=verify)
        self.close()
        self._client = bounded_client(verify, timeout_seconds=REQUEST_SECONDS)


class Fleet:
    """One node's connection to a SuperLink; see ``fl_client.node.errand.Connection``.

    Args:
        address: Host and port.
        credentials: Keys and certificates.
        silence_seconds: After this long without a sign of life the server counts the node as gone
            and answers in its stead that it is unavailable.
    """

    def __init__(self, address: str, credentials: Credentials, *, silence_seconds: float) -> None:
        self._address = address
        self._silence_seconds = silence_seconds
        key = _node_key(credentials.node_key)
        self._public = public_key_to_bytes(key.public_key())
        self._clock = ServerClock()
        self._node: Node | None = None
        self._client = _BoundedFleet(
            f"https://{address}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                _SignedRequests(key, self._clock),
            ],
            verify=_tls(credentials),
        )

    @property
    def address(self) -> str:
        """The server's host and port."""
        return self._address

    def now(self) -> float:
        """Return the server's time."""
        return self._clock.now()

    def activate(self) -> int:
        """Announce the node; return its id."""
        request = ActivateNodeRequest(
            public_key=self._public, heartbeat_interval=self._silence_seconds / 2
        )
        response = self._call(lambda: self._client.ActivateNode(request))
        self._node = Node(node_id=response.node_id)
        return int(response.node_id)

    def resume(self, node: int) -> None:
        """Go on as ``node``."""
        before, self._node = self._node, Node(node_id=node)
        try:
            self.beat()
        except (LinkDown, NodeRefused):
            self._node = before
            raise

    def beat(self) -> None:
        """Tell the server that the node lives."""
        # Flower marks a node offline after two intervals.
        request = SendNodeHeartbeatRequest(
            node=self._node, heartbeat_interval=self._silence_seconds / 2
        )
        response = self._call(lambda: self._client.SendNodeHeartbeat(request))
        if not response.success:
            raise NodeRefused(self._address, "it is not registered any more")

    def pull(self) -> Errand | None:
        """Fetch notice of the next message."""
        request = PullMessagesRequest(node=self._node)
        return self._call(lambda: _errand(self._client.PullMessages(request)))

    def fetch(self, errand: Errand) -> bytes | None:
        """Fetch the frame a message carries; it stays at the server until it is answered."""
        if len(errand.objects) > PARTS_MAX:
            return None
        part = make_pull_object_fn_protobuf(self._client.PullObject, self._node, errand.run)
        budget = Budget()

        def pull(name: str) -> bytes:
            content = part(name)
            budget.take(len(content))
            return content

        contents = self._told(
            lambda: pull_objects(
                list(dict.fromkeys(errand.objects)),
                pull,
                initial_backoff=OBJECT_PAUSE_SECONDS,
                backoff_cap=1.0,
                max_time=OBJECT_WAIT_SECONDS,
                max_tries_per_object=OBJECT_TRIES_MAX,
            )
        )
        try:
            check_parts(contents)  # an array may name one of them again and again
            return frame_of(inflate_object_from_contents(errand.message, contents))
        except Exception:  # noqa: BLE001  # whatever Flower says of bytes that are no message
            return None

    def push(self, reply: Reply) -> None:
        """Bring an answer and its objects."""
        assert self._node is not None
        with no_object_id_recompute():
            message = _message(reply, self._node.node_id)
            message.metadata.__dict__["_message_id"] = message.object_id
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(message))],
                message_object_trees=[get_object_tree(message)],
                clientapp_runtime_list=[reply.seconds],
            )
            response = self._call(lambda: self._client.PushMessages(request))
            push_object = make_push_object_fn_protobuf(
                self._client.PushObject, self._node, reply.errand.run, response.session_id
            )
            objects = get_all_nested_objects(message)
            wanted = set(response.objects_to_push)
            self._call(lambda: push_objects(objects, push_object, object_ids_to_push=wanted))
        self._confirm(reply.errand)

    def leave(self) -> None:
        """Tell the server that the node goes."""
        if self._node is None:
            return
        with contextlib.suppress(httpx.HTTPError, ValueError):  # else it finds out by itself
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _confirm(self, errand: Errand) -> None:
        """Let the server drop a message that was answered; it does so at the run's end anyway."""
        confirm = make_confirm_message_received_fn_protobuf(
            self._client.ConfirmMessageReceived, self._node, errand.run
        )
        with contextlib.suppress(LinkDown, NodeRefused, ErrandOver):
            self._call(lambda: confirm(errand.message))

    def _call(self, call: Callable[[], T]) -> T:
        """Make one request; say what went wrong in our words."""
        try:
            return self._told(call)
        except MessageTooLarge as error:
            raise LinkDown(self._address, str(error)) from error

    def _told(self, call: Callable[[], T]) -> T:
        """Do as ``_call``, but let an answer that is too large be told from a broken link."""
        try:
            return call()
        except httpx.HTTPStatusError as error:
            raise self._refusal(error.response) from error
        except httpx.TransportError as error:
            raise LinkDown(self._address, str(error) or type(error).__name__) from error
        except (ValueError, IndexError) as error:  # a proxy's page, say
            raise LinkDown(self._address, "its answer is not of Flower's protocol") from error
        except ObjectPullError as error:
            raise ErrandOver("its parts are not at the server") from error
        except ObjectPushError as error:  # the server gave up waiting for a part: bring it again
            raise LinkDown(self._address, "a part of an answer came too late") from error

    def _refusal(self, response: httpx.Response) -> Exception:
        told = FlowerError.from_json(response.text)
        if told is not None and told.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
            return NodeNotActivated(self._address)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            return NodeRefused(self._address, "unknown key, or a time that is off")
        if response.status_code == httpx.codes.FORBIDDEN:
            return ErrandOver("its run has ended")
        return LinkDown(self._address, f"status {response.status_code}")


def frame_of(message: Any) -> bytes | None:
    """Return the frame a message carries, or None where it carries something else."""
    if not isinstance(message, Message) or not message.has_content():
        return None
    for whole in message.content.config_records.values():
        frame = whole.get(STYPE)
        if isinstance(frame, bytes):
            return frame
    for record in message.content.array_records.values():
        array = record.get(FRAME)
        if array is not None and array.stype == STYPE:
            return bytes(array.data)
    return None


def _errand(response: PullMessagesResponse) -> Errand | None:
    if not response.messages_list:
        return None
    metadata = message_from_proto(response.messages_list[0]).metadata
    tree = response.message_object_trees[0]
    return Errand(
        objects=tuple(one.object_id for one in iterate_object_tree(tree)),
        run=metadata.run_id,
        sender=metadata.src_node_id,
        kind=metadata.message_type,
        group=metadata.group_id,
        created_at=metadata.created_at,
        lives_seconds=metadata.ttl,
        task=metadata.src_task_id,
    )


def _message(reply: Reply, node: int) -> Message:
    """Return the reply as Flower's message; equal replies give equal ids."""
    errand = reply.errand
    metadata = Metadata(
        run_id=errand.run,
        message_id="",  # the hash of the message, set once it is whole
        src_node_id=node,
        dst_node_id=errand.sender,
        reply_to_message_id=errand.message,
        group_id=errand.group,
        created_at=reply.answered_at,
        ttl=errand.expires_at - reply.answered_at,
        message_type=errand.kind,
        dst_task_id=errand.task,
    )
    metadata.delivered_at = ""
    if reply.frame is None:
        code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        return make_message(metadata=metadata, error=Error(code=code, reason=reply.reason))
    return make_message(metadata=metadata, content=_content(reply.frame))


def _content(frame: bytes) -> RecordDict:
    if len(frame) <= WHOLE_BYTES_MAX:
        return RecordDict({FRAME: ConfigRecord({STYPE: frame})})
    array = Array(dtype="uint8", shape=(len(frame),), stype=STYPE, data=frame)
    return RecordDict({FRAME: ArrayRecord({FRAME: array})})


def _node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise NodeKeyUnreadable(path, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise NodeKeyUnreadable(path, "it is of another kind")
    return key


def _tls(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    at = credentials.authority
    try:
        context.load_verify_locations(credentials.authority)
        if credentials.certificate is not None:
            at = credentials.certificate
            context.load_cert_chain(credentials.certificate, credentials.key)
        if credentials.revoked is not None:
            at = credentials.revoked
            context.load_verify_locations(credentials.revoked)
            # RFC 5280, section 6.3: without a list of the certificate's issuer nothing passes.
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CertificateUnreadable(at, str(error)) from error
    return context
