"""Specs of any kind: refused in words or compiled, and never anything else."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from coordinator.saga.problems import problems
from coordinator.saga.spec import NODES_MAX
from coordinator.wire.spec import check_spec, plan_of, tree_from_spec
from countermand.client.spec import compensate_by, parallel, policy, retry, sequence, task
from countermand.rpc.errors import FieldInvalid
from countermand.rpc.names import is_id
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import Condition, Policy, WorkflowSpec
from tests.wire.specs import anywhere, copy, copy_to, for_each, nested, spec_of, struct, verify
from tests.wire.test_refusals import CASES

INPUT = {
    "disks": [{"id": "d0", "size": 512}, {"id": "d1", "size": 1024}],
    "ids": ["x", "y"],
    "name": "n",
    "none": None,
    "flag": True,
}
TEXTS = (
    *("", "one", "c", "c.0", "sub", "g", "root", "on-success", "x" * 63, "../x", "pool", "é"),
    *("input.name", "input.disks", "input.ids", "input.none", "input.disks.0.id", "input."),
    *("tasks.one.output.digest", "tasks.c.0.output.image.image_id", "tasks.sub.one.output.digest"),
    *("tasks.c.output.generation", "tasks.one.state", "disk.id", "disk", "disk_index", "disk."),
    *("failure.reason", "compensated.tasks", "target.image_id", "source.pool_id", "SKIPPED"),
)
TYPE_STRING, TYPE_BOOL = FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BOOL
NUMBERS = (-1, 0, 1, 2, 3, 99, 512, 2**31 - 1)
MUTATIONS_MAX = 4


def rich() -> WorkflowSpec:
    """Returns a good spec with something of everything, by the names that mutations know."""
    item = parallel("each", copy_to("c", "disk.id"), verify("check", "c"), min_success=1)
    inner = spec_of(
        copy("one", target="pool/in"),
        for_each(sequence("ids", copy_to("d", "id")), "input.ids", "id"),
    )
    undo = compensate_by(Noop(), bindings={"failure_message": "tasks.one.output.digest"})
    told = {"failure_message": "failure.reason"}
    group = sequence(
        "g",
        copy("two", when=Condition(path="tasks.one.state", equals="SUCCEEDED")),
        policy=policy(on_failure=Policy.ON_FAILURE_RECOVER, priority=3),
    )
    group.group.recovery.append(task("mend", host="a", action=Noop(), bindings=told))
    return spec_of(
        copy("one", compensation=undo, candidate_hosts=["b"]),
        for_each(item, "input.disks", "disk"),
        nested("sub", inner, when=Condition(path="input.none", truthy=True)),
        group,
        on_success=[verify("end", "c.0")],
        on_failure=[task("tell", host="a", action=Noop(), bindings=told)],
        policy=policy(retry=retry(3)),
    )


SPEC_BYTES_MAX = 10_000
SPECS = 60  # for each seed


def messages(message: Message) -> Iterator[Message]:
    """Yields a message and everything in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for below in value if field.is_repeated else (value,):
            yield from messages(below)


def mutate(random: Random, spec: WorkflowSpec, others: list[Message]) -> None:
    """Changes one thing anywhere."""
    message: Any = random.choice(list(messages(spec)))
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = random.choice(fields)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(message, field.name)[random.choice(TEXTS)] = random.choice(TEXTS)
    elif random.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is not None:
        given = [m for m in others if m.DESCRIPTOR is field.message_type]
        here = getattr(message, field.name)
        target = here.add() if field.is_repeated else here
        target.SetInParent()
        if given and spec.ByteSize() < SPEC_BYTES_MAX:
            target.MergeFrom(given_like(random.choice(given)))
    else:
        values: tuple[object, ...] = TEXTS if field.type == TYPE_STRING else NUMBERS
        value = random.choice((True, False) if field.type == TYPE_BOOL else values)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)


def given_like(message: Message) -> Message:
    """Returns a copy, since a message may become a part of itself."""
    like = type(message)()
    like.CopyFrom(message)
    return like


def test_the_rich_spec_is_good():
    assert compiles(rich())


@pytest.mark.parametrize("seed", range(10))
def test_any_spec_is_refused_in_words_or_compiled(seed):
    random = Random(seed)
    specs = [rich(), *(case.spec for case in CASES.values())]
    others = [message for spec in specs for message in messages(spec)]
    compiled = 0
    for _ in range(SPECS):
        spec = WorkflowSpec()
        spec.CopyFrom(specs[0] if random.random() < 0.5 else random.choice(specs))
        for _ in range(random.randrange(1, MUTATIONS_MAX)):
            mutate(random, spec, others)
        compiled += compiles(spec)
    assert compiled


def compiles(spec: WorkflowSpec) -> bool:
    """Returns whether a spec is good, having looked at what comes of it."""
    input_ = struct(INPUT)
    try:
        checked = check_spec(spec, input_, anywhere)
    except FieldInvalid as error:
        said_well = all(v.field.startswith("spec") and v.description for v in error.violations)
        return not said_well and pytest.fail(str(error))
    assert plan_of(spec, input_) == checked
    assert not problems(*tree_from_spec(spec, input_))
    names = [node.name for node in checked.nodes]
    assert len(set(names)) == len(names) <= 2 * NODES_MAX
    assert all(is_id(name) for name in names)
    for node in checked.leaves:
        assert node.task is not None
        assert node.task.source.startswith("spec.")
        assert all(b.type for b in node.task.bindings)
        assert all(
            b.of_failure or not b.task or b.task in checked.by_name for b in node.task.bindings
        )
    return True
