"""Groups in groups: what is decided below goes up, what is decided above goes down; rounds."""

from __future__ import annotations

import pytest

from coordinator.saga.advance import restore
from coordinator.saga.states import AttemptKind, GroupState
from coordinator.saga.workflow import Group
from tests.saga.language import Play, play, script, tree
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    # Groups in groups, and nested workflows, which are groups here.
    Row(
        "S-D1 the task is rerun, those around it go on",
        "x(a; y(b; z(c; d:pause))); e",
        "d:fail,ok resume+rerun-d@PAUSED",
        (
            "do:a ok:a do:b ok:b do:c ok:c do:d fail:d pausing PAUSED asked resumed asked again:d "
            "do:d ok:d do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "S-D1 what follows it in each of them begins once",
        "x(y(z(a:pause; b); c); d); e",
        "a:fail,ok resume+rerun-a@PAUSED",
        (
            "do:a fail:a pausing PAUSED asked resumed asked again:a do:a ok:a do:b ok:b do:c ok:c "
            "do:d ok:d do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "S-D1 skipped deep below",
        "x(a; y(b; z(c; d:pause; f))); e",
        "d:fail resume+skip-d@PAUSED",
        (
            "do:a ok:a do:b ok:b do:c ok:c do:d fail:d pausing PAUSED asked resumed asked skip:d "
            "do:f ok:f do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "S-D2 a nested one begins anew",
        "x(a; y(b; c:pause)); e",
        "c:fail,ok resume+reset-y@PAUSED",
        (
            "do:a ok:a do:b ok:b do:c fail:c pausing PAUSED asked resumed asked compensating:y "
            "undo:b undone:b forward:y again:b again:c do:b ok:b do:c ok:c do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "S-D2 the one around it begins anew",
        "x(a; y(b; c:pause)); e",
        "c:fail,ok resume+reset-x@PAUSED",
        (
            "do:a ok:a do:b ok:b do:c fail:c pausing PAUSED asked resumed asked compensating:x "
            "undo:b undone:b undo:a undone:a forward:x again:a again:b again:c do:a ok:a do:b "
            "ok:b do:c ok:c do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "S-D4 cancelled: all in it are",
        "x(a; y(b | c)); e",
        "b:run+hang c:run+hang cancel@run:c",
        (
            "do:a ok:a do:b do:c run:b run:c asked turn cancel:b cancel:c stopped:b stopped:c "
            "undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "S-D4 one was stopped by others: it has failed, and all with it",
        "x(a; y(b | c)); e",
        "b:run+hang c:run+cancelled",
        (
            "do:a ok:a do:b do:c run:b run:c fail:c turn cancel:b stopped:b undo:a undone:a = "
            "COMPENSATED"
        ),
    ),
    Row(
        "S-V15 a failure deep below turns all of it round",
        "x(a; y(b; c)); d",
        "c:fail",
        "do:a ok:a do:b ok:b do:c fail:c turn undo:b undone:b undo:a undone:a = COMPENSATED",
    ),
    Row(
        "a failure after it turns all of it round",
        "x(a; y(b | c)); d",
        "d:fail",
        (
            "do:a ok:a do:b do:c ok:b ok:c do:d fail:d turn undo:b undo:c undone:b undone:c "
            "undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "siblings of different depth",
        "x(a; y(b; c)) | d | z(e)",
        "c:fail d:run+hang",
        (
            "do:d do:a do:e run:d ok:a do:b ok:e ok:b do:c fail:c turn cancel:d undo:e undo:b "
            "stopped:d undone:e undone:b undo:a undone:a = COMPENSATED"
        ),
    ),
    # Rounds.
    Row(
        "S-G6 another round, made up for in between",
        "y(b; c):rounds=2; d",
        "c:fail,ok",
        (
            "do:b ok:b do:c fail:c compensating:y undo:b undone:b forward:y again:b again:c do:b "
            "ok:b do:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-G6 three rounds, all of which fail",
        "y(b | c):rounds=3; d",
        "c:fail,fail,fail",
        (
            "do:b do:c ok:b fail:c compensating:y undo:b undone:b forward:y again:b again:c do:b "
            "do:c ok:b fail:c compensating:y undo:b undone:b forward:y again:b again:c do:b do:c "
            "ok:b fail:c turn undo:b undone:b = COMPENSATED"
        ),
    ),
    Row(
        "S-G6 three rounds, the last succeeds",
        "y(b | c):rounds=3; d",
        "c:fail,fail,ok",
        (
            "do:b do:c ok:b fail:c compensating:y undo:b undone:b forward:y again:b again:c do:b "
            "do:c ok:b fail:c compensating:y undo:b undone:b forward:y again:b again:c do:b do:c "
            "ok:b ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-G8 its rounds are used up: the one around it is made up for as well",
        "x(a; y(b; c):rounds=2); d",
        "c:fail,fail",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:y undo:b undone:b forward:y again:b "
            "again:c do:b ok:b do:c fail:c turn undo:b undone:b undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "S-G8 its rounds are used up: the one around it alone",
        "x(a; y(b; c):rounds=2):group; d",
        "c:fail,fail",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:y undo:b undone:b forward:y again:b "
            "again:c do:b ok:b do:c fail:c compensating:x undo:b undone:b undo:a undone:a "
            "compensated:x do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-G8 its rounds are used up: it alone",
        "x(a; y(b; c):rounds=2:group); d",
        "c:fail,fail",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:y undo:b undone:b forward:y again:b "
            "again:c do:b ok:b do:c fail:c compensating:y undo:b undone:b compensated:y do:d ok:d "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "S-G8 rounds in rounds: the inner one has its own again",
        "x(a; y(b; c):rounds=2):rounds=2; d",
        "c:fail,fail,fail,ok",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:y undo:b undone:b forward:y again:b "
            "again:c do:b ok:b do:c fail:c compensating:x undo:b undone:b undo:a undone:a "
            "forward:x again:a again:b again:c do:a ok:a do:b ok:b do:c fail:c compensating:y "
            "undo:b undone:b forward:y again:b again:c do:b ok:b do:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-G8 rounds in rounds: all used up",
        "x(a; y(b; c):rounds=2):rounds=2; d",
        "c:fail,fail,fail,fail",
        (
            "do:a ok:a do:b ok:b do:c fail:c compensating:y undo:b undone:b forward:y again:b "
            "again:c do:b ok:b do:c fail:c compensating:x undo:b undone:b undo:a undone:a "
            "forward:x again:a again:b again:c do:a ok:a do:b ok:b do:c fail:c compensating:y "
            "undo:b undone:b forward:y again:b again:c do:b ok:b do:c fail:c turn undo:b undone:b "
            "undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "retries are used up in each round",
        "y(b; c:retry=2):rounds=2; d",
        "c:retriable,retriable,retriable,ok",
        (
            "do:b ok:b do:c retry:c do:c fail:c compensating:y undo:b undone:b forward:y again:b "
            "again:c do:b ok:b do:c retry:c do:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "a round waits until siblings have stopped",
        "y(b | c):rounds=2; d",
        "b:run+hang c:fail,ok",
        (
            "do:b do:c run:b fail:c compensating:y cancel:b stopped:b forward:y again:b again:c "
            "do:b do:c ok:b ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "a round waits until siblings are awaited",
        "y(b:await | c):rounds=2; d",
        "b:run+wait+ok c:fail,ok",
        (
            "do:b do:c run:b fail:c compensating:y ok:b undo:b undone:b forward:y again:b again:c "
            "do:b do:c ok:b ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "a round waits until what may be on its way is fenced",
        "y(b | c):rounds=2; d",
        "b:hang/missing,ok c:fail,ok",
        (
            "do:b do:c fail:c compensating:y cancel:b lost:b undo:b undone:b forward:y again:b "
            "again:c do:b do:c ok:b ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "a round waits while a compensation is BLOCKED",
        "y(b; c):rounds=2; d",
        "c:fail,ok undo-b:fail,fail,ok",
        (
            "do:b ok:b do:c fail:c compensating:y undo:b un-fail:b stuck:b BLOCKED undo:b "
            "un-fail:b undo:b undone:b forward:y again:b again:c do:b freed ok:b do:c ok:c do:d "
            "ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "what was given up is in the way of another round",
        "y(b; c):rounds=2; d",
        "c:fail undo-b:fail abandon-b@BLOCKED",
        (
            "do:b ok:b do:c fail:c compensating:y undo:b un-fail:b stuck:b BLOCKED asked "
            "abandoned:b freed forward:y = FAILED"
        ),
    ),
    Row(
        "marked done: another round",
        "y(b; c):rounds=2; d",
        "c:fail,ok undo-b:fail done-b@BLOCKED",
        (
            "do:b ok:b do:c fail:c compensating:y undo:b un-fail:b stuck:b BLOCKED asked undone:b "
            "forward:y again:b again:c do:b freed ok:b do:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "a failure after it: no other round",
        "y(b; c):rounds=2; d",
        "d:fail",
        "do:b ok:b do:c ok:c do:d fail:d turn undo:c undone:c undo:b undone:b = COMPENSATED",
    ),
    Row(
        "others go on beside a round",
        "y(b; c):rounds=2 | d",
        "c:fail,ok d:run+wait+wait+wait+wait+ok",
        (
            "do:d do:b run:d ok:b do:c fail:c compensating:y undo:b undone:b forward:y again:b "
            "again:c do:b ok:b do:c ok:c ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "cancelled between rounds",
        "y(b; c):rounds=2; d",
        "c:fail,ok undo-b:run+wait+ok cancel@compensating:y",
        "do:b ok:b do:c fail:c compensating:y undo:b asked turn forward:y undone:b = COMPENSATED",
    ),
    Row(
        "cancelled in the second round",
        "y(b; c):rounds=2; d",
        "c:fail,ok cancel@do:b#2",
        (
            "do:b ok:b do:c fail:c compensating:y undo:b undone:b forward:y again:b again:c do:b "
            "asked turn cancel:b stopped:b = COMPENSATED"
        ),
    ),
    Row(
        "a failure beside it ends its rounds",
        "(y(b; c):rounds=2 | d); e",
        "c:fail undo-b:run+wait+ok d:run+hang say-d.1-fail@compensating:y",
        (
            "do:d do:b run:d ok:b do:c fail:c compensating:y undo:b fail:d turn forward:y "
            "undone:b = COMPENSATED"
        ),
    ),
    Row(
        "stale words of the first round",
        "y(b; c):rounds=2; d",
        "c:fail,wait+ok say-b.1-fail@do:b#2 say-c.1-ok@do:c#2",
        (
            "do:b ok:b do:c fail:c compensating:y undo:b undone:b forward:y again:b again:c do:b "
            "late:b ok:b do:c late:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "a pause by policy comes after the last round",
        "y(b; c:pause):rounds=2; d",
        "c:fail,fail,ok resume+rerun-c@PAUSED",
        (
            "do:b ok:b do:c fail:c compensating:y undo:b undone:b forward:y again:b again:c do:b "
            "ok:b do:c fail:c pausing PAUSED asked resumed asked again:c do:c ok:c do:d ok:d "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "a quorum does without a member, whatever its policy, before another round",
        "y(b | c:stop | e):min=2:rounds=2; d",
        "c:fail",
        "do:b do:c do:e ok:b fail:c ok:e do:d ok:d = SUCCEEDED",
    ),
    Row(
        "a recovery comes after the last round",
        "g(a; b){r}:recover:rounds=2; d",
        "b:fail,fail",
        (
            "do:a ok:a do:b fail:b compensating:g undo:a undone:a forward:g again:a again:b "
            "again:r do:a ok:a do:b fail:b recovering:g do:r ok:r recovered:g do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "all of the workflow in rounds",
        "y(b; c; d):rounds=2",
        "d:fail,ok",
        (
            "do:b ok:b do:c ok:c do:d fail:d compensating:y undo:c undone:c undo:b undone:b "
            "forward:y again:b again:c again:d do:b ok:b do:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "read-only tasks run again without being made up for",
        "y(b:ro; c):rounds=2; d",
        "c:fail,ok",
        (
            "do:b ok:b do:c fail:c compensating:y forward:y again:b again:c do:b ok:b do:c ok:c "
            "do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "skipped tasks are looked at again",
        "y(b:when=input.no; c):rounds=2; d",
        "c:fail,ok",
        (
            "skip:b do:c fail:c compensating:y forward:y again:b again:c skip:b do:c ok:c do:d "
            "ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "an inner group that was made up for alone begins again",
        "x(y(a; b):group; c):rounds=2; d",
        "b:fail,ok c:fail,ok",
        (
            "do:a ok:a do:b fail:b compensating:y undo:a undone:a compensated:y do:c fail:c "
            "compensating:x forward:x forward:y again:a again:b again:c do:a ok:a do:b ok:b do:c "
            "ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "an inner group that was recovered begins again",
        "x(y(a; b){r}:recover; c):rounds=2; d",
        "b:fail,ok c:fail,ok",
        (
            "do:a ok:a do:b fail:b recovering:y do:r ok:r recovered:y do:c fail:c compensating:x "
            "undo:r undone:r undo:a undone:a forward:x forward:y again:a again:b again:r again:c "
            "do:a ok:a do:b ok:b skip:r do:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "an inner group that was skipped is looked at again",
        "x(y(a; b):when=input.no; c):rounds=2; d",
        "c:fail,ok",
        (
            "skipped:y skip:a skip:b do:c fail:c compensating:x forward:x forward:y again:a "
            "again:b again:c skipped:y skip:a skip:b do:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "an inner group that a quorum did without begins again",
        "x(g(a(e; f) | b):min=1; c):rounds=2; d",
        "f:fail,ok c:wait+wait+wait+wait+wait+wait+wait+fail,ok",
        (
            "do:b do:e ok:b do:c ok:e do:f fail:f compensating:a undo:e undone:e failed:a fail:c "
            "compensating:x undo:b undone:b forward:x forward:a again:e again:f again:b again:c "
            "do:b do:e ok:b do:c ok:e do:f ok:c do:d ok:f ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-V18 a new owner between rounds",
        "y(b; c):rounds=2; d",
        "c:fail,ok owner@undone:b owner@do:b#2",
        (
            "do:b ok:b do:c fail:c compensating:y undo:b undone:b forward:y again:b again:c do:b "
            "owner owner ok:b do:c ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_new_owners_tell_the_same_story(row: Row):
    tells_the_same_under_new_owners(row)


def group(told: Play, name: str) -> Group:
    """Returns the record of a group."""
    record = told.workflow.nodes[told.workflow.plan.by_name[name]]
    assert isinstance(record, Group)
    return record


def test_a_reset_keeps_what_was_as_history():
    """S-D2: the attempts of the first time stay beside those of the second."""
    told = play("x(a; y(b; c:pause)); e", "c:fail,ok resume+reset-y@PAUSED")
    by_name = told.workflow.plan.by_name
    tried = {name: len(told.workflow.task(by_name[name]).attempts) for name in "abce"}
    assert tried == {"a": 1, "b": 3, "c": 2, "e": 1}


def test_rounds_are_counted_and_kept_with_their_history():
    """S-G6: three actions, two of them made up for."""
    told = play("y(b | c):rounds=3; d", "c:fail,fail,ok")
    assert group(told, "y").round == 3
    kinds = [a.kind for a in told.workflow.task(told.workflow.plan.by_name["b"]).attempts]
    action, compensation = AttemptKind.ACTION, AttemptKind.COMPENSATION
    assert kinds == [action, compensation, action, compensation, action]


def test_another_round_of_a_group_gives_those_in_it_their_own_again():
    """S-G8: the second round of x begins with the first of y."""
    told = play("x(a; y(b; c):rounds=2):rounds=2", "c:fail,fail,hang")
    assert (group(told, "x").round, group(told, "y").round) == (2, 1)
    assert restore(told.workflow) == told.workflow


def test_a_closed_group_says_why():
    told = play("x(a; y(b; c)):group; d", "c:fail")
    failure = group(told, "x").failure
    assert group(told, "x").state is GroupState.COMPENSATED
    assert failure is not None
    assert failure.reason == "BROKEN"
    assert group(told, "y").state is GroupState.FORWARD
    assert told.workflow.cause is None


def test_what_a_group_left_is_not_readable_once_it_is_made_up_for():
    """S-G10: yet it stays in the history."""
    told = play("x(a; b):group; c", "b:fail")
    task = told.workflow.task(told.workflow.plan.by_name["a"])
    assert dict(task.output) == {}
    assert task.action is not None
    assert dict(task.action.output) == {"image": "a.1"}


def test_deep_nesting_goes_forward_and_back():
    depth = 30
    text = "".join(f"g{n}(a{n}; " for n in range(depth)) + "z" + ")" * depth
    told = Play(script=script("z:fail"))
    told.begin(tree(text))
    told.run()
    undone = [word for word in told.log if word.startswith("undone:")]
    assert undone == [f"undone:a{n}" for n in reversed(range(depth))]
