"""Going back: making up for what took effect, in reverse order of dependency.

The walk over the tree against the direction of the work:

    make_up_for     when those that come after a node are made up for
    is_made_up_for  tells its group and those it comes after

The whole workflow goes back when it fails; a group goes back alone, while the others go on, when
only it is to be made up for. A single attempt that was too late is made up for to fence it. Parts
of a task whose attempt is over are made up for before it: the walk waits at it until they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from coordinator.saga import parts
from coordinator.saga.commands import SendCancel, SendCompensation, Withdraw
from coordinator.saga.plan import ancestors, outermost, wholes
from coordinator.saga.spec import IRREVERSIBLE, OnSiblingFailure
from coordinator.saga.states import (
    AT_REST,
    BEING_COMPENSATED,
    COMPENSABLE,
    EFFECT_FREE,
    IN_FLIGHT,
    AttemptKind,
    AttemptState,
    Effect,
    GroupChange,
    GroupState,
    TaskChange,
    TaskState,
    WorkflowChange,
)
from coordinator.saga.turn import Step, Turn
from coordinator.saga.workflow import Attempt, Failure, Group, Inbound, Task


def turn_round(turn: Turn, cause: Failure) -> None:
    """Turns the whole workflow round: stores the cause, stops everything, begins to make up."""
    turn.cause = cause
    turn.pause, turn.compensation_held = None, False
    turn.move_workflow(WorkflowChange.FAIL)
    _go_back(turn, 0)


def turn_group_round(turn: Turn, scope: int, then: GroupChange, cause: Failure) -> None:
    """Makes up for one group, while the others go on."""
    if turn.group(scope).state is GroupState.RECOVERING:
        turn.move_group(scope, GroupChange.OVERTAKEN)
    moved = turn.move_group(scope, GroupChange.MAKE_UP, failure=cause)
    turn.nodes[scope] = replace(moved, then=then)
    _go_back(turn, scope, alone=True)


def _go_back(turn: Turn, scope: int, *, alone: bool = False) -> None:
    """Stops everything below a node, and begins to make up for it."""
    for index in turn.plan.below(scope):
        record = turn.nodes[index]
        if isinstance(record, Task):
            stop_leaf(turn, index)
        elif record.state in _UNDER_WAY and not (alone and index == scope):
            turn.move_group(index, GroupChange.OVERTAKEN)
    turn.forget(scope)  # from here on only the way back counts
    turn.later(Step.MAKE_UP_FOR, scope)


_UNDER_WAY = frozenset({GroupState.COMPENSATING, GroupState.RECOVERING})


def past_return(turn: Turn, scope: int, *, beside: int = -1) -> str:
    """Returns the name of another task without an opposite that may have taken effect, if any."""
    end = turn.plan.nodes[scope].end
    for index in turn.plan.irreversible:
        if scope <= index < end and index != beside:
            state = turn.task(index).state
            if state is TaskState.SUCCEEDED or state in IN_FLIGHT:
                return turn.plan.nodes[index].name
    return ""


def stop_leaf(turn: Turn, index: int) -> None:
    """Stops a leaf, or never lets it start; one at work may be left to finish by its policy.

    For a part the policy of its whole counts: neither can finish without the other.
    """
    _begin_no_more(turn, index)
    if turn.task(index).state in IN_FLIGHT:
        spec = turn.plan.task(outermost(turn.plan, index))
        # What cannot be made up for cannot be fenced either: its outcome is awaited.
        if spec.effect not in IRREVERSIBLE and (
            spec.policy.on_sibling_failure is OnSiblingFailure.CANCEL
        ):
            stop(turn, index)


def _begin_no_more(turn: Turn, index: int) -> None:
    task = turn.task(index)
    if task.due_time is not None and task.state not in BEING_COMPENSATED:
        turn.put(index, replace(task, due_time=None))
    if task.needs_decision or task.too_late is not None or task.start_deadline is not None:
        task = turn.task(index)
        turn.put(index, replace(task, needs_decision=False, too_late=None, start_deadline=None))
    if task.state in (TaskState.PENDING, TaskState.READY):
        turn.move(index, TaskChange.STOP)
    elif task.state is TaskState.RETRY_WAIT:
        turn.move(index, TaskChange.STOP, task.failure)


def stop(turn: Turn, index: int) -> None:
    """Asks a task that is, or may be, at work to stop, and its parts with it."""
    if turn.task(index).state is not TaskState.CANCELLING:
        turn.move(index, TaskChange.STOP)
        attempt = replace(turn.task(index).last, state=AttemptState.CANCELLING)
        turn.put_attempt(index, attempt)
        if not attempt.fence_host:  # else it is being settled already, and nobody can stop that
            turn.commands.append(SendCancel(task=index, number=attempt.number, host=attempt.host))
    for part in turn.plan.parts.get(index, ()):
        _stop_part(turn, part)


def _stop_part(turn: Turn, part: int) -> None:
    _begin_no_more(turn, part)
    if turn.task(part).state in IN_FLIGHT:
        stop(turn, part)
    else:
        for under in turn.plan.parts.get(part, ()):
            _stop_part(turn, under)


def scope_of(turn: Turn, index: int) -> int:
    """Returns the group around a node that is made up for alone; -1 if there is none."""
    for above in ancestors(turn.plan, turn.plan.nodes[index].parent):
        if turn.group(above).state is GroupState.COMPENSATING:
            return above
    return -1


def make_up_for(turn: Turn, index: int) -> None:
    """Makes up for a node: everything that comes after it is made up for."""
    node = turn.plan.nodes[index]
    if node.task is None:
        turn.nodes[index] = replace(turn.group(index), compensation_due=True)
        for member in node.members:
            if not turn.plan.nodes[member].before:
                turn.later(Step.MAKE_UP_FOR, member)
        if not node.members:
            turn.later(Step.MADE_UP_FOR, index)
        return
    task = replace(turn.task(index), compensation_due=True)
    turn.nodes[index] = task  # a mark that the walk finds again: not a change to be stored
    make_up_for_parts(turn, index)
    if not parts.settled(turn, index):
        return  # the last of them goes on from here
    nothing_to_make_up_for = task.state in EFFECT_FREE or (
        task.state is TaskState.SUCCEEDED and node.task.effect is Effect.READ_ONLY
    )
    if nothing_to_make_up_for:
        turn.later(Step.MADE_UP_FOR, index)
    elif task.state is TaskState.SUCCEEDED:
        compensate(turn, index)
    # else: it is in flight, or being compensated; its turn comes when that has ended. That goes for
    # UNKNOWN too: it was lost, is awaited, and is still asked about.


def make_up_for_parts(turn: Turn, whole: int) -> None:
    """Stops what is open of the parts of a task whose attempt is over, and makes up for the rest.

    If that is itself a part of something that is over, of all of that.
    """
    over = _outermost_over(turn, whole)
    if over >= 0 and not turn.restoring:
        for part in turn.plan.parts.get(over, ()):
            _stop_part(turn, part)
        go_on_with_parts(turn, whole)


def go_on_with_parts(turn: Turn, index: int) -> None:
    """Makes up for those parts whose turn it is now that another one has come to rest."""
    over = _outermost_over(turn, index)
    for part in tuple(_parts_due(turn, over)) if over >= 0 else ():
        compensate(turn, part)


def parts_due(turn: Turn) -> Iterator[int]:
    """Yields all parts that are to be made up for now."""
    for whole in turn.plan.parts:
        if _outermost_over(turn, whole) == whole:
            yield from _parts_due(turn, whole)


def _outermost_over(turn: Turn, whole: int) -> int:
    """Returns the last of a task, what it is a part of, and so on, that has its turn; or -1."""
    over = -1
    for index in wholes(turn.plan, whole):
        if _has_its_turn(turn, index):
            over = index
    return over


def _parts_due(turn: Turn, whole: int) -> Iterator[int]:
    """Yields the parts whose turn has come: the newest, and those before it that overlapped it.

    What was added once a part had ended may rest on it: nobody says so, but whoever adds it waits.
    """
    begun: datetime | None = None  # the last of those that are newer
    for part in parts.unsettled(turn, whole, over=True):
        task = turn.task(part)
        ended = task.action.end_time if task.action else None
        at_rest = task.state in AT_REST
        if begun is None and not at_rest:
            return  # it is being stopped, or made up for
        if begun is not None and at_rest and (ended is None or ended <= begun):
            return
        if at_rest and not parts.settled(turn, part, over=True):
            yield from _parts_due(turn, part)
        elif at_rest and parts.has_effect(turn, part):
            yield part
        if task.attempts:
            begun = max(begun or task.attempts[0].create_time, task.attempts[0].create_time)


def _has_its_turn(turn: Turn, whole: int) -> bool:
    """Returns whether what was done within a task is to be made up for now.

    Where the way back is walked, once that has come to the task, or it was given up; of a workflow
    that was stopped, what was done is kept.
    """
    task = turn.task(whole)
    if not parts.is_over(task):
        return False
    alone = turn.cause is None and scope_of(turn, whole) < 0
    return alone or task.compensation_due or parts.is_given_up(task)


def compensate(turn: Turn, index: int) -> None:
    """Begins to make up for a task that has, or may have, an effect."""
    if turn.restoring or (turn.holding and turn.compensation_held):
        # Held; otherwise a due compensation was committed with what made it due.
        turn.due.append(index)
        return
    fence(turn, index)


def fence(turn: Turn, index: int) -> None:
    """Begins to make up for a task, held or not: what may still be on its way must never start."""
    assert turn.plan.task(index).effect not in IRREVERSIBLE, turn.plan.nodes[index].name
    assert turn.task(index).state in COMPENSABLE, turn.task(index).state
    turn.move(index, TaskChange.COMPENSATE)
    send_compensation(turn, index)


def send_compensation(turn: Turn, index: int) -> None:
    """Commits the intent of a task's next compensation, on the host that the action ran on.

    Or on the one that has fenced it: the first is lost, and both reach what it left.
    Another verb takes the place of the action's own opposite only where the action is known to have
    taken effect: only the agent's own way also fences an action that may still be on its way.
    """
    task, spec = turn.task(index), turn.plan.task(index)
    action = task.action
    assert action is not None, spec.name
    inbound: tuple[Inbound, ...] = ()
    overriding = action.state is AttemptState.SUCCEEDED and bool(task.replacement or spec.opposite)
    if overriding and not task.replacement:
        inbound = _inbound_of_opposite(turn, index, action)
        overriding = all(each.value is not None for each in inbound)
    host = action.fence_host or action.host
    number = turn.new_attempt(
        index,
        AttemptKind.COMPENSATION,
        host,
        compensates=action.number,
        overriding=overriding,
        replacement=task.replacement if overriding else b"",
        inbound=inbound if overriding else (),
    )
    turn.commands.append(SendCompensation(task=index, number=number, host=host))


def _inbound_of_opposite(turn: Turn, index: int, action: Attempt) -> tuple[Inbound, ...]:
    """Returns what comes into the verb that replaces an opposite; its task's own output, too."""
    spec = turn.plan.task(index)
    assert spec.opposite is not None, spec.name
    return tuple(
        replace(each, value=action.output.get(binding.path)) if binding.task == spec.name else each
        for binding in spec.opposite.bindings
        for each in turn.inbound((binding,))
    )


def is_made_up_for(turn: Turn, index: int) -> None:
    """Tells those that a node comes after, and its group, that it is made up for."""
    node = turn.plan.nodes[index]
    record = turn.nodes[index]
    # Marked only now: of several in one turn the last one tells those before them, once.
    turn.nodes[index] = replace(record, made_up_for=True)
    if isinstance(record, Group) and record.then is not None and not turn.going_back:
        _group_is_made_up_for(turn, index, record)
        return
    for earlier in node.after:
        if all(turn.nodes[later].made_up_for for later in turn.plan.nodes[earlier].before):
            turn.later(Step.MAKE_UP_FOR, earlier)
    if node.parent < 0:
        if turn.restoring or turn.holding:
            turn.finished = True
        else:
            turn.later(Step.CONCLUDE, 0)
        return
    group = turn.group(node.parent)
    turn.nodes[node.parent] = replace(group, not_made_up_for=group.not_made_up_for - 1)
    if group.not_made_up_for == 1:
        turn.later(Step.MADE_UP_FOR, node.parent)


def _group_is_made_up_for(turn: Turn, scope: int, group: Group) -> None:
    """Goes forward again from a group that was made up for alone."""
    assert not turn.restoring, "what follows is committed with what made it due"
    assert group.then is not None, scope
    given_up = any(
        turn.task(leaf.index).state is TaskState.ABANDONED for leaf in turn.plan.leaves_of(scope)
    )
    then = group.then
    if then is GroupChange.AGAIN and given_up:
        # What was given up would be in the way of another round.
        if not past_return(turn, 0):
            assert group.failure is not None, scope
            turn_round(turn, group.failure)
            return
        then = GroupChange.CLOSE  # nor can the whole workflow be made up for
    turn.move_group(scope, then, failure=group.failure)
    turn.forget(scope)
    match then:
        case GroupChange.AGAIN:
            begin_another_round(turn, scope)
        case GroupChange.DROP:
            turn.later(Step.DROPPED, scope)
        case _:
            turn.untold.add(scope)
            turn.later(Step.PASSED, scope)
            turn.later(Step.RESTED, scope)


def begin_another_round(turn: Turn, scope: int) -> None:
    """Makes everything in a group as good as new, and begins it."""
    for index in turn.plan.below(scope):
        record = turn.nodes[index]
        if isinstance(record, Task):
            if turn.plan.nodes[index].under < 0:  # parts are added anew, by their owner
                run_anew(turn, index)
            continue
        if record.state is not GroupState.FORWARD:
            record = turn.move_group(index, GroupChange.AGAIN)
        if index != scope and record.round > 1:
            turn.nodes[index] = replace(record, round=1, failure=None)
            turn.changed.add(index)
    turn.later(Step.BEGIN, scope)


def begin_no_more_rounds(turn: Turn, scope: int) -> None:
    """Lets groups that are made up for be closed after it: nothing around them goes forward."""
    for index in turn.plan.below(scope):
        group = turn.nodes[index]
        if isinstance(group, Group) and group.then is not None:
            turn.nodes[index] = replace(group, then=GroupChange.CLOSE)
            turn.changed.add(index)


def run_anew(turn: Turn, index: int) -> None:
    """Makes a task that is at rest ready to begin: its attempts stay, and count no more."""
    task = turn.task(index)
    if task.state is not TaskState.PENDING:
        turn.move(index, TaskChange.AGAIN)
    turn.put(
        index,
        replace(
            turn.task(index),
            tried=len(task.attempts),
            failure=None,
            compensation_failure=None,
            needs_decision=False,
            given={},
            replacement=b"",
            decided=None,
        ),
    )


def withdraw(turn: Turn, index: int) -> None:
    """Sees to a task's attempt no more: somebody has decided about it."""
    task = turn.task(index)
    if task.attempts and task.last.open:
        if task.last.state is not AttemptState.UNKNOWN:
            turn.put_attempt(index, replace(task.last, state=AttemptState.UNKNOWN))
        withdraw_order(turn, index)


def withdraw_order(turn: Turn, index: int) -> None:
    """Has whoever sees to a task's attempt see to it no more."""
    last = turn.task(index).last
    host = last.fence_host or last.host
    turn.commands.append(Withdraw(task=index, number=last.number, host=host))
