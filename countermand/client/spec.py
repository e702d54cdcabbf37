"""Writes specs as one reads them: a tree of calls, each returning the contract's own message.

    spec = workflow_spec(
        "add-vm",
        sequence(
            "disks",
            parallel("copies", task("copy-1", host="host-a", action=CopyImage(...)), ...),
            task("verify", action=VerifyImage(...), bindings={"digest": "input.digest"}),
        ),
    )

Nothing here checks what the coordinator checks; it only makes what is misspelt fail at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

from google.protobuf import json_format

from countermand.client.policies import duration, policy, retry
from countermand.client.spec_json import mistakes
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.v1 import verb_pb2 as verb
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.workflow_spec_pb2 import (
    Binding,
    Compensation,
    Condition,
    ForEach,
    Group,
    Node,
    Policy,
    WorkflowSpec,
)

__all__ = [
    "action_of",
    "compensate_by",
    "dump_spec",
    "equals",
    "external_task",
    "for_each",
    "image",
    "load_spec",
    "nested",
    "parallel",
    "parse_spec",
    "policy",
    "retry",
    "sequence",
    "task",
    "truthy",
    "workflow_spec",
]

Verb: TypeAlias = (
    verb.CreateImage
    | verb.CopyImage
    | verb.CloneImage
    | verb.DeleteImage
    | verb.ResizeImage
    | verb.CreateSnapshot
    | verb.DeleteSnapshot
    | verb.RevertImage
    | verb.VerifyImage
    | verb.Noop
    | verb.Custom
)
Bindings: TypeAlias = Mapping[str, str]  # field of the action -> path of the value

# What protobuf puts before the words that say something, once for each level.
_PREFIXES = re.compile(r"Failed to (?:parse \S+ field|load JSON|parse JSON): ")

_VERB_FIELDS = {
    field.message_type.full_name: field.name  # type: ignore[union-attr]  # verbs are messages
    for field in verb.Action.DESCRIPTOR.oneofs_by_name["verb"].fields
}


# -- the tree -----------------------------------------------------------------------------------


def workflow_spec(
    kind: str,
    root: Node,
    *,
    policy: Policy | None = None,
    on_success: Sequence[Node] = (),
    on_failure: Sequence[Node] = (),
    timeout: timedelta | None = None,
    refuse_when_locked: bool = False,
) -> WorkflowSpec:
    """Returns a spec whose tree is a group; the group's own name is not part of the contract.

    Raises:
        FieldInvalid: The root is no group.
    """
    if not root.HasField("group"):
        said = f"must be a sequence or parallel: put the task {root.name} into one"
        raise FieldInvalid(Violation(field="spec.root", description=said))
    return WorkflowSpec(
        kind=kind,
        root=root.group,
        policy=policy or (root.policy if root.HasField("policy") else None),
        on_success=on_success,
        on_failure=on_failure,
        lock_policy=(
            WorkflowSpec.LOCK_POLICY_REFUSE
            if refuse_when_locked
            else WorkflowSpec.LOCK_POLICY_UNSPECIFIED
        ),
        timeout=duration(timeout),
    )


def sequence(
    name: str,
    *members: Node,
    recovery: Sequence[Node] = (),
    rounds_max: int = 0,
    policy: Policy | None = None,
    after: Sequence[str] = (),
    when: Condition | None = None,
) -> Node:
    """Returns a group whose members run in order."""
    group = Group(
        kind=Group.KIND_SEQUENCE, members=members, recovery=recovery, rounds_max=rounds_max
    )
    return Node(name=name, group=group, policy=policy, after=after, when=when)


def parallel(
    name: str,
    *members: Node,
    concurrency_max: int = 0,
    min_success: int = 0,
    open: bool = False,  # noqa: A002  # the contract's word
    recovery: Sequence[Node] = (),
    rounds_max: int = 0,
    policy: Policy | None = None,
    after: Sequence[str] = (),
    when: Condition | None = None,
) -> Node:
    """Returns a group whose members run together, but for what their `after` says.

    To one that is open, vendors may add external tasks of their own until it has passed.
    """
    group = Group(
        kind=Group.KIND_PARALLEL,
        members=members,
        concurrency_max=concurrency_max,
        min_success=min_success,
        open=open,
        recovery=recovery,
        rounds_max=rounds_max,
    )
    return Node(name=name, group=group, policy=policy, after=after, when=when)


def for_each(
    group: Node,
    items: str,
    item: str,
    *,
    zip: Mapping[str, str] | None = None,  # noqa: A002  # the contract's word
) -> Node:
    """Returns a group repeated for each item of a list, together or in order as the group says.

    for_each(parallel("copies", task("copy", ...)), "input.disks", "disk")

    Args:
        group: What is repeated; its tasks bind "<item>.<field>" and "<item>_index".
        items: The list, "input.<field>".
        item: The word under which bindings name the item.
        zip: Further lists of the same length, by the word for their items.

    Raises:
        FieldInvalid: It is no group.
    """
    if not group.HasField("group"):
        said = f"must be a sequence or parallel: put the task {group.name} into one"
        raise FieldInvalid(Violation(field="for_each", description=said))
    made = Node()
    made.CopyFrom(group)
    made.group.for_each.CopyFrom(ForEach(items=items, item=item, zip=zip))
    return made


def nested(
    name: str,
    spec: WorkflowSpec,
    *,
    policy: Policy | None = None,
    after: Sequence[str] = (),
    when: Condition | None = None,
) -> Node:
    """Returns another workflow as one node; its tasks become "<name>.<task>"."""
    return Node(name=name, workflow=spec, policy=policy, after=after, when=when)


def equals(path: str, text: str) -> Condition:
    """Returns a condition, for `when`: the value at a path is this text."""
    return Condition(path=path, equals=text)


def truthy(path: str) -> Condition:
    """Returns a condition, for `when`: the value is there, and neither false, zero nor empty."""
    return Condition(path=path, truthy=True)


def task(
    name: str,
    *,
    action: Verb,
    host: str = "",
    candidate_hosts: Sequence[str] = (),
    bindings: Bindings | None = None,
    compensation: Compensation | None = None,
    policy: Policy | None = None,
    after: Sequence[str] = (),
    when: Condition | None = None,
) -> Node:
    """Returns a task run by an agent; without a host the coordinator chooses one."""
    leaf = Node.Task(
        host_id=host,
        candidate_host_ids=candidate_hosts,
        action=action_of(action),
        bindings=_bindings(bindings),
        compensation=compensation,
    )
    return Node(name=name, task=leaf, policy=policy, after=after, when=when)


def external_task(
    name: str,
    *,
    owner: str,
    kind: str,
    effect: Effect.ValueType,
    arguments: Mapping[str, str] | None = None,
    bindings: Bindings | None = None,
    outputs: Mapping[str, str] | None = None,
    checklist: str = "",
    weight: int = 0,
    heartbeat_timeout: timedelta | None = None,
    policy: Policy | None = None,
    after: Sequence[str] = (),
    when: Condition | None = None,
) -> Node:
    """Returns a task that somebody outside does and reports.

    external_task("clone", owner="acme", kind="clone-volume", effect=Effect.EFFECT_REVERSIBLE,
                  bindings={"arguments.volume": "input.volume"}, outputs={"volume": "string"})

    Args:
        name: Its id.
        owner: Who does it, by the id under which they watch.
        kind: What is asked, in the owner's own words.
        effect: What it does to the world.
        arguments: Named arguments.
        bindings: Arguments that are filled when it starts, "arguments.<name>" by their sources.
        outputs: What it promises to leave: "string", "int64", "double" or "bool" by the name.
        checklist: What people do to make up for it; by default its owner is asked to.
        weight: Its share of the group's progress; 0 means 1.
        heartbeat_timeout: Without a sign of life for this long it is UNKNOWN.
        policy: What a failure makes of it, how often it is tried, how long it may take.
        after: Siblings that it comes after.
        when: Whether it is done at all.
    """
    leaf = Node.ExternalTask(
        owner_id=owner,
        kind=kind,
        effect=effect,
        arguments=arguments,
        bindings=_bindings(bindings),
        outputs=outputs,
        weight=weight,
        heartbeat_timeout=duration(heartbeat_timeout),
    )
    if checklist:
        leaf.operator_checklist = checklist
    elif effect == Effect.EFFECT_REVERSIBLE:
        leaf.ask_owner = True
    return Node(name=name, external_task=leaf, policy=policy, after=after, when=when)


def compensate_by(action: Verb, *, bindings: Bindings | None = None) -> Compensation:
    """Returns a verb that replaces the task's own opposite."""
    return Compensation(action=action_of(action), bindings=_bindings(bindings))


def action_of(action: Verb) -> verb.Action:
    """Returns the action that holds a verb."""
    made = verb.Action()
    getattr(made, _VERB_FIELDS[action.DESCRIPTOR.full_name]).CopyFrom(action)
    # An empty verb, such as Noop(), leaves no trace when copied.
    getattr(made, _VERB_FIELDS[action.DESCRIPTOR.full_name]).SetInParent()
    return made


def image(address: str) -> ImageAddress:
    """Returns the address of an image written as "pool/image".

    Raises:
        FieldInvalid: It is written otherwise.
    """
    pool_id, slash, image_id = address.partition("/")
    if not (slash and pool_id and image_id):
        said = f"write an image as pool/image, not {address!r}"
        raise FieldInvalid(Violation(field="image", description=said))
    return ImageAddress(pool_id=pool_id, image_id=image_id)


def _bindings(bindings: Bindings | None) -> list[Binding]:
    return [Binding(field=field, source=path) for field, path in (bindings or {}).items()]


# -- files --------------------------------------------------------------------------------------


def load_spec(path: Path) -> WorkflowSpec:
    """Returns the spec in a file of protobuf JSON.

    Raises:
        FieldInvalid: The file is not a spec; says where.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        said = f"is not UTF-8 text: {error.reason}"
        raise FieldInvalid(Violation(field=str(path), description=said)) from None
    return parse_spec(text, origin=str(path))


def parse_spec(text: str, *, origin: str = "spec") -> WorkflowSpec:
    """Returns the spec in a text of protobuf JSON, with names as in the protos or in camel case.

    Raises:
        FieldInvalid: It is not a spec; names each place and what would be right there.
    """
    try:
        found = tuple(mistakes(text, origin=origin))
        if found:
            raise FieldInvalid(*found)
        return json_format.Parse(text, WorkflowSpec())
    except json_format.ParseError as error:
        said = _PREFIXES.sub("", str(error)).rstrip(".")
        raise FieldInvalid(Violation(field=origin, description=said)) from None
    except RecursionError:
        raise FieldInvalid(Violation(field=origin, description="is nested too deeply")) from None


def dump_spec(spec: WorkflowSpec) -> str:
    """Returns a spec as protobuf JSON, as `load_spec` reads it."""
    return json_format.MessageToJson(spec, preserving_proto_field_name=True)
