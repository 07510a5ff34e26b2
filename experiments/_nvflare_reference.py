"""NVIDIA FLARE's own homomorphic encryption of a round, called as its workflow calls it.

Every computing step is code of FLARE from PyPI: the context of ``HEBuilder`` by default (CKKS,
N = 8192, primes of 60, 40 and 40 bits, scale 2^40, one secret key for all clients), the filter
``HEModelEncryptor``, FOBS with the decomposer of encrypted tensors, ``WeightedAggregationHelper``
as the HE aggregator sets it up, the addition to the global model and its serialisation as in
``HEModelShareableGenerator``, and the filter ``HEModelDecryptor``::

    encrypt ── FOBS ─▶ FOBS ── add ─▶ 1 / weights ── + global model ── serialise, FOBS ─▶ decrypt
     client    up                          server                                down      client

Left out, in FLARE's favour: its transport, signing and event bus, the other clients' downloads.
It runs on the TenSEAL that is installed; its own extra asks for 0.3.15,
which was not tried; 0.3.16 cost the same.

References:
    NVIDIA/NVFlare, release 2.9.0: nvflare/lighter/impl/he.py, nvflare/app_opt/he,
    nvflare/app_common/aggregators/weighted_aggregation_helper.py.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import tenseal

from experiments._stopwatch import Stopwatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOCAL_STEPS = 10
"""What each client weighs its update by; any number costs the same."""


def installed() -> bool:
    """Return whether FLARE is there to compare with."""
    return find_spec("nvflare") is not None


class NvflareRound:
    """One round of one model: clients one after another, then the server's end, then opening.

    Args:
        shapes: Of the model's tensors, by name.
        stopwatch: Gets the stages ``nvflare client``, ``server``, ``close`` and ``open``.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], stopwatch: Stopwatch) -> None:
        from nvflare.apis.fl_context import FLContext  # noqa: PLC0415  # optional, and slow to load
        from nvflare.app_common.aggregators.weighted_aggregation_helper import (  # noqa: PLC0415
            WeightedAggregationHelper,
        )
        from nvflare.app_opt.he.model_decryptor import HEModelDecryptor  # noqa: PLC0415
        from nvflare.app_opt.he.model_encryptor import HEModelEncryptor  # noqa: PLC0415
        from nvflare.lighter.impl.he import HEBuilder  # noqa: PLC0415

        logging.getLogger("nvflare").setLevel(logging.WARNING)
        self.shapes = dict(shapes)
        self.stopwatch = stopwatch
        self.context = FLContext()
        builder = HEBuilder()
        builder.initialize(None, None)
        client = tenseal.context_from(builder.get_serialized_context(is_client=True))
        self.encryptor = HEModelEncryptor()
        # What the START_RUN event sets, and what the filter reads from each update's envelope.
        self.encryptor.tenseal_context, self.encryptor.encrypt_layers = client, [True]
        self.encryptor.n_iter = _LOCAL_STEPS
        self.decryptor = HEModelDecryptor()
        self.decryptor.tenseal_context = client
        self.helper = WeightedAggregationHelper(weigh_by_local_iter=False)
        self.mean = np.zeros(sum(int(np.prod(shape)) for shape in shapes.values()))
        self.clients = 0
        self.up_bytes = 0

    def contribute(self, vector: NDArray[np.float32]) -> None:
        """Encrypt one client's update, send it, and add it at the server."""
        from nvflare.apis.dxo import DXO, DataKind, MetaKey  # noqa: PLC0415
        from nvflare.fuel.utils import fobs  # noqa: PLC0415

        tensors = self._tensors(vector)
        with _quiet(), self.stopwatch.timed("nvflare client"):
            encrypted, processed = self.encryptor.encryption(tensors, self.context)
            meta = {MetaKey.PROCESSED_KEYS: processed}
            sent = fobs.dumps(DXO(DataKind.WEIGHT_DIFF, data=encrypted, meta=meta))
        del encrypted, tensors
        self.up_bytes = len(sent)
        with _quiet(), self.stopwatch.timed("nvflare server"):
            received = fobs.loads(sent)
            self.helper.add(received.data, _LOCAL_STEPS, f"client-{self.clients}", 1)
        self.clients += 1
        self.mean += vector

    def close(self) -> bytes:
        """Return the new global model, encrypted, as the server sends it to every client."""
        from nvflare.app_opt.he.homomorphic_encrypt import serialize_nested_dict  # noqa: PLC0415
        from nvflare.app_opt.he.model_shareable_generator import (  # noqa: PLC0415
            add_to_global_weights,
        )
        from nvflare.fuel.utils import fobs  # noqa: PLC0415

        before = {name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()}
        with _quiet(), self.stopwatch.timed("nvflare close"):
            mean = self.helper.get_result()
            after = {
                name: add_to_global_weights(value, before, name)[0] for name, value in mean.items()
            }
            return bytes(fobs.dumps(serialize_nested_dict(after)))

    def open(self, model: bytes) -> NDArray[np.float64]:
        """Decrypt the global model as one client does."""
        from nvflare.fuel.utils import fobs  # noqa: PLC0415

        with _quiet(), self.stopwatch.timed("nvflare open"):
            received = fobs.loads(model)
            processed = dict.fromkeys(received, True)
            opened = self.decryptor.decryption(received, processed, self.context)
        return np.concatenate([np.asarray(opened[name]) for name in self.shapes])

    def error_max(self, opened: NDArray[np.float64]) -> float:
        """Return the largest error of the opened mean, in the units of the weights."""
        return float(np.abs(opened - self.mean / self.clients).max())

    def _tensors(self, vector: NDArray[np.float32]) -> dict[str, Any]:
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])[:-1]
        parts = np.split(vector, ends)
        return {
            name: part.reshape(shape)
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep TenSEAL's warning about long vectors, printed from C++, off standard output."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
