"""Make and check one AnonCreds presentation a patient, in an interpreter that has ``anoncreds``.

Run by experiments/consent_proof_cost.py in an environment of its own, because the package is
needed for nothing else. Imports nothing of ours. Prints one JSON object.

The credential says the last day of a grant, its only attribute. The presentation shows that this
day is not before a given one, without the day, and that the credential is not revoked. Left out, to
AnonCreds' advantage: purposes, site, study, and that no patient is counted twice.

References:
    Hyperledger AnonCreds Specification, v1.0: CL signatures, predicates, revocation registries.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

import anoncreds as ac

ISSUER = "did:example:registry"
SCHEMA, DEFINITION, REGISTRY = (f"{ISSUER}/{part}" for part in ("schema", "definition", "registry"))
REGISTRY_SIZE = 100


def main() -> None:
    """Issue one credential, present and verify it ``argv[1]`` times."""
    times = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as tails:
        issued_at = 1
        schema = ac.Schema.create("grant", "1.0", ISSUER, ["expiry"])
        definition, definition_private, correctness = ac.CredentialDefinition.create(
            SCHEMA, schema, ISSUER, "tag", "CL", support_revocation=True
        )
        registry, registry_private = ac.RevocationRegistryDefinition.create(
            DEFINITION, definition, ISSUER, "tag", "CL_ACCUM", REGISTRY_SIZE, tails_dir_path=tails
        )
        status = ac.RevocationStatusList.create(
            definition, REGISTRY, registry, registry_private, ISSUER, True, issued_at
        )
        link = ac.create_link_secret()
        offer = ac.CredentialOffer.create(SCHEMA, DEFINITION, correctness)
        request, metadata = ac.CredentialRequest.create(
            "entropy", None, definition, link, "default", offer
        )
        index = 1
        config = ac.CredentialRevocationConfig(registry, registry_private, status, index)
        credential = ac.Credential.create(
            definition, definition_private, offer, request, {"expiry": "21142"}, None, config
        ).process(metadata, link, definition, registry)
        asked = ac.PresentationRequest.load(
            {
                "name": "covered",
                "version": "1.0",
                "nonce": ac.generate_nonce(),
                "requested_attributes": {},
                "requested_predicates": {
                    "last": {"name": "expiry", "p_type": ">=", "p_value": 20807}
                },
                "non_revoked": {"from": issued_at, "to": issued_at},
            }
        )
        prove, verify, size = [], [], 0
        for _ in range(times):
            started = time.process_time()
            state = ac.CredentialRevocationState.create(
                registry, status, index, registry.tails_location
            )
            chosen = ac.PresentCredentials()
            chosen.add_predicates(credential, "last", timestamp=issued_at, rev_state=state)
            shown = ac.Presentation.create(
                asked, chosen, {}, link, {SCHEMA: schema}, {DEFINITION: definition}
            )
            text = shown.to_json()
            prove.append(time.process_time() - started)
            size = len(text.encode())
            started = time.process_time()
            good = ac.Presentation.load(text).verify(
                asked, {SCHEMA: schema}, {DEFINITION: definition}, {REGISTRY: registry}, [status]
            )
            verify.append(time.process_time() - started)
            if good is not True:
                sys.exit("the presentation does not verify")
    row = {"version": ac.library_version(), "prove": prove, "verify": verify, "bytes": size}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
