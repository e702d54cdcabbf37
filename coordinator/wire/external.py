"""External tasks: as a spec writes them, as a vendor adds them, and as the saga knows them.

In the saga an external task is a plug-in's verb, "<owner>/<kind>", whose host is its owner: it is
bound, tried, paused and made up for like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from math import isfinite

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.struct_pb2 import Value as ProtoValue

from coordinator.saga.plan import Growth, Plan
from coordinator.saga.spec import (
    DEFAULT_POLICY,
    DEPTH_MAX,
    NODES_MAX,
    OWNER_PREFIX,
    External,
    Policy,
    TaskSpec,
    Value,
    owner_of,
)
from coordinator.saga.workflow import Values
from coordinator.wire import policies
from coordinator.wire.catalogue import CUSTOM_BYTES_MAX, EFFECTS
from coordinator.wire.policies import SPAN_MAX, span_problems
from coordinator.wire.values import (
    INEXACT,
    TYPE_NAMES,
    from_json,
    is_inexact,
    is_int64,
    short,
    span_from_proto,
    values_of_struct,
)
from countermand.rpc.errors import Violation
from countermand.rpc.names import ID_RULE, VENDOR_RULE, is_id, is_vendor_id, parse_task
from countermand.v1 import annotation_pb2
from countermand.v1 import workflow_spec_pb2 as spec_pb2
from countermand.v1.external_task_pb2 import AddExternalTaskRequest
from countermand.v1.verb_pb2 import Action, Custom

WEIGHT_MAX = 1_000_000
OUTPUTS_MAX = 64
CHECKLIST_BYTES_MAX = 4096
DESCRIPTION_BYTES_MAX = 1024
HEARTBEAT_MIN = timedelta(seconds=1)
TYPES: Mapping[str, type] = {name: kind for kind, name in TYPE_NAMES.items()}

_Said = spec_pb2.Node.ExternalTask | AddExternalTaskRequest


# -- as written ---------------------------------------------------------------------------------


def external_problems(said: _Said, path: str) -> Iterator[Violation]:
    """Yields what is wrong with what a spec and a vendor say alike of an external task."""
    for name in ("owner_id", "kind"):
        text = getattr(said, name)
        if not is_vendor_id(text):
            why = f"{short(text)} {VENDOR_RULE}" if text else f"is required and {VENDOR_RULE}"
            yield Violation(f"{path}{name}", why)
    if len(said.description.encode()) > DESCRIPTION_BYTES_MAX:
        yield Violation(f"{path}description", f"is longer than {DESCRIPTION_BYTES_MAX} bytes")
    if not 0 <= said.weight <= WEIGHT_MAX:
        yield Violation(f"{path}weight", f"must be in 0 to {WEIGHT_MAX}; 0 means 1")
    if (size := arguments_of(said).ByteSize()) > CUSTOM_BYTES_MAX:
        yield Violation(f"{path}arguments", f"have {size} bytes, more than {CUSTOM_BYTES_MAX}")
    for key in said.arguments:
        if not is_key(key):
            yield Violation(f"{path}arguments[{short(key)}]", f"is a key that {KEY_RULE}")
    if said.HasField("heartbeat_timeout"):
        here = f"{path}heartbeat_timeout"
        yield from span_problems(said.heartbeat_timeout, here, HEARTBEAT_MIN, SPAN_MAX)
    yield from _effect_problems(said, path)


KEY_RULE = "must be 1 to 63 characters without a dot"


def is_key(text: str) -> bool:
    """Returns whether a text can name an argument, or an output."""
    return 1 <= len(text) <= 63 and "." not in text  # noqa: PLR2004 - as KEY_RULE says


def _effect_problems(said: _Said, path: str) -> Iterator[Violation]:
    how = said.WhichOneof("compensation")
    if said.effect not in EFFECTS:
        names = ", ".join(annotation_pb2.Effect.keys()[1:])
        yield Violation(f"{path}effect", f"is required: one of {names}")
    elif said.effect != annotation_pb2.EFFECT_REVERSIBLE and how:
        name = annotation_pb2.Effect.Name(said.effect)
        yield Violation(f"{path}{how}", f"is for EFFECT_REVERSIBLE; with {name} leave it out")
    if how == "ask_owner" and not said.ask_owner:
        yield Violation(f"{path}ask_owner", "must be true, or left out for operator_checklist")
    size = len(said.operator_checklist.encode())
    if how == "operator_checklist" and not 1 <= size <= CHECKLIST_BYTES_MAX:
        why = f"must have 1 to {CHECKLIST_BYTES_MAX} bytes: what people are to do"
        yield Violation(f"{path}operator_checklist", why)


def output_problems(said: spec_pb2.Node.ExternalTask, path: str) -> Iterator[Violation]:
    """Yields what is wrong with the outputs that a task promises."""
    if len(said.outputs) > OUTPUTS_MAX:
        yield Violation(f"{path}outputs", f"are {len(said.outputs)}, more than {OUTPUTS_MAX}")
    for name, kind in said.outputs.items():
        if not is_key(name):
            yield Violation(f"{path}outputs[{short(name)}]", f"is a name that {KEY_RULE}")
        elif kind not in TYPES:
            why = f"must be one of {', '.join(TYPES)}"
            yield Violation(f"{path}outputs[{name!r}]", why)


# -- as the saga knows them -----------------------------------------------------------------------


def arguments_of(said: _Said) -> Struct:
    """Returns the named arguments as an action carries them."""
    fields = {key: ProtoValue(string_value=text) for key, text in sorted(said.arguments.items())}
    return Struct(fields=fields)


def as_task(said: spec_pb2.Node.ExternalTask) -> spec_pb2.Node.Task:
    """Returns an external task as one that a host runs: its owner in the place of the host."""
    verb = f"{said.owner_id}/{said.kind}"
    custom = Custom(verb=verb, arguments=arguments_of(said), effect=said.effect)
    action = Action(custom=custom)
    host = f"{OWNER_PREFIX}{said.owner_id}"
    return spec_pb2.Node.Task(host_id=host, action=action, bindings=said.bindings)


def external_of(said: _Said) -> External:
    """Returns what a task that was checked has beside its action."""
    outputs = said.outputs if isinstance(said, spec_pb2.Node.ExternalTask) else {}
    return External(
        outputs=tuple(sorted(outputs.items())),
        checklist=said.operator_checklist,
        heartbeat_timeout=_span(said, "heartbeat_timeout"),
        description=said.description,
    )


def _span(said: _Said, name: str) -> timedelta | None:
    span: Duration = getattr(said, name)
    return span_from_proto(span) if said.HasField(name) else None  # type: ignore[arg-type]


def left(external: External, output: Struct) -> Values:
    """Returns what an owner says that it left, of the types that were promised."""
    kinds, values = promised(external), values_of_struct(output)
    return {key: from_json(kinds.get(key), value) for key, value in values.items()}


def left_problems(external: External, output: Struct) -> Iterator[Violation]:
    """Yields what is wrong with what an owner says that it left: it is to be found by its keys."""
    kinds = promised(external)
    for key, value in output.fields.items():
        kind = value.WhichOneof("kind")
        if not is_key(key):
            yield Violation(f"output[{short(key)}]", f"is a key that {KEY_RULE}")
        elif kind == "number_value" and not isfinite(value.number_value):
            yield Violation(f"output.{key}", "must be a finite number")
        elif kind == "number_value" and is_inexact(kinds.get(key), _whole(value.number_value)):
            yield Violation(f"output.{key}", INEXACT)
        elif kind not in _PLAIN:
            yield Violation(f"output.{key}", "must be a text, a number, true or false")


_PLAIN = frozenset({"string_value", "number_value", "bool_value"})


def _whole(number: float) -> Value:
    return int(number) if number.is_integer() else number


def promised(external: External) -> Mapping[str, type]:
    """Returns the outputs that a task promises, with the types of their values."""
    return {name: TYPES[kind] for name, kind in external.outputs}


def broken_promises(external: External, output: Mapping[str, Value]) -> Iterator[Violation]:
    """Yields what an owner promised to leave and does not."""
    for name, kind in promised(external).items():
        value = output.get(name)
        if value is None:
            why = f"was promised, as {TYPE_NAMES[kind]}, and is missing"
            yield Violation(f"output.{name}", why)
        elif type(value) is not kind or (type(value) is int and not is_int64(value)):
            yield Violation(f"output.{name}", f"must be of type {TYPE_NAMES[kind]}")


# -- added to a running workflow ------------------------------------------------------------------


def added_problems(plan: Plan, request: AddExternalTaskRequest) -> Iterator[Violation]:
    """Yields what is wrong with a task that a vendor wants to add to a workflow."""
    yield from external_problems(request, "")
    if request.effect in (annotation_pb2.EFFECT_PIVOT, annotation_pb2.EFFECT_FORWARD_ONLY):
        why = "must be EFFECT_READ_ONLY or EFFECT_REVERSIBLE: what is irreversible stands in a spec"
        yield Violation("effect", why)
    if request.on_failure and request.on_failure not in policies.ON_FAILURE:
        yield Violation("on_failure", "is no value of this field")
    if request.HasField("run_timeout"):
        yield from span_problems(request.run_timeout, "run_timeout", HEARTBEAT_MIN, SPAN_MAX)
    if not is_id(request.task_id):
        yield Violation("task_id", f"{short(request.task_id)} {ID_RULE}")
    elif request.task_id in plan.by_name:
        yield Violation("task_id", f"{request.task_id!r} is taken in this workflow")
    if len(plan.nodes) >= NODES_MAX:
        yield Violation("task_id", f"the workflow has {len(plan.nodes)} nodes already")
    if _depth(plan, request) >= DEPTH_MAX:
        yield Violation("parent", f"is a part of parts, {DEPTH_MAX} deep: no part of it is taken")
    yield from _after_problems(plan, request)


def _depth(plan: Plan, request: AddExternalTaskRequest) -> int:
    """Returns how many tasks a new one would be a part of."""
    place, depth = place_of(plan.by_name, request.parent), 0
    while place is not None and place >= 0 and plan.nodes[place].task is not None:
        place, depth = plan.nodes[place].under, depth + 1
    return depth


def _after_problems(plan: Plan, request: AddExternalTaskRequest) -> Iterator[Violation]:
    place = place_of(plan.by_name, request.parent)
    if place is None:
        return
    node = plan.nodes[place]
    for number, name in enumerate(request.after):
        index = plan.by_name.get(name)
        if node.task is not None:
            yield Violation(f"after[{number}]", "is for members of a group, not under a task")
        elif index is None or index not in plan.nodes[place].forward:
            yield Violation(f"after[{number}]", f"{short(name)} is not a member of {node.name}")


def place_of(by_name: Mapping[str, int], parent: str) -> int | None:
    """Returns the node that a parent names; None if there is none."""
    named = parse_task(parent)
    return by_name.get(named[1]) if named else 0


def added_task(growth: Growth | Plan, request: AddExternalTaskRequest) -> tuple[TaskSpec, int, int]:
    """Returns a task that was checked, the group it is a member of, and what it is a part of."""
    place = place_of(growth.by_name, request.parent)
    assert place is not None, request.parent
    node = growth.nodes[place]
    group, under = (place, -1) if node.task is None else (node.parent, place)
    whole = growth.nodes[under].task if under >= 0 else None
    said = spec_pb2.Node.ExternalTask(
        owner_id=request.owner_id,
        kind=request.kind,
        arguments=request.arguments,
        effect=request.effect,
    )
    spec = TaskSpec(
        name=request.task_id,
        after=tuple(request.after),
        host=f"{OWNER_PREFIX}{request.owner_id}",
        verb=f"{request.owner_id}/{request.kind}",
        effect=EFFECTS[request.effect],
        action=as_task(said).action.SerializeToString(deterministic=True),
        policy=_policy(growth.nodes[group].rules.open, whole, request),
        external=_external(whole, request),
        weight=request.weight or 1,
    )
    return spec, group, under


def _external(whole: TaskSpec | None, request: AddExternalTaskRequest) -> External:
    """Returns what a task that is added has beside its action; a part is as alive as its whole."""
    said = replace(external_of(request), added=_kept(request))
    if said.heartbeat_timeout is None and whole is not None and whole.external is not None:
        return replace(said, heartbeat_timeout=whole.external.heartbeat_timeout)
    return said


def _policy(
    of_group: Policy | None, whole: TaskSpec | None, request: AddExternalTaskRequest
) -> Policy:
    """Returns what a task inherits: of a group all; a part is tried again with its whole only."""
    inherited = of_group or DEFAULT_POLICY
    if whole is not None:
        inherited = replace(
            DEFAULT_POLICY,
            on_failure=whole.policy.on_failure,
            compensation_retry=whole.policy.compensation_retry,
        )
    on_failure = policies.ON_FAILURE.get(request.on_failure, inherited.on_failure)
    timeout = _span(request, "run_timeout") or inherited.run_timeout
    return replace(inherited, on_failure=on_failure, run_timeout=timeout)


def _kept(request: AddExternalTaskRequest) -> bytes:
    """Returns a request as it is stored: without what proves a right."""
    kept = AddExternalTaskRequest()
    kept.CopyFrom(request)
    kept.ClearField("capability_token")
    return kept.SerializeToString(deterministic=True)


def grown(plan: Plan, added: Iterable[bytes]) -> Plan:
    """Returns a plan with the tasks that were added to it, in their order."""
    requests = [AddExternalTaskRequest.FromString(data) for data in added]
    if not requests:
        return plan
    growth = Growth(plan)
    for request in requests:
        spec, parent, under = added_task(growth, request)
        growth.add(spec, parent=parent, under=under)
    return growth.plan()


def owner_called(spec: TaskSpec) -> str:
    """Returns the owner of an external task; empty of any other."""
    return owner_of(spec.host) if spec.external else ""
