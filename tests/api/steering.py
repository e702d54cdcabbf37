"""Requests that steer a workflow, and plans that need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value
from grpc.aio import AioRpcError

from countermand.client.spec import parallel, policy, sequence, workflow_spec
from countermand.rpc.names import task_name, workflow_name
from countermand.rpc.status import error_from_rpc
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.event_pb2 import HistoryEvent, Intervention
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_spec_pb2 import Node, Policy, WorkflowSpec
from tests.api.calls import BASE, Stubs, state
from tests.endtoend.cluster import TEMPLATES, copy, until

PAUSE = policy(on_failure=Policy.ON_FAILURE_PAUSE)
MISSING = f"{TEMPLATES}/not-there-yet"
FIXED = {"source.image_id": "base"}  # the patch that mends a copy of what is missing


def bound(name: str, host: str, source: str, target: str) -> Node:
    """Returns a copy of what another task left."""
    node = copy(name, host, "bound/bound", target)
    node.task.action.copy_image.ClearField("source")
    for part in ("pool_id", "image_id"):
        node.task.bindings.add(field=f"source.{part}", source=f"tasks.{source}.output.image.{part}")
    return node


def failing(workflow_id: str) -> WorkflowSpec:
    """Returns two copies at once that both fail, and one that reads what the first leaves."""
    return workflow_spec(
        "failing",
        sequence(
            "all",
            copy("first", "a", BASE, f"pool-a/{workflow_id}-first"),
            parallel(
                "both",
                copy("one", "a", MISSING, f"pool-a/{workflow_id}-one"),
                copy("two", "b", MISSING, f"pool-b/{workflow_id}-two"),
            ),
            bound("then", "a", "one", f"pool-a/{workflow_id}-then"),
        ),
        policy=PAUSE,
    )


def value(plain: Any) -> Value:
    """Returns a value of JSON."""
    return json_format.ParseDict(plain, Value())


def rerun(workflow_id: str, task: str, patch: Mapping[str, object] | None = None, **fields):
    """Returns the decision to run a task again."""
    again = pb.ResumeDecision.Rerun(
        patch={key: value(plain) for key, plain in (patch or {}).items()}, **fields
    )
    return pb.ResumeDecision(task=task_name(workflow_id, task), rerun=again)


def skip(workflow_id: str, task: str, outputs: Mapping[str, object] | None = None):
    """Returns the decision to go on after a task; paths of outputs become objects."""
    struct = Struct()
    for path, plain in (outputs or {}).items():
        here = struct
        *lead, last = path.split(".")
        for part in lead:
            here = here.fields[part].struct_value
        here.fields[last].CopyFrom(value(plain))
    decision = pb.ResumeDecision.Skip(outputs=struct)
    return pb.ResumeDecision(task=task_name(workflow_id, task), skip=decision)


def give_up(workflow_id: str, task: str):
    """Returns the decision to make up for everything."""
    name = task_name(workflow_id, task)
    return pb.ResumeDecision(task=name, give_up=pb.ResumeDecision.GiveUp())


def resume(
    workflow_id: str, *decisions: pb.ResumeDecision, request_id: str = "", **fields
) -> pb.ResumeWorkflowRequest:
    """Returns the request that lets a workflow go on."""
    return pb.ResumeWorkflowRequest(
        name=workflow_name(workflow_id),
        request_id=request_id or f"resume-{workflow_id}",
        decisions=decisions,
        **{"reason": "a test", **fields},
    )


def pause(workflow_id: str, request_id: str = "", **fields) -> pb.PauseWorkflowRequest:
    """Returns the request that holds a workflow."""
    return pb.PauseWorkflowRequest(
        name=workflow_name(workflow_id),
        request_id=request_id or f"pause-{workflow_id}",
        **{"reason": "a test", **fields},
    )


async def paused(stubs: Stubs, workflow_id: str) -> pb.Workflow:
    """Returns a workflow once it is at rest in a pause."""
    found: list[pb.Workflow] = []

    async def is_paused() -> bool:
        found.append(await stubs.get(workflow_id))
        assert not found[-1].HasField("end_time"), found[-1]
        return state(found[-1]) == "PAUSED"

    await until(is_paused, f"pause of {workflow_id}")
    return found[-1]


async def task(stubs: Stubs, workflow_id: str, task_id: str) -> Task:
    """Returns a task with its context."""
    request = pb.GetTaskRequest(name=task_name(workflow_id, task_id))
    return (await stubs.workflows.GetTask(request)).task


async def states(stubs: Stubs, workflow_id: str) -> dict[str, str]:
    """Returns the state of each task and group."""
    answer = await stubs.workflows.ListTasks(pb.ListTasksRequest(parent=workflow_name(workflow_id)))
    return {
        one.name.rpartition("/")[2]: Task.State.Name(one.state).removeprefix("STATE_")
        for one in answer.tasks
    }


async def events(stubs: Stubs, workflow_id: str) -> list[HistoryEvent]:
    """Returns the whole history."""
    request = pb.ListEventsRequest(parent=workflow_name(workflow_id), page_size=1000)
    return list((await stubs.workflows.ListEvents(request)).events)


def verbs(history: Iterable[HistoryEvent]) -> list[str]:
    """Returns what people asked for, in order."""
    return [asked.verb for asked in interventions(history)]


def interventions(history: Iterable[HistoryEvent]) -> list[Intervention]:
    """Returns what people asked for, without the pauses that policies asked for."""
    return [event.intervention for event in history if event.intervention.request_id]


@dataclass(frozen=True, slots=True)
class Unmet:
    """One requirement that an error lists."""

    kind: str
    task: str
    words: str


async def unmet(call) -> list[Unmet]:
    """Returns every requirement that a refused resume lists."""
    with pytest.raises(AioRpcError) as raised:
        await call
    error = error_from_rpc(raised.value)
    assert (error.code.name, error.reason) == ("FAILED_PRECONDITION", "REQUIREMENTS_UNMET")
    assert error.metadata["count"] == str(len(error.violations))  # type: ignore[attr-defined]
    return [
        Unmet(v.kind, v.field.rpartition("/")[2], v.description)
        for v in error.violations  # type: ignore[attr-defined]
    ]
