"""Says what is wrong with a spec before any coordinator sees it. Pure.

It knows the contract and the file, not the hosts: that a pool exists, or that a host does a verb, a
coordinator alone can tell. What this finds, a coordinator would refuse; what it does not find, a
coordinator may still refuse. A warning is nothing that is refused, but something to have meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from google.protobuf.message import Message

from countermand.client.spec_external import external_problems, not_promised
from countermand.client.spec_fields import (
    descriptor_of,
    effect_of,
    is_open,
    near,
    scalar_at,
    scalars,
    value_at,
)
from countermand.client.spec_json import Json
from countermand.rpc.names import ID_RULE, VERB_RULE, is_custom_verb, is_id
from countermand.v1 import verb_pb2
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.workflow_spec_pb2 import Binding, Group, Node, Policy, WorkflowSpec

_FAILURE = ("failure.reason", "failure.message", "failure.task", "compensated.tasks")
_ADDRESS = ("pool_id", "image_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or that should be meant."""

    path: str
    said: str
    warning: bool = False


def findings(spec: WorkflowSpec, input_: dict[str, Json] | None = None) -> list[Finding]:
    """Returns what is wrong with a spec, in its order; with an input also what it lacks."""
    lint = _Lint(input_, {})
    lint.spec(spec, "spec")
    return lint.found


@dataclass(frozen=True, slots=True)
class _Scope:
    """What stands around a node."""

    # The words that for_each groups give to their items, and the list that each is of.
    items: Mapping[str, str] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)  # inherited, as far as warnings need it
    sees_failure: bool = False  # it is recovery, or an end action after a failure

    def below(self, given: Policy) -> _Scope:
        """Returns the scope of a node that says something itself."""
        policy = Policy()
        policy.CopyFrom(self.policy)
        policy.MergeFrom(given)
        return replace(self, policy=policy)


class _Lint:
    """Collects what is wrong, in the order of the spec."""

    def __init__(self, input_: dict[str, Json] | None, around: Mapping[str, Node]) -> None:
        self.found: list[Finding] = []
        self._input = input_
        self._around = around  # of a nested workflow: the tasks that it is among
        self._tasks: dict[str, Node] = {}  # by name, to find what bindings speak of
        self._paths: dict[str, str] = {}

    def wrong(self, path: str, said: str) -> None:
        self.found.append(Finding(path=path, said=said))

    def warn(self, path: str, said: str) -> None:
        self.found.append(Finding(path=path, said=said, warning=True))

    def spec(self, spec: WorkflowSpec, path: str, scope: _Scope | None = None) -> None:
        self._id(spec.kind, f"{path}.kind")
        if not spec.HasField("root"):
            self.wrong(f"{path}.root", "is required: a group with the workflow's tasks")
            return
        ends = ((f"{path}.on_success", spec.on_success), (f"{path}.on_failure", spec.on_failure))
        self._names(spec.root, f"{path}.root")
        for here, nodes in ends:
            self._name_all(nodes, here)
        scope = (scope or _Scope()).below(spec.policy)
        self._group(spec.root, f"{path}.root", scope)
        for here, nodes in ends:
            seen = _Scope(policy=spec.policy, sees_failure=here.endswith("failure"))
            for number, node in enumerate(nodes):
                self._node(node, f"{here}[{number}]", seen)

    def _nested(self, spec: WorkflowSpec, path: str, scope: _Scope) -> None:
        for name in ("on_success", "on_failure", "timeout", "lock_policy"):
            if any(known.name == name for known, _ in spec.ListFields()):
                self.wrong(f"{path}.{name}", "is for the outermost workflow only")
        inner = _Lint(self._input, {**self._around, **self._tasks})
        inner.spec(spec, path, scope)
        self.found += inner.found

    # -- names ----------------------------------------------------------------------------------

    def _names(self, group: Group, path: str) -> None:
        self._name_all(group.members, f"{path}.members")
        self._name_all(group.recovery, f"{path}.recovery")

    def _name_all(self, nodes: Sequence[Node], path: str) -> None:
        for number, node in enumerate(nodes):
            here = f"{path}[{number}]"
            self._id(node.name, f"{here}.name")
            if node.name in self._paths:
                said = f"{node.name!r} is taken by {self._paths[node.name]}: names are unique"
                self.wrong(f"{here}.name", said)
            self._paths.setdefault(node.name, here)
            self._tasks.setdefault(node.name, node)
            if node.HasField("group"):
                self._names(node.group, f"{here}.group")

    def _id(self, text: str, path: str) -> None:
        if not is_id(text):
            self.wrong(path, f"{text!r} {ID_RULE}" if text else f"is required and {ID_RULE}")

    # -- the tree -------------------------------------------------------------------------------

    def _group(self, group: Group, path: str, scope: _Scope) -> None:
        if group.kind not in (Group.KIND_SEQUENCE, Group.KIND_PARALLEL):
            self.wrong(f"{path}.kind", "is required: KIND_SEQUENCE or KIND_PARALLEL")
        if not group.members and not group.open:
            self.wrong(f"{path}.members", "needs at least one member")
        if group.open and (group.HasField("for_each") or group.kind == Group.KIND_SEQUENCE):
            self.wrong(f"{path}.open", "is for parallel groups without for_each")
        if group.kind == Group.KIND_SEQUENCE:
            for name in ("concurrency_max", "min_success"):
                if getattr(group, name):
                    self.wrong(f"{path}.{name}", "is for parallel groups")
        inner = scope
        if group.HasField("for_each"):
            self._for_each(group, f"{path}.for_each")
            words = {group.for_each.item: group.for_each.items, **group.for_each.zip}
            inner = replace(scope, items={**scope.items, **words})
        siblings = {member.name for member in group.members}
        for number, member in enumerate(group.members):
            here = f"{path}.members[{number}]"
            self._after(member, here, siblings, group.kind)
            self._node(member, here, inner)
        recovery = replace(scope, sees_failure=True)
        for number, node in enumerate(group.recovery):
            self._node(node, f"{path}.recovery[{number}]", recovery)

    def _for_each(self, group: Group, path: str) -> None:
        for_each = group.for_each
        lists = {"items": for_each.items, **{f"zip.{k}": v for k, v in for_each.zip.items()}}
        lengths: dict[str, int] = {}
        for name, source in lists.items():
            if not source.startswith("input.") or source == "input.":
                self.wrong(f"{path}.{name}", 'must be a list in the input, as "input.disks"')
            elif self._input is not None:
                value = value_at(self._input, source.removeprefix("input."))
                if not isinstance(value, list):
                    self.wrong(f"{path}.{name}", f"{source} is no list in the input given")
                else:
                    lengths[source] = len(value)
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{source} has {count}" for source, count in lengths.items())
            self.wrong(path, f"needs lists of one length: {counts}")
        if not for_each.item or not for_each.item.isidentifier():
            self.wrong(f"{path}.item", 'is required: a word such as "disk"')

    def _after(self, node: Node, path: str, siblings: set[str], kind: int) -> None:
        if node.after and kind == Group.KIND_SEQUENCE:
            self.wrong(f"{path}.after", "is for parallel groups; a sequence has its order")
        for name in node.after:
            if name not in siblings - {node.name}:
                self.wrong(f"{path}.after", f"{name!r} is not a sibling{near(name, siblings)}")

    def _node(self, node: Node, path: str, scope: _Scope) -> None:
        scope = scope.below(node.policy)
        if node.HasField("when"):
            self._source(node.when.path, f"{path}.when.path", scope, of_state=True)
        match node.WhichOneof("node"):
            case "group":
                self._group(node.group, f"{path}.group", scope)
            case "task":
                self._task(node, f"{path}.task", scope)
            case "external_task":
                self._external(node.external_task, f"{path}.external_task", scope)
            case "workflow":
                self._nested(node.workflow, f"{path}.workflow", scope)
            case None:
                self.wrong(path, "needs one of: task, group, external_task, workflow")

    def _task(self, node: Node, path: str, scope: _Scope) -> None:
        task = node.task
        name = task.action.WhichOneof("verb")
        if name is None:
            verbs = ", ".join(f.name for f in verb_pb2.Action.DESCRIPTOR.fields)
            self.wrong(f"{path}.action", f"needs a verb: {verbs}")
            return
        arguments: Message = getattr(task.action, name)
        self._bindings(task.bindings, arguments, name, path, scope)
        bound = {binding.field for binding in task.bindings}
        self._addresses(arguments, bound, f"{path}.action.{name}")
        if task.HasField("compensation"):
            self._compensation(node, f"{path}.compensation", scope)
        effect = effect_of(task.action, bound)
        if effect in {Effect.EFFECT_PIVOT, Effect.EFFECT_FORWARD_ONLY}:
            if scope.policy.retry.attempts_max <= 1:
                said = f"{name} cannot be made up for, and is tried once: give it a retry"
                self.warn(f"{path}.action", said)
            if task.HasField("compensation"):
                self.warn(f"{path}.compensation", f"{name} is never made up for: it goes forward")

    def _external(self, task: Node.ExternalTask, path: str, scope: _Scope) -> None:
        for name, said in external_problems(task):
            self.wrong(f"{path}.{name}", said)
        for number, binding in enumerate(task.bindings):
            self._source(binding.source, f"{path}.bindings[{number}].source", scope)
        final = task.effect in {Effect.EFFECT_PIVOT, Effect.EFFECT_FORWARD_ONLY}
        if final and scope.policy.retry.attempts_max <= 1:
            said = f"{task.kind} cannot be made up for, and is asked for once: give it a retry"
            self.warn(f"{path}.effect", said)

    def _compensation(self, node: Node, path: str, scope: _Scope) -> None:
        compensation = node.task.compensation
        name = compensation.action.WhichOneof("verb")
        if name is None:
            self.wrong(f"{path}.action", "needs a verb")
            return
        arguments: Message = getattr(compensation.action, name)
        self._bindings(compensation.bindings, arguments, name, path, scope)
        bound = {binding.field for binding in compensation.bindings}
        self._addresses(arguments, bound, f"{path}.action.{name}")

    def _addresses(self, arguments: Message, bound: set[str], path: str) -> None:
        """Checks what names a verb and its images, unless it is bound."""
        if isinstance(arguments, verb_pb2.Custom):
            if not is_custom_verb(arguments.verb):
                self.wrong(f"{path}.verb", VERB_RULE)
            if not arguments.effect:
                self.wrong(f"{path}.effect", "is required: what the verb's plug-in declares")
        for known in descriptor_of(arguments).fields:
            if known.name == "snapshot_id" and known.name not in bound:
                self._id(getattr(arguments, known.name), f"{path}.{known.name}")
            if known.message_type is not ImageAddress.DESCRIPTOR:
                continue
            if isinstance(arguments, verb_pb2.Custom) and not _gives(arguments, known.name, bound):
                continue  # its plug-in knows what it needs
            for part in _ADDRESS:
                if f"{known.name}.{part}" not in bound:
                    text = getattr(getattr(arguments, known.name), part)
                    self._id(text, f"{path}.{known.name}.{part}")

    # -- values ---------------------------------------------------------------------------------

    def _bindings(
        self,
        bindings: Sequence[Binding],
        arguments: Message,
        verb: str,
        path: str,
        scope: _Scope,
    ) -> None:
        filled: set[str] = set()
        for number, binding in enumerate(bindings):
            here = f"{path}.bindings[{number}]"
            if binding.field in filled:
                self.wrong(f"{here}.field", f"{binding.field!r} is filled by two bindings")
            filled.add(binding.field)
            known = descriptor_of(arguments)
            if scalar_at(known, binding.field) is None and not is_open(known, binding.field):
                meant = near(binding.field, list(scalars(descriptor_of(arguments))))
                self.wrong(f"{here}.field", f"{verb} has no field {binding.field!r}{meant}")
            self._source(binding.source, f"{here}.source", scope)

    def _source(self, source: str, path: str, scope: _Scope, *, of_state: bool = False) -> None:
        """Checks where a value comes from."""
        first, _, rest = source.partition(".")
        if first == "tasks":
            self._output(rest, path, of_state=of_state)
        elif first == "input" and rest:
            self._given(rest, path)
        elif first in scope.items:
            self._item(scope.items[first], rest, path)
        elif first.removesuffix("_index") in scope.items:
            return
        elif source in _FAILURE:
            if not scope.sees_failure:
                self.wrong(path, "is known to on_failure end actions and recovery tasks only")
        else:
            words = ["input.<field>", "tasks.<name>.output.<field>"]
            words += [f"{item}.<field>" for item in scope.items]
            self.wrong(path, f"{source!r} is no source: write {' or '.join(words)}")

    def _given(self, rest: str, path: str) -> None:
        """Checks that the input has what is bound to it."""
        if self._input is None:
            return
        value = value_at(self._input, rest)
        if value is None:
            self.wrong(path, f"the input given has no {rest!r}")
        elif isinstance(value, dict | list):
            self.wrong(path, f"{rest!r} is no single value in the input given")

    def _item(self, items: str, rest: str, path: str) -> None:
        """Checks that every item given has what is bound to it."""
        listed = value_at(self._input, items.removeprefix("input."))
        if not isinstance(listed, list):
            return  # there is no input, or the group has said so
        for index, item in enumerate(listed):
            if rest and value_at(item, rest) is None:
                self.wrong(path, f"{items}[{index}] of the input given has no {rest!r}")
            elif isinstance(value_at(item, rest) if rest else item, dict | list):
                self.wrong(path, "is no single value: name a field of it")
                return

    def _output(self, rest: str, path: str, *, of_state: bool) -> None:
        name, found, output = rest.partition(".output.")
        if not found and of_state and rest.endswith(".state"):
            name, output = rest.removesuffix(".state"), ""
        elif not found:
            self.wrong(path, "is no source: write tasks.<name>.output.<field>")
            return
        tasks = {**self._around, **self._tasks}
        node = tasks.get(name)
        stem, _, last = name.rpartition(".")
        if node is None and last.isdecimal():
            node = tasks.get(stem)  # one item of a for_each
        if node is None and any(
            stem == other or stem.startswith(f"{other}.")
            for other, inner in tasks.items()
            if inner.HasField("workflow")
        ):
            return  # in a nested workflow
        if node is None:
            self.wrong(path, f"there is no task {name!r} in this spec{near(name, list(tasks))}")
        elif output and node.HasField("task"):
            self._left_by(node, output, path)
        elif output and (said := not_promised(name, node, output)):
            self.wrong(path, said)

    def _left_by(self, node: Node, output: str, path: str) -> None:
        verb = node.task.action.WhichOneof("verb")
        if verb is None:
            return
        left = verb_pb2.Output.DESCRIPTOR.fields_by_name[verb].message_type
        assert left is not None, verb
        if scalar_at(left, output) is None and not is_open(left, output):
            self.wrong(path, f"{verb} leaves no {output!r}{near(output, list(scalars(left)))}")


def _gives(arguments: Message, name: str, bound: set[str]) -> bool:
    """Returns whether an action names an image, or part of one is bound."""
    return arguments.HasField(name) or any(field.startswith(f"{name}.") for field in bound)
