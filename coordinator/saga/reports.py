"""What is heard of attempts, of times and of hosts, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import assert_never

from coordinator.saga import back, events, failing, forward, history, parts, starting
from coordinator.saga.commands import Timer, run_timer, send, start_number, workflow_timer
from coordinator.saga.spec import IRREVERSIBLE, Retry, owner_of
from coordinator.saga.states import (
    BEING_COMPENSATED,
    OUTCOMES,
    UNSETTLED,
    AttemptKind,
    AttemptState,
    TaskChange,
    TaskState,
)
from coordinator.saga.turn import Step, Turn
from coordinator.saga.workflow import STOPS_LATE, Attempt, Failure, Task

TIMED_OUT = "TIMED_OUT"
RUN_TIMEOUT = "RUN_TIMEOUT"  # as an agent says it of what it stops
OWNER_SILENT = "OWNER_SILENT"  # an owner was asked to stop, or to make up for it, and says nothing
SILENT_SINCE = "silent_since"  # of an owner, in the metadata of what came of it
ATTEMPT_FENCED = "ATTEMPT_FENCED"  # what an agent says of an attempt that it has fenced


def hear(turn: Turn, event: events.AttemptEvent) -> None:
    """Takes up what is said of one attempt."""
    task = turn.task(event.task)
    if not 1 <= event.number <= len(task.attempts):
        return  # no such attempt: what is said of it concerns nobody here
    attempt = task.attempts[event.number - 1]
    if not is_awaited(turn, event):
        _hear_late(turn, event, attempt)
    elif attempt.kind is AttemptKind.ACTION:
        _hear_of_action(turn, event)
    else:
        _hear_of_compensation(turn, event)


def is_awaited(turn: Turn, event: events.AttemptEvent) -> bool:
    """Returns whether the outcome of the attempt is still to come."""
    task = turn.task(event.task)
    # Of a task that is at rest, or waits to be run anew, somebody has decided about the attempt.
    newest = bool(task.attempts) and event.number == len(task.attempts)
    return newest and task.last.open and task.state in UNSETTLED


_SAID: dict[type[events.AttemptEvent], AttemptState] = {
    events.AttemptSucceeded: AttemptState.SUCCEEDED,
    events.AttemptFailed: AttemptState.FAILED,
    events.AttemptCancelled: AttemptState.CANCELLED,
}


def _hear_late(turn: Turn, event: events.AttemptEvent, attempt: Attempt) -> None:
    """Records an outcome that differs from what is known; nothing else comes of it."""
    state = _SAID.get(type(event))
    if state is None or state not in OUTCOMES or state is attempt.state:
        return
    turn.note(history.ReportedLate(attempt=event.number, state=state), event.task)
    if attempt.open:  # it was UNKNOWN and has been compensated since: now it is known
        turn.put_attempt(event.task, replace(attempt, state=state, end_time=turn.now.time))


# -- actions --------------------------------------------------------------------------------------


def _hear_of_action(turn: Turn, event: events.AttemptEvent) -> None:
    index = event.task
    match event:
        case events.AttemptAccepted():
            if turn.move(index, TaskChange.ACCEPTED):
                _accepted(turn, index)
        case events.AttemptSucceeded():
            _end_attempt(turn, index, AttemptState.SUCCEEDED, event)
            turn.move(index, TaskChange.SUCCEEDED)
            _clear(turn, index)
            at_rest(turn, index)
        case events.AttemptFailed():
            _action_failed(turn, event)
        case events.AttemptCancelled():
            _action_cancelled(turn, event)
        case events.AttemptLost():
            _action_lost(turn, event)
        case events.AttemptMissing():
            if turn.task(index).state is TaskState.CANCELLING:
                _give_up(turn, index, None)  # only a tombstone settles it
            else:
                turn.move(index, TaskChange.MISSING)  # it comes too late
        case events.AttemptRecalled():
            _action_recalled(turn, event)
        case events.FenceRefused():
            _fence_refused(turn, event)
        case _:
            assert_never(event)


def _accepted(turn: Turn, index: int) -> None:
    turn.put(index, replace(turn.task(index), start_deadline=None))
    _attempt_runs(turn, index)
    if turn.plan.task(index).external:
        bound = run_timer(turn.plan, index, turn.task(index))
        turn.commands.extend([bound] if bound else [])


def _attempt_runs(turn: Turn, index: int) -> None:
    attempt = turn.task(index).last
    started = attempt.start_time or turn.now.time
    running = replace(attempt, state=AttemptState.RUNNING, start_time=started, failure=None)
    turn.put_attempt(index, running)


def _clear(turn: Turn, index: int) -> None:
    """Forgets what was about an attempt that has ended."""
    task = turn.task(index)
    over = task.needs_decision and task.state is not TaskState.FAILED
    if task.failure is not None and task.failure.reason == STOPS_LATE:
        task = replace(task, failure=None)
        turn.put(index, task)
    if over or task.too_late is not None or task.start_deadline is not None:
        turn.put(index, replace(task, needs_decision=False, too_late=None, start_deadline=None))


def at_rest(turn: Turn, index: int) -> None:
    """Goes on from a task that has come to rest, in the direction that things go around it."""
    task = turn.task(index)
    if forward.goes_forward(turn, index) and task.state is TaskState.SUCCEEDED:
        starting.succeed(turn, index)
    elif turn.plan.nodes[index].under >= 0:
        forward.part_rested(turn, index)
    elif task.compensation_due:
        turn.later(Step.MAKE_UP_FOR, index)
    elif turn.cause is None:
        forward.attempt_is_over(turn, index)
        forward.settled_beside_recovery(turn, index)


def _action_recalled(turn: Turn, event: events.AttemptRecalled) -> None:
    """Lets a task wait for a resume whose attempt was taken back before it left."""
    index = event.task
    if turn.plan.task(index).external and turn.task(index).last.start_time is not None:
        return  # its owner accepted it the moment before: it is, or may be, at work
    cancelled = events.AttemptCancelled(task=index, number=event.number)
    stopping = turn.task(index).state is TaskState.CANCELLING
    if stopping or not forward.goes_forward(turn, index):
        _action_cancelled(turn, cancelled)
        return
    _end_attempt(turn, index, AttemptState.CANCELLED, cancelled)
    turn.put(index, replace(turn.task(index), start_deadline=None))
    turn.move(index, TaskChange.RECALLED)
    if not parts.is_held(turn, index):
        starting.go(turn, index)  # it was resumed meanwhile


def _action_cancelled(turn: Turn, event: events.AttemptCancelled) -> None:
    index = event.task
    task = turn.task(index)
    if task.too_late is not None:
        _action_failed(turn, _failed_late(event, task.too_late))
    elif task.state is not TaskState.CANCELLING:
        _action_failed(turn, _stopped_by_others(turn, event))
    else:
        _end_attempt(turn, index, AttemptState.CANCELLED, event)
        turn.move(index, TaskChange.CANCELLED)
        _clear(turn, index)
        at_rest(turn, index)


def _action_lost(turn: Turn, event: events.AttemptLost) -> None:
    index = event.task
    failure = _since(turn, event)
    if turn.move(index, TaskChange.LOST, failure):
        _attempt_unknown(turn, index, failure)
        if (bound := run_timer(turn.plan, index, turn.task(index))) is not None:
            turn.commands.append(bound)


def _since(turn: Turn, event: events.AttemptLost) -> Failure:
    """Returns why nobody knows how an attempt stands; of a silent owner, since when."""
    external = turn.plan.task(event.task).external
    if external is None or external.heartbeat_timeout is None:
        return event.failure
    since = (turn.now.time - external.heartbeat_timeout).isoformat(timespec="seconds")
    return replace(event.failure, metadata=(*event.failure.metadata, (SILENT_SINCE, since)))


def _fence_refused(turn: Turn, event: events.FenceRefused) -> None:
    """Asks the attempt's own host again: nobody else can tell."""
    index, last = event.task, turn.task(event.task).last
    if last.fence_host != event.host:
        return  # another one was asked meanwhile
    turn.put_attempt(index, replace(last, fence_host=""))
    turn.note(history.FenceMoved(attempt=last.number, host="", failure=event.failure), index)
    turn.commands.append(send(index, turn.task(index).last))


def _action_failed(turn: Turn, event: events.AttemptFailed) -> None:
    index = event.task
    if event.failure.reason == ATTEMPT_FENCED:
        task = turn.task(index)
        # What it was fenced for says more than that it was.
        event = replace(event, failure=task.too_late or _fenced(task.last, event.failure))
    _end_attempt(turn, index, AttemptState.FAILED, event, event.failure)
    failed(turn, index, event.failure)


def _fenced(attempt: Attempt, failure: Failure) -> Failure:
    """Returns a failure as of the host that was lost: another one tells of it."""
    other = attempt.fence_host
    if not other or failure.host != other:
        return failure
    message = f"{failure.message.rstrip('.')}; {other} settled it in the place of {attempt.host}."
    metadata = (*failure.metadata, ("settled_by", other))
    return replace(failure, host=attempt.host, message=message, metadata=metadata)


def failed(turn: Turn, index: int, failure: Failure) -> None:
    """Goes on from a task whose attempt failed, certainly."""
    task = turn.task(index)
    over = task.needs_decision
    turn.put(
        index,
        replace(task, failure=failure, too_late=None, start_deadline=None, needs_decision=False),
    )
    deadline = workflow_timer(turn.before)
    if deadline is not None and turn.plan.task(index).effect in IRREVERSIBLE:
        turn.commands.append(deadline)  # it may have passed while there was no way back
    retry = turn.plan.task(index).policy.retry
    if not forward.goes_forward(turn, index):
        turn.move(index, TaskChange.FAILED, failure)
        at_rest(turn, index)
    elif not over and _may_retry(task, retry, failure):
        turn.move(index, TaskChange.RETRIABLE, failure)
        failing.schedule(turn, index, AttemptKind.ACTION, retry, failure)
    else:
        failing.fail(turn, index, failure)
    forward.attempt_is_over(turn, index)


def _may_retry(task: Task, retry: Retry, failure: Failure) -> bool:
    """Returns whether the policy allows another attempt after this failure."""
    if task.failures_in_a_row(AttemptKind.ACTION) >= retry.attempts_max:
        return False
    return failure.reason in retry.reasons if retry.reasons else failure.retriable


def _stopped_by_others(turn: Turn, event: events.AttemptCancelled) -> events.AttemptFailed:
    """Returns the failure of an attempt that stopped although the saga had not asked for it."""
    failure = Failure(
        reason="CANCELLED",
        message="It was stopped, and nobody here asked for that.",
        retriable=True,
        attempt=_name(turn, event.task),
    )
    return _failed_late(event, failure)


def _failed_late(event: events.AttemptCancelled, failure: Failure) -> events.AttemptFailed:
    return events.AttemptFailed(
        task=event.task, number=event.number, failure=failure, done=event.done, unit=event.unit
    )


# -- compensations --------------------------------------------------------------------------------


def _hear_of_compensation(turn: Turn, event: events.AttemptEvent) -> None:
    index = event.task
    match event:
        case events.AttemptSucceeded():
            _end_attempt(turn, index, AttemptState.SUCCEEDED, event)
            compensated(turn, index)
        case events.AttemptFailed():
            _compensation_failed(turn, event)
        case events.AttemptCancelled():
            _compensation_failed(turn, _stopped_by_others(turn, event))
        case events.AttemptLost():
            if turn.task(index).last.state is not AttemptState.UNKNOWN:
                _attempt_unknown(turn, index, event.failure)
        case events.AttemptAccepted():
            if turn.plan.task(index).external:
                _owner_accepted(turn, index)
        case events.AttemptMissing() | events.AttemptRecalled() | events.FenceRefused():
            pass  # the intent stands and is seen to until its outcome is known
        case _:
            assert_never(event)


def _owner_accepted(turn: Turn, index: int) -> None:
    """Notes that an owner makes up for a task now; nobody else need be asked for."""
    task = turn.task(index)
    if task.last.state is AttemptState.RUNNING and task.state is TaskState.COMPENSATING:
        return
    turn.note(history.AttemptAccepted(attempt=task.last.number), index)
    _attempt_runs(turn, index)
    if task.state is TaskState.COMPENSATION_BLOCKED:
        turn.put(index, replace(turn.task(index), compensation_failure=None))
        turn.move(index, TaskChange.ACCEPTED)


def owner_is_silent(turn: Turn, event: events.OwnerSilent) -> None:
    """Asks for more than an owner does: to make up for what it does not stop; or an operator."""
    index = event.task
    task = turn.task(index)
    last = task.attempts[-1] if task.attempts else None
    if last is None or last.number != event.number or not last.open:
        return
    if event.failure.reason == STOPS_LATE:
        # It is at work: nobody makes up for that meanwhile, but somebody should look.
        if task.state is TaskState.CANCELLING and not task.stops_late:
            turn.put(index, replace(task, failure=event.failure))
    elif task.state is TaskState.CANCELLING:
        _give_up(turn, index, event.failure)
    elif task.state is TaskState.COMPENSATING:
        turn.put(index, replace(task, compensation_failure=event.failure))
        turn.move(index, TaskChange.OVER_BUDGET, event.failure)


def _give_up(turn: Turn, index: int, failure: Failure | None) -> None:
    """Makes up for an attempt that does not stop, once its parts are made up for."""
    if not parts.is_given_up(turn.task(index)):
        _attempt_unknown(turn, index, failure)
    back.make_up_for_parts(turn, index)
    forward.parts_rested(turn, index)


def compensated(turn: Turn, index: int) -> None:
    """Goes on from a task that is made up for; one that was too late has failed, certainly."""
    task = turn.task(index)
    turn.put(index, replace(task, compensation_failure=None, due_time=None))
    if task.too_late is not None:
        failed(turn, index, task.too_late)
        return
    turn.move(index, TaskChange.COMPENSATED)
    if turn.task(index).compensation_due:
        turn.later(Step.MAKE_UP_FOR, index)
    else:
        at_rest(turn, index)


def _compensation_failed(turn: Turn, event: events.AttemptFailed) -> None:
    """Schedules the next try, for ever; over the budget it also asks for an operator."""
    index = event.task
    _end_attempt(turn, index, AttemptState.FAILED, event, event.failure)
    task = turn.task(index)
    turn.put(index, replace(task, compensation_failure=event.failure))
    retry = turn.plan.task(index).policy.compensation_retry
    spent = task.failures_in_a_row(AttemptKind.COMPENSATION) >= retry.attempts_max
    blocked = task.state is TaskState.COMPENSATION_BLOCKED
    if spent or blocked or not event.failure.retriable:
        turn.move(index, TaskChange.OVER_BUDGET, event.failure)
    else:
        turn.move(index, TaskChange.COMPENSATION_FAILED, event.failure)
    failing.schedule(turn, index, AttemptKind.COMPENSATION, retry, event.failure)


# -- attempts -------------------------------------------------------------------------------------


def _end_attempt(
    turn: Turn,
    index: int,
    state: AttemptState,
    event: events.AttemptSucceeded | events.AttemptFailed | events.AttemptCancelled,
    failure: Failure | None = None,
) -> None:
    """Records the outcome of a task's current attempt."""
    attempt = replace(
        turn.task(index).last,
        state=state,
        failure=failure,
        done=event.done,
        unit=event.unit,
        end_time=turn.now.time,
    )
    if isinstance(event, events.AttemptSucceeded):
        attempt = replace(attempt, output=event.output)
    turn.put_attempt(index, attempt)
    turn.note(
        history.AttemptEnded(
            attempt=attempt.number,
            state=state,
            failure=failure,
            done=event.done,
            unit=event.unit,
        ),
        index,
    )


def _attempt_unknown(turn: Turn, index: int, failure: Failure | None) -> None:
    unknown = AttemptState.UNKNOWN
    attempt = replace(turn.task(index).last, state=unknown, failure=failure)
    turn.put_attempt(index, attempt)
    turn.note(history.AttemptEnded(attempt=attempt.number, state=unknown, failure=failure), index)


# -- times and hosts ------------------------------------------------------------------------------


def time_has_come(turn: Turn, event: events.TimerFired) -> None:
    """Does what was waiting for a time, unless that is no longer wanted."""
    match event.timer:
        case Timer.DUE:
            _wait_is_over(turn, event)
        case Timer.START:
            _start_is_late(turn, event)
        case Timer.RUN:
            _run_is_over(turn, event)
        case Timer.WORKFLOW:
            _workflow_is_late(turn)


def _wait_is_over(turn: Turn, event: events.TimerFired) -> None:
    index = event.task
    task = turn.task(index)
    if task.due_time is None or event.number != len(task.attempts) + 1:
        return  # a stale timer fires into nothing
    if task.state in BEING_COMPENSATED:
        if not (turn.holding and turn.compensation_held):
            back.send_compensation(turn, index)
    elif parts.is_held(turn, index):
        return  # a resume asks for the time again
    elif task.state is TaskState.SUCCEEDED:
        turn.put(index, replace(task, due_time=None))
        forward.done(turn, index)
    else:
        assert task.state in (TaskState.READY, TaskState.RETRY_WAIT), task.state
        starting.go(turn, index)


def _start_is_late(turn: Turn, event: events.TimerFired) -> None:
    """Stops and fences an attempt that is not in the agent's journal in time."""
    index = event.task
    task = turn.task(index)
    if task.start_deadline is None or event.number != start_number(task):
        return
    if turn.holding and task.state is TaskState.READY:
        return  # nobody looks for a host meanwhile: a resume sets the time anew
    policy = turn.plan.task(index).policy
    failure = Failure(
        reason=starting.START_TIMEOUT,
        message=f"It was not in an agent's journal {policy.start_timeout} after it was ready: "
        "is its host overloaded, or does nothing reach it?",
        retriable=True,
    )
    if task.state is TaskState.READY:
        # Not a retry: no attempt was made that its budget could count, and it would wait for ever.
        turn.put(index, replace(task, failure=failure, start_deadline=None))
        failing.fail(turn, index, failure)
    elif task.state in (TaskState.STARTING, TaskState.UNKNOWN):
        turn.put(index, replace(task, too_late=failure, start_deadline=None))
        back.stop(turn, index)


def _run_is_over(turn: Turn, event: events.TimerFired) -> None:
    """Stops an attempt that has had its time on a host that does not answer; then it is fenced.

    It has failed only once its host, or another one on the same storage, has said so.
    """
    index = event.task
    task = turn.task(index)
    due = run_timer(turn.plan, index, task) if task.attempts else None
    if due is None or due.number != event.number or turn.now.time < due.time:
        return  # its host answers again, or it has an outcome
    spec = turn.plan.task(index)
    where = f"on {task.last.host}, which does not answer,"
    if spec.external:
        where = f"with {owner_of(task.last.host)}"
    failure = Failure(
        reason=RUN_TIMEOUT,
        message=f"It ran longer than {_seconds(spec.policy.run_timeout)} {where} and was stopped.",
        retriable=True,
        attempt=_name(turn, index),
    )
    turn.put(index, replace(task, too_late=failure))
    back.stop(turn, index)


def _name(turn: Turn, index: int) -> str:
    """Returns the name of a task's newest attempt: whoever reads a failure looks for it there."""
    node, number = turn.plan.nodes[index], turn.task(index).last.number
    return f"workflows/{turn.before.id}/tasks/{node.name}/attempts/{number}"


def _seconds(span: timedelta | None) -> str:
    assert span is not None, "what is late was to be in time"
    return f"{span.total_seconds():g} s"


def _workflow_is_late(turn: Turn) -> None:
    """Fails a workflow that has no verdict in time; a held one, once it is resumed."""
    timeout = turn.plan.terms.timeout
    if timeout is None or turn.cause is not None or turn.verdict is not None or turn.holding:
        return
    if turn.now.time < turn.before.create_time + timeout:
        return
    if back.past_return(turn, 0):
        return
    failure = Failure(
        reason=TIMED_OUT,
        message=f"The workflow had no verdict {_seconds(timeout)} after its start.",
    )
    turn_round_all(turn, failure)


def turn_round_all(turn: Turn, cause: Failure) -> None:
    """Turns the workflow round; those that would await a sibling are asked to stop as well."""
    back.turn_round(turn, cause)
    for leaf in turn.plan.leaves_of(0):
        task = turn.task(leaf.index)
        if task.state in (TaskState.STARTING, TaskState.RUNNING, TaskState.UNKNOWN):
            back.stop(turn, leaf.index)


def host_is_chosen(turn: Turn, event: events.HostChosen) -> None:
    """Starts a task on the host that was found for it."""
    task = turn.task(event.task)
    if task.state is not TaskState.READY or task.due_time is not None:
        return
    if event.number != len(task.attempts) + 1:
        return
    if parts.is_held(turn, event.task):
        return  # a resume looks for a host again
    starting.send_action(turn, event.task, event.host)
