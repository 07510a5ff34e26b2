"""How the published vectors of the secure sum are made: by twins, from the specifications.

``PYTHONPATH=. python tests/privacy/vectors_made.py`` wrote them once; there is no randomness in
them. ``test_vectors`` compares them with the code.
"""

import json
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.parameters import parameter_set
from privacy.round_secrets import RoundSecrets
from privacy.sharing import PRIME
from tests.privacy import mask_twin, twin, vector_twin

FOLDER = Path(__file__).parents[1] / "vectors" / "summation"
SITES = ["east", "north", "south", "west"]
THRESHOLD = 3
MEMBERS, QUORUM = parameter_set("packed-bfv-8"), parameter_set("threshold-bfv-8")
WORDS = 6

REFUSED = [
    {"desc": "another magic", "offset": 0, "xor": "01"},
    {"desc": "the kind of a sum", "offset": 4, "xor": "03"},
    {"desc": "another ring degree", "offset": 8, "xor": "01"},
    {"desc": "another number of primes", "offset": 9, "xor": "03"},
    {"desc": "another number of polynomials", "offset": 10, "xor": "03"},
    {"desc": "another number of ciphertexts", "offset": 14, "xor": "03"},
    {"desc": "another number of contributors", "offset": 16, "xor": "03"},
    {"desc": "one byte less", "cut": 1},
    {"desc": "one byte more", "append": "00"},
    {"desc": "a residue of 60 ones", "offset": 81, "set": "ffffffffffffff0f"},
    {"desc": "residues that are all zero", "offset": 81, "set": "00", "times": 30720},
]
"""What is done to the first upload of the vectors, each of which makes it unreadable."""


def filled(label, size=32):
    """Return bytes that stand for a secret or a hash in a vector, and are no secret."""
    return vector_twin.hashlib.shake_256(f"bithive vector {label}".encode()).digest(size)


def hexes(label):
    return filled(label).hex()


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def made_secrets():
    return {
        site: RoundSecrets(filled(f"self seed of {site}"), filled(f"round seed of {site}"))
        for site in SITES
    }


def made_round():
    everyone = made_secrets()
    coefficients = [int.from_bytes(filled(f"coefficient {k}"), "big") for k in range(THRESHOLD)]
    dealt = [mask_twin.share_at(coefficients, x).to_bytes(33, "big") for x in range(1, 6)]
    context, modulus = filled("plan"), MEMBERS.plain_modulus
    here = {"context": context, "size": WORDS, "modulus": modulus}
    pairs = [(one, other) for one in SITES for other in SITES if one < other]
    return {
        "quorum": {str(n): 2 * n // 3 + 1 for n in (2, 3, 4, 6, 10, 50, 64)},
        "sharing": {
            "prime": str(PRIME),
            "coefficients": [f"{one:064x}" for one in coefficients],
            "threshold": THRESHOLD,
            "shares": [share.hex() for share in dealt],
        },
        "secrets": {
            site: {
                "self_seed": one.self_seed.hex(),
                "round_seed": one.round_seed.hex(),
                "round_key": vector_twin.hkdf(one.round_seed, b"bithive round key\n").hex(),
                "public_key": mask_twin.round_key(one.round_seed)
                .public_key()
                .public_bytes_raw()
                .hex(),
                "seed_sha256": vector_twin.sha256(b"bithive self seed\n" + one.self_seed),
            }
            for site, one in everyone.items()
        },
        "pads": {
            "parameters": MEMBERS.name,
            "context": context.hex(),
            "self": {site: mask_twin.self_pad(everyone[site], site, **here) for site in SITES},
            "pair": {
                f"{one} {other}": mask_twin.pair_pad(everyone, one, other, **here)
                for one, other in pairs
            },
            "total": {site: mask_twin.total_pad(everyone, site, **here) for site in SITES},
            "leftover": {
                "present": SITES[:3],
                "words": mask_twin.leftover(everyone, SITES[:3], **here),
            },
        },
        "share_pair": b"".join([b"\x01", *dealt[:2]]).hex(),
        "reveal": {
            "self_seed": everyone["north"].self_seed.hex(),
            "self_shares": {"north": dealt[0].hex(), "east": dealt[1].hex()},
            "round_shares": {"west": dealt[2].hex()},
            "bytes": vector_twin.reveal(
                everyone["north"].self_seed,
                {"north": dealt[0], "east": dealt[1]},
                {"west": dealt[2]},
            ).hex(),
        },
        "envelope": made_envelope(),
        "messages": made_messages(),
    }


def made_envelope():
    call, context = hexes("call"), b"bithive round shares v1\n"
    context += f"{call}\nnorth\nsouth".encode()
    given = [filled(f"agreement key of {site}") for site in ("north", "south")]
    return {
        "context": context.decode(),
        "sender_private": given[0].hex(),
        "recipient_private": given[1].hex(),
        "salt": hexes("salt"),
        "secret": hexes("secret"),
        "bytes": vector_twin.wrap(
            filled("secret"), *given, salt=filled("salt"), context=context
        ).hex(),
        "reveal_context": f"bithive reveal v1\n{hexes('commitment')}\nnorth\nsouth",
    }


def signing(who):
    return filled(f"signing key of {who}")


def public_of(who):
    return Ed25519PrivateKey.from_private_bytes(signing(who)).public_key().public_bytes_raw().hex()


def made_receipt(site):
    body = {
        "study": "vectors",
        "round": 7,
        "site": site,
        "ciphertext_sha256": hexes(f"upload of {site}"),
        "consent_root": "7",
        "certificates": [hexes(f"certificate of {site}")],
        "proven_patients": 52,
        "gradients": 41,
        "epsilon_spent": "0.81",
        "delta": "0.00001",
        "clipping_norm": "1",
        "model_sha256": hexes("model"),
        "site_key": public_of(site),
    }
    key = Ed25519PrivateKey.from_private_bytes(signing(site))
    signature = key.sign(b"bithive contribution\n" + vector_twin.compact(body))
    return {**body, "site_signature": signature.hex(), "server_signature": ""}


def made_messages():
    def by(who, label, **body):
        return vector_twin.signed(body, label, signing(who))

    about = {"study": "vectors", "round": 7}
    call = by(
        "server",
        b"round call",
        **about,
        terms=hexes("terms"),
        sites=SITES,
        previous=hexes("manifest"),
    )
    key = by(
        "north",
        b"round key",
        **about,
        site="north",
        call=vector_twin.digest(call),
        public_key=hexes("public key"),
        seed_sha256=hexes("seed"),
        sealing_key=hexes("sealing key"),
        envelopes=[hexes(f"envelope for {site}") for site in SITES[1:]],
    )
    receipts = [made_receipt(site) for site in SITES[:3]]
    committed = by(
        "server",
        b"commitment",
        **about,
        plan=hexes("plan"),
        key_id="0123456789abcdef",
        length=40,
        uploads_root=vector_twin.uploads_root(receipts),
        sum_sha256=hexes("sum"),
        receipts=receipts,
    )
    named = vector_twin.digest(committed)
    endorsements = [
        by(site, b"endorsement", site=site, commitment=named, nonce=hexes(f"nonce of {site}"))
        for site in SITES[1:]
    ]
    seed = vector_twin.challenge(committed, endorsements)
    tags = ["1", str(MEMBERS.data_modulus[0] - 1)]
    opened = np.arange(40, dtype="<i8").tobytes()
    integers = vector_twin.sha256(opened)
    messages = {
        "call": call,
        "round_key": key,
        "receipt": receipts[0],
        "commitment": committed,
        "endorsement": endorsements[0],
        "unmasking": by(
            "north",
            b"unmasking",
            site="north",
            commitment=named,
            challenge=seed.hex(),
            tag=tags,
        ),
        "partial": by(
            "north",
            b"partial",
            site="north",
            commitment=named,
            quorum=SITES[1:],
            share_sha256=hexes("share"),
        ),
        "opening": by(
            "north",
            b"opening",
            site="north",
            commitment=named,
            integers_sha256=integers,
            weight=156,
        ),
        "manifest": by(
            "server",
            b"manifest",
            **about,
            plan=hexes("plan"),
            commitment=named,
            integers_sha256=integers,
            model_sha256=hexes("model after"),
            previous=hexes("manifest"),
        ),
    }
    return {
        "keys": {who: public_of(who) for who in ["server", *SITES]},
        "bodies": messages,
        "digests": {name: vector_twin.digest(body) for name, body in messages.items()},
        "endorsements": endorsements,
        "challenge": seed.hex(),
    }


def made_upload(parameters, label):
    """Return seeds and residues that were not encrypted, only drawn."""
    degree = parameters.ring_degree
    polynomials = 1 if parameters.seeded else 2
    rows = [
        [
            vector_twin.below(
                vector_twin.shake_words(filled(f"{label} {j} {k}"), 2 * degree), prime, degree
            )
            for k, prime in enumerate(parameters.data_modulus)
        ]
        for j in range(polynomials)
    ]
    return [filled(f"{label} seed", 64)] if parameters.seeded else [], [rows]


def expanded(seeds, ciphertexts, parameters):
    """Return both polynomials, the second drawn from the seeds and added up."""
    if not seeds:
        return ciphertexts
    from tests.privacy.test_oracle import uniform_polynomial

    (prime,) = parameters.data_modulus
    drawn = [uniform_polynomial(seed, prime, parameters.ring_degree) for seed in seeds]
    second = [sum(column) % prime for column in zip(*drawn, strict=True)]
    return [[ciphertexts[0][0], [second]]]


def added(left, right, primes):
    return [
        [
            [
                [(a + b) % prime for a, b in zip(*rows, strict=True)]
                for *rows, prime in zip(*polynomials, primes, strict=True)
            ]
            for polynomials in zip(*both, strict=True)
        ]
        for both in zip(left, right, strict=True)
    ]


def made_containers(parameters):
    challenge = filled("challenge")
    primes = parameters.data_modulus
    sent = [made_upload(parameters, f"upload {i}") for i in range(2)]
    kinds = (1, 2) if parameters.seeded else (3, 4)
    blobs = [vector_twin.container(kinds[0], parameters, rows, seeds) for seeds, rows in sent]
    tags = [
        vector_twin.tag(expanded(seeds, rows, parameters), challenge, primes)
        for seeds, rows in sent
    ]
    seeds = [seed for one, _ in sent for seed in one]
    total = added(sent[0][1], sent[1][1], primes)
    blob = vector_twin.container(kinds[1], parameters, total, seeds)
    if not parameters.seeded:  # the number of contributors stands beside no seeds
        blob = blob[:15] + (2).to_bytes(2, "big") + blob[17:]
    return (
        {
            "parameters": parameters.name,
            "length": 40,
            "challenge": challenge.hex(),
            "coefficients": [
                {
                    "prime": str(prime),
                    "vector": vector,
                    "first": [
                        str(one) for one in vector_twin.coefficients(challenge, prime, vector, 4)
                    ],
                }
                for vector in range(2)
                for prime in primes
            ],
            "uploads": [
                {
                    "header": one[:17].hex(),
                    "bytes": len(one),
                    "sha256": vector_twin.sha256(one),
                    "tag": [str(part) for part in found],
                }
                for one, found in zip(blobs, tags, strict=True)
            ],
            "sum": {
                "header": blob[:17].hex(),
                "bytes": len(blob),
                "sha256": vector_twin.sha256(blob),
                "tag": [
                    str(sum(parts) % prime) for *parts, prime in zip(*tags, primes * 2, strict=True)
                ],
            },
        },
        blobs,
        blob,
    )


def made_ciphertexts():
    from tests.privacy.test_oracle import uniform_polynomial

    seed = bytes(range(64))
    drawn = uniform_polynomial(seed, MEMBERS.data_modulus[0], MEMBERS.ring_degree)
    values, weight = [5, -3, 127, 0, -127], 52
    slots = twin.pack(values, weight, MEMBERS)
    return {
        "packing": {
            "parameters": MEMBERS.name,
            "values": values,
            "weight": weight,
            "factors": [int(one) for one in twin.factors(MEMBERS.name, 4)],
            "slots": slots[:6],
        },
        "expansion": {
            "parameters": MEMBERS.name,
            "seed": seed.hex(),
            "first": [str(one) for one in drawn[:4]],
            "sha256": vector_twin.sha256(np.array(drawn, "<u8").tobytes()),
        },
        "containers": [made_containers(one)[0] for one in (MEMBERS, QUORUM)],
        "refused": REFUSED,
    }


def made_group_keys():
    study, epoch = "vectors", 2
    secret, kek = filled("group secret", 90), filled("wrapping key")
    key_id = vector_twin.member_key_id(secret, MEMBERS)
    facts = [study, epoch, "south", SITES, key_id]
    context = b"bithive group key v2\nkey\n" + json.dumps(facts, separators=(",", ":")).encode()
    sealed = vector_twin.seal(secret, kek, context)
    about = {"study": study, "epoch": epoch}
    dealt = vector_twin.signed(
        {
            **about,
            "dealer": "south",
            "sites": SITES,
            "threshold": THRESHOLD,
            "key_id": key_id,
            "sealed_sha256": vector_twin.sha256(sealed),
        },
        b"dealt key",
        signing("south"),
    )
    committed = [
        vector_twin.signed(
            {**about, "site": site, "sites": SITES, "public_sha256": hexes(f"part of {site}")},
            b"key commitment",
            signing(site),
        )
        for site in SITES
    ]
    together = b"".join(vector_twin.compact(one) for one in committed)
    commitments = vector_twin.sha256(b"bithive key commitments\n" + together)
    part = vector_twin.signed(
        {**about, "site": "north", "commitments": commitments}, b"key part", signing("north")
    )
    cohort = b"bithive group key v2\ncohort\n"
    cohort += json.dumps([study, epoch, SITES], separators=(",", ":")).encode()
    common = vector_twin.common_polynomial(vector_twin.context_digest(cohort, QUORUM), QUORUM)
    parts = [filled(f"part {i}") for i in range(4)]
    total, of = filled("total", 40), ["0123456789abcdef", QUORUM.name, 40, 3]
    return {
        "keys": {who: public_of(who) for who in SITES},
        "member": {
            "parameters": MEMBERS.name,
            "secret": secret.hex(),
            "key_id": key_id,
            "wrapping_key": kek.hex(),
            "context": context.decode(),
            "sealed": sealed.hex(),
            "copy_context": (context + b"\ncopy\nnorth").decode(),
            "share_context": f"bithive group key v2\nshare\n{key_id}\nnorth\nsouth",
        },
        "messages": {
            "dealt_key": dealt,
            "key_commitment": committed[0],
            "key_part": part,
        },
        "digests": {
            "dealt_key": vector_twin.digest(dealt),
            "key_commitment": vector_twin.digest(committed[0]),
            "key_part": vector_twin.digest(part),
        },
        "commitments": {"of": committed, "together": commitments},
        "collective": {
            "parameters": QUORUM.name,
            "context": cohort.decode(),
            "context_digest": vector_twin.context_digest(cohort, QUORUM).hex(),
            "part_context": f"bithive group key v2\npart\n{study}\n{epoch}\n{commitments}\n"
            "north\nsouth",
            "common_first": [[str(one) for one in row[:2]] for row in common],
            "common_sha256": [vector_twin.sha256(np.array(row, "<u8").tobytes()) for row in common],
            "parts": [one.hex() for one in parts],
            "key_id": vector_twin.collective_key_id(parts),
            "weights": {
                "quorum": [0, 2, 3],
                "of": [
                    [
                        str(vector_twin.weight(one, [0, 2, 3], prime))
                        for prime in QUORUM.data_modulus
                    ]
                    for one in (0, 2, 3)
                ],
            },
            "share_heading": {
                "index": 2,
                "quorum": [0, 2, 3],
                "ciphertexts": 1,
                "key_id": of[0],
                "length": of[2],
                "sites": of[3],
                "sum": total.hex(),
                "bytes": vector_twin.decryption_share_heading(2, [0, 2, 3], 1, total, of).hex(),
            },
        },
    }


MADE = {"round": made_round, "ciphertext": made_ciphertexts, "group-key": made_group_keys}


def make():
    for name, function in MADE.items():
        text = json.dumps(function(), indent=1, sort_keys=True)
        (FOLDER / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    make()
