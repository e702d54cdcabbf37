"""What is wrong with a spec as it was written, field by field, before anything is expanded.

Collected in the order of the spec. A spec that is not `sound` cannot be made a tree of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from google.protobuf.struct_pb2 import Struct

from coordinator.saga.spec import NODES_MAX, GroupKind
from coordinator.saga.states import TaskState
from coordinator.wire.catalogue import VERBS
from coordinator.wire.external import as_task, external_problems, output_problems
from coordinator.wire.policies import SHORTEST, SPAN_MAX, policy_problems, span_problems
from coordinator.wire.sources import (
    INDEX_SUFFIX,
    WORD_RULE,
    OfFailure,
    OfItem,
    OfState,
    is_word,
    list_at,
    source_of,
)
from coordinator.wire.values import is_fixed, is_open, scalar_type, scalars_of, short
from countermand.rpc.errors import Violation
from countermand.rpc.names import ID_RULE, is_id
from countermand.v1 import verb_pb2
from countermand.v1 import workflow_spec_pb2 as spec_pb2
from countermand.v1.annotation_pb2 import EFFECT_REVERSIBLE

KINDS = {
    spec_pb2.Group.KIND_SEQUENCE: GroupKind.SEQUENCE,
    spec_pb2.Group.KIND_PARALLEL: GroupKind.PARALLEL,
}
ROUNDS_MAX = 1000
_STATES = frozenset(TaskState)

# What only a whole workflow has, not one that is nested in another.
_WHOLE = ("on_success", "on_failure", "timeout", "lock_policy")

SOURCE_RULE = (
    "must be tasks.<name>.output.<field>, input.<field>, or in a for_each <item>.<field>; "
    "where a failure is known failure.reason, .message or .task"
)
_CONDITION_RULE = (
    "must be tasks.<name>.output.<field>, tasks.<name>.state, input.<field>, "
    "or in a for_each <item>.<field>"
)


@dataclass(slots=True)
class Fields:
    """Collects what is wrong, and how many nodes there would be."""

    input_: Struct
    violations: list[Violation] = field(default_factory=list)
    sound: bool = True
    _words: list[str] = field(default_factory=list)  # of the for_each groups around

    def wrong(self, path: str, description: str) -> None:
        """Adds what does not keep a tree from being made."""
        self.violations.append(Violation(path, description))

    def unsound(self, path: str, description: str) -> None:
        """Adds what keeps a tree from being made."""
        self.violations.append(Violation(path, description))
        self.sound = False

    def spec(self, spec: spec_pb2.WorkflowSpec) -> None:
        """Checks everything."""
        self._id(spec.kind, "spec.kind")
        self.violations += policy_problems(spec.policy, "spec.policy")
        if spec.lock_policy not in spec_pb2.WorkflowSpec.LockPolicy.values():
            self.wrong("spec.lock_policy", "is no value of this field")
        if spec.HasField("timeout"):
            self.violations += span_problems(spec.timeout, "spec.timeout", SHORTEST, SPAN_MAX)
        if not spec.HasField("root"):
            self.unsound("spec.root", "is required: a group with the workflow's tasks")
            return
        nodes = self._group(spec.root, "spec.root")
        nodes += self._in_order(spec.on_success, "spec.on_success")
        nodes += self._in_order(spec.on_failure, "spec.on_failure")
        if nodes > NODES_MAX:
            self.unsound("spec.root", f"has {nodes} nodes, more than {NODES_MAX}")

    def _group(self, group: spec_pb2.Group, path: str) -> int:
        """Checks a group; returns how many nodes it becomes."""
        if group.kind not in KINDS:
            self.unsound(f"{path}.kind", "is required: KIND_SEQUENCE or KIND_PARALLEL")
        if not 0 <= group.concurrency_max <= NODES_MAX:
            self.wrong(f"{path}.concurrency_max", f"must be in 0 to {NODES_MAX}")
        if not 0 <= group.rounds_max <= ROUNDS_MAX:
            self.wrong(f"{path}.rounds_max", f"must be in 0 to {ROUNDS_MAX}")
        recovery = self._in_order(group.recovery, f"{path}.recovery")
        if group.open and (
            group.HasField("for_each") or group.kind != spec_pb2.Group.KIND_PARALLEL
        ):
            self.wrong(f"{path}.open", "is for parallel groups without for_each")
        if not group.HasField("for_each"):
            return 1 + recovery + self._nodes(group.members, f"{path}.members")
        words, items = self._for_each(group, f"{path}.for_each")
        self._words += words
        nodes = self._in_order(group.members, f"{path}.members")
        del self._words[len(self._words) - len(words) :]
        if not group.members:
            self.unsound(f"{path}.members", "needs at least one member")
        return 1 + recovery + items * (nodes + (len(group.members) > 1))

    def _for_each(self, group: spec_pb2.Group, path: str) -> tuple[list[str], int]:
        """Checks what a group is repeated for; returns the words and the number of items."""
        said = group.for_each
        length = self._list(said.items, f"{path}.items")
        words = [said.item, *sorted(said.zip)]
        fields = [f"{path}.item", *(f"{path}.zip[{word!r}]" for word in words[1:])]
        for number, (word, here) in enumerate(zip(words, fields, strict=True)):
            taken = {*self._words, *words[:number]}
            if not is_word(word):
                self.unsound(here, f"{word!r} {WORD_RULE}" if word else f"is required: {WORD_RULE}")
            elif taken & {word, f"{word}{INDEX_SUFFIX}", word.removesuffix(INDEX_SUFFIX)}:
                self.unsound(here, f"{word!r} is taken: each item needs a word of its own")
        for word, here in zip(words[1:], fields[1:], strict=True):
            other = self._list(said.zip[word], here)
            if None not in (length, other) and length != other:
                self.unsound(
                    here,
                    f"{said.zip[word]!r} has {other} items, {said.items!r} has {length}: "
                    "give lists of the same length",
                )
        return words, length or 0

    def _list(self, source: str, path: str) -> int | None:
        found = list_at(self.input_, source)
        if found is None:
            self.unsound(path, f"{source!r} must name a list in the input, as in input.disks")
            return None
        return found[1]

    def _nodes(self, nodes: Sequence[spec_pb2.Node], path: str) -> int:
        return sum(self._node(node, f"{path}[{number}]") for number, node in enumerate(nodes))

    def _in_order(self, nodes: Sequence[spec_pb2.Node], path: str) -> int:
        """Checks nodes that stand in a sequence, whatever their group says of others."""
        for number, node in enumerate(nodes):
            if node.after:
                self.wrong(
                    f"{path}[{number}].after", "is for parallel groups; these run in their order"
                )
        return self._nodes(nodes, path)

    def _node(self, node: spec_pb2.Node, path: str) -> int:
        """Checks a node; returns how many it becomes."""
        self._id(node.name, f"{path}.name")
        self.violations += policy_problems(node.policy, f"{path}.policy")
        if node.HasField("when"):
            self._condition(node.when, f"{path}.when")
        match node.WhichOneof("node"):
            case "group":
                return self._group(node.group, f"{path}.group")
            case "workflow":
                return self._nested(node.workflow, f"{path}.workflow")
            case "task":
                self._task(node.task, f"{path}.task")
            case "external_task":
                self._external(node.external_task, f"{path}.external_task")
            case None:
                self.unsound(path, "needs one of: task, group, external_task, workflow")
        return 1

    def _nested(self, spec: spec_pb2.WorkflowSpec, path: str) -> int:
        self._id(spec.kind, f"{path}.kind")
        self.violations += policy_problems(spec.policy, f"{path}.policy")
        given = {descriptor.name for descriptor, _ in spec.ListFields()}
        for name in _WHOLE:
            if name in given:
                self.wrong(
                    f"{path}.{name}",
                    "is for the whole workflow: a nested one has none of its own",
                )
        if not spec.HasField("root"):
            self.unsound(f"{path}.root", "is required: a group with the workflow's tasks")
            return 1
        return self._group(spec.root, f"{path}.root")

    def _task(self, task: spec_pb2.Node.Task, path: str) -> None:
        if task.host_id:
            self._id(task.host_id, f"{path}.host_id")
        for number, host in enumerate(task.candidate_host_ids):
            self._id(host, f"{path}.candidate_host_ids[{number}]")
        self._action(task.action, task.bindings, path)
        if task.HasField("compensation"):
            here = f"{path}.compensation"
            self._action(task.compensation.action, task.compensation.bindings, here)

    def _external(self, task: spec_pb2.Node.ExternalTask, path: str) -> None:
        found = [*external_problems(task, f"{path}."), *output_problems(task, f"{path}.")]
        if task.effect == EFFECT_REVERSIBLE and not task.WhichOneof("compensation"):
            why = "needs ask_owner or operator_checklist: how it is made up for"
            found.append(Violation(f"{path}.effect", why))
        self.violations += found
        self.sound = self.sound and not found
        self._action(as_task(task).action, task.bindings, path)

    def _action(
        self, action: verb_pb2.Action, bindings: Sequence[spec_pb2.Binding], path: str
    ) -> None:
        """Checks the verb, and what its bindings fill."""
        verb = action.WhichOneof("verb")
        if verb is None:
            self.unsound(f"{path}.action", "needs a verb, such as copy_image")
            return
        filled: set[str] = set()
        for number, binding in enumerate(bindings):
            here = f"{path}.bindings[{number}]"
            if binding.field in filled:
                self.wrong(f"{here}.field", "is filled by two bindings")
            filled.add(binding.field)
            arguments = VERBS[verb].arguments
            if is_fixed(arguments, binding.field):
                self.wrong(f"{here}.field", f"{binding.field} is fixed: write it into the action")
            elif scalar_type(arguments, binding.field) is None and not is_open(
                arguments, binding.field
            ):
                near = get_close_matches(binding.field, scalars_of(arguments), n=1)
                meant = f": is {near[0]} meant?" if near else ""
                self.wrong(f"{here}.field", f"{verb} has no field {binding.field!r}{meant}")
            source = source_of(binding.source)
            if source is None or isinstance(source, OfState):
                self.wrong(f"{here}.source", SOURCE_RULE)

    def _condition(self, condition: spec_pb2.Condition, path: str) -> None:
        source = source_of(condition.path)
        if source is None or isinstance(source, OfFailure):
            self.wrong(f"{path}.path", _CONDITION_RULE)
        elif isinstance(source, OfItem) and source.word.endswith(INDEX_SUFFIX):
            self.wrong(f"{path}.path", "is the index of an item, of which nothing can depend")
        match condition.WhichOneof("test"):
            case "equals" if isinstance(source, OfState) and condition.equals not in _STATES:
                self.wrong(f"{path}.equals", f"must be one of: {', '.join(TaskState)}")
            case "truthy" if isinstance(source, OfState):
                self.wrong(f"{path}.truthy", "a state needs equals, such as SKIPPED")
            case "truthy" if not condition.truthy:
                self.wrong(f"{path}.truthy", "must be true, or left out for equals")
            case None:
                self.wrong(path, "needs one of: equals, truthy")
            case _:
                pass

    def _id(self, text: str, path: str) -> None:
        if not is_id(text):
            self.wrong(path, f"{short(text)} {ID_RULE}" if text else f"is required and {ID_RULE}")
