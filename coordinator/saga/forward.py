"""Going forward: who has passed, who is at rest, and what comes after.

The walk over the tree in the direction of the work:

    begin     when those a node comes after have passed
    passed    tells its group and those that come after it
    dropped   a member failed, its group goes on with the others
    rested    it goes forward no more

A group may pass before it is at rest: once as many members as it needs have passed. A task that
has parts is gone on from once they are at rest, too: nobody else hears of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from coordinator.saga import back, ending, parts
from coordinator.saga.commands import Timer
from coordinator.saga.plan import Plan, ancestors
from coordinator.saga.spec import OnFailure
from coordinator.saga.states import (
    AT_REST,
    BEING_COMPENSATED,
    GROUP_PASSED,
    IN_FLIGHT,
    PASSED,
    UNSETTLED,
    GroupChange,
    GroupState,
    TaskChange,
    TaskState,
)
from coordinator.saga.turn import Step, Turn
from coordinator.saga.workflow import CLOSE, Group, Task


def goes_forward(turn: Turn, index: int) -> bool:
    """Returns whether nothing around a node is being made up for, recovered or at an end."""
    if turn.plan.is_end_action(index):
        return turn.verdict is not None
    if turn.cause is not None or not parts.are_at_work(turn, index):
        return False
    below = index
    for above in ancestors(turn.plan, turn.plan.nodes[index].parent):
        group = turn.group(above)
        recovers = group.state is GroupState.RECOVERING and turn.plan.nodes[below].recovers
        if group.state is not GroupState.FORWARD and not recovers:
            return False
        below = above
    return True


def open_group(turn: Turn, index: int) -> None:
    """Lets the first members of a group begin."""
    node = turn.plan.nodes[index]
    if not node.forward:
        turn.nodes[index] = replace(turn.group(index), passed_empty=True)
        if not turn.restoring:
            skip_unused(turn, index)
        done(turn, index)
    for member in node.forward:
        if not turn.plan.nodes[member].after:
            offer(turn, member)


def offer(turn: Turn, index: int) -> None:
    """Lets a member begin, or wait for a place where their number is bounded."""
    parent = turn.plan.nodes[index].parent
    if parent < 0 or not turn.plan.nodes[parent].rules.concurrency_max:
        turn.later(Step.BEGIN, index)
        return
    group = turn.group(parent)
    # What has nothing to run needs no place: whoever reads it back sees that it has passed.
    is_empty = next(turn.plan.leaves_of(index), None) is None
    if is_empty or (turn.restoring and turn.is_touched(index)):
        turn.nodes[parent] = replace(group, at_work=group.at_work + 1)
        turn.later(Step.BEGIN, index)
    else:
        waiting = tuple(sorted((*group.waiting, index)))
        turn.nodes[parent] = replace(group, waiting=waiting)
        fill(turn, parent)


def fill(turn: Turn, parent: int) -> None:
    """Lets waiting members of a group begin as far as there are places."""
    if turn.restoring or turn.holding:
        return
    group = turn.group(parent)
    room = turn.plan.nodes[parent].rules.concurrency_max - group.at_work
    # A task that is run anew takes no place before its parts are made up for.
    ripe = (member for member in group.waiting if parts.settled(turn, member))
    chosen = tuple(islice(ripe, max(0, room)))
    if chosen:
        left = list(group.waiting)
        for member in chosen:
            left.remove(member)  # nearly always the first
        turn.nodes[parent] = replace(
            group, at_work=group.at_work + len(chosen), waiting=tuple(left)
        )
        for member in chosen:
            turn.later(Step.BEGIN, member)


def done(turn: Turn, index: int) -> None:
    """Goes on from a node that has passed and is at rest, once its parts are as well."""
    if turn.plan.nodes[index].under >= 0:
        part_rested(turn, index)
    elif parts.settled(turn, index):
        _tell(turn, index)
        turn.later(Step.RESTED, index)


def part_rested(turn: Turn, part: int) -> None:
    """Goes on from a part that has come to rest; if all have, from its whole."""
    back.go_on_with_parts(turn, part)
    parts_rested(turn, turn.plan.nodes[part].under)


def attempt_is_over(turn: Turn, whole: int) -> None:
    """Makes up for what was done within an attempt that is over, before anything comes of that."""
    if not parts.settled(turn, whole):
        back.make_up_for_parts(turn, whole)
        parts_rested(turn, whole)


def parts_rested(turn: Turn, whole: int) -> None:
    """Goes on from a task that has waited for its parts, if they are all at rest."""
    if not parts.settled(turn, whole):
        return
    task, node = turn.task(whole), turn.plan.nodes[whole]
    if parts.is_given_up(task):
        turn.move(whole, TaskChange.MISSING)
        back.fence(turn, whole)
    elif task.state is TaskState.RETRY_WAIT:
        if task.due_time is not None:
            turn.timer(Timer.DUE, whole, len(task.attempts) + 1, task.due_time)
    elif task.state in IN_FLIGHT or task.state in BEING_COMPENSATED:
        pass  # it has not waited for them
    elif node.under >= 0:
        part_rested(turn, whole)
    elif task.compensation_due:
        turn.later(Step.MAKE_UP_FOR, whole)
    elif goes_forward(turn, whole):
        _go_on_from(turn, whole)
    elif turn.cause is None:
        settled_beside_recovery(turn, whole)


def _go_on_from(turn: Turn, whole: int) -> None:
    """Does what was put off until the parts of a task were at rest: run it anew, or tell of it."""
    task, parent = turn.task(whole), turn.plan.nodes[whole].parent
    if task.state is TaskState.PENDING and whole in turn.group(parent).waiting:
        fill(turn, parent)
    elif task.state is TaskState.PENDING:
        turn.later(Step.BEGIN, whole)
    elif has_passed(turn, whole):
        done(turn, whole)
    elif task.state is TaskState.FAILED and not task.needs_decision:
        turn.later(Step.DROPPED, whole)


def _tell(turn: Turn, index: int) -> None:
    # Several may pass in one turn: the last of them begins what follows, once.
    turn.untold.add(index)
    turn.later(Step.PASSED, index)


def passed(turn: Turn, index: int) -> None:
    """Tells those that come after a node, and its group, that it has passed."""
    node = turn.plan.nodes[index]
    turn.told.add(index)
    turn.untold.discard(index)
    if node.recovers or not goes_forward(turn, index):
        return
    for follower in node.before:
        if not turn.plan.nodes[follower].recovers and all(
            _is_told(turn, earlier) for earlier in turn.plan.nodes[follower].after
        ):
            offer(turn, follower)
    if node.parent < 0:
        return
    group = turn.group(node.parent)
    turn.nodes[node.parent] = replace(group, to_pass=group.to_pass - 1)
    if group.to_pass == 1:
        _tell(turn, node.parent)


def _is_told(turn: Turn, index: int) -> bool:
    if turn.restoring:
        return index in turn.told and index not in turn.dropped
    return index not in turn.untold and has_passed(turn, index)


def has_passed(turn: Turn, index: int) -> bool:
    """Returns whether what comes after a node may begin."""
    node = turn.nodes[index]
    if isinstance(node, Group):
        if node.state is GroupState.FORWARD:
            return node.to_pass <= 0 and (bool(turn.plan.nodes[index].forward) or node.passed_empty)
        return node.state in GROUP_PASSED
    if not parts.settled(turn, index):
        return False
    if node.state in PASSED:
        return node.due_time is None
    if turn.plan.is_end_action(index):
        return node.state in AT_REST
    if node.decided is not None and node.decided.verb == CLOSE:
        return node.state in AT_REST
    ignored = turn.plan.task(index).policy.on_failure is OnFailure.IGNORE
    return node.state is TaskState.FAILED and ignored and not node.needs_decision


def dropped(turn: Turn, index: int) -> None:
    """Goes on without a member that failed; what comes after it never begins."""
    if not goes_forward(turn, index) or not parts.settled(turn, index):
        return
    node, parent = turn.plan.nodes[index], turn.plan.nodes[index].parent
    alone = turn.restoring or not node.before
    already = turn.dropped if alone else _dropped_before(turn, parent)
    for member in (index, *followers(turn.plan, index)):
        if member in already:
            continue
        turn.dropped.add(member)
        group = turn.group(parent)
        # What never begins leaves no place when it comes to rest: it is given one to leave.
        place = member != index and bool(turn.plan.nodes[parent].rules.concurrency_max)
        turn.nodes[parent] = replace(group, failed=group.failed + 1, at_work=group.at_work + place)
        if member != index and not turn.restoring:
            for leaf in turn.plan.leaves_of(member):
                if turn.task(leaf.index).state is TaskState.PENDING:
                    turn.move(leaf.index, TaskChange.STOP)
        turn.later(Step.RESTED, member)


def _dropped_before(turn: Turn, scope: int) -> set[int]:
    """Returns what of a group never begins because of failures before this turn."""
    found = set(turn.dropped)
    for member in turn.plan.nodes[scope].forward:
        if not is_lost(turn.before.nodes[member]) or has_passed(turn, member):
            continue
        if parts.settled(turn.before, member):  # else it was waited for
            found.update(followers(turn.plan, member))
    return found


def is_lost(member: Task | Group) -> bool:
    """Returns whether a group goes on without a member, unless that was optional."""
    if isinstance(member, Group):
        return member.state is GroupState.FAILED
    return member.state is TaskState.FAILED and not member.needs_decision


def rested(turn: Turn, index: int) -> None:
    """Tells a node's group that it goes forward no more."""
    node = turn.plan.nodes[index]
    if node.parent < 0:
        if turn.restoring or (turn.holding and not turn.plan.is_end_action(index)):
            turn.finished = True
        elif turn.plan.is_end_action(index):
            ending.settle(turn)
        else:
            ending.conclude_success(turn)
        return
    if not goes_forward(turn, index):
        if not turn.restoring and turn.cause is None:
            settled_beside_recovery(turn, index)
        return
    if node.recovers:
        if turn.restoring:
            turn.recovered.append(node.parent)
        else:
            leave_recovery(turn, node.parent)
        return
    group = turn.group(node.parent)
    bounded = bool(turn.plan.nodes[node.parent].rules.concurrency_max)
    turn.nodes[node.parent] = replace(group, open=group.open - 1, at_work=group.at_work - bounded)
    if bounded:
        fill(turn, node.parent)
    if group.open == 1:
        if not turn.restoring:
            skip_unused(turn, node.parent)
        turn.later(Step.RESTED, node.parent)


def leave_recovery(turn: Turn, index: int) -> None:
    """Closes the failure of a group, if anything was done to recover it; an operator may say so."""
    recovery = turn.plan.nodes[index].recovery
    members = (leaf.index for leaf in turn.plan.leaves_of(recovery) if leaf.under < 0)
    tasks = [turn.task(index) for index in members]
    recovered = any(
        task.state is TaskState.SUCCEEDED
        or (task.state is TaskState.SKIPPED and task.decided is not None)
        for task in tasks
    )
    failure = turn.group(index).failure
    if not recovered and failure is not None and not back.past_return(turn, 0):
        back.turn_round(turn, failure)  # none of its tasks applied, or all were optional and failed
        return
    turn.move_group(index, GroupChange.RECOVERED)
    turn.forget(index)
    done(turn, index)


def skip_unused(turn: Turn, index: int) -> None:
    """Skips recovery tasks that were not needed."""
    recovery = turn.plan.nodes[index].recovery
    for leaf in turn.plan.leaves_of(recovery) if recovery >= 0 else ():
        if turn.task(leaf.index).state is TaskState.PENDING:
            turn.move(leaf.index, TaskChange.SKIP)


def followers(plan: Plan, index: int) -> Iterator[int]:
    """Yields every sibling that comes after a node, directly or not."""
    seen: set[int] = set()
    found = [index]
    while found:
        for follower in plan.nodes[found.pop()].before:
            if follower not in seen and not plan.nodes[follower].recovers:
                seen.add(follower)
                found.append(follower)
                yield follower


def is_quiet(turn: Turn, scope: int) -> bool:
    """Returns whether nothing is going on any more in a group that is to be recovered."""
    nodes = ((index, turn.nodes[index]) for index in turn.plan.work_of(scope))
    return not any(
        node.state is GroupState.COMPENSATING
        if isinstance(node, Group)
        else node.state in UNSETTLED or not parts.settled(turn, index)
        for index, node in nodes
    )


def settled_beside_recovery(turn: Turn, index: int) -> None:
    """Begins a recovery that has waited for a node to come to rest.

    A recovery that has begun waits for nothing: it is one around it then, for which it was stopped.
    """
    for above in ancestors(turn.plan, turn.plan.nodes[index].parent):
        recovery = turn.plan.nodes[above].recovery
        waits = turn.group(above).state is GroupState.RECOVERING and not turn.is_touched(recovery)
        if waits:
            if is_quiet(turn, above):
                turn.later(Step.BEGIN, recovery)
            return
