"""What people decide about one task: about a compensation that fails, and to have it fenced."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from coordinator.web.forms.fields import Field, Form, Option, reason
from coordinator.web.forms.offered import UNTOLD
from coordinator.web.forms.outlook import ACTING, place
from coordinator.web.forms.serving import Deed, Given, Params
from coordinator.web.shown import task_url, workflow_url
from coordinator.web.site import Site
from countermand.drawing.phrases import count
from countermand.drawing.tasks import IN_FLIGHT
from countermand.drawing.values import said
from countermand.drawing.words import host_look, task_look
from countermand.rpc.channel import CHANGE_TIMEOUT_S
from countermand.rpc.names import task_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow

DECISION: Final = "decision"
RETRY, DONE, ABANDON = "retry_now", "mark_done", "abandon"
HOST: Final = "host_id"
REPLACE: Final = "Or replace it: send another verb, or other arguments"

COMPENSATED: Final = frozenset({Task.STATE_COMPENSATING, Task.STATE_COMPENSATION_BLOCKED})


async def read_both(site: Site, params: Params) -> tuple[Workflow, Task]:
    """Returns a workflow and one of its tasks."""
    return await asyncio.gather(
        site.calls.workflow(params["workflow"]),
        site.calls.task(params["workflow"], params["task"]),
    )


def form_about(workflow: Workflow, task: Task, title: str, button: str, **more: object) -> Form:
    """Returns a form about a task."""
    return Form(
        title=title,
        about=task.name.rpartition("/")[2],
        back=task_url(task.name),
        within=[(workflow_url(workflow.name), workflow.name.removeprefix("workflows/"))],
        button=button,
        etag=workflow.etag,
        # Attempts come and go by themselves; what somebody decided, or that it succeeded, counts.
        basis=f"{task.state in COMPENSATED} {task.state in UNTOLD} {task.decided.time}",
        **more,  # type: ignore[arg-type]
    )


# -- compensations --------------------------------------------------------------------------------


async def _compensation(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    workflow, task = await read_both(site, params)
    is_compensated, is_untold = task.state in COMPENSATED, task.state in UNTOLD
    end_action = task.end_action and task.state in ACTING | {
        Task.STATE_READY,
        Task.STATE_RETRY_WAIT,
    }
    word = task_look(task.state).word.capitalize()
    happens = []
    if is_compensated:
        happens.append(f"So far it is made up for by: {task.opposite or 'its compensation'}.")
        happens.append("That is tried again, slowly, until it succeeds or somebody decides.")
    elif is_untold:
        happens.append("Nobody can tell its outcome: it is asked for again and again.")
    if task.HasField("compensation_failure"):
        failure = task.compensation_failure
        happens.insert(0, f"Why it fails: {said(failure)} ({failure.reason})")
    possible = _options(task) if is_compensated else [_abandon(task)]
    other = f"{task_url(task.name)}/replacement"
    is_possible = is_compensated or is_untold or end_action
    return form_about(
        workflow,
        task,
        "Give the task up" if is_untold or end_action else "Decide about the compensation",
        "Send the decision",
        happens=happens,
        fields=[
            Field(
                name=DECISION,
                label="Decision",
                kind="choice",
                options=possible,
                is_required=True,
                value="" if is_compensated else ABANDON,
            ),
            reason(),
        ],
        forbidden="" if is_possible else f"{word}: there is no decision to take.",
        elsewhere=[(other, REPLACE)] if is_compensated and not task.owner_id else (),
        heading="How it stands",
        is_grave=True,
    )


def _options(task: Task) -> list[Option]:
    where = place(task)
    return [
        Option(
            value=RETRY,
            label="Try again now",
            hint=f"Sends the compensation{where} at once, rather than when its wait is over.",
        ),
        Option(
            value=DONE,
            label="It was made up for by hand",
            hint=f"Nothing more is sent. Say so only if what it made{where} is gone.",
        ),
        _abandon(task),
    ]


def _abandon(task: Task) -> Option:
    where = place(task)
    left = f"“{task.opposite}” is not done" if task.opposite else "it may have taken effect"
    return Option(
        value=ABANDON,
        label="Abandon: leave it as it is",
        hint=f"What it made stays{where}: {left}. It is listed as a leftover, and the workflow ends"
        " as failed once all else is made up for.",
    )


async def _send_compensation(site: Site, params: Params, given: Given) -> str:
    request = pb.DecideCompensationRequest(
        task=task_name(params["workflow"], params["task"]),
        etag=given.etag,
        request_id=given.request_id,
        reason=given.reason,
    )
    decision = given.typed.get(DECISION, "")
    if decision in {RETRY, DONE, ABANDON}:  # else the coordinator says what is possible
        getattr(request, decision).SetInParent()
    method = site.calls.workflows.DecideCompensation
    await site.calls.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
    return workflow_url(params["workflow"])


# -- fences ---------------------------------------------------------------------------------------


async def _fence(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    (workflow, task), hosts = await asyncio.gather(read_both(site, params), site.calls.list_hosts())
    others = [host for host in hosts if host.name != f"hosts/{task.host_id}"]
    can = task.state in IN_FLIGHT
    own = next((host for host in hosts if host.name == f"hosts/{task.host_id}"), None)
    happens = [
        "Another host that reaches the same shared pool settles the attempt.",
        (
            "Either what it made is there, and it succeeded; or that storage refuses it from then"
            " on, however late its host goes on: it failed, and its policy decides what is next."
        ),
    ]
    warnings = []
    if own is not None and own.state == Host.STATE_READY:
        warnings.append(f"{task.host_id} answers: wait for it, unless it is stuck.")
    return form_about(
        workflow,
        task,
        "Fence the task",
        "Fence it",
        happens=happens,
        warnings=warnings,
        fields=[
            Field(
                name=HOST,
                label="Host that does it",
                kind="pick",
                options=[
                    Option(value="", label="any that can"),
                    *(_host_option(host) for host in others),
                ],
            ),
            reason(),
        ],
        forbidden=""
        if can
        else f"{task_look(task.state).word.capitalize()}: no outcome of it is still to come.",
        is_grave=True,
    )


def _host_option(host: Host) -> Option:
    host_id = host.name.removeprefix("hosts/")
    pools = count(len(host.pools), "pool")
    return Option(value=host_id, label=f"{host_id} ({host_look(host.state).word}, {pools})")


async def _send_fence(site: Site, params: Params, given: Given) -> str:
    request = pb.FenceTaskRequest(
        task=task_name(params["workflow"], params["task"]),
        etag=given.etag,
        request_id=given.request_id,
        reason=given.reason,
        host_id=given.typed.get(HOST, ""),
    )
    await site.calls.unary(site.calls.workflows.FenceTask, request, timeout_s=CHANGE_TIMEOUT_S)
    return task_url(request.task)


DEEDS: Final[Sequence[Deed]] = (
    Deed(
        path="/workflows/{workflow}/tasks/{task}/compensation",
        look=_compensation,
        act=_send_compensation,
        word="retried",
    ),
    Deed(
        path="/workflows/{workflow}/tasks/{task}/fence", look=_fence, act=_send_fence, word="fenced"
    ),
)
