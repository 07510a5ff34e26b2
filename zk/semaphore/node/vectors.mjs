/*
 * Write the test vectors that hold zk/semaphore.py, zk/lean_imt.py and consent/ to the published
 * packages. Proofs are random, so running it again writes others.
 *
 *     node vectors.mjs ../../../tests/vectors/zk          (30 s)
 *     node vectors.mjs --one                              prints one fresh grant's proof
 *
 * Every secret here is the SHA-256 of a number: test material.
 */
import { createHash } from "node:crypto"
import { writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { LeanIMT } from "@zk-kit/lean-imt"
import { packGroth16Proof, verifyProof } from "@semaphore-protocol/proof"
import { groth16 } from "snarkjs"
import * as page from "./page.js"

const here = dirname(fileURLToPath(import.meta.url))
const files = {
    wasm: join(here, "..", "semaphore-16.wasm"),
    zkey: join(here, "..", "semaphore-16.zkey"),
}
const REGISTRY = "registry"
const STUDY = "study"
const secretOf = (k) => Uint8Array.from(createHash("sha256").update(`test ${k}`).digest())
const people = Array.from({ length: 24 }, (_, k) => page.identityOf(secretOf(k)))
const payees = Array.from({ length: 24 }, (_, k) => page.payoutIdentityOf(secretOf(k), STUDY))
const commitments = (identities) => identities.map((one) => one.commitment.toString())
const sha256 = (text) => createHash("sha256").update(text).digest("hex")

if (process.argv.includes("--one")) {
    console.log(JSON.stringify(await grantOf(1, commitments(people.slice(0, 4)), grantFor(1))))
    process.exit(0)
}
const target = process.argv[2]
write("semaphore.json", {
    secrets: people.slice(0, 4).map((_, k) => Buffer.from(secretOf(k)).toString("hex")),
    scalars: people.slice(0, 4).map((one) => one.secretScalar.toString()),
    commitments: commitments(people.slice(0, 4)),
    payout_ids: commitments(payees.slice(0, 4)),
    numbers: numbers(),
    trees: trees(),
    proofs: await proofs(),
})
write("semaphore_grants.json", await grants())
write("semaphore_claims.json", await claims())
process.exit(0)

function numbers() {
    const cases = [
        ["bithive-claim-1", "wallet:north"],
        ["label"],
        ["label", ""],
        ["label", "a", "b"],
        ["label", "ab"],
        ["label", "1"],
        ["label", 1],
        ["label", 0, Number.MAX_SAFE_INTEGER],
        ["label", '"quoted" \\ and /slashed/ <b>'],
    ]
    return cases.map((parts) => ({ parts, number: page.numberFor(...parts).toString() }))
}

/** What LeanIMT does, step by step: [what, place or leaf, leaf], then root, depth and all paths. */
function trees() {
    const steps = []
    const tree = new LeanIMT((left, right) => page.poseidon2([left, right]))
    const note = (...step) =>
        steps.push({
            step: step.map(String),
            root: tree.root.toString(),
            depth: tree.depth,
            paths: tree.leaves.map((_, place) => {
                const { index, siblings } = tree.generateProof(place)
                return { index, siblings: siblings.map(String) }
            }),
        })
    for (let leaf = 1; leaf <= 11; leaf++) {
        tree.insert(BigInt(leaf))
        note("insert", leaf)
    }
    for (const [place, leaf] of [[3, 40], [10, 110], [0, 10]]) {
        tree.update(place, BigInt(leaf))
        note("update", place, leaf)
    }
    for (const place of [4, 10]) {
        tree.update(place, 0n)
        note("remove", place)
    }
    return steps
}

async function proofs() {
    const cases = []
    const add = (desc, code, asked, proof) => cases.push({ desc, code, asked, proof })
    const asked = ({ merkleTreeRoot, scope, message }) => ({
        root: merkleTreeRoot,
        scope,
        message,
    })
    for (const [desc, who, members] of [
        ["a group of one", 0, [0]],
        ["a group of two", 1, [0, 1]],
        ["a group of five, the odd one", 4, [0, 1, 2, 3, 4]],
        ["a group with a removed member", 2, [0, null, 2]],
    ]) {
        const leaves = members.map((k) => (k === null ? "0" : people[k].commitment.toString()))
        const proof = await page.prove(people[who], leaves, 11n, 22n, files)
        add(desc, null, asked(proof), proof)
    }
    const good = cases[2].proof
    const huge = (1n << 256n) - 1n
    const leaves = commitments(people.slice(0, 5))
    const large = await page.prove(people[4], leaves, huge, huge, files)
    add("the largest scope and message", null, asked(large), large)

    const r = 21888242871839275222246405745257275088548364400416034343698204186575808495617n
    const q = 21888242871839275222246405745257275088696311157297823662689037894645226208583n
    const plus = (text, number) => (BigInt(text) + number).toString()
    const changed = (change) => ({ ...good, ...change })
    const point = (k, change) =>
        changed({ points: good.points.map((one, i) => (i === k ? change(one) : one)) })
    const bad = (desc, code, proof, about = good) => add(desc, code, asked(about), proof)
    bad("shown for another root", "semaphore-root-wrong", good, cases[1].proof)
    bad("shown for another scope", "semaphore-scope-wrong", good, changed({ scope: "12" }))
    bad("shown for another message", "semaphore-message-wrong", good, changed({ message: "23" }))
    for (const [field, change] of Object.entries({
        merkleTreeRoot: cases[1].proof.merkleTreeRoot,
        scope: "12",
        message: "23",
        nullifier: plus(good.nullifier, 1n),
    })) {
        const other = changed({ [field]: change })
        bad(`with another ${field} written in`, "proof-invalid", other, other)
    }
    bad("nullifier not reduced", "semaphore-proof-malformed", changed({ nullifier: plus(good.nullifier, r) }))
    bad("root not reduced", "semaphore-proof-malformed", changed({ merkleTreeRoot: plus(good.merkleTreeRoot, r) }))
    bad("scope beyond 256 bits", "semaphore-proof-malformed", changed({ scope: plus(good.scope, 1n << 256n) }))
    bad("leading zero", "semaphore-proof-malformed", changed({ nullifier: `0${good.nullifier}` }))
    bad("negative scope", "semaphore-proof-malformed", changed({ scope: "-1" }))
    bad("hexadecimal message", "semaphore-proof-malformed", changed({ message: "0x16" }))
    bad("number instead of text", "semaphore-proof-malformed", changed({ message: 22 }))
    bad("another depth", "semaphore-proof-malformed", changed({ merkleTreeDepth: 20 }))
    bad("true for a depth", "semaphore-proof-malformed", changed({ merkleTreeDepth: true }))
    bad("seven coordinates", "semaphore-proof-malformed", changed({ points: good.points.slice(1) }))
    bad("a field too many", "semaphore-proof-malformed", changed({ note: "" }))
    bad("coordinate not reduced", "proof-invalid", point(0, (one) => plus(one, q)))
    bad("A off the curve", "proof-invalid", point(1, (one) => plus(one, 1n)))
    bad("B off the curve", "proof-invalid", point(3, (one) => plus(one, 1n)))
    bad("C of another proof", "proof-invalid", changed({
        points: [...good.points.slice(0, 6), ...cases[1].proof.points.slice(6)],
    }))
    bad("B with its parts exchanged", "proof-invalid", changed({
        points: [0, 1, 3, 2, 5, 4, 6, 7].map((k) => good.points[k]),
    }))
    bad("A at infinity", "proof-invalid", changed({ points: ["0", "0", ...good.points.slice(2)] }))
    const forged = await ofNobody()
    bad("a stranger, for the root 0 of an empty group", "semaphore-root-wrong", forged, forged)
    return cases
}

/** The circuit accepts a path longer than its tree, and calls its root 0: a proof by anybody. */
async function ofNobody() {
    const keccak = (number) => page.hashed(number).toString()
    const { proof, publicSignals } = await groth16.fullProve(
        {
            secret: people[23].secretScalar,
            merkleProofLength: 17,
            merkleProofIndex: 0,
            merkleProofSiblings: Array(16).fill(0n),
            scope: keccak(11n),
            message: keccak(22n),
        },
        files.wasm,
        files.zkey,
    )
    const forged = {
        merkleTreeDepth: 16,
        merkleTreeRoot: publicSignals[0],
        nullifier: publicSignals[1],
        message: "22",
        scope: "11",
        points: packGroth16Proof(proof),
    }
    if (publicSignals[0] !== "0" || !(await verifyProof(forged))) {
        throw new Error("the circuit no longer accepts root 0; say so in zk/semaphore.py")
    }
    return forged
}

function grantFor(k, leaf = 1000 + k) {
    return {
        registry: REGISTRY,
        study: STUDY,
        leaf: leaf.toString(),
        lane: 0,
        payoutId: payees[k].commitment.toString(),
        revokeHash: sha256(`code ${leaf}`),
    }
}

async function grantOf(k, members, grant) {
    return { grant, proof: await page.proveGrant(people[k], members, grant, files) }
}

/** Persons 0 to 3 for themselves; 4 is the carer of the ward 5; 6 is nobody. */
async function grants() {
    const before = commitments([0, 1, 2, 3, 4].map((k) => people[k]))
    const after = commitments([0, 1, 2, 3, 5].map((k) => people[k]))
    const alone = commitments(people.slice(0, 3))
    const withdrawal = { registry: REGISTRY, study: STUDY, leaf: "1001" }
    return {
        registry: REGISTRY,
        study: STUDY,
        commitments: commitments(people.slice(0, 7)),
        nullifiers: people.slice(0, 7).map((one) => page.grantNullifier(one, STUDY).toString()),
        members_before: before,
        members_after: after,
        by_self: await grantOf(1, before, grantFor(1)),
        by_self_again: await grantOf(1, before, grantFor(1, 1501)),
        by_self_early: await grantOf(1, alone, grantFor(1, 1601)),
        by_carer: await grantOf(4, before, grantFor(5)),
        by_ward: await grantOf(5, after, grantFor(5, 1505)),
        by_stranger: await grantOf(6, commitments([people[6], people[7]]), grantFor(6)),
        withdrawal: await page.proveWithdrawal(people[1], before, withdrawal, files),
        withdrawal_by_another: await page.proveWithdrawal(people[2], before, withdrawal, files),
    }
}

async function claims() {
    const group = commitments(payees.slice(0, 20))
    const payout = { registry: REGISTRY, study: STUDY, epoch: 5, site: "north" }
    const claim = async (k, where, recipient, members = group) => ({
        ...where,
        recipient,
        proof: await page.proveClaim(payees[k], members, where, recipient, files),
    })
    return {
        members: group,
        first: await claim(0, payout, "wallet:first"),
        first_elsewhere: await claim(0, payout, "wallet:second"),
        second: await claim(7, payout, "0x00000000000000000000000000000000000000b2"),
        last: await claim(19, payout, "wallet:last"),
        next_epoch: await claim(0, { ...payout, epoch: 6 }, "wallet:first"),
        foreign_site: await claim(0, { ...payout, site: "south" }, "wallet:first"),
        other_registry: await claim(0, { ...payout, registry: "another" }, "wallet:first"),
        foreign_group: await claim(21, payout, "wallet:first", commitments(payees.slice(20))),
    }
}

function write(name, content) {
    const text = JSON.stringify({ about: "Written by zk/semaphore/node/vectors.mjs", ...content }, null, 1)
    writeFileSync(join(target, name), `${text}\n`)
}
