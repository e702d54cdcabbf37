"""The only place where rows meet the saga's values.

Whoever adds a field to `Task` or `Attempt` adds it here twice: where it is written, and where it
is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping

from coordinator.runtime.ports import HostRecord, StoredEntry, Submission
from coordinator.saga.advance import restore
from coordinator.saga.spec import GroupKind, GroupSpec, Plan, compile_plan
from coordinator.saga.states import AttemptKind, AttemptState, TaskState, WorkflowState
from coordinator.saga.workflow import (
    NO_VALUES,
    About,
    Attempt,
    Failure,
    Inbound,
    Task,
    Values,
    Workflow,
    fresh_nodes,
)

Row = dict[str, Any]  # written; a column's value is what its type in `tables.py` says

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 24 * 60 * 60 * 1_000_000
# Made once: json.dumps with options would make one for every value. Sorted keys give the same text
# for the same value, whoever wrote it.
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


# -- written --------------------------------------------------------------------------------------


def workflow_row(workflow: Workflow, key: int) -> Row:
    """Returns what of a workflow changes with every step."""
    return {
        "key": key,
        "id": workflow.id,
        "kind": workflow.about.kind,
        "state": workflow.state.value,
        "version": workflow.version,
        "sequence": workflow.sequence,
        "owner_epoch": workflow.owner_epoch,
        "cause": _failure_text(workflow.cause),
        "create_time_us": micros(workflow.create_time),
        "update_time_us": micros(workflow.update_time),
        "end_time_us": _micros(workflow.end_time),
    }


def submission_row(submission: Submission, about: About, key: int) -> Row:
    """Returns what was handed in."""
    return {
        "workflow_key": key,
        "spec": submission.spec,
        "input": submission.input,
        "hash": submission.hash,
        "about": _encode(
            {
                "labels": about.labels,
                "principal": about.principal,
                "traceparent": about.traceparent,
                "tracestate": about.tracestate,
                "input": dict(about.input),
                "forked_from": about.forked_from,
            },
        ),
    }


def label_rows(about: About, key: int) -> Iterable[Row]:
    """Returns the labels for filtering; a repeated one counts once."""
    return [
        {"name": name, "value": value, "workflow_key": key}
        for name, value in dict.fromkeys(about.labels)
    ]


def task_row(workflow: Workflow, index: int, key: int) -> Row:
    """Returns the record of a leaf, without its attempts."""
    task = workflow.task(index)
    spec = workflow.plan.task(index)
    return {
        "workflow_key": key,
        "task_index": index,
        "name": spec.name,
        "host": spec.host,
        "state": task.state.value,
        "failure": _failure_text(task.failure),
        "compensation_failure": _failure_text(task.compensation_failure),
        "retry_time_us": _micros(task.retry_time),
    }


def attempt_row(attempt: Attempt, index: int, key: int) -> Row:
    """Returns the record of one attempt of a leaf."""
    inbound = [(each.field, each.value, each.origin) for each in attempt.inbound]
    return {
        "workflow_key": key,
        "task_index": index,
        "number": attempt.number,
        "kind": attempt.kind.value,
        "state": attempt.state.value,
        "host": attempt.host,
        "intent": attempt.intent,
        "compensates": attempt.compensates,
        "inbound": _encode(inbound) if inbound else None,
        "output": _encode(dict(attempt.output)) if attempt.output else None,
        "failure": _failure_text(attempt.failure),
        "done_bytes": attempt.done,
        "create_time_us": micros(attempt.create_time),
        "start_time_us": _micros(attempt.start_time),
        "end_time_us": _micros(attempt.end_time),
    }


def host_row(host: HostRecord) -> Row:
    """Returns the record of a host."""
    return {
        "id": host.id,
        "address": host.address,
        "draining": host.draining,
        "incarnation": host.incarnation,
        "create_time_us": micros(host.create_time),
    }


# -- read -----------------------------------------------------------------------------------------


def workflow_from(row: Mapping[Any, Any], plan: Plan, leaves: Mapping[int, Task]) -> Workflow:
    """Returns a workflow from its row and those of its leaves."""
    nodes = tuple(leaves.get(index, node) for index, node in enumerate(fresh_nodes(plan)))
    workflow = Workflow(
        id=row["id"],
        about=_about_from(row),
        plan=plan,
        nodes=nodes,
        state=WorkflowState(row["state"]),
        version=row["version"],
        sequence=row["sequence"],
        owner_epoch=row["owner_epoch"],
        cause=_failure_from(row["cause"]),
        create_time=time_from(row["create_time_us"]),
        update_time=time_from(row["update_time_us"]),
        end_time=_time_from(row["end_time_us"]),
    )
    return counted(workflow)


def held_from(row: RowMapping) -> Workflow:
    """Returns a workflow of which only its own row can be read, to be shown as held."""
    plan = compile_plan(GroupSpec(name="root", kind=GroupKind.SEQUENCE, members=()))
    return workflow_from({**row, "state": WorkflowState.QUARANTINED}, plan, {})


def counted(workflow: Workflow) -> Workflow:
    """Returns a workflow with its counters worked out again, but for a quarantined one.

    Nothing advances that, and what is wrong with it may be just what would be counted: one bad
    record must not keep the others from being loaded.
    """
    return workflow if workflow.state is WorkflowState.QUARANTINED else restore(workflow)


def submission_from(row: RowMapping) -> Submission:
    """Returns what was handed in."""
    return Submission(spec=row["spec"], input=row["input"], hash=row["hash"])


def leaves_from(
    task_rows: Iterable[RowMapping], attempt_rows: Iterable[RowMapping]
) -> dict[int, dict[int, Task]]:
    """Returns the leaves of some workflows by key and index; attempts come in order."""
    leaves: dict[int, dict[int, Task]] = {}
    for row in task_rows:
        leaves.setdefault(row["workflow_key"], {})[row["task_index"]] = _task_from(row)
    tried: dict[tuple[int, int], list[Attempt]] = {}
    for row in attempt_rows:
        tried.setdefault((row["workflow_key"], row["task_index"]), []).append(_attempt_from(row))
    for (key, index), attempts in tried.items():
        leaves[key][index] = replace(leaves[key][index], attempts=tuple(attempts))
    return leaves


def host_from(row: RowMapping) -> HostRecord:
    """Returns a host."""
    return HostRecord(
        id=row["id"],
        address=row["address"],
        draining=bool(row["draining"]),
        incarnation=row["incarnation"],
        create_time=time_from(row["create_time_us"]),
    )


def entry_from(row: RowMapping) -> StoredEntry:
    """Returns one entry of the history."""
    return StoredEntry(
        workflow_id=row["id"],
        sequence=row["sequence"],
        position=row["position"],
        payload=row["payload"],
    )


def _about_from(row: Mapping[Any, Any]) -> About:
    said = json.loads(row["about"])
    return About(
        kind=row["kind"],
        labels=tuple((name, value) for name, value in said["labels"]),
        principal=said["principal"],
        traceparent=said["traceparent"],
        tracestate=said["tracestate"],
        input=said["input"],
        forked_from=said["forked_from"],
    )


def _task_from(row: RowMapping) -> Task:
    return Task(
        state=TaskState(row["state"]),
        failure=_failure_from(row["failure"]),
        compensation_failure=_failure_from(row["compensation_failure"]),
        retry_time=_time_from(row["retry_time_us"]),
    )


def _attempt_from(row: RowMapping) -> Attempt:
    inbound = json.loads(row["inbound"] or "[]")
    return Attempt(
        number=row["number"],
        kind=AttemptKind(row["kind"]),
        state=AttemptState(row["state"]),
        host=row["host"],
        intent=row["intent"],
        compensates=row["compensates"],
        inbound=tuple(
            Inbound(field=field, value=value, origin=origin) for field, value, origin in inbound
        ),
        output=_values_from(row["output"]),
        failure=_failure_from(row["failure"]),
        done=row["done_bytes"],
        create_time=time_from(row["create_time_us"]),
        start_time=_time_from(row["start_time_us"]),
        end_time=_time_from(row["end_time_us"]),
    )


# -- values ---------------------------------------------------------------------------------------


def _values_from(text: str | None) -> Values:
    if text is None:
        return NO_VALUES
    values: dict[str, Any] = json.loads(text)
    return values


def _failure_text(failure: Failure | None) -> str | None:
    if failure is None:
        return None
    return _encode(
        {
            "reason": failure.reason,
            "message": failure.message,
            "metadata": failure.metadata,
            "retriable": failure.retriable,
            "attempt": failure.attempt,
            "host": failure.host,
        },
    )


def _failure_from(text: str | None) -> Failure | None:
    if text is None:
        return None
    said = json.loads(text)
    metadata = tuple((name, value) for name, value in said.pop("metadata"))
    return Failure(metadata=metadata, **said)


def micros(time: datetime) -> int:
    """Returns a time as the tables keep it."""
    since = time - _EPOCH
    return since.days * _DAY_US + since.seconds * 1_000_000 + since.microseconds


def _micros(time: datetime | None) -> int | None:
    return None if time is None else micros(time)


def time_from(us: int) -> datetime:
    """Returns a time as the tables keep it, as a time."""
    return _EPOCH + timedelta(microseconds=us)


def _time_from(us: int | None) -> datetime | None:
    return None if us is None else time_from(us)
