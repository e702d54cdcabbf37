"""What the failure of a task makes of its group and its workflow."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coordinator.saga import back, ending, forward, history, parts
from coordinator.saga.commands import Timer
from coordinator.saga.plan import Plan, ancestors, outermost
from coordinator.saga.spec import OnFailure, Retry
from coordinator.saga.states import (
    AttemptKind,
    Effect,
    GroupChange,
    GroupState,
    TaskChange,
    TaskState,
)
from coordinator.saga.turn import Step, Turn
from coordinator.saga.workflow import BY_POLICY, Decided, Failure, Group, Task


def policy_pause(turn: Turn, verb: str, index: int) -> Decided:
    """Returns a pause that the policy of a task asks for."""
    name = turn.plan.nodes[index].name
    return Decided(verb=verb, principal=BY_POLICY, reason=name, time=turn.now.time)


def hold_by_policy(turn: Turn, verb: str, index: int) -> None:
    """Holds the workflow because the policy of a task asks for it, unless it is held already."""
    if not turn.holding:
        why = policy_pause(turn, verb, index)
        said = history.Intervened(
            verb=verb, principal=why.principal, reason=why.reason, request_id=""
        )
        turn.note(said, index)
        turn.hold(why)


@dataclass(frozen=True, slots=True)
class Target:
    """What takes a failure, and what follows."""

    scope: int  # a group or a member of one; 0: the whole workflow
    then: GroupChange | None  # AGAIN, DROP, CLOSE, RECOVER; None: what the policy makes of it


def fail(turn: Turn, index: int, failure: Failure, *, sent: bool = True) -> None:
    """Says what the failure of a task makes of its group and workflow.

    Work that is optional, or held, fails alone, and so does a part while its whole is at work. Else
    the smallest thing around it that can do with the failure takes it; only what nothing takes is
    for the policy to decide.
    """
    policy = turn.plan.task(index).policy.on_failure
    whole = outermost(turn.plan, index)
    if whole != index:
        turn.move(index, TaskChange.FAILED, failure)
        if turn.task(whole).state is not TaskState.SUCCEEDED or not _take_up(turn, index):
            forward.part_rested(turn, index)
        return
    if turn.plan.is_end_action(index) or policy is OnFailure.IGNORE:
        turn.move(index, TaskChange.FAILED, failure)
        if turn.plan.task(index).effect is Effect.FORWARD_ONLY:
            turn.note(history.LeftBehind(reason=failure.reason), index)
        forward.done(turn, index)
        return
    target = target_of(turn, index)
    goes_back = target.then in _GOES_BACK if target.then else policy not in _STAYS
    if turn.holding:
        _leave_open(turn, index, failure)
    elif goes_back and back.past_return(turn, target.scope, beside=index):
        _only_forward(turn, index, failure, sent=sent)
    elif target.then is None and policy is OnFailure.PAUSE:
        _leave_open(turn, index, failure)
    else:
        turn.move(index, TaskChange.FAILED, failure)
        _take(turn, index, target, failure)


def take_up_parts(turn: Turn, whole: int) -> bool:
    """Says what the failures of parts make of it that their whole has SUCCEEDED all the same.

    Returns whether anything: a group that can do without the whole one can do without a part of it.
    """
    if turn.plan.nodes[whole].under >= 0:
        return False  # that one is a part itself
    taken = [_take_up(turn, part) for part in tuple(parts.failed(turn, whole))]
    return any(taken)


def _take_up(turn: Turn, part: int) -> bool:
    """Says what the failure of one part makes of the group and workflow around its whole."""
    task, policy = turn.task(part), turn.plan.task(part).policy.on_failure
    if policy is OnFailure.IGNORE or not forward.goes_forward(turn, part):
        return False
    assert task.failure is not None, turn.plan.nodes[part].name
    target = target_of(turn, part)
    if target.then is GroupChange.DROP and target.scope == outermost(turn.plan, part):
        return False
    goes_back = target.then in _GOES_BACK if target.then else policy not in _STAYS
    # It cannot be tried again by itself: past a pivot, too, somebody decides.
    stuck = goes_back and back.past_return(turn, target.scope)
    if turn.holding or stuck or (target.then is None and policy is OnFailure.PAUSE):
        _await_decision(turn, part)
    else:
        _take(turn, part, target, task.failure)
    return True


_STAYS = frozenset({OnFailure.PAUSE, OnFailure.STOP})  # policies that make up for nothing
_GOES_BACK = frozenset({GroupChange.AGAIN, GroupChange.DROP, GroupChange.CLOSE})


def _take(turn: Turn, index: int, target: Target, failure: Failure) -> None:
    """Lets something take the failure of a task."""
    if target.then is GroupChange.RECOVER:
        recover(turn, target.scope, failure)
    elif target.then is not None and target.scope == index:
        turn.later(Step.DROPPED, index)
    elif target.then is not None:
        back.turn_group_round(turn, target.scope, target.then, failure)
    elif turn.plan.task(index).policy.on_failure is OnFailure.STOP:
        ending.stop(turn, failure)
    else:
        back.turn_round(turn, failure)


def _leave_open(turn: Turn, index: int, failure: Failure) -> None:
    """Holds the workflow until somebody decides about a failure."""
    turn.move(index, TaskChange.FAILED, failure)
    _await_decision(turn, index)


def _await_decision(turn: Turn, index: int) -> None:
    turn.put(index, replace(turn.task(index), needs_decision=True))
    hold_by_policy(turn, "on-failure", index)


def _only_forward(turn: Turn, index: int, failure: Failure, *, sent: bool) -> None:
    """Tries a task past a pivot on, slowly: it cannot be made up for. An operator may decide."""
    if not sent:  # nor is there anything to try again
        _leave_open(turn, index, failure)
        return
    turn.move(index, TaskChange.RETRIABLE, failure)
    turn.put(index, replace(turn.task(index), needs_decision=True))
    schedule(turn, index, AttemptKind.ACTION, turn.plan.task(index).policy.retry, failure)


def target_of(turn: Turn, index: int) -> Target:
    """Returns the smallest thing around a task that takes its failure.

    A group that can do without the member goes on with the others; one with rounds left begins
    again; the group that COMPENSATE_GROUP is about is closed, the one that RECOVER is about is
    recovered.
    """
    policy = turn.plan.task(index).policy.on_failure
    index = outermost(turn.plan, index)
    scope = _declaring(turn.plan, index, policy) if policy in _OF_GROUP else -1
    if scope < 0 and policy is OnFailure.COMPENSATE_GROUP:
        scope = turn.plan.nodes[index].parent
    member = index
    for above in ancestors(turn.plan, turn.plan.nodes[index].parent):
        node, group = turn.plan.nodes[above], turn.group(above)
        in_recovery = turn.plan.nodes[member].recovers
        if group.to_pass <= 0 and not node.recovers:
            return Target(member, GroupChange.DROP)  # the group has passed without it
        spare = len(node.forward) - node.need if node.rules.min_success else 0
        if spare and not in_recovery and _lost(turn, above, member) <= spare:
            return Target(member, GroupChange.DROP)
        if group.round < node.rules.rounds_max:
            return Target(above, GroupChange.AGAIN)
        if above == scope and policy is OnFailure.RECOVER and not in_recovery:
            return Target(above, GroupChange.RECOVER)
        if above == scope and policy is OnFailure.COMPENSATE_GROUP and above != 0:
            return Target(above, GroupChange.CLOSE)
        member = above
    return Target(0, None)


_OF_GROUP = frozenset({OnFailure.COMPENSATE_GROUP, OnFailure.RECOVER})


def _lost(turn: Turn, scope: int, failing: int) -> int:
    """Returns how many members a group does without once another has failed as well.

    Those that are still being made up for, and then dropped, are lost already; what comes after
    several that failed is lost once.
    """
    node = turn.plan.nodes[scope]
    members = node.forward
    # Of ten thousand tasks none is looked at: only a group is made up for, and then dropped.
    only_tasks = len(turn.plan.below(scope)) - 1 == len(node.members)
    going = {m for m in members if _is_going(turn.nodes[m])} if not only_tasks else set()
    if not going and not turn.plan.nodes[failing].before:
        return turn.group(scope).failed + 1
    lost: set[int] = set()
    for member in members:
        gone = forward.is_lost(turn.nodes[member]) and not forward.has_passed(turn, member)
        if gone or member == failing or member in going:
            lost.update((member, *forward.followers(turn.plan, member)))
    return len(lost)


def _is_going(member: Task | Group) -> bool:
    return isinstance(member, Group) and member.then is GroupChange.DROP


def _declaring(plan: Plan, index: int, policy: OnFailure) -> int:
    """Returns the nearest group around a node that itself says a policy; -1 if none does."""
    for above in ancestors(plan, plan.nodes[index].parent):
        if plan.nodes[above].rules.on_failure is policy:
            return above
    return -1


def schedule(turn: Turn, index: int, kind: AttemptKind, retry: Retry, failure: Failure) -> None:
    """Lets a further attempt follow after a wait."""
    task = turn.task(index)
    delay = retry.wait(max(1, task.failures_in_a_row(kind)), turn.now.jitter)
    due = turn.now.time + delay
    number = len(task.attempts) + 1
    turn.put(index, replace(task, due_time=due, start_deadline=None))
    turn.note(history.RetryScheduled(attempt=number, delay=delay, failure=failure), index)
    turn.timer(Timer.DUE, index, number, due)


def recover(turn: Turn, scope: int, failure: Failure) -> None:
    """Stops what a group still does, and runs its recovery tasks once that is at rest."""
    turn.move_group(scope, GroupChange.RECOVER, failure=failure)
    recovery = turn.plan.nodes[scope].recovery
    for index in turn.plan.work_of(scope):
        if isinstance(turn.nodes[index], Task) and back.scope_of(turn, index) < 0:
            back.stop_leaf(turn, index)
    back.begin_no_more_rounds(turn, scope)
    turn.forget(scope)
    go_on_back(turn, scope)
    if forward.is_quiet(turn, scope):
        turn.later(Step.BEGIN, recovery)


def go_on_back(turn: Turn, scope: int) -> None:
    """Lets groups inside one that is recovered be made up for to their end."""
    for index in range(scope + 1, turn.plan.nodes[scope].recovery):
        group = turn.nodes[index]
        if isinstance(group, Group) and group.state is GroupState.COMPENSATING:
            turn.later(Step.MAKE_UP_FOR, index)
