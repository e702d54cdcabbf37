"""What people ask of a workflow: cancel, pause, resume, and decisions about compensations.

Each is either refused, with everything that stands against it, and has then changed nothing; or
done whole.
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.saga import (
    back,
    ending,
    events,
    forward,
    history,
    reports,
    resume,
    retracing,
    starting,
)
from coordinator.saga.commands import SendFence
from coordinator.saga.spec import IRREVERSIBLE, Lock, owner_of, united
from coordinator.saga.states import (
    AT_REST,
    BEING_COMPENSATED,
    IN_FLIGHT,
    AttemptState,
    GroupChange,
    TaskChange,
    TaskState,
    WorkflowChange,
    WorkflowState,
)
from coordinator.saga.turn import HOST_FIELD, Refusal, Step, Turn, bound_host
from coordinator.saga.workflow import PATCH, SKIP, Decided, Failure, Inbound, Task, Values

W = WorkflowState
_CANCELLABLE = (W.RUNNING, W.PAUSING, W.PAUSED, W.BLOCKED)
_PAUSABLE = (W.RUNNING, W.BLOCKED)
_HOLDABLE = (W.RUNNING, W.BLOCKED, W.COMPENSATING)
_RESUMABLE = (W.PAUSING, W.PAUSED)
_MADE_UP_FOR = (W.COMPENSATING, W.BLOCKED)
_FENCEABLE = (W.RUNNING, W.PAUSING, W.COMPENSATING, W.BLOCKED, W.ENDING)
_GIVEN_UP = frozenset({TaskState.UNKNOWN, TaskState.CANCELLING})


def _may(turn: Turn, ask: events.Ask, allowed: tuple[WorkflowState, ...]) -> bool:
    """Returns whether a request fits the workflow as it is; if not, it is refused."""
    if ask.version not in (0, turn.before.version):
        turn.refusal = Refusal(state=turn.state, allowed=allowed, outdated=True)
    elif turn.state not in allowed:
        turn.refusal = Refusal(state=turn.state, allowed=allowed)
    return turn.refusal is None


def _refuse(turn: Turn, allowed: tuple[WorkflowState, ...], because: str) -> None:
    turn.refusal = Refusal(state=turn.state, allowed=allowed, because=because)


def _note(
    turn: Turn, ask: events.Ask, verb: str, task: int = -1, changes: tuple[Inbound, ...] = ()
) -> Decided:
    """Writes into the history who wanted what, and why."""
    turn.note(
        history.Intervened(
            verb=verb,
            principal=ask.principal,
            reason=ask.reason,
            request_id=ask.request_id,
            changes=changes,
        ),
        task,
    )
    return Decided(verb=verb, principal=ask.principal, reason=ask.reason, time=turn.now.time)


def _refuse_more(turn: Turn, locks: tuple[Lock, ...], allowed: tuple[WorkflowState, ...]) -> bool:
    """Refuses further images to a workflow that waits in line: it would wait out of turn."""
    if locks and not turn.locked:
        _refuse(turn, allowed, "it waits in line for its images and cannot be given others yet")
    return turn.refusal is not None


def _take_more(turn: Turn, locks: tuple[Lock, ...]) -> None:
    """Keeps further images until the workflow is settled; that they are free is known."""
    if locks:
        turn.more_locks = united(turn.more_locks, locks)
        turn.note(history.LocksTaken())


# -- cancel and pause -----------------------------------------------------------------------------


def cancel(turn: Turn, event: events.CancelRequested) -> None:
    """Turns the workflow round because somebody wants it, if it still can be."""
    if not _may(turn, event.ask, _CANCELLABLE):
        return
    if turn.cause is not None:
        _refuse(turn, _CANCELLABLE, "it is being made up for already")
        return
    if name := back.past_return(turn, 0):
        because = f"{name} cannot be made up for and may have taken effect"
        _refuse(turn, _CANCELLABLE, because)
        return
    _note(turn, event.ask, "cancel")
    reports.turn_round_all(turn, event.failure)


def pause(turn: Turn, event: events.PauseRequested) -> None:
    """Lets nothing new start; attempts in flight end by themselves."""
    allowed = _HOLDABLE if event.hold_compensation else _PAUSABLE
    if not _may(turn, event.ask, allowed):
        if turn.state is W.COMPENSATING and turn.refusal and not turn.refusal.outdated:
            _refuse(turn, allowed, "a pause holds compensations only if it says so")
        return
    if turn.cause is not None and not event.hold_compensation:
        _refuse(turn, allowed, "a pause holds compensations only if it says so")
        return
    turn.compensation_held = event.hold_compensation
    turn.hold(_note(turn, event.ask, "pause"))


def hold(turn: Turn, ask: events.Ask) -> None:
    """Holds all that can be held, compensations too: an operator has to look first."""
    if turn.state not in (*_HOLDABLE, *_RESUMABLE):
        return  # its end actions run, which nothing stops; or nothing moves it
    turn.compensation_held = True
    turn.hold(_note(turn, ask, "pause"))


# -- resume ---------------------------------------------------------------------------------------


def go_on(turn: Turn, event: events.ResumeRequested) -> None:
    """Takes every choice at once, and lets the workflow go on."""
    about_blocked = turn.state is W.BLOCKED and turn.cause is None and bool(event.choices)
    allowed = (*_RESUMABLE, W.BLOCKED) if about_blocked else _RESUMABLE
    if not _may(turn, event.ask, allowed):
        if turn.refusal and not turn.refusal.outdated and turn.cause is not None:
            violations = resume.requirements(turn.before)
            turn.refusal = replace(turn.refusal, violations=violations)
        return
    if violations := resume.violations(turn.before, event):
        turn.refusal = Refusal(state=turn.state, allowed=allowed, violations=violations)
        return
    given_up = next((c for c in event.choices if isinstance(c, events.GiveUp)), None)
    if given_up is not None:
        _give_up(turn, event, given_up)
        return
    if _refuse_more(turn, event.locks, allowed):
        return
    _note(turn, event.ask, "resume", changes=_patch_input(turn, event))
    _take_more(turn, event.locks)
    turn.pause, turn.compensation_held, turn.anew = None, False, True
    if turn.holding:
        back_ = turn.cause is not None
        turn.move_workflow(WorkflowChange.RESUME_COMPENSATION if back_ else WorkflowChange.RESUME)
    resets = [scope for choice in event.choices if (scope := _choose(turn, event, choice)) > 0]
    for scope in resets:
        failure = _first_failure(turn, scope)
        back.turn_group_round(turn, scope, GroupChange.AGAIN, failure)
    turn.run()
    retracing.go_on(turn)
    _wait_anew(turn)
    _start_recalled(turn)


def _start_recalled(turn: Turn) -> None:
    """Starts tasks again that were taken back from the line before the host that they name."""
    for index, task in turn.before.tasks():
        spec, now = turn.plan.task(index), turn.task(index)
        in_line = task.state is now.state is TaskState.READY and now.due_time is None
        if in_line and bound_host(spec, now):
            starting.go(turn, index)


def _wait_anew(turn: Turn) -> None:
    """Gives tasks that found no host while the workflow was held their whole time again."""
    for index, task in turn.before.tasks():
        timeout = turn.plan.task(index).policy.start_timeout
        if task.state is TaskState.READY and task.start_deadline is not None and timeout:
            now = turn.task(index)
            if now.state is TaskState.READY:
                turn.put(index, replace(now, start_deadline=turn.now.time + timeout))


def _give_up(turn: Turn, event: events.ResumeRequested, choice: events.GiveUp) -> None:
    task = turn.task(choice.task)
    cause = task.failure or Failure(reason="CANCELLED", message=event.ask.reason)
    decided = _note(turn, event.ask, "compensate", choice.task)
    turn.put(choice.task, replace(task, decided=decided))
    reports.turn_round_all(turn, cause)


def _patch_input(turn: Turn, event: events.ResumeRequested) -> tuple[Inbound, ...]:
    """Replaces values of the input; attempts from now on see them."""
    known = {each.field: each.value for each in turn.input_patches}
    patches = tuple(
        Inbound(
            field=path,
            value=value,
            origin=PATCH,
            principal=event.ask.principal,
            time=turn.now.time,
            previous=known.get(path, turn.before.about.input.get(path)),
        )
        for path, value in event.input.items()
    )
    kept = tuple(each for each in turn.input_patches if each.field not in event.input)
    turn.input_patches = (*kept, *patches)
    return patches


def _choose(turn: Turn, event: events.ResumeRequested, choice: events.Choice) -> int:
    """Takes one choice; returns the group that is to be made up for and run anew, or 0."""
    match choice:
        case events.Skip():
            for index in resume.chosen(turn.before, choice):
                _skip(turn, event, index, choice.output)
        case events.Rerun(reset=True):
            _note(turn, event.ask, "rerun", choice.task)
            for index in resume.leaves(turn.before, choice.task):
                if turn.plan.nodes[index].under < 0:
                    _patch(turn, event, index, choice)
            return choice.task
        case events.Rerun():
            for index in resume.chosen(turn.before, choice):
                _rerun(turn, event, index, choice)
        case events.GiveUp():
            pass  # taken before
    return 0


def _skip(turn: Turn, event: events.ResumeRequested, index: int, output: Values) -> None:
    """Goes on without a task; without one that waits for its turn, once that has come."""
    changes = tuple(Inbound(field=k, value=v, origin=PATCH) for k, v in output.items())
    decided = _note(turn, event.ask, SKIP, index, changes)
    if turn.task(index).state is not TaskState.PENDING:
        turn.move(index, TaskChange.SKIP)
    task = turn.task(index)
    skipped = replace(task, given=dict(output), decided=decided, needs_decision=False)
    turn.put(index, replace(skipped, due_time=None, start_deadline=None))


def _rerun(turn: Turn, event: events.ResumeRequested, index: int, choice: events.Rerun) -> None:
    changes = _patch(turn, event, index, choice)
    decided = _note(turn, event.ask, "rerun", index, changes)
    task = turn.task(index)
    if task.state is TaskState.FAILED:
        back.run_anew(turn, index)
    elif task.state is TaskState.RETRY_WAIT and task.needs_decision:
        # Past a pivot there is only forward: its next try comes at once.
        _try_now(turn, index, decided)
        return
    elif task.state is TaskState.READY and task.due_time is None:
        # It waits for a host: the values, or the host, that it was given may change which.
        _try_now(turn, index, decided)
        return
    turn.put(index, replace(turn.task(index), decided=decided))


def _try_now(turn: Turn, index: int, decided: Decided) -> None:
    """Lets a task's next attempt begin, or look for a host, without any further wait."""
    task = turn.task(index)
    if task.needs_decision:
        task = replace(task, tried=len(task.attempts), needs_decision=False)
    turn.put(index, replace(task, decided=decided))
    starting.go(turn, index)


def _patch(
    turn: Turn, event: events.ResumeRequested, index: int, choice: events.Rerun
) -> tuple[Inbound, ...]:
    """Keeps the values that an operator gave, for every further attempt of a task."""
    task = turn.task(index)
    values = dict(choice.patch) | ({HOST_FIELD: choice.host} if choice.host else {})
    before = resume.inbound_before(turn.before, index)
    patches = tuple(
        Inbound(
            field=name,
            value=value,
            origin=PATCH,
            principal=event.ask.principal,
            time=turn.now.time,
            previous=before.get(name),
        )
        for name, value in values.items()
    )
    if patches:
        kept = tuple(each for each in task.patch if each.field not in values)
        turn.put(index, replace(task, patch=(*kept, *patches)))
    return patches


def _first_failure(turn: Turn, scope: int) -> Failure:
    for index in resume.leaves(turn.before, scope):
        failure = turn.before.task(index).failure
        if failure is not None:
            return failure
    return Failure(reason="RESET", message="An operator wants it run anew.")


# -- fences ---------------------------------------------------------------------------------------


def fence(turn: Turn, event: events.FenceRequested) -> None:
    """Has another host settle an attempt; what its own says from now on changes nothing.

    That host is asked until it has answered, or another one is asked in its place. Nothing is
    concluded before, and asking twice does no harm.
    """
    index, task = event.task, turn.task(event.task)
    if not _may(turn, event.ask, _FENCEABLE):
        return
    if task.state not in IN_FLIGHT:
        name = turn.plan.nodes[index].name
        because = f"{name} is {task.state}: an attempt is fenced whose outcome is still to come"
        _refuse(turn, _FENCEABLE, because)
        return
    last = task.last
    chosen = Inbound(
        field=HOST_FIELD,
        value=event.host,
        origin=PATCH,
        principal=event.ask.principal,
        time=turn.now.time,
        previous=last.fence_host or last.host,
    )
    _note(turn, event.ask, "fence", index, (chosen,))
    back.withdraw_order(turn, index)
    turn.put_attempt(index, replace(last, fence_host=event.host))
    turn.note(history.FenceMoved(attempt=last.number, host=event.host), index)
    turn.commands.append(SendFence(task=index, number=last.number, host=event.host))


# -- compensations --------------------------------------------------------------------------------


def decide_compensation(turn: Turn, event: events.CompensationDecided) -> None:
    """Does what an operator decided about one task that is not made up for by itself."""
    index = event.task
    task = turn.task(index)
    if event.ask.version not in (0, turn.before.version):
        turn.refusal = Refusal(state=turn.state, allowed=_MADE_UP_FOR, outdated=True)
    elif because := _stands_against(turn, event, task):
        _refuse(turn, _MADE_UP_FOR, because)
    elif not _refuse_more(turn, event.locks, _MADE_UP_FOR):
        decided = _note(turn, event.ask, event.verb, index)
        _take_more(turn, event.locks)
        turn.put(index, replace(task, decided=decided))
        _COMPENSATION[event.verb](turn, event)


def _stands_against(turn: Turn, event: events.CompensationDecided, task: Task) -> str:
    """Returns why a decision about a compensation cannot be taken, or nothing."""
    name = turn.plan.nodes[event.task].name
    verb = events.CompensationVerb
    if task.state in BEING_COMPENSATED:
        if event.verb is verb.ABANDON and task.too_late is not None:
            return (
                f"{name} is {task.state}, to fence an attempt that was too late, and the workflow "
                "goes on after it: mark it done, or cancel the workflow"
            )
        if event.verb is verb.RETRY and task.due_time is None:
            if turn.plan.task(event.task).external:
                return f"{name} was asked for already: mark it done once it is, or abandon it"
            return f"an attempt of {name}'s compensation is under way: wait for it, or abandon it"
        action = task.action
        certain = action is not None and action.state is AttemptState.SUCCEEDED
        if event.verb is verb.REPLACE and turn.plan.task(event.task).external:
            return f"{name} is an external task: its owner or people make up for it, no verb does"
        if event.verb is verb.REPLACE and not certain:
            return (
                f"nobody knows whether {name} took effect: only its own opposite can fence it; "
                "possible: retry, mark done, abandon"
            )
        return ""
    if event.verb is verb.ABANDON and task.state in _GIVEN_UP:
        return ""
    ending = turn.plan.is_end_action(event.task) and task.state not in AT_REST
    if event.verb is verb.ABANDON and ending and task.state is not TaskState.PENDING:
        return ""
    return (
        f"{name} is {task.state}: decisions are taken about tasks in COMPENSATING and "
        "COMPENSATION_BLOCKED; UNKNOWN and CANCELLING ones may be abandoned, and end actions"
    )


def _retry_now(turn: Turn, event: events.CompensationDecided) -> None:
    back.send_compensation(turn, event.task)


def _replace(turn: Turn, event: events.CompensationDecided) -> None:
    task = turn.task(event.task)
    turn.put(event.task, replace(task, replacement=event.replacement))
    if task.due_time is not None:
        back.send_compensation(turn, event.task)


def _mark_done(turn: Turn, event: events.CompensationDecided) -> None:
    back.withdraw(turn, event.task)
    reports.compensated(turn, event.task)


def _abandon(turn: Turn, event: events.CompensationDecided) -> None:
    index = event.task
    went_forward = forward.goes_forward(turn, index)
    back.withdraw(turn, index)
    cleared = replace(turn.task(index), due_time=None, start_deadline=None, needs_decision=False)
    turn.put(index, cleared)
    turn.move(index, TaskChange.ABANDON)
    turn.note(history.LeftBehind(reason=event.ask.reason), index)
    if turn.task(index).compensation_due:
        turn.later(Step.MAKE_UP_FOR, index)
    elif turn.plan.is_end_action(index):
        forward.done(turn, index)
    elif went_forward:
        _fail_abandoned(turn, index)
    else:
        reports.at_rest(turn, index)


def _fail_abandoned(turn: Turn, index: int) -> None:
    """Fails a workflow of which a task was given up whose outcome nobody can tell.

    It is made up for if it can be; with something irreversible in it, it ends and keeps the rest.
    """
    spec, last = turn.plan.task(index), turn.task(index).last
    owner = owner_of(last.host)
    where = f"with {owner}" if owner else f"on {last.host}"
    place = ("owner", owner) if owner else ("host", last.host)
    failure = Failure(
        reason=TaskState.ABANDONED,
        message=f"{spec.name} was given up {where}: nobody knows whether it took effect.",
        metadata=(("task", spec.name), place),
        host="" if owner else last.host,
    )
    if spec.effect in IRREVERSIBLE or back.past_return(turn, 0):
        ending.stop(turn, failure)
    else:
        reports.turn_round_all(turn, failure)


_COMPENSATION = {
    events.CompensationVerb.RETRY: _retry_now,
    events.CompensationVerb.REPLACE: _replace,
    events.CompensationVerb.MARK_DONE: _mark_done,
    events.CompensationVerb.ABANDON: _abandon,
}
