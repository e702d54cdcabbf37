"""History entries as the contract writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import assert_never

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from coordinator.saga import history
from coordinator.saga.leftovers import STOPPED
from coordinator.saga.plan import Plan
from coordinator.saga.spec import owner_of
from coordinator.saga.states import (
    AttemptKind,
    AttemptState,
    Effect,
    GroupState,
    TaskState,
    WorkflowState,
)
from coordinator.saga.workflow import Inbound
from coordinator.wire.catalogue import phrase_left
from coordinator.wire.failure import failure_to_proto
from coordinator.wire.values import fill, proto_value
from countermand.rpc.names import task_name, workflow_name
from countermand.v1 import event_pb2
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.task_pb2 import InboundValue, Task
from countermand.v1.verb_pb2 import Action
from countermand.v1.workflow_state_pb2 import WorkflowState as WorkflowStateNumber

ATTEMPT_STATES = {s: Attempt.State.Value(f"STATE_{s}") for s in AttemptState}
ATTEMPT_KINDS = {k: Attempt.Kind.Value(f"KIND_{k}") for k in AttemptKind}
TASK_STATES = {s: Task.State.Value(f"STATE_{s}") for s in TaskState}
WORKFLOW_STATES = {s: WorkflowStateNumber.Value(f"WORKFLOW_STATE_{s}") for s in WorkflowState}

GROUP_STATES = {s: event_pb2.GroupStateChanged.State.Value(f"STATE_{s}") for s in GroupState}


def event_to_proto(workflow_id: str, plan: Plan, entry: history.Entry) -> event_pb2.HistoryEvent:
    """Returns an entry as an event; its position is the store's to add."""
    event = event_pb2.HistoryEvent(
        workflow=workflow_name(workflow_id),
        sequence=entry.sequence,
        time=timestamp(entry.time),
        task=task_name(workflow_id, plan.nodes[entry.task].name) if entry.task >= 0 else "",
    )
    _fill(event, plan, entry)
    return event


def _leftover(
    event: event_pb2.HistoryEvent, plan: Plan, task: int, fact: history.LeftBehind
) -> event_pb2.Leftover:
    """Returns an effect that was left, as far as the plan knows it; the task's view knows more.

    What is bound is called by where it comes from.
    """
    spec = plan.task(task)
    action = Action.FromString(spec.action)
    texts = (binding for binding in spec.bindings if binding.type == "str")
    fill(action, [Inbound(field=b.field, value=f"<{b.origin}>", origin=b.origin) for b in texts])
    undone = spec.effect is Effect.FORWARD_ONLY and fact.reason != STOPPED
    said = phrase_left(spec, action, undone=undone)
    return event_pb2.Leftover(
        task=event.task,
        host_id=placed(spec.host)[0],
        description=said,
        reason=fact.reason,
        create_time=event.time,
    )


def inbound_to_proto(value: Inbound) -> InboundValue:
    """Returns a value that came from elsewhere, with what it replaced."""
    return InboundValue(
        field=value.field,
        value=proto_value(value.value),
        origin=value.origin,
        principal=value.principal,
        time=timestamp(value.time),
        previous=proto_value(value.previous) if value.previous is not None else None,
    )


def placed(host: str) -> tuple[str, str]:
    """Returns the host and the owner that a place stands for; one of them is empty."""
    owner = owner_of(host)
    return ("", owner) if owner else (host, "")


_OfAttempt = (
    history.AttemptStarted
    | history.AttemptAccepted
    | history.AttemptEnded
    | history.FenceMoved
    | history.RetryScheduled
    | history.ReportedLate
)


def _fill(event: event_pb2.HistoryEvent, plan: Plan, entry: history.Entry) -> None:
    """Sets the event's own part."""
    fact = entry.fact
    match fact:
        case history.WorkflowStarted():
            event.workflow_started.CopyFrom(
                event_pb2.WorkflowStarted(
                    kind=fact.kind,
                    traceparent=fact.traceparent,
                    principal=fact.principal,
                    unsampled=not fact.sampled,
                )
            )
        case history.WorkflowMoved():
            event.workflow_state_changed.CopyFrom(
                event_pb2.WorkflowStateChanged(
                    before=WORKFLOW_STATES[fact.before],
                    after=WORKFLOW_STATES[fact.after],
                    cause=failure_to_proto(fact.cause),
                )
            )
        case history.TaskMoved():
            event.task_state_changed.CopyFrom(
                event_pb2.TaskStateChanged(
                    before=TASK_STATES[fact.before],
                    after=TASK_STATES[fact.after],
                    attempt=fact.attempt,
                    failure=failure_to_proto(fact.failure),
                )
            )
        case history.GroupMoved():
            event.group_state_changed.CopyFrom(
                event_pb2.GroupStateChanged(
                    before=GROUP_STATES[fact.before],
                    after=GROUP_STATES[fact.after],
                    round=fact.round,
                    failure=failure_to_proto(fact.failure),
                )
            )
        case history.TaskAdded():
            parent = plan.nodes[fact.parent].name if fact.parent else ""
            event.task_added.CopyFrom(
                event_pb2.TaskAdded(
                    parent=f"{event.workflow}/tasks/{parent}" if parent else "",
                    owner_id=fact.owner,
                    kind=fact.kind,
                    principal=fact.principal,
                )
            )
        case history.LocksTaken():
            event.locks_taken.SetInParent()
        case history.LeftBehind():
            leftover = _leftover(event, plan, entry.task, fact)
            event.leftover_recorded.CopyFrom(event_pb2.LeftoverRecorded(leftover=leftover))
        case history.OwnerMoved():
            event.owner_changed.CopyFrom(event_pb2.OwnerChanged(owner_epoch=fact.owner_epoch))
        case history.Intervened():
            event.intervention.CopyFrom(
                event_pb2.Intervention(
                    verb=fact.verb,
                    principal=fact.principal,
                    reason=fact.reason,
                    request_id=fact.request_id,
                    changes=map(inbound_to_proto, fact.changes),
                )
            )
        case _:
            _fill_of_attempt(event, fact)


def _fill_of_attempt(event: event_pb2.HistoryEvent, fact: _OfAttempt) -> None:
    """Sets the event's own part, when it is about an attempt."""
    match fact:
        case history.AttemptAccepted():
            event.attempt_accepted.attempt = fact.attempt
        case history.AttemptStarted():
            host_id, owner_id = placed(fact.host)
            event.attempt_started.CopyFrom(
                event_pb2.AttemptStarted(
                    attempt=fact.attempt,
                    kind=ATTEMPT_KINDS[fact.kind],
                    compensates=fact.compensates,
                    host_id=host_id,
                    owner_id=owner_id,
                    owner_epoch=fact.owner_epoch,
                )
            )
        case history.AttemptEnded():
            event.attempt_ended.CopyFrom(
                event_pb2.AttemptEnded(
                    attempt=fact.attempt,
                    state=ATTEMPT_STATES[fact.state],
                    failure=failure_to_proto(fact.failure),
                    progress=Progress(done=fact.done, unit=fact.unit) if fact.done else None,
                )
            )
        case history.FenceMoved():
            event.fence_changed.CopyFrom(
                event_pb2.FenceChanged(
                    attempt=fact.attempt,
                    host_id=fact.host,
                    failure=failure_to_proto(fact.failure),
                )
            )
        case history.RetryScheduled():
            event.retry_scheduled.CopyFrom(
                event_pb2.RetryScheduled(
                    attempt=fact.attempt,
                    delay=duration(fact.delay),
                    failure=failure_to_proto(fact.failure),
                )
            )
        case history.ReportedLate():
            event.late_report.CopyFrom(
                event_pb2.LateReport(attempt=fact.attempt, state=ATTEMPT_STATES[fact.state])
            )
        case _:
            assert_never(fact)


def duration(span: timedelta) -> Duration:
    """Returns a span as the contract writes it."""
    message = Duration()
    message.FromTimedelta(span)
    return message


def timestamp(time: datetime | None) -> Timestamp | None:
    """Returns a time as the contract writes it; None for none."""
    if time is None:
        return None
    # Several times as fast as Timestamp.FromDatetime, and each event has one.
    microseconds = (time - _EPOCH) // _MICROSECOND
    return Timestamp(seconds=microseconds // 10**6, nanos=microseconds % 10**6 * 1000)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
