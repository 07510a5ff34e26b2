// The live page's script: it follows the run's events and keeps the page as page.py would write it.
// Texts are set as text, never as markup; the page works without this script too, only slower.

import * as run from "./fold.js"

const { view: first, now: serverNow, events, texts, tones, phases, rounds_shown: roundsShown } = JSON.parse(
  document.getElementById("setup").textContent,
)
const began = performance.now()
const now = () => serverNow + performance.now() - began // by the server's clock: this one's may be wrong
const find = (id) => document.getElementById(id)
const say = (key, values = {}) => texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name])
const none = say("none")
const SVG = "http://www.w3.org/2000/svg"
const QUIET_SECONDS = 60
const AGAIN_MILLISECONDS = 3000
let view = first
let asked = false

function write(id, text) {
  const place = find(id)
  if (place.textContent !== text) place.textContent = text
}

function make(name, attributes = {}, ...children) {
  const it = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value)
  it.append(...children)
  return it
}

function draw(name, attributes, text = "") {
  const it = document.createElementNS(SVG, name)
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value)
  it.textContent = text
  return it
}

const stateText = (state) => texts[`state.${state}`] ?? texts["state.other"]
const long = (seconds) => run.durationText(seconds, say)
const counted = () => ({ closed: run.closed(view), total: view.total || none })

function headline() {
  const total = view.total || none
  if (view.outcome === "finished") return say("headline.finished", { total: view.total })
  if (!view.round) return say("headline.waiting")
  return say(view.outcome === null ? "headline" : "headline.failed", { round: view.round, total })
}

function showClock() {
  const left = run.remaining(view, now())
  write("tile-left", view.outcome !== null ? none : left === null ? say("left.unknown") : left ? long(left) : say("left.soon"))
  const end = view.outcome === null ? now() : view.last
  write("tile-elapsed", view.began === null ? none : long(Math.max((end - view.began) / 1000, 0)))
  const quiet = view.last === null ? 0 : (now() - view.last) / 1000
  const state = view.outcome ?? (view.position ? "running" : "waiting")
  const isQuiet = state === "running" && quiet > QUIET_SECONDS
  write("chip", isQuiet ? say("quiet", { time: long(Math.floor(quiet / 10) * 10) }) : say(state))
  document.documentElement.dataset.outcome = isQuiet ? "quiet" : state
}

function showRun() {
  write("headline", headline())
  document.title = document.title.replace(/^.*?(?= · )/, headline())
  find("why").hidden = !view.code
  write("why", view.code ? say("failed.why", { code: view.code }) : "")
  const progress = say("progress", counted())
  write("progress", progress)
  write("answers", view.asked ? say("answers", { answers: view.answers, asked: view.asked }) : "")
  const bar = find("bar")
  bar.setAttribute("aria-valuemax", view.total)
  bar.setAttribute("aria-valuenow", run.closed(view))
  bar.setAttribute("aria-valuetext", progress)
  find("fill").setAttribute("width", view.total ? Math.floor((1000 * run.closed(view)) / view.total) : 0)
  const here = phases.indexOf(view.phase)
  for (const [place, step] of [...find("steps").children].entries()) {
    step.className = place === here ? "here" : place < here ? "done" : "todo"
    if (place === here) step.setAttribute("aria-current", "step")
    else step.removeAttribute("aria-current")
  }
  const each = run.roundSeconds(view)
  write("tile-each", each ? long(each) : none)
  write("tile-sent", run.sizeText(run.sent(view)))
}

function showCurve(place, name) {
  const figure = document.querySelector(`[data-curve="${place}"]`)
  const points = name === null ? [] : run.curve(view, name)
  if (!points.length) return
  const chart = run.chartOf(points, view.total, name === "seconds")
  const text = name === "seconds" ? long : run.measureText
  const title = say(name === "seconds" ? "curve.seconds" : `measure.${name}`)
  const values = points.map(([, value]) => value)
  const [low, high] = [Math.min(...values), Math.max(...values)].map(text)
  const [start, last] = [values[0], values[values.length - 1]].map(text)
  const alt = say("curve.alt", { name: title, count: points.length, first: start, last, least: low, most: high })
  const svg = draw("svg", { viewBox: `0 0 ${run.WIDTH} ${run.HEIGHT}`, role: "img", "aria-label": alt })
  for (const [y, label] of chart.values) {
    svg.append(draw("line", { class: "grid", x1: 44, x2: run.WIDTH - 14, y1: y, y2: y }))
    svg.append(draw("text", { x: 38, y: y + 4, "text-anchor": "end" }, label))
  }
  for (const [x, label] of chart.rounds) {
    svg.append(draw("text", { x, y: run.HEIGHT - 6, "text-anchor": "middle" }, label))
  }
  svg.append(draw("polygon", { class: "area", points: chart.area }))
  svg.append(draw("polyline", { class: "line", points: chart.line }))
  for (const [x, y] of chart.dots) svg.append(draw("circle", { cx: x, cy: y, r: 2.5 }))
  svg.append(draw("circle", { class: "last", cx: chart.last[0], cy: chart.last[1], r: 4.5 }))
  figure.replaceChildren(make("figcaption", {}, `${title} `, make("b", {}, last)), svg)
  figure.hidden = false
}

function siteRow(name) {
  const row = view.sites[name]
  const state = run.stateOf(view, name)
  const code = run.refusalOf(view, name)
  const cell = (key, ...content) => make("td", { "data-label": say(key) }, ...content)
  return make(
    "tr",
    { "data-site": name },
    make("th", { scope: "row" }, name),
    cell("state", make("span", { class: `state ${tones[state] ?? "idle"}` }, stateText(state))),
    cell("bytes", run.sizeText(row.bytes)),
    cell("took", row.seconds === null ? none : long(row.seconds)),
    cell("code", ...(code ? [make("code", {}, code)] : [])),
  )
}

function roundRow(number, name) {
  const row = view.rounds[number]
  const time = row.closed ? (row.seconds === null ? none : long(row.seconds)) : say("open")
  const value = name !== null && name in row.measures ? run.measureText(row.measures[name]) : ""
  const cells = [row.updates, row.refused, run.sizeText(row.bytes), time, value].map((one) => make("td", {}, String(one)))
  return make("tr", {}, make("th", { scope: "row" }, String(number)), ...cells)
}

function show() {
  asked = false
  const name = run.measure(view)
  showRun()
  showClock()
  showCurve("measure", name)
  showCurve("seconds", "seconds")
  find("sites").replaceChildren(...Object.keys(view.sites).sort().map(siteRow))
  const shown = run.numbers(view).reverse().slice(0, roundsShown)
  find("rounds").replaceChildren(...shown.map((number) => roundRow(number, name)))
  find("rounds-none").hidden = shown.length > 0
  write("measure-title", name === null ? "" : say(`short.${name}`))
  document.documentElement.dataset.position = view.position
}

function showSoon() {
  // Many events at once are one picture; a page in the background is drawn when it is seen.
  if (!asked) requestAnimationFrame(show)
  asked = true
}

function follow() {
  const source = new EventSource(`${events}?after=${view.position}`)
  source.onopen = () => { find("lost").hidden = true }
  source.onmessage = (message) => {
    view = run.fold(view, JSON.parse(message.data))
    showSoon()
    if (view.outcome === "finished") source.close()
  }
  source.onerror = () => {
    if (view.outcome === "finished") return
    find("lost").hidden = false
    // The browser tries again by itself, but not after an answer such as 404 or 503.
    if (source.readyState === EventSource.CLOSED) setTimeout(again, AGAIN_MILLISECONDS)
  }
}

async function again() {
  const answer = await fetch(location.href).catch(() => null)
  if (answer?.status === 404) location.replace("/") // another run is here now
  else follow()
}

showClock()
setInterval(showClock, 1000)
if (view.outcome !== "finished") follow()
document.documentElement.dataset.position = view.position
document.documentElement.dataset.ready = "true"
