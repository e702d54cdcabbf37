"""What people do about a whole workflow: pause, cancel and fork it, end a vendor's own by force."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from coordinator.web.forms import outlook, owners
from coordinator.web.forms.fields import Field, Form, Problem, reason
from coordinator.web.forms.offered import can_cancel
from coordinator.web.forms.serving import Deed, Given, Params
from coordinator.web.forms.typed import json_object
from coordinator.web.shown import workflow_url
from coordinator.web.site import Site
from countermand.drawing.phrases import count
from countermand.drawing.tasks import SETTLED
from countermand.drawing.words import workflow_look
from countermand.rpc.channel import CHANGE_TIMEOUT_S
from countermand.rpc.errors import FieldInvalid, StateForbids, Violation
from countermand.rpc.names import ID_RULE, is_id, workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.external_task_pb2 import EndExternalWorkflowRequest
from countermand.v1.workflow_pb2 import Workflow

MAIN: Final = "main"  # the task that stands for a vendor's own workflow
# A cancel of as many tasks is thought through within some milliseconds; of more, it is refused when
# it is sent, if it must be: nobody's look at a form may hold up other workflows.
IMAGINED_MAX: Final = 500
HOLD: Final = "hold_compensation"
INPUT: Final = "input"
LABELS: Final = "labels"
NEW_ID: Final = "workflow_id"


def form(workflow: Workflow, title: str, button: str, **more: Any) -> Form:  # noqa: ANN401 - of a Form
    """Returns a form about a workflow."""
    url = workflow_url(workflow.name)
    fields = more.pop("fields", ())
    return Form(
        title=title,
        about=workflow.name.removeprefix("workflows/"),
        back=url,
        button=button,
        fields=[*fields, reason()],
        etag=workflow.etag,
        **more,
    )


def _word(workflow: Workflow) -> str:
    return workflow_look(workflow.state).word.capitalize()


def _at_work(workflow: Workflow) -> int:
    return sum(each.count for each in workflow.task_counts if each.state in outlook.ACTING)


# -- pause ----------------------------------------------------------------------------------------


async def _pause(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    workflow, plain, held = await asyncio.gather(
        site.calls.workflow(params["workflow"]),
        _against_pause(site, params, hold=False),
        _against_pause(site, params, hold=True),
    )
    # What is made up for is paused only if that is said.
    goes_back, can = plain is not None, plain is None or held is None
    hold = Field(
        name=HOLD,
        label="Hold compensations, too",
        kind="tick",
        value="yes" if goes_back else "",
        hint="What is being made up for waits as well. Otherwise a pause never stops that.",
    )
    happens = ["No task starts, until somebody resumes it."]
    if number := _at_work(workflow):
        them = "ends by itself" if number == 1 else "end by themselves"
        happens.append(f"{count(number, 'attempt')} in flight {them}.")
    if goes_back:
        happens = ["No compensation starts, until somebody resumes it; those in flight end."]
    return form(
        workflow,
        "Pause",
        "Pause",
        happens=happens,
        fields=[hold],
        basis=f"{can} {goes_back}",
        forbidden="" if can else f"{_word(workflow)}: {held or 'there is nothing to pause'}.",
    )


async def _against_pause(site: Site, params: Params, *, hold: bool) -> str | None:
    name = workflow_name(params["workflow"])
    request = pb.PauseWorkflowRequest(name=name, hold_compensation=hold, validate_only=True)
    return await _against(site.calls.unary(site.calls.workflows.PauseWorkflow, request))


async def _against(asked: Awaitable[object]) -> str | None:
    """Returns why what was asked would be refused, as far as it is said; None: it would be done."""
    try:
        await asked
    except StateForbids as error:
        return error.metadata.get("because", "")
    return None


async def _send_pause(site: Site, params: Params, given: Given) -> str:
    request = pb.PauseWorkflowRequest(
        name=workflow_name(params["workflow"]),
        etag=given.etag,
        request_id=given.request_id,
        reason=given.reason,
        hold_compensation=bool(given.typed.get(HOLD)),
    )
    method = site.calls.workflows.PauseWorkflow
    await site.calls.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
    return workflow_url(params["workflow"])


# -- cancel ---------------------------------------------------------------------------------------


async def _cancel(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    workflow = await site.calls.workflow(params["workflow"])
    against = await _against_cancel(site, workflow)
    forbidden = "" if against is None else f"{_word(workflow)}: {against}."
    seen = outlook.outlook((), {})
    if workflow.state not in SETTLED and (against is None or not workflow.HasField("cause")):
        seen = await outlook_of(site, workflow)
    then = "It then ends as compensated, and cannot be resumed: only run anew, as a fork."
    return form(
        workflow,
        "Cancel",
        "Cancel it",
        # Of what cannot be done nothing will happen.
        happens=[] if forbidden else outlook.sentences(seen),
        items=[] if forbidden else outlook.items(seen),
        warnings=[] if forbidden else [then],
        forbidden=forbidden and (outlook.forbidden(seen) or forbidden),
        # That more was done meanwhile changes nothing about the wish to have it made up for.
        basis=against or "",
        is_grave=True,
    )


async def _against_cancel(site: Site, workflow: Workflow) -> str | None:
    """Returns why a cancel would be refused; of thousands of tasks, as far as its state says it."""
    if workflow.state in SETTLED:
        return "it is settled, and nothing is changed any more"
    if sum(each.count for each in workflow.task_counts) > IMAGINED_MAX:
        return None if can_cancel(workflow) else "there is nothing to cancel"
    imagined = pb.CancelWorkflowRequest(name=workflow.name, validate_only=True)
    against = await _against(site.calls.unary(site.calls.workflows.CancelWorkflow, imagined))
    return "there is nothing to cancel" if against == "" else against


async def outlook_of(site: Site, workflow: Workflow) -> outlook.Outlook:
    """Returns what would become of a workflow's tasks if it were made up for."""
    workflow_id = workflow.name.removeprefix("workflows/")
    pages = await asyncio.gather(
        *(
            site.calls.tasks(workflow_id, states=states, size=outlook.LOOKED_AT_MAX)
            for states in (outlook.MADE, sorted(outlook.ACTING))
        )
    )
    tasks = [task for page in pages for task in page.tasks]
    counts = {each.state: each.count for each in workflow.task_counts}
    is_all = not any(page.next_page_token for page in pages)
    return outlook.outlook(tasks, counts, is_all=is_all)


async def _send_cancel(site: Site, params: Params, given: Given) -> str:
    request = pb.CancelWorkflowRequest(
        name=workflow_name(params["workflow"]),
        etag=given.etag,
        request_id=given.request_id,
        reason=given.reason,
    )
    method = site.calls.workflows.CancelWorkflow
    await site.calls.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
    return workflow_url(params["workflow"])


# -- fork -----------------------------------------------------------------------------------------


async def _fork(site: Site, params: Params, typed: Mapping[str, str]) -> Form:
    workflow = await site.calls.workflow(params["workflow"], full=True)
    input_ = json_format.MessageToDict(workflow.input)
    labels = "\n".join(f"{key}={value}" for key, value in sorted(workflow.labels.items()))
    fields = [
        Field(
            name=NEW_ID,
            label="Id of the new workflow",
            hint="Yours to choose: small letters, digits, dot, dash, underscore; at most 63.",
            is_required=True,
        ),
        Field(
            name=INPUT,
            label="Input",
            kind="long",
            value=json.dumps(input_, indent=2, ensure_ascii=False) if input_ else "",
            hint="As JSON. What is written here replaces the input of the old one.",
        ),
        Field(
            name=LABELS, label="Labels", kind="long", value=labels, hint="One per line: key=value."
        ),
    ]
    happens = [
        "A new workflow is started from its spec, and linked to it. This one stays as it is."
    ]
    return Form(
        title="Fork",
        about=params["workflow"],
        back=workflow_url(workflow.name),
        button="Start the new one",
        happens=happens,
        fields=fields,  # nobody is asked why: a start has no reason in the contract
        problems=[Problem(said=v.description, field=v.field) for v in _wrong(typed)],
    )


def _wrong(typed: Mapping[str, str]) -> Iterator[Violation]:
    """Yields what can be seen to be wrong without asking, all of it at once."""
    if (id_ := typed.get(NEW_ID, "").strip()) and not is_id(id_):
        yield Violation(NEW_ID, f"{id_[:80]!r} {ID_RULE}")
    for read, name in ((_input, INPUT), (labels_of, LABELS)):
        try:
            read(typed.get(name, ""))
        except FieldInvalid as error:
            yield from error.violations


async def _send_fork(site: Site, params: Params, given: Given) -> str:
    request = pb.ForkWorkflowRequest(
        name=workflow_name(params["workflow"]),
        workflow_id=given.typed.get(NEW_ID, "").strip(),
        request_id=given.request_id,
        labels=labels_of(given.typed.get(LABELS, "")),
    )
    if text := given.typed.get(INPUT, "").strip():
        request.input.CopyFrom(_input(text))
    method = site.calls.workflows.ForkWorkflow
    answer = await site.calls.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
    return workflow_url(answer.workflow.name)


def labels_of(text: str) -> dict[str, str]:
    """Returns the labels that were typed, one per line; raises FieldInvalid."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if wrong := [line for line in lines if "=" not in line]:
        raise FieldInvalid(Violation(LABELS, f"{wrong[0]!r} is no label: write key=value"))
    pairs = (line.partition("=") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _input(text: str) -> Struct:
    try:
        return json_format.ParseDict(json_object(text or "{}"), Struct())
    except (ValueError, json_format.ParseError) as error:
        raise FieldInvalid(Violation(INPUT, str(error))) from None


# -- end a vendor's own ---------------------------------------------------------------------------


async def _end(site: Site, params: Params, _: Mapping[str, str]) -> Form:
    workflow = await site.calls.workflow(params["workflow"])
    forbidden = ""
    if not workflow.owner_id:
        forbidden = "It is no vendor's own: cancel it instead."
    elif workflow.state in SETTLED:
        forbidden = f"{_word(workflow)}: it has ended."
    return form(
        workflow,
        "End by force",
        "End it",
        happens=[
            f"The workflow of {workflow.owner_id or 'its owner'} ends as failed, for your reason.",
            (
                "Its open tasks are closed as cancelled, or as abandoned where an accepted one may"
                " have left something, which is then listed. Finished ones stay as they are."
            ),
            "It is removed with the first sweep after every webhook was told of it.",
        ],
        warnings=["Its owner may still be at work: what it does from then on nobody follows."],
        forbidden=forbidden,
        basis=f"{workflow.owner_id} {forbidden}",
        is_grave=True,
    )


async def _send_end(site: Site, params: Params, given: Given) -> str:
    workflow = await site.calls.workflow(params["workflow"])
    main = f"{workflow.name}/tasks/{MAIN}/attempts/"
    request = EndExternalWorkflowRequest(
        name=workflow.name,
        force=True,
        request_id=given.request_id,
        capability_token=await owners.token_of(site, workflow.owner_id, main),
    )
    request.failure.reason, request.failure.message = "ENDED_BY_OPERATOR", given.reason
    method = site.calls.external_tasks.EndExternalWorkflow
    await site.calls.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
    return "/workflows"  # its own page may be gone at once


def field_of_first(violation: Violation, _: Form) -> str:
    """Returns the field that a violation is about: "labels['a']" is about the labels."""
    return violation.field.partition("[")[0].partition(".")[0]


DEEDS: Final[Sequence[Deed]] = (
    Deed(path="/workflows/{workflow}/pause", look=_pause, act=_send_pause, word="paused"),
    Deed(path="/workflows/{workflow}/cancel", look=_cancel, act=_send_cancel, word="cancelled"),
    Deed(
        path="/workflows/{workflow}/fork",
        look=_fork,
        act=_send_fork,
        word="forked",
        field_of=field_of_first,
        beside={"WORKFLOW_ID_TAKEN": NEW_ID},
    ),
    Deed(path="/workflows/{workflow}/end", look=_end, act=_send_end, word="ended"),
)
