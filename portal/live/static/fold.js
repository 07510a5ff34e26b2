// A run after its events, and how it is written: the same as view.py, wording.py and chart.py.
// Nothing here touches a page, so that it can be run and compared without one.

const RECENT = 5
const MEASURES = ["auc", "accuracy", "dice", "loss", "brier", "sensitivity", "specificity"]
const ASKING = ["roster", "uploads", "unmasking", "opening"]
const ANSWERED = { roster: "called", uploads: "accepted", unmasking: "unmasked", opening: "opened" }
const COUNTED = [...Object.values(ANSWERED), "answered", "refused"]
const SITE = { state: "absent", round: 0, phase: null, code: null, seconds: null, bytes: 0 }
const ROUND = { closed: false, seconds: null, updates: 0, refused: 0, bytes: 0, measures: {} }

export function fold(view, event) {
  if (event.position <= view.position) return view
  const at = Date.parse(event.at)
  const next = { ...view, position: event.position, began: view.began ?? at, last: at }
  if (event.kind === "run") return runAfter(next, event)
  if (event.round > 0) {
    const row = roundAfter(view.rounds[event.round] ?? { began: at, ...ROUND }, event)
    next.rounds = { ...view.rounds, [event.round]: row }
    next.round = Math.max(view.round, event.round)
  }
  const phase = event.phase ?? null
  if (event.kind === "phase") return { ...next, phase, asked: event.numbers?.asked ?? 0, answers: 0 }
  if (event.kind === "closed") return { ...next, phase: null, asked: 0, answers: 0 }
  if (event.site === undefined) return next
  const before = view.sites[event.site] ?? SITE
  const here = event.round === next.round && phase === next.phase
  const known = before.round === event.round && before.phase === phase && COUNTED.includes(before.state)
  const counted = ["answered", "refused"].includes(event.kind) && here && !known
  return {
    ...next,
    answers: next.answers + (counted ? 1 : 0),
    sites: { ...view.sites, [event.site]: siteAfter(before, event) },
  }
}

function runAfter(view, event) {
  if (event.code !== "started") {
    const [outcome, code] = event.code === "finished" ? ["finished", null] : ["failed", event.code ?? null]
    return { ...view, outcome, code, phase: null, asked: 0, answers: 0 }
  }
  const named = Object.fromEntries((event.sites ?? []).map((name) => [name, view.sites[name] ?? SITE]))
  return { ...view, total: event.rounds || view.total, sites: { ...view.sites, ...named }, outcome: null, code: null }
}

function roundAfter(row, event) {
  if (event.kind === "closed") return { ...row, closed: true, seconds: event.seconds ?? null }
  if (event.kind === "refused") return { ...row, refused: row.refused + 1 }
  if (event.kind === "metrics") {
    const found = Object.entries(event.numbers ?? {}).filter(([name]) => MEASURES.includes(name))
    return { ...row, measures: { ...row.measures, ...Object.fromEntries(found) } }
  }
  const update = event.kind === "answered" && event.phase === "uploads"
  return { ...row, updates: row.updates + (update ? 1 : 0), bytes: row.bytes + (event.bytes ?? 0) }
}

function siteAfter(row, event) {
  return {
    state: event.kind === "answered" ? ANSWERED[event.phase] ?? "answered" : event.kind,
    round: event.round,
    phase: event.phase ?? null,
    code: event.code ?? (event.round > row.round ? null : row.code),
    seconds: event.seconds ?? row.seconds,
    bytes: row.bytes + (event.bytes ?? 0),
  }
}

export const numbers = (view) => Object.keys(view.rounds).map(Number).sort((a, b) => a - b)
export const closed = (view) => Object.values(view.rounds).filter((row) => row.closed).length
export const sent = (view) => Object.values(view.sites).reduce((sum, one) => sum + one.bytes, 0)
export const measure = (view) =>
  MEASURES.find((name) => Object.values(view.rounds).some((row) => name in row.measures)) ?? null
export const curve = (view, name) =>
  numbers(view)
    .map((one) => [one, name === "seconds" ? view.rounds[one].seconds : view.rounds[one].measures[name] ?? null])
    .filter(([, value]) => value !== null)

export function stateOf(view, name) {
  const row = view.sites[name]
  if (view.outcome === "finished" && row.state !== "absent") return "done"
  const here = row.round === view.round && row.phase === view.phase
  if (ASKING.includes(view.phase) && view.outcome === null && !here && row.state !== "absent") {
    return view.phase === "uploads" ? "training" : "asked"
  }
  return row.state
}

export const refusalOf = (view, name) => (view.outcome === "finished" ? null : view.sites[name].code)

export function roundSeconds(view) {
  const known = curve(view, "seconds").map(([, value]) => value).slice(-RECENT).sort((a, b) => a - b)
  if (!known.length) return null
  const middle = known.length >> 1
  return known.length % 2 ? known[middle] : (known[middle - 1] + known[middle]) / 2
}

export function remaining(view, now) {
  const each = roundSeconds(view)
  if (view.outcome === "finished") return 0
  if (each === null || view.last === null || !view.total || view.outcome !== null) return null
  const present = view.rounds[view.round]
  const since = !present || present.closed ? view.last : present.began
  return Math.max((since - now) / 1000 + each * (view.total - closed(view)), 0)
}

export function sizeText(octets) {
  for (const [unit, power] of [["GB", 3], ["MB", 2], ["kB", 1]]) {
    if (octets >= 1000 ** power) {
      const tenths = Math.floor((octets * 10) / 1000 ** power)
      return `${Math.floor(tenths / 10)}.${tenths % 10} ${unit}`
    }
  }
  return `${octets} B`
}

export function durationText(length, say) {
  const whole = Math.floor(length)
  if (whole >= 3600) return say("hours", { hours: Math.floor(whole / 3600), minutes: Math.floor((whole % 3600) / 60) })
  if (whole >= 60) return say("minutes", { minutes: Math.floor(whole / 60), seconds: whole % 60 })
  const tenths = Math.floor(length * 10)
  return say("seconds", { seconds: whole >= 10 ? whole : `${Math.floor(tenths / 10)}.${tenths % 10}` })
}

export function measureText(value) {
  const thousandths = Math.floor(Math.abs(value) * 1000 + 0.5)
  const decimals = String(thousandths % 1000).padStart(3, "0")
  return `${value < 0 && thousandths ? "-" : ""}${Math.floor(thousandths / 1000)}.${decimals}`
}

export const WIDTH = 360
export const HEIGHT = 190
const [LEFT, RIGHT, TOP, BOTTOM, TICKS, ROUND_TICKS, DOTS_MAX] = [44, 14, 12, 26, 3, 7, 30]
const STEPS = Array.from({ length: 14 }, (_, power) => [1, 2, 5].map((digit) => Number(`${digit}e${power - 4}`))).flat()
const ROUND_STEPS = [1, 2, 5, 10, 20, 50, 100, 200]
const tenth = (value) => Math.round(value * 10) / 10

export function chartOf(points, total, fromZero) {
  const found = points.map(([, value]) => value)
  const least = fromZero ? 0 : Math.min(...(found.length ? found : [0]))
  const most = Math.max(...(found.length ? found : [1]))
  const largest = STEPS[STEPS.length - 1]
  const step = most === least
    ? STEPS.find((one) => one * 10 >= Math.abs(most)) ?? largest
    : STEPS.find((one) => one * TICKS >= most - least) ?? largest
  const low = Math.floor(least / step)
  const high = Math.max(Math.ceil(most / step), low + 1)
  const rounds = Math.max(total, points.length ? points[points.length - 1][0] : 1)
  const across = (number) => tenth(LEFT + (rounds === 1 ? 0.5 : (number - 1) / (rounds - 1)) * (WIDTH - LEFT - RIGHT))
  const up = (value) => tenth(HEIGHT - BOTTOM - ((value / step - low) / (high - low)) * (HEIGHT - BOTTOM - TOP))
  const places = points.map(([number, value]) => [across(number), up(value)])
  const line = places.map((place) => place.join(",")).join(" ")
  const floor = HEIGHT - BOTTOM
  const every = ROUND_STEPS.find((one) => rounds / one <= ROUND_TICKS) ?? 200
  const decimals = [0, 1, 2, 3, 4, 5].find((count) => step * 10 ** count >= 1 - 1e-9)
  const values = []
  for (let one = low; one <= high; one += 1) values.push([up(one * step), (one * step).toFixed(decimals)])
  const shown = Array.from({ length: rounds }, (_, index) => index + 1).filter((one) => one % every === 0)
  return {
    line,
    area: places.length ? `${places[0][0]},${floor} ${line} ${places[places.length - 1][0]},${floor}` : "",
    dots: places.length <= DOTS_MAX ? places : [],
    last: places.length ? places[places.length - 1] : null,
    values,
    rounds: shown.map((one) => [across(one), String(one)]),
  }
}
