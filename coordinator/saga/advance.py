"""The saga: `advance(workflow, event, now) -> Decision`. Pure and total.

A turn takes one event, moves the task it is about by the tables of `states.py`, and then runs the
rules of the workflow to a fixed point: what may start now, what is to be made up for now, whether
the workflow is at an end. Going forward (`starting.py`, `forward.py`, `failing.py`) and making up
for it (`back.py`) are the same walk over the tree in opposite directions; `retracing.py` walks over
what has already happened.

A turn costs in proportion to what it changes (`pieces.py` keeps the nodes of large workflows);
pausing, resuming and turning round cost a walk over the tree. Nothing here reads a clock, draws a
number or waits: `now` brings what the world adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

from coordinator.saga import (
    back,
    ending,
    events,
    external,
    forward,
    history,
    reports,
    requests,
    retracing,
    starting,
)
from coordinator.saga.commands import Timer, outstanding
from coordinator.saga.events import Event, Now
from coordinator.saga.plan import Plan
from coordinator.saga.states import WORKFLOW_TABLE, WorkflowChange
from coordinator.saga.turn import Decision, Refusal, Step, Turn, is_blocked, is_busy
from coordinator.saga.workflow import About, Retention, Task, Workflow, fresh_nodes

__all__ = ["Decision", "Refusal", "advance", "quarantine", "restore", "start"]

_STEPS = {
    Step.BEGIN: starting.begin,
    Step.PASSED: forward.passed,
    Step.DROPPED: forward.dropped,
    Step.RESTED: forward.rested,
    Step.MAKE_UP_FOR: back.make_up_for,
    Step.MADE_UP_FOR: back.is_made_up_for,
    Step.CONCLUDE: ending.conclude,
}


def start(
    *,
    workflow_id: str,
    about: About,
    plan: Plan,
    owner_epoch: int,
    now: Now,
    locked: bool = True,
    retention: Retention = Retention.IN_TIME,
) -> Decision:
    """Returns a new workflow whose first tasks are about to start, or that waits for its locks."""
    workflow = Workflow(
        id=workflow_id,
        about=about,
        plan=plan,
        nodes=fresh_nodes(plan),
        owner_epoch=owner_epoch,
        locked=locked,
        retention=retention,
        create_time=now.time,
        update_time=now.time,
    )
    turn = Turn(workflow, now, _STEPS)
    turn.note(
        history.WorkflowStarted(
            kind=about.kind,
            principal=about.principal,
            traceparent=about.traceparent,
            sampled=about.sampled,
        ),
    )
    if plan.terms.timeout is not None:
        turn.timer(Timer.WORKFLOW, -1, 0, now.time + plan.terms.timeout)
    if locked:
        turn.later(Step.BEGIN, 0)
    return _decision(turn)


def advance(workflow: Workflow, event: Event, now: Now) -> Decision:
    """Returns what one event makes of a workflow."""
    # A clock may be put back; what stands in a history has its order all the same.
    now = replace(now, time=max(now.time, workflow.update_time))
    turn = Turn(workflow, now, _STEPS)
    if not workflow.settled:
        _take(turn, event)
    elif not isinstance(event, events.Request):
        _take_late(turn, event)
    else:
        turn.refusal = Refusal(state=workflow.state, allowed=())
    return _decision(turn)


def _take(turn: Turn, event: Event) -> None:
    _TAKERS[type(event)](turn, event)


def _take_late(turn: Turn, event: Event) -> None:
    """Takes up what is said of a workflow that is settled: outcomes are recorded, no more."""
    if isinstance(event, events.AttemptEvent):
        reports.hear(turn, event)


def _decision(turn: Turn) -> Decision:
    turn.run()
    if not turn.before.settled and turn.refusal is None:
        ending.come_to_rest(turn)
    return turn.decision()


def _take_locks(turn: Turn) -> None:
    """Begins a workflow whose turn in line has come."""
    if turn.locked:
        return
    turn.locked = True
    turn.note(history.LocksTaken())
    if turn.cause is None:
        turn.later(Step.BEGIN, 0)


def _take_over(turn: Turn, event: events.OwnerChanged) -> None:
    """Puts the workflow under a new epoch and finds again everything that is to be done."""
    assert event.owner_epoch > turn.owner_epoch, (event.owner_epoch, turn.owner_epoch)
    turn.owner_epoch = event.owner_epoch
    turn.note(history.OwnerMoved(owner_epoch=event.owner_epoch))
    if event.hold is not None:
        requests.hold(turn, event.hold)
    turn.commands.extend(outstanding(replace(turn.before, state=turn.state)))


_TAKERS: dict[type[Event], Callable[[Turn, Any], None]] = {
    **dict.fromkeys(get_args(events.AttemptEvent), reports.hear),
    events.OwnerSilent: reports.owner_is_silent,
    events.TimerFired: reports.time_has_come,
    events.HostChosen: reports.host_is_chosen,
    events.LocksGranted: lambda turn, _: _take_locks(turn),
    events.CancelRequested: requests.cancel,
    events.PauseRequested: requests.pause,
    events.ResumeRequested: requests.go_on,
    events.CompensationDecided: requests.decide_compensation,
    events.FenceRequested: requests.fence,
    events.AddRequested: external.add,
    events.EndRequested: external.end,
    events.EndAllRequested: external.end_all,
    events.OwnerChanged: _take_over,
}


def quarantine(workflow: Workflow, now: Now) -> Decision:
    """Returns a workflow that is held because `advance` could not process its record."""
    turn = Turn(workflow, now, _STEPS)
    if (workflow.state, WorkflowChange.QUARANTINE) in WORKFLOW_TABLE:  # else: nothing moves it
        turn.move_workflow(WorkflowChange.QUARANTINE)
    return turn.decision()


def restore(workflow: Workflow) -> Workflow:
    """Returns a loaded workflow with its counters worked out again from its tasks.

    The walk is the one of `advance`, over tasks that are already where it would bring them; what it
    says besides (history, commands) was said when it happened.
    """
    now = Now(time=workflow.update_time, jitter=0.0, intent=0)
    turn = Turn(workflow, now, _STEPS)
    if not workflow.settled:
        retracing.walk(turn)
    tasks = [node for node in turn.nodes if isinstance(node, Task)]
    return replace(
        workflow,
        nodes=tuple(turn.nodes),
        busy=sum(map(is_busy, tasks)),
        blocked=sum(map(is_blocked, tasks)),
    )
