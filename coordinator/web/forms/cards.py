"""What is asked about each task and group on the page of a resume: one card, one decision. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.web.forms import arguments, decisions, groups
from coordinator.web.forms.decisions import DECIDE, GIVE_UP, RERUN, SKIP, named
from coordinator.web.forms.fields import Field, Option
from coordinator.web.forms.outlook import place
from countermand.drawing.phrases import count
from countermand.drawing.tasks import task_id
from countermand.drawing.values import said
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import ResumeRequirement
from countermand.v1.workflow_spec_pb2 import WorkflowSpec


def of_group(task: Task, tree: groups.Tree, spec: WorkflowSpec, hosts: Sequence[Host]) -> Field:
    """Returns the field of a decision about all that failed in a group."""
    name = task_id(task.name)
    failed = tree.failed(task.name)
    return Field(
        name=named(DECIDE, name),
        label=f"{name}: {len(failed)} of {count(len(tree.leaves(task.name)), 'task')} failed",
        kind="choice",
        # Of items each says why itself.
        hint="" if groups.is_fan_out(name, spec) else said(task.failure),
        options=[
            groups.rerun(task, tree, spec, hosts),
            groups.skip(task, tree, spec),
        ],
        is_required=True,
    )


def of_task(task: Task, needs: Sequence[ResumeRequirement], hosts: Sequence[Host]) -> Field:
    """Returns the field of a decision, with what each of them asks for."""
    name = task_id(task.name)
    own = [need for need in needs if need.task == task.name]
    decide = next((n for n in own if n.kind == ResumeRequirement.KIND_DECISION), None)
    possible: Sequence[str] = decide.choices if decide else (RERUN, SKIP)
    outputs = [need for need in own if need.kind == ResumeRequirement.KIND_OUTPUT]
    options = []
    if RERUN in possible:
        options.append(_rerun(task, hosts))
    if SKIP in possible:
        options.append(_skip(name, outputs, is_needed=decide is not None))
    if GIVE_UP in possible:
        hint = "Gives up: all that the workflow did is made up for. Decide nothing else beside it."
        options.append(Option(value=GIVE_UP, label="Compensate the whole workflow", hint=hint))
    why = f"{said(task.failure)} ({task.failure.reason})" if task.HasField("failure") else ""
    return Field(
        name=named(DECIDE, name),
        label=f"{name}{place(task)}",
        kind="choice",
        hint=why,
        options=options,
        is_required=decide is not None,
    )


def _rerun(task: Task, hosts: Sequence[Host]) -> Option:
    name = task_id(task.name)
    fields = [
        arguments.field_of_argument(named(RERUN, name, each.path), each)
        for each in arguments.arguments_of(task)
    ]
    if not task.owner_id:  # an owner does it wherever it likes
        fields.append(decisions.field_of_hosts(task, hosts))
    hint = "A new attempt. What you change here is used instead of what it had."
    return Option(value=RERUN, label="Run it again", hint=hint, fields=fields)


def _skip(name: str, outputs: Sequence[ResumeRequirement], *, is_needed: bool) -> Option:
    fields = [decisions.field_of_output(name, need) for need in outputs]
    hint = "Goes on with what comes after it, as if it had left what you give here."
    if not fields:
        hint = "Goes on with what comes after it." + (
            " Nothing that it leaves is needed." if is_needed else ""
        )
    return Option(value=SKIP, label="Skip it", hint=hint, fields=fields)
