"""The only place where rows meet the saga's values.

Whoever adds a field to `Workflow`, `Task`, `Group` or `Attempt` adds it here twice: where it is
written, and where it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import RowMapping

from coordinator.runtime.ports import StoredEntry, Submission
from coordinator.saga.advance import restore
from coordinator.saga.plan import Plan, compile_plan
from coordinator.saga.spec import GroupKind, GroupSpec, Lock, Terms, owner_of
from coordinator.saga.states import (
    AttemptKind,
    AttemptState,
    GroupChange,
    GroupState,
    TaskState,
    WorkflowState,
)
from coordinator.saga.workflow import (
    About,
    Attempt,
    Group,
    Retention,
    Task,
    Workflow,
    fresh_nodes,
)
from coordinator.store.summaries import summary_text
from coordinator.store.texts import (
    Row,
    decided_from,
    decided_text,
    encode,
    failure_from,
    failure_text,
    inbound_from,
    inbound_text,
    locks_from,
    locks_text,
    micros,
    micros_or_none,
    time_from,
    time_or_none,
    values_from,
    values_text,
)

# What a workflow's row says of its nodes, by index: leaves, and groups where there is a row.
Nodes = Mapping[int, Task | Group]


# -- written --------------------------------------------------------------------------------------


def workflow_row(workflow: Workflow, key: int) -> Row:
    """Returns a workflow's own record."""
    return {
        "key": key,
        "id": workflow.id,
        "kind": workflow.about.kind,
        "principal": workflow.about.principal,
        "traceparent": workflow.about.traceparent,
        "forked_from": workflow.about.forked_from,
        "state": workflow.state.value,
        "version": workflow.version,
        "sequence": workflow.sequence,
        "owner_epoch": workflow.owner_epoch,
        "cause": failure_text(workflow.cause),
        "verdict": workflow.verdict and workflow.verdict.value,
        "locked": workflow.locked,
        "pause": decided_text(workflow.pause),
        "compensation_held": workflow.compensation_held,
        "input_patches": inbound_text(workflow.input_patches),
        "more_locks": locks_text(workflow.more_locks),
        "summary": summary_text(workflow) if workflow.settled else None,
        "owner": workflow.about.owner,
        "retention": workflow.retention.value,
        "create_time_us": micros(workflow.create_time),
        "update_time_us": micros(workflow.update_time),
        "end_time_us": micros_or_none(workflow.end_time),
    }


def submission_row(submission: Submission, about: About, key: int) -> Row:
    """Returns what was handed in."""
    return {
        "workflow_key": key,
        "spec": submission.spec,
        "input": submission.input,
        "hash": submission.hash,
        "about": encode(
            {
                "labels": about.labels,
                "tracestate": about.tracestate,
                "sampled": about.sampled,
                "input": dict(about.input),
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
        "host": task.last.host if task.attempts else spec.host,
        "state": task.state.value,
        "failure": failure_text(task.failure),
        "compensation_failure": failure_text(task.compensation_failure),
        "due_time_us": micros_or_none(task.due_time),
        "start_deadline_us": micros_or_none(task.start_deadline),
        "needs_decision": task.needs_decision,
        "tried": task.tried,
        "too_late": failure_text(task.too_late),
        "patch": inbound_text(task.patch),
        "given": values_text(task.given),
        "replacement": task.replacement or None,
        "decided": decided_text(task.decided),
        "added": (spec.external.added if spec.external else b"") or None,
    }


def group_row(group: Group, index: int, key: int) -> Row:
    """Returns what became of a group."""
    return {
        "workflow_key": key,
        "node_index": index,
        "state": group.state.value,
        "round": group.round,
        "then": group.then and group.then.name,
        "failure": failure_text(group.failure),
    }


def lock_row(lock: Lock, key: int, *, held: bool) -> Row:
    """Returns an image that a workflow holds, or waits for."""
    return {
        "pool_id": lock.pool,
        "image_id": lock.image,
        "workflow_key": key,
        "exclusive": lock.exclusive,
        "held": held,
    }


def attempt_row(attempt: Attempt, index: int, key: int) -> Row:
    """Returns the record of one attempt of a leaf."""
    return {
        "workflow_key": key,
        "task_index": index,
        "number": attempt.number,
        "kind": attempt.kind.value,
        "state": attempt.state.value,
        "host": attempt.host,
        "fence_host": attempt.fence_host,
        "intent": attempt.intent,
        "compensates": attempt.compensates,
        "overriding": attempt.overriding,
        "replacement": attempt.replacement or None,
        "inbound": inbound_text(attempt.inbound),
        "output": values_text(attempt.output),
        "failure": failure_text(attempt.failure),
        "done_bytes": attempt.done,
        "unit": attempt.unit,
        "create_time_us": micros(attempt.create_time),
        "start_time_us": micros_or_none(attempt.start_time),
        "end_time_us": micros_or_none(attempt.end_time),
    }


def evidence_rows(workflow: Workflow) -> Iterable[Row]:
    """Returns what a settled workflow leaves with the agents that were asked for its attempts."""
    last: dict[str, int] = {}
    for _, task in workflow.tasks():
        for attempt in task.attempts:
            for host in {attempt.host, attempt.fence_host} - {""}:
                if owner_of(host):
                    continue  # an owner keeps no journal for us
                last[host] = max(attempt.intent, last.get(host, 0))
    return [
        {"workflow_id": workflow.id, "host_id": host, "last_intent": intent}
        for host, intent in sorted(last.items())
    ]


# -- read -----------------------------------------------------------------------------------------


def workflow_from(row: Mapping[Any, Any], plan: Plan, known: Nodes) -> Workflow:
    """Returns a workflow from its row and those of its nodes."""
    nodes = tuple(_node(known.get(i), fresh) for i, fresh in enumerate(fresh_nodes(plan)))
    workflow = Workflow(
        id=row["id"],
        about=_about_from(row),
        plan=plan,
        nodes=nodes,
        state=WorkflowState(row["state"]),
        version=row["version"],
        sequence=row["sequence"],
        owner_epoch=row["owner_epoch"],
        cause=failure_from(row["cause"]),
        verdict=row["verdict"] and WorkflowState(row["verdict"]),
        locked=bool(row["locked"]),
        pause=decided_from(row["pause"]),
        compensation_held=bool(row["compensation_held"]),
        input_patches=inbound_from(row["input_patches"]),
        more_locks=locks_from(row["more_locks"]),
        retention=Retention(row["retention"]),
        create_time=time_from(row["create_time_us"]),
        update_time=time_from(row["update_time_us"]),
        end_time=time_or_none(row["end_time_us"]),
    )
    return counted(workflow)


def _node(known: Task | Group | None, fresh: Task | Group) -> Task | Group:
    """Returns a node as stored; a group's counters are worked out later."""
    if isinstance(known, Group) and isinstance(fresh, Group):
        return told(known, fresh)
    return known or fresh


def told(known: Group, fresh: Group) -> Group:
    """Returns a group of which nothing has started, but for what is stored of it."""
    return replace(
        fresh, state=known.state, round=known.round, then=known.then, failure=known.failure
    )


def held_from(row: RowMapping, locks: Iterable[RowMapping]) -> Workflow:
    """Returns a workflow of which only its own row can be read, to be shown as held.

    Its images stay its own: nobody knows what it has done to them.
    """
    root = GroupSpec(name="root", kind=GroupKind.SEQUENCE, members=())
    plan = compile_plan(root, Terms(locks=tuple(sorted(map(_lock_from, locks)))))
    return workflow_from({**row, "state": WorkflowState.QUARANTINED, **_NOT_READ}, plan, {})


# Whatever has parts may be what cannot be read.
_NOT_READ = {
    "about": encode({"labels": (), "tracestate": "", "input": {}}),
    "cause": None,
    "verdict": None,
    "pause": None,
    "input_patches": None,
    "more_locks": None,  # among the locks
}


def counted(workflow: Workflow) -> Workflow:
    """Returns a workflow with its counters worked out again, but for a quarantined one.

    Nothing advances that, and what is wrong with it may be just what would be counted: one bad
    record must not keep the others from being loaded.
    """
    return workflow if workflow.state is WorkflowState.QUARANTINED else restore(workflow)


def submission_from(row: RowMapping) -> Submission:
    """Returns what was handed in."""
    return Submission(spec=row["spec"], input=row["input"], hash=row["hash"])


def nodes_from(
    tasks: Iterable[RowMapping], attempts: Iterable[RowMapping], groups: Iterable[RowMapping]
) -> Nodes:
    """Returns the nodes of one workflow by index; attempts come in order."""
    tried: dict[int, list[Attempt]] = {}
    for row in attempts:
        tried.setdefault(row["task_index"], []).append(_attempt_from(row))
    nodes: dict[int, Task | Group] = {
        row["task_index"]: _task_from(row, tuple(tried.get(row["task_index"], ()))) for row in tasks
    }
    nodes.update((row["node_index"], _group_from(row)) for row in groups)
    return nodes


def _lock_from(row: RowMapping) -> Lock:
    return Lock(pool=row["pool_id"], image=row["image_id"], exclusive=bool(row["exclusive"]))


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
        principal=row["principal"],
        traceparent=row["traceparent"],
        tracestate=said["tracestate"],
        sampled=said.get("sampled", True),  # of one from before there was sampling
        input=said["input"],
        forked_from=row["forked_from"],
        owner=row["owner"],
    )


def _task_from(row: RowMapping, attempts: tuple[Attempt, ...]) -> Task:
    return Task(
        state=TaskState(row["state"]),
        attempts=attempts,
        failure=failure_from(row["failure"]),
        compensation_failure=failure_from(row["compensation_failure"]),
        due_time=time_or_none(row["due_time_us"]),
        start_deadline=time_or_none(row["start_deadline_us"]),
        needs_decision=bool(row["needs_decision"]),
        tried=row["tried"],
        too_late=failure_from(row["too_late"]),
        patch=inbound_from(row["patch"]),
        given=values_from(row["given"]),
        replacement=row["replacement"] or b"",
        decided=decided_from(row["decided"]),
    )


def _group_from(row: RowMapping) -> Group:
    return Group(
        state=GroupState(row["state"]),
        round=row["round"],
        then=row["then"] and GroupChange[row["then"]],
        failure=failure_from(row["failure"]),
        to_pass=0,
        open=0,
        not_made_up_for=0,
    )


def _attempt_from(row: RowMapping) -> Attempt:
    return Attempt(
        number=row["number"],
        kind=AttemptKind(row["kind"]),
        state=AttemptState(row["state"]),
        host=row["host"],
        fence_host=row["fence_host"],
        intent=row["intent"],
        compensates=row["compensates"],
        overriding=bool(row["overriding"]),
        replacement=row["replacement"] or b"",
        inbound=inbound_from(row["inbound"]),
        output=values_from(row["output"]),
        failure=failure_from(row["failure"]),
        done=row["done_bytes"],
        unit=row["unit"],
        create_time=time_from(row["create_time_us"]),
        start_time=time_or_none(row["start_time_us"]),
        end_time=time_or_none(row["end_time_us"]),
    )
