"""Specs as submitted: checked whole, then turned into the saga's tree.

`check_spec` raises every violation at once, each with the path of its field; what the contract has
but this version does not serve is refused, never ignored. `tree_from_spec` trusts what was checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from coordinator.saga.spec import (
    DEFAULT_POLICY,
    Binding,
    GroupKind,
    GroupSpec,
    NodeSpec,
    OnSiblingFailure,
    Policy,
    Problem,
    Retry,
    TaskSpec,
    compile_plan,
    problems,
)
from coordinator.saga.workflow import Inbound, Values
from coordinator.wire.catalogue import VERBS, effect_of
from coordinator.wire.values import (
    INT64_MAX,
    TYPE_NAMES,
    fill,
    holds,
    kind_at,
    scalar_type,
    span_from_proto,
    values_of_struct,
)
from countermand.rpc.errors import (
    CountermandError,
    FieldInvalid,
    FieldUnsupported,
    PayloadTooLarge,
    Violation,
)
from countermand.rpc.names import ID_RULE, is_id
from countermand.v1 import verb_pb2
from countermand.v1 import workflow_spec_pb2 as spec_pb2
from countermand.v1.image_pb2 import ImageAddress

INPUT_BYTES_MAX = 64 * 1024  # larger things are referred to, not carried
SIZE_BYTES_MAX = 2**50
SECTOR_BYTES = 512  # what every storage can address
ATTEMPTS_MAX = 1000
DELAY_MAX = timedelta(days=1)
SHORTEST = timedelta(microseconds=1)
RUN_TIMEOUT_MAX = timedelta(days=365)

_ADDRESS = ("pool_id", "image_id")

_ON_SIBLING_FAILURE = {
    spec_pb2.Policy.ON_SIBLING_FAILURE_CANCEL: OnSiblingFailure.CANCEL,
    spec_pb2.Policy.ON_SIBLING_FAILURE_AWAIT: OnSiblingFailure.AWAIT,
}
_KINDS = {
    spec_pb2.Group.KIND_SEQUENCE: GroupKind.SEQUENCE,
    spec_pb2.Group.KIND_PARALLEL: GroupKind.PARALLEL,
}

# Fields that the contract has and this version does not serve: refused, never ignored.
_UNSERVED: dict[type[Message], tuple[str, ...]] = {
    spec_pb2.WorkflowSpec: ("on_success", "on_failure", "timeout"),
    spec_pb2.Node: ("external_task", "workflow", "when"),
    spec_pb2.Node.Task: ("candidate_host_ids", "compensation"),
    spec_pb2.Group: ("for_each", "min_success", "concurrency_max", "open", "recovery"),
    spec_pb2.Policy: (
        "start_timeout",
        "stall_timeout",
        "wait_before",
        "wait_after",
        "pause_before",
        "pause_on_success",
        "priority",
    ),
    verb_pb2.CopyImage: ("source_host_id",),
}


def check_spec(spec: spec_pb2.WorkflowSpec, input_: Struct, hosts: HostsKnown) -> None:
    """Checks a spec and its input.

    Raises:
        FieldInvalid: With every violation.
        FieldUnsupported: For the first field that this version does not serve.
        PayloadTooLarge: For an input beyond its bound.
    """
    if input_.ByteSize() > INPUT_BYTES_MAX:
        raise PayloadTooLarge(
            field="input", size_bytes=input_.ByteSize(), size_bytes_max=INPUT_BYTES_MAX
        )
    check = _Check(input_=input_, hosts=hosts)
    check.spec(spec)
    if not check.violations:
        tree = tree_from_spec(spec)
        check.violations += [Violation(p.field, p.description) for p in problems(tree)]
        if not check.violations:
            check.violations += [
                Violation(p.field, p.description) for p in _value_problems(tree, spec, input_)
            ]
    if check.violations:
        raise FieldInvalid(*check.violations)
    if check.unserved:
        raise check.unserved[0]


# Says what is wrong with placing a task: (host id, pools it names, verb) → a description, or None.
HostsKnown = Callable[[str, frozenset[str], str], str | None]


@dataclass(slots=True)
class _Check:
    """Collects what is wrong, in the order of the spec."""

    input_: Struct
    hosts: HostsKnown
    given: Values = field(init=False)
    violations: list[Violation] = field(default_factory=list)
    unserved: list[CountermandError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.given = values_of_struct(self.input_)

    def wrong(self, path: str, description: str) -> None:
        self.violations.append(Violation(path, description))

    def served(self, message: Message, path: str) -> None:
        for name in _UNSERVED.get(type(message), ()):
            if any(field.name == name for field, _ in message.ListFields()):
                self.unserved.append(FieldUnsupported(field=f"{path}.{name}"))

    def id(self, text: str, path: str) -> None:
        if not is_id(text):
            self.wrong(path, f"{text!r} {ID_RULE}" if text else f"is required and {ID_RULE}")

    def spec(self, spec: spec_pb2.WorkflowSpec) -> None:
        self.served(spec, "spec")
        if spec.lock_policy == spec_pb2.WorkflowSpec.LOCK_POLICY_REFUSE:
            self.unserved.append(FieldUnsupported(field="spec.lock_policy"))
        elif spec.lock_policy not in spec_pb2.WorkflowSpec.LockPolicy.values():
            self.wrong("spec.lock_policy", "is no value of this field")
        self.id(spec.kind, "spec.kind")
        self.policy(spec.policy, "spec.policy")
        if not spec.HasField("root"):
            self.wrong("spec.root", "is required: a group with the workflow's tasks")
            return
        self.group(spec.root, "spec.root")

    def group(self, group: spec_pb2.Group, path: str) -> None:
        self.served(group, path)
        if group.kind not in _KINDS:
            self.wrong(f"{path}.kind", "is required: KIND_SEQUENCE or KIND_PARALLEL")
        for number, member in enumerate(group.members):
            self.node(member, f"{path}.members[{number}]")

    def node(self, node: spec_pb2.Node, path: str) -> None:
        self.served(node, path)
        self.id(node.name, f"{path}.name")
        self.policy(node.policy, f"{path}.policy")
        match node.WhichOneof("node"):
            case "group":
                self.group(node.group, f"{path}.group")
            case "task":
                self.task(node.task, f"{path}.task")
            case "external_task" | "workflow":
                pass  # refused by `served`
            case None:
                self.wrong(path, "needs one of: task, group, external_task, workflow")

    def task(self, task: spec_pb2.Node.Task, path: str) -> None:
        self.served(task, path)
        verb = task.action.WhichOneof("verb")
        if not task.host_id:
            self.unserved.append(FieldUnsupported(field=f"{path}.host_id left empty (placement)"))
        else:
            self.id(task.host_id, f"{path}.host_id")
        if verb is None:
            self.wrong(f"{path}.action", "needs a verb, such as copy_image")
            return
        here = f"{path}.action.{verb}"
        self.served(getattr(task.action, verb), here)
        action, bound = self.filled(task)
        arguments = getattr(action, verb)
        self.arguments(arguments, bound, here)
        pools = frozenset(
            getattr(arguments, f.name).pool_id
            for f in arguments.DESCRIPTOR.fields
            if f.message_type is ImageAddress.DESCRIPTOR and f"{f.name}.pool_id" not in bound
        )
        if is_id(task.host_id) and (description := self.hosts(task.host_id, pools, verb)):
            self.wrong(f"{path}.host_id", description)

    def filled(self, task: spec_pb2.Node.Task) -> tuple[verb_pb2.Action, set[str]]:
        """Returns the action with what the input binds, and the fields that tasks will fill."""
        verb = str(task.action.WhichOneof("verb"))
        action = verb_pb2.Action()
        action.CopyFrom(task.action)
        bound: set[str] = set()
        for message in task.bindings:
            binding = _binding(message)
            value = self.given.get(binding.path)
            wanted = scalar_type(getattr(action, verb).DESCRIPTOR, binding.field)
            if not binding.task and wanted is type(value) and holds(action, binding.field, value):
                fill(action, (Inbound(field=binding.field, value=value, origin=binding.origin),))
            else:
                bound.add(binding.field)
        return action, bound

    def arguments(self, arguments: Message, bound: set[str], path: str) -> None:
        """Checks the fields that verbs have in common; what is bound is checked by the agent."""
        for f in arguments.DESCRIPTOR.fields:
            value = getattr(arguments, f.name)
            here = f"{path}.{f.name}"
            if f.message_type is ImageAddress.DESCRIPTOR:
                for part in _ADDRESS:
                    if f"{f.name}.{part}" not in bound:
                        self.id(getattr(value, part), f"{here}.{part}")
            elif f.name == "snapshot_id" and f.name not in bound:
                self.id(value, here)
            elif (
                f.name == "virtual_size_bytes"
                and f.name not in bound
                and (not 0 < value <= SIZE_BYTES_MAX or value % SECTOR_BYTES)
            ):
                self.wrong(here, f"must be a multiple of {SECTOR_BYTES} in 1 to 2^50")
        addresses = [getattr(arguments, name, None) for name in ("source", "target")]
        ends = {f"{name}.{part}" for name in ("source", "target") for part in _ADDRESS}
        if all(addresses) and not bound & ends and addresses[0] == addresses[1]:
            self.wrong(f"{path}.target", "is the source itself")

    def policy(self, policy: spec_pb2.Policy, path: str) -> None:
        self.served(policy, path)
        if policy.on_failure not in (
            spec_pb2.Policy.ON_FAILURE_UNSPECIFIED,
            spec_pb2.Policy.ON_FAILURE_COMPENSATE,
        ):
            self.unserved.append(FieldUnsupported(field=f"{path}.on_failure"))
        if policy.on_sibling_failure not in (
            spec_pb2.Policy.ON_SIBLING_FAILURE_UNSPECIFIED,
            *_ON_SIBLING_FAILURE,
        ):
            self.wrong(f"{path}.on_sibling_failure", "is no value of this field")
        if policy.compensation_retry.reasons:
            self.unserved.append(FieldUnsupported(field=f"{path}.compensation_retry.reasons"))
        self.retry(policy.retry, f"{path}.retry")
        self.retry(policy.compensation_retry, f"{path}.compensation_retry")
        if policy.HasField("run_timeout"):
            self.span(policy.run_timeout, f"{path}.run_timeout", SHORTEST, RUN_TIMEOUT_MAX)

    def retry(self, retry: spec_pb2.Retry, path: str) -> None:
        if not 0 <= retry.attempts_max <= ATTEMPTS_MAX:
            self.wrong(f"{path}.attempts_max", f"must be in 0 to {ATTEMPTS_MAX}")
        if not 0 <= retry.jitter_percent <= 100:  # noqa: PLR2004  # a whole is 100 per cent
            self.wrong(f"{path}.jitter_percent", "must be in 0 to 100")
        if not (retry.backoff_percent == 0 or 100 <= retry.backoff_percent <= 10_000):  # noqa: PLR2004
            self.wrong(f"{path}.backoff_percent", "must be in 100 to 10000: waits never shrink")
        for name in ("delay", "delay_max"):
            self.span(getattr(retry, name), f"{path}.{name}", timedelta(0), DELAY_MAX)

    def span(self, span: Duration, path: str, least: timedelta, most: timedelta) -> None:
        given = span_from_proto(span)
        if given is None or not least <= given <= most:
            self.wrong(path, f"must be in {least} to {most}")


# -- values -------------------------------------------------------------------------------------


def _value_problems(
    tree: GroupSpec, spec: spec_pb2.WorkflowSpec, input_: Struct
) -> Iterator[Problem]:
    """Yields bindings whose two ends are not scalars of one type."""
    plan = compile_plan(tree)
    given = values_of_struct(input_)
    for path, node in _tasks(spec.root, "spec.root"):
        verb = VERBS[str(node.task.action.WhichOneof("verb"))]
        filled: set[str] = set()
        bound_bytes = 0
        for number, message in enumerate(node.task.bindings):
            here = f"{path}.task.bindings[{number}]"
            binding = _binding(message)
            if binding.field in filled:
                yield Problem(field=f"{here}.field", description="is filled by two bindings")
            filled.add(binding.field)
            wanted = scalar_type(verb.arguments, binding.field)
            if wanted is None:
                yield Problem(
                    field=f"{here}.field", description=f"{verb.name} has no field {binding.field!r}"
                )
                continue
            found: type | None
            if binding.task:
                source = VERBS[plan.task(plan.by_name[binding.task]).verb]
                found = scalar_type(source.output, binding.path)
                lacks = f"{source.name} leaves no {binding.path!r}"
            else:
                found = type(given[binding.path]) if binding.path in given else None
                bound_bytes += len(str(given.get(binding.path, "")).encode())
                kind = kind_at(input_, binding.path)
                lacks = f"the input has no {binding.path!r}"
                if kind:
                    lacks = f"{binding.path!r} is {kind} in the input, and cannot be bound"
            if found is None:
                yield Problem(field=f"{here}.source", description=lacks)
            elif found is not wanted:
                yield Problem(
                    field=f"{here}.source",
                    description=f"is of type {TYPE_NAMES[found]}, "
                    f"{binding.field!r} needs {TYPE_NAMES[wanted]}",
                )
            elif not holds(
                node.task.action,
                binding.field,
                # Of an output nothing but its type is known beforehand.
                (INT64_MAX if found is int else found()) if binding.task else given[binding.path],
            ):
                yield Problem(
                    field=f"{here}.source",
                    description=f"may be more than {binding.field!r} holds",
                )
        if bound_bytes > INPUT_BYTES_MAX:  # all of it is kept with each attempt
            yield Problem(
                field=f"{path}.task.bindings",
                description=f"bring {bound_bytes} bytes together, more than {INPUT_BYTES_MAX}",
            )


def _tasks(group: spec_pb2.Group, path: str) -> Iterator[tuple[str, spec_pb2.Node]]:
    for number, member in enumerate(group.members):
        here = f"{path}.members[{number}]"
        if member.HasField("group"):
            yield from _tasks(member.group, f"{here}.group")
        else:
            yield here, member


# -- the tree -----------------------------------------------------------------------------------

ROOT = "root"  # the name of the outermost group, unless a member has taken it


def tree_from_spec(spec: spec_pb2.WorkflowSpec) -> GroupSpec:
    """Returns the saga's tree of a checked spec, every policy inherited."""
    taken = {node.name for _, node in _nodes(spec.root, "")}
    name = ROOT
    while name in taken:
        name = f"{name}-"
    policy = _inherit(DEFAULT_POLICY, spec.policy)
    return _group(spec.root, name, (), policy)


def _nodes(group: spec_pb2.Group, path: str) -> Iterator[tuple[str, spec_pb2.Node]]:
    for member in group.members:
        yield path, member
        if member.HasField("group"):
            yield from _nodes(member.group, path)


def _group(group: spec_pb2.Group, name: str, after: tuple[str, ...], policy: Policy) -> GroupSpec:
    return GroupSpec(
        name=name,
        kind=_KINDS[group.kind],
        members=tuple(_node(member, _inherit(policy, member.policy)) for member in group.members),
        after=after,
    )


def _node(node: spec_pb2.Node, policy: Policy) -> NodeSpec:
    if node.HasField("group"):
        return _group(node.group, node.name, tuple(node.after), policy)
    verb = node.task.action.WhichOneof("verb")
    assert verb is not None, node.name
    return TaskSpec(
        name=node.name,
        after=tuple(node.after),
        host=node.task.host_id,
        verb=verb,
        effect=effect_of(node.task.action),
        action=node.task.action.SerializeToString(deterministic=True),
        bindings=tuple(_binding(binding) for binding in node.task.bindings),
        policy=policy,
    )


def _binding(message: spec_pb2.Binding) -> Binding:
    """Takes a source apart: "tasks.<name>.output.<path>" or "input.<path>".

    Anything else becomes a task of that whole name, which the saga then finds missing. Names of
    tasks may hold dots: the first ".output." ends the name.
    """
    source = message.source
    if source.startswith("input."):
        return Binding(field=message.field, task="", path=source.removeprefix("input."))
    name, found, path = source.removeprefix("tasks.").partition(".output.")
    if not source.startswith("tasks.") or not found:
        return Binding(field=message.field, task=source or "(nothing)", path="")
    return Binding(field=message.field, task=name, path=path)


def _inherit(above: Policy, given: spec_pb2.Policy) -> Policy:
    """Returns a policy with what is given replacing what is inherited, field by field."""
    return Policy(
        retry=_inherit_retry(above.retry, given.retry),
        compensation_retry=_inherit_retry(above.compensation_retry, given.compensation_retry),
        on_sibling_failure=_ON_SIBLING_FAILURE.get(
            given.on_sibling_failure, above.on_sibling_failure
        ),
        run_timeout=(
            given.run_timeout.ToTimedelta() if given.HasField("run_timeout") else above.run_timeout
        ),
    )


def _inherit_retry(above: Retry, given: spec_pb2.Retry) -> Retry:
    if given == spec_pb2.Retry():
        return above  # most nodes say nothing

    def span(name: str, inherited: timedelta) -> timedelta:
        message: Duration = getattr(given, name)
        return message.ToTimedelta() if given.HasField(name) else inherited  # type: ignore[arg-type]

    return replace(
        above,
        attempts_max=given.attempts_max or above.attempts_max,
        delay=span("delay", above.delay),
        delay_max=span("delay_max", above.delay_max),
        backoff_percent=given.backoff_percent or above.backoff_percent,
        jitter_percent=(
            given.jitter_percent if given.HasField("jitter_percent") else above.jitter_percent
        ),
        reasons=frozenset(given.reasons) or above.reasons,
    )
