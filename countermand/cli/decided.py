"""From options of `workflow resume` to decisions, and from requirements to options.

Pure: what is written wrongly is a UsageError that says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import click

from countermand.cli.arguments import pair, plain, unquoted
from countermand.cli.table import paint
from countermand.cli.typed import SET, IsText, never
from countermand.client import decisions
from countermand.drawing.words import workflow_look
from countermand.rpc import names
from countermand.rpc.errors import FieldInvalid
from countermand.v1.workflow_pb2 import ResumeDecision, ResumeRequirement, Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

Values = dict[str, Any]

# What may be decided, as the contract calls it, and the options that do.
_OPTIONS: Final = {"rerun": "--rerun", "skip": "--skip", "give_up": "--compensate"}

# Where a resume is possible, whether it needs anything or not.
HELD = frozenset({WorkflowState.WORKFLOW_STATE_PAUSING, WorkflowState.WORKFLOW_STATE_PAUSED})


def decisions_of(
    *,
    reruns: Sequence[str],
    sets: Sequence[str],
    skips: Sequence[str],
    outputs: Sequence[str],
    compensates: Sequence[str],
    items: Sequence[int],
    reset: bool,
    hosts: Sequence[str],
    is_text: IsText = never,
) -> list[ResumeDecision]:
    """Returns one decision for each task that was named."""
    patches = _by_task(SET, "--rerun", sets, reruns, is_text)
    given = _by_task("--output", "--skip", outputs, skips, is_text)
    chosen = _hosts(hosts, reruns)
    if (items or reset) and len(reruns) != 1:
        raise click.UsageError("--items and --reset are about one --rerun: name the group there")
    made = [
        decisions.rerun(
            _id(task), patches.get(task), items=items, reset=reset, host=chosen.get(task, "")
        )
        for task in reruns
    ]
    made += [decisions.skip(_id(task), given.get(task)) for task in skips]
    made += [decisions.give_up(_id(task)) for task in compensates]
    return made


def _id(task: str) -> str:
    """Returns the id of a task that may be given by its whole name."""
    parsed = names.parse_task(task)
    return parsed[1] if parsed else task


def _by_task(
    option: str, beside: str, pairs: Sequence[str], tasks: Sequence[str], is_text: IsText
) -> dict[str, Values]:
    """Returns values by the task whose name they begin with; of a single task it may be left out.

    Names may hold dots themselves, so the longest one that fits is meant.
    """
    found: dict[str, Values] = {}
    for text in pairs:
        key, value = pair(text, option)
        fitting = [task for task in tasks if key.startswith(f"{_id(task)}.")]
        if fitting:
            task = max(fitting, key=len)
            key = key.removeprefix(f"{_id(task)}.")
        elif len(tasks) == 1:
            task = tasks[0]
        else:
            named = ", ".join(tasks) or "none"
            raise click.UsageError(
                f"{option} {text}: write TASK.FIELD=VALUE, with a task of a {beside}: {named}"
            )
        read = unquoted if is_text(option, _id(task), key) else plain
        found.setdefault(task, {})[key] = read(value)
    return found


def _hosts(hosts: Sequence[str], reruns: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in hosts:
        task, equals, host = text.rpartition("=")
        if not equals and len(reruns) == 1:
            task = reruns[0]
        if task not in reruns:
            raise click.UsageError(f"--host {text}: write TASK=HOST, with a task of a --rerun")
        found[task] = host
    return found


# -- what is wrong --------------------------------------------------------------------------------

# A place in a request: "decisions[0].rerun.patch['target.pool_id']", "input['disks']".
_PLACE: Final = re.compile(
    r"(?:decisions\[(?P<place>\d+)\]\.)?(?P<field>\w+(?:\.\w+)?)(?:\[(?P<quote>['\"])(?P<key>.*)(?P=quote)\])?"
)
_WRITTEN: Final = {
    "rerun.patch": f"{SET} {{task}}.{{key}}",
    "rerun.host_id": "--host {task}",
    "rerun.indices": "--items",
    "rerun.reset": "--reset",
    "skip.outputs": "--output {task}.{key}",
    "input": "--input {key}",
}
_OF_A_DECISION: Final = {"rerun": "--rerun", "skip": "--skip", "give_up": "--compensate"}


def in_options(error: FieldInvalid, made: Sequence[ResumeDecision]) -> FieldInvalid:
    """Returns what is wrong with a resume, at the options that said it."""
    return FieldInvalid(
        *(replace(wrong, field=_option(wrong.field, made)) for wrong in error.violations)
    )


def _option(place: str, made: Sequence[ResumeDecision]) -> str:
    """Returns the option that stands at a place in a request; else the place itself."""
    found = _PLACE.fullmatch(place)
    if found is None:
        return place
    number = int(found["place"]) if found["place"] else -1
    if number >= len(made):
        return place
    task = _id(made[number].task) if number >= 0 else ""
    written = _WRITTEN.get(found["field"], "")
    if written and not ("{key}" in written and found["key"] is None):
        return written.format(task=task, key=found["key"])
    if number < 0:
        return place
    return f"{_OF_A_DECISION.get(made[number].WhichOneof('decision') or '', '')} {task}".strip()


# -- what is needed -----------------------------------------------------------------------------


def needed(requirements: Collection[ResumeRequirement], *, why: bool = True) -> Iterator[str]:
    """Yields what a resume needs as lines, each with the options that give it; and why."""
    for each in requirements:
        task = _id(each.task)
        if each.kind == ResumeRequirement.KIND_DECISION:
            if why:
                yield (
                    f"  {each.message}"
                    if each.message.startswith(task)
                    else f"  {task}: {each.message}"
                )
            yield f"      {_choices(task, each)}" if why else f"  {_choices(task, each)}"
        elif each.kind == ResumeRequirement.KIND_OUTPUT:
            readers = ", ".join(_id(reader) for reader in each.consumers)
            kind = each.type.upper() or "VALUE"
            yield f"      with --skip also --output {task}.{each.key}={kind}  (for {readers})"
        else:
            yield f"  {task}: {each.message}"


def _choices(task: str, each: ResumeRequirement) -> str:
    *options, last = (f"{option} {task}" for option in _open(each))
    return f"{', '.join(options)} or {last}" if options else last


def _open(each: ResumeRequirement) -> list[str]:
    """Returns the options that may decide about a task."""
    return [_OPTIONS[choice] for choice in each.choices if choice in _OPTIONS] or ["--skip"]


def command(workflow_id: str, requirements: Collection[ResumeRequirement]) -> str:
    """Returns a command that meets every requirement; empty if none can."""
    decide = [r for r in requirements if r.kind == ResumeRequirement.KIND_DECISION]
    other = {ResumeRequirement.KIND_OUTCOME, ResumeRequirement.KIND_COMPENSATING}
    if any(r.kind in other for r in requirements):
        return ""
    options = [f" {_open(each)[0]} {_id(each.task)}" for each in decide]
    reason = " --reason WHY" if decide else ""
    return f"countermand workflow resume {workflow_id}{''.join(options)}{reason}"


# -- what can no longer be decided --------------------------------------------------------------


def over(requirements: Collection[ResumeRequirement]) -> bool:
    """Returns whether all that stands against a resume is that nothing goes forward any more."""
    kinds = {each.kind for each in requirements}
    return kinds == {ResumeRequirement.KIND_COMPENSATING}


def undecidable(workflow: Workflow) -> str:
    """Returns why nothing is to be decided about going on, and what still can be done."""
    head = f"{workflow.name} is {paint(workflow_look(workflow.state))}"
    workflow_id = workflow.name.removeprefix("workflows/")
    match workflow.state:
        case WorkflowState.WORKFLOW_STATE_COMPENSATING:
            return f"{head}: it makes up for what it did, which needs nothing from anybody."
        case WorkflowState.WORKFLOW_STATE_ENDING if not workflow.needs:
            return f"{head}: its end actions run, which needs nothing from anybody."
        case WorkflowState.WORKFLOW_STATE_SUCCEEDED:
            return f"{head}: it is settled, and nothing is needed."
        case WorkflowState.WORKFLOW_STATE_COMPENSATED | WorkflowState.WORKFLOW_STATE_FAILED:
            fork = f"countermand workflow fork {workflow_id} --id NEW"
            return f"{head}: it is settled, and nothing can be decided any more. Anew: `{fork}`."
        case _:
            # A compensation fails, and says itself what may be done about it.
            needs = "".join(f"\n  needs somebody: {need.message}" for need in workflow.needs)
            return f"{head}: it goes forward no more, so there is nothing to resume.{needs}"
