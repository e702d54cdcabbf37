"""A workflow in line for its locks: nothing begins before it holds them all."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

import pytest

from coordinator.saga import events, history
from coordinator.saga.advance import advance, restore
from coordinator.saga.commands import SetTimer, Timer, outstanding
from coordinator.saga.spec import Lock, Terms
from coordinator.saga.states import TaskState, WorkflowState
from tests.saga.language import EPOCH, Play, script, terms, tree

LOCKS = (Lock(pool="p", image="i", exclusive=True),)


def in_line(
    text: str, setup: str = "", *, timeout: timedelta | None = None, owner_each: bool = False
) -> Play:
    """Returns the play of a workflow that was not granted its locks at once."""
    ends = terms(text)
    beside = Terms(
        on_success=ends.on_success, on_failure=ends.on_failure, timeout=timeout, locks=LOCKS
    )
    told = Play(script=script(setup), owner_each=owner_each)
    told.begin(tree(text), {"size": 7, "no": False}, beside=beside, locked=False)
    told.run()
    return told


class Row(NamedTuple):
    """One story of a workflow in line."""

    id: str
    tree: str
    setup: str
    expected: str


ROWS = (
    Row("S-V24 it waits", "a; b", "", "= RUNNING"),
    Row(
        "S-V24 its turn comes",
        "a; b",
        "locks@start",
        "locked do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-V24 its turn comes once",
        "a; b",
        "locks@start locks@do:a locks@end",
        "locked do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row("nothing to do, and still it waits", "g():fan", "", "= RUNNING"),
    Row("nothing to do once its turn comes", "g():fan", "locks@start", "locked = SUCCEEDED"),
    Row("S-V19 cancelled in line", "a; b", "cancel@start", "asked turn = COMPENSATED"),
    Row(
        "S-V19 cancelled in line: end actions are skipped, they may name what it never held",
        "a; b => s / f",
        "cancel@start",
        "asked turn skip:s skip:f = COMPENSATED",
    ),
    Row(
        "S-V19 cancelled in line, and its turn comes too late",
        "a; b",
        "cancel@start locks@end",
        "asked turn = COMPENSATED",
    ),
    Row("S-A1 paused in line", "a; b", "pause@start", "asked pausing PAUSED = PAUSED"),
    Row(
        "paused in line, resumed, and then its turn comes",
        "a; b",
        "pause@start resume@PAUSED locks@resumed",
        "asked pausing PAUSED asked resumed locked do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "paused in line, its turn comes, and then it is resumed",
        "a; b",
        "pause@start locks@PAUSED resume@locked",
        "asked pausing PAUSED locked asked resumed do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "paused in line: values are given for what is to come",
        "a; b",
        "pause@start resume+rerun-a/image=x@PAUSED locks@resumed",
        "asked pausing PAUSED asked resumed asked locked do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "paused in line: a task is skipped",
        "a; b",
        "pause@start resume+skip-a@PAUSED locks@resumed",
        "asked pausing PAUSED asked resumed asked locked skip:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "it pauses before its first task once its turn has come",
        "a:before; b",
        "locks@start resume@PAUSED",
        "locked pausing PAUSED asked resumed do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "made up for while it holds them",
        "a; b",
        "locks@start b:fail",
        "locked do:a ok:a do:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row("S-V24 a new owner in line", "a; b", "owner@start", "owner = RUNNING"),
    Row(
        "S-V24 its turn comes under a new owner",
        "a; b",
        "owner@start locks@owner",
        "owner locked do:a ok:a do:b ok:b = SUCCEEDED",
    ),
)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
def test_story(row: Row):
    assert in_line(row.tree, row.setup).story() == row.expected


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
def test_new_owners_tell_the_same_story(row: Row):
    """S-H3."""
    told = in_line(row.tree, row.setup, owner_each=True)
    without = [word for word in told.story().split() if word != "owner"]
    assert without == [word for word in row.expected.split() if word != "owner"]


def test_nothing_is_asked_for_in_line():
    told = in_line("a:any:late=5; b")
    assert not told.workflow.locked
    assert list(outstanding(told.workflow)) == []
    assert told.timers == []
    assert restore(told.workflow) == told.workflow
    assert {task.state for _, task in told.workflow.tasks()} == {TaskState.PENDING}


def test_a_time_limit_counts_in_line():
    """S-F2: whoever waits too long for images fails, and leaves the line."""
    told = in_line("a; b", timeout=timedelta(seconds=60))
    assert told.story() == "turn = COMPENSATED"
    assert told.workflow.cause is not None
    assert told.workflow.cause.reason == "TIMED_OUT"
    assert not told.workflow.locked


def test_a_time_limit_is_all_that_a_new_owner_finds_in_line():
    """S-H8."""
    told = Play(script=script(""))
    told.begin(tree("a"), beside=Terms(timeout=timedelta(seconds=60), locks=LOCKS), locked=False)
    (found,) = outstanding(told.workflow)
    assert isinstance(found, SetTimer)
    assert found.timer is Timer.WORKFLOW


def test_the_history_says_when_it_held_them():
    told = in_line("a")
    decision = told.perform(events.LocksGranted())
    facts = [entry.fact for entry in decision.history]
    assert facts[0] == history.LocksTaken()
    assert any(isinstance(fact, history.AttemptStarted) for fact in facts)
    assert told.perform(events.LocksGranted()).empty


def test_a_settled_workflow_takes_no_locks():
    """A grant that crossed a cancel: the line learns nothing, and nothing is held."""
    told = in_line("a", "cancel@start")
    assert told.workflow.state is WorkflowState.COMPENSATED
    assert told.perform(events.LocksGranted()).empty
    assert not told.workflow.locked


MORE = (Lock(pool="p", image="more", exclusive=True),)


def resumed(text: str, setup: str, *, locked: bool, choices: tuple[events.Choice, ...] = ()):
    """Returns what becomes of a workflow that was paused and is given further images."""
    told = in_line(text, setup)
    assert told.workflow.locked is locked
    ask = events.Ask(principal="p", reason="r", request_id="i")
    event = events.ResumeRequested(ask=ask, choices=choices, locks=MORE)
    return advance(told.workflow, event, events.Now(time=EPOCH, jitter=0.0, intent=100))


def test_further_images_are_held_once_a_resume_is_accepted():
    decision = resumed("a; b", "locks@start pause@do:a", locked=True)
    assert decision.refusal is None
    assert history.LocksTaken() in [entry.fact for entry in decision.history]
    assert decision.workflow.more_locks == MORE
    assert decision.workflow.locks == (*LOCKS, *MORE)


def test_a_resume_that_is_refused_takes_no_image():
    wrong = (events.Skip(task=0),)
    decision = resumed("a; b", "locks@start pause@do:a", locked=True, choices=wrong)
    assert decision.refusal is not None
    assert decision.workflow.locks == LOCKS


def test_who_waits_in_line_is_given_no_further_image():
    decision = resumed("a; b", "pause@start", locked=False)
    assert decision.refusal is not None
    assert "waits in line" in decision.refusal.because
    assert decision.workflow.locks == LOCKS
