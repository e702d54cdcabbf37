"""Tasks that an owner adds to a running workflow, and workflows of its own, as blocks of its code.

Each is safe to repeat after a crash: the ids are the same in every life, so adding or starting it
again finds what there is. What had SUCCEEDED before is `done`: its block has nothing to do.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TypedDict

from countermand.client.external.outcome import TaskFailed, values_of
from countermand.client.external.task import AcceptedTask, CleanUp
from countermand.client.external.ties import Ties
from countermand.client.policies import duration
from countermand.client.run import SETTLED
from countermand.rpc import names
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY, EFFECT_REVERSIBLE
from countermand.v1.external_task_pb2 import (
    AddExternalTaskRequest,
    ExternalRequest,
    StartExternalWorkflowRequest,
)
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_spec_pb2 import Policy
from countermand.v1.workflow_state_pb2 import WorkflowState

# Whether a task that waits for its turn will never have one is asked as often.
LOOK_EVERY_S = 2.0

MAIN = "main"  # the task that stands for the whole of a vendor's own workflow

# Request ids are made of what they are about: the next life makes the same.
_REQUESTS = uuid.UUID("6a2a7f0e-2c1d-5c0b-9a55-7d0e9f6f7a11")

_OVER = frozenset(
    {
        Task.STATE_FAILED,
        Task.STATE_CANCELLED,
        Task.STATE_COMPENSATING,
        Task.STATE_COMPENSATED,
        Task.STATE_COMPENSATION_BLOCKED,
        Task.STATE_ABANDONED,
    }
)


class Words(TypedDict, total=False):
    """What may be said of a task that is added."""

    task_id: str  # its id, free in that workflow; default: its kind
    description: str  # for people
    arguments: Mapping[str, str]
    weight: int  # its share of its parent's progress; default 1
    after: Sequence[str]  # ids of members of the same group that it comes after
    reversible: bool  # it has an effect, which its owner makes up for when it is asked
    operator_checklist: str  # it has an effect, and people make up for it by this text
    heartbeat_timeout: timedelta  # without a sign of life for this long it becomes UNKNOWN
    run_timeout: timedelta  # it must end within this
    on_failure: Policy.OnFailure.ValueType  # by default as its parent


def request_of(
    parent: str, kind: str, words: Words, *, owner_id: str, token: str = ""
) -> AddExternalTaskRequest:
    """Returns the request that adds a task; the same one in every life."""
    checklist = words.get("operator_checklist", "")
    reversible = bool(checklist) or words.get("reversible", False)
    request = AddExternalTaskRequest(
        parent=parent,
        task_id=words.get("task_id", kind),
        owner_id=owner_id,
        kind=kind,
        description=words.get("description", ""),
        weight=words.get("weight", 1),
        effect=EFFECT_REVERSIBLE if reversible else EFFECT_READ_ONLY,
        heartbeat_timeout=duration(words.get("heartbeat_timeout")),
        run_timeout=duration(words.get("run_timeout")),
        after=words.get("after", ()),
        arguments=words.get("arguments", {}),
        on_failure=words.get("on_failure", Policy.ON_FAILURE_UNSPECIFIED),
    )
    if checklist:
        request.operator_checklist = checklist
    elif reversible:
        request.ask_owner = True
    said = request.SerializeToString(deterministic=True)
    request.request_id = str(uuid.uuid5(_REQUESTS, said.hex()))
    request.capability_token = token
    return request


class AddedTask:
    """A task to be added, done and ended; `async with` it to be given the AcceptedTask."""

    def __init__(
        self,
        ties: Ties,
        request: AddExternalTaskRequest,
        *,
        clean_up: CleanUp | None = None,
        interrupt: bool = True,
        whole: AcceptedTask | None = None,
    ) -> None:
        """Keeps what to add."""
        self._ties = ties
        self._request = request
        self._clean_up = clean_up
        self._interrupt = interrupt
        self._whole = whole
        self._task: AcceptedTask | None = None

    async def __aenter__(self) -> AcceptedTask:
        """Adds the task, waits for its turn, and takes it on.

        Raises:
            TaskFailed: It failed in an earlier life, or what it comes after did.
            TaskStopped: It is to be stopped.
        """
        while True:
            task = await self._add()
            if task.state == Task.STATE_SUCCEEDED:
                return done(self._ties, task.name, values_of(task.output.external))
            if task.state in _OVER:
                raise failed(task)
            asked = await asked_soon(self._ties, task.name)
            if asked is not None:
                break
            if self._whole is not None:
                self._whole.check()
        accepted = AcceptedTask(
            self._ties,
            asked,
            clean_up=self._clean_up,
            interrupt=self._interrupt,
            whole=self._whole,
        )
        self._task = await accepted.__aenter__()
        return self._task

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the task as AcceptedTask says."""
        if self._task is not None:
            await self._task.__aexit__(kind, error, traceback)

    async def _add(self) -> Task:
        method = self._ties.calls.external_tasks.AddExternalTask
        return (await self._ties.ask(method, self._request)).task


def part(
    ties: Ties,
    whole: AcceptedTask,
    kind: str,
    words: Words,
    *,
    clean_up: CleanUp | None = None,
    interrupt: bool = True,
) -> AddedTask:
    """Returns a task under another one of the same owner."""
    name = names.parse_attempt(whole.attempt)
    assert name is not None, whole.attempt
    # Of a later attempt they are others: an id is never given out again.
    later = f".{name.number}" if name.number > 1 else ""
    words = {"task_id": f"{name.task_id}.{kind}{later}", **words}
    token = whole.request.capability_token
    request = request_of(name.task, kind, words, owner_id=ties.owner_id, token=token)
    return AddedTask(ties, request, clean_up=clean_up, interrupt=interrupt, whole=whole)


class StartedWorkflow:
    """A workflow of the owner's own; `async with` it to be given its task "main"."""

    def __init__(
        self, ties: Ties, request: StartExternalWorkflowRequest, *, interrupt: bool = True
    ) -> None:
        """Keeps what to start."""
        self._ties = ties
        self._request = request
        self._interrupt = interrupt
        self._main: AcceptedTask | None = None

    async def __aenter__(self) -> AcceptedTask:
        """Starts the workflow, or finds it as an earlier life has left it, and takes main on.

        Raises:
            TaskFailed: It failed in an earlier life.
        """
        main = names.task_name(self._request.workflow_id, MAIN)
        while True:
            workflow = await self._start()
            if workflow.state == WorkflowState.WORKFLOW_STATE_SUCCEEDED:
                return done(self._ties, main)
            if workflow.state in SETTLED:
                cause = workflow.cause
                raise TaskFailed(cause.reason or "CANCELLED", cause.message)
            if (asked := await asked_soon(self._ties, main)) is not None:
                break
        accepted = AcceptedTask(self._ties, asked, interrupt=self._interrupt)
        self._main = await accepted.__aenter__()
        return self._main

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends main, and with it the workflow; what was added and is still open fails with it."""
        if self._main is not None:
            await self._main.__aexit__(kind, error, traceback)

    async def _start(self) -> Workflow:
        method = self._ties.calls.external_tasks.StartExternalWorkflow
        return (await self._ties.ask(method, self._request)).workflow


# -- finding what is asked ------------------------------------------------------------------------


async def asked_soon(ties: Ties, task: str) -> ExternalRequest | None:
    """Returns what is asked about a task; None if nothing is, for a while."""
    try:
        async with asyncio.timeout(LOOK_EVERY_S):
            async for name in ties.waiting.changes():
                asked = ties.waiting.requests.get(name)
                if asked is not None and name.startswith(f"{task}/attempts/"):
                    return asked
    except TimeoutError:
        pass
    return None


def done(ties: Ties, task: str, outputs: Mapping[str, object] | None = None) -> AcceptedTask:
    """Returns what stands for a task that had SUCCEEDED before."""
    made = AcceptedTask(ties, ExternalRequest(attempt=f"{task}/attempts/0"))
    made.done = True
    made.outputs = dict(outputs or {})
    return made


def failed(task: Task) -> TaskFailed:
    """Returns the exception for a task that has failed, or will never have its turn."""
    failure = task.failure
    message = failure.message or f"{task.name} is {Task.State.Name(task.state)}"
    return TaskFailed(failure.reason or "PART_FAILED", message, retriable=failure.retriable)
