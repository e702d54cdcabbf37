"""How workflows end: verdicts, end actions, time-outs, and what is stopped and kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from coordinator.saga import events
from coordinator.saga.commands import SetTimer, Timer, outstanding, workflow_timer
from coordinator.saga.leftovers import STOPPED, leftovers
from coordinator.saga.spec import NO_TERMS, Binding, TaskSpec, Terms
from coordinator.saga.states import TaskState, WorkflowState
from tests.saga.language import ASK, EPOCH, Play, failure, play, script, terms, tree
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    # Which of them run.
    Row(
        "those of a success",
        "a; b => s1; s2 / f1; f2",
        "",
        "do:a ok:a do:b ok:b skip:f1 skip:f2 ending do:s1 ok:s1 do:s2 ok:s2 = SUCCEEDED",
    ),
    Row(
        "those of a failure, after all is made up for",
        "a; b => s1; s2 / f1; f2",
        "b:fail",
        (
            "do:a ok:a do:b fail:b turn undo:a undone:a skip:s1 skip:s2 ending do:f1 ok:f1 do:f2 "
            "ok:f2 = COMPENSATED"
        ),
    ),
    Row(
        "those of a cancel",
        "a => s / f",
        "a:run+wait+ok cancel@run:a",
        "do:a run:a asked turn cancel:a stopped:a skip:s ending do:f ok:f = COMPENSATED",
    ),
    Row(
        "those of a failure whose effects are kept",
        "a; b:stop => s / f",
        "b:fail",
        "do:a ok:a do:b fail:b ending skip:s do:f ok:f = FAILED",
    ),
    Row(
        "those of a failure with something given up",
        "a; b => / f",
        "b:fail undo-a:fail abandon-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED asked abandoned:a freed "
            "ending do:f ok:f = FAILED"
        ),
    ),
    Row(
        "only when BLOCKED is over",
        "a; b => / f",
        "b:fail undo-a:fail,ok",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED undo:a undone:a freed "
            "ending do:f ok:f = COMPENSATED"
        ),
    ),
    Row(
        "none for a failure",
        "a; b => s",
        "b:fail",
        "do:a ok:a do:b fail:b turn undo:a undone:a skip:s = COMPENSATED",
    ),
    Row("none for a success", "a => / f", "", "do:a ok:a skip:f = SUCCEEDED"),
    Row(
        "after an optional failure: those of a success",
        "a; b:ignore => s / f",
        "b:fail",
        "do:a ok:a do:b fail:b skip:f ending do:s ok:s = SUCCEEDED",
    ),
    Row(
        "after a group was made up for: those of a success",
        "g(a; b):group => s / f",
        "b:fail",
        (
            "do:a ok:a do:b fail:b compensating:g undo:a undone:a compensated:g skip:f ending "
            "do:s ok:s = SUCCEEDED"
        ),
    ),
    Row(
        "after a recovery: those of a success",
        "g(a; b){r}:recover => s / f",
        "b:fail",
        (
            "do:a ok:a do:b fail:b recovering:g do:r ok:r recovered:g skip:f ending do:s ok:s = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "after past a pivot: those of a success",
        "a; p:pivot; b:forward => s / f",
        "b:fail,ok",
        (
            "do:a ok:a do:p ok:p do:b retry:b BLOCKED do:b ok:b freed skip:f ending do:s ok:s = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "after stopping: once nothing is at work any more",
        "(a | b:stop) => s / f",
        "b:fail a:run+wait+ok",
        "do:a do:b run:a fail:b ending cancel:a stopped:a skip:s do:f ok:f = FAILED",
    ),
    Row(
        "after stopping: once what may be on its way is fenced",
        "(a | b:stop) => / f",
        "b:fail a:hang/missing undo-a:retriable,wait+ok",
        (
            "do:a do:b fail:b ending cancel:a lost:a undo:a un-fail:a undo:a undone:a do:f ok:f = "
            "FAILED"
        ),
    ),
    Row("nothing in the tree", "g():fan => s / f", "", "skip:f ending do:s ok:s = SUCCEEDED"),
    # Their failures never change the verdict.
    Row("one fails: SUCCEEDED", "a => s", "s:fail", "do:a ok:a ending do:s fail:s = SUCCEEDED"),
    Row(
        "one fails: the next runs",
        "a => s1; s2",
        "s1:fail",
        "do:a ok:a ending do:s1 fail:s1 do:s2 ok:s2 = SUCCEEDED",
    ),
    Row(
        "one fails: COMPENSATED",
        "a; b => / f",
        "b:fail f:fail",
        "do:a ok:a do:b fail:b turn undo:a undone:a ending do:f fail:f = COMPENSATED",
    ),
    Row(
        "one fails: FAILED",
        "a; b:stop => / f",
        "b:fail f:fail",
        "do:a ok:a do:b fail:b ending do:f fail:f = FAILED",
    ),
    Row(
        "one pauses on failure: not here",
        "a => s:pause",
        "s:fail",
        "do:a ok:a ending do:s fail:s = SUCCEEDED",
    ),
    Row(
        "one stops on failure: not here",
        "a => s:stop; t",
        "s:fail",
        "do:a ok:a ending do:s fail:s do:t ok:t = SUCCEEDED",
    ),
    Row(
        "one has another failure policy: not here",
        "a => g(s; t):group; u",
        "t:fail",
        "do:a ok:a ending do:s ok:s do:t fail:t do:u ok:u = SUCCEEDED",
    ),
    Row(
        "side by side",
        "a => (s1 | s2); s3",
        "s1:fail",
        "do:a ok:a ending do:s1 do:s2 fail:s1 ok:s2 do:s3 ok:s3 = SUCCEEDED",
    ),
    Row(
        "after another of them",
        "a => (s1 | s2<s1)",
        "s1:fail",
        "do:a ok:a ending do:s1 fail:s1 do:s2 ok:s2 = SUCCEEDED",
    ),
    # They are durable, retried and visible like any task.
    Row(
        "retried",
        "a => s:retry=3",
        "s:retriable,retriable,ok",
        "do:a ok:a ending do:s retry:s do:s retry:s do:s ok:s = SUCCEEDED",
    ),
    Row(
        "retried as often as allowed",
        "a => s:retry=2",
        "s:retriable,retriable",
        "do:a ok:a ending do:s retry:s do:s fail:s = SUCCEEDED",
    ),
    Row(
        "of unknown outcome, then it succeeded",
        "a => s",
        "s:lost+wait+ok",
        "do:a ok:a ending do:s lost:s ok:s = SUCCEEDED",
    ),
    Row(
        "of unknown outcome, then it failed",
        "a => s",
        "s:lost+wait+fail",
        "do:a ok:a ending do:s lost:s fail:s = SUCCEEDED",
    ),
    Row(
        "waits, and hosts",
        "a => s:wait=5:rest=5; t:any",
        "",
        "do:a ok:a ending wait:s do:s ok:s wait:t do:t ok:t = SUCCEEDED",
    ),
    Row(
        "a condition",
        "a => s:when=input.no; t",
        "",
        "do:a ok:a ending skip:s do:t ok:t = SUCCEEDED",
    ),
    Row(
        "a condition on a failure",
        "a; b => / f:when=a.COMPENSATED; g:when=a.SUCCEEDED",
        "b:fail",
        "do:a ok:a do:b fail:b turn undo:a undone:a ending do:f ok:f skip:g = COMPENSATED",
    ),
    Row(
        "it is too late: stopped",
        "a => s:late=9",
        "s:hang/cancelled",
        "do:a ok:a ending do:s cancel:s fail:s = SUCCEEDED",
    ),
    Row(
        "it is too late: fenced",
        "a => s:late=9:retry=2",
        "s:hang/missing,ok",
        "do:a ok:a ending do:s cancel:s lost:s undo:s retry:s do:s ok:s = SUCCEEDED",
    ),
    Row(
        "it finds no host in time",
        "a => s:late=9:on=q; t",
        "",
        "do:a ok:a ending wait:s fail:s do:t ok:t = SUCCEEDED",
    ),
    Row(
        "a new owner between them",
        "a => s; t",
        "owner@ok:s owner@do:t",
        "do:a ok:a ending do:s ok:s do:t owner owner ok:t = SUCCEEDED",
    ),
    Row(
        "no pause before or after them",
        "a => s:before; t:hold",
        "",
        "do:a ok:a ending do:s ok:s do:t ok:t = SUCCEEDED",
    ),
    Row(
        "rounds, and a bound",
        "a => g(s | t):max=1",
        "",
        "do:a ok:a ending do:s ok:s do:t ok:t = SUCCEEDED",
    ),
    # What others may ask meanwhile.
    Row(
        "S-Z15 S-V19 a cancel that comes too late: refused",
        "a => s",
        "s:run+wait+ok cancel@ending",
        "do:a ok:a ending do:s refused run:s ok:s = SUCCEEDED",
    ),
    Row(
        "a pause: refused",
        "a => s",
        "s:run+wait+ok pause@ending pause-all@ending",
        "do:a ok:a ending do:s refused refused run:s ok:s = SUCCEEDED",
    ),
    Row(
        "a resume: refused",
        "a => s",
        "s:run+wait+ok resume@ending",
        "do:a ok:a ending do:s refused run:s ok:s = SUCCEEDED",
    ),
    Row(
        "one of unknown outcome is abandoned",
        "a => s; t",
        "s:lost+hang abandon-s@lost:s",
        "do:a ok:a ending do:s lost:s asked abandoned:s do:t ok:t = SUCCEEDED",
    ),
    Row(
        "one at work is abandoned: what it did stays",
        "a => s",
        "s:run+wait+ok abandon-s@run:s",
        "do:a ok:a ending do:s run:s asked abandoned:s = SUCCEEDED",
    ),
    Row(
        "one that nobody has taken is abandoned: the next runs",
        "a => s; t",
        "s:hang abandon-s@do:s",
        "do:a ok:a ending do:s asked abandoned:s do:t ok:t = SUCCEEDED",
    ),
    Row(
        "one between its tries is abandoned",
        "a => s:retry=2; t",
        "s:retriable abandon-s@retry:s",
        "do:a ok:a ending do:s retry:s asked abandoned:s do:t ok:t = SUCCEEDED",
    ),
    Row(
        "one that waits is abandoned",
        "a => s:wait=9; t",
        "abandon-s@wait:s",
        "do:a ok:a ending wait:s asked abandoned:s do:t ok:t = SUCCEEDED",
    ),
    # S-E8: they never decide.
    Row(
        "S-E8 the original is rerun: those of a success",
        "a; b:pause; c => s / n",
        "b:fail,ok resume+rerun-b@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked again:b do:b ok:b do:c ok:c "
            "skip:n ending do:s ok:s = SUCCEEDED"
        ),
    ),
    Row(
        "S-E8 the original is skipped: those of a success",
        "a; b:pause; c => s / n",
        "b:fail resume+skip-b@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b do:c ok:c skip:n "
            "ending do:s ok:s = SUCCEEDED"
        ),
    ),
    Row(
        "S-E8 the original is given up, and the notifier fails",
        "a; b:pause; c => s / n",
        "b:fail n:fail resume+compensate-b@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked turn undo:a undone:a skip:s ending do:n "
            "fail:n = COMPENSATED"
        ),
    ),
    # What comes into them.
    Row("bound to an output", "a => s:takes=a.image", "", "do:a ok:a ending do:s ok:s = SUCCEEDED"),
    Row(
        "bound to what was made up for: fails unsent",
        "a; b => / f:takes=a.image",
        "b:fail",
        "do:a ok:a do:b fail:b turn undo:a undone:a ending fail:f = COMPENSATED",
    ),
    Row(
        "bound to what is kept",
        "a; b:stop => / f:takes=a.image",
        "b:fail",
        "do:a ok:a do:b fail:b ending do:f ok:f = FAILED",
    ),
    Row(
        "bound to an earlier one",
        "a => s; t:takes=s.image",
        "",
        "do:a ok:a ending do:s ok:s do:t ok:t = SUCCEEDED",
    ),
    Row(
        "bound to the cause",
        "a; b => / f:takes=failure.reason",
        "b:fail",
        "do:a ok:a do:b fail:b turn undo:a undone:a ending do:f ok:f = COMPENSATED",
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_new_owners_tell_the_same_story(row: Row):
    tells_the_same_under_new_owners(row)


# -- what end actions are told --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("failure.reason", "BROKEN"),
        ("failure.message", "broken"),
        ("failure.task", "c"),
        ("compensated.tasks", "a,b"),
    ],
)
def test_they_are_told_what_failed_and_what_was_made_up_for(path: str, expected: str):
    binding = Binding(field="about", task="", path=path, of_failure=True)
    told = Play(script=script("c:hang"))
    notify = TaskSpec(name="f", host="h", verb="notify", bindings=(binding,))
    told.begin(tree("a; b; c; d"), beside=Terms(on_failure=(notify,)))
    told.run()
    index = told.workflow.plan.by_name["c"]
    broken = replace(failure("BROKEN"), attempt="workflows/w/tasks/c/attempts/1")
    told.perform(events.AttemptFailed(task=index, number=1, failure=broken))
    told.run()
    (value,) = told.workflow.task(told.workflow.plan.by_name["f"]).last.inbound
    assert (value.field, value.value, value.origin) == ("about", expected, path)


def test_they_are_told_the_cause_of_a_cancel():
    told = play("a; b => / f:takes=failure.reason", "cancel@do:b")
    (value,) = told.workflow.task(told.workflow.plan.by_name["f"]).last.inbound
    assert value.value == "CANCELLED"


def test_their_own_failure_is_shown_beside_the_verdict():
    """The verdict and its cause stay what they were."""
    told = play("a; b => / f", "b:fail f:fail")
    task = told.workflow.task(told.workflow.plan.by_name["f"])
    assert task.state is TaskState.FAILED
    assert task.failure is not None
    assert not task.needs_decision
    assert told.workflow.cause is not None
    assert told.workflow.state is WorkflowState.COMPENSATED


def test_the_verdict_is_known_while_they_run():
    told = play("a; b => / f", "b:fail f:hang")
    assert told.workflow.state is WorkflowState.ENDING
    assert told.workflow.verdict is WorkflowState.COMPENSATED
    assert told.workflow.end_time is None


def test_what_they_leave_is_no_leftover():
    """I3: they are meant to stay."""
    assert list(leftovers(play("a; b:stop => / f", "a:fail").workflow)) == []
    told = play("a; b:stop => / f", "b:fail")
    assert [(each.task, each.reason) for each in leftovers(told.workflow)] == [(1, STOPPED)]


# -- what is kept ---------------------------------------------------------------------------------


def test_what_is_stopped_keeps_what_was_done_and_lists_it():
    """I3."""
    told = play("r:ro; a; (b | c:stop); d", "c:fail b:hang/ok")
    assert told.workflow.state is WorkflowState.FAILED
    names = [told.workflow.plan.nodes[each.task].name for each in leftovers(told.workflow)]
    assert names == ["a", "b"]
    assert told.workflow.cause is not None


# -- time-outs ------------------------------------------------------------------------------------

LIMIT = Terms(timeout=timedelta(seconds=60))


def timed(text: str, setup: str, beside: Terms = LIMIT) -> Play:
    """Returns a play of a workflow with a time limit."""
    told = Play(script=script(setup))
    told.begin(tree(text), beside=beside)
    told.run()
    return told


def test_a_workflow_without_a_verdict_in_time_fails_and_is_made_up_for():
    """S-F2."""
    told = timed("a; b; c", "b:run+hang")
    assert told.story() == (
        "do:a ok:a do:b run:b turn cancel:b stopped:b undo:a undone:a = COMPENSATED"
    )
    assert told.workflow.cause is not None
    assert told.workflow.cause.reason == "TIMED_OUT"


def test_a_limit_stops_those_that_would_be_awaited():
    told = timed("a:await | b", "a:run+hang")
    assert told.story() == (
        "do:a do:b run:a ok:b turn cancel:a undo:b stopped:a undone:b = COMPENSATED"
    )


def test_a_verdict_in_time_disarms_the_limit():
    """S-F2."""
    told = timed("a; b", "")
    assert told.story() == "do:a ok:a do:b ok:b = SUCCEEDED"
    assert workflow_timer(told.workflow) is None


def test_a_limit_is_for_the_verdict_and_not_for_what_follows_it():
    beside = replace(terms("=> s"), timeout=LIMIT.timeout)
    told = timed("a", "s:run+hang", beside)
    assert told.workflow.state is WorkflowState.ENDING
    assert list(told.timers) == []


def test_a_limit_does_not_stop_compensations():
    """S-Z16."""
    told = timed("a; b", "b:fail undo-a:run+hang")
    assert told.workflow.state is WorkflowState.COMPENSATING


def test_no_limit_takes_a_pivot_back():
    """S-V16."""
    told = timed("a; p:pivot; b", "b:run+hang")
    assert told.story() == "do:a ok:a do:p ok:p do:b run:b = RUNNING"


def test_a_held_workflow_does_not_fail_by_its_limit_until_it_is_resumed():
    told = timed("a; b:before; c", "b:run+hang")
    assert told.story() == "do:a ok:a pausing PAUSED = PAUSED"
    told.perform(events.ResumeRequested(ask=ASK))
    told.run()
    assert told.story() == (
        "do:a ok:a pausing PAUSED asked resumed do:b run:b turn cancel:b stopped:b undo:a undone:a "
        "= COMPENSATED"
    )
    assert told.workflow.cause is not None
    assert told.workflow.cause.reason == "TIMED_OUT"


def test_a_limit_is_found_again_by_a_new_owner():
    """S-H8."""
    told = Play(script=script("a:hang"), owner_each=True)
    told.begin(tree("a"), beside=LIMIT)
    (timer,) = told.timers
    assert timer == SetTimer(timer=Timer.WORKFLOW, time=EPOCH + timedelta(seconds=61))
    assert timer in set(outstanding(told.workflow))
    told.run()
    assert told.workflow.state is WorkflowState.COMPENSATED


def test_a_limit_that_comes_too_early_does_nothing():
    """A clock elsewhere is ahead: S-Z12."""
    told = Play(script=script("a:hang"))
    told.begin(tree("a"), beside=LIMIT)
    assert told.perform(events.TimerFired(timer=Timer.WORKFLOW)).empty


def test_a_stray_timer_of_a_workflow_without_a_limit_does_nothing():
    told = Play(script=script("a:hang"))
    told.begin(tree("a"), beside=NO_TERMS)
    assert told.perform(events.TimerFired(timer=Timer.WORKFLOW)).empty
