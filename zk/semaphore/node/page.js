/*
 * Semaphore v4 in a patient's browser: identities from a secret, and proofs that she belongs to a
 * group, of a grant, a withdrawal or a claim. Built into ../semaphore.js by build.mjs.
 *
 *     import { identityOf, payoutIdentityOf, proveGrant } from "./semaphore.js"
 *     const files = { wasm: "./semaphore-16.wasm", zkey: "./semaphore-16.zkey" }
 *     const me = identityOf(secret)                          // 32 bytes that only she keeps
 *     const payoutId = payoutIdentityOf(secret, study).commitment
 *     const proof = await proveGrant(me, members, { registry, study, leaf, lane, payoutId,
 *                                                   revokeHash }, files)
 *
 * Nothing here fetches anything but the two files it is given. What is hashed must be equal to
 * zk/semaphore.py, consent/grants_by_proof.py and consent/claims.py; the vectors hold both to it.
 * Numbers are bigints or decimal text; hashes are lower-case hexadecimal text.
 */
import { Group } from "@semaphore-protocol/group"
import { Identity } from "@semaphore-protocol/identity"
import { generateProof, verifyProof } from "@semaphore-protocol/proof"
import { keccak256, sha256 } from "ethers/crypto"
import { hexlify, toBeHex, toUtf8Bytes } from "ethers/utils"
import { poseidon2 } from "poseidon-lite/poseidon2"
import { poseidon3 } from "poseidon-lite/poseidon3"

export const TREE_DEPTH = 16
const SECRET_BYTES = 32
// What JSON writes alike in JavaScript and Python: printable ASCII.
const PRINTABLE = /^[\x20-\x7e]*$/

export { poseidon2, poseidon3, verifyProof }

/** The number that stands for a label and its parts, as zk.semaphore.number_for has it. */
export function numberFor(label, ...parts) {
    for (const part of [label, ...parts]) {
        const whole = Number.isSafeInteger(part) && part >= 0
        if (!whole && !(typeof part === "string" && PRINTABLE.test(part))) {
            throw new TypeError("a part is neither printable ASCII nor a whole number")
        }
    }
    return BigInt(sha256(toUtf8Bytes(JSON.stringify([label, ...parts]))))
}

/** Her identity, by which she is enrolled and grants. */
export function identityOf(secret) {
    checkSecret(secret)
    return new Identity(secret)
}

/** Her identity for the payouts of one study; nobody can tie it to the enrolled one. */
export function payoutIdentityOf(secret, study) {
    checkSecret(secret)
    const own = numberFor("bithive-payout-identity-1", hexlify(secret), study)
    return new Identity(bytesOf(own))
}

export function grantScope(study) {
    return numberFor("bithive-grant-scope-1", study)
}

/** What ties the nullifiers of one study: the same for everything this identity does in it. */
export function grantNullifier(identity, study) {
    return poseidon2([hashed(grantScope(study)), identity.secretScalar])
}

export function grantMessage({ registry, leaf, lane, payoutId, revokeHash }) {
    return numberFor("bithive-grant-1", registry, decimal(leaf), lane, decimal(payoutId), revokeHash)
}

export function withdrawalMessage({ registry, leaf }) {
    return numberFor("bithive-withdrawal-1", registry, decimal(leaf))
}

export function payoutScope({ registry, study, epoch, site }) {
    return numberFor("bithive-payout-1", registry, study, epoch, site)
}

export function claimMessage(recipient) {
    return numberFor("bithive-claim-1", recipient)
}

export function proveGrant(identity, members, grant, files) {
    return prove(identity, members, grantScope(grant.study), grantMessage(grant), files)
}

export function proveWithdrawal(identity, members, withdrawal, files) {
    const scope = grantScope(withdrawal.study)
    return prove(identity, members, scope, withdrawalMessage(withdrawal), files)
}

export function proveClaim(identity, members, payout, recipient, files) {
    return prove(identity, members, payoutScope(payout), claimMessage(recipient), files)
}

/**
 * A Semaphore proof that `identity` is one of `members` and says `message` in `scope`.
 * `members` are all leaves of the group in order, 0 for a removed one; asking a server for one's
 * own path alone would tell it who one is.
 */
export async function prove(identity, members, scope, message, files) {
    const group = groupOf(members)
    const place = group.indexOf(identity.commitment)
    if (place < 0) {
        throw new RangeError("this identity is not a member of the group")
    }
    const path = group.generateMerkleProof(place)
    return generateProof(identity, path, message, scope, TREE_DEPTH, files)
}

/** The group with these leaves; unlike addMembers, its constructor takes the zeros of removed ones. */
export function groupOf(members) {
    return new Group(members)
}

function checkSecret(secret) {
    if (!(secret instanceof Uint8Array) || secret.length !== SECRET_BYTES) {
        throw new TypeError("a secret is a Uint8Array of 32 bytes")
    }
}

/** The public input that Semaphore makes of a message or scope. */
export function hashed(number) {
    return BigInt(keccak256(toBeHex(number, 32))) >> 8n
}

function decimal(number) {
    return BigInt(number).toString()
}

function bytesOf(number) {
    const digits = number.toString(16).padStart(2 * SECRET_BYTES, "0")
    return Uint8Array.from(digits.match(/../g), (pair) => Number.parseInt(pair, 16))
}
