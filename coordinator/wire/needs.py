"""What a workflow needs from somebody: what is wrong, where, and what may be done about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice

from coordinator.saga import resume
from coordinator.saga.external import MAIN
from coordinator.saga.reports import OWNER_SILENT
from coordinator.saga.spec import owner_of
from coordinator.saga.states import Effect, TaskState, WorkflowState
from coordinator.saga.workflow import STOPS_LATE, Decided, Task, Workflow
from coordinator.wire.values import TYPE_NAMES
from coordinator.wire.waits import pause_words, silent_since
from countermand.rpc.names import task_name
from countermand.v1.workflow_pb2 import Need

NEEDS_MAX = 20  # beyond it a person asks for the tasks; a fan-out may fail by the thousand
OUTPUTS_NAMED_MAX = 4

_TYPES = {kind.__name__: name for kind, name in TYPE_NAMES.items()}
# One that was stopped is ENDING, and waits for what is still made up for in it.
_WAITING_FOR_SOMEBODY = frozenset(
    {WorkflowState.PAUSED, WorkflowState.BLOCKED, WorkflowState.ENDING}
)
# In which an owner may be silent, or not stop.
_OWNERS = frozenset({TaskState.UNKNOWN, TaskState.CANCELLING})


def type_name(kind: str) -> str:
    """Returns what the contract calls the type of an output."""
    return _TYPES.get(kind, "")


def paused_words(workflow_id: str, pause: Decided) -> str:
    """Returns who or what paused a workflow, and how it goes on."""
    why = pause_words(pause)
    return f"{why[:1].upper()}{why[1:]}. Go on: `countermand workflow resume {workflow_id}`."


def needs_of(workflow: Workflow) -> list[Need]:
    """Returns everything that a workflow needs, at most so many."""
    if workflow.state is WorkflowState.QUARANTINED:
        message = (
            "Its record could not be processed: see the coordinator's log, and report it. "
            f"To run it anew: `countermand workflow fork {workflow.id} --id NEW`."
        )
        return [Need(reason=workflow.state, message=message)]
    if workflow.settled:
        return []
    found = list(islice(_needs(workflow), NEEDS_MAX + 1))
    if len(found) > NEEDS_MAX:
        message = f"And more: `countermand workflow requirements {workflow.id}` lists all."
        found[NEEDS_MAX:] = [Need(reason="MORE", message=message)]
    return found


def _needs(workflow: Workflow) -> Iterator[Need]:
    if workflow.state in _WAITING_FOR_SOMEBODY:
        yield from _waiting(workflow)
    elif workflow.state is WorkflowState.PAUSING:
        yield from _left_to_people(workflow)
    for index, task in workflow.tasks():
        if task.state not in _OWNERS:
            continue
        if task.silent_owner:
            yield _need(workflow, index, OWNER_SILENT, _silent(workflow, index, task))
        elif task.stops_late:
            yield _need(workflow, index, STOPS_LATE, _stops_late(workflow, index))


def _waiting(workflow: Workflow) -> Iterator[Need]:
    """Yields that without which a workflow does not go on."""
    decisions = tuple(_decisions(workflow))
    if workflow.pause and workflow.holding and not decisions:
        yield Need(reason="PAUSED", message=paused_words(workflow.id, workflow.pause))
    yield from decisions
    for index, task in workflow.tasks():
        if task.state is TaskState.COMPENSATION_BLOCKED:
            yield _need(workflow, index, task.state, _blocked(workflow, index, task))


def _left_to_people(workflow: Workflow) -> Iterator[Need]:
    """Yields the compensations that nobody tries again, and that keep a pause from holding."""
    for index, task in workflow.tasks():
        blocked = task.state is TaskState.COMPENSATION_BLOCKED and task.last.open
        if blocked and workflow.plan.task(index).external is not None:
            yield _need(workflow, index, task.state, _blocked(workflow, index, task))


def _need(workflow: Workflow, index: int, reason: str, message: str) -> Need:
    name = workflow.plan.nodes[index].name
    return Need(task=task_name(workflow.id, name), reason=reason, message=message)


def _silent(workflow: Workflow, index: int, task: Task) -> str:
    """Returns who is silent and since when, and what can be done if that stays so."""
    name, owner = workflow.plan.nodes[index].name, task.silent_owner
    end = f"countermand external end {workflow.id}/{name} --failed REASON"
    if workflow.about.owner and name == MAIN:  # with all that is open under it, and beside it
        end = f"countermand external finish {workflow.id} --force --failed REASON"
    cancel = f"give the workflow up: `countermand workflow cancel {workflow.id} --reason WHY`"
    effect = workflow.plan.task(index).effect
    if effect is Effect.READ_ONLY:
        ways = f"end it in its place: `{end}`; or {cancel}"
    else:  # a failure says that nothing is left, and nobody would look for what is
        made_up = f"; {owner}, and then people, are asked to make up for {name}"
        ways = f"{cancel}{made_up if effect is Effect.REVERSIBLE else ''}. Only if you know that "
        ways += f"nothing of {name} is left, end it in its place: `{end}`"
    return (
        f"{owner} has been silent{silent_since(task)}, so nobody knows how {name} stands. Once "
        f"{owner} is heard of again it goes on by itself. If that will never be, {ways}."
    )


def _stops_late(workflow: Workflow, index: int) -> str:
    """Returns that an owner does not stop, and what can be done about it."""
    name, owner = workflow.plan.nodes[index].name, owner_of(workflow.plan.task(index).host)
    end = f"countermand external end {workflow.id}/{name} --cancelled"
    said = f"{owner} was asked to stop {name} long ago and says that it is still at work: look at "
    said += "what it does, or end its program. "
    if workflow.plan.task(index).effect is Effect.REVERSIBLE:
        said += f"Once it is silent for too long, it is asked to make up for {name}. "
    return f"{said}Only if you know that nothing of {name} is left: `{end}`."


def _blocked(workflow: Workflow, index: int, task: Task) -> str:
    why = _sentence(task.compensation_failure.message) if task.compensation_failure else ""
    name, external = workflow.plan.nodes[index].name, workflow.plan.task(index).external
    if external is not None and task.last.open:  # nothing is tried again: somebody must do it
        decide = f"`countermand workflow compensation done {workflow.id} {name} --reason WHY`"
        give_up = decide.replace(" done ", " abandon ")
        lead = "To be done by people: " if external.checklist else ""
        then = "\n" if "\n" in why else " "  # a checklist of several lines is not read on
        return f"{lead}{why}{then}Once it is done: {decide}. To leave it as it is: {give_up}."
    return (
        f"Its compensation {_failed(task)}: {why or 'no cause is known.'} It is tried again, "
        "slowly: mend the cause on the host. Or decide: `countermand workflow compensation "
        f"retry|replace|done|abandon {workflow.id} {name}`."
    )


def _failed(task: Task) -> str:
    """Returns how often it has failed in a row, if more than once."""
    count = task.failures_in_a_row(task.last.kind) - task.last.open  # the one that is open has not
    return f"has failed {count} times in a row" if count > 1 else "has failed"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _decisions(workflow: Workflow) -> Iterator[Need]:
    """Yields the open failures, each with what may be decided about it."""
    if workflow.cause is not None:
        return
    needed = resume.requirements(workflow)
    outputs: defaultdict[int, list[resume.Requirement]] = defaultdict(list)
    for each in needed:
        if each.kind is resume.Kind.OUTPUT:
            outputs[each.task].append(each)
    for each in needed:
        if each.kind is resume.Kind.DECISION:
            message = _decision(workflow, each.task, outputs[each.task])
            yield _need(workflow, each.task, each.kind, message)


def _decision(workflow: Workflow, index: int, outputs: list[resume.Requirement]) -> str:
    name, task = workflow.plan.nodes[index].name, workflow.task(index)
    where = f" on {task.failure.host}" if task.failure and task.failure.host else ""
    why = f" ({task.failure.reason}): {_sentence(task.failure.message)}" if task.failure else "."
    skip = "skip"
    if outputs:
        keys = [f"{each.key} ({type_name(each.type) or 'any'})" for each in outputs]
        more = len(keys) - OUTPUTS_NAMED_MAX
        named = ", ".join(keys[:OUTPUTS_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
        skip = f"skip with {named}"
    if task.state is TaskState.FAILED:
        is_part = workflow.plan.nodes[index].under >= 0  # nobody would do it again alone
        possible = f"Possible: {'' if is_part else 'rerun, '}{skip}, or compensate."
        return f"{name} failed{where}{why} {possible}"
    return (
        f"{name} is past the point of no return and {_failed(task)}{where}{why} "
        f"It is tried again, slowly. Possible: rerun now, or {skip}."
    )
