"""What stands in tables: why a task is as it is, and how much of it."""

import sys
from datetime import date

import pytest
from click import unstyle
from google.protobuf.timestamp_pb2 import Timestamp

from countermand.cli.table import table
from countermand.drawing.tasks import verb_of, why
from countermand.drawing.values import moment, progress_words
from countermand.drawing.words import workflow_look
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_state_pb2 import WorkflowState

FULL = Failure(reason="NO_SPACE", message="Pool fast is full.")
LONG = "word " * 40


@pytest.mark.parametrize("kind", [Task.KIND_VERB, Task.KIND_PARALLEL])
@pytest.mark.parametrize("word", ["SUCCEEDED", "SKIPPED", "COMPENSATED"])
def test_an_old_failure_is_no_news_after_a_good_end(kind, word):
    state = Task.State.Value(f"STATE_{word}")

    assert why(Task(kind=kind, state=state, failure=FULL, compensation_failure=FULL)) == ""
    assert why(Task(kind=kind, state=state, failure=FULL, waits_for="a delay")) == (
        "waits for a delay"
    )


@pytest.mark.parametrize("word", ["FAILED", "RETRY_WAIT", "COMPENSATION_BLOCKED", "ABANDONED"])
def test_a_failure_that_still_matters_is_told(word):
    task = Task(state=Task.State.Value(f"STATE_{word}"), failure=FULL)

    assert why(task) == "NO_SPACE: Pool fast is full."


def test_in_a_pipe_nothing_is_cut(capsys):
    table(("NAME", "WHY"), [("a", LONG.strip())], cut=True)

    assert capsys.readouterr().out.splitlines()[1] == f"a     {LONG.strip()}"


def test_values_are_whole_on_a_terminal_too(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table(("OUTPUT", "VALUE"), [("digest", LONG.strip())])

    assert LONG.strip() in capsys.readouterr().out


@pytest.mark.parametrize(("columns", "width"), [(50, 50), (100, 100), (10, 10)])
def test_on_a_terminal_the_last_column_is_cut_at_its_edge(capsys, monkeypatch, columns, width):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    table(("NAME", "WHY"), [("a", LONG.strip()), ("b", "short")], cut=True)

    lines = capsys.readouterr().out.splitlines()
    assert (len(lines[1]), lines[1][-1]) == (width, "…")
    assert lines[2] == ("b     short" if width > 10 else "b     sho…")


def test_on_a_narrow_terminal_the_widest_columns_are_cut(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    look = workflow_look(WorkflowState.WORKFLOW_STATE_SUCCEEDED)
    heads = ("WORKFLOW", "KIND", "STATE", "TASKS", "WHY")
    table(heads, [("a-long-workflow-1", "add-vm", look, "3/4", LONG.strip())], cut=True)

    assert unstyle(capsys.readouterr().out).splitlines() == [
        "WORKFLOW          KIND  STA…  TAS…  WHY",
        "a-long-workflow…  add…  ✓ s…  3/4   wor…",
    ]


def test_letters_that_take_two_cells_are_counted_as_two(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    table(("NAME", "WHY"), [("北京", "a"), ("b", "北京" * 10), ("…", "e\u0301te\u0301")], cut=True)

    assert capsys.readouterr().out.splitlines() == [
        "NAME  WHY",
        "北京  a",
        "b     北京北京北京…",
        "…     e\u0301te\u0301",
    ]


def test_a_time_has_its_day_unless_that_is_today():
    night = Timestamp(seconds=1_800_057_599, nanos=123_000_000)

    assert moment(night, date(2027, 1, 15)) == "23:59:59.123Z"
    assert moment(night, date(2027, 1, 16)) == "2027-01-15 23:59:59.123Z"


def test_a_cell_is_one_line_whatever_is_in_it(capsys):
    table(("NAME", "WHY"), [("a", "one\n  two\tthree"), ("b", "  50%  1 MiB/s")])

    assert capsys.readouterr().out.splitlines()[1:] == [
        "a     one two three",
        "b       50%  1 MiB/s",
    ]


@pytest.mark.parametrize(
    ("done", "total", "unit", "words"),
    [
        (12, 40, "volumes", "12/40 volumes"),
        (12, 0, "volumes", "12 volumes"),
        (60, 100, "percent", "60%"),
        (60, 0, "percent", "60%"),
        (512, 1024, "bytes", "50%"),
        (512, 0, "", "512"),
        (512, 1024, "", "512/1024"),
        (0, 0, "volumes", ""),
    ],
)
def test_progress_is_said_as_its_owner_counts_it(done, total, unit, words):
    assert progress_words(Progress(done=done, total=total, unit=unit)) == words


def test_who_does_an_external_task_stands_with_what_it_is():
    waits = "acme, which has not accepted it yet"
    task = Task(
        kind=Task.KIND_EXTERNAL,
        owner_id="acme",
        verb="acme/clone-volume",
        state=Task.STATE_STARTING,
        waits_for=waits,
    )

    assert verb_of(task) == "acme: clone-volume"
    assert why(task) == f"waits for {waits}"
    assert verb_of(Task(kind=Task.KIND_VERB, verb="acme/stamp")) == "acme/stamp"
    assert verb_of(Task(kind=Task.KIND_PARALLEL, open=True)) == "parallel, open"
