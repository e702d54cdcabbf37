"""Everything that a spec is refused for, by the field and by what is said of it.

One case is one mistake in a spec that is otherwise good; what is said must help to mend it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from coordinator.saga.spec import NODES_MAX
from coordinator.wire.arguments import READING
from coordinator.wire.fields import SOURCE_RULE
from coordinator.wire.spec import VIOLATIONS_PER_FIELD_MAX, check_spec
from countermand.client.spec import (
    compensate_by,
    image,
    parallel,
    policy,
    sequence,
    task,
    workflow_spec,
)
from countermand.rpc.errors import FieldInvalid, PayloadTooLarge
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.verb_pb2 import (
    CopyImage,
    CreateImage,
    CreateSnapshot,
    DeleteImage,
    Noop,
    ResizeImage,
    RevertImage,
    VerifyImage,
)
from countermand.v1.workflow_spec_pb2 import (
    Compensation,
    Condition,
    Group,
    Node,
    Policy,
    WorkflowSpec,
)
from tests.wire.specs import (
    anywhere,
    copy,
    copy_to,
    for_each,
    nested,
    plan,
    spec_of,
    struct,
    verify,
    wrong,
)

FIRST = "spec.root.members[0]"
SECOND = "spec.root.members[1]"
LIST = {"disks": [{"id": "d0"}, {"id": "d1"}]}


@dataclass(frozen=True, slots=True)
class Case:
    """A bad spec, and what is wrong with it: field → a part of what is said."""

    spec: WorkflowSpec
    wrong: dict[str, str]
    input: Mapping[str, object] = field(default_factory=dict)


def noop(name: str, source: str = "", **fields: Any) -> Node:
    """Returns a task that does nothing, its one field bound."""
    told = {"failure_message": source} if source else None
    return task(name, host="a", action=Noop(), bindings=told, **fields)


def each(*members: Node, items: str = "input.disks", item: str = "disk", **lists: str) -> Node:
    """Returns a group that is repeated."""
    return for_each(parallel("each", *members), items, item, **lists)


def with_(node: Node, **fields: Any) -> Node:
    """Returns a group with fields set that have no short word."""
    for name, value in fields.items():
        setattr(node.group, name, value)
    return node


def recovering(*members: Node, **fields: Any) -> Node:
    """Returns a group that recovers by a task named mend."""
    return with_recovery(copy("mend"), *members, **fields)


def with_recovery(mend: Node, *members: Node, **fields: Any) -> Node:
    """Returns a group that recovers by a task."""
    said = policy(on_failure=Policy.ON_FAILURE_RECOVER)
    group = sequence("g", *(members or (copy("one"),)), **{"policy": said, **fields})
    group.group.recovery.append(mend)
    return group


def when(**fields: Any) -> WorkflowSpec:
    return spec_of(copy("one"), copy("two", when=Condition(**fields)))


def deep(levels: int) -> Node:
    node = copy("leaf")
    for level in range(levels):
        node = sequence(f"g{level}", node)
    return node


BINDING = "task.bindings[0].source"
OWN = f"{FIRST}.task.compensation"

CASES: dict[str, Case] = {
    # -- the spec itself
    "lock-policy-that-is-none": Case(
        WorkflowSpec(kind="k", root=spec_of(copy("one")).root, lock_policy=9),  # type: ignore[arg-type]
        {"spec.lock_policy": "no value"},
    ),
    "timeout-of-nothing": Case(
        WorkflowSpec(kind="k", root=spec_of(copy("one")).root, timeout=Duration()),
        {"spec.timeout": "must be in"},
    ),
    "end-action-that-is-empty": Case(
        spec_of(copy("one"), on_failure=[Node(name="x")]),
        {"spec.on_failure[0]": "needs one of"},
    ),
    "end-action-of-a-name-that-is-taken": Case(
        spec_of(copy("one"), on_success=[copy("one")]),
        {"spec.on_success[0].name": "taken by spec.root.members[0]"},
    ),
    "name-kept-for-end-actions": Case(
        spec_of(copy("on-success"), on_success=[copy("end")]),
        {f"{FIRST}.name": "kept for the group of end actions"},
    ),
    "too-deep": Case(spec_of(deep(33)), {f"spec.root{'.members[0].group' * 32}": "deeper"}),
    "end-action-after-another": Case(
        spec_of(copy("one"), on_failure=[copy("two"), copy("three", after=["two"])]),
        {"spec.on_failure[1].after": "run in their order"},
    ),
    # -- groups
    "quorum-larger-than-its-group": Case(
        spec_of(parallel("g", copy("one"), min_success=2)),
        {f"{FIRST}.group.min_success": "0 to 1"},
    ),
    "quorum-below-zero": Case(
        spec_of(parallel("g", copy("one"), min_success=-1)),
        {f"{FIRST}.group.min_success": "0 to 1"},
    ),
    "quorum-of-a-sequence": Case(
        spec_of(with_(sequence("g", copy("one")), min_success=1)),
        {f"{FIRST}.group.min_success": "parallel"},
    ),
    "quorum-larger-than-its-list": Case(
        spec_of(with_(each(copy_to("c", "disk.id")), min_success=3)),
        {f"{FIRST}.group.min_success": "0 to 2"},
        LIST,
    ),
    "concurrency-below-zero": Case(
        spec_of(parallel("g", copy("one"), concurrency_max=-1)),
        {f"{FIRST}.group.concurrency_max": "must be in"},
    ),
    "concurrency-of-a-sequence": Case(
        spec_of(with_(sequence("g", copy("one")), concurrency_max=1)),
        {f"{FIRST}.group.concurrency_max": "parallel"},
    ),
    "rounds-below-zero": Case(
        spec_of(with_(sequence("g", copy("one")), rounds_max=-1)),
        {f"{FIRST}.group.rounds_max": "must be in"},
    ),
    "rounds-round-a-pivot": Case(
        spec_of(
            with_(
                sequence("g", task("one", host="a", action=DeleteImage(target=image("pool/x")))),
                rounds_max=2,
            )
        ),
        {f"{FIRST}.group.members[0].task.action": "another round"},
    ),
    # -- recovery
    "recovery-that-never-runs": Case(
        spec_of(recovering(copy("one"), policy=policy(priority=1))),
        {f"{FIRST}.group.recovery": "never run"},
    ),
    "recovery-after-a-stranger": Case(
        spec_of(with_recovery(copy("mend", after=["nobody"]))),
        {f"{FIRST}.group.recovery[0].after": "run in their order"},
    ),
    "recovery-without-tasks": Case(
        spec_of(sequence("g", copy("one"), policy=policy(on_failure=Policy.ON_FAILURE_RECOVER))),
        {f"{FIRST}.group.recovery": "is required"},
    ),
    "a-task-that-nobody-recovers": Case(
        spec_of(copy("one", policy=policy(on_failure=Policy.ON_FAILURE_RECOVER))),
        {f"{FIRST}.policy.on_failure": "needs a group around"},
    ),
    "name-kept-for-recovery": Case(
        spec_of(recovering(copy("one")), copy("g.recovery")),
        {f"{SECOND}.name": "recovery tasks of 'g'"},
    ),
    "recovery-of-a-group-with-a-long-name": Case(
        spec_of(
            Node(
                name="x" * 60,
                group=recovering(copy("one")).group,
                policy=policy(on_failure=Policy.ON_FAILURE_RECOVER),
            )
        ),
        {f"{FIRST}.group.recovery": "shorter name"},
    ),
    # -- for_each
    "a-list-that-is-not-there": Case(
        spec_of(each(copy_to("c", "disk.id"))), {f"{FIRST}.group.for_each.items": "name a list"}
    ),
    "a-list-that-is-none": Case(
        spec_of(each(copy_to("c", "disk.id"))),
        {f"{FIRST}.group.for_each.items": "name a list"},
        {"disks": {"id": "x"}},
    ),
    "a-list-that-is-not-of-the-input": Case(
        spec_of(each(copy_to("c", "disk.id"), items="tasks.x.output.y")),
        {f"{FIRST}.group.for_each.items": "name a list"},
        LIST,
    ),
    "a-word-that-is-none": Case(
        spec_of(each(copy("c"), item="Disk-1")),
        {f"{FIRST}.group.for_each.item": "must match"},
        LIST,
    ),
    "no-word": Case(
        spec_of(each(copy("c"), item="")), {f"{FIRST}.group.for_each.item": "is required"}, LIST
    ),
    "a-word-that-begins-paths": Case(
        spec_of(each(copy("c"), item="input")), {f"{FIRST}.group.for_each.item": "none of"}, LIST
    ),
    "a-word-of-the-group-around": Case(
        spec_of(each(for_each(parallel("in", copy("c")), "input.disks", "disk"))),
        {f"{FIRST}.group.members[0].group.for_each.item": "taken"},
        LIST,
    ),
    "a-word-like-an-index": Case(
        spec_of(each(copy("c"), disk_index="input.disks")),
        {f"{FIRST}.group.for_each.zip['disk_index']": "taken"},
        LIST,
    ),
    "lists-of-unequal-length": Case(  # S-C6
        spec_of(each(copy("c"), size="input.sizes")),
        {f"{FIRST}.group.for_each.zip['size']": "'input.sizes' has 1 items, 'input.disks' has 2"},
        {**LIST, "sizes": [1]},
    ),
    "a-template-without-members": Case(
        spec_of(each()), {f"{FIRST}.group.members": "at least one"}, LIST
    ),
    "after-in-a-template": Case(
        spec_of(each(copy("c"), copy("d", after=["c"]))),
        {f"{FIRST}.group.members[1].after": "run in their order"},
        LIST,
    ),
    "too-many-nodes": Case(
        spec_of(
            for_each(parallel("o", each(noop("c"))), "input.disks", "outer"),
        ),
        {"spec.root": f"more than {NODES_MAX}"},
        {"disks": [1] * 150},
    ),
    "an-item-that-lacks-what-is-bound": Case(
        spec_of(each(copy_to("c", "disk.name"))),
        {f"{FIRST}.group.members[0].{BINDING}": "no 'disks.0.name'"},
        LIST,
    ),
    "an-item-of-another-type": Case(
        spec_of(each(copy_to("c", "disk.id"))),
        {f"{FIRST}.group.members[0].{BINDING}": "is of type int64, 'target.image_id' needs string"},
        {"disks": [{"id": "d0"}, {"id": 1}]},
    ),
    "an-item-that-is-no-id": Case(
        spec_of(each(copy_to("c", "disk.id"))),
        {
            f"{FIRST}.group.members[0].task.action.copy_image.target.image_id": (
                "'../x' must match [a-z0-9][a-z0-9._-]{0,62} (from input.disks.1.id)"
            )
        },
        {"disks": [{"id": "d0"}, {"id": "../x"}]},
    ),
    "an-item-elsewhere": Case(
        spec_of(each(copy_to("c", "disk.id")), copy_to("d", "disk.id")),
        {f"{SECOND}.{BINDING}": "no item 'disk' here; the source must be"},
        LIST,
    ),
    "another-item": Case(
        spec_of(each(copy_to("c", "disc.id"))),
        {f"{FIRST}.group.members[0].{BINDING}": "no item 'disc' here; there are: disk, disk_index"},
        LIST,
    ),
    "an-index-for-a-text": Case(
        spec_of(each(copy_to("c", "disk_index"))),
        {f"{FIRST}.group.members[0].{BINDING}": "is a number"},
        LIST,
    ),
    "a-condition-on-an-index": Case(
        spec_of(each(copy("c", when=Condition(path="disk_index", equals="0")))),
        {
            f"{FIRST}.group.members[0].when.path": "index",
        },
        LIST,
    ),
    "repeated-named-from-outside": Case(
        spec_of(each(copy_to("c", "disk.id")), noop("d", "tasks.c.output.digest")),
        {f"{SECOND}.{BINDING}": "'c' is repeated by a for_each: from here, name one"},
        LIST,
    ),
    "an-item-beyond-the-list": Case(
        spec_of(each(copy_to("c", "disk.id")), noop("d", "tasks.c.2.output.digest")),
        {f"{SECOND}.{BINDING}": "no task 'c.2'"},
        LIST,
    ),
    "items-in-parallel-do-not-know-each-other": Case(
        spec_of(each(copy_to("c", "disk.id"), noop("d", "tasks.c.0.output.digest"))),
        {f"{FIRST}.group.members[1].{BINDING}": "'c.0' does not come before 'd.1'"},
        LIST,
    ),
    "an-item-named-like-a-task": Case(
        spec_of(each(copy_to("c", "disk.id")), copy("c.1")),
        {f"{SECOND}.name": "'c.1' is taken"},
        LIST,
    ),
    "a-name-that-grows-too-long": Case(
        spec_of(each(noop("x" * 62))),
        {f"{FIRST}.group.members[0].name": "longer than a name may be"},
        LIST,
    ),
    # -- nested workflows
    "nested-with-end-actions": Case(
        spec_of(
            nested(
                "sub",
                spec_of(copy("one"), on_success=[copy("end")], refuse_when_locked=True),
            )
        ),
        {
            f"{FIRST}.workflow.on_success": "none of its own",
            f"{FIRST}.workflow.lock_policy": "none of its own",
        },
    ),
    "nested-without-a-root": Case(
        spec_of(nested("sub", WorkflowSpec(kind="k"))), {f"{FIRST}.workflow.root": "is required"}
    ),
    "nested-without-a-kind": Case(
        spec_of(nested("sub", WorkflowSpec(root=spec_of(copy("one")).root))),
        {f"{FIRST}.workflow.kind": "is required"},
    ),
    "nested-of-a-name-that-is-taken": Case(
        spec_of(copy("sub"), nested("sub", spec_of(copy("one")))),
        {f"{SECOND}.name": "'sub' is taken"},
    ),
    "nested-named-from-outside-by-half": Case(
        spec_of(nested("sub", spec_of(copy("one"))), noop("d", "tasks.one.output.digest")),
        {f"{SECOND}.{BINDING}": "no task 'one'"},
    ),
    # -- conditions
    "a-condition-on-nonsense": Case(
        when(path="failure.reason", truthy=True), {f"{SECOND}.when.path": "must be tasks."}
    ),
    "a-condition-without-a-test": Case(
        when(path="tasks.one.output.digest"), {f"{SECOND}.when": "equals, truthy"}
    ),
    "a-condition-that-is-not-truthy": Case(
        when(path="tasks.one.output.digest", truthy=False),
        {f"{SECOND}.when.truthy": "must be true"},
    ),
    "a-condition-on-no-output": Case(
        when(path="tasks.one.output.colour", truthy=True),
        {f"{SECOND}.when.path": "copy_image leaves no 'colour'; it leaves: image.pool_id"},
    ),
    "a-condition-on-half-an-output": Case(
        when(path="tasks.one.output.image", truthy=True), {f"{SECOND}.when.path": "no 'image'"}
    ),
    "a-condition-on-nobody": Case(
        when(path="tasks.nobody.state", equals="SKIPPED"), {f"{SECOND}.when.path": "no task"}
    ),
    "a-condition-on-what-comes-later": Case(
        spec_of(copy("one", when=Condition(path="tasks.two.state", equals="FAILED")), copy("two")),
        {f"{FIRST}.when.path": "does not come before"},
    ),
    "a-condition-of-a-group-on-what-comes-later": Case(
        spec_of(
            nested(
                "sub",
                spec_of(copy("in")),
                when=Condition(path="tasks.two.state", equals="FAILED"),
            ),
            copy("two"),
        ),
        {f"{FIRST}.when.path": "does not come before"},
    ),
    "a-condition-on-no-state": Case(
        when(path="tasks.one.state", equals="DONE"), {f"{SECOND}.when.equals": "SUCCEEDED"}
    ),
    "a-condition-on-any-state": Case(
        when(path="tasks.one.state", truthy=True), {f"{SECOND}.when.truthy": "needs equals"}
    ),
    "a-condition-on-no-input": Case(
        when(path="input.x", truthy=True), {f"{SECOND}.when.path": "or null"}
    ),
    "a-condition-on-a-list": Case(
        when(path="input.disks", truthy=True), {f"{SECOND}.when.path": "a list, no value"}, LIST
    ),
    # -- bindings
    "bound-to-a-state": Case(
        spec_of(copy("one"), noop("two", "tasks.one.state")), {f"{SECOND}.{BINDING}": "must be"}
    ),
    "bound-to-a-failure-before-there-is-one": Case(
        spec_of(noop("one", "failure.reason")), {f"{FIRST}.{BINDING}": "recovery tasks only"}
    ),
    "bound-to-what-was-compensated-in-a-success": Case(
        spec_of(copy("one"), on_success=[noop("end", "compensated.tasks")]),
        {"spec.on_success[0].task.bindings[0].source": "on_failure end actions only"},
    ),
    "bound-to-no-failure": Case(
        spec_of(copy("one"), on_failure=[noop("end", "failure.colour")]),
        {"spec.on_failure[0].task.bindings[0].source": "must be"},
    ),
    "no-such-field-bound": Case(
        spec_of(task("one", host="a", action=Noop(), bindings={"colour": "input.x"})),
        {f"{FIRST}.task.bindings[0].field": "noop has no field 'colour'"},
        {"x": "y"},
    ),
    "a-field-bound-in-other-words": Case(
        spec_of(copy("one", bindings={"target.imageId": "input.x"})),
        {
            f"{FIRST}.task.bindings[0].field": (
                "copy_image has no field 'target.imageId': is target.image_id meant?"
            )
        },
        {"x": "y"},
    ),
    "a-failure-for-a-number": Case(
        spec_of(
            copy("one"),
            on_failure=[
                task(
                    "end",
                    host="a",
                    action=CreateImage(target=image("pool/x")),
                    bindings={"virtual_size_bytes": "failure.reason"},
                )
            ],
        ),
        {"spec.on_failure[0].task.bindings[0].source": "is of type string"},
    ),
    # -- compensations of one's own
    "own-compensation-without-a-verb": Case(
        spec_of(
            Node(
                name="one",
                task=Node.Task(action=copy("x").task.action, compensation=Compensation()),
            )
        ),
        {f"{OWN}.action": "needs a verb"},
    ),
    "own-compensation-that-nobody-feeds": Case(  # S-G9
        spec_of(
            copy(
                "one",
                compensation=compensate_by(
                    CopyImage(source=image("pool/x"), target=ImageAddress(pool_id="pool")),
                    bindings={"target.image_id": "input.nothing"},
                ),
            )
        ),
        {f"{OWN}.bindings[0].source": "the input has no 'nothing'"},
    ),
    "own-compensation-fed-by-a-later-task": Case(  # S-G9
        spec_of(
            copy(
                "one",
                compensation=compensate_by(
                    Noop(), bindings={"failure_message": "tasks.two.output.digest"}
                ),
            ),
            copy("two"),
        ),
        {f"{OWN}.bindings[0].source": "does not come before"},
    ),
    "own-compensation-of-another-type": Case(
        spec_of(
            copy(
                "one",
                compensation=compensate_by(
                    Noop(), bindings={"failure_message": "tasks.one.output.generation"}
                ),
            )
        ),
        {f"{OWN}.bindings[0].source": "is of type int64"},
    ),
    "own-compensation-with-half-an-address": Case(
        spec_of(copy("one", compensation=compensate_by(DeleteImage()))),
        {
            f"{OWN}.action.delete_image.target.pool_id": "is required",
            f"{OWN}.action.delete_image.target.image_id": "is required",
        },
    ),
    "own-compensation-of-what-changes-nothing": Case(
        spec_of(
            task(
                "one",
                host="a",
                action=VerifyImage(target=image("pool/x")),
                compensation=compensate_by(Noop()),
            )
        ),
        {OWN: "changes nothing"},
    ),
    "own-compensation-of-a-pivot": Case(
        spec_of(
            task(
                "one",
                host="a",
                action=RevertImage(target=image("pool/x"), snapshot_id="s"),
                compensation=compensate_by(Noop()),
            )
        ),
        {OWN: "revert_image has no opposite here"},
    ),
    "own-compensation-of-an-end-action": Case(
        spec_of(copy("one"), on_success=[copy("end", compensation=compensate_by(Noop()))]),
        {"spec.on_success[0].task.compensation": "end actions are not made up for"},
    ),
    # -- arguments
    "a-snapshot-without-an-id": Case(
        spec_of(task("one", host="a", action=CreateSnapshot(target=image("pool/x")))),
        {f"{FIRST}.task.action.create_snapshot.snapshot_id": "is required"},
    ),
    "a-safety-snapshot-that-is-no-id": Case(
        spec_of(
            task(
                "one",
                host="a",
                action=RevertImage(
                    target=image("pool/x"), snapshot_id="s", safety_snapshot_id="../s"
                ),
            )
        ),
        {f"{FIRST}.task.action.revert_image.safety_snapshot_id": "must match"},
    ),
    "a-size-that-no-storage-has": Case(
        spec_of(
            task(
                "one",
                host="a",
                action=ResizeImage(
                    target=image("pool/x"), virtual_size_bytes=5, expected_generation=-1
                ),
            )
        ),
        {
            f"{FIRST}.task.action.resize_image.virtual_size_bytes": "multiple of 512",
            f"{FIRST}.task.action.resize_image.expected_generation": "must not be negative",
        },
    ),
    "a-target-that-the-input-makes-its-source": Case(
        spec_of(copy_to("one", "input.name")),
        {f"{FIRST}.task.action.copy_image.target": "is the source itself"},
        {"name": "base"},
    ),
    "a-pivot-by-the-input-before-another": Case(
        spec_of(
            task(
                "one",
                host="a",
                action=ResizeImage(target=image("pool/x"), virtual_size_bytes=512),
                bindings={"shrink_allowed": "input.shrink"},
            ),
            task("two", host="a", action=RevertImage(target=image("pool/x"), snapshot_id="s")),
        ),
        {f"{SECOND}.task.action": "pivot after 'one'"},
        {"shrink": True},
    ),
    "what-may-be-a-pivot-counts-as-one": Case(
        spec_of(
            task("zero", host="a", action=VerifyImage(target=image("pool/x"))),
            task("del", host="a", action=DeleteImage(target=image("pool/y"))),
            task(
                "one",
                host="a",
                action=ResizeImage(target=image("pool/x"), virtual_size_bytes=512),
                bindings={"shrink_allowed": "tasks.del.output.existed"},
            ),
        ),
        {"spec.root.members[2].task.action": "pivot after 'del'"},
    ),
    # -- hosts
    "a-candidate-that-is-no-id": Case(
        spec_of(copy("one", candidate_hosts=["b", "../c"])),
        {f"{FIRST}.task.candidate_host_ids[1]": "must match"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_spec_is_refused_by_its_field(name):
    case = CASES[name]
    found = wrong(case.spec, case.input)
    assert list(found) == list(case.wrong)
    for path, part in case.wrong.items():
        assert part in found[path], found[path]


def test_everything_is_said_at_once():
    """Fields, names, values and hosts, whichever would be found first."""
    spec = spec_of(
        copy("one", host="nowhere", policy=policy(priority=2000)),
        noop("two", "tasks.three.output.digest"),
        copy_to("three", "input.nothing"),
        noop("four", "tasks.nonsense"),
    )

    def hosts(host: str, pools: frozenset[str], verb: str) -> str | None:
        return f"no {host} for {verb} in {sorted(pools)}" if host == "nowhere" else None

    assert wrong(spec, hosts=hosts) == {
        f"{FIRST}.policy.priority": "must be in -1000 to 1000",
        "spec.root.members[3].task.bindings[0].source": SOURCE_RULE,
        f"{FIRST}.task.host_id": "no nowhere for copy_image in ['pool']",
        "spec.root.members[2].task.bindings[0].source": "the input has no 'nothing'",
        f"{SECOND}.task.bindings[0].source": (
            "'three' does not come before 'two': its output would not be there yet"
        ),
    }


def test_a_mistake_in_a_template_is_not_said_of_every_item():
    spec = spec_of(each(copy_to("c", "disk.name")))
    found = check_refused(spec, {"disks": [{}] * 100})
    path = f"{FIRST}.group.members[0].task.bindings[0].source"
    assert [field for field, _ in found] == [path] * VIOLATIONS_PER_FIELD_MAX


def check_refused(spec: WorkflowSpec, input_: Mapping[str, object]) -> list[tuple[str, str]]:
    with pytest.raises(Exception) as raised:  # noqa: PT011  # its violations are looked at
        check_spec(spec, struct(input_), anywhere)
    return [(v.field, v.description) for v in raised.value.violations]  # type: ignore[attr-defined]


# -- hosts --------------------------------------------------------------------------------------


class Asked:
    """Remembers what was asked of hosts, and refuses some."""

    def __init__(self, *bad: str) -> None:
        """Refuses these."""
        self.bad = bad
        self.asked: list[tuple[str, tuple[str, ...], str]] = []

    def __call__(self, host: str, pools: frozenset[str], verb: str) -> str | None:
        """Answers."""
        self.asked.append((host, tuple(sorted(pools)), verb))
        return f"not on {host!r}" if host in self.bad else None


def test_every_host_that_is_named_must_be_able_to():
    asked = Asked("b")
    one = copy("one", source="away/base", candidate_hosts=["b", "c"])
    assert wrong(spec_of(one), hosts=asked) == {f"{FIRST}.task.candidate_host_ids[0]": "not on 'b'"}
    assert asked.asked == [(host, ("away", "pool"), "copy_image") for host in "abc"]


def test_without_a_host_any_known_one_must_be_able_to():
    asked = Asked("")
    assert wrong(spec_of(copy("one", host="")), hosts=asked) == {
        f"{FIRST}.task.host_id": "not on ''"
    }


def test_candidates_are_all_there_is_without_a_host():
    asked = Asked("")
    check_spec(spec_of(copy("one", host="", candidate_hosts=["b"])), Struct(), asked)
    assert [host for host, _, _ in asked.asked] == ["b"]


def test_the_hosts_must_be_able_to_make_up_for_it():
    asked = Asked()
    by = compensate_by(DeleteImage(target=image("other/x")))
    check_spec(spec_of(copy("one", compensation=by)), Struct(), asked)
    assert asked.asked == [("a", ("pool",), "copy_image"), ("a", ("other",), "delete_image")]


def test_a_source_on_another_host_is_asked_of_that_host():
    """What is wrong with it names its field."""
    asked = Asked()
    action = CopyImage(source=image("far/base"), target=image("pool/one"), source_host_id="b")
    check_spec(spec_of(task("one", host="a", action=action)), Struct(), asked)
    assert asked.asked == [("b", ("far",), READING), ("a", ("pool",), "copy_image")]
    read = task("one", action=action, host="a", bindings={"source_host_id": "input.from"})
    asked = Asked()
    check_spec(spec_of(read), struct({"from": "c"}), asked)
    assert [host for host, _, _ in asked.asked] == ["c", "a"]
    action.source_host_id = "../b"
    with pytest.raises(FieldInvalid) as raised:
        check_spec(spec_of(task("one", host="a", action=action)), Struct(), asked)
    assert [violation.field for violation in raised.value.violations] == [
        f"{FIRST}.task.action.copy_image.source_host_id"
    ]


def test_pools_of_the_input_count_and_those_of_outputs_do_not():
    asked = Asked()
    told = {"target.pool_id": "input.pool", "target.image_id": "input.pool"}
    read = task("read", host="a", action=VerifyImage(), bindings=told)
    check_spec(spec_of(copy("one"), read, verify("two", "one")), struct({"pool": "p"}), asked)
    assert [pools for _, pools, verb in asked.asked if verb == "verify_image"] == [("p",), ()]


def test_an_input_beyond_its_bound_is_refused_whole():
    """S-Z25."""
    with pytest.raises(PayloadTooLarge):
        plan(spec_of(copy("one")), {"text": "x" * 64 * 1024})


def test_what_is_bound_from_the_input_has_a_bound_in_sum():
    told = {"digest": "input.text", "target.image_id": "input.text"}
    one = task("one", host="a", action=VerifyImage(target=image("pool/x")), bindings=told)
    found = wrong(spec_of(one), {"text": "x" * 40_000})
    assert "80000 bytes" in found[f"{FIRST}.task.bindings"]


def test_a_path_of_the_input_leads_to_one_value():
    found = wrong(spec_of(copy("one")), {"disks": [{"id": "x"}], "disks.0": {"id": "y"}})
    assert found == {"input": "'disks.0.id' leads to two values: let no key hold a dot"}


def test_kinds_and_ids_are_checked_everywhere():
    group = Group(members=[copy("Bad")])
    found = wrong(workflow_spec("Bad", Node(group=group)))
    assert list(found) == ["spec.kind", "spec.root.kind", f"{FIRST}.name"]
