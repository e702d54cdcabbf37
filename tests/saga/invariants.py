"""What holds in every workflow after every decision, whatever happened before.

Each function states one promise of the saga and names the invariant of the contract behind it. They
look at values only, so a table, a random walk and the simulator can all ask them. `check` asks all.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from coordinator.saga import history
from coordinator.saga.advance import Decision, advance, restore
from coordinator.saga.commands import (
    ChooseHost,
    Command,
    Recall,
    SendAction,
    SendCancel,
    SendCompensation,
    SendFence,
    SetTimer,
    Timer,
    Withdraw,
    outstanding,
)
from coordinator.saga.events import AttemptFailed, Event, Now, OwnerChanged
from coordinator.saga.parts import settled
from coordinator.saga.plan import ancestors, comes_before, outermost, wholes
from coordinator.saga.spec import OnFailure
from coordinator.saga.states import (
    EFFECT_FREE,
    GROUP_TABLE,
    HOLDING,
    IN_FLIGHT,
    SETTLED,
    TASK_TABLE,
    WORKFLOW_TABLE,
    AttemptKind,
    AttemptState,
    Effect,
    GroupState,
    TaskState,
    WorkflowState,
)
from coordinator.saga.workflow import CLOSE, Group, Task, Workflow

GROUP_MOVES = {(before, after) for (before, _), after in GROUP_TABLE.items()}
TASK_MOVES = {(before, after) for (before, _), after in TASK_TABLE.items()}
WORKFLOW_MOVES = {(before, after) for (before, _), after in WORKFLOW_TABLE.items()}
# Where a task may rest when nothing is left to make up for; PENDING would start later.
MADE_UP_FOR = EFFECT_FREE - {TaskState.PENDING, TaskState.READY}


def check(before: Workflow | None, event: Event | None, now: Now, decision: Decision) -> None:
    """Asks every invariant about one decision; without a `before` it is the first."""
    workflow = decision.workflow
    one_effect_at_a_time(workflow)
    the_verdict_is_true(workflow)
    commands_are_committed(decision)
    nothing_is_stuck(workflow)
    attempts_are_numbered(workflow)
    restored_is_the_same(workflow)
    compensation_goes_backwards(decision)
    parts_are_made_up_for_first(decision)
    nothing_of_an_earlier_attempt_stays(workflow)
    if before is None:
        return
    assert event is not None
    moves_are_in_the_tables(before, decision)
    versions_have_no_gaps(before, decision)
    settled_is_final(before, workflow)
    the_cause_comes_first(before, decision)
    nothing_starts_after_the_failure(before, decision)
    nothing_starts_while_it_is_held(before, decision)
    nothing_before_a_pivot_is_made_up_for(decision)
    a_part_decides_nothing(before, event, decision)
    a_refusal_changes_nothing(before, decision)
    closed_attempts_never_change(before, workflow)
    changes_are_named(before, decision)
    intents_are_counted(before, now, decision)
    decisions_are_pure(before, event, now, decision)
    if isinstance(event, OwnerChanged) and event.hold is None:
        a_new_owner_finds_everything(before, decision)
    elif isinstance(event, OwnerChanged):
        an_operator_has_to_look_first(before, decision)


def one_effect_at_a_time(workflow: Workflow) -> None:
    """I2: of a task at most one action is in effect or under way, and it is made up for once."""
    for index, task in workflow.tasks():
        name = workflow.plan.nodes[index].name
        read_only = workflow.plan.task(index).effect is Effect.READ_ONLY
        made_up = {
            attempt.compensates
            for attempt in task.attempts
            if attempt.kind is AttemptKind.COMPENSATION and attempt.state is AttemptState.SUCCEEDED
        }
        times = [
            a
            for a in task.attempts
            if a.kind is AttemptKind.COMPENSATION and a.state is AttemptState.SUCCEEDED
        ]
        assert len(times) == len(made_up), f"{name}: compensated twice"
        if task.decided is not None and task.decided.verb == "mark-compensated":
            continue  # somebody made up for it by hand
        if _in_later_round(workflow, index):
            # What somebody made up for by hand in an earlier round, nobody remembers here.
            made_up |= {a.compensates for a in task.attempts if a.number < len(task.attempts)}
        standing = [
            a
            for a in task.attempts
            if a.kind is AttemptKind.ACTION
            and (a.open or a.state is AttemptState.SUCCEEDED)
            and a.number not in made_up
        ]
        assert len(standing) <= 1 or read_only, f"{name}: {standing}"


def _in_later_round(workflow: Workflow, index: int) -> bool:
    """Returns whether a group around a task has been begun again."""
    groups = (
        workflow.nodes[above]
        for above in ancestors(workflow.plan, workflow.plan.nodes[index].parent)
    )
    return any(isinstance(group, Group) and group.round > 1 for group in groups)


def closed(workflow: Workflow, index: int) -> bool:
    """Returns whether the failure around a task is closed: by a policy, a quorum, a recovery."""
    for above in ancestors(workflow.plan, workflow.plan.nodes[index].parent):
        group = workflow.nodes[above]
        assert isinstance(group, Group)
        if group.state in (
            GroupState.COMPENSATED,
            GroupState.FAILED,
            GroupState.RECOVERED,
            GroupState.SKIPPED,
        ):
            return True
        if workflow.plan.nodes[above].rules.min_success:
            return True
    if workflow.plan.nodes[index].under >= 0:
        return True  # its whole decides: see nothing_of_an_earlier_attempt_stays
    task = workflow.task(index)
    if task.decided is not None and task.decided.verb == CLOSE:
        return True  # its owner said so: what it may have left is ABANDONED, and listed
    ignored = workflow.plan.task(index).policy.on_failure is OnFailure.IGNORE
    return ignored and task.state is TaskState.FAILED


def the_verdict_is_true(workflow: Workflow) -> None:
    """I4: SUCCEEDED means all took effect, COMPENSATED that nothing is left of it."""
    tree = [(i, task) for i, task in workflow.tasks() if not workflow.plan.is_end_action(i)]
    good = {TaskState.SUCCEEDED, TaskState.SKIPPED}
    if workflow.state is WorkflowState.SUCCEEDED:
        for index, task in tree:
            name = workflow.plan.nodes[index].name
            assert task.state in good or closed(workflow, index), (name, task.state)
        assert workflow.cause is None
    if workflow.state is WorkflowState.COMPENSATED:
        for index, task in tree:
            harmless = (
                task.state is TaskState.SUCCEEDED
                and workflow.plan.task(index).effect is Effect.READ_ONLY
            )
            assert task.state in MADE_UP_FOR - {TaskState.ABANDONED} or harmless, (
                workflow.plan.nodes[index].name,
                task.state,
            )
        assert workflow.cause is not None
    if workflow.state is WorkflowState.FAILED:
        assert workflow.cause is not None
    needs = any(
        task.state is TaskState.COMPENSATION_BLOCKED
        or (task.needs_decision and task.state is not TaskState.FAILED)
        for _, task in workflow.tasks()
    )
    going = (WorkflowState.RUNNING, WorkflowState.COMPENSATING, WorkflowState.BLOCKED)
    if workflow.state in going:
        assert needs == (workflow.state is WorkflowState.BLOCKED), workflow.state
    if not workflow.settled:
        open_failure = any(
            t.needs_decision and t.state is TaskState.FAILED for _, t in workflow.tasks()
        )
        assert not open_failure or workflow.holding, workflow.state
    assert (workflow.end_time is not None) == workflow.settled


def commands_are_committed(decision: Decision) -> None:
    """I5: every command names an attempt that the decided workflow holds open, on its host."""
    workflow = decision.workflow
    for command in decision.commands:
        if isinstance(command, SetTimer | ChooseHost):
            continue  # `outstanding` knows of it, or it is stale already
        task = workflow.task(command.task)
        assert command.number <= len(task.attempts), command
        attempt = task.attempts[command.number - 1]
        assert attempt.open, (command, attempt)
        if isinstance(command, Withdraw):
            continue  # whoever saw to it: its host, or one that was to fence it
        fence = isinstance(command, SendFence)
        assert command.host == (attempt.fence_host if fence else attempt.host), command
        if isinstance(command, Recall):
            continue
        assert command.number == len(task.attempts), command
        compensates = isinstance(command, SendCompensation)
        assert compensates == (attempt.kind is AttemptKind.COMPENSATION), command
    sent = {c for c in decision.commands if isinstance(c, SendAction | SendCancel | SendFence)}
    assert sent <= set(outstanding(workflow)), sent


def nothing_is_stuck(workflow: Workflow) -> None:
    """Liveness: what is open is asked for, and what is not settled waits for something."""
    found = list(outstanding(workflow))
    if workflow.state is WorkflowState.QUARANTINED:
        assert not found, found  # it waits for an operator, and does no harm meanwhile
        return
    if workflow.settled:
        assert not found, found
        for _, task in workflow.tasks():
            assert task.due_time is None, task
            assert task.state not in IN_FLIGHT, task
        return
    held = workflow.state is WorkflowState.PAUSED or not workflow.locked
    assert found or held, workflow.state
    keys = {(type(c), getattr(c, "timer", None), c.task, c.number) for c in found}
    assert len(keys) == len(found), found
    for index, task in workflow.tasks():
        mine = [c for c in found if c.task == index and not _is_deadline(c)]
        decided = task.state in (TaskState.ABANDONED, TaskState.COMPENSATED)
        # Marked done while its compensation was under way; it may be about to run once more.
        again = task.state in (TaskState.PENDING, TaskState.READY, TaskState.RETRY_WAIT)
        again |= task.state is TaskState.FAILED
        decided |= again and bool(task.attempts) and task.last.kind is AttemptKind.COMPENSATION
        working = bool(task.attempts) and task.last.open and not decided
        ready = task.state is TaskState.READY and not workflow.holding
        parts_first = task.state is TaskState.RETRY_WAIT and not settled(workflow, index)
        assert not (parts_first and mine), (index, task, mine)
        waits = task.due_time is not None and not parts_first
        assert (waits or working or ready) == bool(mine), (index, task, mine)
        for command in mine:
            _names_what_is_open(command, task)


def _is_deadline(command: Command) -> bool:
    return isinstance(command, SetTimer) and command.timer is not Timer.DUE


def _names_what_is_open(command: Command, task: Task) -> None:
    if isinstance(command, SetTimer):
        assert (command.number, command.time) == (len(task.attempts) + 1, task.due_time)
    elif isinstance(command, ChooseHost):
        assert command.number == len(task.attempts) + 1
    else:
        assert command.number == len(task.attempts), (command, task)
    if isinstance(command, SendAction):
        assert task.state in IN_FLIGHT, (command, task)


def attempts_are_numbered(workflow: Workflow) -> None:
    """Attempts count from 1, and all but the last are closed, or unknown and made up for."""
    for index, task in workflow.tasks():
        numbers = [attempt.number for attempt in task.attempts]
        assert numbers == list(range(1, len(numbers) + 1)), (index, numbers)
        by_hand = task.decided is not None and task.decided.verb == "mark-compensated"
        by_hand = by_hand or _in_later_round(workflow, index)
        for attempt, following in pairwise(task.attempts):
            if attempt.open and not by_hand:
                assert attempt.state is AttemptState.UNKNOWN, attempt
                assert following.compensates == attempt.number, (attempt, following)
        for attempt in task.attempts:
            assert (attempt.end_time is None) == attempt.open, attempt
        intents = [attempt.intent for attempt in task.attempts]
        assert intents == sorted(set(intents)), intents


def restored_is_the_same(workflow: Workflow) -> None:
    """I8: a workflow read back from its tasks alone is the one that was stored."""
    again = restore(replace(workflow, busy=-1, blocked=-1))
    for node, one, other in zip(workflow.plan.nodes, workflow.nodes, again.nodes, strict=True):
        assert _stored(one) == _stored(other), node.name
        # Once there is a verdict, only end actions and what is still made up for go on.
        over = workflow.verdict is not None and not workflow.plan.is_end_action(node.index)
        # While it is held nothing begins, and a resume works the counters out anew.
        if not over and not workflow.holding:
            assert one == other, f"{node.name}: kept {one}, restored {other}"
    assert (again.busy, again.blocked) == (workflow.busy, workflow.blocked)
    assert replace(again, nodes=()) == replace(workflow, nodes=())


def compensation_goes_backwards(decision: Decision) -> None:
    """I9: a compensation starts only when all that comes after its task is made up for."""
    workflow = decision.workflow
    for entry in decision.history:
        fact = entry.fact
        if not isinstance(fact, history.AttemptStarted) or fact.kind is AttemptKind.ACTION:
            continue
        spec = workflow.plan.task(entry.task)
        assert spec.effect not in {Effect.PIVOT, Effect.FORWARD_ONLY}, spec.name
        action = workflow.task(entry.task).attempts[fact.compensates - 1]
        assert action.kind is AttemptKind.ACTION
        # Once begun it goes on, even if the unknown outcome turns out later to be without effect.
        begins = fact.attempt == action.number + 1
        may_have_effect = action.state in {AttemptState.SUCCEEDED, AttemptState.UNKNOWN}
        assert may_have_effect or not begins, action
        if not workflow.task(entry.task).compensation_due:
            continue  # a single attempt is fenced; nothing after it has begun
        scope = _scope(workflow, entry.task)
        end = workflow.plan.nodes[scope].end
        for later, task in workflow.tasks():
            if scope <= later < end and comes_before(workflow.plan, entry.task, later):
                harmless = (
                    task.state is TaskState.SUCCEEDED
                    and workflow.plan.task(later).effect is Effect.READ_ONLY
                )
                name = workflow.plan.nodes[later].name
                assert task.state in MADE_UP_FOR or harmless, (
                    f"{spec.name} is made up for while {name}, after it, is {task.state}"
                )


def _scope(workflow: Workflow, index: int) -> int:
    """Returns the group that is made up for around a task: the whole tree, if none is alone."""
    # Of a workflow that was stopped, a group that was being made up for goes on alone.
    if workflow.cause is None or workflow.verdict is not None:
        for above in ancestors(workflow.plan, workflow.plan.nodes[index].parent):
            group = workflow.nodes[above]
            assert isinstance(group, Group)
            if group.state is GroupState.COMPENSATING:
                return above
    return 0


def grown(before: Workflow, workflow: Workflow) -> Workflow:
    """Returns a workflow as it was, with what was added to it since: nothing of that has begun."""
    added = (Task(),) * (len(workflow.nodes) - len(before.nodes))
    if not added:
        return before
    return replace(before, plan=workflow.plan, nodes=(*before.nodes, *added))


def moves_are_in_the_tables(before: Workflow, decision: Decision) -> None:
    """I7: the history leads from the state before to the state after by rows of the tables."""
    before = grown(before, decision.workflow)
    states = {index: task.state for index, task in before.tasks()}
    groups = {i: n.state for i, n in enumerate(before.nodes) if isinstance(n, Group)}
    state = before.state
    for entry in decision.history:
        fact = entry.fact
        if isinstance(fact, history.GroupMoved):
            assert groups[entry.task] is fact.before, entry
            assert (fact.before, fact.after) in GROUP_MOVES, entry
            groups[entry.task] = fact.after
        elif isinstance(fact, history.TaskMoved):
            assert states[entry.task] is fact.before, entry
            assert (fact.before, fact.after) in TASK_MOVES, entry
            states[entry.task] = fact.after
        elif isinstance(fact, history.WorkflowMoved):
            assert state is fact.before, entry
            assert (fact.before, fact.after) in WORKFLOW_MOVES, entry
            state = fact.after
    assert states == {index: task.state for index, task in decision.workflow.tasks()}
    after = decision.workflow.nodes
    assert groups == {i: n.state for i, n in enumerate(after) if isinstance(n, Group)}
    assert state is decision.workflow.state


def versions_have_no_gaps(before: Workflow, decision: Decision) -> None:
    """I7: the version grows by one with each decision that says something, the history by one."""
    workflow = decision.workflow
    if decision.empty:
        assert workflow == before
        assert not decision.commands or decision.refusal is None
        return
    assert decision.refusal is None
    assert workflow.version == before.version + 1
    numbers = [entry.sequence for entry in decision.history]
    assert numbers == list(range(before.sequence + 1, workflow.sequence + 1))


def settled_is_final(before: Workflow, workflow: Workflow) -> None:
    """I7: nothing moves a settled workflow or one of its tasks, nor the time when it ended."""
    if before.state not in SETTLED:
        return
    assert workflow.state is before.state
    assert workflow.end_time == before.end_time
    for (index, was), (_, now) in zip(before.tasks(), workflow.tasks(), strict=True):
        assert was.state is now.state, index
        assert len(was.attempts) == len(now.attempts), index


def the_cause_comes_first(before: Workflow, decision: Decision) -> None:
    """The cause of failure is stored before the first compensation, and never changes."""
    before = grown(before, decision.workflow)
    workflow = decision.workflow
    assert before.cause is None or workflow.cause == before.cause
    assert before.verdict is None or workflow.verdict is before.verdict
    for entry in decision.history:
        fact = entry.fact
        if isinstance(fact, history.AttemptStarted) and fact.kind is AttemptKind.COMPENSATION:
            scope = _scope(workflow, entry.task)
            group = workflow.nodes[scope]
            task = before.task(entry.task)
            alone = isinstance(group, Group) and group.failure is not None
            fenced = task.too_late is not None or task.state is TaskState.CANCELLING
            fenced = fenced or _is_recovered(workflow, entry.task)
            fenced = fenced or _is_within_what_is_over(workflow, entry.task)
            assert workflow.cause is not None or alone or fenced, entry


def _is_within_what_is_over(workflow: Workflow, part: int) -> bool:
    """Returns whether an attempt of something that a task is a part of is over, or given up."""
    return any(
        (not task.last.open and task.state is not TaskState.SUCCEEDED)
        or task.last.kind is AttemptKind.COMPENSATION
        or task.last.state is AttemptState.UNKNOWN
        for task in _wholes(workflow, part)
    )


def _wholes(workflow: Workflow, part: int) -> tuple[Task, ...]:
    return tuple(map(workflow.task, wholes(workflow.plan, workflow.plan.nodes[part].under)))


def parts_are_made_up_for_first(decision: Decision) -> None:
    """I9: a task is made up for once nothing is left of what was added under it, or after it."""
    workflow = decision.workflow
    for entry in decision.history:
        fact = entry.fact
        if isinstance(fact, history.AttemptStarted) and fact.kind is AttemptKind.COMPENSATION:
            for part in (*_parts(workflow, entry.task), *_resting_on(workflow, entry.task)):
                assert _leaves_nothing(workflow, part), (entry, workflow.plan.nodes[part].name)


def nothing_of_an_earlier_attempt_stays(workflow: Workflow) -> None:
    """I3: what was added within an attempt that has not SUCCEEDED is made up for before the next.

    So in a workflow that has SUCCEEDED a part is in effect only with all that it is a part of.
    """
    for index in workflow.plan.parts:
        task = workflow.task(index)
        action = task.action
        assert action is not None, index
        begun = action.open and action is task.last
        stands = begun or task.state is TaskState.SUCCEEDED or _is_closed(task)
        if not stands and workflow.state is not WorkflowState.SUCCEEDED:
            continue
        for part in _parts(workflow, index):
            attempts = workflow.task(part).attempts
            if not stands or (attempts and attempts[0].intent < action.intent):
                assert _leaves_nothing(workflow, part), workflow.plan.nodes[part].name


def _resting_on(workflow: Workflow, index: int) -> list[int]:
    """Returns the parts of the same whole that were added once this one had taken effect."""
    action, whole = workflow.task(index).action, workflow.plan.nodes[index].under
    if action is None or action.state is not AttemptState.SUCCEEDED or action.end_time is None:
        return []
    return [
        part
        for part in workflow.plan.parts.get(whole, ())
        if part > index
        and (attempts := workflow.task(part).attempts)
        and attempts[0].create_time >= action.end_time
    ]


def _is_closed(task: Task) -> bool:
    return task.decided is not None and task.decided.verb == CLOSE


def _parts(workflow: Workflow, whole: int) -> list[int]:
    """Returns everything that was added under a task."""
    found = [whole]
    for each in found:
        found.extend(workflow.plan.parts.get(each, ()))
    return found[1:]


def _leaves_nothing(workflow: Workflow, index: int) -> bool:
    task = workflow.task(index)
    read_only = workflow.plan.task(index).effect is Effect.READ_ONLY
    return task.state in MADE_UP_FOR or (task.state is TaskState.SUCCEEDED and read_only)


def a_part_decides_nothing(before: Workflow, event: Event, decision: Decision) -> None:
    """The failure of a part decides nothing while what it is a part of is at work."""
    if not isinstance(event, AttemptFailed):
        return
    whole = outermost(before.plan, event.task)
    if whole != event.task and before.task(whole).state is TaskState.RUNNING:
        after = decision.workflow
        assert (after.cause, after.pause, after.verdict) == (
            before.cause,
            before.pause,
            before.verdict,
        )
        assert not any(isinstance(entry.fact, history.GroupMoved) for entry in decision.history)


def _is_recovered(workflow: Workflow, index: int) -> bool:
    """Returns whether a group around a task is being recovered: what it stops may be fenced."""
    groups = (
        workflow.nodes[above]
        for above in ancestors(workflow.plan, workflow.plan.nodes[index].parent)
    )
    return any(isinstance(g, Group) and g.state is GroupState.RECOVERING for g in groups)


def nothing_starts_after_the_failure(before: Workflow, decision: Decision) -> None:
    """No attempt of an action starts once the workflow has failed, but for end actions."""
    failed = before.cause is not None
    for entry in decision.history:
        if isinstance(entry.fact, history.WorkflowMoved) and entry.fact.cause is not None:
            failed = True
        if isinstance(entry.fact, history.AttemptStarted):
            ending = decision.workflow.plan.is_end_action(entry.task)
            action = entry.fact.kind is AttemptKind.ACTION
            assert not failed or not action or ending, entry


def nothing_starts_while_it_is_held(before: Workflow, decision: Decision) -> None:
    """S-A1, S-R1: from the pause to the resume no attempt of an action starts.

    But for parts of what is at work, whose end the pause waits for.
    """
    held, plan = before.holding, decision.workflow.plan
    for entry in decision.history:
        fact = entry.fact
        if isinstance(fact, history.WorkflowMoved):
            held = fact.after in HOLDING
        if isinstance(fact, history.AttemptStarted) and fact.kind is AttemptKind.ACTION:
            whole = outermost(plan, entry.task)
            is_part = whole != entry.task and before.task(whole).state in IN_FLIGHT
            assert not held or is_part, entry


def nothing_before_a_pivot_is_made_up_for(decision: Decision) -> None:
    """I10: once a pivot has taken effect, nothing that comes before it is compensated."""
    workflow = decision.workflow
    took = [
        index
        for index in workflow.plan.irreversible
        if workflow.task(index).state is TaskState.SUCCEEDED
    ]
    for entry in decision.history:
        fact = entry.fact
        if isinstance(fact, history.AttemptStarted) and fact.kind is AttemptKind.COMPENSATION:
            if _passed_without(workflow, entry.task):
                continue  # what came after it did not wait for it
            for pivot in took:
                assert not comes_before(workflow.plan, entry.task, pivot), (entry, pivot)


def _passed_without(workflow: Workflow, index: int) -> bool:
    """Returns whether a group around a task has passed while it was still at work."""
    return any(
        workflow.plan.nodes[above].rules.min_success
        for above in ancestors(workflow.plan, workflow.plan.nodes[index].parent)
    )


def a_refusal_changes_nothing(before: Workflow, decision: Decision) -> None:
    """S-R13: whoever is refused finds everything as it was."""
    if decision.refusal is not None:
        assert decision.workflow is before
        assert decision.empty
        assert not decision.commands


def closed_attempts_never_change(before: Workflow, workflow: Workflow) -> None:
    """An attempt whose outcome is recorded stays as it is, and none disappears."""
    before = grown(before, workflow)
    for (index, was), (_, now) in zip(before.tasks(), workflow.tasks(), strict=True):
        if was is now:
            continue
        assert len(now.attempts) >= len(was.attempts), index
        for attempt, later in zip(was.attempts, now.attempts, strict=False):
            assert attempt.open or attempt == later, (attempt, later)
            assert attempt.inbound == later.inbound, (attempt, later)


def changes_are_named(before: Workflow, decision: Decision) -> None:
    """Every node whose stored record differs is among those to be stored."""
    before = grown(before, decision.workflow)
    for index, (was, now) in enumerate(zip(before.nodes, decision.workflow.nodes, strict=True)):
        if was is now or index in decision.changed:
            continue
        assert _stored(was) == _stored(now), index


def _stored(node: Task | Group) -> object:
    """Returns what of a node is stored."""
    if isinstance(node, Group):
        return (node.state, node.round, node.then, node.failure)
    return replace(node, compensation_due=False, made_up_for=False)


def intents_are_counted(before: Workflow, now: Now, decision: Decision) -> None:
    """Each new attempt takes the next place in the coordinator's order of intents."""
    before = grown(before, decision.workflow)
    places = [
        attempt.intent
        for (_, was), (_, task) in zip(before.tasks(), decision.workflow.tasks(), strict=True)
        for attempt in task.attempts[len(was.attempts) :]
    ]
    assert sorted(places) == list(range(now.intent, now.intent + decision.intents)), places


def decisions_are_pure(before: Workflow, event: Event, now: Now, decision: Decision) -> None:
    """I14: the same workflow and event make the same decision."""
    assert advance(before, event, now) == decision


def a_new_owner_finds_everything(before: Workflow, decision: Decision) -> None:
    """S-H1: a new owner is given all that is outstanding, and nothing else changes."""
    assert set(decision.commands) == set(outstanding(before))
    assert decision.workflow.nodes == before.nodes
    assert decision.workflow.state is before.state


def an_operator_has_to_look_first(before: Workflow, decision: Decision) -> None:
    """S-Z19: what is out is seen to, nothing new leaves, be it forward or back."""
    workflow = decision.workflow
    if before.settled or before.state in (WorkflowState.ENDING, WorkflowState.QUARANTINED):
        assert workflow.state is before.state
        return
    assert workflow.holding
    assert workflow.compensation_held
    for index, task in before.tasks():
        assert len(task.attempts) == len(workflow.task(index).attempts)
    assert not any(isinstance(command, ChooseHost) for command in decision.commands)
