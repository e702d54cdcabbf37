"""Rerun: a failed task runs again as a new attempt, once; what succeeded is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.saga import events
from coordinator.saga.states import AttemptState, TaskState, WorkflowState
from coordinator.saga.workflow import PATCH, Attempt
from tests.saga.language import ASK, Play, play, script, tree
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    # One task.
    Row(
        "S-B1 S-R5 the task before it is untouched, the one after it runs",
        "t1; t2:pause; t3",
        "t2:fail,ok resume+rerun-t2@PAUSED",
        (
            "do:t1 ok:t1 do:t2 fail:t2 pausing PAUSED asked resumed asked again:t2 do:t2 ok:t2 "
            "do:t3 ok:t3 = SUCCEEDED"
        ),
    ),
    Row(
        "S-B2 S-R8 with other values",
        "t1; t2:pause:takes=t1.image; t3:takes=t2.image",
        "t2:fail,ok resume+rerun-t2/image=mended@PAUSED",
        (
            "do:t1 ok:t1 do:t2 fail:t2 pausing PAUSED asked resumed asked again:t2 do:t2 ok:t2 "
            "do:t3 ok:t3 = SUCCEEDED"
        ),
    ),
    Row(
        "S-B3 S-R15 one that has succeeded: refused",
        "t1; t2:pause; t3",
        "t2:fail,ok resume+rerun-t1@PAUSED",
        "do:t1 ok:t1 do:t2 fail:t2 pausing PAUSED refused = PAUSED",
    ),
    Row(
        "S-B3 S-R15 one that has succeeded beside one that failed: refused whole",
        "t1; t2:pause; t3",
        "t2:fail,ok resume+rerun-t1+rerun-t2@PAUSED",
        "do:t1 ok:t1 do:t2 fail:t2 pausing PAUSED refused = PAUSED",
    ),
    Row(
        "S-R15 asked three times: one attempt",
        "t1; t2:pause; t3",
        (
            "t2:fail,run+wait+ok resume+rerun-t2@PAUSED resume+rerun-t2@resumed "
            "resume+rerun-t2@run:t2"
        ),
        (
            "do:t1 ok:t1 do:t2 fail:t2 pausing PAUSED asked resumed asked again:t2 do:t2 refused "
            "run:t2 refused ok:t2 do:t3 ok:t3 = SUCCEEDED"
        ),
    ),
    Row(
        "S-R5 before it has failed: refused",
        "a:pause; b",
        "a:run+wait+ok resume+rerun-a@run:a",
        "do:a run:a refused ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "fails again: open again",
        "a; b:pause; c",
        "b:fail,fail,ok resume+rerun-b@PAUSED resume+rerun-b@PAUSED#2",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked again:b do:b fail:b pausing "
            "PAUSED asked resumed asked again:b do:b ok:b do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "S-B9 as many attempts again",
        "a; b:retry=3:pause; c",
        "b:retriable,retriable,retriable,retriable,retriable,ok resume+rerun-b@PAUSED",
        (
            "do:a ok:a do:b retry:b do:b retry:b do:b fail:b pausing PAUSED asked resumed asked "
            "again:b do:b retry:b do:b retry:b do:b ok:b do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "S-B9 and no more",
        "a; b:retry=3:pause; c",
        "b:retriable,retriable,retriable,retriable,retriable,retriable,ok resume+rerun-b@PAUSED",
        (
            "do:a ok:a do:b retry:b do:b retry:b do:b fail:b pausing PAUSED asked resumed asked "
            "again:b do:b retry:b do:b retry:b do:b fail:b pausing PAUSED = PAUSED"
        ),
    ),
    Row(
        "S-B15 one that was stopped by others, as one that failed",
        "a; b:pause; c",
        "b:cancelled,ok resume+rerun-b@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked again:b do:b ok:b do:c ok:c "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "a group as a whole, what succeeded included",
        "g(a:pause | b); c",
        "a:fail,ok pause@do:a resume+reset-g@PAUSED",
        (
            "do:a do:b asked pausing fail:a ok:b PAUSED asked resumed asked compensating:g undo:b "
            "undone:b forward:g again:a again:b do:a do:b ok:a ok:b do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "what fails while it is paused by an operator",
        "a; b",
        "a:run+wait+fail,ok pause@run:a resume+rerun-a@PAUSED",
        (
            "do:a run:a asked pausing fail:a PAUSED asked resumed asked again:a do:a ok:a do:b "
            "ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "on another host if there is one",
        "a; b:pause:on=x+y",
        "b:fail,ok resume+rerun-b@PAUSED",
        (
            "do:a ok:a wait:b do:b fail:b pausing PAUSED asked resumed asked again:b wait:b do:b "
            "ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "of which nothing was sent",
        "a; b:when=input.no; c:pause:takes=b.image",
        "resume+rerun-c/image=given@PAUSED",
        (
            "do:a ok:a skip:b fail:c pausing PAUSED asked resumed asked again:c do:c ok:c = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "S-B4 S-R23 a plain resume is no rerun: refused",
        "a; b:pause; c",
        "b:fail,ok resume@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED refused = PAUSED",
    ),
    # Several branches.
    Row(
        "S-B4 S-B10 while a sibling still runs",
        "(a:pause | b); c",
        "a:fail,ok b:run+wait+ok resume+rerun-a@pausing",
        (
            "do:a do:b fail:a pausing asked resumed asked again:a do:a run:b ok:a ok:b do:c ok:c "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "S-B10 once the sibling has ended",
        "(a:pause | b); c",
        "a:fail,ok b:run+wait+ok resume+rerun-a@PAUSED",
        (
            "do:a do:b fail:a pausing run:b ok:b PAUSED asked resumed asked again:a do:a ok:a "
            "do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "S-B5 S-R14 both in one request",
        "a:pause | b:pause",
        "a:fail,ok b:fail,ok resume+rerun-a/image=x+rerun-b/image=y@PAUSED",
        (
            "do:a do:b fail:a pausing fail:b PAUSED asked resumed asked again:a asked again:b "
            "do:a do:b ok:a ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "S-R14 one of two: refused",
        "a:pause | b:pause",
        "a:fail,ok b:fail,ok resume+rerun-a@PAUSED",
        "do:a do:b fail:a pausing fail:b PAUSED refused = PAUSED",
    ),
    Row(
        "S-R14 one is rerun, the other skipped",
        "(a:pause | b:pause); c",
        "a:fail,ok b:fail,ok resume+rerun-a+skip-b@PAUSED",
        (
            "do:a do:b fail:a pausing fail:b PAUSED asked resumed asked again:a asked skip:b do:a "
            "ok:a do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "S-B7 a join waits for those before it, and runs once",
        "a:pause | b:pause | j<a,b",
        "a:fail,ok b:fail,ok resume+rerun-a+rerun-b@PAUSED",
        (
            "do:a do:b fail:a pausing fail:b PAUSED asked resumed asked again:a asked again:b "
            "do:a do:b ok:a ok:b do:j ok:j = SUCCEEDED"
        ),
    ),
    Row(
        "S-B8 a join alone",
        "a | b | j<a,b:pause | k<j",
        "j:fail,ok resume+rerun-j@PAUSED",
        (
            "do:a do:b ok:a ok:b do:j fail:j pausing PAUSED asked resumed asked again:j do:j ok:j "
            "do:k ok:k = SUCCEEDED"
        ),
    ),
    Row(
        "two decisions about one task: refused",
        "a; b:pause",
        "b:fail,ok resume+rerun-b+skip-b@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED refused = PAUSED",
    ),
    # Groups.
    Row(
        "S-R19 a group: what failed in it",
        "g(a:pause | b | c:pause); d",
        "a:fail,ok c:fail,ok resume+rerun-g@PAUSED",
        (
            "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED asked resumed asked again:a asked "
            "again:c do:a do:c ok:a ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "a group: what failed in it, deep below",
        "x(y(a; b:pause); c); d",
        "b:fail,ok resume+rerun-x@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked again:b do:b ok:b do:c ok:c "
            "do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "a group in which nothing failed: refused",
        "x(a); y(b:pause)",
        "b:fail,ok resume+rerun-x@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED refused = PAUSED",
    ),
    Row(
        "the whole workflow is no group: refused",
        "a; b:pause",
        "b:fail,ok resume+rerun-root@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED refused = PAUSED",
    ),
    Row(
        "a group and a task in it: refused",
        "g(a:pause | b); c",
        "a:fail,ok resume+rerun-g+rerun-a@PAUSED",
        "do:a do:b fail:a pausing ok:b PAUSED refused = PAUSED",
    ),
    # Values for what has not begun.
    Row(
        "a task that waits may be given values",
        "a; b:before; c",
        "resume+rerun-b/image=z@PAUSED",
        "do:a ok:a pausing PAUSED asked resumed asked do:b ok:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "a later task may be given values",
        "a; b:pause; c:takes=a.image",
        "b:fail,ok resume+rerun-b+rerun-c/image=later@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked again:b asked do:b ok:b "
            "do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "a task that waits for its retry may be given values",
        "a:retry=2; b",
        "a:retriable,ok pause@retry:a resume+rerun-a/image=x@PAUSED",
        "do:a retry:a asked pausing PAUSED asked resumed asked do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    # Reset.
    Row(
        "reset: what succeeded is made up for first",
        "g(a; b:pause); c",
        "b:fail,ok resume+reset-g@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked compensating:g undo:a "
            "undone:a forward:g again:a again:b do:a ok:a do:b ok:b do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "reset: in reverse order",
        "g(a; b; c:pause); d",
        "c:fail,ok resume+reset-g@PAUSED",
        (
            "do:a ok:a do:b ok:b do:c fail:c pausing PAUSED asked resumed asked compensating:g "
            "undo:b undone:b undo:a undone:a forward:g again:a again:b again:c do:a ok:a do:b "
            "ok:b do:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "reset: siblings",
        "g(a:pause | b | c); d",
        "a:fail,ok resume+reset-g@PAUSED",
        (
            "do:a do:b do:c fail:a pausing ok:b ok:c PAUSED asked resumed asked compensating:g "
            "undo:b undo:c undone:b undone:c forward:g again:a again:b again:c do:a do:b do:c "
            "ok:a ok:b ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "reset: nothing to make up for",
        "g(a:ro; b:pause); c",
        "b:fail,ok resume+reset-g@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked compensating:g forward:g "
            "again:a again:b do:a ok:a do:b ok:b do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "reset: only the group",
        "a; g(b; c:pause); d",
        "c:fail,ok resume+reset-g@PAUSED",
        (
            "do:a ok:a do:b ok:b do:c fail:c pausing PAUSED asked resumed asked compensating:g "
            "undo:b undone:b forward:g again:b again:c do:b ok:b do:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "reset while a sibling runs: refused",
        "g(a:pause | b); d",
        "a:fail,ok b:run+wait+ok resume+reset-g@pausing",
        "do:a do:b fail:a pausing refused run:b ok:b PAUSED = PAUSED",
    ),
    Row(
        "reset of what did not fail: refused",
        "a; g(b; c); d:pause",
        "d:fail resume+reset-g@PAUSED",
        "do:a ok:a do:b ok:b do:c ok:c do:d fail:d pausing PAUSED refused = PAUSED",
    ),
    Row(
        "reset of a task: refused",
        "a; b:pause",
        "b:fail resume+reset-b@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED refused = PAUSED",
    ),
    Row(
        "reset past a pivot: refused",
        "g(a; b:pivot; c:pause); d",
        "c:fail,ok resume+reset-g@PAUSED",
        "do:a ok:a do:b ok:b do:c fail:c pausing PAUSED refused = PAUSED",
    ),
    Row(
        "reset beside an open failure elsewhere: refused",
        "g(a; b:pause) | c:pause",
        "b:fail,ok c:run+wait+wait+fail,ok resume+reset-g@PAUSED",
        "do:c do:a run:c ok:a do:b fail:b pausing fail:c PAUSED refused = PAUSED",
    ),
    Row(
        "reset, and the other is rerun",
        "g(a; b:pause) | c:pause",
        "b:fail,ok c:run+wait+wait+fail,ok resume+reset-g+rerun-c@PAUSED",
        (
            "do:c do:a run:c ok:a do:b fail:b pausing fail:c PAUSED asked resumed asked asked "
            "again:c compensating:g undo:a do:c undone:a forward:g again:a again:b do:a ok:c ok:a "
            "do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "reset: its compensations are retried",
        "g(a; b:pause); c",
        "b:fail,ok undo-a:retriable,ok resume+reset-g@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked compensating:g undo:a "
            "un-fail:a undo:a undone:a forward:g again:a again:b do:a ok:a do:b ok:b do:c ok:c = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "reset: BLOCKED, then it goes on",
        "g(a; b:pause); c",
        "b:fail,ok undo-a:fail,ok resume+reset-g@PAUSED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked compensating:g undo:a "
            "un-fail:a stuck:a BLOCKED undo:a undone:a forward:g again:a again:b do:a freed ok:a "
            "do:b ok:b do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "reset: cancelled meanwhile",
        "g(a; b:pause); c",
        "b:fail,ok undo-a:run+wait+ok resume+reset-g@PAUSED cancel@compensating:g",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked compensating:g undo:a asked "
            "turn forward:g undone:a = COMPENSATED"
        ),
    ),
    Row(
        "reset: paused meanwhile",
        "g(a; b:pause); c",
        "b:fail,ok undo-a:run+wait+ok resume+reset-g@PAUSED pause@compensating:g resume@PAUSED#2",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked compensating:g undo:a asked "
            "pausing undone:a forward:g again:a again:b PAUSED asked resumed do:a ok:a do:b ok:b "
            "do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "reset: what was given up is in the way",
        "g(a; b:pause); c",
        "b:fail,ok undo-a:fail resume+reset-g@PAUSED abandon-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked compensating:g undo:a "
            "un-fail:a stuck:a BLOCKED asked abandoned:a freed forward:g = FAILED"
        ),
    ),
    Row(
        "reset: what was given up before is in the way: refused",
        "x; g(k(a; b):group; c):pause",
        "b:fail undo-a:fail abandon-a@stuck:a c:fail resume+reset-g@PAUSED",
        (
            "do:x ok:x do:a ok:a do:b fail:b compensating:k undo:a un-fail:a stuck:a BLOCKED asked "
            "abandoned:a compensated:k do:c freed fail:c pausing PAUSED refused = PAUSED"
        ),
    ),
    Row(
        "reset: what comes after it has begun already: refused",
        "k(g(a | b):min=1; c; d); e",
        "b:wait+fail d:wait+ok pause@ok:c resume+reset-g@PAUSED",
        ("do:a do:b ok:a do:c ok:c do:d asked pausing ok:d fail:b PAUSED refused = PAUSED"),
    ),
    Row(
        "reset, and what would run anew is skipped: refused, one of them would be lost",
        "g(a; b:pause; c)",
        "b:fail,ok resume+skip-c+reset-g@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED refused = PAUSED",
    ),
    # Giving up.
    Row(
        "given up",
        "a; b:pause; c",
        "b:fail resume+compensate-b@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED asked turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "given up: one of two is enough",
        "a:pause | b:pause",
        "a:fail b:fail resume+compensate-b@PAUSED",
        "do:a do:b fail:a pausing fail:b PAUSED asked turn = COMPENSATED",
    ),
    Row(
        "given up and rerun at once: refused",
        "a:pause | b:pause",
        "a:fail b:fail resume+compensate-b+rerun-a@PAUSED",
        "do:a do:b fail:a pausing fail:b PAUSED refused = PAUSED",
    ),
    Row(
        "given up while a sibling runs",
        "(a:pause | b); c",
        "a:fail b:run+wait+ok resume+compensate-a@pausing",
        "do:a do:b fail:a pausing asked turn cancel:b stopped:b = COMPENSATED",
    ),
    Row(
        "given up past a pivot: refused",
        "a; b:pivot; c:pause",
        "c:fail,ok resume+compensate-c@PAUSED",
        "do:a ok:a do:b ok:b do:c fail:c pausing PAUSED refused = PAUSED",
    ),
    Row(
        "given up, but nothing failed: refused",
        "a; b:before",
        "resume+compensate-b@PAUSED",
        "do:a ok:a pausing PAUSED refused = PAUSED",
    ),
    # What earlier attempts still say.
    Row(
        "S-B14 S-Z31 an earlier attempt reports after its rerun",
        "t1; t2:pause; t3",
        "t2:fail,wait+ok resume+rerun-t2@PAUSED say-t2.1-ok@again:t2",
        (
            "do:t1 ok:t1 do:t2 fail:t2 pausing PAUSED asked resumed asked again:t2 do:t2 late:t2 "
            "ok:t2 do:t3 ok:t3 = SUCCEEDED"
        ),
    ),
    Row(
        "stale timers of earlier attempts",
        "t1; t2:retry=2:pause; t3",
        (
            "t2:retriable,retriable,retriable,ok resume+rerun-t2@PAUSED due-t2.2@again:t2 "
            "due-t2.3@again:t2"
        ),
        (
            "do:t1 ok:t1 do:t2 retry:t2 do:t2 fail:t2 pausing PAUSED asked resumed asked again:t2 "
            "do:t2 retry:t2 do:t2 ok:t2 do:t3 ok:t3 = SUCCEEDED"
        ),
    ),
    Row(
        "S-B3 a compensated workflow cannot be rerun",
        "a; b",
        "b:fail resume+rerun-b@end",
        "do:a ok:a do:b fail:b turn undo:a undone:a refused = COMPENSATED",
    ),
    Row(
        "S-B3 nor one that is being made up for",
        "a; b",
        "b:fail resume+rerun-b@turn",
        "do:a ok:a do:b fail:b turn undo:a refused undone:a = COMPENSATED",
    ),
    Row(
        "S-B3 nor one that has succeeded",
        "a; b",
        "resume+rerun-b@end",
        "do:a ok:a do:b ok:b refused = SUCCEEDED",
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_new_owners_tell_the_same_story(row: Row):
    tells_the_same_under_new_owners(row)


def attempts(told: Play, name: str) -> tuple[Attempt, ...]:
    """Returns the attempts of a task."""
    return told.workflow.task(told.workflow.plan.by_name[name]).attempts


def test_the_failed_attempt_stays_beside_the_new_one():
    """S-B1, S-R16: numbered, and immutable once closed."""
    told = play("t1; t2:pause; t3", "t2:fail,ok resume+rerun-t2@PAUSED")
    states = [(attempt.number, attempt.state) for attempt in attempts(told, "t2")]
    assert states == [(1, AttemptState.FAILED), (2, AttemptState.SUCCEEDED)]
    assert len(attempts(told, "t1")) == len(attempts(told, "t3")) == 1


def test_other_values_are_those_of_the_new_attempt_only():
    """S-B2, S-R8: the old attempt keeps its record; later tasks see what the new one left."""
    told = play(
        "a; b:pause:takes=a.image; c:takes=b.image; d:takes=a.image",
        "b:fail,ok resume+rerun-b/image=mended@PAUSED",
    )
    old, new = attempts(told, "b")
    assert [each.value for each in old.inbound] == ["a.1"]
    assert [each.value for each in new.inbound] == ["mended"]
    assert [each.value for each in attempts(told, "c")[0].inbound] == ["b.2"]
    assert [each.value for each in attempts(told, "d")[0].inbound] == ["a.1"]


def test_a_patch_says_who_gave_it_and_what_it_replaced():
    """S-R16, S-R17."""
    told = play("a; b:pause:takes=a.image", "b:fail,ok resume+rerun-b/image=mended@PAUSED")
    (value,) = attempts(told, "b")[1].inbound
    assert (value.origin, value.principal) == (PATCH, "eve")
    assert (value.previous, value.value) == ("a.1", "mended")
    assert value.time is not None


def test_a_patch_holds_for_every_further_attempt():
    told = play(
        "a; b:pause:retry=2:takes=a.image",
        "b:fail,retriable,fail,ok resume+rerun-b/image=mended@PAUSED resume+rerun-b@PAUSED#2",
    )
    values = [[each.value for each in attempt.inbound] for attempt in attempts(told, "b")]
    assert values == [["a.1"], ["mended"], ["mended"], ["mended"]]


def test_a_later_patch_replaces_an_earlier_one():
    told = play(
        "a; b:pause:takes=a.image",
        "b:fail,fail,ok resume+rerun-b/image=x@PAUSED resume+rerun-b/image=y@PAUSED#2",
    )
    values = [[each.value for each in attempt.inbound] for attempt in attempts(told, "b")]
    assert values == [["a.1"], ["x"], ["y"]]
    assert attempts(told, "b")[2].inbound[0].previous == "x"


def test_a_changed_input_is_seen_by_the_new_attempt():
    """S-B2."""
    told = play("a:pause:takes=input.size", "a:fail,ok resume+rerun-a+input/size=9@PAUSED")
    assert [attempt.inbound[0].value for attempt in attempts(told, "a")] == [7, 9]


def test_the_new_attempt_has_its_own_times():
    """S-B17."""
    told = play("a:pause", "a:run+fail,run+ok resume+rerun-a@PAUSED")
    old, new = attempts(told, "a")
    assert old.end_time is not None
    assert new.start_time is not None
    assert old.create_time < old.end_time < new.create_time < new.start_time


def test_another_host_may_be_named():
    told = Play(script=script("a:fail"))
    told.begin(tree("a:pause"))
    told.run()
    choice = events.Rerun(task=1, host="host-z")
    told.perform(events.ResumeRequested(ask=ASK, choices=(choice,)))
    told.run()
    assert [attempt.host for attempt in attempts(told, "a")] == ["host-a", "host-z"]
    assert all(each.field != "host_id" for each in attempts(told, "a")[1].inbound)


def test_a_task_that_waits_for_a_host_goes_where_the_operator_says():
    told = Play(script=script("pause@wait:a"), hosts=())
    told.begin(tree("a:any | b"))
    told.run()
    choice = events.Rerun(task=1, host="host-z")
    told.perform(events.ResumeRequested(ask=ASK, choices=(choice,)))
    told.run()
    assert [attempt.host for attempt in attempts(told, "a")] == ["host-z"]
    assert told.workflow.state is WorkflowState.SUCCEEDED


def test_what_is_decided_about_a_task_past_a_pivot_that_waits_for_a_host_counts():
    """It is BLOCKED no more: the answer was OK."""
    told = Play(script=script(""), hosts=())
    told.begin(tree("p:pivot; a:late=5:any:retry=9"))
    while told.log[-2:] != ["BLOCKED", "wait:a"]:
        assert told.step()
    told.perform(events.ResumeRequested(ask=ASK, choices=(events.Rerun(task=2),)))
    assert told.workflow.state is WorkflowState.RUNNING
    assert not told.workflow.task(2).needs_decision


def test_a_rerun_asks_for_another_host_than_where_it_failed():
    told = play("a:pause:on=x+y", "a:fail,ok resume+rerun-a@PAUSED")
    assert [attempt.host for attempt in attempts(told, "a")] == ["x", "y"]


def test_of_two_who_saw_the_same_version_one_is_told_it_moved():
    """S-R15: a rerun takes effect once, however many ask at the same time."""
    told = Play(script=script("a:fail,hang"))
    told.begin(tree("a:pause"))
    told.run()
    seen = replace(ASK, version=told.workflow.version)
    request = events.ResumeRequested(ask=seen, choices=(events.Rerun(task=1),))
    assert told.perform(request).refusal is None
    refusal = told.perform(request).refusal
    assert refusal is not None
    assert refusal.outdated
    assert len(attempts(told, "a")) == 2


def test_what_an_earlier_attempt_still_says_never_counts():
    """S-Z31: neither a success nor a loss of it moves the new one."""
    for step in ("ok", "fail", "cancelled", "lost", "missing", "run"):
        told = play("a:pause; b", f"a:fail,run+hang resume+rerun-a@PAUSED say-a.1-{step}@run:a")
        task = told.workflow.task(told.workflow.plan.by_name["a"])
        assert task.state is TaskState.RUNNING, step
        assert task.attempts[0].state is AttemptState.FAILED, step


def test_who_gave_up_is_written_down_and_the_cause_is_the_failure():
    told = play("a; b:pause; c", "b:fail resume+compensate-b@PAUSED")
    task = told.workflow.task(told.workflow.plan.by_name["b"])
    assert told.workflow.state is WorkflowState.COMPENSATED
    assert task.decided is not None
    assert (task.decided.verb, task.decided.principal) == ("compensate", "eve")
    assert told.workflow.cause is not None
    assert told.workflow.cause.reason == "BROKEN"


def test_a_reset_keeps_every_attempt():
    """S-R16: two actions and one compensation of a, two actions of b."""
    told = play("g(a; b:pause); c", "b:fail,ok resume+reset-g@PAUSED")
    kinds = [(attempt.kind.value, attempt.compensates) for attempt in attempts(told, "a")]
    assert kinds == [("ACTION", 0), ("COMPENSATION", 1), ("ACTION", 0)]
    assert len(attempts(told, "b")) == 2
