"""What operators decide about tasks, between the contract's messages and the saga's values.

What is decoded here is checked as far as the contract says it: names, fields and their types. What
does not fit the workflow as it stands is the saga's to say, all of it at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import assert_never

from coordinator.api.deciding import subject
from coordinator.api.images import gives_values, named_by, named_by_resume
from coordinator.api.patches import (
    Given,
    given_input,
    given_outputs,
    given_patch,
    is_external,
    written,
)
from coordinator.runtime.ports import Hosts
from coordinator.saga import events, resume
from coordinator.saga.events import Ask, Choice, GiveUp, Rerun, Skip
from coordinator.saga.spec import Binding, Lock, TaskSpec, owner_of
from coordinator.saga.states import TaskState
from coordinator.saga.turn import bound_host
from coordinator.saga.workflow import Task, Values, Workflow
from coordinator.wire.actions import action_problems
from coordinator.wire.catalogue import field_of, name_of, verb_called
from coordinator.wire.needs import type_name
from coordinator.wire.values import proto_value, short, values_of_struct
from coordinator.wire.view import etag_of
from countermand.rpc.errors import FieldInvalid, TaskNotFound, Violation
from countermand.rpc.names import parse_task, task_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.verb_pb2 import Action

POOL_FIELD = "pool_id"  # how the fields of actions end that name a pool
_TO_COME = frozenset({TaskState.PENDING, TaskState.READY, TaskState.RETRY_WAIT})
HOST = "host_id"  # of a changed value: no field of the action, the host


def event_of(
    workflow: Workflow, ask: Ask, request: pb.ResumeWorkflowRequest, hosts: Hosts
) -> events.ResumeRequested:
    """Returns a resume as the saga takes it.

    Raises:
        FieldInvalid: With every field that cannot be right.
        TaskNotFound: For the first task that there is none of.
    """
    decoding = _Decoding(workflow, hosts, _decided(workflow, request))
    choices = [
        choice
        for place, decision in enumerate(request.decisions)
        if (choice := decoding.choice(decision, f"decisions[{place}]")) is not None
    ]
    given = given_input(workflow, request.input)
    found = [*decoding.violations, *given.violations]
    if found:
        raise FieldInvalid(*found)
    if decoding.unknown:
        raise TaskNotFound(name=decoding.unknown[0])
    event = events.ResumeRequested(ask=ask, choices=tuple(choices), input=given.values)
    if not gives_values(event):
        return event
    # Which images are named is worked out from the workflow as it was seen, and holds for that.
    seen = replace(ask, version=ask.version or workflow.version)
    return replace(event, ask=seen, locks=named_by_resume(workflow, event))


def _decided(workflow: Workflow, request: pb.ResumeWorkflowRequest) -> Collection[str]:
    named = (parse_task(decision.task) for decision in request.decisions)
    known = (workflow.plan.by_name.get(parsed[1]) for parsed in named if parsed)
    return {leaf.name for i in known if i is not None for leaf in workflow.plan.leaves_of(i)}


@dataclass(slots=True)
class _Decoding:
    """Decisions being read."""

    workflow: Workflow
    hosts: Hosts
    decided: Collection[str] = ()  # the tasks that the request decides about, by their names
    violations: list[Violation] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # names of tasks

    def choice(self, decision: pb.ResumeDecision, path: str) -> Choice | None:
        """Returns one decision; None for one that cannot be right, which is noted."""
        index = self._index(decision.task, f"{path}.task")
        kind = decision.WhichOneof("decision")
        if kind is None:
            self._wrong(f"{path}.decision", "is required: rerun, skip or give_up")
        if index is None or kind is None:
            return None
        match kind:
            case "rerun":
                return self._rerun(index, decision.rerun, f"{path}.rerun")
            case "skip":
                given = given_outputs(
                    self.workflow, index, values_of_struct(decision.skip.outputs), f"{path}.skip"
                )
                if not given.violations:
                    self._check_left(index, given.values, f"{path}.skip")
                return Skip(task=index, output=self._taken(given))
            case "give_up":
                return GiveUp(task=index)
            case _:
                assert_never(kind)

    def _rerun(self, index: int, rerun: pb.ResumeDecision.Rerun, path: str) -> Rerun:
        if rerun.host_id and is_external(self.workflow, index):
            self._wrong(f"{path}.host_id", "is for tasks on hosts: an owner does this one")
        elif rerun.host_id and (
            problem := self.hosts.placement_problem(rerun.host_id, frozenset(), "")
        ):
            self._wrong(f"{path}.host_id", problem)
        given = given_patch(self.workflow, index, rerun.patch, f"{path}.patch")
        if not given.violations:
            self._check_pools(index, rerun.host_id, given.values, f"{path}.patch")
        return Rerun(
            task=index,
            patch=self._taken(given),
            items=tuple(dict.fromkeys(rerun.indices)),
            reset=rerun.reset,
            host=rerun.host_id,
        )

    def _check_pools(self, index: int, host: str, patch: Values, path: str) -> None:
        """Refuses a pool that the task would wait for in vain, or fail on its host."""
        pools = {key: str(value) for key, value in patch.items() if key.endswith(POOL_FIELD)}
        for leaf in self.workflow.plan.leaves_of(index) if pools else ():
            assert leaf.task is not None, leaf.name
            named = host or ("" if leaf.task.candidates else leaf.task.host)
            if self.hosts.placement_problem(named, frozenset(), ""):
                continue  # the host is the matter, not the pool
            verb = leaf.task.verb
            if problem := self.hosts.placement_problem(named, frozenset(pools.values()), verb):
                alone = (
                    key
                    for key, pool in pools.items()
                    if self.hosts.placement_problem(named, frozenset({pool}), verb)
                )
                key = next(alone, "")  # none: each would do, and no host reaches them all
                self._wrong(f"{path}[{key!r}]" if key else path, problem)
                return

    def _check_left(self, index: int, left: Values, path: str) -> None:
        """Refuses a pool in the place of a skipped task's that those bound to it cannot reach.

        Those that are decided about as well may get another.
        """
        pools = {key: str(value) for key, value in left.items() if key.endswith(POOL_FIELD)}
        plan = self.workflow.plan
        skipped = {leaf.name for leaf in plan.leaves_of(index)} if pools else set()
        for leaf in plan.leaves if pools else ():
            assert leaf.task is not None, leaf.name
            record = self.workflow.task(leaf.index)
            if leaf.name in self.decided or record.state not in _TO_COME:
                continue
            for binding in leaf.task.bindings:
                if binding.task in skipped and binding.path in pools:
                    problem = self._unreached(leaf.task, record, binding, pools[binding.path])
                    if problem:
                        said = f"{problem}; {leaf.name} is bound to it"
                        self._wrong(f"{path}.outputs[{binding.path!r}]", said)
                        return

    def _unreached(self, spec: TaskSpec, task: Task, binding: Binding, pool: str) -> str | None:
        """Returns why a task could not work in a pool that it is given, or None."""
        given = {each.field for each in task.patch}
        if spec.external or binding.field in given or not binding.field.endswith(POOL_FIELD):
            return None
        host = bound_host(spec, task)
        if self.hosts.placement_problem(host, frozenset(), ""):
            return None  # the host is the matter, not the pool
        return self.hosts.placement_problem(host, frozenset({pool}), spec.verb)

    def _index(self, name: str, path: str) -> int | None:
        parsed = parse_task(name)
        if parsed is None or parsed[0] != self.workflow.id:
            form = task_name(self.workflow.id, "{task}")
            self._wrong(path, f"{short(name)} is not of the form {form}")
            return None
        index = self.workflow.plan.by_name.get(parsed[1])
        if index is None:
            self.unknown.append(name)
        return index

    def _taken(self, given: Given) -> dict[str, str | int | bool | float | None]:
        self.violations.extend(given.violations)
        return given.values

    def _wrong(self, path: str, description: str) -> None:
        self.violations.append(Violation(path, description))


def compensation_event(
    workflow: Workflow,
    index: int,
    ask: Ask,
    verb: events.CompensationVerb,
    replacement: Action,
    *,
    hosts: Hosts,
) -> events.CompensationDecided:
    """Returns a decision about a compensation as the saga takes it; raises FieldInvalid."""
    name = workflow.plan.nodes[index].name
    if workflow.plan.nodes[index].task is None:
        raise FieldInvalid(Violation("task", f"{name} is a group: name a task in it"))
    content = b""
    locks: tuple[Lock, ...] = ()
    if verb is events.CompensationVerb.REPLACE:
        found = tuple(action_problems(replacement, "replacement"))
        found = found or tuple(_misplaced(workflow, index, replacement, hosts))
        if found:
            raise FieldInvalid(*found)
        content = replacement.SerializeToString(deterministic=True)
        locks = named_by(workflow, replacement)
    return events.CompensationDecided(
        ask=ask, task=index, verb=verb, replacement=content, locks=locks
    )


def _misplaced(
    workflow: Workflow, index: int, replacement: Action, hosts: Hosts
) -> Iterator[Violation]:
    """Yields why a host could never do what takes the place of a compensation there, if so."""
    action = workflow.task(index).action
    host = (action.fence_host or action.host) if action else ""
    if not host or owner_of(host) or hosts.placement_problem(host, frozenset(), ""):
        return  # the host is the matter, not what is asked of it
    verb = name_of(replacement)
    field = field_of(verb)
    elsewhere = {"source"} if replacement.copy_image.source_host_id else set()
    addresses = set(verb_called(verb).addresses) - elsewhere
    pools = {name: getattr(getattr(replacement, field), name).pool_id for name in addresses}
    if problem := hosts.placement_problem(host, frozenset(pools.values()), verb):
        only = "".join(addresses) if len(addresses) == 1 and verb == field else ""
        path = f"replacement.{field}.{only}.{POOL_FIELD}" if only else "replacement"
        yield Violation(path, problem)


# -- and back -----------------------------------------------------------------------------------


def changes_to_proto(
    workflow: Workflow, event: events.ResumeRequested
) -> Iterator[pb.ChangedValue]:
    """Yields every value that a resume changes, with what it was before."""
    skips = (choice for choice in event.choices if isinstance(choice, Skip))
    skipped = {index for choice in skips for index in resume.chosen(workflow, choice)}
    for change in resume.changes(workflow, event):
        before = change.before
        if before is None and change.task >= 0 and change.task not in skipped:
            before = written(workflow, change.task, change.key)
        yield pb.ChangedValue(
            task=subject(workflow, change.task) if change.task >= 0 else "",
            key=change.key,
            before=proto_value(before) if before is not None else None,
            after=proto_value(change.after),
        )
    for choice in event.choices:
        if isinstance(choice, Rerun) and choice.host:
            yield from _moved(workflow, choice)


def _moved(workflow: Workflow, choice: Rerun) -> Iterator[pb.ChangedValue]:
    for index in resume.chosen(workflow, choice):
        action = workflow.task(index).action
        before = action.host if action else workflow.plan.task(index).host
        yield pb.ChangedValue(
            task=subject(workflow, index),
            key=HOST,
            before=proto_value(before) if before else None,
            after=proto_value(choice.host),
        )


def requirements_to_proto(workflow: Workflow) -> pb.GetResumeRequirementsResponse:
    """Returns everything that a resume would need now."""
    return pb.GetResumeRequirementsResponse(
        requirements=[
            pb.ResumeRequirement(
                task=subject(workflow, each.task),
                kind=pb.ResumeRequirement.Kind.Value(f"KIND_{each.kind}"),
                key=each.key,
                type=type_name(each.type),
                consumers=[subject(workflow, reader) for reader in each.consumers],
                message=each.message,
                choices=each.choices,
            )
            for each in resume.requirements(workflow)
        ],
        etag=etag_of(workflow),
    )
