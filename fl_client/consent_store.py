"""What a site knows of its patients' consents beside the grants: certificates, leaves, ended ones.

A certificate serves until its chunk changes. The newest leaves of the site's lane that the registry
signed are kept, so that who withdrew stays out, whatever older state a plan may name. So are the
leaves whose grants this hospital ended itself, which it need not be told of (``ended``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from fl_client.ended import ended_leaves, keep_ended
from fl_client.tables import CERTIFICATES, LANE
from protocol.canonical import canonical
from protocol.messages import CoverageCertificate
from storage.database import reading, writing


class StoredConsents:
    """The certificates and leaves in an agent's database; every method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def certificate(self, study: str, chunk: int, selection: str) -> CoverageCertificate | None:
        """Return the certificate proven for exactly this selection, or None."""
        query = sa.select(CERTIFICATES.c.certificate).where(
            CERTIFICATES.c.study == study,
            CERTIFICATES.c.chunk == chunk,
            CERTIFICATES.c.selection == selection,
        )
        with reading(self._engine) as connection:
            text = connection.execute(query).scalar_one_or_none()
        return None if text is None else CoverageCertificate.model_validate_json(text)

    def keep_certificate(
        self, study: str, selection: str, certificate: CoverageCertificate
    ) -> None:
        """Keep a chunk's certificate in place of its last one."""
        with writing(self._engine) as connection:
            connection.execute(
                sa.insert(CERTIFICATES)
                .prefix_with("OR REPLACE")
                .values(
                    study=study,
                    chunk=certificate.chunk,
                    selection=selection,
                    certificate=canonical(certificate).decode(),
                )
            )

    def lane(self, study: str) -> dict[int, tuple[int, tuple[int, ...]]]:
        """Return for each chunk the newest epoch seen, and the chunk's leaves then."""
        query = sa.select(LANE).where(LANE.c.study == study)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return {row.chunk: (row.epoch, tuple(map(int, json.loads(row.leaves)))) for row in rows}

    def keep_lane(self, study: str, epoch: int, leaves: Mapping[int, tuple[int, ...]]) -> None:
        """Keep what chunks were at an epoch, in place of what they were at older ones."""
        with writing(self._engine) as connection:
            for chunk, content in leaves.items():
                connection.execute(
                    LANE.delete().where(
                        LANE.c.study == study, LANE.c.chunk == chunk, LANE.c.epoch <= epoch
                    )
                )
                connection.execute(
                    sa.insert(LANE)
                    .prefix_with("OR IGNORE")
                    .values(
                        study=study,
                        chunk=chunk,
                        epoch=epoch,
                        leaves=json.dumps([str(leaf) for leaf in content]),
                    )
                )

    def end(self, leaves: Iterable[int]) -> None:
        """Leave the patients of these leaves out from now on: this hospital ends their grants."""
        with writing(self._engine) as connection:
            keep_ended(connection, leaves)

    def ended(self) -> frozenset[int]:
        """Return the leaves whose grants this hospital has ended."""
        with reading(self._engine) as connection:
            return ended_leaves(connection)
