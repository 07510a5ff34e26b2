/*
 * Make Semaphore proofs of membership, and check them, as one patient after the other would.
 *
 *     node _semaphore_proof.mjs ZK_SEMAPHORE_FOLDER TIMES
 *
 * Run by experiments/consent_proof_cost.py. Prints one JSON object: processor and wall seconds of
 * each proof, processor seconds of each verification by snarkjs, and the last proof.
 */
import { pathToFileURL } from "node:url"
import { join } from "node:path"

const [folder, times] = process.argv.slice(2)
const { identityOf, prove, verifyProof } = await import(pathToFileURL(join(folder, "node/page.js")))
const files = {
    wasm: join(folder, "semaphore-16.wasm"),
    zkey: join(folder, "semaphore-16.zkey"),
}

/** What `work` gives, and the processor and wall seconds it took in all threads of this process. */
async function timed(work) {
    const before = process.cpuUsage()
    const started = performance.now()
    const result = await work()
    const wall = (performance.now() - started) / 1000
    const { user, system } = process.cpuUsage(before)
    return { result, cpu: (user + system) / 1e6, wall }
}

const row = { prove_cpu: [], prove_wall: [], verify_cpu: [] }
const scope = 7n
for (let turn = 0; turn < Number(times); turn += 1) {
    const me = identityOf(crypto.getRandomValues(new Uint8Array(32)))
    const members = [5n, 6n, me.commitment]
    const proof = await timed(() => prove(me, members, BigInt(turn), scope, files))
    const verdict = await timed(() => verifyProof(proof.result))
    if (verdict.result !== true) {
        throw new Error("the proof does not verify")
    }
    row.prove_cpu.push(proof.cpu)
    row.prove_wall.push(proof.wall)
    row.verify_cpu.push(verdict.cpu)
    row.proof = JSON.stringify(proof.result)
}
console.log(JSON.stringify(row))
process.exit(0) // the worker threads of snarkjs would wait for more
