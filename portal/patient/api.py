"""The HTTP API of the patient's page: parse, one call, return.

========================================  ==========================================================
``GET /api/study``                        the study in plain words, and its numbers
``GET /api/enrolment/members``            everybody enrolled, always all of them
``GET /api/invitations/{lookup}``         an envelope that only a code on paper opens
``POST /api/enrolments``                  ask the hospital to enrol a commitment
``POST /api/grants``                      grant, or change a grant: 202 while it waits for its batch
``POST /api/withdrawals``                 end a grant by its code
``POST /api/withdrawals/proven``          end a grant by a proof
``GET /api/epoch``                        the registry's newest signed state
``GET /api/lanes/{site}/changes``         all that was ever set or taken out in a hospital's lane
``GET /api/lanes/{site}/receipts``        receipts of all that an epoch published in the lane
``GET /api/lanes/{site}/leaves``          the lane's leaves, at an epoch
``GET /api/log``                          the registry's log, for whoever rebuilds it
``GET /api/rounds/{site}``                what each round proved of the lane, cost and paid
``GET /api/payouts/{site}``               payouts with the size of their groups
``GET /api/payouts/{site}/{epoch}``       one payout with its whole group
``POST /api/claims``                      claim a share
``GET /health``                           whether the server answers, its verifier and its batches
========================================  ==========================================================

No route takes a leaf, a commitment or a nullifier to look something up by. Formats are in
docs/patient-page.md; refusals are ``portal.patient.problems``.
"""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from consent.publication import ProvenGrant
from consent.receipts import Signed, WithdrawalReceipt
from portal.patient import mailbox
from portal.patient.desk import Accepted, Desk, GrantWish
from portal.patient.schemas import (
    ClaimAsked,
    EnrolmentAsked,
    GrantAsked,
    ProvenWithdrawalAsked,
    WithdrawalAsked,
)
from portal.patient.sheet import StudySheet, study_view
from protocol.canonical import Site
from protocol.ids import GrantId
from zk import fast
from zk.semaphore import SemaphoreProof

ABOVE_DOUBLE: Final = frozenset({"leaf", "root", "scope", "chunk_root", "pool", "amount", "paid"})
"""Fields whose numbers pass 2^53 and go as decimal text."""
router = APIRouter()


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _sheet(request: Request) -> StudySheet:
    sheet: StudySheet = request.app.state.sheet
    return sheet


TheDesk = Annotated[Desk, Depends(_desk)]
TheSheet = Annotated[StudySheet, Depends(_sheet)]
After = Annotated[int, Query(ge=-1, lt=2**53)]
EpochWanted = Annotated[int, Query(ge=0, lt=2**53)]
AtEpoch = Annotated[int | None, Query(ge=0, lt=2**53)]


@router.get("/api/study")
def study(desk: TheDesk, sheet: TheSheet) -> dict[str, Any]:
    """Return the study as a patient reads it and a browser computes with it."""
    return study_view(desk, sheet)


@router.get("/api/enrolment/members")
def members(desk: TheDesk) -> dict[str, Any]:
    """Return the enrolment group."""
    root, everybody = desk.members()
    return {"root": str(root), "members": [str(member) for member in everybody]}


@router.get("/api/invitations/{lookup}")
def invitation(lookup: str, desk: TheDesk) -> dict[str, str]:
    """Return what a hospital sealed for whoever holds a code."""
    site, envelope = desk.mailbox.envelope(lookup)
    return {"site": site, "envelope": envelope.hex()}


@router.post("/api/enrolments", status_code=202)
def ask_enrolment(asked: EnrolmentAsked, desk: TheDesk) -> dict[str, str]:
    """Keep a request; whether it was granted shows in the group."""
    desk.ask_enrolment(mailbox.Request(**asked.model_dump()))
    return {"state": "waiting"}


@router.post("/api/grants", status_code=202)
def grant(asked: GrantAsked, desk: TheDesk, response: Response) -> dict[str, Any]:
    """Accept a grant for the next batch; the same person's earlier one ends with it."""
    proven = ProvenGrant(
        leaf=asked.leaf,
        revoke_hash=asked.revoke_hash,
        payout_id=asked.payout_id,
        proof=SemaphoreProof.from_json(asked.proof),
    )
    done = desk.grant(GrantWish(asked.site, proven, asked.sealed))
    if isinstance(done, Accepted):
        return {"grant": done.grant, "state": "waiting", "due": done.due.isoformat()}
    response.status_code = HTTPStatus.CREATED
    return _signed(done)


@router.post("/api/withdrawals")
def withdraw(asked: WithdrawalAsked, desk: TheDesk) -> dict[str, Any]:
    """End a grant by its code; again, likewise."""
    name = GrantId(asked.grant)
    return _ended(name, desk.withdraw(name, asked.code))


@router.post("/api/withdrawals/proven")
def withdraw_proven(asked: ProvenWithdrawalAsked, desk: TheDesk) -> dict[str, Any]:
    """End a grant by a proof of who gave it."""
    proof, name = SemaphoreProof.from_json(asked.proof), GrantId(asked.grant)
    return _ended(name, desk.withdraw_proven(name, proof))


@router.get("/api/epoch")
def epoch(desk: TheDesk) -> dict[str, Any]:
    """Return the registry's newest signed state."""
    return _signed(desk.registry.epoch())


@router.get("/api/lanes/{site}/changes")
def changes(site: Site, desk: TheDesk, after: After = 0) -> dict[str, Any]:
    """Return a page of a lane's changes; ask again after its last sequence until it is empty."""
    lane = desk.lane(site)
    found = [_shown(asdict(change)) for change in desk.changes(lane, after)]
    return {"first_chunk": lane.first_chunk, "chunk_size": lane.chunk_size, "changes": found}


@router.get("/api/lanes/{site}/leaves")
def leaves(site: Site, desk: TheDesk, at: AtEpoch = None) -> dict[str, Any]:
    """Return all leaves of a lane, now or at an epoch."""
    lane = desk.lane(site)
    number = desk.registry.epoch().number if at is None else at
    found = desk.registry.leaves_at(lane, number)
    return {"epoch": number, "leaves": [str(leaf) for leaf in found]}


@router.get("/api/lanes/{site}/receipts")
def receipts(site: Site, desk: TheDesk, epoch: EpochWanted) -> dict[str, Any]:
    """Return the receipts of a whole batch, so that nobody need say which one is hers."""
    found = desk.receipts_of(desk.lane(site), epoch)
    return {"epoch": epoch, "receipts": [_signed(one) for one in found]}


@router.get("/api/log")
def log(desk: TheDesk, after: After = -1) -> list[str]:
    """Return a page of the log, a line for each epoch; ``consent`` rebuilds the tree from it."""
    return [line.to_json() for line in desk.registry.log_page(after=after)]


@router.get("/api/rounds/{site}")
def rounds(site: Site, desk: TheDesk) -> dict[str, Any]:
    """Return what every round proved of a lane, cost in privacy, and paid to its patients."""
    return {
        "coverage": [_shown(asdict(one)) for one in desk.coverage(site)],
        "receipts": [_shown(asdict(one)) for one in desk.receipts(site)],
    }


@router.get("/api/payouts/{site}")
def payouts(site: Site, desk: TheDesk) -> dict[str, Any]:
    """Return the payouts of a hospital's patients."""
    return {"payouts": [_shown(vars(one)) for one in desk.payouts(site)]}


@router.get("/api/payouts/{site}/{epoch}")
def payout(site: Site, epoch: int, desk: TheDesk) -> dict[str, Any]:
    """Return one payout with everybody who shares it."""
    found, group = desk.payout(site, epoch)
    return _shown(vars(found)) | {"members": [str(member) for member in group]}


@router.post("/api/claims", status_code=201)
def claim(asked: ClaimAsked, desk: TheDesk) -> dict[str, Any]:
    """Keep a claim; it is paid once, to the recipient that the proof names."""
    proof = SemaphoreProof.from_json(asked.proof)
    kept = desk.claim(asked.site, asked.epoch, asked.recipient, proof)
    return {"amount": str(kept.amount), "recipient": kept.recipient, "at": kept.at}


@router.get("/health")
def health(desk: TheDesk) -> dict[str, Any]:
    """Say that the server answers."""
    verifier = "fast" if desk.verifier is fast.verify else "reference"
    return {
        "study": desk.study,
        "verifier": verifier,
        "epoch": desk.registry.epoch().number,
        "batch_seconds": int(desk.queue.interval.total_seconds()),
    }


def _ended(grant: GrantId, receipt: WithdrawalReceipt | None) -> dict[str, Any]:
    """Answer a withdrawal; there is no receipt of what the registry never had."""
    if receipt is None:
        return {"grant": grant, "state": "never-published"}
    return _signed(receipt)


def _signed(message: Signed) -> dict[str, Any]:
    return _shown(asdict(message)) | {"signature": message.signature.hex()}


def _shown(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: str(it) if name in ABOVE_DOUBLE else it for name, it in fields.items()}
