"""Policies of tasks and groups: what a failure makes of its group, conditions, waits, hosts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from coordinator.saga.commands import ChooseHost
from coordinator.saga.spec import Condition, GroupKind, GroupRules, GroupSpec, OnFailure, TaskSpec
from coordinator.saga.states import Effect, TaskState, WorkflowState
from tests.saga.language import Play, play, script, tree
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    # Only what was done recovers.
    Row(
        "recovery tasks that do not apply recover nothing",
        "a; g(b){r:when=input.no}:recover; c",
        "b:fail",
        "do:a ok:a do:b fail:b recovering:g skip:r turn forward:g undo:a undone:a = COMPENSATED",
    ),
    Row(
        "nor do optional ones that all fail",
        "a; g(b){r:ignore}:recover; c",
        "b:fail r:fail",
        (
            "do:a ok:a do:b fail:b recovering:g do:r fail:r turn forward:g undo:a undone:a "
            "= COMPENSATED"
        ),
    ),
    # Optional work.
    Row(
        "S-V17 an optional step fails",
        "a; b:ignore; c",
        "b:fail",
        "do:a ok:a do:b fail:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "S-V17 beside others",
        "a | b:ignore | c",
        "b:fail",
        "do:a do:b do:c ok:a fail:b ok:c = SUCCEEDED",
    ),
    Row("S-V17 the last", "a; b:ignore", "b:fail", "do:a ok:a do:b fail:b = SUCCEEDED"),
    Row(
        "S-V17 after its retries",
        "a; b:ignore:retry=2; c",
        "b:retriable,retriable",
        "do:a ok:a do:b retry:b do:b fail:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "optional, and another needs its output: that one fails",
        "a; b:ignore; c:takes=b.image",
        "b:fail",
        "do:a ok:a do:b fail:b fail:c turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "what comes after an optional failure is made up for without it",
        "a; b:ignore; c",
        "b:fail c:fail",
        "do:a ok:a do:b fail:b do:c fail:c turn undo:a undone:a = COMPENSATED",
    ),
    # Stop: what was done is kept.
    Row("stopped", "a; b:stop; c", "b:fail", "do:a ok:a do:b fail:b ending = FAILED"),
    Row(
        "stopped: those beside it are cancelled",
        "(a | b:stop | c); d",
        "b:fail a:run+wait+ok c:hang",
        "do:a do:b do:c run:a fail:b ending cancel:a cancel:c stopped:a stopped:c = FAILED",
    ),
    Row(
        "stopped: those beside it are awaited",
        "(a:await | b:stop); d",
        "b:fail a:run+wait+ok",
        "do:a do:b run:a fail:b ending ok:a = FAILED",
    ),
    Row("stopped at once", "a:stop", "a:fail", "do:a fail:a ending = FAILED"),
    Row(
        "stop is for what fails for good",
        "a; b:stop:retry=2; c",
        "b:retriable,ok",
        "do:a ok:a do:b retry:b do:b ok:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "stopped: what may be on its way is fenced",
        "(a | b:stop); c",
        "b:fail a:hang/missing",
        "do:a do:b fail:b ending cancel:a lost:a undo:a undone:a = FAILED",
    ),
    Row(
        "stopped beside a group that was made up for",
        "(x(a; b):group | c:stop); d",
        "b:fail c:run+wait+wait+wait+fail",
        (
            "do:c do:a run:c ok:a do:b fail:b compensating:x undo:a undone:a compensated:x fail:c "
            "ending = FAILED"
        ),
    ),
    Row(
        "stopped while a group is made up for: that goes on",
        "(x(a; b):group | c:stop); d",
        "b:fail undo-a:wait+ok c:run+wait+fail",
        (
            "do:c do:a run:c ok:a do:b fail:b compensating:x undo:a undone:a compensated:x fail:c "
            "ending = FAILED"
        ),
    ),
    # Recovery.
    Row(
        "recovered",
        "g(a; b){r}:recover; c",
        "b:fail",
        "do:a ok:a do:b fail:b recovering:g do:r ok:r recovered:g do:c ok:c = SUCCEEDED",
    ),
    Row(
        "S-R10 no recovery needed: its tasks are skipped",
        "g(a; b){r}:recover; c",
        "",
        "do:a ok:a do:b ok:b skip:r do:c ok:c = SUCCEEDED",
    ),
    Row(
        "recovered by several, in their order",
        "g(a; b){r; s}:recover; c",
        "b:fail",
        (
            "do:a ok:a do:b fail:b recovering:g do:r ok:r do:s ok:s recovered:g do:c ok:c = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "S-R10 a recovery that fails closes nothing",
        "g(a; b){r}:recover; c",
        "b:fail r:fail",
        (
            "do:a ok:a do:b fail:b recovering:g do:r fail:r turn forward:g undo:a undone:a = "
            "COMPENSATED"
        ),
    ),
    Row(
        "a recovery is retried",
        "g(a; b){r:retry=2}:recover; c",
        "b:fail r:retriable,ok",
        (
            "do:a ok:a do:b fail:b recovering:g do:r retry:r do:r ok:r recovered:g do:c ok:c = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "a recovery waits until those beside the failure have stopped",
        "g(a | b){r}:recover; c",
        "b:fail a:run+wait+ok",
        (
            "do:a do:b run:a fail:b recovering:g cancel:a stopped:a do:r ok:r recovered:g do:c "
            "ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "a recovery waits for those that are awaited",
        "g(a | b:await){r}:recover; c",
        "a:fail b:run+wait+ok",
        "do:a do:b fail:a recovering:g run:b ok:b do:r ok:r recovered:g do:c ok:c = SUCCEEDED",
    ),
    Row(
        "a recovery in another that is overtaken by that",
        "h(g(a; b){r}:recover | c){s}:recover; d",
        "a:fail r:run+hang/cancelled c:run+wait+wait+wait+fail d:fail",
        (
            "do:c do:a run:c fail:a recovering:g do:r run:r fail:c recovering:h cancel:r stopped:r "
            "do:s ok:s recovered:h do:d fail:d turn forward:g undo:s undone:s = COMPENSATED"
        ),
    ),
    Row(
        "a recovery in another that ends well although it was to stop",
        "h(g(a; b){r}:recover | c){s}:recover",
        "a:fail r:run+hang/ok c:run+wait+wait+wait+fail",
        (
            "do:c do:a run:c fail:a recovering:g do:r run:r fail:c recovering:h cancel:r ok:r do:s "
            "ok:s recovered:h = SUCCEEDED"
        ),
    ),
    Row(
        "a recovery waits until what may be on its way is fenced",
        "g(a | b){r}:recover; c",
        "b:fail a:hang/missing",
        (
            "do:a do:b fail:b recovering:g cancel:a lost:a undo:a undone:a do:r ok:r recovered:g "
            "do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "recovered, then made up for with all the rest",
        "g(a; b){r}:recover; c",
        "b:fail c:fail",
        (
            "do:a ok:a do:b fail:b recovering:g do:r ok:r recovered:g do:c fail:c turn undo:r "
            "undone:r undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "a nearer policy comes first",
        "g(a; b:pause){r}:recover; c",
        "b:fail",
        "do:a ok:a do:b fail:b pausing PAUSED = PAUSED",
    ),
    Row(
        "an inner group is made up for, an outer one recovered",
        "g(a; x(b; d):group; e){r}:recover; c",
        "d:fail e:fail",
        (
            "do:a ok:a do:b ok:b do:d fail:d compensating:x undo:b undone:b compensated:x do:e "
            "fail:e recovering:g do:r ok:r recovered:g do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "a recovery is cancelled",
        "g(a; b){r}:recover; c",
        "b:fail r:run+wait+ok cancel@run:r",
        (
            "do:a ok:a do:b fail:b recovering:g do:r run:r asked turn forward:g cancel:r "
            "stopped:r undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "S-R10 a recovery is paused and resumed",
        "g(a; b){r}:recover; c",
        "b:fail pause@recovering:g resume@PAUSED",
        (
            "do:a ok:a do:b fail:b recovering:g do:r asked pausing ok:r recovered:g PAUSED asked "
            "resumed do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "a recovery leaves a value",
        "g(a; b){r}:recover; c:takes=r.image",
        "b:fail",
        "do:a ok:a do:b fail:b recovering:g do:r ok:r recovered:g do:c ok:c = SUCCEEDED",
    ),
    # Only a group is made up for.
    Row(
        "only the group",
        "x(a; b):group; c",
        "b:fail",
        (
            "do:a ok:a do:b fail:b compensating:x undo:a undone:a compensated:x do:c ok:c = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "only the group, and it is the last",
        "a; x(b; c):group",
        "c:fail",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:x undo:b undone:b compensated:x = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "the group that says so, from deep below",
        "x(a; y(b; c); d):group; e",
        "c:fail",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:x undo:b undone:b undo:a undone:a "
            "compensated:x do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "the nearest group that says so",
        "x(a; y(b; c):group; d):group; e",
        "c:fail",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:y undo:b undone:b compensated:y do:d "
            "ok:d do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "one group in the other, then the other",
        "x(a; y(b; c):group; d):group; e",
        "c:fail d:fail",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:y undo:b undone:b compensated:y do:d "
            "fail:d compensating:x undo:a undone:a compensated:x do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "a task says so: its own group",
        "x(a; b:group); c",
        "b:fail",
        (
            "do:a ok:a do:b fail:b compensating:x undo:a undone:a compensated:x do:c ok:c = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "a task of the root says so: that is all",
        "a; b:group; c",
        "b:fail",
        "do:a ok:a do:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "others go on beside it",
        "(x(a; b):group | y(c; d)); e",
        "b:fail undo-a:run+wait+ok d:run+wait+ok",
        (
            "do:a do:c ok:a do:b ok:c do:d fail:b compensating:x undo:a run:d undone:a "
            "compensated:x ok:d do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "overtaken by a failure beside it",
        "(x(a; b):group | y(c; d)); e",
        "b:fail undo-a:run+wait+ok d:run+fail",
        (
            "do:a do:c ok:a do:b ok:c do:d fail:b compensating:x undo:a run:d fail:d turn "
            "forward:x undo:c undone:c undone:a = COMPENSATED"
        ),
    ),
    Row(
        "those in the group are cancelled",
        "x(a | b):group; e",
        "b:fail a:run+wait+ok",
        (
            "do:a do:b run:a fail:b compensating:x cancel:a stopped:a compensated:x do:e ok:e = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "those in the group are awaited",
        "x(a | b:await):group; e",
        "a:fail b:run+wait+ok",
        (
            "do:a do:b fail:a compensating:x run:b ok:b undo:b undone:b compensated:x do:e ok:e = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "what is bound to a group made up for fails",
        "x(a; b):group; e:takes=a.image",
        "b:fail",
        (
            "do:a ok:a do:b fail:b compensating:x undo:a undone:a compensated:x fail:e turn = "
            "COMPENSATED"
        ),
    ),
    Row(
        "BLOCKED for a group, then freed",
        "x(a; b):group; e",
        "b:fail undo-a:fail,ok",
        (
            "do:a ok:a do:b fail:b compensating:x undo:a un-fail:a stuck:a BLOCKED undo:a "
            "undone:a compensated:x do:e freed ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "BLOCKED for a group: cancelled",
        "x(a; b):group; e",
        "b:fail undo-a:fail,ok cancel@BLOCKED",
        (
            "do:a ok:a do:b fail:b compensating:x undo:a un-fail:a stuck:a BLOCKED asked freed "
            "forward:x BLOCKED undo:a undone:a freed = COMPENSATED"
        ),
    ),
    Row(
        "made up for in a group, then the workflow fails: not again",
        "x(a; b):group; e",
        "b:fail e:fail",
        (
            "do:a ok:a do:b fail:b compensating:x undo:a undone:a compensated:x do:e fail:e turn "
            "= COMPENSATED"
        ),
    ),
    # Conditions.
    Row(
        "a condition that holds",
        "a; b:when=input.size; c",
        "",
        "do:a ok:a do:b ok:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "a condition that does not hold",
        "a; b:when=input.no; c",
        "",
        "do:a ok:a skip:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "a condition on nothing",
        "a; b:when=input.nothing; c",
        "",
        "do:a ok:a skip:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "a condition on an output",
        "a; b:when=a.image; c",
        "",
        "do:a ok:a do:b ok:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "a group whose condition does not hold",
        "a; g(b; (c | e)):when=input.no; d",
        "",
        "do:a ok:a skipped:g skip:b skip:c skip:e do:d ok:d = SUCCEEDED",
    ),
    Row(
        "a group whose condition holds",
        "a; g(b | c):when=input.size; d",
        "",
        "do:a ok:a do:b do:c ok:b ok:c do:d ok:d = SUCCEEDED",
    ),
    Row("nothing to do at all", "g(b; c):when=input.no", "", "skipped:g skip:b skip:c = SUCCEEDED"),
    Row(
        "conditions on states",
        "a; b:when=input.no; c:when=b.SKIPPED; d:when=b.SUCCEEDED",
        "",
        "do:a ok:a skip:b do:c ok:c skip:d = SUCCEEDED",
    ),
    Row(
        "a condition on a failure",
        "a; b:ignore; c:when=b.FAILED; d:when=b.SUCCEEDED",
        "b:fail",
        "do:a ok:a do:b fail:b do:c ok:c skip:d = SUCCEEDED",
    ),
    Row(
        "bound to what was skipped: fails before anything is sent",
        "a; b:when=input.no; c:takes=b.image",
        "",
        "do:a ok:a skip:b fail:c turn undo:a undone:a = COMPENSATED",
    ),
    # Retries.
    Row(
        "S-F1 as many attempts as allowed, then it fails",
        "a; b:retry=3; c",
        "b:retriable,retriable,retriable",
        "do:a ok:a do:b retry:b do:b retry:b do:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "S-F1 a failure that no retry helps ends them",
        "a; b:retry=3; c",
        "b:retriable,fail",
        "do:a ok:a do:b retry:b do:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "S-F5 fails before a task of the list: that never starts",
        "a; b; c",
        "b:fail",
        "do:a ok:a do:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    # Waits.
    Row("waits before", "a; b:wait=5; c", "", "do:a ok:a wait:b do:b ok:b do:c ok:c = SUCCEEDED"),
    Row("waits after", "a:rest=5; b", "", "do:a ok:a do:b ok:b = SUCCEEDED"),
    Row(
        "waits before the first attempt only",
        "a; b:wait=5:rest=5:retry=2; c",
        "b:retriable,ok",
        "do:a ok:a wait:b do:b retry:b do:b ok:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "a wait before is over at once when another fails",
        "a:wait=5 | b",
        "b:run+fail",
        "wait:a do:b run:b fail:b turn stopped:a = COMPENSATED",
    ),
    Row(
        "a wait after is over at once when another fails",
        "a:rest=5 | b",
        "b:run+wait+fail",
        "do:a do:b ok:a run:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "S-V19 cancelled while it waits after",
        "a:rest=5; b",
        "cancel@ok:a",
        "do:a ok:a asked turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "S-V19 cancelled while it waits before",
        "a:wait=5",
        "cancel@wait:a",
        "wait:a asked turn stopped:a = COMPENSATED",
    ),
    # Start timeouts.
    Row(
        "S-V21 not in a journal in time: stopped, and only then failed",
        "a:late=9; b",
        "a:hang/cancelled",
        "do:a cancel:a fail:a turn = COMPENSATED",
    ),
    Row(
        "S-V21 not in a journal in time: stopped, and retried",
        "a:late=9:retry=2; b",
        "a:hang/cancelled,ok",
        "do:a cancel:a retry:a do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-V21 S-V5 nobody knows: fenced, and only then retried",
        "a:late=9:retry=2; b",
        "a:hang/missing,ok",
        "do:a cancel:a lost:a undo:a retry:a do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-V21 its tombstone needs an operator",
        "a:late=9:retry=2; b",
        "a:hang/missing,ok undo-a:fail,ok",
        (
            "do:a cancel:a lost:a undo:a un-fail:a stuck:a BLOCKED undo:a retry:a freed do:a ok:a "
            "do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "S-V21 its tombstone needs an operator, and it was its only try",
        "a:late=9; b",
        "a:hang/missing undo-a:fail,ok",
        "do:a cancel:a lost:a undo:a un-fail:a stuck:a BLOCKED undo:a fail:a freed = COMPENSATED",
    ),
    Row(
        "S-G10 what it takes was made up for before its retry: it fails, and nothing is sent",
        "g(x(a; c) | e):min=1; b:takes=a.image:retry=2",
        "c:run+hang e:wait+ok b:retriable say-c.1-fail@retry:b",
        (
            "do:e do:a ok:a do:c run:c ok:e do:b retry:b fail:c compensating:x undo:a undone:a "
            "failed:x fail:b turn undo:e undone:e = COMPENSATED"
        ),
    ),
    Row(
        "S-F2 in a journal in time disarms the timer",
        "a:late=9; b",
        "a:run+wait+ok",
        "do:a run:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-F2 the stop comes too late: it succeeded",
        "a:late=9; b",
        "a:hang/ok",
        "do:a cancel:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-F2 the stop comes too late: it failed",
        "a:late=9; b",
        "a:hang/fail",
        "do:a cancel:a fail:a turn = COMPENSATED",
    ),
    Row(
        "lost before it was accepted: stopped in time",
        "a:late=9:retry=2; b",
        "a:lost+hang/missing,ok",
        "do:a lost:a cancel:a lost:a undo:a retry:a do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "no host in time: fails, and nothing was sent",
        "a; b:late=9:on=q; c",
        "",
        "do:a ok:a wait:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "no host in time is no retry",
        "a:late=9:on=q:retry=9",
        "",
        "wait:a fail:a turn = COMPENSATED",
    ),
    Row(
        "a host in time, but no journal",
        "a:late=9:any:retry=2; b",
        "a:hang/missing,ok",
        "wait:a do:a cancel:a lost:a undo:a retry:a wait:a do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "cancelled while it is being fenced",
        "a:late=9:retry=2 | b",
        "a:hang/missing undo-a:run+wait+wait+wait+ok cancel@undo:a",
        "do:a do:b ok:b cancel:a lost:a undo:a asked turn undo:b undone:b undone:a = COMPENSATED",
    ),
    # Hosts.
    Row("S-G7 the first of its hosts", "a:on=x+y; b", "", "wait:a do:a ok:a do:b ok:b = SUCCEEDED"),
    Row(
        "S-G7 another host after a failure",
        "a:on=x+y:retry=2; b",
        "a:retriable,ok",
        "wait:a do:a retry:a wait:a do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-G7 the first again once all have failed",
        "a:on=x+y:retry=3; b",
        "a:retriable,retriable,ok",
        "wait:a do:a retry:a wait:a do:a retry:a wait:a do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-G7 any host, another after a failure",
        "a:any:retry=2; b",
        "a:retriable,ok",
        "wait:a do:a retry:a wait:a do:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "S-G7 in another round on another host",
        "g(a:on=x+y; c):rounds=2; b",
        "a:fail,ok",
        (
            "wait:a do:a fail:a compensating:g forward:g again:a again:c wait:a do:a ok:a do:c "
            "ok:c do:b ok:b = SUCCEEDED"
        ),
    ),
    Row("S-G7 no host yet: it waits", "a; b:on=q", "", "do:a ok:a wait:b = RUNNING"),
    Row(
        "S-V19 no host yet: cancelled",
        "a; b:on=q",
        "cancel@wait:b",
        "do:a ok:a wait:b asked turn stopped:b undo:a undone:a = COMPENSATED",
    ),
    Row(
        "S-F1 what was fenced counts against the budget",
        "a:late=9:retry=2; b",
        "a:hang/missing,hang/missing,ok",
        (
            "do:a cancel:a lost:a undo:a retry:a do:a cancel:a lost:a undo:a fail:a turn = "
            "COMPENSATED"
        ),
    ),
    Row(
        "S-F1 one try only: fenced, and failed",
        "a; b:late=9",
        "b:hang/lost+missing",
        "do:a ok:a do:b cancel:b lost:b undo:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "S-F1 compensations that fence do not",
        "a:late=9:retry=2; b",
        "a:hang/missing,ok undo-a:retriable,retriable,retriable",
        (
            "do:a cancel:a lost:a undo:a un-fail:a undo:a un-fail:a undo:a un-fail:a undo:a "
            "retry:a do:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_new_owners_tell_the_same_story(row: Row):
    tells_the_same_under_new_owners(row)


def hosts(told: Play, name: str) -> list[str]:
    """Returns the hosts of a task's attempts."""
    task = told.workflow.task(told.workflow.plan.by_name[name])
    return [attempt.host for attempt in task.attempts]


def test_a_retry_goes_to_another_host_while_there_is_one():
    """S-G7: then to the first again."""
    told = play("a:on=x+y:retry=3", "a:retriable,retriable,ok")
    assert hosts(told, "a") == ["x", "y", "x"]


def test_another_host_is_tried_after_the_first_was_made_up_for():
    """S-G7: what was done there is made up for there."""
    told = play("g(a:on=x+y; b):rounds=2", "a:ok b:fail,ok")
    assert hosts(told, "a") == ["x", "x", "x"]
    told = play("g(a:on=x+y):rounds=2", "a:fail,ok")
    assert hosts(told, "a") == ["x", "y"]


def test_a_task_without_a_host_asks_for_one_of_its_candidates():
    """S-G7: it says which, and where it has failed."""
    told = play("a:on=x+y:retry=2", "a:retriable,hang")
    assert told.log == ["wait:a", "do:a", "retry:a", "wait:a", "do:a"]
    told = Play(script=script("a:retriable"), hosts=("x",))
    told.begin(tree("a:on=x+y:retry=2"))
    told.step()
    told.hosts = ()
    told.run()
    assert told.choices == [ChooseHost(task=1, number=2, candidates=("x", "y"), avoid=("x",))]


def test_a_host_that_is_chosen_too_late_starts_nothing():
    """S-V19: the task was cancelled while a host was looked for."""
    told = Play(script=script("cancel@wait:a"), hosts=())
    told.begin(tree("a:any"))
    told.run()
    assert told.story() == "wait:a asked turn stopped:a = COMPENSATED"
    told.hosts = ("x",)
    told.run()
    assert told.story() == "wait:a asked turn stopped:a = COMPENSATED"


@pytest.mark.parametrize("text", ["a; b:wait=5", "a:rest=5; b"])
def test_a_wait_takes_its_time(text: str):
    told = play(text)
    first, second = (task.last for _, task in told.workflow.tasks())
    assert first.end_time is not None
    assert second.create_time - first.end_time >= timedelta(seconds=5)


def test_what_is_bound_to_a_skipped_task_says_why_it_failed():
    """S-C6: a clear failure, before anything is sent."""
    told = play("a; b:when=input.no; c:takes=b.image")
    task = told.workflow.task(told.workflow.plan.by_name["c"])
    assert task.attempts == ()
    assert task.failure is not None
    assert task.failure.reason == "BINDING_MISSING"
    assert "tasks.b.output.image" in task.failure.message


def test_a_recovery_is_told_what_failed():
    told = play("g(a; b){r:takes=failure.reason}:recover; c", "b:fail")
    task = told.workflow.task(told.workflow.plan.by_name["r"])
    (inbound,) = task.last.inbound
    assert (inbound.value, inbound.origin) == ("BROKEN", "failure.reason")
    assert told.workflow.cause is None


def test_an_optional_failure_is_shown_as_failed():
    """S-V17."""
    told = play("a; b:ignore; c", "b:fail")
    task = told.workflow.task(told.workflow.plan.by_name["b"])
    assert task.state is TaskState.FAILED
    assert not task.needs_decision
    assert told.workflow.cause is None


def test_a_fan_out_over_nothing_needs_no_recovery():
    """S-R10: what would have recovered it is skipped, like that of any group that succeeded."""
    told = Play(script=script(""))
    over_nothing = GroupSpec(
        name="each",
        kind=GroupKind.PARALLEL,
        members=(),
        recovery=(TaskSpec(name="r", host="host-0", verb="copy", effect=Effect.REVERSIBLE),),
        rules=GroupRules(fan_out=True, on_failure=OnFailure.RECOVER),
    )
    root = tree("a; b")
    told.begin(replace(root, members=(*root.members, over_nothing)))
    told.run()
    assert told.workflow.state is WorkflowState.SUCCEEDED
    task = told.workflow.task(told.workflow.plan.by_name["r"])
    assert task.state is TaskState.SKIPPED


@pytest.mark.parametrize("owner_each", [False, True])
def test_a_fan_out_over_nothing_takes_no_place_of_others(owner_each: bool):
    """It has nothing to run; whoever takes the workflow over must not see it elsewhere."""
    over_nothing = GroupSpec(
        name="each", kind=GroupKind.PARALLEL, members=(), rules=GroupRules(fan_out=True)
    )
    beside = tree("a; b")
    root = GroupSpec(
        name="root",
        kind=GroupKind.SEQUENCE,
        members=(
            GroupSpec(
                name="any",
                kind=GroupKind.PARALLEL,
                members=(beside.members[0], over_nothing),
                rules=GroupRules(min_success=1, concurrency_max=1),
            ),
            beside.members[1],
        ),
    )
    told = Play(script=script("a:run+wait+ok"), owner_each=owner_each)
    told.begin(root)
    told.run()
    assert told.workflow.state is WorkflowState.SUCCEEDED


def test_a_start_timeout_does_not_pass_while_the_workflow_is_paused():
    """Nobody looks for a host meanwhile; the resume gives the whole time again."""
    told = Play(script=script("pause@wait:b resume@end"), hosts=())
    told.begin(tree("a; b:late=9:any"))
    told.run()
    assert told.story() == (
        "do:a ok:a wait:b asked pausing PAUSED asked resumed fail:b turn undo:a undone:a "
        "= COMPENSATED"
    )
    b = told.workflow.task(told.workflow.plan.by_name["b"])
    assert b.failure is not None
    assert b.failure.reason == "START_TIMEOUT"


def test_a_resume_leaves_alone_what_has_not_had_its_turn():
    """S-R10: a fan-out over nothing, with recovery tasks, in a group that is skipped later."""
    over_nothing = GroupSpec(
        name="each",
        kind=GroupKind.PARALLEL,
        members=(),
        recovery=(TaskSpec(name="r", host="host-0", verb="copy", effect=Effect.REVERSIBLE),),
        rules=GroupRules(fan_out=True, on_failure=OnFailure.RECOVER),
    )
    skipped = GroupSpec(
        name="skipped",
        kind=GroupKind.SEQUENCE,
        members=(over_nothing,),
        when=Condition(task="", path="no"),
    )
    root = tree("a; b")
    told = Play(script=script("pause@do:a resume@PAUSED"))
    told.begin(replace(root, members=(*root.members, skipped)), {"no": False})
    told.run()
    assert told.workflow.state is WorkflowState.SUCCEEDED
