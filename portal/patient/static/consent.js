/*
 * What the page computes for a patient, without touching the document: codes, terms, leaves, seals,
 * and which rounds could have used her data. Her secrets stay here and in the browser's storage.
 *
 * It computes what portal/patient/codes.py and sealing.py, consent/grant.py, fhir.py and terms.py
 * compute; the browser tests hold the two to each other. Numbers are bigints, bytes Uint8Array.
 */
const FIELD = 21888242871839275222246405745257275088548364400416034343698204186575808495617n
const SYMBOLS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
const DAY = 86_400_000
const encoder = new TextEncoder()

/** A refusal of the page's own, by a code that texts.json has words for. */
export class Refused extends Error {
    constructor(code, detail = "", facts = {}) {
        super(detail || code)
        this.code = code
        this.facts = facts
    }
}

// Bytes and numbers

export const utf8 = (text) => encoder.encode(text)
export const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")
export const unhex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16))
const number = (bytes) => BigInt(`0x${hex(bytes) || "0"}`)
const joined = (...parts) => unhex(parts.map(hex).join(""))
export const random = (length) => crypto.getRandomValues(new Uint8Array(length))

export async function sha256(bytes) {
    return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))
}

/** The number that stands for a name in consent terms: protocol.ids.number_of. */
export async function numberOf(name, bits) {
    return number((await sha256(utf8(name))).slice(0, bits / 8))
}

export const today = (now = Date.now()) => Math.floor(now / DAY)
export const dateOf = (day) => new Date(day * DAY).toISOString().slice(0, 10)

// Codes on paper

const canonical = (text) => text.toUpperCase().replace(/[\s-]/g, "").replace(/O/g, "0").replace(/[IL]/g, "1")

function symbolsOf(text, count) {
    const symbols = canonical(text)
    if (symbols.length !== count || [...symbols].some((one) => !SYMBOLS.includes(one))) {
        throw new Refused("code-mistyped")
    }
    return symbols
}

function written(value, count) {
    let symbols = ""
    for (let place = count - 1; place >= 0; place--) {
        symbols += SYMBOLS[Number((value >> BigInt(5 * place)) & 31n)]
    }
    return symbols
}

async function checkSymbols(content) {
    const digest = await sha256(joined(utf8("bithive paper code\n"), content))
    return written(number(digest.slice(0, 2)) >> 6n, 2)
}

/** The code that a patient prints, from a grant's id (hex) and its secret (hex). */
export async function paperCode(grant, secret) {
    const content = unhex(grant + secret)
    const symbols = written(number(content) << 2n, 42) + (await checkSymbols(content))
    return symbols.match(/.{4}/g).join("-")
}

export async function readPaperCode(text) {
    const symbols = symbolsOf(text, 44)
    let value = 0n
    for (const symbol of symbols.slice(0, 42)) {
        value = (value << 5n) | BigInt(SYMBOLS.indexOf(symbol))
    }
    const content = unhex((value >> 2n).toString(16).padStart(52, "0"))
    if (value & 3n || (await checkSymbols(content)) !== symbols.slice(42)) {
        throw new Refused("code-mistyped")
    }
    return { grant: hex(content.slice(0, 10)), code: hex(content.slice(10)) }
}

// Invitations

async function derived(secret, info, length) {
    const key = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveBits"])
    const how = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(32), info }
    return new Uint8Array(await crypto.subtle.deriveBits(how, key, 8 * length))
}

export async function invitationKeys(code) {
    const symbols = utf8(symbolsOf(code, 20))
    return {
        lookup: hex(await derived(symbols, utf8("bithive invitation lookup"), 16)),
        envelope: await derived(symbols, utf8("bithive invitation envelope"), 32),
        request: await derived(symbols, utf8("bithive invitation request"), 32),
    }
}

/** Her number and pseudonym at the hospital, which the server has not seen. */
export async function openEnvelope(envelope, keys, site) {
    const key = await crypto.subtle.importKey("raw", keys.envelope, "AES-GCM", false, ["decrypt"])
    const how = { name: "AES-GCM", iv: new Uint8Array(12), additionalData: utf8(`bithive invitation\n${site}`) }
    try {
        return JSON.parse(new TextDecoder().decode(await crypto.subtle.decrypt(how, key, unhex(envelope))))
    } catch {
        throw new Refused("sealed-message-broken")
    }
}

export async function requestMac(keys, site, commitment, ward) {
    const how = { name: "HMAC", hash: "SHA-256" }
    const key = await crypto.subtle.importKey("raw", keys.request, how, false, ["sign"])
    const body = utf8(`bithive enrolment request\n${site}\n${commitment}${ward ? `\n${ward}` : ""}`)
    return hex(new Uint8Array(await crypto.subtle.sign("HMAC", key, body)))
}

// Openings

/** Terms packed into a field element: zk.cover.pack_terms. */
export async function packTerms(terms, names) {
    const site = await numberOf(names.site, 32)
    const dataset = await numberOf(names.dataset, 32)
    const study = await numberOf(names.study, 64)
    const packed = BigInt(terms.grants) | (site << 32n) | (dataset << 64n) | (study << 96n)
        | (BigInt(terms.notBefore) << 160n) | (BigInt(terms.expiry) << 176n)
    return { packed, site, dataset, study }
}

/** The FHIR R4 Consent that the hospital makes of the same terms: consent.fhir. */
function consentDocument(patient, terms, numbers, vocabulary) {
    const identifier = (kind, value) => ({ system: `urn:bithive:${kind}`, value })
    const digits = (value, count) => value.toString(16).padStart(count, "0")
    const set = (bit) => (BigInt(terms.grants) >> BigInt(bit)) & 1n
    return {
        resourceType: "Consent",
        status: "active",
        scope: { coding: [{ system: "http://terminology.hl7.org/CodeSystem/consentscope", code: "research" }] },
        category: [{ coding: [{ system: "http://loinc.org", code: "59284-0" }] }],
        patient: { identifier: identifier("patient", patient) },
        organization: [{ identifier: identifier("site", digits(numbers.site, 8)) }],
        policy: [{ uri: `urn:bithive:study:${digits(numbers.study, 16)}` }],
        provision: {
            type: "permit",
            period: { start: dateOf(terms.notBefore), end: dateOf(terms.expiry - 1) },
            purpose: vocabulary.purposes.filter((_, bit) => set(bit)).map((one) => ({
                system: "http://purl.obolibrary.org/obo/duo.owl",
                code: one.code.replaceAll(":", "_"),
                display: one.name,
            })),
            class: vocabulary.categories.filter((_, bit) => set(16 + bit)).map((one) => ({
                system: one.modality ? "http://dicom.nema.org/resources/ontology/DCM" : "urn:bithive:data-category",
                code: one.code,
                display: one.name,
            })),
            data: [{
                meaning: "related",
                reference: { identifier: identifier("dataset", digits(numbers.dataset, 8)) },
            }],
        },
    }
}

/** Compact JSON with sorted names, as the hospital and the registry hash and sign it. */
export function sorted(value) {
    if (Array.isArray(value)) return `[${value.map(sorted).join(",")}]`
    if (value !== null && typeof value === "object") {
        const fields = Object.keys(value).sort().map((name) => `${JSON.stringify(name)}:${sorted(value[name])}`)
        return `{${fields.join(",")}}`
    }
    return JSON.stringify(value)
}

/**
 * A new leaf with all that opens it. `person` is what the envelope held; `names` are site, dataset
 * and study; `poseidon` are poseidon2 and poseidon3.
 */
export async function newOpening(person, terms, names, vocabulary, poseidon) {
    const { packed, ...numbers } = await packTerms(terms, names)
    const document = sorted(consentDocument(person.patient, terms, numbers, vocabulary))
    const randomness = number(random(64)) % FIELD
    const salt = poseidon.poseidon2([randomness, number(await sha256(utf8(document))) % FIELD])
    const leaf = poseidon.poseidon3([BigInt(person.subject), packed, salt])
    return {
        leaf: `${leaf}`,
        opening: {
            patient: person.patient,
            subject: person.subject,
            salt: `${salt}`,
            terms: `${packed}`,
            randomness: `${randomness}`,
        },
    }
}

/** Seal text for a hospital's X25519 key: portal.patient.sealing.seal. Returns hex. */
export async function seal(text, recipient, context) {
    let pair, other
    try {
        pair = await crypto.subtle.generateKey({ name: "X25519" }, false, ["deriveBits"])
        other = await crypto.subtle.importKey("raw", recipient, { name: "X25519" }, false, [])
    } catch {
        throw new Refused("browser-old")
    }
    const own = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey))
    const how = { name: "X25519", public: other }
    const shared = new Uint8Array(await crypto.subtle.deriveBits(how, pair.privateKey, 256))
    const info = joined(utf8("bithive sealed opening\n"), own, recipient, utf8(context))
    const key = await crypto.subtle.importKey("raw", await derived(shared, info, 32), "AES-GCM", false, ["encrypt"])
    const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv: new Uint8Array(12) }, key, utf8(text))
    return hex(joined(Uint8Array.of(1), own, new Uint8Array(sealed)))
}

/** Whether the registry signed a receipt; null where the browser has no Ed25519. Throws if it did not. */
export async function checkSigned(label, message, publicKey) {
    const { signature, ...fields } = message
    let key
    try {
        key = await crypto.subtle.importKey("raw", publicKey, { name: "Ed25519" }, false, ["verify"])
    } catch {
        return null
    }
    const body = utf8(`bithive ${label}\n${sorted(fields)}`)
    if (!(await crypto.subtle.verify({ name: "Ed25519" }, key, unhex(signature), body))) {
        throw new Refused("receipt-unsigned")
    }
    return true
}

// Who used my data

/** The root of a chunk's leaves at an epoch, and how many of them were live. */
function chunkAt(changes, chunk, size, epoch, poseidon2) {
    const leaves = new Array(size).fill(0n)
    for (const change of changes) {
        if (change.epoch <= epoch && Math.floor(change.index / size) === chunk) {
            leaves[change.index % size] = BigInt(change.leaf)
        }
    }
    const live = leaves.filter((leaf) => leaf !== 0n).length
    let level = leaves
    while (level.length > 1) {
        level = Array.from({ length: level.length / 2 }, (_, at) => poseidon2([level[2 * at], level[2 * at + 1]]))
    }
    return { root: level[0], live }
}

/**
 * Which rounds could have used her data.
 *
 * `grants` are hers with leaf and terms; `changes` all changes of her hospital's lane; `coverage`
 * what each round proved of it. Each use says what can be known: "was" if all live consents of her
 * chunk were used, "could" if some were, "none" if none was, "dropped" if what her hospital sent entered
 * no sum, "not" if her terms did not allow it, "mismatch" if the certificate is not about the leaves in
 * the public list.
 */
export function usesOf(grants, changes, size, coverage, poseidon2) {
    const uses = []
    for (const grant of grants) {
        const set = changes.find((change) => change.leaf === grant.leaf)
        if (!set) continue
        const out = changes.find((change) => change.index === set.index && change.leaf === "0")
        const chunk = Math.floor(set.index / size)
        for (const one of coverage) {
            if (one.chunk !== chunk || one.epoch < set.epoch || (out && one.epoch >= out.epoch)) continue
            const { root, live } = chunkAt(changes, chunk, size, one.epoch, poseidon2)
            const allowed = (BigInt(one.required) & ~BigInt(grant.terms.grants)) === 0n
                && grant.terms.notBefore <= one.from_day && one.through_day < grant.terms.expiry
            let kind = one.count === 0 ? "none" : one.count === live ? "was" : "could"
            if (one.counted === false && kind !== "none") kind = "dropped"
            if (!allowed) kind = "not"
            if (`${root}` !== one.chunk_root) kind = "mismatch"
            uses.push({ round: one.round, epoch: one.epoch, required: one.required, count: one.count, live, kind })
        }
    }
    return uses.sort((a, b) => a.round - b.round)
}

/**
 * Uses with what their round's receipt says, and her equal part of what the round paid to the patients
 * of her hospital: as many parts as consents were live in its lane, hers among them.
 */
export function withReceipts(uses, receipts, changes) {
    return uses.map((use) => {
        const receipt = receipts.find((one) => one.round === use.round)
        if (!receipt || receipt.paid === "0") return { ...use, receipt }
        const leaves = new Map()
        for (const change of changes) {
            if (change.epoch <= use.epoch) leaves.set(change.index, change.leaf)
        }
        const live = [...leaves.values()].filter((leaf) => leaf !== "0").length
        return { ...use, receipt, share: BigInt(receipt.paid) / BigInt(live) }
    })
}

/** The id of the grant with a leaf: consent.publication.grant_id. */
export async function grantId(registry, leaf) {
    return hex(await sha256(utf8(`bithive grant\n${registry}\n${leaf}`))).slice(0, 20)
}

// Her key

const KEY_LABEL = "BITHIVE1."

/** Everything that she has, as text to keep elsewhere. */
export function exported(ring) {
    const bytes = utf8(JSON.stringify(ring))
    return KEY_LABEL + btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))
}

export function imported(text, study) {
    let ring
    try {
        const compact = text.replace(/\s/g, "")
        if (!compact.startsWith(KEY_LABEL)) throw new Error("label")
        const bytes = Uint8Array.from(atob(compact.slice(KEY_LABEL.length)), (one) => one.charCodeAt(0))
        ring = JSON.parse(new TextDecoder().decode(bytes))
        if (ring.version !== 1 || !/^[0-9a-f]{64}$/.test(ring.secret) || !Array.isArray(ring.grants)) throw new Error("fields")
    } catch {
        throw new Refused("key-unreadable")
    }
    if (ring.study !== study) throw new Refused("key-foreign")
    return ring
}
