"""Hospitals that only sum, behind sockets: real keys, pads and encryption, drawn updates.

Each answers frames as an agent does; what it "trained" is drawn once. They live in a process of
their own, so that what a server needs of memory can be told apart from what they need.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from fl_client.contribution import signed_frame
from fl_client.group_keys import GroupKeys
from fl_client.masking import Masking
from fl_client.store import SiteStore
from fl_client.summation import Summation
from privacy.keys import SiteKeys
from privacy.masks import apply
from privacy.packing import pack
from privacy.parameters import parameter_set
from privacy.quantisation import QuantisedUpdate
from protocol.canonical import body, digest, read
from protocol.errors import BitHiveError
from protocol.frames import Frame, decode, encode
from protocol.ids import SiteId
from protocol.messages import Join, Receipt, RoundPlan
from protocol.progress import silent
from protocol.terms import ConsentTerms, PrivacyTerms, SiteIdentity, StudyTerms, TrainingTerms

ENCRYPTION: Final = "packed-bfv-8"
LENGTH_BYTES: Final = 8
WEIGHT: Final = 100
NOTHING: Final = "0" * 64


def terms_of(
    keys: Mapping[SiteId, SiteKeys], server_key: bytes, tensor_sizes: tuple[int, ...], rounds: int
) -> StudyTerms:
    """Return the terms of a study that only sums."""
    return StudyTerms.model_validate(
        {
            "study": "sums",
            "title": "sums only",
            "rounds": rounds,
            "sites": tuple(
                SiteIdentity(
                    site=site, signing_key=one.signing_public, agreement_key=one.agreement_public
                )
                for site, one in keys.items()
            ),
            "server_key": server_key,
            "training": TrainingTerms(
                network="none",
                input_shape=(1,),
                tensor_sizes=tensor_sizes,
                reference_patients=WEIGHT,
                learning_rate=1,
                server_learning_rate=1,
                server_momentum=0.9,
                augment=False,
                algorithm="fedavgm",
            ),
            "privacy": PrivacyTerms(
                epsilon=1,
                delta=1e-6,
                sampling_rate=1,
                noise_multiplier=1,
                clipping_norm=1,
                steps=1,
                accountant="rdp",
            ),
            "consent": ConsentTerms(
                registry="none",
                registry_key=bytes(32),
                dataset="none",
                required=1,
                from_day=20_000,
                through_day=20_010,
                circuit="cover8",
                key_hash=NOTHING,
            ),
            "encryption": ENCRYPTION,
        }
    )


@dataclass
class Hospital:
    """One site's part in sums."""

    site: SiteId
    terms: StudyTerms
    keys: SiteKeys
    path: Path
    seed: int
    store: SiteStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = SiteStore(self.path)
        parameters = parameter_set(self.terms.encryption)
        self.group = GroupKeys(self.site, self.terms, self.keys, self.store, parameters)
        self.masking = Masking(self.site, self.terms, self.keys, self.store, parameters)
        self.summation = Summation(
            self.site, self.terms, self.keys, self.store, parameters, self.group, silent
        )
        self._lock = threading.Lock()

    def answer(self, frame: bytes) -> bytes:
        """Answer a frame."""
        doors: dict[str, Callable[[Frame], bytes]] = {
            "join": self._join,
            "call": self.masking.call,
            "deal-key": self.group.deal,
            "take-key": self.group.take,
            "train": self._train,
            "endorse": self.summation.endorse,
            "unmask": self.summation.unmask,
            "open": self.summation.open,
        }
        with self._lock:
            try:
                request = decode(frame)
                return doors[request.kind](request)
            except BitHiveError as error:
                return encode("refused", {"code": error.code, "reason": str(error)})

    def _join(self, request: Frame) -> bytes:
        held = self.store.keys.held(self.terms.study)
        join = Join(
            site=self.site,
            terms=digest(self.terms),
            nonce=request.body["nonce"],
            key_id="" if held is None else held.key_id,
        )
        return encode("joined", body(join.signed_by(self.keys.sign)))

    def _train(self, request: Frame) -> bytes:
        plan = read(RoundPlan, request.body.get("plan"))
        earlier = self.store.answer(plan.study, plan.round, digest(plan))
        if earlier is not None:
            return earlier
        parameters = parameter_set(self.terms.encryption)
        self.masking.begin(plan, request.blobs.get("shares", b""))
        length = self.terms.training.parameters
        values = np.random.default_rng(self.seed).integers(-127, 128, length).astype(np.int16)
        packed = pack(QuantisedUpdate(values, parameters.value_bits, 0), WEIGHT, parameters)
        masked = apply(packed, [self.masking.pad(plan)])
        update = self.group.cipher(plan.key_id).encrypt(masked)
        receipt = Receipt(
            study=plan.study,
            round=plan.round,
            site=self.site,
            ciphertext_sha256=hashlib.sha256(update.blob).hexdigest(),
            consent_root=plan.epoch.root,
            certificates=(),
            proven_patients=WEIGHT,
            gradients=WEIGHT,
            epsilon_spent="1",
            delta="0.000001",
            clipping_norm="1",
            model_sha256=plan.model,
            site_key=self.keys.signing_public,
        )
        reply = signed_frame(receipt, update, self.keys)
        self.store.keep_answer(plan.study, plan.round, digest(plan), reply, None)
        return reply


@contextmanager
def listening(hospitals: Mapping[SiteId, Hospital], folder: Path) -> Iterator[list[Path]]:
    """Serve each hospital on a Unix socket, a frame a connection; yield the sockets' paths."""
    doors: list[tuple[socket.socket, Path]] = []
    for index, site in enumerate(sorted(hospitals)):
        path = folder / f"{index}.sock"
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        door.bind(os.fspath(path))
        door.listen()
        doors.append((door, path))
        threading.Thread(target=_serve, args=(door, hospitals[site].answer), daemon=True).start()
    try:
        yield [path for _, path in doors]
    finally:
        for door, _ in doors:
            door.close()


@dataclass
class SocketTransport:
    """A transport of frames over sockets, one site after another: it never holds two."""

    paths: list[Path]

    def nodes(self) -> list[int]:
        """Return one node for each socket."""
        return list(range(len(self.paths)))

    def exchange(
        self, _kind: str, requests: Mapping[int, bytes], **_how: Any
    ) -> Iterator[tuple[int, bytes | None]]:
        """Ask each node in turn."""
        for node in list(requests):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(os.fspath(self.paths[node]))
                _send(connection, requests[node])
                replies = [_receive(connection)]
            yield node, replies.pop()  # nothing here holds on to it

    def late(self) -> list[Any]:
        """Nothing comes late: each is waited for."""
        return []


def _serve(door: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    while True:
        try:
            connection, _ = door.accept()
        except OSError:  # closed
            return
        with connection:
            _send(connection, answer(_receive(connection)))


def _send(connection: socket.socket, frame: bytes) -> None:
    connection.sendall(len(frame).to_bytes(LENGTH_BYTES, "big"))
    connection.sendall(frame)


def _receive(connection: socket.socket) -> bytes:
    return _exactly(connection, int.from_bytes(_exactly(connection, LENGTH_BYTES), "big"))


def _exactly(connection: socket.socket, length: int) -> bytes:
    found = io.BytesIO()
    while (left := length - found.tell()) > 0:
        piece = connection.recv(min(left, 2**20))
        if not piece:
            raise ConnectionError("the other side went away")
        found.write(piece)
    return found.getvalue()
