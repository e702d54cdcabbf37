"""Workflows in lists, from what the store keeps for them: no plan, task or attempt is read."""

from __future__ import annotations

from coordinator.runtime.ports import LeftoverSummary, WorkflowSummary
from coordinator.saga.states import TaskState, WorkflowState
from coordinator.traces.ids import trace_id_of
from coordinator.wire.failure import failure_to_proto
from coordinator.wire.history import TASK_STATES, WORKFLOW_STATES, placed, timestamp
from coordinator.wire.needs import paused_words
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.event_pb2 import Leftover

LEFTOVERS_MAX = 20  # told of one workflow in a list, of which there are many


def summary_to_proto(summary: WorkflowSummary) -> pb.Workflow:
    """Returns the BASIC view of a workflow, as far as a summary knows it."""
    about = summary.about
    return pb.Workflow(
        name=workflow_name(summary.id),
        kind=about.kind,
        state=WORKFLOW_STATES[summary.state],
        cause=failure_to_proto(summary.cause),
        needs=_needs(summary),
        leftovers=[_leftover(summary, each) for each in summary.leftovers[:LEFTOVERS_MAX]],
        labels=dict(about.labels),
        create_time=timestamp(summary.create_time),
        update_time=timestamp(summary.update_time),
        end_time=timestamp(summary.end_time),
        etag=str(summary.version),
        last_sequence=summary.sequence,
        principal=about.principal,
        traceparent=about.traceparent,
        trace_id=trace_id_of(summary.id, summary.create_time).hex(),
        progress=Progress(done=summary.done, unit="bytes") if summary.done else None,
        task_counts=[
            pb.TaskCount(state=TASK_STATES[state], count=summary.counts[state])
            for state in TaskState
            if summary.counts.get(state)
        ],
        forked_from=about.forked_from,
        owner_epoch=summary.owner_epoch,
        owner_id=about.owner,
    )


def _needs(summary: WorkflowSummary) -> list[pb.Need]:
    """Returns what a workflow needs, without the names of its tasks."""
    if summary.settled or not (summary.needs or summary.pause):
        return []
    found = []
    if summary.state is WorkflowState.PAUSED and summary.pause:
        found.append(pb.Need(reason="PAUSED", message=paused_words(summary.id, summary.pause)))
    if summary.needs:
        tasks = "1 task needs" if summary.needs == 1 else f"{summary.needs} tasks need"
        message = f"{tasks} somebody: `countermand workflow get {summary.id}`."
        paused = summary.state is WorkflowState.PAUSED
        found.append(pb.Need(reason="DECISION" if paused else summary.state, message=message))
    return found


def _leftover(summary: WorkflowSummary, left: LeftoverSummary) -> Leftover:
    attempt = attempt_name(summary.id, left.task, left.attempt) if left.attempt else ""
    host_id, owner = placed(left.host)
    said = f"what {left.verb.replace('_', ' ')} of {left.task} left"
    return Leftover(
        task=task_name(summary.id, left.task),
        attempt=attempt,
        host_id=host_id,
        description=f"what {owner} did in {left.task}" if owner else said,
        reason=left.reason,
        create_time=timestamp(left.time),
    )
