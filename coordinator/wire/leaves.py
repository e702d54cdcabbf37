"""Leaves of the tree: tasks with their bindings, conditions and opposites, names made plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.struct_pb2 import Struct

from coordinator.saga.spec import Binding, Condition, Opposite, TaskSpec, Value
from coordinator.saga.states import Effect
from coordinator.saga.workflow import Inbound
from coordinator.wire.catalogue import VERBS, Bound, Verb, effect_of, name_of
from coordinator.wire.external import as_task, external_of, promised
from coordinator.wire.fields import SOURCE_RULE
from coordinator.wire.locks import Locks
from coordinator.wire.scope import Repeated, Scope
from coordinator.wire.sources import (
    COMPENSATED,
    INDEX_SUFFIX,
    OfFailure,
    OfInput,
    OfItem,
    OfOutput,
    OfState,
    Source,
    source_of,
)
from coordinator.wire.values import fill, fits, is_open, scalar_type, values_of_struct
from countermand.rpc.errors import Violation
from countermand.v1 import workflow_spec_pb2 as spec_pb2
from countermand.v1.verb_pb2 import Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One verb that a task may run: its action, or what replaces its opposite."""

    name: str  # of the task
    task: spec_pb2.Node.Task
    verb: Verb
    action: Action
    effect: Effect
    bindings: Mapping[int, Binding]  # by their number in the spec
    bound: Bound  # what they bring, as far as it is known
    path: str  # of what the action stands in
    at: str  # the path of the task


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    """What all items of a for_each share of an action."""

    action: Action
    data: bytes
    verb: Verb
    fields: Sequence[str]  # that are filled by bindings, right or wrong
    sources: Sequence[tuple[int, str, type | None, Source]]  # number, field, its type, where from
    counted: bool  # the index of an item may be among them

    def filled(self, bound: Bound, bindings: Mapping[int, Binding]) -> tuple[Action, bytes]:
        """Returns the action with what is known for good: bound, but by no binding of the task."""
        if not self.counted:
            return self.action, self.data
        open_ = {binding.field for binding in bindings.values()}
        action = Action.FromString(self.data)
        fill(
            action,
            [Inbound(field=f, value=v, origin="") for f, v in bound.items() if f not in open_],
        )
        return action, action.SerializeToString(deterministic=True)


class Leaves:
    """Makes tasks, and keeps what they use."""

    def __init__(self, input_: Struct) -> None:
        """Starts without any."""
        self.given = values_of_struct(input_)
        self.uses: list[Use] = []
        self.verbs: dict[str, Verb] = {}  # of the action of each task
        self.promised: dict[str, Mapping[str, type]] = {}  # outputs of each external task
        self.conditions: list[tuple[str, Condition]] = []
        self.locks = Locks()
        self.violations: list[Violation] = []
        self._templates: dict[str, _Template] = {}  # by path

    def task(
        self,
        task: spec_pb2.Node.Task,
        path: str,
        name: str,
        scope: Scope,
        *,
        after: tuple[str, ...],
        when: Condition | None,
    ) -> TaskSpec:
        """Returns a leaf."""
        here = f"{path}.task"
        use, data = self._use(task, task, here, name, scope)
        self.verbs[name] = use.verb
        opposite = None
        if task.HasField("compensation"):
            opposite = self._opposite(task, here, name, scope, use.effect)
        host = task.host_id
        return TaskSpec(
            name=name,
            after=after,
            when=when,
            host=host,
            candidates=tuple(c for c in dict.fromkeys(task.candidate_host_ids) if c != host),
            verb=name_of(use.action),
            effect=use.effect,
            action=data,
            bindings=tuple(use.bindings.values()),
            opposite=opposite,
            policy=scope.policy,
            source=path,
        )

    def external(
        self,
        said: spec_pb2.Node.ExternalTask,
        path: str,
        name: str,
        scope: Scope,
        *,
        after: tuple[str, ...],
        when: Condition | None,
    ) -> TaskSpec:
        """Returns a leaf that its owner does."""
        task, external = as_task(said), external_of(said)
        use, data = self._use(task, task, f"{path}.external_task", name, scope)
        self.verbs[name], self.promised[name] = use.verb, promised(external)
        return TaskSpec(
            name=name,
            after=after,
            when=when,
            host=task.host_id,
            verb=name_of(use.action),
            effect=use.effect,
            action=data,
            bindings=tuple(use.bindings.values()),
            policy=scope.policy,
            external=external,
            weight=said.weight or 1,
            source=path,
        )

    def _opposite(
        self, task: spec_pb2.Node.Task, path: str, name: str, scope: Scope, effect: Effect
    ) -> Opposite:
        said, here = task.compensation, f"{path}.compensation"
        if scope.end_action:
            self._wrong(here, "is never run: end actions are not made up for; leave it out")
        elif effect is Effect.READ_ONLY:
            self._wrong(here, "makes up for nothing: the action changes nothing; leave it out")
        elif effect is not Effect.REVERSIBLE:
            verb = name_of(task.action)
            self._wrong(here, f"replaces nothing: {verb} has no opposite here; leave it out")
        use, data = self._use(task, said, here, name, scope)
        return Opposite(
            verb=name_of(use.action), action=data, bindings=tuple(use.bindings.values())
        )

    def condition(self, said: spec_pb2.Condition, path: str, scope: Scope) -> Condition | None:
        """Returns when a node is not skipped."""
        here = f"{path}.when.path"
        equals = said.equals if said.HasField("equals") else None
        match source_of(said.path):
            case OfInput(path=where):
                found = Condition(task="", path=where, equals=equals)
            case OfItem() as item:
                bound = self._item(item, scope, here)
                if bound is None:
                    return None
                found = Condition(task="", path=bound, equals=equals)
            case OfOutput(task=task, path=where):
                name = self._task(task, scope, here)
                if name is None:
                    return None
                found = Condition(task=name, path=where, equals=equals)
            case OfState(task=task):
                name = self._task(task, scope, here)
                if name is None:
                    return None
                found = Condition(task=name, path="state", equals=equals, of_state=True)
            case _:
                return None
        self.conditions.append((here, found))
        return found

    def _use(
        self,
        task: spec_pb2.Node.Task,
        said: spec_pb2.Node.Task | spec_pb2.Compensation,
        path: str,
        name: str,
        scope: Scope,
    ) -> tuple[Use, bytes]:
        """Returns an action as it is used in one place, and as it is stored."""
        template = self._templates.get(path)
        if template is None:
            template = self._templates[path] = _template(said.action, said.bindings)
        bound: dict[str, Value] = dict.fromkeys(template.fields)
        found: dict[int, Binding] = {}
        for number, field, kind, source in template.sources:
            here = f"{path}.bindings[{number}].source"
            if isinstance(source, OfItem) and source.word in scope.counters and not source.path:
                bound[field] = self._counter(
                    template.verb, field, kind, scope.counters[source.word], here
                )
                continue
            binding = self._binding(source, field, kind, scope, here)
            if binding is not None:
                found[number] = binding
                bound[field] = self._known(binding, template.verb, kind)
        action, data = template.filled(bound, found)
        effect = effect_of(action, bound)
        self.locks.take(action, effect, bound)
        use = Use(
            name=name,
            task=task,
            verb=template.verb,
            action=action,
            effect=effect,
            bindings=found,
            bound=bound,
            path=path,
            at=path.removesuffix(".compensation"),
        )
        self.uses.append(use)
        return use, data

    def _counter(self, verb: Verb, field: str, kind: type | None, index: int, path: str) -> Value:
        """Returns the index of an item, which is known beforehand."""
        if (kind is int or is_open(verb.arguments, field)) and fits(verb.arguments, field, index):
            return index
        self._wrong(path, f"is a number, which {field!r} is not")
        return None

    def _binding(
        self, source: Source, field: str, kind: type | None, scope: Scope, path: str
    ) -> Binding | None:
        type_ = kind.__name__ if kind is not None else ""
        match source:
            case OfInput(path=where):
                return Binding(field=field, task="", path=where, type=type_)
            case OfItem():
                item = self._item(source, scope, path)
                if item is None:
                    return None
                return Binding(field=field, task="", path=item, type=type_)
            case OfOutput(task=task, path=where):
                name = self._task(task, scope, path)
                if name is None:
                    return None
                return Binding(field=field, task=name, path=where, type=type_)
            case OfFailure(path=where):
                if where not in scope.sees:
                    self._wrong(path, _UNSEEN[where == COMPENSATED].format(where))
                    return None
                return Binding(field=field, task="", path=where, type=type_, of_failure=True)
            case OfState():
                return None

    def _item(self, source: OfItem, scope: Scope, path: str) -> str | None:
        """Returns the path in the input of an item, or of a field of it."""
        if source.word not in scope.items:
            words = ", ".join((*scope.items, *scope.counters))
            known = f"there are: {words}" if words else f"the source {SOURCE_RULE}"
            self._wrong(path, f"there is no item {source.word!r} here; {known}")
            return None
        item = scope.items[source.word]
        return f"{item}.{source.path}" if source.path else item

    def _task(self, name: str, scope: Scope, path: str) -> str | None:
        found = scope.task(name)
        if isinstance(found, Repeated):
            self._wrong(
                path,
                f"{found.name!r} is repeated by a for_each: from here, name one of its items, "
                f"such as {found.name}.0",
            )
            return None
        return found

    def _known(self, binding: Binding, verb: Verb, kind: type | None) -> Value:
        """Returns the value that a binding brings, if it is known and what the field takes."""
        if binding.task or binding.of_failure:
            return None
        value = self.given.get(binding.path)
        typed = type(value) is kind or is_open(verb.arguments, binding.field)
        return value if typed and fits(verb.arguments, binding.field, value) else None

    def _wrong(self, path: str, description: str) -> None:
        self.violations.append(Violation(path, description))


_UNSEEN = {
    False: "{!r} is known to on_failure end actions and to recovery tasks only",
    True: "{!r} is known to on_failure end actions only",
}


def _template(action: Action, bindings: Sequence[spec_pb2.Binding]) -> _Template:
    """Takes an action apart; sources that mean nothing are left to who checks fields."""
    verb = VERBS[str(action.WhichOneof("verb"))]
    sources = []
    for number, binding in enumerate(bindings):
        kind = scalar_type(verb.arguments, binding.field)
        source = source_of(binding.source)
        if source is not None:
            sources.append((number, binding.field, kind, source))
    return _Template(
        action=action,
        data=action.SerializeToString(deterministic=True),
        verb=verb,
        fields=tuple(binding.field for binding in bindings),
        sources=sources,
        counted=any(
            isinstance(source, OfItem) and source.word.endswith(INDEX_SUFFIX)
            for _, _, _, source in sources
        ),
    )
