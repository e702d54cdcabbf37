"""A spec as a tree, for people: what each task does, and what makes up for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.message import Message

from countermand.client.spec_fields import descriptor_of, effect_of, verb_words
from countermand.drawing.tasks import EFFECTS
from countermand.v1 import annotation_pb2
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.workflow_spec_pb2 import Group, Node, Policy, WorkflowSpec

_KINDS = {Group.KIND_SEQUENCE: "in order", Group.KIND_PARALLEL: "together"}
_FAILURES = {
    Policy.ON_FAILURE_COMPENSATE_GROUP: "a failure makes up for this group only",
    Policy.ON_FAILURE_PAUSE: "a failure waits for an operator",
    Policy.ON_FAILURE_IGNORE: "a failure is allowed",
    Policy.ON_FAILURE_STOP: "a failure ends the workflow and keeps what was done",
    Policy.ON_FAILURE_RECOVER: "a failure runs the recovery",
}


def tree_lines(spec: WorkflowSpec) -> list[str]:
    """Returns a spec as lines."""
    lines = [f"{spec.kind}{_group_words(spec.root, spec.policy)}"]
    rows = list(_members(spec.root, ""))
    width = max((len(name) for name, _ in rows), default=0)
    lines += [f"{name.ljust(width)}  {words}".rstrip() for name, words in rows]
    for title, nodes in (
        ("once it has succeeded", spec.on_success),
        ("once it has failed", spec.on_failure),
    ):
        if nodes:
            lines.append(title)
            lines += [f"{name.ljust(width)}  {words}" for name, words in _listed(nodes, "")]
    return lines


def _members(group: Group, indent: str) -> Iterator[tuple[str, str]]:
    yield from _listed(group.members, indent)
    if group.recovery:
        yield f"{indent}   recovery", "in order, when a task above has failed"
        yield from _listed(group.recovery, f"{indent}   ")


def _listed(nodes: Sequence[Node], indent: str) -> Iterator[tuple[str, str]]:
    for number, node in enumerate(nodes, start=1):
        last = number == len(nodes)
        after = f", after {' and '.join(node.after)}" if node.after else ""
        yield f"{indent}{'└─ ' if last else '├─ '}{node.name}", f"{_words(node)}{after}"
        below = f"{indent}{'   ' if last else '│  '}"
        if node.HasField("group"):
            yield from _members(node.group, below)
        elif node.HasField("workflow"):
            yield from _members(node.workflow.root, below)


def _words(node: Node) -> str:
    match node.WhichOneof("node"):
        case "group":
            return _group_words(node.group, node.policy).removeprefix(": ")
        case "workflow":
            return f"the workflow {node.workflow.kind}"
        case "external_task":
            return _external_words(node.external_task)
        case _:
            return _task_words(node.task)


def _external_words(task: Node.ExternalTask) -> str:
    """Returns what somebody outside does, as tables name it, and who makes up for it."""
    if task.effect != Effect.EFFECT_REVERSIBLE:
        how = EFFECTS.get(task.effect, "-")
    else:
        people = "people, by its checklist"
        how = f"made up for by: {people if task.operator_checklist else f'asking {task.owner_id}'}"
    return f"{task.owner_id}: {task.kind}; {how}"


def _group_words(group: Group, policy: Policy) -> str:
    words = [_KINDS.get(group.kind, "-")]
    if group.HasField("for_each"):
        words.append(f"each {group.for_each.item} of {group.for_each.items}")
        if len(group.members) > 1:
            words.append("its members in order")
    if group.open:
        words.append("open: vendors may add tasks")
    if policy.on_failure in _FAILURES:
        words.append(_FAILURES[policy.on_failure])
    return f": {', '.join(words)}"


def _task_words(task: Node.Task) -> str:
    verb = task.action.WhichOneof("verb")
    if verb is None:
        return "-"
    effect = effect_of(task.action, {binding.field for binding in task.bindings})
    words = verb_words(task.action)
    if source_host := task.action.copy_image.source_host_id:
        words = f"{words} from {source_host}"
    if task.HasField("compensation"):
        return f"{words}; made up for by: {verb_words(task.compensation.action)}"
    if effect == Effect.EFFECT_REVERSIBLE:
        arguments: Message = getattr(task.action, verb)
        rule = descriptor_of(arguments).GetOptions().Extensions[annotation_pb2.verb]
        return f"{words}; made up for by: {rule.opposite}"
    return f"{words}; {EFFECTS.get(effect, '-')}"
