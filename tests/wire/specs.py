"""Specs as tests write them: short, with everything that a verb needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from coordinator.saga.plan import Plan
from coordinator.saga.spec import TaskSpec
from coordinator.wire.spec import check_spec
from countermand.client.spec import image, sequence, task, workflow_spec
from countermand.rpc.errors import FieldInvalid
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.verb_pb2 import CopyImage, VerifyImage
from countermand.v1.workflow_spec_pb2 import ForEach, Node, WorkflowSpec


def anywhere(host: str, pools: frozenset[str], verb: str) -> str | None:
    """Says of every host that it can do everything."""


def struct(values: Mapping[str, object] | None = None) -> Struct:
    """Returns an input."""
    return json_format.ParseDict(dict(values or {}), Struct())


def copy(name: str, *, source: str = "pool/base", target: str = "", **fields: Any) -> Node:
    """Returns a task that copies an image."""
    action = CopyImage(source=image(source), target=image(target or f"pool/{name}"))
    return task(name, action=action, **{"host": "a", **fields})


def copy_to(name: str, source: str, **fields: Any) -> Node:
    """Returns a task that copies to an image whose id is bound."""
    action = CopyImage(source=image("pool/base"), target=ImageAddress(pool_id="pool"))
    return task(name, host="a", action=action, bindings={"target.image_id": source}, **fields)


def verify(name: str, of: str, **fields: Any) -> Node:
    """Returns a task that reads what another one has made."""
    bindings = {f"target.{part}": f"tasks.{of}.output.image.{part}" for part in ADDRESS}
    return task(name, host="a", action=VerifyImage(), bindings=bindings, **fields)


ADDRESS = ("pool_id", "image_id")


def for_each(group: Node, items: str, item: str, **lists: str) -> Node:
    """Returns a group whose members are repeated."""
    group.group.for_each.CopyFrom(ForEach(items=items, item=item, zip=lists))
    return group


def nested(name: str, spec: WorkflowSpec, **fields: Any) -> Node:
    """Returns a workflow as one task of another."""
    return Node(name=name, workflow=spec, **fields)


def spec_of(*members: Node, **fields: Any) -> WorkflowSpec:
    """Returns a spec of tasks in a sequence."""
    return workflow_spec("test", sequence("all", *members), **fields)


def plan(spec: WorkflowSpec, input_: Mapping[str, object] | None = None) -> Plan:
    """Returns the plan of a spec that must be good."""
    return check_spec(spec, struct(input_), anywhere)


def wrong(
    spec: WorkflowSpec, input_: Mapping[str, object] | None = None, hosts=anywhere
) -> dict[str, str]:
    """Returns what is wrong with a spec that must be bad: fields, in order, and what is said."""
    with pytest.raises(FieldInvalid) as raised:
        check_spec(spec, struct(input_), hosts)
    found: dict[str, str] = {}
    for violation in raised.value.violations:
        found.setdefault(violation.field, violation.description)
    return found


def shape(plan_: Plan) -> str:
    """Returns the names of a plan's nodes, groups in brackets: "root(a both(b | c))"."""

    def words(index: int) -> str:
        node = plan_.nodes[index]
        if node.task is not None:
            return node.name
        between = " | " if node.group == "PARALLEL" else " "
        return f"{node.name}({between.join(map(words, node.members))})"

    return " ".join(words(node.index) for node in plan_.nodes if node.parent < 0)


def leaf(plan_: Plan, name: str) -> TaskSpec:
    """Returns a task of a plan."""
    return plan_.task(plan_.by_name[name])


def bound(plan_: Plan, name: str) -> dict[str, str]:
    """Returns what a task is bound to, by field."""
    return {binding.field: binding.origin for binding in leaf(plan_, name).bindings}
