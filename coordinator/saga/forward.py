"""Going forward: what may start now, and what a failure makes of it.

The walk over the tree in the direction of the work:

    begin     when those a node comes after have passed
    passed    tells its group and those that come after it
    dropped   a member failed, its group goes on with the others
    rested    it goes forward no more

A group may pass before it is at rest: once as many members as it needs have passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from coordinator.saga import back, ending, history
from coordinator.saga.commands import SendAction, Timer, choose_host
from coordinator.saga.spec import (
    IRREVERSIBLE,
    NO_WAIT,
    Condition,
    Node,
    OnFailure,
    Plan,
    Retry,
    ancestors,
)
from coordinator.saga.states import (
    AT_REST,
    GROUP_PASSED,
    IN_FLIGHT,
    PASSED,
    AttemptKind,
    Effect,
    GroupChange,
    GroupState,
    TaskChange,
    TaskState,
)
from coordinator.saga.turn import Step, Turn, patched, patched_host
from coordinator.saga.workflow import PAUSE_BEFORE, SKIP, Decided, Failure, Group, Inbound, Task

BINDING_MISSING = "BINDING_MISSING"
START_TIMEOUT = "START_TIMEOUT"


# -- begin ----------------------------------------------------------------------------------------


def begin(turn: Turn, index: int) -> None:
    """Begins a node: those it comes after have passed."""
    if turn.restoring:
        _begin_again(turn, index)
    elif goes_forward(turn, index):
        if turn.holding and not turn.plan.is_end_action(index):
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
            why = _policy_pause(turn, PAUSE_BEFORE, index)
            turn.put(index, replace(task, decided=why))


def goes_forward(turn: Turn, index: int) -> bool:
    """Returns whether nothing around a node is being made up for, recovered or at an end."""
    if turn.plan.is_end_action(index):
        return turn.verdict is not None
    if turn.cause is not None:
        return False
    below = index
    for above in ancestors(turn.plan, turn.plan.nodes[index].parent):
        group = turn.group(above)
        recovers = group.state is GroupState.RECOVERING and turn.plan.nodes[below].recovers
        if group.state is not GroupState.FORWARD and not recovers:
            return False
        below = above
    return True


def _begin_group(turn: Turn, index: int) -> None:
    node = turn.plan.nodes[index]
    if node.when is not None and not _holds(turn, node.when):
        turn.move_group(index, GroupChange.SKIP)
        for leaf in turn.plan.leaves_of(index):
            turn.move(leaf.index, TaskChange.SKIP)
        done(turn, index)
        return
    _open_group(turn, index)


def _open_group(turn: Turn, index: int) -> None:
    """Lets the first members of a group begin."""
    node = turn.plan.nodes[index]
    if not node.forward:
        turn.nodes[index] = replace(turn.group(index), passed_empty=True)
        done(turn, index)
    for member in node.forward:
        if not turn.plan.nodes[member].after:
            _offer(turn, member)


def _offer(turn: Turn, index: int) -> None:
    """Lets a member begin, or wait for a place where their number is bounded."""
    parent = turn.plan.nodes[index].parent
    if parent < 0 or not turn.plan.nodes[parent].rules.concurrency_max:
        turn.later(Step.BEGIN, index)
        return
    group = turn.group(parent)
    if turn.restoring and turn.is_touched(index):
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
    chosen = group.waiting[: max(0, room)]
    if chosen:
        turn.nodes[parent] = replace(
            group, at_work=group.at_work + len(chosen), waiting=group.waiting[len(chosen) :]
        )
        for member in chosen:
            turn.later(Step.BEGIN, member)


def _begin_task(turn: Turn, index: int) -> None:
    task, spec = turn.task(index), turn.plan.task(index)
    if task.state is not TaskState.PENDING:
        return
    wanted = task.decided is None or task.decided.verb != SKIP
    if not wanted or (spec.when is not None and not _holds(turn, spec.when)):
        turn.move(index, TaskChange.SKIP)
        done(turn, index)
        return
    if spec.policy.pause_before and task.decided is None and not turn.plan.is_end_action(index):
        why = _policy_pause(turn, PAUSE_BEFORE, index)
        turn.put(index, replace(task, decided=why))
        turn.hold(why)
        return
    if spec.policy.wait_before > NO_WAIT:
        due = turn.now.time + spec.policy.wait_before
        turn.move(index, TaskChange.WAIT)
        turn.put(index, replace(turn.task(index), due_time=due))
        turn.timer(Timer.DUE, index, len(task.attempts) + 1, due)
        return
    go(turn, index)


def _policy_pause(turn: Turn, verb: str, index: int) -> Decided:
    name = turn.plan.nodes[index].name
    return Decided(verb=verb, principal="policy", reason=name, time=turn.now.time)


def go(turn: Turn, index: int) -> None:
    """Starts a task's next attempt, or looks for a host first."""
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
    host = patched_host(task) or ("" if spec.candidates else spec.host)
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
    fail(turn, index, failure, sent=False)


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


# -- finding the counters again -------------------------------------------------------------------


def _begin_again(turn: Turn, index: int) -> None:
    """Walks over a node that is already where the walk would bring it."""
    node = turn.plan.nodes[index]
    if node.task is not None:
        _tell_again(turn, index, node)
        return
    group = turn.group(index)
    match group.state:
        case GroupState.SKIPPED | GroupState.COMPENSATED | GroupState.RECOVERED:
            done(turn, index)
        case GroupState.FAILED:
            turn.later(Step.DROPPED, index)
        case GroupState.COMPENSATING:
            turn.later(Step.MAKE_UP_FOR, index)
        case GroupState.RECOVERING:
            _go_on_back(turn, index)
            if _is_quiet(turn, index):
                turn.later(Step.BEGIN, node.recovery)
        case GroupState.FORWARD:
            if node.forward and not turn.is_touched(index):
                turn.ripe.append(index)
            else:
                _open_group(turn, index)


def _tell_again(turn: Turn, index: int, node: Node) -> None:
    task = turn.task(index)
    assert node.task is not None, node.name
    if task.state is TaskState.PENDING:
        turn.ripe.append(index)
    elif has_passed(turn, index):
        done(turn, index)
    elif task.state is TaskState.FAILED and not task.needs_decision:
        turn.later(Step.DROPPED, index)


# -- passed, dropped, rested ----------------------------------------------------------------------


def done(turn: Turn, index: int) -> None:
    """Goes on from a node that has passed and is at rest."""
    _tell(turn, index)
    turn.later(Step.RESTED, index)


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
            _offer(turn, follower)
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
    if node.state in PASSED:
        return node.due_time is None
    if turn.plan.is_end_action(index):
        return node.state in AT_REST
    ignored = turn.plan.task(index).policy.on_failure is OnFailure.IGNORE
    return node.state is TaskState.FAILED and ignored and not node.needs_decision


def dropped(turn: Turn, index: int) -> None:
    """Goes on without a member that failed; what comes after it never begins."""
    if not goes_forward(turn, index):
        return
    parent = turn.plan.nodes[index].parent
    already = turn.dropped if turn.restoring else _dropped_before(turn, parent)
    for member in (index, *_followers(turn.plan, index)):
        if member in already:
            continue
        turn.dropped.add(member)
        group = turn.group(parent)
        turn.nodes[parent] = replace(group, failed=group.failed + 1)
        if member != index and not turn.restoring:
            for leaf in turn.plan.leaves_of(member):
                if turn.task(leaf.index).state is TaskState.PENDING:
                    turn.move(leaf.index, TaskChange.STOP)
        turn.later(Step.RESTED, member)


def _dropped_before(turn: Turn, scope: int) -> set[int]:
    """Returns what of a group never begins because of failures before this turn."""
    found = set(turn.dropped)
    for member in turn.plan.nodes[scope].forward:
        if _is_lost(turn.before.nodes[member]) and not has_passed(turn, member):
            found.update(_followers(turn.plan, member))
    return found


def _is_lost(member: Task | Group) -> bool:
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
            _is_recovered(turn, node.parent)
        return
    group = turn.group(node.parent)
    bounded = bool(turn.plan.nodes[node.parent].rules.concurrency_max)
    turn.nodes[node.parent] = replace(group, open=group.open - 1, at_work=group.at_work - bounded)
    if bounded:
        fill(turn, node.parent)
    if group.open == 1:
        if not turn.restoring:
            _skip_unused(turn, node.parent)
        turn.later(Step.RESTED, node.parent)


def _is_recovered(turn: Turn, index: int) -> None:
    """Closes the failure of a group whose recovery tasks have succeeded."""
    turn.move_group(index, GroupChange.RECOVERED)
    turn.forget(index)
    done(turn, index)


def _skip_unused(turn: Turn, index: int) -> None:
    """Skips recovery tasks that were not needed."""
    recovery = turn.plan.nodes[index].recovery
    for leaf in turn.plan.leaves_of(recovery) if recovery >= 0 else ():
        if turn.task(leaf.index).state is TaskState.PENDING:
            turn.move(leaf.index, TaskChange.SKIP)


# -- success --------------------------------------------------------------------------------------


def succeed(turn: Turn, index: int) -> None:
    """Goes on from a task that has taken effect."""
    policy = turn.plan.task(index).policy
    end_action = turn.plan.is_end_action(index)
    if policy.pause_on_success and not end_action and not turn.holding:
        turn.hold(_policy_pause(turn, "pause-on-success", index))
    if policy.wait_after > NO_WAIT:
        task = turn.task(index)
        due = turn.now.time + policy.wait_after
        turn.put(index, replace(task, due_time=due))
        turn.timer(Timer.DUE, index, len(task.attempts) + 1, due)
        return
    done(turn, index)


# -- failure --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What a failure asks to be made up for, and what follows."""

    scope: int  # a group; 0: the whole workflow
    then: GroupChange | None  # None: of the whole workflow


def fail(turn: Turn, index: int, failure: Failure, *, sent: bool = True) -> None:
    """Lets the policy say what the failure of a task makes of its group and workflow."""
    policy = turn.plan.task(index).policy
    if turn.plan.is_end_action(index) or policy.on_failure is OnFailure.IGNORE:
        turn.move(index, TaskChange.FAILED, failure)
        if turn.plan.task(index).effect is Effect.FORWARD_ONLY:
            turn.note(history.LeftBehind(reason=failure.reason), index)
        done(turn, index)
    elif turn.holding or policy.on_failure is OnFailure.PAUSE:
        _leave_open(turn, index, failure)
    elif policy.on_failure is OnFailure.STOP:
        turn.move(index, TaskChange.FAILED, failure)
        ending.stop(turn, failure)
    elif policy.on_failure is OnFailure.RECOVER and (scope := recovering(turn, index)) >= 0:
        turn.move(index, TaskChange.FAILED, failure)
        recover(turn, scope, failure)
    else:
        _make_up(turn, index, failure, sent=sent)


def _leave_open(turn: Turn, index: int, failure: Failure) -> None:
    """Holds the workflow until somebody decides about a failure."""
    turn.move(index, TaskChange.FAILED, failure)
    turn.put(index, replace(turn.task(index), needs_decision=True))
    turn.hold(_policy_pause(turn, "on-failure", index))


def _make_up(turn: Turn, index: int, failure: Failure, *, sent: bool) -> None:
    target = target_of(turn, index)
    if past_return(turn, target.scope, beside=index):
        if not sent:
            _leave_open(turn, index, failure)
            return
        # There is only forward: it is tried on, slowly, and an operator may decide.
        turn.move(index, TaskChange.RETRIABLE, failure)
        turn.put(index, replace(turn.task(index), needs_decision=True))
        schedule(turn, index, AttemptKind.ACTION, turn.plan.task(index).policy.retry, failure)
        return
    turn.move(index, TaskChange.FAILED, failure)
    if target.then is None:
        back.turn_round(turn, failure)
    elif target.scope == index:
        turn.later(Step.DROPPED, index)
    else:
        back.turn_group_round(turn, target.scope, target.then, failure)


def target_of(turn: Turn, index: int) -> Target:
    """Returns what the failure of a task asks to be made up for: the smallest that may absorb it.

    A group with rounds left begins again; a group that can do without the member goes on with the
    others; the group that COMPENSATE_GROUP is about is closed.
    """
    scope = -1
    if turn.plan.task(index).policy.on_failure is OnFailure.COMPENSATE_GROUP:
        scope = _declaring(turn.plan, index, OnFailure.COMPENSATE_GROUP)
        if scope < 0:
            scope = turn.plan.nodes[index].parent
    member = index
    for above in ancestors(turn.plan, turn.plan.nodes[index].parent):
        node, group = turn.plan.nodes[above], turn.group(above)
        if group.to_pass <= 0 and not node.recovers:
            return Target(member, GroupChange.DROP)  # the group has passed without it
        if group.round < node.rules.rounds_max:
            return Target(above, GroupChange.AGAIN)
        spare = len(node.forward) - node.need if node.rules.min_success else 0
        if spare and not turn.plan.nodes[member].recovers and _lost(turn, above, member) <= spare:
            return Target(member, GroupChange.DROP)
        if above == scope and above != 0:
            return Target(above, GroupChange.CLOSE)
        member = above
    return Target(0, None)


def _lost(turn: Turn, scope: int, failing: int) -> int:
    """Returns how many members a group does without once another has failed as well.

    Those that are still being made up for, and then dropped, are lost already; what comes after
    several that failed is lost once.
    """
    lost: set[int] = set()
    for member in turn.plan.nodes[scope].forward:
        record = turn.nodes[member]
        going = isinstance(record, Group) and record.then is GroupChange.DROP
        if member == failing or going or (_is_lost(record) and not has_passed(turn, member)):
            lost.update((member, *_followers(turn.plan, member)))
    return len(lost)


def _followers(plan: Plan, index: int) -> Iterator[int]:
    """Yields every sibling that comes after a node, directly or not."""
    seen: set[int] = set()
    found = [index]
    while found:
        for follower in plan.nodes[found.pop()].before:
            if follower not in seen and not plan.nodes[follower].recovers:
                seen.add(follower)
                found.append(follower)
                yield follower


def _declaring(plan: Plan, index: int, policy: OnFailure) -> int:
    """Returns the nearest group around a node that itself says a policy; -1 if none does."""
    for above in ancestors(plan, plan.nodes[index].parent):
        if plan.nodes[above].rules.on_failure is policy:
            return above
    return -1


def past_return(turn: Turn, scope: int, *, beside: int = -1) -> str:
    """Returns the name of another task without an opposite that may have taken effect, if any."""
    end = turn.plan.nodes[scope].end
    for index in turn.plan.irreversible:
        if scope <= index < end and index != beside:
            state = turn.task(index).state
            if state is TaskState.SUCCEEDED or state in IN_FLIGHT:
                return turn.plan.nodes[index].name
    return ""


def schedule(turn: Turn, index: int, kind: AttemptKind, retry: Retry, failure: Failure) -> None:
    """Lets a further attempt follow after a wait."""
    task = turn.task(index)
    delay = retry.wait(max(1, task.failures_in_a_row(kind)), turn.now.jitter)
    due = turn.now.time + delay
    number = len(task.attempts) + 1
    turn.put(index, replace(task, due_time=due, start_deadline=None))
    turn.note(history.RetryScheduled(attempt=number, delay=delay, failure=failure), index)
    turn.timer(Timer.DUE, index, number, due)


# -- recovery -------------------------------------------------------------------------------------


def recovering(turn: Turn, index: int) -> int:
    """Returns the group whose recovery tasks a failure asks for.

    -1: there is none, it failed in recovery itself, or its group has passed without it.
    """
    plan, below = turn.plan, index
    for above in ancestors(plan, plan.nodes[index].parent):
        if plan.nodes[below].recovers or turn.group(above).to_pass <= 0:
            return -1
        if plan.nodes[above].rules.on_failure is OnFailure.RECOVER:
            return above
        below = above
    return -1


def recover(turn: Turn, scope: int, failure: Failure) -> None:
    """Stops what a group still does, and runs its recovery tasks once that is at rest."""
    turn.move_group(scope, GroupChange.RECOVER, failure=failure)
    recovery = turn.plan.nodes[scope].recovery
    for index in range(scope + 1, recovery):
        if isinstance(turn.nodes[index], Task) and back.scope_of(turn, index) < 0:
            back.stop_leaf(turn, index)
    back.begin_no_more_rounds(turn, scope)
    turn.forget(scope)
    _go_on_back(turn, scope)
    if _is_quiet(turn, scope):
        turn.later(Step.BEGIN, recovery)


def _go_on_back(turn: Turn, scope: int) -> None:
    """Lets groups inside one that is recovered be made up for to their end."""
    for index in range(scope + 1, turn.plan.nodes[scope].recovery):
        group = turn.nodes[index]
        if isinstance(group, Group) and group.state is GroupState.COMPENSATING:
            turn.later(Step.MAKE_UP_FOR, index)


def _is_quiet(turn: Turn, scope: int) -> bool:
    """Returns whether nothing is going on any more in a group that is to be recovered."""
    nodes = turn.nodes[scope + 1 : turn.plan.nodes[scope].recovery]
    return not any(
        node.state is GroupState.COMPENSATING
        if isinstance(node, Group)
        else node.state in back.UNSETTLED
        for node in nodes
    )


def settled_beside_recovery(turn: Turn, index: int) -> None:
    """Begins a recovery that has waited for a node to come to rest."""
    for above in ancestors(turn.plan, turn.plan.nodes[index].parent):
        if turn.group(above).state is GroupState.RECOVERING:
            recovery = turn.plan.nodes[above].recovery
            if not turn.is_touched(recovery) and _is_quiet(turn, above):
                turn.later(Step.BEGIN, recovery)
            return


# -- the walk over what has happened --------------------------------------------------------------


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
    turn.restoring = False


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
        _is_recovered(turn, index)
    for index in turn.ripe:
        turn.later(Step.BEGIN, index)
    for node in turn.plan.nodes:
        if node.rules.concurrency_max and turn.group(node.index).waiting:
            fill(turn, node.index)
        if node.recovery >= 0 and turn.group(node.index).open == 0:
            _skip_unused(turn, node.index)
    if turn.finished:
        ending.conclude_success(turn)
