"""The walk over what has already happened: it finds the counters again, and what is ripe."""

from __future__ import annotations

from coordinator.saga import back, ending, failing, forward
from coordinator.saga.plan import Node
from coordinator.saga.states import (
    GroupState,
    TaskState,
)
from coordinator.saga.turn import Step, Turn


def begin_again(turn: Turn, index: int) -> None:
    """Walks over a node that is already where the walk would bring it."""
    node = turn.plan.nodes[index]
    if node.task is not None:
        _tell_again(turn, index, node)
        return
    group = turn.group(index)
    match group.state:
        case GroupState.SKIPPED | GroupState.COMPENSATED | GroupState.RECOVERED:
            forward.done(turn, index)
        case GroupState.FAILED:
            turn.later(Step.DROPPED, index)
        case GroupState.COMPENSATING:
            turn.later(Step.MAKE_UP_FOR, index)
        case GroupState.RECOVERING:
            failing.go_on_back(turn, index)
            if forward.is_quiet(turn, index):
                turn.later(Step.BEGIN, node.recovery)
        case GroupState.FORWARD:
            if node.forward and not turn.is_touched(index):
                turn.ripe.append(index)
            else:
                forward.open_group(turn, index)


def _tell_again(turn: Turn, index: int, node: Node) -> None:
    task = turn.task(index)
    assert node.task is not None, node.name
    if task.state is TaskState.PENDING:
        turn.ripe.append(index)
    elif forward.has_passed(turn, index):
        forward.done(turn, index)
    elif task.state is TaskState.FAILED and not task.needs_decision:
        turn.later(Step.DROPPED, index)  # once its parts are at rest


def walk(turn: Turn) -> None:
    """Works all counters out again, and finds what is ripe: its turn has come, it has not begun."""
    for root in (0, turn.plan.on_success, turn.plan.on_failure):
        if root >= 0:
            turn.forget(root)
    turn.restoring, turn.finished = True, False
    turn.told, turn.dropped, turn.untold = set(), set(), set()
    turn.ripe, turn.due, turn.recovered = [], [], []
    if turn.verdict is not None:
        ending.walk(turn)
    elif turn.cause is not None:
        turn.later(Step.MAKE_UP_FOR, 0)
    elif turn.locked:
        turn.later(Step.BEGIN, 0)
    turn.run()
    _find_parts(turn)
    turn.restoring = False


def _find_parts(turn: Turn) -> None:
    """Finds parts that have not begun, or are to be made up for."""
    for added in turn.plan.parts.values():
        turn.ripe += [part for part in added if turn.task(part).state is TaskState.PENDING]
    turn.due += back.parts_due(turn)


def go_on(turn: Turn) -> None:
    """Begins everything whose turn has come while nothing was allowed to."""
    walk(turn)
    for index in tuple(turn.due):
        back.compensate(turn, index)
    if turn.going_back:
        if turn.finished:
            ending.conclude_compensation(turn)
        return
    for index in turn.recovered:
        forward.leave_recovery(turn, index)
    for index in turn.ripe:
        turn.later(Step.BEGIN, index)
    for node in turn.plan.nodes:
        if node.rules.concurrency_max and turn.group(node.index).waiting:
            forward.fill(turn, node.index)
        group = turn.group(node.index) if node.recovery >= 0 else None
        if group is not None and group.open == 0 and (node.forward or group.passed_empty):
            forward.skip_unused(turn, node.index)
    if turn.finished:
        ending.conclude_success(turn)
