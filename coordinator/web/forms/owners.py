"""What people do in the place of an owner outside: end what it will never end itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from coordinator.web.forms import typed as typed_numbers
from coordinator.web.forms.fields import Field, Form, Option, reason
from coordinator.web.forms.serving import Deed, Given, Params
from coordinator.web.shown import task_url, workflow_url
from coordinator.web.site import Site
from countermand.drawing.tasks import task_id
from countermand.drawing.words import task_look
from countermand.rpc.channel import CHANGE_TIMEOUT_S
from countermand.rpc.errors import FieldInvalid, NotOwner, Violation
from countermand.v1.external_task_pb2 import (
    EndExternalTaskRequest,
    ExternalRequest,
    ListExternalTasksRequest,
)
from countermand.v1.task_pb2 import Task

OUTCOME: Final = "outcome"
OUTPUT, FAILURE, CANCELLED = "output", "failure", "cancelled"
CODE: Final = "code"
FORCE: Final = "force"
BY_OPERATOR: Final = "ENDED_BY_OPERATOR"

_TYPES: Final = {
    "string": "a text",
    "int64": "a whole number",
    "bool": "true or false",
    "double": "a number",
}


async def waiting(site: Site, owner_id: str, lead: str) -> ExternalRequest | None:
    """Returns what waits for an owner whose attempt's name begins so; None: nothing does."""
    token = ""
    while True:
        asked = ListExternalTasksRequest(owner_id=owner_id, page_size=1000, page_token=token)
        page = await site.calls.unary(site.calls.external_tasks.ListExternalTasks, asked)
        for each in page.requests:
            if each.attempt.startswith(lead):
                return each
        token = page.next_page_token
        if not token:
            return None


async def _asked(site: Site, task: Task) -> ExternalRequest | None:
    if task.kind != Task.KIND_EXTERNAL:
        return None
    return await waiting(site, task.owner_id, f"{task.name}/attempts/")


async def _look(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    task = await site.calls.task(params["workflow"], params["task"])
    asked = await _asked(site, task)
    owner = task.owner_id or "anybody outside"
    forbidden = ""
    if asked is None:
        forbidden = f"{task_look(task.state).word.capitalize()}: nothing of it waits for {owner}."
    force = Field(
        name=FORCE,
        label="Close its parts, too",
        kind="tick",
        hint="Parts that it has added and that are open keep it from ending otherwise.",
    )
    outcome = Field(
        name=OUTCOME,
        label="How it ended",
        kind="choice",
        options=_options(asked) if asked else (),
        is_required=True,
    )
    return Form(
        title=f"End it in the place of {owner}",
        about=task_id(task.name),
        back=task_url(task.name),
        within=[(workflow_url(params["workflow"]), params["workflow"])],
        button="End it",
        happens=[
            f"The coordinator takes your word as that of {owner}, and goes on by it.",
            f"Should {owner} report on it later, that is refused and changes nothing.",
        ],
        warnings=["Look at what it really did: nobody checks this."],
        forbidden=forbidden,
        fields=[outcome, force, reason("With a failure it is what is told of it.")],
        basis=f"{asked.attempt} {asked.kind}" if asked else "",
        is_grave=True,
    )


def _options(asked: ExternalRequest) -> Sequence[Option]:
    if asked.kind == ExternalRequest.KIND_COMPENSATE:
        return [
            Option(value=OUTPUT, label="It is made up for", hint="Nothing of it is left."),
            Option(value=FAILURE, label="That failed", hint="It is asked for again."),
        ]
    given = [
        Field(name=f"{OUTPUT}:{key}", label=key, hint=_TYPES.get(kind, "a value"))
        for key, kind in sorted(asked.outputs.items())
    ]
    code = Field(name=CODE, label="Reason for programs", value=BY_OPERATOR)
    options = [
        Option(value=OUTPUT, label="It succeeded", hint="It took effect.", fields=given),
        Option(value=FAILURE, label="It failed", hint="Nothing of it is left.", fields=[code]),
    ]
    if asked.kind == ExternalRequest.KIND_CANCEL:
        said = "It was stopped, as asked"
        options.append(Option(value=CANCELLED, label=said, hint="Nothing of it is left."))
    return options


async def _send(site: Site, params: Params, given: Given) -> str:
    task = await site.calls.task(params["workflow"], params["task"])
    asked = await _asked(site, task)
    if asked is None:
        raise NotOwner(name=task.name, why=f"nothing of it waits for {task.owner_id} any more")
    request = EndExternalTaskRequest(
        attempt=asked.attempt,
        capability_token=asked.capability_token,
        report_id=given.request_id,
        force=bool(given.typed.get(FORCE)),
    )
    match given.typed.get(OUTCOME):
        case "output":
            request.output.CopyFrom(output(asked, given.typed))
        case "cancelled":
            request.cancelled = True
        case _:
            request.failure.reason = given.typed.get(CODE, "") or BY_OPERATOR
            request.failure.message = given.reason
    method = site.calls.external_tasks.EndExternalTask
    await site.calls.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
    return task_url(task.name)


def output(asked: ExternalRequest, typed: Mapping[str, str]) -> Struct:
    """Returns what was left, each of the type that was promised; raises FieldInvalid."""
    left: dict[str, Any] = {}
    wrong = []
    for key, kind in asked.outputs.items():
        name = f"{OUTPUT}:{key}"
        text = typed.get(name, "").strip()
        try:
            left[key] = _READ.get(kind, str)(text)
        except (KeyError, ValueError):
            wrong.append(Violation(name, f"must be {_TYPES.get(kind, 'a value')}"))
    if wrong:
        raise FieldInvalid(*wrong)
    return json_format.ParseDict(left, Struct())


_READ: Final[Mapping[str, Any]] = {
    "int64": typed_numbers.whole,
    "double": typed_numbers.number,
    "bool": {"true": True, "false": False}.__getitem__,
}


def _field_of(violation: Violation, _: Form) -> str:
    """Returns the field that a violation is about."""
    named = {"failure.reason": CODE, "failure.message": "reason", "output": OUTCOME}
    return named.get(violation.field, violation.field)


async def token_of(site: Site, owner_id: str, lead: str) -> str:
    """Returns what proves the right to end something; raises NotOwner where nothing waits."""
    found = await waiting(site, owner_id, lead)
    if found is None:
        why = f"it waits for {owner_id} no more; cancel it instead"
        raise NotOwner(name=lead.partition("/tasks/")[0], why=why)
    return found.capability_token


DEEDS: Final[Sequence[Deed]] = (
    Deed(
        path="/workflows/{workflow}/tasks/{task}/end",
        look=_look,
        act=_send,
        word="told",
        field_of=_field_of,
    ),
)
