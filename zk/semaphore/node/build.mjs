/*
 * Copy the pinned files of the circuit, bundle page.js, and write what they are into ../manifest.json.
 *
 *     npm ci --ignore-scripts && node build.mjs
 *     node build.mjs --check          compares with the committed files and writes nothing
 *
 * Only a developer who changes a version runs this. The same lock gives the same bytes.
 */
import { createHash } from "node:crypto"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { build } from "esbuild"

const here = dirname(fileURLToPath(import.meta.url))
const target = dirname(here)
const depth = 16
const artefacts = join(here, "node_modules/@zk-kit/semaphore-artifacts")

const files = {
    [`semaphore-${depth}.wasm`]: readFileSync(join(artefacts, `semaphore-${depth}.wasm`)),
    [`semaphore-${depth}.zkey`]: readFileSync(join(artefacts, `semaphore-${depth}.zkey`)),
    "verification-key.json": readFileSync(join(artefacts, `semaphore-${depth}.json`)),
    "semaphore.js": await bundle(),
}
const manifest = {
    format: "bithive-semaphore-1",
    depth,
    packages: packages(),
    sources: Object.fromEntries(
        ["build.mjs", "no-downloads.js", "package-lock.json", "page.js"].map((name) => [
            name,
            sha256(readFileSync(join(here, name))),
        ]),
    ),
    files: Object.fromEntries(
        Object.entries(files).map(([name, content]) => [
            name,
            { bytes: content.length, sha256: sha256(content) },
        ]),
    ),
}
const written = { ...files, "manifest.json": Buffer.from(JSON.stringify(manifest, null, 2) + "\n") }

if (process.argv.includes("--check")) {
    const differing = Object.entries(written)
        .filter(([name, content]) => !same(join(target, name), content))
        .map(([name]) => name)
    if (differing.length > 0) {
        console.error(`not reproduced: ${differing.join(", ")}; run node build.mjs and review`)
        process.exit(1)
    }
} else {
    for (const [name, content] of Object.entries(written)) {
        writeFileSync(join(target, name), content)
    }
}

async function bundle() {
    const built = await build({
        absWorkingDir: here,
        entryPoints: ["page.js"],
        bundle: true,
        write: false,
        minify: true,
        format: "esm",
        platform: "browser",
        target: "es2022",
        charset: "ascii",
        legalComments: "none", // ../NOTICE names every licence
        logLevel: "warning",
        alias: { "@zk-kit/artifacts": "./no-downloads.js" },
        define: { "process.browser": "true", global: "globalThis" },
    })
    return Buffer.from(built.outputFiles[0].contents)
}

/** The locked versions of what is inside the bundle. */
function packages() {
    const lock = JSON.parse(readFileSync(join(here, "package-lock.json"), "utf8"))
    const wanted = JSON.parse(readFileSync(join(here, "package.json"), "utf8")).devDependencies
    return Object.fromEntries(
        Object.keys(wanted)
            .sort()
            .map((name) => [name, lock.packages[`node_modules/${name}`].version]),
    )
}

function sha256(content) {
    return createHash("sha256").update(content).digest("hex")
}

function same(path, content) {
    return existsSync(path) && readFileSync(path).equals(content)
}
