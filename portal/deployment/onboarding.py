"""Let the sites of one machine take part, by the very files that separate machines exchange.

Each site makes its keys in its own folder and one request; the operator reads its fingerprint and
signs one admission; the site installs it. On one machine the "telephone" is this function, which
hands each side the other's fingerprint; everything else is what ``bithive site init``, ``bithive
operator admit`` and ``bithive site install`` do. Called again, it does what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from identity.admission import install
from identity.consortium import Consortium, Record
from identity.requests import SiteRequest, fingerprint, make_request
from identity.roles import Actor, Role
from portal.deployment.plan import Plan
from protocol.canonical import canonical
from protocol.ids import SiteId
from storage.files import write_whole

FEDERATION: Final = "bithive"
TERMS: Final = "A federation on one machine, brought up by `bithive up`."
OPERATOR: Final = Actor("operator", frozenset({Role.OPERATOR}))
RENEW_DAYS: Final = 30
"""A server's certificate is made anew when fewer days are left."""


def make_keys(plan: Plan, site: SiteId, *, now: datetime) -> None:
    """Make a site's keys and its request, where it has none."""
    folder = plan.identity(site)
    if not folder.request.is_file():
        keys = folder.load() if folder.tls_key.is_file() else folder.make()
        request = make_request(site, keys, now=now, entropy=os.urandom)
        write_whole(folder.request, canonical(request) + b"\n")


def admit_all(plan: Plan, *, record: Record) -> Consortium:
    """Found the consortium and let every site of the plan in that is not yet.

    Args:
        plan: Its sites have keys.
        record: The audit log's ``append``.
    """
    now = datetime.now(UTC)
    consortium = _consortium(plan, record, now)
    for site in plan.sites:
        _admit(plan, consortium, site, now)
    _certify_server(plan, consortium, [plan.server_name, plan.reached], now)
    consortium.refresh(now=now)
    return consortium


def _consortium(plan: Plan, record: Record, now: datetime) -> Consortium:
    if (plan.authority / "sites.json").is_file():
        return Consortium(plan.authority, record)
    return Consortium.found(
        plan.authority,
        FEDERATION,
        addresses=[f"{plan.server_name}:{plan.port}"],
        terms=TERMS,
        actor=OPERATOR,
        record=record,
        now=now,
    )


def _admit(plan: Plan, consortium: Consortium, site: SiteId, now: datetime) -> None:
    folder = plan.identity(site)
    if folder.admission.is_file():
        return
    content = folder.request.read_bytes()
    request = SiteRequest.model_validate_json(content)
    known = {one.site for one in consortium.register().active()}
    if site in known:  # it was admitted, and the answer did not arrive
        admission = consortium.renew(site, actor=OPERATOR, now=now)
    else:
        admission = consortium.admit(
            content, given_fingerprint=fingerprint(request.digest()), actor=OPERATOR, now=now
        )
    install(folder, admission, operator=fingerprint(consortium.operator_digest), now=now)


def _certify_server(
    plan: Plan, consortium: Consortium, names: Sequence[str], now: datetime
) -> None:
    path = plan.authority / "server.crt"
    if path.is_file():
        held = x509.load_pem_x509_certificate(path.read_bytes())
        if (held.not_valid_after_utc - now).days >= RENEW_DAYS:
            return
    consortium.certify_server(sorted(set(names)), actor=OPERATOR, now=now)
