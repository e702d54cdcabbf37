"""Beginning a node, sending an attempt, and going on from one that took effect."""

from __future__ import annotations

from dataclasses import replace

from coordinator.saga import failing, forward, parts, retracing
from coordinator.saga.commands import SendAction, Timer, choose_host
from coordinator.saga.spec import IRREVERSIBLE, NO_WAIT, Condition
from coordinator.saga.states import (
    AttemptKind,
    GroupChange,
    TaskChange,
    TaskState,
)
from coordinator.saga.turn import Turn, bound_host, patched
from coordinator.saga.workflow import PAUSE_BEFORE, SKIP, Failure, Inbound

BINDING_MISSING = "BINDING_MISSING"
START_TIMEOUT = "START_TIMEOUT"


def begin(turn: Turn, index: int) -> None:
    """Begins a node: those it comes after have passed."""
    if turn.restoring:
        retracing.begin_again(turn, index)
    elif forward.goes_forward(turn, index):
        if parts.is_held(turn, index):
            _hold_back(turn, index)
        elif turn.plan.nodes[index].task is None:
            _begin_group(turn, index)
        else:
            _begin_task(turn, index)


def _hold_back(turn: Turn, index: int) -> None:
    """Leaves a node to the walk of a resume; if it asks for a pause before it, this is that one."""
    spec = turn.plan.nodes[index].task
    if spec is not None and spec.policy.pause_before:
        task = turn.task(index)
        if task.state is TaskState.PENDING and task.decided is None:
            why = failing.policy_pause(turn, PAUSE_BEFORE, index)
            turn.put(index, replace(task, decided=why))


def _begin_group(turn: Turn, index: int) -> None:
    node = turn.plan.nodes[index]
    if node.when is not None and not _holds(turn, node.when):
        turn.move_group(index, GroupChange.SKIP)
        for leaf in turn.plan.leaves_of(index):
            turn.move(leaf.index, TaskChange.SKIP)
        forward.done(turn, index)
        return
    forward.open_group(turn, index)


def _begin_task(turn: Turn, index: int) -> None:
    task, spec = turn.task(index), turn.plan.task(index)
    if task.state is not TaskState.PENDING or not parts.settled(turn, index):
        return
    wanted = task.decided is None or task.decided.verb != SKIP
    if not wanted or (spec.when is not None and not _holds(turn, spec.when)):
        turn.move(index, TaskChange.SKIP)
        forward.done(turn, index)
        return
    if spec.policy.pause_before and task.decided is None and not turn.plan.is_end_action(index):
        why = failing.policy_pause(turn, PAUSE_BEFORE, index)
        turn.put(index, replace(task, decided=why))
        failing.hold_by_policy(turn, PAUSE_BEFORE, index)
        return
    if spec.policy.wait_before > NO_WAIT:
        due = turn.now.time + spec.policy.wait_before
        turn.move(index, TaskChange.WAIT)
        turn.put(index, replace(turn.task(index), due_time=due))
        turn.timer(Timer.DUE, index, len(task.attempts) + 1, due)
        return
    go(turn, index)


def go(turn: Turn, index: int) -> None:
    """Starts a task's next attempt, or looks for a host first.

    Nothing of the one before may be left by then: the last of its parts comes back here.
    """
    if not parts.settled(turn, index):
        return
    task, spec = turn.task(index), turn.plan.task(index)
    inbound = turn.inbound(spec.bindings)
    given = {each.field for each in task.patch}
    missing = [each for each in inbound if each.value is None and each.field not in given]
    if missing:
        _fail_unsent(turn, index, missing[0])
        return
    task = replace(task, due_time=None)
    # A late attempt is fenced by its compensation: there is none for what is irreversible.
    bounded = spec.policy.start_timeout is not None and spec.effect not in IRREVERSIBLE
    if bounded and task.start_deadline is None:
        assert spec.policy.start_timeout is not None
        deadline = turn.now.time + spec.policy.start_timeout
        task = replace(task, start_deadline=deadline)
        turn.timer(Timer.START, index, len(task.attempts), deadline)
    turn.put(index, task)
    host = bound_host(spec, task)
    if host:
        send_action(turn, index, host, inbound)
        return
    if task.state is not TaskState.READY:
        turn.move(index, TaskChange.WAIT)
    turn.commands.append(choose_host(turn.plan, index, turn.task(index)))


def send_action(
    turn: Turn, index: int, host: str, inbound: tuple[Inbound, ...] | None = None
) -> None:
    """Commits the intent of a task's next attempt."""
    task = turn.task(index)
    if inbound is None:
        inbound = turn.inbound(turn.plan.task(index).bindings)
    waited = task.state is TaskState.RETRY_WAIT
    turn.move(index, TaskChange.RETRY if waited else TaskChange.START)
    number = turn.new_attempt(index, AttemptKind.ACTION, host, inbound=patched(inbound, task.patch))
    turn.commands.append(SendAction(task=index, number=number, host=host))


def _fail_unsent(turn: Turn, index: int, missing: Inbound) -> None:
    """Fails a task of which nothing was sent: what it is bound to is not there."""
    name = turn.plan.nodes[index].name
    failure = Failure(
        reason=BINDING_MISSING,
        message=f"{name} needs {missing.origin} for {missing.field}, and it is not there: "
        "the task that leaves it was skipped, failed or was made up for. Nothing was sent.",
        metadata=(("field", missing.field), ("source", missing.origin)),
    )
    turn.put(index, replace(turn.task(index), failure=failure, due_time=None, start_deadline=None))
    failing.fail(turn, index, failure, sent=False)


def _holds(turn: Turn, when: Condition) -> bool:
    if when.of_state:
        return turn.task(turn.plan.by_name[when.task]).state == when.equals
    if when.task:
        value = turn.task(turn.plan.by_name[when.task]).output.get(when.path)
    else:
        values = {patch.field: patch.value for patch in turn.input_patches}
        value = values.get(when.path, turn.before.about.input.get(when.path))
    if when.equals is None:
        return bool(value)
    return _text(value) == when.equals


def _text(value: object) -> str:
    """Returns a value as conditions write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def succeed(turn: Turn, index: int) -> None:
    """Goes on from a task that has taken effect, unless something comes of a part that failed."""
    if failing.take_up_parts(turn, index):
        return
    policy = turn.plan.task(index).policy
    end_action = turn.plan.is_end_action(index)
    if policy.pause_on_success and not end_action and not turn.holding:
        failing.hold_by_policy(turn, "pause-on-success", index)
    if policy.wait_after > NO_WAIT:
        task = turn.task(index)
        due = turn.now.time + policy.wait_after
        turn.put(index, replace(task, due_time=due))
        turn.timer(Timer.DUE, index, len(task.attempts) + 1, due)
        return
    forward.done(turn, index)
