"""What is wrong with the values of an expanded spec: arguments, both ends of bindings, hosts."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from operator import attrgetter

from google.protobuf.struct_pb2 import Struct

from coordinator.saga.spec import Binding, Condition, Value
from coordinator.wire.catalogue import CUSTOM, CUSTOM_BYTES_MAX, VERBS, Verb, name_of
from coordinator.wire.leaves import Leaves, Use
from coordinator.wire.locks import address_of, source_host_of
from coordinator.wire.values import (
    INT64_MAX,
    TYPE_NAMES,
    fits,
    is_open,
    kind_at,
    scalar_type,
    scalars_of,
    short,
    value_at,
)
from countermand.rpc.errors import Violation
from countermand.rpc.names import ID_RULE, VERB_RULE, is_custom_verb, is_id
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.verb_pb2 import Custom

INPUT_BYTES_MAX = 64 * 1024  # larger things are referred to, not carried
SIZE_BYTES_MAX = 2**50
SECTOR_BYTES = 512  # what every storage can address

# Says what is wrong with placing a task: (host id, pools it names, verb) → a description, or None.
# Without a host: whether there is any.
HostsKnown = Callable[[str, frozenset[str], str], str | None]

ARGUMENTS = "arguments."  # what leads to one of an external task, or of a plug-in's verb

# Instead of a verb: a host has only to be read from, which one that drains can still be.
READING = "(read)"


def value_problems(leaves: Leaves, input_: Struct, hosts: HostsKnown) -> Iterator[Violation]:
    """Yields everything, in the order of the tree."""
    placement = _Placement(hosts)
    for use in leaves.uses:
        yield from placement.problems(use)
        yield from _argument_problems(use, leaves.promised)
        yield from _binding_problems(use, leaves, input_)
    for path, condition in leaves.conditions:
        yield from _condition_problems(path, condition, leaves, input_)


# -- arguments ----------------------------------------------------------------------------------

_Rule = Callable[[Value], str | None]


def _id_problem(value: Value) -> str | None:
    assert isinstance(value, str), value
    if is_id(value):
        return None
    return f"{short(value)} {ID_RULE}" if value else f"is required and {ID_RULE}"


def _optional_id_problem(value: Value) -> str | None:
    return _id_problem(value) if value else None


def _size_problem(value: Value) -> str | None:
    assert isinstance(value, int), value
    if 0 < value <= SIZE_BYTES_MAX and not value % SECTOR_BYTES:
        return None
    return f"must be a multiple of {SECTOR_BYTES} in 1 to 2^50"


def _generation_problem(value: Value) -> str | None:
    assert isinstance(value, int), value
    return None if value >= 0 else "must not be negative"


# Fields that verbs have in common; what else an agent knows is the agent's to check.
_RULES_BY_NAME: dict[str, _Rule] = {
    "pool_id": _id_problem,
    "image_id": _id_problem,
    "snapshot_id": _id_problem,
    "safety_snapshot_id": _optional_id_problem,
    "source_host_id": _optional_id_problem,
    "virtual_size_bytes": _size_problem,
    "expected_generation": _generation_problem,
}
_RULES: dict[str, tuple[tuple[str, Callable[[object], Value], _Rule], ...]] = {
    verb.name: tuple(
        (path, attrgetter(path), _RULES_BY_NAME[path.rpartition(".")[2]])
        for path in scalars_of(verb.arguments)
        if path.rpartition(".")[2] in _RULES_BY_NAME
    )
    for verb in VERBS.values()
}


def _argument_problems(use: Use, promised: Container[str]) -> Iterator[Violation]:
    """Yields arguments that cannot be right, as far as they are known."""
    if use.name in promised:
        return  # an external task's are looked at as they were written
    arguments = getattr(use.action, use.verb.name)
    here = f"{use.path}.action.{use.verb.name}"
    for path, get, rule in _RULES[use.verb.name]:
        if use.verb.name == CUSTOM and _is_left_out(use, path.partition(".")[0]):
            said = None
        elif path not in use.bound:
            said = rule(get(arguments))
        elif use.bound[path] is not None:
            said = rule(use.bound[path])
            if said:
                said = f"{said} (from {_origin(use, path)})"
        else:
            said = None
        if said:
            yield Violation(f"{here}.{path}", said)
    if use.verb.name == CUSTOM:
        for path, said in custom_problems(arguments):
            yield Violation(f"{here}.{path}", said)
    if use.verb.addresses == _ENDS:
        source, target = (address_of(use.action, name, use.bound) for name in _ENDS)
        if source == target and all(source):
            yield Violation(f"{here}.target", "is the source itself")


_ENDS = ("source", "target")


def _is_left_out(use: Use, image: str) -> bool:
    """Returns whether a plug-in's verb is given no such image: it says itself what it needs."""
    given = use.action.custom.HasField("source" if image == "source" else "target")
    return not given and not any(field.startswith(f"{image}.") for field in use.bound)


def custom_problems(custom: Custom) -> Iterator[tuple[str, str]]:
    """Yields fields of a plug-in's verb that no plug-in could take, each with what is wrong."""
    if not is_custom_verb(custom.verb):
        yield "verb", f"{short(custom.verb)} {VERB_RULE}"
    if custom.effect not in Effect.values() or not custom.effect:
        yield "effect", f"must be one of {', '.join(Effect.keys()[1:])}: what its plug-in declares"
    if (size := custom.arguments.ByteSize()) > CUSTOM_BYTES_MAX:
        yield "arguments", f"has {size} bytes, more than {CUSTOM_BYTES_MAX}"


def _origin(use: Use, field: str) -> str:
    return next(b.origin for b in use.bindings.values() if b.field == field)


# -- bindings and conditions --------------------------------------------------------------------


def _binding_problems(use: Use, leaves: Leaves, input_: Struct) -> Iterator[Violation]:
    """Yields bindings whose two ends are not scalars of one type."""
    bound_bytes = 0
    for number, binding in use.bindings.items():
        here = f"{use.path}.bindings[{number}].source"
        if use.name in leaves.promised and not binding.field.startswith(ARGUMENTS):
            why = "must be arguments.<key>: an external task has nothing else"
            yield Violation(f"{use.path}.bindings[{number}].field", why)
            continue
        if binding.of_failure:
            found: type | None = str
        elif binding.task:
            found, said = _of_output(use, binding, leaves)
            if said:
                yield Violation(here, said)
        else:
            value = leaves.given.get(binding.path)
            bound_bytes += len(value.encode()) if isinstance(value, str) else 0
            found = type(value) if value is not None else None
            if found is None:
                yield Violation(here, _not_given(input_, binding.path))
        if found is not None and (misfit := _misfit(use, binding, found, leaves)):
            yield Violation(here, misfit)
    if bound_bytes > INPUT_BYTES_MAX:  # all of it is kept with each attempt
        yield Violation(
            f"{use.path}.bindings",
            f"bring {bound_bytes} bytes together, more than {INPUT_BYTES_MAX}",
        )


def _of_output(use: Use, binding: Binding, leaves: Leaves) -> tuple[type | None, str]:
    """Returns the type of an output that is bound, if it has one; or what is wrong with it."""
    if binding.task in leaves.promised:
        found = leaves.promised[binding.task].get(binding.path)
        return found, "" if found else _not_promised(leaves, binding.task, binding.path)
    source = leaves.verbs.get(binding.task)
    if source is None:
        return None, ""  # there is no such task: said with the structure of the tree
    if is_open(source.output, binding.path):
        fits_any = is_open(use.verb.arguments, binding.field)
        return None, "" if fits_any else _OF_NO_TYPE
    found = scalar_type(source.output, binding.path)
    return found, "" if found else _not_left(source, binding.path)


_OF_NO_TYPE = "has a type that only its plug-in knows: bind it to arguments.<key> of a Custom"


def _misfit(use: Use, binding: Binding, found: type, leaves: Leaves) -> str | None:
    """Returns why a field cannot hold what is bound to it, or None."""
    wanted = scalar_type(use.verb.arguments, binding.field)
    if wanted is None:
        return None  # there is no such field: said with the fields
    if found is not wanted and (found, wanted) != (int, float):
        return f"is of type {TYPE_NAMES[found]}, {binding.field!r} needs {TYPE_NAMES[wanted]}"
    # Of an output nothing but its type is known beforehand.
    worst: Value = INT64_MAX if found is int else None
    if not binding.task and not binding.of_failure:
        worst = leaves.given[binding.path]
    if fits(use.verb.arguments, binding.field, worst):
        return None
    return f"may be more than {binding.field!r} holds"


def _condition_problems(
    path: str, condition: Condition, leaves: Leaves, input_: Struct
) -> Iterator[Violation]:
    """Yields conditions on what nothing can ever be at."""
    if condition.of_state:
        return
    if condition.task in leaves.promised:
        if condition.path not in leaves.promised[condition.task]:
            yield Violation(path, _not_promised(leaves, condition.task, condition.path))
        return
    if condition.task:
        source = leaves.verbs.get(condition.task)
        if (
            source is not None
            and scalar_type(source.output, condition.path) is None
            and not is_open(source.output, condition.path)
        ):
            yield Violation(path, _not_left(source, condition.path))
        return
    found = value_at(input_, condition.path)
    if found is None:
        said = f"the input has no {condition.path!r}: give it, or null for what does not hold"
        yield Violation(path, said)
    elif condition.path not in leaves.given and not found.HasField("null_value"):
        yield Violation(path, f"{condition.path!r} is {kind_at(input_, condition.path)}, no value")


def _not_left(verb: Verb, path: str) -> str:
    leaves = ", ".join(scalars_of(verb.output)) or "nothing"
    if verb.name == CUSTOM:
        leaves = "values.<key>, as its plug-in says, a key without dots"
    return f"{verb.name} leaves no {path!r}; it leaves: {leaves}"


def _not_promised(leaves: Leaves, task: str, path: str) -> str:
    outputs = ", ".join(leaves.promised[task]) or "nothing"
    return f"{task} promises no output {path!r}; it promises: {outputs}"


def _not_given(input_: Struct, path: str) -> str:
    if kind := kind_at(input_, path):
        return f"{path!r} is {kind} in the input, and cannot be bound"
    return f"the input has no {path!r}"


# -- hosts --------------------------------------------------------------------------------------


class _Placement:
    """Asks about hosts, once for each thing that many tasks have in common."""

    def __init__(self, hosts: HostsKnown) -> None:
        self._hosts = hosts
        self._answers: dict[tuple[str, frozenset[str], str], str | None] = {}

    def problems(self, use: Use) -> Iterator[Violation]:
        """Yields hosts that cannot run what they are named for."""
        source_host = source_host_of(use.action, use.bound)
        own = use.verb.addresses if source_host == "" else ("target",)
        images = (address_of(use.action, name, use.bound) for name in own)
        pools = frozenset(pool for pool, _ in images if pool)
        if source_host and is_id(source_host):
            source_pool, _ = address_of(use.action, "source", use.bound)
            if said := self._problem(source_host, frozenset({source_pool} - {""}), READING):
                yield Violation(f"{use.path}.action.copy_image.source_host_id", said)
        named = [(f"{use.at}.host_id", use.task.host_id)]
        named += [
            (f"{use.at}.candidate_host_ids[{number}]", host)
            for number, host in enumerate(use.task.candidate_host_ids)
        ]
        if any(host for _, host in named):
            named = [(path, host) for path, host in named if is_id(host)]
        for path, host in named:
            if said := self._problem(host, pools, name_of(use.action)):
                yield Violation(path, said)

    def _problem(self, host: str, pools: frozenset[str], verb: str) -> str | None:
        asked = (host, pools, verb)
        if asked not in self._answers:
            self._answers[asked] = self._hosts(*asked)
        return self._answers[asked]
