"""What is committed is in the log: a line for each move, whatever is said in it."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from io import StringIO
from tempfile import TemporaryFile

import pytest

from agent.log_lines import LEVELS
from coordinator.runtime.log_lines import TASK_LEVELS, WORKFLOW_LEVELS, LogLines
from coordinator.saga.events import LocksGranted
from coordinator.saga.history import (
    Entry,
    GroupMoved,
    Intervened,
    LeftBehind,
    LocksTaken,
    TaskMoved,
    WorkflowMoved,
    WorkflowStarted,
)
from coordinator.saga.spec import Lock, Terms
from coordinator.saga.turn import Decision
from coordinator.traces.ids import trace_id_of
from countermand.rpc import logs
from tests.metrics.services import ROOT
from tests.saga.language import Play, script, tree
from tests.store.walks import Walk

TOLD = (WorkflowStarted, WorkflowMoved, TaskMoved, GroupMoved, LeftBehind, LocksTaken, Intervened)
STEPS_MAX = 150


@pytest.fixture
def stream() -> Iterator[StringIO]:
    """Yields what is written to standard error."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def written(stream: StringIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def walked(seed: int, name: str = "w") -> tuple[Walk, list[Entry]]:
    """Returns a workflow that was logged on all its way, with its history."""
    walk, lines = Walk(name, seed=seed), LogLines()
    history: list[Entry] = []
    for _ in range(STEPS_MAX):
        change = walk.change
        decision = Decision(
            workflow=change.workflow, history=change.history, changed=change.changed
        )
        lines.committed([decision], 0.001)
        history += change.history
        if change.workflow.settled:
            break
        while walk.step() is None:
            pass
    return walk, history


@pytest.mark.parametrize("seed", range(20))
def test_every_move_is_one_line_in_its_order(stream, seed):
    logs.configure(stream, "debug")
    walk, history = walked(seed)
    told = [entry for entry in history if isinstance(entry.fact, TOLD)]
    lines = written(stream)
    assert len(lines) == len(told)
    trace_id = trace_id_of("w", walk.workflow.create_time).hex()
    for line, entry in zip(lines, told, strict=True):
        fact = entry.fact
        assert (line["workflow"], line["trace_id"]) == ("workflows/w", trace_id)
        if isinstance(fact, TaskMoved | GroupMoved):
            name = walk.workflow.plan.nodes[entry.task].name
            assert line["task"] == f"workflows/w/tasks/{name}"
            assert (line["before"], line["after"]) == (fact.before, fact.after)
            assert line["event"].partition(".")[2] == fact.after.lower()
            why = fact.failure
            assert line.get("error") == (why.message if why else None)
        if isinstance(fact, Intervened):
            assert (line["verb"], line["principal"]) == (fact.verb, fact.principal)
            assert line["why"] == fact.reason
            assert line["event"].endswith(".intervention")
        if isinstance(fact, TaskMoved) and fact.attempt:
            assert line["attempt"] == f"{line['task']}/attempts/{fact.attempt}"
            assert "host" in line


def test_what_went_as_planned_is_told_at_debug_only(stream):
    logs.configure(stream, "info")
    for seed in range(20):
        walked(seed)
    walked(8, "w8")  # leaves something
    events = {(line["event"], line["level"]) for line in written(stream)}
    assert ("workflow.running", "info") in events
    assert ("task.succeeded", "info") in events
    assert ("workflow.blocked", "warning") in events
    assert ("task.compensation_blocked", "warning") in events
    assert ("task.left_behind", "warning") in events
    usual = {"task.pending", "task.ready", "task.starting", "task.running", "task.cancelling"}
    assert not usual & {event for event, _ in events}


def test_a_quiet_log_has_what_needs_somebody(stream):
    logs.configure(stream, "warning")
    for seed in range(20):
        walked(seed)
    walked(8, "w8")  # leaves something
    lines = written(stream)
    assert {line["level"] for line in lines} == {"warning"}
    assert {line["event"] for line in lines} >= {
        *("workflow.paused", "workflow.blocked", "workflow.failed"),
        *("task.unknown", "task.compensation_blocked"),
    }


def test_the_reference_tells_each_event_at_its_level():
    page = (ROOT / "docs/reference/logs.md").read_text()
    told = {}
    for line in page.splitlines():
        if line.startswith("| `") and re.search(r" (debug|info|warning|error) \|$", line):
            _, events, level, _ = (part.strip() for part in line.split("|"))
            subject = ""
            for name in re.findall(r"`([a-z_.]+)`", events):
                subject = name.partition(".")[0] or subject
                told[f"{subject}.{name.partition('.')[2]}"] = level
    levels = {f"workflow.{s.lower()}": v for s, v in WORKFLOW_LEVELS.items()}
    levels |= {f"task.{s.lower()}": v for s, v in TASK_LEVELS.items()}
    levels |= {f"attempt.{s.lower()}": v for s, v in LEVELS.items()}
    assert {name: logging.getLevelName(v).lower() for name, v in levels.items()}.items() <= (
        told.items()
    )


def test_who_waits_in_line_is_told_so_and_when_that_is_over(stream):
    logs.configure(stream, "info")
    told, lines = Play(script=script("")), LogLines()
    locks = (Lock(pool="p", image="i", exclusive=True),)
    told.begin(tree("a"), beside=Terms(locks=locks), locked=False)
    started = WorkflowStarted()
    entry = Entry(sequence=1, time=told.time, fact=started)
    lines.committed([Decision(workflow=told.workflow, history=(entry,))], 0.001)
    lines.committed([told.perform(LocksGranted())], 0.001)
    began, locked = written(stream)
    assert (began["event"], began["waits_for"]) == ("workflow.running", "its images")
    assert (locked["event"], locked["level"]) == ("workflow.locked", "info")


def test_what_grpc_says_of_itself_is_not_told_at_debug(stream):
    logs.configure(stream, "debug")
    logging.getLogger("grpc._cython.cygrpc").debug("[_cygrpc] Loaded running loop")
    logging.getLogger("agent").debug("ours")
    assert [line["event"] for line in written(stream)] == ["ours"]


def test_in_the_journal_each_line_has_its_own_priority(monkeypatch):
    with TemporaryFile("w+") as file:
        about = os.fstat(file.fileno())
        connected = {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}
        assert logs.is_journal(file, connected)
        assert not logs.is_journal(file, {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino + 1}"})
        assert not logs.is_journal(file, {})
    assert not logs.is_journal(StringIO(), connected)

    formatter = logs.JsonFormatter(prioritised=True)
    lines = logs.Lines([(logging.INFO, "{1}"), (logging.WARNING, "{2}")])
    record = logging.makeLogRecord({"msg": lines, "levelno": lines.level})
    assert lines.level == logging.WARNING
    assert formatter.format(record) == "<6>{1}\n<4>{2}"
    other = logging.makeLogRecord({"msg": "host.lost", "levelno": logging.ERROR})
    assert formatter.format(other).startswith('<3>{"time": ')
