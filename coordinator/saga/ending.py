"""How a workflow ends: its verdict, its end actions, and being settled."""

from __future__ import annotations

from coordinator.saga import back, history
from coordinator.saga.states import (
    BEING_COMPENSATED,
    UNSETTLED,
    Effect,
    GroupState,
    TaskChange,
    TaskState,
    WorkflowChange,
    WorkflowState,
)
from coordinator.saga.turn import Step, Turn
from coordinator.saga.workflow import Failure, Group, Task

_SETTLE = {
    WorkflowState.SUCCEEDED: WorkflowChange.COMPLETE,
    WorkflowState.COMPENSATED: WorkflowChange.COMPENSATION_COMPLETE,
    WorkflowState.FAILED: WorkflowChange.KEEP,
}


def conclude(turn: Turn, index: int) -> None:
    """Ends a workflow whose tree the walk has left at its root, in either direction."""
    assert index == 0, index
    if turn.going_back:
        conclude_compensation(turn)
    else:
        conclude_success(turn)


def conclude_success(turn: Turn) -> None:
    """Ends a workflow of which everything has passed."""
    _conclude(turn, WorkflowState.SUCCEEDED)


def conclude_compensation(turn: Turn) -> None:
    """Ends a workflow of which everything is made up for, or given up."""
    given_up = any(
        isinstance(node, Task) and node.state is TaskState.ABANDONED for node in turn.nodes
    )
    _conclude(turn, WorkflowState.FAILED if given_up else WorkflowState.COMPENSATED)


def stop(turn: Turn, cause: Failure) -> None:
    """Ends a workflow as failed and keeps what was done, once nothing is at work any more."""
    turn.cause, turn.verdict = cause, WorkflowState.FAILED
    turn.pause, turn.compensation_held = None, False
    turn.move_workflow(WorkflowChange.STOP)
    back.begin_no_more_rounds(turn, 0)
    for leaf in turn.plan.leaves_of(0):
        back.stop_leaf(turn, leaf.index)


def is_quiet(turn: Turn) -> bool:
    """Returns whether nothing is at work in the tree of a workflow that was stopped."""
    if turn.busy:
        return False
    return not any(
        isinstance(node, Task) and node.state in BEING_COMPENSATED for node in turn.nodes
    )


def _conclude(turn: Turn, verdict: WorkflowState) -> None:
    """Gives the verdict, and begins the end actions that go with it."""
    unblock(turn)
    turn.verdict = verdict
    begin_end(turn)


def begin_end(turn: Turn) -> None:
    """Begins the end actions of the verdict; settles the workflow if there are none."""
    assert turn.verdict is not None
    succeeded = turn.verdict is WorkflowState.SUCCEEDED
    actions = turn.plan.on_success if succeeded else turn.plan.on_failure
    others = turn.plan.on_failure if succeeded else turn.plan.on_success
    if turn.verdict is WorkflowState.FAILED:
        _note_kept(turn)
    _skip(turn, others)
    if not turn.locked:
        _skip(turn, actions)  # they may name images that it never held
    if actions < 0 or not turn.locked:
        settle(turn)
        return
    if turn.state is not WorkflowState.ENDING:
        turn.move_workflow(WorkflowChange.END)
    turn.later(Step.BEGIN, actions)


def _skip(turn: Turn, actions: int) -> None:
    for leaf in turn.plan.leaves_of(actions) if actions >= 0 else ():
        if turn.task(leaf.index).state is TaskState.PENDING:
            turn.move(leaf.index, TaskChange.SKIP)


def _note_kept(turn: Turn) -> None:
    for leaf in turn.plan.leaves_of(0):
        assert leaf.task is not None, leaf.name
        kept = turn.task(leaf.index).state is TaskState.SUCCEEDED
        if kept and leaf.task.effect is not Effect.READ_ONLY:
            turn.note(history.LeftBehind(reason="STOPPED"), leaf.index)


def settle(turn: Turn) -> None:
    """Settles the workflow by its verdict."""
    assert turn.verdict is not None
    turn.move_workflow(_SETTLE[turn.verdict])


def walk(turn: Turn) -> None:
    """Finds the place among the end actions again."""
    assert turn.verdict is not None
    succeeded = turn.verdict is WorkflowState.SUCCEEDED
    actions = turn.plan.on_success if succeeded else turn.plan.on_failure
    tree = [(index, turn.nodes[index]) for index in turn.plan.below(0)]
    for index, node in tree:
        if isinstance(node, Group) and node.state is GroupState.COMPENSATING:
            turn.later(Step.MAKE_UP_FOR, index)
    at_work = any(isinstance(n, Task) and n.state in UNSETTLED for _, n in tree)
    if actions >= 0 and not at_work:
        turn.later(Step.BEGIN, actions)


def unblock(turn: Turn) -> None:
    """Moves a workflow that nobody need look at any more."""
    if turn.state is WorkflowState.BLOCKED and not turn.blocked:
        change = WorkflowChange.UNBLOCK if turn.going_back else WorkflowChange.UNBLOCK_FORWARD
        turn.move_workflow(change)


def come_to_rest(turn: Turn) -> None:
    """Moves the workflow where its tasks have brought it: the last rules of each turn."""
    if turn.state is WorkflowState.ENDING and turn.cause is not None:
        actions = turn.plan.on_failure
        if (actions < 0 or not turn.is_touched(actions)) and is_quiet(turn):
            begin_end(turn)
            turn.run()
    if turn.state in (WorkflowState.RUNNING, WorkflowState.COMPENSATING) and turn.blocked:
        turn.move_workflow(WorkflowChange.BLOCK)
    else:
        unblock(turn)
    if turn.state is WorkflowState.PAUSING and not turn.busy:
        turn.move_workflow(WorkflowChange.QUIET)
