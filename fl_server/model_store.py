"""The models of a run, one after each round: read and written in pieces, or whole where one asks.

A model's weights, momentum and what its algorithm carries are kept as parts (``fl_server.parts``).
What sites are sent of it has a digest, by which plans, manifests and receipts name the model. A
round's model is written in the transaction that closes the round; so these writers take its
connection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from fl_server.database import ServerDatabase
from fl_server.model_state import ModelReader, ModelState, Read
from fl_server.parts import in_form
from fl_server.tables import MODELS
from models.algorithms.interface import GlobalState
from models.algorithms.scaffold import CONTROL

_HEAD: Final = sa.select(MODELS.c.sha256, MODELS.c.steps).where(
    MODELS.c.round == sa.bindparam("number")
)
_CARRIED: Final = sa.select(MODELS.c.carried).where(MODELS.c.round == sa.bindparam("number"))


class StoredModels:
    """The models of a database."""

    def __init__(self, database: ServerDatabase) -> None:
        self._database = database

    def at(self, round_number: int) -> ModelState:
        """Return the model as it stood after ``round_number`` (0 before the first), whole."""
        query = sa.select(MODELS).where(MODELS.c.round == round_number)
        with self._database.reading() as connection:
            row = connection.execute(query).one()

            def vector(kind: str, name: str, form: str) -> NDArray[Any]:
                blob = self._database.parts.whole(connection, round_number, kind, name)
                return np.frombuffer(blob, form)

            weights = vector("model", "vector", "<f4").astype(np.float32, copy=False)
            momentum = vector("model", "momentum", "<f4").astype(np.float32, copy=False)
            return ModelState(
                weights,
                momentum if momentum.size else np.zeros_like(weights),
                np.frombuffer(row.steps, "<f8").astype(np.float64),
                {
                    name: vector("carried", name, "<f8").astype(np.float64, copy=False)
                    for name in json.loads(row.carried)
                },
            )

    def head(self, round_number: int) -> tuple[str, NDArray[np.float64]]:
        """Return the digest of what the sites are sent of a model, and its quantisation steps."""
        with self._database.reading() as connection:
            row = connection.execute(_HEAD, {"number": round_number}).one()
        return row.sha256, np.frombuffer(row.steps, "<f8").astype(np.float64)

    def sent(self, round_number: int) -> Iterator[bytes]:
        """Yield what the sites are sent of the model after a round, ``ModelState.blob``."""
        with self._database.reading() as connection:
            yield from self._database.parts.pieces(connection, round_number, "model", "vector")
            yield from self._control(connection, round_number)

    def sent_bytes(self, round_number: int, parameters: int) -> int:
        """Return how many bytes ``sent`` yields of a model of so many parameters."""
        with self._database.reading() as connection:
            carried = json.loads(
                connection.execute(_CARRIED, {"number": round_number}).scalar_one()
            )
        return 4 * parameters * (2 if CONTROL in carried else 1)

    def _control(self, connection: sa.Connection, number: int) -> Iterator[bytes]:
        """Yield what the sites are sent beside the weights, where the algorithm has it."""
        for piece in self._database.parts.pieces(connection, number, "carried", CONTROL):
            yield np.frombuffer(piece, "<f8").astype("<f4").tobytes()

    def keep(self, connection: sa.Connection, round_number: int, state: ModelState) -> None:
        """Keep a model that is in memory."""
        connection.execute(
            MODELS.insert().values(
                round=round_number,
                sha256=state.sha256,
                steps=state.steps.astype("<f8").tobytes(),
                carried=json.dumps(sorted(state.carried)),
            )
        )
        keep = self._database.parts.keep
        keep(connection, round_number, "model", "vector", in_form(state.vector, "<f4"))
        if state.momentum.any():
            keep(connection, round_number, "model", "momentum", in_form(state.momentum, "<f4"))
        for name, wide in state.carried.items():
            keep(connection, round_number, "carried", name, in_form(wide, "<f8"))

    def write(
        self,
        connection: sa.Connection,
        number: int,
        slices: Callable[[Read], Iterator[GlobalState]],
        steps: NDArray[np.float64],
    ) -> str:
        """Keep the model after a round, slice by slice; return the digest of what sites are sent.

        Args:
            connection: Of the transaction that closes the round.
            number: The round's.
            slices: Given what reads the model before the round, yields the one after it.
            steps: The next quantisation steps, ``(tensors,)``.
        """
        parts = self._database.parts
        names = json.loads(connection.execute(_CARRIED, {"number": number - 1}).scalar_one())
        read = ModelReader(parts, connection, number - 1, names)
        vector = parts.writer(connection, number, "model", "vector")
        momentum = parts.writer(connection, number, "model", "momentum")
        carried = {name: parts.writer(connection, number, "carried", name) for name in names}
        sent = hashlib.sha256()
        still: int | None = 0
        for part in slices(read):
            weights = part.vector.astype("<f4", copy=False).tobytes()
            sent.update(weights)
            vector.write(weights)
            if still is not None and not part.momentum.any():
                still += part.momentum.size  # a server without momentum keeps no zeros
            else:
                momentum.write(bytes(4 * (still or 0)))
                still = None
                momentum.write(part.momentum.astype("<f4", copy=False).tobytes())
            for name, wide in part.carried.items():
                carried[name].write(wide.astype("<f8", copy=False).tobytes())
        for writer in (vector, momentum, *carried.values()):
            writer.close()
        for piece in self._control(connection, number):
            sent.update(piece)
        row = {"round": number, "sha256": sent.hexdigest(), "carried": json.dumps(names)}
        values = row | {"steps": steps.astype("<f8").tobytes()}
        connection.execute(MODELS.insert().values(values))
        return sent.hexdigest()
