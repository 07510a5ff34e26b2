"""Write tests/vectors/ledger/claims.json: three proofs of claims to addresses, to test with.

Run  python -m tests.ledger.contracts.make_claims    (20 s; the extra `prover`)

The first two are of one member and one scope, for two recipients: one nullifier. The third is of
another member. Proofs are random, so each run writes other ones.
"""

import json
from pathlib import Path

from eth_utils import to_checksum_address

from consent.claims import claim_message, payout_scope
from protocol.ids import SiteId, StudyId
from tests.ledger.contracts.machine import address
from zk.lean_imt import LeanIMT
from zk.semaphore_prover import commitment_of, prove

PATH = Path(__file__).parents[2] / "vectors" / "ledger" / "claims.json"
MEMBERS = [1_000 + i for i in range(20)]


def main():
    group = LeanIMT([commitment_of(secret) for secret in MEMBERS])
    scope = payout_scope("registry", StudyId("study"), 3, SiteId("north"))
    claims = []
    for secret, role in ((MEMBERS[3], "patient"), (MEMBERS[3], "thief"), (MEMBERS[4], "other")):
        recipient = to_checksum_address(address(role))
        proof = prove(secret, group, scope, claim_message(recipient))
        claims.append({"recipient": recipient, "proof": json.loads(proof.to_json())})
    about = "Written by tests/ledger/contracts/make_claims.py"
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps({"about": about, "claims": claims}, indent=1) + "\n")


if __name__ == "__main__":
    main()
