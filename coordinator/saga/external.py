"""What vendors ask of a workflow: to add tasks, and to end their own with what is under them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from coordinator.saga import back, ending, events, forward, history, parts, reports
from coordinator.saga.plan import Plan, ancestors, outermost
from coordinator.saga.spec import NODES_MAX, owner_of
from coordinator.saga.states import (
    AT_REST,
    BEING_COMPENSATED,
    IN_FLIGHT,
    AttemptState,
    Effect,
    GroupState,
    TaskChange,
    TaskState,
    WorkflowChange,
    WorkflowState,
)
from coordinator.saga.turn import Refusal, Step, Turn
from coordinator.saga.workflow import CLOSE, Decided, Failure, Retention

MAIN = "main"  # the task that stands for the whole of a vendor's own workflow
FORCED = "Its owner ended by force what it is a part of."  # vendors need not say why
NAMED_MAX = 5  # open tasks named in a refusal: more would not help

_W = WorkflowState
_GROWING = (_W.RUNNING, _W.PAUSING, _W.PAUSED, _W.BLOCKED)
_ENDABLE = (*_GROWING, _W.ENDING)


def _refuse(turn: Turn, because: str, allowed: tuple[WorkflowState, ...] = _GROWING) -> None:
    turn.refusal = Refusal(state=turn.state, allowed=allowed, because=because)


# -- adding ---------------------------------------------------------------------------------------


def add(turn: Turn, event: events.AddRequested) -> None:
    """Adds a task; it begins at once if its turn has come."""
    if because := _stands_against(turn, event):
        _refuse(turn, because)
        return
    spec, kind = event.spec, event.spec.verb.partition("/")[2]
    index = turn.add(spec, parent=event.parent, under=event.under)
    place = event.under if event.under >= 0 else event.parent
    said = history.TaskAdded(
        parent=place, owner=owner_of(spec.host), kind=kind, principal=event.ask.principal
    )
    turn.note(said, index)
    if parts.is_held(turn, index):
        return  # a resume finds it
    if event.under >= 0:
        turn.later(Step.BEGIN, index)  # what it is a part of is at work
    elif _is_begun(turn, index):
        forward.offer(turn, index)


def _stands_against(turn: Turn, event: events.AddRequested) -> str:
    """Returns why a task cannot be added where it is wanted, or nothing."""
    name = turn.plan.nodes[event.parent].name
    if event.spec.name in turn.plan.by_name:
        return f"a task {event.spec.name} was added meanwhile"
    if len(turn.plan.nodes) >= NODES_MAX:
        return f"it has {NODES_MAX} nodes, and no room for more"
    if turn.state not in _GROWING or not forward.goes_forward(turn, event.parent):
        return f"{name} goes forward no more"
    group = turn.group(event.parent)
    if group.state is not GroupState.FORWARD or group.open == 0:
        return f"{name} is done"
    if event.under >= 0:
        name = turn.plan.nodes[event.under].name
        task = turn.task(event.under)
        if task.state not in (TaskState.RUNNING, TaskState.UNKNOWN) or not task.last.start_time:
            return f"{name} is {task.state}: tasks are added to one that is at work"
        return ""
    if group.to_pass <= 0 and turn.plan.nodes[event.parent].forward:
        return f"{name} has passed"
    for earlier in event.spec.after:
        index = turn.plan.by_name[earlier]
        state = turn.nodes[index].state
        over = state in AT_REST or state is GroupState.FAILED  # of a task, of a group
        if over and not forward.has_passed(turn, index):
            return f"{earlier} is {state}, and nothing comes after it any more"
    return ""


def _is_begun(turn: Turn, added: int) -> bool:
    """Returns whether the turn of a node, and of all groups around it, has come."""
    for index in ancestors(turn.plan, added):
        node = turn.plan.nodes[index]
        if not all(forward.has_passed(turn, earlier) for earlier in node.after):
            return False
        waits = turn.group(node.parent).waiting if node.parent >= 0 else ()
        if index in waits:
            return False
    return turn.locked


# -- ending ---------------------------------------------------------------------------------------


def end(turn: Turn, event: events.EndRequested) -> None:
    """Ends an external task; what was added under it ends before it, or is closed."""
    if not reports.is_awaited(turn, event.said):
        reports.hear(turn, event.said)  # it is late, and closes nothing
        return
    open_ = list(_open(turn, _parts(turn.plan, event.said.task)))
    if open_ and isinstance(event.said, events.AttemptSucceeded) and not event.force:
        _refuse(turn, _still_open(turn, open_), _ENDABLE)
        return
    if event.force:
        _close(turn, event.ask, open_, within=event.said.task)
    reports.hear(turn, event.said)


def end_all(turn: Turn, event: events.EndAllRequested) -> None:
    """Ends a vendor's own workflow as it is told."""
    main = turn.plan.by_name[MAIN]
    open_ = [i for i in _open(turn, turn.plan.below(0)) if i != main]
    if turn.state not in _ENDABLE or turn.going_back:
        _refuse(turn, "it is being made up for, or has ended", _ENDABLE)
        return
    if event.failure is None and turn.cause is not None:
        _refuse(turn, f"it has failed: {turn.cause.message}", _ENDABLE)
        return
    if open_ and not event.force:
        _refuse(turn, _still_open(turn, open_), _ENDABLE)
        return
    _note(turn, event.ask, "end")
    if turn.holding and (event.force or event.failure is not None):
        turn.pause, turn.compensation_held = None, False
        turn.move_workflow(WorkflowChange.RESUME)
    if event.force:
        turn.retention = Retention.AT_ONCE
        _close(turn, event.ask, open_, within=main)
    number = len(turn.task(main).attempts)
    if event.failure is not None:
        _end_main(turn, main, event.failure)
    elif turn.group(0).open == 0 and not turn.holding:
        turn.later(Step.CONCLUDE, 0)  # only the pause that it lets go of has kept it
    elif turn.task(main).state in IN_FLIGHT:
        reports.hear(turn, events.AttemptSucceeded(task=main, number=number))
    else:  # a pause has taken it back, or its turn has not come: nobody else would ever end it
        _close(turn, event.ask, list(_open(turn, [main])))


def _end_main(turn: Turn, main: int, failure: Failure) -> None:
    """Fails the whole workflow and keeps what was done in it."""
    if turn.cause is None:
        ending.stop(turn, failure)
    task = turn.task(main)
    if task.attempts and task.last.open:
        said = events.AttemptFailed(task=main, number=task.last.number, failure=failure)
        reports.hear(turn, said)


def _parts(plan: Plan, index: int) -> Iterable[int]:
    """Returns what was added under a task, and under that."""
    found = [index]
    for each in found:  # it grows meanwhile
        found.extend(plan.parts.get(each, ()))
    return sorted(found[1:])


def _open(turn: Turn, indices: Iterable[int]) -> Iterable[int]:
    """Yields the leaves of which something is still to come."""
    for index in indices:
        if turn.plan.nodes[index].task is None:
            continue
        task = turn.task(index)
        if task.state not in AT_REST or task.needs_decision:
            yield index


def _still_open(turn: Turn, open_: list[int]) -> str:
    names = ", ".join(turn.plan.nodes[index].name for index in islice(open_, NAMED_MAX))
    more = f" and {len(open_) - NAMED_MAX} more" if len(open_) > NAMED_MAX else ""
    return f"{names}{more} must end first, or be closed by force"


def _note(turn: Turn, ask: events.Ask, verb: str) -> Decided:
    said = history.Intervened(
        verb=verb, principal=ask.principal, reason=ask.reason, request_id=ask.request_id
    )
    turn.note(said)
    return Decided(verb=verb, principal=ask.principal, reason=ask.reason, time=turn.now.time)


def _close(turn: Turn, ask: events.Ask, indices: list[int], *, within: int = -1) -> None:
    """Closes what is open: as CANCELLED, or as ABANDONED where its owner may have left something.

    All of it first: what comes after another one of them must not begin. Nor does anything come of
    the task that is ended with them, before it is heard how.
    """
    if not indices:
        return
    decided = _note(turn, replace(ask, reason=ask.reason or FORCED), CLOSE)
    for index in indices:
        _close_one(turn, index, decided)
    closed = frozenset(indices)
    for whole in dict.fromkeys(outermost(turn.plan, index) for index in indices):
        if whole == within:
            continue
        if whole not in closed:
            back.make_up_for_parts(turn, whole)
            forward.parts_rested(turn, whole)
        elif forward.goes_forward(turn, whole):
            forward.done(turn, whole)
        else:
            reports.at_rest(turn, whole)


def _close_one(turn: Turn, index: int, decided: Decided) -> None:
    task = turn.task(index)
    effect = turn.plan.task(index).effect
    begun = bool(task.attempts) and task.last.open and task.last.start_time is not None
    leaves = begun and task.state in IN_FLIGHT and effect is not Effect.READ_ONLY
    closed = replace(
        task, decided=decided, needs_decision=False, due_time=None, start_deadline=None,
        too_late=None,
    )  # fmt: skip
    turn.put(index, closed)
    if leaves or task.state in BEING_COMPENSATED:
        back.withdraw(turn, index)
        turn.move(index, TaskChange.ABANDON)
        turn.note(history.LeftBehind(reason=decided.reason), index)
    elif task.state in IN_FLIGHT:
        _take_back(turn, index)
    elif task.state is not TaskState.FAILED:
        turn.move(index, TaskChange.STOP, task.failure)


def _take_back(turn: Turn, index: int) -> None:
    """Cancels an attempt that has no effect, whatever its owner does."""
    last = turn.task(index).last
    if turn.task(index).state is not TaskState.CANCELLING:
        turn.move(index, TaskChange.STOP)
    cancelled = AttemptState.CANCELLED
    turn.put_attempt(index, replace(last, state=cancelled, end_time=turn.now.time))
    turn.note(history.AttemptEnded(attempt=last.number, state=cancelled), index)
    turn.move(index, TaskChange.CANCELLED)
