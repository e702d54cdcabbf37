"""Groups of many: fan-outs and their items, quorums, joins, and bounds on how many are at work."""

from __future__ import annotations

import pytest

from coordinator.saga.states import AttemptKind, GroupState, TaskState, WorkflowState
from coordinator.saga.workflow import Group
from tests.saga.language import Play, play, script, tree
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    # S-C1, S-C5, S-R19: failed items, or chosen ones.
    Row(
        "S-C1 only the failed items",
        "g(a | b | c):fan:pause; d",
        "a:fail,ok c:fail,ok resume+rerun-g@PAUSED",
        (
            "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED asked resumed asked again:a asked "
            "again:c do:a do:c ok:a ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-C5 chosen items",
        "g(a | b | c):fan:pause; d",
        "a:fail,ok c:fail,ok resume+rerun-g.0.2@PAUSED",
        (
            "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED asked resumed asked again:a asked "
            "again:c do:a do:c ok:a ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-C5 chosen items, one by one",
        "g(a | b | c):fan:pause; d",
        "a:fail,ok c:fail,ok resume+rerun-g.0+rerun-g.2@PAUSED",
        (
            "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED asked resumed asked again:a asked "
            "again:c do:a do:c ok:a ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-R19 one item is rerun, the other skipped",
        "g(a | b | c):fan:pause; d",
        "a:fail,ok c:fail,ok resume+rerun-g.0+skip-c@PAUSED",
        (
            "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED asked resumed asked again:a asked "
            "skip:c do:a ok:a do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "S-R14 a chosen item does not decide about another: refused",
        "g(a | b | c):fan:pause; d",
        "a:fail,ok c:fail,ok resume+rerun-g.0@PAUSED",
        "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED refused = PAUSED",
    ),
    Row(
        "S-C5 an index out of range: refused",
        "g(a | b | c):fan:pause; d",
        "a:fail,ok c:fail,ok resume+rerun-g.0.2.3@PAUSED",
        "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED refused = PAUSED",
    ),
    Row(
        "S-C5 an item that succeeded: refused",
        "g(a | b | c):fan:pause; d",
        "a:fail,ok c:fail,ok resume+rerun-g.0.1.2@PAUSED",
        "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED refused = PAUSED",
    ),
    Row(
        "indices of what is no fan-out: refused",
        "g(a | b | c):pause; d",
        "a:fail,ok c:fail,ok resume+rerun-g.0.2@PAUSED",
        "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED refused = PAUSED",
    ),
    Row(
        "S-C4 only rerun items see other values",
        "g(a | b | c):fan:pause; d",
        "a:fail,ok c:fail,ok resume+rerun-g/image=x@PAUSED",
        (
            "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED asked resumed asked again:a asked "
            "again:c do:a do:c ok:a ok:c do:d ok:d = SUCCEEDED"
        ),
    ),
    Row(
        "items that are sequences: what failed in them",
        "g(x(a; b) | y(c; d)):fan:pause; e",
        "b:fail,ok c:fail,ok resume+rerun-g@PAUSED",
        (
            "do:a do:c ok:a do:b fail:c pausing fail:b PAUSED asked resumed asked again:b asked "
            "again:c do:b do:c ok:b ok:c do:d ok:d do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "items that are sequences: one of them",
        "g(x(a; b) | y(c; d)):fan:pause; e",
        "b:fail,ok resume+rerun-g.0@PAUSED",
        (
            "do:a do:c ok:a do:b ok:c do:d fail:b pausing ok:d PAUSED asked resumed asked again:b "
            "do:b ok:b do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "all items are skipped",
        "g(a | b | c):fan:pause; d",
        "a:fail c:fail resume+skip-g@PAUSED",
        (
            "do:a do:b do:c fail:a pausing ok:b fail:c PAUSED asked resumed asked skip:a asked "
            "skip:c do:d ok:d = SUCCEEDED"
        ),
    ),
    # S-C6: nothing to do.
    Row("S-C6 an empty list: success at once", "g():fan; d", "", "do:d ok:d = SUCCEEDED"),
    Row("S-C6 an empty list and nothing else", "g():fan", "", "= SUCCEEDED"),
    Row(
        "S-C6 an empty list after something", "a; g():fan; d", "", "do:a ok:a do:d ok:d = SUCCEEDED"
    ),
    Row(
        "S-C6 an empty list beside something",
        "a | g():fan | d<g",
        "",
        "do:a do:d ok:a ok:d = SUCCEEDED",
    ),
    Row(
        "S-C6 an empty list in an empty list",
        "x(g():fan | h():fan):fan; d",
        "d:fail",
        "do:d fail:d turn = COMPENSATED",
    ),
    Row(
        "S-C6 an empty list, then made up for",
        "a; g():fan; d",
        "d:fail",
        "do:a ok:a do:d fail:d turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "S-C6 an empty list is rerun with its group",
        "x(g():fan; a):rounds=2; d",
        "a:fail,ok",
        "do:a fail:a compensating:x forward:x again:a do:a ok:a do:d ok:d = SUCCEEDED",
    ),
    # S-C7: what becomes of the other items.
    Row(
        "S-C7 the others finish first, if their policy says so",
        "g(a:await | b:await | c:await):fan; d",
        "a:fail b:run+wait+ok c:run+wait+fail",
        "do:a do:b do:c fail:a turn run:b run:c fail:c ok:b undo:b undone:b = COMPENSATED",
    ),
    Row(
        "S-C7 the others are cancelled",
        "g(a | b | c):fan; d",
        "a:fail b:run+wait+ok",
        "do:a do:b do:c fail:a turn cancel:b cancel:c stopped:b stopped:c = COMPENSATED",
    ),
    Row(
        "S-C7 the others finish before an operator is asked",
        "g(a | b | c):fan:pause; d",
        "a:fail,ok b:run+wait+ok c:run+wait+fail,ok",
        "do:a do:b do:c fail:a pausing run:b run:c fail:c ok:b PAUSED = PAUSED",
    ),
    Row(
        "S-Z6 one of many fails: all that took effect is made up for",
        "g(a | b | c | d):fan; e",
        "a:ok b:ok c:ok d:wait+fail",
        (
            "do:a do:b do:c do:d ok:a ok:b ok:c fail:d turn undo:a undo:b undo:c undone:a "
            "undone:b undone:c = COMPENSATED"
        ),
    ),
    # S-F3: quorums.
    Row(
        "S-F3 two of three: what follows begins once",
        "g(a | b | c):min=2; d",
        "",
        "do:a do:b do:c ok:a ok:b do:d ok:c ok:d = SUCCEEDED",
    ),
    Row(
        "S-F3 the third finishes later",
        "g(a | b | c):min=2; d",
        "c:run+wait+wait+wait+ok",
        "do:a do:b do:c ok:a ok:b do:d run:c ok:d ok:c = SUCCEEDED",
    ),
    Row(
        "S-F3 the third fails later: it is tolerated",
        "g(a | b | c):min=2; d",
        "c:wait+wait+wait+wait+wait+fail",
        "do:a do:b do:c ok:a ok:b do:d ok:d fail:c = SUCCEEDED",
    ),
    Row(
        "S-F3 the third finishes last of all",
        "g(a | b | c):min=2; d",
        "c:run+wait+wait+wait+ok d:run+ok",
        "do:a do:b do:c ok:a ok:b do:d run:c run:d ok:d ok:c = SUCCEEDED",
    ),
    Row(
        "S-F3 the workflow waits for the third",
        "g(a | b | c):min=2",
        "c:run+wait+ok",
        "do:a do:b do:c ok:a ok:b run:c ok:c = SUCCEEDED",
    ),
    Row(
        "S-F3 one fails, two succeed",
        "g(a | b | c):min=2; d",
        "a:fail c:run+wait+ok",
        "do:a do:b do:c fail:a ok:b run:c ok:c do:d ok:d = SUCCEEDED",
    ),
    Row(
        "S-F4 two fail: it cannot be reached any more",
        "g(a | b | c):min=2; d",
        "a:fail b:fail c:run+hang",
        "do:a do:b do:c fail:a fail:b turn cancel:c stopped:c = COMPENSATED",
    ),
    Row(
        "one of three: two fail",
        "g(a | b | c):min=1; d",
        "a:fail b:fail",
        "do:a do:b do:c fail:a fail:b ok:c do:d ok:d = SUCCEEDED",
    ),
    Row(
        "one of three: all fail",
        "g(a | b | c):min=1; d",
        "a:fail b:fail c:fail",
        "do:a do:b do:c fail:a fail:b fail:c turn = COMPENSATED",
    ),
    Row(
        "what comes after a failed member never begins",
        "g(a | b<a | c):min=1; e",
        "a:fail",
        "do:a do:c fail:a ok:c do:e ok:e = SUCCEEDED",
    ),
    Row(
        "what comes after a failed member counts as lost",
        "g(a | b<a | c):min=2; e",
        "a:fail",
        "do:a do:c fail:a turn cancel:c stopped:c = COMPENSATED",
    ),
    Row(
        "what comes after two failed members is lost once",
        "g(a | b | c<a,b | d | e):min=2; f",
        "a:fail b:fail",
        "do:a do:b do:d do:e fail:a fail:b ok:d ok:e do:f ok:f = SUCCEEDED",
    ),
    Row(
        "and not more often",
        "g(a | b | c<a,b | d | e):min=2; f",
        "a:fail b:fail d:fail",
        "do:a do:b do:d do:e fail:a fail:b fail:d turn cancel:e stopped:e = COMPENSATED",
    ),
    Row(
        "an optional member is no lost one",
        "g(a:ignore | b<a | c):min=2; d",
        "a:fail c:fail",
        "do:a do:c fail:a do:b fail:c ok:b do:d ok:d = SUCCEEDED",
    ),
    Row(
        "a failed sequence is made up for, the others go on",
        "g(x(a; b) | y(c; d)):min=1; e",
        "b:fail",
        (
            "do:a do:c ok:a do:b ok:c do:d fail:b compensating:x undo:a ok:d do:e undone:a "
            "failed:x ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "two sequences fail at the same time: one too many",
        "g(x(a; b) | y(c; d)):min=1; e",
        "b:fail d:fail",
        (
            "do:a do:c ok:a do:b ok:c do:d fail:b compensating:x undo:a fail:d turn forward:x "
            "undo:c undone:a undone:c = COMPENSATED"
        ),
    ),
    Row(
        "two sequences fail at the same time, a third is enough",
        "g(x(a; b) | y(c; d) | z<x,y | q):min=1; e",
        "b:fail d:fail q:run+wait+wait+wait+wait+wait+wait+ok",
        (
            "do:q do:a do:c run:q ok:a do:b ok:c do:d fail:b compensating:x undo:a fail:d "
            "compensating:y undo:c undone:a failed:x undone:c failed:y ok:q do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "the sequence that failed is BLOCKED",
        "g(x(a; b) | c):min=1; e",
        "b:fail undo-a:fail,ok",
        (
            "do:c do:a ok:c do:e ok:a do:b ok:e fail:b compensating:x undo:a un-fail:a stuck:a "
            "BLOCKED undo:a undone:a failed:x freed = SUCCEEDED"
        ),
    ),
    Row(
        "S-F4 made up for with all the rest, the third is cancelled",
        "g(a | b | c):min=2; d",
        "c:run+hang d:fail",
        (
            "do:a do:b do:c ok:a ok:b do:d run:c fail:d turn cancel:c undo:a undo:b stopped:c "
            "undone:a undone:b = COMPENSATED"
        ),
    ),
    Row(
        "a quorum of a fan-out",
        "g(a | b | c):fan:min=2; d",
        "b:fail",
        "do:a do:b do:c ok:a fail:b ok:c do:d ok:d = SUCCEEDED",
    ),
    Row(
        "a quorum in a quorum",
        "g(x(a | b):min=1 | c):min=1; d",
        "a:fail b:fail",
        "do:c do:a do:b ok:c do:d fail:a fail:b compensating:x failed:x ok:d = SUCCEEDED",
    ),
    Row(
        "skipped members pass",
        "g(a:when=input.no | b | c):min=2; d",
        "b:fail",
        "skip:a do:b do:c fail:b ok:c do:d ok:d = SUCCEEDED",
    ),
    Row(
        "a quorum pauses only beyond what it can spare",
        "g(a | b | c):min=2; d",
        "a:fail c:run+wait+ok pause@ok:b resume@PAUSED",
        (
            "do:a do:b do:c fail:a ok:b asked pausing run:c ok:c PAUSED asked resumed do:d ok:d = "
            "SUCCEEDED"
        ),
    ),
    # S-F4: joins.
    Row(
        "S-F4 a join never begins when one before it fails",
        "a | b | j<a,b",
        "a:fail b:run+hang",
        "do:a do:b fail:a turn cancel:b stopped:b = COMPENSATED",
    ),
    Row(
        "S-F4 a join never begins when one before it fails indirectly",
        "x(a; b) | y(c) | j<x,y",
        "b:fail c:run+wait+ok",
        "do:a do:c ok:a do:b run:c fail:b turn cancel:c undo:a stopped:c undone:a = COMPENSATED",
    ),
    Row(
        "S-F4 a join begins after an optional failure",
        "a:ignore | b | j<a,b",
        "a:fail",
        "do:a do:b fail:a ok:b do:j ok:j = SUCCEEDED",
    ),
    # A bound on how many are at work.
    Row(
        "two at a time",
        "g(a | b | c | d):max=2; e",
        "",
        "do:a do:b ok:a do:c ok:b do:d ok:c ok:d do:e ok:e = SUCCEEDED",
    ),
    Row(
        "one at a time",
        "g(a | b | c):max=1; d",
        "",
        "do:a ok:a do:b ok:b do:c ok:c do:d ok:d = SUCCEEDED",
    ),
    Row(
        "more places than members",
        "g(a | b):max=5; c",
        "",
        "do:a do:b ok:a ok:b do:c ok:c = SUCCEEDED",
    ),
    Row(
        "two sequences at a time",
        "g(x(a; b) | y(c; d) | z(e; f)):max=2; h",
        "",
        "do:a do:c ok:a do:b ok:c do:d ok:b do:e ok:d ok:e do:f ok:f do:h ok:h = SUCCEEDED",
    ),
    Row(
        "one that is retried keeps its place",
        "g(a:retry=2 | b | c):max=1; e",
        "a:retriable,ok",
        "do:a retry:a do:a ok:a do:b ok:b do:c ok:c do:e ok:e = SUCCEEDED",
    ),
    Row(
        "one that waits keeps its place",
        "g(a:wait=5:rest=5 | b):max=1; e",
        "",
        "wait:a do:a ok:a do:b ok:b do:e ok:e = SUCCEEDED",
    ),
    Row(
        "an unknown outcome keeps its place",
        "g(a | b):max=1",
        "a:lost+wait+ok",
        "do:a lost:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "an optional failure gives its place to the next",
        "g(a:ignore | b | c):max=1; e",
        "a:fail",
        "do:a fail:a do:b ok:b do:c ok:c do:e ok:e = SUCCEEDED",
    ),
    Row(
        "a skipped one gives its place to the next",
        "g(a:when=input.no | b | c):max=1; e",
        "",
        "skip:a do:b ok:b do:c ok:c do:e ok:e = SUCCEEDED",
    ),
    Row(
        "those that wait never begin after a failure",
        "g(a | b | c | d):max=1; e",
        "b:fail",
        "do:a ok:a do:b fail:b turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "one at a time, in their order after others",
        "g(a | b<a | c):max=1; e",
        "",
        "do:a ok:a do:b ok:b do:c ok:c do:e ok:e = SUCCEEDED",
    ),
    Row(
        "one at a time, two of three",
        "g(a | b | c):max=1:min=2; e",
        "a:fail",
        "do:a fail:a do:b ok:b do:c ok:c do:e ok:e = SUCCEEDED",
    ),
    Row(
        "one at a time, two of three: one too many fails",
        "g(a | b | c):max=1:min=2; e",
        "a:fail b:fail",
        "do:a fail:a do:b fail:b turn = COMPENSATED",
    ),
    Row(
        "one at a time: paused by a failure, rerun",
        "g(a:pause | b | c):max=1; e",
        "a:fail,ok resume+rerun-a@PAUSED",
        (
            "do:a fail:a pausing PAUSED asked resumed asked again:a do:a ok:a do:b ok:b do:c ok:c "
            "do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "one at a time: paused by a failure, skipped",
        "g(a:pause | b | c):max=1; e",
        "a:fail,ok resume+skip-a@PAUSED",
        (
            "do:a fail:a pausing PAUSED asked resumed asked skip:a do:b ok:b do:c ok:c do:e ok:e "
            "= SUCCEEDED"
        ),
    ),
    Row(
        "one at a time: another round",
        "g(a | b | c):max=1:rounds=2; e",
        "b:fail,ok",
        (
            "do:a ok:a do:b fail:b compensating:g undo:a undone:a forward:g again:a again:b "
            "again:c do:a ok:a do:b ok:b do:c ok:c do:e ok:e = SUCCEEDED"
        ),
    ),
    Row(
        "S-Z6 cancelled while others wait for a place",
        "g(a | b | c):max=1; e",
        "a:run+hang cancel@run:a",
        "do:a run:a asked turn cancel:a stopped:a = COMPENSATED",
    ),
    Row(
        "a bound: what never begins leaves no place to others",
        "g(a | b<a | c | d | e):max=1:min=1",
        "a:fail c:wait+ok d:wait+ok",
        "do:a fail:a do:c ok:c do:d ok:d do:e ok:e = SUCCEEDED",
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_new_owners_tell_the_same_story(row: Row):
    tells_the_same_under_new_owners(row)


def actions(told: Play, *names: str) -> int:
    """Returns how many attempts of their actions some tasks have made."""
    tasks = (told.workflow.task(told.workflow.plan.by_name[name]) for name in names)
    return sum(a.kind is AttemptKind.ACTION for task in tasks for a in task.attempts)


def test_without_a_reset_only_failed_items_make_further_attempts():
    """S-C1: three and two."""
    told = play("g(a | b | c):fan:pause", "a:fail,ok c:fail,ok resume+rerun-g@PAUSED")
    assert actions(told, "a", "b", "c") == 5
    outputs = [task.output["image"] for _, task in told.workflow.tasks()]
    assert outputs == ["a.2", "b.1", "c.2"]  # in the order of the items


def test_reruns_with_and_without_a_reset_add_up():
    """S-C2: 3, then 2 failed ones, a reset of all 3, then 2 and 2 failed ones."""
    fails = "fail,fail,fail,fail,ok"
    told = Play(script=script(f"a:{fails} c:{fails}"))
    told.begin(tree("g(a | b | c):fan:pause; d"))
    told.run()
    totals = [actions(told, "a", "b", "c")]
    for verb in ("rerun", "reset", "rerun", "rerun"):
        told.perform(told.by_others(f"resume+{verb}-g"))
        told.run()
        totals.append(actions(told, "a", "b", "c"))
    assert totals == [3, 5, 8, 10, 12]
    assert told.workflow.state is WorkflowState.SUCCEEDED


def test_only_items_that_are_rerun_see_other_values():
    """S-C4: b has succeeded, and c is skipped."""
    told = play(
        "g(a:takes=input.size | b:takes=input.size | c:takes=input.size):fan:pause",
        "a:fail,ok c:fail resume+rerun-g.0/size=9+skip-c@PAUSED",
    )
    values = [
        [attempt.inbound[0].value for attempt in task.attempts] for _, task in told.workflow.tasks()
    ]
    assert values == [[7, 9], [7], [7]]


def test_what_follows_a_quorum_starts_once():
    """S-F3: the third success begins nothing."""
    told = play("g(a | b | c):min=2; d", "d:run+wait+wait+ok")
    assert told.log.count("do:d") == 1
    assert told.workflow.state is WorkflowState.SUCCEEDED


def test_a_member_that_a_quorum_does_without_is_shown_as_failed():
    told = play("g(x(a; b) | c | d<x):min=1; e", "b:fail")
    by_name = told.workflow.plan.by_name
    group = told.workflow.nodes[by_name["x"]]
    assert isinstance(group, Group)
    assert group.state is GroupState.FAILED
    assert group.failure is not None
    states = [told.workflow.task(by_name[name]).state for name in "abd"]
    assert states == [TaskState.COMPENSATED, TaskState.FAILED, TaskState.CANCELLED]
    assert told.workflow.cause is None


def test_a_long_chain_behind_a_lost_member_is_lost_with_it():
    """S-Z29: however long, and without a recursion that would end it."""
    chain = " | ".join(f"t{n}<t{n - 1}" for n in range(1, 1_500))
    told = Play(script=script("t0:fail"))
    told.begin(tree(f"g(t0 | {chain} | z):min=1"))
    told.step()
    told.step()
    assert told.workflow.state is WorkflowState.SUCCEEDED
    states = [task.state for _, task in told.workflow.tasks()]
    assert states.count(TaskState.CANCELLED) == 1_499


@pytest.mark.parametrize("most", [1, 2, 3])
def test_never_are_more_at_work_than_allowed(most: int):
    told = Play(script=script("b:retriable,ok d:lost+ok"))
    told.begin(tree(f"g(a | b:retry=2 | c | d | e | f):max={most}"))
    highest = 0
    while told.step():
        working = (
            TaskState.STARTING,
            TaskState.RUNNING,
            TaskState.UNKNOWN,
            TaskState.RETRY_WAIT,
        )
        count = sum(task.state in working for _, task in told.workflow.tasks())
        highest = max(highest, count)
        assert count <= most
    assert highest == most
    assert told.workflow.state is WorkflowState.SUCCEEDED
