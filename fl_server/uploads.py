"""What came to a round: each site's contribution once, whom it left out, or why it counts nothing.

A contribution's ciphertext is kept in parts and read when its site is asked for. The statements
that were proven with it are kept beside it, so that a certificate is verified once in a study.

What holds on SQLite and PostgreSQL alike, each a test in tests/fl_server/test_store.py:

1. A contribution counts once, however often its bytes come; other bytes of the same site and round
   are refused and named.
2. Nothing enters a round that is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from fl_server.database import ServerDatabase, insert_once
from fl_server.parts import cut
from fl_server.tables import CERTIFICATES, REFUSALS, ROUNDS, UPLOADS
from protocol.canonical import canonical
from protocol.errors import FederationError
from protocol.ids import SiteId
from protocol.messages import Contribution, Refusal

_UPLOAD: Final = sa.select(UPLOADS.c.contribution).where(
    UPLOADS.c.round == sa.bindparam("number"), UPLOADS.c.site == sa.bindparam("site_")
)
_SITES: Final = sa.select(UPLOADS.c.site).where(UPLOADS.c.round == sa.bindparam("number"))
_FROZEN: Final = sa.select(ROUNDS.c.frozen).where(ROUNDS.c.round == sa.bindparam("number"))
_INSERT: Final = UPLOADS.insert()
_VERIFIED: Final = sa.select(CERTIFICATES.c.statement).where(
    CERTIFICATES.c.statement.in_(sa.bindparam("statements", expanding=True))
)


class UploadConflict(FederationError):
    """A site sent two different contributions to one round; the first one stands."""

    code = "upload-conflict"

    def __init__(self, site: SiteId, round_number: int, kept: str, other: str) -> None:
        self.site = site
        self.kept = kept
        self.other = other
        super().__init__(
            f"{site} sent a second, different update to round {round_number} (ciphertext "
            f"{other[:16]} after {kept[:16]}); the first stands, look at that site's memory"
        )


class RoundFrozen(FederationError):
    """A contribution came to a round that takes none any more."""

    code = "late-answer"

    def __init__(self, site: SiteId, round_number: int) -> None:
        self.site = site
        self.round = round_number
        super().__init__(
            f"the answer of {site} came after its phase of round {round_number} had ended; it does "
            "not count, and the next round asks the site again"
        )


class StoredUploads:
    """What came to the rounds of a database; every method is one transaction."""

    def __init__(self, database: ServerDatabase) -> None:
        self._database = database

    def accept(
        self,
        contribution: Contribution,
        ciphertext: bytes,
        statements: list[str],
        *,
        left_out: int = 0,
    ) -> bool:
        """Keep an accepted contribution, the statements verified for it, and whom it left out.

        Returns:
            Whether it is new; the same bytes again change nothing.

        Raises:
            UploadConflict: Another contribution of this site to this round is kept.
            RoundFrozen: The round takes none any more.
        """
        receipt = contribution.receipt
        number, site = receipt.round, receipt.site
        text = canonical(contribution).decode()
        with self._database.writing() as connection:
            named = {"number": number, "site_": site}
            kept = connection.execute(_UPLOAD, named).scalar_one_or_none()
            if kept is not None:
                if kept == text:
                    return False
                first = Contribution.model_validate_json(kept).receipt.ciphertext_sha256
                raise UploadConflict(site, number, first, receipt.ciphertext_sha256)
            if connection.execute(_FROZEN, {"number": number}).scalar_one_or_none():
                raise RoundFrozen(site, number)
            for statement in statements:
                insert_once(connection, CERTIFICATES, statement=statement, round=number)
            row = {
                "round": number,
                "site": site,
                "contribution": text,
                "bytes": len(ciphertext),
                "left_out": left_out,
            }
            connection.execute(_INSERT, row)
            self._database.parts.keep(connection, number, "upload", site, cut(ciphertext))
        return True

    def refuse(self, refusal: Refusal) -> None:
        """Keep a refusal; the first one of a site in a round stands."""
        with self._database.writing() as connection:
            insert_once(
                connection,
                REFUSALS,
                round=refusal.round,
                site=refusal.site,
                refusal=canonical(refusal).decode(),
            )

    def verified(self, statements: Sequence[str]) -> set[str]:
        """Return those of the statements that have been proven to us before."""
        if not statements:
            return set()
        with self._database.reading() as connection:
            found = connection.execute(_VERIFIED, {"statements": list(statements)})
            return set(found.scalars())

    def certificates(self) -> int:
        """Return how many statements have been verified."""
        with self._database.reading() as connection:
            return connection.execute(
                sa.select(sa.func.count()).select_from(CERTIFICATES)
            ).scalar_one()

    def of(self, number: int) -> RoundUploads:
        """Return the accepted contributions of a round by site, sorted."""
        with self._database.reading() as connection:
            found = connection.execute(_SITES, {"number": number})
            sites = [SiteId(site) for site in found.scalars()]
        return RoundUploads(self, number, sorted(sites))

    def one(self, number: int, site: SiteId) -> tuple[Contribution, bytes]:
        """Return a site's contribution and its ciphertext, empty where that is gone."""
        with self._database.reading() as connection:
            text = connection.execute(_UPLOAD, {"number": number, "site_": site}).scalar_one()
            return (
                Contribution.model_validate_json(text),
                self._database.parts.whole(connection, number, "upload", site),
            )

    def contribution(self, number: int, site: SiteId) -> Contribution:
        """Return a site's accepted contribution to a round, without its ciphertext."""
        with self._database.reading() as connection:
            text = connection.execute(_UPLOAD, {"number": number, "site_": site}).scalar_one()
        return Contribution.model_validate_json(text)

    def sizes(self, number: int) -> dict[str, int]:
        """Return the size of each accepted ciphertext of a round, by site."""
        query = sa.select(UPLOADS.c.site, UPLOADS.c.bytes).where(UPLOADS.c.round == number)
        with self._database.reading() as connection:
            return {row.site: row.bytes for row in connection.execute(query)}

    def left_out(self, number: int) -> dict[str, int]:
        """Return how many patients each site left out who withdrew after the round was planned."""
        query = sa.select(UPLOADS.c.site, UPLOADS.c.left_out).where(
            UPLOADS.c.round == number, UPLOADS.c.left_out > 0
        )
        with self._database.reading() as connection:
            return {row.site: row.left_out for row in connection.execute(query)}

    def refusals(self, number: int) -> tuple[Refusal, ...]:
        """Return the refusals of a round, by site."""
        query = sa.select(REFUSALS.c.refusal).where(REFUSALS.c.round == number)
        with self._database.reading() as connection:
            found = [
                Refusal.model_validate_json(text) for text in connection.execute(query).scalars()
            ]
        return tuple(sorted(found, key=lambda one: one.site))


class RoundUploads(Mapping[SiteId, tuple[Contribution, bytes]]):
    """A round's accepted contributions by site; a ciphertext is read when its site is asked for."""

    def __init__(self, store: StoredUploads, number: int, sites: Sequence[SiteId]) -> None:
        self._store, self._number, self._sites = store, number, tuple(sites)

    def __getitem__(self, site: SiteId) -> tuple[Contribution, bytes]:
        """Return a site's contribution and its ciphertext, empty where that is gone."""
        if site not in self._sites:
            raise KeyError(site)
        return self._store.one(self._number, site)

    def __iter__(self) -> Iterator[SiteId]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)
