/*
 * The patient's page: shows where she stands, and does what she asks. What is computed is in
 * consent.js, proofs in semaphore.js; both are loaded from this server only, under their hash.
 */
const setup = JSON.parse(document.getElementById("setup").textContent)
const { study, texts, files } = setup
const consent = await import(files["consent.js"].address)
const { Refused, hex, unhex, utf8 } = consent

const LANGUAGE = "bithive-language"
const RING = `bithive-key-${study.study}`
const LATE = 120_000 // milliseconds after which a batch is said to be late
const UNITS_PER_BTT = 10n ** 18n
const $ = (id) => document.getElementById(id)

// Words

let language = localStorage.getItem(LANGUAGE) ?? document.documentElement.lang
if (!["en", "zh"].includes(language)) language = "en"

/** A text in the language; a carer, or a ward who took over, reads her own wording of it. */
function say(key, facts = {}) {
    const text = (texts[`${ring?.role}.${key}`] ?? texts[key])?.[language] ?? key
    const all = { ...people(), ...facts }
    return text.replaceAll("ε = ", "ε\u00a0=\u00a0").replace(/\{(\w+)\}/g, (whole, name) => all[name] ?? whole)
}

/** For whom, and until when, in words: a relation, never a name. */
function people() {
    const { relation, until } = ring?.person ?? {}
    if (!until) return {}
    const first = dayNumber(until)
    return { whom: texts[`whom.${relation}`][language], until: day(first), last: day(first - 1) }
}

function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag)
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
    made.append(...children)
    return made
}

const day = (number) => new Date(number * 86_400_000).toLocaleDateString(
    language === "zh" ? "zh-CN" : "en-GB", { year: "numeric", month: "long", day: "numeric", timeZone: "UTC" })
const dayNumber = (iso) => consent.today(Date.parse(iso))
const dayOf = (iso) => day(consent.today(Date.parse(iso)))
/** About when, to the minute, of the browser's own clock; the day too where it is another. */
function clockTime(time) {
    const at = new Date(Math.ceil(time / 60_000) * 60_000)
    const locale = language === "zh" ? "zh-CN" : "en-GB"
    const hours = at.toLocaleTimeString(locale, { hour: "2-digit", minute: "2-digit" })
    if (at.toDateString() === new Date().toDateString()) return hours
    return `${at.toLocaleDateString(locale, { month: "long", day: "numeric" })} ${hours}`
}
const siteName = (site) => study.sites[site]?.name[language] ?? site
const list = (names) => new Intl.ListFormat(language, { type: "conjunction" }).format(names)

function wait(seconds) {
    const [count, unit] = seconds < 120 ? [seconds, "second"] : seconds < 7200 ? [Math.ceil(seconds / 60), "minute"] : [Math.ceil(seconds / 3600), "hour"]
    return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "long" }).format(count)
}

function btt(units) {
    const whole = BigInt(units) / UNITS_PER_BTT
    const rest = (BigInt(units) % UNITS_PER_BTT).toString().padStart(18, "0").replace(/0+$/, "")
    const shown = rest.length > 6 ? `${rest.slice(0, 6)}…` : rest
    return `${whole.toLocaleString("en")}${shown && `.${shown}`} BTT`
}

/** An amount to read, not to pay by. */
function about(units) {
    const value = Number(units) / Number(UNITS_PER_BTT)
    const digits = value < 1 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 2 }
    return `${value.toLocaleString("en", digits)}\u00a0BTT`
}

// Her key rings: one for herself, one for each ward

let rings = []
try {
    const kept = JSON.parse(localStorage.getItem(RING))
    rings = Array.isArray(kept) ? kept : kept ? [kept] : []
} catch {
    rings = []
}
let ring = rings[0] ?? null // null while another invitation is typed

function keep() {
    if (!rings.includes(ring)) rings.push(ring)
    save()
}

function save() {
    try {
        localStorage.setItem(RING, JSON.stringify(rings))
    } catch {
        throw new Refused("storage")
    }
}

function drop() {
    rings = rings.filter((one) => one !== ring)
    ring = rings[0] ?? null
    if (rings.length) localStorage.setItem(RING, JSON.stringify(rings))
    else localStorage.removeItem(RING)
}

/** A ward before her day, or a carer from it on: whoever may only look. */
const isYoung = (one) => one?.role === "ward" && consent.today() < dayNumber(one.person.until)
const isOver = (one) => one?.role === "carer" && consent.today() >= dayNumber(one.person.until)

const current = () => ring?.grants.at(-1)
/** What she said last: a grant that waits for its batch, or the one that was published last. */
const newest = () => ring?.waiting ?? current()
const isLive = (grant) => grant && !grant.ended && consent.today() < grant.terms.expiry

// The server

async function ask(path, body) {
    const options = { cache: "no-store", credentials: "omit" }
    if (body) Object.assign(options, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })
    let response, answer
    try {
        response = await fetch(path, options)
        answer = await response.json()
    } catch {
        throw new Refused("network")
    }
    if (!response.ok) throw new Refused(answer.code ?? "internal", answer.detail, { seconds: answer.retry_after_seconds })
    return answer
}

let semaphoreLoaded
const semaphore = () => (semaphoreLoaded ??= import(files["semaphore.js"].address))

// Fetched with their hash, so that a changed key or calculator is refused by the browser itself.
let keysLoaded
function provingFiles() {
    keysLoaded ??= Promise.all(["semaphore-16.wasm", "semaphore-16.zkey"].map(async (name) => {
        const { address, integrity } = files[name]
        const response = await fetch(address, { integrity, credentials: "omit" })
        return new Uint8Array(await response.arrayBuffer())
    })).then(([wasm, zkey]) => ({ wasm, zkey }))
    keysLoaded.catch(() => { keysLoaded = undefined })
    return keysLoaded
}

const secret = () => unhex(ring.secret)
const members = async (path) => (await ask(path)).members.map(BigInt)

async function proven(prove) {
    busy("busy.load")
    const [sem, proving] = await Promise.all([semaphore(), provingFiles()])
    busy("busy.prove")
    try {
        return JSON.stringify(await prove(sem, proving))
    } catch (error) {
        throw error instanceof RangeError ? new Refused("not-a-member") : error
    }
}

// Enrolment

async function enrol(code) {
    const keys = await consent.invitationKeys(code)
    busy("busy.send")
    const { site, envelope } = await ask(`/api/invitations/${keys.lookup}`)
    const person = await consent.openEnvelope(envelope, keys, site)
    const { identityOf } = await semaphore()
    const fresh = (role) => {
        const made = { version: 1, study: study.study, site, person, role, secret: hex(consent.random(32)), enrolled: false, grants: [], claims: {} }
        made.commitment = `${identityOf(unhex(made.secret)).commitment}`
        return made
    }
    const before = ring
    ring = fresh(person.until ? "carer" : "self")
    const asked = { lookup: keys.lookup, commitment: ring.commitment }
    if (person.until) { // her ward's own key is made with hers, and leaves this browser for good
        ring.handover = fresh("ward")
        asked.ward = ring.handover.commitment
    }
    keep() // before it is sent: an enrolment without its key is lost
    try {
        await ask("/api/enrolments", { ...asked, mac: await consent.requestMac(keys, site, asked.commitment, asked.ward) })
    } catch (error) {
        drop()
        ring = before
        throw error
    }
}

async function checkEnrolled() {
    const everybody = (await ask("/api/enrolment/members")).members
    if (everybody.includes(ring.commitment)) {
        ring.enrolled = true
        keep()
        void semaphore()
        void provingFiles().catch(() => {}) // while she reads
    }
    return ring.enrolled
}

// Granting and withdrawing

function wished() {
    const masks = [...document.querySelectorAll("#consent-form input[type=checkbox]:checked")].map((box) => Number(box.value))
    const months = document.querySelector("#consent-form input[type=radio]:checked")?.value
    const has = (kind) => document.querySelector(`#consent-${kind} input:checked`) !== null
    if (!has("purposes") || !has("categories") || !months) return null
    const grants = masks.reduce((all, mask) => all | BigInt(mask), 0n)
    return { grants: Number(grants), months: Number(months) }
}

/** The months that are offered, with their last day; a carer's end on the day before her ward's. */
function offered() {
    const end = ring?.role === "carer" ? dayNumber(ring.person.until) - 1 : Infinity
    const inside = study.months.filter((months) => lastDay(months) < end)
    const capped = study.months.slice(inside.length, inside.length + 1)
    return [...inside, ...capped].map((months) => ({ months, last: Math.min(lastDay(months), end), own: lastDay(months) > end }))
}

function lastDay(months) {
    const end = new Date()
    const month = end.getUTCMonth() + months
    const last = new Date(Date.UTC(end.getUTCFullYear(), month + 1, 0)).getUTCDate()
    return consent.today(Date.UTC(end.getUTCFullYear(), month, Math.min(end.getUTCDate(), last)))
}

async function grant(wish) {
    const site = study.sites[ring.site]
    // A study proves over days; those that began before she granted count from their first, and no
    // round before her grant's epoch can use it whatever its terms say.
    const terms = {
        grants: wish.grants,
        notBefore: Math.min(consent.today(), study.from_day),
        expiry: offered().find((one) => one.months === wish.months).last + 1,
    }
    const sem = await semaphore()
    const names = { site: ring.site, dataset: study.dataset, study: study.study }
    const { leaf, opening } = await consent.newOpening(ring.person, terms, names, study.vocabulary, sem)
    const code = hex(consent.random(16))
    const asked = {
        registry: study.registry, study: study.study, leaf, lane: site.lane,
        payoutId: sem.payoutIdentityOf(secret(), study.study).commitment,
        revokeHash: hex(await consent.sha256(unhex(code))),
    }
    const everybody = await members("/api/enrolment/members")
    const proof = await proven((one, proving) => one.proveGrant(one.identityOf(secret()), everybody, asked, proving))
    busy("busy.send")
    const sealed = await consent.seal(JSON.stringify(opening), unhex(site.agreement_key), `${study.registry}\n${site.lane}\n${leaf}`)
    ring.pending = { leaf, code, terms, sent: Date.now() } // should the answer be lost, the code is not
    keep()
    const answer = await ask("/api/grants", {
        site: ring.site, leaf, payout_id: `${asked.payoutId}`, revoke_hash: asked.revokeHash, sealed, proof,
    })
    delete ring.waiting // the new one takes its place
    delete ring.pending
    if (answer.signature) await published(ring, { leaf, code, terms }, answer)
    else ring.waiting = { leaf, code, terms, grant: answer.grant, due: Date.parse(answer.due), at: new Date().toISOString() }
    keep()
    lookLater()
    return answer.grant
}

/** Keep a grant as published, with its signed receipt; what it takes the place of ends with it. */
async function published(one, { leaf, code, terms }, receipt) {
    const checked = await consent.checkSigned("grant receipt", receipt, unhex(study.registry_key))
    add(one, { leaf, code, terms, receipt, checked })
}

function add(one, grant) {
    const before = one.grants.at(-1)
    if (before && !before.ended) before.ended = { epoch: grant.receipt.epoch, at: grant.receipt.at, why: "changed" }
    one.grants.push(grant)
}

// Waiting for a batch

/**
 * See whether a waiting grant was published. The lane's changes are read as anybody reads them, and of
 * the batch all receipts: which one is hers is found here.
 */
async function findPublished(one) {
    const { leaf, code, terms, grant, due, unsure } = one.waiting
    const found = (await laneChanges(one.site)).find((change) => change.leaf === leaf)
    if (one.waiting?.leaf !== leaf) return // changed or withdrawn meanwhile
    if (!found) {
        if (unsure && Date.now() > due + study.batch_seconds * 1000) delete one.waiting // it never arrived
        return
    }
    const batch = await ask(`/api/lanes/${one.site}/receipts?epoch=${found.epoch}`)
    const receipt = batch.receipts.find((each) => each.leaf === leaf)
    if (one.waiting?.leaf !== leaf) return
    if (receipt) await published(one, { leaf, code, terms }, receipt)
    else add(one, { leaf, code, terms, receipt: { grant, index: found.index, leaf, epoch: found.epoch, at: found.at }, checked: null })
    delete one.waiting
}

let looking
/** Look when a batch is due, a little later than others: at most a quarter of the interval. */
function lookLater() {
    clearTimeout(looking)
    const dues = rings.filter((one) => one.waiting).map((one) => one.waiting.due)
    if (!dues.length) return
    const spread = Math.min(study.batch_seconds * 250, 60_000)
    const wanted = Math.max(Math.min(...dues) - Date.now(), 0) + Math.min(spread, 1000) + Math.random() * spread
    looking = setTimeout(look, Math.min(wanted, 86_400_000))
}

async function look() {
    const due = rings.filter((one) => one.waiting && one.waiting.due <= Date.now())
    for (const one of due) {
        const before = one.waiting
        await findPublished(one).catch(() => {}) // no network, or a busy server: later
        if (one.waiting === before) continue
        save()
        if (one !== ring) continue
        if (!$("consent").hidden) remember()
        show()
    }
    lookLater()
}

/** By proof, for which her key is enough; by the code where she may prove nothing any more. */
async function withdrawMine() {
    const mine = newest()
    const grant = mine.grant ?? mine.receipt.grant
    let receipt
    try {
        const everybody = await members("/api/enrolment/members")
        const asked = { registry: study.registry, study: study.study, leaf: mine.leaf }
        const proof = await proven((sem, proving) => sem.proveWithdrawal(sem.identityOf(secret()), everybody, asked, proving))
        busy("busy.send")
        receipt = await ask("/api/withdrawals/proven", { grant, proof })
    } catch (error) {
        if (mine.unsure && error.code === "grant-unknown") receipt = { grant } // it never arrived
        else if (!mine.code || !["not-a-member", "grant-not-proven", "grant-of-another"].includes(error.code)) throw error
        else receipt = await ask("/api/withdrawals", { grant, code: mine.code })
    }
    if (receipt.signature) await consent.checkSigned("withdrawal receipt", receipt, unhex(study.registry_key))
    withdrawn(receipt)
}

/** Note the end of all that she has here: what waits ends with what it would have replaced. */
function withdrawn(receipt) {
    const ended = { epoch: receipt.epoch ?? null, at: receipt.at ?? new Date().toISOString(), why: "withdrawn" }
    const mine = current()
    if (mine && !mine.ended && receipt.signature) mine.ended = ended
    if (ring.waiting) ring.grants.push({ leaf: ring.waiting.leaf, terms: ring.waiting.terms, ended })
    delete ring.waiting
    delete ring.pending
    keep()
    lookLater()
}

/** A grant whose answer was lost on its way: published, waiting for its batch, or never arrived. */
async function recover() {
    const { leaf, code, terms, sent } = ring.pending
    const grant = await consent.grantId(study.registry, leaf)
    ring.waiting = { leaf, code, terms, grant, due: (sent ?? 0) + study.batch_seconds * 1000, at: new Date(sent ?? Date.now()).toISOString(), unsure: true }
    await findPublished(ring)
    delete ring.pending
    keep()
    lookLater()
}

async function withdrawByCode(text) {
    const asked = await consent.readPaperCode(text)
    const receipt = await ask("/api/withdrawals", asked)
    const mine = [ring?.waiting?.grant, current()?.ended ? null : current()?.receipt?.grant]
    if (mine.includes(asked.grant) || mine.includes(receipt.grant)) withdrawn(receipt)
    return receipt
}

// Looking up

async function laneChanges(site = ring.site) {
    const changes = []
    let page
    do {
        page = await ask(`/api/lanes/${site}/changes?after=${changes.at(-1)?.sequence ?? 0}`)
        changes.push(...page.changes)
    } while (page.changes.length)
    return changes
}

async function uses() {
    const [changes, { coverage, receipts }, sem] = await Promise.all([laneChanges(), ask(`/api/rounds/${ring.site}`), semaphore()])
    const mine = current()
    const out = mine?.receipt && !mine.ended && changes.find((one) => one.index === mine.receipt.index && one.leaf === "0")
    if (out) { // withdrawn elsewhere, with the paper
        mine.ended = { epoch: out.epoch, at: out.at, why: "withdrawn" }
        keep()
        show()
    }
    const found = consent.usesOf(ring.grants, changes, study.sites[ring.site].chunk_size, coverage, sem.poseidon2)
    return consent.withReceipts(found, receipts ?? [], changes)
}

async function payments() {
    const { payouts } = await ask(`/api/payouts/${ring.site}`)
    const { payoutIdentityOf } = await semaphore()
    const mine = payoutIdentityOf(secret(), study.study).commitment
    return Promise.all(payouts.map(async (one) => {
        const group = await members(`/api/payouts/${ring.site}/${one.epoch}`)
        return { ...one, group, mine: group.includes(mine) }
    }))
}

async function claim(payment, recipient) {
    if (!/^[!-~]{1,128}$/.test(recipient)) throw new Refused("recipient-unusable")
    const payout = { registry: study.registry, study: study.study, epoch: payment.epoch, site: ring.site }
    const proof = await proven((sem, proving) => sem.proveClaim(
        sem.payoutIdentityOf(secret(), study.study), payment.group, payout, recipient, proving))
    busy("busy.send")
    const done = await ask("/api/claims", { site: ring.site, epoch: payment.epoch, recipient, proof })
    ring.claims[payment.epoch] = done
    keep()
}

// Showing

const busy = (key) => {
    $("busy").hidden = !key
    if (key) $("busy-text").textContent = say(key)
}

function wrong(error) {
    const code = error?.code && typeof error.code === "string" ? error.code : "internal"
    const known = texts[`error.${code}`]
    if (!known) console.error(error)
    const facts = error?.facts?.seconds ? { wait: wait(error.facts.seconds) } : {}
    warn(known ? say(`error.${code}`, facts) : say("error.other", { code }))
}

function warn(text) {
    $("alert-text").textContent = text
    $("alert").hidden = false
}

/** Run what a button asks for, with the button off meanwhile, and say what went wrong. */
function on(id, event, act) {
    $(id).addEventListener(event, async (happened) => {
        happened.preventDefault()
        const button = happened.submitter ?? happened.currentTarget
        $("alert").hidden = true
        button.disabled = true
        try {
            await act(happened)
        } catch (error) {
            wrong(error)
        } finally {
            button.disabled = false
            busy(null)
        }
    })
}

function choice(type, name, value, title, note, checked) {
    const box = element("input", { type, name, value })
    box.checked = checked
    const words = element("span", {}, title)
    if (note) words.append(element("small", {}, note))
    return element("label", { class: "choice" }, box, words)
}

let changing = false
let ticked = null // what was ticked, while the form is drawn anew in another language

function drawForm() {
    const before = ticked ?? (changing && newest() ? new Set([...study.purposes, ...study.categories]
        .filter((one) => (BigInt(newest().terms.grants) & BigInt(one.mask)) === BigInt(one.mask)).map((one) => one.code)) : new Set())
    for (const [kind, id] of [["purpose", "consent-purposes"], ["category", "consent-categories"]]) {
        const all = kind === "purpose" ? study.purposes : study.categories
        $(id).replaceChildren(...[...all].sort((a, b) => b.asked - a.asked).map((one) => {
            const made = choice("checkbox", kind, one.mask, say(`${kind}.${one.code}`), say(one.asked ? "consent.asked" : "consent.extra"), before.has(one.code))
            made.firstChild.dataset.code = one.code
            return made
        }))
    }
    $("consent-until").replaceChildren(...offered().map(({ months, last, own }) => choice("radio", "months", months,
        say(own ? "consent.months.until" : `consent.months.${months}`), say("consent.until.until", { date: day(last) }), before.has(`months-${months}`))))
    $("consent-title").textContent = say(changing ? "consent.change" : "consent")
    $("consent-button").textContent = say(changing ? "consent.change.button" : "consent.button")
    $("consent-cancel").hidden = !changing
    narrow()
}

function remember() {
    ticked = new Set([...document.querySelectorAll("#consent-form input:checked")].map((box) => box.dataset.code ?? `months-${box.value}`))
}

function missing(grants) {
    return [...study.purposes.map((one) => ["purpose", one]), ...study.categories.map((one) => ["category", one])]
        .filter(([, one]) => one.asked && !((BigInt(grants) >> BigInt(one.bit)) & 1n))
        .map(([kind, one]) => say(`${kind}.${one.code}`))
}

function narrow() {
    const wish = wished()
    const lacking = wish ? missing(wish.grants) : []
    $("consent-narrow").hidden = lacking.length === 0
    if (lacking.length) $("consent-narrow").textContent = say("consent.narrow", { missing: list(lacking) })
}

function drawGiven(grant) {
    const set = (bit) => (BigInt(grant.terms.grants) >> BigInt(bit)) & 1n
    // Broad purposes include narrow ones; only the broadest are named.
    const named = study.purposes.filter((one) => set(one.bit))
        .filter((one, _, all) => !all.some((other) => other !== one && (BigInt(other.mask) >> BigInt(one.bit)) & 1n))
    const rows = [
        ["given.for", list(named.map((one) => say(`purpose.${one.code}`)))],
        ["given.data", list(study.categories.filter((one) => set(one.bit)).map((one) => say(`category.${one.code}`)))],
        [grant.receipt ? "given.since" : "given.from", grant.receipt ? dayOf(grant.receipt.at) : clockTime(grant.due)],
        ["given.until", day(grant.terms.expiry - 1)],
    ]
    if (grant.receipt) rows.push(["given.receipt", say(grant.checked ? "given.checked" : "given.unchecked", { grant: grant.receipt.grant })])
    $("given-facts").replaceChildren(...rows.map(([key, text]) => element("div", {}, element("dt", {}, say(key)), element("dd", {}, text))))
    const lacking = missing(grant.terms.grants)
    $("given-short").hidden = lacking.length === 0
    $("given-short").textContent = lacking.length ? say("given.short.text", { missing: list(lacking) }) : ""
    $("given-title").textContent = say(!grant.receipt ? (grant.unsure ? "sent" : "accepted") : lacking.length ? "given.short" : "given")
}

/** Draw everything from the state, in the language. */
function show() {
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en"
    document.title = `${study.title[language]} · BitHive`
    for (const button of document.querySelectorAll("[data-language]")) button.setAttribute("aria-pressed", `${button.dataset.language === language}`)
    for (const one of document.querySelectorAll("[data-t]")) one.textContent = say(one.dataset.t)
    document.querySelector("[data-study=title]").textContent = study.title[language]
    $("status").hidden = true
    drawAbout()
    const mine = current()
    const live = isLive(mine)
    const state = !ring ? "new" : isYoung(ring) ? "young" : isOver(ring) ? "over" : !ring.enrolled ? "waiting" : ring.waiting ? "accepted" : live ? "given" : "open"
    drawPeople()
    $("whom").hidden = ring?.role !== "carer" || state === "over"
    $("handover").hidden = !ring?.handover
    for (const one of ["young", "over", "waiting"]) $(one).hidden = state !== one
    $("enrol").hidden = state !== "new"
    const said = ["given", "accepted"].includes(state)
    $("given").hidden = !(said && !changing)
    $("consent").hidden = !(state === "open" || (said && changing))
    $("uses").hidden = $("share").hidden = !ring?.grants.length
    $("key-mine").hidden = !ring
    $("key-form").hidden = Boolean(ring)
    $("people-more").hidden = !ring || rings.length > 1
    if (state === "waiting") {
        $("waiting-for").textContent = say("waiting.for", { site: siteName(ring.site), patient: ring.person.patient })
        $("waiting-print").textContent = say("waiting.print", { fingerprint: ring.commitment.slice(0, 12).match(/.{4}/g).join(" ") })
    }
    $("handover-out").textContent = ring?.handover ? consent.exported(ring.handover) : ""
    if (said) drawGiven(newest())
    if (!$("consent").hidden) drawForm()
    drawStatus(state, mine, live)
}

/** Whose decisions this browser keeps, where it is not only her own. */
function drawPeople() {
    $("people").hidden = rings.length < 2
    const many = (role) => rings.filter((one) => (one.role === "carer" ? one.person.relation : "self") === role).length > 1
    const count = {}
    const buttons = rings.map((one) => {
        const role = one.role === "carer" ? one.person.relation : "self"
        count[role] = (count[role] ?? 0) + 1
        const name = role !== "self" && many(role) ? say(`people.${role}.many`, { number: count[role] }) : say(`people.${role}`)
        const button = element("button", { type: "button", "aria-pressed": `${one === ring}` }, name)
        button.addEventListener("click", () => turnTo(one))
        return button
    })
    const add = element("button", { type: "button", "aria-pressed": `${!ring}` }, say("people.add"))
    add.addEventListener("click", () => turnTo(null))
    $("people-list").replaceChildren(...buttons, add)
}

/** Forget on the page what belongs to another person, and show this one. */
function turnTo(one) {
    ring = one
    changing = false
    ticked = null
    for (const id of ["paper", "alert", "code-done", "key-sure", "key-shown", "withdraw-sure"]) $(id).hidden = true
    $("given-actions").hidden = false
    for (const id of ["uses-found", "share-found"]) $(id).replaceChildren()
    for (const id of ["key-out", "paper-code"]) $(id).textContent = $(id).value = ""
    show()
    document.querySelector("#people-list [aria-pressed=true]")?.focus()
    if (!one) $("enrol-title").focus()
}

function drawStatus(state, mine, live) {
    let title = null, text = ""
    if (state === "given" && missing(mine.terms.grants).length) [title, text] = ["given.short", say("consent.until.until", { date: day(mine.terms.expiry - 1) })]
    else if (state === "given") [title, text] = ["given", say("consent.until.until", { date: day(mine.terms.expiry - 1) })]
    else if (state === "accepted") [title, text] = drawAccepted(ring.waiting, live)
    else if (state === "open" && mine?.ended) [title, text] = ["withdrawn", say("withdrawn.text", { at: dayOf(mine.ended.at) })]
    else if (state === "open" && mine) [title, text] = ["expired", say("expired.text", { date: day(mine.terms.expiry - 1) })]
    else if (state === "open") [title, text] = ["none", say("none.text")]
    $("status").hidden = !title || ["young", "over"].includes(state)
    $("status").classList.toggle("off", !live)
    if (title) {
        $("status").firstElementChild.textContent = say(title)
        $("status").lastElementChild.textContent = text
    }
}

function drawAccepted({ due, unsure }, live) {
    const time = clockTime(due)
    if (unsure) return ["sent", say("sent.text", { time })]
    if (Date.now() > due + LATE) return ["accepted", say("accepted.late", { time })]
    return ["accepted", `${say("accepted.text", { time })}${live ? ` ${say("accepted.until")}` : ""}`]
}

function drawAbout() {
    const own = { what: study.why, who: study.who, gets: study.gets, contact: study.contact }
    const sites = Object.keys(study.sites).map(siteName)
    const facts = { sites: list(sites), rounds: study.rounds, epsilon: epsilon(study.epsilon) }
    for (const part of ["what", "who", "long", "means", "risk", "gets", "contact"]) {
        $(`about-${part}`).textContent = own[part]?.[language] ?? say(`about.${part}.text`, facts)
    }
}

async function showPaper(grant) {
    const groups = (await consent.paperCode(grant, newest().code)).split("-")
    $("paper-code").replaceChildren(...groups.flatMap((group) => [element("span", {}, group), " "]))
    drawPaperLine()
    $("paper-address").textContent = location.origin + location.pathname
    $("paper").hidden = false
    $("paper-title").focus()
    $("paper").scrollIntoView({ block: "start" })
}

function drawPaperLine() {
    const mine = newest()
    if (mine) $("paper-line").textContent = say("paper.study", { study: study.title[language], site: siteName(ring.site), date: dayOf(mine.receipt?.at ?? mine.at ?? mine.ended.at) })
}

const short = (text) => Number(text).toLocaleString(language, { maximumFractionDigits: 2 })
const epsilon = (text) => say("epsilon.terms", { number: short(text), ...study.privacy })

function factsOf(rows) {
    const made = rows.map(([key, text]) => element("div", {}, element("dt", {}, say(key)), element("dd", {}, text)))
    return element("dl", { class: "facts short" }, ...made)
}

function drawUse(one) {
    const set = (bit) => (BigInt(one.required) >> BigInt(bit)) & 1n
    const named = (kind, all, from) => list(all.filter((_, bit) => set(from + bit)).map((what) => say(`${kind}.${what.code}`)))
    const rows = [
        ["uses.for", named("purpose", study.vocabulary.purposes, 0)],
        ["uses.data", named("category", study.vocabulary.categories, 16)],
    ]
    if (one.receipt) {
        const { paid, epsilon_spent: spent } = one.receipt
        rows.push(["uses.epsilon", say("uses.epsilon.value", { epsilon: epsilon(spent) })])
        rows.push(["uses.paid", one.share ? say("uses.paid.value", { paid: about(paid), amount: about(one.share) }) : say("uses.paid.not")])
    }
    return element("li", { "data-kind": one.kind },
        element("h3", {}, say("uses.round", one), " ", element("span", { class: "chip" }, say(`uses.chip.${one.kind}`))),
        element("p", {}, say(`uses.${one.kind}`, one)), factsOf(rows))
}

function drawUses(found) {
    const place = $("uses-found")
    if (!found.length) return place.replaceChildren(element("p", { class: "done" }, say("uses.nobody")))
    const used = found.filter((one) => one.kind === "was" || one.kind === "could")
    const sum = element("div", { class: "done" })
    if (used.length) {
        const amount = about(used.reduce((all, one) => all + (one.share ?? 0n), 0n))
        sum.append(element("p", {}, say(used.length === 1 ? "uses.sum.one" : "uses.sum", { rounds: used.length, amount })))
    } else sum.append(element("p", {}, say("uses.nobody")))
    const last = found.findLast((one) => one.receipt)
    if (last) sum.append(element("p", {}, say("uses.sum.epsilon", { epsilon: epsilon(last.receipt.epsilon_spent), round: last.round, limit: short(study.epsilon) })))
    place.replaceChildren(sum, element("ul", { class: "uses" }, ...found.map(drawUse)),
        element("p", { class: "small" }, say("uses.note", { size: study.sites[ring.site].chunk_size })))
}

function drawPayments(found) {
    const place = $("share-found")
    if (!found.length) return place.replaceChildren(element("p", { class: "done" }, say("share.none")))
    place.replaceChildren(...found.map((one) => {
        const amount = btt(BigInt(one.pool) / BigInt(one.shares))
        const card = element("div", { class: "payment" }, element("h3", {}, say("share.one", { epoch: one.epoch, amount })))
        const done = ring.claims[one.epoch]
        if (done) {
            card.append(element("p", { class: "done" }, say("share.done", { amount: btt(done.amount), recipient: done.recipient })))
            return card
        }
        if (!one.mine) {
            card.append(element("p", {}, say("share.not")))
            return card
        }
        if (one.small) card.append(element("p", { class: "notice" }, say("share.small", { shares: one.shares })))
        const input = element("input", { id: `share-to-${one.epoch}`, autocomplete: "off", spellcheck: "false", maxlength: "128" })
        const form = element("form", { id: `share-form-${one.epoch}`, novalidate: "" },
            element("label", { for: input.id }, say("share.to")), input,
            element("p", { class: "actions" }, element("button", { class: "primary" }, say("share.claim"))))
        card.append(form)
        queueMicrotask(() => on(form.id, "submit", async () => {
            await claim(one, input.value.trim())
            drawPayments(found)
        }))
        return card
    }))
}

// What each button does

$("alert-close").addEventListener("click", () => { $("alert").hidden = true })
document.addEventListener("keydown", (pressed) => { if (pressed.key === "Escape") $("alert").hidden = true })

for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", () => {
        language = button.dataset.language
        localStorage.setItem(LANGUAGE, language)
        $("alert").hidden = true
        remember()
        show()
        if (!$("paper").hidden) drawPaperLine()
        $("uses-found").replaceChildren()
        $("share-found").replaceChildren()
        $("code-done").hidden = true
    })
}

on("enrol-form", "submit", async () => {
    const input = $("enrol-code")
    input.removeAttribute("aria-invalid")
    try {
        await enrol(input.value)
    } catch (error) {
        if (error.code === "code-mistyped") {
            input.setAttribute("aria-invalid", "true")
            input.focus()
        }
        throw error
    }
    input.value = ""
    show()
    $(ring.handover ? "handover-title" : "waiting-title").focus()
})

on("waiting-check", "click", async () => {
    $("waiting-not").textContent = ""
    busy("busy.look")
    if (!(await checkEnrolled())) {
        $("waiting-not").textContent = say("waiting.not")
        return
    }
    show()
    $("consent-title").focus()
})

on("consent-form", "submit", async () => {
    const wish = wished()
    if (!wish) {
        warn(say("consent.pick"))
        document.querySelector("#consent-form input").focus()
        return
    }
    const made = await grant(wish)
    changing = false
    ticked = null
    show()
    await showPaper(made)
})
$("consent-form").addEventListener("change", narrow)

on("consent-cancel", "click", () => { changing = false; ticked = null; show(); $("given-title").focus() })
on("given-change", "click", () => { changing = true; ticked = null; show(); $("consent-title").focus() })
on("given-withdraw", "click", () => { $("withdraw-sure").hidden = false; $("given-actions").hidden = true; $("withdraw-sure-title").focus() })
on("withdraw-no", "click", () => { $("withdraw-sure").hidden = true; $("given-actions").hidden = false; $("given-title").focus() })
on("withdraw-yes", "click", async () => {
    busy("busy.send")
    await withdrawMine()
    $("withdraw-sure").hidden = true
    $("given-actions").hidden = false
    $("paper").hidden = true
    show()
    $("status").scrollIntoView({ block: "center" })
})

on("code-form", "submit", async () => {
    $("code-done").hidden = true
    const receipt = await withdrawByCode($("code-code").value)
    $("code-code").value = ""
    show()
    $("code-done").textContent = say("code.done", { at: dayOf(receipt.at ?? new Date().toISOString()) })
    $("code-done").hidden = false
})

on("uses-button", "click", async () => { busy("busy.look"); drawUses(await uses()) })
on("share-button", "click", async () => { busy("busy.look"); drawPayments(await payments()) })
on("paper-print", "click", () => window.print())
on("paper-done", "click", () => {
    $("paper").hidden = true
    $("paper-code").textContent = ""
    $("given-title").focus()
})

on("key-show", "click", () => { $("key-out").value = consent.exported({ ...ring, handover: undefined }); $("key-shown").hidden = false; $("key-out").focus(); $("key-out").select() })
on("key-copy", "click", async () => { await navigator.clipboard.writeText($("key-out").value); $("key-copied").textContent = say("key.copied") })
on("key-forget", "click", () => { $("key-sure").hidden = false; $("key-sure-title").focus() })
on("key-no", "click", () => { $("key-sure").hidden = true })
on("key-yes", "click", () => {
    drop()
    for (const id of ["key-sure", "key-shown", "paper"]) $(id).hidden = true
    $("key-out").value = ""
    show()
})
on("key-form", "submit", async () => {
    const found = consent.imported($("key-in").value, study.study)
    if (rings.some((one) => one.secret === found.secret)) throw new Refused("ring-known")
    ring = found
    keep()
    $("key-in").value = ""
    show()
    $("status").hidden = $("status").firstElementChild.textContent === ""
    if (!ring.enrolled && !isYoung(ring)) await checkEnrolled().then((done) => done && show())
    await look()
})

on("people-more", "click", () => turnTo(null))
on("handover-copy", "click", async () => { await navigator.clipboard.writeText(consent.exported(ring.handover)); $("handover-copied").textContent = say("key.copied") })
on("handover-save", "click", () => {
    const file = new Blob([`${consent.exported(ring.handover)}\n`], { type: "text/plain" })
    const link = element("a", { href: URL.createObjectURL(file), download: say("handover.file", { until: ring.person.until }) })
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
})
on("handover-print", "click", () => window.print())
on("handover-done", "click", () => {
    delete ring.handover
    keep()
    $("handover-copied").textContent = ""
    show()
    $(ring.enrolled ? "consent-title" : "waiting-title").focus()
})

show()
if (ring && !ring.enrolled && !isYoung(ring)) await checkEnrolled().then((done) => done && show(), () => {})
if (ring?.pending) await recover().then(show, () => {})
await look()
if (ring?.enrolled) {
    void semaphore()
    void provingFiles().catch(() => {}) // so that a proof need not wait for them
}
document.documentElement.dataset.ready = "true"
