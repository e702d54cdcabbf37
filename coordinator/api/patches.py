"""Values that an operator gives: read, and checked against what they fill.

A patch fills fields of a verb's arguments; outputs stand for what a skipped verb would have left;
an input is what bindings and conditions read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.struct_pb2 import Value as ProtoValue

from coordinator.saga.spec import Binding, TaskSpec, Value
from coordinator.saga.workflow import Workflow
from coordinator.wire.actions import id_problem
from coordinator.wire.arguments import ARGUMENTS
from coordinator.wire.catalogue import field_of, verb_called
from coordinator.wire.external import is_key, promised
from coordinator.wire.values import (
    ENDLESS,
    INEXACT,
    TYPE_NAMES,
    from_json,
    holds,
    is_endless,
    is_inexact,
    is_int64,
    is_open,
    scalar_type,
    scalars_of,
    values_of_struct,
)
from countermand.rpc.errors import Violation
from countermand.v1.verb_pb2 import Action

FIELDS_NAMED_MAX = 12  # that are offered in place of one that there is none of

_PYTHON_TYPES = {kind.__name__: kind for kind in TYPE_NAMES}


@dataclass(slots=True)
class Given:
    """What was given: values by path, and what is wrong with others."""

    values: dict[str, Value] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    def put(self, path: str, key: str, value: Value, problem: str | None) -> None:
        """Keeps a value, or what is wrong with it."""
        if problem:
            self.violations.append(Violation(f"{path}[{key!r}]", problem))
        else:
            self.values[key] = value


def given_patch(
    workflow: Workflow, index: int, patch: Mapping[str, ProtoValue], path: str
) -> Given:
    """Reads changed fields of the action of a task, or of those in a group."""
    given = Given()
    actions, externals = _actions(workflow, index), _externals(workflow, index)
    for key, raw in sorted(patch.items()):
        value, problem = _patched(actions, key, raw)
        if not problem and externals:
            value, problem = _argued(externals, key, raw)
        given.put(path, key, value, problem)
    return given


def _argued(externals: Sequence[TaskSpec], key: str, raw: ProtoValue) -> tuple[Value, str | None]:
    """Returns the new value of an argument of external tasks: they have nothing else."""
    if not key.startswith(ARGUMENTS) or not is_key(key.removeprefix(ARGUMENTS)):
        found = (Action.FromString(spec.action).custom.arguments for spec in externals)
        known = {f"{ARGUMENTS}{name}" for arguments in found for name in arguments}
        return None, _no_field(f"{externals[0].name} is asked by its arguments only", known)
    return _read(raw, None, None)


def _patched(actions: Mapping[str, Action], key: str, raw: ProtoValue) -> tuple[Value, str | None]:
    value: Value = None
    for verb, action in actions.items():
        arguments = verb_called(verb).arguments
        found = scalars_of(arguments).get(key)
        if found is None and not is_open(arguments, key):
            return None, _no_field(f"{verb} has no field {key!r}", scalars_of(arguments))
        value, problem = _read(raw, scalar_type(arguments, key), found)
        if problem:
            return None, problem
        if not holds(action, key, value):
            return None, f"{value} does not fit into {key}"
        if problem := id_problem(key, value):
            return None, problem
    return value, None


def written(workflow: Workflow, index: int, key: str) -> Value:
    """Returns what a task's spec itself puts into a field of its action; None for nothing."""
    spec = workflow.plan.task(index)
    arguments, action = verb_called(spec.verb).arguments, Action.FromString(spec.action)
    if is_open(arguments, key):
        return values_of_struct(action.custom.arguments).get(key.removeprefix(ARGUMENTS))
    if key not in scalars_of(arguments):
        return None
    value: Value = attrgetter(key)(getattr(action, field_of(spec.verb)))
    return value or None


def given_outputs(workflow: Workflow, index: int, outputs: Mapping[str, Value], path: str) -> Given:
    """Checks outputs against what the verb of a task, or of one in a group, leaves.

    Of verbs, types are not: whether a value is needed, and of which type, is told with all else
    that is. What an owner promised is bound to fields that take anything.
    """
    given = Given()
    verbs = [verb_called(verb) for verb in _actions(workflow, index)]
    external = {k: t for spec in _externals(workflow, index) for k, t in _promised(spec).items()}
    for key, value in sorted(outputs.items()):
        if is_endless(value):
            given.put(f"{path}.outputs", key, None, ENDLESS)
            continue
        if is_inexact(external.get(key), value):
            given.put(f"{path}.outputs", key, None, INEXACT)
            continue
        if key in external:
            given.put(f"{path}.outputs", key, *_kept(external[key], value))
            continue
        if any(is_open(verb.output, key) for verb in verbs):
            given.put(f"{path}.outputs", key, value, None)
            continue
        kinds = [kind for verb in verbs if (kind := scalar_type(verb.output, key)) is not None]
        if not kinds:
            names = {*external, *(name for verb in verbs for name in scalars_of(verb.output))}
            who = verbs[0].name if verbs else workflow.plan.nodes[index].name
            said = _no_field(f"{who} leaves no {key!r}", names)
            given.put(f"{path}.outputs", key, None, said)
            continue
        left = from_json(kinds[0], value)
        problem = id_problem(key, left) if isinstance(left, str) else None
        given.put(f"{path}.outputs", key, left, problem)
    return given


def _kept(kind: type, value: Value) -> tuple[Value, str | None]:
    """Returns a value as it was promised, or what is wrong with it."""
    value = from_json(kind, value)
    fits = type(value) is kind and (type(value) is not int or is_int64(value))
    return value, None if fits else f"must be {_WANTED[kind]}: so it is promised"


def given_input(workflow: Workflow, input_: Mapping[str, ProtoValue]) -> Given:
    """Reads changed fields of a workflow's input: those that something in its plan reads."""
    given = Given()
    readers = dict(_readers(workflow)) if input_ else {}
    for key, raw in sorted(input_.items()):
        if key not in readers:
            said = _no_field(f"nothing is bound to input.{key}", readers)
            given.put("input", key, None, said)
            continue
        value, problem = _read(raw, _PYTHON_TYPES.get(readers[key]), None)
        given.put("input", key, value, problem)
    return given


def _readers(workflow: Workflow) -> Iterator[tuple[str, str]]:
    """Yields the paths of the input that a plan reads, with the type that is wanted there."""
    for node in workflow.plan.nodes:
        if node.when is not None and not node.when.task:
            yield node.when.path, ""
    for leaf in workflow.plan.leaves:
        assert leaf.task is not None, leaf.name
        bindings: tuple[Binding, ...] = leaf.task.bindings
        if leaf.task.opposite is not None:
            bindings += leaf.task.opposite.bindings
        for binding in bindings:
            if not binding.task and not binding.of_failure:
                yield binding.path, binding.type


def _actions(workflow: Workflow, index: int) -> dict[str, Action]:
    """Returns one action of each verb of hosts in a task or group."""
    found: dict[str, Action] = {}
    for leaf in workflow.plan.leaves_of(index):
        assert leaf.task is not None, leaf.name
        if leaf.task.external is None and leaf.task.verb not in found:
            found[leaf.task.verb] = Action.FromString(leaf.task.action)
    return found


def is_external(workflow: Workflow, index: int) -> bool:
    """Returns whether a task, or one in a group, is done by an owner rather than on a host."""
    return bool(_externals(workflow, index))


def _externals(workflow: Workflow, index: int) -> list[TaskSpec]:
    """Returns the external tasks in a task or group."""
    leaves = (leaf.task for leaf in workflow.plan.leaves_of(index))
    return [task for task in leaves if task is not None and task.external is not None]


def _promised(spec: TaskSpec) -> Mapping[str, type]:
    assert spec.external is not None, spec.name
    return promised(spec.external)


# -- one value ----------------------------------------------------------------------------------


def _read(
    raw: ProtoValue, kind: type | None, found: FieldDescriptor | None
) -> tuple[Value, str | None]:
    """Returns a value of a type, any scalar if none is wanted; or what is wrong with it."""
    value: Value
    match raw.WhichOneof("kind"):
        case "string_value":
            value = raw.string_value
        case "bool_value":
            value = raw.bool_value
        case "number_value":
            number = raw.number_value
            value = int(number) if number.is_integer() else number
            if is_endless(value):
                return None, ENDLESS
            if is_inexact(kind, value):
                return None, INEXACT
        case _:
            return None, "must be a text, a number, true or false: give each field by its path"
    if found is not None and found.enum_type is not None and isinstance(value, str):
        return _enum(value, found)
    if kind is None or kind is type(value):
        return value, None
    value = from_json(kind, value)
    if kind is type(value):
        return value, None
    return None, f"must be {_WANTED[kind]}, not {_shown(value)}"


_WANTED: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    float: "a number",
}


def _enum(word: str, found: FieldDescriptor) -> tuple[Value, str | None]:
    assert found.enum_type is not None, found.name
    known = found.enum_type.values_by_name
    if word in known:
        return known[word].number, None
    return None, f"must be one of {', '.join(known)}"


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"  # noqa: PLR2004 - a line's part


def _no_field(said: str, known: Collection[str]) -> str:
    names = sorted(known)
    named = ", ".join(names[:FIELDS_NAMED_MAX])
    more = f" and {len(names) - FIELDS_NAMED_MAX} more" if len(names) > FIELDS_NAMED_MAX else ""
    return f"{said}; there is {named}{more}" if names else f"{said}; there is nothing to give"
