"""What the operator decides: found a federation, admit, renew and expel sites, certify servers.

::

    AUTHORITY/sites.json             the register: the source of truth (identity.register)
    AUTHORITY/ca.key, operator.key   what certificates and admissions are signed with
    AUTHORITY/ca.crt, crl.pem        authorities and revoked certificates, for nginx and sites
    AUTHORITY/nodes/SITE.pub         SuperNode keys of the sites that take part
    AUTHORITY/server.key, server.crt what the server shows

Every act is one step: the register is written whole, then what follows from it is made. Whoever is
killed between the two leaves work that the next command completes, ``refresh`` first of all. The
audit log hears of every act once, and of every refused one.

What holds, each line a test in tests/identity/test_consortium.py:

1. A site is admitted by its request's fingerprint only, under a name and keys that nobody has or
   had, once.
2. An expelled site's certificates are on the list, and its node key is gone, when the call returns.
3. Killed between any two writes, the next call completes what was decided, and the log hears of
   it once.
4. Only an actor with the right does any of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from identity import admission as admissions
from identity.admission import Admission
from identity.authority import Authority, private_pem
from identity.published import authority_of, bundle, publish, signers_needed
from identity.register import Member, Register, Signer
from identity.requests import RequestRefused, SiteRequest, check_fingerprint, read_request
from identity.roles import WHOLE, About, Actor, Permission, check
from privacy.signatures import signing_key
from protocol.errors import IdentityError, storage_error
from protocol.ids import SiteId
from storage.files import PRIVATE, private_folder, write_whole


class ConsortiumThere(IdentityError):
    """A federation would be founded where one is."""

    code = "federation-there"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(f"{folder} holds a federation already; give an empty or new folder")


class SiteNameTaken(IdentityError):
    """A site asks for a name that another one has, or had."""

    code = "site-name-taken"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(
            f"the name {site} is taken, or was until its site was expelled; books and consents "
            "still speak of it, so have the new site choose another name"
        )


class RequestReplayed(IdentityError):
    """A request was granted before."""

    code = "site-request-replayed"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(
            f"this request of {site} was granted before; if its admission was lost, make another "
            f"with `bithive operator renew {site}`"
        )


class KeyTaken(IdentityError):
    """A request brings a key that is or was registered, for whichever site."""

    code = "site-key-taken"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(
            f"the request of {site} brings a key that was registered before; have the site make "
            "new keys"
        )


class Record(Protocol):
    """An audit log's ``append``."""

    def __call__(self, kind: str, facts: Mapping[str, Any], /, *, key: str | None = None) -> object:
        """Log an event; the same under the same key once."""


class Consortium:
    """The operator's hold on one federation.

    Args:
        folder: ``AUTHORITY`` of the drawing above; founded already.
        record: The audit log's ``append``.

    Raises:
        RegisterUnreadable: There is no federation here.
    """

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder = folder
        self.record = record
        self.register()

    @classmethod
    def found(
        cls,
        folder: Path,
        federation: str,
        *,
        addresses: Sequence[str],
        terms: str,
        actor: Actor,
        record: Record,
        now: datetime,
    ) -> Consortium:
        """Make a federation's authority, operator's key and empty register.

        Args:
            folder: New or empty of these.
            federation: A slug.
            addresses: Where sites will reach the servers, ``HOST:PORT``.
            terms: What every site that joins agrees to.
            actor: Who founds it.
            record: The audit log's ``append``.
            now: With its time zone.

        Raises:
            ConsortiumThere: There is one here.
            PermissionMissing: The actor is no operator.
        """
        assert len(terms) <= admissions.TERMS_CHARACTERS_MAX
        assert len(addresses) <= admissions.ADDRESSES_MAX
        assert all(len(one) <= admissions.ADDRESS_CHARACTERS_MAX for one in addresses)
        check(actor, Permission.ADMIT_SITE, audit=record)
        if (folder / "sites.json").exists():
            raise ConsortiumThere(folder)
        private_folder(folder)
        authority = Authority.found(federation, now=now)
        authority.save_key(folder / "ca.key")
        signing_key(folder / "operator.key")
        register = Register(
            federation=federation,
            addresses=tuple(addresses),
            terms=terms,
            signers=(Signer(certificate=authority.pem().decode(), key="ca.key"),),
        ).decided("federation-founded", federation=federation, actor=actor.shown)
        register.save(folder / "sites.json")
        made = cls(folder, record)
        made.refresh(now=now)
        return made

    def register(self) -> Register:
        """Return the register as it stands."""
        return Register.load(self.folder / "sites.json")

    @property
    def operator_digest(self) -> str:
        """What the operator's fingerprint is cut from."""
        key = signing_key(self.folder / "operator.key").public_key()
        return admissions.operator_digest(key.public_bytes_raw())

    def admit(
        self, content: bytes, *, given_fingerprint: str, actor: Actor, now: datetime
    ) -> Admission:
        """Let a site take part and return the file it is to be sent.

        Args:
            content: Its request: hostile bytes.
            given_fingerprint: As the site read it out.
            actor: Who decides.
            now: With its time zone.

        Raises:
            PermissionMissing: She may not.
            RequestRefused, FingerprintDiffers: The request does not hold, or is not the site's.
            RequestReplayed, SiteNameTaken, KeyTaken: It was granted, or is not new.
        """
        request = self._read(content, given_fingerprint, actor, now)
        with self._locked():
            register = self.register()
            self._check_new(register, request)
            if any(one.site == request.site for one in register.sites):
                raise SiteNameTaken(request.site)
            if request.previous_key:
                raise RequestRefused("it takes the place of keys of a site that is not there")
            register = self._registered(register, request, admitted_at=now, now=now)
            register = register.decided("site-admitted", **_facts(request, actor))
            self._keep(register, now)
            return self._admission(register, register.member(request.site), now)

    def renew(
        self,
        site: SiteId,
        *,
        actor: Actor,
        now: datetime,
        content: bytes | None = None,
        given_fingerprint: str = "",
    ) -> Admission:
        """Give a site a new certificate, for its present keys or for those of a new request.

        Certificates for earlier keys are revoked at once.

        Args:
            site: It takes part.
            actor: Who decides.
            now: With its time zone.
            content: A request of the same site with new keys, vouched for by its present ones.
            given_fingerprint: Of that request, as the site read it out.

        Raises:
            PermissionMissing: She may not.
            SiteNotAdmitted: It does not take part.
            RequestRefused, FingerprintDiffers, RequestReplayed, KeyTaken: As ``admit``.
        """
        self._may(actor, Permission.RENEW_CERTIFICATE, site)
        request = None
        if content is not None:
            request = self._read(content, given_fingerprint, actor, now)
        with self._locked():
            register = self.register()
            member = register.member(site)
            if request is None:
                register = self._certified(register, member, member.loaded().public_key(), now)
                facts: dict[str, Any] = {"site": site, "actor": actor.shown}
            else:
                if request.site != site or request.previous_key != member.signing_key:
                    raise RequestRefused(f"it does not take the place of {site}'s present keys")
                self._check_new(register, request)
                register = register.without_certificates_of(site, at=now)
                admitted_at = member.admitted_at
                register = self._registered(register, request, admitted_at=admitted_at, now=now)
                facts = _facts(request, actor)
            register = register.decided("site-renewed", **facts)
            self._keep(register, now)
            return self._admission(register, register.member(site), now)

    def expel(self, site: SiteId, *, reason: str, actor: Actor, now: datetime) -> None:
        """Let a site take part no more: certificates revoked, node key gone, on return.

        Raises:
            PermissionMissing: The actor may not.
            SiteNotAdmitted: It does not take part.
        """
        self._may(actor, Permission.EXPEL_SITE, site)
        with self._locked():
            register = self.register()
            member = register.member(site)
            gone = member.model_copy(
                update={"state": "expelled", "expelled_at": now, "reason": reason[:500]}
            )
            register = register.with_member(gone).without_certificates_of(site, at=now)
            # The reason stays in the register: words of people do not go into the log.
            register = register.decided("site-expelled", site=site, actor=actor.shown)
            self._keep(register, now)

    def certify_server(self, names: Sequence[str], *, actor: Actor, now: datetime) -> Path:
        """Make the server a new key and certificate and return the certificate's path.

        Killed halfway, it is to be called again: key and certificate may not fit.

        Args:
            names: Host names or IP addresses under which it is reached.
            actor: Who decides.
            now: With its time zone.

        Raises:
            PermissionMissing: She may not.
            ServerNameRefused: A name is none.
        """
        check(actor, Permission.RENEW_CERTIFICATE, audit=self.record)
        with self._locked():
            register = self.register()
            key = ec.generate_private_key(ec.SECP384R1())
            issued = authority_of(self.folder, register.signers[0]).issue_server(
                names, key.public_key(), now=now
            )
            shown = ", ".join(names)
            register = register.with_issued(issued, "server", shown)
            register = register.decided("server-certified", names=list(names), actor=actor.shown)
            self._keep(register, now)
            write_whole(self.folder / "server.key", private_pem(key), mode=PRIVATE)
            write_whole(self.folder / "server.crt", issued.public_bytes(Encoding.PEM))
        return self.folder / "server.crt"

    def rotate_authority(self, *, actor: Actor, now: datetime, at_once: bool = False) -> None:
        """Sign with a new key from now on.

        The earlier authority stays known until the last certificate it signed has ended, so that
        sites can be renewed one after another, and the server certified anew last.

        Args:
            actor: Who decides.
            now: With its time zone.
            at_once: Forget it now, because its key may be in others' hands. Nobody connects until
                the server and all sites are renewed.

        Raises:
            PermissionMissing: The actor may not.
        """
        check(actor, Permission.RENEW_CERTIFICATE, audit=self.record)
        with self._locked():
            register = self.register()
            made = Authority.found(register.federation, now=now)
            name = f"ca-{register.number + 1}.key"
            made.save_key(self.folder / name)
            earlier = () if at_once else register.signers
            signer = Signer(certificate=made.pem().decode(), key=name)
            register = register.model_copy(update={"signers": (signer, *earlier)})
            register = register.decided("authority-rotated", actor=actor.shown, at_once=at_once)
            self._keep(register, now)

    def refresh(self, *, now: datetime) -> None:
        """Make again whatever of the files beside the register is missing, old or not its own."""
        with self._locked():
            register = self.register()
            kept = signers_needed(register, now=now)
            if kept != register.signers:
                register = register.model_copy(update={"signers": kept})
                register = register.decided("authority-retired")
            self._keep(register, now)

    def _may(self, actor: Actor, permission: Permission, site: SiteId) -> None:
        check(actor, permission, about=About(site=site), audit=self.record)

    def _read(
        self, content: bytes, given_fingerprint: str, actor: Actor, now: datetime
    ) -> SiteRequest:
        check(actor, Permission.ADMIT_SITE, about=WHOLE, audit=self.record)
        request = read_request(content, now=now)
        check_fingerprint(given_fingerprint, request.digest(), what="request")
        return request

    @staticmethod
    def _check_new(register: Register, request: SiteRequest) -> None:
        if request.digest() in register.requests:
            raise RequestReplayed(request.site)
        if set(_key_digests(request)) & set(register.keys):
            raise KeyTaken(request.site)

    def _registered(
        self, register: Register, request: SiteRequest, *, admitted_at: datetime, now: datetime
    ) -> Register:
        member = Member(
            site=request.site,
            state="active",
            admitted_at=admitted_at,
            request=request.digest(),
            signing_key=request.signing_key,
            agreement_key=request.agreement_key,
            node_key=request.node_key,
            certificate="",
        )
        register = register.model_copy(
            update={
                "requests": (*register.requests, request.digest()),
                "keys": (*register.keys, *_key_digests(request)),
            }
        )
        return self._certified(register, member, request.tls_point(), now)

    def _certified(self, register: Register, member: Member, key: Any, now: datetime) -> Register:
        authority = authority_of(self.folder, register.signers[0])
        issued = authority.issue_site(member.site, key, now=now)
        pem = issued.public_bytes(Encoding.PEM).decode()
        register = register.with_member(member.model_copy(update={"certificate": pem}))
        return register.with_issued(issued, "site", member.site)

    def _admission(self, register: Register, member: Member, now: datetime) -> Admission:
        key = signing_key(self.folder / "operator.key")
        return Admission(
            format=admissions.FORMAT,
            federation=register.federation,
            site=member.site,
            number=register.number,
            request=member.request,
            admitted_at=now,
            certificate=member.certificate,
            authorities=bundle(register),
            addresses=register.addresses,
            terms=register.terms,
            operator_key=key.public_key().public_bytes_raw(),
            signing_key=member.signing_key,
            agreement_key=member.agreement_key,
            node_key=member.node_key,
        ).sign(key)

    def _keep(self, register: Register, now: datetime) -> None:
        """Write the register, then what follows from it, then tell the audit log."""
        if register != self.register():
            register.save(self.folder / "sites.json")
        publish(self.folder, register, now=now)
        for act in register.unlogged:
            self.record(act.kind, act.facts, key=f"{register.federation}-{act.number}")
        if register.unlogged:
            logged = register.model_copy(update={"unlogged": ()})
            logged.save(self.folder / "sites.json")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, PRIVATE)
        except OSError as error:
            raise storage_error(error, str(self.folder)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _facts(request: SiteRequest, actor: Actor) -> dict[str, Any]:
    return {
        "site": request.site,
        "request": request.digest(),
        "signing_key": request.signing_key.hex(),
        "actor": actor.shown,
    }


def _key_digests(request: SiteRequest) -> list[str]:
    """Return a digest of each key, the same for one point in whichever role it comes."""
    points = [
        key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        for key in (request.tls_point(), request.node_point())
    ]
    keys = (request.signing_key, request.agreement_key, *points)
    return [hashlib.sha256(key).hexdigest() for key in keys]
