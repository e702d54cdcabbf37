"""Pause and resume: nothing new starts, what is at work ends by itself, and each goes on once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coordinator.saga import events, history
from coordinator.saga.commands import Timer, outstanding
from coordinator.saga.events import PauseRequested, ResumeRequested, TimerFired
from coordinator.saga.states import TaskState, WorkflowState
from tests.saga.language import ASK, Play, play, report, script, tree
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    # A store that went back in time: what was sent ends by itself, and people look at the rest.
    Row(
        "S-Z19 what follows waits for an operator",
        "a; b",
        "a:run+wait+ok put-back@run:a resume@PAUSED",
        "do:a run:a owner asked pausing ok:a PAUSED asked resumed do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-Z19 nothing is made up for before",
        "a; b",
        "b:wait+fail put-back@do:b resume+skip-b@PAUSED",
        "do:a ok:a do:b owner asked pausing fail:b PAUSED asked resumed asked skip:b = SUCCEEDED",
    ),
    Row(
        "S-Z19 compensations wait, too",
        "a; b; c",
        "c:fail undo-b:wait+ok put-back@undo:b resume@PAUSED",
        "do:a ok:a do:b ok:b do:c fail:c turn undo:b owner asked pausing undone:b PAUSED asked "
        "turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "S-Z19 a pause that did not hold them does so now",
        "a; b",
        "b:wait+wait+fail pause@do:b put-back@asked resume+compensate-b@PAUSED",
        "do:a ok:a do:b asked pausing owner asked fail:b PAUSED asked turn undo:a undone:a "
        "= COMPENSATED",
    ),
    # What stands in line before its host has not been sent: a pause takes it back.
    Row(
        "S-A1 S-R1 what waits for a slot is not sent",
        "a | b | c",
        "b:line,ok c:line,ok a:run+wait+ok pause@run:a resume@PAUSED",
        (
            "do:a do:b do:c run:a asked pausing wait:b wait:c ok:a PAUSED asked resumed do:b do:c "
            "ok:b ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "S-R2 nor after a failure that pauses",
        "(a:pause | b); d",
        "b:line,ok a:fail,ok resume+rerun-a@PAUSED",
        (
            "do:a do:b fail:a pausing wait:b PAUSED asked resumed asked again:a do:b do:a ok:b "
            "ok:a do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "taken back from the line of a silent host",
        "a | b",
        "b:lost+line,ok a:run+wait+wait+ok pause@lost:b resume@PAUSED",
        "do:a do:b run:a lost:b asked pausing wait:b ok:a PAUSED asked resumed do:b ok:b "
        "= SUCCEEDED",
    ),
    Row(
        "taken back, and cancelled while it waits",
        "a | b",
        "b:line,ok a:run+wait+ok pause@run:a cancel@PAUSED",
        "do:a do:b run:a asked pausing wait:b ok:a PAUSED asked turn stopped:b undo:a undone:a "
        "= COMPENSATED",
    ),
    Row(
        "S-B9 what was taken back is no failure: the budget counts on",
        "a | b:retry=2",
        "b:retriable,line,retriable,ok a:run+wait+wait+ok pause@do:b#2 resume@PAUSED",
        "do:a do:b run:a retry:b ok:a do:b asked pausing wait:b PAUSED asked resumed do:b fail:b "
        "turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "taken back, and skipped",
        "(a:pause | b); c",
        "b:line,ok a:fail resume+skip-b+skip-a@PAUSED",
        "do:a do:b fail:a pausing wait:b PAUSED asked resumed asked skip:b asked skip:a do:c ok:c "
        "= SUCCEEDED",
    ),
    # S-A1, S-R1: attempts in flight end by themselves.
    Row(
        "S-A1 S-R1 paused: nothing new is sent",
        "a; b",
        "a:run+wait+ok pause@run:a",
        "do:a run:a asked pausing ok:a PAUSED = PAUSED",
    ),
    Row(
        "S-A1 S-R4 S-R7 resumed without a word",
        "a; b",
        "a:run+wait+ok pause@run:a resume@PAUSED",
        "do:a run:a asked pausing ok:a PAUSED asked resumed do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-R1 paused once the last attempt has ended",
        "(a | b); c",
        "a:run+wait+ok b:run+wait+wait+ok pause@run:b resume@PAUSED",
        (
            "do:a do:b run:a run:b asked pausing ok:b ok:a PAUSED asked resumed do:c ok:c = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "S-A2 each successor starts once",
        "(a | b); (c | d)",
        "a:run+wait+ok b:run+wait+ok pause@run:b resume@PAUSED",
        (
            "do:a do:b run:a run:b asked pausing ok:b ok:a PAUSED asked resumed do:c do:d ok:c "
            "ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-A2 each successor starts once: after",
        "a; (b | c<b | d<b); e",
        "pause@do:a resume@PAUSED",
        (
            "do:a asked pausing ok:a PAUSED asked resumed do:b ok:b do:c do:d ok:c ok:d do:e ok:e "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "resumed before it was quiet",
        "a; b",
        "a:run+wait+ok pause@run:a resume@pausing",
        "do:a run:a asked pausing asked resumed ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "paused twice: refused",
        "a; b",
        "a:run+wait+ok pause@run:a pause@pausing",
        "do:a run:a asked pausing refused ok:a PAUSED = PAUSED",
    ),
    Row(
        "paused and resumed time and again",
        "a; b; c",
        "pause@do:a resume@PAUSED pause@do:b resume@PAUSED#2",
        (
            "do:a asked pausing ok:a PAUSED asked resumed do:b asked pausing ok:b PAUSED asked "
            "resumed do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "the last task ends while it is paused",
        "a",
        "a:run+wait+ok pause@run:a resume@PAUSED",
        "do:a run:a asked pausing ok:a PAUSED asked resumed = SUCCEEDED",
    ),
    Row(
        "an outcome is not known while it is paused",
        "a; b",
        "a:lost+wait+wait+ok pause@lost:a resume@PAUSED",
        "do:a lost:a asked pausing ok:a PAUSED asked resumed do:b ok:b = SUCCEEDED",
    ),
    # On transitions.
    Row(
        "S-A3 S-R2 pauses after a task",
        "a; b:hold; c",
        "resume@PAUSED",
        "do:a ok:a do:b ok:b pausing PAUSED asked resumed do:c ok:c = SUCCEEDED",
    ),
    Row(
        "S-A3 S-R2 pauses before a task",
        "a; b; c:before",
        "resume@PAUSED",
        "do:a ok:a do:b ok:b pausing PAUSED asked resumed do:c ok:c = SUCCEEDED",
    ),
    Row(
        "S-R2 pauses after a task, a sibling ends by itself",
        "a | (b:hold; c)",
        "a:run+wait+ok resume@PAUSED",
        "do:a do:b run:a ok:b pausing ok:a PAUSED asked resumed do:c ok:c = SUCCEEDED",
    ),
    Row(
        "pauses after the last task",
        "a; b:hold",
        "resume@PAUSED",
        "do:a ok:a do:b ok:b pausing PAUSED asked resumed = SUCCEEDED",
    ),
    Row(
        "pauses before the first task",
        "a:before; b",
        "resume@PAUSED",
        "pausing PAUSED asked resumed do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "pauses before and after each",
        "a:before:hold; b:before:hold",
        "resume@PAUSED resume@PAUSED#2 resume@PAUSED#3",
        (
            "pausing PAUSED asked resumed do:a ok:a pausing PAUSED asked resumed do:b ok:b "
            "pausing PAUSED asked resumed = SUCCEEDED"
        ),
    ),
    Row(
        "S-A5 both branches pause before: resumed once",
        "(a; b:before) | (c; d:before)",
        "resume@PAUSED",
        "do:a do:c ok:a pausing ok:c PAUSED asked resumed do:b do:d ok:b ok:d = SUCCEEDED",
    ),
    Row(
        "S-A5 both branches pause after: resumed once",
        "(a:hold; b) | (c:hold; d)",
        "resume@PAUSED",
        "do:a do:c ok:a pausing ok:c PAUSED asked resumed do:b do:d ok:b ok:d = SUCCEEDED",
    ),
    Row(
        "a task that pauses before it, its turn comes while it is paused: once",
        "a; b:before; c",
        "pause@do:a resume@PAUSED",
        "do:a asked pausing ok:a PAUSED asked resumed do:b ok:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "S-R3 pauses on a failure",
        "a; b:pause; c",
        "b:fail",
        "do:a ok:a do:b fail:b pausing PAUSED = PAUSED",
    ),
    Row(
        "S-R3 pauses on a failure, a sibling ends by itself",
        "(a:pause | b); c",
        "a:fail b:run+wait+ok",
        "do:a do:b fail:a pausing run:b ok:b PAUSED = PAUSED",
    ),
    Row(
        "a group pauses on a failure in it",
        "x(a; y(b | c)):pause; d",
        "b:fail c:run+wait+ok",
        "do:a ok:a do:b do:c fail:b pausing run:c ok:c PAUSED = PAUSED",
    ),
    Row(
        "S-F1 pauses on a failure only after its retries",
        "a:retry=2:pause; b",
        "a:retriable,fail",
        "do:a retry:a do:a fail:a pausing PAUSED = PAUSED",
    ),
    # Nesting.
    Row(
        "S-A6 a pause reaches every group, one resume revives all",
        "x(a; b) | y(c; d)",
        "a:run+wait+ok c:run+wait+ok pause@run:c resume@PAUSED",
        (
            "do:a do:c run:a run:c asked pausing ok:c ok:a PAUSED asked resumed do:b do:d ok:b "
            "ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-A8 each item of a fan-out follows",
        "g(x(a; b) | y(c; d)):fan; e",
        "a:run+wait+ok c:run+wait+ok pause@run:c resume@PAUSED",
        (
            "do:a do:c run:a run:c asked pausing ok:c ok:a PAUSED asked resumed do:b do:d ok:b "
            "ok:d do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "S-A9 a pause deep below is one of the whole",
        "x(a; y(b:before; c)); d",
        "",
        "do:a ok:a pausing PAUSED = PAUSED",
    ),
    # What waits.
    Row(
        "a retry waits: not sent",
        "a:retry=2; b",
        "a:retriable,ok pause@retry:a resume@PAUSED",
        "do:a retry:a asked pausing PAUSED asked resumed do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "a failure that may be retried: after the resume",
        "a:retry=2; b",
        "a:run+wait+retriable,ok pause@run:a resume@PAUSED",
        "do:a run:a asked pausing retry:a PAUSED asked resumed do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "a wait before",
        "a; b:wait=5; c",
        "pause@wait:b resume@PAUSED",
        "do:a ok:a wait:b asked pausing PAUSED asked resumed do:b ok:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "a wait after",
        "a:rest=5; b",
        "pause@ok:a resume@PAUSED",
        "do:a ok:a asked pausing PAUSED asked resumed do:b ok:b = SUCCEEDED",
    ),
    Row(
        "a host is looked for",
        "a; b:any",
        "pause@ok:a resume@PAUSED",
        "do:a ok:a wait:b asked pausing PAUSED asked resumed do:b ok:b = SUCCEEDED",
    ),
    Row(
        "a host was found meanwhile",
        "a:any; b",
        "pause@wait:a resume@PAUSED",
        "wait:a asked pausing PAUSED asked resumed do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "a place in a bounded group",
        "g(a | b | c):max=1; d",
        "pause@do:a resume@PAUSED",
        "do:a asked pausing ok:a PAUSED asked resumed do:b ok:b do:c ok:c do:d ok:d = SUCCEEDED",
    ),
    Row(
        "a group without members",
        "a; g():fan; d",
        "pause@do:a resume@PAUSED",
        "do:a asked pausing ok:a PAUSED asked resumed do:d ok:d = SUCCEEDED",
    ),
    Row(
        "a group of groups without members",
        "a; x(g():fan | h():fan); d",
        "pause@do:a resume@PAUSED",
        "do:a asked pausing ok:a PAUSED asked resumed do:d ok:d = SUCCEEDED",
    ),
    Row(
        "a group whose condition does not hold",
        "a; g(b; c):when=input.no; d",
        "pause@do:a resume@PAUSED",
        (
            "do:a asked pausing ok:a PAUSED asked resumed skipped:g skip:b skip:c do:d ok:d = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "a quorum that has passed",
        "g(a | b | c):min=1; d",
        "a:ok b:run+wait+ok c:run+wait+ok pause@do:d resume@PAUSED",
        (
            "do:a do:b do:c ok:a do:d asked pausing run:b run:c ok:d ok:b ok:c PAUSED asked "
            "resumed = SUCCEEDED"
        ),
    ),
    # Failures while it is paused stay open, whatever their policy says.
    Row(
        "S-R23 S-R13 fails while it pauses: a decision is needed",
        "a; b",
        "a:run+wait+fail,ok pause@run:a resume@PAUSED resume+rerun-a@refused",
        (
            "do:a run:a asked pausing fail:a PAUSED refused asked resumed asked again:a do:a ok:a "
            "do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "fails after its outcome was unknown",
        "a; b",
        "a:run+wait+lost+wait+fail,ok pause@run:a resume+rerun-a@PAUSED",
        (
            "do:a run:a asked pausing lost:a fail:a PAUSED asked resumed asked again:a do:a ok:a "
            "do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "an optional task fails while it pauses: nobody need decide",
        "a:ignore; b",
        "a:run+wait+fail pause@run:a resume@PAUSED",
        "do:a run:a asked pausing fail:a PAUSED asked resumed do:b ok:b = SUCCEEDED",
    ),
    # Cancelled.
    Row(
        "cancelled while it pauses",
        "a; b",
        "a:run+wait+ok pause@run:a cancel@pausing",
        "do:a run:a asked pausing asked turn cancel:a stopped:a = COMPENSATED",
    ),
    Row(
        "cancelled when it is paused",
        "a; b; c",
        "pause@do:b cancel@PAUSED",
        (
            "do:a ok:a do:b asked pausing ok:b PAUSED asked turn undo:b undone:b undo:a undone:a "
            "= COMPENSATED"
        ),
    ),
    Row(
        "cancelled when it is paused by a failure",
        "a; b:pause; c",
        "b:fail cancel@PAUSED",
        "do:a ok:a do:b fail:b pausing PAUSED asked turn undo:a undone:a = COMPENSATED",
    ),
    # Compensations.
    Row(
        "S-Z16 a pause does not hold compensations: refused",
        "a; b; c",
        "c:fail pause@turn",
        (
            "do:a ok:a do:b ok:b do:c fail:c turn undo:b refused undone:b undo:a undone:a = "
            "COMPENSATED"
        ),
    ),
    Row(
        "unless it says so",
        "a; b; c",
        "c:fail pause-all@turn",
        "do:a ok:a do:b ok:b do:c fail:c turn undo:b asked pausing undone:b PAUSED = PAUSED",
    ),
    Row(
        "held compensations go on when resumed",
        "a; b; c",
        "c:fail pause-all@turn resume@PAUSED",
        (
            "do:a ok:a do:b ok:b do:c fail:c turn undo:b asked pausing undone:b PAUSED asked turn "
            "undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "held, and resumed before it was quiet",
        "a; b",
        "b:fail undo-a:run+wait+ok pause-all@undo:a resume@pausing",
        "do:a ok:a do:b fail:b turn undo:a asked pausing asked turn undone:a = COMPENSATED",
    ),
    Row(
        "held between tries",
        "a; b",
        "b:fail undo-a:retriable,ok pause-all@un-fail:a resume@PAUSED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a asked pausing PAUSED asked turn undo:a "
            "undone:a = COMPENSATED"
        ),
    ),
    Row(
        "held when BLOCKED",
        "a; b",
        "b:fail undo-a:fail,ok pause-all@BLOCKED resume@PAUSED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED asked pausing PAUSED "
            "asked turn BLOCKED undo:a undone:a freed = COMPENSATED"
        ),
    ),
    Row(
        "held, and its outcome is not known",
        "a; b",
        "b:fail undo-a:lost+wait+wait+ok pause-all@un-lost:a resume@PAUSED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-lost:a asked pausing undone:a PAUSED asked turn "
            "= COMPENSATED"
        ),
    ),
    Row(
        "held while siblings are cancelled",
        "a | b",
        "a:run+fail b:run+hang/wait+wait+cancelled pause-all@turn resume@PAUSED",
        (
            "do:a do:b run:a fail:a turn cancel:b asked pausing stopped:b PAUSED asked turn = "
            "COMPENSATED"
        ),
    ),
    Row(
        "the group's compensations go on while the rest is paused",
        "g(a; b; c):group; d",
        "c:fail undo-b:wait+ok pause@compensating:g resume@PAUSED",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:g undo:b asked pausing undone:b undo:a "
            "undone:a compensated:g PAUSED asked resumed do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "the group's compensations are held as well",
        "g(a; b; c):group; d",
        "c:fail undo-b:wait+ok pause-all@compensating:g resume@PAUSED",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:g undo:b asked pausing undone:b PAUSED "
            "asked resumed undo:a undone:a compensated:g do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "another round begins only when resumed",
        "g(a; b):rounds=2; d",
        "b:fail,ok undo-a:wait+ok pause@compensating:g resume@PAUSED",
        (
            "do:a ok:a do:b fail:b compensating:g undo:a asked pausing undone:a forward:g again:a "
            "again:b PAUSED asked resumed do:a ok:a do:b ok:b do:d ok:d = SUCCEEDED"
        ),
    ),
    # Ends and refusals.
    Row("S-A11 succeeded", "a", "pause@end resume@end", "do:a ok:a refused refused = SUCCEEDED"),
    Row(
        "S-A11 compensated",
        "a; b",
        "b:fail pause@end resume@end",
        "do:a ok:a do:b fail:b turn undo:a undone:a refused refused = COMPENSATED",
    ),
    Row(
        "S-A11 compensating",
        "a; b",
        "b:fail resume@turn",
        "do:a ok:a do:b fail:b turn undo:a refused undone:a = COMPENSATED",
    ),
    Row("S-A11 not paused", "a; b", "resume@do:a", "do:a refused ok:a do:b ok:b = SUCCEEDED"),
    Row(
        "S-Z16 no pause stops end actions",
        "a => s",
        "s:run+wait+ok pause@ending",
        "do:a ok:a ending do:s refused run:s ok:s = SUCCEEDED",
    ),
    Row(
        "paused before its end actions",
        "a:hold => s",
        "resume@PAUSED",
        "do:a ok:a pausing PAUSED asked resumed ending do:s ok:s = SUCCEEDED",
    ),
    # Past a pivot.
    Row(
        "past a pivot",
        "a; b:pivot; c",
        "pause@do:b resume@PAUSED",
        "do:a ok:a do:b asked pausing ok:b PAUSED asked resumed do:c ok:c = SUCCEEDED",
    ),
    Row(
        "paused when BLOCKED, a decision is needed",
        "a; b:pivot; c:forward",
        "c:fail,ok pause@BLOCKED resume@PAUSED resume+rerun-c@refused",
        (
            "do:a ok:a do:b ok:b do:c retry:c BLOCKED asked pausing PAUSED refused asked resumed "
            "asked do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "paused when BLOCKED, cannot be cancelled",
        "a; b:pivot; c:forward",
        "c:fail,ok pause@BLOCKED cancel@PAUSED resume+skip-c@refused",
        (
            "do:a ok:a do:b ok:b do:c retry:c BLOCKED asked pausing PAUSED refused asked resumed "
            "asked skip:c = SUCCEEDED"
        ),
    ),
    Row(
        "S-A5 one branch pauses before, the other has nothing to do",
        "(a; b:before) | (c; d:before:when=input.no; e)",
        "resume@PAUSED",
        "do:a do:c ok:a pausing ok:c PAUSED asked resumed do:b skip:d do:e ok:b ok:e = SUCCEEDED",
    ),
    Row(
        "what follows a skipped task pauses before",
        "a; b:pause; c:before; d",
        "b:fail resume+skip-b@PAUSED resume@PAUSED#2",
        (
            "do:a ok:a do:b fail:b pausing PAUSED asked resumed asked skip:b pausing PAUSED asked "
            "resumed do:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_new_owners_tell_the_same_story(row: Row):
    tells_the_same_under_new_owners(row)


def inbound(told: Play, name: str) -> list[list[object]]:
    """Returns the values that came into each attempt of a task."""
    task = told.workflow.task(told.workflow.plan.by_name[name])
    return [[each.value for each in attempt.inbound] for attempt in task.attempts]


def test_it_says_who_paused_and_why():
    """S-A9, S-R22."""
    told = play("a; b", "pause@do:a")
    pause = told.workflow.pause
    assert pause is not None
    assert (pause.verb, pause.principal, pause.reason) == ("pause", "eve", "because")


@pytest.mark.parametrize(
    ("text", "setup", "verb", "reason"),
    [
        pytest.param("x(a; b:before)", "", "pause-before", "b", id="before"),
        pytest.param("x(a; b:hold); c", "", "pause-on-success", "b", id="on-success"),
        pytest.param("x(a; b:pause); c", "b:fail", "on-failure", "b", id="on-failure"),
    ],
)
def test_it_says_which_policy_paused_and_at_which_task(
    text: str, setup: str, verb: str, reason: str
):
    """S-A9: however deep below it stands."""
    told = play(text, setup)
    pause = told.workflow.pause
    assert pause is not None
    assert (pause.verb, pause.principal, pause.reason) == (verb, "policy", reason)


def test_a_resumed_workflow_is_not_held_any_more():
    told = play("a; b", "pause@do:a resume@PAUSED b:hang")
    assert told.workflow.pause is None
    assert not told.workflow.compensation_held


def test_what_was_changed_at_a_pause_holds_for_what_follows():
    """S-A4: b and c see the new input; a, which has finished, keeps what it was given."""
    told = play(
        "a:takes=input.size; b:before:takes=input.size; c:takes=input.size",
        "resume+input/size=9@PAUSED",
    )
    assert told.workflow.state is WorkflowState.SUCCEEDED
    assert [inbound(told, name) for name in "abc"] == [[[7]], [[9]], [[9]]]
    assert told.workflow.about.input["size"] == 7


def test_a_changed_input_says_who_changed_it_and_what_it_replaced():
    """S-A4, S-R17: the origin of the value is kept with it."""
    told = play("a; b:before:takes=input.size", "resume+input/size=9@PAUSED")
    (value,) = told.workflow.task(told.workflow.plan.by_name["b"]).last.inbound
    assert (value.value, value.previous, value.principal) == (9, 7, "eve")
    assert value.origin == "input.size"
    assert value.time is not None


def test_the_task_before_which_it_paused_may_be_given_other_values():
    """S-A4: only that task sees them."""
    told = play("a; b:before:takes=a.image; c:takes=a.image", "resume+rerun-b/image=other@PAUSED")
    assert (inbound(told, "b"), inbound(told, "c")) == ([["other"]], [["a.1"]])


def test_what_was_refused_for_its_version_is_told_so():
    """I7: whoever saw an earlier version changes nothing."""
    told = Play(script=script("a:run+hang"))
    told.begin(tree("a; b"))
    seen = told.workflow.version
    told.run()
    old = events.Ask(principal="eve", reason="because", request_id="r", version=seen)
    decision = told.perform(PauseRequested(ask=old))
    assert decision.refusal is not None
    assert decision.refusal.outdated
    now = events.Ask(
        principal="eve", reason="because", request_id="r", version=told.workflow.version
    )
    assert told.perform(PauseRequested(ask=now)).refusal is None


@pytest.mark.parametrize(
    ("text", "setup", "state"),
    [
        pytest.param("a", "", WorkflowState.SUCCEEDED, id="succeeded"),
        pytest.param("a; b", "b:fail", WorkflowState.COMPENSATED, id="compensated"),
        pytest.param("a; b:stop", "b:fail", WorkflowState.FAILED, id="failed"),
        pytest.param("a; b", "b:fail undo-a:hang", WorkflowState.COMPENSATING, id="compensating"),
        pytest.param("a => s", "s:hang", WorkflowState.ENDING, id="ending"),
    ],
)
def test_a_refusal_names_the_state_and_those_that_would_do(
    text: str, setup: str, state: WorkflowState
):
    """S-A11, S-R5."""
    told = play(text, setup)
    assert told.workflow.state is state
    pause = told.perform(PauseRequested(ask=ASK)).refusal
    resume = told.perform(ResumeRequested(ask=ASK)).refusal
    assert pause is not None
    assert resume is not None
    assert pause.state is resume.state is state
    if not told.workflow.settled:
        assert WorkflowState.RUNNING in pause.allowed
        assert set(resume.allowed) == {WorkflowState.PAUSING, WorkflowState.PAUSED}


def test_timers_that_fire_while_it_is_paused_start_nothing_and_are_set_again():
    """S-H8: a timer that came for nothing is asked for again by the resume."""
    told = Play(script=script("a:retriable"))
    told.begin(tree("a:retry=2"))
    told.step()
    told.perform(PauseRequested(ask=ASK))
    (timer,) = told.timers
    assert told.perform(TimerFired(timer=Timer.DUE, task=1, number=2)).empty
    told.timers.clear()
    told.perform(ResumeRequested(ask=ASK))
    assert told.timers == [timer]


def test_a_host_that_is_found_while_it_is_paused_starts_nothing():
    """S-A1: it is looked for again by the resume."""
    told = Play(script=script(""), hosts=())
    told.begin(tree("a:any"))
    told.perform(PauseRequested(ask=ASK))
    (choice,) = told.choices
    chosen = events.HostChosen(task=1, number=1, host="x")
    assert told.perform(chosen).empty
    told.choices.clear()
    told.perform(ResumeRequested(ask=ASK))
    assert told.choices == [choice]


def test_a_pause_that_holds_compensations_still_fences_what_may_be_on_its_way():
    """S-Z16: a tombstone is no effect undone; without it the pause would never be complete."""
    told = Play(script=script("b:fail a:hang/hang undo-a:hang"))
    told.begin(tree("a | b"))
    told.run()
    told.perform(PauseRequested(ask=ASK, hold_compensation=True))
    told.perform(report("missing", 1, 1))
    assert told.workflow.task(1).state is TaskState.COMPENSATING
    told.perform(report("ok", 1, 2))
    decision = told.perform(ResumeRequested(ask=ASK))
    assert decision.workflow.state is WorkflowState.COMPENSATED


def test_the_failure_is_shown_at_once():
    """S-R3: while the sibling still runs."""
    told = play("(a:pause | b); c", "a:fail b:hang")
    assert told.workflow.state is WorkflowState.PAUSING
    task = told.workflow.task(told.workflow.plan.by_name["a"])
    assert task.state is TaskState.FAILED
    assert task.needs_decision
    assert task.failure is not None


def test_one_intervention_is_written_down_with_who_and_why():
    """S-R22, I13."""
    told = Play(script=script(""))
    told.begin(tree("a:hold; b"))
    told.run()
    decision = told.perform(ResumeRequested(ask=ASK))
    facts = [e.fact for e in decision.history if isinstance(e.fact, history.Intervened)]
    assert facts == [
        history.Intervened(verb="resume", principal="eve", reason="because", request_id="r")
    ]


def test_a_workflow_that_is_held_for_days_asks_for_nothing_but_its_deadline():
    told = play("a; b", "pause@do:a")
    told.time += timedelta(days=3)
    assert list(outstanding(told.workflow)) == []
