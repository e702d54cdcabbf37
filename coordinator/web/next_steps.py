"""What to do next about a workflow, in words: what it needs, or what its end asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from countermand.drawing.tasks import task_id
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do, or to know."""

    words: str
    task: str = ""  # the task that it is about, by its name
    reason: str = ""  # as programs know it
    is_urgent: bool = False


def of(workflow: Workflow) -> list[Step]:
    """Returns what is to be done, the most urgent first."""
    return list(_steps(workflow))


def _steps(workflow: Workflow) -> Iterator[Step]:
    for need in workflow.needs:
        # Most messages name their task themselves.
        task = "" if task_id(need.task) in need.message else need.task
        yield Step(words=need.message, task=task, reason=need.reason, is_urgent=True)
    if workflow.needs:
        return
    for left in workflow.leftovers:
        where = f" on {left.host_id}" if left.host_id else ""
        yield Step(
            words=f"Look after what {task_id(left.task)} left{where}: {left.description}.",
            is_urgent=True,
        )
    match workflow.state:
        case WorkflowState.WORKFLOW_STATE_SUCCEEDED:
            if not workflow.leftovers:
                yield Step(words="Nothing: everything took effect.")
        case WorkflowState.WORKFLOW_STATE_COMPENSATED:
            again = f"`countermand workflow fork {_id(workflow)} NEW-ID`"
            words = "Nothing has to be cleaned up. Once the cause is gone, run it anew"
            yield Step(words=f"{words}: {again}.")
        case WorkflowState.WORKFLOW_STATE_FAILED:
            again = f"`countermand workflow fork {_id(workflow)} NEW-ID`"
            yield Step(words=f"Once the cause is gone, run it anew: {again}.")
        case WorkflowState.WORKFLOW_STATE_COMPENSATING:
            yield Step(words="Nothing: what it did is being made up for, until all of it is.")
        case _ if workflow.waits_for:
            yield Step(words=f"Nothing yet: it waits for {workflow.waits_for}.")
        case _:
            yield Step(words="Nothing: it goes on by itself.")


def _id(workflow: Workflow) -> str:
    return workflow.name.removeprefix("workflows/")
