"""The live page as it stands when it is asked for: complete without a script, and its beginning.

What is shown is computed here once; the script computes the same from later events
(``static/live.js``). Without a script the page loads itself anew every ``REFRESH_SECONDS``.

What holds (tests/portal/test_live_page.py):

1. Nothing is loaded from elsewhere, no script and no style stands in the page, and the content
   security policy forbids both.
2. The script's page and the page without a script are the same, letter for letter.
3. Both languages have every text.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from portal.live.chart import HEIGHT, WIDTH, chart_of
from portal.live.events import PHASES
from portal.live.view import FINISHED, RoundRow, View, milliseconds
from portal.live.wording import duration_text, measure_text, say, size_text, texts
from portal.patient.page import STATIC as PATIENT_STATIC
from portal.patient.page import Asset
from protocol.ids import SiteId

STATIC: Final = Path(__file__).parent / "static"
FILES: Final = {"live.js": "text/javascript", "fold.js": "text/javascript", "live.css": "text/css"}
REFRESH_SECONDS: Final = 5
ROUNDS_SHOWN: Final = 50
"""The newest rounds in the table; the curve has all."""
BAR_WIDTH: Final = 1000
TONES: Final = {
    "training": "busy",
    "asked": "busy",
    "called": "good",
    "accepted": "good",
    "unmasked": "good",
    "opened": "good",
    "answered": "good",
    "done": "good",
    "refused": "bad",
    "late": "bad",
}
FOLD_IMPORT: Final = b'from "./fold.js"'
POLICY: Final = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@lru_cache(maxsize=1)
def assets() -> dict[str, Asset]:
    """Return the page's files, each under the hash of its bytes; the script names its part so."""
    found = {name: Asset(name, (STATIC / name).read_bytes(), kind) for name, kind in FILES.items()}
    part = f'from "{found["fold.js"].address}"'.encode()
    script = found["live.js"].content.replace(FOLD_IMPORT, part)
    icon = (PATIENT_STATIC / "icon.svg").read_bytes()
    return found | {
        "live.js": Asset("live.js", script, FILES["live.js"]),
        "icon.svg": Asset("icon.svg", icon, "image/svg+xml"),
    }


def document(view: View, *, study: str, events: str, language: str, now: datetime) -> str:
    """Return the page as HTML.

    Args:
        view: The run as it stands.
        study: Its name.
        events: Address of what comes after.
        language: ``en`` or ``zh``.
        now: By the clock of the server.
    """
    setup = {
        "view": view.body(),
        "now": milliseconds(now),
        "events": events,
        "texts": {key: one[language] for key, one in texts().items()},
        "tones": TONES,
        "phases": PHASES,
        "rounds_shown": ROUNDS_SHOWN,
    }
    return (
        _environment()
        .get_template("run.html")
        .render(
            language=language,
            say=lambda key: say(key, language),
            page=shown(view, study=study, language=language, now=now),
            files=assets(),
            refresh_seconds=REFRESH_SECONDS,
            setup=json.dumps(setup, ensure_ascii=True).replace("<", "\\u003c"),
        )
    )


def shown(view: View, *, study: str, language: str, now: datetime) -> dict[str, Any]:
    """Return every word and number of the page."""
    none = say("none", language)
    each = view.round_seconds()
    progress = say("progress", language, closed=view.closed, total=view.total or none)
    answers = say("answers", language, answers=view.answers, asked=view.asked) if view.asked else ""
    measure = view.measure
    return {
        "study": say("study", language, study=study),
        "outcome": view.outcome or ("running" if view.position else "waiting"),
        "headline": _headline(view, language),
        "chip": say(view.outcome or ("running" if view.position else "waiting"), language),
        "why": say("failed.why", language, code=view.code) if view.code else "",
        "total": view.total,
        "closed": view.closed,
        "share": BAR_WIDTH * view.closed // view.total if view.total else 0,
        "progress": progress,
        "answers": answers,
        "steps": _steps(view, language),
        "tiles": [
            ("left", say("left", language), _left(view, language, now)),
            ("each", say("each", language), duration_text(each, language) if each else none),
            ("sent", say("sent", language), size_text(view.bytes)),
            ("elapsed", say("elapsed", language), _elapsed(view, language, now)),
        ],
        "charts": {
            "measure": _chart(view, measure, language),
            "seconds": _chart(view, "seconds", language),
        },
        "width": WIDTH,
        "height": HEIGHT,
        "sites": [_site(view, site, language) for site in sorted(view.sites)],
        "measure_short": say(f"short.{measure}", language) if measure else "",
        "rounds": [
            _round(number, view.rounds[number], measure, language)
            for number in sorted(view.rounds, reverse=True)[:ROUNDS_SHOWN]
        ],
    }


def _headline(view: View, language: str) -> str:
    if view.outcome == FINISHED:
        return say("headline.finished", language, total=view.total)
    if not view.round:
        return say("headline.waiting", language)
    key = "headline" if view.outcome is None else "headline.failed"
    return say(key, language, round=view.round, total=view.total or say("none", language))


def _steps(view: View, language: str) -> list[tuple[str, str, str]]:
    here = PHASES.index(view.phase) if view.phase in PHASES else -1
    return [
        (
            name,
            say(f"phase.{name}", language),
            "here" if place == here else "done" if place < here else "todo",
        )
        for place, name in enumerate(PHASES)
    ]


def _left(view: View, language: str, now: datetime) -> str:
    seconds = view.remaining(now)
    if view.outcome is not None:
        return say("none", language)
    if seconds is None:
        return say("left.unknown", language)
    return duration_text(seconds, language) if seconds else say("left.soon", language)


def _elapsed(view: View, language: str, now: datetime) -> str:
    if view.began is None or view.last is None:
        return say("none", language)
    end = now if view.outcome is None else view.last
    return duration_text(max((end - view.began).total_seconds(), 0.0), language)


def _chart(view: View, name: str | None, language: str) -> dict[str, Any]:
    points = view.curve(name) if name else []
    chart = asdict(chart_of(points, total=view.total, from_zero=name == "seconds"))
    title = (
        say("curve.seconds" if name == "seconds" else f"measure.{name}", language) if name else ""
    )
    if not points:
        return chart | {"title": title, "latest": "", "alt": ""}

    def text(value: float) -> str:
        return duration_text(value, language) if name == "seconds" else measure_text(value)

    values = [value for _, value in points]
    alt = say(
        "curve.alt",
        language,
        name=title,
        count=len(points),
        first=text(values[0]),
        last=text(values[-1]),
        least=text(min(values)),
        most=text(max(values)),
    )
    return chart | {"title": title, "latest": text(values[-1]), "alt": alt}


def _site(view: View, site: SiteId, language: str) -> dict[str, str]:
    row, state = view.sites[site], view.state(site)
    none = say("none", language)
    key = f"state.{state}"
    return {
        "name": site,
        "state": say(key if key in texts() else "state.other", language),
        "tone": TONES.get(state, "idle"),
        "bytes": size_text(row.bytes),
        "took": none if row.seconds is None else duration_text(row.seconds, language),
        "code": view.refusal(site) or "",
    }


def _round(number: int, row: RoundRow, measure: str | None, language: str) -> dict[str, Any]:
    value = row.measures.get(measure) if measure else None
    done = say("none", language) if row.seconds is None else duration_text(row.seconds, language)
    return {
        "number": number,
        "updates": row.updates,
        "refused": row.refused,
        "bytes": size_text(row.bytes),
        "time": done if row.closed else say("open", language),
        "measure": "" if value is None else measure_text(value),
    }


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("portal.live"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
