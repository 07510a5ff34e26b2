"""The operator sees how the agent is, in status, metrics and logs, and no patient is in any."""

import contextlib
import io
import json
import logging

import pytest

from fl_client.control import Control
from fl_client.logs import Lines, allowed, event, start_logs
from fl_client.orders import ordered
from fl_client.telemetry import VALUES_MAX, Telemetry
from privacy.budget import PrivacyBudget
from privacy.events import DpSgdEvent
from protocol.frames import decode, encode
from protocol.progress import Step
from tests.fl_client.job_world import (
    NOW,
    OFFICER,
    STEWARD,
    STRANGER,
    Clock,
    World,
    approve,
    code_of,
    frame_for,
    resident_at,
)

PLANTED = ("PAT-4711", "MRN0042", "Erika")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def world():
    return World()


@pytest.fixture
def resident(tmp_path, world, clock):
    resident, _ = resident_at(tmp_path, world, clock)
    terms, manifest = world.job()
    resident.answer(world.offer(manifest, terms))
    approve(resident, manifest)
    return resident


@pytest.fixture
def control(resident):
    return Control(resident)


@pytest.fixture
def logged():
    """Return the stream that all logs of this process go to."""
    root, ours = logging.getLogger(), logging.getLogger("bithive")
    before = (root.handlers[:], root.level, ours.level)
    stream = io.StringIO()
    start_logs(stream)
    yield stream
    root.handlers[:], root.level, ours.level = before


def fail(log, words):
    """Log an exception with these words, and raise it."""
    try:
        int(words)
    except ValueError:
        log.exception("agent-failed")
        raise


def said(control, kind, asked=None):
    answer = decode(control.answer(encode(kind, asked or {})))
    assert answer.kind != "refused", answer.body
    return answer.body


def test_the_agent_is_ready_once_every_approved_study_has_its_agent(control, resident):
    assert said(control, "status")["ready"] is False
    resident.refresh()
    status = said(control, "status")
    assert (status["live"], status["ready"], status["state"]) == (True, True, "running")
    (study,) = status["studies"]
    assert (study["study"], study["served"], study["last_round"]) == ("lesions", True, 0)
    assert said(control, "pause", ordered(OFFICER))["state"] == "paused"
    assert said(control, "status")["ready"] is False
    assert said(control, "resume", ordered(OFFICER))["state"] == "running"


def test_an_order_is_obeyed_only_of_whom_may_give_it(control, resident):
    for actor in (STEWARD, STRANGER):
        assert code_of(control.answer(encode("pause", ordered(actor)))) == "permission-missing"
    assert resident.duty.standing().state == "running"
    assert [one.kind for one in resident.book.decisions.all()][1:] == ["permission-denied"] * 2


@pytest.mark.parametrize(
    "asked",
    [{}, {"actor": "officer-1"}, {"actor": "", "roles": ["officer"], "site": "north"}],
)
def test_an_order_of_nobody_is_not_obeyed(control, resident, asked):
    assert code_of(control.answer(encode("pause", asked))) == "malformed-message"
    assert resident.duty.standing().state == "running"


def test_jobs_that_wait_are_counted_and_the_disk_and_clock_are_told(
    control, resident, world, clock
):
    terms, manifest = world.job("nodules")
    clock.pass_(seconds=90)
    resident.answer(world.offer(manifest, terms, at=NOW))
    status = said(control, "status")
    assert status["jobs_pending"] == 1
    assert status["clock_ahead_seconds"] == 90.0
    assert status["disk_free_bytes"] > 0


def test_the_last_refusal_is_told_by_its_code(control, resident):
    resident.answer(frame_for("train", "unknown"))
    assert said(control, "status")["last_error"] == "job-not-approved"
    assert 'bithive_refused_total{code="job-not-approved"} 1.0' in said(control, "metrics")["text"]


def test_epsilon_is_told_by_data_set(control, resident):
    budget = PrivacyBudget(
        resident.home / "budget.db", dataset="scans", epsilon_limit=4.0, delta=1e-5
    )
    budget.reserve("lesions", 1, DpSgdEvent(1.0, 8.0, 4))
    (told,) = said(control, "status")["epsilon"]
    assert told["dataset"] == "scans"
    assert told["spent"] + told["left"] == pytest.approx(4.0)
    assert 'bithive_epsilon_left{dataset="scans"}' in said(control, "metrics")["text"]


def test_rounds_bytes_and_stages_are_counted(control, resident):
    for _ in range(2):  # the same round, asked twice
        resident.answer(frame_for("train", "lesions", 1))
    resident.telemetry.step(Step("prove", 1, None, seconds=2.5))
    text = said(control, "metrics")["text"]
    assert 'bithive_rounds_answered_total{study="lesions"} 1.0' in text
    assert 'bithive_stage_seconds_total{stage="prove"} 2.5' in text
    assert 'bithive_sent_bytes_total{kind="train"}' in text
    assert 'bithive_state{state="running"} 1.0' in text


def test_a_file_for_the_collector_holds_the_same(control, tmp_path):
    control.write_metrics(tmp_path / "bithive.prom")
    assert "bithive_started_seconds" in (tmp_path / "bithive.prom").read_text()


@pytest.mark.parametrize("frame", [b"", encode("train", {}), encode("approve", {})])
def test_nothing_else_can_be_asked_at_the_operators_door(control, frame):
    assert code_of(control.answer(frame)) == "malformed-frame"


def test_a_ledger_that_cannot_be_read_does_not_hide_the_rest(control, resident):
    (resident.home / "budget.db").write_bytes(b"damaged")
    assert said(control, "status")["epsilon"] == []


# No patient


def test_planted_patients_are_in_no_metric_status_or_log(control, resident, logged):
    log = logging.getLogger("bithive.agent")
    for planted in PLANTED:
        resident.answer(encode(planted.lower(), {"study": planted}))
        resident.answer(encode(planted, {"patient": planted}))
        resident.telemetry.refused(planted)
        resident.telemetry.step(Step(planted, 1, None, seconds=1.0, note=planted))
        resident.telemetry.answered(planted, 10)
        event(log, "round-answered", study="lesions", patient=planted, code=f"{planted} is ill")
        log.warning("no record of %s", planted)
        logging.getLogger("library").error("patient %s", planted)
        with contextlib.suppress(ValueError):
            fail(log, planted)
    shown = json.dumps(said(control, "status")) + said(control, "metrics")["text"]
    shown += logged.getvalue()
    assert logged.getvalue().count("\n") >= 4 * len(PLANTED)
    for planted in PLANTED:
        assert planted.lower() not in shown.lower()


def test_a_line_of_log_is_one_json_object_of_allowed_fields(logged):
    log = logging.getLogger("bithive.agent")
    event(log, "round-answered", study="lesions", round=3, seconds=1.23456, note="free words")
    log.warning("no certificate for chunk %d: %s", 4, "reason")
    logging.getLogger("flwr").warning("anything\nat all")
    first, second, third = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert {**first, "at": ""} == {
        "at": "",
        "level": "info",
        "logger": "bithive.agent",
        "event": "round-answered",
        "study": "lesions",
        "round": 3,
        "seconds": 1.235,
    }
    assert second["event"] == "no-certificate-for-chunk"
    assert (third["logger"], third["event"]) == ("flwr", "foreign")


@pytest.mark.parametrize("value", ["two words", "x" * 81, "a\nb", None, ["a"], {"a": 1}, b"a", ""])
def test_a_value_that_is_no_word_or_number_is_not_written(value):
    assert allowed({"code": value, "patient": "4711"}) == {}


def test_a_fault_is_its_type_and_place(logged):
    with contextlib.suppress(ValueError):
        fail(logging.getLogger("bithive.agent"), "PAT-4711")
    (line,) = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert line["fault"] == "ValueError"
    assert line["where"].startswith("test_control.py:")
    assert Lines().format(logging.makeLogRecord({"msg": "x", "name": "bithive"}))


def test_a_label_has_so_many_values_and_what_comes_after_is_counted_together():
    telemetry = Telemetry()
    for number in range(2 * VALUES_MAX):
        telemetry.refused(f"code-{number}")
    assert f'{{code="other"}} {VALUES_MAX}.0' in telemetry.text()
