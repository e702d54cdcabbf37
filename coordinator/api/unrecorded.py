"""What no record says of an open workflow, shown at any coordinator: its owner is asked.

Who stands before it at an image, why no host is found for a task, how far a vendor is: only the
session that owns the workflow knows. Reads are answered from the record, wherever they come; where
something is missing from that, the owner is asked for it, briefly. A read never fails because of
that, and an owner that does not answer is left alone for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from coordinator.api.briefly import Briefly
from coordinator.api.shown import A_HOST, Showing
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import StoreError
from coordinator.wire.view import PERCENT_UNIT
from coordinator.wire.waits import ITS_IMAGES
from countermand.rpc.names import parse_task, workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.task_pb2 import Task

YIELD_EVERY = 50  # workflows between two looks at whoever else is due: some milliseconds

Read: TypeAlias = (
    pb.GetWorkflowResponse | pb.ListWorkflowsResponse | pb.GetTaskResponse | pb.ListTasksResponse
)
READS: Final = frozenset(
    f"countermand.v1.WorkflowService/{name}"
    for name in ("GetWorkflow", "ListWorkflows", "GetTask", "ListTasks")
)

# What is asked about, and what is answered: workflows, each with the tasks that it is about.
Asked: TypeAlias = pb.ListWorkflowsResponse
# Which other sessions own some workflows, by the ids of those that others own.
Whose: TypeAlias = Callable[[Collection[str]], Awaitable[dict[str, int]]]
# What a session answers, until a time of the event loop's clock.
Ask: TypeAlias = Callable[[int, Asked, float], Awaitable[Asked]]

_S = Task
# A command of theirs may wait for its turn on the host.
_ORDERED = frozenset({_S.STATE_STARTING, _S.STATE_CANCELLING, _S.STATE_COMPENSATING})
_AT_WORK = _ORDERED | {_S.STATE_RUNNING, _S.STATE_UNKNOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """One workflow as a read shows it, or some of its tasks only."""

    workflow_id: str
    workflow: pb.Workflow | None
    tasks: Sequence[Task]
    listed: bool = False  # from what is kept for lists, which leaves out most


class Unrecorded:
    """Adds to what was read here what the owners of workflows know."""

    def __init__(self, *, whose: Whose, ask: Ask, briefly: Briefly) -> None:
        """Keeps whom it asks, and how."""
        self._whose = whose
        self._ask = ask
        self._briefly = briefly

    async def add_to(self, answer: Read, until: float) -> None:
        """Adds to an answer what owners know, if they say so in time."""
        missing = {
            shown.workflow_id: (shown, asked)
            for shown in _shown(answer)
            if (asked := _missing(shown)) is not None
        }
        if not missing:
            return
        try:
            whose = await self._whose(missing.keys())
        except StoreError:
            return  # what was read, was read
        by_session: dict[int, Asked] = {}
        for workflow_id, session in whose.items():
            by_session.setdefault(session, Asked()).workflows.append(missing[workflow_id][1])
        for told in await asyncio.gather(
            *(
                self._briefly.ask(session, partial(self._ask, session, asked), until)
                for session, asked in by_session.items()
            )
        ):
            for workflow in told.workflows if told else ():
                _add(missing[_id_of(workflow)][0], workflow)


async def told(loop: Loop, showing: Showing, asked: Asked) -> Asked:
    """Returns what is known here only of own workflows; those of others are left out."""
    answer = Asked()
    for number, each in enumerate(asked.workflows, start=1):
        workflow = loop.workflow(_id_of(each))
        if workflow is None:
            continue  # it has settled meanwhile
        shown = answer.workflows.add()
        shown.CopyFrom(showing.basic(workflow))
        shown.locks.extend(showing.locks(workflow))
        by_name = workflow.plan.by_name
        named = [parsed[1] for task in each.tasks if (parsed := parse_task(task.name))]
        indices = [by_name[name] for name in named if name in by_name]
        async for task in showing.tasks(workflow, indices, full=bool(indices)):
            shown.tasks.append(_outline(task))
        if number % YIELD_EVERY == 0:
            await asyncio.sleep(0)
    return answer


def _outline(task: Task) -> Task:
    """Returns what of a task is in no record, and what that is about."""
    outline = Task(name=task.name, state=task.state, waits_for=task.waits_for)
    if task.HasField("progress"):
        outline.progress.CopyFrom(task.progress)
    for attempt in task.attempts:
        if attempt.HasField("progress"):
            outline.attempts.add(name=attempt.name, state=attempt.state, progress=attempt.progress)
    return outline


def _shown(answer: Read) -> list[_Shown]:
    match answer:
        case pb.ListWorkflowsResponse():
            return [
                _Shown(workflow_id=_id_of(each), workflow=each, tasks=(), listed=True)
                for each in answer.workflows
            ]
        case pb.GetWorkflowResponse():
            shown = answer.workflow
            return [_Shown(workflow_id=_id_of(shown), workflow=shown, tasks=shown.tasks)]
        case pb.GetTaskResponse():
            return _of_tasks([answer.task])
        case pb.ListTasksResponse():
            return _of_tasks(answer.tasks)


def _of_tasks(tasks: Sequence[Task]) -> list[_Shown]:
    parsed = parse_task(tasks[0].name) if tasks else None
    if parsed is None:
        return []
    return [_Shown(workflow_id=parsed[0], workflow=None, tasks=tasks)]


def _missing(shown: _Shown) -> pb.Workflow | None:
    """Returns what is to be asked about a workflow; None if its record says everything."""
    tasks = [Task(name=task.name) for task in shown.tasks if _is_missing(task)]
    whole = shown.workflow
    if whole is not None and whole.HasField("end_time"):
        return None
    waits = whole is not None and whole.waits_for == ITS_IMAGES
    weighed = whole is not None and whole.progress.unit == PERCENT_UNIT
    if tasks or waits or weighed or shown.listed:
        return pb.Workflow(name=workflow_name(shown.workflow_id), tasks=tasks)
    return None


def _is_missing(task: Task) -> bool:
    """Returns whether the record of a task, or a group, leaves out something."""
    if task.state == _S.STATE_READY:
        return task.waits_for == A_HOST
    if task.kind == _S.KIND_VERB:
        return task.state in _ORDERED and not task.waits_for
    return task.state in _AT_WORK and (
        task.kind == _S.KIND_EXTERNAL or task.progress.unit == PERCENT_UNIT
    )


def _add(shown: _Shown, told: pb.Workflow) -> None:
    """Adds what the owner of a workflow says, unless more is known by now."""
    by_name = {task.name: task for task in told.tasks}
    for task in shown.tasks:
        if (said := by_name.get(task.name)) is not None and said.state == task.state:
            _add_task(task, said)
    whole = shown.workflow
    if whole is None or int(told.etag) < int(whole.etag):
        return
    now = pb.Workflow(tasks=whole.tasks)
    for field in ("spec", "input"):
        if whole.HasField(field):
            getattr(now, field).CopyFrom(getattr(whole, field))
    told.ClearField("tasks")
    if not whole.locks:
        told.ClearField("locks")
    now.MergeFrom(told)
    whole.CopyFrom(now)


def _add_task(task: Task, said: Task) -> None:
    task.waits_for = said.waits_for
    if said.HasField("progress"):
        task.progress.CopyFrom(said.progress)
    attempts = {attempt.name: attempt for attempt in said.attempts}
    for attempt in task.attempts:
        known = attempts.get(attempt.name)
        if known is not None and known.state == attempt.state:
            attempt.progress.CopyFrom(known.progress)


def _id_of(workflow: pb.Workflow) -> str:
    return workflow.name.partition("/")[2]
