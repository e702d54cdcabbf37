"""The page of a resume: one decision for each task that needs one, checked before it is sent.

look at it   every task that needs a decision, with what may be changed and what must be given
check        the coordinator says what would change and what is missing; nothing is sent
resume       exactly what was checked; what was changed since is checked again
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode

from coordinator.web.calls import PAGE_MAX
from coordinator.web.forms import cards, groups, outlook, workflows
from coordinator.web.forms import decisions as reading
from coordinator.web.forms.decisions import DECIDE, INPUT, named
from coordinator.web.forms.fields import Change, Form, filled, reason
from coordinator.web.forms.serving import (
    CHECKED,
    REQUEST_ID,
    Deed,
    Given,
    Params,
    content_of,
    problems_of,
)
from coordinator.web.shown import workflow_url
from coordinator.web.site import Site
from countermand.drawing.phrases import on
from countermand.drawing.tasks import GROUPS, next_place, task_id
from countermand.drawing.values import value_words
from countermand.drawing.words import workflow_look
from countermand.rpc.channel import CHANGE_TIMEOUT_S
from countermand.rpc.errors import CountermandError
from countermand.rpc.names import task_name, workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import ResumeRequirement, Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState as W

CARDS_MAX: Final = 40  # tasks that are decided one by one: beyond it, their groups are
TASKS_PAGES_MAX: Final = 10
SKIPS_TOLD_MAX: Final = 12
EXTRA: Final = "task"  # a task that needs no decision, and shall be given one
STEP, SEND = "step", "send"

_RESUMABLE: Final = frozenset(
    {W.WORKFLOW_STATE_PAUSING, W.WORKFLOW_STATE_PAUSED, W.WORKFLOW_STATE_BLOCKED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The form as it is before anything is typed, and what it was drawn from."""

    form: Form
    workflow: Workflow
    tasks: Mapping[str, Task]
    tree: groups.Tree


# -- what is asked --------------------------------------------------------------------------------


async def _draw(site: Site, params: Params, typed: Mapping[str, str]) -> Drawn:
    workflow_id = params["workflow"]
    asked = pb.GetResumeRequirementsRequest(name=workflow_name(workflow_id))
    workflow, answer, hosts = await asyncio.gather(
        site.calls.workflow(workflow_id, full=True),
        site.calls.unary(site.calls.workflows.GetResumeRequirements, asked),
        site.calls.list_hosts(),
    )
    needs = answer.requirements
    extra = typed.get(EXTRA, "")
    undecided = [n.task for n in needs if n.kind == ResumeRequirement.KIND_DECISION]
    tree = await _tree(site, workflow, is_needed=bool(extra) or len(undecided) > CARDS_MAX)
    tasks = await _tasks(site, workflow_id, undecided, tree, extra)
    fields = [
        cards.of_group(task, tree, workflow.spec, hosts)
        if task.kind in GROUPS
        else cards.of_task(task, needs, hosts)
        for task in tasks
    ]
    inputs = reading.fields_of_input(workflow.input)
    forbidden = _forbidden(workflow, needs)
    form = Form(
        title="Resume",
        about=workflow_id,
        back=workflow_url(workflow_id),
        button="Resume",
        heading="What is to be decided" if fields else "What will happen",
        happens=_happens(tasks, needs),
        fields=[*fields, *inputs, reason()],
        forbidden=forbidden,
        checks_first=bool(fields),
        etag=workflow.etag,
        basis=f"{forbidden} {[(n.task, n.kind, n.key) for n in needs]}",
        hidden={EXTRA: extra} if extra else None,
        elsewhere=[
            *_together(workflow_id, tasks, tree),
            *_apart(workflow_id, extra, tree, undecided),
        ],
    )
    known = {task_id(task.name): task for task in (*tree.tasks, *tasks)}
    return Drawn(form=form, workflow=workflow, tasks=known, tree=tree)


def _forbidden(workflow: Workflow, needs: Sequence[ResumeRequirement]) -> str:
    against = {ResumeRequirement.KIND_COMPENSATING, ResumeRequirement.KIND_OUTCOME}
    if workflow.state not in _RESUMABLE:
        return f"{workflow_look(workflow.state).word.capitalize()}: there is nothing to resume."
    return " ".join(need.message for need in needs if need.kind in against)


def _happens(tasks: Sequence[Task], needs: Sequence[ResumeRequirement]) -> list[str]:
    if not needs and not tasks:
        return ["It goes on where it was held; no decision is open."]
    return ["Decide about each task below. All decisions hold together, or none does."]


async def _tasks(
    site: Site, workflow_id: str, undecided: Sequence[str], tree: groups.Tree, extra: str
) -> list[Task]:
    """Returns the tasks to decide about, whole; of very many, groups that stand for them."""
    whole = [task_name(workflow_id, extra)] if extra else []
    apart = [name for name in undecided if not set(whole) & {name, *tree.above(name)}]
    names = [*whole, *tree.gathered(apart, CARDS_MAX)]
    ids = [task_id(name) for name in names[: CARDS_MAX + 1]]
    return list(await asyncio.gather(*(site.calls.task(workflow_id, each) for each in ids)))


async def _tree(site: Site, workflow: Workflow, *, is_needed: bool) -> groups.Tree:
    """Returns the tasks in their tree: as the workflow brings them, or page by page."""
    if len(workflow.tasks) < PAGE_MAX:
        return groups.Tree(workflow.tasks)
    found: list[Task] = []
    token = ""
    for _ in range(TASKS_PAGES_MAX if is_needed else 0):
        page = await site.calls.tasks(workflow.name.removeprefix("workflows/"), token=token)
        found += page.tasks
        token = page.next_page_token
        if not token:
            break
    return groups.Tree(found)


def _together(workflow_id: str, tasks: Sequence[Task], tree: groups.Tree) -> list[tuple[str, str]]:
    """Returns links to decide about the groups of several tasks at once."""
    url = f"{workflow_url(workflow_id)}/resume"
    return [
        (f"{url}?{urlencode({EXTRA: name})}", f"Decide about all that failed in {name} at once")
        for name in map(task_id, tree.shared([task.name for task in tasks]))
    ]


def _apart(
    workflow_id: str, extra: str, tree: groups.Tree, undecided: Sequence[str]
) -> list[tuple[str, str]]:
    """Returns the link back from a group to its tasks, unless they are too many."""
    if len(undecided) > CARDS_MAX or not tree.leaves(task_name(workflow_id, extra)):
        return []
    return [(f"{workflow_url(workflow_id)}/resume", "Decide task by task")]


# -- what comes of it -----------------------------------------------------------------------------


async def _look(site: Site, params: Params, typed: Mapping[str, str]) -> Form:
    drawn = await _draw(site, params, typed)
    if REQUEST_ID not in typed:  # nobody has typed anything yet
        wanted = {named(DECIDE, typed.get(EXTRA, "")): typed.get(DECIDE, "")}
        return filled(drawn.form, wanted)
    form = filled(drawn.form, typed)
    content = content_of(typed)
    # A plain resume after a pause decides nothing that could be checked.
    checks = form.checks_first or bool(_changed_input(drawn, typed))
    is_sent = typed.get(STEP) == SEND and (not checks or typed.get(CHECKED) == content)
    form = replace(form, checks_first=checks, is_checked=is_sent)
    if form.forbidden or not checks or is_sent:
        return replace(form, checked=content if is_sent else "")
    try:
        return await _checked(site, _request(params, drawn, typed), drawn, form, content)
    except CountermandError as error:
        return replace(form, problems=problems_of(error, form, RESUME))


def _changed_input(drawn: Drawn, typed: Mapping[str, str]) -> list[str]:
    return [
        field.name
        for field in drawn.form.fields
        if field.name.startswith(f"{INPUT}:") and typed.get(field.name, field.value) != field.value
    ]


async def _checked(
    site: Site, request: pb.ResumeWorkflowRequest, drawn: Drawn, form: Form, content: str
) -> Form:
    """Returns a form with what the coordinator says would come of it."""
    request.validate_only = True
    answer = await site.calls.unary(site.calls.workflows.ResumeWorkflow, request)
    changes = [
        Change(
            about=task_id(each.task) if each.task else "input",
            key=each.key,
            before=value_words(each.before),
            after=value_words(each.after),
        )
        for each in answer.changes
    ]
    others = [each for each in request.decisions if not _is_asked(each, form)]
    told = [_told(each, drawn) for each in request.decisions if _is_asked(each, form)]
    if len(others) > SKIPS_TOLD_MAX:  # items that are skipped may be thousands
        told.append(f"{len(others)} others that failed are skipped.")
    else:
        told += [_told(each, drawn) for each in others]
    items: Sequence[str] = [line for d in request.decisions for line in _undone(d, drawn)]
    if items:
        told.append("This is made up for first:")
    if any(each.HasField("give_up") for each in request.decisions):
        seen = await workflows.outlook_of(site, drawn.workflow)
        told, items = [*told, *outlook.sentences(seen)], outlook.items(seen)
    return replace(
        form,
        heading="What will happen",
        happens=told or form.happens,
        items=items,
        changes=changes,
        checked=content,
    )


def _is_asked(decision: pb.ResumeDecision, form: Form) -> bool:
    """Returns whether a decision was asked for by itself."""
    return any(field.name == named(DECIDE, task_id(decision.task)) for field in form.fields)


def _told(decision: pb.ResumeDecision, drawn: Drawn) -> str:
    name = task_id(decision.task)
    task = drawn.tasks.get(name, Task())
    match decision.WhichOneof("decision"):
        case "rerun" if task.kind in GROUPS:
            return groups.told(name, decision.rerun, drawn.tree, decision.task)
        case "rerun":
            where = on(decision.rerun.host_id) or next_place(task)
            return f"{name} runs again{where}."
        case "skip":
            left = "; what later tasks need of it is given below" if decision.skip.outputs else ""
            return f"{name} is skipped{left}."
        case _:
            return f"The whole workflow is made up for, because {name} failed."


def _undone(decision: pb.ResumeDecision, drawn: Drawn) -> list[str]:
    """Returns what a decision makes up for first, a line each."""
    return outlook.lines(groups.made_up_for(decision.rerun, decision.task, drawn.tree))


def _request(params: Params, drawn: Drawn, typed: Mapping[str, str]) -> pb.ResumeWorkflowRequest:
    form = filled(drawn.form, typed)
    made = reading.read(params["workflow"], form.fields, drawn.form.fields, typed)
    others = [
        other
        for decision in made.decisions
        for other in groups.ticked(decision, form.fields, typed, drawn.tree)
    ]
    return pb.ResumeWorkflowRequest(
        name=workflow_name(params["workflow"]),
        decisions=[*made.decisions, *others],
        input=made.input,
    )


async def _send(site: Site, params: Params, given: Given) -> str:
    request = _request(params, await _draw(site, params, given.typed), given.typed)
    request.etag, request.request_id = given.etag, given.request_id
    request.reason = given.reason
    method = site.calls.workflows.ResumeWorkflow
    await site.calls.unary(method, request, timeout_s=CHANGE_TIMEOUT_S)
    return workflow_url(params["workflow"])


RESUME: Final = Deed(
    path="/workflows/{workflow}/resume",
    look=_look,
    act=_send,
    word="resumed",
    field_of=reading.field_of,
)
DEEDS: Final[Sequence[Deed]] = (RESUME,)
