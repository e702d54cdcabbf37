"""Compensations: their order, their tries, and what an operator may decide about them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from coordinator.saga import events, history
from coordinator.saga.commands import Withdraw
from coordinator.saga.leftovers import leftovers
from coordinator.saga.problems import problems
from coordinator.saga.spec import Binding, GroupSpec, Opposite, TaskSpec
from coordinator.saga.states import AttemptKind, AttemptState, TaskState, WorkflowState
from coordinator.saga.workflow import Attempt
from tests.saga.language import ASK, Play, play, script, tree
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    # A host that never comes back: there is always a way out.
    Row(
        "what cannot be made up for is given up: it ends, and the rest is kept",
        "a; p:pivot; c",
        "p:lost abandon-p@lost:p",
        "do:a ok:a do:p lost:p asked abandoned:p ending = FAILED",
    ),
    Row(
        "given up going forward: the others are made up for",
        "a; p; c => s / f",
        "p:lost abandon-p@lost:p",
        (
            "do:a ok:a do:p lost:p asked abandoned:p turn undo:a undone:a skip:s ending do:f ok:f "
            "= FAILED"
        ),
    ),
    Row(
        "given up past a pivot: the rest is kept",
        "a; p:pivot; b",
        "b:lost abandon-b@lost:b",
        "do:a ok:a do:p ok:p do:b lost:b asked abandoned:b ending = FAILED",
    ),
    Row(
        "given up while the pause waits for it",
        "a; p:pivot",
        "p:lost pause@lost:p abandon-p@pausing",
        "do:a ok:a do:p lost:p asked pausing asked abandoned:p ending = FAILED",
    ),
    Row(
        "given up when it was stopped for being late",
        "a; b:late=5",
        "b:hang/hang abandon-b@cancel:b",
        "do:a ok:a do:b cancel:b asked abandoned:b turn undo:a undone:a = FAILED",
    ),
    # What is made up for, and in which order.
    Row(
        "S-G1 newest first; what never ran is not made up for",
        "a; b; c; d",
        "c:fail",
        "do:a ok:a do:b ok:b do:c fail:c turn undo:b undone:b undo:a undone:a = COMPENSATED",
    ),
    Row(
        "S-G2 both in the middle before the first, in parallel",
        "(a | b<a | c<a | d<b,c)",
        "d:fail",
        (
            "do:a ok:a do:b do:c ok:b ok:c do:d fail:d turn undo:b undo:c undone:b undone:c "
            "undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "S-G4 a sibling is let finish, then made up for",
        "a | b:await",
        "a:fail b:run+wait+ok",
        "do:a do:b fail:a turn run:b ok:b undo:b undone:b = COMPENSATED",
    ),
    Row(
        "S-V12 S-Z13 fails three times, then succeeds",
        "a; b",
        "b:fail undo-a:retriable,retriable,retriable,ok",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a undo:a un-fail:a undo:a un-fail:a undo:a "
            "undone:a = COMPENSATED"
        ),
    ),
    Row(
        "S-V14 S-H2 new owners repeat nothing",
        "a; b; c",
        "c:fail owner@undo:b owner@undone:b owner@undo:a",
        (
            "do:a ok:a do:b ok:b do:c fail:c turn undo:b owner undone:b undo:a owner owner "
            "undone:a = COMPENSATED"
        ),
    ),
    # Retry now.
    Row(
        "S-V13 retried now: BLOCKED",
        "a; b",
        "b:fail undo-a:fail,ok retry-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED asked undo:a undone:a "
            "freed = COMPENSATED"
        ),
    ),
    Row(
        "retried now, in vain",
        "a; b",
        "b:fail undo-a:fail,fail,ok retry-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED asked undo:a un-fail:a "
            "undo:a undone:a freed = COMPENSATED"
        ),
    ),
    Row(
        "retried now, between tries",
        "a; b",
        "b:fail undo-a:retriable,ok retry-a@un-fail:a",
        "do:a ok:a do:b fail:b turn undo:a un-fail:a asked undo:a undone:a = COMPENSATED",
    ),
    Row(
        "the timer of a try that an operator made is stale",
        "a; b",
        "b:fail undo-a:retriable,wait+ok retry-a@un-fail:a due-a.3@undo:a#2",
        "do:a ok:a do:b fail:b turn undo:a un-fail:a asked undo:a undone:a = COMPENSATED",
    ),
    Row(
        "retried while one is under way: refused",
        "a; b",
        "b:fail undo-a:run+wait+ok retry-a@undo:a",
        "do:a ok:a do:b fail:b turn undo:a refused undone:a = COMPENSATED",
    ),
    Row(
        "retried while nobody knows: refused",
        "a; b",
        "b:fail undo-a:lost+wait+wait+ok retry-a@un-lost:a",
        "do:a ok:a do:b fail:b turn undo:a un-lost:a refused undone:a = COMPENSATED",
    ),
    # Replace.
    Row(
        "S-V13 replaced",
        "a; b",
        "b:fail undo-a:fail,ok replace-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED asked undo:a undone:a "
            "freed = COMPENSATED"
        ),
    ),
    Row(
        "replaced, and that fails",
        "a; b",
        "b:fail undo-a:fail,fail,ok replace-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED asked undo:a un-fail:a "
            "undo:a undone:a freed = COMPENSATED"
        ),
    ),
    Row(
        "replaced while one is under way: the next try is another",
        "a; b",
        "b:fail undo-a:run+wait+fail,ok replace-a@undo:a",
        (
            "do:a ok:a do:b fail:b turn undo:a asked un-fail:a stuck:a BLOCKED undo:a undone:a "
            "freed = COMPENSATED"
        ),
    ),
    Row(
        "replaced, but nobody knows whether it took effect: refused",
        "a | b",
        "a:run+fail b:hang/missing undo-b:fail,ok replace-b@BLOCKED",
        (
            "do:a do:b run:a fail:a turn cancel:b lost:b undo:b un-fail:b stuck:b BLOCKED refused "
            "undo:b undone:b freed = COMPENSATED"
        ),
    ),
    # Mark done.
    Row(
        "S-V13 marked done",
        "a; b",
        "b:fail undo-a:fail done-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED asked undone:a freed = "
            "COMPENSATED"
        ),
    ),
    Row(
        "marked done: what comes before it is made up for now",
        "a; b; c",
        "c:fail undo-b:fail done-b@BLOCKED",
        (
            "do:a ok:a do:b ok:b do:c fail:c turn undo:b un-fail:b stuck:b BLOCKED asked undone:b "
            "undo:a freed undone:a = COMPENSATED"
        ),
    ),
    Row(
        "marked done while one is under way",
        "a; b",
        "b:fail undo-a:run+hang done-a@undo:a",
        "do:a ok:a do:b fail:b turn undo:a asked undone:a = COMPENSATED",
    ),
    Row(
        "marked done while nobody knows",
        "a; b",
        "b:fail undo-a:lost+hang done-a@un-lost:a",
        "do:a ok:a do:b fail:b turn undo:a un-lost:a asked undone:a = COMPENSATED",
    ),
    Row(
        "marked done between tries: the timer is stale",
        "a; b",
        "b:fail undo-a:retriable,ok done-a@un-fail:a due-a.3@end",
        "do:a ok:a do:b fail:b turn undo:a un-fail:a asked undone:a = COMPENSATED",
    ),
    Row(
        "marked done: what it still says is late",
        "a; b",
        "b:fail undo-a:hang done-a@undo:a say-a.2-fail@end",
        "do:a ok:a do:b fail:b turn undo:a asked undone:a late:a = COMPENSATED",
    ),
    Row(
        "marked done: what it still says comes true",
        "a; b",
        "b:fail undo-a:hang done-a@undo:a say-a.2-ok@end",
        "do:a ok:a do:b fail:b turn undo:a asked undone:a late:a = COMPENSATED",
    ),
    Row(
        "marked done: the tombstone of what nobody knows",
        "a | b",
        "a:run+fail b:hang/missing undo-b:fail done-b@BLOCKED",
        (
            "do:a do:b run:a fail:a turn cancel:b lost:b undo:b un-fail:b stuck:b BLOCKED asked "
            "undone:b freed = COMPENSATED"
        ),
    ),
    # Abandon.
    Row(
        "S-V13 abandoned",
        "a; b",
        "b:fail undo-a:fail abandon-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED asked abandoned:a freed "
            "= FAILED"
        ),
    ),
    Row(
        "abandoned: what comes before it is made up for now",
        "a; b; c",
        "c:fail undo-b:fail abandon-b@BLOCKED",
        (
            "do:a ok:a do:b ok:b do:c fail:c turn undo:b un-fail:b stuck:b BLOCKED asked "
            "abandoned:b undo:a freed undone:a = FAILED"
        ),
    ),
    Row(
        "abandoned while one is under way",
        "a; b",
        "b:fail undo-a:run+hang abandon-a@undo:a",
        "do:a ok:a do:b fail:b turn undo:a asked abandoned:a = FAILED",
    ),
    Row(
        "abandoned while nobody knows",
        "a; b",
        "b:fail undo-a:lost+hang abandon-a@un-lost:a",
        "do:a ok:a do:b fail:b turn undo:a un-lost:a asked abandoned:a = FAILED",
    ),
    Row(
        "abandoned between tries",
        "a; b",
        "b:fail undo-a:retriable abandon-a@un-fail:a",
        "do:a ok:a do:b fail:b turn undo:a un-fail:a asked abandoned:a = FAILED",
    ),
    Row(
        "abandoned: what it still says is late",
        "a; b",
        "b:fail undo-a:run+hang abandon-a@undo:a say-a.2-ok@end",
        "do:a ok:a do:b fail:b turn undo:a asked abandoned:a late:a = FAILED",
    ),
    Row(
        "abandoned: a sibling that cannot be stopped",
        "a | b",
        "a:run+fail b:run+hang/hang abandon-b@cancel:b",
        "do:a do:b run:a fail:a turn cancel:b asked abandoned:b = FAILED",
    ),
    Row(
        "abandoned: a sibling of unknown outcome",
        "a | b:await",
        "a:run+wait+fail b:lost+hang abandon-b@turn",
        "do:a do:b run:a lost:b fail:a turn asked abandoned:b = FAILED",
    ),
    Row(
        "abandoned: a sibling of unknown outcome, late words",
        "a | b:await",
        "a:run+wait+fail b:lost+hang abandon-b@turn say-b.1-ok@end",
        "do:a do:b run:a lost:b fail:a turn asked abandoned:b late:b = FAILED",
    ),
    # Several.
    Row(
        "one is abandoned, one marked done",
        "(a | b); c",
        "c:fail undo-a:fail undo-b:fail abandon-a@stuck:b done-b@abandoned:a",
        (
            "do:a do:b ok:a ok:b do:c fail:c turn undo:a undo:b un-fail:a stuck:a BLOCKED "
            "un-fail:b stuck:b asked abandoned:a asked undone:b freed = FAILED"
        ),
    ),
    Row(
        "one is abandoned, the other still BLOCKED",
        "(a | b); c",
        "c:fail undo-a:fail undo-b:fail,fail,ok abandon-a@stuck:b",
        (
            "do:a do:b ok:a ok:b do:c fail:c turn undo:a undo:b un-fail:a stuck:a BLOCKED "
            "un-fail:b stuck:b asked abandoned:a undo:b un-fail:b undo:b undone:b freed = FAILED"
        ),
    ),
    Row(
        "a new owner after a decision",
        "(a | b); c",
        "c:fail undo-a:fail undo-b:fail,fail,ok abandon-a@stuck:b owner@abandoned:a",
        (
            "do:a do:b ok:a ok:b do:c fail:c turn undo:a undo:b un-fail:a stuck:a BLOCKED "
            "un-fail:b stuck:b asked abandoned:a owner undo:b un-fail:b undo:b undone:b freed = "
            "FAILED"
        ),
    ),
    # Refused.
    Row(
        "nothing is being made up for: refused",
        "a; b",
        "retry-a@ok:a replace-a@ok:a done-a@ok:a abandon-a@ok:a",
        "do:a ok:a do:b refused refused refused refused ok:b = SUCCEEDED",
    ),
    Row(
        "it is at work, and will be awaited: refused",
        "a | b:await",
        "a:fail b:run+wait+wait+ok abandon-b@run:b",
        "do:a do:b fail:a turn run:b refused ok:b undo:b undone:b = COMPENSATED",
    ),
    Row(
        "it has failed: nothing to decide: refused",
        "a; b",
        "b:fail abandon-b@turn",
        "do:a ok:a do:b fail:b turn undo:a refused undone:a = COMPENSATED",
    ),
    Row(
        "S-A11 settled: refused",
        "a; b",
        "b:fail abandon-a@end",
        "do:a ok:a do:b fail:b turn undo:a undone:a refused = COMPENSATED",
    ),
    # Its own opposite, or another.
    Row(
        "another verb makes up for it",
        "a:undo=erase; b",
        "b:fail",
        "do:a ok:a do:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "another verb is retried",
        "a:undo=erase; b",
        "b:fail undo-a:retriable,ok",
        "do:a ok:a do:b fail:b turn undo:a un-fail:a undo:a undone:a = COMPENSATED",
    ),
    Row(
        "another verb fails: BLOCKED, replaced",
        "a:undo=erase; b",
        "b:fail undo-a:fail,ok replace-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED asked undo:a undone:a "
            "freed = COMPENSATED"
        ),
    ),
    Row(
        "nobody knows whether it took effect: its own opposite",
        "a | b:undo=erase",
        "a:run+fail b:hang/missing",
        "do:a do:b run:a fail:a turn cancel:b lost:b undo:b undone:b = COMPENSATED",
    ),
    # What was too late is fenced, and the workflow goes on.
    Row(
        "fencing it is BLOCKED: abandoned: refused",
        "a:late=9:retry=2; b",
        "a:hang/missing,ok undo-a:fail,ok abandon-a@BLOCKED",
        (
            "do:a cancel:a lost:a undo:a un-fail:a stuck:a BLOCKED refused undo:a retry:a freed "
            "do:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "fencing it is BLOCKED: marked done",
        "a:late=9:retry=2; b",
        "a:hang/missing,ok undo-a:fail done-a@BLOCKED",
        (
            "do:a cancel:a lost:a undo:a un-fail:a stuck:a BLOCKED asked retry:a freed do:a ok:a "
            "do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "fencing it is BLOCKED: retried now",
        "a:late=9:retry=2; b",
        "a:hang/missing,ok undo-a:fail,ok retry-a@BLOCKED",
        (
            "do:a cancel:a lost:a undo:a un-fail:a stuck:a BLOCKED asked undo:a retry:a freed "
            "do:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "fencing it is BLOCKED: cancelled, then abandoned",
        "a:late=9:retry=2; b",
        "a:hang/missing,ok undo-a:fail,fail cancel@BLOCKED abandon-a@BLOCKED#2",
        (
            "do:a cancel:a lost:a undo:a un-fail:a stuck:a BLOCKED asked freed BLOCKED asked "
            "abandoned:a freed = FAILED"
        ),
    ),
    # Of a group.
    Row(
        "S-V13 of a group: abandoned, its parent goes on",
        "g(a; b):group; c",
        "b:fail undo-a:fail abandon-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b compensating:g undo:a un-fail:a stuck:a BLOCKED asked "
            "abandoned:a compensated:g do:c freed ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "of a group: marked done",
        "g(a; b):group; c",
        "b:fail undo-a:fail done-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b compensating:g undo:a un-fail:a stuck:a BLOCKED asked undone:a "
            "compensated:g do:c freed ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "of a group: retried now",
        "g(a; b):group; c",
        "b:fail undo-a:fail,ok retry-a@BLOCKED",
        (
            "do:a ok:a do:b fail:b compensating:g undo:a un-fail:a stuck:a BLOCKED asked undo:a "
            "undone:a compensated:g do:c freed ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "of a group: then the workflow fails",
        "g(a; b):group; c",
        "b:fail undo-a:fail abandon-a@BLOCKED c:fail",
        (
            "do:a ok:a do:b fail:b compensating:g undo:a un-fail:a stuck:a BLOCKED asked "
            "abandoned:a compensated:g do:c freed fail:c turn = FAILED"
        ),
    ),
    # While it is held.
    Row(
        "held: retried now, by order",
        "a; b",
        "b:fail undo-a:fail,ok pause-all@BLOCKED retry-a@PAUSED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED asked pausing PAUSED "
            "asked undo:a undone:a = PAUSED"
        ),
    ),
    Row(
        "held: abandoned, then resumed",
        "a; b",
        "b:fail undo-a:fail pause-all@BLOCKED abandon-a@PAUSED resume@PAUSED",
        (
            "do:a ok:a do:b fail:b turn undo:a un-fail:a stuck:a BLOCKED asked pausing PAUSED "
            "asked abandoned:a asked turn = FAILED"
        ),
    ),
    Row(
        "held: marked done; what comes before it waits",
        "a; b; c",
        "c:fail undo-b:fail pause-all@BLOCKED done-b@PAUSED",
        (
            "do:a ok:a do:b ok:b do:c fail:c turn undo:b un-fail:b stuck:b BLOCKED asked pausing "
            "PAUSED asked undone:b = PAUSED"
        ),
    ),
    Row(
        "held: marked done, then resumed",
        "a; b; c",
        "c:fail undo-b:fail pause-all@BLOCKED done-b@PAUSED resume@undone:b",
        (
            "do:a ok:a do:b ok:b do:c fail:c turn undo:b un-fail:b stuck:b BLOCKED asked pausing "
            "PAUSED asked undone:b asked turn undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "marked done while its compensation is under way: what that still says counts no more",
        "g(a; b; c):rounds=2",
        "c:fail,ok undo-b:hang,ok a:ok,wait+ok done-b@undo:b say-b.2-ok@do:a#2",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:g undo:b asked undone:b undo:a undone:a "
            "forward:g again:a again:b again:c do:a late:b ok:a do:b ok:b do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "given up: it was asked to stop, its host is gone, and only its group is made up for",
        "p:pivot | g(a | b):group",
        "a:wait+wait+fail b:run+hang/hang cancel@cancel:b abandon-b@cancel:b",
        (
            "do:p do:a do:b ok:p run:b fail:a compensating:g cancel:b refused asked abandoned:b "
            "compensated:g = SUCCEEDED"
        ),
    ),
    Row(
        "given up: it was asked to stop, its host is gone, and its group is to be recovered",
        "g(a | b){r}:recover; c",
        "a:wait+wait+fail b:run+hang/hang abandon-b@cancel:b",
        (
            "do:a do:b run:b fail:a recovering:g cancel:b asked abandoned:b do:r ok:r recovered:g "
            "do:c ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "given up beside a pivot that took effect: no other round, its group is closed",
        "p:pivot | g(a; b):group:rounds=2",
        "b:wait+wait+fail undo-a:fail abandon-a@BLOCKED",
        (
            "do:p do:a ok:p ok:a do:b fail:b compensating:g undo:a un-fail:a stuck:a BLOCKED asked "
            "abandoned:a compensated:g freed = SUCCEEDED"
        ),
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_new_owners_tell_the_same_story(row: Row):
    tells_the_same_under_new_owners(row)


def compensations(told: Play, name: str) -> list[Attempt]:
    """Returns the attempts of a task's compensation."""
    task = told.workflow.task(told.workflow.plan.by_name[name])
    return [attempt for attempt in task.attempts if attempt.kind is AttemptKind.COMPENSATION]


def test_every_try_is_kept_with_its_outcome():
    """S-V12: the final report lists all attempts."""
    told = play("a; b", "b:fail undo-a:retriable,retriable,retriable,ok")
    tries = compensations(told, "a")
    failed, succeeded = AttemptState.FAILED, AttemptState.SUCCEEDED
    assert [attempt.state for attempt in tries] == [failed, failed, failed, succeeded]
    assert [attempt.failure is None for attempt in tries] == [False, False, False, True]
    assert {attempt.compensates for attempt in tries} == {1}
    assert told.workflow.state is WorkflowState.COMPENSATED


def test_tries_wait_longer_and_longer():
    """S-V12: with back-off; the play's jitter halves what the policy says."""
    told = play("a; b", "b:fail undo-a:retriable,retriable,retriable,retriable,ok")
    gaps = [
        later.create_time - earlier.end_time
        for earlier, later in pairwise(compensations(told, "a"))
        if earlier.end_time is not None
    ]
    assert gaps == sorted(gaps)
    assert gaps[-1] - gaps[0] >= timedelta(seconds=3)


def test_a_compensation_runs_where_the_action_ran():
    told = play("a:on=x+y:retry=2; b", "a:retriable,ok b:fail")
    (attempt,) = compensations(told, "a")
    assert (attempt.host, attempt.compensates) == ("y", 2)


def test_what_is_abandoned_is_listed_with_the_reason():
    """S-V13, I3: the resource stays recorded."""
    told = play("a; b", "b:fail undo-a:fail abandon-a@BLOCKED")
    (leftover,) = leftovers(told.workflow)
    assert (leftover.task, leftover.attempt, leftover.host) == (1, 1, "host-a")
    assert leftover.reason == "because"
    assert told.workflow.state is WorkflowState.FAILED


def test_what_was_abandoned_is_written_into_the_history():
    """S-V13, I13."""
    told = Play(script=script("b:fail undo-a:fail"))
    told.begin(tree("a; b"))
    while told.workflow.state is not WorkflowState.BLOCKED:
        told.step()
    decision = told.perform(told.by_others("abandon-a"))
    facts = [entry.fact for entry in decision.history]
    assert history.LeftBehind(reason="because") in facts
    assert any(isinstance(f, history.Intervened) and f.verb == "abandon" for f in facts)


def test_what_is_marked_done_leaves_nothing():
    told = play("a; b", "b:fail undo-a:fail done-a@BLOCKED")
    assert list(leftovers(told.workflow)) == []
    task = told.workflow.task(1)
    assert task.state is TaskState.COMPENSATED
    assert task.decided is not None
    assert (task.decided.verb, task.decided.principal) == ("mark-compensated", "eve")


@pytest.mark.parametrize("verb", ["done", "abandon"])
def test_an_attempt_about_which_somebody_decided_is_seen_to_no_more(verb: str):
    """It is withdrawn, and stays unknown unless it still says something."""
    told = Play(script=script("b:fail undo-a:run+hang"))
    told.begin(tree("a; b"))
    told.run()
    decision = told.perform(told.by_others(f"{verb}-a"))
    assert decision.commands == (Withdraw(task=1, number=2, host="host-a"),)
    (attempt,) = compensations(told, "a")
    assert attempt.state is AttemptState.UNKNOWN


def test_a_blocked_compensation_says_why():
    """S-Z13."""
    told = play("a; b", "b:fail undo-a:fail,hang")
    task = told.workflow.task(1)
    assert told.workflow.state is WorkflowState.BLOCKED
    assert task.compensation_failure is not None
    assert task.compensation_failure.reason == "BROKEN"
    assert task.failure is None  # its action succeeded


def test_another_verb_is_given_what_the_action_left():
    """S-G3: its values are resolved before it is sent."""
    told = play("a:undo=erase; b", "b:fail")
    (attempt,) = compensations(told, "a")
    assert attempt.overriding
    (value,) = attempt.inbound
    assert (value.field, value.value, value.origin) == ("image", "a.1", "tasks.a.output.image")


def test_another_verb_is_given_what_the_attempt_left_that_succeeded():
    told = play("a:undo=erase:retry=3; b", "a:retriable,retriable,ok b:fail")
    (attempt,) = compensations(told, "a")
    assert [each.value for each in attempt.inbound] == ["a.3"]


def test_the_verbs_own_opposite_is_not_replaced():
    told = play("a; b", "b:fail")
    (attempt,) = compensations(told, "a")
    assert not attempt.overriding
    assert attempt.inbound == ()


def test_nobody_knows_whether_it_took_effect_so_only_its_own_opposite_will_do():
    """S-Z3: that alone also fences what may still be on its way."""
    told = play("a | b:undo=erase", "a:run+fail b:hang/missing")
    (attempt,) = compensations(told, "b")
    assert not attempt.overriding


def test_another_verb_whose_value_is_not_there_gives_way_to_its_own_opposite():
    own = (Binding(field="checksum", task="a", path="checksum"),)
    root = tree("a; b")
    first, second = root.members
    assert isinstance(first, TaskSpec)
    opposite = Opposite(verb="erase", action=b"", bindings=own)
    told = Play(script=script("b:fail"))
    told.begin(replace(root, members=(replace(first, opposite=opposite), second)))
    told.run()
    (attempt,) = compensations(told, "a")
    assert not attempt.overriding
    assert told.workflow.state is WorkflowState.COMPENSATED


def test_what_an_operator_puts_in_its_place_is_kept_for_every_further_try():
    told = play("a; b", "b:fail undo-a:fail,fail,ok replace-a@BLOCKED")
    assert [attempt.overriding for attempt in compensations(told, "a")] == [False, True, True]
    assert [each.replacement for each in compensations(told, "a")] == [b"", b"other", b"other"]
    assert told.workflow.task(1).replacement == b"other"


@pytest.mark.parametrize(
    ("source", "sound"),
    [("a", True), ("z", False), ("b", False)],
    ids=["its-own-output", "nobody", "a-later-task"],
)
def test_values_of_a_compensation_that_nobody_provides_are_refused(source: str, *, sound: bool):
    """S-G9: before anything starts."""
    root = tree("a; b")
    first, second = root.members
    assert isinstance(first, TaskSpec)
    bindings = (Binding(field="image", task=source, path="image"),)
    opposite = Opposite(verb="erase", action=b"", bindings=bindings)
    spec = GroupSpec(
        name="root", kind=root.kind, members=(replace(first, opposite=opposite), second)
    )
    fields = [problem.field for problem in problems(spec)]
    expected = [] if sound else ["spec.root.members[0].task.compensation.bindings[0].source"]
    assert fields == expected


@pytest.mark.parametrize("verb", list(events.CompensationVerb))
def test_a_refusal_names_the_task_and_its_state(verb: events.CompensationVerb):
    """S-R13."""
    told = play("a; b", "b:run+hang")
    decision = told.perform(events.CompensationDecided(ask=ASK, task=1, verb=verb))
    assert decision.refusal is not None
    assert "a is SUCCEEDED" in decision.refusal.because


def test_of_two_who_saw_the_same_version_one_is_told_it_moved():
    told = play("a; b", "b:fail undo-a:fail,hang")
    seen = replace(ASK, version=told.workflow.version - 1)
    verb = events.CompensationVerb.ABANDON
    decision = told.perform(events.CompensationDecided(ask=seen, task=1, verb=verb))
    assert decision.refusal is not None
    assert decision.refusal.outdated
    now = replace(ASK, version=told.workflow.version)
    assert told.perform(events.CompensationDecided(ask=now, task=1, verb=verb)).refusal is None
