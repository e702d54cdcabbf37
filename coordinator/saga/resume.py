"""What a held workflow needs to go on, worked out whole before anything is changed.

`requirements` says what is needed; `violations` what a request lacks or gets wrong; `changes` what
it would change. Nothing here moves anything: `requests.go_on` does, once there are no violations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from coordinator.saga import events
from coordinator.saga.plan import ancestors, outermost
from coordinator.saga.spec import Binding, Value
from coordinator.saga.states import (
    HOLDING,
    IN_FLIGHT,
    Effect,
    TaskState,
)
from coordinator.saga.workflow import Group, Task, Values, Workflow


class Kind(StrEnum):
    """What kind of thing is needed, or wrong."""

    DECISION = "DECISION"  # a failed task needs a decision
    OUTPUT = "OUTPUT"  # if the task is skipped, this output must be given
    OUTCOME = "OUTCOME"  # its outcome must be known first
    COMPENSATING = "COMPENSATING"  # nothing goes forward any more
    MISFIT = "MISFIT"  # a decision that does not fit its task


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One thing that a resume needs, or that is wrong with one."""

    kind: Kind
    task: int  # -1: the workflow itself
    key: str = ""  # of an output: its path
    type: str = ""  # of an output: "str", "int", "bool", "float"
    consumers: tuple[int, ...] = ()  # of an output: the tasks that are bound to it
    message: str = ""
    choices: tuple[str, ...] = ()  # of a decision: what may be decided


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One value that a resume changes."""

    task: int  # -1: the input of the workflow
    key: str
    before: Value
    after: Value


RERUN, SKIP, GIVE_UP = "rerun", "skip", "give_up"  # as the contract calls what is decided
_WORDS = {RERUN: "rerun", SKIP: "skip", GIVE_UP: "compensate"}

# Tasks that have not begun, or wait: they may be skipped, or get other values.
_WAITING = frozenset({TaskState.PENDING, TaskState.READY, TaskState.RETRY_WAIT})
# How owners promise them, as specs say it.
_PROMISED = {"string": "str", "int64": "int", "bool": "bool", "double": "float"}
_TYPES = {"str": "a string", "int": "an integer", "bool": "true or false", "float": "a number"}


# -- what is needed -------------------------------------------------------------------------------


def requirements(workflow: Workflow) -> tuple[Requirement, ...]:
    """Returns everything that a resume needs now; empty: it can simply go on."""
    if workflow.cause is not None or workflow.settled:
        if workflow.state in HOLDING:
            return ()
        because = f"the workflow is {workflow.state}: nothing goes forward any more"
        return (Requirement(kind=Kind.COMPENSATING, task=-1, message=because),)
    found: list[Requirement] = []
    readers = _Readers(workflow)
    for index, task in workflow.tasks():
        if task.needs_decision and task.state in IN_FLIGHT:
            found.append(_outcome(workflow, index, task))
        elif task.needs_decision:
            found.append(_decision(workflow, index, task))
            found.extend(readers.outputs(index))
    return tuple(found)


def _decision(workflow: Workflow, index: int, task: Task) -> Requirement:
    name = workflow.plan.nodes[index].name
    why = f": {task.failure.message.rstrip('.')}" if task.failure else ""
    if task.state is not TaskState.FAILED:
        choices: tuple[str, ...] = (RERUN, SKIP)  # it is past a pivot
    elif workflow.plan.nodes[index].under >= 0:
        choices = (SKIP, GIVE_UP)  # nobody would do it again alone
    else:
        choices = (RERUN, SKIP, GIVE_UP)
    *first, last = (_WORDS[each] for each in choices)
    return Requirement(
        kind=Kind.DECISION,
        task=index,
        message=f"{name} is {task.state}{why}. Decide: {', '.join(first)} or {last}.",
        choices=choices,
    )


def _outcome(workflow: Workflow, index: int, task: Task) -> Requirement:
    name = workflow.plan.nodes[index].name
    message = f"{name} is {task.state}: its outcome must be known first."
    return Requirement(kind=Kind.OUTCOME, task=index, message=message)


class _Readers:
    """Who is bound to the outputs of whom, worked out once per question."""

    def __init__(self, workflow: Workflow) -> None:
        self._workflow = workflow
        self._readers: dict[str, dict[str, list[tuple[int, str]]]] | None = None

    def outputs(self, index: int) -> Iterator[Requirement]:
        """Yields the outputs of a task that those yet to come are bound to."""
        node = self._workflow.plan.nodes[index]
        external = node.task.external if node.task is not None else None
        promised = dict(external.outputs) if external is not None else {}
        name = node.name
        for path, readers in sorted(self._of(name).items()):
            consumers = tuple(dict.fromkeys(reader for reader, _ in readers))
            names = ", ".join(self._workflow.plan.nodes[reader].name for reader in consumers)
            wanted = (kind for _, kind in readers if kind)
            type_ = _PROMISED.get(promised.get(path, "")) or next(wanted, "")
            yield Requirement(
                kind=Kind.OUTPUT,
                task=index,
                key=path,
                type=type_,
                consumers=consumers,
                message=f"if {name} is skipped, give {path}, {_TYPES.get(type_, 'a value')}: "
                f"{names} is bound to it.",
            )

    def _of(self, name: str) -> Mapping[str, list[tuple[int, str]]]:
        if self._readers is None:
            self._readers = {}
            for index, binding in _bindings(self._workflow):
                paths = self._readers.setdefault(binding.task, {})
                paths.setdefault(binding.path, []).append((index, binding.type))
        return self._readers.get(name, {})


def _bindings(workflow: Workflow) -> Iterator[tuple[int, Binding]]:
    """Yields the bindings of tasks that may still start, to the outputs of others."""
    for index, task in workflow.tasks():
        if task.state not in _WAITING and not task.needs_decision:
            continue
        given = {each.field for each in task.patch}
        for binding in workflow.plan.task(index).bindings:
            if binding.task and binding.field not in given:
                yield index, binding


# -- what is wrong with a request -----------------------------------------------------------------


def violations(workflow: Workflow, event: events.ResumeRequested) -> tuple[Requirement, ...]:
    """Returns everything that a resume lacks or gets wrong; empty: it will be done."""
    if workflow.cause is not None:
        if workflow.state in HOLDING and not event.choices:
            return ()
        because = "compensation has begun: nothing goes forward any more"
        return (Requirement(kind=Kind.COMPENSATING, task=-1, message=because),)
    found: list[Requirement] = []
    decided: dict[int, events.Choice] = {}
    given_up = [c for c in event.choices if isinstance(c, events.GiveUp)]
    for choice in event.choices:
        misfit = _misfit(workflow, choice)
        if misfit:
            found.append(misfit)
            continue
        for index in chosen(workflow, choice):
            if index in decided:
                name = workflow.plan.nodes[index].name
                found.append(_wrong(index, f"{name} has two decisions: give one."))
            decided[index] = choice
    if given_up:
        found.extend(_beside_giving_up(workflow, event, given_up[0]))
        return tuple(found)
    for index, task in workflow.tasks():
        if task.needs_decision and index not in decided:
            in_flight = task.state in IN_FLIGHT
            found.append((_outcome if in_flight else _decision)(workflow, index, task))
    found.extend(_output_violations(workflow, decided))
    return tuple(found)


def _wrong(index: int, message: str, kind: Kind = Kind.MISFIT) -> Requirement:
    return Requirement(kind=kind, task=index, message=message)


def _beside_giving_up(
    workflow: Workflow, event: events.ResumeRequested, given_up: events.GiveUp
) -> Iterator[Requirement]:
    for choice in event.choices:
        if choice is not given_up:
            name = workflow.plan.nodes[choice.task].name
            yield _wrong(
                choice.task,
                f"{name} cannot be decided beside a decision to compensate, which makes up for the "
                "whole workflow: give that alone.",
            )
    if event.input:
        yield _wrong(
            given_up.task, "a changed input has no effect on what is made up for: leave it out."
        )
    for index in workflow.plan.irreversible:
        state = workflow.task(index).state
        if state is TaskState.SUCCEEDED or state in IN_FLIGHT:
            may = "has" if state is TaskState.SUCCEEDED else "may have"
            yield _wrong(
                given_up.task,
                f"{workflow.plan.nodes[index].name} {may} taken effect and cannot be made up for: "
                "possible are rerun and skip.",
            )


def _misfit(workflow: Workflow, choice: events.Choice) -> Requirement | None:
    """Returns why a decision does not fit its task, or None."""
    node = workflow.plan.nodes[choice.task]
    record = workflow.nodes[choice.task]
    if isinstance(record, Group):
        return _group_misfit(workflow, choice)
    if isinstance(choice, events.Rerun) and (choice.items or choice.reset):
        return _wrong(choice.task, f"{node.name} is no group: it has no items, and no reset.")
    if isinstance(choice, events.Rerun) and node.under >= 0:
        return _wrong(choice.task, _not_alone(workflow, choice.task))
    if record.state in IN_FLIGHT:
        return _outcome(workflow, choice.task, record)
    failed = record.needs_decision and record.state in (TaskState.FAILED, TaskState.RETRY_WAIT)
    waiting = record.state in _WAITING and not isinstance(choice, events.GiveUp)
    if failed or (waiting and not workflow.plan.is_end_action(choice.task)):
        return None
    possible = _possible(workflow)
    return _wrong(choice.task, f"{node.name} is {record.state} and cannot be decided. {possible}")


def _not_alone(workflow: Workflow, part: int) -> str:
    """Returns why a part cannot be rerun, and what can be done instead."""
    whole = outermost(workflow.plan, part)
    name, of = workflow.plan.nodes[part].name, workflow.plan.nodes[whole].name
    lead = f"{name} is a part of {of} and cannot be rerun alone"
    if workflow.task(whole).needs_decision:
        return f"{lead}: rerun {of}, whose owner adds its parts anew."
    if workflow.task(part).needs_decision:
        return f"{lead}, and {of} is {workflow.task(whole).state}: skip {name}, or compensate."
    return f"{lead}. {_possible(workflow)}"


def _possible(workflow: Workflow) -> str:
    names = [workflow.plan.nodes[i].name for i, task in workflow.tasks() if task.needs_decision]
    if not names:
        return "No task needs a decision: resume without one."
    return f"Decisions are open about: {', '.join(names)}."


def _group_misfit(workflow: Workflow, choice: events.Choice) -> Requirement | None:
    node = workflow.plan.nodes[choice.task]
    if choice.task == 0 or node.parent < 0 or node.recovers:
        return _wrong(choice.task, f"{node.name} cannot be decided: name a task or group in it.")
    if isinstance(choice, events.GiveUp):
        return _wrong(choice.task, f"{node.name} is a group: name the failed task in it.")
    if isinstance(choice, events.Rerun):
        if choice.items and not node.rules.fan_out:
            return _wrong(choice.task, f"{node.name} has no items: it is no for_each group.")
        count = len(node.forward)
        for item in choice.items:
            if not 0 <= item < count:
                return _wrong(
                    choice.task, f"{node.name} has no item {item}: it has {count}, from 0."
                )
            if not any(True for _ in _failed(workflow, node.forward[item])):
                name = workflow.plan.nodes[node.forward[item]].name
                return _wrong(choice.task, f"item {item} ({name}) has not failed.")
        if choice.reset:
            return _reset_misfit(workflow, choice)
    if not any(True for _ in _failed(workflow, choice.task)):
        return _wrong(
            choice.task, f"nothing in {node.name} needs a decision. {_possible(workflow)}"
        )
    return None


def _reset_misfit(workflow: Workflow, choice: events.Rerun) -> Requirement | None:
    name = workflow.plan.nodes[choice.task].name
    for index in leaves(workflow, choice.task):
        task, spec = workflow.task(index), workflow.plan.task(index)
        if task.state in IN_FLIGHT:
            message = f"{spec.name} is {task.state}: its outcome must be known before a reset."
            return _wrong(choice.task, message, Kind.OUTCOME)
        if task.state is TaskState.ABANDONED:
            message = f"{spec.name} was given up: what it left would be in the way of another run."
            return _wrong(choice.task, message)
        done = task.state is TaskState.SUCCEEDED
        if done and spec.effect not in (Effect.REVERSIBLE, Effect.READ_ONLY):
            return _wrong(
                choice.task, f"{name} cannot be reset: {spec.name} cannot be made up for."
            )
    if not any(True for _ in _failed(workflow, choice.task)):
        return _wrong(choice.task, f"nothing in {name} failed. {_possible(workflow)}")
    if begun := _begun_after(workflow, choice.task):
        message = f"{begun} comes after {name} and has begun: rerun or skip what failed."
        return _wrong(choice.task, message)
    return None


def _begun_after(workflow: Workflow, index: int) -> str:
    """Returns the name of a task that came after a node and has begun, if any.

    A group may pass before all of it is at rest.
    """
    for above in ancestors(workflow.plan, index):
        for follower in workflow.plan.nodes[above].before:
            for leaf in workflow.plan.leaves_of(follower):
                if workflow.task(leaf.index).state is not TaskState.PENDING:
                    return leaf.name
    return ""


def _output_violations(
    workflow: Workflow, decided: Mapping[int, events.Choice]
) -> Iterator[Requirement]:
    """Yields outputs that skipped tasks must be given, and were not, or of another type."""
    readers = _Readers(workflow)
    for index, choice in decided.items():
        if not isinstance(choice, events.Skip):
            continue
        name = workflow.plan.nodes[index].name
        for needed in readers.outputs(index):
            left = tuple(
                reader
                for reader in needed.consumers
                if not isinstance(decided.get(reader), events.Skip)
                and not _gives(decided.get(reader), workflow, reader, name, needed.key)
            )
            if not left:
                continue
            if needed.key not in choice.output:
                yield needed
            elif not _fits(choice.output[needed.key], needed.type):
                wanted = _TYPES.get(needed.type, needed.type)
                message = f"{needed.key} of {name} must be {wanted}."
                yield Requirement(
                    kind=Kind.OUTPUT,
                    task=index,
                    key=needed.key,
                    type=needed.type,
                    consumers=needed.consumers,
                    message=message,
                )


def _fits(value: Value, type_: str) -> bool:
    """Returns whether a value is of a type; a number without a fraction is one, too."""
    name = type(value).__name__
    return not type_ or name == type_ or (type_ == "float" and name == "int")


def _gives(
    choice: events.Choice | None, workflow: Workflow, reader: int, source: str, path: str
) -> bool:
    """Returns whether a decision about a reader gives the value itself."""
    if not isinstance(choice, events.Rerun):
        return False
    fields = {
        binding.field
        for binding in workflow.plan.task(reader).bindings
        if binding.task == source and binding.path == path
    }
    return fields <= set(choice.patch)


# -- whom a decision is about ---------------------------------------------------------------------


def leaves(workflow: Workflow, index: int) -> tuple[int, ...]:
    """Returns the tasks below a node, or the node itself if it is one."""
    return tuple(leaf.index for leaf in workflow.plan.leaves_of(index))


def _failed(workflow: Workflow, index: int) -> Iterator[int]:
    return (leaf for leaf in leaves(workflow, index) if workflow.task(leaf).needs_decision)


def chosen(workflow: Workflow, choice: events.Choice) -> tuple[int, ...]:
    """Returns the tasks that a decision is about: of a group, those in it that failed.

    A reset is about all of it: whatever else is decided about a task in it would be lost. Parts are
    run again with their whole only.
    """
    node = workflow.plan.nodes[choice.task]
    if node.task is not None:
        return (choice.task,)
    if not isinstance(choice, events.Rerun):
        return tuple(_failed(workflow, choice.task))
    if choice.reset:
        return leaves(workflow, choice.task)
    members = [node.forward[item] for item in choice.items] or [choice.task]
    found = (leaf for member in members for leaf in _failed(workflow, member))
    return tuple(leaf for leaf in found if workflow.plan.nodes[leaf].under < 0)


# -- what would change ----------------------------------------------------------------------------


def inbound_before(workflow: Workflow, index: int) -> Values:
    """Returns what last came into a task, by field of its action."""
    task = workflow.task(index)
    action = task.action
    values = {each.field: each.value for each in (action.inbound if action else ())}
    return values | {each.field: each.value for each in task.patch}


def changes(workflow: Workflow, event: events.ResumeRequested) -> tuple[Change, ...]:
    """Returns every value that a resume would change."""
    known = dict(workflow.about.input)
    known |= {each.field: each.value for each in workflow.input_patches}
    found = [
        Change(task=-1, key=path, before=known.get(path), after=value)
        for path, value in event.input.items()
    ]
    for choice in event.choices:
        if isinstance(choice, events.GiveUp):
            continue
        for index in chosen(workflow, choice):
            if isinstance(choice, events.Rerun) and workflow.plan.nodes[index].under >= 0:
                continue
            given: Values = choice.output if isinstance(choice, events.Skip) else choice.patch
            before: Values = (
                workflow.task(index).given
                if isinstance(choice, events.Skip)
                else inbound_before(workflow, index)
            )
            found.extend(
                Change(task=index, key=key, before=before.get(key), after=value)
                for key, value in given.items()
            )
    return tuple(found)
