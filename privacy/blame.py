"""Decide who is at fault when a sum fails its tags, from what the round left behind.

Nobody is asked to confess: sites signed the hash of their upload in a receipt, the server announced
the hash of the sum before the challenge was known, and the uploads are stored. So each claim can
be repeated by an auditor who has the uploads, and holds no key::

    the stored upload      against its receipt           replaced, withheld: the server
    the receipt's upload   read                          unreadable: the server counted it
    the site's tag         against its own upload        false: the site
    the sum                against its announced hash    replaced: the server
    the sum                against the uploads, added    dropped, doubled, altered: the server

An auditor verifies the signatures of receipts, tags and announcement first, and reads what is
signed here; an upload that was replaced leaves the sum and that site's tag undecided, as the true
one is gone.

What holds, each a test in tests/privacy/test_blame.py:

1. After an honest round, with any tags missing, nobody is blamed.
2. One party that cheats in one of these ways is blamed for that, and nobody else is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from privacy import residues
from privacy.bfv import EncryptedSum, EncryptedUpdate, ServerContext
from privacy.parameters import ParameterSet
from privacy.residues import Kind, Residues
from privacy.tags import tag
from protocol.errors import PrivacyError
from protocol.ids import SiteId

if TYPE_CHECKING:
    from numpy.typing import NDArray

SERVER: Final = "server"
Fault = Literal[
    "upload-withheld",
    "upload-replaced",
    "upload-unreadable",
    "upload-dropped",
    "upload-doubled",
    "tag-false",
    "sum-replaced",
    "sum-altered",
]


@dataclass(frozen=True)
class Verdict:
    """One fault, proved.

    Attributes:
        party: ``SERVER``, or the site at fault.
        what: Which fault.
        evidence: What to compare: hexadecimal SHA-256 hashes, tags as numbers, and the site whose
            upload it is about where the server is at fault.
    """

    party: SiteId | Literal["server"]
    what: Fault
    evidence: Mapping[str, str]


@dataclass(frozen=True)
class Dispute:
    """What a round left behind, signatures verified.

    Attributes:
        receipts: SHA-256 of each site's upload, as the site signed it; exactly those in the sum.
        uploads: What the server has stored for them.
        tags: Those that came, each signed by its site.
        total: The sum that the server handed out.
        sum_sha256: Its hash, as the server announced it.
        seed: The challenge.
    """

    receipts: Mapping[SiteId, str]
    uploads: Mapping[SiteId, EncryptedUpdate]
    tags: Mapping[SiteId, tuple[int, ...]]
    total: EncryptedSum
    sum_sha256: str
    seed: bytes


def judge(dispute: Dispute, parameters: ParameterSet) -> tuple[Verdict, ...]:
    """Return every fault that the dispute proves, none after an honest round.

    Args:
        dispute: The round.
        parameters: The study's.
    """
    server = ServerContext(parameters)
    verdicts: list[Verdict] = []
    readable: dict[SiteId, EncryptedUpdate] = {}
    for site in sorted(dispute.receipts):
        found = _judge_upload(site, dispute, server)
        if found is None:
            readable[site] = dispute.uploads[site]
            found = _judge_tag(site, dispute, parameters)
        verdicts += [found] if found else []
    found = _judge_announcement(dispute)
    if found is None and len(readable) == len(dispute.receipts):
        found = _judge_sum(readable, dispute, server)
    return (*verdicts, *([found] if found else []))


def _judge_upload(site: SiteId, dispute: Dispute, server: ServerContext) -> Verdict | None:
    evidence = {"site": str(site), "receipt": dispute.receipts[site]}
    upload = dispute.uploads.get(site)
    if upload is None:
        return Verdict(SERVER, "upload-withheld", evidence)
    stored = _sha256(upload.blob)
    if stored != dispute.receipts[site]:
        return Verdict(SERVER, "upload-replaced", {**evidence, "stored": stored})
    try:
        server.check(upload)
    except PrivacyError as error:
        return Verdict(SERVER, "upload-unreadable", {**evidence, "code": error.code})
    return None


def _judge_tag(site: SiteId, dispute: Dispute, parameters: ParameterSet) -> Verdict | None:
    claimed = dispute.tags.get(site)
    if claimed is None:
        return None
    true = tag(dispute.uploads[site], dispute.seed, parameters)
    if claimed == true:
        return None
    shown = {"claimed": _numbers(claimed), "true": _numbers(true)}
    return Verdict(site, "tag-false", {"receipt": dispute.receipts[site], **shown})


def _judge_announcement(dispute: Dispute) -> Verdict | None:
    found = _sha256(dispute.total.blob)
    if found == dispute.sum_sha256:
        return None
    return Verdict(SERVER, "sum-replaced", {"announced": dispute.sum_sha256, "found": found})


def _judge_sum(
    uploads: Mapping[SiteId, EncryptedUpdate], dispute: Dispute, server: ServerContext
) -> Verdict | None:
    evidence = {"announced": dispute.sum_sha256}
    try:
        again = server.add(list(uploads.values()), key_id=dispute.total.key_id)
    except PrivacyError as error:
        return Verdict(SERVER, "sum-altered", {**evidence, "code": error.code})
    evidence["added again"] = _sha256(again.blob)
    true, found = _read(again, server.parameters), _read_hostile(dispute.total, server.parameters)
    if found is not None and _same(found, true):
        return None
    if found is not None and found.values.shape == true.values.shape:
        for site, upload in uploads.items():
            one = _read_upload(upload, server.parameters)
            if np.array_equal(_added(found.values, one, server.parameters), true.values):
                return Verdict(SERVER, "upload-dropped", {"site": str(site), **evidence})
            if np.array_equal(_added(true.values, one, server.parameters), found.values):
                return Verdict(SERVER, "upload-doubled", {"site": str(site), **evidence})
    return Verdict(SERVER, "sum-altered", evidence)


def _same(found: Residues, true: Residues) -> bool:
    """Return whether two sums are of the same uploads; the order of their seeds is free."""
    equal = np.array_equal(found.values, true.values)
    return equal and sorted(found.seeds) == sorted(true.seeds)


def _read_hostile(total: EncryptedSum, parameters: ParameterSet) -> Residues | None:
    try:
        return _read(total, parameters) if total.parameters == parameters.name else None
    except PrivacyError:
        return None


def _read(total: EncryptedSum, parameters: ParameterSet) -> Residues:
    kind, length, sites = Kind.of(parameters, summed=True), total.length, total.sites
    return residues.read(total.blob, kind, length, parameters, contributors=sites)


def _read_upload(upload: EncryptedUpdate, parameters: ParameterSet) -> NDArray[np.uint64]:
    kind = Kind.of(parameters, summed=False)
    return residues.read(upload.blob, kind, upload.length, parameters).values


def _added(
    left: NDArray[np.uint64], right: NDArray[np.uint64], parameters: ParameterSet
) -> NDArray[np.uint64]:
    total = left.copy()
    residues.add(total, right, parameters)
    return total


def _sha256(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def _numbers(parts: tuple[int, ...]) -> str:
    return " ".join(str(part) for part in parts)
