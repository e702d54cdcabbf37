"""Pivots: before them all can be made up for, after them there is only forward."""

from __future__ import annotations

import pytest

from coordinator.saga.leftovers import NOT_REMOVED, STOPPED, leftovers
from coordinator.saga.problems import problems
from coordinator.saga.states import TaskState, WorkflowState
from tests.saga.language import Play, play, script, tree
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    # Before, and at, the pivot.
    Row(
        "S-V15 before the pivot all is made up for",
        "s1; s2; s3:pivot; s4",
        "s2:fail",
        "do:s1 ok:s1 do:s2 fail:s2 turn undo:s1 undone:s1 = COMPENSATED",
    ),
    Row(
        "the pivot itself fails: nothing took effect",
        "s1; s2; s3:pivot; s4",
        "s3:fail",
        (
            "do:s1 ok:s1 do:s2 ok:s2 do:s3 fail:s3 turn undo:s2 undone:s2 undo:s1 undone:s1 = "
            "COMPENSATED"
        ),
    ),
    Row(
        "the pivot itself is retried",
        "s1; s3:pivot:retry=2; s4",
        "s3:retriable,ok",
        "do:s1 ok:s1 do:s3 retry:s3 do:s3 ok:s3 do:s4 ok:s4 = SUCCEEDED",
    ),
    Row(
        "the pivot itself, its retries used up",
        "s1; s3:pivot:retry=2; s4",
        "s3:retriable,retriable",
        "do:s1 ok:s1 do:s3 retry:s3 do:s3 fail:s3 turn undo:s1 undone:s1 = COMPENSATED",
    ),
    Row(
        "S-V5 nobody knows whether the pivot took effect: it failed",
        "s1; s3:pivot; s4",
        "s3:lost+wait+fail",
        "do:s1 ok:s1 do:s3 lost:s3 fail:s3 turn undo:s1 undone:s1 = COMPENSATED",
    ),
    Row(
        "S-V5 nobody knows whether the pivot took effect: it did",
        "s1; s3:pivot; s4",
        "s3:lost+wait+ok",
        "do:s1 ok:s1 do:s3 lost:s3 ok:s3 do:s4 ok:s4 = SUCCEEDED",
    ),
    Row(
        "nobody knows of the pivot: it is asked for, and never fenced",
        "s1; s3:pivot; s4",
        "s3:lost+missing+wait+ok",
        "do:s1 ok:s1 do:s3 lost:s3 ok:s3 do:s4 ok:s4 = SUCCEEDED",
    ),
    Row(
        "a pivot has no start timeout: it could not be fenced",
        "s1; s3:pivot:late=5; s4",
        "s3:wait+ok",
        "do:s1 ok:s1 do:s3 ok:s3 do:s4 ok:s4 = SUCCEEDED",
    ),
    Row(
        "a join before the pivot",
        "a | b | p<a,b:pivot",
        "b:fail a:run+hang",
        "do:a do:b run:a fail:b turn cancel:a stopped:a = COMPENSATED",
    ),
    Row(
        "what may fail for itself beside it",
        "(x(a; b):group | p:pivot); c",
        "b:fail",
        (
            "do:p do:a ok:p ok:a do:b fail:b compensating:x undo:a undone:a compensated:x do:c "
            "ok:c = SUCCEEDED"
        ),
    ),
    Row(
        "what may fail beside it is optional",
        "(a:ignore | p:pivot); c",
        "a:fail",
        "do:a do:p fail:a ok:p do:c ok:c = SUCCEEDED",
    ),
    Row(
        "what may fail beside it pauses",
        "(a:pause | p:pivot); c",
        "a:fail,ok resume+rerun-a@PAUSED",
        (
            "do:a do:p fail:a pausing ok:p PAUSED asked resumed asked again:a do:a ok:a do:c ok:c "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "what may fail beside it stops all: the pivot is awaited",
        "(a:stop | p:pivot); c",
        "a:fail p:run+wait+ok",
        "do:a do:p fail:a ending run:p ok:p = FAILED",
    ),
    # After the pivot there is only forward.
    Row(
        "S-V16 S-Z13 retried until it succeeds, BLOCKED meanwhile",
        "s1; s2; s3:pivot; s4:forward; s5",
        "s4:fail,fail,ok",
        (
            "do:s1 ok:s1 do:s2 ok:s2 do:s3 ok:s3 do:s4 retry:s4 BLOCKED do:s4 retry:s4 do:s4 "
            "ok:s4 do:s5 freed ok:s5 = SUCCEEDED"
        ),
    ),
    Row(
        "S-V16 its budget first, then BLOCKED",
        "s1; s3:pivot; s4:forward:retry=2",
        "s4:retriable,retriable,ok",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 do:s4 retry:s4 BLOCKED do:s4 ok:s4 freed = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "S-V16 optional: SUCCEEDED",
        "s1; s2; s3:pivot; s4:forward:ignore",
        "s4:fail",
        "do:s1 ok:s1 do:s2 ok:s2 do:s3 ok:s3 do:s4 fail:s4 = SUCCEEDED",
    ),
    Row(
        "S-V16 an operator skips it: SUCCEEDED",
        "s1; s2; s3:pivot; s4:forward",
        "s4:fail,fail,ok resume+skip-s4@BLOCKED",
        (
            "do:s1 ok:s1 do:s2 ok:s2 do:s3 ok:s3 do:s4 retry:s4 BLOCKED asked asked skip:s4 freed "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "an operator tries it again at once",
        "s1; s3:pivot; s4:forward",
        "s4:fail,ok resume+rerun-s4@BLOCKED",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 BLOCKED asked asked do:s4 freed ok:s4 = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "an operator tries it again at once, in vain",
        "s1; s3:pivot; s4:forward",
        "s4:fail,fail,ok resume+rerun-s4@BLOCKED",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 BLOCKED asked asked do:s4 freed retry:s4 "
            "BLOCKED do:s4 ok:s4 freed = SUCCEEDED"
        ),
    ),
    Row(
        "an operator tries it again with as many attempts",
        "s1; s3:pivot; s4:forward:retry=2",
        "s4:retriable,fail,retriable,ok resume+rerun-s4@BLOCKED",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 do:s4 retry:s4 BLOCKED asked asked do:s4 "
            "freed retry:s4 do:s4 ok:s4 = SUCCEEDED"
        ),
    ),
    Row(
        "an operator tries again what is under way: refused",
        "s1; s3:pivot; s4:forward",
        "s4:fail,run+wait+ok resume+rerun-s4@run:s4",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 BLOCKED do:s4 run:s4 refused ok:s4 freed = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "a plain resume is not asked for: refused",
        "s1; s3:pivot; s4:forward",
        "s4:fail,ok resume@BLOCKED",
        "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 BLOCKED refused do:s4 ok:s4 freed = SUCCEEDED",
    ),
    Row(
        "given up after the pivot: refused",
        "s1; s3:pivot; s4:forward",
        "s4:fail,ok resume+compensate-s4@BLOCKED",
        "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 BLOCKED refused do:s4 ok:s4 freed = SUCCEEDED",
    ),
    Row(
        "S-V19 cancelled after the pivot: refused",
        "s1; s3:pivot; s4",
        "s4:run+wait+ok cancel@run:s4",
        "do:s1 ok:s1 do:s3 ok:s3 do:s4 run:s4 refused ok:s4 = SUCCEEDED",
    ),
    Row(
        "cancelled when BLOCKED after the pivot: refused",
        "s1; s3:pivot; s4:forward",
        "s4:fail,ok cancel@BLOCKED",
        "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 BLOCKED refused do:s4 ok:s4 freed = SUCCEEDED",
    ),
    Row(
        "what could be made up for is retried as well",
        "s1; s3:pivot; s4",
        "s4:fail,ok",
        "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 BLOCKED do:s4 ok:s4 freed = SUCCEEDED",
    ),
    Row(
        "two of them: BLOCKED until both are through",
        "s1; s3:pivot; (s4 | s5)",
        "s4:fail,fail,ok s5:fail,ok",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 do:s5 retry:s4 BLOCKED retry:s5 do:s4 retry:s4 do:s5 "
            "ok:s5 do:s4 ok:s4 freed = SUCCEEDED"
        ),
    ),
    Row(
        "two of them: the other goes on",
        "s1; s3:pivot; (s4 | s5)",
        "s4:fail,ok s5:run+wait+ok",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 do:s5 retry:s4 BLOCKED run:s5 ok:s5 do:s4 ok:s4 freed "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "its outcome is not known, then it failed",
        "s1; s3:pivot; s4",
        "s4:lost+wait+fail,ok",
        "do:s1 ok:s1 do:s3 ok:s3 do:s4 lost:s4 retry:s4 BLOCKED do:s4 ok:s4 freed = SUCCEEDED",
    ),
    Row(
        "on another host",
        "s1; s3:pivot; s4:on=x+y",
        "s4:fail,ok",
        (
            "do:s1 ok:s1 do:s3 ok:s3 wait:s4 do:s4 retry:s4 BLOCKED wait:s4 do:s4 ok:s4 freed = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "it is too late: fenced, and tried again",
        "s1; s3:pivot; s4:late=5",
        "s4:hang/missing,ok",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 cancel:s4 lost:s4 undo:s4 retry:s4 BLOCKED do:s4 ok:s4 "
            "freed = SUCCEEDED"
        ),
    ),
    Row(
        "it finds no host in time: BLOCKED",
        "s1; s3:pivot; s4:on=q:late=5; s5",
        "resume+skip-s4@BLOCKED",
        (
            "do:s1 ok:s1 do:s3 ok:s3 wait:s4 retry:s4 BLOCKED asked asked skip:s4 do:s5 freed "
            "ok:s5 = SUCCEEDED"
        ),
    ),
    Row(
        "a value that it needs is missing: an operator decides",
        "s1; s3:pivot; s4:takes=s1.nothing; s5",
        "resume+rerun-s4/nothing=x@PAUSED",
        (
            "do:s1 ok:s1 do:s3 ok:s3 fail:s4 pausing PAUSED asked resumed asked again:s4 do:s4 "
            "ok:s4 do:s5 ok:s5 = SUCCEEDED"
        ),
    ),
    Row(
        "STOP after the pivot keeps everything",
        "s1; s3:pivot; s4:stop; s5",
        "s4:fail",
        "do:s1 ok:s1 do:s3 ok:s3 do:s4 fail:s4 ending = FAILED",
    ),
    Row(
        "STOP after the pivot while BLOCKED for another",
        "s1; s3:pivot; (s4 | s5:stop); s6",
        "s4:fail s5:run+wait+fail",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 do:s5 retry:s4 BLOCKED run:s5 fail:s5 ending fail:s4 "
            "= FAILED"
        ),
    ),
    Row(
        "PAUSE after the pivot",
        "s1; s3:pivot; s4:pause; s5",
        "s4:fail resume+skip-s4@PAUSED",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 fail:s4 pausing PAUSED asked resumed asked skip:s4 "
            "do:s5 ok:s5 = SUCCEEDED"
        ),
    ),
    Row(
        "PAUSE after the pivot: cancelled: refused",
        "s1; s3:pivot; s4:pause; s5",
        "s4:fail,ok cancel@PAUSED resume+rerun-s4@refused",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 fail:s4 pausing PAUSED refused asked resumed asked "
            "again:s4 do:s4 ok:s4 do:s5 ok:s5 = SUCCEEDED"
        ),
    ),
    Row(
        "a group after the pivot is made up for alone",
        "s1; s3:pivot; g(s4; s5):group; s6",
        "s5:fail",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 ok:s4 do:s5 fail:s5 compensating:g undo:s4 undone:s4 "
            "compensated:g do:s6 ok:s6 = SUCCEEDED"
        ),
    ),
    Row(
        "a group after the pivot has its rounds",
        "s1; s3:pivot; g(s4; s5):rounds=2; s6",
        "s5:fail,ok",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 ok:s4 do:s5 fail:s5 compensating:g undo:s4 undone:s4 "
            "forward:g again:s4 again:s5 do:s4 ok:s4 do:s5 ok:s5 do:s6 ok:s6 = SUCCEEDED"
        ),
    ),
    Row(
        "a group after the pivot, its rounds used up: BLOCKED",
        "s1; s3:pivot; g(s4; s5):rounds=2; s6",
        "s5:fail,fail,ok",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 ok:s4 do:s5 fail:s5 compensating:g undo:s4 undone:s4 "
            "forward:g again:s4 again:s5 do:s4 ok:s4 do:s5 retry:s5 BLOCKED do:s5 ok:s5 do:s6 "
            "freed ok:s6 = SUCCEEDED"
        ),
    ),
    Row(
        "a group after the pivot is recovered",
        "s1; s3:pivot; g(s4; s5){r}:recover; s6",
        "s5:fail",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 ok:s4 do:s5 fail:s5 recovering:g do:r ok:r recovered:g "
            "do:s6 ok:s6 = SUCCEEDED"
        ),
    ),
    Row(
        "a recovery after the pivot fails: BLOCKED",
        "s1; s3:pivot; g(s4; s5){r}:recover; s6",
        "s5:fail r:fail,ok",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 ok:s4 do:s5 fail:s5 recovering:g do:r retry:r BLOCKED "
            "do:r ok:r recovered:g do:s6 freed ok:s6 = SUCCEEDED"
        ),
    ),
    Row(
        "a quorum after the pivot",
        "s1; s3:pivot; g(s4 | s5):min=1; s6",
        "s4:fail",
        "do:s1 ok:s1 do:s3 ok:s3 do:s4 do:s5 fail:s4 ok:s5 do:s6 ok:s6 = SUCCEEDED",
    ),
    Row(
        "a group around the pivot is closed only before it",
        "g(s1; s2; s3:pivot; s4):group; s5",
        "s2:fail",
        (
            "do:s1 ok:s1 do:s2 fail:s2 compensating:g undo:s1 undone:s1 compensated:g do:s5 ok:s5 "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "a group around the pivot is not closed after it",
        "g(s1; s2; s3:pivot; s4):group; s5",
        "s4:fail,ok",
        (
            "do:s1 ok:s1 do:s2 ok:s2 do:s3 ok:s3 do:s4 retry:s4 BLOCKED do:s4 ok:s4 do:s5 freed "
            "ok:s5 = SUCCEEDED"
        ),
    ),
    Row(
        "a group before the pivot was made up for",
        "g(s1; s2):group; s3:pivot",
        "s2:fail",
        (
            "do:s1 ok:s1 do:s2 fail:s2 compensating:g undo:s1 undone:s1 compensated:g do:s3 ok:s3 "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "end actions run when it is through",
        "s1; s3:pivot; s4:forward => x / y",
        "s4:fail resume+skip-s4@BLOCKED",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 BLOCKED asked asked skip:s4 freed skip:y "
            "ending do:x ok:x = SUCCEEDED"
        ),
    ),
    # What can never be taken back, without a pivot before it.
    Row(
        "the first of its kind acts as the pivot",
        "s1; f:forward; s2",
        "s2:fail,ok",
        "do:s1 ok:s1 do:f ok:f do:s2 retry:s2 BLOCKED do:s2 ok:s2 freed = SUCCEEDED",
    ),
    Row(
        "the first of its kind fails",
        "s1; f:forward; s2",
        "f:fail",
        "do:s1 ok:s1 do:f fail:f turn undo:s1 undone:s1 = COMPENSATED",
    ),
    Row(
        "several of its kind",
        "s1; f:forward; g:forward; s2",
        "g:fail,ok",
        "do:s1 ok:s1 do:f ok:f do:g retry:g BLOCKED do:g ok:g do:s2 freed ok:s2 = SUCCEEDED",
    ),
    # Owners.
    Row(
        "S-V14 a new owner while BLOCKED",
        "s1; s3:pivot; s4:forward",
        "s4:fail,ok owner@BLOCKED",
        "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 BLOCKED owner do:s4 ok:s4 freed = SUCCEEDED",
    ),
    Row(
        "paused and resumed while BLOCKED",
        "s1; s3:pivot; s4:forward",
        "s4:fail,ok pause@BLOCKED resume+rerun-s4@PAUSED",
        (
            "do:s1 ok:s1 do:s3 ok:s3 do:s4 retry:s4 BLOCKED asked pausing PAUSED asked resumed "
            "asked do:s4 ok:s4 = SUCCEEDED"
        ),
    ),
    Row(
        "given up while the pivot is at work: refused",
        "(a:pause | p:pivot); c",
        "a:fail,ok p:run+wait+ok resume+compensate-a@pausing",
        "do:a do:p fail:a pausing refused run:p ok:p PAUSED = PAUSED",
    ),
    Row(
        "given up once the pivot has failed",
        "(a:pause | p:pivot:pause); c",
        "a:fail p:fail resume+compensate-a@PAUSED",
        "do:a do:p fail:a pausing fail:p PAUSED asked turn = COMPENSATED",
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_new_owners_tell_the_same_story(row: Row):
    tells_the_same_under_new_owners(row)


def left(told: Play) -> list[tuple[str, str, int]]:
    """Returns what a workflow leaves behind: task, reason, attempt."""
    names = told.workflow.plan.nodes
    return [(names[each.task].name, each.reason, each.attempt) for each in leftovers(told.workflow)]


def test_what_should_have_been_removed_is_listed():
    """S-V16: optional clean-up after the pivot; SUCCEEDED, and the source is named."""
    told = play("s1; s2; s3:pivot; s4:forward:ignore", "s4:fail")
    assert told.workflow.state is WorkflowState.SUCCEEDED
    (leftover,) = leftovers(told.workflow)
    assert left(told) == [("s4", NOT_REMOVED, 0)]
    assert leftover.host == "host-s4"


def test_what_an_operator_did_without_is_listed():
    """S-V16: skipped after the pivot."""
    told = play("s1; s3:pivot; s4:forward", "s4:fail resume+skip-s4@BLOCKED")
    assert told.workflow.state is WorkflowState.SUCCEEDED
    assert left(told) == [("s4", NOT_REMOVED, 0)]


def test_what_a_condition_did_without_is_no_leftover():
    told = play("s1; s3:pivot; s4:forward:when=input.no")
    assert told.workflow.state is WorkflowState.SUCCEEDED
    assert left(told) == []


def test_what_is_kept_by_policy_is_listed():
    """I3: every effect, and only effects."""
    told = play("r:ro; s1; s3:pivot; s4:stop; s5", "s4:fail")
    assert told.workflow.state is WorkflowState.FAILED
    assert left(told) == [("s1", STOPPED, 1), ("s3", STOPPED, 1)]


@pytest.mark.parametrize(
    ("text", "setup"),
    [
        pytest.param("a; b:pivot; c:forward", "", id="succeeded"),
        pytest.param("a; b; c", "c:fail", id="compensated"),
        pytest.param("a; f:forward", "f:fail", id="nothing-was-removed-and-it-is-wanted-again"),
    ],
)
def test_nothing_is_left_behind(text: str, setup: str):
    assert left(play(text, setup)) == []


def test_a_pivot_that_may_have_taken_effect_says_so_when_it_is_cancelled():
    """S-Z15: whoever cancels learns which task stands against it."""
    told = play("a; p:pivot; b", "p:lost+wait+hang")
    refusal = told.perform(told.by_others("cancel")).refusal
    assert refusal is not None
    assert refusal.because.startswith("p ")


def test_a_blocked_task_says_why_and_that_it_needs_somebody():
    told = play("a; p:pivot; b", "b:fail,run+hang")
    task = told.workflow.task(told.workflow.plan.by_name["b"])
    assert told.workflow.state is WorkflowState.BLOCKED
    assert task.needs_decision
    assert task.failure is not None
    assert told.workflow.cause is None


def test_a_pivot_says_nothing_of_a_start_timeout():
    """A late attempt is fenced by its compensation, and this one has none."""
    told = Play(script=script("p:hang"))
    told.begin(tree("p:pivot:late=5"))
    assert told.timers == []
    told.run()
    assert told.workflow.task(1).state is TaskState.STARTING


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a; p:pivot; b; f:forward", "", id="sound"),
        pytest.param("a; f:forward; b", "", id="forward-only-as-the-pivot"),
        pytest.param("a; f:forward; g:forward; b", "", id="several-forward-only"),
        pytest.param("p:pivot; q:pivot", "after 'p'", id="two-pivots-in-a-branch"),
        pytest.param("f:forward; p:pivot", "after 'f'", id="pivot-after-forward-only"),
        pytest.param("x(p:pivot); y(a; z(q:pivot))", "after 'p'", id="two-pivots-deep-below"),
        pytest.param("p:pivot | q<p:pivot", "after 'p'", id="pivot-after-a-sibling"),
        pytest.param("a | p:pivot", "'a' may fail beside it", id="beside-what-may-fail"),
        pytest.param("a | f:forward", "'a' may fail beside it", id="forward-only-beside"),
        pytest.param("x(a; b) | y(c; p:pivot)", "'x' may fail beside it", id="deep-beside"),
        pytest.param("p:pivot | q:pivot", "may fail beside it", id="two-pivots-side-by-side"),
        pytest.param("a:ignore | p:pivot", "", id="beside-what-is-optional"),
        pytest.param("a:pause | p:pivot", "", id="beside-what-pauses"),
        pytest.param("a:stop | p:pivot", "", id="beside-what-stops"),
        pytest.param("x(a):group | p:pivot", "", id="beside-what-is-closed-alone"),
        pytest.param("a:group | p:pivot", "'a' may fail beside it", id="closed-with-the-pivot"),
        pytest.param(
            "x(y(a) | p:pivot):group; b", "'y' may fail beside it", id="closed-around-the-pivot"
        ),
        pytest.param(
            "x(a){r}:recover | p:pivot", "'x' may fail beside it", id="beside-what-is-recovered"
        ),
        pytest.param("a | p<a:pivot", "", id="after-what-may-fail"),
        pytest.param("p:pivot | a<p", "", id="before-what-may-fail"),
        pytest.param("g(a; p:pivot):rounds=2", "another round", id="in-rounds"),
        pytest.param("g(x(a; f:forward)):rounds=2", "another round", id="deep-in-rounds"),
        pytest.param("p:pivot; g(a; b):rounds=2", "", id="rounds-after-it"),
        pytest.param("a => p:pivot; q:pivot", "", id="end-actions"),
    ],
)
def test_specs_in_which_the_saga_could_not_keep_its_rule_are_refused(text: str, expected: str):
    """S-V16: before anything starts."""
    found = problems(tree(text))
    assert bool(found) == bool(expected), found
    assert all(expected in problem.description for problem in found)
    assert all(problem.field.endswith(".task.action") for problem in found)
