"""The model as the server keeps it: whole where a test or a person wants it, else in slices.

ResNet-18 has 45 MB of weights and as many of momentum. A round reads them slice by slice, steps and
writes each (``aggregation.Stepping``, ``store.close_with``), and holds a slice of each at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from fl_server.parts import Parts
from models.algorithms.interface import GlobalState
from models.algorithms.scaffold import CONTROL

SLICE: Final = 2**18
"""Numbers of a model that are in memory at a time."""
Read = Callable[[int], GlobalState]
"""Gives a model's next numbers, of each of its vectors as many."""


@dataclass(frozen=True)
class ModelState:
    """The model after a round: weights, server momentum, next quantisation steps.

    ``carried`` is what the study's algorithm has beside these, ``(parameters,)`` each, by name.
    """

    vector: NDArray[np.float32]  # (parameters,)
    momentum: NDArray[np.float32]  # (parameters,)
    steps: NDArray[np.float64]  # (tensors,)
    carried: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def sent(self) -> NDArray[np.float32]:
        """What the sites get: the weights, and SCAFFOLD's control after them where there is one."""
        if CONTROL not in self.carried:
            return self.vector
        return np.concatenate([self.vector, self.carried[CONTROL].astype(np.float32)])

    @property
    def blob(self) -> bytes:
        """What is sent, as little-endian float32."""
        return self.sent.astype("<f4").tobytes()

    @cached_property
    def sha256(self) -> str:
        """The digest of what is sent, which plans, manifests and receipts name the model by."""
        return hashlib.sha256(self.blob).hexdigest()


class ModelReader:
    """Reads a stored model from the front, a few numbers of each of its vectors at a time."""

    def __init__(
        self, parts: Parts, connection: sa.Connection, number: int, carried: Sequence[str]
    ) -> None:
        def stream(kind: str, name: str, form: str) -> _Numbers:
            return _Numbers(parts.pieces(connection, number, kind, name), form)

        self._vector = stream("model", "vector", "<f4")
        self._momentum = stream("model", "momentum", "<f4")
        self._carried = {name: stream("carried", name, "<f8") for name in carried}

    def __call__(self, count: int) -> GlobalState:
        """Return the next ``count`` numbers, fewer at the end."""
        weights, momentum = self._vector.take(count), self._momentum.take(count)
        return GlobalState(
            weights,
            momentum if momentum.size else np.zeros_like(weights),  # zeros alone are not kept
            {name: numbers.take(count) for name, numbers in self._carried.items()},
        )


class _Numbers:
    """Numbers in pieces of bytes, taken in other pieces."""

    def __init__(self, pieces: Iterator[bytes], form: str) -> None:
        self._pieces, self._form, self._left = pieces, np.dtype(form), b""

    def take(self, count: int) -> NDArray[Any]:
        size = count * self._form.itemsize
        found = [self._left]
        while sum(map(len, found)) < size and (piece := next(self._pieces, b"")):
            found.append(piece)
        joined = b"".join(found)
        self._left = joined[size:]
        return np.frombuffer(joined[:size], self._form)


def unchanged(read: Read) -> Iterator[GlobalState]:
    """Yield a model as it is."""
    while (part := read(SLICE)).vector.size:
        yield part
