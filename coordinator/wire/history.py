"""History entries as the contract writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import assert_never

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from coordinator.saga import history
from coordinator.saga.spec import Plan
from coordinator.saga.states import AttemptKind, AttemptState, TaskState, WorkflowState
from coordinator.wire.failure import failure_to_proto
from countermand.rpc.names import task_name, workflow_name
from countermand.v1 import event_pb2
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_state_pb2 import WorkflowState as WorkflowStateNumber

ATTEMPT_STATES = {s: Attempt.State.Value(f"STATE_{s}") for s in AttemptState}
ATTEMPT_KINDS = {k: Attempt.Kind.Value(f"KIND_{k}") for k in AttemptKind}
TASK_STATES = {s: Task.State.Value(f"STATE_{s}") for s in TaskState}
WORKFLOW_STATES = {s: WorkflowStateNumber.Value(f"WORKFLOW_STATE_{s}") for s in WorkflowState}


def event_to_proto(workflow_id: str, plan: Plan, entry: history.Entry) -> event_pb2.HistoryEvent:
    """Returns an entry as an event; its position is the store's to add."""
    event = event_pb2.HistoryEvent(
        workflow=workflow_name(workflow_id),
        sequence=entry.sequence,
        time=timestamp(entry.time),
        task=task_name(workflow_id, plan.nodes[entry.task].name) if entry.task >= 0 else "",
    )
    _fill(event, entry.fact)
    return event


def _fill(event: event_pb2.HistoryEvent, fact: history.Fact) -> None:
    """Sets the event's own part."""
    match fact:
        case history.WorkflowStarted():
            event.workflow_started.CopyFrom(
                event_pb2.WorkflowStarted(
                    kind=fact.kind, traceparent=fact.traceparent, principal=fact.principal
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
        case history.AttemptStarted():
            event.attempt_started.CopyFrom(
                event_pb2.AttemptStarted(
                    attempt=fact.attempt,
                    kind=ATTEMPT_KINDS[fact.kind],
                    compensates=fact.compensates,
                    host_id=fact.host,
                    owner_epoch=fact.owner_epoch,
                )
            )
        case history.AttemptEnded():
            event.attempt_ended.CopyFrom(
                event_pb2.AttemptEnded(
                    attempt=fact.attempt,
                    state=ATTEMPT_STATES[fact.state],
                    failure=failure_to_proto(fact.failure),
                    progress=Progress(done=fact.done, unit="bytes") if fact.done else None,
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
        case history.Intervened():
            event.intervention.CopyFrom(
                event_pb2.Intervention(
                    verb=fact.verb,
                    principal=fact.principal,
                    reason=fact.reason,
                    request_id=fact.request_id,
                )
            )
        case history.OwnerMoved():
            event.owner_changed.CopyFrom(event_pb2.OwnerChanged(owner_epoch=fact.owner_epoch))
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
