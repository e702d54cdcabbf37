"""Skip: go on from the next task, which finds the outputs that it needs."""

from __future__ import annotations

import pytest

from coordinator.saga import events, history
from coordinator.saga.states import TaskState, WorkflowState
from tests.saga.language import ASK, Play, play, script, tree
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    # Where it goes on.
    Row(
        "S-E1 only what is meant for a skip runs",
        "a; b:pause; c:when=b.SKIPPED; d:when=b.SUCCEEDED",
        "b:fail resume+skip-b@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b do:c ok:c skip:d = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "S-E1 one that is not skipped: the other way",
        "a; b:pause; c:when=b.SKIPPED; d:when=b.SUCCEEDED",
        "b:fail,ok resume+rerun-b@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked again:b do:b ok:b skip:c "
            "do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-E2 S-R6 S-R11 the next task runs",
        "a; b:pause; c",
        "b:fail resume+skip-b@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "S-E2 the last: the workflow succeeds",
        "a; b:pause",
        "b:fail resume+skip-b@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b = SUCCEEDED",
    ),
    Row(
        "S-E2 the only one",
        "a:pause",
        "a:fail resume+skip-a@PAUSED",
        "do:a fail:a pausing PAUSED asked resumed asked skip:a = SUCCEEDED",
    ),
    Row(
        "skipped deep below",
        "x(a; y(b:pause)); c",
        "b:fail resume+skip-b@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "skipped in a group: those beside it count",
        "g(a:pause | b); c",
        "a:fail resume+skip-a@PAUSED",
        "do:a do:b fail:a pausing ok:b PAUSED asked resumed asked skip:a do:c ok:c = SUCCEEDED",
    ),
    Row(
        "a whole group: what failed in it",
        "g(a:pause | b | c:pause); d",
        "a:fail c:fail resume+skip-g@PAUSED",
        (
            "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED asked resumed asked skip:a asked "
            "skip:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "one is skipped, the other rerun",
        "g(a:pause | b:pause); c",
        "a:fail b:fail,ok resume+skip-a+rerun-b@PAUSED",
        (
            "do:a do:b fail:a pausing fail:b PAUSED asked resumed asked skip:a asked again:b do:b "
            "ok:b do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "S-F3 skipped members pass a quorum",
        "g(a:pause | b:pause):min=2; c",
        "a:fail b:fail resume+skip-g@PAUSED",
        (
            "do:a do:b fail:a pausing fail:b PAUSED asked resumed asked skip:a asked skip:b do:c "
            "ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "while a sibling runs",
        "(a:pause | b); c",
        "a:fail b:run+wait+ok resume+skip-a@pausing",
        "do:a do:b fail:a pausing asked resumed asked skip:a run:b ok:b do:c ok:c = SUCCEEDED",
    ),
    # What later tasks need.
    Row(
        "S-E4 S-R6 S-R21 with outputs that others need",
        "a; b:pause; c:takes=b.image",
        "b:fail resume+skip-b/image=given@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "S-E5 S-R9 without them: refused",
        "a; b:pause; c:takes=b.image",
        "b:fail resume+skip-b@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED refused = PAUSED",
    ),
    Row(
        "S-E5 of another type: refused",
        "a; b:pause; c:takes=b.image:types=str",
        "b:fail resume+skip-b/image=7@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED refused = PAUSED",
    ),
    Row(
        "with what nobody needs",
        "a; b:pause; c",
        "b:fail resume+skip-b/image=given@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "those that need them are skipped as well",
        "a; b:pause; c:takes=b.image; d",
        "b:fail resume+skip-b+skip-c@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b asked skip:c do:d "
            "ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "those that need them are given them otherwise",
        "a; b:pause; c:takes=b.image; d",
        "b:fail resume+skip-b+rerun-c/image=x@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b asked do:c ok:c do:d "
            "ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-E5 an end action needs them: refused",
        "a; b:pause => s:takes=b.image",
        "b:fail resume+skip-b@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED refused = PAUSED",
    ),
    Row(
        "S-E4 an end action is given them",
        "a; b:pause => s:takes=b.image",
        "b:fail resume+skip-b/image=x@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b ending do:s ok:s = "
            "SUCCEEDED"
        ),
    ),
    # Before its turn.
    Row(
        "S-R11 one before which it paused",
        "a; b:before; c",
        "resume+skip-b@PAUSED",
        "do:a ok:a pausing PAUSED asked resumed asked skip:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "S-R11 several at once, one of them later",
        "a; b:pause; c; d",
        "b:fail resume+skip-b+skip-d@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b asked do:c ok:c "
            "skip:d = SUCCEEDED"
        ),
    ),
    Row(
        "a later one, then another fails",
        "a; b:pause; c; d; e",
        "b:fail c:fail resume+skip-b+skip-d@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b asked do:c fail:c "
            "turn undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "a later one in a group",
        "a; b:pause; g(c; d); e",
        "b:fail resume+skip-b+skip-c@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b asked skip:c do:d "
            "ok:d do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "all of a later group",
        "a; b:pause; g(c | d); e",
        "b:fail resume+skip-b+skip-c+skip-d@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b asked asked skip:c "
            "skip:d do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "one in a bounded group",
        "a; b:pause; g(c | d | e):max=1; f",
        "b:fail resume+skip-b+skip-c@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b asked skip:c do:d "
            "ok:d do:e ok:e do:f ok:f = SUCCEEDED"
        ),
    ),
    Row(
        "a later one, paused again before",
        "a; b:pause; c:before; d; e",
        "b:fail resume+skip-b+skip-d@PAUSED resume@PAUSED#2",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b asked pausing PAUSED "
            "asked resumed do:c ok:c skip:d do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "S-E7 no retry fires",
        "a; b:pause:retry=3; c",
        "b:retriable,retriable,retriable resume+skip-b@PAUSED due-b.4@skip:b",
        (
            "do:a ok:a do:b retry:b do:b retry:b do:b fail:b pausing PAUSED asked resumed asked "
            "skip:b do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "S-E7 one that waits for its retry",
        "a:retry=3; b",
        "a:retriable,ok pause@retry:a resume+skip-a@PAUSED due-a.2@skip:a",
        "do:a retry:a asked pausing PAUSED asked resumed asked skip:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "one that waits for a time",
        "a; b:wait=5; c",
        "pause@wait:b resume+skip-b@PAUSED due-b.1@skip:b",
        "do:a ok:a wait:b asked pausing PAUSED asked resumed asked skip:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "one that waits for a host",
        "a; b:on=q; c",
        "pause@wait:b resume+skip-b@PAUSED",
        "do:a ok:a wait:b asked pausing PAUSED asked resumed asked skip:b do:c ok:c = SUCCEEDED",
    ),
    # Refused.
    Row(
        "one that has succeeded: refused",
        "a; b:pause; c",
        "b:fail resume+skip-a@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED refused = PAUSED",
    ),
    Row(
        "one at work: refused",
        "a; b",
        "a:run+wait+ok pause@run:a resume+skip-a@pausing",
        "do:a run:a asked pausing refused ok:a PAUSED = PAUSED",
    ),
    Row(
        "one of unknown outcome: refused",
        "a; b",
        "a:lost+wait+wait+ok pause@lost:a resume+skip-a@pausing",
        "do:a lost:a asked pausing refused ok:a PAUSED = PAUSED",
    ),
    Row(
        "rerun and skipped: refused",
        "a; b:pause; c",
        "b:fail resume+rerun-b+skip-b@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED refused = PAUSED",
    ),
    Row(
        "when nothing is paused: refused",
        "a; b",
        "a:run+wait+ok resume+skip-b@run:a",
        "do:a run:a refused ok:a do:b ok:b = SUCCEEDED",
    ),
    # Afterwards.
    Row(
        "what was skipped is not made up for",
        "a; b:pause; c",
        "b:fail c:fail resume+skip-b@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b do:c fail:c turn "
            "undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "late words of what was skipped",
        "a; b:pause; c",
        "b:fail resume+skip-b@PAUSED say-b.1-ok@skip:b",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b do:c late:b ok:c = "
            "SUCCEEDED"
        ),
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_new_owners_tell_the_same_story(row: Row):
    tells_the_same_under_new_owners(row)


def test_what_was_given_is_read_by_those_that_need_it():
    """S-E4, S-E3: instead of anything that the failed attempt may have left."""
    told = play(
        "a; b:pause; c:takes=b.image; d:when=b.image",
        "b:fail resume+skip-b/image=given@PAUSED",
    )
    by_name = told.workflow.plan.by_name
    (value,) = told.workflow.task(by_name["c"]).last.inbound
    assert (value.value, value.origin) == ("given", "tasks.b.output.image")
    assert dict(told.workflow.task(by_name["b"]).output) == {"image": "given"}
    assert told.workflow.task(by_name["d"]).state is TaskState.SUCCEEDED


def test_the_history_shows_who_gave_what_and_why():
    """S-E4, S-R22."""
    told = Play(script=script("b:fail"))
    told.begin(tree("a; b:pause; c:takes=b.image"))
    told.run()
    decision = told.perform(told.by_others("resume+skip-b/image=given"))
    (skipped,) = (
        entry.fact
        for entry in decision.history
        if isinstance(entry.fact, history.Intervened) and entry.fact.verb == "skip"
    )
    assert (skipped.principal, skipped.reason) == ("eve", "because")
    assert [(each.field, each.value) for each in skipped.changes] == [("image", "given")]
    task = told.workflow.task(told.workflow.plan.by_name["b"])
    assert task.decided is not None
    assert (task.decided.verb, task.decided.principal) == ("skip", "eve")


def test_the_failed_attempt_stays():
    """S-R16."""
    told = play("a; b:pause; c", "b:fail resume+skip-b@PAUSED")
    task = told.workflow.task(told.workflow.plan.by_name["b"])
    assert task.state is TaskState.SKIPPED
    assert task.failure is not None
    assert [attempt.failure is not None for attempt in task.attempts] == [True]


def test_a_skip_leaves_no_timer_behind():
    """S-E7."""
    told = Play(script=script("a:retriable"))
    told.begin(tree("a:retry=3; b"))
    told.step()
    told.perform(events.PauseRequested(ask=ASK))
    (timer,) = told.timers
    told.perform(told.by_others("resume+skip-a"))
    fired = events.TimerFired(timer=timer.timer, task=timer.task, number=timer.number)
    assert told.perform(fired).empty
    assert len(told.workflow.task(1).attempts) == 1


def test_what_an_unlikely_output_is_called_does_not_matter():
    """S-R9: outputs that nobody asked for are kept and shown, like any other."""
    told = play("a:pause; b", "a:fail resume+skip-a/x=1/y=2@PAUSED")
    assert dict(told.workflow.task(1).output) == {"x": 1, "y": 2}
    assert told.workflow.state is WorkflowState.SUCCEEDED
