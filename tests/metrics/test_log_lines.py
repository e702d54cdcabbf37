"""What is committed is in the log: a line for each move, whatever is said in it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from io import StringIO
from tempfile import TemporaryFile

import pytest

from coordinator.runtime.log_lines import LogLines
from coordinator.saga.history import (
    Entry,
    GroupMoved,
    LeftBehind,
    LocksTaken,
    TaskMoved,
    WorkflowMoved,
    WorkflowStarted,
)
from coordinator.saga.turn import Decision
from coordinator.traces.ids import trace_id_of
from countermand.rpc import logs
from tests.store.walks import Walk

TOLD = (WorkflowStarted, WorkflowMoved, TaskMoved, GroupMoved, LeftBehind, LocksTaken)
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
    assert {line["level"] for line in written(stream)} == {"warning"}


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
