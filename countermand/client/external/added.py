"""Tasks that an owner adds to a running workflow, and workflows of its own, as blocks of its code.

Each is safe to repeat after a crash: the ids are the same in every life, so adding or starting it
again finds what there is. What had SUCCEEDED before is `done`: its block has nothing to do.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypedDict

from countermand.client.external.outcome import TaskFailed, values_of
from countermand.client.external.serving import beside
from countermand.client.external.task import AcceptedTask, Block, Terms
from countermand.client.external.ties import Ties
from countermand.client.policies import duration
from countermand.drawing.captions import MADE_UP_FOR
from countermand.drawing.tasks import SETTLED
from countermand.rpc import names
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY, EFFECT_REVERSIBLE
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.external_task_pb2 import (
    AddExternalTaskRequest,
    ExternalRequest,
    StartExternalWorkflowRequest,
)
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import GetTaskRequest
from countermand.v1.workflow_spec_pb2 import Policy
from countermand.v1.workflow_state_pb2 import WorkflowState

# Whether a task that waits for its turn will never have one is asked as often.
LOOK_EVERY_S = 2.0

MAIN = "main"  # the task that stands for the whole of a vendor's own workflow

# Request ids are made of what they are about: the next life makes the same.
_REQUESTS = uuid.UUID("6a2a7f0e-2c1d-5c0b-9a55-7d0e9f6f7a11")

_OVER = MADE_UP_FOR | {Task.STATE_FAILED, Task.STATE_CANCELLED}


# An operator who skips a task goes on as if it were done.
_DONE = frozenset({Task.STATE_SUCCEEDED, Task.STATE_SKIPPED})


class Words(TypedDict, total=False):
    """What may be said of a task that is added."""

    task_id: str  # its id, free in that workflow; of a part, by default one that is counted
    description: str  # for people
    arguments: Mapping[str, str]
    weight: int  # its share of its parent's progress; default 1
    after: Sequence[str]  # ids of members of the same group that it comes after
    reversible: bool  # it has an effect, which the handler of its kind makes up for
    operator_checklist: str  # it has an effect, and people make up for it by this text
    heartbeat_timeout: timedelta  # without a sign of life for this long it becomes UNKNOWN
    run_timeout: timedelta  # it must end within this
    on_failure: Policy.OnFailure.ValueType  # by default as its parent


class WorkflowWords(TypedDict, total=False):
    """What may be said of a workflow of one's own."""

    description: str  # for people
    labels: Mapping[str, str]  # by which it is found
    heartbeat_timeout: timedelta  # without a sign of life for this long it becomes UNKNOWN
    auto_clear: bool  # whether it is removed by itself after the retention time; default: yes
    policy: Policy  # what its tasks inherit; by default a failure ends it, and keeps what was done


def request_of(
    parent: str, kind: str, words: Words, *, owner_id: str, token: str = ""
) -> AddExternalTaskRequest:
    """Returns the request that adds a task; the same one in every life.

    Raises:
        TypeError: It has no id.
    """
    if not words.get("task_id"):
        raise TypeError(f"give what you add to {parent} a task_id: others add to it, too")
    checklist = words.get("operator_checklist", "")
    reversible = bool(checklist) or words.get("reversible", False)
    request = AddExternalTaskRequest(
        parent=parent,
        task_id=words["task_id"],
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


def part(ties: Ties, whole: AcceptedTask, kind: str, words: Words, terms: Terms) -> Block:
    """Returns the block of a task under another one of the same owner."""
    token = whole.request.capability_token
    request = request_of(whole.name, kind, words, owner_id=ties.owner_id, token=token)
    return added(ties, request, terms)


# -- blocks ---------------------------------------------------------------------------------------


def added(ties: Ties, request: AddExternalTaskRequest, terms: Terms) -> Block:
    """Returns the block of a task that is to be added."""
    workflow_id = request.parent.split("/tasks/", 1)[0].removeprefix("workflows/")

    async def add() -> AcceptedTask | None:
        answer = await ties.ask(ties.calls.external_tasks.AddExternalTask, request)
        if answer.task.state in _OVER:
            raise failed(answer.task)
        if answer.task.state not in _DONE:
            return None
        return _done(ties, answer.task, answer.capability_token, request.arguments, terms)

    terms = beside(ties, terms, request.kind, asks=request.ask_owner)
    return _block(ties, names.task_name(workflow_id, request.task_id), add, terms)


def started(ties: Ties, request: StartExternalWorkflowRequest, terms: Terms) -> Block:
    """Returns the block of a workflow of the owner's own: that of its task "main"."""
    name = names.task_name(request.workflow_id, MAIN)

    async def start() -> AcceptedTask | None:
        answer = await ties.ask(ties.calls.external_tasks.StartExternalWorkflow, request)
        workflow = answer.workflow
        if workflow.state not in SETTLED:
            return None
        if workflow.state != WorkflowState.WORKFLOW_STATE_SUCCEEDED:
            raise TaskFailed(workflow.cause.reason or "CANCELLED", workflow.cause.message)
        main = await ties.ask(ties.calls.workflows.GetTask, GetTaskRequest(name=name))
        return _done(ties, main.task, answer.capability_token, {}, terms)

    terms = beside(ties, terms, request.kind)
    return _block(ties, name, start, terms)


@asynccontextmanager
async def _block(
    ties: Ties, name: str, find: Callable[[], Awaitable[AcceptedTask | None]], terms: Terms
) -> AsyncIterator[AcceptedTask]:
    """Yields a task once its turn has come, and ends it; one that had SUCCEEDED before is `done`.

    Args:
        ties: Those of its owner.
        name: The task.
        find: Makes it, or finds it as an earlier life has left it; returns what stands for it if it
            had SUCCEEDED, or raises TaskFailed if it never will.
        terms: On which it is worked on.

    Raises:
        TaskFailed: It failed in an earlier life, or what it comes after did.
        TaskStopped: It is to be stopped.
    """
    asked = done = None
    with ties.waiting.begun_here(name):
        while asked is None and (done := await find()) is None:
            if terms.whole is not None:
                terms.whole.check()
            asked = await asked_soon(ties, name)
    if asked is None:
        assert done is not None
        yield done
        return
    async with AcceptedTask(ties, asked, terms) as task:
        yield task


# -- finding what is asked ------------------------------------------------------------------------


async def asked_soon(ties: Ties, task: str) -> ExternalRequest | None:
    """Returns what is asked about a task; None if nothing is, for a while."""
    try:
        async with asyncio.timeout(LOOK_EVERY_S):
            async for name in ties.waiting.changes():
                asked = ties.waiting.requests.get(name)
                is_free = asked is not None and not ties.waiting.is_held(name)
                if is_free and name.startswith(f"{task}/attempts/"):
                    return asked
    except TimeoutError:
        pass
    return None


def _done(
    ties: Ties, task: Task, token: str, arguments: Mapping[str, str], terms: Terms
) -> AcceptedTask:
    """Returns what stands for a task that had SUCCEEDED before."""
    request = ExternalRequest(
        attempt=_done_by(task),
        kind=ExternalRequest.KIND_START,
        task_kind=task.verb.partition("/")[2],
        arguments=arguments,
        capability_token=token,
        effect=task.effect,
        accepted=True,
    )
    made = AcceptedTask(ties, request, terms)
    made.done = True
    made.outputs.update(values_of(task.output.external))
    return made


def _done_by(task: Task) -> str:
    """Returns the attempt that has done a task; if none has, its last one."""
    actions = [each for each in task.attempts if each.kind == Attempt.KIND_ACTION]
    done = [each for each in actions if each.state == Attempt.STATE_SUCCEEDED]
    meant = done or actions
    return meant[-1].name if meant else f"{task.name}/attempts/1"  # closed before its turn came


def failed(task: Task) -> TaskFailed:
    """Returns the exception for a task that has failed, or will never have its turn."""
    failure = task.failure
    message = failure.message or f"{task.name} is {Task.State.Name(task.state)}"
    return TaskFailed(failure.reason or "PART_FAILED", message, retriable=failure.retriable)
